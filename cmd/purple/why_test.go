package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
)

const whyUnit = "purple-web-01234567.service"

var whyRun = journal.Run{Unit: whyUnit, Profile: "web", RunID: "01234567"}

const whyProfile = `name: web
filesystem: {workspace: read-only}
syscalls:
  allow: ["@system-service"]
  deny: ["@memlock", mincore]
network:
  isolated: false
  allow_outgoing: [443]
`

// whyStore is an app that finds a profile "web", and the file.
func whyStore(t *testing.T, content string) (*app, string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "web.yaml")
	if content != "" {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &app{policyDirs: []policies.Dir{{Path: dir, Source: "user"}}}, file
}

func digestOf[T ~string | ~[]byte](t *testing.T, name string, content T) string {
	t.Helper()
	p, err := policies.Parse(name, name+".yaml", []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	digest, err := p.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func deniedCallEvent(call, comm string, count uint64, registers ...uint64) journal.SyscallDenied {
	e := journal.SyscallDenied{Run: whyRun, Syscall: call, Errno: "EPERM", Comm: comm, PID: 10, Count: count}
	copy(e.Registers[:], registers)
	return e
}

func deniedFlowEvent(protocol, to string, port uint16, count uint64) journal.ConnectionDenied {
	return journal.ConnectionDenied{
		Run: whyRun, Protocol: protocol, Source: netip.MustParseAddr("10.213.0.2"), Destination: netip.MustParseAddr(to), Port: port, Count: count,
	}
}

// whyEvents are of a run that was denied one of each kind.
func whyEvents(hash, file string) []journal.Event {
	return []journal.Event{
		journal.RunStarted{Run: whyRun, PolicyHash: hash, ProfileFile: file, Command: "sh -c x"},
		deniedCallEvent("pidfd_getfd", "node", 4),
		deniedCallEvent("pidfd_getfd", "node", 14),
		deniedCallEvent("mlock", `x\x1b[2J`, 3),
		deniedCallEvent("unshare", "", 2, 0x10000000),
		deniedCallEvent("ioctl", "sh", 1, 0, 0x5412),
		deniedFlowEvent("tcp", "198.51.100.10", 8080, 6),
		deniedFlowEvent("tcp", "10.9.0.2", 443, 5),
		deniedFlowEvent("sctp", "198.51.100.10", 443, 1),
		journal.LimitReached{Run: whyRun, Limit: journal.LimitMemory, Value: 256 << 20, Count: journal.Known(1)},
	}
}

var whyEnded = journal.RunEnded{
	Run: whyRun, Reason: journal.ReasonOOM, Status: 137, Wall: journal.Known(2e6),
	Reached: journal.Reached{Limits: "memory cpu", OOMKills: journal.Known(2), Throttled: journal.Known(9)},
	Denials: journal.Denials{Connections: journal.Known(15), Syscalls: journal.Known(20)},
}

// recordOf passes events through the fields that the journal has of them.
func recordOf(t *testing.T, events ...journal.Event) *record {
	t.Helper()
	r := &record{foundRun: inSystem(whyUnit)}
	for _, e := range events {
		r.add(entryOf(e))
	}
	return r
}

func entryOf(e journal.Event) journal.Entry {
	entry := journal.Entry{"_SYSTEMD_UNIT": whyUnit, "_TRANSPORT": "journal"}
	for _, f := range journal.Fields(e) {
		entry[f.Name] = f.Value
	}
	return entry
}

// reportOf is profileOf and newReport with the network of a made-up machine.
func reportOf(t *testing.T, a *app, r *record) *report {
	t.Helper()
	p := a.profileOf(r)
	if p.policy != nil && !p.policy.Network.Isolated {
		p.networkErr = nil
		var err error
		if p.network, err = translate.NetworkOf(p.policy, host.Network{IPv6: true}); err != nil {
			t.Fatal(err)
		}
	}
	return newReport(r, p)
}

func mustBeText(t *testing.T, got string, want ...string) {
	t.Helper()
	if text := strings.Join(want, "\n") + "\n"; got != text {
		t.Errorf("got\n%s\nwant\n%s", got, text)
	}
}

func TestWhyText(t *testing.T) {
	a, file := whyStore(t, whyProfile)
	hash := digestOf(t, "web", whyProfile)
	end := whyEnded
	end.PolicyHash = hash
	r := recordOf(t, append(whyEvents(hash, file), end)...)
	text := strings.ReplaceAll(reportOf(t, a, r).text(), file, "FILE")
	mustBeText(t, text,
		whyUnit+": Killed: out of memory after 2s; limits reached: memory cpu; denied packets: 15; denied system calls: 20",
		"profile: web (FILE)",
		"limit: resources.memory_limit_bytes: Out of memory: the limit is 256M",
		"limit: resources.cpu_shares: Reached the limit: cpu",
		"denied:",
		"  COUNT  PROCESS            WHAT                            ERRNO  WHAT WOULD ALLOW IT",
		"  14     node               pidfd_getfd                     EPERM  syscalls.allow: pidfd_getfd  # FILE:4:3",
		"  6      -                  tcp to 198.51.100.10 port 8080  -      network.allow_outgoing: 8080/tcp  # FILE:8:3",
		"  5      -                  tcp to 10.9.0.2 port 443        -      network.allow_outgoing: 10.9.0.2:443/tcp  # FILE:8:3",
		`  3      x\x1b[2J           mlock                           EPERM  out of syscalls.deny: @memlock  # FILE:5:10`,
		"  2      several processes  unshare                         EPERM  syscalls.allow: unshare:CLONE_NEWUSER  # FILE:4:3",
		"  1      sh                 ioctl                           EPERM  no profile: it puts input into a terminal",
		"  1      -                  sctp to 198.51.100.10 port 443  -      no profile: only TCP and UDP to a port can be allowed",
		"and 3 packets to destinations without an event of their own",
	)
}

// While it goes on, and where the profile is built in.
func TestWhyTextOfARunThatGoesOn(t *testing.T) {
	offline, err := policies.Builtin("offline")
	if err != nil {
		t.Fatal(err)
	}
	a, _ := whyStore(t, "")
	r := recordOf(t, journal.RunStarted{Run: whyRun, PolicyHash: digestOf(t, "offline", offline.Content)})
	r.unit, r.runs = "purple-offline-01234567.service", true
	w := reportOf(t, a, r)
	mustBeText(t, w.text(),
		"purple-offline-01234567.service: it goes on; what was denied in the last 10 seconds may be missing",
		"profile: offline", "nothing was denied",
	)
	if w.ProfileState != profileSame || w.Totals.Syscalls == nil || w.Totals.Connections != nil {
		t.Errorf("%+v", w)
	}
}

// A profile that has changed since is asked as it is now, and that is said.
func TestWhyOfAChangedProfile(t *testing.T) {
	changed := strings.NewReplacer("[443]", "[443, 8080]", `["@memlock", mincore]`, `[mincore]`).Replace(whyProfile)
	a, file := whyStore(t, changed)
	w := reportOf(t, a, recordOf(t, whyEvents(digestOf(t, "web", whyProfile), file)...))
	if w.ProfileState != profileChanged || !strings.Contains(w.text(), "web.yaml): it has changed since the start of the run") {
		t.Errorf("%s", w.text())
	}
	want := map[string]string{
		"pidfd_getfd": "syscalls.allow: pidfd_getfd", "mlock": "the profile as it is now allows it", "tcp to 198.51.100.10 port 8080": "the profile as it is now allows it",
		"tcp to 10.9.0.2 port 443": "network.allow_outgoing: 10.9.0.2:443/tcp", "ioctl": "no profile: it puts input into a terminal",
	}
	for _, d := range w.Denials {
		text, _, _ := strings.Cut(d.remedyText(), "  # ")
		if want, ok := want[d.what]; ok && text != want {
			t.Errorf("%s: %q, want %q", d.what, text, want)
		}
		if d.Allowed != (d.Remedy == nil) {
			t.Errorf("%s: allowed now: %t, remedy %+v", d.what, d.Allowed, d.Remedy)
		}
	}
	if len(w.Denials) != 7 {
		t.Errorf("%+v", w.Denials)
	}
}

func TestWhyOfAProfileThatIsolatesNow(t *testing.T) {
	isolated := strings.Replace(whyProfile, "  isolated: false\n  allow_outgoing: [443]\n", "  isolated: true\n", 1)
	a, file := whyStore(t, isolated)
	w := reportOf(t, a, recordOf(t, whyEvents(digestOf(t, "web", whyProfile), file)...))
	if text := w.text(); !strings.Contains(text, "\nwhat would allow packets is not known: the profile isolates the network now\n") ||
		!strings.Contains(text, "port 8080  -      not known\n") {
		t.Errorf("%s", text)
	}
}

// Without its profile a run has its denials all the same, and what no profile
// allows is known.
func TestWhyWithoutAProfile(t *testing.T) {
	for content, reason := range map[string]string{"": "no such file", "name: web\nsyscals: {}\n": `syscals: unknown key`} {
		a, file := whyStore(t, content)
		w := reportOf(t, a, recordOf(t, whyEvents(digestOf(t, "web", whyProfile), file)...))
		if w.ProfileState != profileUnreadable || !strings.Contains(w.ProfileError, reason) {
			t.Errorf("%s: %q", w.ProfileState, w.ProfileError)
		}
		for _, d := range w.Denials {
			if known := d.what == "ioctl"; known != (d.Remedy != nil && d.Remedy.Never != "") || !known && d.remedyText() != "not known" {
				t.Errorf("%s: %s", d.what, d.remedyText())
			}
		}
		if len(w.Denials) != 7 {
			t.Errorf("%+v", w.Denials)
		}
	}
}

// Only what Purple wrote about the unit counts, and what cannot be read is said.
func TestRecord(t *testing.T) {
	r := &record{foundRun: inSystem(whyUnit)}
	foreign, printed, broken, other := entryOf(deniedCallEvent("mlock", "x", 1)), entryOf(deniedCallEvent("mlock", "x", 1)), entryOf(deniedCallEvent("mlock", "x", 1)), journal.Entry{}
	foreign["_SYSTEMD_UNIT"], printed["_TRANSPORT"] = "evil.service", "stdout"
	delete(broken, journal.FieldRegisters)
	other["_SYSTEMD_UNIT"], other["_TRANSPORT"], other[journal.FieldEvent] = whyUnit, "journal", "new-event"
	for _, e := range []journal.Entry{foreign, printed, broken, other} {
		r.add(e)
	}
	if !r.history.IsEmpty() || r.unreadable != 1 {
		t.Errorf("%+v", r)
	}
	killed := entryOf(whyEndedBy(journal.ReasonKilled))
	killed["_SYSTEMD_UNIT"], killed["_UID"], killed[journal.FieldObjectUnit] = "session-1.scope", "0", whyUnit
	r.add(killed)
	if r.history.Ended == nil {
		t.Error("the end in place of a killed supervisor is not found")
	}
}

func whyEndedBy(reason journal.Reason) journal.RunEnded {
	return journal.RunEnded{Run: whyRun, PolicyHash: strings.Repeat("0", 64), Reason: reason, Status: 137}
}

// What was not recorded is not "nothing".
func TestWhyOfWhatWasNotRecorded(t *testing.T) {
	quiet := whyProfile + "audit: {detail_level: [resource]}\n"
	a, file := whyStore(t, quiet)
	hash := digestOf(t, "web", quiet)
	end := whyEndedBy(journal.ReasonExited)
	end.PolicyHash = hash
	w := reportOf(t, a, recordOf(t, journal.RunStarted{Run: whyRun, PolicyHash: hash, ProfileFile: file}, end))
	if text := w.text(); !strings.HasSuffix(text, "denied system calls were not recorded\ndenied packets were not recorded\n") || w.Totals.Syscalls != nil || w.Totals.Connections != nil {
		t.Errorf("%s", text)
	}
	r := recordOf(t, journal.RunStarted{Run: whyRun, PolicyHash: hash, ProfileFile: file})
	r.unreadable = 2
	if text := reportOf(t, a, r).text(); !strings.Contains(text, "how it ended was not recorded") || !strings.Contains(text, "not read: 2 events") {
		t.Errorf("%s", text)
	}
}

func TestWhyJSON(t *testing.T) {
	a, file := whyStore(t, whyProfile)
	hash := digestOf(t, "web", whyProfile)
	end := whyEnded
	end.PolicyHash = hash
	started := journal.RunStarted{Run: whyRun, PolicyHash: hash, ProfileFile: file, Command: "sh -c x"}
	w := reportOf(t, a, recordOf(t, started, deniedCallEvent("mlock", "node", 3), deniedFlowEvent("tcp", "10.9.0.2", 443, 2),
		deniedCallEvent("ioctl", "sh", 1, 0, 0x5412), journal.LimitReached{Run: whyRun, Limit: journal.LimitMemory, Value: 256 << 20, Count: journal.Known(1)}, end))
	var got bytes.Buffer
	if err := printJSON(&got, w); err != nil {
		t.Fatal(err)
	}
	const want = `{
  "unit": "purple-web-01234567.service", "profile": "web", "profile_file": "FILE", "profile_state": "same", "policy_hash": "HASH",
  "command": "sh -c x", "running": false, "end": {"reason": "out-of-memory", "status": 137},
  "limits": [
    {"limit": "memory", "key": "resources.memory_limit_bytes", "value": 268435456, "count": 2},
    {"limit": "cpu", "key": "resources.cpu_shares", "value": null, "count": 9}
  ],
  "totals": {"connections": 15, "syscalls": 20, "paths": 0, "capabilities": 0},
  "denials": [
    {"kind": "syscall", "count": 3, "syscall": "mlock", "process": "node", "errno": "EPERM", "allowed_now": false,
     "remedy": {"add": [], "remove": [{"key": "syscalls.deny", "entry": "@memlock", "at": "FILE:5:10"}]}},
    {"kind": "connection", "count": 2, "protocol": "tcp", "destination": "10.9.0.2", "port": 443, "allowed_now": false,
     "remedy": {"add": [{"key": "network.allow_outgoing", "entry": "10.9.0.2:443/tcp", "at": "FILE:8:3"}], "remove": []}},
    {"kind": "syscall", "count": 1, "syscall": "ioctl", "process": "sh", "errno": "EPERM", "allowed_now": false,
     "remedy": {"add": [], "remove": [], "never": "it puts input into a terminal"}}
  ],
  "unreadable_events": 0
}`
	var compact [2]bytes.Buffer
	text := strings.NewReplacer(file, "FILE", hash, "HASH").Replace(got.String())
	for i, s := range []string{text, want} {
		if err := json.Compact(&compact[i], []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if compact[0].String() != compact[1].String() {
		t.Errorf("got\n%s\nwant\n%s", compact[0].String(), compact[1].String())
	}
}

// Nothing in an event steers the terminal, not as JSON either.
func TestWhySteersNoTerminal(t *testing.T) {
	const steering = "\x1b[2J\u009b\x7f\r\n"
	a, _ := whyStore(t, "")
	end := whyEndedBy(journal.ReasonRefused)
	end.Error = "cannot" + steering
	w := reportOf(t, a, recordOf(t, journal.RunStarted{Run: whyRun, PolicyHash: end.PolicyHash, ProfileFile: "/no" + steering + "/web.yaml", Command: steering}, end))
	var text bytes.Buffer
	if err := printJSON(&text, w); err != nil {
		t.Fatal(err)
	}
	text.WriteString(w.text())
	if strings.ContainsAny(text.String(), "\x1b\u009b\x7f\r") || !strings.Contains(text.String(), `/no\x1b[2J`) {
		t.Errorf("%q", text.String())
	}
}

// Every limit of which a run can tell has its key, which a profile has.
func TestLimitKeys(t *testing.T) {
	p, err := policies.Parse("web", "web.yaml", []byte(whyProfile+"resources: {memory_limit_bytes: 1G, pids_limit: 9, cpu_shares: 0.5, block_io_limit: 2MBps, session_timeout_seconds: 9}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []journal.Limit{journal.LimitMemory, journal.LimitTasks, journal.LimitCPU, journal.LimitIO, journal.LimitTime} {
		if at := p.Where(limitKeys[limit]); at.Line != 9 || at.Column == 1 {
			t.Errorf("%s: %q is at %v", limit, limitKeys[limit], at)
		}
	}
}
