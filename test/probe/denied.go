package main

import (
	"encoding/hex"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denials is what a process got for calls that the suite's profiles deny.
type denials struct {
	PID     int
	Answers map[string]int // how often which
	Micros  float64        // of one call, on average
}

// denied makes N calls of mount, one after the other on one thread, whose name
// is NAME in hexadecimal, if given. With "forever" it then makes ten a second.
//
//	probe denied N [NAME [forever]]
func denied(args []string) any {
	runtime.LockOSThread()
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err.Error()
	}
	if len(args) > 1 && args[1] != "" {
		name, err := hex.DecodeString(args[1])
		if err != nil {
			return err.Error()
		}
		if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&append(name, 0)[0])), 0, 0, 0); err != nil {
			return err.Error()
		}
	}
	got := denials{PID: os.Getpid(), Answers: map[string]int{}}
	begin := time.Now()
	for range n {
		got.Answers[deniedMount()]++
	}
	if n > 0 {
		got.Micros = float64(time.Since(begin).Microseconds()) / float64(n)
	}
	if len(args) > 2 {
		emit(got)
		for {
			deniedMount()
			time.Sleep(100 * time.Millisecond)
		}
	}
	return got
}

// What deniedMount claims.
var claimed = [][]byte{[]byte("/claimed/source\x00"), []byte("/claimed/target\x00"), []byte("claimed\x00")}

// deniedMount can do no harm where it is not denied: there is no such target.
// It is a raw call, so that the time of it is not the Go runtime's.
func deniedMount() string {
	_, _, errno := unix.RawSyscall6(unix.SYS_MOUNT, uintptr(unsafe.Pointer(&claimed[0][0])), uintptr(unsafe.Pointer(&claimed[1][0])),
		uintptr(unsafe.Pointer(&claimed[2][0])), unix.MS_NOATIME, 0, 0)
	if errno != 0 {
		return answer(errno)
	}
	return "ok"
}

func answer(err error) string {
	if err == nil {
		return "ok"
	}
	return unix.ErrnoName(err.(unix.Errno))
}

// The returns of a filter, as seccomp(2) has them.
var filterReturns = []struct {
	name string
	ret  uint32
}{
	{"allow", unix.SECCOMP_RET_ALLOW},
	{"log", unix.SECCOMP_RET_LOG},
	{"trace", unix.SECCOMP_RET_TRACE},
}

// filters tries what a command can do with filters of its own: one with a
// listener, and ones that would answer mount, each followed by a denied call.
func filters([]string) any {
	runtime.LockOSThread()
	results := map[string]string{}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err.Error()
	}
	results["listener"] = answer(load(unix.SECCOMP_RET_ALLOW, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER))
	for _, f := range filterReturns {
		results["load "+f.name] = answer(load(f.ret, 0))
		results["mount behind "+f.name] = deniedMount()
	}
	return results
}

// load adds a filter to this thread that returns ret for mount.
func load(ret uint32, flags uintptr) error {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_MOUNT},
		{Code: unix.BPF_RET | unix.BPF_K, K: ret},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&f)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return errno
	}
	return nil
}

// paced measures N denied calls one by one, with a pause before each: what a
// call costs that comes alone.
//
//	probe paced N MICROSECONDS
func paced(args []string) any {
	runtime.LockOSThread()
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 {
		return "no number of calls"
	}
	pause, err := strconv.Atoi(args[1])
	if err != nil {
		return err.Error()
	}
	took := make([]float64, n)
	for i := range took {
		if pause > 0 {
			ts := unix.NsecToTimespec(int64(pause) * 1000)
			_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
		}
		begin := time.Now()
		deniedMount()
		took[i] = float64(time.Since(begin).Nanoseconds()) / 1000
	}
	slices.Sort(took)
	return map[string]float64{"median": took[n/2], "p90": took[n*9/10], "min": took[0]}
}
