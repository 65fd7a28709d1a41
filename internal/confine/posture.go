package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/purple-sandbox/purple/internal/spec"
)

// posture reads /proc/PID/status of the process that will be the command, from
// init: what the kernel enforces, not what it was asked for.
type posture struct {
	spec    *spec.Spec
	status  *os.File
	filters string // how many seccomp filters there were before Purple's; empty: this kernel does not tell
}

// openPosture opens the file while init may: it can then be read at any time.
func openPosture(s *spec.Spec, pid int) (*posture, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	return &posture{spec: s, status: f}, err
}

func (p *posture) close() error { return p.status.Close() }

// verify compares all but the filter, which comes last.
func (p *posture) verify() error {
	got, err := p.compare(p.want())
	p.filters = got[seccompFilters]
	return err
}

// verifyFiltered compares all. The unit may have had filters of others from the
// start, so that there is one is not enough: there must be one more (since Linux
// 5.9; proc_pid_status(5)).
func (p *posture) verifyFiltered() error {
	const modeFilter = "2" // SECCOMP_MODE_FILTER
	want := append(p.want(), postureField{"Seccomp", modeFilter})
	if p.filters != "" {
		before, err := strconv.Atoi(p.filters)
		if err != nil {
			return fmt.Errorf("%s is %q", seccompFilters, p.filters)
		}
		want = append(want, postureField{seccompFilters, strconv.Itoa(before + 1)})
	}
	_, err := p.compare(want)
	return err
}

const seccompFilters = "Seccomp_filters"

// compare gives all fields that it has read.
func (p *posture) compare(all []postureField) (map[string]string, error) {
	text, err := readAgain(p.status)
	if err != nil {
		return nil, err
	}
	got := statusFields(text)
	if err := p.verifyGroups(strings.Fields(got["Groups"])); err != nil {
		return nil, err
	}
	for _, want := range all {
		if got[want.field] != want.value {
			return nil, fmt.Errorf("%s is %q, not %q", want.field, got[want.field], want.value)
		}
	}
	return got, nil
}

// readAgain reads a file of /proc that is open, from its beginning.
func readAgain(f *os.File) (string, error) {
	var buf [8 << 10]byte
	n, err := f.ReadAt(buf[:], 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return string(buf[:n]), err
}

type postureField struct{ field, value string }

// want is what must hold from the first instruction of the command on. The ids
// are the host's: those that init sees.
func (p *posture) want() []postureField {
	const none = "0000000000000000"
	caps := fmt.Sprintf("%016x", p.spec.Capabilities)
	id := p.spec.Identity
	return []postureField{
		{"NoNewPrivs", "1"},
		{"CapInh", caps}, {"CapPrm", caps}, {"CapEff", caps}, {"CapBnd", caps}, {"CapAmb", caps},
		{"Uid", fourTimes(id.HostUID)}, {"Gid", fourTimes(id.HostGID)},
		{"SigBlk", none}, {"SigIgn", none},
	}
}

// verifyGroups: none but, under a user manager, those that dropGroups cannot
// drop. They have no number in the sandbox, which shows them as the kernel's
// overflow gid: no file of theirs can be made there.
func (p *posture) verifyGroups(groups []string) error {
	own, overflow := strconv.FormatUint(uint64(p.spec.Identity.HostGID), 10), "65534"
	for _, g := range groups {
		if !p.spec.UserManager || g != own && g != overflow {
			return fmt.Errorf("the supplementary groups are %q", groups)
		}
	}
	return nil
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
