package policies

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"gopkg.in/yaml.v3"
)

// document is a Policy in the words of the format, every key there. One shape
// serves YAML, JSON and the digest.
type document struct {
	Name         quoted               `yaml:"name,omitempty" json:"name,omitempty"`
	Description  quoted               `yaml:"description,omitempty" json:"description,omitempty"`
	Filesystem   filesystemDocument   `yaml:"filesystem" json:"filesystem"`
	Syscalls     syscallsDocument     `yaml:"syscalls" json:"syscalls"`
	Resources    resourcesDocument    `yaml:"resources" json:"resources"`
	Capabilities capabilitiesDocument `yaml:"capabilities" json:"capabilities"`
	Network      networkDocument      `yaml:"network" json:"network"`
	Audit        auditDocument        `yaml:"audit" json:"audit"`
	Environment  environmentDocument  `yaml:"environment" json:"environment"`
	Command      []quoted             `yaml:"command" json:"command"`
}

type filesystemDocument struct {
	Immutable  []bindDocument `yaml:"immutable_paths" json:"immutable_paths"`
	Scratch    []quoted       `yaml:"scratch_paths" json:"scratch_paths"`
	Output     []bindDocument `yaml:"output_paths" json:"output_paths"`
	WorkingDir quoted         `yaml:"working_dir" json:"working_dir"`
	Workspace  string         `yaml:"workspace" json:"workspace"`
}

type bindDocument struct {
	HostPath    quoted `yaml:"host_path" json:"host_path"`
	SandboxPath quoted `yaml:"sandbox_path" json:"sandbox_path"`
	Optional    bool   `yaml:"optional,omitempty" json:"optional,omitempty"`
	Mode        string `yaml:"mode,omitempty" json:"mode,omitempty"`
}

type syscallsDocument struct {
	DefaultDeny bool     `yaml:"default_deny" json:"default_deny"`
	Allow       []quoted `yaml:"allow" json:"allow"`
	Deny        []quoted `yaml:"deny" json:"deny"`
}

type resourcesDocument struct {
	CPU     amountText `yaml:"cpu_shares" json:"cpu_shares"`
	Memory  amountText `yaml:"memory_limit_bytes" json:"memory_limit_bytes"`
	Tasks   amountText `yaml:"pids_limit" json:"pids_limit"`
	BlockIO amountText `yaml:"block_io_limit" json:"block_io_limit"`
	Timeout amountText `yaml:"session_timeout_seconds" json:"session_timeout_seconds"`
}

type capabilitiesDocument struct {
	DefaultDrop bool     `yaml:"default_drop" json:"default_drop"`
	Add         []quoted `yaml:"add" json:"add"`
}

type networkDocument struct {
	Isolated bool     `yaml:"isolated" json:"isolated"`
	Outgoing []quoted `yaml:"allow_outgoing" json:"allow_outgoing"`
	Incoming []quoted `yaml:"allow_incoming" json:"allow_incoming"`
	Range    quoted   `yaml:"address_range,omitempty" json:"address_range,omitempty"`
}

type auditDocument struct {
	Enabled bool     `yaml:"enabled" json:"enabled"`
	LogPath quoted   `yaml:"log_path,omitempty" json:"log_path,omitempty"`
	Detail  []quoted `yaml:"detail_level" json:"detail_level"`
}

type environmentDocument struct {
	Set  map[string]quoted `yaml:"set" json:"set"`
	Pass []quoted          `yaml:"pass" json:"pass"`
}

// quoted is a string that YAML gets in double quotes: the one style in which
// any string survives.
type quoted string

// MarshalYAML implements yaml.Marshaler.
func (q quoted) MarshalYAML() (any, error) {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Value: string(q)}, nil
}

// amountText is a number, "unlimited" or a number with a unit, and stands
// unquoted in YAML. In JSON a number is a number.
type amountText string

// MarshalYAML implements yaml.Marshaler.
func (a amountText) MarshalYAML() (any, error) {
	return &yaml.Node{Kind: yaml.ScalarNode, Value: string(a)}, nil
}

// MarshalJSON implements json.Marshaler.
func (a amountText) MarshalJSON() ([]byte, error) {
	if _, err := strconv.ParseFloat(string(a), 64); err == nil {
		return []byte(a), nil
	}
	return json.Marshal(string(a))
}

// Encode returns the effective policy as YAML, every default filled in. Parse
// reads it to the same Digest. Positions and warnings are not in it.
func (p *Policy) Encode() ([]byte, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(p.document()); err != nil {
		return nil, fmt.Errorf("internal error: cannot encode the policy: %v", err)
	}
	return out.Bytes(), nil
}

// MarshalJSON returns what Encode does, as one JSON object.
func (p *Policy) MarshalJSON() ([]byte, error) { return json.Marshal(p.document()) }

// makeDigest is the SHA-256 of what the policy means: not its name, description,
// order or repetitions.
func (p *Policy) makeDigest() (string, error) {
	doc := p.document()
	doc.Name, doc.Description = "", ""
	doc.normalize()
	content, err := json.Marshal(doc)
	if err != nil {
		return "", fmt.Errorf("internal error: cannot digest the policy: %v", err)
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:]), nil
}

// normalize sorts the lists whose order means nothing.
func (doc *document) normalize() {
	byPlace := func(a, b bindDocument) int { return cmp.Compare(a.SandboxPath, b.SandboxPath) }
	slices.SortFunc(doc.Filesystem.Immutable, byPlace)
	slices.SortFunc(doc.Filesystem.Output, byPlace)
	for _, words := range []*[]quoted{
		&doc.Filesystem.Scratch, &doc.Syscalls.Allow, &doc.Syscalls.Deny,
		&doc.Network.Outgoing, &doc.Network.Incoming,
	} {
		slices.Sort(*words)
		*words = slices.Compact(*words)
	}
}

func (p *Policy) document() *document {
	return &document{
		Name:        quoted(p.Name),
		Description: quoted(p.Description),
		Filesystem:  filesystemText(p.Filesystem),
		Syscalls: syscallsDocument{
			DefaultDeny: p.Syscalls.DefaultDeny,
			Allow:       each(p.Syscalls.Allow, SyscallRule.String),
			Deny:        each(p.Syscalls.Deny, SyscallRule.String),
		},
		Resources:    resourcesText(p.Resources),
		Capabilities: capabilitiesDocument{p.Capabilities.DefaultDrop, each(p.Capabilities.Add, asIs)},
		Network: networkDocument{
			Isolated: p.Network.Isolated,
			Outgoing: each(p.Network.Outgoing, Outgoing.String),
			Incoming: each(p.Network.Incoming, Incoming.String),
			Range:    quoted(p.Network.AddressRange),
		},
		Audit:       auditDocument{p.Audit.Enabled, quoted(p.Audit.LogPath), each(p.Audit.Detail, asIs)},
		Environment: environmentText(p.Environment),
		Command:     each(p.Command, asIs),
	}
}

func asIs(s string) string { return s }

// each returns a list that is never nil: JSON and YAML print [], not null.
func each[T any](values []T, text func(T) string) []quoted {
	words := make([]quoted, 0, len(values))
	for _, v := range values {
		words = append(words, quoted(text(v)))
	}
	return words
}

func filesystemText(fs Filesystem) filesystemDocument {
	doc := filesystemDocument{
		Immutable:  []bindDocument{},
		Scratch:    each(fs.Scratch, func(s Scratch) string { return s.Path }),
		Output:     []bindDocument{},
		WorkingDir: quoted(fs.WorkingDir),
		Workspace:  string(fs.Workspace),
	}
	for _, b := range fs.Immutable {
		doc.Immutable = append(doc.Immutable, bindText(b, ""))
	}
	for _, o := range fs.Output {
		doc.Output = append(doc.Output, bindText(o.Bind, string(o.Mode)))
	}
	return doc
}

func bindText(b Bind, mode string) bindDocument {
	return bindDocument{quoted(b.HostPath), quoted(b.SandboxPath), b.Optional, mode}
}

func resourcesText(r Resources) resourcesDocument {
	whole := func(v uint64) string { return strconv.FormatUint(v, 10) }
	seconds := func(v uint64) string { return whole(v / 1_000_000) }
	return resourcesDocument{
		CPU:     limitText(r.CPU, formatCPU),
		Memory:  limitText(r.Memory, whole),
		Tasks:   limitText(r.Tasks, whole),
		BlockIO: limitText(r.BlockIO, formatRate),
		Timeout: limitText(r.Timeout, seconds),
	}
}

func limitText(l Limit, format func(uint64) string) amountText {
	if l.Unlimited {
		return unlimitedWord
	}
	return amountText(format(l.Value))
}

func environmentText(e Environment) environmentDocument {
	doc := environmentDocument{Set: map[string]quoted{}, Pass: each(e.Pass, asIs)}
	for name, value := range e.Set {
		doc.Set[name] = quoted(value)
	}
	return doc
}
