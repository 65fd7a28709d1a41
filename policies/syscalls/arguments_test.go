package syscalls

import (
	"slices"
	"strings"
	"testing"
)

func TestArgumentsOfEveryCall(t *testing.T) {
	if !slices.IsSortedFunc(loadArguments(), func(a, b string) int { return strings.Compare(nameOf(a), nameOf(b)) }) {
		t.Error("the table is not sorted by name")
	}
	for _, line := range loadArguments() {
		name := nameOf(line)
		arguments, _ := Arguments(name)
		if !Known(name) || strings.HasPrefix(name, "@") {
			t.Errorf("there is no call %q", name)
		}
		if len(arguments) > 6 {
			t.Errorf("%s has %d arguments", name, len(arguments))
		}
		seen := map[string]bool{}
		for _, a := range arguments {
			if a.Name == "" || seen[a.Name] || !slices.Contains([]Kind{KindText, KindPointer, KindNumber, KindFlags, KindMode}, a.Kind) {
				t.Errorf("%s: argument %+v", name, a)
			}
			seen[a.Name] = true
		}
	}
	// What neither the newest kernels nor anybody else has any more.
	gone := []string{"_sysctl", "afs_syscall", "epoll_ctl_old", "epoll_wait_old", "get_kernel_syms", "getpmsg", "nfsservctl", "putpmsg", "query_module", "rseq_slice_yield", "security", "tuxcall", "vserver"}
	for _, name := range Names() {
		if _, ok := Arguments(name); ok == slices.Contains(gone, name) {
			t.Errorf("%s: arguments known: %v", name, ok)
		}
	}
}

func TestArguments(t *testing.T) {
	for name, want := range map[string][]Argument{
		"mount":       {{"dev_name", KindText}, {"dir_name", KindText}, {"type", KindText}, {"flags", KindFlags}, {"data", KindPointer}},
		"openat":      {{"dfd", KindNumber}, {"filename", KindText}, {"flags", KindFlags}, {"mode", KindMode}},
		"write":       {{"fd", KindNumber}, {"buf", KindPointer}, {"count", KindNumber}},
		"getpid":      nil,
		"umount2":     {{"name", KindText}, {"flags", KindFlags}},
		"unlinkat":    {{"dfd", KindNumber}, {"pathname", KindText}, {"flag", KindFlags}},
		"seccomp":     {{"op", KindNumber}, {"flags", KindFlags}, {"uargs", KindPointer}},
		"sethostname": {{"name", KindPointer}, {"len", KindNumber}},
	} {
		if got, ok := Arguments(name); !ok || !slices.Equal(got, want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
