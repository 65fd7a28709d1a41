package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree makes files with their content below a new directory; a content that
// starts with "-> " makes a link.
func tree(t *testing.T, entries map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range entries {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, file)
		} else {
			err = os.WriteFile(file, []byte(content), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestWholeDisk(t *testing.T) {
	root := tree(t, map[string]string{
		"devices/sda/dev": "8:0\n", "devices/sda/sda1/dev": "8:1\n", "devices/sda/sda1/partition": "1\n",
		"devices/dm-0/dev": "253:0\n", "devices/dm-0/slaves/sda1": "-> ../../sda/sda1",
		"devices/dm-1/dev": "253:1\n", "devices/dm-1/slaves/dm-0": "-> ../../dm-0",
		"devices/md0/dev": "9:0\n", "devices/md0/slaves/sda1": "-> ../../sda/sda1", "devices/md0/slaves/sdb1": "-> ../../sda/sda1",
		"dev/block/8:0": "-> ../../devices/sda", "dev/block/8:1": "-> ../../devices/sda/sda1",
		"dev/block/253:0": "-> ../../devices/dm-0", "dev/block/253:1": "-> ../../devices/dm-1", "dev/block/9:0": "-> ../../devices/md0",
	})
	for number, want := range map[string]string{
		"8:0":   "8:0",
		"8:1":   "8:0", // a partition
		"253:0": "8:0", // LUKS on a partition
		"253:1": "8:0", // LVM on LUKS
		"9:0":   "9:0", // a RAID of two is a disk of its own
		"7:7":   "",    // no such device
	} {
		if got := wholeDisk(root, number); got != want {
			t.Errorf("%s: %q, want %q", number, got, want)
		}
	}
}

func TestProbe(t *testing.T) {
	facts, err := Probe(SystemManager)
	if err != nil {
		t.Fatal(err)
	}
	if facts.Cgroup != Unified && facts.Cgroup != Hybrid {
		t.Errorf("cgroup layout %q", facts.Cgroup)
	}
	for _, home := range []string{"/root", "/home"} {
		if !slices.Contains(facts.Homes, home) {
			t.Errorf("homes %q", facts.Homes)
		}
	}
	// Who may not look at PID 1 learns nothing, and a run is refused for it.
	if n := len(facts.ManagerNamespaces); n != 0 && n != len(namespaces) {
		t.Errorf("namespaces %v", facts.ManagerNamespaces)
	}
}

func TestParseMounts(t *testing.T) {
	const mountinfo = `22 1 254:1 / / rw - ext4 /dev/vda1 rw
30 22 0:25 / /data rw,relatime shared:3 - tmpfs tmpfs rw
31 30 8:1 / /data rw shared:4 master:1 - xfs /dev/sda1 rw
32 22 0:40 / /home/ann/my\040mount rw - fuse.sshfs host: rw
33 22 0:41 @ /database rw - btrfs /dev/sdb rw
short line
`
	got := parseMounts(mountinfo)
	want := []mount{
		{"/", "ext4", "254:1"}, {"/data", "xfs", "8:1"}, {"/database", "btrfs", "0:41"},
		{"/home/ann/my mount", "fuse.sshfs", "0:40"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestSubmounts(t *testing.T) {
	root := tree(t, map[string]string{"data/deep/file": "", "database/file": "", "link": "-> data"})
	mounts := []mount{{point: root + "/data"}, {point: root + "/data/deep"}, {point: root + "/database"}}
	for _, dir := range []string{"/data", "/link"} {
		got, err := submounts(root+dir, mounts)
		if err != nil || len(got) != 1 || got[0].point != root+"/data/deep" {
			t.Errorf("%s: %v, %v", dir, got, err)
		}
	}
}

func TestProbePaths(t *testing.T) {
	facts, err := ProbePaths([]string{"/", "/proc", "/no/such/path", "/etc/passwd"})
	if err != nil {
		t.Fatal(err)
	}
	if !facts["/"].IsDir || facts["/no/such/path"].Exists || facts["/etc/passwd"].IsDir {
		t.Errorf("%+v", facts)
	}
}

// The kernel's own list: what is mounted below / has facts, and a path that is
// no directory has nothing below it.
func TestProbeSubmounts(t *testing.T) {
	facts, err := ProbePaths([]string{"/", "/etc/passwd"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(facts["/"].Submounts, "/proc") || facts["/proc"].FSType != "proc" || facts["/proc"].Device != "" {
		t.Errorf("%v, %+v", facts["/"].Submounts, facts["/proc"])
	}
	if n := len(facts["/etc/passwd"].Submounts); n != 0 {
		t.Errorf("a file has %d submounts", n)
	}
}

func TestPersonsHome(t *testing.T) {
	for line, want := range map[string]string{
		"ann:x:1000:1000:Ann,,,:/home/ann/:/bin/bash": "/home/ann",
		"daemon:x:1:1:daemon:/usr/sbin:/bin/sh":       "",
		"nobody:x:65534:65534::/nonexistent:/bin/sh":  "",
		"bad:x:1000:1000::relative:/bin/sh":           "",
		"none:x:1000:1000:::/bin/sh":                  "",
		"+::::::":                                     "",
		"short:x:1000":                                "",
	} {
		if home, ok := personsHome(line); ok != (want != "") || ok && home != want {
			t.Errorf("%s: %q, %v", line, home, ok)
		}
	}
}

func TestWithResolved(t *testing.T) {
	root := tree(t, map[string]string{"var/home/ann/file": "", "home": "-> var/home"})
	got := withResolved([]string{root + "/home/ann", root + "/nowhere"})
	if want := []string{root + "/home/ann", root + "/nowhere", root + "/var/home/ann"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
