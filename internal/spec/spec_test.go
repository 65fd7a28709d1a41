package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// encoded is a spec as Encode writes it.
func encoded(s Spec) []byte { return encode(&s, specLayout) }

func TestDecodeRefuses(t *testing.T) {
	good := encoded(Spec{Version: Version, Unit: "purple-web-01234567.service"})
	cases := []struct {
		name    string
		content []byte
		want    string
	}{
		{"empty", nil, "its size is 0"},
		{"other version", append([]byte{Version - 1}, good[1:]...), fmt.Sprintf("its version is %d", Version-1)},
		{"no version", append([]byte{0}, good[1:]...), "its version is 0"},
		{"trailing data", append(good[:len(good):len(good)], 0), "trailing data"},
		{"cut off", good[:len(good)-1], "ends too early"},
		{"a text that is longer", append([]byte{Version, 0x7f}, "purple"...), "ends too early"},
		{"a number that does not end", []byte{Version, 0xff}, "ends too early"},
		{"too large", make([]byte, MaxSize+1), "its size is"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f, err := os.CreateTemp(t.TempDir(), "spec")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.Write(c.content); err != nil {
				t.Fatal(err)
			}
			_, err = Decode(int(f.Fd()))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Decode(%.40q): %v, want an error with %q", c.content, err, c.want)
			}
		})
	}
}

func TestDecodeRefusesNumbersThatDoNotFit(t *testing.T) {
	var narrow uint16
	if err := decode([]byte{0x80, 0x80, 0x04}, &narrow, integer[uint16]); err == nil {
		t.Errorf("65536 became %d", narrow)
	}
	var flag bool
	if err := decode([]byte{2}, &flag, (*codec).flag); err == nil {
		t.Errorf("2 became %v", flag)
	}
	below := -1
	var got int
	if err := decode(encode(&below, integer[int]), &got, integer[int]); err != nil || got != below {
		t.Errorf("-1 became %d: %v", got, err)
	}
}

// fill gives every field a value of its own that is not zero.
func fill(v reflect.Value, next *uint64) {
	*next++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), next)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), next)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), next)
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]uint64{"net": *next, "mnt": *next + 1}))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), next)
	case reflect.String:
		v.SetString(strconv.FormatUint(*next, 10))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(int64(*next))
	default:
		v.SetUint(*next % 256)
	}
}

func TestLayoutHasEveryField(t *testing.T) {
	var next uint64
	var in, out Spec
	fill(reflect.ValueOf(&in).Elem(), &next)
	in.Version = Version
	if err := decode(encode(&in, specLayout), &out, specLayout); err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("%v: sent\n%+v, got\n%+v", err, in, out)
	}
	var sent, got Message
	fill(reflect.ValueOf(&sent).Elem(), &next)
	if err := decode(encode(&sent, messageLayout), &got, messageLayout); err != nil || !reflect.DeepEqual(sent, got) {
		t.Errorf("%v: sent\n%+v, got\n%+v", err, sent, got)
	}
}

// The arguments must arrive byte for byte, also what is not UTF-8.
func TestEncodeKeepsBytes(t *testing.T) {
	in := &Spec{Version: Version, Command: Command{Argv: [][]byte{{0xff, 0xfe}, []byte("$HOME %h\n"), nil}}, ManagerNamespaces: map[string]uint64{}}
	f, err := Encode(in)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := Decode(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, out) {
		t.Fatalf("got %+v, want %+v", out, in)
	}
}

func TestEncodedSpecIsSealed(t *testing.T) {
	f, err := Encode(&Spec{Version: Version})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("writing to it: %v, want EPERM", err)
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncating it: %v, want EPERM", err)
	}
}

func TestEncodeRefusesTooLarge(t *testing.T) {
	if _, err := Encode(&Spec{Version: Version, Filter: make([]byte, MaxSize)}); err == nil {
		t.Fatal("no error")
	}
}

func pair(t *testing.T) (*Conn, *Conn) {
	t.Helper()
	a, f, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return a, NewConn(int(f.Fd()))
}

func TestConnPassesDescriptors(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := a.Send(Message{Kind: Start, Signal: 3}, int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	w.Close()
	m, fds, err := b.Recv()
	if err != nil || m.Kind != Start || m.Signal != 3 || len(fds) != 1 {
		t.Fatalf("got %+v, %v, %v", m, fds, err)
	}
	flags, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the descriptor is not close-on-exec: %v, %v", flags, err)
	}
	if _, err := unix.Write(fds[0], []byte("hello")); err != nil {
		t.Fatal(err)
	}
	unix.Close(fds[0])
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, []byte("hello")) {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestConnSeesThePeersEnd(t *testing.T) {
	a, b := pair(t)
	if err := a.Send(Message{Kind: Exited}); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if m, _, err := b.Recv(); err != nil || m.Kind != Exited {
		t.Fatalf("the last message: %+v, %v", m, err)
	}
	if _, _, err := b.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("after the end: %v, want EOF", err)
	}
}

// The reason of a peer that has failed comes through, whatever it left unread.
func TestConnHearsAPeerThatDidNot(t *testing.T) {
	ours, peer := pair(t)
	if err := ours.Send(Message{Kind: Connected}); err != nil {
		t.Fatal(err)
	}
	if err := peer.Send(Message{Kind: Failed}); err != nil {
		t.Fatal(err)
	}
	if err := peer.Close(); err != nil {
		t.Fatal(err)
	}
	if m, _, err := ours.Recv(); err != nil || m.Kind != Failed {
		t.Errorf("%+v, %v", m, err)
	}
	if _, _, err := ours.Recv(); err != io.EOF {
		t.Errorf("%v", err)
	}
}

func TestConnRefusesOthers(t *testing.T) {
	a, b := pair(t)
	if err := unix.Sendmsg(a.FD(), []byte(`{"Kind":"go"}`), nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	if m, _, err := b.Recv(); err == nil || !strings.Contains(err.Error(), "cannot decode a message") {
		t.Fatalf("got %+v, %v", m, err)
	}
}

func FuzzDecodeMessage(f *testing.F) {
	for _, m := range []Message{{Kind: Exited, WaitStatus: 9}, {Kind: Refused, Denied: &Denied{Total: 3, Most: []Refusal{{Destination: "tcp to 192.0.2.1 port 25", Count: 3}}}, DeniedCalls: &DeniedCalls{Total: 1, Most: []RefusedCall{{Nr: 165, Comm: "sh", Count: 1}}}}} {
		f.Add(encode(&m, messageLayout))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m, again Message
		// Whatever arrives must not crash PID 1, and means one thing only.
		if err := decode(data, &m, messageLayout); err != nil {
			return
		}
		if err := decode(encode(&m, messageLayout), &again, messageLayout); err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("%+v became %+v: %v", m, again, err)
		}
	})
}
