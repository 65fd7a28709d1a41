package confine

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

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

func (s *sandbox) setRlimits() error { return applyRlimits(s.spec.Rlimits) }

// setRlimits again, because the Go runtime has raised the soft RLIMIT_NOFILE.
func (c *command) setRlimits() error { return applyRlimits(c.spec.Rlimits) }

// setTasksLimit makes the policy's number of tasks exact. TasksMax= of the
// unit counts Purple's own threads too. RLIMIT_NPROC counts per user and user
// namespace (since Linux 5.14, kernel/ucount.c), and the namespace is the
// command's alone. Set after the namespace was made, so that it does not also
// bind the uid's processes outside, and after the last thread was.
func (c *command) setTasksLimit() error {
	if c.spec.TasksLimit == 0 {
		return nil
	}
	want := unix.Rlimit{Cur: c.spec.TasksLimit, Max: c.spec.TasksLimit}
	if err := unix.Prlimit(0, unix.RLIMIT_NPROC, &want, nil); err != nil {
		return err
	}
	var got unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NPROC, nil, &got); err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("it reads back as %d:%d", got.Cur, got.Max)
	}
	return nil
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
