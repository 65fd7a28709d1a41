//go:build integration

// Package test runs purple as a user does, on a real systemd, as root.
//
// Every property has its positive control: the same probe succeeds outside the
// sandbox, or under a profile without that layer. A probe that succeeds
// nowhere proves nothing, and fails its test.
package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bin is where purple, purple-init and probe are, and the profiles.
var bin, profiles string

func TestMain(m *testing.M) {
	status, err := runSuite(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "suite:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

// runSuite copies the profiles to a directory of root's own: a checkout may be
// writable by others, and purple would refuse them for it.
func runSuite(m *testing.M) (int, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil || os.Getuid() != 0 {
		return 0, errors.New("needs root and a running systemd: see `make test-native`")
	}
	var err error
	if bin, err = filepath.Abs("../bin"); err != nil {
		return 0, err
	}
	if profiles, err = os.MkdirTemp("/var/tmp", "purple-profiles."); err != nil {
		return 0, err
	}
	defer os.RemoveAll(profiles)
	if err := os.Chmod(profiles, 0o755); err != nil {
		return 0, err
	}
	files, err := filepath.Glob("testdata/profiles/*.yaml")
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("no profiles: %v", err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return 0, err
		}
		if err := os.WriteFile(filepath.Join(profiles, filepath.Base(f)), data, 0o644); err != nil {
			return 0, err
		}
	}
	if asUser {
		end, err := setUpUsers()
		if end != nil {
			defer end()
		}
		if err != nil {
			return 0, err
		}
	}
	if !asUser {
		if err := flag.Set("test.skip", onlyUsers); err != nil {
			return 0, err
		}
	}
	defer endWorld()
	begun := time.Now()
	status := m.Run()
	if filtered, err := filteredCalls(begun); err != nil || len(filtered) > 0 {
		return 1, errors.Join(err, fmt.Errorf("the kernel has denied calls of Purple's own processes:\n%s", strings.Join(filtered, "")))
	}
	return status, nil
}

// result is what a command printed and how it ended.
type result struct {
	stdout, stderr string
	status         int
}

// call is one call of purple.
type call struct {
	dir   string
	stdin string
	env   []string
	args  []string
}

// limit is how long anything may take, under emulation too.
const limit = 3 * time.Minute

func (c call) command(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "purple"), c.args...)
	cmd.Dir = c.dir
	cmd.Stdin = strings.NewReader(c.stdin)
	cmd.Env = append([]string{"PATH=" + bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}, c.env...)
	return cmd
}

func (c call) run(t *testing.T) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if c.dir == "" {
		c.dir = tempDir(t)
	}
	cmd := c.command(ctx)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("purple %q: %v", c.args, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("purple %q: still running after %v\n%s", c.args, limit, stderr.String())
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// purple runs `purple run --profile NAME -- ARGS` in an empty directory.
func purple(t *testing.T, profile string, args ...string) result {
	t.Helper()
	return call{args: append([]string{"run", "--profile", profilePath(profile), "--"}, args...)}.run(t)
}

// profilePath: a name of testdata/profiles, or a built-in's.
func profilePath(name string) string {
	file := filepath.Join(profiles, name+".yaml")
	if _, err := os.Stat(file); err == nil {
		return file
	}
	return name
}

func (r result) mustSucceed(t *testing.T) result {
	t.Helper()
	if r.status != 0 {
		t.Fatalf("status %d\nstdout: %s\nstderr: %s", r.status, r.stdout, r.stderr)
	}
	return r
}

// mustRefuse: purple refused, with every text, and the command printed nothing.
func (r result) mustRefuse(t *testing.T, status int, texts ...string) {
	t.Helper()
	if r.status != status || r.stdout != "" {
		t.Fatalf("status %d, want %d\nstdout: %s\nstderr: %s", r.status, status, r.stdout, r.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("stderr %q does not say %q", r.stderr, text)
		}
	}
}

// decode reads the probe's answer.
func decode[T any](t *testing.T, r result) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.mustSucceed(t).stdout), &v); err != nil {
		t.Fatalf("%v\nstdout: %s\nstderr: %s", err, r.stdout, r.stderr)
	}
	return v
}

// probe runs bin/probe in the sandbox; the profile "probe" binds its directory.
func probe[T any](t *testing.T, profile string, args ...string) T {
	t.Helper()
	c := call{args: append([]string{"run", "--profile", profilePath(profile), "--", filepath.Join(bin, "probe")}, args...), dir: bin}
	return decode[T](t, c.run(t))
}

// outside runs bin/probe as it is: the positive control.
func outside[T any](t *testing.T, args ...string) T {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "probe"), args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return decode[T](t, result{stdout: string(out)})
}

// journalctlJSON is without what journalctl says beside: it warns of a file that
// journald is just making, and a run whose output is in the journal has one.
const journalctlJSON = "2>/dev/null journalctl --no-pager --all -o json "

// sh runs a command of the host's and gives what it prints.
func sh(t *testing.T, script string) string {
	t.Helper()
	// Not the test's context, which has ended when a Cleanup runs.
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, "bash", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// eventually waits until check holds.
func eventually(t *testing.T, what string, within time.Duration, check func() bool) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if check() {
			return
		}
	}
	t.Errorf("not within %v: %s", within, what)
}

// runningUnit is the unit of a profile's only run.
func runningUnit(t *testing.T, profile string) string {
	t.Helper()
	units := strings.Fields(sh(t, "systemctl list-units --plain --no-legend 'purple-"+profile+"-*'"))
	if len(units) == 0 {
		t.Fatalf("no run of %s is there", profile)
	}
	return units[0]
}

// noUnits: no unit of a profile is loaded any more.
func noUnits(t *testing.T, profile string) {
	t.Helper()
	eventually(t, "no unit of "+profile+" is left", time.Minute, func() bool {
		return strings.TrimSpace(sh(t, "systemctl list-units --all --plain --no-legend 'purple-"+profile+"-*'")) == ""
	})
}
