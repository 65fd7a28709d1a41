package policies

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func readDocs(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// snippets are the YAML blocks of the documentation.
func snippets(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(readDocs(t), -1) {
		found = append(found, m[1])
	}
	if len(found) < 10 {
		t.Fatalf("found %d snippets", len(found))
	}
	return found
}

func TestDocumentedSnippetsParse(t *testing.T) {
	for _, yaml := range snippets(t) {
		p, err := Parse("my-agent", "policy.md", []byte(yaml))
		if err != nil || len(p.Warnings) != 0 {
			t.Errorf("%v\n%s", err, yaml)
			continue
		}
		checkRoundTrip(t, p)
	}
}

var docsRow = regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| (?:`([^`]*)`|none|the file's name|see below) \\|")

// The table has every field that there is, each with its true default.
func TestDocumentedDefaultsAreTrue(t *testing.T) {
	var fields []string
	text := ""
	section := ""
	for _, m := range docsRow.FindAllStringSubmatch(readDocs(t), -1) {
		fields = append(fields, m[1])
		if m[2] == "" {
			continue
		}
		parent, name, nested := strings.Cut(m[1], ".")
		if !nested {
			text += fmt.Sprintf("%s: %s\n", m[1], m[2])
			continue
		}
		if parent != section {
			section = parent
			text += parent + ":\n"
		}
		text += fmt.Sprintf("  %s: %s\n", name, m[2])
	}
	if want := documentKeys(); !slices.Equal(fields, want) {
		t.Errorf("the table has\n%q\nthe format has\n%q", fields, want)
	}
	p := mustParse(t, text)
	// The table leaves the deny list to its own place.
	p.Syscalls.Deny = mustParse(t, "{}").Syscalls.Deny
	got, err := p.makeDigest()
	if err != nil || got != digestOf(t, mustParse(t, "{}")) {
		t.Errorf("the documented defaults mean something else than none (%v):\n%s", err, encoded(t, p))
	}
}

// documentKeys are the keys of the format in the order of `show`, from the type
// that is encoded.
func documentKeys() []string {
	var keys []string
	for section := range reflect.TypeFor[document]().Fields() {
		name := yamlName(section)
		if section.Type.Kind() != reflect.Struct {
			keys = append(keys, name)
			continue
		}
		for f := range section.Type.Fields() {
			keys = append(keys, name+"."+yamlName(f))
		}
	}
	// What show never prints: it is merged in.
	return slices.Insert(keys, 2, "extends")
}

func yamlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

func TestDocumentedDenyListIsTrue(t *testing.T) {
	const opening = "syscalls:\n  deny: [\"@clock\""
	for _, yaml := range snippets(t) {
		if !strings.HasPrefix(yaml, opening) {
			continue
		}
		var names []string
		for _, m := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(yaml, -1) {
			names = append(names, m[1])
		}
		if !slices.Equal(names, defaultDeny) {
			t.Errorf("got  %q\nwant %q", names, defaultDeny)
		}
		return
	}
	t.Error("there is no snippet with the default deny list")
}
