package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// packet is what was seen on a link of this network namespace.
type packet struct {
	Link     int    `json:"link"`
	Outgoing bool   `json:"outgoing"`
	Protocol int    `json:"protocol"`
	Source   string `json:"source"`
	Dest     string `json:"dest"`
	Port     int    `json:"port,omitempty"`
	Type     int    `json:"type,omitempty"` // of ICMP
}

// capture FILE writes every IP packet that any link of this network namespace
// sends or receives to FILE, until standard input ends.
func capture(args []string) any {
	out, err := os.OpenFile(args[0], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err.Error()
	}
	protocol := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return err.Error()
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
		return err.Error()
	}
	go write(fd, json.NewEncoder(out))
	fmt.Println("ready")
	untilOrphaned(true)
	return "ended"
}

func write(fd int, out *json.Encoder) {
	buf := make([]byte, 256)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "probe: capture:", err)
			os.Exit(1)
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok {
			continue
		}
		if p, ok := parsePacket(buf[:n]); ok {
			p.Link, p.Outgoing = link.Ifindex, link.Pkttype == unix.PACKET_OUTGOING
			_ = out.Encode(p)
		}
	}
}

func parsePacket(b []byte) (packet, bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		source, dest := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		return finish(b[9], source, dest, b[min(len(b), int(b[0]&15)*4):]), true
	case len(b) >= 40 && b[0]>>4 == 6:
		source, dest := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		return finish(b[6], source, dest, b[40:]), true
	}
	return packet{}, false
}

func finish(protocol byte, source, dest netip.Addr, payload []byte) packet {
	p := packet{Protocol: int(protocol), Source: source.String(), Dest: dest.String()}
	switch protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_UDPLITE:
		if len(payload) >= 4 {
			p.Port = int(binary.BigEndian.Uint16(payload[2:4]))
		}
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		if len(payload) >= 1 {
			p.Type = int(payload[0])
		}
	}
	return p
}
