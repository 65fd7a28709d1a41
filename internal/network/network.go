// Package network makes and removes the network of a run: a namespace with a
// ruleset that stands before it has a link, and before the command runs, linked to a bridge on the
// host, and the host's own part: addresses, forwarding, masquerading.
//
// A run leaves next to nothing that has to be cleaned: the namespace has no
// name, so it and its link end with the last process in it. What a run adds to
// the host's rules, if anything, Disconnect removes (ExecStopPost= of its unit),
// and when there is no run any more, Hold removes all of the host's part: a
// process in a unit of its own, which every networked run starts if need be.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/purple-sandbox/purple/internal/ruleset"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Config is what one run wants.
type Config struct {
	Unit  string        // "purple-web-0123abcd.service"
	Rules ruleset.Table // for the namespace
	// Range4 and Range6 are where the addresses are taken from; the first of
	// each is the bridge's. An invalid Range6 means no IPv6.
	Range4, Range6 netip.Prefix
	MTU            int // bytes
	// ToHost are the destinations that may be the host itself.
	ToHost []Destination
	// Routes are addresses of named destinations: the interface that leads
	// to each must forward, beside those with a default route.
	Routes []netip.Addr
}

// Destination is one address, and ports of "tcp" or "udp".
type Destination struct {
	Address     netip.Addr
	Protocol    string
	First, Last uint16
}

// Namespace is the network namespace of one run. It exists as long as the
// process that made it or any process in it.
type Namespace struct {
	config Config
	file   *os.File
	host   *netlink.Handle // in the host's namespace
	own    *netlink.Handle // in this one

	port   string // the link's end on the host, "purple0-7"
	number int    // of the port, from 1; the sandbox's address follows from it

	linked       chan struct{} // closed when the link is made, or cannot be
	linkErr      error         // why it cannot; to be read when linked is closed
	tableExisted bool          // the host's, before this run
}

// step is one thing to do. Its name completes the sentence "cannot …".
type step struct {
	name string
	run  func(*Namespace) error
}

// The ruleset comes before the link, so that there is no moment in which a
// packet could leave unfiltered. purple-init wants a loopback interface from
// its beginning; the command waits for all of it.
var (
	makeSteps = []step{
		{"ask the kernel about the network", (*Namespace).open},
		{"make the network namespace", (*Namespace).create},
		{"bring up the sandbox's loopback interface", (*Namespace).raiseLoopback},
	}
	linkSteps = []step{
		{"load the sandbox's ruleset", (*Namespace).loadRules},
		{"link the sandbox to the host", (*Namespace).link},
		{"set the sandbox's addresses", (*Namespace).configure},
		{"read the sandbox's ruleset back", (*Namespace).verifyRules},
	}
)

func (n *Namespace) do(steps []step) error {
	for _, s := range steps {
		if err := s.run(n); err != nil {
			return fmt.Errorf("cannot %s: %w", s.name, err)
		}
	}
	return nil
}

// New makes the namespace, and begins to make its ruleset and then its link
// while systemd starts the unit; Connect waits for that. Nothing else on the
// host changes but for the link's other end, which is down and goes with the
// namespace.
func New(config Config) (*Namespace, error) {
	n := &Namespace{config: config, linked: make(chan struct{})}
	done := make(chan error)
	go func() {
		// This thread enters the namespace and is not unlocked: it ends
		// with the goroutine and serves nothing else. It is not the main
		// thread, which the main goroutine keeps to itself.
		runtime.LockOSThread()
		defer close(n.linked)
		err := n.do(makeSteps)
		done <- err
		if err == nil {
			n.linkErr = n.do(linkSteps)
		}
	}()
	if err := <-done; err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// open opens the handle while the thread is in the host's namespace.
func (n *Namespace) open() error {
	var err error
	n.host, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	return err
}

// Close gives the namespace up. It is gone, with its link, unless a process is
// in it.
func (n *Namespace) Close() {
	<-n.linked
	for _, h := range []*netlink.Handle{n.host, n.own} {
		if h != nil {
			h.Close()
		}
	}
	if n.file != nil {
		n.file.Close()
	}
}

// Path names the namespace while this process has it open. systemd opens the
// path before the unit's first process and keeps what it found
// (NetworkNamespacePath= in systemd.exec(5)); should this process be gone by
// then, the unit does not start.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Inode is the namespace's identity.
func (n *Namespace) Inode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(n.file.Fd()), &st); err != nil {
		return 0, fmt.Errorf("cannot examine the network namespace: %w", err)
	}
	return st.Ino, nil
}

func (n *Namespace) create() error {
	err := unix.Unshare(unix.CLONE_NEWNET)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: a run that is not isolated needs root", err)
	}
	if err != nil {
		return err
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n.file = os.NewFile(uintptr(fd), "network namespace")
	n.own, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	return err
}

// address is the n-th address of a range.
func address(in netip.Prefix, n int) netip.Addr {
	bytes := in.Masked().Addr().AsSlice()
	for i := len(bytes) - 1; n > 0; i-- {
		n += int(bytes[i])
		bytes[i] = byte(n)
		n >>= 8
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// gateway is the bridge's number in each range; the sandboxes' follow.
const gateway = 1

// capacity is how many sandboxes a range has addresses for: all but the
// network's, the bridge's and the broadcast address.
func capacity(in netip.Prefix) int { return 1<<(32-in.Bits()) - 3 }

// The link layer's addresses are fixed: both ends know the other's, and nobody
// has to ask. The second bit says that they are locally administered.
var bridgeMAC = net.HardwareAddr{0x02, 'p', 'u', 'r', 0, 0}

func sandboxMAC(number int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 'p', 'u', byte(number >> 16), byte(number >> 8), byte(number)}
}

// RunDir holds the lock, and what was changed of the host's settings. Who starts a service
// that may write there makes it before: MakeRunDir.
const RunDir = "/run/purple"

// MakeRunDir makes it, if it is not there.
func MakeRunDir() error {
	if err := os.MkdirAll(RunDir, 0o700); err != nil {
		return fmt.Errorf("cannot make %q: %w", RunDir, err)
	}
	return nil
}

// lock keeps the host's part to one process at a time. The kernel releases it
// when that process dies.
func lock() (*os.File, error) {
	if err := MakeRunDir(); err != nil {
		return nil, err
	}
	name := filepath.Join(RunDir, "network.lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open %q: %w", name, err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock %q: %w", name, err)
	}
	return f, nil
}
