package confine

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
)

// announceNetwork makes sure that this process is in the namespace that purple
// made and read back, and tells it so: the unit holds the namespace by now, and
// its ExecStopPost= will undo what purple does next.
func (s *supervisor) announceNetwork() error {
	want := s.spec.NetworkNamespace
	if want == 0 {
		return nil
	}
	got, err := namespaceInode("net")
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("it is %d, not %d, which purple made", got, want)
	}
	return s.up.Send(spec.Message{Kind: spec.Alive})
}

// awaitNetwork waits until purple has linked the namespace, and gives the
// sockets that listen on the host for the published ports.
func (s *supervisor) awaitNetwork() ([]int, error) {
	if s.spec.NetworkNamespace == 0 {
		return nil, nil
	}
	m, fds, err := s.up.Recv()
	if err != nil {
		return nil, fmt.Errorf("purple is gone: %w", err)
	}
	if err := expect(m, spec.Connected); err != nil {
		return nil, err
	}
	if len(fds) != len(s.spec.Published) {
		return nil, fmt.Errorf("got %d listening sockets for %d ports", len(fds), len(s.spec.Published))
	}
	return fds, nil
}

// deniedLog turns what the rules refuse into events of the journal.
type deniedLog struct {
	*denials
	journal *journal.Writer
}

// recordDenied begins to listen to the rules of the namespace. That needs the
// privileges which this process drops soon, and the journal's socket, which no
// process of the sandbox sees.
func (s *supervisor) recordDenied() error {
	if !s.spec.RecordDenied {
		return nil
	}
	writer, err := journal.Open()
	if err != nil {
		return err
	}
	d, err := openDenials()
	if err != nil {
		return errors.Join(err, writer.Close())
	}
	d.start(journal.Run{Unit: s.spec.Unit, Profile: s.spec.Profile, RunID: s.spec.RunID}, writer.Send)
	s.denied = &deniedLog{denials: d, journal: writer}
	return nil
}

// reportDenied tells the journal and purple the final counts. The run has ended
// and its status is known: what goes wrong here is said and changes nothing.
func (s *supervisor) reportDenied() {
	if s.denied == nil {
		return
	}
	total, destinations, err := s.denied.end()
	if err = errors.Join(err, s.denied.journal.Close()); err != nil {
		fmt.Fprintf(os.Stderr, "purple: %v\n", err)
	}
	if total.Total > 0 {
		s.tell(spec.Message{Kind: spec.Refused, Denied: denied(total, destinations)})
	}
}

func denied(total journal.DenialsSummary, destinations []journal.ConnectionDenied) *spec.Denied {
	slices.SortStableFunc(destinations, func(x, y journal.ConnectionDenied) int { return cmp.Compare(y.Count, x.Count) })
	d := &spec.Denied{Total: total.Total}
	for _, e := range destinations {
		if len(d.Most) == spec.MaxRefusals {
			break
		}
		d.Most = append(d.Most, spec.Refusal{Destination: e.Flow(), Protocol: e.Protocol, Address: e.Destination.String(), Port: e.Port, Count: e.Count})
	}
	d.More = uint64(len(destinations) - len(d.Most))
	return d
}
