//go:build integration

package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Runs that end in unusual ways: purple notices, and says how.

// connectedProfile is one with a network, which needs nothing beyond this machine.
const connectedProfile = `name: connected
description: x
filesystem:
  immutable_paths: ["/usr", {host_path: "/bin", optional: true}, {host_path: "/lib", optional: true}, {host_path: "/lib64", optional: true}]
syscalls: {allow: ["@system-service"]}
network: {isolated: false}
`

// attachments are the ways in which purple waits for the start of a run.
func attachments(t *testing.T) map[string][]string {
	connected := writeProfile(t, connectedProfile)
	return map[string][]string{
		"attached":            {"run", "--profile", "offline", "--", "true"},
		"detached":            {"run", "--detach", "--profile", "offline", "--", "true"},
		"with a network":      {"run", "--profile", connected, "--", "true"},
		"detached, connected": {"run", "--detach", "--profile", connected, "--", "true"},
	}
}

// waiting runs a program that must end soon. during is called once it waits.
func waiting(t *testing.T, program string, args []string, during func()) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = tempDir(t)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	during()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Errorf("%q still waits: %s", args, stderr.String())
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// A unit whose first process cannot be executed says nothing, and its end of
// the socket is closed.
func TestInitThatCannotBeExecuted(t *testing.T) {
	dir := tempDir(t)
	sh(t, fmt.Sprintf("cp %s/purple %s/purple-net %s; echo '#!/nonexistent' > %s/purple-init; chmod 755 %s/purple-init", bin, bin, dir, dir, dir))
	for name, args := range attachments(t) {
		t.Run(name, func(t *testing.T) {
			waiting(t, filepath.Join(dir, "purple"), args, func() {}).mustRefuse(t, 125, "systemd could not start purple-init (result exit-code, status 203)")
		})
	}
}

// A start that has to wait may be called off before it begins: the unit is
// never anything but inactive, and systemd keeps its end of the socket.
func TestStopBeforeTheStart(t *testing.T) {
	holdStartsBack(t)
	for name, args := range attachments(t) {
		t.Run(name, func(t *testing.T) {
			waiting(t, filepath.Join(bin, "purple"), args, func() {
				var unit string
				eventually(t, "the unit waits", time.Minute, func() bool {
					unit, _, _ = strings.Cut(sh(t, "systemctl list-units --all --plain --no-legend 'purple-*-????????.service'"), " ")
					return unit != ""
				})
				time.Sleep(300 * time.Millisecond) // purple waits, too
				sh(t, "systemctl stop "+unit)
			}).mustRefuse(t, 125, "systemd has not started it")
		})
	}
}

// A unit that is told to stop while its sandbox is being made runs no command.
func TestStopDuringTheStart(t *testing.T) {
	unlock := holdNetworkBack(t)
	args := []string{"run", "--profile", writeProfile(t, connectedProfile), "--", "echo", "it has run"}
	r := waiting(t, filepath.Join(bin, "purple"), args, func() {
		sh(t, "until pgrep -f 'purple-init ini[t]'; do sleep 0.01; done; sleep 0.5; systemctl stop --no-block 'purple-connected-*'; sleep 0.5")
		unlock()
	})
	r.mustRefuse(t, 125, "cannot start the command: the unit was told to stop while the sandbox was made")
	if strings.Contains(r.stdout, "it has run") {
		t.Errorf("%+v", r)
	}
	noUnits(t, "connected")
}

// holdNetworkBack keeps purple from giving a run its network, for which the
// supervisor waits, until what it returns is called.
func holdNetworkBack(t *testing.T) func() {
	t.Helper()
	sh(t, "mkdir -p /run/purple")
	unlock, err := background(exec.Command("flock", "/run/purple/network.lock", "sh", "-c", "echo ready; exec cat"))
	if err != nil {
		t.Fatal(err)
	}
	return unlock
}

// holdStartsBack keeps sandboxes from being started, by a unit that never is, until that
// is stopped: held-back.service.
func holdStartsBack(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		sh(t, "rm -rf /run/systemd/system/purple-.service.d /run/systemd/system/held-back.service; systemctl daemon-reload; systemctl stop held-back.service")
	})
	sh(t, `
mkdir -p /run/systemd/system/purple-.service.d
printf '[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=sleep infinity\n' > /run/systemd/system/held-back.service
printf '[Unit]\nAfter=held-back.service\n' > /run/systemd/system/purple-.service.d/held-back.conf
systemctl daemon-reload
systemctl start --no-block held-back.service`)
}

// Without the bus purple-init alone tells how the run has ended.
func TestTimeoutWithoutTheBus(t *testing.T) {
	profile := writeProfile(t, "name: nobus\nextends: offline\nresources: {session_timeout_seconds: 3}\n")
	args := []string{"run", "--profile", profile, "--", "sleep", "300"}
	r := waiting(t, filepath.Join(bin, "purple"), args, func() {
		eventually(t, "the run", time.Minute, func() bool { return strings.Contains(sh(t, "systemctl list-units 'purple-nobus-*'"), "running") })
		time.Sleep(500 * time.Millisecond) // purple has subscribed
		sh(t, "systemctl restart dbus.service")
	})
	// For the tests that follow. The logind of systemd 257 does not come back by itself.
	sh(t, "systemctl try-restart systemd-logind.service")
	eventually(t, "systemd is on the bus again", time.Minute, func() bool { return call{args: []string{"ps"}}.run(t).status == 0 })
	r.mustRefuse(t, 124, "stopped at the timeout")
}

// The command's process may be killed in its last moment, when purple-init has
// let it go: nothing has run then, which is said, and the run ends.
func TestKillInTheLastMomentBeforeTheCommand(t *testing.T) {
	// The newer of the two is the fork that becomes the command.
	const stopped = `until [ "$(pgrep -cf 'purple-init ini[t]')" = 2 ]; do sleep 0.01; done; sleep 0.5; pid=$(pgrep -nf 'purple-init ini[t]'); kill -STOP $pid; echo $pid`
	unlock := holdNetworkBack(t)
	args := []string{"run", "--profile", writeProfile(t, connectedProfile), "--", "echo", "it has run"}
	r := waiting(t, filepath.Join(bin, "purple"), args, func() {
		pid := strings.TrimSpace(sh(t, stopped))
		unlock()
		time.Sleep(time.Second) // what is said to it waits in its socket
		sh(t, "kill -KILL "+pid)
	})
	r.mustRefuse(t, 125, "the command's process ended before it was confined")
	noUnits(t, "connected")
}
