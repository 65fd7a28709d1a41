package confine

import (
	"encoding/binary"
	"reflect"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// slotsWith is the memory of a map with these calls.
func slotsWith(calls map[int]madeCall) *watchedCalls {
	size := int(unsafe.Sizeof(madeCall{}))
	w := &watchedCalls{slots: make([]byte, (maxCalls+1)*size)}
	for nr, c := range calls {
		*(*madeCall)(unsafe.Pointer(&w.slots[nr*size])) = c
	}
	return w
}

func comms(names ...string) [spec.MaxLearntComms][16]byte {
	var all [spec.MaxLearntComms][16]byte
	for i, name := range names {
		copy(all[i][:], name)
	}
	return all
}

func TestLearntParts(t *testing.T) {
	w := slotsWith(map[int]madeCall{
		0:         {5, 1_000_002_000, comms("a", "b\x1b", "c")},
		7:         {1, 5, comms("a")}, // before the beginning
		armedSlot: {count: 1},
	})
	want := []*spec.Learnt{{Of: 2, Calls: []spec.LearntCall{
		{Nr: 0, Count: 5, First: 2, Comms: []string{"a", `b\x1b`, "c"}},
		{Nr: 7, Count: 1, Comms: []string{"a"}},
	}}}
	if got := w.parts(time.Second); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got[0], want[0])
	}
	if parts := slotsWith(nil).parts(0); len(parts) != 1 || parts[0].Of != 0 {
		t.Errorf("nothing is %+v", parts)
	}
}

// Every part fits into a message, whatever the processes call themselves.
func TestLearntPartsFit(t *testing.T) {
	const worst = "\x01\x02\x03\x04\x05\x06\x07\x08\x0e\x0f\x10\x11\x12\x13\x14"
	calls := map[int]madeCall{}
	for nr := range maxCalls {
		calls[nr] = madeCall{^uint64(0), ^uint64(0), comms(worst, worst, worst)}
	}
	up, theirs, err := spec.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	defer theirs.Close()
	n := 0
	for _, part := range slotsWith(calls).parts(0) {
		if err := spec.NewConn(int(theirs.Fd())).Send(spec.Message{Kind: spec.Taught, Learnt: part}); err != nil {
			t.Fatal(err)
		}
		m, _, err := up.Recv()
		if err != nil || m.Learnt.Of != maxCalls {
			t.Fatalf("%v, %+v", err, m.Learnt)
		}
		n += len(m.Learnt.Calls)
	}
	if n != maxCalls {
		t.Errorf("%d calls", n)
	}
}

// What is called as purple-init itself cannot be told from it.
func TestWatchCallsRefuses(t *testing.T) {
	s := &supervisor{spec: &spec.Spec{Learning: true, Command: spec.Command{Path: "/usr/bin/exe"}}}
	if err := s.watchCalls(); err == nil || !strings.Contains(err.Error(), `is called "exe"`) {
		t.Errorf("%v", err)
	}
	if err := (&supervisor{spec: &spec.Spec{}}).watchCalls(); err != nil {
		t.Errorf("a run that does not learn: %v", err)
	}
}

// Every jump goes forward and stays inside, as the kernel's verifier demands.
func TestWatchProgram(t *testing.T) {
	code := watchProgram(3, 4, 5)
	n := len(code) / bpfInstructionSize
	for i := range n {
		at := code[i*bpfInstructionSize:]
		offset := int(int16(binary.NativeEndian.Uint16(at[2:])))
		jump := at[0]&7 == unix.BPF_JMP && at[0]&0xf0 != unix.BPF_CALL && at[0]&0xf0 != unix.BPF_EXIT
		if jump && (offset < 0 || i+1+offset >= n) {
			t.Errorf("instruction %d of %d jumps by %d", i, n, offset)
		}
	}
	if last := code[len(code)-bpfInstructionSize]; last != unix.BPF_JMP|unix.BPF_EXIT {
		t.Errorf("the last instruction is %#x", last)
	}
}
