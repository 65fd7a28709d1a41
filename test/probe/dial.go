package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// flow is one way to reach something, written PROTOCOL/ADDRESS/PORT. The
// protocols are tcp, mptcp, sctp, udp, icmp (an unprivileged echo socket),
// answer (UDP, as an answer to a peer that the command makes up) and rawN (a raw socket of IP protocol N, port ignored).
type flow struct {
	protocol string
	addr     netip.Addr
	port     uint16
}

// outcome is how a flow went: "ok", "timeout" or an error's name, of which call.
type outcome struct {
	Target  string `json:"target"`
	Outcome string `json:"outcome"`
	Call    string `json:"call,omitempty"`
	Answer  string `json:"answer,omitempty"`
	MS      int64  `json:"ms"`
}

const (
	connectWait = 1500 * time.Millisecond
	answerWait  = 2500 * time.Millisecond // through pasta, in an emulated machine, 700 were not enough
)

func parseFlow(text string) (flow, error) {
	parts := strings.Split(text, "/")
	if len(parts) != 3 {
		return flow{}, fmt.Errorf("%q is not PROTOCOL/ADDRESS/PORT", text)
	}
	addr, err := netip.ParseAddr(parts[1])
	if err != nil {
		return flow{}, err
	}
	port, err := strconv.ParseUint(parts[2], 10, 16)
	return flow{parts[0], addr, uint16(port)}, err
}

// dial tries every flow, a few at a time, and answers in their order.
func dial(targets []string) any {
	outcomes := make([]outcome, len(targets))
	var wait sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, target := range targets {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			begin := time.Now()
			outcomes[i] = try(target)
			outcomes[i].Target, outcomes[i].MS = target, time.Since(begin).Milliseconds()
		})
	}
	wait.Wait()
	return outcomes
}

func try(target string) outcome {
	f, err := parseFlow(target)
	if err != nil {
		return failed("parse", err)
	}
	switch {
	case f.protocol == "tcp":
		return f.stream(0)
	case f.protocol == "mptcp":
		return f.stream(unix.IPPROTO_MPTCP)
	case f.protocol == "sctp":
		return f.stream(unix.IPPROTO_SCTP)
	case f.protocol == "udp":
		return f.datagram(unix.SOCK_DGRAM, 0, []byte("probe"))
	case f.protocol == "answer":
		return f.answer()
	case f.protocol == "icmp":
		return f.datagram(unix.SOCK_DGRAM, f.icmpProtocol(), f.payload(f.icmpProtocol()))
	case strings.HasPrefix(f.protocol, "raw"):
		number, err := strconv.Atoi(f.protocol[3:])
		if err != nil {
			return failed("parse", err)
		}
		return f.datagram(unix.SOCK_RAW, number, f.payload(number))
	}
	return failed("parse", unix.EPROTONOSUPPORT)
}

func failed(call string, err error) outcome {
	var errno unix.Errno
	name := fmt.Sprint(err)
	if errors.As(err, &errno) {
		name = unix.ErrnoName(errno)
	}
	return outcome{Call: call, Outcome: name}
}

// stream connects, and reads what the server greets with.
func (f flow) stream(protocol int) outcome {
	fd, err := unix.Socket(f.family(), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return failed("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, f.sockaddr(f.port)); err != nil && err != unix.EINPROGRESS {
		return failed("connect", err)
	}
	if !ready(fd, unix.POLLOUT, connectWait) {
		return outcome{Call: "connect", Outcome: "timeout"}
	}
	if errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
		return failed("connect", unix.Errno(errno))
	}
	o := outcome{Outcome: "ok"}
	if ready(fd, unix.POLLIN, answerWait) {
		o.Answer = receive(fd).Answer
	}
	return o
}

// datagram sends once, and waits for an answer. A raw socket hears itself and
// others too, so what was sent is all that counts there.
func (f flow) datagram(kind, protocol int, payload []byte) outcome {
	fd, err := unix.Socket(f.family(), kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return failed("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
		return failed("setsockopt", err)
	}
	port := f.port
	if kind == unix.SOCK_RAW {
		port = 0
	}
	if err := unix.Connect(fd, f.sockaddr(port)); err != nil {
		return failed("connect", err)
	}
	if _, err := unix.Write(fd, payload); err != nil {
		return failed("send", err)
	}
	if kind == unix.SOCK_RAW {
		return outcome{Outcome: "ok"}
	}
	if !ready(fd, unix.POLLIN, answerWait) {
		return outcome{Call: "receive", Outcome: "timeout"}
	}
	return receive(fd)
}

// answer first sends a packet to itself that comes from the target's address,
// so that what it then sends there looks like the answer.
func (f flow) answer() outcome {
	own, err := f.udp()
	if err != nil {
		return failed("socket", err)
	}
	defer unix.Close(own)
	if err := unix.Connect(own, f.sockaddr(f.port)); err != nil {
		return failed("connect", err)
	}
	address, err := unix.Getsockname(own)
	if err != nil {
		return failed("getsockname", err)
	}
	peer, err := f.udp()
	if err != nil {
		return failed("socket", err)
	}
	defer unix.Close(peer)
	level, option := unix.SOL_IP, unix.IP_FREEBIND
	if f.family() == unix.AF_INET6 {
		level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	if err := unix.SetsockoptInt(peer, level, option, 1); err != nil {
		return failed("setsockopt", err)
	}
	if err := unix.Bind(peer, f.sockaddr(f.port)); err != nil {
		return failed("bind", err)
	}
	made := unix.Sendto(peer, []byte("made up"), 0, address)
	if _, err := unix.Write(own, []byte("probe")); err != nil {
		return failed("send", errors.Join(err, made))
	}
	return outcome{Outcome: "ok"}
}

func (f flow) udp() (int, error) {
	return unix.Socket(f.family(), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

func receive(fd int) outcome {
	buf := make([]byte, 2048)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return failed("receive", err)
	}
	return outcome{Outcome: "ok", Answer: strings.ToValidUTF8(strings.TrimSpace(string(buf[:n])), "?")}
}

func ready(fd int, events int16, wait time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for end := time.Now().Add(wait); ; {
		n, err := unix.Poll(fds, int(max(0, time.Until(end).Milliseconds())))
		if err != unix.EINTR {
			return err == nil && n == 1
		}
	}
}

func (f flow) family() int {
	if f.addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (f flow) sockaddr(port uint16) unix.Sockaddr {
	if f.addr.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: f.addr.As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(port), Addr: f.addr.As16()}
	if zone := f.addr.Zone(); zone != "" {
		if link, err := net.InterfaceByName(zone); err == nil {
			sa.ZoneId = uint32(link.Index)
		}
	}
	return sa
}

func (f flow) icmpProtocol() int {
	if f.addr.Is4() {
		return unix.IPPROTO_ICMP
	}
	return unix.IPPROTO_ICMPV6
}

// payload is a first packet of that IP protocol, as a peer would send it.
func (f flow) payload(protocol int) []byte {
	ports := binary.BigEndian.AppendUint16([]byte{0x30, 0x39}, f.port)
	switch protocol {
	case unix.IPPROTO_ICMP: // echo request; the checksum is of these bytes
		return append([]byte{8, 0, 0xf7, 0xfd, 0, 1, 0, 1}, make([]byte, 8)...)
	case unix.IPPROTO_ICMPV6:
		return append([]byte{128, 0, 0, 0, 0, 1, 0, 1}, make([]byte, 8)...)
	case unix.IPPROTO_TCP: // SYN
		return append(ports, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0)
	case unix.IPPROTO_UDP:
		return append(ports, 0, 13, 0, 0, 'p', 'r', 'o', 'b', 'e')
	case unix.IPPROTO_SCTP: // INIT
		return append(ports, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1)
	case unix.IPPROTO_GRE:
		return []byte{0, 0, 8, 0}
	}
	return []byte("probe")
}

// early sends one UDP packet to each target before anything else: no network
// package has been asked for anything yet. It tells how the sends went.
func early(targets []string) any {
	outcomes := map[string]string{}
	for _, target := range targets {
		f, err := parseFlow("udp/" + target)
		if err != nil {
			outcomes[target] = err.Error()
			continue
		}
		outcomes[target] = sendNow(f)
	}
	return outcomes
}

func sendNow(f flow) string {
	fd, err := unix.Socket(f.family(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Sendto(fd, []byte("early"), 0, f.sockaddr(f.port))
	}
	if err != nil {
		return failed("", err).Outcome
	}
	return "ok"
}

// flood sends UDP packets to ADDRESS/PORT, COUNT times, as fast as it can.
func flood(args []string) any {
	f, err := parseFlow("udp/" + args[0])
	if err != nil {
		return err.Error()
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err.Error()
	}
	fd, err := unix.Socket(f.family(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	outcomes := map[string]int{}
	for range count {
		name := "ok"
		if err := unix.Sendto(fd, []byte("flood"), 0, f.sockaddr(f.port)); err != nil {
			name = failed("", err).Outcome
		}
		outcomes[name]++
	}
	return outcomes
}

// pump writes to a sink at ADDRESS/PORT for SECONDS, and gives the bytes a
// second that the sink says it has read.
func pump(args []string) any {
	address, port, _ := strings.Cut(args[0], "/")
	seconds, err := strconv.ParseFloat(args[1], 64)
	if err != nil {
		return err.Error()
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(address, port))
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	block := make([]byte, 256<<10)
	begin := time.Now()
	for time.Since(begin).Seconds() < seconds {
		if _, err := conn.Write(block); err != nil {
			return err.Error()
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err.Error()
	}
	var total int64
	if _, err := fmt.Fscan(conn, &total); err != nil {
		return err.Error()
	}
	return map[string]float64{"bytes_per_second": float64(total) / time.Since(begin).Seconds()}
}
