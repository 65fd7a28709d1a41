package journal

// History is what the events of one run tell, added in the order of the
// journal.
type History struct {
	Started *RunStarted
	Ended   *RunEnded
	Limits  []LimitReached
	// Calls, Connections, Paths and Capabilities are the last event of each that is counted apart,
	// in the order in which they came first.
	Calls        []SyscallDenied
	Connections  []ConnectionDenied
	Paths        []PathDenied
	Capabilities []CapabilityDenied
	// The totals are exact, of a run that has ended.
	CallsTotal        *SyscallsDenied
	ConnectionsTotal  *DenialsSummary
	PathsTotal        *PathsDenied
	CapabilitiesTotal *CapabilitiesDenied

	calls, connections, paths, capabilities map[string]int // where each is
}

// Add adds one event.
func (h *History) Add(e Event) {
	switch e := e.(type) {
	case RunStarted:
		h.Started = &e
	case RunEnded:
		h.Ended = &e
	case LimitReached:
		h.Limits = append(h.Limits, e)
	case SyscallDenied:
		h.Calls, h.calls = replaced(h.Calls, h.calls, e.key(), e)
	case SyscallsDenied:
		h.CallsTotal = &e
	case ConnectionDenied:
		h.Connections, h.connections = replaced(h.Connections, h.connections, e.Flow(), e)
	case DenialsSummary:
		h.ConnectionsTotal = &e
	case PathDenied:
		h.Paths, h.paths = replaced(h.Paths, h.paths, e.key(), e)
	case PathsDenied:
		h.PathsTotal = &e
	case CapabilityDenied:
		h.Capabilities, h.capabilities = replaced(h.Capabilities, h.capabilities, e.key(), e)
	case CapabilitiesDenied:
		h.CapabilitiesTotal = &e
	}
}

// replaced puts an event in the place of an earlier one of the same key.
func replaced[E Event](list []E, places map[string]int, key string, e E) ([]E, map[string]int) {
	if i, ok := places[key]; ok {
		list[i] = e
		return list, places
	}
	if places == nil {
		places = map[string]int{}
	}
	places[key] = len(list)
	return append(list, e), places
}

// IsEmpty tells whether nothing was added that History knows.
func (h *History) IsEmpty() bool {
	return h.Started == nil && h.Ended == nil && h.Limits == nil && h.Calls == nil && h.Connections == nil &&
		h.Paths == nil && h.Capabilities == nil &&
		h.CallsTotal == nil && h.ConnectionsTotal == nil && h.PathsTotal == nil && h.CapabilitiesTotal == nil
}
