package confine

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/spec"
)

// mountLine is one line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
type mountLine struct {
	target  string
	options []string
	shared  bool
}

// verifyMounts reads the mount table back: no mount is shared with the host's,
// none lets a setuid or device file work, and what should be read-only is.
func (s *sandbox) verifyMounts() error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	lines, err := parseMountinfo(string(data))
	if err != nil {
		return err
	}
	for _, l := range lines {
		if err := checkMount(l); err != nil {
			return fmt.Errorf("mount %q: %w", l.target, err)
		}
	}
	for _, target := range []string{"/", "/proc", "/dev"} {
		if err := requireReadOnly(lines, target); err != nil {
			return err
		}
	}
	return requireBinds(lines, s.spec.Mounts)
}

// requireBinds checks that every mount of the spec is there, and that a
// read-only one is, with all that is mounted below it: a submount of the
// host's left writable is how a read-only bind is usually broken.
func requireBinds(lines []mountLine, mounts []spec.Mount) error {
	for _, m := range mounts {
		if lastMount(lines, m.Target) < 0 {
			return fmt.Errorf("nothing is mounted at %q", m.Target)
		}
	}
	for _, dir := range pinnedDirs(mounts) {
		if lastMount(lines, dir) < 0 {
			return fmt.Errorf("%q, which the command could rename, is not mounted on itself", dir)
		}
	}
	for _, l := range lines {
		if m := holder(mounts, l.target); m != nil && m.Kind == spec.BindReadOnly && !slices.Contains(l.options, "ro") {
			return fmt.Errorf("mount %q is writable", l.target)
		}
	}
	return nil
}

// holder is the mount of the spec that target belongs to, or nil.
func holder(mounts []spec.Mount, target string) *spec.Mount {
	var best *spec.Mount
	for i, m := range mounts {
		below := target == m.Target || strings.HasPrefix(target, m.Target+"/")
		if below && (best == nil || len(m.Target) >= len(best.Target)) {
			best = &mounts[i]
		}
	}
	return best
}

func checkMount(l mountLine) error {
	if l.shared {
		return errors.New("it is shared with other namespaces")
	}
	if !slices.Contains(l.options, "nosuid") {
		return errors.New("it is not nosuid")
	}
	if !slices.Contains(l.options, "nodev") && !isDeviceMount(l.target) {
		return errors.New("it is not nodev")
	}
	return nil
}

// isDeviceMount tells whether target is one of the mounts that are devices:
// the nodes in /dev, the ptys, and the masks of /proc, which are /dev/null.
func isDeviceMount(target string) bool {
	if target == "/dev/pts" {
		return true
	}
	if name, ok := strings.CutPrefix(target, "/dev/"); ok {
		return slices.ContainsFunc(deviceNodes, func(n deviceNode) bool { return n.name == name })
	}
	name, ok := strings.CutPrefix(target, "/proc/")
	return ok && slices.Contains(maskedFiles, name)
}

// requireReadOnly looks at the mount on top of target, the last of its lines.
func requireReadOnly(lines []mountLine, target string) error {
	i := lastMount(lines, target)
	if i < 0 {
		return fmt.Errorf("nothing is mounted at %q", target)
	}
	if !slices.Contains(lines[i].options, "ro") {
		return fmt.Errorf("mount %q is writable", target)
	}
	return nil
}

func lastMount(lines []mountLine, target string) int {
	for i := len(lines) - 1; i >= 0; i-- {
		if lines[i].target == target {
			return i
		}
	}
	return -1
}

func parseMountinfo(text string) ([]mountLine, error) {
	var lines []mountLine
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 7 {
			return nil, fmt.Errorf("cannot read the mount table: %q", line)
		}
		l := mountLine{target: unescapeMount(fields[4]), options: strings.Split(fields[5], ",")}
		for _, tag := range fields[6:] {
			if tag == "-" {
				break
			}
			l.shared = l.shared || strings.HasPrefix(tag, "shared:") || strings.HasPrefix(tag, "master:")
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// unescapeMount undoes the octal escapes of space, tab, newline and backslash.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
