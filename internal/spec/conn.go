package spec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// MessageKind says what a Message means.
type MessageKind string

// The messages. Down is from purple to the supervisor and on to the init of
// the sandbox; up is the way back.
const (
	Start     MessageKind = "start"     // down; descriptors: the spec, then the namespace of the id map, the standard streams, the log, where the spec has them
	UserNS    MessageKind = "userns"    // supervisor to init; descriptor: the namespace of the id map
	Filtered  MessageKind = "filtered"  // init to supervisor under a user manager: the rules stand; descriptor: a netfilter socket in their namespace
	Socket    MessageKind = "socket"    // supervisor to init: make a TCP socket of the address family Family; init to supervisor: here it is
	Sources   MessageKind = "sources"   // supervisor to init under a user manager: Paths, of the mounts' sources
	Connected MessageKind = "connected" // down: the network is linked; descriptors: the listening sockets of Spec.Published
	Go        MessageKind = "go"        // supervisor to init: everything read back, execute the command
	Signal    MessageKind = "signal"    // down: send Signal to the command's process group
	StopAll   MessageKind = "stop-all"  // supervisor to init: send Signal to every process of the sandbox
	Continue  MessageKind = "continue"  // down: continue the stopped command, in the foreground

	Alive     MessageKind = "alive"     // supervisor to purple: the unit runs in its network namespace, link it
	Ready     MessageKind = "ready"     // init to supervisor: confined, waiting for Go; descriptors: the copy of standard input, the pty's master, if any
	Listening MessageKind = "listening" // init to supervisor, on a socket of its own: the filter is loaded; descriptor: its listener

	// Released comes before the command may have been executed: without it, nothing of the
	// command has run.
	Released MessageKind = "released" // up

	Started MessageKind = "started" // up; descriptor: the pty's master, if any
	Stopped MessageKind = "stopped" // up: the command was stopped (job control)
	Exited  MessageKind = "exited"  // up: WaitStatus is the command's
	Lost    MessageKind = "lost"    // up, after Exited: output did not come through, Error says why
	Refused MessageKind = "refused" // up, after Exited: Denied or DeniedCalls is what was refused
	Taught  MessageKind = "taught"  // up, after Exited: Learnt is the calls that a learning run has made, or a part of them
	Ended   MessageKind = "ended"   // up, last: Event is the event of the run's end, which has been written
	Broken  MessageKind = "broken"  // up: Step could not be done, Error says why, and the command may have run
	Failed  MessageKind = "failed"  // up: Step could not be done, Error says why, nothing of the command has run
)

// Message is one datagram on a control socket.
type Message struct {
	Kind MessageKind

	Signal     int
	WaitStatus uint32 // as wait4(2) gives it
	Stopping   bool   // the manager had asked the unit to stop before the command ended
	// OutOfMemory: the kernel has killed something of the run at the memory
	// limit, and that is the end.
	OutOfMemory  bool
	Threads      uint64 // of the sandbox's init, with Exited
	Step         string
	Error        string
	Status       int // exit status that goes with Failed
	Denied       *Denied
	DeniedCalls  *DeniedCalls
	DeniedAccess *DeniedAccess
	Learnt       *Learnt
	Event        []Field // as package journal has them, with Ended
	Family       int     // AF_INET or AF_INET6, with Socket
	// Paths are the sources of the spec's mounts without symbolic links, and at last
	// the file of standard input where init is to copy it.
	Paths []string
}

// Field is one field of an event.
type Field struct{ Name, Value string }

// DeniedCalls is what the filter has denied in a run.
type DeniedCalls struct {
	Total uint64
	Most  []RefusedCall // those denied most often, at most MaxRefusedCalls
	More  uint64        // counts that are not in Most
}

// RefusedCall is a system call that was denied to processes of one name.
type RefusedCall struct {
	Nr    uint32
	Args  [6]uint64 // of the latest
	Comm  string    // escaped; empty: one of many
	Errno string    // what was answered: "EPERM"
	Count uint64
}

// DeniedAccess is what was refused in a run on account of a path, or of a
// capability.
type DeniedAccess struct {
	Paths, Capabilities uint64          // calls, in all
	Most                []RefusedAccess // those refused most often, at most MaxRefusedCalls
	More                uint64          // counts that are not in Most
}

// RefusedAccess is a path with what was to be done to it, or a capability.
type RefusedAccess struct {
	Path       string // escaped; empty: one of many
	Effect     string // "read", "write", "create", "remove"
	Capability string // "CAP_SYS_CHROOT"; empty: it is a path
	Comm       string // escaped; empty: one of many
	Errno      string
	Count      uint64
}

// Learnt is a part of the system calls that a learning run has made, of those that passed its filter.
type Learnt struct {
	Of    uint64 // how many there are in all parts
	Calls []LearntCall
}

// LearntCall is one of them.
type LearntCall struct {
	Nr    uint32
	Count uint64
	First uint64 // when it was seen first, in microseconds after the command's start
	// Comms are the names of the first processes that made it, escaped, at most
	// MaxLearntComms; then there may be more.
	Comms []string
}

// The most that a message has of what was learnt, and a call of names.
const (
	MaxLearntCalls = 32
	MaxLearntComms = 3
)

// MaxRefusedCalls is how many calls a message names.
const MaxRefusedCalls = 8

// Denied is what the rules of the network namespace have refused in a run.
type Denied struct {
	Total uint64    // packets
	Most  []Refusal // the destinations with most of them, at most MaxRefusals
	More  uint64    // destinations that are not in Most
}

// Refusal is one destination.
type Refusal struct {
	Destination string // in words: "tcp to 192.0.2.1 port 25"
	Protocol    string
	Address     string
	Port        uint16
	Count       uint64
}

// MaxRefusals is how many destinations a message names.
const MaxRefusals = 5

// maxMessage is far above what a Message needs; the spec itself travels as a
// descriptor.
const maxMessage = 16 << 10

// maxDescriptors is the most that one message carries: listening sockets, of
// which a policy asks for two a published port. The kernel takes 253.
const maxDescriptors = 128

// Conn is one end of a control socket: SOCK_SEQPACKET, so that a message is
// never half-read and the peer's end is seen.
type Conn struct {
	fd int
}

// NewConn takes the descriptor over.
func NewConn(fd int) *Conn { return &Conn{fd: fd} }

// Pair makes a connected pair. Neither end has a name that another process
// could connect to.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a control socket: %w", err)
	}
	return &Conn{fd: fds[0]}, os.NewFile(uintptr(fds[1]), "control socket"), nil
}

// Close closes this end.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// LimitSend bounds how long a Send waits for a peer that does not read: then it
// fails with EAGAIN (socket(7), SO_SNDTIMEO).
func (c *Conn) LimitSend(wait time.Duration) error {
	tv := unix.NsecToTimeval(wait.Nanoseconds())
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		return fmt.Errorf("cannot limit the wait of a control socket: %w", err)
	}
	return nil
}

// Send sends m and the descriptors with it; the caller keeps its own.
func (c *Conn) Send(m Message, fds ...int) error {
	body := encode(&m, messageLayout)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	var err error
	for {
		err = unix.Sendmsg(c.fd, body, rights, nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("cannot send message %q: %w", m.Kind, err)
	}
	return nil
}

// Recv waits for a message. It returns io.EOF when the peer is gone.
// The descriptors are close-on-exec and the caller's to close.
func (c *Conn) Recv() (Message, []int, error) {
	body := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(4*maxDescriptors))
	n, oobn, flags, err := c.recvmsg(body, oob)
	if errors.Is(err, unix.ECONNRESET) {
		// The peer has left a message of this end unread. The kernel tells
		// that once, and ahead of what the peer itself had sent.
		n, oobn, flags, err = c.recvmsg(body, oob)
	}
	if errors.Is(err, unix.ECONNRESET) || (err == nil && n == 0) {
		return Message{}, nil, io.EOF
	}
	if err != nil {
		return Message{}, nil, fmt.Errorf("cannot receive a message: %w", err)
	}
	fds, err := parseRights(oob[:oobn])
	if err != nil {
		return Message{}, nil, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeAll(fds)
		return Message{}, nil, errors.New("cannot receive a message: it was truncated")
	}
	var m Message
	if err := decode(body[:n], &m, messageLayout); err != nil {
		closeAll(fds)
		return Message{}, nil, fmt.Errorf("cannot decode a message: %w", err)
	}
	return m, fds, nil
}

func (c *Conn) recvmsg(body, oob []byte) (n, oobn, flags int, err error) {
	for {
		n, oobn, flags, _, err = unix.Recvmsg(c.fd, body, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			return n, oobn, flags, err
		}
	}
}

func parseRights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("cannot read a control message: %w", err)
	}
	var fds []int
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("cannot read descriptors: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// FD is the descriptor, which stays the Conn's.
func (c *Conn) FD() int { return c.fd }
