//go:build integration

package test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A user may call purple by sudo, and nothing else. They get no farther than without it.

const (
	sudoer, sudoerUID = "purple-sudoer", 4323
	victim, victimUID = "purple-victim", 4324
)

// sudoHost makes both users, and folders of theirs that all may enter or only they.
func sudoHost(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		sh(t, fmt.Sprintf("rm -rf /etc/sudoers.d/purple-test /etc/purple/log-directories /etc/purple/policies/sudo-*.yaml /var/log/purple-sudo /root/purple-sudo; for u in %s %s; do userdel --remove $u 2>/dev/null || :; done; groupdel purple-shared 2>/dev/null || :", sudoer, victim))
	})
	sh(t, fmt.Sprintf(`
groupadd -f purple-shared
id %[1]s >/dev/null 2>&1 || useradd --create-home --uid %[2]d --groups purple-shared %[1]s
id %[3]s >/dev/null 2>&1 || useradd --create-home --uid %[4]d %[3]s
mkdir -p /etc/sudoers.d /etc/purple/policies
echo '%[1]s ALL=(root) NOPASSWD: %[5]s/purple' > /etc/sudoers.d/purple-test
chmod 440 /etc/sudoers.d/purple-test
chmod 755 /home/%[1]s; install -d -o %[1]s -g %[1]s /home/%[1]s/work; chmod 700 /home/%[3]s
install -d -m 777 -o %[3]s /home/%[3]s/open
echo victims > /home/%[3]s/open/text; chmod 666 /home/%[3]s/open/text
printf '#!/bin/sh\necho tool\n' > /home/%[3]s/open/tool; chmod 755 /home/%[3]s/open/tool
install -d -m 700 /root/purple-sudo
printf 'name: secret\ns3cret: word\n' > /root/purple-sudo/secret.yaml; chmod 600 /root/purple-sudo/secret.yaml`,
		sudoer, sudoerUID, victim, victimUID, bin))
}

// bySudo runs a script of the sudoer's in a folder of theirs, where $P is purple behind sudo. What
// it prints to both streams is the answer.
func bySudo(t *testing.T, script string) string {
	t.Helper()
	return sh(t, sudoersScript(script))
}

func sudoersScript(script string) string {
	return fmt.Sprintf("cd /home/%[1]s/work && setpriv --reuid=%[2]d --regid=%[2]d --init-groups env -i HOME=/home/%[1]s PATH=/usr/bin:/bin P=%[3]s bash -c %[4]s 2>&1; :",
		sudoer, sudoerUID, quote("sudo -n "+bin+"/purple"), quote(script+"\necho status $?"))
}

// sudoersFile writes a profile of the sudoer's and gives its path.
func sudoersFile(t *testing.T, name, text string) string {
	t.Helper()
	file := fmt.Sprintf("/home/%s/work/%s.yaml", sudoer, name)
	if err := os.WriteFile(file, []byte("extends: offline\n"+text), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, fmt.Sprintf("chown %s: %s", sudoer, file))
	return file
}

// systemFile makes the same profile one of root's.
func systemFile(t *testing.T, name, file string) string {
	t.Helper()
	sh(t, fmt.Sprintf("install -m 644 %s /etc/purple/policies/sudo-%s.yaml", file, name))
	return "sudo-" + name
}

func mustNotSay(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(out, text) {
			t.Errorf("%q is in %s", text, out)
		}
	}
}

func TestProfilesBehindSudo(t *testing.T) {
	sudoHost(t)
	file := sudoersFile(t, "mine", "resources: {pids_limit: 77}\n")
	own := fmt.Sprintf("/home/%s/.config/purple/policies/made.yaml", sudoer)
	mustSay(t, bySudo(t, "$P profile create made --from "+file), own, "status 0")
	if got := sh(t, "stat -c '%U %a' "+own+"; ls /etc/purple/policies"); got != sudoer+" 644\n" {
		t.Errorf("%q", got)
	}
	mustSay(t, bySudo(t, "$P run --profile made -- echo ran"), "ran", "status 0")
	mustSay(t, bySudo(t, "$P profile list"), "made", "user")
	// It is theirs without sudo, too.
	mustSay(t, bySudo(t, bin+"/purple profile show made"), "pids_limit: 77", "status 0")
	mustSay(t, bySudo(t, "$P profile delete made"), "deleted", "status 0")

	corp := systemFile(t, "corp", file)
	mustSay(t, bySudo(t, "$P profile delete "+corp), "it is the administrator's", "status 125")
	mustSay(t, bySudo(t, "$P profile create "+corp+" --from "+file), "is found before it", "status 125")
	mustSay(t, bySudo(t, "$P profile show "+corp), "pids_limit: 77", "status 0")
	// Who may say --system may change them: sudoers can tell the two apart.
	mustSay(t, bySudo(t, "$P --system profile create sudo-made --from "+file), "/etc/purple/policies/sudo-made.yaml", "status 0")
	mustSay(t, bySudo(t, "$P profile delete --system sudo-made"), "deleted", "status 0")
	mustSay(t, bySudo(t, bin+"/purple --system profile create sudo-made --from "+file), "call it with sudo", "status 125")

	// What it extends is not theirs to choose.
	mustSay(t, bySudo(t, "printf 'resources: {pids_limit: 66}\n' > offline.yaml; $P profile create offline --from ./offline.yaml; $P profile show offline"), "pids_limit: 66", "status 0")
	base := sudoersFile(t, "base", "")
	mustNotSay(t, bySudo(t, "$P profile show "+systemFile(t, "base", base)), "pids_limit: 66", "status 125")
	mustSay(t, bySudo(t, "$P profile show "+base), "pids_limit: 66", "status 0")
	bySudo(t, "rm -r ../.config")
	sh(t, "rm /etc/purple/policies/sudo-base.yaml")

	// The folder of their profiles cannot lead anywhere else.
	mustSay(t, bySudo(t, "cd ..; mv .config old; mkdir .config; ln -s /etc/purple .config/purple; cd work; $P profile create sudo-link --from "+file), "ermission denied", "status 125")
	if got := sh(t, "ls /etc/purple/policies"); got != "sudo-corp.yaml\n" {
		t.Errorf("%q", got)
	}
}

// Writable are no folders that hold the user's profiles. Where theirs is a link, that
// must not tell what a closed folder holds.
func TestLinkToProfilesBehindSudo(t *testing.T) {
	sudoHost(t)
	corp := systemFile(t, "corp", sudoersFile(t, "mine", ""))
	sh(t, "install -d -m 700 /srv/purple-closed /srv/purple-closed/there")
	t.Cleanup(func() { sh(t, "rm -r /srv/purple-closed") })
	run := func(name string) string {
		return bySudo(t, "mkdir -p ../.config/purple ../work/own/there; ln -sfn "+name+" ../.config/purple/policies; $P run --profile "+corp+" --workspace $(dirname "+name+") -- echo ran")
	}
	there, none := run("/srv/purple-closed/there"), run("/srv/purple-closed/none")
	if there != none {
		t.Errorf("%s\n%s", there, none)
	}
	mustSay(t, run("/home/"+sudoer+"/work/own/there"), "profiles are found in", "status 125")
}

// No file is read that its user may not read: an error or `profile show` would tell it.
func TestFilesBehindSudo(t *testing.T) {
	sudoHost(t)
	secret := "/root/purple-sudo/secret.yaml"
	mustSay(t, sh(t, bin+"/purple profile check "+secret+" 2>&1; :"), "s3cret") // the control: root is told
	// Cleaned, its path is one of a file in /etc/purple/policies.
	bySudo(t, "mkdir -p a/b/c/d/e a/etc/purple; ln -s $PWD/a/b/c/d/e deep; ln -s /root/purple-sudo a/etc/purple/policies")
	bySudo(t, "ln -s "+secret+" link.yaml; mkdir -p policies; ln -s "+secret+" policies/byname.yaml")
	for _, c := range []string{
		"run --profile %s -- true", "plan --profile %s -- true", "profile show %s", "profile check %s", "profile create made --from %s",
		"learn --profile offline --merge -o %s -- true", "learn --profile %s -o out.yaml -- true", "doctor --profile %s", "why %s", "logs %s", "stop %s",
	} {
		for _, name := range []string{secret, "./link.yaml", "/home/" + sudoer + "/../../root/purple-sudo/secret.yaml", "/home/" + sudoer + "/work/deep/../../../../etc/purple/policies/secret.yaml"} {
			out := bySudo(t, "$P "+fmt.Sprintf(c, name))
			mustNotSay(t, out, "s3cret", "status 0")
		}
	}
	out := bySudo(t, "$P profile create byname")
	mustNotSay(t, out, "s3cret", "status 0")
	mustSay(t, bySudo(t, "cp /dev/null out.yaml; $P run --receipt /root/purple-sudo/r -- true"), "ermission denied", "status 125")
	mustSay(t, bySudo(t, "$P learn --profile offline -o /root/purple-sudo/l.yaml -- true"), "ermission denied", "status 125")
	if got := sh(t, "ls /root/purple-sudo; cat "+secret); got != "secret.yaml\nname: secret\ns3cret: word\n" {
		t.Errorf("%q", got)
	}
}

// /proc leads around closed folders, and to what is the kernel's, whoever has the
// capabilities or the effective uid of root.
func TestProcBehindSudo(t *testing.T) {
	sudoHost(t)
	standing := exec.Command("setpriv", fmt.Sprintf("--reuid=%d", victimUID), fmt.Sprintf("--regid=%d", victimUID), "--clear-groups", "sh", "-c", "echo ready; exec cat")
	standing.Dir = "/home/" + victim + "/open"
	stop, err := background(standing)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	cwd := fmt.Sprintf("/proc/%d/cwd", standing.Process.Pid)
	if got := sh(t, "cat "+cwd+"/text"); got != "victims\n" { // the control: root goes there
		t.Errorf("%q", got)
	}
	for _, c := range []string{
		"run --profile offline --workspace " + cwd + " -- true", "profile check " + cwd + "/text", "profile check /proc/1/maps",
		"profile check /proc/sys/kernel/cad_pid",
	} {
		out := bySudo(t, "$P "+c)
		mustSay(t, out, "ermission denied", "status 125")
		mustNotSay(t, out, "/home/"+victim)
	}
	for _, c := range []string{"run --profile offline --receipt " + cwd + "/receipt -- true", "learn --profile offline -o " + cwd + "/learnt.yaml -- true"} {
		mustSay(t, bySudo(t, "$P "+c), "there is a symbolic link in its path", "status 125")
	}
	if got := sh(t, "ls /home/"+victim+"/open"); got != "text\ntool\n" {
		t.Errorf("%q", got)
	}
}

// A log is root's only in a directory for logs, whoever has written the profile.
func TestLogsBehindSudo(t *testing.T) {
	sudoHost(t)
	target := "/root/purple-sudo/target"
	sh(t, "echo before > "+target+"; install -d /var/log/purple-sudo")
	profile := func(name, log string) string { return sudoersFile(t, name, "audit: {log_path: "+log+"}\n") }
	run := func(profile string) string { return bySudo(t, "$P run --profile "+profile+" -- echo ran") }

	for _, log := range []string{target, "/root/purple-sudo/new", "/etc/purple/new", "/var/log/purple-sudo/new", "/var/log/../../root/purple-sudo/new"} {
		mustSay(t, run(profile("log", log)), "audit.log_path", "status 125")
	}
	mustSay(t, run(profile("log", "/home/"+sudoer+"/logs/log")), "ran", "status 0")
	for _, log := range []string{target, "/root/purple-sudo/new", "/etc/purple/new"} {
		mustSay(t, run(systemFile(t, "log", profile("log", log))), "audit.log_path", "status 125")
	}
	mustSay(t, run(systemFile(t, "log", profile("log", "/var/log/purple-sudo/log"))), "ran", "status 0")
	sh(t, "echo 'Dec  1 host sshd: a line' > /var/log/purple-sudo/auth.log")
	mustSay(t, run(systemFile(t, "log", profile("log", "/var/log/purple-sudo/auth.log"))), "it is not a log of Purple's", "status 125")
	sh(t, "echo /root/purple-sudo/logs > /etc/purple/log-directories")
	mustSay(t, run(systemFile(t, "log", profile("log", "/root/purple-sudo/logs/log"))), "ran", "status 0")
	if got := sh(t, "cd /root/purple-sudo; cat target; ls; stat -c %U /var/log/purple-sudo/log logs/log; ls /etc/purple"); got != "before\nlogs\nsecret.yaml\ntarget\nroot\nroot\nlog-directories\npolicies\n" {
		t.Errorf("%q", got)
	}
}

// What lies below another user's folder is not reached by a bind, and not even told of.
func TestPathsBehindSudo(t *testing.T) {
	sudoHost(t)
	open, none := "/home/"+victim+"/open", "/home/"+victim+"/none"
	listening := unixListener(t, "/home/"+victim+"/open/socket")
	defer listening()
	immutable := func(name, path string) string {
		return sudoersFile(t, name, "filesystem: {immutable_paths: [/usr, /bin, /lib, {host_path: /lib64, optional: true}, {host_path: "+path+", sandbox_path: /there}]}\n")
	}
	output := func(name, path string) string {
		return sudoersFile(t, name, "filesystem: {output_paths: [{host_path: "+path+", sandbox_path: /there, mode: read-write}]}\n")
	}
	for what, c := range map[string][2]string{
		"immutable":     {"--profile " + immutable("in", open), "--profile " + immutable("in-none", none)},
		"one file":      {"--profile " + immutable("file", open+"/text"), "--profile " + immutable("file-none", open+"/none")},
		"socket":        {"--profile " + immutable("socket", open+"/socket"), "--profile " + immutable("socket-none", open+"/nosocket")},
		"output":        {"--profile " + output("out", open), "--profile " + output("out-none", none)},
		"the workspace": {"--profile offline --workspace " + open, "--profile offline --workspace " + none},
	} {
		var outs [2]string
		for i, flags := range c {
			for _, verb := range []string{"run", "plan"} {
				out := bySudo(t, "$P "+verb+" "+flags+" -- sh -c 'echo ran; cat /there/text /there'")
				mustNotSay(t, out, "ran", "victims", "status 0")
				outs[i] += out
			}
		}
		// The answer is the same whether it is there.
		if there := strings.NewReplacer(open, "X", none, "X", "/nosocket", "", "/socket", "", "/text", "", "/none", "", "-none", "").Replace(outs[0]); there != strings.NewReplacer(open, "X", none, "X", "/nosocket", "", "/none", "", "-none", "").Replace(outs[1]) {
			t.Errorf("%s tells what is there:\n%s\n%s", what, outs[0], outs[1])
		}
	}
	// Names of commands and scripts tell nothing either.
	for _, name := range []string{"/home/" + victim, "sh /home/" + victim, "../../" + victim, "sh ../../" + victim} {
		there, missing := bySudo(t, "$P run --profile offline -- "+name+"/open/tool"), bySudo(t, "$P run --profile offline -- "+name+"/none/tool")
		mustNotSay(t, there, "status 0")
		if strings.ReplaceAll(there, "/open", "/none") != missing {
			t.Errorf("%s", there+missing)
		}
	}
	// Root may give a path away by a profile of its own.
	mustSay(t, bySudo(t, "$P run --profile "+systemFile(t, "in", immutable("in", open))+" -- cat /there/text"), "victims", "status 0")
	mustSay(t, bySudo(t, "$P run --profile "+systemFile(t, "out", output("out", open))+" -- sh -c 'echo more >> /there/text'"), "status 0")
	if got := sh(t, "cat "+open+"/text; ls "+open); got != "victims\nmore\nsocket\ntext\ntool\n" {
		t.Errorf("%q", got)
	}
	// Their own groups count.
	sh(t, "install -d -m 750 -g purple-shared /root/../srv/purple-sudo; echo shared > /srv/purple-sudo/text")
	t.Cleanup(func() { sh(t, "rm -r /srv/purple-sudo") })
	sh(t, "install -d -m 755 /srv/purple-sudo/below; echo below > /srv/purple-sudo/below/text")
	mustSay(t, bySudo(t, "$P run --profile "+immutable("shared", "/srv/purple-sudo/below")+" -- cat /there/text"), "below", "status 0")
}

// It is purple-init that opens them, and a folder may be closed meanwhile.
func TestPathsThatAreClosedBehindSudo(t *testing.T) {
	sudoHost(t)
	profile := sudoersFile(t, "late", "filesystem: {immutable_paths: [/usr, /bin, /lib, {host_path: /lib64, optional: true}, {host_path: /home/"+victim+"/open, sandbox_path: /there}]}\n")
	for _, mode := range []string{"755", "700"} {
		sh(t, "chmod 755 /home/"+victim)
		holdStartsBack(t)
		run := exec.CommandContext(t.Context(), "bash", "-c", sudoersScript("$P run --profile "+profile+" -- cat /there/text"))
		var out strings.Builder
		run.Stdout = &out
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		sh(t, "until systemctl list-jobs | grep -q purple-late; do sleep 0.01; done; chmod "+mode+" /home/"+victim+"; systemctl stop held-back.service")
		_ = run.Wait()
		if mode == "755" {
			mustSay(t, out.String(), "victims", "status 0")
		} else {
			mustNotSay(t, out.String(), "victims")
			mustSay(t, out.String(), "cannot bind", "permission denied", "status 125")
		}
	}
}

// Ports of root's are published for profiles of root's.
func TestPortsBehindSudo(t *testing.T) {
	sudoHost(t)
	port := func(n int) string {
		return sudoersFile(t, "port", fmt.Sprintf("network: {isolated: false, allow_incoming: [%d]}\n", n))
	}
	low := port(997)
	mustSay(t, bySudo(t, "$P run --profile "+low+" -- echo ran"), "cannot publish port 997", "status 125")
	mustSay(t, bySudo(t, "$P run --profile "+systemFile(t, "port", low)+" -- echo ran"), "ran", "status 0")
	mustSay(t, bySudo(t, "$P run --profile "+port(19973)+" -- echo ran"), "ran", "status 0")
}

// A route of the machine's to sandboxes would take away what others reach there.
func TestRoutesBehindSudo(t *testing.T) {
	sudoHost(t)
	file := sudoersFile(t, "range", "network: {isolated: false, address_range: 10.201.0.0/24}\n")
	mustSay(t, bySudo(t, "$P run --profile "+file+" -- echo ran"), "network.address_range: cannot lead 10.201.0.0/24 to sandboxes", "status 125")
	mustNotSay(t, sh(t, "ip route"), "10.201.0.0/24")
	mustSay(t, bySudo(t, "$P run --profile "+systemFile(t, "range", file)+" -- echo ran"), "ran", "status 0")
}

// unixListener listens on a socket that all may connect to.
func unixListener(t *testing.T, path string) func() {
	t.Helper()
	stop, err := background(exec.Command("python3", "-c", fmt.Sprintf("import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(%q); os.chmod(%[1]q, 0o777); s.listen(); print('ready', flush=True); sys.stdin.read()", path)))
	if err != nil {
		t.Fatal(err)
	}
	return stop
}
