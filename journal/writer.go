package journal

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const socketPath = "/run/systemd/journal/socket"

// patience bounds how long an event waits for a journal that is behind.
const patience = time.Second

// Writer sends events to the journal. It may be used by several goroutines.
type Writer struct {
	fd         int
	path       string
	invocation string // the unit's invocation id, if there is one
}

// Open makes a Writer. The journal need not run yet.
func Open() (*Writer, error) { return open(socketPath) }

func open(path string) (*Writer, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open a socket to the journal: %w", err)
	}
	timeout := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot open a socket to the journal: %w", err)
	}
	return &Writer{fd: fd, path: path, invocation: os.Getenv("INVOCATION_ID")}, nil
}

// Close releases the socket.
func (w *Writer) Close() error { return unix.Close(w.fd) }

// Send writes one event. It waits for a journal that is behind, but not for
// long: an error means that the event is not in the journal.
func (w *Writer) Send(e Event) error {
	fields := Fields(e)
	if w.invocation != "" {
		fields = append(fields, Field{fieldInvocationID, w.invocation})
	}
	return w.write(fields)
}

// SendAbout writes an event about a unit that the sender is no part of, into
// FieldObjectUnit as root or FieldUserUnit as the unit's user: `journalctl -u`, or
// `journalctl --user -u`, shows it.
func (w *Writer) SendAbout(field, unit string, e Event) error {
	return w.write(append(Fields(e), Field{field, unit}))
}

func (w *Writer) write(fields []Field) error {
	entry, err := encode(fields)
	if err != nil {
		return err
	}
	if err := w.send(entry); err != nil {
		return fmt.Errorf("cannot write to the journal: %w", err)
	}
	return nil
}

// send addresses each datagram anew: the journal may have been restarted.
func (w *Writer) send(entry []byte) error {
	to := &unix.SockaddrUnix{Name: w.path}
	err := retry(func() error { return unix.Sendto(w.fd, entry, unix.MSG_NOSIGNAL, to) })
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
		return w.sendFile(entry, to)
	}
	return err
}

// sendFile passes an entry that is too long for a datagram as a memory file,
// which journald takes only when nobody can change it any more.
func (w *Writer) sendFile(entry []byte, to unix.Sockaddr) error {
	fd, err := unix.MemfdCreate("purple-journal", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), "purple-journal")
	defer file.Close()
	if _, err := file.Write(entry); err != nil {
		return err
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return err
	}
	rights := unix.UnixRights(int(file.Fd()))
	return retry(func() error { return unix.Sendmsg(w.fd, nil, rights, to, unix.MSG_NOSIGNAL) })
}

// retry repeats a call that a signal has interrupted; Go's own signals do.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
