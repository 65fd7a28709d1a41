package confine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"path"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// A learning run finds out which system calls the command makes. The kernel
// counts them, by a BPF program at the tracepoint sys_enter: it hears of a call
// after the filter has let it pass, and changes nothing about it.
//
// A filter that notifies of every call could tell as well, but a signal ends the
// wait for an answer: then a call fails with EINTR that never does elsewhere, and
// a shell with children in the background meets that within seconds. It would
// also have a supervisor that lets calls go on.

// madeCall is the count of one call, as the program keeps it: a slot of an array
// map that is mapped into the supervisor.
type madeCall struct {
	count uint64
	first uint64 // CLOCK_MONOTONIC, in nanoseconds
	comms [spec.MaxLearntComms][16]byte
}

const (
	// maxCalls is above every number of a call.
	maxCalls = 1024
	// armedSlot is the slot behind the calls: its count is 1 once the command has
	// been executed.
	armedSlot = maxCalls
)

// watchedCalls are the calls that processes of one PID namespace make.
type watchedCalls struct {
	link  int // closed, the program is gone
	slots []byte
}

// ownName is what the kernel calls purple-init's processes inside: they are
// executed by the name /proc/self/exe. Until something else is executed they
// are not the command's.
const ownName = "exe"

// watchCalls begins to count, while the privileges for that are there. What can
// be learnt from is only known to be watched if all of this succeeds.
func (s *supervisor) watchCalls() error {
	if !s.spec.Learning {
		return nil
	}
	if path.Base(s.spec.Command.Path) == ownName {
		return fmt.Errorf("the command is called %q, as purple-init itself is until it has executed it", ownName)
	}
	var ns unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/pid", s.initPID), &ns); err != nil {
		return fmt.Errorf("cannot find the sandbox's PID namespace: %w", err)
	}
	var err error
	s.watched, err = watchNamespace(ns.Dev, ns.Ino)
	return err
}

func watchNamespace(dev, ino uint64) (*watchedCalls, error) {
	slots, err := createSlots()
	if err != nil {
		return nil, fmt.Errorf("cannot make a BPF map: %w", err)
	}
	defer unix.Close(slots)
	program, err := loadProgram(watchProgram(slots, dev, ino))
	if err != nil {
		return nil, fmt.Errorf("cannot load a BPF program: %w", err)
	}
	defer unix.Close(program)
	w := &watchedCalls{}
	const size = (maxCalls + 1) * int(unsafe.Sizeof(madeCall{}))
	if w.slots, err = unix.Mmap(slots, 0, size, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("cannot map the BPF map: %w", err)
	}
	if w.link, err = attachTo("sys_enter", program); err != nil {
		return nil, fmt.Errorf("cannot attach to the tracepoint of system calls: %w", err)
	}
	return w, nil
}

func monotonic() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // this clock every kernel has
	return time.Duration(now.Nano())
}

// tellLearnt tells purple what was made. Every process of the sandbox is gone.
func (s *supervisor) tellLearnt() {
	if s.watched == nil {
		return
	}
	s.audit.complain(unix.Close(s.watched.link))
	began := monotonic() - time.Since(s.startedAt)
	for _, part := range s.watched.parts(began) {
		s.tell(spec.Message{Kind: spec.Taught, Learnt: part})
	}
}

func (w *watchedCalls) call(nr int) madeCall {
	return *(*madeCall)(unsafe.Pointer(&w.slots[nr*int(unsafe.Sizeof(madeCall{}))]))
}

// parts are what purple is told, one part at least. began is when the command
// has, of CLOCK_MONOTONIC.
func (w *watchedCalls) parts(began time.Duration) []*spec.Learnt {
	var calls []spec.LearntCall
	for nr := range maxCalls {
		if c := w.call(nr); c.count > 0 {
			calls = append(calls, c.told(uint32(nr), began))
		}
	}
	if len(calls) == 0 {
		return []*spec.Learnt{{}}
	}
	var parts []*spec.Learnt
	for part := range slices.Chunk(calls, spec.MaxLearntCalls) {
		parts = append(parts, &spec.Learnt{Of: uint64(len(calls)), Calls: part})
	}
	return parts
}

func (c *madeCall) told(nr uint32, began time.Duration) spec.LearntCall {
	told := spec.LearntCall{Nr: nr, Count: c.count}
	if first := time.Duration(min(c.first, math.MaxInt64)); first > began {
		told.First = uint64((first - began).Microseconds())
	}
	for _, comm := range c.comms {
		if id := (identity{comm: comm}); comm[0] != 0 {
			told.Comms = append(told.Comms, id.name())
		}
	}
	return told
}

// The commands of bpf(2), with those fields of union bpf_attr (<linux/bpf.h>)
// that each of them looks at.

func bpf[T any](command uintptr, attr *T) (int, error) {
	fd, _, errno := syscall.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	runtime.KeepAlive(attr)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func createSlots() (int, error) {
	attr := struct{ kind, keySize, valueSize, entries, flags uint32 }{
		unix.BPF_MAP_TYPE_ARRAY, 4, uint32(unsafe.Sizeof(madeCall{})), maxCalls + 1, unix.BPF_F_MMAPABLE,
	}
	return bpf(unix.BPF_MAP_CREATE, &attr)
}

func loadProgram(code []byte) (int, error) {
	fd, err := tryProgram(code, nil)
	if err == nil || errors.Is(err, unix.EPERM) {
		return fd, err
	}
	// Once more for the verifier's reason: with a log that is too small for what
	// it has to say, a program that is right would be refused.
	log := make([]byte, 1<<20)
	if fd, again := tryProgram(code, log); again == nil {
		return fd, nil
	}
	text, _, _ := bytes.Cut(log, []byte{0})
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return -1, fmt.Errorf("%w: %s", err, strings.Join(lines[max(0, len(lines)-3):], "; "))
}

func tryProgram(code, log []byte) (int, error) {
	license := []byte("Dual MIT/GPL\x00")
	attr := struct {
		kind, instructions uint32
		code, license      *byte
		logLevel, logSize  uint32
		log                *byte
	}{
		kind: unix.BPF_PROG_TYPE_RAW_TRACEPOINT, instructions: uint32(len(code) / bpfInstructionSize), code: &code[0], license: &license[0],
	}
	if log != nil {
		attr.logLevel, attr.logSize, attr.log = 1, uint32(len(log)), &log[0]
	}
	return bpf(unix.BPF_PROG_LOAD, &attr)
}

func attachTo(tracepoint string, program int) (int, error) {
	name, err := unix.BytePtrFromString(tracepoint)
	if err != nil {
		return -1, err
	}
	attr := struct {
		name    *byte
		program uint32
		_       uint32
	}{name, uint32(program), 0}
	return bpf(unix.BPF_RAW_TRACEPOINT_OPEN, &attr)
}

// The helpers that the program calls (<linux/bpf.h>, __BPF_FUNC_MAPPER).
const (
	helperMapLookup    = 1
	helperKtime        = 5
	helperComm         = 16
	helperPIDInNS      = 120
	bpfInstructionSize = 8
)

// watchProgram counts a call if it is made in the namespace, by another process
// than the sandbox's init, once the command has been executed.
func watchProgram(slots int, dev, ino uint64) []byte {
	const (
		r0, r1, r2, r3, r4, r6, r7, r8, r9, fp = 0, 1, 2, 3, 4, 6, 7, 8, 9, 10

		argNumber            = 8 // in bpf_raw_tracepoint_args: regs, id
		onTGID, onPIDs       = -4, -8
		onComm, onKey        = -24, -32
		atCount, atFirst     = 0, 8
		atComms, sizeOfAComm = 16, 16
	)
	// The kernel's own form of a device number; stat(2) has another.
	dev = uint64(unix.Major(dev))<<20 | uint64(unix.Minor(dev))
	own := [8]byte{}
	copy(own[:], ownName)

	a := &bpfAssembler{}
	a.load(r6, r1, argNumber)
	a.jumpIf(unix.BPF_JGE, r6, maxCalls, "out")

	a.set64(r1, dev)
	a.set64(r2, ino)
	a.address(r3, fp, onPIDs)
	a.set(r4, 8)
	a.call(helperPIDInNS)
	a.jumpIf(unix.BPF_JNE, r0, 0, "out")
	a.load32(r1, fp, onTGID)
	a.jumpIf(unix.BPF_JEQ, r1, 1, "out") // the sandbox's init

	// The helper of Linux 6.1 leaves what is behind the name's end as it was.
	a.set(r1, 0)
	a.store(fp, onComm, r1)
	a.store(fp, onComm+8, r1)
	a.address(r1, fp, onComm)
	a.set(r2, sizeOfAComm)
	a.call(helperComm)
	a.load(r7, fp, onComm)
	a.load(r8, fp, onComm+8)

	a.set(r1, armedSlot)
	a.lookup(slots, r1, onKey)
	a.load(r1, r0, atCount)
	a.jumpIf(unix.BPF_JNE, r1, 0, "armed")
	a.load32(r2, fp, onComm) // the name, with the zero byte behind it
	a.jumpIf(unix.BPF_JEQ, r2, int32(binary.LittleEndian.Uint32(own[:])), "out")
	a.set(r1, 1)
	a.store(r0, atCount, r1)

	a.label("armed")
	a.lookup(slots, r6, onKey)
	a.copy(r9, r0)
	a.set(r1, 1)
	a.addAtomically(r9, atCount, r1)
	a.load(r1, r9, atFirst)
	a.jumpIf(unix.BPF_JNE, r1, 0, "named 0")
	a.call(helperKtime)
	a.store(r9, atFirst, r0)

	for i := range spec.MaxLearntComms {
		at := int16(atComms + i*sizeOfAComm)
		a.label(fmt.Sprintf("named %d", i))
		a.load(r1, r9, at)
		a.load(r2, r9, at+8)
		a.jumpIfNotEqual(r1, r7, fmt.Sprintf("other %d", i))
		a.jumpIfNotEqual(r2, r8, fmt.Sprintf("other %d", i))
		a.jump("out")
		a.label(fmt.Sprintf("other %d", i))
		a.jumpIf(unix.BPF_JNE, r1, 0, fmt.Sprintf("named %d", i+1))
		a.store(r9, at, r7)
		a.store(r9, at+8, r8)
		a.jump("out")
	}
	a.label(fmt.Sprintf("named %d", spec.MaxLearntComms))
	a.label("out")
	a.set(r0, 0)
	a.exit()
	return a.finish()
}

// bpfAssembler makes instructions of eBPF (Documentation/bpf/standardization).
type bpfAssembler struct {
	code   []bpfInstruction
	labels map[string]int
	jumps  map[int]string
}

type bpfInstruction struct {
	op        uint8
	registers uint8 // source, destination: four bits each
	offset    int16
	value     int32
}

func (a *bpfAssembler) add(op int, destination, source uint8, offset int16, value int32) {
	a.code = append(a.code, bpfInstruction{uint8(op), source<<4 | destination, offset, value})
}

func (a *bpfAssembler) set(r uint8, value int32) {
	a.add(unix.BPF_ALU64|unix.BPF_MOV|unix.BPF_K, r, 0, 0, value)
}

func (a *bpfAssembler) copy(to, from uint8) {
	a.add(unix.BPF_ALU64|unix.BPF_MOV|unix.BPF_X, to, from, 0, 0)
}

// set64 takes two instructions.
func (a *bpfAssembler) set64(r uint8, value uint64) { a.wide(r, 0, value) }

func (a *bpfAssembler) wide(r, kind uint8, value uint64) {
	a.add(unix.BPF_LD|unix.BPF_DW|unix.BPF_IMM, r, kind, 0, int32(uint32(value)))
	a.add(0, 0, 0, 0, int32(uint32(value>>32)))
}

// address sets r to what a register points to, and an offset.
func (a *bpfAssembler) address(r, base uint8, offset int32) {
	a.copy(r, base)
	a.add(unix.BPF_ALU64|unix.BPF_ADD|unix.BPF_K, r, 0, 0, offset)
}

func (a *bpfAssembler) load(r, base uint8, offset int16) {
	a.add(unix.BPF_LDX|unix.BPF_MEM|unix.BPF_DW, r, base, offset, 0)
}

func (a *bpfAssembler) load32(r, base uint8, offset int16) {
	a.add(unix.BPF_LDX|unix.BPF_MEM|unix.BPF_W, r, base, offset, 0)
}

func (a *bpfAssembler) store(base uint8, offset int16, r uint8) {
	a.add(unix.BPF_STX|unix.BPF_MEM|unix.BPF_DW, base, r, offset, 0)
}

func (a *bpfAssembler) addAtomically(base uint8, offset int16, r uint8) {
	a.add(unix.BPF_STX|unix.BPF_ATOMIC|unix.BPF_DW, base, r, offset, unix.BPF_ADD)
}

func (a *bpfAssembler) call(helper int32) { a.add(unix.BPF_JMP|unix.BPF_CALL, 0, 0, 0, helper) }

func (a *bpfAssembler) exit() { a.add(unix.BPF_JMP|unix.BPF_EXIT, 0, 0, 0, 0) }

// lookup sets r0 to the slot whose number is in a register, or goes out.
func (a *bpfAssembler) lookup(slots int, number uint8, onKey int16) {
	const r0, r1, r2, fp = 0, 1, 2, 10
	a.add(unix.BPF_STX|unix.BPF_MEM|unix.BPF_W, fp, number, onKey, 0)
	a.wide(r1, unix.BPF_PSEUDO_MAP_FD, uint64(slots))
	a.address(r2, fp, int32(onKey))
	a.call(helperMapLookup)
	a.jumpIf(unix.BPF_JEQ, r0, 0, "out") // never, but the kernel's verifier wants it
}

func (a *bpfAssembler) jumpIf(condition int, r uint8, value int32, label string) {
	a.target(label)
	a.add(unix.BPF_JMP|condition|unix.BPF_K, r, 0, 0, value)
}

func (a *bpfAssembler) jumpIfNotEqual(r, other uint8, label string) {
	a.target(label)
	a.add(unix.BPF_JMP|unix.BPF_JNE|unix.BPF_X, r, other, 0, 0)
}

func (a *bpfAssembler) jump(label string) {
	a.target(label)
	a.add(unix.BPF_JMP|unix.BPF_JA, 0, 0, 0, 0)
}

// target notes where the next instruction jumps to.
func (a *bpfAssembler) target(label string) {
	if a.jumps == nil {
		a.jumps = map[int]string{}
	}
	a.jumps[len(a.code)] = label
}

func (a *bpfAssembler) label(name string) {
	if a.labels == nil {
		a.labels = map[string]int{}
	}
	a.labels[name] = len(a.code)
}

// finish resolves the jumps. A label that is missing goes to the program's
// beginning, which the kernel's verifier refuses as a loop.
func (a *bpfAssembler) finish() []byte {
	var out []byte
	for at, i := range a.code {
		if label, ok := a.jumps[at]; ok {
			i.offset = int16(a.labels[label] - at - 1)
		}
		out = append(out, i.op, i.registers)
		out = binary.NativeEndian.AppendUint16(out, uint16(i.offset))
		out = binary.NativeEndian.AppendUint32(out, uint32(i.value))
	}
	return out
}
