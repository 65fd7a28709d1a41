package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/internal/ruleset"
	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
	"github.com/purple-sandbox/purple/translate"
	"github.com/purple-sandbox/purple/translate/seccomp"
)

// noRules are a network's in which nothing is allowed.
var noRules = ruleset.Table{Chains: []ruleset.Chain{{Name: "output", Hook: ruleset.Output, Rules: []ruleset.Rule{{Statements: []ruleset.Statement{ruleset.Drop{}}}}}}}

func refusedCall(t *testing.T, name string, count uint64, comm string, args ...uint64) spec.RefusedCall {
	t.Helper()
	nr, ok := syscalls.Number(seccomp.NativeArch, name)
	if !ok {
		t.Fatalf("no %s", name)
	}
	c := spec.RefusedCall{Nr: uint32(nr), Comm: comm, Errno: "EPERM", Count: count}
	copy(c.Args[:], args)
	return c
}

func explainTo(t *testing.T, network *spec.Denied, calls *spec.DeniedCalls) []string {
	t.Helper()
	rule := func(list, name string) policies.SyscallRule { return policies.SyscallRule{Name: name, Key: list} }
	rules, err := seccomp.Resolve(policies.Syscalls{
		DefaultDeny: true,
		Allow:       []policies.SyscallRule{rule("syscalls.allow[0]", "@system-service"), rule("syscalls.allow[1]", "ptrace")},
		Deny:        []policies.SyscallRule{rule("syscalls.deny[0]", "@mount"), rule("syscalls.deny[1]", "ptrace")},
	}, seccomp.NativeArch)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	s := &session{plan: &translate.Plan{Unit: "purple-x-01234567.service", Spec: spec.Spec{RunID: "01234567"}, Network: &translate.Network{Rules: noRules}}, rules: rules}
	(&app{stderr: &stderr}).explainDenied(s, network, calls, nil)
	return strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
}

func TestExplainDenied(t *testing.T) {
	if got := explainTo(t, nil, nil); len(got) != 1 || got[0] != "" {
		t.Errorf("nothing is %q", got)
	}
	calls := &spec.DeniedCalls{Total: 22, Most: []spec.RefusedCall{
		refusedCall(t, "syslog", 14, "node"), refusedCall(t, "mount", 4, ""), refusedCall(t, "ptrace", 2, "gdb"),
		refusedCall(t, "unshare", 1, "sh", 0x10000000), refusedCall(t, "ioctl", 1, "x\x1b[2J", 0, 0x5412),
	}}
	network := &spec.Denied{Total: 3, Most: []spec.Refusal{{Destination: "tcp to 203.0.113.7 port 8080", Protocol: "tcp", Address: "203.0.113.7", Port: 8080, Count: 3}}}
	want := []string{
		"purple: purple-x-01234567.service: denied: 22 system calls, 3 packets",
		"  syscalls.allow: syslog                                       # 14 × node, EPERM",
		"  syscalls.allow: mount; out of syscalls.deny: @mount          # 4 × several processes, EPERM",
		"  network.allow_outgoing: 8080/tcp                             # 3 × tcp to 203.0.113.7 port 8080",
		"  out of syscalls.deny: ptrace                                 # 2 × gdb, EPERM",
		"  syscalls.allow: unshare:CLONE_NEWUSER                        # 1 × sh, EPERM",
		`  no profile allows this ioctl: it puts input into a terminal  # 1 × x\x1b[2J, EPERM`,
	}
	got := explainTo(t, network, calls)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// However much was denied, ten lines say it.
func TestExplainDeniedIsShort(t *testing.T) {
	calls, network := &spec.DeniedCalls{Total: 1, More: 3}, &spec.Denied{Total: 100, More: 7}
	for i := range spec.MaxRefusedCalls {
		calls.Most = append(calls.Most, refusedCall(t, "syslog", uint64(i), fmt.Sprint(i)))
	}
	for i := range spec.MaxRefusals {
		network.Most = append(network.Most, spec.Refusal{Destination: "udp to ::1", Protocol: "udp", Address: "no address", Count: 1000 + uint64(i)})
	}
	got := explainTo(t, network, calls)
	if len(got) != maxExplained || got[0] != "purple: purple-x-01234567.service: denied: 1 system call, 100 packets" {
		t.Errorf("%d lines: %q", len(got), got)
	}
	if last := got[len(got)-1]; last != "  and 15 more: purple why 01234567" {
		t.Error(last)
	}
	if !strings.Contains(got[1], "1004 × ") || !strings.Contains(got[1], "no profile allows this") {
		t.Error(got[1])
	}
}
