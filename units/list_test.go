package units

import (
	"math"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

func TestParseName(t *testing.T) {
	for unit, want := range map[string][2]string{
		"purple-web-0123abcd.service":              {"web", "0123abcd"},
		"purple-ai-dev-safe-ffffffff.service":      {"ai-dev-safe", "ffffffff"},
		"purple-a-01234567-89abcdef.service":       {"a-01234567", "89abcdef"},
		"purple-1.x_y-00000000.service":            {"1.x_y", "00000000"},
		"purplenet.service":                        {},
		"purple.slice":                             {},
		"purple-web.service":                       {},
		"purple-web-0123abc.service":               {},
		"purple-web-0123abcde.service":             {},
		"purple-web-0123ABCD.service":              {},
		"purple-0123abcd.service":                  {},
		"purple--0123abcd.service":                 {},
		"purple-Web-0123abcd.service":              {},
		"purple-web@x-0123abcd.service":            {},
		"purple-web-0123abcd.scope":                {},
		"purple-web-0123abcd.service\n":            {},
		"x-purple-web-0123abcd.service":            {},
		"purple-web\\x2d-0123abcd.service.service": {},
	} {
		profile, id, ok := ParseName(unit)
		if profile != want[0] || id != want[1] || ok != (want[0] != "") {
			t.Errorf("%q: %q, %q, %v", unit, profile, id, ok)
		}
	}
}

// properties are those of a run, changed by one more.
func properties(name string, value any) map[string]dbus.Variant {
	all := map[string]dbus.Variant{}
	for name, value := range map[string]any{
		"Transient": true, "Slice": "purple.slice", "ActiveState": "active", "MainPID": uint32(7),
		"ExecStart":            [][]any{{"/usr/libexec/purple/purple-init", []string{"purple-init"}, false}},
		"ActiveEnterTimestamp": uint64(1_700_000_000_000_001),
		"CPUUsageNSec":         uint64(math.MaxUint64), "MemoryCurrent": uint64(3), "MemoryMax": uint64(math.MaxUint64),
		"TasksCurrent": uint64(0), "TasksMax": uint64(112),
	} {
		all[name] = dbus.MakeVariant(value)
	}
	if name != "" {
		all[name] = dbus.MakeVariant(value)
	}
	return all
}

func TestInfo(t *testing.T) {
	r, ok := newInfo("purple-web-0123abcd.service", properties("", nil))
	if !ok || r.Profile != "web" || r.RunID != "0123abcd" || r.State != "active" || r.MainPID != 7 {
		t.Fatalf("%+v, %v", r, ok)
	}
	if !r.Since.Equal(time.UnixMicro(1_700_000_000_000_001)) {
		t.Errorf("since %v", r.Since)
	}
	if r.CPUNSec != nil || r.MemoryMax != nil || *r.Memory != 3 || *r.Tasks != 0 || *r.TasksMax != 112 {
		t.Errorf("%+v", r)
	}
	if r, _ := newInfo(r.Unit, properties("ActiveEnterTimestamp", uint64(0))); !r.Since.IsZero() {
		t.Errorf("not yet active since %v", r.Since)
	}
}

// A unit that only looks like a run is none.
func TestInfoRefusesLookalikes(t *testing.T) {
	const unit = "purple-web-0123abcd.service"
	for name, value := range map[string]any{
		"Transient": false,
		"Slice":     "system.slice",
		"ExecStart": [][]any{{"/usr/bin/sleep", []string{"purple-init"}, false}},
	} {
		if _, ok := newInfo(unit, properties(name, value)); ok {
			t.Errorf("%s=%v is taken for a run", name, value)
		}
	}
	two := [][]any{{"/x/purple-init", []string{}}, {"/x/purple-init", []string{}}}
	for _, value := range []any{[][]any{}, [][]any{{}}, two, "purple-init"} {
		if _, ok := newInfo(unit, properties("ExecStart", value)); ok {
			t.Errorf("ExecStart=%v is taken for a run", value)
		}
	}
	if _, ok := newInfo("purplenet.service", properties("", nil)); ok {
		t.Error("the network's unit is taken for a run")
	}
	if _, ok := newInfo(unit, nil); ok {
		t.Error("a unit without properties is taken for a run")
	}
}
