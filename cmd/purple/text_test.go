package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
)

func TestEscaping(t *testing.T) {
	var out bytes.Buffer
	in := "a\tb\n\n\x1b]0;title\a \x7f \u009b31m \u202e \xff é 漢\r\nlast"
	if n, err := io.WriteString(escaping{&out}, in); n != len(in) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	want := "a\tb\n\n\\x1b]0;title\\x07 \\x7f \\xc2\\x9b31m \\xe2\\x80\\xae \\xff é 漢\\x0d\nlast"
	if got := out.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A path makes no line of its own in an error, wherever that has it from.
func TestPrintableError(t *testing.T) {
	const path = "/x\npurple: all is well\x1b[2J"
	for _, err := range []error{
		&fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist},
		fmt.Errorf("cannot: %w", errors.Join(io.EOF, &os.LinkError{Op: "link", Old: "/y", New: path, Err: fs.ErrExist})),
		&statusError{3, fmt.Errorf("cannot: %w", &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist})},
	} {
		if got := printableError(err); strings.Contains(got, path) || !strings.Contains(got, `/x\x0apurple: all is well\x1b[2J`) {
			t.Errorf("%q", got)
		}
	}
}

// Nothing that the command line or a profile names steers the terminal of who reads it.
func TestNamesSteerNoTerminal(t *testing.T) {
	const evil = "\x1b]0;x\a\u009b2J"
	dir := t.TempDir()
	file := dir + "/" + evil + ".yaml"
	if err := os.WriteFile(file, []byte("name: evil\ndescription: \"\\e]0;x\\a\"\nnosuchkey: 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"profile", "check", file}, {"profile", "show", file}, {"profile", "show", dir + "/none" + evil}, {"profile", "create", "x", "--from", file}, {"plan", "--profile", file, "--", "true"},
		{"plan", "--workspace", dir + evil, "--", "true"}, {"plan", "--", evil}, {"plan", "--", "/bin/" + evil}, {evil}, {"plan", "--" + evil}, {"ps", evil}, {"-l", evil}, {"why", evil}, {"plan", "--env", evil + "=1"},
	} {
		var out, errs bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}
		status := a.main(args)
		if text := out.String() + errs.String(); status == 0 || text == "" || strings.ContainsAny(text, "\x1b\a\u009b") {
			t.Errorf("%q: status %d, %q", args, status, text)
		}
	}
}
