package confine

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// The main goroutine keeps the main thread, which cannot end as another does
// when its goroutine has ended.
func init() { runtime.LockOSThread() }

// filteredThread makes a thread with a filter that notifies of mount. What is
// sent to it is called there and answered; it ends when the channel is closed.
func filteredThread(t *testing.T) (fd int, calls chan<- [6]uintptr, answers <-chan syscall.Errno) {
	t.Helper()
	in, out, started := make(chan [6]uintptr), make(chan syscall.Errno), make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the filter goes with the thread
		defer close(out)
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&[]byte("a\"b\x1b\x00")[0])), 0, 0, 0)
		}
		if err == nil {
			fd, err = notifyOfMount()
		}
		started <- err
		for args := range in {
			_, _, errno := syscall.Syscall6(unix.SYS_MOUNT, args[0], args[1], args[2], args[3], args[4], args[5])
			out <- errno
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return fd, in, out
}

func notifyOfMount() (int, error) {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_MOUNT},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, listenerFlags(), uintptr(unsafe.Pointer(&f)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return -1, os.NewSyscallError("load the filter", errno)
	}
	return int(fd), nil
}

// lastBytes puts a text at the very end of a page behind which nothing is.
func lastBytes(t *testing.T, text string) uintptr {
	t.Helper()
	size := 2 * os.Getpagesize()
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(memory) })
	at := size/2 - len(text)
	copy(memory[at:], text)
	if err := unix.Mprotect(memory[size/2:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	return uintptr(unsafe.Pointer(&memory[at]))
}

// The real kernel: each call is answered, and shown as it was made, whatever
// its texts are.
func TestAnswerer(t *testing.T) {
	fd, calls, answers := filteredThread(t)
	l, err := newListener(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	a := newAnswerer(l)
	if err := a.learn(&spec.Spec{}, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	whole, open := lastBytes(t, "/whole\x00"), lastBytes(t, "/open")
	long := lastBytes(t, strings.Repeat("x", maxText+10)+"\x00")
	for _, c := range []struct {
		args [6]uintptr
		want string
	}{
		{[6]uintptr{whole, whole, whole, 1, 0}, `dev_name="/whole", dir_name="/whole", type="/whole", flags=0x1, data=NULL`},
		{[6]uintptr{open, whole, open, 2, 3}, `dev_name="/open"…, dir_name="/whole", type="/open"…, flags=0x2, data=0x3`},
		{[6]uintptr{0, whole, 8, 0, 0}, `dev_name=NULL, dir_name="/whole", type=0x8, flags=0x0, data=NULL`},
		{[6]uintptr{^uintptr(0), ^uintptr(0) - 4000, whole, 0, 0}, fmt.Sprintf(`dev_name=%#x, dir_name=%#x, type="/whole", flags=0x0, data=NULL`, ^uintptr(0), ^uintptr(0)-4000)},
		{[6]uintptr{long, 8, 0, 0, 0}, fmt.Sprintf(`dev_name="%s"…, dir_name=0x8, type=NULL, flags=0x0, data=NULL`, strings.Repeat("x", maxText))},
	} {
		calls <- c.args
		if errno, left := a.next(); errno != 0 || left {
			t.Fatalf("%v, %v", errno, left)
		}
		if got := <-answers; got != unix.EPERM {
			t.Errorf("%x: answered %v", c.args, got)
		}
		d := a.denial(time.Now())
		if got := d.arguments(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
		if d.who.name() != `a\x22b\x1b` || int(d.who.pid) != os.Getpid() {
			t.Errorf("the process is %q, %d", d.who.name(), d.who.pid)
		}
	}
	close(calls)
	if errno, left := a.next(); errno != 0 || !left {
		t.Errorf("after the end: %v, %v", errno, left)
	}
}

// Who is not answered, because the listener is gone, is refused by the kernel.
func TestNoListenerNoCall(t *testing.T) {
	fd, calls, answers := filteredThread(t)
	l, err := newListener(fd)
	if err != nil {
		t.Fatal(err)
	}
	calls <- [6]uintptr{}
	time.Sleep(10 * time.Millisecond) // it waits by now, most likely
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if got := <-answers; got != unix.ENOSYS {
		t.Errorf("the call that waited: %v", got)
	}
	calls <- [6]uintptr{}
	if got := <-answers; got != unix.ENOSYS {
		t.Errorf("the next one: %v", got)
	}
	close(calls)
}
