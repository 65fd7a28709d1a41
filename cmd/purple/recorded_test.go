package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/units"
)

func TestNamedBy(t *testing.T) {
	names := []string{web1, web2, node, hex4}
	for arg, want := range map[string][]string{
		web1: {web1}, strings.TrimSuffix(node, ".service"): {node}, "00000002": {web2},
		"00000001": {web1}, // a run id before a profile
		"web":      nil, "": nil, "x": nil,
	} {
		if got := namedBy(arg, names); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", arg, got, want)
		}
	}
}

func TestLatestOf(t *testing.T) {
	at := func(second int) time.Time { return time.Unix(int64(second), 0) }
	running := func(unit string, second int) units.Info {
		profile, id, _ := units.ParseName(unit)
		info := units.Info{Unit: unit, Profile: profile, RunID: id}
		if second > 0 {
			info.Since = at(second)
		}
		return info
	}
	for _, tt := range []struct {
		name, profile string
		running       []units.Info
		recorded      *recordedRun
		want          string
	}{
		{name: "nothing", profile: "web"},
		{name: "only one that has ended", profile: "web", recorded: &recordedRun{unit: web1, began: at(1)}, want: web1},
		{name: "the later one that runs", profile: "web", running: []units.Info{running(web1, 1), running(node, 2), running(web2, 3)}, want: web2},
		{name: "of all", running: []units.Info{running(web1, 1), running(node, 2)}, want: node},
		{name: "one that has ended since", profile: "web", running: []units.Info{running(web1, 1)}, recorded: &recordedRun{unit: web2, began: at(5)}, want: web2},
		{name: "one that runs without audit", profile: "web", running: []units.Info{running(web1, 9)}, recorded: &recordedRun{unit: web2, began: at(5)}, want: web1},
		{name: "one that is just starting", profile: "web", running: []units.Info{running(web1, 0)}, recorded: &recordedRun{unit: web2, began: at(5)}, want: web1},
		{name: "another profile's", profile: "node", running: []units.Info{running(web1, 1)}},
	} {
		if got := latestOf(tt.profile, tt.running, tt.recorded); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestKnownRuns(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	recorded := []*recordedRun{
		{unit: web1, began: began, ended: began.Add(time.Minute), started: journal.RunStarted{Command: "sleep 1\x1b"}, end: journal.RunEnded{Reason: journal.ReasonTimeout, Status: 124}},
		{unit: web2, began: began},
		{unit: node, began: began},
	}
	running := []units.Info{{Unit: web2, Profile: "web", RunID: "00000002", State: "active"}, {Unit: hex4, Profile: "00000001", RunID: "00000004", State: "activating"}}
	got := knownTable(knownRuns(running, recorded), began.Add(time.Hour))
	want := []string{
		"UNIT                               PROFILE   BEGAN     ENDED     STATUS       COMMAND",
		"purple-web-00000001.service        web       03:04:05  03:05:05  timeout 124  sleep 1\\x1b",
		"purple-web-00000002.service        web       03:04:05  -         active",
		"purple-node-00000003.service       node      03:04:05  -         not known",
		"purple-00000001-00000004.service   00000001  -         -         activating",
	}
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i := range got {
		if strings.Join(strings.Fields(got[i]), " ") != strings.Join(strings.Fields(want[i]), " ") {
			t.Errorf("%q, want %q", got[i], want[i])
		}
	}
}
