package confine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

// ipv4Packet is a packet of 20 bytes of header, and what follows.
func ipv4Packet(protocol uint8, dst string, rest ...byte) []byte {
	p := make([]byte, 20, 20+len(rest))
	p[0], p[9] = 0x45, protocol
	copy(p[12:], netip.MustParseAddr("10.9.0.1").AsSlice())
	copy(p[16:], netip.MustParseAddr(dst).AsSlice())
	return append(p, rest...)
}

func ipv6Packet(next uint8, rest ...byte) []byte {
	p := make([]byte, 40, 40+len(rest))
	p[0], p[6] = 0x60, next
	copy(p[8:], netip.MustParseAddr("fd00::1").AsSlice())
	copy(p[24:], netip.MustParseAddr("2001:db8::7").AsSlice())
	return append(p, rest...)
}

func TestParsePacket(t *testing.T) {
	ports := []byte{0x12, 0x34, 0x01, 0xbb} // to 443
	extension := func(next, length uint8, more ...byte) []byte {
		return append(append([]byte{next, length}, make([]byte, 6+int(length)*8)...), more...)
	}
	fragment := func(next uint8, offset uint16, more ...byte) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{next, 0}, offset), append(make([]byte, 4), more...)...)
	}
	change := func(p []byte, at int, b ...byte) []byte { copy(p[at:], b); return p }
	cases := []struct {
		name     string
		packet   []byte
		protocol string
		port     uint16
	}{
		{"tcp", ipv4Packet(6, "192.0.2.1", ports...), "tcp", 443},
		{"udp", ipv4Packet(17, "192.0.2.1", ports...), "udp", 443},
		{"udplite", ipv4Packet(136, "192.0.2.1", ports...), "udplite", 443},
		{"sctp", ipv4Packet(132, "192.0.2.1", ports...), "sctp", 443},
		{"dccp", ipv4Packet(33, "192.0.2.1", ports...), "dccp", 443},
		{"icmp echo", ipv4Packet(1, "192.0.2.1", 8, 0), "icmp", 8},
		{"gre has no ports", ipv4Packet(47, "192.0.2.1", ports...), "47", 0},
		{"ports cut off", ipv4Packet(6, "192.0.2.1", ports[:3]...), "tcp", 0},
		{"icmp without a type", ipv4Packet(1, "192.0.2.1"), "icmp", 0},
		{"a later fragment", change(ipv4Packet(17, "192.0.2.1", ports...), 6, 0, 1), "udp", 0},
		{"the first fragment", change(ipv4Packet(17, "192.0.2.1", ports...), 6, 0x20, 0), "udp", 443},
		{"options", change(ipv4Packet(6, "192.0.2.1", append(make([]byte, 4), ports...)...), 0, 0x46), "tcp", 443},
		{"options cut off", change(ipv4Packet(6, "192.0.2.1", ports...), 0, 0x4f), "tcp", 0},
		{"header length too short", change(ipv4Packet(6, "192.0.2.1", ports...), 0, 0x41), "tcp", 0},

		{"tcp in ipv6", ipv6Packet(6, ports...), "tcp", 443},
		{"icmpv6 echo", ipv6Packet(58, 128, 0), "icmpv6", 128},
		{"hop-by-hop", ipv6Packet(0, extension(17, 0, ports...)...), "udp", 443},
		{"hop-by-hop, options", ipv6Packet(0, extension(60, 1, extension(6, 2, ports...)...)...), "tcp", 443},
		{"routing", ipv6Packet(43, extension(6, 2, ports...)...), "tcp", 443},
		{"authentication", ipv6Packet(51, append([]byte{6, 4}, append(make([]byte, 22), ports...)...)...), "tcp", 443},
		{"the first fragment in ipv6", ipv6Packet(44, fragment(17, 1, ports...)...), "udp", 443},
		{"a later fragment in ipv6", ipv6Packet(44, fragment(17, 8, ports...)...), "udp", 0},
		{"an extension cut off", ipv6Packet(0, 6, 0, 0), "0", 0},
		{"an extension longer than the packet", ipv6Packet(60, extension(6, 0)[:8]...), "tcp", 0},
		{"an extension that claims 2 kB", ipv6Packet(43, 6, 255, 0, 0, 0, 0, 0, 0, 0), "43", 0},
		{"no next header", ipv6Packet(59), "59", 0},
		{"esp", ipv6Packet(50, ports...), "50", 0},
	}
	for _, c := range cases {
		f, source, ok := parsePacket(c.packet)
		want, from := "192.0.2.1", "10.9.0.1"
		if c.packet[0]>>4 == 6 {
			want, from = "2001:db8::7", "fd00::1"
		}
		if !ok || protocolName(f.protocol) != c.protocol || f.port != c.port || f.destination.String() != want || source.String() != from {
			t.Errorf("%s: %v %v from %v, want %s to %s port %d", c.name, ok, f, source, c.protocol, want, c.port)
		}
	}
}

func TestParsePacketRefuses(t *testing.T) {
	for name, p := range map[string][]byte{
		"nothing":         {},
		"one byte":        {0x45},
		"ipv4, 19 bytes":  ipv4Packet(6, "192.0.2.1")[:19],
		"ipv6, 39 bytes":  ipv6Packet(6)[:39],
		"version 5":       append([]byte{0x55}, make([]byte, 60)...),
		"an arp-like one": make([]byte, 28),
	} {
		if f, _, ok := parsePacket(p); ok {
			t.Errorf("%s was read as %v", name, f)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add(ipv4Packet(6, "192.0.2.1", 1, 2, 3, 4))
	f.Add(ipv6Packet(0, 43, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4))
	f.Fuzz(func(t *testing.T, p []byte) {
		flow, source, ok := parsePacket(p)
		if ok != (flow.destination.IsValid() && source.IsValid()) {
			t.Errorf("ok %v, from %v to %v", ok, source, flow.destination)
		}
	})
}

// nflogMessageOf is a message as the kernel makes it.
func nflogMessageOf(number uint32, packet []byte) []byte {
	b := make([]byte, unix.SizeofNlMsghdr)
	b = append(b, unix.AF_INET, unix.NFNETLINK_V0, 0, nflogGroup)
	b = appendAttribute(b, 1, []byte{8, 0, 3, 0})
	b = appendAttribute(b, 10, []byte("purple\x00"))
	b = appendAttribute(b, nflogNumber, binary.BigEndian.AppendUint32(nil, number))
	b = appendAttribute(b, nflogPayload, packet)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], nflogPacket)
	return b
}

func TestParseLogged(t *testing.T) {
	good := nflogMessageOf(7, []byte{1, 2, 3})
	l, err := parseLogged(good)
	if err != nil || l.number != 7 || string(l.packet) != "\x01\x02\x03" {
		t.Fatalf("%v, %v", l, err)
	}
	change := func(at int, b ...byte) []byte { p := append([]byte{}, good...); copy(p[at:], b); return p }
	for name, b := range map[string][]byte{
		"nothing":                   {},
		"cut off":                   good[:len(good)-1],
		"another type":              change(4, 9, 9),
		"a length below the header": change(0, 4, 0, 0, 0),
		"an attribute of no length": change(20, 0, 0),
		"an attribute too long":     change(20, 255, 255),
		"no number":                 change(42, 99), // of the third attribute
	} {
		if l, err := parseLogged(b); !errors.Is(err, errNotLogged) {
			t.Errorf("%s was read as %v, %v", name, l, err)
		}
	}
}

func FuzzParseLogged(f *testing.F) {
	f.Add(nflogMessageOf(1, ipv4Packet(6, "192.0.2.1", 1, 2, 3, 4)))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseLogged(b) })
}

// recorder is a journal that keeps all, or fails.
type recorder struct {
	events []journal.Event
	tried  int
	err    error
}

func (r *recorder) emit(e journal.Event) error {
	r.tried++
	if r.err == nil {
		r.events = append(r.events, e)
	}
	return r.err
}

// counts are the counts told of one port, in order.
func (r *recorder) counts(port uint16) (counts []uint64) {
	for _, e := range r.events {
		if d, ok := e.(journal.ConnectionDenied); ok && d.Port == port {
			counts = append(counts, d.Count)
		}
	}
	return counts
}

func (r *recorder) last() journal.DenialsSummary {
	total, _ := r.events[len(r.events)-1].(journal.DenialsSummary)
	return total
}

var start = time.Unix(1_700_000_000, 0)

func testTally(first uint32) (*tally, *recorder) {
	r := &recorder{}
	return newTally(journal.Run{Unit: "u", Profile: "p", RunID: "r"}, r.emit, first, start), r
}

func to(port uint16) []byte {
	return ipv4Packet(17, "192.0.2.1", 0, 1, byte(port>>8), byte(port))
}

func TestTallyTellsTheFirstThenAtIntervals(t *testing.T) {
	tally, r := testTally(0)
	for i := range uint32(25) { // two packets a second
		now := start.Add(time.Duration(i) * time.Second / 2)
		tally.add(logged{i, to(53)}, now)
		tally.tellDue(now)
	}
	if got := fmt.Sprint(r.counts(53)); got != "[1 21]" {
		t.Errorf("counts %s", got)
	}
	tally.tellDue(start.Add(time.Hour))
	tally.tellDue(start.Add(2 * time.Hour)) // unchanged: nothing to tell
	tally.finish()
	if got := fmt.Sprint(r.counts(53)); got != "[1 21 25]" {
		t.Errorf("counts %s", got)
	}
	if got := r.last(); got.Total != 25 || got.Lost != 0 || got.Destinations != 1 || got.Run != tally.run {
		t.Errorf("summary %+v", got)
	}
}

func TestTallyIsSilentWithoutDenials(t *testing.T) {
	tally, r := testTally(0)
	tally.finish()
	if r.tried != 0 {
		t.Errorf("events %v", r.events)
	}
}

func TestTallyCountsGaps(t *testing.T) {
	cases := []struct {
		name    string
		first   uint32
		numbers []uint32
		dropped uint32
		lost    uint64
	}{
		{"none", 0, []uint32{0, 1, 2}, 0, 0},
		{"in the middle", 0, []uint32{0, 5}, 4, 4},
		{"at the start", 0, []uint32{3}, 3, 3},
		{"packets before the start of the run", 3, []uint32{3, 4}, 0, 0},
		{"behind the last", 0, []uint32{0, 2}, 11, 11},
		{"across the end of the numbers", 1<<32 - 2, []uint32{1<<32 - 2, 1}, 2, 2},
		{"more than the socket dropped", 0, []uint32{0, 9}, 3, 8},
		{"all of them", 0, nil, 6, 6},
	}
	for _, c := range cases {
		tally, r := testTally(c.first)
		for _, n := range c.numbers {
			tally.add(logged{n, to(53)}, start)
		}
		tally.loseLast(c.dropped)
		tally.finish()
		total := uint64(len(c.numbers)) + c.lost
		if r.tried == 0 {
			t.Errorf("%s: no summary", c.name)
		} else if got := r.last(); got.Lost != c.lost || got.Total != total {
			t.Errorf("%s: %+v, want %d of %d lost", c.name, got, c.lost, total)
		}
	}
}

func TestTallyIsBounded(t *testing.T) {
	tally, r := testTally(0)
	const packets = 60000
	for i := range uint32(packets) {
		now := start.Add(time.Duration(i) * 10 * time.Microsecond) // 0.6 s
		tally.add(logged{i, to(uint16(i + 1))}, now)
	}
	if most := eventsBurst + eventsPerSecond; r.tried > most {
		t.Errorf("%d events in 0.6 s", r.tried)
	}
	if len(tally.destinations) != maxDestinations || len(tally.order) != maxDestinations {
		t.Errorf("%d destinations", len(tally.destinations))
	}
	for i := range 20 { // each gets its turn
		tally.tellDue(start.Add(time.Duration(i+1) * time.Second))
	}
	if r.tried != maxDestinations {
		t.Errorf("%d events, want one a destination", r.tried)
	}
	tally.add(logged{packets, nil}, start)
	tally.finish()
	want := journal.DenialsSummary{Run: tally.run, Total: packets + 1, Unreadable: 1, Others: packets - maxDestinations, Destinations: maxDestinations}
	if got := r.last(); got != want {
		t.Errorf("summary %+v, want %+v", got, want)
	}
}

func TestTallyGivesEachDestinationItsTurn(t *testing.T) {
	tally, r := testTally(0)
	number := uint32(0)
	for second := range 60 {
		now := start.Add(time.Duration(second) * time.Second)
		for port := range uint16(maxDestinations) {
			tally.add(logged{number, to(port + 1)}, now)
			number++
		}
		tally.tellDue(now)
	}
	if most := eventsBurst + 60*eventsPerSecond; r.tried > most {
		t.Errorf("%d events a minute", r.tried)
	}
	for port := range uint16(maxDestinations) {
		if got := r.counts(port + 1); len(got) < 4 {
			t.Errorf("port %d was told %v", port+1, got)
		}
	}
}

func TestTallyKeepsWhatTheJournalDidNotTake(t *testing.T) {
	tally, r := testTally(0)
	r.err = errors.New("the journal is gone")
	for i := range uint32(1000) {
		tally.add(logged{i, to(uint16(i%100 + 1))}, start)
	}
	if r.tried != 1 {
		t.Errorf("%d tries in one moment", r.tried)
	}
	tally.finish()
	if r.tried != 3 { // one destination, the summary
		t.Errorf("%d tries", r.tried)
	}
	r.err = nil
	tally.finish()
	if len(r.events) != 101 || r.last().Total != 1000 {
		t.Errorf("%d events at the end", len(r.events))
	}
}
