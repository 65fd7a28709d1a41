package translate

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
)

// denials each take something away from a policy that they are handed a copy of.
var denials = []struct {
	name string
	deny func(*policies.Policy)
}{
	{"one capability less", func(p *policies.Policy) { p.Capabilities.Add = p.Capabilities.Add[:len(p.Capabilities.Add)-1] }},
	{"no capability", func(p *policies.Policy) { p.Capabilities.Add = nil }},
	{"default_drop", func(p *policies.Policy) { p.Capabilities.DefaultDrop = true }},
	{"one immutable path less", func(p *policies.Policy) { p.Filesystem.Immutable = p.Filesystem.Immutable[1:] }},
	{"one output path less", func(p *policies.Policy) { p.Filesystem.Output = p.Filesystem.Output[1:] }},
	{"write-only outputs", func(p *policies.Policy) {
		p.Filesystem.Output = slices.Clone(p.Filesystem.Output)
		for i := range p.Filesystem.Output {
			p.Filesystem.Output[i].Mode = policies.WriteOnly
		}
	}},
	{"no scratch", func(p *policies.Policy) { p.Filesystem.Scratch = nil }},
	{"read-only workspace", func(p *policies.Policy) { p.Filesystem.Workspace = policies.WorkspaceReadOnly }},
	{"no workspace", func(p *policies.Policy) { p.Filesystem.Workspace = policies.WorkspaceNone }},
	{"less CPU", func(p *policies.Policy) { p.Resources.CPU = policies.Limit{Value: 3_000} }},
	{"less memory", func(p *policies.Policy) { p.Resources.Memory = policies.Limit{Value: 16 << 20} }},
	{"fewer tasks", func(p *policies.Policy) { p.Resources.Tasks = policies.Limit{Value: 1} }},
	{"less block IO", func(p *policies.Policy) { p.Resources.BlockIO = policies.Limit{Value: 1} }},
	{"less time", func(p *policies.Policy) { p.Resources.Timeout = policies.Limit{Value: 1} }},
	{"no variable set", func(p *policies.Policy) { p.Environment.Set = nil }},
	{"no variable passed", func(p *policies.Policy) { p.Environment.Pass = nil }},
}

// generous is the full profile with every limit lifted and all else granted.
func generous(t testing.TB) *policies.Policy {
	p := *parse(t, full)
	p.Capabilities.DefaultDrop = false
	p.Filesystem.Workspace = policies.WorkspaceReadWrite
	p.Filesystem.Output = slices.Clone(p.Filesystem.Output)
	p.Filesystem.Output[0].Mode = policies.ReadWrite
	none := policies.Limit{Unlimited: true}
	p.Resources = policies.Resources{CPU: none, Memory: none, Tasks: none, BlockIO: none, Timeout: none}
	return &p
}

// powers is what a plan lets its command do: each name with how much of it.
func powers(plan *Plan) map[string]uint64 {
	has := map[string]uint64{"low ports": uint64(plan.Spec.UnprivilegedPortStart + 1)}
	for n := range 64 {
		has[fmt.Sprintf("capability %d", n)] = plan.Spec.Capabilities >> n & 1
	}
	for _, m := range plan.Spec.Mounts {
		// A scratch has nothing in it that was not there before.
		if m.Kind == spec.Tmpfs {
			continue
		}
		has["see "+m.Target+" of "+m.Source] = 1
		if m.Kind == spec.BindReadWrite {
			has["write "+m.Source] = 1
			has["read "+m.Source] = 1
		}
		if m.Exec {
			has["execute "+m.Source] = 1
		}
		if slices.Contains(plan.Spec.WriteOnly, m.Target) {
			has["read "+m.Source] = 0
		}
	}
	for _, e := range plan.Spec.Command.Env {
		name, _, _ := strings.Cut(string(e), "=")
		has["variable "+name] = 1
	}
	limits(plan, has)
	return has
}

// limits adds each limit of the unit, and none as the largest number.
func limits(plan *Plan, has map[string]uint64) {
	const infinity = ^uint64(0)
	for _, name := range []string{"CPUQuotaPerSecUSec", "MemoryMax", "MemorySwapMax", "TasksMax", "RuntimeMaxUSec"} {
		has[name] = infinity
	}
	has["tasks"] = plan.Spec.TasksLimit - 1 // 0 is no limit
	has["block IO"] = infinity
	for _, p := range plan.Properties {
		switch v := p.Value.(type) {
		case uint64:
			has[p.Name] = v
		case []deviceLimit:
			has["block IO"] = v[0].Value
		}
	}
}

// wider tells what after allows that before does not.
func wider(before, after *Plan) string {
	old, now := powers(before), powers(after)
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if now[name] > old[name] {
			return fmt.Sprintf("%s: %d instead of %d", name, now[name], old[name])
		}
	}
	return ""
}

// A denial, and any number of them in any order, never widens a plan.
func TestDenialNeverWidens(t *testing.T) {
	before, err := Build(generous(t), caller(), machine())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range denials {
		t.Run(d.name, func(t *testing.T) {
			p := generous(t)
			d.deny(p)
			after, err := Build(p, caller(), machine())
			if err != nil {
				t.Fatal(err)
			}
			if more := wider(before, after); more != "" {
				t.Error(more)
			}
			// "One capability less" means nothing beside default_drop: false.
			if !strings.Contains(d.name, "capability") && wider(after, before) == "" && d.name != "default_drop" && d.name != "no scratch" {
				t.Error("it denies nothing: the test compares too little")
			}
		})
	}
}

// TestWiderSees: the comparison itself can fail.
func TestWiderSees(t *testing.T) {
	narrow := mustBuild(t, full, nil)
	wide, err := Build(generous(t), caller(), machine())
	if err != nil {
		t.Fatal(err)
	}
	if wider(narrow, wide) == "" || wider(wide, narrow) != "" {
		t.Errorf("%q, %q", wider(narrow, wide), wider(wide, narrow))
	}
}

// FuzzBuild: whatever the caller's folder and environment are and whatever is
// denied, the command is never root, never in a home directory, and never
// allowed more for a denial.
func FuzzBuild(f *testing.F) {
	f.Add("/home/ann/project", "0badcafe", "X", "y", uint32(0), uint32(0), uint32(0))
	f.Add("/", "ffffffff", "PATH", "", uint32(1000), uint32(0), ^uint32(0))
	f.Fuzz(func(t *testing.T, dir, id, name, value string, uid, gid, denied uint32) {
		if len(id) != 8 || !strings.HasPrefix(dir, "/") {
			return
		}
		c, h := caller(), machine()
		c.Dir, c.RunID, c.Env, c.Invoker = filepath.Clean(dir), id, map[string]string{name: value}, Invoker{UID: uid, GID: gid}
		p := generous(t)
		plan, err := Build(p, c, h)
		if err != nil {
			return
		}
		if plan.Spec.Identity.HostUID == 0 || plan.Spec.Identity.HostGID == 0 {
			t.Errorf("root: %+v", plan.Spec.Identity)
		}
		for _, home := range h.Homes {
			if covers(plan.Spec.Command.Dir, home) {
				t.Errorf("%q holds %q", plan.Spec.Command.Dir, home)
			}
		}
		for i, d := range denials {
			// Two that take one element away may find none left.
			if denied>>i&1 == 1 && !(strings.HasPrefix(d.name, "one capability") && len(p.Capabilities.Add) == 0) {
				d.deny(p)
			}
		}
		h.Paths[c.Dir] = disk("254:0") // or a limit of block IO is refused
		after, err := Build(p, c, h)
		if err != nil {
			t.Fatalf("denying made it impossible: %v", err)
		}
		if more := wider(plan, after); more != "" {
			t.Errorf("denied %b: %s", denied, more)
		}
	})
}
