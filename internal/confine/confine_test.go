package confine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// TestMain lets a test run code that cannot be undone in a process of its own.
func TestMain(m *testing.M) {
	if name := os.Getenv("CONFINE_TEST_CHILD"); name != "" {
		os.Exit(children[name](os.Args[1:]))
	}
	os.Exit(m.Run())
}

var children = map[string]func([]string) int{
	"forked": forkedChild, "sharing": sharingChild, "write-only": writeOnlyChild, "signals": signalsChild,
	"restricted": restrictedChild, "failed-step": failedStepChild, "denials": denialsChild, "flood": floodChild, "burst": burstChild, "unprivileged": unprivilegedChild,
}

func inChild(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "CONFINE_TEST_CHILD="+name)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child %s: %v\n%s", name, err, out)
	}
	return string(out)
}

func TestRequireForeignRefuses(t *testing.T) {
	own, err := namespaceInode(self, "net")
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name    string
		manager map[string]uint64
		want    string
	}{
		{"the same namespace", map[string]uint64{"net": own}, "the net namespace is the host's"},
		{"unknown", map[string]uint64{}, "the manager's is not known"},
		{"zero", map[string]uint64{"net": 0}, "the manager's is not known"},
	}
	for _, c := range cases {
		err := requireForeign(self, c.manager, "net")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if err := requireForeign(self, map[string]uint64{"net": own + 1}, "net"); err != nil {
		t.Errorf("another namespace: %v", err)
	}
}

const mountinfo = `312 239 0:59 / / ro,nosuid,nodev,noexec,relatime - tmpfs none rw
307 312 0:41 /usr /usr ro,nosuid,nodev,relatime - ext4 /dev/vda rw
308 312 0:41 /x /a\040b ro,nosuid,nodev - ext4 /dev/vda rw
314 313 0:6 /null /dev/null rw,nosuid,noexec - devtmpfs devtmpfs rw
`

func TestParseMountinfo(t *testing.T) {
	lines, err := parseMountinfo(mountinfo)
	if err != nil || len(lines) != 4 {
		t.Fatalf("%v, %v", lines, err)
	}
	if lines[2].target != "/a b" {
		t.Errorf("target %q", lines[2].target)
	}
	for _, l := range lines {
		if err := checkMount(l); err != nil {
			t.Errorf("%s: %v", l.target, err)
		}
	}
	if err := requireReadOnly(lines, "/usr"); err != nil {
		t.Error(err)
	}
}

func TestMountsAreRefused(t *testing.T) {
	cases := []struct{ name, line, want string }{
		{"shared", "1 2 0:1 / /x ro,nosuid,nodev shared:5 - ext4 d rw", "shared"},
		{"slave", "1 2 0:1 / /x ro,nosuid,nodev master:5 - ext4 d rw", "shared"},
		{"suid", "1 2 0:1 / /x ro,nodev - ext4 d rw", "not nosuid"},
		{"dev", "1 2 0:1 / /x ro,nosuid - ext4 d rw", "not nodev"},
		{"a device that is none of ours", "1 2 0:1 / /dev/kvm rw,nosuid - ext4 d rw", "not nodev"},
	}
	for _, c := range cases {
		lines, err := parseMountinfo(c.line + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if err := checkMount(lines[0]); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	lines, err := parseMountinfo(mountinfo + "400 307 0:9 / /usr rw,nosuid,nodev - tmpfs none rw\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := requireReadOnly(lines, "/usr"); err == nil {
		t.Error("a writable mount on top of /usr was not seen")
	}
	if err := requireReadOnly(lines, "/lib"); err == nil {
		t.Error("a missing mount was not seen")
	}
}

func TestSubmountLeftWritable(t *testing.T) {
	lines, err := parseMountinfo(mountinfo + "400 307 0:9 / /usr/share rw,nosuid,nodev - tmpfs none rw\n401 307 0:9 / /usr/work rw,nosuid,nodev - tmpfs none rw\n")
	if err != nil {
		t.Fatal(err)
	}
	mounts := []spec.Mount{{Kind: spec.BindReadOnly, Target: "/usr"}, {Kind: spec.BindReadWrite, Target: "/usr/work"}}
	if err := requireBinds(lines, mounts); err == nil || !strings.Contains(err.Error(), `"/usr/share" is writable`) {
		t.Errorf("a writable submount was not seen: %v", err)
	}
	mounts = append(mounts, spec.Mount{Kind: spec.Tmpfs, Target: "/usr/share"})
	if err := requireBinds(lines, mounts); err != nil {
		t.Error(err)
	}
	mounts = append(mounts, spec.Mount{Kind: spec.Tmpfs, Target: "/missing"})
	if err := requireBinds(lines, mounts); err == nil {
		t.Error("a missing mount was not seen")
	}
}

func TestCheckLimit(t *testing.T) {
	cases := []struct {
		name, content string
		check         spec.CgroupCheck
		ok            bool
	}{
		{"equal", "64\n", spec.CgroupCheck{Want: []string{"64"}}, true},
		{"not applied", "max\n", spec.CgroupCheck{Want: []string{"64"}}, false},
		{"both words", "50000 100000\n", spec.CgroupCheck{Want: []string{"50000", "100000"}}, true},
		{"device", "8:0 rbps=1 wbps=max\n254:0 rbps=5 wbps=5\n", spec.CgroupCheck{Device: "254:0", Want: []string{"rbps=5", "wbps=5"}}, true},
		{"another device", "8:0 rbps=5 wbps=5\n", spec.CgroupCheck{Device: "254:0", Want: []string{"rbps=5"}}, false},
		{"read limit lost", "254:0 rbps=max wbps=5\n", spec.CgroupCheck{Device: "254:0", Want: []string{"rbps=5", "wbps=5"}}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "limit"), []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			rel, err := filepath.Rel(cgroupRoot, dir)
			if err != nil {
				t.Fatal(err)
			}
			c.check.File = "limit"
			err = checkLimit(c.check, map[string]string{"": rel})
			if (err == nil) != c.ok {
				t.Errorf("%q: %v", c.content, err)
			}
		})
	}
}

func TestParseCgroups(t *testing.T) {
	groups := parseCgroups("4:memory:/a.slice/b\n3:cpu,cpuacct:/c:d\n1:name=systemd:/e\n0::/f\n")
	want := map[string]string{"memory": "/a.slice/b", "cpu": "/c:d", "cpuacct": "/c:d", "name=systemd": "/e", "": "/f"}
	for k, v := range want {
		if groups[k] != v {
			t.Errorf("%q: %q, want %q", k, groups[k], v)
		}
	}
	if dir, err := groupDir("memory", groups); err != nil || dir != "/sys/fs/cgroup/memory/a.slice/b" {
		t.Errorf("v1: %q, %v", dir, err)
	}
	if dir, err := groupDir("io", groups); err != nil || dir != "/sys/fs/cgroup/f" {
		t.Errorf("v2: %q, %v", dir, err)
	}
	if _, err := groupDir("io", map[string]string{}); err == nil {
		t.Error("no control group at all was accepted")
	}
}

func TestOpenSourceRefusesLinks(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	link := filepath.Join(dir, "link")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, strict := range []bool{true, false} {
		if fd, err := openSource(filepath.Join(link, "."), strict); err == nil {
			unix.Close(fd)
			t.Errorf("a link that others could have made was followed (strict %v)", strict)
		}
		fd, err := openSource(real, strict)
		if err != nil {
			t.Errorf("the directory itself: %v", err)
			continue
		}
		unix.Close(fd)
	}
	if fd, err := openSource("/proc/self/cwd", false); err == nil {
		unix.Close(fd)
		t.Error("a magic link was followed")
	}
}

// A link of root's in a directory of root's, such as /lib, is followed.
func TestTrustedLink(t *testing.T) {
	// Every Linux has this one: it leads on through /proc/self.
	if _, err := followTrustedLinks("/proc/mounts"); err != nil {
		t.Error(err)
	}
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink("loop", loop); err != nil {
		t.Fatal(err)
	}
	if _, err := followTrustedLinks(loop); err == nil {
		t.Error("a loop was accepted")
	}
}

func TestUsableByOthers(t *testing.T) {
	cases := []struct {
		mode uint32
		kind spec.MountKind
		want bool
	}{
		{unix.S_IFDIR | 0o755, spec.BindReadOnly, true},
		{unix.S_IFDIR | 0o750, spec.BindReadOnly, false},
		{unix.S_IFDIR | 0o754, spec.BindReadOnly, false},
		{unix.S_IFDIR | 0o755, spec.BindReadWrite, false},
		{unix.S_IFDIR | 0o1777, spec.BindReadWrite, true},
		{unix.S_IFREG | 0o644, spec.BindReadOnly, true},
		{unix.S_IFREG | 0o640, spec.BindReadOnly, false},
	}
	for _, c := range cases {
		if got := usableByOthers(&unix.Stat_t{Mode: c.mode}, c.kind); got != c.want {
			t.Errorf("%o %s: %v", c.mode, c.kind, got)
		}
	}
}

func TestStatusFields(t *testing.T) {
	f := statusFields("Name:\tx\nUid:\t1\t1\t1\t1\nGroups:\t \nSeccomp:\t2\n")
	if f["Uid"] != fourTimes(1) || f["Groups"] != "" || f["Seccomp"] != "2" {
		t.Errorf("%q", f)
	}
}

// purple-init runs with root's privileges on the command's side of the fence:
// what it imports is what must be audited.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "../../cmd/purple-init").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"github.com/purple-sandbox/purple/cmd/purple-init",
		"github.com/purple-sandbox/purple/internal/confine",
		"github.com/purple-sandbox/purple/internal/fsids",
		"github.com/purple-sandbox/purple/internal/spec",
		"github.com/purple-sandbox/purple/internal/stdio",
		"github.com/purple-sandbox/purple/internal/userns",
		"github.com/purple-sandbox/purple/journal",
		"github.com/purple-sandbox/purple/policies/syscalls",
		"golang.org/x/sys/unix",
	}
	got := strings.Fields(string(out))
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("purple-init imports %q, want %q", got, want)
	}
	std, err := exec.Command("go", "list", "-deps", "../../cmd/purple-init").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, banned := range []string{"net", "os/exec", "os/user", "runtime/cgo", "plugin"} {
		if slices.Contains(strings.Fields(string(std)), banned) {
			t.Errorf("purple-init imports %s", banned)
		}
	}
}

func TestRestrictPaths(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"out", "other"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "secret"), []byte("secret"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := strings.Fields(inChild(t, "write-only", dir))
	want := []string{"other-read:ok", "out-read:denied", "out-list:denied", "out-create:ok", "out-append:ok", "move-out:denied"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "out", "new")); err != nil {
		t.Error(err)
	}
}

// writeOnlyChild confines itself and tells what it can still do.
func writeOnlyChild(args []string) int {
	runtime.LockOSThread() // Landlock is per thread
	dir := args[0]
	out := filepath.Join(dir, "out")
	p, err := newPage()
	if err != nil {
		return 1
	}
	c := &command{page: p, ruleset: -1, names: names{writeOnly: []string{out}}}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 1
	}
	if err := c.makeRuleset(c.names.writeOnly); err != nil {
		println(err.Error())
		return 1
	}
	if errno := c.restrictPaths(); errno != 0 {
		println(c.explainPaths(int(p.detail.Load()), errno).Error())
		return 1
	}
	tell := func(name string, err error) {
		verdict := ":ok"
		if err != nil {
			verdict = ":denied"
		}
		os.Stdout.WriteString(name + verdict + "\n")
	}
	_, err = os.ReadFile(filepath.Join(dir, "other", "secret"))
	tell("other-read", err)
	_, err = os.ReadFile(filepath.Join(out, "secret"))
	tell("out-read", err)
	_, err = os.ReadDir(out)
	tell("out-list", err)
	tell("out-create", os.WriteFile(filepath.Join(out, "new"), []byte("x"), 0o644))
	f, err := os.OpenFile(filepath.Join(out, "secret"), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString("more")
	}
	tell("out-append", err)
	// Out of the write-only path it would be readable.
	tell("move-out", os.Rename(filepath.Join(out, "secret"), filepath.Join(dir, "other", "moved")))
	return 0
}

// A thread that has forked is none to trace on: it would wait for that child too.
func TestRequireNoChild(t *testing.T) {
	if got := inChild(t, "forked"); got != "none: <nil>\none: refused\nanother thread's: <nil>\n" {
		t.Error(got)
	}
}

// idle waits to be killed, or for the end of the thread that has forked it.
type idle struct{}

//go:nosplit
func (*idle) run() {
	prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	for {
		syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// A step of the command's process that fails is waited for without using a processor:
// init has other things to do before it looks.
func TestFailedStepSleeps(t *testing.T) {
	out := inChild(t, "failed-step")
	if out != "S\ncannot enter the working directory: \"/nowhere\": no such file or directory\nkilled\n" {
		t.Error(out)
	}
}

// failing is a command's process of which one step fails, at once.
type failing struct{ *command }

//go:nosplit
func (f failing) run() {
	for i := range commandSteps {
		if commandSteps[i].name != "enter the working directory" {
			continue
		}
		if errno := commandSteps[i].run(f.command); errno != 0 {
			f.fail(i, errno)
		}
	}
	f.page.advance(ready)
}

func failedStepChild([]string) int {
	runtime.LockOSThread()
	p, err := newPage()
	if err != nil {
		return 1
	}
	dir, _ := unix.BytePtrFromString("/nowhere")
	s := &sandbox{command: &command{page: p, dir: dir, names: names{dir: "/nowhere"}}}
	if s.cmd, err = fork(0, failing{s.command}); err != nil {
		fmt.Println(err)
		return 1
	}
	time.Sleep(50 * time.Millisecond)
	stat, _ := readKernelFile(fmt.Sprintf("/proc/%d/stat", s.cmd))
	fmt.Println(strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])[0])
	fmt.Println(s.awaitState(ready))
	var ws unix.WaitStatus
	if _, err := unix.Wait4(s.cmd, &ws, 0, nil); err != nil {
		return 1
	}
	fmt.Println(ws.Signal())
	return 0
}

func forkedChild([]string) int {
	runtime.LockOSThread()
	fmt.Println("none:", requireNoChild())
	if _, err := fork(0, &idle{}); err != nil {
		return 1
	}
	if requireNoChild() != nil {
		fmt.Println("one: refused")
	}
	other := make(chan error)
	go func() {
		runtime.LockOSThread()
		other <- requireNoChild()
	}()
	fmt.Println("another thread's:", <-other)
	return 0
}

// A fork that shares its memory has a stack of its own: its parent goes on using
// the one that it was called on. A learning run's has memory of its own.
func TestForkThatSharesMemory(t *testing.T) {
	flags := map[string]uintptr{"0 of 100": 0}
	if canShare {
		flags["100 of 100"] = unix.CLONE_VM
	}
	for want, flags := range flags {
		if got := inChild(t, "sharing", strconv.FormatUint(uint64(flags), 10)); got != want {
			t.Errorf("flags %#x: %s", flags, got)
		}
	}
	if c := (&command{traced: true}); c.sharing() != 0 {
		t.Error("a process that may be traced shares the memory of init")
	}
}

// marker is a fork that leaves a mark in its memory, then dies.
type marker struct{ marks atomic.Uint32 }

//go:nosplit
func (m *marker) run() {
	m.marks.Add(1)
	for {
		syscall.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
}

func sharingChild(args []string) int {
	runtime.LockOSThread()
	flags, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return 1
	}
	m := &marker{}
	for range 100 {
		pid, err := fork(uintptr(flags), m)
		if err != nil {
			return 1
		}
		runtime.GC() // meanwhile
		var ws unix.WaitStatus
		if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil || ws != 0 {
			fmt.Println(err, ws)
			return 1
		}
	}
	fmt.Printf("%d of 100", m.marks.Load())
	return 0
}

// Signal 32 is one of glibc's own: a careless parent ignores it, and nothing
// that uses glibc can take that back.
func TestResetSignals(t *testing.T) {
	if got := inChild(t, "signals"); got != "SigBlk 0000000000000000 SigIgn 0000000000000000\n" {
		t.Error(got)
	}
}

func signalsChild([]string) int {
	runtime.LockOSThread()
	for _, n := range []uintptr{32, uintptr(unix.SIGUSR1), uintptr(unix.SIGPIPE)} {
		if errno := sigaction(n, &kernelSigaction{handler: ignored}, nil); errno != 0 {
			return 1
		}
	}
	p, err := newPage()
	if err != nil {
		return 1
	}
	if (&command{page: p}).resetSignals() != 0 {
		return 1
	}
	data, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 1
	}
	f := statusFields(string(data))
	os.Stdout.WriteString("SigBlk " + f["SigBlk"] + " SigIgn " + f["SigIgn"] + "\n")
	return 0
}

// A directory that becomes a link after it was looked at is not followed, on
// whatever link of root's the way begins.
func TestOpenSourceWhileADirectoryBecomesALink(t *testing.T) {
	dir := t.TempDir()
	secret, base, link := filepath.Join(dir, "secret"), filepath.Join(dir, "base"), filepath.Join(dir, "link")
	for _, name := range []string{secret, base, filepath.Join(base, "x")} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Others may change base, so no link in it is root's alone.
	if err := errors.Join(os.Chmod(base, 0o777), os.Symlink(base, link), os.Symlink(secret, filepath.Join(base, "y"))); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, base+"/x", unix.AT_FDCWD, base+"/y", unix.RENAME_EXCHANGE)
			}
		}
	}()
	var want unix.Stat_t
	if err := unix.Stat(secret, &want); err != nil {
		t.Fatal(err)
	}
	opened := 0
	for range 20000 {
		fd, err := openSource(link+"/x", false)
		if err != nil {
			continue
		}
		opened++
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err != nil || st.Ino == want.Ino {
			t.Errorf("the link was followed (%v)", err)
			break
		}
	}
	close(stop)
	<-done
	if opened == 0 && os.Getuid() == 0 { // only root's links are followed
		t.Error("the directory was never opened")
	}
}

func TestPinnedDirs(t *testing.T) {
	ro, rw, tmpfs := spec.BindReadOnly, spec.BindReadWrite, spec.Tmpfs
	for want, mounts := range map[string][]spec.Mount{
		"":                              {{Kind: ro, Target: "/usr"}, {Kind: rw, Target: "/work"}, {Kind: ro, Target: "/work/hooks"}},
		"/work/.git":                    {{Kind: rw, Target: "/work"}, {Kind: ro, Target: "/work/.git/config"}, {Kind: ro, Target: "/work/.git/hooks"}},
		"/work/a /work/a/b /work/a/b/c": {{Kind: rw, Target: "/work"}, {Kind: ro, Target: "/work/a/b/c/d"}},
		"/work/a /work/a/b/c":           {{Kind: rw, Target: "/work"}, {Kind: rw, Target: "/work/a/b"}, {Kind: ro, Target: "/work/a/b/c/d"}},
		"/tmp/a":                        {{Kind: tmpfs, Target: "/tmp"}, {Kind: tmpfs, Target: "/tmp/a/b"}},
		"/ro/rw/a":                      {{Kind: ro, Target: "/ro"}, {Kind: rw, Target: "/ro/rw"}, {Kind: ro, Target: "/ro/rw/a/b"}, {Kind: ro, Target: "/ro/x/y"}},
	} {
		if got := strings.Join(pinnedDirs(mounts), " "); got != want {
			t.Errorf("%v: %q, want %q", mounts, got, want)
		}
	}
	lines, err := parseMountinfo("1 0 0:1 / / ro - tmpfs t rw\n2 1 0:1 / /work rw,nosuid - ext4 t rw\n3 2 0:1 / /work/.git/hooks ro,nosuid - ext4 t rw\n")
	if err != nil {
		t.Fatal(err)
	}
	mounts := []spec.Mount{{Kind: rw, Target: "/work"}, {Kind: ro, Target: "/work/.git/hooks"}}
	if err := requireBinds(lines, mounts); err == nil || !strings.Contains(err.Error(), `"/work/.git"`) {
		t.Errorf("%v", err)
	}
}
