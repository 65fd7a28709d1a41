package translate

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/purple-sandbox/purple/policies"
)

// ExecCommand is one element of ExecStart and its like, a(sasb).
type ExecCommand struct {
	Path          string
	Argv          []string
	IgnoreFailure bool
}

// deviceLimit is one element of IOReadBandwidthMax, a(st).
type deviceLimit struct {
	Path  string
	Value uint64
}

// row is one setting: what causes it, and its value for the bus and its
// assignments in a unit file. A row whose value is nil does not apply to this
// plan.
type row struct {
	name  string // on the bus
	file  string // in a unit file, where that differs
	key   string // the policy's key, or
	why   string // the reason where no key causes it
	value func(*builder) (bus any, text []string)
}

func fixed(value any) func(*builder) (any, []string) {
	return func(*builder) (any, []string) { return value, []string{textOf(value)} }
}

func textOf(value any) string {
	switch v := value.(type) {
	case bool:
		if v {
			return "yes"
		}
		return "no"
	default:
		return fmt.Sprint(v)
	}
}

// startTimeoutUSec is when systemd gives a start up. Its own default of 90 s is too
// short for fifty networked starts at once on a slow machine.
const startTimeoutUSec = uint64(600_000_000)

// stopTimeoutUSec is when systemd kills the whole unit, the supervisor included.
// That one has killed the sandbox after 5 seconds, and then says how the run
// has ended.
const stopTimeoutUSec = uint64(10_000_000)

// timerSlackNSec is how late timers of purple-init may be. Its Go runtime looks after
// itself each 20 us while it waits for a system call, which the kernel's 50 us of
// slack make 90; a start, in which there are two of it, is 4 % shorter with less of
// that. At some milliseconds it is longer: some of those looks are needed.
const timerSlackNSec = uint64(500_000)

// LearningDescription is how a learning run's Description= begins: it must not
// look like a run that the profile confines in all.
const LearningDescription = "Purple learning run, system calls not confined"

// rows are all properties that Purple sets. What it does not set has systemd's
// default, which an administrator's drop-in may change.
var rows = []row{
	{name: "Description", why: "what systemctl status shows", value: func(b *builder) (any, []string) {
		text := "Purple sandbox (" + b.p.Name + ")"
		if b.c.Learning {
			text = LearningDescription + " (" + b.p.Name + ")"
		}
		return text, []string{escapeSpecifiers(text)}
	}},
	{name: "Slice", why: "one place for all sandboxes", value: fixed("purple.slice")},
	{name: "Type", why: "started means proven", value: fixed("notify")},
	{name: "NotifyAccess", why: "a message from the command could extend its timeout", value: fixed("main")},
	// Not ExecStartEx, whose flags would keep $ as it is: systemd 252 saves it
	// under that name, which its own unit files do not have. At the next
	// daemon-reload the unit then is a bad one, and its limits are gone.
	{name: "ExecStart", why: "the command itself never stands in a property", value: func(b *builder) (any, []string) {
		return []ExecCommand{{Path: b.c.InitPath, Argv: []string{b.c.InitPath}}}, []string{quoteWord(b.c.InitPath)}
	}},
	{name: "Environment", why: "purple-init starts with fewer threads; not the command's", value: func(*builder) (any, []string) {
		return []string{"GOMAXPROCS=1"}, []string{"GOMAXPROCS=1"}
	}},
	{name: "TimerSlackNSec", why: "purple-init wakes up less often; not the command's", value: fixed(timerSlackNSec)},
	{name: "SyslogIdentifier", why: "the same for every run", value: fixed("purple-init")},
	{name: "SyslogLevelPrefix", why: "the command must not choose a priority", value: fixed(false)},
	{name: "KillMode", why: "the supervisor passes SIGTERM on, SIGKILL goes to all", value: fixed("mixed")},
	{name: "TimeoutStartUSec", file: "TimeoutStartSec", why: "many may start at once", value: usec(func(*builder) uint64 { return startTimeoutUSec })},
	{name: "TimeoutStopUSec", file: "TimeoutStopSec", why: "the supervisor kills after 5 s, systemd all after this", value: usec(func(*builder) uint64 { return stopTimeoutUSec })},
	{name: "CollectMode", why: "nothing is left of a failed run", value: fixed("inactive-or-failed")},
	// Neither "kill" nor "stop": at a second kill while it stops, systemd answers
	// with SIGKILL (service.c, service_notify_cgroup_oom_event), which takes the
	// supervisor along before it has said why and what was used.
	{name: "OOMPolicy", why: "out of memory, the supervisor ends the run, not one process of it", value: fixed("continue")},
	{name: "IgnoreSIGPIPE", why: "the command gets the default dispositions", value: fixed(false)},
	{name: "PrivateNetwork", key: keyIsolated, value: func(b *builder) (any, []string) {
		if !b.p.Network.Isolated || b.isUser() {
			return nil, nil // NetworkNamespacePath=, of a namespace that run makes; a user manager's purple-init makes it
		}
		return true, []string{"yes"}
	}},
	{name: "CPUQuotaPerSecUSec", file: "CPUQuota", key: keyCPU, value: func(b *builder) (any, []string) {
		l := b.p.Resources.CPU
		if l.Unlimited {
			return nil, nil
		}
		return l.Value, []string{strconv.FormatFloat(float64(l.Value)/10_000, 'f', -1, 64) + "%"}
	}},
	{name: "MemoryMax", key: keyMemory, value: bytes(func(b *builder) policies.Limit { return b.p.Resources.Memory })},
	{name: "MemorySwapMax", key: keyMemory, value: func(b *builder) (any, []string) {
		if b.p.Resources.Memory.Unlimited {
			return nil, nil
		}
		return uint64(0), []string{"0"}
	}},
	{name: "TasksMax", key: keyTasks, value: bytes(func(b *builder) policies.Limit {
		l := b.p.Resources.Tasks
		if !l.Unlimited {
			l.Value += ownTasks
		}
		return l
	})},
	{name: "IOReadBandwidthMax", key: keyBlockIO, value: blockIO},
	{name: "IOWriteBandwidthMax", key: keyBlockIO, value: blockIO},
	{name: "RuntimeMaxUSec", file: "RuntimeMaxSec", key: keyTimeout, value: usec(func(b *builder) uint64 { return value(b.p.Resources.Timeout) })},
}

func usec(of func(*builder) uint64) func(*builder) (any, []string) {
	return func(b *builder) (any, []string) {
		v := of(b)
		if v == ^uint64(0) {
			return v, []string{"infinity"}
		}
		return v, []string{strconv.FormatUint(v, 10) + "us"}
	}
}

func bytes(of func(*builder) policies.Limit) func(*builder) (any, []string) {
	return func(b *builder) (any, []string) {
		l := of(b)
		if l.Unlimited {
			return ^uint64(0), []string{"infinity"}
		}
		return l.Value, []string{strconv.FormatUint(l.Value, 10)}
	}
}

// blockIO is one assignment a disk: systemd takes one path in each.
func blockIO(b *builder) (any, []string) {
	if len(b.disks) == 0 {
		return nil, nil
	}
	var limits []deviceLimit
	var text []string
	for _, d := range b.disks {
		limits = append(limits, deviceLimit{d.path, b.p.Resources.BlockIO.Value})
		text = append(text, fmt.Sprintf("%s %d", d.path, b.p.Resources.BlockIO.Value))
	}
	return limits, text
}

func (b *builder) properties() error {
	for _, r := range rows {
		bus, text := r.value(b)
		if bus == nil {
			continue
		}
		file := r.file
		if file == "" {
			file = r.name
		}
		p := Property{Name: r.name, Value: bus, File: file, Text: text, Key: r.key, Why: r.why}
		if r.key != "" {
			p.Where = b.p.Where(r.key)
		}
		b.plan.Properties = append(b.plan.Properties, p)
	}
	return nil
}

// escapeSpecifiers writes a string for a unit file, where % starts a specifier
// (systemd.unit(5)).
func escapeSpecifiers(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// quoteWord writes one word of a setting that is split into words: quoted where
// it has to be, with the escapes of systemd.syntax(7).
func quoteWord(s string) string {
	s = escapeSpecifiers(s)
	if isPlain(strings.ReplaceAll(s, "%%", "")) {
		return s
	}
	var out strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			out.WriteByte('\\')
			out.WriteByte(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&out, `\x%02x`, c)
		default:
			out.WriteByte(c)
		}
	}
	return `"` + out.String() + `"`
}

// isPlain tells whether no syntax of a unit file means anything by s.
func isPlain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._+-@", r))
	})
}
