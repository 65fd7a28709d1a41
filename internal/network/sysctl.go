package network

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/host"
	"golang.org/x/sys/unix"
)

// sysctlDir has a file for each setting of the host that Purple changed: its
// name is the setting's path below /proc/sys/net, its content the old value.
// It lies on a tmpfs, and so is forgotten together with the settings.
const sysctlDir = RunDir + "/sysctl"

const procNet = "/proc/sys/net"

// sysctls changes settings of the host's network and undoes it.
type sysctls struct{ dir string }

const on, off = "1", "0"

func readSetting(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(procNet, name))
	return strings.TrimSpace(string(data)), err
}

func writeSetting(name, value string) error {
	return os.WriteFile(filepath.Join(procNet, name), []byte(value), 0)
}

// distrusted are what an interface lets its neighbours decide: by which way its packets
// go, and whether a packet says that itself (Documentation/networking/ip-sysctl.rst).
var distrusted = map[string][]string{
	"ipv4": {"accept_redirects", "secure_redirects", "send_redirects", "accept_source_route"},
	"ipv6": {"accept_redirects", "accept_ra", "accept_source_route"},
}

// distrust turns all of that off for an interface of Purple's, on the host or in the
// calling thread's namespace, and reads it back. Not in force is send_redirects, if the
// host has it on for all: then it tells a sandbox of shorter ways, which that ignores.
func distrust(device string, ipv6 bool) error {
	for family, names := range distrusted {
		if family == "ipv6" && !ipv6 {
			continue
		}
		for _, name := range names {
			setting := family + "/conf/" + device + "/" + name
			if err := writeSetting(setting, off); err != nil {
				return fmt.Errorf("cannot turn %q off: %w", setting, err)
			}
			if value, err := readSetting(setting); err != nil || value != off {
				return errors.Join(fmt.Errorf("%q is still %q", setting, value), err)
			}
		}
	}
	return nil
}

// set changes a setting, after it has written down what it was. A setting that
// has the value already stays as it is, and is not Purple's to undo.
func (s sysctls) set(name, value string) error {
	old, err := readSetting(name)
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", name, err)
	}
	if old == value {
		return nil
	}
	if err := s.record(name, old); err != nil {
		return err
	}
	if err := writeSetting(name, value); err != nil {
		return fmt.Errorf("cannot set %q to %s: %w", name, value, err)
	}
	return nil
}

func (s sysctls) file(name string) string { return filepath.Join(s.dir, url.PathEscape(name)) }

// record keeps the oldest value: the one before Purple.
func (s sysctls) record(name, old string) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("cannot make %q: %w", s.dir, err)
	}
	f, err := os.OpenFile(s.file(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot write down %q: %w", name, err)
	}
	_, err = f.WriteString(old)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write down %q: %w", name, errors.Join(err, os.Remove(s.file(name))))
	}
	return nil
}

// records are the settings that were changed, with their old values.
func (s sysctls) records() (map[string]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot read what was changed: %w", err)
	}
	old := map[string]string{}
	for _, e := range entries {
		name, err := url.PathUnescape(e.Name())
		if err != nil || !filepath.IsLocal(name) {
			return nil, fmt.Errorf("cannot read what was changed: %q in %q is no setting", e.Name(), s.dir)
		}
		data, err := os.ReadFile(filepath.Join(s.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("cannot read what was changed: %w", err)
		}
		old[name] = string(data)
	}
	return old, nil
}

const (
	allForwarding4 = "ipv4/conf/all/forwarding"
	allForwarding6 = "ipv6/conf/all/forwarding"
)

// forward4 turns IPv4 forwarding on for packets that come in at the devices
// (Documentation/networking/ip-sysctl.rst): each has a setting of its own.
func (s sysctls) forward4(devices []string) error {
	for _, d := range devices {
		if err := s.turnOn("ipv4/conf/"+d+"/forwarding", d); err != nil {
			return err
		}
	}
	return nil
}

// turnOn changes a setting of a device. The bridge's own go with the bridge.
func (s sysctls) turnOn(name, device string) error {
	if device == host.Bridge {
		if err := writeSetting(name, on); err != nil {
			return fmt.Errorf("cannot set %q: %w", name, err)
		}
		return nil
	}
	return s.set(name, on)
}

// forward6 does so for IPv6. Linux 6.17 and later has a setting for each device;
// before, forwarding is one switch for the host, with which it stops to listen
// to router advertisements unless told otherwise.
func (s sysctls) forward6(devices []string) error {
	already, err := readSetting(allForwarding6)
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", allForwarding6, err)
	}
	if already == on {
		return nil
	}
	if _, err := readSetting("ipv6/conf/" + host.Bridge + "/force_forwarding"); err != nil {
		return s.forwardAll6()
	}
	for _, d := range devices {
		if err := s.turnOn("ipv6/conf/"+d+"/force_forwarding", d); err != nil {
			return err
		}
	}
	return nil
}

// forwardAll6 turns the one switch on. First each device that listens to router
// advertisements is told to go on with it (accept_ra is 2): the host's own
// default route may come from them.
func (s sysctls) forwardAll6() error {
	devices, err := os.ReadDir(procNet + "/ipv6/conf")
	if err != nil {
		return fmt.Errorf("cannot list the interfaces' settings: %w", err)
	}
	for _, d := range devices {
		name := "ipv6/conf/" + d.Name() + "/accept_ra"
		listens, err := readSetting(name)
		if err == nil && listens == on && !strings.HasPrefix(d.Name(), host.Bridge) {
			if err := s.set(name, "2"); err != nil {
				return err
			}
		}
	}
	return s.set(allForwarding6, on)
}

// guarded is what forwards only since Purple wanted it to: a device, or with
// an empty name all of a family.
type guarded struct {
	ipv6   bool
	device string
}

// turnedOn lists them, but for what somebody else has meanwhile turned on for
// all devices.
func (s sysctls) turnedOn() ([]guarded, error) {
	old, err := s.records()
	if err != nil {
		return nil, err
	}
	var out []guarded
	for name := range old {
		parts := strings.Split(name, "/")
		switch {
		case name == allForwarding6:
			out = append(out, guarded{ipv6: true})
		case parts[len(parts)-1] == "force_forwarding":
			out = append(out, guarded{ipv6: true, device: parts[2]})
		case parts[0] == "ipv4" && parts[len(parts)-1] == "forwarding":
			if all, err := readSetting(allForwarding4); err == nil && all == off {
				out = append(out, guarded{device: parts[2]})
			}
		}
	}
	slices.SortFunc(out, func(x, y guarded) int { return strings.Compare(x.device, y.device) })
	return out, nil
}

// restore puts every setting back, but for IPv4 forwarding where somebody else
// has turned it on for all devices since: it is theirs by now.
func (s sysctls) restore() error {
	old, err := s.records()
	if err != nil {
		return err
	}
	all, err := readSetting(allForwarding4)
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", allForwarding4, err)
	}
	var failed error
	for _, name := range restoreOrder(old) {
		if strings.HasPrefix(name, "ipv4/") && all == on {
			failed = errors.Join(failed, os.Remove(s.file(name)))
			continue
		}
		// An interface may be gone, with its settings.
		if err := writeSetting(name, old[name]); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = errors.Join(failed, fmt.Errorf("cannot set %q back to %s: %w", name, old[name], err))
			continue
		}
		failed = errors.Join(failed, os.Remove(s.file(name)))
	}
	return failed
}

// restoreOrder: the switch for all before the devices', which it would overwrite.
func restoreOrder(old map[string]string) []string {
	var names []string
	for name := range old {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int {
		if first := strings.Contains(y, "/all/"); first != strings.Contains(x, "/all/") {
			if first {
				return 1
			}
			return -1
		}
		return strings.Compare(x, y)
	})
	return names
}
