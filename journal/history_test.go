package journal

import (
	"net/netip"
	"slices"
	"testing"
)

// The last event of what is counted apart counts, in the order of the first.
func TestHistory(t *testing.T) {
	var h History
	if !h.IsEmpty() {
		t.Error("nothing is something")
	}
	other := mounted(3)
	other.Comm = "sh"
	flow := func(port uint16, count uint64) ConnectionDenied {
		return ConnectionDenied{Run: run, Protocol: "tcp", Source: netip.MustParseAddr("10.9.0.2"), Destination: netip.MustParseAddr("192.0.2.1"), Port: port, Count: count}
	}
	limit := LimitReached{Run: run, Limit: LimitTime, Value: 2e6}
	for _, e := range []Event{started, mounted(1), other, flow(80, 1), limit, flow(81, 5), mounted(14), flow(80, 7), callsSummary, summary, LogFailed{Run: run}, ended} {
		h.Add(e)
	}
	if !slices.Equal(h.Calls, []SyscallDenied{mounted(14), other}) {
		t.Errorf("%+v", h.Calls)
	}
	if !slices.Equal(h.Connections, []ConnectionDenied{flow(80, 7), flow(81, 5)}) {
		t.Errorf("%+v", h.Connections)
	}
	if !slices.Equal(h.Limits, []LimitReached{limit}) || *h.Started != started || *h.Ended != ended || *h.CallsTotal != callsSummary || *h.ConnectionsTotal != summary {
		t.Errorf("%+v", h)
	}
	for _, e := range examples {
		var one History
		one.Add(e)
		if _, isLog := e.(LogFailed); one.IsEmpty() != isLog {
			t.Errorf("%+v is nothing", e)
		}
	}
}
