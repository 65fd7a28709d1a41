package firewall

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain makes the tests root: in a user namespace of their own if they are
// not. All that they change is network namespaces of their own.
func TestMain(m *testing.M) {
	if os.Getuid() == 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root, or a user namespace of their own:", err)
		os.Exit(1)
	}
}

// namespace is a thread in a network namespace of its own.
type namespace struct {
	tid   int
	calls chan func()
}

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	n := &namespace{calls: make(chan func())}
	ready := make(chan error)
	go func() {
		// Never unlocked: the thread ends, and its namespace with it.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		n.tid = unix.Gettid()
		ready <- err
		for call := range n.calls {
			call()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal("cannot make a network namespace: ", err)
	}
	t.Cleanup(func() { close(n.calls) })
	return n
}

// do calls f on the namespace's thread. It must not fail the test itself.
func (n *namespace) do(f func()) {
	done := make(chan struct{})
	n.calls <- func() { defer close(done); f() }
	<-done
}

func (n *namespace) command(t testing.TB, input string, argv ...string) {
	t.Helper()
	var out []byte
	var err error
	n.do(func() {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdin = strings.NewReader(input)
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
}

// script runs each line as a command.
func (n *namespace) script(t testing.TB, script string) {
	t.Helper()
	for line := range strings.Lines(script) {
		if line = strings.TrimSpace(line); line != "" {
			n.command(t, "", "sh", "-c", line)
		}
	}
}

func (n *namespace) read(t testing.TB) Ruleset {
	t.Helper()
	var r Ruleset
	var err error
	n.do(func() { r, err = Read() })
	if err != nil {
		t.Fatal(err)
	}
	return r
}
