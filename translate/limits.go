package translate

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
)

// The policy's keys of the limits.
const (
	keyCPU     = "resources.cpu_shares"
	keyMemory  = "resources.memory_limit_bytes"
	keyTasks   = "resources.pids_limit"
	keyBlockIO = "resources.block_io_limit"
	keyTimeout = "resources.session_timeout_seconds"
)

// ownTasks is what Purple's three processes may have in threads, on top of the
// command's tasks: the Go runtime starts one for each blocked system call.
const ownTasks = 48

// limits adds what must read back from the unit's own cgroup.
func (b *builder) limits() error {
	checks := []func() error{b.checkMemory, b.checkTasks, b.checkCPU, b.checkBlockIO}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// require refuses a limit whose controller the manager cannot give.
func (b *builder) require(key, controller string) error {
	if slices.Contains(b.h.Controllers, controller) {
		return nil
	}
	why, hint := b.missing(controller)
	return b.unsupported(key, key, why, hint)
}

// missing says why the manager has not a controller, and what gives it one.
func (b *builder) missing(controller string) (why, hint string) {
	switch {
	case !b.isUser():
		return fmt.Sprintf("this machine has no %q cgroup controller", controller), "boot with it, or write `unlimited` on purpose"
	case b.h.Cgroup == host.Hybrid:
		return "with cgroup v1 a user's own manager has no controllers, and a limit would do nothing",
			"boot with systemd.unified_cgroup_hierarchy=1, write `unlimited` on purpose, or call purple with sudo"
	default:
		return fmt.Sprintf("the %q cgroup controller is not delegated to your user manager", controller),
			fmt.Sprintf("let root write \"[Service]\" and \"Delegate=%s\" into %s, and log in anew; or write `unlimited` on purpose, or call purple with sudo", delegated, delegateDropIn)
	}
}

// delegated is what user@.service delegates (since systemd 244), with io, which it
// does not; delegateDropIn is what the package has as an example.
const (
	delegated      = "cpu cpuset io memory pids"
	delegateDropIn = "/etc/systemd/system/user@.service.d/purple-io.conf"
)

// check adds one file of the unit's cgroup: v2's, or v1's on a hybrid host.
func (b *builder) check(key, controller, v2, v1 string, want ...string) {
	file := v2
	if b.h.Cgroup == host.Hybrid {
		file = v1
	}
	b.plan.Spec.Checks = append(b.plan.Spec.Checks, spec.CgroupCheck{Setting: key, Controller: b.hierarchy(controller), File: file, Want: want})
}

// hierarchy is the v1 hierarchy of a controller, or "" for v2.
func (b *builder) hierarchy(controller string) string {
	if b.h.Cgroup != host.Hybrid {
		return ""
	}
	return controller
}

// What of memory a limit on cgroup v1 does not hold.
const (
	whySwap  = "on cgroup v1 systemd cannot keep a unit from swapping, and this machine has swap"
	hintSwap = "boot with systemd.unified_cgroup_hierarchy=1, or turn swap off"
)

func swaps(h host.Facts) bool { return h.Cgroup == host.Hybrid && h.SwapTotal != 0 }

func (b *builder) checkMemory() error {
	limit := b.p.Resources.Memory
	if limit.Unlimited {
		return nil
	}
	if err := b.require(keyMemory, "memory"); err != nil {
		return err
	}
	page := uint64(b.h.PageSize)
	b.check(keyMemory, "memory", "memory.max", "memory.limit_in_bytes", strconv.FormatUint(limit.Value/page*page, 10))
	if b.h.Cgroup != host.Hybrid {
		b.check(keyMemory, "memory", "memory.swap.max", "", "0")
		return nil
	}
	if swaps(b.h) {
		return b.unsupported(keyMemory, keyMemory, whySwap, hintSwap)
	}
	b.say("sandbox", keyMemory, "", "no swap: this machine has none")
	return nil
}

func (b *builder) checkTasks() error {
	limit := b.p.Resources.Tasks
	if limit.Unlimited {
		return nil
	}
	if err := b.require(keyTasks, "pids"); err != nil {
		return err
	}
	b.plan.Spec.TasksLimit = limit.Value
	b.say("sandbox", keyTasks, "", "tasks of the command %d", limit.Value)
	b.check(keyTasks, "pids", "pids.max", "pids.max", strconv.FormatUint(limit.Value+ownTasks, 10))
	return nil
}

func (b *builder) checkCPU() error {
	limit := b.p.Resources.CPU
	if limit.Unlimited {
		return nil
	}
	if err := b.require(keyCPU, "cpu"); err != nil {
		return err
	}
	quota, period := cpuQuota(limit.Value)
	q, p := strconv.FormatUint(quota, 10), strconv.FormatUint(period, 10)
	if b.h.Cgroup != host.Hybrid {
		b.check(keyCPU, "cpu", "cpu.max", "", q, p)
		return nil
	}
	b.check(keyCPU, "cpu", "", "cpu.cfs_quota_us", q)
	b.check(keyCPU, "cpu", "", "cpu.cfs_period_us", p)
	return nil
}

// cpuQuota is how systemd writes a quota: a period of 100 ms, made longer, up
// to a second, where the share of it would be under a millisecond. Both
// divisions round down, as its own do: what is read back is compared exactly.
func cpuQuota(perSecond uint64) (quota, period uint64) {
	const second, standard, least = 1_000_000, 100_000, 1_000
	period = min(max(standard, least*second/perSecond), second)
	return max(perSecond*period/second, least), period
}

// device is a disk to limit, and what names it to systemd: the same string for
// reads and writes, or one of the two is lost.
type device struct{ number, path string }

// newDevice names a disk by a path on it, which systemd then resolves on its
// own: were the two to disagree, the limit would not read back. systemd copies
// the path as it is into the unit's file and reads that again at a
// daemon-reload. There a space would end the limit, and a line break would be
// the start of any other setting, so such a path is replaced by the number.
func newDevice(number, path string) device {
	if !isPlain(path) {
		path = "/dev/block/" + number
	}
	return device{number: number, path: path}
}

// diskless are the file systems that reach no disk of their own.
var diskless = []string{
	"binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs", "fusectl",
	"hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs", "securityfs", "sysfs", "tmpfs", "tracefs",
}

// devices are the disks behind the bound paths, and behind what is mounted
// below them: a bind takes that along.
func (b *builder) devices() ([]device, error) {
	var found []device
	for _, name := range b.boundPaths() {
		fact := b.h.Paths[name]
		switch {
		case fact.Device != "":
			if !slices.ContainsFunc(found, func(d device) bool { return d.number == fact.Device }) {
				found = append(found, newDevice(fact.Device, name))
			}
		case slices.Contains(diskless, fact.FSType):
			b.warn(keyBlockIO, "%q is on a %s: there is no disk to limit", name, fact.FSType)
		default:
			return nil, b.unsupported(keyBlockIO, keyBlockIO, fmt.Sprintf("no disk can be found behind %q (%s)", name, fact.FSType), "leave the limit out, or bind a path on a disk")
		}
	}
	return found, nil
}

// boundPaths are the host paths that the sandbox reaches, each once: the binds
// and the mounts below them.
func (b *builder) boundPaths() []string {
	var paths []string
	add := func(name string) {
		if !slices.Contains(paths, name) {
			paths = append(paths, name)
		}
	}
	for _, m := range b.plan.Spec.Mounts {
		if m.Kind == spec.Tmpfs {
			continue
		}
		add(m.Source)
		for _, below := range b.h.Paths[m.Source].Submounts {
			add(below)
		}
	}
	return paths
}

func (b *builder) checkBlockIO() error {
	limit := b.p.Resources.BlockIO
	if limit.Unlimited {
		return nil
	}
	if err := b.require(keyBlockIO, "io"); err != nil {
		return err
	}
	var err error
	if b.disks, err = b.devices(); err != nil {
		return err
	}
	bps := strconv.FormatUint(limit.Value, 10)
	for _, d := range b.disks {
		add := func(file string, want ...string) {
			c := spec.CgroupCheck{Setting: keyBlockIO, Controller: b.hierarchy("blkio"), File: file, Device: d.number, Want: want}
			b.plan.Spec.Checks = append(b.plan.Spec.Checks, c)
		}
		if b.h.Cgroup != host.Hybrid {
			add("io.max", "rbps="+bps, "wbps="+bps)
			continue
		}
		add("blkio.throttle.read_bps_device", bps)
		add("blkio.throttle.write_bps_device", bps)
	}
	return nil
}

// value is a limit as systemd takes it: no limit is the largest number.
func value(l policies.Limit) uint64 {
	if l.Unlimited {
		return ^uint64(0)
	}
	return l.Value
}
