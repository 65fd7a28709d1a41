package spec

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Encode writes s to a sealed memory file: it has no name, and whoever gets
// the descriptor can neither change nor grow it.
func Encode(s *Spec) (*os.File, error) {
	if s.Version != Version {
		return nil, fmt.Errorf("internal error: the spec has the version %d", s.Version)
	}
	data := encode(s, specLayout)
	if len(data) > MaxSize {
		return nil, fmt.Errorf("cannot pass the command to purple-init: arguments and environment take %d bytes, more than %d", len(data), MaxSize)
	}
	fd, err := unix.MemfdCreate("purple-spec", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // MFD_NOEXEC_SEAL is new in Linux 6.3
		fd, err = unix.MemfdCreate("purple-spec", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "spec")
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot write the spec: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot seal the spec: %w", err)
	}
	return f, nil
}

// Decode reads the spec from fd, from its beginning, and leaves fd open. It
// refuses what is too large, of another version, or has more to it.
func Decode(fd int) (*Spec, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("cannot examine the spec: %w", err)
	}
	if st.Size <= 0 || st.Size > MaxSize {
		return nil, fmt.Errorf("cannot read the spec: its size is %d bytes", st.Size)
	}
	data := make([]byte, st.Size)
	for off := 0; off < len(data); {
		n, err := unix.Pread(fd, data[off:], int64(off))
		if err != nil || n == 0 {
			return nil, fmt.Errorf("cannot read the spec: %d of %d bytes: %v", off, len(data), err)
		}
		off += n
	}
	s := &Spec{}
	if err := decode(data, s, specLayout); err != nil {
		return nil, fmt.Errorf("cannot read the spec: %w", err)
	}
	return s, nil
}
