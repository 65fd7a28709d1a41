package units

import (
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestHasEnded(t *testing.T) {
	job := func(id uint32) []any { return []any{id, dbus.ObjectPath("/")} }
	for _, c := range []struct {
		what  string
		state string
		begun uint64
		job   any
		want  bool
	}{
		{"waits for its start", "inactive", 0, job(7), false},
		{"its start was called off", "inactive", 0, job(0), true},
		{"starts", "activating", 5, job(7), false},
		{"runs", "active", 5, job(0), false},
		{"ends", "deactivating", 5, job(8), false},
		{"has ended, at a request that is not done", "inactive", 5, job(8), true},
		{"has ended", "inactive", 5, job(0), true},
		{"has failed", "failed", 5, job(0), true},
		{"could not begin", "failed", 0, job(7), true},
		{"a job that is none", "inactive", 0, "7", false},
	} {
		got := hasEnded(map[string]dbus.Variant{
			"ActiveState":                    dbus.MakeVariant(c.state),
			"InactiveExitTimestampMonotonic": dbus.MakeVariant(c.begun),
			"Job":                            dbus.MakeVariant(c.job),
		})
		if got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
	if hasEnded(map[string]dbus.Variant{"ActiveState": dbus.MakeVariant("inactive")}) {
		t.Error("what is not told is taken for an end")
	}
}
