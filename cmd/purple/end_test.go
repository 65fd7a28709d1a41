package main

import (
	"testing"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/units"
)

func TestOutcome(t *testing.T) {
	exited := func(status uint32) *spec.Message { return &spec.Message{Kind: spec.Exited, WaitStatus: status} }
	for _, c := range []struct {
		what    string
		started bool
		exited  *spec.Message
		end     units.End
		want    int
	}{
		{"its own status", true, exited(7 << 8), units.End{Result: "exit-code", Code: 1, Status: 7}, 7},
		{"a signal", true, exited(15), units.End{Result: "exit-code", Code: 1, Status: 143}, 143},
		{"out of time", true, exited(15), units.End{Result: "timeout", Code: 1, Status: 143, Overran: true}, 124},
		{"killed after a stop", true, nil, units.End{Result: "timeout", Code: 2, Status: 9}, 137},
		{"out of time before the command", false, nil, units.End{Result: "timeout", Code: 2, Status: 15}, 125},
		{"out of memory", true, nil, units.End{Result: "oom-kill", Code: 2, Status: 9}, 137},
		{"purple-init not executed", false, nil, units.End{Result: "exit-code", Code: 1, Status: 203}, 125},
		{"purple-init killed", true, nil, units.End{Result: "signal", Code: 2, Status: 9}, 137},
	} {
		if got, _ := outcome(c.started, c.exited, c.end); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
}
