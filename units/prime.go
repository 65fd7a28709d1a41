package units

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Prime lets the kernel begin with what the start of a unit would wait for
// later. systemd moves the unit's first process into its control group, for
// which the kernel takes a lock that costs a grace period of RCU, some 5 ms,
// unless it was taken a moment ago (cgroup_threadgroup_rwsem in
// kernel/cgroup/cgroup.c, rcu_sync_enter() in kernel/rcu/sync.c; the mount
// option favordynmods of cgroups(7) takes the same cost away). Prime takes it
// beforehand, by moving this process to the control group that it is in. It
// returns when the time is over; that it may not do so, or that there is no
// such group, only makes the start slower.
//
// Since version 256 systemd makes the process inside the group.
func Prime() {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	group, ok := unifiedGroup(string(data))
	if !ok {
		return
	}
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		f, err := os.OpenFile(filepath.Join(root, group, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			continue
		}
		_, _ = f.WriteString(strconv.Itoa(os.Getpid()))
		_ = f.Close()
		return
	}
}

// unifiedGroup is the path in cgroup v2, of /proc/PID/cgroup.
func unifiedGroup(text string) (string, bool) {
	for line := range strings.Lines(text) {
		if group, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(group), true
		}
	}
	return "", false
}
