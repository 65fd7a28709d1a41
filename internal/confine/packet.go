package confine

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// flow is where a packet was going: the unit in which denials are counted.
// The source is not part of it: each attempt has another port.
type flow struct {
	protocol    uint8
	destination netip.Addr
	port        uint16 // or the type, for ICMP; 0: none, or not in the packet
}

// parsePacket reads the start of an IP packet. The command wrote it, so every
// length in it is a claim. Only a header without addresses is an error: with
// them the packet is worth an event, port or not.
func parsePacket(p []byte) (f flow, source netip.Addr, ok bool) {
	if len(p) == 0 {
		return flow{}, netip.Addr{}, false
	}
	switch p[0] >> 4 {
	case 4:
		return parseIPv4(p)
	case 6:
		return parseIPv6(p)
	}
	return flow{}, netip.Addr{}, false
}

func parseIPv4(p []byte) (f flow, source netip.Addr, ok bool) {
	const minimum = 20
	if len(p) < minimum {
		return flow{}, netip.Addr{}, false
	}
	source = netip.AddrFrom4([4]byte(p[12:16]))
	f = flow{protocol: p[9], destination: netip.AddrFrom4([4]byte(p[16:20]))}
	header := int(p[0]&0xf) * 4
	first := binary.BigEndian.Uint16(p[6:])&0x1fff == 0 // of the packet's fragments
	if first && minimum <= header && header <= len(p) {
		f.port = parsePort(f.protocol, p[header:])
	}
	return f, source, true
}

func parseIPv6(p []byte) (f flow, source netip.Addr, ok bool) {
	const header = 40
	if len(p) < header {
		return flow{}, netip.Addr{}, false
	}
	source = netip.AddrFrom16([16]byte(p[8:24]))
	protocol, rest := skipExtensions(p[6], p[header:])
	f = flow{protocol: protocol, destination: netip.AddrFrom16([16]byte(p[24:40]))}
	f.port = parsePort(protocol, rest)
	return f, source, true
}

// skipExtensions finds the protocol behind IPv6's extension headers (RFC 8200
// §4, RFC 4302). Where the packet ends before it, the answer is the last
// header's number, and nothing left.
func skipExtensions(next uint8, p []byte) (uint8, []byte) {
	for {
		size := 0
		switch {
		case next != unix.IPPROTO_HOPOPTS && next != unix.IPPROTO_ROUTING && next != unix.IPPROTO_DSTOPTS &&
			next != unix.IPPROTO_FRAGMENT && next != unix.IPPROTO_AH:
			return next, p
		case len(p) < 8:
			return next, nil
		case next == unix.IPPROTO_FRAGMENT:
			if binary.BigEndian.Uint16(p[2:])&0xfff8 != 0 { // not the first
				return p[0], nil
			}
			size = 8
		case next == unix.IPPROTO_AH:
			size = (int(p[1]) + 2) * 4
		default:
			size = (int(p[1]) + 1) * 8
		}
		if size > len(p) {
			return next, nil
		}
		next, p = p[0], p[size:]
	}
}

// parsePort reads the destination's port, or the type of an ICMP message.
func parsePort(protocol uint8, p []byte) uint16 {
	switch protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP:
		if len(p) >= 4 {
			return binary.BigEndian.Uint16(p[2:])
		}
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		if len(p) >= 1 {
			return uint16(p[0])
		}
	}
	return 0
}

// protocolName is the name in the audit, or the number.
func protocolName(protocol uint8) string {
	switch protocol {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_UDPLITE:
		return "udplite"
	case unix.IPPROTO_SCTP:
		return "sctp"
	case unix.IPPROTO_DCCP:
		return "dccp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "icmpv6"
	}
	return strconv.Itoa(int(protocol))
}
