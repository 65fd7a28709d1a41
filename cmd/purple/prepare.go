package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
	"github.com/purple-sandbox/purple/translate/seccomp"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// defaultProfile is what run and plan use when none is named.
const defaultProfile = "ai-dev-safe"

// request is what the command line of run, learn and plan asks for.
type request struct {
	profile   string
	workspace string
	env       []string
	detach    bool
	receipt   string
	argv      []string

	terminal [3]bool
	winsize  [4]uint16

	placed *placedFile // written at the end; nil: nothing is

	planOnly bool     // nothing will be started
	learner  *learner // of `purple learn`; nil: the policy's system calls are enforced
}

func (r *request) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&r.profile, "profile", "p", defaultProfile, "profile, by name or, with a slash, by path")
	f.StringVarP(&r.workspace, "workspace", "w", "", "bind this folder at its own path, writable, and start there")
	f.StringArrayVarP(&r.env, "env", "e", nil, "set NAME=VALUE in the command's environment, or pass NAME from the caller's")
	// What follows the command is the command's.
	f.SetInterspersed(false)
}

// prepared is a plan and the filter that is being compiled for it.
type prepared struct {
	policy  *policies.Policy
	plan    *translate.Plan
	filter  func() (*seccomp.Program, error)
	invoker translate.Invoker
	netPath string   // purple-net; empty: the network is isolated
	log     *os.File // of audit.log_path; nil: none
	learner *learner
	streams [3]int // the caller's, of an attached run
}

// program is the filter as it will be loaded.
func (p *prepared) program() (*seccomp.Program, error) {
	program, err := p.filter()
	if err == nil && p.plan.Spec.RecordSyscalls {
		program = program.Notifying()
	}
	if s := &p.plan.Spec; err == nil && (s.RecordPaths || s.RecordReads || s.RecordCapabilities) {
		program, err = program.Watching(seccomp.Watch{Paths: s.RecordPaths, Reads: s.RecordReads, Capabilities: s.RecordCapabilities, Held: s.Capabilities})
	}
	if err == nil && p.plan.Spec.Learning {
		program = program.Traced()
	}
	return program, err
}

// prepare goes the road from the command line to the plan. It changes nothing
// on the machine.
func (a *app) prepare(req request) (*prepared, error) {
	d, err := a.domain()
	if err != nil {
		return nil, err
	}
	machine := d.probe()
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	profile, err := store.Read(req.profile)
	if err != nil {
		return nil, err
	}
	policy, err := store.Parse(profile.Name, profile.File, profile.Content)
	if err != nil {
		return nil, err
	}
	a.log(logPolicies).Info("read the profile", "profile", policy.Name, "files", policy.Files(), "digest", digestValue{policy})
	if err := req.learner.accept(policy); err != nil {
		return nil, err
	}
	go func() { _, _ = policy.Digest() }() // translate asks for it, and hears of an error
	filter := compileFilter(policy, req.learner)
	command, err := a.command(req)
	if err != nil {
		return nil, err
	}
	if !policy.Network.Isolated {
		if command.NetPath, err = req.helper("purple-net"); err != nil {
			return nil, err
		}
	}
	if command.ProfileFile, err = profilePath(profile); err != nil {
		return nil, err
	}
	command.Profiles, command.RootsFiles = profileFiles(policy), rootsFiles(policy)
	if command.ProfileDirs, err = a.protectedDirs(command.Invoker); err != nil {
		return nil, err
	}
	if command.Links, err = sessionLinks(policy, command); err != nil {
		return nil, err
	}
	facts, err := completeFacts(machine, policy, command)
	if err != nil {
		return nil, err
	}
	a.log(logHost).Debug("examined the machine", "cgroups", facts.Cgroup, "controllers", facts.Controllers, "landlock", facts.LandlockABI)
	plan, err := translate.Build(policy, command, facts)
	if err != nil {
		return nil, err
	}
	a.logPlan(plan)
	if err := resolveCommand(plan, command); err != nil {
		return nil, err
	}
	return &prepared{policy: policy, plan: plan, filter: filter, invoker: command.Invoker, netPath: command.NetPath, learner: req.learner}, nil
}

// completeFacts are the facts of the machine and of what the policy names, of the
// network only where one is asked for.
func completeFacts(machine func() (host.Facts, error), policy *policies.Policy, command translate.Command) (host.Facts, error) {
	network := func() (host.Network, error) { return host.Network{}, nil }
	if !policy.Network.Isolated {
		network = meanwhile(host.ProbeNetwork)
	}
	paths, err := probePaths(policy, command)
	if err != nil {
		return host.Facts{}, err
	}
	facts, err := machine()
	if err != nil {
		return facts, err
	}
	facts.Paths = paths
	facts.Network, err = network()
	return facts, err
}

// compileFilter compiles beside everything else; the result is waited for.
// Only for a learner it lets more pass than the policy does.
func compileFilter(policy *policies.Policy, l *learner) func() (*seccomp.Program, error) {
	return meanwhile(func() (*seccomp.Program, error) {
		calls := policy.Syscalls
		if l != nil {
			var err error
			if calls, err = seccomp.Learning(calls, seccomp.NativeArch); err != nil {
				return nil, err
			}
		}
		return seccomp.Compile(calls, seccomp.NativeArch)
	})
}

// meanwhile begins f in a goroutine, and returns what waits for its result.
func meanwhile[T any](f func() (T, error)) func() (T, error) {
	var result T
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		result, err = f()
	}()
	return func() (T, error) {
		<-done
		return result, err
	}
}

// command collects what translate needs of the caller.
func (a *app) command(req request) (translate.Command, error) {
	c := translate.Command{
		RunID:    runID(),
		Detach:   req.detach,
		Learning: req.learner != nil,
		Terminal: req.terminal,
		Winsize:  req.winsize,
		Environ:  environ(),
	}
	for _, arg := range req.argv {
		c.Argv = append(c.Argv, []byte(arg))
	}
	var err error
	if c.Invoker, err = invoker(); err != nil {
		return c, err
	}
	if err := asInvoker(c.Invoker, func() error { return findDirs(&c, req) }); err != nil {
		return c, err
	}
	if c.Env, err = envFlags(req.env); err != nil {
		return c, err
	}
	if c.SelfPath, err = ownPath(); err != nil {
		return c, err
	}
	c.InitPath, err = req.helper("purple-init")
	return c, err
}

// findDirs finds the folders that the caller stands in and names. That it stands in none,
// which may be deleted or out of reach, matters only to a run that needs it.
func findDirs(c *translate.Command, req request) error {
	c.Dir, c.DirError = currentDir()
	var err error
	c.Workspace, err = workspaceDir(req.workspace)
	return err
}

func currentDir() (string, error) {
	dir, err := os.Getwd()
	if err == nil {
		// PWD may name it through a link, which a bind would refuse.
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", err
	}
	return dir, nil
}

// ownPath is this program's file.
func ownPath() (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fmt.Errorf("cannot find purple's own file: %w", err)
	}
	return self, nil
}

// helper is the path of a program of Purple's.
func (r *request) helper(program string) (string, error) {
	path, err := helperPath(program)
	if err != nil && r.planOnly {
		// A plan can be made where purple is not installed, as in CI.
		return filepath.Join(packagedHelpers, program), nil
	}
	return path, err
}

// protectedDirs are where profiles are found by name: for this purple, and for
// the user behind sudo when they call it themselves. Each as it is named and,
// where that differs, as it really is.
func (a *app) protectedDirs(i translate.Invoker) ([]string, error) {
	dirs, err := a.profileDirs(i)
	if err != nil {
		return nil, err
	}
	if i.Home != "" && i.UID != 0 {
		dirs = slices.Concat(dirs, policies.UsersDirs(i.Home))
	}
	var paths []string
	for _, dir := range dirs {
		paths = append(paths, dir.Path)
		if real := realDir(dir, i); real != "" {
			paths = append(paths, real)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// realDir is where a directory for profiles really is; empty: it is not there. A user's
// may be a link of theirs to anywhere, and a refused plan names what is there.
func realDir(dir policies.Dir, i translate.Invoker) string {
	look := func(f func() error) error { return f() }
	if dir.Source == policies.SourceUser {
		look = rightsOf(i)
	}
	var real string
	err := look(func() (err error) {
		real, err = filepath.EvalSymlinks(dir.Path)
		return err
	})
	if err != nil {
		return ""
	}
	return real
}

// profilePath is the profile's file as anybody can find it again; empty for a
// built-in one.
func profilePath(p policies.Profile) (string, error) {
	if p.Source == policies.SourceBuiltin {
		return "", nil
	}
	file, err := filepath.Abs(p.File)
	if err != nil {
		return "", fmt.Errorf("cannot find %q again: %w", p.File, err)
	}
	return file, nil
}

// profileFiles are the files on this machine that a policy was read from; a
// built-in one is none.
func profileFiles(p *policies.Policy) []string {
	var files []string
	for _, f := range p.Files() {
		// In this order: what is cleaned first leads elsewhere, past a link.
		real, err := filepath.EvalSymlinks(f)
		if err == nil {
			real, err = filepath.Abs(real)
		}
		if err == nil {
			files = append(files, real)
		}
	}
	return files
}

// runID tells runs of one profile apart.
func runID() string {
	var id [4]byte
	_, _ = rand.Read(id[:]) // crypto/rand never fails: it ends the process instead
	return hex.EncodeToString(id[:])
}

func environ() map[string]string {
	env := map[string]string{}
	for _, entry := range os.Environ() {
		if name, value, ok := strings.Cut(entry, "="); ok {
			env[name] = value
		}
	}
	return env
}

func workspaceDir(dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return "", fmt.Errorf("cannot use %q as the workspace: %w", dir, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", fmt.Errorf("cannot use %q as the workspace: %w", dir, err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("cannot use %q as the workspace: it is not a directory", dir)
	}
	return abs, nil
}

// envFlags reads --env: NAME=VALUE, or NAME, which must be set.
func envFlags(flags []string) (map[string]string, error) {
	env := map[string]string{}
	for _, flag := range flags {
		name, value, given := strings.Cut(flag, "=")
		if name == "" {
			return nil, fmt.Errorf("cannot set the variable of `--env %q`: it has no name", flag)
		}
		if !given {
			if value, given = os.LookupEnv(name); !given {
				return nil, fmt.Errorf("cannot pass %q to the command: it is not set; write `--env %s=VALUE`", name, name)
			}
		}
		env[name] = value
	}
	return env, nil
}

// packagedHelpers is where a package puts purple-init and purple-net; the
// directory of purple is looked at first.
const packagedHelpers = "/usr/libexec/purple"

// helperPath finds a program of Purple's and makes sure that nobody but root
// could have written it: systemd executes it as root.
func helperPath(program string) (string, error) {
	self, err := ownPath()
	if err != nil {
		return "", err
	}
	for _, name := range []string{filepath.Join(filepath.Dir(self), program), filepath.Join(packagedHelpers, program)} {
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o022 != 0 || (st.Uid != 0 && st.Uid != uint32(os.Geteuid())) {
			return "", fmt.Errorf("cannot use %q: it must be a file that only its owner, root, can write", name)
		}
		return name, nil
	}
	return "", fmt.Errorf("cannot find %s beside %q or in %q; is purple installed completely?", program, self, packagedHelpers)
}

// sessionLinks finds where the files lead that a session runs, if a folder is writable
// that might hold them: many people keep those in a folder of their own.
func sessionLinks(p *policies.Policy, c translate.Command) (map[string]string, error) {
	fs := p.Filesystem
	if c.Workspace == "" && fs.Workspace != policies.WorkspaceReadWrite && len(fs.Output) == 0 {
		return nil, nil
	}
	home := c.Invoker.Home
	if home == "" {
		home = "/root"
	}
	links := map[string]string{}
	return links, asInvoker(c.Invoker, func() error {
		for _, at := range translate.SessionPaths(home) {
			if real, err := filepath.EvalSymlinks(at); err == nil && real != at {
				links[at] = real
			}
		}
		return nil
	})
}

// probePaths finds the facts of those paths that the plan depends on. What the user
// behind sudo has named is looked at with their rights: the errors of a plan tell what
// is there.
func probePaths(p *policies.Policy, c translate.Command) (map[string]host.PathFact, error) {
	roots, invokers := hostPaths(p, c)
	if !behindSudo(c.Invoker) {
		return host.ProbePaths(append(roots, invokers...))
	}
	facts, err := host.ProbePaths(roots)
	if err != nil {
		return nil, err
	}
	err = asInvoker(c.Invoker, func() error {
		theirs, err := host.ProbePaths(invokers)
		maps.Copy(facts, theirs)
		return err
	})
	return facts, err
}

// hostPaths are those that root's profiles name, and those that the invoker does.
func hostPaths(p *policies.Policy, c translate.Command) (roots, invokers []string) {
	for _, dir := range []string{c.Dir, c.Workspace} {
		if dir != "" {
			invokers = append(invokers, dir)
		}
	}
	add := func(b policies.Bind) {
		if translate.IsInvokers(p.Where(b.Key), c.RootsFiles) {
			invokers = append(invokers, b.HostPath)
		} else {
			roots = append(roots, b.HostPath)
		}
	}
	for _, b := range p.Filesystem.Immutable {
		add(b)
	}
	for _, o := range p.Filesystem.Output {
		add(o.Bind)
	}
	return roots, invokers
}

// resolveCommand finds the executable as the sandbox will see it, and refuses
// now what execve or an interpreter would only refuse inside.
func resolveCommand(plan *translate.Plan, c translate.Command) error {
	view := host.NewView(&plan.Spec, func(f func() error) error { return asRoot(c.Invoker, f) })
	lookup := host.Lookup{
		Path: pathOf(&plan.Spec), Dir: plan.Spec.Command.Dir,
		CallerPath: c.Environ["PATH"], CallerDir: c.Dir,
	}
	err := asInvoker(c.Invoker, func() (err error) {
		if plan.Spec.Command.Path, err = view.Command(string(c.Argv[0]), lookup); err == nil {
			err = view.Script(c.Argv, lookup)
		}
		return err
	})
	var visible *host.VisibleError
	if errors.As(err, &visible) {
		return &statusError{visible.Status, err}
	}
	return err
}

// pathOf is the command's PATH.
func pathOf(s *spec.Spec) string {
	for _, entry := range s.Command.Env {
		if value, ok := strings.CutPrefix(string(entry), "PATH="); ok {
			return value
		}
	}
	return ""
}
