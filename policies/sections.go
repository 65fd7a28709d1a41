package policies

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// capabilityNames are those of linux/capability.h up to 6.12, by number.
var capabilityNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// CapabilityNumber is the bit of a capability by its name, "CAP_KILL"; ok is
// false for any other text. Parse accepts no other.
func CapabilityNumber(name string) (bit int, ok bool) {
	bit = slices.Index(capabilityNames, name)
	return bit, bit >= 0
}

func (d *decoder) capabilities(n *node, c *Capabilities) {
	d.mapping(n,
		reader{"default_drop", func(n *node) { d.boolean(n, &c.DefaultDrop) }},
		reader{"add", func(n *node) { c.Add = d.set(n, capabilityRule) }},
	)
}

func capabilityRule(name string) error {
	if _, known := CapabilityNumber(name); known {
		return nil
	}
	hint := didYouMean(name, capabilityNames)
	if full := "CAP_" + strings.ToUpper(name); hint == "" && slices.Contains(capabilityNames, full) {
		hint = fmt.Sprintf(" (did you mean %q?)", full)
	}
	return fmt.Errorf("unknown capability %s%s", printable(name), hint)
}

// set reads a list of strings that keep the rule, sorted, each once.
func (d *decoder) set(n *node, rule func(string) error) []string {
	var words []string
	d.each(n, func(item *node) {
		word, ok := d.str(item)
		if !ok {
			return
		}
		if err := rule(word); err != nil {
			d.errorf(item, "%v", err)
			return
		}
		words = append(words, word)
	})
	slices.Sort(words)
	return slices.Compact(words)
}

func (d *decoder) audit(n *node, a *Audit) {
	d.mapping(n,
		reader{"enabled", func(n *node) { d.boolean(n, &a.Enabled) }},
		reader{"log_path", func(n *node) { a.LogPath = d.path(n, logPath) }},
		reader{"detail_level", func(n *node) { a.Detail = d.set(n, detailRule) }},
	)
}

// auditDetails and defaultDetails are sorted. "reads" has to be asked for: it makes
// each open wait.
var (
	auditDetails   = []string{"filesystem", "network", "reads", "resource", "syscall"}
	defaultDetails = []string{"filesystem", "network", "resource", "syscall"}
)

func detailRule(word string) error {
	if slices.Contains(auditDetails, word) {
		return nil
	}
	return fmt.Errorf("unknown detail %s%s: must be some of %s", printable(word),
		didYouMean(word, auditDetails), strings.Join(auditDetails, ", "))
}

func logPath(p string) string {
	switch {
	case p == "/":
		return "is a directory: name a file"
	case within(p, "/proc"), within(p, "/sys"), within(p, "/dev"):
		return "is no place for a log file"
	}
	return ""
}

func (d *decoder) environment(n *node, e *Environment) {
	d.mapping(n,
		reader{"set", func(n *node) { d.environmentSet(n, e) }},
		reader{"pass", func(n *node) { e.Pass = d.set(n, environmentName) }},
	)
	for _, item := range itemsOf(n, "pass") {
		if set := n.field("set").field(item.text); set != nil {
			d.errorf(item, "%s is set at %s: set it or pass it, not both", printable(item.text), set.keyAt)
		}
	}
}

func (d *decoder) environmentSet(n *node, e *Environment) {
	e.Set = nil
	if !d.is(n, mapping) {
		return
	}
	e.Set = map[string]string{}
	for _, f := range n.fields {
		value, ok := d.argument(f.value)
		if !ok {
			continue
		}
		if err := environmentEntry(f.name, value); err != nil {
			d.errs = append(d.errs, &Error{At: f.value.keyAt, Key: f.value.key, Text: err.Error()})
			continue
		}
		e.Set[f.name] = value
	}
}

func environmentEntry(name, value string) error {
	const maxArgument = 128 << 10 // MAX_ARG_STRLEN of execve(2), with the closing NUL
	if err := environmentName(name); err != nil {
		return err
	}
	if len(name)+len("=")+len(value) >= maxArgument {
		return fmt.Errorf("is longer than the %d bytes that the kernel takes", maxArgument)
	}
	return nil
}

// isVariable tells what a shell takes for the name of a variable.
func isVariable(name string) bool {
	const first = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
	return name != "" && strings.Trim(name, first+"0123456789") == "" && strings.IndexByte(first, name[0]) >= 0
}

func environmentName(name string) error {
	switch {
	case name == "HOME":
		return fmt.Errorf("HOME is filesystem.working_dir: set that")
	case !isVariable(name):
		return fmt.Errorf("%s is no name of a variable: it must be letters, digits and \"_\", and start with no digit", printable(name))
	}
	return nil
}

func (d *decoder) command(n *node, p *Policy) {
	p.Command = nil
	d.each(n, func(item *node) {
		if word, ok := d.argument(item); ok {
			p.Command = append(p.Command, word)
		}
	})
	if len(n.items) > 0 && n.items[0].kind == scalar && n.items[0].text == "" {
		d.errorf(n.items[0], "the program's name is empty")
	}
}

// description reads text for people, which goes to terminals as it is.
func (d *decoder) description(n *node, p *Policy) {
	text, ok := d.str(n)
	if ok && strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		d.errorf(n, "holds a character that cannot be printed")
		return
	}
	p.Description = text
}
