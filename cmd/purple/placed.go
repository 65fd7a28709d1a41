package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/purple-sandbox/purple/translate"
	"golang.org/x/sys/unix"
)

// placedFile is a file that appears when a run has ended, at once and
// completely. Its directory is opened before: nothing of the file is there while
// the run lasts, because the command may be able to write to that directory.
type placedFile struct {
	file    string // as the caller named it
	dir     *os.File
	invoker translate.Invoker
	replace bool // a file of that name; else there must be none
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
	if p.dir, err = os.OpenFile(filepath.Dir(p.file), unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return err
	}
	if err := p.requirePlace(); err != nil {
		return err
	}
	temporary, f, err := p.create()
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), unix.Unlinkat(p.fd(), temporary, 0))
}

func (p *placedFile) fd() int { return int(p.dir.Fd()) }

// requirePlace: the file takes the place of an older one where that is wanted,
// and of nothing else, such as /dev/null.
func (p *placedFile) requirePlace() error {
	var st unix.Stat_t
	err := unix.Fstatat(p.fd(), filepath.Base(p.file), &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it exists and is not a regular file")
	case !p.replace:
		return unix.EEXIST
	}
	return nil
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
	if err := p.requirePlace(); err != nil {
		return err
	}
	temporary, f, err := p.create()
	if err != nil {
		return err
	}
	_, err = f.Write(content)
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
