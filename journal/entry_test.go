package journal

import "testing"

func TestParseEntry(t *testing.T) {
	e, err := ParseEntry([]byte(`{"MESSAGE":[27,91,51,49,109],"PRIORITY":"4","TWICE":["a","b"],"RAW":[[255,10],"x"],"LONG":null,"NONE":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"MESSAGE": "\x1b[31m", "PRIORITY": "4", "TWICE": "a", "RAW": "\xff\n", "LONG": "", "NONE": ""} {
		if got, ok := e[name]; !ok || got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestParseEntryRefusesOther(t *testing.T) {
	for _, line := range []string{"", "-- No entries --", "[]", `"x"`, `{"A":{}}`, `{"A":[{}]}`, `{"A":true}`} {
		if e, err := ParseEntry([]byte(line)); err == nil {
			t.Errorf("%s: %q", line, e)
		}
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add([]byte(`{"MESSAGE":[27,91],"TWICE":["a",[1]],"LONG":null}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if e, err := ParseEntry(line); err != nil && e != nil {
			t.Errorf("both %q and %v", e, err)
		}
	})
}

func TestTally(t *testing.T) {
	var tally Tally
	const other = "purple-web-76543210.service"
	if n := tally.Denials(run.Unit); n != 0 {
		t.Errorf("nothing is %d", n)
	}
	for _, e := range []Event{denied("tcp", 443, 0, 1), denied("tcp", 443, 0, 5), denied("udp", 53, 0, 2)} {
		tally.Add(run.Unit, e)
	}
	tally.Add(other, denied("tcp", 443, 0, 100))
	if n, m := tally.Denials(run.Unit), tally.Denials(other); n != 7 || m != 100 {
		t.Errorf("%d and %d", n, m)
	}
	for _, e := range []Event{mounted(1), mounted(14), forged} {
		tally.Add(run.Unit, e)
	}
	if n := tally.Denials(run.Unit); n != 7+14+1 {
		t.Errorf("with system calls %d", n)
	}
	tally.Add(run.Unit, summary)
	if n := tally.Denials(run.Unit); n != summary.Total+14+1 {
		t.Errorf("after the end of the network's %d", n)
	}
	tally.Add(run.Unit, callsSummary)
	for _, e := range []Event{pathDenied, withoutPorts} {
		tally.Add(run.Unit, e)
	}
	if n := tally.Denials(run.Unit); n != summary.Total+callsSummary.Total+pathDenied.Count+withoutPorts.Count {
		t.Errorf("%d with what has no total yet", n)
	}
	tally.Add(run.Unit, pathsSummary)
	tally.Add(run.Unit, wantedSummary)
	if n := tally.Denials(run.Unit); n != summary.Total+callsSummary.Total+pathsSummary.Total+wantedSummary.Total {
		t.Errorf("after the end %d", n)
	}
}
