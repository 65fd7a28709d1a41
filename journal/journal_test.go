package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var run = Run{Unit: "purple-web-0123abcd.service", Profile: "web", RunID: "0123abcd"}

func denied(protocol string, port uint16, icmpType uint8, count uint64) ConnectionDenied {
	return ConnectionDenied{
		Run: run, Protocol: protocol, Source: netip.MustParseAddr("10.9.0.2"),
		Destination: netip.MustParseAddr("2001:db8::7"), Port: port, ICMPType: icmpType, Count: count,
	}
}

var summary = DenialsSummary{Run: run, Total: 50012, Lost: 12, Unreadable: 1, Others: 300, Destinations: 256}

func mounted(count uint64) SyscallDenied {
	return SyscallDenied{
		Run: run, Syscall: "mount", Arguments: `dev_name="none", dir_name="/a b"`, Registers: Registers{0x7ffd0000, 1<<64 - 1, 0, 0x400}, Errno: "EPERM",
		Comm: "node", PID: 4711, SandboxPID: 3, Count: count,
	}
}

var (
	forged       = SyscallDenied{Run: run, Syscall: "ptrace", Arguments: `path="\x1b[2J"`, Errno: "EPERM", Comm: `\x1b[31m\x0a`, PID: 4711, Count: 1}
	callsSummary = SyscallsDenied{Run: run, Total: 10014, Syscalls: 3}

	attempt       = Attempt{Syscall: "openat", Errno: "EROFS", Comm: "node", PID: 4711, SandboxPID: 3, Count: 2}
	pathDenied    = PathDenied{Run: run, Path: `/usr/a b\x1b`, Effect: EffectCreate, Attempt: attempt}
	manyPaths     = PathDenied{Run: run, Effect: EffectRemove, Attempt: Attempt{Syscall: "unlinkat", Errno: "EROFS", PID: 4711, Count: 1}}
	pathsSummary  = PathsDenied{Run: run, Total: 300, Paths: 257}
	withoutPorts  = CapabilityDenied{Run: run, Capability: "CAP_NET_BIND_SERVICE", Arguments: "fd=3, umyaddr=0x7ffd, addrlen=16", Attempt: Attempt{Syscall: "bind", Errno: "EACCES", Comm: "nc", PID: 1, Count: 1}}
	wantedSummary = CapabilitiesDenied{Run: run, Total: 4, Capabilities: 2}
)

// examples has every type of event, and every field.
var examples = append([]Event{denied("tcp", 443, 0, 1), denied("udp", 0, 0, 14), denied("icmpv6", 0, 128, 1), denied("47", 0, 0, 1<<64-1), summary, mounted(1), mounted(14), forged, callsSummary, pathDenied, manyPaths, pathsSummary, withoutPorts, wantedSummary}, lifeExamples...)

func asMap(fields []Field) map[string]string {
	m := map[string]string{}
	for _, f := range fields {
		m[f.Name] = f.Value
	}
	return m
}

func TestEventsComeBack(t *testing.T) {
	for _, e := range examples {
		fields := Fields(e)
		m := asMap(fields)
		if len(m) != len(fields) {
			t.Errorf("a field twice in %v", fields)
		}
		got, err := FromFields(m)
		if err != nil || got != e {
			t.Errorf("got %+v, %v; want %+v", got, err, e)
		}
		if m["PRIORITY"] != "4" || m["SYSLOG_IDENTIFIER"] != "purple-init" || m["PURPLE_EVENT"] == "" {
			t.Errorf("fields %v", m)
		}
	}
}

func TestMessages(t *testing.T) {
	for want, e := range map[string]Event{
		"Denied tcp to 2001:db8::7 port 443":                                                                         denied("tcp", 443, 0, 1),
		"Denied udp to 2001:db8::7 port 53, 14 times so far":                                                         denied("udp", 53, 0, 14),
		"Denied icmpv6 to 2001:db8::7 type 128":                                                                      denied("icmpv6", 0, 128, 1),
		"Denied 47 to 2001:db8::7":                                                                                   denied("47", 0, 0, 1),
		`Denied \x1b]0;x\x07\x0a\xff\xe2\x80\xae to ::1`:                                                             ConnectionDenied{Protocol: "\x1b]0;x\a\n\xff\u202e", Destination: netip.IPv6Loopback()},
		`Denied mount(dev_name="none", dir_name="/a b") to "node", pid 3 (4711 on the host): EPERM`:                  mounted(1),
		`Denied mount(dev_name="none", dir_name="/a b") to "node", pid 3 (4711 on the host): EPERM, 14 times so far`: mounted(14),
		`Denied ptrace(path="\x1b[2J") to "\x1b[31m\x0a", pid unknown (4711 on the host): EPERM`:                     forged,
		`Denied \x1b(\x0a) to "\x07", pid 1 (2 on the host): `:                                                       SyscallDenied{Syscall: "\x1b", Arguments: "\n", Comm: "\a", PID: 2, SandboxPID: 1},
		"Denied system calls in this run: 10014; different ones: 3":                                                  callsSummary,
		`Denied to create "/usr/a b\x1b" to "node", pid 3 (4711 on the host): EROFS by openat, 2 times so far`:       pathDenied,
		`Denied to remove further paths to a process, pid unknown (4711 on the host): EROFS by unlinkat`:             manyPaths,
		"Denied accesses to paths in this run: 300; different ones: 257":                                             pathsSummary,
		`Denied CAP_NET_BIND_SERVICE to "nc", pid unknown (1 on the host): EACCES by bind`:                           withoutPorts,
		"Denied calls for want of a capability in this run: 4; capabilities: 2":                                      wantedSummary,
		"Denied packets in this run: 3; destinations: 2":                                                             DenialsSummary{Total: 3, Destinations: 2},
		"Denied packets in this run: 9; destinations: 1; to further destinations: 2; to destinations not known: 3":   DenialsSummary{Total: 9, Destinations: 1, Others: 2, Lost: 2, Unreadable: 1},
	} {
		if got := Fields(e)[0]; got.Name != "MESSAGE" || got.Value != want {
			t.Errorf("got %q, want %q", got.Value, want)
		}
	}
}

func TestFromFieldsRefuses(t *testing.T) {
	cases := []struct{ name, value, want string }{
		{"MESSAGE_ID", "", "not an event of Purple's"},
		{"MESSAGE_ID", "fc2e22bc6ee647b6b90729ab34a250b1", "not an event of Purple's"},
		{"PURPLE_COUNT", "-1", "PURPLE_COUNT"},
		{"PURPLE_COUNT", "18446744073709551616", "out of range"},
		{"PURPLE_PORT", "65536", "out of range"},
		{"PURPLE_PORT", "https", "invalid syntax"},
		{"PURPLE_DESTINATION", "example.com", "PURPLE_DESTINATION"},
		{"PURPLE_DESTINATION", "fe80::1%\x1b[2J", "has a zone"},
		{"PURPLE_PROTOCOL", "tcp\n", "is no protocol"},
		{"PURPLE_PID", "4294967296", "out of range"},
		{"PURPLE_COMM", "\x1b[2J", "is not escaped"},
		{"PURPLE_ARGUMENTS", "a\nb", "is not escaped"},
		{"PURPLE_REGISTERS", "0x0 0x0 0x0 0x0 0x0", "there are 5"},
		{"PURPLE_REGISTERS", "0x0 0x0 0x0 0x0 0x0 10", "is no register"},
		{"PURPLE_REGISTERS", "0x0 0x0 0x0 0x0 0x0 0x10000000000000000", "is no register"},
	}
	for _, c := range cases {
		m := asMap(Fields(examples[0]))
		if _, ok := m[c.name]; !ok {
			m = asMap(Fields(forged))
		}
		m[c.name] = c.value
		if e, err := FromFields(m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%q: %v, %v, want %q", c.name, c.value, e, err, c.want)
		}
	}
	for _, e := range examples {
		for _, f := range e.own() {
			m := asMap(Fields(e))
			delete(m, f.Name)
			got, err := FromFields(m)
			if optional(e, f.Name) {
				if err != nil || got == e {
					t.Errorf("without %s: %+v, %v", f.Name, got, err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), f.Name+": the field is missing") {
				t.Errorf("without %s: %v", f.Name, err)
			}
		}
	}
	if _, err := FromFields(nil); !errors.Is(err, ErrNotPurple) {
		t.Errorf("nothing: %v", err)
	}
}

func FuzzFromFields(f *testing.F) {
	f.Add(ConnectionDeniedID, "tcp", "::1", "1")
	f.Add(SyscallDeniedID, "\x1b", `filename="/a"`, "4711")
	f.Add(SyscallsDeniedID, "", "", "14")
	f.Add(DenialsSummaryID, "", "", "18446744073709551615")
	f.Add(RunStartedID, "x", "y", "1")
	f.Add(LimitReachedID, "memory", "y", "1")
	f.Add(RunEndedID, "signal", "cpu", "15")
	f.Add(SyscallDeniedID, "", "0x1 0x2 0x3 0x4 0x5 0x6", "14")
	f.Fuzz(func(t *testing.T, id, protocol, address, number string) {
		m := asMap(slices.Concat(examples[0].own(), summary.own(), forged.own(), callsSummary.own(), started.own(), ended.own()))
		m["MESSAGE_ID"], m[FieldProtocol], m[FieldDestination], m[FieldCount], m[FieldTotal] = id, protocol, address, number, number
		m[FieldICMPType], m[FieldPID], m[FieldComm], m[FieldArguments], m[FieldRegisters] = number, number, protocol, address, address
		m[FieldLimit], m[FieldReason], m[FieldCommand], m[FieldLimitsReached] = protocol, protocol, address, address
		m[FieldValue], m[FieldStatus], m[FieldSignal], m[FieldCPU], m[FieldLimitMemory] = number, number, number, number, number
		e, err := FromFields(m)
		if err != nil {
			return
		}
		if again, err := FromFields(asMap(Fields(e))); err != nil || again != e {
			t.Errorf("%+v became %+v, %v", e, again, err)
		}
	})
}

func TestEncode(t *testing.T) {
	length := binary.LittleEndian.AppendUint64(nil, 4)
	want := "A=x=y\nB_2\n" + string(length) + "a\nC=\nLAST=\n"
	got, err := encode([]Field{{"A", "x=y"}, {"B_2", "a\nC="}, {"LAST", ""}})
	if err != nil || string(got) != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	for _, name := range []string{"", "_UID", "1ST", "lower", "A-B", "A=B", "A\nB", "Ä", strings.Repeat("A", 65)} {
		if _, err := encode([]Field{{name, "x"}}); err == nil {
			t.Errorf("the name %q was accepted", name)
		}
	}
	for _, e := range examples {
		if _, err := encode(Fields(e)); err != nil {
			t.Error(err)
		}
	}
}

// listener is a journal that only receives.
func listener(t *testing.T, fields ...Field) (*Writer, int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	w, err := open(path, fields...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w, fd
}

func TestSend(t *testing.T) {
	t.Setenv("INVOCATION_ID", "00112233445566778899aabbccddeeff")
	w, fd := listener(t, append(Invocation(), AboutUnit(summary.Unit, false))...)
	if err := w.Send(summary); err != nil {
		t.Fatal(err)
	}
	want, err := encode(append(Fields(summary), Field{"INVOCATION_ID", "00112233445566778899aabbccddeeff"}, Field{"OBJECT_SYSTEMD_UNIT", summary.Unit}))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	n, err := unix.Read(fd, buf)
	if err != nil || !bytes.Equal(buf[:n], want) {
		t.Errorf("got %q, %v, want %q", buf[:n], err, want)
	}
}

func TestSendLongEventsAsFile(t *testing.T) {
	w, fd := listener(t)
	long := summary
	long.Profile = strings.Repeat("x", 1<<20)
	if err := w.Send(long); err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(fd, nil, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n != 0 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%v, %v", messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[0]), "entry")
	defer file.Close()
	if seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_WRITE == 0 {
		t.Errorf("seals %x, %v", seals, err)
	}
	info, err := file.Stat()
	if err != nil || info.Size() < 1<<20 {
		t.Errorf("size %v, %v", info.Size(), err)
	}
}

func TestSendTellsOfFailure(t *testing.T) {
	w, err := open(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Send(summary); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no journal: %v", err)
	}
	// A journal that is stopped: its queue fills, and the wait is bounded.
	w, _ = listener(t)
	for range 10000 {
		if err = w.Send(summary); err != nil {
			break
		}
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a full queue: %v", err)
	}
	// It was waited for once: these would take five minutes each.
	long := summary
	long.Profile = strings.Repeat("x", 1<<20) // goes as a file
	for range 300 {
		for _, e := range []Event{summary, long} {
			if err := w.Send(e); !errors.Is(err, unix.EAGAIN) {
				t.Errorf("a full queue: %v", err)
			}
		}
	}
}

func TestOpenStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stdout")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	fd, err := openStream(path, "purple-command", "purple-web-0123abcd.service")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, []byte("line\n")); err != nil {
		t.Error(err)
	}
	unix.Close(fd)
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const want = "purple-command\npurple-web-0123abcd.service\n6\n0\n0\n0\n0\nline\n"
	if got, err := io.ReadAll(conn); err != nil || string(got) != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if _, err := openStream(path+"x", "purple-command", ""); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no journal: %v", err)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func sorted(words []string) []string { slices.Sort(words); return slices.Compact(words) }

func ids() (all []string) {
	for _, e := range examples {
		all = append(all, e.id())
	}
	return sorted(all)
}

// TestCatalog: each event has one entry, and each entry substitutes only
// fields that its event always has.
func TestCatalog(t *testing.T) {
	entries := strings.Split("\n"+readFile(t, "../packaging/purple.catalog"), "\n-- ")[1:]
	var explained []string
	for _, entry := range entries {
		id, text, _ := strings.Cut(entry, "\n")
		explained = append(explained, id)
		for _, want := range []string{"Subject: ", "Defined-By: Purple\n", "\n\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s has no %q", id, want)
			}
		}
		for _, e := range examples {
			if e.id() != id {
				continue
			}
			for _, m := range regexp.MustCompile(`@(\w+)@`).FindAllStringSubmatch(text, -1) {
				// systemd's src/basic/replace-var.c takes no other.
				if strings.Trim(m[1], "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
					t.Errorf("%s: journalctl replaces no %s", id, m[1])
				}
				if _, ok := asMap(Fields(e))[m[1]]; !ok || optional(e, m[1]) {
					t.Errorf("%s: an event has no %s", id, m[1])
				}
			}
		}
	}
	if want := ids(); len(entries) != len(want) || !slices.Equal(sorted(explained), want) {
		t.Errorf("entries for %v, want %v", explained, want)
	}
}

// TestDocumentedFields compares the table of docs/audit.md with the code.
func TestDocumentedFields(t *testing.T) {
	page := readFile(t, "../docs/audit.md")
	var documented, have []string
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "| `PURPLE_") {
			cell := strings.Split(line, "|")[1]
			documented = append(documented, regexp.MustCompile(`PURPLE_\w+`).FindAllString(cell, -1)...)
		}
	}
	for _, e := range examples {
		if !strings.Contains(page, "| `"+e.name()+"` | `"+e.id()+"` |") {
			t.Errorf("the page has no event %s", e.name())
		}
		have = append(have, FieldEvent)
		for _, f := range e.own() {
			have = append(have, f.Name)
		}
	}
	if !slices.Equal(sorted(documented), sorted(have)) {
		t.Errorf("documented %v, have %v", documented, have)
	}
}
