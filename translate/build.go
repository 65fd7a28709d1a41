package translate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
)

// builder is a plan in the making. Each of its methods makes one part.
type builder struct {
	p    *policies.Policy
	c    Command
	h    host.Facts
	plan *Plan

	disks []device // to which the block IO limit applies
}

// Build makes the plan, or says what cannot be enforced or what is missing.
func Build(p *policies.Policy, c Command, h host.Facts) (*Plan, error) {
	b := &builder{p: p, c: c, h: h, plan: &Plan{
		Unit:     fmt.Sprintf("purple-%s-%s.service", p.Name, c.RunID),
		Warnings: slices.Clone(p.Warnings),
	}}
	b.plan.Spec = spec.Spec{
		Version:               spec.Version,
		Unit:                  b.plan.Unit,
		Profile:               p.Name,
		RunID:                 c.RunID,
		Detach:                c.Detach,
		UserManager:           h.Manager == host.UserManager,
		Learning:              c.Learning,
		ManagerNamespaces:     h.ManagerNamespaces,
		Hostname:              hostname,
		Terminal:              c.Terminal,
		Winsize:               c.Winsize,
		Rlimits:               slices.Clone(rlimits),
		UnprivilegedPortStart: -1,
	}
	parts := []func() error{b.network, b.audit, b.namespaces, b.identity, b.mounts, b.files, b.command, b.warnOfCores, b.capabilities, b.limits, b.properties}
	for _, part := range parts {
		if err := part(); err != nil {
			return nil, err
		}
	}
	return b.plan, nil
}

const hostname = "purple"

// isUser: the run is of the user's own manager, which gives its unit no namespace
// and not every limit.
func (b *builder) isUser() bool { return b.h.Manager == host.UserManager }

// isAskedByInvoker tells whether what a key names is opened with the rights of the user
// behind sudo: no profile of root's asks for it. The key of the command line is empty.
// It is false where the unit has no other rights than the invoker's.
func (b *builder) isAskedByInvoker(key string) bool {
	if b.isUser() || b.c.Invoker.UID == 0 {
		return false
	}
	return key == "" || IsInvokers(b.p.Where(key), b.c.RootsFiles)
}

// IsInvokers tells whether a place in a profile is in none of root's files. Purple's
// defaults are root's.
func IsInvokers(at policies.Position, rootsFiles []string) bool {
	return at.File != "" && !slices.Contains(rootsFiles, at.File)
}

func (b *builder) warn(key, format string, args ...any) {
	b.plan.Warnings = append(b.plan.Warnings, policies.Warning{At: b.p.Where(key), Text: fmt.Sprintf(format, args...)})
}

// say records one statement about the sandbox and the key that causes it, or
// the reason where none does.
func (b *builder) say(section, key, why, format string, args ...any) {
	l := Line{Section: section, Statement: fmt.Sprintf(format, args...), Where: "purple", Key: key, Why: why}
	if key != "" {
		l.Where = b.p.Where(key).String()
	}
	b.plan.sandbox = append(b.plan.sandbox, l)
}

func (b *builder) unsupported(key, feature, why, hint string) error {
	return &UnsupportedError{Where: b.p.Where(key), Feature: feature, Why: why, Hint: hint}
}

// namespaces says what cannot be planned: purple-init refuses to run what it
// cannot compare.
func (b *builder) namespaces() error {
	if len(b.h.ManagerNamespaces) == 0 {
		b.say("sandbox", "", "who may not examine PID 1 can plan, but not run", "namespaces: the manager's are not known")
	}
	return nil
}

// audit: what is recorded of the run. Without it the limits hold all the same.
func (b *builder) audit() error {
	var err error
	if b.plan.Spec.PolicyHash, err = b.p.Digest(); err != nil {
		return err
	}
	b.plan.Spec.ProfileFile = b.c.ProfileFile
	b.plan.Spec.Limits = b.limitsInForce()
	if !b.p.Audit.Enabled {
		return nil
	}
	b.plan.Spec.Audit = &spec.Audit{Resources: slices.Contains(b.p.Audit.Detail, "resource"), LogPath: b.p.Audit.LogPath}
	if log := b.p.Audit.LogPath; log != "" {
		b.plan.LogNamedIn = b.p.Where("audit.log_path")
		b.say("sandbox", "audit.log_path", "", "events are appended to %s", printable(log))
	}
	if slices.Contains(b.p.Audit.Detail, "syscall") {
		b.plan.Spec.RecordSyscalls = true
		b.say("sandbox", "audit.detail_level", "", "denied system calls are recorded in the journal")
	}
	b.plan.Spec.RecordCapabilities = b.plan.Spec.RecordSyscalls && !b.c.Learning
	if slices.Contains(b.p.Audit.Detail, "filesystem") && !b.c.Learning {
		b.plan.Spec.RecordPaths = true
		b.say("sandbox", "audit.detail_level", "", "paths that the mounts refuse to change are recorded in the journal")
	}
	if slices.Contains(b.p.Audit.Detail, "reads") && !b.c.Learning && hasWriteOnly(b.p, b.h) {
		b.plan.Spec.RecordReads = true
		b.say("sandbox", "audit.detail_level", "", "refused reads of write-only output paths are recorded in the journal; each open waits for a look")
	}
	if b.plan.Network != nil && slices.Contains(b.p.Audit.Detail, "network") {
		b.plan.Spec.RecordDenied = true
		b.say("network", "audit.detail_level", "", "denied connections are recorded in the journal")
	}
	return nil
}

// hasWriteOnly: an output path is there that can be written only.
func hasWriteOnly(p *policies.Policy, h host.Facts) bool {
	return slices.ContainsFunc(p.Filesystem.Output, func(o policies.Output) bool {
		return o.Mode == policies.WriteOnly && h.Paths[o.HostPath].Exists
	})
}

// limitsInForce are the limits as they must read back; what is unlimited is 0.
func (b *builder) limitsInForce() spec.Limits {
	r, page := b.p.Resources, uint64(b.h.PageSize)
	return spec.Limits{
		Memory: r.Memory.Value / page * page, Tasks: r.Tasks.Value, CPU: r.CPU.Value, IO: r.BlockIO.Value, Timeout: r.Timeout.Value,
	}
}

// firstRunUID is above every range that systemd, nspawn or a distribution
// hands out (systemd's UIDS-GIDS documentation), and 0x08000000 ids wide.
const firstRunUID = 0x70000000

// sandboxUID is what the command sees as its own uid when root called.
const sandboxUID = 1000

// identity: the invoking user under sudo, else an id of the run's own, never 0.
func (b *builder) identity() error {
	i := b.c.Invoker
	id := spec.Identity{UID: i.UID, GID: i.GID, HostUID: i.UID, HostGID: i.GID, OwnerUID: i.UID, OwnerGID: i.GID}
	if !b.isUser() {
		b.plan.Spec.OwnerGroups = i.Groups
	}
	if i.UID == 0 {
		var run uint32
		if _, err := fmt.Sscanf(b.c.RunID, "%08x", &run); err != nil {
			return fmt.Errorf("internal error: run id %q: %v", b.c.RunID, err)
		}
		own := firstRunUID | run&0x07ffffff
		id.UID, id.GID, id.HostUID, id.HostGID = sandboxUID, sandboxUID, own, own
	}
	if id.HostUID == 0 || id.HostGID == 0 {
		return fmt.Errorf("cannot run as uid %d, gid %d: the command never gets the host's root ids", id.HostUID, id.HostGID)
	}
	b.plan.Spec.Identity = id
	b.say("sandbox", "", "never the host's root", "uid %d, gid %d (on the host %d, %d)", id.UID, id.GID, id.HostUID, id.HostGID)
	return nil
}

func (b *builder) userName() string {
	if b.c.Invoker.UID != 0 && b.c.Invoker.Name != "" {
		return b.c.Invoker.Name
	}
	return "agent"
}

// files are what programs look for in /etc, unless the policy binds it.
func (b *builder) files() error {
	id, name := b.plan.Spec.Identity, b.userName()
	home := b.p.Filesystem.WorkingDir
	b.file("/etc/passwd", fmt.Sprintf("%s:x:%d:%d:%s:%s:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n", name, id.UID, id.GID, name, home))
	b.file("/etc/group", fmt.Sprintf("%s:x:%d:\nnogroup:x:65534:\n", name, id.GID))
	b.file("/etc/hosts", "127.0.0.1 localhost "+hostname+"\n::1 localhost "+hostname+"\n")
	b.file("/etc/hostname", hostname+"\n")
	if b.plan.Network != nil {
		b.file("/etc/resolv.conf", b.resolvConf())
	}
	// The host's may name daemons whose sockets are not here.
	b.file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n")
	return nil
}

func (b *builder) file(path, content string) {
	for _, m := range b.plan.Spec.Mounts {
		if covers(m.Target, path) {
			return
		}
	}
	b.say("sandbox", "", "programs look for it", "file %s", path)
	b.plan.Spec.Files = append(b.plan.Spec.Files, spec.File{Path: path, Mode: 0o644, Content: []byte(content)})
}

// covers tells whether path is dir or lies below it.
func covers(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
