package confine

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// namespaceInode is the identity of one namespace of the calling thread.
func namespaceInode(name string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/"+name, &st); err != nil {
		return 0, fmt.Errorf("cannot examine the %s namespace: %w", name, err)
	}
	return st.Ino, nil
}

// requireForeign refuses if the calling thread shares one of the namespaces
// named with the manager. systemd goes on without a namespace that it cannot
// make (EPERM is a warning there) and a user manager of systemd 252 ignores
// the properties altogether, so this is the only proof.
func requireForeign(manager map[string]uint64, names ...string) error {
	for _, name := range names {
		outside, known := manager[name]
		if !known || outside == 0 {
			return fmt.Errorf("cannot compare the %s namespace: the manager's is not known", name)
		}
		inside, err := namespaceInode(name)
		if err != nil {
			return err
		}
		if inside == outside {
			return fmt.Errorf("the %s namespace is the host's", name)
		}
	}
	return nil
}

// unitNamespaces are those that the unit's properties ask the manager for.
var unitNamespaces = []string{"net"}

// initNamespaces are those that differ once init runs; the user namespace is
// the command's alone.
var initNamespaces = []string{"mnt", "ipc", "net", "uts", "pid", "cgroup"}

func (s *sandbox) verifyNamespaces() error {
	return requireForeign(s.spec.ManagerNamespaces, initNamespaces...)
}

// verifyNamespaces compares all that the manager has: seven.
func (c *command) verifyNamespaces() error {
	names := slices.Sorted(maps.Keys(c.spec.ManagerNamespaces))
	if len(names) != len(initNamespaces)+1 {
		return fmt.Errorf("the spec names %d namespaces, not %d", len(names), len(initNamespaces)+1)
	}
	return requireForeign(c.spec.ManagerNamespaces, names...)
}

func (s *sandbox) setHostname() error {
	return unix.Sethostname([]byte(s.spec.Hostname))
}
