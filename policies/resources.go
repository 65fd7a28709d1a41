package policies

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// The smallest and largest limits that mean anything.
const (
	// minMemory leaves room for Purple's own two processes in the unit, whose
	// memory counts in the same control group.
	minMemory = 16 << 20
	maxMemory = 1 << 60
	// maxTasks is the kernel's PID_MAX_LIMIT on 64-bit machines.
	maxTasks   = 1 << 22
	maxSeconds = math.MaxInt64 / 1_000_000
	// minCPU is the kernel's: a quota of at least 1 ms in a period of at most
	// 1 s (kernel/sched/core.c, min_cfs_quota_period).
	minCPU = 1_000
	maxCPU = 1024 * 1_000_000
)

const unlimitedWord = "unlimited"

func (d *decoder) resources(n *node, r *Resources) {
	d.mapping(n,
		reader{"cpu_shares", func(n *node) { d.limit(n, &r.CPU, parseCPU) }},
		reader{"memory_limit_bytes", func(n *node) { d.limit(n, &r.Memory, parseMemory) }},
		reader{"pids_limit", func(n *node) { d.limit(n, &r.Tasks, parseTasks) }},
		reader{"block_io_limit", func(n *node) { d.limit(n, &r.BlockIO, parseRate) }},
		reader{"session_timeout_seconds", func(n *node) { d.limit(n, &r.Timeout, parseSeconds) }},
	)
}

// limit reads "unlimited" or what parse accepts.
func (d *decoder) limit(n *node, into *Limit, parse func(string) (uint64, error)) {
	text, ok := d.amount(n, "a number or "+unlimitedWord)
	if !ok {
		return
	}
	if text == unlimitedWord {
		*into = Limit{Unlimited: true}
		return
	}
	value, err := parse(text)
	if err != nil {
		d.errorf(n, "%v; or %s, for none on purpose", err, unlimitedWord)
		return
	}
	*into = Limit{Value: value}
}

// parseWhole reads a decimal number with nothing around it: no sign, leading
// zero, exponent or underscore, all of which YAML itself would accept.
func parseWhole(text string, lowest, highest uint64) (uint64, error) {
	value, err := strconv.ParseUint(text, 10, 64)
	if err != nil || strconv.FormatUint(value, 10) != text || value < lowest || value > highest {
		return 0, fmt.Errorf("must be a whole number from %d to %d, in plain digits, not %s", lowest, highest, printable(text))
	}
	return value, nil
}

func parseTasks(text string) (uint64, error) { return parseWhole(text, 1, maxTasks) }

func parseSeconds(text string) (uint64, error) {
	seconds, err := parseWhole(text, 1, maxSeconds)
	return seconds * 1_000_000, err
}

// parseCPU reads a fraction of one CPU, such as 0.5, as microseconds a second.
func parseCPU(text string) (uint64, error) {
	refused := fmt.Errorf("must be a share of one CPU from 0.001 to 1024, such as 0.5, not %s", printable(text))
	whole, fraction, dotted := strings.Cut(text, ".")
	if !isDigits(whole) || len(whole) > 4 || len(whole) > 1 && whole[0] == '0' || dotted && !isDigits(fraction) || len(fraction) > 6 {
		return 0, refused
	}
	value, err := strconv.ParseUint(whole+fraction+strings.Repeat("0", 6-len(fraction)), 10, 64)
	if err != nil || value < minCPU || value > maxCPU {
		return 0, refused
	}
	return value, nil
}

func isDigits(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

var sizeUnits = map[byte]uint64{'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}

// parseMemory reads bytes, or a number with K, M, G or T for powers of 1024.
func parseMemory(text string) (uint64, error) {
	digits, unit := text, uint64(1)
	if last := len(text) - 1; last > 0 && sizeUnits[text[last]] != 0 {
		digits, unit = text[:last], sizeUnits[text[last]]
	}
	if !isDigits(digits) {
		return 0, fmt.Errorf("must be bytes, or a number with K, M, G or T (powers of 1024), such as 512M, not %s", printable(text))
	}
	number, err := parseWhole(digits, 1, maxMemory/unit)
	if err != nil {
		return 0, err
	}
	if number*unit < minMemory {
		return 0, fmt.Errorf("must be at least 16M, because the memory of Purple's own processes in the unit counts in it; it is %s", printable(text))
	}
	return number * unit, nil
}

var rateForm = lazily(`^([0-9]+)([A-Za-z]+)ps$`)

// lazily is a regular expression that is compiled when it is first needed: all of
// them together would take longer than the rest of a start's parsing.
func lazily(form string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(form) })
}

// rateUnit is one unit of block_io_limit.
type rateUnit struct {
	name  string
	bytes uint64
}

// rateUnits are sorted for formatRate: the first that divides is taken.
var rateUnits = []rateUnit{
	{"GB", 1e9}, {"GiB", 1 << 30}, {"MB", 1e6}, {"MiB", 1 << 20}, {"KB", 1e3}, {"KiB", 1 << 10}, {"B", 1},
}

// parseRate reads bytes a second: 100MBps is 100 * 10^6, 100MiBps 100 * 2^20.
func parseRate(text string) (uint64, error) {
	const want = "must be bytes a second with a unit of Bps, KBps, MBps, GBps (powers of 1000), KiBps, MiBps or GiBps (powers of 1024), such as 100MBps"
	m := rateForm().FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%s, not %s", want, printable(text))
	}
	for _, u := range rateUnits {
		if u.name == m[2] {
			number, err := parseWhole(m[1], 1, math.MaxInt64/u.bytes)
			return number * u.bytes, err
		}
	}
	return 0, fmt.Errorf("%s, not %s", want, printable(text))
}

func formatRate(value uint64) string {
	for _, u := range rateUnits {
		if value%u.bytes == 0 {
			return fmt.Sprintf("%d%sps", value/u.bytes, u.name)
		}
	}
	return fmt.Sprintf("%dBps", value)
}

// formatCPU is the shortest decimal of microseconds a second: 500000 is "0.5".
func formatCPU(value uint64) string {
	whole, fraction := value/1_000_000, value%1_000_000
	if fraction == 0 {
		return strconv.FormatUint(whole, 10)
	}
	return strings.TrimRight(fmt.Sprintf("%d.%06d", whole, fraction), "0")
}
