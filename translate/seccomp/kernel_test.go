package seccomp

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/purple-sandbox/purple/policies"
)

// confineEnv makes this test binary the process that loads a filter: that is
// for good, so it happens in a process of its own.
const confineEnv = "PURPLE_SECCOMP_TEST_CALLS"

func TestMain(m *testing.M) {
	if calls := os.Getenv(confineEnv); calls != "" {
		runConfined(calls)
	}
	os.Exit(m.Run())
}

// probe is one call that the confined process makes, and the errno it got.
type probe struct {
	Nr   uint32
	Args [6]uint64
	Got  syscall.Errno
}

// confined is what the parent tells the child: filter (none: no filter), calls,
// and a command to run at the end.
type confined struct {
	Filter []byte
	Calls  []probe
	Run    []string
	Output string
}

// runConfined loads the filter on one thread and makes the calls there. Any
// failure of its own ends it with status 3 and a message.
func runConfined(request string) {
	runtime.LockOSThread()
	var c confined
	must(json.Unmarshal([]byte(request), &c))
	if c.Filter != nil {
		must(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		must(loadFilter(c.Filter))
	}
	for i, p := range c.Calls {
		_, _, c.Calls[i].Got = syscall.RawSyscall6(uintptr(p.Nr), uintptr(p.Args[0]), uintptr(p.Args[1]),
			uintptr(p.Args[2]), uintptr(p.Args[3]), uintptr(p.Args[4]), uintptr(p.Args[5]))
	}
	if c.Run != nil {
		cmd := exec.Command(c.Run[0], c.Run[1:]...)
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		output, err := cmd.CombinedOutput()
		c.Output = fmt.Sprintf("%s%v", output, err)
	}
	must(json.NewEncoder(os.Stdout).Encode(c))
	os.Exit(0)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

func loadFilter(filter []byte) error {
	program := unix.SockFprog{
		Len:    uint16(len(filter) / instructionSize),
		Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0])),
	}
	_, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("cannot load the filter: %w", errno)
	}
	return nil
}

// confine runs the calls in a child of its own and returns what it says.
func confine(t *testing.T, c confined) (confined, error) {
	t.Helper()
	request, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), confineEnv+"="+string(request))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return c, fmt.Errorf("%w: %s", err, stderr.String())
	}
	var result confined
	if err := json.Unmarshal(output, &result); err != nil {
		t.Fatalf("the child says %q: %v", output, err)
	}
	return result, nil
}

// TestKernel loads filters into the real kernel. The control, without one,
// shows that it is the filter that denies; only calls that nothing else on a
// machine denies have a control.
func TestKernel(t *testing.T) {
	service := policies.Syscalls{DefaultDeny: true, Allow: allow("@system-service"), Deny: deny("getpriority", "keyctl")}
	open := policies.Syscalls{Deny: deny("getpriority", "keyctl")}
	const (
		none      = syscall.Errno(0)
		unchanged = ^syscall.Errno(0) // whatever the kernel says without a filter
	)
	rows := []struct {
		what          string
		call          Call
		service, open syscall.Errno
		control       bool
	}{
		{"an allowed call", native(t, "sched_yield"), none, none, false},
		{"a denied call", native(t, "getpriority"), unix.EPERM, unix.EPERM, true},
		{"keyctl", native(t, "keyctl"), unix.EPERM, unix.EPERM, false},
		{"a call not listed", native(t, "syslog", 10), unix.EPERM, unchanged, false},
		{"pidfd_getfd, not listed", native(t, "pidfd_getfd", ^uint64(0)), unix.EPERM, unchanged, true},
		{"mseal, not listed but probed", native(t, "mseal", 1, 0, 1), unix.ENOSYS, unchanged, false},
		{"clone3", native(t, "clone3"), unix.ENOSYS, unix.ENOSYS, false},
		{"unshare of nothing", native(t, "unshare"), none, none, false},
		{"unshare, namespace and high bits", native(t, "unshare", unix.CLONE_NEWUSER|high), unix.EPERM, unix.EPERM, false},
		// CLONE_FS makes this one invalid to the kernel: without the filter it forks nothing.
		{"clone, namespace", native(t, "clone", unix.CLONE_NEWUSER|unix.CLONE_FS|uint64(unix.SIGCHLD)), unix.EPERM, unix.EPERM, false},
		{"TIOCSTI", native(t, "ioctl", ^uint64(0), unix.TIOCSTI), unix.EPERM, unix.EPERM, true},
		{"TIOCSTI and high bits", native(t, "ioctl", ^uint64(0), unix.TIOCSTI|high), unix.EPERM, unix.EPERM, true},
		{"TCGETS", native(t, "ioctl", ^uint64(0), unix.TCGETS), unix.EBADF, unix.EBADF, false},
		{"unix socket", native(t, "socket", unix.AF_UNIX, unix.SOCK_STREAM), none, none, false},
		{"vsock", native(t, "socket", unix.AF_VSOCK, unix.SOCK_STREAM), unix.EPERM, unix.EPERM, false},
		{"MPTCP", native(t, "socket", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP), unix.EPERM, unix.EPERM, true},
		{"SCTP pair", native(t, "socketpair", unix.AF_TIPC, unix.SOCK_SEQPACKET), unix.EPERM, unix.EPERM, true},
		{"a call of the future", Call{Nr: 100000}, unix.ENOSYS, unix.ENOSYS, false},
	}
	var calls []probe
	for _, row := range rows {
		calls = append(calls, probe{Nr: row.call.Nr, Args: row.call.Args})
	}
	fork := []string{"/bin/sh", "-c", "echo forked | cat"}
	control, err := confine(t, confined{Calls: calls})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]policies.Syscalls{"service": service, "open": open} {
		p, err := Compile(s, NativeArch)
		if err != nil {
			t.Fatal(err)
		}
		result, err := confine(t, confined{Filter: p.Bytes(), Calls: calls, Run: fork})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, row := range rows {
			want := map[string]syscall.Errno{"service": row.service, "open": row.open}[name]
			if want == unchanged {
				want = control.Calls[i].Got
			}
			if got := result.Calls[i].Got; got != want {
				t.Errorf("%s: %s: %q, want %q", name, row.what, got, want)
			}
			if row.control && control.Calls[i].Got == row.service {
				t.Errorf("%s: without a filter it is %q as well: this proves nothing", row.what, row.service)
			}
		}
		// clone3 is denied and yet processes are made: libc and Go fall back.
		if result.Output != "forked\n<nil>" {
			t.Errorf("%s: the command says %q", name, result.Output)
		}
	}
}

// A call of the x32 ABI ends the process, though everything is allowed.
func TestKernelKillsX32(t *testing.T) {
	if NativeArch != "amd64" {
		return // no other architecture has x32: there the number is unknown, see TestFloorOnNumbers
	}
	p, err := Compile(policies.Syscalls{}, NativeArch)
	if err != nil {
		t.Fatal(err)
	}
	x32 := native(t, "getpid")
	_, err = confine(t, confined{Filter: p.Bytes(), Calls: []probe{{Nr: x32.Nr | x32Bit}}})
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("the child ended with %v, want SIGSYS", err)
	}
	if status := exit.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != unix.SIGSYS {
		t.Errorf("the child ended with %v, want SIGSYS", exit)
	}
}
