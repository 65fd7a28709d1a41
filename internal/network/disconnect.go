package network

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Disconnect removes what the host's rules have of one run. It may be called
// for a run that never was connected, and when its link is gone already.
func Disconnect(unit, port string) error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock.Close()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot ask the kernel about the network: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(port)
	if err == nil && link.Attrs().Alias != unit {
		return nil // the name is another run's by now, and so are the rules
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("cannot examine %q: %w", port, err)
	}
	return withHostTable(func(h *hostTable) error { return h.removeRun(port) })
}

const (
	// linger is how long the host's part outlives the last run: the next one
	// often follows at once, and taking a bridge down waits for the kernel.
	linger = time.Second
	// patience is how long the links of ended runs may take to go.
	patience = 3 * time.Second
	pause    = 100 * time.Millisecond
)

// Down removes the host's part when no run has a link any more. Where one still
// has after a while it leaves all as it is: that run is a new one, and Down is
// called again after it.
func Down() error {
	time.Sleep(linger)
	for end := time.Now().Add(patience); ; time.Sleep(pause) {
		removed, err := removeUnused()
		if removed || err != nil || time.Now().After(end) {
			return err
		}
	}
}

func removeUnused() (bool, error) {
	unlock, err := lock()
	if err != nil {
		return false, err
	}
	defer unlock.Close()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("cannot ask the kernel about the network: %w", err)
	}
	defer h.Close()
	used, err := usedNumbers(h)
	if err != nil || len(used) > 0 {
		return false, err
	}
	return true, removeAll(h)
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
	bridge, err := h.LinkByName(Bridge)
	if err == nil {
		err = h.LinkDel(bridge)
	}
	if err != nil && !isGone(err) && !errors.Is(err, unix.ENODEV) {
		return errors.Join(undo, fmt.Errorf("cannot remove %q: %w", Bridge, err))
	}
	return undo
}
