package confine

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// applyRlimits sets each limit, or keeps the hard limit of the manager where
// that is lower: the command never gets more than either.
func applyRlimits(limits []spec.Rlimit) error {
	for _, l := range limits {
		var now unix.Rlimit
		if err := unix.Prlimit(0, l.Resource, nil, &now); err != nil {
			return fmt.Errorf("cannot read resource limit %d: %w", l.Resource, err)
		}
		hard := min(l.Hard, now.Max)
		lim := unix.Rlimit{Cur: min(l.Soft, hard), Max: hard}
		if err := unix.Prlimit(0, l.Resource, &lim, nil); err != nil {
			return fmt.Errorf("cannot set resource limit %d to %d:%d: %w", l.Resource, lim.Cur, lim.Max, err)
		}
	}
	return nil
}

// offerToOOM does what surviveOOM cannot, for the sandbox and all that it starts.
func (s *sandbox) offerToOOM() error {
	if !s.spec.UserManager {
		return nil
	}
	return os.WriteFile("/proc/self/oom_score_adj", []byte(oomRather), 0)
}

func (s *sandbox) setRlimits() error { return applyRlimits(s.spec.Rlimits) }

// defaultTimerSlack is the kernel's, in nanoseconds (init_task in init/init_task.c).
// What an administrator has given the manager (TimerSlackNSec= in
// systemd-system.conf(5)), the command does not get.
const defaultTimerSlack = 50_000

// resetTimerSlack gives the command, which init is about to fork, the kernel's slack:
// the unit's is meant for Purple's own processes (TimerSlackNSec= in package translate).
// What a thread has when it forks is also the default of the fork, which
// PR_SET_TIMERSLACK(2const) goes back to.
func (s *sandbox) resetTimerSlack() error {
	return unix.Prctl(unix.PR_SET_TIMERSLACK, defaultTimerSlack, 0, 0, 0)
}

// setTasksLimit makes the policy's number of tasks exact. TasksMax= of the
// unit counts Purple's own threads too. RLIMIT_NPROC counts per user and user
// namespace (since Linux 5.14, kernel/ucount.c), and the namespace is the
// command's alone. Set after the namespace was made, so that it does not also
// bind the uid's processes outside.
//
//go:nosplit
func (c *command) setTasksLimit() syscall.Errno {
	if c.tasks.Cur == 0 {
		return 0
	}
	_, _, errno := syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NPROC, uintptr(unsafe.Pointer(&c.tasks)), 0, 0, 0)
	return errno
}

// verifyTasksLimit reads it back, of the process pid (proc_pid_limits(5)).
func verifyTasksLimit(pid int, limit uint64) error {
	if limit == 0 {
		return nil
	}
	text, ok := readKernelFile(fmt.Sprintf("/proc/%d/limits", pid))
	if !ok {
		return errors.New("cannot read the tasks limit back")
	}
	want := strconv.FormatUint(limit, 10)
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(line, "Max processes"); found {
			if f := strings.Fields(value); len(f) < 2 || f[0] != want || f[1] != want {
				return fmt.Errorf("the tasks limit reads back as %q, not %s", strings.Join(f, " "), want)
			}
			return nil
		}
	}
	return errors.New("cannot read the tasks limit back: the kernel does not tell it")
}

// cgroupRoot is where systemd mounts the control groups.
const cgroupRoot = "/sys/fs/cgroup"

// checkLimits reads every limit back from the unit's own cgroup: systemd
// accepts properties that it then cannot apply.
func checkLimits(checks []spec.CgroupCheck) error {
	if len(checks) == 0 {
		return nil
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	groups := parseCgroups(string(data))
	for _, check := range checks {
		if err := checkLimit(check, groups); err != nil {
			return fmt.Errorf("%s: %w", check.Setting, err)
		}
	}
	return nil
}

// parseCgroups maps each controller to the directory of this process's group.
// The key "" is cgroup v2 (cgroups(7), /proc/PID/cgroup).
func parseCgroups(text string) map[string]string {
	groups := map[string]string{}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimRight(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for _, controller := range strings.Split(fields[1], ",") {
			groups[controller] = fields[2]
		}
	}
	return groups
}

// groupDir is the directory of controller's own hierarchy, or of v2.
func groupDir(controller string, groups map[string]string) (string, error) {
	if dir, ok := groups[controller]; ok && controller != "" {
		return path.Join(cgroupRoot, controller, dir), nil
	}
	if dir, ok := groups[""]; ok {
		return path.Join(cgroupRoot, dir), nil
	}
	return "", errors.New("the unit has no control group")
}

func checkLimit(check spec.CgroupCheck, groups map[string]string) error {
	dir, err := groupDir(check.Controller, groups)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path.Join(dir, check.File))
	if err != nil {
		return fmt.Errorf("cannot read it back: %w", err)
	}
	words := strings.Fields(string(data))
	if check.Device != "" {
		words = deviceWords(string(data), check.Device)
	}
	for _, want := range check.Want {
		if !slices.Contains(words, want) {
			return fmt.Errorf("%s of the unit's cgroup reads %q, without %q", check.File, strings.Join(words, " "), want)
		}
	}
	return nil
}

func deviceWords(text, device string) []string {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) > 0 && fields[0] == device {
			return fields[1:]
		}
	}
	return nil
}
