package spec

import (
	"bytes"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDecodeRefuses(t *testing.T) {
	cases := []struct{ name, content, want string }{
		{"empty", "", "its size is 0"},
		{"unknown field", `{"Version":3,"Extra":true}`, "unknown field"},
		{"other version", `{"Version":1}`, "its version is 1"},
		{"no version", `{}`, "its version is 0"},
		{"trailing data", `{"Version":3}{}`, "trailing data"},
		{"wrong type", `{"Version":"1"}`, "cannot unmarshal"},
		{"not JSON", `Version: 1`, "invalid character"},
		{"too large", strings.Repeat(" ", MaxSize+1), "its size is"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f, err := os.CreateTemp(t.TempDir(), "spec")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString(c.content); err != nil {
				t.Fatal(err)
			}
			_, err = Decode(int(f.Fd()))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Decode(%.40q): %v, want an error with %q", c.content, err, c.want)
			}
		})
	}
}

// The arguments must arrive byte for byte, also what is not UTF-8.
func TestEncodeKeepsBytes(t *testing.T) {
	in := &Spec{Version: Version, Command: Command{Argv: [][]byte{{0xff, 0xfe}, []byte("$HOME %h\n"), {}}}}
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

func TestConnRefusesUnknownFields(t *testing.T) {
	a, b := pair(t)
	if err := unix.Sendmsg(a.FD(), []byte(`{"Kind":"go","Extra":1}`), nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Recv(); err == nil || !strings.Contains(err.Error(), "unknown field") {
		t.Fatalf("got %v", err)
	}
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add([]byte(`{"Kind":"exited","WaitStatus":9}`))
	f.Add([]byte(`{"Kind":"failed","Step":"x","Error":"y"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m Message
		// Only that it returns: whatever arrives must not crash PID 1.
		_ = decodeStrictly(data, &m)
	})
}
