package translate

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/purple-sandbox/purple/policies"
)

// execCommand is one element of ExecStartEx, a(sasas).
type execCommand struct {
	Path  string
	Argv  []string
	Flags []string
}

// deviceLimit is one element of IOReadBandwidthMax, a(st).
type deviceLimit struct {
	Path  string
	Value uint64
}

// row is one setting: what causes it, and its value for the bus and for a
// unit file. A row whose value is nil does not apply to this plan.
type row struct {
	name  string // on the bus
	file  string // in a unit file, where that differs
	key   string // the policy's key, or
	why   string // the reason where no key causes it
	value func(*builder) (bus any, text string)
}

func fixed(value any) func(*builder) (any, string) {
	return func(*builder) (any, string) { return value, textOf(value) }
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

// stopTimeout is what the command gets between SIGTERM and SIGKILL.
const stopTimeoutUSec = uint64(5_000_000)

// rows are all properties that Purple sets. What it does not set has systemd's
// default, which an administrator's drop-in may change.
var rows = []row{
	{name: "Description", why: "what systemctl status shows", value: func(b *builder) (any, string) {
		text := "Purple sandbox (" + b.p.Name + ")"
		return text, escape(text)
	}},
	{name: "Slice", why: "one place for all sandboxes", value: fixed("purple.slice")},
	{name: "Type", why: "started means proven", value: fixed("notify")},
	{name: "NotifyAccess", why: "a message from the command could extend its timeout", value: fixed("main")},
	{name: "ExecStartEx", file: "ExecStart", why: "the command itself never stands in a property", value: func(b *builder) (any, string) {
		return []execCommand{{b.c.InitPath, []string{b.c.InitPath}, []string{"no-env-expand"}}}, ":" + escape(b.c.InitPath)
	}},
	{name: "SyslogIdentifier", why: "the same for every run", value: fixed("purple-init")},
	{name: "SyslogLevelPrefix", why: "the command must not choose a priority", value: fixed(false)},
	{name: "KillMode", why: "the supervisor passes SIGTERM on, SIGKILL goes to all", value: fixed("mixed")},
	{name: "TimeoutStopUSec", file: "TimeoutStopSec", why: "between SIGTERM and SIGKILL", value: usec(func(*builder) uint64 { return stopTimeoutUSec })},
	{name: "CollectMode", why: "nothing is left of a failed run", value: fixed("inactive-or-failed")},
	{name: "OOMPolicy", why: "out of memory ends the run, not one process of it", value: fixed("kill")},
	{name: "IgnoreSIGPIPE", why: "the command gets the default dispositions", value: fixed(false)},
	{name: "PrivateNetwork", key: "network.isolated", value: fixed(true)},
	{name: "CPUQuotaPerSecUSec", file: "CPUQuota", key: keyCPU, value: func(b *builder) (any, string) {
		l := b.p.Resources.CPU
		if l.Unlimited {
			return nil, ""
		}
		return l.Value, strconv.FormatFloat(float64(l.Value)/10_000, 'f', -1, 64) + "%"
	}},
	{name: "MemoryMax", key: keyMemory, value: bytes(func(b *builder) policies.Limit { return b.p.Resources.Memory })},
	{name: "MemorySwapMax", key: keyMemory, value: func(b *builder) (any, string) {
		if b.p.Resources.Memory.Unlimited {
			return nil, ""
		}
		return uint64(0), "0"
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

func usec(of func(*builder) uint64) func(*builder) (any, string) {
	return func(b *builder) (any, string) {
		v := of(b)
		if v == ^uint64(0) {
			return v, "infinity"
		}
		return v, strconv.FormatUint(v, 10) + "us"
	}
}

func bytes(of func(*builder) policies.Limit) func(*builder) (any, string) {
	return func(b *builder) (any, string) {
		l := of(b)
		if l.Unlimited {
			return ^uint64(0), "infinity"
		}
		return l.Value, strconv.FormatUint(l.Value, 10)
	}
}

func blockIO(b *builder) (any, string) {
	if len(b.disks) == 0 {
		return nil, ""
	}
	var limits []deviceLimit
	var text []string
	for _, d := range b.disks {
		limits = append(limits, deviceLimit{d.path, b.p.Resources.BlockIO.Value})
		text = append(text, fmt.Sprintf("%s %d", escape(d.path), b.p.Resources.BlockIO.Value))
	}
	return limits, strings.Join(text, " ")
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

// escape writes a string for a unit file, where % starts a specifier and, in
// a command line, $ a variable (systemd.unit(5)).
func escape(s string) string {
	return strings.NewReplacer("%", "%%", `\`, `\\`, "\n", `\n`).Replace(s)
}
