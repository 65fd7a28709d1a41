package policies

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

const (
	// maxFile caps a profile, in bytes. The largest built-in one has 8 KiB.
	maxFile = 1 << 20
	// maxDepth caps the nesting. The format needs 4.
	maxDepth = 16
	// maxEntries caps every mapping and list: each entry may cost a search for
	// the name that was meant.
	maxEntries = 1024
)

// kind is what stands at a place in a profile.
type kind int

const (
	bad kind = iota // already reported: whoever reads it says nothing more
	null
	scalar
	list
	mapping
)

// node is one value of a profile. Unlike a yaml.Node it knows its file and its
// dotted key, which stay right when profiles are merged.
type node struct {
	kind  kind
	at    Position // of the value
	keyAt Position // of the key that it stands behind; of the value in a list
	key   string   // "resources.pids_limit"
	tag   string   // of a scalar: "!!str", "!!int", ...
	text  string   // of a scalar, as written but unquoted

	fields []field
	items  []*node
}

type field struct {
	name  string
	value *node
}

// field returns the value of name in a mapping, nil if it is not there. It may
// be asked of nil.
func (n *node) field(name string) *node {
	if n == nil {
		return nil
	}
	for _, f := range n.fields {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

// parseTree reads one file's YAML. The tree is nil if there is none to read;
// else it holds what could be read, and the errors what could not.
func parseTree(file string, content []byte) (*node, Errors) {
	if err := checkBytes(file, content); err != nil {
		return nil, Errors{err}
	}
	root, err := oneDocument(file, content)
	if err != nil {
		return nil, Errors{err}
	}
	c := &converter{file: file}
	tree := c.convert(root, "", 0)
	if tree.kind != mapping && tree.kind != bad {
		c.errorf(root, "", "is no profile: it must be a mapping, such as \"name: my-agent\"")
		tree.kind = bad
	}
	return tree, c.errs
}

// checkBytes refuses what must not reach the YAML reader.
func checkBytes(file string, content []byte) *Error {
	place := func(offset int) Position { return positionOf(file, content, offset) }
	if len(content) > maxFile {
		return &Error{At: Position{file, 1, 1}, Text: fmt.Sprintf("is too big: %d bytes, at most %d", len(content), maxFile)}
	}
	if i := bytes.IndexByte(content, 0); i >= 0 {
		return &Error{At: place(i), Text: "holds a NUL byte"}
	}
	if i := invalidUTF8(content); i >= 0 {
		return &Error{At: place(i), Text: "is not valid UTF-8"}
	}
	return nil
}

// positionOf turns a byte offset into a line and a column, counted from 1 in
// characters, as yaml.v3 counts them.
func positionOf(file string, content []byte, offset int) Position {
	before := content[:offset]
	start := bytes.LastIndexByte(before, '\n') + 1
	return Position{file, bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[start:]) + 1}
}

// invalidUTF8 is the offset of the first byte that is no UTF-8, or -1.
func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// oneDocument reads the one YAML document that content must be. yaml.v3 on its
// own reads the first and is silent about the others.
func oneDocument(file string, content []byte) (*yaml.Node, *Error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var first, second yaml.Node
	switch err := decoder.Decode(&first); {
	case errors.Is(err, io.EOF) || err == nil && len(first.Content) == 0:
		return nil, &Error{At: Position{file, 1, 1}, Text: "is empty: a profile has at least one key, such as \"name: my-agent\""}
	case err != nil:
		return nil, syntaxError(file, content, err)
	}
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
		return first.Content[0], nil
	case err != nil:
		return nil, syntaxError(file, content, err)
	}
	at := Position{file, second.Line, second.Column}
	return nil, &Error{At: at, Text: "a second YAML document starts here: a file holds one profile"}
}

var (
	syntaxLine    = lazily(`^yaml: (?:line ([0-9]+): )?`)
	unknownAnchor = lazily(`unknown anchor '(.*)' referenced`)
)

// syntaxError gives yaml.v3's error a position. yaml.v3 knows the line at most.
func syntaxError(file string, content []byte, err error) *Error {
	text := err.Error()
	at := Position{file, 1, 1}
	if m := syntaxLine().FindStringSubmatch(text); m != nil {
		if line, err := strconv.Atoi(m[1]); err == nil {
			at.Line = line
		}
		text = text[len(m[0]):]
	}
	if m := unknownAnchor().FindStringSubmatch(text); m != nil {
		if i := bytes.Index(content, []byte("*"+m[1])); i >= 0 {
			at = positionOf(file, content, i)
		}
		return &Error{At: at, Text: aliasText}
	}
	return &Error{At: at, Text: "is not valid YAML: " + strings.ReplaceAll(text, "\n", " ")}
}

const aliasText = "aliases are not allowed: write the value out, or use \"extends\""

// converter turns yaml.v3's tree into nodes and refuses what makes YAML hard
// to read for a person: aliases, merge keys, tags, duplicate keys.
type converter struct {
	file string
	errs Errors
}

func (c *converter) position(y *yaml.Node) Position { return Position{c.file, y.Line, y.Column} }

func (c *converter) errorf(y *yaml.Node, key, format string, args ...any) {
	c.errs = append(c.errs, &Error{At: c.position(y), Key: key, Text: fmt.Sprintf(format, args...)})
}

func (c *converter) convert(y *yaml.Node, key string, depth int) *node {
	at := c.position(y)
	n := &node{at: at, keyAt: at, key: key}
	if reason := notPlain(y, depth); reason != "" {
		c.errorf(y, key, "%s", reason)
		return n
	}
	switch y.Kind {
	case yaml.ScalarNode:
		n.kind, n.tag, n.text = scalar, y.Tag, y.Value
		if y.Tag == "!!null" {
			n.kind = null
		}
	case yaml.SequenceNode:
		n.kind = list
		for i, item := range y.Content {
			n.items = append(n.items, c.convert(item, itemKey(key, i), depth+1))
		}
	case yaml.MappingNode:
		n.kind = mapping
		c.convertFields(n, y, depth)
	default:
		c.errorf(y, key, "internal error: YAML node of kind %d", y.Kind)
	}
	return n
}

// notPlain tells why a node is refused whatever it holds. An alias is never
// followed, so no alias bomb can grow.
func notPlain(y *yaml.Node, depth int) string {
	switch {
	case y.Kind == yaml.AliasNode:
		return aliasText
	case y.Anchor != "":
		return fmt.Sprintf("anchors are not allowed: leave out %s", printable("&"+y.Anchor))
	case y.Style&yaml.TaggedStyle != 0:
		return fmt.Sprintf("tags are not allowed: leave out %s", printable(y.Tag))
	case y.Kind == yaml.ScalarNode && y.Tag == "!!merge":
		return "merge keys are not allowed: use \"extends\""
	case depth > maxDepth:
		return fmt.Sprintf("is nested more than %d deep", maxDepth)
	case len(y.Content) > maxEntries && y.Kind == yaml.SequenceNode || len(y.Content) > 2*maxEntries:
		return fmt.Sprintf("has more than %d entries", maxEntries)
	}
	return ""
}

func (c *converter) convertFields(n *node, y *yaml.Node, depth int) {
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, v := y.Content[i], y.Content[i+1]
		if !c.usableKey(k, n.key) {
			continue
		}
		key := fieldKey(n.key, k.Value)
		if first := n.field(k.Value); first != nil {
			c.errorf(k, key, "duplicate key: it stands at %s already", first.keyAt)
			continue
		}
		value := c.convert(v, key, depth+1)
		value.keyAt = c.position(k)
		n.fields = append(n.fields, field{k.Value, value})
	}
}

func (c *converter) usableKey(k *yaml.Node, parent string) bool {
	if reason := notPlain(k, 0); reason != "" {
		c.errorf(k, parent, "%s", reason)
		return false
	}
	if k.Kind != yaml.ScalarNode || k.Tag != "!!str" {
		c.errorf(k, parent, "a key must be a string: put it in quotes if it is one")
		return false
	}
	return true
}

func fieldKey(parent, name string) string {
	if parent == "" {
		return keyText(name)
	}
	return parent + "." + keyText(name)
}

func itemKey(parent string, i int) string { return fmt.Sprintf("%s[%d]", parent, i) }
