package policies

import "testing"

func TestRenamed(t *testing.T) {
	for _, tt := range []struct{ content, want string }{
		{"# a\nname: \"web\" # b\ndescription: x\n", "# a\nname: \"new\" # b\ndescription: x\n"},
		{"name: web\n", "name: \"new\"\n"},
		{"{description: \"ä\", name: 'web', command: [web]}", "{description: \"ä\", name: \"new\", command: [web]}"},
		{"# name: web\ndescription: web\n", "# name: web\ndescription: web\n"},
		{"description: x\r\nname: web\r\n", "description: x\r\nname: \"new\"\r\n"},
	} {
		got, err := Renamed("my.yaml", []byte(tt.content), "new")
		if err != nil || string(got) != tt.want {
			t.Errorf("%q: got %q, %v", tt.content, got, err)
		}
	}
}

func TestRenamedRefuses(t *testing.T) {
	for _, tt := range []struct{ content, name, want string }{
		{"name: web\n", "../x", "cannot be a profile's name"},
		{"name: |-\n  web\n", "new", `my.yaml:1:7: name: cannot replace it: write it on one line, as name: "web"`},
		{"name: \"\\x77eb\"\n", "new", "cannot replace it"},
		{"name: [\n", "new", "is not valid YAML"},
		{"name: a\nname: b\n", "new", "duplicate key"},
	} {
		_, err := Renamed("my.yaml", []byte(tt.content), tt.name)
		wantError(t, err, tt.want)
	}
}

func FuzzRenamed(f *testing.F) {
	f.Add([]byte("name: web\n"))
	f.Add([]byte("{description: \"ä\", name: 'web'}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		before, err := Parse("", "fuzz.yaml", content)
		if err != nil {
			return
		}
		renamed, err := Renamed("fuzz.yaml", content, "new")
		if err != nil {
			return // a name written in a way that cannot be replaced
		}
		after, err := Parse("new", "fuzz.yaml", renamed)
		if err != nil || digestOf(t, after) != digestOf(t, before) {
			t.Errorf("%q became %q: %v", content, renamed, err)
		}
	})
}
