package confine

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

// announceNetwork makes sure that this process is in the namespace that purple
// made and read back, and tells it so: the unit holds the namespace by now, and
// its ExecStopPost= will undo what purple does next.
func (s *supervisor) announceNetwork() error {
	if s.spec.Uplink != nil {
		return s.up.Send(spec.Message{Kind: spec.Alive}) // for the listening sockets
	}
	want := s.spec.NetworkNamespace
	if want == 0 {
		return nil
	}
	got, err := namespaceInode(self, "net")
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
	if s.spec.NetworkNamespace == 0 && s.spec.Uplink == nil {
		return nil, nil
	}
	select {
	case e := <-s.start.connected:
		if len(e.fds) != len(s.spec.Published) {
			return nil, fmt.Errorf("got %d listening sockets for %d ports", len(e.fds), len(s.spec.Published))
		}
		return e.fds, nil
	case <-s.start.calledOff:
		return nil, s.start.refusal()
	}
}

// recordDenied begins to listen to the rules of the namespace and makes events
// of what they refuse. That needs the privileges which this process drops soon.
//
// Under a user manager there is no such namespace yet.
func (s *supervisor) recordDenied() error {
	if !s.spec.RecordDenied || s.spec.UserManager {
		return nil
	}
	fd, err := netfilterSocket()
	if err != nil {
		return err
	}
	return s.recordDeniedOn(fd)
}

// recordDeniedOn does it on a netfilter socket of the namespace, and takes it over.
func (s *supervisor) recordDeniedOn(fd int) error {
	if !s.spec.RecordDenied {
		return unix.Close(fd)
	}
	d, err := openDenials(fd)
	if err != nil {
		return err
	}
	d.start(runOf(s.spec), s.audit.emit)
	s.denied = d
	return nil
}

// reportDenials tells the final counts of everything that was denied.
func (s *supervisor) reportDenials() journal.Denials {
	totals := journal.Denials{Connections: s.reportDenied()}
	s.reportCalls(&totals)
	return totals
}

// reportDenied tells the journal and purple the final counts. The run has ended
// and its status is known: what goes wrong here is said and changes nothing.
func (s *supervisor) reportDenied() journal.Amount {
	if s.denied == nil {
		return journal.Amount{}
	}
	total, destinations, err := s.denied.end()
	s.audit.complain(err)
	if total.Total > 0 {
		s.tell(spec.Message{Kind: spec.Refused, Denied: denied(total, destinations)})
	}
	return journal.Known(total.Total)
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
