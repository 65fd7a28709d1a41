package journal

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const socketPath = "/run/systemd/journal/socket"

// patience bounds how long an event waits for a journal that is behind. After one that
// has waited in vain, none waits until one is taken.
const patience = time.Second

// Writer sends events to the journal. It may be used by several goroutines.
type Writer struct {
	fd     int
	path   string
	fields []Field // of each event
	behind atomic.Bool
}

// Open makes a Writer that writes fields with each event. The journal need not run
// yet.
func Open(fields ...Field) (*Writer, error) { return open(socketPath, fields...) }

func open(path string, fields ...Field) (*Writer, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open a socket to the journal: %w", err)
	}
	timeout := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot open a socket to the journal: %w", err)
	}
	return &Writer{fd: fd, path: path, fields: fields}, nil
}

// Close releases the socket.
func (w *Writer) Close() error { return unix.Close(w.fd) }

// AboutUnit is the field by which `journalctl -u`, or `journalctl --user -u`, finds an
// event of a unit whose sender is no part of it, or is not known to be: journald looks
// up a message's unit by the sender's pid when it gets to the message, and the sender
// may have ended by then. It counts from root about a unit of the system manager, and
// from a user about one of that user's.
func AboutUnit(unit string, ofUser bool) Field { return Field{AboutField(ofUser), unit} }

// AboutField is the name of that field.
func AboutField(ofUser bool) string {
	if ofUser {
		return FieldUserUnit
	}
	return FieldObjectUnit
}

// Invocation is the invocation of the unit that this process belongs to, which
// journald would look up as well; empty: of none.
func Invocation() []Field {
	if id := os.Getenv("INVOCATION_ID"); id != "" {
		return []Field{{fieldInvocationID, id}}
	}
	return nil
}

// Send writes one event. It waits for a journal that is behind, but not for
// long: an error means that the event is not in the journal.
func (w *Writer) Send(e Event) error {
	entry, err := encode(append(Fields(e), w.fields...))
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
	to, flags := &unix.SockaddrUnix{Name: w.path}, unix.MSG_NOSIGNAL
	if w.behind.Load() {
		flags |= unix.MSG_DONTWAIT
	}
	err := retry(func() error { return unix.Sendto(w.fd, entry, flags, to) })
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
		err = w.sendFile(entry, flags, to)
	}
	w.behind.Store(errors.Is(err, unix.EAGAIN))
	return err
}

// sendFile passes an entry that is too long for a datagram as a memory file,
// which journald takes only when nobody can change it any more.
func (w *Writer) sendFile(entry []byte, flags int, to unix.Sockaddr) error {
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
	return retry(func() error { return unix.Sendmsg(w.fd, nil, rights, to, flags) })
}

// retry repeats a call that a signal has interrupted; Go's own signals do.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
