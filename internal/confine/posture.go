package confine

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// verifyPosture reads /proc/self/task/TID/status of the thread that will be
// the command: what the kernel enforces, not what it was asked for.
//
// Before the filter is loaded Seccomp is not looked at.
func (c *command) verifyPosture() error { return c.verify(c.posture()) }

func (c *command) verifyFiltered() error {
	// SECCOMP_MODE_FILTER
	return c.verify(append(c.posture(), postureField{"Seccomp", "2"}))
}

func (c *command) verify(posture []postureField) error {
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", c.tid))
	if err != nil {
		return err
	}
	got := statusFields(string(data))
	for _, want := range posture {
		if got[want.field] != want.value {
			return fmt.Errorf("%s is %q, not %q", want.field, got[want.field], want.value)
		}
	}
	return nil
}

type postureField struct{ field, value string }

// posture is what must hold from the first instruction of the command on.
func (c *command) posture() []postureField {
	caps := fmt.Sprintf("%016x", c.spec.Capabilities)
	id := c.spec.Identity
	return []postureField{
		{"NoNewPrivs", "1"},
		{"CapInh", caps}, {"CapPrm", caps}, {"CapEff", caps}, {"CapBnd", caps}, {"CapAmb", caps},
		{"Uid", fourTimes(id.UID)}, {"Gid", fourTimes(id.GID)},
		{"Groups", ""},
	}
}

// fourTimes is a line of real, effective, saved and file system id.
func fourTimes(id uint32) string {
	s := strconv.FormatUint(uint64(id), 10)
	return strings.Join([]string{s, s, s, s}, "\t")
}

func statusFields(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}
