package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// filterNetwork loads the ruleset of a run under a user manager, before there is
// any link, and tells the supervisor so: only then does that start the uplink.
// With the word goes a netfilter socket. It belongs to the namespace that it was
// made in, so the supervisor hears on it what the rules refuse.
func (s *sandbox) filterNetwork() error {
	up := s.spec.Uplink
	if up == nil {
		return nil
	}
	if err := quietIPv6(); err != nil {
		return err
	}
	if err := runHelper(up.Helper, up.Rules, "rules"); err != nil {
		return err
	}
	fd, err := netfilterSocket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return s.conn.Send(spec.Message{Kind: spec.Filtered}, fd)
}

// quietIPv6 keeps the kernel from sending by itself on the link that will come:
// router solicitations, and what a link-local address is announced by.
func quietIPv6() error {
	const noAddress = "1" // IN6_ADDR_GEN_MODE_NONE
	for name, value := range map[string]string{"accept_ra": "0", "addr_gen_mode": noAddress, "dad_transmits": "0"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/default/"+name, []byte(value), 0)
		if err != nil && !errors.Is(err, unix.ENOENT) { // a kernel without IPv6
			return fmt.Errorf("cannot set net.ipv6.conf.default.%s: %w", name, err)
		}
	}
	return nil
}

// runHelper runs a program of Purple's on the host's files with the privileges of
// init, and its input. An error is what it has said.
func runHelper(path string, input []byte, args ...string) error {
	in, err := memoryFile("input", input)
	if err != nil {
		return err
	}
	defer in.Close()
	said, err := memoryFile("output", nil)
	if err != nil {
		return err
	}
	defer said.Close()
	pid, err := syscall.ForkExec(path, append([]string{path}, args...), &syscall.ProcAttr{
		Env: []string{oneProcessor}, Files: []uintptr{in.Fd(), said.Fd(), said.Fd()},
	})
	if err != nil {
		return fmt.Errorf("cannot run %q: %w", path, err)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil {
		return fmt.Errorf("cannot wait for %q: %w", path, err)
	}
	if ws.Exited() && ws.ExitStatus() == 0 {
		return nil
	}
	text, _ := io.ReadAll(io.NewSectionReader(said, 0, maxSaid))
	return fmt.Errorf("%q ended with wait status %#x: %s", path, uint32(ws), strings.TrimSpace(string(text)))
}

// maxSaid is how much of what a helper says goes into an error.
const maxSaid = 4096

// memoryFile is a file in memory, to be read from its beginning.
func memoryFile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("purple-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(content, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot write a memory file: %w", err)
	}
	return f, nil
}

// serveSockets makes sockets in the sandbox's network namespace for the
// supervisor, which is not in it: a socket stays in the one that it was made in.
func serveSockets(conn *spec.Conn) {
	for {
		m, _, err := conn.Recv()
		if err != nil || m.Kind != spec.Socket || m.Family != unix.AF_INET && m.Family != unix.AF_INET6 {
			conn.Close()
			return
		}
		fd, err := tcpSocket(m.Family)
		if err != nil {
			err = conn.Send(spec.Message{Kind: spec.Failed, Step: "make a socket", Error: err.Error()})
		} else {
			err = conn.Send(spec.Message{Kind: spec.Socket}, fd)
			unix.Close(fd)
		}
		if err != nil {
			conn.Close()
			return
		}
	}
}
