package journal

// Tally counts denials from the events of any number of runs, added in the
// order of the journal.
type Tally struct {
	connections map[string]map[string]uint64 // by unit, then by flow
	totals      map[string]uint64            // of the runs that have ended
}

// Add counts one event of a unit, which is best taken from _SYSTEMD_UNIT=. The
// counts in the events of a flow are those since the start of the run: the last
// one counts.
func (t *Tally) Add(unit string, e Event) {
	switch e := e.(type) {
	case ConnectionDenied:
		if t.connections == nil {
			t.connections = map[string]map[string]uint64{}
		}
		if t.connections[unit] == nil {
			t.connections[unit] = map[string]uint64{}
		}
		t.connections[unit][e.Flow()] = e.Count
	case DenialsSummary:
		if t.totals == nil {
			t.totals = map[string]uint64{}
		}
		t.totals[unit] = e.Total
	}
}

// Denials is how often a run was denied something, as far as events tell.
func (t *Tally) Denials(unit string) uint64 {
	if total, ok := t.totals[unit]; ok {
		return total
	}
	var sum uint64
	for _, n := range t.connections[unit] {
		sum += n
	}
	return sum
}

// DenialIDs are the message ids of the events that a Tally counts.
func DenialIDs() []string { return []string{ConnectionDeniedID, DenialsSummaryID} }
