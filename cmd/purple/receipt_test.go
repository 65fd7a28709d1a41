package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

func readReceipt(t *testing.T, file string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return got
}

func TestReceipt(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "receipt.json")
	r, err := openReceipt(request{receipt: file})
	if err != nil {
		t.Fatal(err)
	}
	defer r.dir.Close()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("there are %v, %v before the end", entries, err)
	}
	r.ended(verdict{status: 3, reason: journal.ReasonExited}, &journal.RunEnded{
		Wall: journal.Known(5), Usage: journal.Usage{CPU: journal.Known(0)}, Reached: journal.Reached{Limits: "memory cpu"},
	})
	if err := r.write(&statusError{status: 3}); err != nil {
		t.Fatal(err)
	}
	got := readReceipt(t, file)
	if got["status"] != 3.0 || got["reason"] != "exited" || got["wall_usec"] != 5.0 || got["cpu_usec"] != 0.0 || got["memory_peak_bytes"] != nil {
		t.Errorf("%v", got)
	}
	if list, ok := got["limits_reached"].([]any); !ok || len(list) != 2 {
		t.Errorf("%v", got["limits_reached"])
	}
	// The next one takes its place.
	if err := r.write(&statusError{124, errors.New("too late")}); err != nil {
		t.Fatal(err)
	}
	if got := readReceipt(t, file); got["status"] != 124.0 || got["error"] != "too late" {
		t.Errorf("%v", got)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestReceiptOfARefusal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "receipt.json")
	r, err := openReceipt(request{receipt: file})
	if err != nil {
		t.Fatal(err)
	}
	defer r.dir.Close()
	if err := r.write(errors.New("no such profile")); err != nil {
		t.Fatal(err)
	}
	if got := readReceipt(t, file); got["status"] != 125.0 || got["reason"] != "refused" || got["error"] != "no such profile" || got["unit"] != "" {
		t.Errorf("%v", got)
	}
}

func TestReceiptRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "other"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"/dev/null":                      "not a regular file",
		filepath.Join(dir, "link"):       "not a regular file",
		filepath.Join(dir, "fifo"):       "not a regular file",
		dir:                              "not a regular file",
		dir + "/":                        "it names a directory",
		filepath.Join(dir, "none", "x"):  "no such file or directory",
		filepath.Join(dir, "fifo", "x"):  "not a directory",
		filepath.Join("/proc", "x.json"): "", // whatever the kernel says
	} {
		if _, err := openReceipt(request{receipt: file}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", file, err, want)
		}
	}
	if _, err := openReceipt(request{receipt: filepath.Join(dir, "x"), detach: true}); err == nil {
		t.Error("a detached run has a receipt")
	}
	// What got in the way during the run is not replaced.
	file := filepath.Join(dir, "late")
	r, err := openReceipt(request{receipt: file})
	if err != nil {
		t.Fatal(err)
	}
	defer r.dir.Close()
	if err := os.Symlink("/etc/passwd", file); err != nil {
		t.Fatal(err)
	}
	if err := r.write(nil); err == nil {
		t.Error("a link was replaced")
	}
}

// TestDocumentedReceipt: the page names every key.
func TestDocumentedReceipt(t *testing.T) {
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## A receipt")
	data, err := json.Marshal(receiptText{Signal: 1, Error: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`"(\w+)":`).FindAllStringSubmatch(string(data), -1) {
		if !strings.Contains(section, "`"+m[1]+"`") {
			t.Errorf("the page does not have %s", m[1])
		}
	}
	if words := strings.Fields(section); !slices.Contains(words, "--receipt") {
		t.Error("the section was not found")
	}
}
