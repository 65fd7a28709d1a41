// Command probe is what the integration suite runs inside a sandbox and, as
// the positive control, outside: it tries things and tells, one JSON object a
// call, how each went. It judges nothing.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: probe posture|syscalls|namespaces|descriptors|streams|mounts|open|connect|identity|hog|spawn|denied|paced|filters|tries|dial|early|flood|pump|ask|serve|capture|exec ...")
		os.Exit(2)
	}
	commands := map[string]func([]string) any{
		"posture":     posture,
		"syscalls":    syscalls,
		"namespaces":  namespaces,
		"descriptors": descriptors,
		"streams":     streams,
		"mounts":      mounts,
		"open":        open,
		"connect":     connect,
		"identity":    identity,
		"hog":         hog,
		"spawn":       spawn,
		"denied":      denied,
		"paced":       paced,
		"filters":     filters,
		"tries":       tries,
		"dial":        dial,
		"early":       early,
		"flood":       flood,
		"pump":        pump,
		"ask":         ask,
		"serve":       serve,
		"capture":     capture,
	}
	if os.Args[1] == "exec" { // the same once more, behind another execve
		err := unix.Exec("/proc/self/exe", append([]string{"probe"}, os.Args[2:]...), os.Environ())
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
	run, ok := commands[os.Args[1]]
	if !ok {
		fmt.Fprintf(os.Stderr, "probe: no command %q\n", os.Args[1])
		os.Exit(2)
	}
	emit(run(os.Args[2:]))
}

func emit(v any) {
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

// posture is /proc/self/task/*/status of every thread, after starting some.
func posture([]string) any {
	var wait sync.WaitGroup
	block := make(chan struct{})
	for range 4 {
		wait.Add(1)
		go func() {
			runtime.LockOSThread()
			wait.Done()
			<-block
		}()
	}
	wait.Wait()
	files, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return err
	}
	var threads []map[string]string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that has just ended
		}
		status := map[string]string{}
		for line := range strings.Lines(string(data)) {
			name, value, _ := strings.Cut(line, ":")
			status[name] = strings.TrimSpace(value)
		}
		threads = append(threads, status)
	}
	return threads
}

// badPointer is no address: a call that reaches the kernel with it fails with
// EFAULT, and does nothing.
const badPointer = 1

const badFD = ^uintptr(0)

// attempt is a system call that can do no harm: with arguments that the kernel
// refuses, so that the error tells who answered.
type attempt struct {
	name string
	nr   uintptr
	args [6]uintptr
}

var attempts = []attempt{
	{"ptrace", unix.SYS_PTRACE, [6]uintptr{unix.PTRACE_PEEKDATA, 0x7fffffff, badPointer, badPointer}},
	{"process_vm_readv", unix.SYS_PROCESS_VM_READV, [6]uintptr{0x7fffffff, badPointer, 1, badPointer, 1}},
	{"process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, [6]uintptr{0x7fffffff, badPointer, 1, badPointer, 1}},
	{"kcmp", unix.SYS_KCMP, [6]uintptr{0x7fffffff, 0x7fffffff}},
	{"pidfd_getfd", unix.SYS_PIDFD_GETFD, [6]uintptr{badFD, 0, 0}},
	{"process_madvise", unix.SYS_PROCESS_MADVISE, [6]uintptr{badFD, badPointer, 1}},
	{"bpf", unix.SYS_BPF, [6]uintptr{0, badPointer, 8}},
	{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{badPointer, 0, 0, badFD}},
	{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{0xffff}},
	{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{1, badPointer}},
	{"io_uring_enter", unix.SYS_IO_URING_ENTER, [6]uintptr{badFD}},
	{"io_uring_register", unix.SYS_IO_URING_REGISTER, [6]uintptr{badFD}},
	{"add_key", unix.SYS_ADD_KEY, [6]uintptr{badPointer, badPointer}},
	{"keyctl", unix.SYS_KEYCTL, [6]uintptr{0xffff}},
	{"request_key", unix.SYS_REQUEST_KEY, [6]uintptr{badPointer, badPointer}},
	{"mount", unix.SYS_MOUNT, [6]uintptr{badPointer, badPointer, badPointer}},
	{"umount2", unix.SYS_UMOUNT2, [6]uintptr{badPointer, 0}},
	{"chroot", unix.SYS_CHROOT, [6]uintptr{badPointer}},
	{"open_tree", unix.SYS_OPEN_TREE, [6]uintptr{badFD, badPointer}},
	{"mount_setattr", unix.SYS_MOUNT_SETATTR, [6]uintptr{badFD, badPointer, 0, badPointer, 32}},
	{"unshare newuser", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_FS<<40}},
	{"setns", unix.SYS_SETNS, [6]uintptr{badFD, 0}},
	{"clone3", unix.SYS_CLONE3, [6]uintptr{badPointer, 88}},
	{"init_module", unix.SYS_INIT_MODULE, [6]uintptr{badPointer, 0, badPointer}},
	{"kexec_load", unix.SYS_KEXEC_LOAD, [6]uintptr{0, 0xffff, badPointer}},
	{"reboot", unix.SYS_REBOOT, [6]uintptr{0, 0, 0, 0}},
	{"swapon", unix.SYS_SWAPON, [6]uintptr{badPointer}},
	{"quotactl", unix.SYS_QUOTACTL, [6]uintptr{0, badPointer}},
	{"personality", unix.SYS_PERSONALITY, [6]uintptr{0x0400000}},
	{"settimeofday", unix.SYS_SETTIMEOFDAY, [6]uintptr{badPointer, 0}},
	{"clock_settime", unix.SYS_CLOCK_SETTIME, [6]uintptr{0xff, badPointer}},
	{"name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, [6]uintptr{badFD, badPointer, badPointer, badPointer}},
	{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{badFD, badPointer}},
	{"ioctl TIOCSTI", unix.SYS_IOCTL, [6]uintptr{badFD, unix.TIOCSTI, badPointer}},
	{"ioctl TIOCSTI, high bits", unix.SYS_IOCTL, [6]uintptr{badFD, unix.TIOCSTI | 1<<40, badPointer}},
	{"ioctl TIOCLINUX", unix.SYS_IOCTL, [6]uintptr{badFD, 0x541c, badPointer}},
	{"socket vsock", unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK, 0xf}},
	{"socket alg", unix.SYS_SOCKET, [6]uintptr{unix.AF_ALG, 0xf}},
	{"socket mptcp", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_MPTCP}},
	// Controls: calls that every profile of the suite allows.
	{"ok: read", unix.SYS_READ, [6]uintptr{badFD, badPointer, 1}},
	{"ok: ioctl TCGETS", unix.SYS_IOCTL, [6]uintptr{badFD, unix.TCGETS, badPointer}},
	{"ok: socket unix", unix.SYS_SOCKET, [6]uintptr{unix.AF_UNIX, 0xf}},
}

// syscalls makes every attempt on a thread of its own and gives the errors.
func syscalls([]string) any {
	results := map[string]string{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		for _, a := range attempts {
			_, _, errno := unix.RawSyscall6(a.nr, a.args[0], a.args[1], a.args[2], a.args[3], a.args[4], a.args[5])
			results[a.name] = "ok"
			if errno != 0 {
				results[a.name] = unix.ErrnoName(errno)
			}
		}
	}()
	<-done
	return results
}

func namespaces([]string) any {
	links := map[string]string{}
	for _, name := range []string{"mnt", "uts", "ipc", "net", "pid", "user", "cgroup", "pid_for_children"} {
		link, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			link = err.Error()
		}
		links[name] = link
	}
	return links
}

// descriptors are the open ones, but for the one that lists them and Go's own.
func descriptors([]string) any {
	fds := map[string]string{}
	for fd := range 1024 {
		link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if err == nil && !strings.HasPrefix(link, "anon_inode:") {
			fds[strconv.Itoa(fd)] = link
		}
	}
	return fds
}

// mounts are target and options of /proc/self/mountinfo.
func mounts([]string) any {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err.Error()
	}
	table := map[string]string{}
	for line := range strings.Lines(string(data)) {
		head, _, _ := strings.Cut(line, " - ")
		fields := strings.Fields(head)
		table[fields[4]] = strings.Join(fields[5:], " ")
	}
	return table
}

// open tries each path for writing, and never writes.
func open(paths []string) any {
	results := map[string]string{}
	for _, p := range paths {
		fd, err := unix.Open(p, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		results[p] = "ok"
		if err != nil {
			results[p] = unix.ErrnoName(err.(unix.Errno))
			continue
		}
		unix.Close(fd)
	}
	return results
}

// connect tries each unix socket; a leading @ means an abstract one.
func connect(names []string) any {
	results := map[string]string{}
	for _, name := range names {
		results[name] = connectTo(name)
	}
	return results
}

func connectTo(name string) string {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return unix.ErrnoName(err.(unix.Errno))
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		return unix.ErrnoName(err.(unix.Errno))
	}
	return "ok"
}

// identity is who and where this is.
func identity([]string) any {
	dir, _ := os.Getwd()
	host, _ := os.Hostname()
	uidMap, _ := os.ReadFile("/proc/self/uid_map")
	groups, _ := os.Getgroups()
	var argv []string
	cmdline, _ := os.ReadFile("/proc/self/cmdline")
	for _, a := range strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00") {
		argv = append(argv, fmt.Sprintf("%x", a))
	}
	return map[string]any{
		"uid": os.Getuid(), "gid": os.Getgid(), "groups": groups, "dir": dir, "hostname": host,
		"uid_map": strings.Fields(string(uidMap)), "env": os.Environ(), "argv": argv,
	}
}

// hog takes so many MiB of memory and touches them.
func hog(args []string) any {
	mib, err := strconv.Atoi(args[0])
	if err != nil {
		return err.Error()
	}
	memory := make([]byte, mib<<20)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	return len(memory)
}

// spawn starts children that wait until it cannot any more, and counts the
// tasks there are then, its own threads among them.
func spawn([]string) any {
	count := 0
	for ; count < 5000; count++ {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			threads, _ := filepath.Glob("/proc/self/task/*")
			return map[string]any{"tasks": count + len(threads), "error": unix.ErrnoName(errno)}
		}
		if pid == 0 {
			for {
				unix.RawSyscall(unix.SYS_PAUSE, 0, 0, 0)
			}
		}
	}
	return map[string]any{"tasks": count}
}
