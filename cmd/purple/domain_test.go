package main

import (
	"testing"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/journal"
)

// inSystem is a run of the system manager.
func inSystem(unit string) *foundRun {
	return &foundRun{domain: domain{kind: host.SystemManager}, unit: unit}
}

// Who wrote an entry about a unit of a user's manager is told by journald's own
// fields: neither another user nor the run's output can make an event of it.
func TestUserEvents(t *testing.T) {
	const unit = "purple-web-0123abcd.service"
	alice := domain{host.UserManager, 3001}
	event := func(change map[string]string) journal.Entry {
		e := journal.Entry{"_UID": "3001", "_SYSTEMD_USER_UNIT": unit, "_SYSTEMD_UNIT": "user@3001.service", "_TRANSPORT": "journal", journal.FieldEvent: "run-ended"}
		for name, value := range change {
			e[name] = value
		}
		return e
	}
	for name, c := range map[string]struct {
		change map[string]string
		want   bool
	}{
		"its own":                  {nil, true},
		"another user's":           {map[string]string{"_UID": "3002"}, false},
		"the output":               {map[string]string{"_TRANSPORT": "stdout"}, false},
		"of another unit":          {map[string]string{"_SYSTEMD_USER_UNIT": "other.service"}, false},
		"about it":                 {map[string]string{"_SYSTEMD_USER_UNIT": "app.service", journal.FieldUserUnit: unit}, true},
		"about it, another user's": {map[string]string{"_SYSTEMD_USER_UNIT": "app.service", journal.FieldUserUnit: unit, "_UID": "3002"}, false},
		"a system unit's":          {map[string]string{"_SYSTEMD_USER_UNIT": "", "_SYSTEMD_UNIT": unit}, false},
		"root about a system unit": {map[string]string{"_SYSTEMD_USER_UNIT": "", "_UID": "0", journal.FieldObjectUnit: unit}, false},
	} {
		if got := alice.isEventOf(event(c.change), unit); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestDomain(t *testing.T) {
	for _, a := range []*app{{system: true, user: true}, {user: true}} {
		if d, err := a.domain(); err == nil && !d.isUser() {
			t.Errorf("%+v: %+v, want an error", a, d)
		}
	}
	if d, err := (&app{system: true}).domain(); err != nil || d.kind != host.SystemManager {
		t.Errorf("--system: %+v, %v", d, err)
	}
}
