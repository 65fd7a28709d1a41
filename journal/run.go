package journal

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The message ids of a run's life.
const (
	RunStartedID   = "ba08f278402549d296775c3d2925905a"
	LimitReachedID = "2ce0c2e423604ae78b0038c76f7c5d75"
	RunEndedID     = "4ca5aafda9814c978cbd0a6a7cfde5f1"
	LogFailedID    = "c2f12b3951a64c09847f34b42ae87e6d"
)

// The fields of a run's life. docs/audit.md has the same list.
const (
	FieldPolicyHash  = "PURPLE_POLICY_HASH"
	FieldProfileFile = "PURPLE_PROFILE_FILE"
	FieldCommand     = "PURPLE_COMMAND"

	FieldLimitMemory = "PURPLE_LIMIT_MEMORY_BYTES"
	FieldLimitTasks  = "PURPLE_LIMIT_TASKS"
	FieldLimitCPU    = "PURPLE_LIMIT_CPU_USEC"
	FieldLimitIO     = "PURPLE_LIMIT_IO_BYTES"
	FieldLimitTime   = "PURPLE_LIMIT_TIME_USEC"

	FieldLimit = "PURPLE_LIMIT"
	FieldValue = "PURPLE_LIMIT_VALUE"

	FieldReason      = "PURPLE_REASON"
	FieldStatus      = "PURPLE_STATUS"
	FieldSignal      = "PURPLE_SIGNAL"
	FieldError       = "PURPLE_ERROR"
	FieldWall        = "PURPLE_WALL_USEC"
	FieldCPU         = "PURPLE_CPU_USEC"
	FieldMemoryPeak  = "PURPLE_MEMORY_PEAK_BYTES"
	FieldIORead      = "PURPLE_IO_READ_BYTES"
	FieldIOWritten   = "PURPLE_IO_WRITTEN_BYTES"
	FieldNetReceived = "PURPLE_NETWORK_RECEIVED_BYTES"
	FieldNetSent     = "PURPLE_NETWORK_SENT_BYTES"

	FieldLimitsReached = "PURPLE_LIMITS_REACHED"
	FieldOOMKills      = "PURPLE_OOM_KILLS"
	FieldThrottled     = "PURPLE_CPU_THROTTLED"
	FieldThrottledTime = "PURPLE_CPU_THROTTLED_USEC"

	FieldDeniedConnections  = "PURPLE_DENIED_CONNECTIONS"
	FieldDeniedSyscalls     = "PURPLE_DENIED_SYSCALLS"
	FieldDeniedPaths        = "PURPLE_DENIED_PATHS"
	FieldDeniedCapabilities = "PURPLE_DENIED_CAPABILITIES"

	FieldLogPath = "PURPLE_LOG_PATH"
	FieldLogLost = "PURPLE_LOG_LOST"
)

// Amount is a number that a machine may not be able to tell. The zero Amount
// is unknown, which is not the same as none; an event has no field for it.
type Amount struct {
	N     uint64
	Known bool
}

// Known is an amount that is known.
func Known(n uint64) Amount { return Amount{N: n, Known: true} }

// Pointer is nil for what is not known, as JSON has it.
func (a Amount) Pointer() *uint64 {
	if !a.Known {
		return nil
	}
	return &a.N
}

func (a Amount) field(name string) []Field {
	if !a.Known {
		return nil
	}
	return []Field{{name, decimal(a.N)}}
}

// Limits are those in force. What is not known is not limited.
type Limits struct {
	Memory Amount // bytes
	Tasks  Amount // of the command
	CPU    Amount // microseconds of CPU time a second
	IO     Amount // bytes a second, read and written, on each device
	Time   Amount // microseconds
}

func (l Limits) fields() []Field {
	return slices.Concat(l.Memory.field(FieldLimitMemory), l.Tasks.field(FieldLimitTasks), l.CPU.field(FieldLimitCPU),
		l.IO.field(FieldLimitIO), l.Time.field(FieldLimitTime))
}

// words are the limits for a reader: "memory 256M, 64 tasks".
func (l Limits) words() string {
	var words []string
	add := func(a Amount, format string, text func(uint64) string) {
		if a.Known {
			words = append(words, fmt.Sprintf(format, text(a.N)))
		}
	}
	add(l.Memory, "memory %s", Bytes)
	add(l.Tasks, "%s tasks", decimal)
	add(l.CPU, "%s CPU", percent)
	add(l.IO, "IO %s/s", Bytes)
	add(l.Time, "time %s", duration)
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// RunStarted is written when everything that confines a command has been read
// back, and before its first instruction.
type RunStarted struct {
	Run
	PolicyHash  string // SHA-256 of the effective policy, in hex
	ProfileFile string // that the policy was read from, absolute; empty: it is built in
	Command     string // quoted for a shell by QuoteCommand
	Limits      Limits
}

func (RunStarted) id() string   { return RunStartedID }
func (RunStarted) name() string { return "run-started" }

func (e RunStarted) own() []Field {
	fields := append(e.fields(), Field{FieldPolicyHash, e.PolicyHash}, Field{FieldCommand, e.Command})
	if e.ProfileFile != "" {
		fields = append(fields, Field{FieldProfileFile, e.ProfileFile})
	}
	return append(fields, e.Limits.fields()...)
}

// mostCommandText is how much of a command a message has; the field has all.
const mostCommandText = 160

func (e RunStarted) message() string {
	how := "Started under the profile"
	if e.Learning {
		how = "Started to learn which system calls it makes, NOT confined to those of the profile"
	}
	return fmt.Sprintf("%s %s: %s; limits: %s", how, e.Profile, Cut(e.Command, mostCommandText), e.Limits.words())
}

// Limit is a kind of limit.
type Limit string

// The limits of which a run can tell that it has reached them.
const (
	LimitMemory Limit = "memory" // the kernel has killed a process of the run
	LimitTasks  Limit = "tasks"  // the command has had as many as it may
	LimitCPU    Limit = "cpu"    // it was kept waiting in some period of its quota
	LimitIO     Limit = "io"     // it has moved all that it may, from or to one disk
	LimitTime   Limit = "time"   // the manager has stopped the run
)

// allLimits are sorted as RunEnded has them.
var allLimits = []Limit{LimitMemory, LimitTasks, LimitCPU, LimitIO, LimitTime}

// LimitReached is written once for each limit, when that is first noticed.
type LimitReached struct {
	Run
	Limit Limit
	Value uint64 // of the limit, in the unit of Limits
	Count Amount // of processes killed, or periods throttled, so far
}

func (LimitReached) id() string   { return LimitReachedID }
func (LimitReached) name() string { return "limit-reached" }

func (e LimitReached) own() []Field {
	return append(append(e.fields(), Field{FieldLimit, string(e.Limit)}, Field{FieldValue, decimal(e.Value)}), e.Count.field(FieldCount)...)
}

func (e LimitReached) message() string {
	switch e.Limit {
	case LimitMemory:
		return fmt.Sprintf("Out of memory: the limit is %s", Bytes(e.Value))
	case LimitTasks:
		return fmt.Sprintf("Reached the limit of %d tasks", e.Value)
	case LimitCPU:
		return fmt.Sprintf("Throttled: the limit is %s CPU", percent(e.Value))
	case LimitIO:
		return fmt.Sprintf("Throttled: the limit of block IO is %s/s", Bytes(e.Value))
	default:
		return fmt.Sprintf("Reached the limit of time, %s", duration(e.Value))
	}
}

// Reason is why a run has ended.
type Reason string

// The reasons.
const (
	ReasonExited  Reason = "exited"        // by itself
	ReasonSignal  Reason = "signal"        // of the command's own, or passed on by purple
	ReasonTimeout Reason = "timeout"       // the policy's
	ReasonOOM     Reason = "out-of-memory" // at the policy's limit
	ReasonStopped Reason = "stopped"       // by systemctl or purple stop, or because purple was gone
	ReasonRefused Reason = "refused"       // nothing of the command has run
	ReasonKilled  Reason = "killed"        // the supervisor was, and the command with it
	ReasonLost    Reason = "lost"          // Purple failed after the start: how the command ended is not known
)

var allReasons = []Reason{ReasonExited, ReasonSignal, ReasonTimeout, ReasonOOM, ReasonStopped, ReasonRefused, ReasonKilled, ReasonLost}

// Usage is what a run has used, Purple's own processes in the unit included.
type Usage struct {
	CPU         Amount // microseconds
	MemoryPeak  Amount // bytes; page cache and tmpfs included
	IORead      Amount // bytes that reached a disk, as the next
	IOWritten   Amount
	NetReceived Amount // bytes of the sandbox's link
	NetSent     Amount
}

func (u Usage) fields() []Field {
	return slices.Concat(u.CPU.field(FieldCPU), u.MemoryPeak.field(FieldMemoryPeak), u.IORead.field(FieldIORead),
		u.IOWritten.field(FieldIOWritten), u.NetReceived.field(FieldNetReceived), u.NetSent.field(FieldNetSent))
}

func (u Usage) words() string {
	var text string
	add := func(a Amount, format string, write func(uint64) string) {
		if a.Known {
			text += fmt.Sprintf(format, write(a.N))
		}
	}
	add(u.CPU, ", CPU %s", duration)
	add(u.MemoryPeak, ", memory peak %s", Bytes)
	add(u.IORead, ", read %s", Bytes)
	add(u.IOWritten, ", written %s", Bytes)
	add(u.NetReceived, ", received %s", Bytes)
	add(u.NetSent, ", sent %s", Bytes)
	return text
}

// Reached counts what the limits did to a run.
type Reached struct {
	Limits        string // the limits reached, with a space between: JoinLimits
	OOMKills      Amount // processes that the kernel killed
	Throttled     Amount // periods of the CPU quota
	ThrottledTime Amount // microseconds
}

func (r Reached) fields() []Field {
	return slices.Concat([]Field{{FieldLimitsReached, r.Limits}}, r.OOMKills.field(FieldOOMKills),
		r.Throttled.field(FieldThrottled), r.ThrottledTime.field(FieldThrottledTime))
}

// JoinLimits writes those limits that are in the set, always in one order.
func JoinLimits(set map[Limit]bool) string {
	var words []string
	for _, l := range allLimits {
		if set[l] {
			words = append(words, string(l))
		}
	}
	return strings.Join(words, " ")
}

// Denials count what was denied to a run, by kind. What is not known was not
// recorded.
type Denials struct {
	Connections  Amount // packets
	Syscalls     Amount // calls
	Paths        Amount // calls that the mounts refused
	Capabilities Amount // calls refused for want of one
}

func (d Denials) fields() []Field {
	return slices.Concat(
		d.Connections.field(FieldDeniedConnections), d.Syscalls.field(FieldDeniedSyscalls),
		d.Paths.field(FieldDeniedPaths), d.Capabilities.field(FieldDeniedCapabilities),
	)
}

func (d Denials) words() string {
	text := ""
	if d.Connections.N > 0 {
		text += fmt.Sprintf("; denied packets: %d", d.Connections.N)
	}
	if d.Syscalls.N > 0 {
		text += fmt.Sprintf("; denied system calls: %d", d.Syscalls.N)
	}
	if d.Paths.N > 0 {
		text += fmt.Sprintf("; denied accesses to paths: %d", d.Paths.N)
	}
	if d.Capabilities.N > 0 {
		text += fmt.Sprintf("; denied capabilities: %d", d.Capabilities.N)
	}
	return text
}

// RunEnded is the last event of a run.
type RunEnded struct {
	Run
	PolicyHash string
	Reason     Reason
	Status     uint8 // the exit status of purple run
	Signal     uint8 // that ended the command; 0: none
	Error      string
	Wall       Amount // microseconds from the command's start on; not known: it did not start
	Usage      Usage
	Reached    Reached
	Denials    Denials
	LogLost    Amount // events that could not be written to the log
}

func (RunEnded) id() string   { return RunEndedID }
func (RunEnded) name() string { return "run-ended" }

func (e RunEnded) own() []Field {
	fields := append(e.fields(), Field{FieldPolicyHash, e.PolicyHash}, Field{FieldReason, string(e.Reason)}, Field{FieldStatus, decimal(uint64(e.Status))})
	if e.Signal != 0 {
		fields = append(fields, Field{FieldSignal, decimal(uint64(e.Signal))})
	}
	if e.Error != "" {
		fields = append(fields, Field{FieldError, e.Error})
	}
	return slices.Concat(fields, e.Wall.field(FieldWall), e.Usage.fields(), e.Reached.fields(), e.Denials.fields(), e.LogLost.field(FieldLogLost))
}

func (e RunEnded) message() string {
	text := e.outcome()
	if e.Learning {
		text = "Learning run: " + text
	}
	if e.Wall.Known {
		text += " after " + duration(e.Wall.N)
	}
	text += e.Usage.words()
	if e.Reached.Limits != "" {
		text += "; limits reached: " + e.Reached.Limits
	}
	return text + e.Denials.words()
}

func (e RunEnded) outcome() string {
	switch e.Reason {
	case ReasonExited:
		return fmt.Sprintf("Ended with status %d", e.Status)
	case ReasonSignal:
		return fmt.Sprintf("Ended by signal %d", e.Signal)
	case ReasonTimeout:
		return "Stopped at the timeout"
	case ReasonOOM:
		return "Killed: out of memory"
	case ReasonStopped:
		return "Stopped"
	case ReasonKilled:
		return "Killed with its supervisor"
	case ReasonLost:
		return fmt.Sprintf("The outcome is not known: %s", e.Error)
	default:
		return fmt.Sprintf("Refused with status %d: %s", e.Status, e.Error)
	}
}

// LogFailed says that the policy's log could not be written. The run goes on,
// and the journal has its events.
type LogFailed struct {
	Run
	Path  string
	Error string
}

func (LogFailed) id() string   { return LogFailedID }
func (LogFailed) name() string { return "log-failed" }

func (e LogFailed) own() []Field {
	return append(e.fields(), Field{FieldLogPath, e.Path}, Field{FieldError, e.Error})
}

func (e LogFailed) message() string {
	return fmt.Sprintf("Cannot write to the log %s: %s", e.Path, e.Error)
}

// percent writes a share of a second as one of a CPU.
func percent(usec uint64) string { return fmt.Sprintf("%.4g%%", float64(usec)/10_000) }

// duration writes microseconds with as many digits as a reader needs.
func duration(usec uint64) string {
	d := time.Duration(min(usec, 1<<53)) * time.Microsecond
	switch {
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}

func (r *reader) runStarted() Event {
	return RunStarted{
		Run: r.run(), PolicyHash: r.hash(), ProfileFile: r.fields[FieldProfileFile], Command: r.text(FieldCommand),
		Limits: Limits{
			Memory: r.amount(FieldLimitMemory), Tasks: r.amount(FieldLimitTasks), CPU: r.amount(FieldLimitCPU),
			IO: r.amount(FieldLimitIO), Time: r.amount(FieldLimitTime),
		},
	}
}

func (r *reader) limitReached() Event {
	return LimitReached{Run: r.run(), Limit: oneOf(r, FieldLimit, allLimits), Value: r.number(FieldValue, 64), Count: r.amount(FieldCount)}
}

func (r *reader) runEnded() Event {
	return RunEnded{
		Run: r.run(), PolicyHash: r.hash(), Reason: oneOf(r, FieldReason, allReasons),
		Status: uint8(r.number(FieldStatus, 8)), Signal: r.signal(), Error: r.fields[FieldError], Wall: r.amount(FieldWall),
		Usage: Usage{
			CPU: r.amount(FieldCPU), MemoryPeak: r.amount(FieldMemoryPeak), IORead: r.amount(FieldIORead),
			IOWritten: r.amount(FieldIOWritten), NetReceived: r.amount(FieldNetReceived), NetSent: r.amount(FieldNetSent),
		},
		Reached: Reached{
			Limits: r.limits(), OOMKills: r.amount(FieldOOMKills),
			Throttled: r.amount(FieldThrottled), ThrottledTime: r.amount(FieldThrottledTime),
		},
		Denials: Denials{
			Connections: r.amount(FieldDeniedConnections), Syscalls: r.amount(FieldDeniedSyscalls),
			Paths: r.amount(FieldDeniedPaths), Capabilities: r.amount(FieldDeniedCapabilities),
		},
		LogLost: r.amount(FieldLogLost),
	}
}

func (r *reader) logFailed() Event {
	return LogFailed{Run: r.run(), Path: r.text(FieldLogPath), Error: r.text(FieldError)}
}

// amount reads a field that may be missing.
func (r *reader) amount(name string) Amount {
	if _, ok := r.fields[name]; !ok {
		return Amount{}
	}
	return Known(r.number(name, 64))
}

func (r *reader) signal() uint8 {
	if _, ok := r.fields[FieldSignal]; !ok {
		return 0
	}
	n := r.number(FieldSignal, 8)
	if n == 0 {
		r.fail(FieldSignal, errors.New("0 is no signal"))
	}
	return uint8(n)
}

func (r *reader) hash() string {
	text := r.text(FieldPolicyHash)
	if len(text) != 64 || strings.Trim(text, "0123456789abcdef") != "" {
		r.fail(FieldPolicyHash, fmt.Errorf("%q is no SHA-256", text))
	}
	return text
}

func (r *reader) limits() string {
	text := r.text(FieldLimitsReached)
	set := map[Limit]bool{}
	for _, word := range strings.Fields(text) {
		set[Limit(word)] = true
	}
	if JoinLimits(set) != text {
		r.fail(FieldLimitsReached, fmt.Errorf("%q is no list of limits", text))
	}
	return text
}

// oneOf reads a word of a closed set, so that it can be printed as it is.
func oneOf[T ~string](r *reader, name string, words []T) T {
	word := T(r.text(name))
	if !slices.Contains(words, word) {
		r.fail(name, fmt.Errorf("%q is not known", word))
	}
	return word
}
