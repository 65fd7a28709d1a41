package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/translate"
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
	Connections  *uint64 `json:"connections"`  // packets
	Syscalls     *uint64 `json:"syscalls"`     // calls
	Paths        *uint64 `json:"paths"`        // accesses to paths that were refused
	Capabilities *uint64 `json:"capabilities"` // calls refused for want of one
}

// receipt is the file that --receipt names. A nil receipt is none, and takes
// everything.
type receipt struct {
	placedFile
	text receiptText
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
	req.placed = &r.placedFile
	runErr := a.run(ctx, req, r)
	if r.exposed {
		return runErr
	}
	if err := r.write(runErr); err != nil {
		err = fmt.Errorf("cannot write the receipt %q: %w", req.receipt, err)
		return &statusError{orLost(exitStatus(runErr)), errors.Join(err, sayable(runErr))}
	}
	return runErr
}

// openReceipt makes sure that the receipt can be written, before anything runs.
func openReceipt(req request) (*receipt, error) {
	if req.detach {
		return nil, errors.New("nobody is there at the end of a run with --detach; its end is in the journal")
	}
	r := &receipt{text: receiptText{Version: 1, Began: time.Now(), LimitsReached: []string{}}}
	invoker, err := invoker()
	if err != nil {
		return nil, err
	}
	r.placedFile = placedFile{file: req.receipt, invoker: invoker, replace: true}
	return r, r.open()
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
	t.Denials = receiptDenials{
		e.Denials.Connections.Pointer(), e.Denials.Syscalls.Pointer(), e.Denials.Paths.Pointer(), e.Denials.Capabilities.Pointer(),
	}
}

// write writes the receipt. end is what the run returned.
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
	return r.put(content.Bytes())
}
