package main

import (
	"fmt"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/translate"
	"golang.org/x/sys/unix"
)

// fileID is the identity of a file, by whatever path it is reached.
type fileID struct{ dev, ino uint64 }

func idOf(st *unix.Stat_t) fileID { return fileID{uint64(st.Dev), st.Ino} }

func idOfDescriptor(fd int) (fileID, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return idOf(&st), err
}

// requireOutside refuses a directory, by its descriptor, in which the command could
// change what Purple writes there, put something in its way, or move it: one that a
// writable folder of the sandbox is or holds. Folders are compared and not their names,
// of which a bind mount gives another one.
func requireOutside(dir int, plan *translate.Plan) error {
	writable := map[fileID]string{}
	for _, m := range plan.Spec.Mounts {
		var st unix.Stat_t
		if m.Kind == spec.BindReadWrite && unix.Stat(m.Source, &st) == nil { // else it cannot be bound either
			writable[idOf(&st)] = m.Source
		}
	}
	if len(writable) == 0 {
		return nil
	}
	at, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { unix.Close(at) }()
	for {
		id, err := idOfDescriptor(at)
		if err != nil {
			return err
		}
		if folder, is := writable[id]; is {
			return fmt.Errorf("it is in %q, where the command may write, and could then change it or put something in its place; name another folder", folder)
		}
		above, err := unix.Openat(at, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("cannot tell what it is in: %w", err)
		}
		unix.Close(at)
		at = above
		if aboveID, err := idOfDescriptor(at); err != nil || aboveID == id { // the root
			return err
		}
	}
}
