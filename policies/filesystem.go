package policies

import (
	"fmt"
	"path"
	"strings"
	"unicode"
)

func (d *decoder) filesystem(n *node, fs *Filesystem) {
	d.mapping(n,
		reader{"immutable_paths", func(n *node) { d.immutable(n, fs) }},
		reader{"scratch_paths", func(n *node) { d.scratch(n, fs) }},
		reader{"output_paths", func(n *node) { d.output(n, fs) }},
		reader{"working_dir", func(n *node) { fs.WorkingDir = d.path(n, sandboxPath) }},
		reader{"workspace", func(n *node) { d.workspace(n, fs) }},
	)
	d.oneMountEach(n, fs)
}

func (d *decoder) workspace(n *node, fs *Filesystem) {
	modes := []string{string(WorkspaceNone), string(WorkspaceReadOnly), string(WorkspaceReadWrite)}
	if mode, ok := d.oneOf(n, modes...); ok {
		fs.Workspace = WorkspaceMode(mode)
	}
}

func (d *decoder) immutable(n *node, fs *Filesystem) {
	fs.Immutable = nil
	d.each(n, func(item *node) {
		fs.Immutable = append(fs.Immutable, d.bind(item))
	})
}

func (d *decoder) scratch(n *node, fs *Filesystem) {
	fs.Scratch = nil
	d.each(n, func(item *node) {
		fs.Scratch = append(fs.Scratch, Scratch{Path: d.path(item, sandboxPath), Key: item.key})
	})
}

func (d *decoder) output(n *node, fs *Filesystem) {
	fs.Output = nil
	d.each(n, func(item *node) {
		out := Output{Mode: WriteOnly}
		out.Bind = d.bind(item, reader{"mode", func(n *node) {
			if mode, ok := d.oneOf(n, string(WriteOnly), string(ReadWrite)); ok {
				out.Mode = OutputMode(mode)
			}
		}})
		fs.Output = append(fs.Output, out)
	})
}

// bind reads one entry: a string is the path on both sides, a mapping names
// them, and sandbox_path left out is host_path.
func (d *decoder) bind(n *node, more ...reader) Bind {
	b := Bind{Key: n.key}
	if n.kind == scalar {
		b.HostPath = d.path(n, hostPath, sandboxPath)
		b.SandboxPath = b.HostPath
		return b
	}
	readers := []reader{
		{"host_path", func(n *node) { b.HostPath = d.path(n, hostPath) }},
		{"sandbox_path", func(n *node) { b.SandboxPath = d.path(n, sandboxPath) }},
		{"optional", func(n *node) { d.boolean(n, &b.Optional) }},
	}
	d.mapping(n, append(readers, more...)...)
	if n.kind != mapping {
		return b
	}
	host := n.field("host_path")
	switch {
	case host == nil:
		d.errorf(n, "host_path is missing: it names what to show")
	case n.field("sandbox_path") == nil && b.HostPath != "":
		b.SandboxPath = d.path(host, sandboxPath)
	}
	return b
}

// path reads a path that every rule accepts; it is empty if one does not.
func (d *decoder) path(n *node, rules ...func(string) string) string {
	p, ok := d.str(n)
	if !ok {
		return ""
	}
	for _, rule := range append([]func(string) string{cleanPath}, rules...) {
		if reason := rule(p); reason != "" {
			d.errorf(n, "path %s %s", printable(p), reason)
			return ""
		}
	}
	return p
}

// cleanPath, hostPath and sandboxPath tell why a path is refused; empty if it
// is not.

func cleanPath(p string) string {
	const pathMax = 4096 // PATH_MAX, with the closing NUL
	switch {
	case p == "":
		return "is empty"
	case strings.HasPrefix(p, "~"):
		return `must be absolute: "~" is not expanded, write the home directory out`
	case !strings.HasPrefix(p, "/"):
		return `must be absolute: start it with "/"`
	case len(p) >= pathMax:
		return fmt.Sprintf("is longer than %d bytes", pathMax-1)
	case strings.ContainsFunc(p, unicode.IsControl):
		return "holds a control character"
	case strings.Contains(p+"/", "/../"):
		return `must not hold "..": write out where it leads`
	case path.Clean(p) != p:
		return fmt.Sprintf("is not clean: write it %q", path.Clean(p))
	}
	return ""
}

func hostPath(p string) string {
	switch {
	case p == "/":
		return "would show the whole host: list the directories that are needed"
	case within(p, "/proc"):
		// Environments, command lines and open files of every process of
		// the user: /proc/PID/root and /proc/PID/fd lead anywhere.
		return "would show the host's processes: the sandbox has a /proc of its own"
	}
	return ""
}

func sandboxPath(p string) string {
	switch {
	case p == "/":
		return "is the sandbox's own root: name a directory below it"
	case within(p, "/proc"), within(p, "/dev"):
		return "is at or below a directory that Purple itself makes: choose another place"
	}
	return ""
}

// within tells whether the clean path p is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// oneMountEach refuses two mounts at one place: the later would hide the
// earlier, and which is later is nothing that a profile says. The default
// scratch directory gives way.
func (d *decoder) oneMountEach(n *node, fs *Filesystem) {
	taken := map[string]*node{}
	claim := func(p string, at *node) {
		first := taken[p]
		switch {
		case p == "" || at == nil:
		case first != nil:
			d.errorf(at, "%s is mounted by %s (%s) already: two mounts cannot share a place", printable(p), first.key, first.at)
		default:
			taken[p] = at
		}
	}
	for i, item := range itemsOf(n, "immutable_paths") {
		claim(fs.Immutable[i].SandboxPath, item)
	}
	for i, item := range itemsOf(n, "scratch_paths") {
		claim(fs.Scratch[i].Path, item)
	}
	for i, item := range itemsOf(n, "output_paths") {
		claim(fs.Output[i].SandboxPath, item)
	}
	if n.field("scratch_paths") == nil && taken["/tmp"] != nil {
		fs.Scratch = nil
	}
}

func itemsOf(n *node, name string) []*node {
	if f := n.field(name); f != nil {
		return f.items
	}
	return nil
}
