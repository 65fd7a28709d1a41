package policies

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// fullDiskVariable makes this test binary the child of TestCreateOnAFullDisk.
const fullDiskVariable = "PURPLE_TEST_FULL_DISK"

func TestMain(m *testing.M) {
	unix.Umask(0o022) // a wider one would make every test file an unsafe one
	if dir := os.Getenv(fullDiskVariable); dir != "" {
		if err := createOnFullDisk(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The disk is a tmpfs of two pages in a mount namespace of a child's own, so
// that the kernel itself says ENOSPC.
func TestCreateOnAFullDisk(t *testing.T) {
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), fullDiskVariable+"="+t.TempDir())
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if uid := os.Getuid(); uid != 0 {
		child.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		child.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func createOnFullDisk(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	size := 2 * os.Getpagesize()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755", size)); err != nil {
		return fmt.Errorf("tmpfs: %w", err)
	}
	handle, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer handle.Close()
	if err := writeNew(handle, "old.yaml", []byte("{}")); err != nil {
		return fmt.Errorf("a small file: %w", err)
	}
	err = writeNew(handle, "new.yaml", bytes.Repeat([]byte("#"), 2*size))
	if !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("a big file: got %v, want ENOSPC", err)
	}
	return onlyOldFile(dir)
}

func onlyOldFile(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) != 1 || entries[0].Name() != "old.yaml" {
		return fmt.Errorf("left: %v", entries)
	}
	content, err := os.ReadFile(filepath.Join(dir, "old.yaml"))
	if err != nil || string(content) != "{}" {
		return fmt.Errorf("the old file has changed: %q, %v", content, err)
	}
	return nil
}

// A write that fails half-way leaves nothing, whatever the reason.
func TestWriteNewLeavesNothingHalfWritten(t *testing.T) {
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	dir := openTestDir(t)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 100, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	err := writeNew(dir, "web.yaml", bytes.Repeat([]byte("#"), 200))
	if restore := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); restore != nil {
		t.Fatal(restore)
	}
	if !errors.Is(err, unix.EFBIG) {
		t.Errorf("got %v, want EFBIG", err)
	}
	if names := filesIn(t, dir.Name()); len(names) != 0 {
		t.Errorf("left: %q", names)
	}
}

func openTestDir(t *testing.T) *os.File {
	t.Helper()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func TestWriteNewDoesNotReplace(t *testing.T) {
	dir := openTestDir(t)
	write(t, filepath.Join(dir.Name(), "web.yaml"), "old")
	if err := writeNew(dir, "web.yaml", []byte("new")); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v, want os.ErrExist", err)
	}
	content, err := os.ReadFile(filepath.Join(dir.Name(), "web.yaml"))
	if err != nil || string(content) != "old" {
		t.Errorf("%q, %v", content, err)
	}
	if names := filesIn(t, dir.Name()); !slices.Equal(names, []string{"web.yaml"}) {
		t.Errorf("left: %q", names)
	}
}
