package translate

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
)

// A scratch directory may take half of the memory limit, and never more than
// maxScratch: its pages are charged to that limit. One inode a 16 KiB.
const (
	maxScratch    = 4 << 30
	bytesPerInode = 16 << 10
)

func (b *builder) scratchSize() uint64 {
	if b.p.Resources.Memory.Unlimited {
		return maxScratch
	}
	return min(b.p.Resources.Memory.Value/2, maxScratch)
}

// mounts lists every mount of the policy, parents before children.
func (b *builder) mounts() error {
	fs := b.p.Filesystem
	for _, bind := range fs.Immutable {
		if err := b.bind(bind, spec.Mount{Kind: spec.BindReadOnly, Exec: true}); err != nil {
			return err
		}
	}
	for _, s := range fs.Scratch {
		b.scratch(s.Path, s.Key)
	}
	for _, out := range fs.Output {
		if err := b.output(out); err != nil {
			return err
		}
	}
	if err := b.workspace(); err != nil {
		return err
	}
	if !b.covered(fs.WorkingDir) {
		b.scratch(fs.WorkingDir, "filesystem.working_dir")
	}
	slices.SortStableFunc(b.plan.Spec.Mounts, func(x, y spec.Mount) int { return cmp.Compare(x.Target, y.Target) })
	return nil
}

func (b *builder) covered(target string) bool {
	return slices.ContainsFunc(b.plan.Spec.Mounts, func(m spec.Mount) bool { return covers(m.Target, target) })
}

// add adds a mount that key asks for; a workspace of the command line has none.
func (b *builder) add(m spec.Mount, key string) {
	b.plan.Spec.Mounts = append(b.plan.Spec.Mounts, m)
	from := m.Source
	if m.Kind == spec.Tmpfs {
		from = fmt.Sprintf("%d bytes", m.Size)
	}
	why := ""
	if key == "" {
		why = "--workspace"
	}
	b.say("mounts", key, why, "%s %s (%s)", m.Kind, printable(m.Target), printable(from))
}

func (b *builder) scratch(target, key string) {
	mode := uint32(0o700)
	if target == "/tmp" || target == "/var/tmp" {
		mode = 0o1777
	}
	size := b.scratchSize()
	// Tools such as pip, npm and gcc run what they have built in /tmp.
	b.add(spec.Mount{Kind: spec.Tmpfs, Target: target, Size: size, Inodes: size / bytesPerInode, Mode: mode, Exec: true}, key)
}

// bind adds m for a declared path, or leaves it out where it is optional and
// not there.
func (b *builder) bind(bind policies.Bind, m spec.Mount) error {
	fact := b.h.Paths[bind.HostPath]
	if !fact.Exists && bind.Optional {
		return nil
	}
	if !fact.Exists {
		return fmt.Errorf("%s: %s: %q does not exist on this machine; create it, or write `optional: true` beside it",
			b.p.Where(bind.Key), bind.Key, bind.HostPath)
	}
	m.Source, m.Target, m.AsOwner = bind.HostPath, bind.SandboxPath, b.isAskedByInvoker(bind.Key)
	b.add(m, bind.Key)
	return nil
}

const (
	whyLandlock  = "this kernel has no Landlock"
	hintLandlock = "write `mode: read-write` beside it, or boot a kernel with lsm=landlock"
)

func (b *builder) output(out policies.Output) error {
	fact := b.h.Paths[out.HostPath]
	if !fact.Exists && !out.Optional {
		return fmt.Errorf("%s: %s: %q does not exist; make it with `install -d -o %d -g %d %s`",
			b.p.Where(out.Key), out.Key, out.HostPath, b.c.Invoker.UID, b.c.Invoker.GID, out.HostPath)
	}
	if err := b.checkWritable(out.HostPath); err != nil {
		return fmt.Errorf("%s: %s: %w", b.p.Where(out.Key), out.Key, err)
	}
	m := spec.Mount{Kind: spec.BindReadWrite, NoSymlinks: true, Idmap: b.idmap(out.HostPath), Exec: out.Mode == policies.ReadWrite}
	if out.Mode == policies.WriteOnly && fact.Exists {
		if b.h.LandlockABI == 0 {
			return b.unsupported(out.Key, "a write-only output path", whyLandlock, hintLandlock)
		}
		b.plan.Spec.WriteOnly = append(b.plan.Spec.WriteOnly, out.SandboxPath)
	}
	return b.bind(out.Bind, m)
}

// idmap is Mount.Idmap of a folder on the host. Root's runs have a user of their own, and
// the files of who owns the folder are shown as that one's: root may let a command work in
// anybody's. Who is not root has no folder but their own.
func (b *builder) idmap(dir string) int {
	fact := b.h.Paths[dir]
	if b.c.Invoker.UID != 0 || !fact.Exists {
		return 0
	}
	owner := spec.Owner{UID: fact.UID, GID: fact.GID}
	owners := &b.plan.Spec.Idmaps
	if n := slices.Index(*owners, owner); n >= 0 {
		return n + 1
	}
	*owners = append(*owners, owner)
	return len(*owners)
}

// workspace binds the folder that the command starts in, at its own path.
func (b *builder) workspace() error {
	dir, kind, key := b.c.Dir, spec.BindReadOnly, "filesystem.workspace"
	mode := b.p.Filesystem.Workspace
	switch {
	case b.c.Workspace != "":
		dir, kind, key = b.c.Workspace, spec.BindReadWrite, ""
	case mode == policies.WorkspaceNone:
		return nil
	case mode == policies.WorkspaceReadWrite:
		kind = spec.BindReadWrite
	}
	if dir == "" {
		return fmt.Errorf("cannot find the current directory, which is the workspace (filesystem.workspace, %s): %w; call purple in a folder that is there, or name one with --workspace DIR", b.p.Where(key), b.c.DirError)
	}
	if err := b.checkWorkspace(dir); err != nil {
		return err
	}
	b.add(spec.Mount{Kind: kind, Source: dir, Target: dir, NoSymlinks: true, Idmap: b.idmap(dir), AsOwner: b.isAskedByInvoker(""), Exec: true}, key)
	b.plan.Spec.Command.Dir = dir
	return nil
}

// systemTrees are no place for a project, whole; sharedDirs only as such.
var (
	systemTrees = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr"}
	sharedDirs  = []string{"/", "/mnt", "/media", "/opt", "/srv", "/tmp", "/var", "/var/lib", "/var/log", "/var/tmp"}
)

func (b *builder) checkWorkspace(dir string) error {
	const what = "call purple in a project's own folder, or name one with --workspace DIR"
	inTree := slices.ContainsFunc(systemTrees, func(tree string) bool { return covers(tree, dir) })
	if inTree || slices.Contains(sharedDirs, dir) {
		return fmt.Errorf("cannot use %q as the workspace: it is a directory of the system; %s", dir, what)
	}
	for _, home := range b.homes() {
		if covers(dir, home) {
			return fmt.Errorf("cannot use %q as the workspace: it is or holds the home directory %q, with all keys and tokens in it; %s", dir, home, what)
		}
	}
	if b.c.Workspace == "" && b.p.Filesystem.Workspace != policies.WorkspaceReadWrite {
		return nil
	}
	return b.checkWritable(dir)
}

// checkWritable refuses a folder in which the command could loosen its own next
// run, or change what is recorded of this one: the profile, the places where one
// is found by name, the log, purple-init itself.
func (b *builder) checkWritable(dir string) error {
	for _, file := range b.c.Profiles {
		if covers(dir, file) {
			return fmt.Errorf("cannot make %q writable: it holds the profile %q, which the command could then change; keep the profile elsewhere", dir, file)
		}
	}
	for _, place := range b.c.ProfileDirs {
		if covers(dir, place) || covers(place, dir) {
			return fmt.Errorf("cannot make %q writable: profiles are found in %q, where the command could then make one; name another folder", dir, place)
		}
	}
	if log := b.p.Audit.LogPath; b.p.Audit.Enabled && log != "" && covers(dir, log) {
		return fmt.Errorf("cannot make %q writable: it holds the log %q (audit.log_path), which the command could then rewrite; keep the log elsewhere", dir, log)
	}
	for _, program := range []string{b.c.InitPath, b.c.NetPath, b.c.SelfPath} {
		if program != "" && covers(dir, program) {
			return fmt.Errorf("cannot make %q writable: it holds %q, which is executed outside of the sandbox; install purple elsewhere, or name another folder", dir, program)
		}
	}
	if place, by := sessionPlaceIn(dir, b.homes(), &b.c); place != "" {
		return fmt.Errorf("cannot make %q writable: what lies in %q is run, outside of the sandbox, by %s; name another folder", dir, place, by)
	}
	return nil
}
