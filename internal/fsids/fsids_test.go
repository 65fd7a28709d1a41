package fsids

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// onThread calls f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

func TestBecome(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can become somebody")
	}
	dir := filepath.Join(t.TempDir(), "closed")
	file := filepath.Join(dir, "file")
	if err := errors.Join(os.Mkdir(dir, 0o750), os.WriteFile(file, nil, 0o640)); err != nil {
		t.Fatal(err)
	}
	for at := filepath.Dir(dir); at != filepath.Clean(os.TempDir()); at = filepath.Dir(at) { // above it the way is open
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	open := func() error {
		f, err := os.Open(file)
		if err == nil {
			f.Close()
		}
		return err
	}
	for _, c := range []struct {
		what     string
		uid, gid uint32
		groups   []uint32
		want     error
	}{
		{"root", 0, 0, nil, nil},
		{"another user", 65534, 65534, nil, unix.EACCES},
		{"one of the file's group", 65534, 65534, []uint32{7, 0}, nil},
		{"one of other groups", 65534, 65534, []uint32{7, 8}, unix.EACCES},
		{"the file's group as its own", 65534, 0, nil, nil},
	} {
		err := onThread(func() error {
			if err := Become(c.uid, c.gid, c.groups); err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
			return open()
		})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	if err := onThread(func() error { return errors.Join(Become(65534, 65534, nil), Return(), open()) }); err != nil {
		t.Errorf("back again: %v", err)
	}
	if err := open(); err != nil {
		t.Errorf("another thread: %v", err)
	}
}

// What is in /proc is not guarded by modes alone.
func TestBecomeInProc(t *testing.T) {
	for _, file := range []string{
		"/proc/sys/kernel/cad_pid",                 // 0600, which the kernel compares with the effective uid
		fmt.Sprintf("/proc/%d/maps", os.Getppid()), // 0444, but of a process of root's
		fmt.Sprintf("/proc/%d/cwd/", os.Getppid()), // a way around all folders above it
		fmt.Sprintf("/proc/%d/root/etc/passwd", os.Getppid()),
	} {
		open := func() error {
			fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
		if err := open(); err != nil {
			t.Errorf("root and %s: %v", file, err)
		}
		err := onThread(func() error { return errors.Join(Become(65534, 65534, nil), open()) })
		if !errors.Is(err, unix.EACCES) {
			t.Errorf("another user and %s: %v", file, err)
		}
	}
}

// The kernel keeps the capabilities of a thread that asks it to.
func TestBecomeWithCapabilitiesThatStay(t *testing.T) {
	const noSetuidFixup = 1 << 2
	err := onThread(func() error {
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0); err != nil {
			return err
		}
		if err := Become(65534, 65534, nil); err == nil {
			t.Error("nothing is said of them")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
