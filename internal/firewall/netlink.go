package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/sys/unix"
)

// The kernel is asked here and not through nftables.Conn, because that one
// leaves expressions out that it does not know, without a word: a rule would
// then match more than it does. It also needs a call for each chain.

// errEnough ends a dump early and is no error.
var errEnough = errors.New("enough")

// errChanged: somebody changed the rules while they were being read.
var errChanged = errors.New("the rules keep changing")

// dump asks nftables for all objects of one kind, in the network namespace of
// the calling thread, and calls each for every one with its family. Another
// socket for each dump, so that one which is not read to its end leaves
// nothing behind.
func dump(message uint16, family uint8, request []byte, each func(family uint8, object []byte) error) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, dumpRequest(message, family, request), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if done, err := eachMessage(buf[:n], each); done || err != nil {
			return err
		}
	}
}

const netlinkHeader, nfnetlinkHeader = unix.NLMSG_HDRLEN, 4

func dumpRequest(message uint16, family uint8, request []byte) []byte {
	const length = netlinkHeader + nfnetlinkHeader
	b := binary.NativeEndian.AppendUint32(nil, uint32(length+len(request)))
	b = binary.NativeEndian.AppendUint16(b, unix.NFNL_SUBSYS_NFTABLES<<8|message)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = append(b, make([]byte, 8)...) // sequence number and port: one question a socket
	b = append(b, family, unix.NFNETLINK_V0, 0, 0)
	return append(b, request...)
}

// eachMessage tells whether the dump is at its end.
func eachMessage(b []byte, each func(uint8, []byte) error) (done bool, err error) {
	for len(b) >= netlinkHeader {
		length := int(binary.NativeEndian.Uint32(b))
		if length < netlinkHeader || length > len(b) {
			return true, errors.New("a netlink message is cut off")
		}
		kind, flags, body := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), b[netlinkHeader:length]
		if flags&unix.NLM_F_DUMP_INTR != 0 {
			return true, errChanged
		}
		if kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR {
			return true, messageError(body)
		}
		if len(body) >= nfnetlinkHeader {
			if err := each(body[0], body[nfnetlinkHeader:]); err != nil {
				return true, err
			}
		}
		b = b[min(align(length), len(b)):]
	}
	return false, nil
}

// messageError is the error that the last message of a dump carries.
func messageError(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}

func align(n int) int { return (n + 3) &^ 3 }

// attributes goes over the attributes of an object or of another attribute.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.NLA_HDRLEN {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.NLA_HDRLEN || length > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[unix.NLA_HDRLEN:length]) {
				return
			}
			b = b[min(align(length), len(b)):]
		}
	}
}

// attribute is the first one of that kind, or nil.
func attribute(b []byte, kind uint16) []byte {
	for k, v := range attributes(b) {
		if k == kind {
			return v
		}
	}
	return nil
}

// number is that of an attribute, which is 0 where it is missing.
func number(b []byte, kind uint16) uint64 {
	switch v := attribute(b, kind); len(v) {
	case 4:
		return uint64(binary.BigEndian.Uint32(v))
	case 8:
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// text is a string attribute without the zero at its end.
func text(b []byte, kind uint16) string {
	v := attribute(b, kind)
	if n := len(v); n > 0 && v[n-1] == 0 {
		v = v[:n-1]
	}
	return string(v)
}

func appendText(b []byte, kind uint16, s string) []byte {
	length := unix.NLA_HDRLEN + len(s) + 1
	b = binary.NativeEndian.AppendUint16(b, uint16(length))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, s...)
	return append(b, make([]byte, 1+align(length)-length)...)
}

// wrap says what could not be read, unless it is worth another attempt.
func wrap(what string, err error) error {
	switch err {
	case nil, errChanged:
		return err
	case unix.ENOENT:
		return errChanged // what was listed is gone
	}
	return fmt.Errorf("cannot read the %s of nftables: %w", what, err)
}
