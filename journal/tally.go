package journal

// Tally counts denials from the events of any number of runs, added in the
// order of the journal.
type Tally struct{ runs map[string]*runTally }

// runTally is one run's, each kind of denial by itself.
type runTally struct{ connections, syscalls, paths, capabilities kindTally }

// kindTally counts one kind of denial.
type kindTally struct {
	counts map[string]uint64 // by what is counted apart
	total  *uint64           // once the run has ended
}

func (k *kindTally) set(key string, n uint64) {
	if k.counts == nil {
		k.counts = map[string]uint64{}
	}
	k.counts[key] = n
}

func (k *kindTally) sum() uint64 {
	if k.total != nil {
		return *k.total
	}
	var sum uint64
	for _, n := range k.counts {
		sum += n
	}
	return sum
}

// Add counts one event of a unit. The counts in the events are those since the
// start of the run: the last one of what is counted apart counts.
func (t *Tally) Add(unit string, e Event) {
	r := t.runs[unit]
	if r == nil {
		r = &runTally{}
		if t.runs == nil {
			t.runs = map[string]*runTally{}
		}
		t.runs[unit] = r
	}
	switch e := e.(type) {
	case ConnectionDenied:
		r.connections.set(e.Flow(), e.Count)
	case DenialsSummary:
		r.connections.total = &e.Total
	case SyscallDenied:
		r.syscalls.set(e.key(), e.Count)
	case SyscallsDenied:
		r.syscalls.total = &e.Total
	case PathDenied:
		r.paths.set(e.key(), e.Count)
	case PathsDenied:
		r.paths.total = &e.Total
	case CapabilityDenied:
		r.capabilities.set(e.key(), e.Count)
	case CapabilitiesDenied:
		r.capabilities.total = &e.Total
	}
}

// Denials is how often a run was denied something, as far as events tell.
func (t *Tally) Denials(unit string) uint64 {
	r := t.runs[unit]
	if r == nil {
		return 0
	}
	return r.connections.sum() + r.syscalls.sum() + r.paths.sum() + r.capabilities.sum()
}

// IDs are the message ids of all events.
func IDs() []string {
	return append(DenialIDs(), RunStartedID, LimitReachedID, RunEndedID, LogFailedID)
}

// DenialIDs are the message ids of the events that a Tally counts.
func DenialIDs() []string {
	return []string{
		ConnectionDeniedID, DenialsSummaryID, SyscallDeniedID, SyscallsDeniedID,
		PathDeniedID, PathsDeniedID, CapabilityDeniedID, CapabilitiesDeniedID,
	}
}
