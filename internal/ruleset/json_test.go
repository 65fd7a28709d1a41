package ruleset

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// A table comes out as it went in, with every statement that there is.
func TestJSON(t *testing.T) {
	want := Table{
		Name: "purple",
		Sets: []Set{{Name: "host6", IPv6: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00::/8")}}},
		Chains: []Chain{{Name: "output", Hook: Output, Rules: []Rule{
			{Statements: []Statement{Established{}, InLoopback{}, OutLoopback{}, ForeignSource{}, ListenerReport{}, NeighbourDiscovery{}, TCP{}, Accept{}}},
			{Statements: []Statement{To{netip.MustParsePrefix("10.0.0.0/8")}, ToSet{"host6", true}, Ports{"udp", 53, 54}, Drop{}}, Comment: "a key"},
			{Statements: []Statement{Log{1}, Reset{}, Reject{}, Goto{"denied"}}},
		}}},
	}
	named := 0
	for _, r := range want.Chains[0].Rules {
		named += len(r.Statements)
	}
	if named != len(statements) {
		t.Errorf("the table has %d statements, there are %d", named, len(statements))
	}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Table
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestJSONRefuses(t *testing.T) {
	for body, want := range map[string]string{
		`{"Statements":[{"Allow":{}}]}`:               "unknown statement",
		`{"Statements":[{}]}`:                         "0 names",
		`{"Statements":[{"Accept":{},"Drop":{}}]}`:    "2 names",
		`{"Statements":[{"To":{"Prefix":"10.0/x"}}]}`: "To",
		`{"Statements":3}`:                            "cannot unmarshal",
	} {
		var r Rule
		if err := json.Unmarshal([]byte(body), &r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
}
