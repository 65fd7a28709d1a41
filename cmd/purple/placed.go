package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/purple-sandbox/purple/translate"
	"golang.org/x/sys/unix"
)

// placedFile is a file that appears when a run has ended, at once and completely, in the
// place that was named before and in no other: its directory is opened before, is reached
// through no link, is none that the command may write to (requireOutside), and must be
// there under its name at the end.
type placedFile struct {
	file    string // as the caller named it
	dir     *os.File
	invoker translate.Invoker
	replace bool         // a file of that name; else there must be none
	keeps   bool         // the file of that name was read, and is replaced only as it was then
	before  *unix.Stat_t // what was there, if keeps
	exposed bool         // the command might have written there: nothing is
}

// open makes sure, before anything runs, that the file can be written.
func (p *placedFile) open() error {
	if strings.HasSuffix(p.file, "/") {
		return errors.New("it names a directory")
	}
	return asInvoker(p.invoker, p.try)
}

// try opens the directory and makes a file in it.
func (p *placedFile) try() error {
	var err error
	if p.dir, err = p.openDir(); err != nil {
		return err
	}
	if p.before, err = p.requirePlace(); err != nil {
		return err
	}
	temporary, f, err := p.create()
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), unix.Unlinkat(p.fd(), temporary, 0))
}

func (p *placedFile) fd() int { return int(p.dir.Fd()) }

// openDir refuses a link on the way: an earlier run may have put it there, and it may
// lead elsewhere when the file is written.
func (p *placedFile) openDir() (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	dir := filepath.Dir(p.file)
	fd, err := unix.Openat2(unix.AT_FDCWD, dir, &how)
	for errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) { // a rename elsewhere (openat2(2))
		fd, err = unix.Openat2(unix.AT_FDCWD, dir, &how)
	}
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("there is a symbolic link in its path; name the place itself")
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// requireOutside refuses a place that the command may write to. nil is no file.
func (p *placedFile) requireOutside(plan *translate.Plan) error {
	if p == nil {
		return nil
	}
	if err := requireOutside(p.fd(), plan); err != nil {
		p.exposed = true
		return fmt.Errorf("cannot write %q: %w", p.file, err)
	}
	return nil
}

// requirePlace: the file takes the place of an older one where that is wanted,
// and of nothing else, such as /dev/null. It returns the older one, if there is one.
func (p *placedFile) requirePlace() (*unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(p.fd(), filepath.Base(p.file), &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case err != nil:
		return nil, err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, errors.New("it exists and is not a regular file")
	case !p.replace:
		return nil, unix.EEXIST
	}
	return &st, nil
}

// requireSame makes sure that the place is still what was opened before the run, and that
// no work of somebody else's on the file is lost.
func (p *placedFile) requireSame() error {
	now, err := p.openDir()
	if err != nil {
		return fmt.Errorf("its directory was replaced during the run: %w", err)
	}
	defer now.Close()
	then, err := idOfDescriptor(p.fd())
	if err != nil {
		return err
	}
	if id, err := idOfDescriptor(int(now.Fd())); err != nil || id != then {
		return errors.Join(errors.New("its directory was replaced during the run"), err)
	}
	st, err := p.requirePlace()
	if err == nil && p.keeps && !sameContent(p.before, st) {
		err = errors.New("it was changed during the run")
	}
	return err
}

// sameContent compares what a file that is written anew, or replaced, has not in common.
func sameContent(x, y *unix.Stat_t) bool {
	if x == nil || y == nil {
		return x == y
	}
	return idOf(x) == idOf(y) && x.Size == y.Size && x.Mtim == y.Mtim
}

// create makes a file beside it, under a name that nobody can guess.
func (p *placedFile) create() (string, *os.File, error) {
	var id [8]byte
	_, _ = rand.Read(id[:]) // crypto/rand never fails: it ends the process instead
	name := ".purple-" + hex.EncodeToString(id[:])
	fd, err := unix.Openat(p.fd(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return "", nil, err
	}
	return name, os.NewFile(uintptr(fd), name), nil
}

// put writes the file: a reader sees the old one or the new one.
func (p *placedFile) put(content []byte) error {
	return asInvoker(p.invoker, func() error { return p.place(content) })
}

func (p *placedFile) place(content []byte) error {
	if err := p.requireSame(); err != nil {
		return err
	}
	temporary, f, err := p.create()
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err == nil {
		err = f.Sync() // or, after a crash of the machine, the new name may be of an empty file
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = p.rename(temporary)
	}
	if err != nil {
		return errors.Join(err, remove(p.fd(), temporary))
	}
	return nil
}

// rename gives the file its name; over another one only where that is wanted.
func (p *placedFile) rename(temporary string) error {
	if p.replace {
		return unix.Renameat(p.fd(), temporary, p.fd(), filepath.Base(p.file))
	}
	// A link never replaces, on any file system.
	if err := unix.Linkat(p.fd(), temporary, p.fd(), filepath.Base(p.file), 0); err != nil {
		return err
	}
	return remove(p.fd(), temporary)
}

func remove(dir int, name string) error { return unix.Unlinkat(dir, name, 0) }
