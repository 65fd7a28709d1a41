package stdio

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// open makes a descriptor of each kind that a caller may have as a stream.
func open(t *testing.T, kind string) int {
	t.Helper()
	var fd int
	var err error
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("text\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pair := func(kind int) {
		var fds [2]int
		if fds, err = unix.Socketpair(unix.AF_UNIX, kind, 0); err == nil {
			fd = fds[0]
			t.Cleanup(func() { unix.Close(fds[1]) })
		}
	}
	switch kind {
	case "file to read":
		fd, err = unix.Open(file, unix.O_RDONLY, 0)
	case "file to write":
		fd, err = unix.Open(file, unix.O_WRONLY, 0)
	case "file to append to":
		fd, err = unix.Open(file, unix.O_WRONLY|unix.O_APPEND, 0)
	case "file to read and write":
		fd, err = unix.Open(file, unix.O_RDWR, 0)
	case "path":
		fd, err = unix.Open(file, unix.O_PATH, 0)
	case "directory":
		fd, err = unix.Open(filepath.Dir(file), unix.O_RDONLY, 0)
	case "named pipe":
		if err = unix.Mkfifo(file+".fifo", 0o600); err == nil {
			fd, err = unix.Open(file+".fifo", unix.O_RDWR, 0)
		}
	case "pipe's reading end", "pipe's writing end":
		var ends [2]int
		if err = unix.Pipe(ends[:]); err == nil {
			fd = ends[0]
			if strings.Contains(kind, "writing") {
				ends[0], fd = ends[1], ends[1]
			}
		}
	case "/dev/null", "/dev/zero", "/dev/full", "/dev/urandom":
		fd, err = unix.Open(kind, unix.O_RDWR, 0)
	case "terminal":
		fd, err = unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	case "stream socket":
		pair(unix.SOCK_STREAM)
	case "datagram socket":
		pair(unix.SOCK_DGRAM)
	case "packet socket":
		pair(unix.SOCK_SEQPACKET)
	case "listening socket":
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err == nil {
			err = unix.Listen(fd, 1)
		}
	case "epoll":
		fd, err = unix.EpollCreate1(0)
	case "eventfd":
		fd, err = unix.Eventfd(0, 0)
	case "pidfd":
		fd, err = unix.PidfdOpen(os.Getpid(), 0)
	case "memory file":
		fd, err = unix.MemfdCreate("test", 0)
	case "namespace":
		fd, err = unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0)
	default:
		t.Fatalf("no kind %q", kind)
	}
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestWay(t *testing.T) {
	for _, tt := range []struct {
		kind       string
		in, out    Way
		refusedFor string
	}{
		{kind: "file to read", in: Copied, out: Silent},
		{kind: "file to write", in: Silent, out: Relayed},
		{kind: "file to append to", in: Silent, out: Relayed},
		{kind: "file to read and write", in: Copied, out: Relayed},
		{kind: "memory file", in: Copied, out: Relayed},
		{kind: "named pipe", in: Relayed, out: Relayed},
		{kind: "pipe's reading end", in: Passed, out: Silent},
		{kind: "pipe's writing end", in: Silent, out: Passed},
		{kind: "/dev/null", in: Passed, out: Passed},
		{kind: "/dev/zero", in: Passed, out: Passed},
		{kind: "/dev/full", in: Passed, out: Passed},
		{kind: "/dev/urandom", in: Passed, out: Passed},
		{kind: "stream socket", in: Relayed, out: Relayed},
		{kind: "path", refusedFor: "not open for reading or writing"},
		{kind: "directory", refusedFor: "it is a directory"},
		{kind: "terminal", refusedFor: "the caller's terminal"},
		{kind: "datagram socket", refusedFor: "not a connected stream"},
		{kind: "packet socket", refusedFor: "not a connected stream"},
		{kind: "listening socket", refusedFor: "not a connected stream"},
		{kind: "epoll", refusedFor: "it is not a file"},
		{kind: "eventfd", refusedFor: "it is not a file"},
		{kind: "pidfd", refusedFor: "it is "},
		{kind: "namespace", refusedFor: "it is a namespace"},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			facts, err := Examine(open(t, tt.kind))
			if err != nil {
				t.Fatal(err)
			}
			for n, want := range []Way{tt.in, tt.out, tt.out} {
				way, err := facts.Way(n)
				if tt.refusedFor != "" {
					if err == nil || !strings.Contains(err.Error(), tt.refusedFor) {
						t.Errorf("%s: %v, %v, want an error with %q", Names[n], way, err, tt.refusedFor)
					}
					continue
				}
				if err != nil || way != want {
					t.Errorf("%s: %v, %v, want %v", Names[n], way, err, want)
				}
			}
		})
	}
}

// What comes out of the supervisor's hands, and nothing else, passes the last look.
func TestVerify(t *testing.T) {
	for kind, may := range map[string][3]bool{
		"/dev/null":              {true, true, true},
		"pipe's reading end":     {true, false, false},
		"pipe's writing end":     {false, true, true},
		"file to read":           {},
		"file to append to":      {},
		"file to read and write": {},
		"memory file":            {},
		"named pipe":             {},
		"stream socket":          {},
		"directory":              {},
		"path":                   {},
		"terminal":               {},
		"namespace":              {},
		"epoll":                  {},
	} {
		facts, err := Examine(open(t, kind))
		if err != nil {
			t.Fatal(err)
		}
		for n, want := range may {
			if err := facts.Verify(n); (err == nil) != want {
				t.Errorf("%s as %s: %v", kind, Names[n], err)
			}
		}
	}
	readOnly := Facts{Mode: unix.S_IFREG | 0o644, ReadOnly: true}
	if err := readOnly.Verify(0); err != nil {
		t.Errorf("a file on a read-only mount: %v", err)
	}
	if err := (Facts{Mode: unix.S_IFREG, ReadOnly: true, Flags: unix.O_WRONLY}).Verify(1); err == nil {
		t.Error("a file on a read-only mount may be written")
	}
}

func TestMayRead(t *testing.T) {
	for _, tt := range []struct {
		mode, owner uint32
		want        bool
	}{
		{0o600, 1000, true}, {0o600, 0, false}, {0o604, 0, true}, {0o044, 1000, false}, {0o640, 0, false},
	} {
		if got := (Facts{Mode: tt.mode, UID: tt.owner}).MayRead(1000); got != tt.want {
			t.Errorf("mode %04o, owner %d: %t", tt.mode, tt.owner, got)
		}
	}
}
