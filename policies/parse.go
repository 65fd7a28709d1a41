package policies

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// maxParents caps a chain of "extends".
const maxParents = 8

// Parse reads one profile. name is the one that it was found by: a name in the
// file must be equal. An empty name leaves it to the file, and where that has
// none it is the base name of file, which is the file as errors name it.
// "extends" finds the built-in profiles only; Store.Load finds all of them.
//
// The error is an Errors whenever the profile itself is at fault.
//
// Parse looks at nothing but its arguments. Whether a host path exists, and
// whether this machine can enforce the policy, it does not know.
func Parse(name, file string, content []byte) (*Policy, error) {
	return parse(name, file, content, builtinOnly)
}

// resolver finds the profile that an "extends" names. by are the files of the chain up to
// the one that it stands in.
type resolver func(by []string, name string) (file string, content []byte, err error)

func builtinOnly(_ []string, name string) (string, []byte, error) {
	profile, err := Builtin(name)
	return profile.File, profile.Content, err
}

func parse(name, file string, content []byte, find resolver) (*Policy, error) {
	l := &loader{find: find}
	profile, err := l.load(file, content)
	if err != nil {
		return nil, err
	}
	d := &decoder{errs: profile.errs}
	p := d.policy(profile)
	d.identity(profile.root, p, name, file)
	if err := d.errs.asError(); err != nil {
		return nil, err
	}
	p.files = l.files
	p.digest = sync.OnceValues(p.makeDigest)
	return p, nil
}

// loader follows one chain of "extends".
type loader struct {
	find  resolver
	files []string
}

// loaded is a profile with its parents merged in.
type loaded struct {
	root *node
	errs Errors // of this file's structure
	// keepDefaultDeny: a parent has no allow list of its own, so that the
	// default deny list is part of it.
	keepDefaultDeny bool
}

func (l *loader) load(file string, content []byte) (*loaded, error) {
	l.files = append(l.files, file)
	root, errs := parseTree(file, content)
	if root == nil {
		return nil, errs.asError()
	}
	profile := &loaded{root: root, errs: errs}
	extends := root.field("extends")
	if extends == nil {
		return profile, nil
	}
	parent, err := l.parent(extends)
	if err != nil {
		return nil, err
	}
	profile.root = merged(parent.root, root)
	profile.keepDefaultDeny = parent.keepDefaultDeny || parent.root.field("syscalls").field("allow") == nil
	return profile, nil
}

// parent loads the profile that extends names. It must be right on its own:
// what the child overrides could hide a mistake in it.
func (l *loader) parent(extends *node) (*loaded, error) {
	d := &decoder{}
	file, content := l.findParent(d, extends)
	if err := d.errs.asError(); err != nil {
		return nil, err
	}
	parent, err := l.load(file, content)
	if err != nil {
		return nil, err
	}
	check := &decoder{errs: parent.errs}
	check.policy(parent)
	return parent, check.errs.asError()
}

func (l *loader) findParent(d *decoder, extends *node) (file string, content []byte) {
	name, ok := d.str(extends)
	if !ok {
		return "", nil
	}
	if err := ValidateName(name); err != nil {
		d.errorf(extends, "a profile is extended by name: %v", err)
		return "", nil
	}
	file, content, err := l.find(l.files, name)
	switch {
	case err != nil:
		d.errorf(extends, "cannot extend %q: %v", name, err)
	case slices.Contains(l.files, file):
		d.errorf(extends, "extends itself: %s → %s", strings.Join(l.files, " → "), file)
	case len(l.files) > maxParents:
		d.errorf(extends, "more than %d profiles extend each other", maxParents)
	}
	return file, content
}

// policy reads a whole profile, except for its name.
func (d *decoder) policy(profile *loaded) *Policy {
	p := defaultPolicy()
	root := profile.root
	checkedElsewhere := func(*node) {}
	d.mapping(root,
		reader{"name", checkedElsewhere},
		reader{"description", func(n *node) { d.description(n, p) }},
		reader{"extends", checkedElsewhere},
		reader{"filesystem", func(n *node) { d.filesystem(n, &p.Filesystem) }},
		reader{"syscalls", func(n *node) { d.syscalls(n, &p.Syscalls) }},
		reader{"resources", func(n *node) { d.resources(n, &p.Resources) }},
		reader{"capabilities", func(n *node) { d.capabilities(n, &p.Capabilities) }},
		reader{"network", func(n *node) { d.network(n, &p.Network) }},
		reader{"audit", func(n *node) { d.audit(n, &p.Audit) }},
		reader{"environment", func(n *node) { d.environment(n, &p.Environment) }},
		reader{"command", func(n *node) { d.command(n, p) }},
	)
	fillSyscalls(&p.Syscalls, root.field("syscalls").field("allow") != nil, profile.keepDefaultDeny)
	p.where = places(root, map[string]Position{})
	p.Warnings = d.warnings
	return p
}

// identity settles the profile's name.
func (d *decoder) identity(root *node, p *Policy, name, file string) {
	p.Name = name
	own := root.field("name")
	if own == nil {
		d.nameOfFile(root, p, file)
		return
	}
	text, ok := d.str(own)
	if !ok {
		return
	}
	if err := ValidateName(text); err != nil {
		d.errorf(own, "%v", err)
		return
	}
	if name != "" && text != name {
		d.errorf(own, "the file was found as profile %q but says that it is %q: two names for one profile mislead; "+
			"change this line, or the file's name", name, text)
		return
	}
	p.Name = text
}

func (d *decoder) nameOfFile(root *node, p *Policy, file string) {
	if p.Name != "" {
		return
	}
	base := filepath.Base(file)
	p.Name = strings.TrimSuffix(strings.TrimSuffix(base, ".yaml"), ".yml")
	if ValidateName(p.Name) != nil {
		d.errs = append(d.errs, &Error{At: root.at, Text: "the profile has no name, and its file's cannot be one: add \"name: my-agent\""})
	}
}

// Files are the files that the policy was read from: the profile itself, then
// its parents. A built-in one is "built-in/NAME.yaml".
func (p *Policy) Files() []string { return p.files }
