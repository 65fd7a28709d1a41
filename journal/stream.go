package journal

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const streamPath = "/run/systemd/journal/stdout"

// OpenStream connects to the journal as a manager connects a service's output: each
// line that is written becomes an entry, with the identifier in front of it. journald
// believes root which unit the lines are of, and asks who the writer is otherwise
// (src/journal/journald-stream.c in systemd). The lines choose no priority: they are of
// "info". Writes wait for a journal that is behind.
func OpenStream(identifier, unit string) (fd int, err error) {
	return openStream(streamPath, identifier, unit)
}

func openStream(path, identifier, unit string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open a socket to the journal: %w", err)
	}
	// The priority; whether a line may begin with one; and whether it is forwarded to
	// syslog, the kernel's log and the console.
	header := identifier + "\n" + unit + "\n6\n0\n0\n0\n0\n"
	err = retry(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) })
	if err == nil {
		_, err = unix.Write(fd, []byte(header))
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot connect to the journal: %w", err)
	}
	return fd, nil
}
