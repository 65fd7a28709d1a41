package syscalls

import (
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnknownNamesAreRefused(t *testing.T) {
	for _, name := range []string{"", "@", "opena", "OPENAT", "openat ", "umount", "mmap2", "socketcall", "@nosuch", "file-system", "@@aio"} {
		if Known(name) {
			t.Errorf("Known(%q) = true", name)
		}
	}
	if calls, ok := Group("openat"); ok || calls != nil {
		t.Errorf("Group of a call = %v, %v", calls, ok)
	}
	if bit, ok := NamespaceFlag("CLONE_VM"); ok {
		t.Errorf("CLONE_VM is no namespace flag, got %#x", bit)
	}
	if nr, ok := Number("riscv64", "read"); ok {
		t.Errorf("Number on an unknown architecture = %d", nr)
	}
}

func TestNearest(t *testing.T) {
	for name, want := range map[string]string{
		"unmount":                      "umount2",
		"opnat":                        "openat",
		"OpenAt":                       "openat",
		"exit-group":                   "exit_group",
		"@filesystem":                  "@file-system",
		"@file_system":                 "@file-system",
		"@networkio":                   "@network-io",
		"qqqqqqqqqq":                   "",
		"":                             "",
		"@":                            "",
		strings.Repeat("openat", 1000): "",
	} {
		if got := Nearest(name); got != want {
			t.Errorf("Nearest(%.40q) = %q, want %q", name, got, want)
		}
	}
}

// Every member of every group is a call of the table, and the groups have no
// cycle: expand would not have come back.
func TestGroupsHoldKnownCallsOnly(t *testing.T) {
	written := readGroups(groupLines)
	for group, members := range written {
		for _, m := range members {
			if _, isGroup := written[m]; !isGroup && !slices.Contains(Names(), m) {
				t.Errorf("%s has %q, which is no call", group, m)
			}
		}
	}
	for _, group := range Groups() {
		calls, ok := Group(group)
		if !ok || len(calls) == 0 || !slices.IsSorted(calls) || len(slices.Compact(slices.Clone(calls))) != len(calls) {
			t.Errorf("Group(%q) = %v, %v", group, calls, ok)
		}
		if !Known(group) {
			t.Errorf("Known(%q) = false", group)
		}
	}
}

func TestResultsAreCopies(t *testing.T) {
	Names()[0] = "changed"
	calls, _ := Group("@known")
	calls[1] = "changed"
	if again, _ := Group("@known"); slices.Contains(again, "changed") || slices.Contains(Names(), "changed") {
		t.Error("a caller can change the table")
	}
}

// The numbers against those that golang.org/x/sys took from the kernel, for
// the architecture that the test runs on.
func TestNumbersAreTheKernels(t *testing.T) {
	if nr, _ := Number("arm64", "openat"); nr != 56 {
		t.Errorf("openat on arm64 = %d", nr)
	}
	if nr, ok := Number("arm64", "open"); ok {
		t.Errorf("arm64 has no open, got %d", nr)
	}
	for name, want := range map[string]int{
		"read": unix.SYS_READ, "clone": unix.SYS_CLONE, "unshare": unix.SYS_UNSHARE, "ioctl": unix.SYS_IOCTL,
		"socket": unix.SYS_SOCKET, "socketpair": unix.SYS_SOCKETPAIR, "execve": unix.SYS_EXECVE, "bpf": unix.SYS_BPF,
		"clone3": unix.SYS_CLONE3, "umount2": unix.SYS_UMOUNT2, "mseal": unix.SYS_MSEAL, "listns": unix.SYS_LISTNS,
		"rseq_slice_yield": unix.SYS_RSEQ_SLICE_YIELD, "fchmodat2": unix.SYS_FCHMODAT2, "setxattrat": unix.SYS_SETXATTRAT,
	} {
		if nr, ok := Number(runtime.GOARCH, name); !ok || nr != want {
			t.Errorf("%s = %d, %v, want %d", name, nr, ok, want)
		}
	}
}

// From 424 on a call has one number on every architecture.
func TestNewCallsHaveOneNumber(t *testing.T) {
	for _, name := range Names() {
		amd, ok := Number("amd64", name)
		if !ok || amd < 424 {
			continue
		}
		if arm, ok := Number("arm64", name); !ok || arm != amd {
			t.Errorf("%s is %d on amd64 and %d on arm64", name, amd, arm)
		}
	}
	for _, a := range Architectures() {
		if numbers := Numbers(a); numbers[len(numbers)-1] != 471 {
			t.Errorf("the highest number on %s is %d", a, numbers[len(numbers)-1])
		}
	}
}

func TestNamespaceFlags(t *testing.T) {
	var all uint64
	for _, name := range NamespaceFlags() {
		bit, ok := NamespaceFlag(name)
		if !ok || bit&all != 0 || bit&(bit-1) != 0 {
			t.Errorf("%s = %#x, %v", name, bit, ok)
		}
		all |= bit
	}
	const want = unix.CLONE_NEWTIME | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS |
		unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	if all != want {
		t.Errorf("all flags = %#x, want %#x", all, uint64(want))
	}
}

// Profiles are written with systemd.exec(5) at hand, so a group must hold what
// systemd's does. systemd-analyze, from the package systemd, tells; later
// releases than 252 only added calls to groups.
func TestGroupsAreSystemds(t *testing.T) {
	theirs, version := systemdGroups(t)
	for _, group := range Groups() {
		members, ok := theirs[group]
		if !ok && (group != "@sandbox" || version != "252") {
			t.Errorf("systemd %s has no %s", version, group)
		}
		if !ok || group == known {
			continue
		}
		ours, _ := Group(group)
		for _, call := range Names() {
			have, want := slices.Contains(ours, call), slices.Contains(members, call)
			both := slices.Contains(theirs[known], call)
			if both && have && !want {
				t.Errorf("%s has %s, systemd %s's has not", group, call, version)
			}
			if want && !have && version == "252" {
				t.Errorf("%s has no %s, systemd 252's has", group, call)
			}
		}
	}
}

// systemdGroups asks systemd-analyze for its groups, expanded.
func systemdGroups(t *testing.T) (groups map[string][]string, version string) {
	t.Helper()
	out, err := exec.Command("systemd-analyze", "--version").Output()
	if err != nil {
		t.Fatalf("cannot run systemd-analyze: %v; install the package systemd", err)
	}
	match := regexp.MustCompile(`^systemd (\d+)`).FindSubmatch(out)
	if match == nil {
		t.Fatalf("systemd-analyze --version says %q", out)
	}
	out, err = exec.Command("systemd-analyze", "syscall-filter", "--no-pager").Output()
	if err != nil {
		t.Fatalf("cannot list systemd's groups: %v", err)
	}
	written := readGroupsOfSystemd(string(out))
	groups = map[string][]string{}
	for name := range written {
		members := map[string]bool{}
		expand(written, name, members)
		for m := range members {
			groups[name] = append(groups[name], m)
		}
	}
	if len(groups[known]) < 300 || len(groups["@system-service"]) < 200 {
		t.Fatalf("cannot read systemd-analyze's list: %d calls", len(groups[known]))
	}
	return groups, string(match[1])
}

// readGroupsOfSystemd reads "@group" lines, each followed by indented members.
func readGroupsOfSystemd(text string) map[string][]string {
	written := map[string][]string{}
	group := ""
	for line := range strings.Lines(text) {
		name := strings.TrimSpace(line)
		switch {
		case name == "" || name[0] == '#':
		case line[0] == '@':
			group = name
		case group != "":
			written[group] = append(written[group], name)
		}
	}
	return written
}

// find looks names up by halves.
func TestTableIsSorted(t *testing.T) {
	if names := Names(); !slices.IsSorted(names) || len(slices.Compact(names)) != len(Names()) {
		t.Error("calls.txt is not sorted by name, or has one twice")
	}
}
