package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/translate"
	"golang.org/x/sys/unix"
)

// receiptText is a receipt in JSON: docs/audit.md has its fields. null: not
// known.
type receiptText struct {
	Version    int       `json:"version"`
	Unit       string    `json:"unit"` // empty, as the next four: refused before there was one
	Profile    string    `json:"profile"`
	RunID      string    `json:"run_id"`
	PolicyHash string    `json:"policy_hash"`
	Command    string    `json:"command"` // quoted for a shell
	Began      time.Time `json:"began"`
	Ended      time.Time `json:"ended"`

	Status int            `json:"status"`
	Reason journal.Reason `json:"reason"`
	Signal uint8          `json:"signal,omitempty"`
	Error  string         `json:"error,omitempty"`

	Wall        *uint64 `json:"wall_usec"`
	CPU         *uint64 `json:"cpu_usec"`
	MemoryPeak  *uint64 `json:"memory_peak_bytes"`
	IORead      *uint64 `json:"io_read_bytes"`
	IOWritten   *uint64 `json:"io_written_bytes"`
	NetReceived *uint64 `json:"network_received_bytes"`
	NetSent     *uint64 `json:"network_sent_bytes"`

	LimitsReached []string       `json:"limits_reached"`
	OOMKills      *uint64        `json:"oom_kills"`
	Throttled     *uint64        `json:"cpu_throttled"`
	ThrottledTime *uint64        `json:"cpu_throttled_usec"`
	Denials       receiptDenials `json:"denials"`
}

type receiptDenials struct {
	Connections *uint64 `json:"connections"` // packets
	Syscalls    *uint64 `json:"syscalls"`    // calls
}

// receipt is the file that --receipt names. Nothing of it is in the file system
// while the run lasts: the command may be able to write to that directory.
// A nil receipt is none, and takes everything.
type receipt struct {
	file    string // as the caller named it
	dir     *os.File
	invoker translate.Invoker
	text    receiptText
}

// runForReceipt runs and, where that is asked for, writes the receipt: of a run
// that was refused as well.
func (a *app) runForReceipt(ctx context.Context, req request) error {
	if req.receipt == "" {
		return a.run(ctx, req, nil)
	}
	r, err := openReceipt(req)
	if err != nil {
		return fmt.Errorf("cannot write the receipt %q: %w", req.receipt, err)
	}
	defer r.dir.Close()
	runErr := a.run(ctx, req, r)
	if err := r.write(runErr); err != nil {
		fmt.Fprintf(a.stderr, "purple: cannot write the receipt %q: %v\n", req.receipt, err)
	}
	return runErr
}

// openReceipt makes sure that the receipt can be written, before anything runs.
func openReceipt(req request) (*receipt, error) {
	if req.detach {
		return nil, errors.New("nobody is there at the end of a run with --detach; its end is in the journal")
	}
	if strings.HasSuffix(req.receipt, "/") {
		return nil, errors.New("it names a directory")
	}
	r := &receipt{file: req.receipt, text: receiptText{Version: 1, Began: time.Now(), LimitsReached: []string{}}}
	var err error
	if r.invoker, err = invoker(); err != nil {
		return nil, err
	}
	return r, asInvoker(r.invoker, r.try)
}

// try opens the directory and makes a file in it.
func (r *receipt) try() error {
	var err error
	if r.dir, err = os.OpenFile(filepath.Dir(r.file), unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return err
	}
	if err := r.requireReplaceable(); err != nil {
		return err
	}
	temporary, f, err := r.create()
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), unix.Unlinkat(r.fd(), temporary, 0))
}

func (r *receipt) fd() int { return int(r.dir.Fd()) }

// requireReplaceable: the receipt takes the place of an older one, and of
// nothing else, such as /dev/null.
func (r *receipt) requireReplaceable() error {
	var st unix.Stat_t
	err := unix.Fstatat(r.fd(), filepath.Base(r.file), &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it exists and is not a regular file")
	}
	return nil
}

// create makes a file beside the receipt, under a name that nobody can guess.
func (r *receipt) create() (string, *os.File, error) {
	var id [8]byte
	_, _ = rand.Read(id[:]) // crypto/rand never fails: it ends the process instead
	name := ".purple-receipt-" + hex.EncodeToString(id[:])
	fd, err := unix.Openat(r.fd(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return "", nil, err
	}
	return name, os.NewFile(uintptr(fd), name), nil
}

// planned notes what will be run.
func (r *receipt) planned(p *translate.Plan) {
	if r == nil {
		return
	}
	s, t := &p.Spec, &r.text
	t.Unit, t.Profile, t.RunID, t.PolicyHash, t.Command = s.Unit, s.Profile, s.RunID, s.PolicyHash, journal.CommandText(s.Command.Argv)
}

// ended notes how the run has ended: e is what purple-init has recorded, nil if
// it could not.
func (r *receipt) ended(v verdict, e *journal.RunEnded) {
	if r == nil {
		return
	}
	t := &r.text
	t.Reason = v.reason
	if e == nil {
		return
	}
	t.Signal, t.Wall = e.Signal, e.Wall.Pointer()
	u := e.Usage
	t.CPU, t.MemoryPeak, t.IORead, t.IOWritten = u.CPU.Pointer(), u.MemoryPeak.Pointer(), u.IORead.Pointer(), u.IOWritten.Pointer()
	t.NetReceived, t.NetSent = u.NetReceived.Pointer(), u.NetSent.Pointer()
	t.LimitsReached = append(t.LimitsReached, strings.Fields(e.Reached.Limits)...)
	t.OOMKills, t.Throttled, t.ThrottledTime = e.Reached.OOMKills.Pointer(), e.Reached.Throttled.Pointer(), e.Reached.ThrottledTime.Pointer()
	t.Denials = receiptDenials{e.Denials.Connections.Pointer(), e.Denials.Syscalls.Pointer()}
}

// write writes the receipt at once and completely: a reader sees the old one or
// the new one. end is what the run returned.
func (r *receipt) write(end error) error {
	t := &r.text
	t.Ended, t.Status = time.Now(), exitStatus(end)
	if t.Reason == "" {
		t.Reason = journal.ReasonRefused
	}
	if status := (*statusError)(nil); end != nil && !(errors.As(end, &status) && status.err == nil) {
		t.Error = end.Error()
	}
	var content bytes.Buffer
	if err := printJSON(&content, t); err != nil {
		return err
	}
	return asInvoker(r.invoker, func() error { return r.replace(content.Bytes()) })
}

func (r *receipt) replace(content []byte) error {
	if err := r.requireReplaceable(); err != nil {
		return err
	}
	temporary, f, err := r.create()
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = unix.Renameat(r.fd(), temporary, r.fd(), filepath.Base(r.file))
	}
	if err != nil {
		return errors.Join(err, unix.Unlinkat(r.fd(), temporary, 0))
	}
	return nil
}
