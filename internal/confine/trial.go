package confine

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// The trial tells `purple doctor` whether this machine lets purple-init build a
// sandbox: by building the start of one, with nothing in it. It must be this
// program's: AppArmor may let one program make user namespaces and not another.

// Trial clones a process into the namespaces that a run's init gets and prints
// what could not be done, a line each: what, a colon, why. helper is purple-net.
func Trial(helper string) int {
	s := &supervisor{spec: &spec.Spec{UserManager: os.Geteuid() != 0}}
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	s.spec.Identity = spec.Identity{UID: uid, GID: gid, HostUID: uid, HostGID: gid}
	attr := s.initAttributes()
	// Of the system manager, the unit and its command get these.
	attr.Cloneflags |= syscall.CLONE_NEWNET
	if !s.spec.UserManager {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		attr.GidMappings = attr.UidMappings
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"purple-init", "tried", helper}, &syscall.ProcAttr{
		Env: []string{oneProcessor}, Files: []uintptr{0, 1, 2}, Sys: attr,
	})
	if err == nil {
		_, err = unix.Wait4(pid, nil, 0, nil)
	}
	if err != nil {
		fmt.Printf("namespaces: %v\n", err)
	}
	return 0
}

// Tried is the process in the namespaces.
func Tried(helper string) int {
	for _, try := range []struct {
		what string
		do   func() error
	}{
		{"proc", tryProc},
		{"rules", func() error { return runHelper(helper, []byte(`{"Name":"purple"}`), "rules") }},
	} {
		if err := try.do(); err != nil {
			fmt.Printf("%s: %s\n", try.what, strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
	return 0
}

func tryProc() error {
	fd, err := newFilesystem("proc", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
