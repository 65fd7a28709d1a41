package confine

import (
	"errors"
	"fmt"
	"strings"

	"github.com/purple-sandbox/purple/internal/stdio"
	"golang.org/x/sys/unix"
)

// takeStreams makes of the caller's three streams those of the command: package
// stdio says which of them it may have itself.
func (s *supervisor) takeStreams(fds []int) error {
	if len(fds) != 3 {
		return fmt.Errorf("got %d descriptors instead of three streams", len(fds))
	}
	s.callers = [3]int(fds)
	for n := range s.streams {
		if err := s.takeStream(n); err != nil {
			return fmt.Errorf("cannot pass %s to the command: %w", stdio.Names[n], err)
		}
	}
	return nil
}

func (s *supervisor) takeStream(n int) error {
	fd := s.callers[n]
	facts, err := stdio.Examine(fd)
	if err != nil {
		return fmt.Errorf("cannot examine it: %w", err)
	}
	if err := s.requireCallers(fd); err != nil {
		return err
	}
	way, err := facts.Way(n)
	if err != nil {
		return err
	}
	switch way {
	case stdio.Passed:
		s.streams[n] = fd
		s.audit.complain(s.letReopen(n, facts))
		return nil
	case stdio.Silent:
		unix.Close(fd)
		s.streams[n], err = unix.Open("/dev/null", facts.Flags&unix.O_ACCMODE|unix.O_CLOEXEC, 0)
		return err
	case stdio.Copied:
		if s.copyInput(fd, facts) {
			return nil
		}
	}
	return s.relayStream(n)
}

// requireCallers refuses a descriptor of Purple's own, however it has come to be
// where the caller's is expected: the spec, a control socket or the id map. None of
// the three has a name by which the caller could have opened it, too.
func (s *supervisor) requireCallers(fd int) error {
	own := append([]int{s.specFD, s.up.FD()}, s.idmaps...)
	for _, o := range own {
		if same, err := sameInode(fd, o); err != nil || same {
			return errors.Join(errors.New("internal error: it is a descriptor of Purple's own"), err)
		}
	}
	return nil
}

func sameInode(a, b int) (bool, error) {
	var x, y unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &x), unix.Fstat(b, &y)); err != nil {
		return false, err
	}
	return x.Dev == y.Dev && x.Ino == y.Ino, nil
}

// letReopen lets the command open a pipe by /dev/stdin, /dev/stdout or /dev/stderr,
// in the direction in which it has it and in no other: the run of root has a uid of
// its own, which is not the pipe's. No other process gets at a pipe by that: it has
// no name but in the /proc/PID/fd of those that hold it (proc_pid_fd(5)).
func (s *supervisor) letReopen(n int, facts stdio.Facts) error {
	if s.spec.UserManager || facts.Mode&unix.S_IFMT != unix.S_IFIFO || facts.UID == s.spec.Identity.HostUID {
		return nil
	}
	may := uint32(unix.S_IWOTH)
	if n == 0 {
		may = unix.S_IROTH
	}
	if facts.Mode&may != 0 {
		return nil
	}
	if err := unix.Fchmod(s.callers[n], facts.Mode&0o7777|may); err != nil {
		return fmt.Errorf("cannot let the command open %s by its name: %w", stdio.Names[n], err)
	}
	return nil
}

// copiedInput is a regular file that the command reads as its standard input. Both
// descriptions have an offset: the caller's is moved at the end, as if the command
// had had that one.
type copiedInput struct {
	caller, copied int
	began          int64 // offset
}

// copyInput tells whether the command gets a copy of its own of the file. A user
// manager's supervisor may not mount: there init makes the copy, by the path.
func (s *supervisor) copyInput(fd int, facts stdio.Facts) bool {
	began, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	if err != nil {
		return false
	}
	s.input = &copiedInput{caller: fd, copied: -1, began: began}
	if s.spec.UserManager {
		if s.inputPath = pathOfInput(fd); s.inputPath == "" {
			return false
		}
		s.streams[0], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		return err == nil
	}
	// Or it could not be opened by /dev/stdin.
	if !facts.MayRead(s.spec.Identity.HostUID) {
		return false
	}
	if s.streams[0], err = copyFromHere(fd, began); err != nil {
		return false
	}
	s.input.copied, err = unix.FcntlInt(uintptr(s.streams[0]), unix.F_DUPFD_CLOEXEC, 3)
	return err == nil
}

// pathOfInput is where this process can open the file; empty: nowhere.
func pathOfInput(fd int) string {
	name, at := openByItsPath(fd)
	if at < 0 {
		return ""
	}
	defer unix.Close(at)
	again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", at), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	unix.Close(again)
	return name
}

// openByItsPath opens with O_PATH, in this mount namespace, the file that fd is, at the
// path that the kernel says. -1: it is not there.
func openByItsPath(fd int) (string, int) {
	name, err := readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil || !strings.HasPrefix(name, "/") {
		return "", -1
	}
	at, err := openNoLinks(name)
	if err != nil {
		return "", -1
	}
	if same, err := sameInode(fd, at); err != nil || !same {
		unix.Close(at)
		return "", -1
	}
	return name, at
}

// copyFromHere is openReadOnlyCopy also of a file that was opened in another mount
// namespace, of which no mount can be copied (EINVAL, open_tree(2)): systemd 257, and
// not yet 252, gives a unit with PrivateNetwork= a mount namespace of its own.
func copyFromHere(fd int, offset int64) (int, error) {
	copied, err := openReadOnlyCopy(fd, offset)
	if !errors.Is(err, unix.EINVAL) {
		return copied, err
	}
	_, at := openByItsPath(fd)
	if at < 0 {
		return -1, err
	}
	defer unix.Close(at)
	return openReadOnlyCopy(at, offset)
}

// openReadOnlyCopy opens a regular file anew, on a copy of its mount that is
// read-only: whatever is done by the descriptor or by its name in /proc/PID/fd, the
// file and its mode, owner and attributes stay what they are.
func openReadOnlyCopy(fd int, offset int64) (int, error) {
	tree, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("cannot copy its mount: %w", err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
		Propagation: unix.MS_PRIVATE,
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return -1, fmt.Errorf("cannot make its mount read-only: %w", err)
	}
	copied, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", tree), unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open it on a read-only mount: %w", err)
	}
	if _, err := unix.Seek(copied, offset, unix.SEEK_SET); err != nil {
		unix.Close(copied)
		return -1, fmt.Errorf("cannot go to its offset: %w", err)
	}
	return copied, nil
}

// returnOffset moves the caller's offset by what the command has read: in a shell's
// `{ purple run -- head -n 1; cat; } <file` the next one reads on from there.
func (i *copiedInput) returnOffset() {
	if i == nil || i.copied < 0 {
		return
	}
	if ended, err := unix.Seek(i.copied, 0, unix.SEEK_CUR); err == nil && ended != i.began {
		_, _ = unix.Seek(i.caller, ended, unix.SEEK_SET) // of a regular file it does not fail
	}
}

// --- init's side -------------------------------------------------------------

// copyInput replaces standard input by the copy that the supervisor may not make.
func (s *sandbox) copyInput() error {
	if s.inputPath == "" {
		return nil
	}
	offset, err := unix.Seek(0, 0, unix.SEEK_CUR)
	if err != nil {
		return err
	}
	at, err := openNoLinks(s.inputPath)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", s.inputPath, err)
	}
	defer unix.Close(at)
	if same, err := sameInode(0, at); err != nil || !same {
		return errors.Join(fmt.Errorf("%q has been replaced", s.inputPath), err)
	}
	if s.input, err = openReadOnlyCopy(at, offset); err != nil {
		return err
	}
	return unix.Dup2(s.input, 0)
}

// connectStreams puts the sandbox's pty where the caller has a terminal, and looks
// once more at what the command, a fork of this process, will have as its streams.
func (s *sandbox) connectStreams() error {
	if err := errors.Join(unix.Dup2(errorFD, unix.Stderr), unix.Close(errorFD)); err != nil {
		return err
	}
	for n, isTerminal := range s.spec.Terminal {
		var err error
		if isTerminal {
			err = unix.Dup2(s.tty, n)
		} else {
			err = verifyStream(n)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", stdio.Names[n], err)
		}
	}
	return nil
}

func verifyStream(n int) error {
	facts, err := stdio.Examine(n)
	if err != nil {
		return err
	}
	return facts.Verify(n)
}

// inputOf is the copy of standard input among the descriptors of the message Ready,
// in front of the others.
func (s *supervisor) inputOf(fds []int) []int {
	if s.inputPath == "" || len(fds) == 0 {
		return fds
	}
	s.input.copied = fds[0]
	return fds[1:]
}

// pathsOfSources is what the message Sources has: of each mount, and at last of
// standard input.
func (s *supervisor) pathsOfSources() ([]string, error) {
	paths, err := resolveSources(s.spec.Mounts)
	return append(paths, s.inputPath), err
}
