package main

import (
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// stream is what a standard stream is, and what else can be done with it.
type stream struct {
	Link string // of /proc/self/fd
	Kind string // "pipe", "file", "null", or what it is in octal
	// What these answer: "" is success.
	OpenToRead, OpenToWrite, Chmod string
}

// streams looks at the three standard streams. With an argument the answer goes into
// that file and not to standard output, which may be closed.
func streams(args []string) any {
	var all [3]stream
	for fd := range all {
		all[fd] = examineStream(fd)
	}
	if len(args) == 0 {
		return all
	}
	content, err := json.Marshal(all)
	if err == nil {
		err = os.WriteFile(args[0], content, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
	os.Exit(0) // with nothing on standard output
	return nil
}

func examineStream(fd int) stream {
	name := fmt.Sprintf("/proc/self/fd/%d", fd)
	link, err := os.Readlink(name)
	if err != nil {
		return stream{Link: err.Error()}
	}
	return stream{
		Link: link, Kind: kindOf(fd),
		OpenToRead: opened(name, unix.O_RDONLY), OpenToWrite: opened(name, unix.O_WRONLY),
		Chmod: answer(unix.Fchmod(fd, 0o777)),
	}
}

func kindOf(fd int) string {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err.Error()
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFIFO:
		return "pipe"
	case st.Mode&unix.S_IFMT == unix.S_IFREG:
		return "file"
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3):
		return "null"
	default:
		return fmt.Sprintf("%o", st.Mode)
	}
}

func opened(name string, flags int) string {
	fd, err := unix.Open(name, flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return answer(err)
}
