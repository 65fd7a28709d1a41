package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// hit is something that a server got: a connection, a datagram, a question.
type hit struct {
	Server   string `json:"server"`
	Protocol string `json:"protocol"`
	Local    string `json:"local"`
	Remote   string `json:"remote"`
	Question string `json:"question,omitempty"`
}

// server answers with its name, and writes every hit to a file.
type server struct {
	name string

	lock sync.Mutex
	hits *json.Encoder
}

// serve NAME HITS TARGET... listens on each target until it is killed, or, as
// the suite's own server, until standard input ends: then the suite has ended
// too. HITS is a file, or "-" for none. A target is PROTOCOL/ADDRESSES/PORTS,
// both lists with commas, "*" for every address. Protocols: tcp and udp answer
// with NAME, dns (both) with what is in the zone, sink reads and counts.
func serve(args []string) any {
	if len(args) < 3 {
		return "usage: serve NAME HITS TARGET..."
	}
	s := &server{name: args[0], hits: json.NewEncoder(io.Discard)}
	if args[1] != "-" {
		f, err := os.OpenFile(args[1], os.O_CREATE|os.O_APPEND|os.O_WRONLY|os.O_SYNC, 0o644)
		if err != nil {
			return err.Error()
		}
		s.hits = json.NewEncoder(f)
	}
	for _, target := range args[2:] {
		if err := s.listen(target); err != nil {
			return target + ": " + err.Error()
		}
	}
	fmt.Println("ready")
	untilOrphaned(args[1] != "-")
	return "ended"
}

// untilOrphaned waits for the end of standard input, or for ever.
func untilOrphaned(tied bool) {
	if tied {
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	select {}
}

func (s *server) listen(target string) error {
	parts := strings.Split(target, "/")
	if len(parts) != 3 {
		return errors.New("not PROTOCOL/ADDRESSES/PORTS")
	}
	for address := range strings.SplitSeq(parts[1], ",") {
		for port := range strings.SplitSeq(parts[2], ",") {
			if err := s.listenOn(parts[0], net.JoinHostPort(strings.TrimPrefix(address, "*"), port)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *server) listenOn(protocol, address string) error {
	switch protocol {
	case "tcp":
		return s.streams(protocol, address, s.greet)
	case "sink":
		return s.streams(protocol, address, s.sink)
	case "udp":
		return s.datagrams(protocol, address, func(*hit, []byte) []byte { return []byte(s.name) })
	case "dns":
		if err := s.datagrams(protocol, address, answerQuestion); err != nil {
			return err
		}
		return s.streams(protocol, address, s.dnsStream)
	}
	return fmt.Errorf("unknown protocol %q", protocol)
}

func (s *server) record(h *hit) {
	s.lock.Lock()
	defer s.lock.Unlock()
	h.Server = s.name
	_ = s.hits.Encode(h) // a full disk fails the test by what is missing
}

func (s *server) streams(protocol, address string, handle func(*hit, net.Conn)) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			h := &hit{Protocol: protocol, Local: conn.LocalAddr().String(), Remote: conn.RemoteAddr().String()}
			go func() {
				defer conn.Close()
				handle(h, conn)
			}()
		}
	}()
	return nil
}

// greet answers at once, and then reads until the peer is tired of it.
func (s *server) greet(h *hit, conn net.Conn) {
	s.record(h)
	fmt.Fprintln(conn, s.name)
	_, _ = io.Copy(io.Discard, conn)
}

// sink hides the fast paths of both ends, so that the buffer is the one given.
func (s *server) sink(h *hit, conn net.Conn) {
	s.record(h)
	total, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 256<<10))
	fmt.Fprintln(conn, total)
}

func (s *server) datagrams(protocol, address string, reply func(*hit, []byte) []byte) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			h := &hit{Protocol: protocol, Local: conn.LocalAddr().String(), Remote: from.String()}
			answer := reply(h, buf[:n])
			s.record(h)
			_, _ = conn.WriteTo(answer, from)
		}
	}()
	return nil
}

// dnsStream: over TCP each message has its length before it.
func (s *server) dnsStream(h *hit, conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		question := make([]byte, int(head[0])<<8|int(head[1]))
		if _, err := io.ReadFull(conn, question); err != nil {
			return
		}
		one := *h
		answer := answerQuestion(&one, question)
		one.Protocol = "dns-tcp"
		s.record(&one)
		_, _ = conn.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...))
	}
}

// zone is what the suite's DNS servers know; every other name does not exist.
var zone = map[string]struct {
	a    [4]byte
	aaaa [16]byte
}{
	"web.test.": {[4]byte{198, 51, 100, 10}, [16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 1, 15: 0x10}},
	"lan.test.": {[4]byte{192, 168, 77, 2}, [16]byte{0xfd, 0x77, 15: 2}},
}

// answerQuestion answers the first question, and notes its name in the hit.
func answerQuestion(h *hit, question []byte) []byte {
	var parser dnsmessage.Parser
	header, err := parser.Start(question)
	if err != nil {
		h.Question = "?"
		return nil
	}
	q, err := parser.Question()
	if err != nil {
		h.Question = "?"
		return nil
	}
	h.Question = q.Name.String()
	known, found := zone[strings.ToLower(h.Question)]
	header.Response, header.RecursionAvailable, header.RCode = true, true, dnsmessage.RCodeSuccess
	if !found {
		header.RCode = dnsmessage.RCodeNameError
	}
	message := dnsmessage.Message{Header: header, Questions: []dnsmessage.Question{q}}
	resource := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
	switch {
	case found && q.Type == dnsmessage.TypeA:
		message.Answers = []dnsmessage.Resource{{Header: resource, Body: &dnsmessage.AResource{A: known.a}}}
	case found && q.Type == dnsmessage.TypeAAAA:
		message.Answers = []dnsmessage.Resource{{Header: resource, Body: &dnsmessage.AAAAResource{AAAA: known.aaaa}}}
	}
	packed, err := message.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// ask SERVERS NAME asks each DNS server of a list with commas for the address
// of a name, over UDP and TCP, and gives the answers' codes by "udp SERVER".
func ask(args []string) any {
	results := map[string]string{}
	for server := range strings.SplitSeq(args[0], ",") {
		for _, network := range []string{"udp", "tcp"} {
			results[network+" "+server] = askOne(network, server, args[1])
		}
	}
	return results
}

func askOne(network, server, name string) string {
	full, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
	if err != nil {
		return err.Error()
	}
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: full, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	packed, err := message.Pack()
	if err != nil {
		return err.Error()
	}
	conn, err := net.DialTimeout(network, net.JoinHostPort(server, "53"), connectWait)
	if err != nil {
		return failed("", err).Outcome
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(connectWait))
	skip := 0
	if network == "tcp" {
		packed, skip = append([]byte{byte(len(packed) >> 8), byte(len(packed))}, packed...), 2
	}
	if _, err := conn.Write(packed); err != nil {
		return failed("", err).Outcome
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		return failed("", err).Outcome
	}
	var parser dnsmessage.Parser
	header, err := parser.Start(buf[min(skip, n):n])
	if err != nil {
		return err.Error()
	}
	return header.RCode.String()
}
