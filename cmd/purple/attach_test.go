package main

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/translate"
	"golang.org/x/sys/unix"
)

// A restart of the bus, by which purple hears of the unit, does not end a run.
func TestRunOutlivesTheBus(t *testing.T) {
	conn, theirs, err := spec.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ended := make(chan ending, 1)
	ended <- ending{err: errors.New("the connection to systemd is gone")}
	at := &attachment{session: &session{plan: &translate.Plan{}, conn: conn, log: slog.New(slog.DiscardHandler)}, relay: newRelay([3]bool{})}
	go func() {
		for len(ended) > 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(20 * time.Millisecond) // follow has made of it what it does
		peer := spec.NewConn(int(theirs.Fd()))
		_ = peer.Send(spec.Message{Kind: spec.Exited, WaitStatus: 7 << 8})
		_ = unix.Shutdown(peer.FD(), unix.SHUT_RDWR)
	}()
	at.follow(t.Context(), nil, at.events(), func() <-chan ending { return ended })
	if status := exitStatus(at.statusError(at.outcome())); status != 7 {
		t.Errorf("status %d", status)
	}
}
