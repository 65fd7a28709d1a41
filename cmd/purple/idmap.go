package main

// #include "idmap.h"
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/internal/userns"
	"golang.org/x/sys/unix"
)

// openIdmap makes the user namespace by which idmapped mounts show the files of an owner
// as the command's, and those of others as theirs, while systemd starts the unit.
func openIdmap(owner spec.Owner, id spec.Identity) (*os.File, error) {
	ns, err := openUserNamespace(userns.Map{UID: owner.UID, GID: owner.GID, OuterUID: id.HostUID, OuterGID: id.HostGID, Others: true})
	if err != nil {
		return nil, fmt.Errorf("cannot make the id map: %w", err)
	}
	return ns, nil
}

// openUserNamespace makes a user namespace with nothing in it. It takes a process
// to make one, which is not needed any more once the namespace is open.
func openUserNamespace(m userns.Map) (ns *os.File, err error) {
	runtime.LockOSThread() // the process would end with the thread
	defer runtime.UnlockOSThread()
	pid, err := C.start_in_user_namespace()
	if pid < 0 {
		return nil, err
	}
	defer func() {
		killErr := unix.Kill(int(pid), unix.SIGKILL)
		_, waitErr := unix.Wait4(int(pid), nil, 0, nil)
		err = errors.Join(err, killErr, waitErr)
	}()
	if err := userns.Write(int(pid), m); err != nil {
		return nil, err
	}
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
}
