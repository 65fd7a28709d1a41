package policies

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// refusals are profiles that must not load, with what is said of them, line by
// line and in full: a person mends their profile by it.
var refusals = []struct {
	name, yaml string
	want       []string
}{
	{"unknown key", "name: my\n\n\n\n\n\n\n\n\n\nfilesystem:\n  immutable_path: []\n",
		[]string{`my.yaml:12:3: filesystem.immutable_path: unknown key (did you mean "immutable_paths"?)`}},
	{"unknown key, nothing near", "zzzzzz: 1\n",
		[]string{`my.yaml:1:1: zzzzzz: unknown key (known here: name, description, extends, filesystem, syscalls, resources, capabilities, network, audit, environment, command)`}},
	{"key in another case", "Network:\n  isolated: true\n",
		[]string{`my.yaml:1:1: Network: unknown key (did you mean "network"?)`}},
	{"key with an escape sequence", "\"\\e[2J\": 1\n",
		[]string{`my.yaml:1:1: "\x1b[2J": unknown key (known here: name, description, extends, filesystem, syscalls, resources, capabilities, network, audit, environment, command)`}},
	{"key of a bind", "filesystem:\n  output_paths:\n    - {host_path: /a, sandbox_path: /b, mod: read-write}\n",
		[]string{`my.yaml:3:41: filesystem.output_paths[0].mod: unknown key (did you mean "mode"?)`}},
	{"mode of a read-only bind", "filesystem:\n  immutable_paths: [{host_path: /a, mode: read-write}]\n",
		[]string{`my.yaml:2:37: filesystem.immutable_paths[0].mode: unknown key (known here: host_path, sandbox_path, optional)`}},
	{"duplicate key", "network:\n  isolated: true\n  isolated: false\n",
		[]string{`my.yaml:3:3: network.isolated: duplicate key: it stands at my.yaml:2:3 already`}},
	{"duplicate section", "network: {}\nnetwork: {}\n",
		[]string{`my.yaml:2:1: network: duplicate key: it stands at my.yaml:1:1 already`}},
	{"second document", "name: my\n---\nname: my\n",
		[]string{`my.yaml:2:1: a second YAML document starts here: a file holds one profile`}},
	{"second document, broken", "name: my\n---\n\"\n",
		[]string{`my.yaml:3:1: is not valid YAML: found unexpected end of stream`}},
	{"empty", "", []string{`my.yaml:1:1: is empty: a profile has at least one key, such as "name: my-agent"`}},
	{"comment only", "# nothing\n", []string{`my.yaml:1:1: is empty: a profile has at least one key, such as "name: my-agent"`}},
	{"null document", "~\n", []string{`my.yaml:1:1: is no profile: it must be a mapping, such as "name: my-agent"`}},
	{"list document", "- a\n", []string{`my.yaml:1:1: is no profile: it must be a mapping, such as "name: my-agent"`}},
	{"null section", "filesystem:\nsyscalls: ~\n", []string{
		`my.yaml:1:12: filesystem: must not be empty: give a mapping, or leave the key out for its default`,
		`my.yaml:2:11: syscalls: must not be empty: give a mapping, or leave the key out for its default`}},
	{"null value", "network:\n  isolated:\n  allow_outgoing: null\n", []string{
		`my.yaml:2:12: network.isolated: must not be empty: give a single value, or leave the key out for its default`,
		`my.yaml:3:19: network.allow_outgoing: must not be empty: give a list, or leave the key out for its default`}},
	{"wrong types", "filesystem: []\nsyscalls: {allow: read, deny: {a: b}}\nresources: {pids_limit: [1]}\n", []string{
		`my.yaml:1:13: filesystem: must be a mapping, not a list`,
		`my.yaml:2:19: syscalls.allow: must be a list, not a single value`,
		`my.yaml:2:31: syscalls.deny: must be a list, not a mapping`,
		`my.yaml:3:25: resources.pids_limit: must be a single value, not a list`}},
	{"string that YAML takes for a number", "description: 1.10\n",
		[]string{`my.yaml:1:14: description: must be a string: put it in quotes, "1.10"`}},
	{"anchor", "description: &a x\n", []string{`my.yaml:1:14: description: anchors are not allowed: leave out "&a"`}},
	{"alias", "description: &a x\ncommand: [*a]\n", []string{
		`my.yaml:1:14: description: anchors are not allowed: leave out "&a"`,
		`my.yaml:2:11: command[0]: aliases are not allowed: write the value out, or use "extends"`}},
	{"alias of nothing", "\ncommand: [*a]\n", []string{`my.yaml:2:11: aliases are not allowed: write the value out, or use "extends"`}},
	{"merge key", "network:\n  <<: {isolated: false}\n", []string{`my.yaml:2:3: network: merge keys are not allowed: use "extends"`}},
	{"tag", "description: !!binary aGk=\n", []string{`my.yaml:1:14: description: tags are not allowed: leave out "!!binary"`}},
	{"own tag", "command: !run [a]\n", []string{`my.yaml:1:10: command: tags are not allowed: leave out "!run"`}},
	{"key that is no string", "1: x\n? [a]\n: b\n", []string{
		`my.yaml:1:1: a key must be a string: put it in quotes if it is one`,
		`my.yaml:2:3: a key must be a string: put it in quotes if it is one`}},
	{"invalid UTF-8", "name: my\ndescription: a\xffb\n", []string{`my.yaml:2:15: is not valid UTF-8`}},
	{"UTF-16", "\xff\xfen\x00", []string{`my.yaml:1:4: holds a NUL byte`}},
	{"NUL", "name: my\n\x00", []string{`my.yaml:2:1: holds a NUL byte`}},
	{"syntax", "name: my\nnetwork: [\n", []string{`my.yaml:2:1: is not valid YAML: did not find expected node content`}},
	{"other name", "name: other\n", []string{
		`my.yaml:1:7: name: the file was found as profile "my" but says that it is "other": two names for one profile mislead; change this line, or the file's name`}},
	{"name that escapes", "name: ../x\n", []string{
		`my.yaml:1:7: name: "../x" cannot be a profile's name: a name is 1 to 64 of a-z, 0-9, ".", "_" and "-", and starts with a letter or a digit`}},
	{"description with an escape sequence", "description: \"\\e]0;x\\a\"\n",
		[]string{`my.yaml:1:14: description: holds a character that cannot be printed`}},

	{"booleans of YAML 1.1", "network: {isolated: no}\naudit: {enabled: \"yes\"}\ncapabilities: {default_drop: True}\n", []string{
		`my.yaml:1:21: network.isolated: must be true or false, not "no"; write false`,
		`my.yaml:2:18: audit.enabled: must be true or false, not "yes"; write true`,
		`my.yaml:3:30: capabilities.default_drop: must be true or false, not "True"; write true`}},

	{"paths", `filesystem:
  immutable_paths: [usr, "~/bin", /usr/../etc, /usr/, "/a\nb", "", /, /proc/self, /dev/shm, "/a\0"]
`, []string{
		`my.yaml:2:21: filesystem.immutable_paths[0]: path "usr" must be absolute: start it with "/"`,
		`my.yaml:2:26: filesystem.immutable_paths[1]: path "~/bin" must be absolute: "~" is not expanded, write the home directory out`,
		`my.yaml:2:35: filesystem.immutable_paths[2]: path "/usr/../etc" must not hold "..": write out where it leads`,
		`my.yaml:2:48: filesystem.immutable_paths[3]: path "/usr/" is not clean: write it "/usr"`,
		`my.yaml:2:55: filesystem.immutable_paths[4]: path "/a\nb" holds a control character`,
		`my.yaml:2:64: filesystem.immutable_paths[5]: path "" is empty`,
		`my.yaml:2:68: filesystem.immutable_paths[6]: path "/" would show the whole host: list the directories that are needed`,
		`my.yaml:2:71: filesystem.immutable_paths[7]: path "/proc/self" would show the host's processes: the sandbox has a /proc of its own`,
		`my.yaml:2:83: filesystem.immutable_paths[8]: path "/dev/shm" is at or below a directory that Purple itself makes: choose another place`,
		`my.yaml:2:93: filesystem.immutable_paths[9]: path "/a\x00" holds a control character`}},
	{"sandbox paths", "filesystem:\n  scratch_paths: [/, /dev, /proc/x]\n  working_dir: ../home\n", []string{
		`my.yaml:2:19: filesystem.scratch_paths[0]: path "/" is the sandbox's own root: name a directory below it`,
		`my.yaml:2:22: filesystem.scratch_paths[1]: path "/dev" is at or below a directory that Purple itself makes: choose another place`,
		`my.yaml:2:28: filesystem.scratch_paths[2]: path "/proc/x" is at or below a directory that Purple itself makes: choose another place`,
		`my.yaml:3:16: filesystem.working_dir: path "../home" must be absolute: start it with "/"`}},
	{"two mounts at one place", "filesystem:\n  immutable_paths: [/usr]\n  scratch_paths: [/usr]\n  output_paths: [{host_path: /a, sandbox_path: /usr}]\n", []string{
		`my.yaml:3:19: filesystem.scratch_paths[0]: "/usr" is mounted by filesystem.immutable_paths[0] (my.yaml:2:21) already: two mounts cannot share a place`,
		`my.yaml:4:18: filesystem.output_paths[0]: "/usr" is mounted by filesystem.immutable_paths[0] (my.yaml:2:21) already: two mounts cannot share a place`}},
	{"bind without a host path", "filesystem:\n  output_paths: [{sandbox_path: /a}, 7, [], ~]\n", []string{
		`my.yaml:2:18: filesystem.output_paths[0]: host_path is missing: it names what to show`,
		`my.yaml:2:38: filesystem.output_paths[1]: must be a string: put it in quotes, "7"`,
		`my.yaml:2:41: filesystem.output_paths[2]: must be a mapping, not a list`,
		`my.yaml:2:45: filesystem.output_paths[3]: must not be empty: give a mapping, or leave the key out for its default`}},
	{"modes", "filesystem:\n  workspace: readonly\n  output_paths: [{host_path: /a, mode: rw}]\n", []string{
		`my.yaml:2:14: filesystem.workspace: unknown value "readonly" (did you mean "read-only"?)`,
		`my.yaml:3:40: filesystem.output_paths[0].mode: unknown value "rw": must be one of write-only, read-write`}},

	{"system calls", "syscalls:\n  allow: [opnat, \"@file-sytem\", \"openat:CLONE_NEWNET\", \"unshare:NEWNET\", \"clone:CLONE_NEWTIME\"]\n  deny: [\"clone:CLONE_NEWNET\"]\n", []string{
		`my.yaml:2:11: syscalls.allow[0]: unknown system call "opnat" (did you mean "openat"?)`,
		`my.yaml:2:18: syscalls.allow[1]: unknown group of system calls "@file-sytem" (did you mean "@file-system"?)`,
		`my.yaml:2:33: syscalls.allow[2]: "openat:CLONE_NEWNET": only clone and unshare take flags`,
		`my.yaml:2:56: syscalls.allow[3]: unknown namespace flag "NEWNET": must be some of CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWUTS, joined by "|"`,
		`my.yaml:2:74: syscalls.allow[4]: CLONE_NEWTIME is for unshare alone: write "unshare:CLONE_NEWTIME"`,
		`my.yaml:3:10: syscalls.deny[0]: "clone:CLONE_NEWNET": flags are for an allow rule; a denied call is denied whatever its flags: write "clone"`}},
	{"capabilities", "capabilities:\n  add: [CAP_NET_BINDSERVICE, kill, ALL, cap_kill]\n", []string{
		`my.yaml:2:9: capabilities.add[0]: unknown capability "CAP_NET_BINDSERVICE" (did you mean "CAP_NET_BIND_SERVICE"?)`,
		`my.yaml:2:30: capabilities.add[1]: unknown capability "kill" (did you mean "CAP_KILL"?)`,
		`my.yaml:2:36: capabilities.add[2]: unknown capability "ALL"`,
		`my.yaml:2:41: capabilities.add[3]: unknown capability "cap_kill" (did you mean "CAP_KILL"?)`}},
	{"isolated and open", "network:\n  isolated: true\n  allow_outgoing: [443]\n  allow_incoming: [8080]\n", []string{
		`my.yaml:3:19: network.allow_outgoing: contradicts network.isolated: true (my.yaml:2:13): set that to false, or this to []`,
		`my.yaml:4:19: network.allow_incoming: contradicts network.isolated: true (my.yaml:2:13): set that to false, or this to []`}},
	{"open by list alone", "network:\n  allow_outgoing: [443]\n", []string{
		`my.yaml:2:19: network.allow_outgoing: the network is isolated unless the profile says otherwise: add "isolated: false"`}},
	{"published twice", "network: {isolated: false, allow_incoming: [80, 81, \"80\"]}\n", []string{
		`my.yaml:1:53: network.allow_incoming[2]: "80" is published by network.allow_incoming[0] (my.yaml:1:45) already`}},
	{"audit", "audit:\n  log_path: purple.log\n  detail_level: [sycall, all]\n", []string{
		`my.yaml:2:13: audit.log_path: path "purple.log" must be absolute: start it with "/"`,
		`my.yaml:3:18: audit.detail_level[0]: unknown detail "sycall" (did you mean "syscall"?): must be some of filesystem, network, reads, resource, syscall`,
		`my.yaml:3:26: audit.detail_level[1]: unknown detail "all": must be some of filesystem, network, reads, resource, syscall`}},
	{"environment", "environment:\n  set:\n    A=B: x\n    1A: x\n    HOME: /\n    N: 8080\n    Z: \"\\0\"\n    T: x\n  pass: [T, \"a b\", HOME]\n", []string{
		`my.yaml:3:5: environment.set."A=B": "A=B" is no name of a variable: it must be letters, digits and "_", and start with no digit`,
		`my.yaml:4:5: environment.set.1A: "1A" is no name of a variable: it must be letters, digits and "_", and start with no digit`,
		`my.yaml:5:5: environment.set.HOME: HOME is filesystem.working_dir: set that`,
		`my.yaml:6:8: environment.set.N: must be a string: put it in quotes, "8080"`,
		`my.yaml:7:8: environment.set.Z: holds a NUL character, which no program can be given`,
		`my.yaml:9:10: environment.pass[0]: "T" is set at my.yaml:8:5: set it or pass it, not both`,
		`my.yaml:9:13: environment.pass[1]: "a b" is no name of a variable: it must be letters, digits and "_", and start with no digit`,
		`my.yaml:9:20: environment.pass[2]: HOME is filesystem.working_dir: set that`,
		`my.yaml:9:20: environment.pass[2]: "HOME" is set at my.yaml:5:5: set it or pass it, not both`}},
	{"command", "command: [\"\", 5, \"a\\0\"]\n", []string{
		`my.yaml:1:11: command[0]: the program's name is empty`,
		`my.yaml:1:15: command[1]: must be a string: put it in quotes, "5"`,
		`my.yaml:1:18: command[2]: holds a NUL character, which no program can be given`}},
	{"extends nothing", "extends: pyhton\n", []string{
		`my.yaml:1:10: extends: cannot extend "pyhton": there is no built-in profile "pyhton" (did you mean "python"?)`}},
	{"extends a path", "extends: ./x.yaml\n", []string{
		`my.yaml:1:10: extends: a profile is extended by name: "./x.yaml" cannot be a profile's name: a name is 1 to 64 of a-z, 0-9, ".", "_" and "-", and starts with a letter or a digit; a name has no ".yaml"; a file is written with a slash, "./my.yaml"`}},
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("my", "my.yaml", []byte(tt.yaml))
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("Parse returned %v, want Errors", err)
			}
			if want := strings.Join(tt.want, "\n"); err.Error() != want {
				t.Errorf("got:\n%v\nwant:\n%s", err, want)
			}
		})
	}
}

// Values of one setting, tried alone: many must be refused, and with the text.
func TestParseRefusesValues(t *testing.T) {
	tests := []struct{ yaml, values, why string }{
		{"resources: {pids_limit: %s}", "0 0777 1e3 1_0 -1 +1 0x10 1.0 99999999999999999999 4194305 many '' .inf 2G", "must be a whole number from 1 to 4194304, in plain digits"},
		{"resources: {session_timeout_seconds: %s}", "0 60s 1.5 1e3 0777 99999999999999999999 9223372036855", "must be a whole number from 1 to 9223372036854, in plain digits"},
		{"resources: {cpu_shares: %s}", "0 0.0 0.0009 1025 1024.000001 -1 .5 1. 1e0 50% 0.1234567 00.5 nan .nan", "must be a share of one CPU from 0.001 to 1024, such as 0.5"},
		{"resources: {memory_limit_bytes: %s}", "2GB 2g 1.5G 2GiB -1 0x10 1_0 1e3 half G", "must be bytes, or a number with K, M, G or T"},
		{"resources: {memory_limit_bytes: %s}", "0 0777 02G 99999999999999999999 16777216T", "must be a whole number from 1 to"},
		{"resources: {memory_limit_bytes: %s}", "1 15M 16777215", "must be at least 16M, because"},
		{"resources: {block_io_limit: %s}", "100 100M 100MB 100mbps 1.5MBps -1MBps MBps 100 100TBps fast", "must be bytes a second with a unit of"},
		{"resources: {block_io_limit: %s}", "0MBps 01MBps 99999999999999999999Bps 18446744073709551615GBps", "must be a whole number from 1 to"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "0 70000 0443 -1 4x 1e3 443.5/tcp 443- -443", ""},
		{"network: {isolated: false, allow_outgoing: [%s]}", "https HTTPS dns", "a port is a number: write "},
		{"network: {isolated: false, allow_outgoing: [%s]}", "443-80", "the range ends before it begins: write 80-443"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "443/sctp 443/ 443/TCP", "unknown protocol"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "10.1.2.3/16:443", "has bits set behind the prefix: write 10.1.0.0/16"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "'[fd00::1/8]:443'", "has bits set behind the prefix: write fd00::/8"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "10.1.0.0/16 10.1.2.3", "a port is missing"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "github.com:443 010.1.2.3:80 1.2.3:80 '*:443' 127.1:80", "names are not looked up"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "10.0.0.0/33:80 10.0.0.0/-1:80 10.0.0.0/08:80", "is no address or prefix"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "'fd00::1:443' '::1:80'", "an IPv6 address needs brackets"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "'[fd00::1' '[10.0.0.1]:80' '[fd00::1]80' '[]:80'", "brackets hold an IPv6 address"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "'[::ffff:10.0.0.1]:80' '[::ffff:10.0.0.0/104]:80'", "is IPv4 written as IPv6"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "'[fe80::1%eth0]:80'", "names an interface of the host"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "':443'", "the address before the colon is missing"},
		{"network: {isolated: false, address_range: %s}", "10.0.0.0 x 'fd00::/64' 10.200.0.0/20/1", "is no IPv4 range"},
		{"network: {isolated: false, address_range: %s}", "10.0.0.1/24 10.200.1.0/20", "has bits set behind the prefix"},
		{"network: {isolated: false, address_range: %s}", "10.0.0.0/8 10.0.0.0/29", "must have a length from /12 to /28"},
		{"network: {isolated: false, address_range: %s}", "8.8.8.0/24 169.254.0.0/16 127.0.0.0/24 172.0.0.0/12 192.0.0.0/15", "is not private"},
		{"network: {isolated: false, allow_outgoing: [%s]}", "127.0.0.1:80 127.0.0.0/8:80 127.5.0.0/16:1-9 '[::1]:80'", "is the sandbox's own loopback"},
		{"network: {isolated: false, allow_incoming: [%s]}", "0 65536 http 80-90 8080/tcp 0.0.0.0 ':80' 10.0.0.0/8:80 localhost:80", ""},
	}
	for _, tt := range tests {
		for value := range strings.FieldsSeq(tt.values) {
			_, err := Parse("my", "my.yaml", fmt.Appendf(nil, tt.yaml+"\n", value))
			if err == nil || !strings.HasPrefix(err.Error(), "my.yaml:1:") || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("%s of %q: got %v, want an error with %q", tt.yaml, value, err, tt.why)
			}
		}
	}
}

func TestParseRefusesInTime(t *testing.T) {
	list := func(item string, n int) string { return "command: [" + strings.Repeat(item+",", n) + "]\n" }
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 x\n")
	for i := range 30 {
		fmt.Fprintf(&bomb, "a%d: &a%d [*a%d,*a%d,*a%d]\n", i+1, i+1, i, i, i)
	}
	var keys strings.Builder
	for i := range 60_000 {
		fmt.Fprintf(&keys, "k%d: 1\n", i)
	}
	calls := strings.Repeat("opnat,", 900)
	tests := []struct{ name, yaml, want string }{
		{"100 MB", strings.Repeat("#", 100<<20), "is too big: 104857600 bytes, at most 1048576"},
		{"alias bomb", bomb.String(), "anchors are not allowed"},
		{"20000 lists", "command: " + strings.Repeat("[", 20_000), "not valid YAML"},
		{"5000 lists", "command: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "is nested more than 16 deep"},
		{"many items", list("a", 100_000), "command: has more than 1024 entries"},
		{"many keys", keys.String(), "has more than 1024 entries"},
		{"many wrong names", "syscalls: {allow: [" + calls + "]}", "and 880 more errors"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			_, err := Parse("my", "my.yaml", []byte(tt.yaml))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %.300v, want an error with %q", err, tt.want)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestParseReportsAtMostTwenty(t *testing.T) {
	_, err := Parse("my", "my.yaml", []byte("command: ["+strings.Repeat("1,", 30)+"]\n"))
	lines := strings.Split(fmt.Sprint(err), "\n")
	if len(lines) != 21 || lines[20] != "my.yaml:1:51: and 10 more errors from here on" {
		t.Errorf("got %d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

func digestOf(t *testing.T, p *Policy) string {
	t.Helper()
	digest, err := p.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func mustParse(t *testing.T, yaml string) *Policy {
	t.Helper()
	p, err := Parse("my", "my.yaml", []byte(yaml))
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return p
}

func TestParseReference(t *testing.T) {
	content, err := os.ReadFile("testdata/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse("", "reference.yaml", content)
	if err != nil {
		t.Fatal(err)
	}
	const warning = `reference.yaml:22:19: warning: syscalls.deny[1]: there is no system call "unmount"; taken as "umount2"`
	if len(p.Warnings) != 1 || p.Warnings[0].String() != warning {
		t.Errorf("warnings %v, want just %q", p.Warnings, warning)
	}
	golden(t, "reference.golden", encoded(t, p))
	if p.Name != "ai-dev-safe" || p.Resources.CPU.Value != 500_000 || p.Resources.BlockIO.Value != 100_000_000 {
		t.Errorf("got %q, %+v", p.Name, p.Resources)
	}
}

func encoded(t *testing.T, p *Policy) []byte {
	t.Helper()
	yaml, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return yaml
}

func TestEncodeRoundTrips(t *testing.T) {
	for _, tt := range []struct{ name, yaml string }{
		{"nothing said", "{}"},
		{"no list", "filesystem: {scratch_paths: []}\naudit: {detail_level: []}\nsyscalls: {allow: [], deny: []}\n"},
		{"all allowed", "syscalls: {default_deny: false}\n"},
		{"unlimited", "resources: {cpu_shares: unlimited, memory_limit_bytes: unlimited, pids_limit: unlimited, block_io_limit: unlimited, session_timeout_seconds: \"unlimited\"}\n"},
		{"limits", "resources: {cpu_shares: 0.001, memory_limit_bytes: 16777217, pids_limit: 1, block_io_limit: 1025Bps, session_timeout_seconds: 1}\n"},
		{"network", "network: {isolated: false, allow_outgoing: [443, \"53/udp\", 8000-8100/tcp, 10.1.0.0/16:5432, \"[fd00::/8]:443\", \"[fd00::1]:53/udp\", 10.0.0.1:1-2], allow_incoming: [80, 0.0.0.0:80, \"[::]:8080\"], address_range: 10.9.0.0/24}\n"},
		{"strings", "environment: {set: {A: \"\\n x\\t\\u2028\\e \", B: '', C: 'null', y: '0777', NO: '~'}, pass: [TZ]}\ncommand: ['- a', \"\\r\\n\", '%h $HOME $$', '&x']\n"},
		{"flags", "syscalls: {allow: [read, \"unshare:CLONE_NEWUSER|CLONE_NEWNET|CLONE_NEWUSER\", \"clone:CLONE_NEWPID\"]}\n"},
		{"binds", "filesystem: {immutable_paths: [/usr, {host_path: /a, sandbox_path: /b, optional: true}], output_paths: [{host_path: /c, mode: read-write, optional: true}, /d], workspace: read-write}\n"},
		{"extends", "extends: python\nsyscalls: {deny: [openat2]}\n"},
	} {
		t.Run(tt.name, func(t *testing.T) { checkRoundTrip(t, mustParse(t, tt.yaml)) })
	}
}

func checkRoundTrip(t *testing.T, p *Policy) {
	t.Helper()
	text := encoded(t, p)
	again, err := Parse(p.Name, "again.yaml", text)
	if err != nil {
		t.Fatalf("what Encode wrote is refused: %v\n%s", err, text)
	}
	before, after := digestOf(t, p), digestOf(t, again)
	if after != before || len(before) != 64 || string(encoded(t, again)) != string(text) {
		t.Errorf("digest %q became %q through\n%s", before, after, text)
	}
}

func TestDigestIsOfTheMeaning(t *testing.T) {
	base := digestOf(t, mustParse(t, "syscalls: {allow: [read, write]}\nfilesystem: {immutable_paths: [/usr, /bin]}\n"))
	same := []string{
		"# a comment\nfilesystem:\n  immutable_paths: [{host_path: /bin}, {host_path: /usr, sandbox_path: /usr, optional: false}]\nsyscalls: {allow: [write, read, read]}\n",
		"name: my\ndescription: x\nsyscalls: {allow: [read, write], default_deny: true}\nfilesystem: {immutable_paths: [/usr, /bin]}\nresources: {memory_limit_bytes: 2048M}\n",
	}
	for _, yaml := range same {
		if got := digestOf(t, mustParse(t, yaml)); got != base {
			t.Errorf("another digest for\n%s", yaml)
		}
	}
	other := []string{
		"syscalls: {allow: [read]}\nfilesystem: {immutable_paths: [/usr, /bin]}\n",
		"syscalls: {allow: [read, write]}\nfilesystem: {immutable_paths: [/usr, {host_path: /bin, optional: true}]}\n",
		"syscalls: {allow: [read, write]}\nfilesystem: {immutable_paths: [/usr, /bin]}\ncommand: [a, b]\n",
	}
	for _, yaml := range other {
		if got := digestOf(t, mustParse(t, yaml)); got == base {
			t.Errorf("the same digest for\n%s", yaml)
		}
	}
}

func TestParseMergesParents(t *testing.T) {
	files := map[string]string{
		"base": "description: base\nresources: {memory_limit_bytes: 64M, pids_limit: 7}\nsyscalls:\n  allow: [read, write]\n  deny: [bpf]\nnetwork: {isolated: false, allow_outgoing: [443]}\nenvironment: {set: {A: a, B: b}}\n",
		"mid":  "extends: base\nresources:\n  pids_limit: unlimited\nsyscalls: {deny: [ptrace]}\nenvironment: {set: {B: c}}\n",
	}
	find := func(_ []string, name string) (string, []byte, error) {
		content, ok := files[name]
		if !ok {
			return "", nil, errors.New("no such profile")
		}
		return name + ".yaml", []byte(content), nil
	}
	p, err := parse("my", "my.yaml", []byte("extends: mid\nsyscalls: {allow: [openat], deny: [unmount]}\nnetwork: {allow_outgoing: []}\n"), find)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(p.Name, p.Description, p.Resources.Memory, p.Resources.Tasks, p.Syscalls.Allow, p.Syscalls.Deny, p.Network, p.Environment)
	want := "my{67108864 false} {0 true} [openat] [bpf ptrace umount2] {false [] [] } {map[A:a B:c] []}"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	places := map[string]string{
		"syscalls.deny[0]":             "base.yaml:5:10",
		"syscalls.deny[1]":             "mid.yaml:4:19",
		"syscalls.deny[2]":             "my.yaml:2:36",
		"syscalls.allow[0]":            "my.yaml:2:20",
		"resources.pids_limit":         "mid.yaml:3:3",
		"resources.memory_limit_bytes": "base.yaml:2:13",
		"resources.cpu_shares":         "mid.yaml:2:1", // the section, which is the child's
		"environment.set.B":            "mid.yaml:5:21",
		"audit.enabled":                "default",
	}
	for key, want := range places {
		if got := p.Where(key).String(); got != want {
			t.Errorf("Where(%q) = %s, want %s", key, got, want)
		}
	}
	if got := fmt.Sprint(p.Files()); got != "[my.yaml mid.yaml base.yaml]" {
		t.Errorf("Files() = %s", got)
	}
	if len(p.Warnings) != 1 || !strings.HasPrefix(p.Warnings[0].String(), "my.yaml:2:36: warning: syscalls.deny[2]: ") {
		t.Errorf("warnings %v", p.Warnings)
	}
}

// Isolating what one extends is one word: the parent's lists are void.
func TestParseIsolatesAnOpenParent(t *testing.T) {
	find := func([]string, string) (string, []byte, error) {
		return "open.yaml", []byte("network: {isolated: false, allow_outgoing: [443], allow_incoming: [80], address_range: 10.9.0.0/24}\n"), nil
	}
	p, err := parse("my", "my.yaml", []byte("extends: open\nnetwork: {isolated: true}\n"), find)
	if err != nil || !p.Network.Isolated || len(p.Network.Outgoing)+len(p.Network.Incoming) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err = parse("my", "my.yaml", []byte("extends: open\nnetwork: {isolated: false}\n"), find); err != nil || len(p.Network.Outgoing) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestParseRefusesBrokenParents(t *testing.T) {
	find := func(_ []string, name string) (string, []byte, error) {
		contents := map[string]string{
			"loop":   "extends: back\n",
			"back":   "extends: loop\n",
			"broken": "resources:\n  pids_limit: 0\n",
			"open":   "network: {isolated: false, allow_outgoing: [443]}\n",
			"empty":  "",
		}
		if n, ok := strings.CutPrefix(name, "deep"); ok {
			return name + ".yaml", []byte("extends: deep" + n + "x\n"), nil
		}
		return name + ".yaml", []byte(contents[name]), nil
	}
	for _, tt := range []struct{ yaml, want string }{
		{"extends: loop\n", "back.yaml:1:10: extends: extends itself: my.yaml → loop.yaml → back.yaml → loop.yaml"},
		{"extends: broken\nresources: {pids_limit: 5}\n", "broken.yaml:2:15: resources.pids_limit: must be a whole number"},
		{"extends: open\nnetwork: {isolated: true, allow_incoming: [80]}\n", "my.yaml:2:43: network.allow_incoming: contradicts network.isolated: true (my.yaml:2:21)"},
		{"extends: deep\n", "deepxxxxxxx.yaml:1:10: extends: more than 8 profiles extend each other"},
		{"extends: empty\n", "empty.yaml:1:1: is empty"},
	} {
		_, err := parse("my", "my.yaml", []byte(tt.yaml), find)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.yaml, err, tt.want)
		}
	}
}

// A profile that builds on the default system calls keeps what they deny.
func TestDefaultDenySurvives(t *testing.T) {
	find := func([]string, string) (string, []byte, error) {
		return "base.yaml", []byte("syscalls: {deny: [socket]}\n"), nil
	}
	for _, tt := range []struct {
		yaml string
		want bool
	}{
		{"{}", true},
		{"syscalls: {deny: [socket]}", true},
		{"syscalls: {default_deny: false}", true},
		{"syscalls: {allow: [keyctl]}", false},
		{"extends: base\nsyscalls: {allow: [keyctl]}", true},
	} {
		p, err := parse("my", "my.yaml", []byte(tt.yaml), find)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(fmt.Sprint(p.Syscalls.Deny), "@keyring"); got != tt.want {
			t.Errorf("%s: denies @keyring: %t, want %t", tt.yaml, got, tt.want)
		}
	}
}

func TestDefaultScratchGivesWay(t *testing.T) {
	p := mustParse(t, "filesystem: {output_paths: [{host_path: /a, sandbox_path: /tmp}]}\n")
	if len(p.Filesystem.Scratch) != 0 {
		t.Errorf("two mounts at /tmp: %v and %v", p.Filesystem.Scratch, p.Filesystem.Output)
	}
	checkRoundTrip(t, p)
}

func TestParseNames(t *testing.T) {
	for _, tt := range []struct{ name, file, yaml, want string }{
		{"", "dir/web.yaml", "{}", "web"},
		{"", "dir/web.yml", "name: other", "other"},
		{"web", "x.yaml", "{}", "web"},
	} {
		p, err := Parse(tt.name, tt.file, []byte(tt.yaml))
		if err != nil || p.Name != tt.want {
			t.Errorf("%+v: %v, %v", tt, p, err)
		}
	}
	_, err := Parse("", "My Profile.yaml", []byte("{}"))
	if err == nil || err.Error() != `My Profile.yaml:1:1: the profile has no name, and its file's cannot be one: add "name: my-agent"` {
		t.Error(err)
	}
}

func TestValidateNameRefuses(t *testing.T) {
	bad := []string{"", ".", "..", "../../x", "/abs", "a/b", "-x", ".x", "_x", "a\x00", "a\nb", "a b", "x@y", "x;y", "%n", "ä", "X",
		"x.yaml", "x.yml", "x\\y", strings.Repeat("a", 65), strings.Repeat("a", 300)}
	for _, name := range bad {
		if err := ValidateName(name); err == nil || !strings.Contains(err.Error(), "a name is 1 to 64 of a-z") {
			t.Errorf("ValidateName(%q) = %v", name, err)
		}
	}
	for _, name := range []string{"a", "0", "ai-dev-safe", "a.b_c-1", strings.Repeat("a", 64)} {
		if err := ValidateName(name); err != nil {
			t.Error(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, tt := range refusals {
		f.Add([]byte(tt.yaml))
	}
	profiles, err := filepath.Glob("*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(profiles, "testdata/reference.yaml", "testdata/reference.golden") {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := Parse("", "fuzz.yaml", content)
		if err != nil {
			var errs Errors
			if !errors.As(err, &errs) || len(errs) > maxErrors+1 {
				t.Fatalf("not an Errors: %v", err)
			}
			return
		}
		checkRoundTrip(t, p)
	})
}
