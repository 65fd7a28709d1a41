package confine

import (
	"fmt"

	"github.com/purple-sandbox/purple/internal/spec"
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
