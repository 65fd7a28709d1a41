package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// maxPublished caps the connections of one listening socket; more wait in its
// queue.
const maxPublished = 256

// socketMaker makes a TCP socket in the sandbox's network namespace.
type socketMaker func(family int) (fd int, err error)

// socketMaker is the supervisor's.
func (s *supervisor) socketMaker() socketMaker {
	if s.sockets == nil {
		return tcpSocket
	}
	return s.sockets.make
}

// insideSockets asks init, which is in the sandbox's network namespace, for
// sockets, one after the other. Several goroutines may use it.
type insideSockets struct {
	mu   sync.Mutex
	conn *spec.Conn
}

func (s *insideSockets) make(family int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.conn.Send(spec.Message{Kind: spec.Socket, Family: family}); err != nil {
		return -1, err
	}
	m, fds, err := s.conn.Recv()
	if err != nil {
		return -1, err
	}
	if err := expect(m, spec.Socket); err != nil {
		return -1, err
	}
	if len(fds) != 1 {
		return -1, fmt.Errorf("got %d descriptors instead of a socket", len(fds))
	}
	return fds[0], nil
}

// tcpSocket belongs to the network namespace of the calling thread.
func tcpSocket(family int) (int, error) {
	return unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

// publish serves the published ports. The sockets listen in the host's network
// namespace, and what inside makes connects in the sandbox's: nothing is routed
// from one to the other, and no rule of either has to let it in.
//
// The command sees every peer as its own loopback address.
func publish(listeners []int, ports []uint16, inside socketMaker) {
	if len(listeners) > 0 {
		addProcessor()
	}
	for i, fd := range listeners {
		listener, err := pollable(fd)
		if err != nil {
			say("cannot publish port %d: %v", ports[i], err)
			continue
		}
		go serve(listener, ports[i], inside)
	}
}

// addProcessor lets goroutines that pass data on run while the thread that answers
// waits for the command's next call. It takes the one processor that the runtime has
// (see oneProcessor) for each answer, and keeps it in the system call that it then
// waits in until the runtime's monitor looks a second time.
func addProcessor() { runtime.GOMAXPROCS(2) }

// pollable makes a descriptor of a socket or pipe a file whose calls wait without a
// thread.
func pollable(fd int) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), fmt.Sprint("descriptor ", fd)), nil
}

func serve(listener *os.File, port uint16, inside socketMaker) {
	slots := make(chan struct{}, maxPublished)
	for {
		slots <- struct{}{}
		outside, err := accept(listener)
		if err != nil {
			say("cannot publish port %d any more: %v", port, err)
			return
		}
		go func() {
			join(outside, port, inside)
			<-slots
		}()
	}
}

// accept waits for a connection. What went wrong with one that is gone already
// is no error of the listener (accept(2)).
func accept(listener *os.File) (*os.File, error) {
	raw, err := listener.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var acceptErr error
	err = raw.Read(func(l uintptr) bool {
		for {
			fd, _, acceptErr = unix.Accept4(int(l), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if acceptErr != unix.ECONNABORTED && acceptErr != unix.EINTR {
				return acceptErr != unix.EAGAIN
			}
		}
	})
	if err = errors.Join(err, acceptErr); err != nil {
		return nil, err
	}
	noticeSilence(fd)
	return os.NewFile(uintptr(fd), "connection"), nil
}

// noticeSilence has the kernel end a connection whose peer went without a word,
// after five minutes (tcp(7)): it would keep its place to the end of the run.
func noticeSilence(fd int) {
	for _, option := range [][3]int{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 120},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 30},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 6},
	} {
		_ = unix.SetsockoptInt(fd, option[0], option[1], option[2]) // without, it works all the same
	}
}

// join joins a connection from outside with one to the command's own port.
func join(outside *os.File, port uint16, socket socketMaker) {
	defer outside.Close()
	inside, err := connectInside(port, socket)
	if err != nil {
		// A reset, not an orderly end: nobody was there.
		_ = control(outside, func(fd int) error {
			return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
		return
	}
	defer inside.Close()
	done := make(chan struct{})
	go func() {
		pass(inside, outside)
		close(done)
	}()
	pass(outside, inside)
	<-done
}

// connectInside finds a server on either loopback address, where one that
// listens on all addresses is found too.
func connectInside(port uint16, socket socketMaker) (*os.File, error) {
	conn, err := connect(socket, unix.AF_INET, &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}})
	if err != nil {
		conn, err = connect(socket, unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: [16]byte{15: 1}})
	}
	return conn, err
}

func connect(socket socketMaker, family int, to unix.Sockaddr) (*os.File, error) {
	fd, err := socket(family)
	if err != nil {
		return nil, err
	}
	err = unix.Connect(fd, to)
	conn := os.NewFile(uintptr(fd), "connection")
	if err == unix.EINPROGRESS {
		err = awaitConnected(conn)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// awaitConnected waits until the socket can be written to (connect(2),
// EINPROGRESS).
func awaitConnected(conn *os.File) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Write(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if result = err; err == nil && errno != 0 {
			result = syscall.Errno(errno)
		}
		_, peerErr := unix.Getpeername(int(fd))
		return result != nil || peerErr == nil
	})
	return errors.Join(err, result)
}

// pass copies one direction until its end, and passes that on. An error means
// that one side is gone, which the other direction sees as well.
func pass(to, from *os.File) {
	_, _ = io.Copy(to, from)
	_ = control(to, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
}

// control calls f with the descriptor, which the file keeps.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Control(func(fd uintptr) { result = f(int(fd)) })
	return errors.Join(err, result)
}
