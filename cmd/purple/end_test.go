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
	gone := errors.New("gone")
	for _, c := range []struct {
		what   string
		seen   seen
		end    ending
		want   int
		reason journal.Reason
	}{
		{"its own status", seen{released: true, exited: exited(7 << 8)}, ended("exit-code", 1, 7), 7, journal.ReasonExited},
		{"125 of its own", seen{released: true, exited: exited(125 << 8)}, ended("exit-code", 1, 125), 125, journal.ReasonExited},
		{"a signal", seen{released: true, exited: exited(15)}, ended("exit-code", 1, 143), 143, journal.ReasonSignal},
		{"out of time", seen{released: true, exited: exited(15)}, ending{End: units.End{Result: "timeout", Code: 1, Status: 143, Overran: true}}, 124, journal.ReasonTimeout},
		{"killed after a stop", seen{released: true}, ended("timeout", 2, 9), 137, journal.ReasonKilled},
		{"out of memory, as purple-init saw", seen{released: true, exited: &spec.Message{Kind: spec.Exited, WaitStatus: 9, OutOfMemory: true}}, ended("exit-code", 1, 137), 137, journal.ReasonOOM},
		{"out of memory", seen{released: true}, ended("oom-kill", 2, 9), 137, journal.ReasonOOM},
		{"purple-init killed", seen{released: true}, ended("signal", 2, 9), 137, journal.ReasonKilled},
		{"its own status and no bus", seen{released: true, exited: exited(3 << 8)}, ending{err: gone}, 3, journal.ReasonExited},
		{"its status from systemd alone", seen{released: true}, ended("exit-code", 1, 3), 3, journal.ReasonExited},

		// Nothing of the command has run.
		{"a step that failed", seen{failure: &statusError{125, gone}}, ended("exit-code", 1, 125), 125, journal.ReasonRefused},
		{"a command that is not there", seen{failure: &statusError{127, gone}}, ended("exit-code", 1, 125), 127, journal.ReasonRefused},
		{"purple-init not executed", seen{}, ended("exit-code", 1, 203), 125, journal.ReasonRefused},
		{"purple-init refuses without a word", seen{}, ended("exit-code", 1, 125), 125, journal.ReasonRefused},
		{"stopped before it could start", seen{}, ended("success", 0, 0), 125, journal.ReasonRefused},
		{"the socket and the bus are gone before the go", seen{}, ending{err: gone}, 125, journal.ReasonRefused},
		{"purple-init crashed before the go", seen{}, ended("exit-code", 1, 2), 125, journal.ReasonRefused},
		{"purple-init killed before the go", seen{}, ended("signal", 2, 9), 125, journal.ReasonRefused},
		{"out of time before purple-init had begun", seen{}, ended("timeout", 2, 15), 125, journal.ReasonRefused},

		// It may have.
		{"a step after the go", seen{broken: gone}, ended("exit-code", 1, 123), 123, journal.ReasonLost},
		{"a step after the start", seen{released: true, broken: gone}, ended("exit-code", 1, 123), 123, journal.ReasonLost},
		{"the socket and the bus are gone", seen{released: true}, ending{err: gone}, 123, journal.ReasonLost},
		{"purple-init crashed", seen{released: true}, ended("exit-code", 1, 2), 123, journal.ReasonLost},
		{"the socket broke before a word", seen{broken: gone}, ended("exit-code", 1, 203), 123, journal.ReasonLost},
		{"systemd has forgotten it", seen{released: true}, ended("success", 0, 0), 123, journal.ReasonLost},
	} {
		got := outcome(c.seen, c.end)
		if got.status != c.want || got.reason != c.reason {
			t.Errorf("%s: %+v, want %d, %s", c.what, got, c.want, c.reason)
		}
	}
}

// 125 is a promise: it is in no outcome of a command that has started, but its own.
func TestNoOutcomeOfAStartedCommandIsARefusal(t *testing.T) {
	for _, broken := range []error{nil, errors.New("broken")} {
		for _, result := range []string{"success", "exit-code", "signal", "timeout", "oom-kill", "resources", "protocol"} {
			for code := range int32(4) {
				for status := range int32(256) {
					if code == codeExited && status == spec.StatusRefused {
						continue // the command's own
					}
					for _, end := range []ending{ended(result, code, status), {err: errors.New("gone")}} {
						if got := outcome(seen{released: true, broken: broken}, end); got.status == spec.StatusRefused || got.reason == journal.ReasonRefused {
							t.Fatalf("%v, %+v: %+v", broken, end, got)
						}
					}
				}
			}
		}
	}
}

func ended(result string, code, status int32) ending {
	return ending{End: units.End{Result: result, Code: code, Status: status}}
}

// The bus was restarted during the run, and nobody knows what systemd says.
func TestOutcomeWithoutSystemd(t *testing.T) {
	for reason, want := range map[journal.Reason]verdict{
		journal.ReasonTimeout: {status: 124, reason: journal.ReasonTimeout},
		journal.ReasonStopped: {status: 143, reason: journal.ReasonStopped},
		journal.ReasonSignal:  {status: 143, reason: journal.ReasonSignal},
	} {
		v := outcome(seen{released: true, exited: &spec.Message{Kind: spec.Exited, WaitStatus: 15}}, ending{err: errors.New("gone")})
		if got := withRecorded(v, &journal.RunEnded{Reason: reason}); got.status != want.status || got.reason != want.reason {
			t.Errorf("%s: %+v", reason, got)
		}
		if got := withRecorded(v, nil); got.status != 143 || got.reason != journal.ReasonSignal {
			t.Errorf("nothing recorded: %+v", got)
		}
	}
}
