// Package stdio decides how each of a caller's standard streams reaches a
// command that is not trusted with what else a descriptor is good for.
//
// A descriptor is more than the bytes that go through it. A regular file can be
// opened anew for writing through /proc/self/fd, truncated, and its mode changed; a
// socket keeps its network namespace and can be connected elsewhere; a directory
// leads to the whole file system (CVE-2024-21626); a namespace can be entered. So a
// command gets only what is no more than a stream, and for the rest a pipe or a
// read-only copy in its place.
//
// Not protected: an anonymous pipe is the caller's own. A command with the uid of
// whoever made it can open it in the other direction too, and change its flags.
package stdio

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Names are what the streams are called in messages, by their descriptors.
var Names = [3]string{"standard input", "standard output", "standard error"}

// Way is how a stream reaches the command.
type Way int

// The ways. The zero Way is none.
const (
	// Passed: the descriptor itself. It is an anonymous pipe or a device that is
	// the same for everybody, such as /dev/null.
	Passed Way = iota + 1
	// Copied: standard input is a regular file. It is opened anew on a read-only
	// copy of its mount, or else relayed.
	Copied
	// Relayed: the command has a pipe, and the other end is copied.
	Relayed
	// Silent: it is not open in the direction of the stream. The command gets
	// /dev/null, opened in the wrong direction as well: the error is the same.
	Silent
)

// Facts are what the kernel says of a descriptor.
type Facts struct {
	Mode, UID  uint32 // of the inode
	Rdev       uint64 // of a device
	FSType     int64  // statfs(2), f_type
	ReadOnly   bool   // the mount is read-only
	Flags      int    // fcntl(2), F_GETFL
	SocketType int    // of a socket: SOCK_STREAM
	Listening  bool   // it is a socket that accepts connections
	Terminal   bool
}

// Examine asks the kernel. It changes nothing about the descriptor.
func Examine(fd int) (Facts, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Facts{}, err
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return Facts{}, err
	}
	f := Facts{Mode: st.Mode, UID: st.Uid, Rdev: uint64(st.Rdev), Flags: flags}
	if flags&unix.O_PATH != 0 {
		return f, nil // nothing more can be asked of it
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return Facts{}, err
	}
	f.FSType, f.ReadOnly = int64(fs.Type), fs.Flags&unix.ST_RDONLY != 0
	if f.is(unix.S_IFSOCK) {
		return f, f.examineSocket(fd)
	}
	if f.is(unix.S_IFCHR) {
		_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		f.Terminal = err == nil
	}
	return f, nil
}

func (f *Facts) examineSocket(fd int) error {
	var err error
	if f.SocketType, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return err
	}
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	f.Listening = listening != 0
	return err
}

func (f Facts) is(kind uint32) bool { return f.Mode&unix.S_IFMT == kind }

// Way is how the stream n (0, 1 or 2) reaches the command. A terminal is an error:
// its place is taken by a pty before.
func (f Facts) Way(n int) (Way, error) {
	switch {
	case f.Flags&unix.O_PATH != 0:
		return 0, errors.New("it is not open for reading or writing")
	case f.is(unix.S_IFDIR):
		return 0, errors.New("it is a directory")
	case f.Terminal:
		return 0, errors.New("internal error: it is the caller's terminal")
	}
	way, err := f.wayOfKind(n)
	if err == nil && !f.fits(n) {
		way = Silent
	}
	return way, err
}

func (f Facts) wayOfKind(n int) (Way, error) {
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return f.pipe(), nil
	case unix.S_IFCHR:
		return f.device(), nil
	case unix.S_IFBLK:
		return Relayed, nil
	case unix.S_IFSOCK:
		return f.socket()
	case unix.S_IFREG:
		return f.file(n)
	default: // an inode without a kind: epoll, eventfd, pidfd and their like
		return 0, errors.New("it is not a file, pipe, socket or device")
	}
}

// fits tells whether it is open in the direction of the stream.
func (f Facts) fits(n int) bool {
	wrong := unix.O_RDONLY
	if n == 0 {
		wrong = unix.O_WRONLY
	}
	return f.Flags&unix.O_ACCMODE != wrong
}

// pipe: one with a name in a file system could be opened by it, and its mode changed.
func (f Facts) pipe() Way {
	if f.FSType == unix.PIPEFS_MAGIC {
		return Passed
	}
	return Relayed
}

// harmlessDevices are minor numbers of the major 1: null, zero, full, random, urandom.
var harmlessDevices = map[uint32]bool{3: true, 5: true, 7: true, 8: true, 9: true}

const memoryMajor = 1 // of Documentation/admin-guide/devices.txt in the kernel's source

func (f Facts) isHarmlessDevice() bool {
	return f.is(unix.S_IFCHR) && unix.Major(f.Rdev) == memoryMajor && harmlessDevices[unix.Minor(f.Rdev)]
}

func (f Facts) device() Way {
	if f.isHarmlessDevice() {
		return Passed
	}
	return Relayed // its ioctl requests stay outside
}

func (f Facts) socket() (Way, error) {
	if f.SocketType != unix.SOCK_STREAM || f.Listening {
		return 0, errors.New("it is a socket, and not a connected stream")
	}
	return Relayed, nil
}

// noFiles are file systems whose regular files are none: namespaces and processes.
var noFiles = map[int64]string{
	unix.NSFS_MAGIC:          "namespace",
	unix.PID_FS_MAGIC:        "process",
	unix.ANON_INODE_FS_MAGIC: "kernel object",
}

func (f Facts) file(n int) (Way, error) {
	if what := noFiles[f.FSType]; what != "" {
		return 0, fmt.Errorf("it is a %s", what)
	}
	if n == 0 {
		return Copied, nil
	}
	return Relayed, nil
}

// MayRead tells whether the mode of a file lets a user without groups read it.
func (f Facts) MayRead(uid uint32) bool {
	if f.UID == uid {
		return f.Mode&unix.S_IRUSR != 0
	}
	return f.Mode&unix.S_IROTH != 0
}

// Verify refuses what must not be in the hands of a command as its stream n,
// whoever has put it there.
func (f Facts) Verify(n int) error {
	switch way, err := f.Way(n); {
	case err != nil:
		return err
	case way == Passed, way == Silent && f.isHarmlessDevice():
		return nil
	case way == Copied && f.ReadOnly:
		return nil
	default:
		return errors.New("it is more than a stream")
	}
}
