package network

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Disconnect removes what the host's rules have of one run. It may be called
// for a run that never was connected.
func Disconnect(unit string) error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock.Close()
	return withHostTable(func(h *hostTable) error { return h.removeRun(chainOf(unit)) })
}

const (
	// linger is how long the host's part outlives the last run: the next one
	// often follows at once, and taking a bridge down waits for the kernel.
	linger = time.Second
	// lookAgain bounds what a lost notification costs.
	lookAgain = time.Minute
)

// Hold stays as long as a run has a link, and then removes the host's part.
// At a signal it leaves at once, and the host's part goes only if nobody uses
// it. It is to be the last that its process does: leaving is called when all has
// been removed, while no run gets a link, and must make sure that a run which
// gets its link next does not count on this process any more.
func Hold(signals <-chan os.Signal, leaving func() error) error {
	changes, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(changes, done); err != nil {
		return fmt.Errorf("cannot follow the interfaces: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot ask the kernel about the network: %w", err)
	}
	defer h.Close()
	w := waiter{changes, signals}
	for {
		ports, err := portsOf(h)
		if err != nil {
			return err
		}
		if len(ports) > 0 {
			if why, err := w.wait(lookAgain); why == signalled || err != nil {
				return err
			}
			continue
		}
		why, err := w.wait(linger)
		if err != nil {
			return err
		}
		if why == changed {
			continue
		}
		if removed, err := removeUnused(h, leaving); removed || why == signalled || err != nil {
			return err
		}
	}
}

type waiter struct {
	changes <-chan netlink.LinkUpdate
	signals <-chan os.Signal
}

// reason is why a wait has ended.
type reason int

const (
	elapsed reason = iota
	changed
	signalled
)

func (w waiter) wait(d time.Duration) (reason, error) {
	select {
	case _, ok := <-w.changes:
		if !ok {
			return elapsed, errors.New("cannot follow the interfaces any more")
		}
		return changed, nil
	case <-w.signals:
		return signalled, nil
	case <-time.After(d):
		return elapsed, nil
	}
}

// removeUnused looks once more, with the lock that a new run needs to get a link.
func removeUnused(h *netlink.Handle, leaving func() error) (bool, error) {
	unlock, err := lock()
	if err != nil {
		return false, err
	}
	defer unlock.Close()
	ports, err := portsOf(h)
	if err != nil || len(ports) > 0 {
		return false, err
	}
	if err := removeAll(h); err != nil {
		return false, err
	}
	return true, leaving()
}

// removeAll takes back what forwards, then the rules, then the bridge.
func removeAll(h *netlink.Handle) error {
	undo := sysctls{dir: sysctlDir}.restore()
	err := withHostTable(func(t *hostTable) error {
		t.remove()
		return nil
	})
	if err != nil {
		return errors.Join(undo, fmt.Errorf("cannot remove the host's rules: %w", err))
	}
	bridge, err := h.LinkByName(host.Bridge)
	if err == nil {
		err = h.LinkDel(bridge)
	}
	if err != nil && !isGone(err) && !errors.Is(err, unix.ENODEV) {
		return errors.Join(undo, fmt.Errorf("cannot remove %q: %w", host.Bridge, err))
	}
	return undo
}
