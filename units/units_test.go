package units

import (
	"fmt"
	"testing"

	"github.com/godbus/dbus/v5"
)

// answered is a call that is done.
func answered(err error, body ...any) *dbus.Call {
	call := &dbus.Call{Err: err, Body: body, Done: make(chan *dbus.Call, 1)}
	call.Done <- call
	return call
}

// A systemd that leaves the bus, as at daemon-reexec, is asked again; any other
// failure is one at once.
func TestAwaitAnswer(t *testing.T) {
	gone := dbus.Error{Name: errNoReply, Body: []any{"Message recipient disconnected from message bus without replying"}}
	notYet := dbus.Error{Name: "org.freedesktop.DBus.Error.NameHasNoOwner"}
	denied := dbus.Error{Name: "org.freedesktop.DBus.Error.AccessDenied"}
	for _, c := range []struct {
		what    string
		answers []error
		asked   int
		want    error
	}{
		{"there", []error{nil}, 1, nil},
		{"denied", []error{denied, nil}, 1, denied},
		{"not there at all", []error{notYet, nil}, 1, notYet},
		{"back at once", []error{gone, nil}, 2, nil},
		{"back after a while", []error{gone, gone, notYet, nil}, 4, nil},
	} {
		n := 0
		ask := func() *dbus.Call { n++; return answered(c.answers[n-1], "252") }
		got := awaitAnswer(ask(), ask)
		if n != c.asked || fmt.Sprint(got.Err) != fmt.Sprint(c.want) {
			t.Errorf("%s: asked %d times, %v", c.what, n, got.Err)
		}
	}
}

// A request that was not answered may have been taken all the same.
func TestRequestUnit(t *testing.T) {
	gone := dbus.Error{Name: errNoReply}
	exists := dbus.Error{Name: errUnitExists}
	denied := dbus.Error{Name: "org.freedesktop.DBus.Error.AccessDenied"}
	for _, c := range []struct {
		what    string
		answers []error
		asked   int
		want    error
	}{
		{"taken", []error{nil}, 1, nil},
		{"denied", []error{denied}, 1, denied},
		{"there before", []error{exists}, 1, exists},
		{"not taken at first", []error{gone, gone, nil}, 3, nil},
		{"taken without an answer", []error{gone, exists}, 2, errTaken},
	} {
		n := 0
		got := requestUnit(func() error { n++; return c.answers[n-1] })
		if n != c.asked || fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: asked %d times, %v", c.what, n, got)
		}
	}
}
