package confine

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification is struct seccomp_notif (<linux/seccomp.h>), with room for what
// a later kernel appends: it says how much it writes, see requireSizes.
type notification struct {
	id    uint64
	tid   uint32 // as this process sees it
	flags uint32
	data  struct {
		nr          int32
		arch        uint32
		instruction uint64
		args        [6]uint64
	}
	_ [176]byte
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	error int32
	flags uint32 // SECCOMP_USER_NOTIF_FLAG_CONTINUE lets the call go on: see goOn
	_     [104]byte
}

// Of <linux/seccomp.h>, where golang.org/x/sys/unix has none.
const (
	ioctlNotifIDValid  = 0x40082102 // SECCOMP_IOCTL_NOTIF_ID_VALID
	ioctlNotifSetFlags = 0x40082104 // SECCOMP_IOCTL_NOTIF_SET_FLAGS, since Linux 6.6
)

// listener gives the calls that a filter denies. What is not answered because it
// is closed, the kernel answers with ENOSYS.
type listener struct{ fd int }

// newListener takes the descriptor over. It makes sure that it is a listener.
func newListener(fd int) (*listener, error) {
	l := &listener{fd}
	if l.valid(0) != unix.ENOENT {
		unix.Close(fd)
		return nil, errors.New("the descriptor is no listener of a filter")
	}
	// Who waits for an answer has nothing else to do: its processor is the best
	// one for the answer. Without that the call takes the time in which another
	// processor wakes up, twice. A kernel before 6.6 does not know it.
	_, _, _ = syscall.RawSyscall(unix.SYS_IOCTL, uintptr(fd), ioctlNotifSetFlags, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	return l, nil
}

// requireSizes makes sure that this kernel's structures fit into ours.
func requireSizes() error {
	var sizes struct{ notification, response, data uint16 }
	if _, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0, uintptr(unsafe.Pointer(&sizes))); errno != 0 {
		return fmt.Errorf("cannot ask for the size of a notification: %w", errno)
	}
	if uintptr(sizes.notification) > unsafe.Sizeof(notification{}) || uintptr(sizes.response) > unsafe.Sizeof(response{}) {
		return fmt.Errorf("this kernel's notifications are %d bytes, its answers %d: more than this version of Purple knows", sizes.notification, sizes.response)
	}
	return nil
}

func (l *listener) close() error { return unix.Close(l.fd) }

// valid tells with ENOENT that a call is not waiting any more.
func (l *listener) valid(id uint64) syscall.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(l.fd), ioctlNotifIDValid, uintptr(unsafe.Pointer(&id)))
	return errno
}
