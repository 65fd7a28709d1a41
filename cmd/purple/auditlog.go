package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
	"golang.org/x/sys/unix"
)

// logMode is for root, and a group that root gives the file to.
const (
	logMode    = 0o640
	logDirMode = 0o750
)

// openAuditLog opens the log that a plan names, nil where it names none, and
// makes it with its directories if need be.
func openAuditLog(plan *translate.Plan, i translate.Invoker) (*os.File, error) {
	if plan.Spec.Audit == nil || plan.Spec.Audit.LogPath == "" {
		return nil, nil
	}
	name := plan.Spec.Audit.LogPath
	writer, err := logWriter(name, plan.LogNamedIn, i)
	if err != nil {
		return nil, fmt.Errorf("cannot write the log %q (audit.log_path, %s): %w", name, plan.LogNamedIn, err)
	}
	l := logOpener{owners: []uint32{0, writer.UID}, outside: func(dir int) error { return requireOutside(dir, plan) }}
	var file *os.File
	err = asInvoker(writer, func() (err error) {
		file, err = l.open(name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot write the log %q (audit.log_path, %s): %w", name, plan.LogNamedIn, err)
	}
	return file, nil
}

// logWriter is who opens a log: root where a profile of the system's names it in a
// directory for logs, so that not even whoever may write such profiles behind sudo can
// append to root's other files; else who called.
func logWriter(name string, namedIn policies.Position, i translate.Invoker) (translate.Invoker, error) {
	if !behindSudo(i) || !isSystemFile(namedIn.File) {
		return i, nil
	}
	dirs, err := logDirs(logDirsFile)
	if err != nil {
		return i, err
	}
	name = filepath.Clean(name)
	for _, dir := range dirs {
		if strings.HasPrefix(name, dir+"/") {
			return translate.Invoker{}, nil
		}
	}
	return i, nil
}

// logDirsFile is where an administrator names directories for logs besides /var/log,
// one on each line.
const logDirsFile = "/etc/purple/log-directories"

// logDirs reads it, if there is one. It says where root writes, so it must be root's.
func logDirs(file string) ([]string, error) {
	dirs := []string{"/var/log"}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return dirs, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("cannot examine %q: %w", file, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("cannot use %q: it must be a file that only root can write", file)
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !filepath.IsAbs(line) || filepath.Clean(line) == "/" {
			return nil, fmt.Errorf("cannot use %q: %q is not the absolute path of a directory below /", file, line)
		}
		dirs = append(dirs, filepath.Clean(line))
	}
	return dirs, lines.Err()
}

// logOpener opens a log one directory after the other, each by the descriptor
// of the one above it: nobody can put something else in the way meanwhile.
type logOpener struct {
	owners []uint32 // whose directories and files are believed
	// outside refuses a directory that the command may write to.
	outside func(dir int) error
}

func (l logOpener) open(unsafePath string) (*os.File, error) {
	dir, err := l.openDirs(filepath.Dir(unsafePath))
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	if err := l.outside(dir); err != nil {
		return nil, err
	}
	file, err := openLogIn(dir, filepath.Base(unsafePath))
	if err != nil {
		return nil, err
	}
	if err := l.checkLog(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// openDirs opens a directory from the root on, and makes what is missing of it.
func (l logOpener) openDirs(unsafeDir string) (int, error) {
	dir, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open \"/\": %w", err)
	}
	at := ""
	for _, name := range strings.FieldsFunc(unsafeDir, func(r rune) bool { return r == '/' }) {
		at += "/" + name
		below, err := openDirIn(dir, name)
		unix.Close(dir)
		if err != nil {
			return -1, fmt.Errorf("%q: %w", at, err)
		}
		dir = below
		if err := l.checkDir(dir, at == filepath.Clean(unsafeDir)); err != nil {
			unix.Close(dir)
			return -1, fmt.Errorf("%q: %w", at, err)
		}
	}
	return dir, nil
}

func openDirIn(dir int, name string) (int, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_DIRECTORY | unix.O_CLOEXEC
	below, err := unix.Openat(dir, name, flags, 0)
	if errors.Is(err, unix.ENOENT) {
		if err := unix.Mkdirat(dir, name, logDirMode); err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, fmt.Errorf("cannot make the directory: %w", err)
		}
		below, err = unix.Openat(dir, name, flags, 0)
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return -1, errors.New("it is a link or no directory; name the place itself")
	}
	return below, err
}

// checkDir refuses a directory in which another user could replace the log. In
// a sticky one they cannot. Above the last one a group may write (that is how
// some distributions have /var/log): all it could put there is its own, which
// is refused.
func (l logOpener) checkDir(dir int, isLast bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return fmt.Errorf("cannot examine it: %w", err)
	}
	others := uint32(0o002)
	if isLast {
		others = 0o022
	}
	switch {
	case !slices.Contains(l.owners, st.Uid):
		return fmt.Errorf("it belongs to user %d, who could replace the log", st.Uid)
	case st.Mode&others != 0 && st.Mode&unix.S_ISVTX == 0:
		return fmt.Errorf("others may write to it (mode %04o), and so replace the log", st.Mode&0o7777)
	}
	return nil
}

// openLogIn opens or makes the file. A fifo without a reader is an error at
// once (O_NONBLOCK), and so is a link.
func openLogIn(dir int, name string) (*os.File, error) {
	const flags = unix.O_RDWR | unix.O_APPEND | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, name, flags|unix.O_CREAT|unix.O_EXCL, logMode)
	if err == nil {
		// Whatever the caller's umask is.
		if err := unix.Fchmod(fd, logMode); err != nil {
			return nil, errors.Join(fmt.Errorf("cannot set its mode: %w", err), unix.Close(fd))
		}
	}
	if errors.Is(err, unix.EEXIST) {
		fd, err = unix.Openat(dir, name, flags, 0)
	}
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, errors.New("it is a symbolic link, and where it leads could change")
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENXIO):
		return nil, errors.New("it is not a regular file")
	case err != nil:
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// checkLog refuses what another user may have made, or may change: a second
// name of the file may be theirs.
func (l logOpener) checkLog(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("cannot examine it: %w", err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is not a regular file")
	case !slices.Contains(l.owners, st.Uid):
		return fmt.Errorf("it belongs to user %d, who could change it", st.Uid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("others may write to it (mode %04o): run \"chmod go-w\" on it", st.Mode&0o7777)
	case st.Nlink != 1:
		return fmt.Errorf("it has %d names, and only one of them is this", st.Nlink)
	}
	if err := requireLog(f); err != nil {
		return err
	}
	return endLastLine(f, st.Size)
}

// requireLog refuses a file with anything else than events in it: a wrong path, or
// somebody's who wants lines in another program's log.
func requireLog(f *os.File) error {
	var first [len(journal.LineStart)]byte
	n, err := f.ReadAt(first[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("cannot read its beginning: %w", err)
	}
	if !strings.HasPrefix(journal.LineStart, string(first[:n])) {
		return errors.New("it is not a log of Purple's: something else stands at its beginning")
	}
	return nil
}

// endLastLine: a run for which the disk was full has left half a line.
func endLastLine(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], size-1); err != nil {
		return fmt.Errorf("cannot read its end: %w", err)
	}
	if last[0] == '\n' {
		return nil
	}
	_, err := f.Write([]byte{'\n'})
	return err
}
