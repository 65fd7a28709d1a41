//go:build integration

package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// 125 is a promise, that nothing of the command has run, and 2 is no status of Purple's.

// oneLine is what purple says when it cannot go on.
func (r result) mustSayOneLine(t *testing.T, status int, text string) {
	t.Helper()
	if r.status != status || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "purple: ") || !strings.Contains(r.stderr, text) {
		t.Errorf("%+v, want status %d and a line with %q", r, status, text)
	}
}

// limited runs purple from a shell that has set a limit, in front of which may stand
// another program.
func limited(t *testing.T, before, limits string, args ...string) result {
	t.Helper()
	script := before + " bash -c " + quote(limits+"; exec "+filepath.Join(bin, "purple")+` "$@"`) + ` bash "$@"`
	cmd := exec.CommandContext(t.Context(), "bash", append([]string{"-c", script, "bash"}, args...)...)
	cmd.Dir = tempDir(t)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// Where a machine has not enough for purple, it says so in a line, and never leaves a
// crash of Go's runtime and its status 2.
func TestFewResources(t *testing.T) {
	run := []string{"run", "--profile", profilePath("plain"), "--", "true"}
	check := func(what string, r result, mayFail bool) {
		t.Helper()
		switch {
		case r.status == 0 && r.stderr == "":
		case mayFail && r.status == 125:
			r.mustSayOneLine(t, 125, "")
		default:
			t.Errorf("%s: %+v", what, r)
		}
	}
	for tasks := 2; tasks <= 12; tasks++ {
		before := fmt.Sprintf("systemd-run --scope --quiet -p TasksMax=%d", tasks)
		check(before, limited(t, before, ":", run...), true)
	}
	limited(t, "systemd-run --scope --quiet -p TasksMax=2", ":", "ps").mustSayOneLine(t, 125, "TasksMax=")
	limited(t, "systemd-run --scope --quiet -p TasksMax=2", ":", "plan", "--", "true").mustSayOneLine(t, 125, "TasksMax=")
	limited(t, "systemd-run --scope --quiet -p TasksMax=2", ":", "doctor").mustSayOneLine(t, 125, "TasksMax=")
	for _, kib := range []int{100_000, 300_000, 600_000, 900_000, 1_200_000, 1_300_000, 1_400_000, 1_500_000, 1_700_000, 2_000_000, 4_000_000} {
		limit := fmt.Sprintf("ulimit -v %d", kib)
		check(limit, limited(t, "", limit, run...), true)
	}
	limited(t, "", "ulimit -v 600000", run...).mustSayOneLine(t, 125, "ulimit -v")
	limited(t, "", "ulimit -d 100000", run...).mustSayOneLine(t, 125, "ulimit -d")
	for _, files := range []int{4, 8, 16, 32, 48, 64} {
		limit := fmt.Sprintf("ulimit -n %d", files)
		check(limit, limited(t, "", limit, run...), true)
	}
	limited(t, "", "ulimit -n 8", run...).mustSayOneLine(t, 125, "ulimit -n")
	check("no limit", limited(t, "", ":", run...), false)
}

// A library that panics on an error of the bus is no reason for another status.
func TestErrorsOfTheBus(t *testing.T) {
	if asUser {
		t.Log("the same code connects to both buses")
	}
	crashed := 0
	for n := 1; n <= 10; n++ {
		inject := fmt.Sprintf("strace -f -qq -o /dev/null -e trace=recvmsg -e inject=recvmsg:error=ENOMEM:when=%d", n)
		r := limited(t, inject, ":", "run", "--profile", profilePath("plain"), "--", "true")
		if r.status != 0 && r.status != 125 && r.status != 123 || strings.Contains(r.stderr, "goroutine") || strings.Count(r.stderr, "\n") > 1 {
			t.Errorf("error %d: %+v", n, r)
		}
		if strings.Contains(r.stderr, "internal error: panic") {
			crashed++
		}
	}
	t.Logf("%d panics", crashed)
}

// Once the command has started, the loss of everything that could tell its end is the
// status 123, in the receipt, too.
func TestOutcomeThatIsNotKnown(t *testing.T) {
	dir := tempDir(t)
	receipt := filepath.Join(tempDir(t), "receipt.json")
	args := []string{"run", "--receipt", receipt, "--workspace", dir, "--profile", profilePath("plain"), "--", "sh", "-c", "touch started; sleep 300"}
	r := waiting(t, filepath.Join(bin, "purple"), args, func() {
		eventually(t, "the command has started", time.Minute, func() bool {
			_, err := os.Stat(filepath.Join(dir, "started"))
			return err == nil
		})
		// The supervisor ends as it does when its Go runtime crashes.
		unit := runningUnit(t, "plain")
		pid := strings.TrimSpace(sh(t, "systemctl show --value -p MainPID "+unit))
		sh(t, "kill -QUIT "+pid)
	})
	r.mustSayOneLine(t, 123, "the command may have run, and how it ended is not known")
	var got struct {
		Status int
		Reason string
	}
	data, err := os.ReadFile(receipt)
	if err == nil {
		err = json.Unmarshal(data, &got)
	}
	if err != nil || got.Status != 123 || got.Reason != "lost" {
		t.Errorf("%+v, %v", got, err)
	}
	noUnits(t, "plain")
}

// With the bus gone, a second Ctrl-C ends the run all the same, and its status is known.
func TestInterruptsWithoutTheBus(t *testing.T) {
	dir := tempDir(t)
	profile := writeProfile(t, "name: interrupted\nextends: offline\n")
	args := []string{"run", "--workspace", dir, "--profile", profile, "--", "sh", "-c", "trap '' INT TERM; touch started; while :; do sleep 1; done"}
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "purple"), args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command has started", time.Minute, func() bool {
		_, err := os.Stat(filepath.Join(dir, "started"))
		return err == nil
	})
	time.Sleep(300 * time.Millisecond) // purple has subscribed
	sh(t, "systemctl stop dbus.socket dbus.service")
	sh(t, fmt.Sprintf("kill -INT %[1]d; sleep 0.3; kill -INT %[1]d", cmd.Process.Pid))
	_ = cmd.Wait()
	sh(t, "systemctl start dbus.socket dbus.service; systemctl try-restart systemd-logind.service")
	eventually(t, "systemd is on the bus again", time.Minute, func() bool { return call{args: []string{"ps"}}.run(t).status == 0 })
	if status := cmd.ProcessState.ExitCode(); status != 137 {
		t.Errorf("status %d: %s", status, stderr.String())
	}
	noUnits(t, "interrupted")
}

// What was to be kept of a run and cannot be is no success, and no refusal.
func TestKeptThingsThatAreLost(t *testing.T) {
	disk := filepath.Dir(fullDisk(t))
	c := call{args: []string{"run", "--receipt", disk + "/receipt.json", "--profile", profilePath("plain"), "--", "true"}}
	if r := c.run(t); r.status != 123 || !strings.Contains(r.stderr, "cannot write the receipt") {
		t.Errorf("%+v", r)
	}
	c.args[len(c.args)-1] = "false"
	if r := c.run(t); r.status != 1 || !strings.Contains(r.stderr, "cannot write the receipt") {
		t.Errorf("%+v", r)
	}
	learn := call{args: []string{"learn", "--profile", profilePath("plain"), "-o", disk + "/learnt.yaml", "--", "true"}}
	if r := learn.run(t); r.status != 123 || !strings.Contains(r.stderr, "cannot write the profile") {
		t.Errorf("%+v", r)
	}
	output := withStreams(t, call{args: []string{"run", "--profile", profilePath("plain"), "--", "echo", "text"}}, [3]*os.File{1: openFile(t, fullDisk(t), os.O_WRONLY)})
	if output.status != 123 {
		t.Errorf("%+v", output)
	}
}

// When purple is killed, or the unit stopped, while init hangs in what it builds, nothing
// of the run stays: systemd would wait for ten minutes.
func TestEndWhileInitHangs(t *testing.T) {
	for name, end := range map[string]string{
		"purple is killed":    "kill -KILL %d",
		"the unit is stopped": ": %d; systemctl stop --no-block 'purple-connected-*'",
	} {
		for _, detach := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, detached: %t", name, detach), func(t *testing.T) {
				unlock := holdNetworkBack(t)
				defer unlock()
				args := []string{"run", "--profile", writeProfile(t, connectedProfile), "--", "echo", "it has run"}
				if detach {
					args = append([]string{"run", "--detach"}, args[1:]...)
				}
				cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "purple"), args...)
				cmd.Dir = tempDir(t)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				// One of the two is the fork, which is stopped with init.
				sh(t, `until pgrep -f 'purple-init ini[t]' >/dev/null; do sleep 0.01; done; kill -STOP $(pgrep -f 'purple-init ini[t]')`)
				sh(t, fmt.Sprintf(end, cmd.Process.Pid))
				unlock()
				noUnits(t, "connected")
				_ = cmd.Wait()
				if cmd.ProcessState.Success() {
					t.Error("purple reports success")
				}
			})
		}
	}
}

// dropIn lets a test change a line of every unit of the profile plain, as an administrator
// can. One for all of Purple's would hold for the unit that a VM runs the suite in as well.
func dropIn(t *testing.T) func(line string) {
	t.Helper()
	const dirs = "/run/systemd/{system,user}/purple-plain-.service.d"
	t.Cleanup(func() { sh(t, "rm -r "+dirs+"; systemctl daemon-reload") })
	return func(line string) {
		t.Helper()
		sh(t, "for dir in "+dirs+`; do
mkdir -p $dir
printf '[Service]\n`+line+`\n' > $dir/changed.conf
done
systemctl daemon-reload`)
	}
}

// An administrator's drop-in may leave purple-init less than it needs, which is a refusal
// in one line as well, whichever step it is that fails.
func TestUnitWithFewResources(t *testing.T) {
	c := call{args: []string{"run", "--profile", profilePath("plain"), "--", "true"}}
	change := dropIn(t)
	change("")
	c.run(t).mustSucceed(t)
	lines := []string{"LimitNOFILE=6", "LimitNOFILE=12", "LimitNOFILE=20", "LimitAS=300M", "LimitDATA=10M", "LimitFSIZE=0", "LimitSTACK=8K"}
	if !lifted { // else a user's unit has no such limit
		lines = append(lines, "TasksMax=1", "TasksMax=3", "TasksMax=6")
	}
	for _, line := range lines {
		change(line)
		if r := c.run(t); r.status != 125 || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "purple: ") {
			t.Errorf("%s: %+v", line, r)
		}
	}
	noUnits(t, "plain")
}

// The manager is told that the unit is ready when the command has been let go.
func TestReadinessThatCannotBeTold(t *testing.T) {
	change := dropIn(t)
	change("Environment=NOTIFY_SOCKET=/run/no/socket")
	r := call{args: []string{"run", "--profile", profilePath("plain"), "--", "sh", "-c", "sleep 300"}}.run(t)
	if r.status != 123 || !strings.Contains(r.stderr, "the command may have run") || !strings.Contains(r.stderr, "cannot tell the manager that the unit is ready") {
		t.Errorf("%+v", r)
	}
	noUnits(t, "plain")
}
