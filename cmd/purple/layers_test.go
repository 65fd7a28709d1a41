package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/purple-sandbox/purple/"

// layers are what each package may import of this module: the table of
// docs/architecture.md. A package that is not in it is a mistake.
var layers = map[string][]string{
	"cmd/purple":        {"policies", "policies/syscalls", "translate", "translate/seccomp", "units", "internal/firewall", "internal/fsids", "internal/host", "internal/network", "internal/ruleset", "internal/spec", "internal/stdio", "internal/userns", "journal"},
	"cmd/purple-init":   {"internal/confine", "internal/fsids", "internal/spec", "internal/stdio", "internal/userns", "journal", "policies/syscalls"},
	"cmd/purple-net":    {"internal/host", "internal/network", "internal/ruleset", "internal/spec"},
	"policies":          {"policies/syscalls"},
	"policies/syscalls": {},
	"translate":         {"policies", "policies/syscalls", "internal/host", "internal/ruleset", "internal/spec"},
	"translate/seccomp": {"policies", "policies/syscalls"},
	"units":             {},
	"internal/firewall": {},
	"internal/fsids":    {},
	"internal/host":     {"internal/spec"},
	"internal/network":  {"internal/host", "internal/ruleset", "internal/spec"},
	"internal/ruleset":  {},
	"internal/spec":     {},
	"internal/stdio":    {},
	"internal/userns":   {},
	"internal/confine":  {"internal/fsids", "internal/spec", "internal/stdio", "internal/userns", "journal", "policies/syscalls"},
	"journal":           {},
	"test/probe":        {},
}

func TestLayers(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Deps}} {{.}}{{end}}`, "../../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		name := strings.TrimPrefix(fields[0], module)
		allowed, known := layers[name]
		if !known {
			t.Errorf("%s is in no layer", name)
			continue
		}
		for _, dep := range fields[1:] {
			if own, ok := strings.CutPrefix(dep, module); ok && !slices.Contains(allowed, own) {
				t.Errorf("%s imports %s", name, own)
			}
			if dep == "runtime/cgo" && name != "translate/seccomp" && name != "cmd/purple" && !usesResolver(fields) {
				t.Errorf("%s uses cgo", name)
			}
		}
	}
}

// usesResolver: the standard library's net and os/user use cgo where they can.
func usesResolver(deps []string) bool {
	return slices.Contains(deps, "net") || slices.Contains(deps, "os/user")
}
