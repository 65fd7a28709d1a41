package confine

import (
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

// accounts are the unit's own control groups, from which its use of resources
// and the effects of its limits are read. What a machine does not count is not
// known: a hierarchy of cgroup v1 in which the unit has no group of its own
// would tell of others, too.
type accounts struct {
	unit   string
	groups map[string]string // by controller, as parseCgroups has them
	root   string            // cgroupRoot; a test has another
}

func openAccounts(unit string) (*accounts, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	return &accounts{unit: unit, groups: parseCgroups(string(data)), root: cgroupRoot}, nil
}

// file reads a file of a controller, v2's or, where that has it, v1's; ok: it
// is there, and of the unit's own group.
func (a *accounts) file(controller, v2, v1 string) (text string, ok bool) {
	if a.isV1(controller) {
		return a.read(path.Join(a.root, controller), a.groups[controller], v1)
	}
	return a.unified(v2)
}

// unified reads a file of v2's hierarchy, which a hybrid host has as well.
func (a *accounts) unified(name string) (text string, ok bool) {
	root := a.root
	if len(a.groups) > 1 {
		root = path.Join(root, "unified")
	}
	return a.read(root, a.groups[""], name)
}

func (a *accounts) read(root, group, name string) (text string, ok bool) {
	if path.Base(group) != a.unit {
		return "", false
	}
	return readKernelFile(path.Join(root, group, name))
}

// readKernelFile reads a file that the kernel makes as it is read; ok: all of
// it could be read. os.ReadFile would ask whether it can be waited for, too: the
// end of every run takes half a dozen of these.
func readKernelFile(name string) (text string, ok bool) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	var all []byte
	var buf [4096]byte
	for {
		n, err := unix.Read(fd, buf[:])
		if err != nil {
			return "", false
		}
		if n == 0 {
			return string(all), true
		}
		all = append(all, buf[:n]...)
	}
}

func (a *accounts) isV1(controller string) bool {
	_, ok := a.groups[controller]
	return ok
}

// parseAmount reads a file that is one number; any other tells nothing.
func parseAmount(text string, _ bool) journal.Amount {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return journal.Amount{}
	}
	return journal.Known(n)
}

// parseKey reads the number behind a name, in a file of such lines.
func parseKey(text string, name string) journal.Amount {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return parseAmount(value, true)
		}
	}
	return journal.Amount{}
}

// inMicroseconds is for what v1 tells in nanoseconds.
func inMicroseconds(a journal.Amount) journal.Amount {
	a.N /= 1000
	return a
}

// oomKills are the processes that the kernel has killed at the memory limit.
func (a *accounts) oomKills() journal.Amount {
	text, _ := a.file("memory", "memory.events", "memory.oom_control")
	return parseKey(text, "oom_kill")
}

// throttled are the periods of the CPU quota in which the unit had to wait,
// and for how long.
func (a *accounts) throttled() (periods, usec journal.Amount) {
	text, _ := a.file("cpu", "cpu.stat", "cpu.stat")
	if a.isV1("cpu") {
		return parseKey(text, "nr_throttled"), inMicroseconds(parseKey(text, "throttled_time"))
	}
	return parseKey(text, "nr_throttled"), parseKey(text, "throttled_usec")
}

// tasks are those of the whole unit now.
func (a *accounts) tasks() journal.Amount {
	return parseAmount(a.file("pids", "pids.current", "pids.current"))
}

// mostTasks are the most of the whole unit so far, where the kernel remembers.
func (a *accounts) mostTasks() journal.Amount {
	return parseAmount(a.file("pids", "pids.peak", "pids.peak"))
}

// usage is what the unit has used so far, but for the network.
func (a *accounts) usage() journal.Usage {
	cpu, _ := a.unified("cpu.stat")
	u := journal.Usage{
		CPU:        parseKey(cpu, "usage_usec"),
		MemoryPeak: parseAmount(a.file("memory", "memory.peak", "memory.max_usage_in_bytes")),
	}
	u.IORead, u.IOWritten = sumIO(a.disks())
	return u
}

// processIO is what this process and those that it has waited for, and they in
// turn, have read and written (proc_pid_io(5)). It stands in where the unit has
// no control group for IO: to give each one would cost every start some
// milliseconds. A process that nobody waited for is not in it.
func processIO() (read, written journal.Amount) {
	text, _ := readKernelFile("/proc/self/io")
	return parseProcessIO(text)
}

func parseProcessIO(text string) (read, written journal.Amount) {
	read, written = parseKey(text, "read_bytes:"), parseKey(text, "write_bytes:")
	if cancelled := parseKey(text, "cancelled_write_bytes:"); cancelled.N <= written.N {
		written.N -= cancelled.N
	}
	return read, written
}

// diskIO is what has gone from and to one disk, in bytes.
type diskIO struct{ read, written uint64 }

// disks are those that the unit has used, by their numbers, "254:0"; ok: it is
// known.
func (a *accounts) disks() (disks map[string]diskIO, ok bool) {
	if a.isV1("blkio") {
		text, ok := a.file("blkio", "", "blkio.throttle.io_service_bytes")
		return parseV1IO(text), ok
	}
	text, ok := a.file("io", "io.stat", "")
	return parseIO(text), ok
}

func sumIO(disks map[string]diskIO, ok bool) (read, written journal.Amount) {
	if !ok {
		return read, written
	}
	read, written = journal.Known(0), journal.Known(0)
	for _, d := range disks {
		read.N += d.read
		written.N += d.written
	}
	return read, written
}

// parseIO reads io.stat: "254:0 rbytes=4096 wbytes=0 …", a line a disk.
func parseIO(text string) map[string]diskIO {
	disks := map[string]diskIO{}
	for line := range strings.Lines(text) {
		number, rest, _ := strings.Cut(line, " ")
		var d diskIO
		for _, word := range strings.Fields(rest) {
			name, value, _ := strings.Cut(word, "=")
			switch name {
			case "rbytes":
				d.read = parseAmount(value, true).N
			case "wbytes":
				d.written = parseAmount(value, true).N
			}
		}
		disks[number] = d
	}
	return disks
}

// parseV1IO reads blkio.throttle.io_service_bytes: "254:0 Read 4096", a line for
// each disk and way, and sums of them.
func parseV1IO(text string) map[string]diskIO {
	disks := map[string]diskIO{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		d := disks[fields[0]]
		switch fields[1] {
		case "Read":
			d.read = parseAmount(fields[2], true).N
		case "Write":
			d.written = parseAmount(fields[2], true).N
		}
		disks[fields[0]] = d
	}
	return disks
}

// linkBytes adds up /proc/net/dev of this process's network namespace, but for
// the loopback interface (proc_pid_net(5)).
func linkBytes() (received, sent journal.Amount) {
	text, _ := readKernelFile("/proc/self/net/dev")
	return parseLinks(text)
}

func parseLinks(text string) (received, sent journal.Amount) {
	const sentColumn = 8
	for line := range strings.Lines(text) {
		name, counts, ok := strings.Cut(line, ":")
		fields := strings.Fields(counts)
		if !ok || strings.TrimSpace(name) == "lo" || len(fields) <= sentColumn {
			continue // of the two headings neither has a colon
		}
		received = journal.Known(received.N + parseAmount(fields[0], true).N)
		sent = journal.Known(sent.N + parseAmount(fields[sentColumn], true).N)
	}
	return received, sent
}
