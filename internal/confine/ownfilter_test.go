package confine

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const ownTestPID, initTestPID = 77, 1234

// fullSpec is of a run that has everything.
func fullSpec() *spec.Spec {
	return &spec.Spec{Uplink: &spec.Uplink{}, Published: []uint16{80}, Learning: true}
}

func fullSupervisor() *supervisor {
	return &supervisor{spec: fullSpec(), calls: &deniedCalls{}, trace: &tracer{}, uplink: &pasta{}, initPID: initTestPID}
}

// ownLists are the calls of each process, of a run that has everything and of a plain one.
func ownLists() map[string][]ownCall {
	plain := &supervisor{spec: &spec.Spec{}, initPID: initTestPID}
	return map[string][]ownCall{
		"init": initCalls(fullSpec(), ownTestPID), "plain init": initCalls(&spec.Spec{}, ownTestPID),
		"supervisor": fullSupervisor().supervisorCalls(ownTestPID), "plain supervisor": plain.supervisorCalls(ownTestPID),
	}
}

// ownMachine runs a filter in the BPF machine of x/net, which loads words big-endian.
func ownMachine(t *testing.T, calls []ownCall) func(arch, nr uint32, args ...uint64) uint32 {
	t.Helper()
	var raw []bpf.RawInstruction
	for _, i := range ownProgram(calls) {
		raw = append(raw, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	code, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the program has an instruction that the BPF machine does not know")
	}
	vm, err := bpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	return func(arch, nr uint32, args ...uint64) uint32 {
		data := binary.BigEndian.AppendUint32(nil, nr)
		data = binary.BigEndian.AppendUint32(data, arch)
		data = append(data, make([]byte, 8)...) // instruction_pointer
		for i := range 6 {
			arg := uint64(0)
			if i < len(args) {
				arg = args[i]
			}
			data = binary.BigEndian.AppendUint32(data, uint32(arg))
			data = binary.BigEndian.AppendUint32(data, uint32(arg>>32))
		}
		ret, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(ret)
	}
}

// Written out: this is what seccomp(2) says.
const (
	ownAllowed = 0x7fff0000
	ownDenied  = 0x00050001
	ownKilled  = 0x80000000
)

func TestOwnFilterIsTheList(t *testing.T) {
	for name, calls := range ownLists() {
		run := ownMachine(t, calls)
		listed := map[uint32]*ownCall{}
		for i, c := range calls {
			if listed[c.nr] != nil {
				t.Errorf("%s: call %d is listed twice", name, c.nr)
			}
			listed[c.nr] = &calls[i]
		}
		for nr := range uint32(1024) {
			want := uint32(ownDenied)
			var args [6]uint64
			if c := listed[nr]; c != nil {
				want = ownAllowed
				if c.only != nil {
					args[c.only[0].argument] = uint64(c.only[0].value) | 0xff<<32
				}
			}
			if got := run(ownArch, nr, args[:]...); got != want {
				t.Errorf("%s: call %d: %#x, want %#x", name, nr, got, want)
			}
			if got := run(ownArch, nr|1<<30, args[:]...); got != ownDenied {
				t.Errorf("%s: call %d of x32: %#x", name, nr, got)
			}
			if got := run(unix.AUDIT_ARCH_I386, nr, args[:]...); got != ownKilled {
				t.Errorf("%s: call %d of i386: %#x", name, nr, got)
			}
		}
	}
}

// What a process that has been taken over would want, and beside it what it may.
func TestOwnFilterDenies(t *testing.T) {
	type call struct {
		nr   uint32
		args []uint64
	}
	const anyFD = 9
	for name, cases := range map[string]struct{ denied, allowed []call }{
		"supervisor": {
			denied: []call{
				{unix.SYS_EXECVE, nil}, {unix.SYS_EXECVEAT, nil}, {unix.SYS_CLONE3, nil}, {unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}},
				{unix.SYS_CLONE, []uint64{threadFlags | unix.CLONE_NEWUSER}}, {unix.SYS_UNSHARE, nil}, {unix.SYS_SETNS, nil},
				{unix.SYS_OPENAT, []uint64{anyFD, 0, unix.O_WRONLY}}, {unix.SYS_OPENAT, []uint64{anyFD, 0, unix.O_RDWR}},
				{unix.SYS_OPENAT, []uint64{anyFD, 0, unix.O_CREAT}}, {unix.SYS_OPENAT, []uint64{anyFD, 0, unix.O_TRUNC}},
				{unix.SYS_OPENAT, []uint64{anyFD, 0, unix.O_TMPFILE}}, {unix.SYS_OPENAT, []uint64{anyFD, 0, unix.O_WRONLY | 1<<40}},
				{unix.SYS_UNLINKAT, nil}, {unix.SYS_RENAMEAT2, nil}, {unix.SYS_MKDIRAT, nil}, {unix.SYS_FCHMODAT, nil}, {unix.SYS_FCHOWN, nil},
				{unix.SYS_SETRESUID, nil}, {unix.SYS_PROCESS_VM_WRITEV, nil}, {unix.SYS_PIDFD_GETFD, nil}, {unix.SYS_BPF, nil}, {unix.SYS_IO_URING_SETUP, nil},
				{unix.SYS_KILL, []uint64{initTestPID + 1}}, {unix.SYS_KILL, []uint64{^uint64(0)}}, {unix.SYS_TGKILL, []uint64{ownTestPID + 1}},
				{unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ | unix.PROT_EXEC}}, {unix.SYS_MPROTECT, []uint64{0, 4096, unix.PROT_EXEC}},
				{unix.SYS_SOCKET, []uint64{unix.AF_NETLINK}}, {unix.SYS_IOCTL, []uint64{anyFD, unix.TIOCSTI}}, {unix.SYS_PRCTL, []uint64{unix.PR_SET_DUMPABLE, 1}},
				{unix.SYS_SECCOMP, []uint64{unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER}},
			},
			allowed: []call{
				{unix.SYS_OPENAT, []uint64{anyFD, 0, unix.O_RDONLY | unix.O_CLOEXEC}}, {unix.SYS_OPENAT, []uint64{anyFD, 0, unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW}},
				{unix.SYS_KILL, []uint64{initTestPID}}, {unix.SYS_CLONE, []uint64{threadFlags}}, {unix.SYS_CLONE, []uint64{threadFlags | unix.CLONE_SETTLS}},
				{unix.SYS_MMAP, []uint64{0, 4096, unix.PROT_READ | unix.PROT_WRITE}}, {unix.SYS_PTRACE, nil}, {unix.SYS_SOCKET, []uint64{unix.AF_INET6}},
			},
		},
		"plain supervisor": {
			denied: []call{
				{unix.SYS_PTRACE, nil}, {unix.SYS_PROCESS_VM_READV, nil}, {unix.SYS_OPENAT2, nil}, {unix.SYS_SOCKET, []uint64{unix.AF_INET}}, {unix.SYS_CONNECT, nil},
				{unix.SYS_ACCEPT4, nil}, {unix.SYS_PIDFD_OPEN, nil}, {unix.SYS_PIDFD_SEND_SIGNAL, nil}, {unix.SYS_SECCOMP, nil},
			},
			allowed: []call{{unix.SYS_SOCKET, []uint64{unix.AF_UNIX}}, {unix.SYS_SENDMSG, nil}},
		},
		"init": {
			denied: []call{
				{unix.SYS_EXECVE, nil}, {unix.SYS_OPENAT, nil}, {unix.SYS_OPENAT2, nil}, {unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}}, {unix.SYS_MOUNT, nil},
				{unix.SYS_PTRACE, nil}, {unix.SYS_PROCESS_VM_READV, nil}, {unix.SYS_SETNS, nil}, {unix.SYS_UNSHARE, nil}, {unix.SYS_CONNECT, nil},
				{unix.SYS_SOCKET, []uint64{unix.AF_UNIX}}, {unix.SYS_IOCTL, []uint64{anyFD, unix.TIOCSTI}}, {unix.SYS_PRCTL, []uint64{unix.PR_SET_DUMPABLE, 1}},
			},
			allowed: []call{{unix.SYS_KILL, []uint64{^uint64(0)}}, {unix.SYS_WAIT4, nil}, {unix.SYS_IOCTL, []uint64{anyFD, unix.TIOCSPGRP}}, {unix.SYS_SOCKET, []uint64{unix.AF_INET}}},
		},
		"plain init": {denied: []call{{unix.SYS_SOCKET, []uint64{unix.AF_INET}}}, allowed: []call{{unix.SYS_RECVMSG, nil}}},
	} {
		run := ownMachine(t, ownLists()[name])
		for _, c := range cases.denied {
			if got := run(ownArch, c.nr, c.args...); got != ownDenied {
				t.Errorf("%s: call %d%v is answered %#x", name, c.nr, c.args, got)
			}
		}
		for _, c := range cases.allowed {
			if got := run(ownArch, c.nr, c.args...); got != ownAllowed {
				t.Errorf("%s: call %d%v is answered %#x", name, c.nr, c.args, got)
			}
		}
	}
}

func TestChangingRights(t *testing.T) {
	for abi, want := range map[int]uint64{1: 0x1ff3, 2: 0x3ff3, 3: 0x7ff3, 4: 0x7ff3, 5: 0xfff3, 9: 0xfff3} {
		if got := changingRights(abi); got != want {
			t.Errorf("ABI %d: %#x, want %#x", abi, got, want)
		}
	}
}

// What the kernel does to a supervisor that is restricted, on its ordinary threads and
// on the one that looks into the command.
func TestRestrictedSupervisor(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	target := exec.Command("/bin/sleep", "60")
	uid, ofLooker := os.Getuid(), "ok"
	if uid == 0 { // whose files are not those of the command's user
		uid, ofLooker = 65534, "permission denied"
		target.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid)}}
	}
	if err := target.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = target.Process.Kill(); _ = target.Wait() }()
	out := inChild(t, "restricted", dir, strconv.Itoa(uid), strconv.Itoa(target.Process.Pid))
	want := `before: write ok, rewrite ok, read ok, execute ok, look ok
ordinary: write operation not permitted, rewrite permission denied, read ok, execute operation not permitted, look permission denied
looker: write operation not permitted, rewrite ` + ofLooker + `, read ok, execute operation not permitted, look ok
seccomp 2, on all
`
	if out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
}

// restrictedChild is called with a directory, a uid, and the pid of a process of it.
func restrictedChild(args []string) int {
	dir := args[0]
	uid, _ := strconv.Atoi(args[1])
	if err := os.WriteFile(filepath.Join(dir, "there"), nil, 0o644); err != nil {
		fmt.Println(err)
		return 1
	}
	try := func(who string) {
		said := func(err error) string {
			if err == nil {
				return "ok"
			}
			return err.Error()
		}
		fmt.Printf("%s: write %v, rewrite %v, read %v, execute %v, look %v\n", who,
			said(opened(unix.Open(filepath.Join(dir, who), unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600))),
			said(opened(unix.Openat2(unix.AT_FDCWD, filepath.Join(dir, "there"), &unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC}))),
			said(opened(unix.Open("/proc/self/status", unix.O_RDONLY|unix.O_CLOEXEC, 0))),
			said(executed()),
			said(opened(unix.Open("/proc/"+args[2]+"/cwd", unix.O_PATH|unix.O_CLOEXEC, 0))))
	}
	try("before")
	s := &supervisor{spec: &spec.Spec{UserManager: os.Getuid() != 0}, calls: &deniedCalls{}, trace: &tracer{}}
	s.spec.Identity.HostUID = uint32(uid)
	over := make(chan struct{})
	look := make(chan struct{})
	err := s.startLooker(func() error { return nil }, func() { <-look; try("looker"); close(over) })
	if err == nil {
		err = dropProcessCapabilities(0)
	}
	if err == nil {
		err = s.restrictSelf()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	try("ordinary")
	close(look)
	<-over
	// Threads that are made now, and what Go's runtime does besides.
	for range 8 {
		go func() { runtime.LockOSThread(); select {} }()
	}
	time.Sleep(10 * time.Millisecond)
	runtime.GC()
	fmt.Println(seccompOfThreads())
	return 0
}

func opened(fd int, err error) error {
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// executed starts a program with vfork, as package syscall does.
func executed() error {
	pid, err := syscall.ForkExec("/bin/true", []string{"true"}, nil)
	if err == nil {
		_, err = unix.Wait4(pid, nil, 0, nil)
	}
	return err
}

func seccompOfThreads() string {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) < 9 {
		return fmt.Sprint(len(tasks), " threads ", err)
	}
	for _, task := range tasks {
		text, _ := readKernelFile("/proc/self/task/" + task.Name() + "/status")
		if got := statusFields(text); got["Seccomp"] != "2" || got["NoNewPrivs"] != "1" {
			return "thread " + task.Name() + " has seccomp " + got["Seccomp"]
		}
	}
	return "seccomp 2, on all"
}

// A starter starts its program again and again, and ends with whoever holds it.
func TestStarter(t *testing.T) {
	s, err := newStarter([]string{"/bin/sh", "-c", "echo said; ls /proc/self/fd | tr '\\n' ' '; exit 3"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		pid, err := s.start()
		if err != nil {
			t.Fatal(err)
		}
		var ws unix.WaitStatus
		if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil || ws.ExitStatus() != 3 {
			t.Fatalf("wait status %#x: %v", uint32(ws), err)
		}
		if got := s.text(); got != "said\n0 1 2 3" { // 3 is the directory itself
			t.Errorf("it has said %q", got)
		}
	}
	s.end()
	if err := unix.Kill(s.pid, 0); err != unix.ESRCH {
		t.Errorf("the starter is there still: %v", err)
	}
	if s, err = newStarter([]string{"/nowhere/pasta"}); err != nil {
		t.Fatal(err)
	}
	defer s.end()
	pid, err := s.start()
	if err != nil {
		t.Fatal(err)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil || ws.ExitStatus() != notExecuted {
		t.Errorf("wait status %#x: %v", uint32(ws), err)
	}
	if strings.Contains(s.text(), "fatal") {
		t.Error("it has crashed")
	}
}
