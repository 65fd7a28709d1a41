package confine

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// openTerminal makes the sandbox's own pty the controlling terminal of init's
// session. The caller's terminal never gets in, neither as a descriptor nor as
// a controlling terminal, so TIOCSTI has nothing to type into (CVE-2017-5226).
func (s *sandbox) openTerminal() error {
	if s.spec.Terminal == [3]bool{} {
		return nil
	}
	master, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open \"/dev/pts/ptmx\": %w", err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("cannot unlock the pty: %w", err)
	}
	slave, err := openPeer(master)
	if err != nil {
		return fmt.Errorf("cannot open the pty: %w", err)
	}
	s.master, s.tty = master, slave
	w := s.spec.Winsize
	if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &unix.Winsize{Row: w[0], Col: w[1], Xpixel: w[2], Ypixel: w[3]}); err != nil {
		return fmt.Errorf("cannot set the window size: %w", err)
	}
	// The command opens it by name too, as screen and gpg do.
	if err := unix.Fchown(slave, int(s.spec.Identity.HostUID), int(s.spec.Identity.HostGID)); err != nil {
		return fmt.Errorf("cannot give the pty to the command: %w", err)
	}
	if err := unix.IoctlSetInt(slave, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("cannot make the pty the controlling terminal: %w", err)
	}
	return nil
}

// openPeer opens the slave through the master: no path is looked up.
func openPeer(master int) (int, error) {
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, flags)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// resume continues a stopped command in the foreground.
func (s *sandbox) resume() {
	s.suspended.Store(false) // before the command can stop again
	if s.tty >= 0 {
		// From the background, which would stop whoever heeds SIGTTOU. A failure
		// leaves the command there, where it stops again at its next read: visible,
		// and nothing is lost.
		_ = unix.IoctlSetPointerInt(s.tty, unix.TIOCSPGRP, s.cmd)
	}
	_ = unix.Kill(-s.cmd, unix.SIGCONT)
}
