package confine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nflogGroup is the number in the ruleset's `log group 1`.
const nflogGroup = 1

// <linux/netfilter/nfnetlink_log.h>; x/sys/unix has none of it.
const (
	nflogPacket = unix.NFNL_SUBSYS_ULOG<<8 | 0 // NFULNL_MSG_PACKET
	nflogConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1 // NFULNL_MSG_CONFIG

	nflogConfigCommand   = 1 // NFULA_CFG_CMD
	nflogConfigMode      = 2 // NFULA_CFG_MODE
	nflogConfigThreshold = 5 // NFULA_CFG_QTHRESH
	nflogConfigFlags     = 6 // NFULA_CFG_FLAGS

	nflogBind       = 1 // NFULNL_CFG_CMD_BIND
	nflogCopyPacket = 2 // NFULNL_COPY_PACKET
	nflogSequence   = 1 // NFULNL_CFG_F_SEQ

	nflogPayload = 9  // NFULA_PAYLOAD
	nflogNumber  = 12 // NFULA_SEQ
)

// nflogSnapshot is how much of a packet is copied: the IP header with
// extensions, and the ports.
const nflogSnapshot = 128

// nflogMessage is room for that and the attributes, which are some 100 bytes.
const nflogMessage = 4096

// nflogBuffer is for a burst while this process waits for a CPU. The kernel
// doubles it, and a packet takes about 1 kB of it.
const nflogBuffer = 4 << 20

// nflog is a socket on which the kernel sends the packets that the rules log
// in one network namespace, each numbered.
type nflog struct {
	file  *os.File
	raw   syscall.RawConn
	first uint32 // the number of the first packet to be read
}

// netfilterSocket belongs to the network namespace of the calling thread.
func netfilterSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, fmt.Errorf("cannot open a netfilter socket: %w", err)
	}
	return fd, nil
}

// openNflog binds the group in the network namespace of a netfilter socket, which
// it takes over. It needs CAP_NET_ADMIN over that; reading does not.
func openNflog(fd int) (*nflog, error) {
	first, err := setUpNflog(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot have denied packets logged: %w", err)
	}
	file := os.NewFile(uintptr(fd), "nflog")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot have denied packets logged: %w", err)
	}
	return &nflog{file: file, raw: raw, first: first}, nil
}

func setUpNflog(fd int) (first uint32, err error) {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	// A small buffer loses details, not the count: no reason to refuse. Under
	// a user manager the limit of net.core.rmem_max holds.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, nflogBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, nflogBuffer)
	}
	// Otherwise the kernel, once it has had to drop a message, drops all until
	// the buffer is empty.
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 1); err != nil {
		return 0, err
	}
	if err := unix.Sendto(fd, nflogRequest(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	if first, err = readAck(fd); err != nil {
		return 0, err
	}
	return first, unix.SetNonblock(fd, true)
}

// nflogRequest is the one message of the set-up: bind the group; copy the
// start of each packet; number them, so that a gap tells how many were lost;
// send each at once (threshold 1), so that the socket's count of dropped
// messages is one of packets.
func nflogRequest() []byte {
	be := binary.BigEndian
	b := make([]byte, unix.SizeofNlMsghdr)
	b = append(b, unix.AF_UNSPEC, unix.NFNETLINK_V0)
	b = be.AppendUint16(b, nflogGroup)
	b = appendAttribute(b, nflogConfigCommand, []byte{nflogBind})
	b = appendAttribute(b, nflogConfigMode, append(be.AppendUint32(nil, nflogSnapshot), nflogCopyPacket, 0))
	b = appendAttribute(b, nflogConfigThreshold, be.AppendUint32(nil, 1))
	b = appendAttribute(b, nflogConfigFlags, be.AppendUint16(nil, nflogSequence))
	ne := binary.NativeEndian
	ne.PutUint32(b, uint32(len(b)))
	ne.PutUint16(b[4:], nflogConfig)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	return b
}

// appendAttribute adds a netlink attribute, padded to four bytes.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.NLA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// readAck reads the kernel's answer to the set-up. Ahead of it may be packets
// that the kernel itself has sent since the group was bound; it tells how many.
func readAck(fd int) (packets uint32, err error) {
	buf := make([]byte, nflogMessage)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case !fromKernel(from) || n < unix.SizeofNlMsghdr+4:
		case binary.NativeEndian.Uint16(buf[4:]) == unix.NLMSG_ERROR:
			return packets, ackError(int32(binary.NativeEndian.Uint32(buf[unix.SizeofNlMsghdr:])))
		default:
			packets++
		}
	}
}

func ackError(code int32) error {
	switch errno := unix.Errno(-code); errno {
	case 0:
		return nil
	case unix.EPERM: // the kernel's answer to both
		return fmt.Errorf("CAP_NET_ADMIN is missing, or another program reads log group %d: %w", nflogGroup, errno)
	default:
		return errno
	}
}

// fromKernel: another process needs CAP_NET_ADMIN to write to this socket.
func fromKernel(from unix.Sockaddr) bool {
	a, ok := from.(*unix.SockaddrNetlink)
	return ok && a.Pid == 0
}

// logged is one message about a packet.
type logged struct {
	number uint32
	packet []byte // valid until the next read
}

// read takes the next message of the kernel. It waits for one until the
// deadline, or returns EAGAIN.
func (n *nflog) read(buf []byte, wait bool) (logged, error) {
	for {
		size, from, readErr := 0, unix.Sockaddr(nil), error(nil)
		err := n.raw.Read(func(fd uintptr) bool {
			size, from, readErr = unix.Recvfrom(int(fd), buf, 0)
			return !wait || readErr != unix.EAGAIN
		})
		switch {
		case err != nil:
			return logged{}, err
		case errors.Is(readErr, unix.EINTR):
			continue
		case readErr != nil:
			return logged{}, readErr
		}
		if fromKernel(from) {
			return parseLogged(buf[:size])
		}
	}
}

var errNotLogged = errors.New("internal error: a netfilter message that is no numbered packet")

// parseLogged takes a message apart: one packet in each, as asked for.
func parseLogged(b []byte) (logged, error) {
	const header = unix.SizeofNlMsghdr + int(unsafe.Sizeof(unix.Nfgenmsg{}))
	if len(b) < header || binary.NativeEndian.Uint16(b[4:]) != nflogPacket {
		return logged{}, errNotLogged
	}
	size := uint64(binary.NativeEndian.Uint32(b))
	if size > uint64(len(b)) || size < uint64(header) {
		return logged{}, errNotLogged
	}
	l, numbered := logged{}, false
	for b = b[header:size]; len(b) >= unix.SizeofNlAttr; {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofNlAttr || n > len(b) {
			return logged{}, errNotLogged
		}
		value := b[unix.SizeofNlAttr:n]
		switch binary.NativeEndian.Uint16(b[2:]) {
		case nflogPayload:
			l.packet = value
		case nflogNumber:
			if numbered = len(value) == 4; numbered {
				l.number = binary.BigEndian.Uint32(value)
			}
		}
		b = b[min(len(b), (n+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	if !numbered {
		return logged{}, errNotLogged
	}
	return l, nil
}

func (n *nflog) setDeadline(t time.Time) error { return n.file.SetReadDeadline(t) }

// dropped is how many messages did not fit in the socket's buffer, modulo 2³².
func (n *nflog) dropped() (uint32, error) {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	var errno unix.Errno
	err := n.raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	switch {
	case err != nil:
		return 0, err
	case errno != 0:
		return 0, errno
	case size <= 4*unix.SK_MEMINFO_DROPS:
		return 0, fmt.Errorf("the kernel told %d bytes about the socket", size)
	}
	return info[unix.SK_MEMINFO_DROPS], nil
}

func (n *nflog) close() { n.file.Close() }
