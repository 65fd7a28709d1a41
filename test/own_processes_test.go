//go:build integration

package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What Purple's own processes have left once the command runs: on each thread a filter
// and no_new_privs, of capabilities init's to signal, and of descriptors what is needed.
func TestOwnProcessesAreConfined(t *testing.T) {
	if control := threadStatus(t, "self")[0]; control["Seccomp"] != "0" {
		t.Fatalf("the control is filtered itself: %v", control)
	}
	const streams, runtimes = `/dev/null`, `anon_inode:\[(eventpoll|eventfd)\]`
	for _, run := range []struct {
		name    string
		start   func() string
		init    string // what a descriptor of init's may be
		sockets int
	}{
		{"isolated", func() string { return detach(t, "plain", "sleep", "300") }, "", 1},
		{"with an output path", func() string { return startWithOutput(t) }, "", 1},
		{"with a network", func() string { return startSandbox(t, outgoing(t, "[443]"), "sleep", "300").unit }, "", 1},
		{"on a terminal", func() string {
			s := newScreen(t, "sh", "-c", "echo runs; sleep 300")
			t.Cleanup(func() { _ = s.cmd.Process.Kill(); s.wait() })
			s.expect(t, "runs")
			return runningUnit(t, "groups")
		}, `/dev/pts/0`, 1},
	} {
		unit := run.start()
		supervisor := strings.TrimSpace(sh(t, "systemctl show --value -p MainPID "+unit))
		inside := initOf(t, supervisor)
		// CAP_KILL, number 5.
		for process, capabilities := range map[string]string{supervisor: noCapabilities, inside: "0000000000000020"} {
			for _, thread := range threadStatus(t, process) {
				if thread["Seccomp"] != "2" || thread["NoNewPrivs"] != "1" || thread["CapEff"] != capabilities || thread["CapPrm"] != capabilities || thread["CapInh"] != noCapabilities {
					t.Errorf("%s: thread %s of %s: %v", run.name, thread["Pid"], process, thread)
				}
			}
		}
		may := regexp.MustCompile(`^(` + strings.Trim(strings.Join([]string{streams, runtimes, `socket:.*`, run.init}, "|"), "|") + `)$`)
		sockets := 0
		for fd, target := range descriptorsOf(t, inside) {
			if !may.MatchString(target) {
				t.Errorf("%s: init has descriptor %s, %s", run.name, fd, target)
			}
			if strings.HasPrefix(target, "socket:") {
				sockets++
			}
		}
		if sockets != run.sockets {
			t.Errorf("%s: init has %d sockets, want %d: %v", run.name, sockets, run.sockets, descriptorsOf(t, inside))
		}
	}
}

// The filter of init stands before the command's first instruction.
func TestInitIsFilteredFromTheStart(t *testing.T) {
	for range 20 {
		r := purple(t, "plain", "grep", "-E", "^(Seccomp|NoNewPrivs):", "/proc/1/status").mustSucceed(t)
		if r.stdout != "NoNewPrivs:\t1\nSeccomp:\t2\n" {
			t.Fatalf("init has %q", r.stdout)
		}
	}
}

// startWithOutput is a run with a write-only path: Landlock, and a mount of its owner's.
func startWithOutput(t *testing.T) string {
	t.Helper()
	profile := writeProfile(t, fmt.Sprintf("name: output\nextends: offline\nresources: {cpu_shares: unlimited}\nfilesystem:\n  output_paths: [%s]\n", tempDir(t)))
	unit := strings.TrimSpace(call{args: []string{"run", "--detach", "--profile", profile, "--", "sleep", "300"}}.run(t).mustSucceed(t).stdout)
	t.Cleanup(func() { sh(t, "systemctl kill -s KILL "+unit+" 2>/dev/null || :") })
	return unit
}

// initOf is the child of a supervisor that is PID 1 of a namespace.
func initOf(t *testing.T, supervisor string) string {
	t.Helper()
	for _, pid := range strings.Fields(sh(t, "pgrep -P "+supervisor)) {
		if strings.HasSuffix(threadStatus(t, pid)[0]["NStgid"], "\t1") {
			return pid
		}
	}
	t.Fatalf("supervisor %s has no init", supervisor)
	return ""
}

// threadStatus is /proc/PID/task/*/status.
func threadStatus(t *testing.T, pid string) []map[string]string {
	t.Helper()
	files, err := filepath.Glob("/proc/" + pid + "/task/*/status")
	if err != nil || len(files) == 0 {
		t.Fatalf("process %s has no threads: %v", pid, err)
	}
	var threads []map[string]string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(data)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.TrimSpace(value)
		}
		threads = append(threads, fields)
	}
	return threads
}

func descriptorsOf(t *testing.T, pid string) map[string]string {
	t.Helper()
	dir := "/proc/" + pid + "/fd"
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 3 {
		t.Fatalf("process %s has %d descriptors: %v", pid, len(entries), err)
	}
	targets := map[string]string{}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		targets[e.Name()] = target
	}
	return targets
}

// filteredCalls are the lines of the kernel's log, since a time, about calls that the
// filters of Purple's own processes have denied: whatever the suite has made them do,
// they must not need one. (What a filter with SECCOMP_FILTER_FLAG_LOG denies the kernel
// tells there, where no audit daemon takes it.)
func filteredCalls(since time.Time) ([]string, error) {
	const readAll = 3 // SYSLOG_ACTION_READ_ALL
	log := make([]byte, 4<<20)
	n, err := unix.Klogctl(readAll, log)
	if err != nil {
		return nil, fmt.Errorf("cannot read the kernel's log: %w", err)
	}
	stamp := regexp.MustCompile(`audit\((\d+)\.`)
	var lines []string
	for line := range bytes.Lines(log[:n]) {
		m := stamp.FindSubmatch(line)
		if m == nil || !bytes.Contains(line, []byte(" type=1326 ")) || !isOwn(string(line)) {
			continue
		}
		if at, err := strconv.ParseInt(string(m[1]), 10, 64); err == nil && at >= since.Unix() {
			lines = append(lines, string(line))
		}
	}
	return lines, nil
}

// isOwn: of a purple-init of this suite. The kernel's log is the machine's.
func isOwn(line string) bool {
	for _, dir := range []string{bin, realBin()} {
		if strings.Contains(line, fmt.Sprintf(" comm=%q exe=%q ", "purple-init", filepath.Join(dir, "purple-init"))) {
			return true
		}
	}
	return false
}
