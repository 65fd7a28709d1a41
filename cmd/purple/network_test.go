package main

import (
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/internal/spec"
)

// What the sandbox failed at is told, and not that nobody listens any more.
func TestReasonOfAFailedSandbox(t *testing.T) {
	ours, theirs, err := spec.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if err := spec.NewConn(int(theirs.Fd())).Send(spec.Message{Kind: spec.Failed, Step: "mount", Error: "no"}); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	s := &session{conn: ours}
	failure := s.conn.Send(spec.Message{Kind: spec.Connected})
	if failure == nil {
		t.Fatal("control: the message got to nobody")
	}
	if got := s.reason(failure); !strings.Contains(got.Error(), "cannot mount: no") {
		t.Error(got)
	}
}
