package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/purple-sandbox/purple/units"
)

// mostCommandLine is how much of a command line is read: the process may make
// its own as long as it likes.
const mostCommandLine = 4096

// commandLine is what the command of a run shows as its arguments; nil: that
// cannot be read. It stands in no property of the unit, so it is taken from the
// process: the first child of the sandbox's init, which is the supervisor's.
// The command may have changed it since.
func commandLine(proc string, run units.Info) []string {
	if run.MainPID == 0 || run.Since.IsZero() {
		return nil // before that the process is still purple-init
	}
	sandboxInit := firstChild(proc, strconv.FormatUint(uint64(run.MainPID), 10))
	command := firstChild(proc, sandboxInit)
	if command == "" {
		return nil
	}
	argv := readCommandLine(filepath.Join(proc, command, "cmdline"))
	// Last, as the ids of the processes may be others' by now.
	if !inUnit(filepath.Join(proc, command, "cgroup"), run.Unit) {
		return nil
	}
	return argv
}

// firstChild is the child that lives longest; "": none. The sandbox's init has
// more of them than the command: it inherits orphans.
func firstChild(proc, pid string) string {
	if pid == "" {
		return ""
	}
	// A child belongs to the thread that made it.
	lists, err := filepath.Glob(filepath.Join(proc, pid, "task", "*", "children"))
	if err != nil {
		return ""
	}
	first, began := "", uint64(0)
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for _, child := range strings.Fields(string(data)) {
			if t, ok := startTime(filepath.Join(proc, child, "stat")); ok && (first == "" || t < began) {
				first, began = child, t
			}
		}
	}
	return first
}

// startTime is the field "starttime" of proc_pid_stat(5), the 20th after the
// name, which may have any character in it.
func startTime(stat string) (uint64, bool) {
	data, err := os.ReadFile(stat)
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return 0, false
	}
	t, err := strconv.ParseUint(fields[19], 10, 64)
	return t, err == nil
}

func readCommandLine(file string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, mostCommandLine+1))
	if err != nil || len(data) == 0 {
		return nil
	}
	cut := len(data) > mostCommandLine
	if cut {
		data = data[:mostCommandLine]
	}
	argv := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
	if cut {
		argv = append(argv, "…")
	}
	return argv
}

// inUnit tells whether a process is in the control group of a unit.
func inUnit(cgroup, unit string) bool {
	data, err := os.ReadFile(cgroup)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if strings.HasSuffix(strings.TrimSpace(line), "/purple.slice/"+unit) {
			return true
		}
	}
	return false
}
