package main

import (
	"errors"
	"testing"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
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
		reason  journal.Reason
	}{
		{"its own status", true, exited(7 << 8), units.End{Result: "exit-code", Code: 1, Status: 7}, 7, journal.ReasonExited},
		{"a signal", true, exited(15), units.End{Result: "exit-code", Code: 1, Status: 143}, 143, journal.ReasonSignal},
		{"out of time", true, exited(15), units.End{Result: "timeout", Code: 1, Status: 143, Overran: true}, 124, journal.ReasonTimeout},
		{"killed after a stop", true, nil, units.End{Result: "timeout", Code: 2, Status: 9}, 137, journal.ReasonKilled},
		{"out of time before the command", false, nil, units.End{Result: "timeout", Code: 2, Status: 15}, 125, journal.ReasonRefused},
		{"out of memory, as purple-init saw", true, &spec.Message{Kind: spec.Exited, WaitStatus: 9, OutOfMemory: true}, units.End{Result: "exit-code", Code: 1, Status: 137}, 137, journal.ReasonOOM},
		{"out of memory", true, nil, units.End{Result: "oom-kill", Code: 2, Status: 9}, 137, journal.ReasonOOM},
		{"purple-init not executed", false, nil, units.End{Result: "exit-code", Code: 1, Status: 203}, 125, journal.ReasonRefused},
		{"stopped before it could start", false, nil, units.End{Result: "success"}, 125, journal.ReasonRefused},
		{"purple-init killed", true, nil, units.End{Result: "signal", Code: 2, Status: 9}, 137, journal.ReasonKilled},
	} {
		if got := outcome(c.started, c.exited, ending{End: c.end}); got.status != c.want || got.reason != c.reason {
			t.Errorf("%s: %+v, want %d, %s", c.what, got, c.want, c.reason)
		}
	}
}

// The bus was restarted during the run, and nobody knows what systemd says.
func TestOutcomeWithoutSystemd(t *testing.T) {
	for reason, want := range map[journal.Reason]verdict{
		journal.ReasonTimeout: {status: 124, reason: journal.ReasonTimeout},
		journal.ReasonStopped: {status: 143, reason: journal.ReasonStopped},
		journal.ReasonSignal:  {status: 143, reason: journal.ReasonSignal},
	} {
		v := outcome(true, &spec.Message{Kind: spec.Exited, WaitStatus: 15}, ending{err: errors.New("gone")})
		if got := withRecorded(v, &journal.RunEnded{Reason: reason}); got.status != want.status || got.reason != want.reason {
			t.Errorf("%s: %+v", reason, got)
		}
		if got := withRecorded(v, nil); got.status != 143 || got.reason != journal.ReasonSignal {
			t.Errorf("nothing recorded: %+v", got)
		}
	}
}
