package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// notifyTimeout is for a manager that is busy, or executes itself anew.
const notifyTimeout = 10 * time.Second

// tellStopping tells systemd that this process stops, and returns when systemd
// has heard it (sd_notify(3): STOPPING=1, BARRIER=1): from then on the unit is
// not active any more.
func tellStopping() error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return errors.New("cannot tell systemd of the end: NOTIFY_SOCKET is not set")
	}
	if err := notify(name); err != nil {
		return fmt.Errorf("cannot tell systemd of the end: %w", err)
	}
	return nil
}

func notify(name string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	systemd := &unix.SockaddrUnix{Name: name} // "@" stands for an abstract one there, too
	if err := unix.Sendto(fd, []byte("STOPPING=1"), 0, systemd); err != nil {
		return err
	}
	heard, barrier, err := os.Pipe()
	if err != nil {
		return err
	}
	defer heard.Close()
	err = unix.Sendmsg(fd, []byte("BARRIER=1"), unix.UnixRights(int(barrier.Fd())), systemd, 0)
	if err = errors.Join(err, barrier.Close()); err != nil {
		return err
	}
	fds := []unix.PollFd{{Fd: int32(heard.Fd())}}
	for end := time.Now().Add(notifyTimeout); ; {
		n, err := unix.Poll(fds, int(max(0, time.Until(end).Milliseconds())))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("no answer within %v", notifyTimeout)
		default:
			return nil
		}
	}
}
