package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/purple-sandbox/purple/journal"
)

// journalctl by its path: the caller's PATH must not choose what root runs.
// Reading the files of the journal without it would take libsystemd.
const journalctl = "/usr/bin/journalctl"

// The fields that journald adds to an entry when it gives it out.
const (
	fieldCursor = "__CURSOR"
	fieldTime   = "__REALTIME_TIMESTAMP"
)

// readJournal calls each with every entry that journalctl finds, until ctx is
// done or each returns an error.
func readJournal(ctx context.Context, each func(journal.Entry) error, args ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, journalctl, append([]string{"--quiet", "--no-pager", "--all", "--output=json"}, args...)...)
	cmd.Env = []string{"LC_ALL=C.UTF-8"} // nothing of the caller's chooses a journal
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("cannot read the journal: %w", err)
	}
	if err := eachEntry(stdout, each); err != nil {
		cancel()
		_ = cmd.Wait() // it was killed
		return err
	}
	if err := cmd.Wait(); err != nil {
		return journalError(err, stderr.Bytes())
	}
	return nil
}

// eachEntry reads to the end. A last line without its end is of a journalctl
// that was killed.
func eachEntry(r io.Reader, each func(journal.Entry) error) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read the journal: %w", err)
		}
		entry, err := journal.ParseEntry(line)
		if err != nil {
			return err
		}
		if err := each(entry); err != nil {
			return err
		}
	}
}

// journalError says why journalctl failed. Quiet, it may not tell a user that
// nothing is theirs to read.
func journalError(err error, stderr []byte) error {
	if text := strings.TrimSpace(string(stderr)); text != "" {
		err = fmt.Errorf("%w: %s", err, journal.Escape(text))
	}
	return fmt.Errorf("cannot read the journal: %w%s", err, permissionHint())
}

// permissionHint is for who may be shown only a part of the journal.
func permissionHint() string {
	if os.Geteuid() == 0 {
		return ""
	}
	return "; only root and the group systemd-journal may read all of it: call it with sudo"
}

// loggedUnits are the runs of which the journal has anything, ended or not.
// Any process may have written this field: it is good for a name to look for.
func (d domain) loggedUnits(ctx context.Context) ([]string, error) {
	cmd := exec.CommandContext(ctx, journalctl, "--quiet", "--no-pager", "--field="+d.aboutField())
	cmd.Env = []string{"LC_ALL=C.UTF-8"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, journalError(err, stderr.Bytes())
	}
	return strings.Fields(string(out)), nil
}

// syncJournal makes journald write what it has. Where it cannot be asked, the
// last lines may be missing, no more.
func syncJournal(ctx context.Context) { _ = exec.CommandContext(ctx, journalctl, "--sync").Run() }
