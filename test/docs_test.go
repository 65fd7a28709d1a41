//go:build integration

package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocumentedCommands runs every `sh` block of the README and of docs/, in
// one folder that holds the README's ai_agent.py, while a sandbox runs.
func TestDocumentedCommands(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	dir := tempDir(t)
	sh(t, fmt.Sprintf("cp demo/ai_agent.py %q", dir))
	t.Cleanup(func() { sh(t, "rm -f /etc/purple/policies/my-agent.yaml /etc/purple/policies/web-agent.yaml") })
	unit := strings.TrimSpace(call{args: []string{"run", "--profile", profilePath("plain"), "--detach", "--", "sleep", "200"}}.run(t).mustSucceed(t).stdout)
	t.Cleanup(func() { sh(t, "systemctl stop "+unit) })
	blocks := 0
	for _, page := range append([]string{"../README.md"}, pages...) {
		for _, block := range shellBlocks(t, page) {
			blocks++
			// Detached by the block before: systemctl status fails on a unit
			// that ends while it is asked about.
			noUnits(t, "ai-dev-safe")
			runBlock(t, dir, page, block)
		}
	}
	if blocks < 3 {
		t.Errorf("only %d blocks", blocks)
	}
}

func runBlock(t *testing.T, dir, page, block string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", block)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "SYSTEMD_PAGER=", "PAGER=cat")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s\n%s", page, err, block, out)
	}
}

func shellBlocks(t *testing.T, page string) []string {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, rest := range strings.Split(string(data), "```sh\n")[1:] {
		block, _, ok := strings.Cut(rest, "```")
		if !ok {
			t.Fatalf("%s: a block has no end", page)
		}
		blocks = append(blocks, block)
	}
	return blocks
}
