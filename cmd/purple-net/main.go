// Command purple-net removes what the networks of runs have on the host: of one
// run at its end, and all of it after the last. systemd runs it, whatever has
// become of purple. Under a user manager purple-init runs it in the sandbox's
// network namespace, to load the ruleset. It is not meant to be called by hand.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"

	"github.com/purple-sandbox/purple/internal/network"
	"github.com/purple-sandbox/purple/internal/ruleset"
	"golang.org/x/sys/unix"
)

// The main goroutine keeps the main thread: a network namespace is entered by
// one thread.
func init() { runtime.LockOSThread() }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "purple-net: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "disconnect":
		if err := enterManagersNamespace(); err != nil {
			return err
		}
		return network.Disconnect(args[1])
	case len(args) == 1 && args[0] == "hold":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
		return network.Hold(signals, tellStopping)
	case len(args) == 1 && args[0] == "rules":
		return loadRules(os.Stdin)
	default:
		return errors.New("usage: purple-net disconnect UNIT | purple-net hold | purple-net rules; systemd and purple-init call it for purple")
	}
}

// loadRules loads the table in r, which is in JSON, where this process is.
func loadRules(r io.Reader) error {
	var table ruleset.Table
	if err := json.NewDecoder(r).Decode(&table); err != nil {
		return fmt.Errorf("cannot read the ruleset: %w", err)
	}
	return network.Load(table)
}

// enterManagersNamespace leaves the sandbox's network namespace, in which
// systemd starts every process of the unit, for the manager's.
func enterManagersNamespace() error {
	const name = "/proc/1/ns/net"
	ns, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("cannot open the host's network namespace: %w", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("cannot enter %q: %w", name, err)
	}
	return nil
}
