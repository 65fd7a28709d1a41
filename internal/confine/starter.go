package confine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// starter is a fork of the supervisor that starts one program, as often as it is told.
// It is made before the supervisor gives up to execute anything (restrictSelf): what
// that has loaded, a program that it started would have as well. The programs are the
// supervisor's children, not the starter's.
type starter struct {
	pid    int
	orders *os.File // a byte for each start; its end is the starter's
	output int      // what the program has said

	// Of the fork.
	told, null, said uintptr
	path             *byte
	argv, envv       []*byte
	order            byte
	answer           int32 // a pid, or -errno
	signals          [sigsetBytes]byte
}

// newStarter forks a starter of argv.
func newStarter(argv []string) (*starter, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a socket: %w", err)
	}
	defer unix.Close(pair[1])
	// Not blocking: a program that says much must not wait for a reader.
	var said [2]int
	if err := unix.Pipe2(said[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer unix.Close(said[1])
	s := &starter{orders: os.NewFile(uintptr(pair[0]), "starter"), output: said[0], told: uintptr(pair[1]), null: null.Fd(), said: uintptr(said[1]), envv: []*byte{nil}}
	if err := s.takeArguments(argv); err != nil {
		return nil, err
	}
	if s.pid, err = fork(0, s); err != nil {
		return nil, fmt.Errorf("cannot fork: %w", err)
	}
	return s, nil
}

func (s *starter) takeArguments(argv []string) error {
	for _, a := range argv {
		p, err := unix.BytePtrFromString(a)
		if err != nil {
			return err
		}
		s.argv = append(s.argv, p)
	}
	s.path, s.argv = s.argv[0], append(s.argv, nil)
	return nil
}

// start has the program started, and gives its pid.
func (s *starter) start() (int, error) {
	s.read() // what the one before has said
	if _, err := s.orders.Write([]byte{1}); err != nil {
		return 0, fmt.Errorf("the process that starts it is gone: %w", err)
	}
	var answer [4]byte
	if n, err := s.orders.Read(answer[:]); err != nil || n != len(answer) {
		return 0, fmt.Errorf("the process that starts it is gone (%v)", err)
	}
	pid := int32(binary.NativeEndian.Uint32(answer[:]))
	if pid < 0 {
		return 0, fmt.Errorf("cannot start it: %w", unix.Errno(-pid))
	}
	return int(pid), nil
}

// text is what a program has said that has ended.
func (s *starter) text() string { return strings.TrimSpace(s.read()) }

func (s *starter) read() string {
	var first []byte
	var buf [maxSaid]byte
	for {
		n, err := unix.Read(s.output, buf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 {
			return string(first)
		}
		first = append(first, buf[:min(n, maxSaid-len(first))]...)
	}
}

// end ends the starter, and waits for that: the manager finds nothing left to kill.
func (s *starter) end() {
	if s == nil {
		return
	}
	s.orders.Close()
	for {
		if _, err := unix.Wait4(s.pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// --- the fork's side, see child ------------------------------------------------

// Where the fork has its socket, above the program's standard streams.
const startedFrom = 3

// run is the whole life of the fork.
//
//go:nosplit
func (s *starter) run() {
	s.leaveDescriptors()
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, startedFrom, uintptr(unsafe.Pointer(&s.order)), 1)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 || n != 1 {
			exitFork(0)
		}
		pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_PARENT|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno == 0 && pid == 0 {
			s.become()
		}
		s.answer = int32(pid)
		if errno != 0 {
			s.answer = -int32(errno)
		}
		syscall.RawSyscall(unix.SYS_WRITE, startedFrom, uintptr(unsafe.Pointer(&s.answer)), unsafe.Sizeof(s.answer))
	}
}

// leaveDescriptors keeps the program's standard streams and the socket: with any other,
// somebody would wait for an end that does not come.
//
//go:nosplit
func (s *starter) leaveDescriptors() {
	for to, from := range [...]uintptr{s.null, s.said, s.said, s.told} {
		if from == uintptr(to) {
			continue
		}
		if _, _, errno := syscall.RawSyscall(unix.SYS_DUP3, from, uintptr(to), 0); errno != 0 {
			exitFork(1)
		}
	}
	syscall.RawSyscall(unix.SYS_FCNTL, startedFrom, unix.F_SETFD, unix.FD_CLOEXEC)
	if _, _, errno := syscall.RawSyscall(unix.SYS_CLOSE_RANGE, startedFrom+1, ^uintptr(0)>>32, 0); errno != 0 {
		exitFork(1)
	}
}

// become executes the program, with no signal blocked.
//
//go:nosplit
func (s *starter) become() {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&s.signals)), 0, sigsetBytes, 0, 0)
	syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(s.path)), uintptr(unsafe.Pointer(&s.argv[0])), uintptr(unsafe.Pointer(&s.envv[0])))
	exitFork(notExecuted)
}

// notExecuted is a shell's status for the same.
const notExecuted = 127

//go:nosplit
func exitFork(status uintptr) {
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, status, 0, 0)
	}
}
