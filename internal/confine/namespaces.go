package confine

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// self is the calling thread, as /proc names processes.
const self = "thread-self"

// namespaceInode is the identity of one namespace of a process.
func namespaceInode(process, name string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/"+process+"/ns/"+name, &st); err != nil {
		return 0, fmt.Errorf("cannot examine the %s namespace: %w", name, err)
	}
	return st.Ino, nil
}

// requireForeign refuses if a process shares one of the namespaces named with
// the manager. systemd goes on without a namespace that it cannot
// make (EPERM is a warning there) and a user manager of systemd 252 ignores
// the properties altogether, so this is the only proof.
func requireForeign(process string, manager map[string]uint64, names ...string) error {
	for _, name := range names {
		outside, known := manager[name]
		if !known || outside == 0 {
			return fmt.Errorf("cannot compare the %s namespace: the manager's is not known", name)
		}
		inside, err := namespaceInode(process, name)
		if err != nil {
			return err
		}
		if inside == outside {
			return fmt.Errorf("the %s namespace is the host's", name)
		}
	}
	return nil
}

// requireShared refuses if the calling thread is in another namespace than the
// manager that it was told of: then purple and the unit's manager do not see the
// same machine, and a comparison with the wrong one would prove nothing.
func requireShared(manager map[string]uint64, names ...string) error {
	for _, name := range names {
		inside, err := namespaceInode(self, name)
		if err != nil {
			return err
		}
		if inside != manager[name] {
			return fmt.Errorf("purple was called in another %s namespace than the manager's; call it from a login session, not from inside a container or another sandbox", name)
		}
	}
	return nil
}

// unitNamespaces are those that the unit's properties ask the manager for.
var unitNamespaces = []string{"net"}

// initNamespaces are those that differ once init runs, and userNamespace is the
// command's alone: under a user manager init has one of its own as well.
var initNamespaces = []string{"mnt", "ipc", "net", "uts", "pid", "cgroup"}

const userNamespace = "user"

// verifyUnit makes sure that nothing of a run starts in the host's namespaces.
// A user manager gives its unit none: there init is cloned into all of them, and
// the supervisor is in the manager's own, which are what init compares with.
func (s *supervisor) verifyUnit() error {
	if s.spec.UserManager {
		return requireShared(s.spec.ManagerNamespaces, append(initNamespaces, userNamespace)...)
	}
	return requireForeign(self, s.spec.ManagerNamespaces, unitNamespaces...)
}

func (s *sandbox) verifyNamespaces() error {
	names := initNamespaces
	if s.spec.UserManager {
		names = append(names, userNamespace)
	}
	return requireForeign(self, s.spec.ManagerNamespaces, names...)
}

// verifyCommandNamespaces compares all that the manager has, seven, with those of
// the command's process.
func (s *sandbox) verifyCommandNamespaces() error {
	names := slices.Sorted(maps.Keys(s.spec.ManagerNamespaces))
	if len(names) != len(initNamespaces)+1 {
		return fmt.Errorf("the spec names %d namespaces, not %d", len(names), len(initNamespaces)+1)
	}
	process := strconv.Itoa(s.cmd)
	if err := requireForeign(process, s.spec.ManagerNamespaces, names...); err != nil {
		return err
	}
	own, err := namespaceInode(self, userNamespace)
	if err != nil {
		return err
	}
	return requireForeign(process, map[string]uint64{userNamespace: own}, userNamespace)
}

func (s *sandbox) setHostname() error {
	return unix.Sethostname([]byte(s.spec.Hostname))
}

// leaveKeyring gives the sandbox a session keyring of its own. The system manager
// does that for its services; a user's hands its own on, with whatever keys and
// tickets the session has (KeyringMode= in systemd.exec(5)). A kernel without keys,
// or a container that forbids the call, leaves nothing to reach either.
func (s *sandbox) leaveKeyring() error {
	if !s.spec.UserManager {
		return nil
	}
	const joinSessionKeyring = 1 // KEYCTL_JOIN_SESSION_KEYRING, of <linux/keyctl.h>
	_, _, errno := unix.Syscall(unix.SYS_KEYCTL, joinSessionKeyring, 0, 0)
	if errno != 0 && errno != unix.ENOSYS && errno != unix.EPERM {
		return errno
	}
	return nil
}
