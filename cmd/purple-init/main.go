// Command purple-init is the inside of a Purple unit. purple starts it through
// systemd; it is not meant to be called by hand.

// The processor count is not worth reading the cgroup files at each start.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/purple-sandbox/purple/internal/confine"
)

// The main goroutine keeps the main thread: capabilities, no_new_privs and the
// seccomp filter are per thread, and execve must come from the one that has them.
func init() { runtime.LockOSThread() }

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	role := "supervise"
	if len(args) > 0 {
		role = args[0]
	}
	switch role {
	case "supervise":
		return confine.Supervise()
	case "init":
		return confine.Init()
	case "command":
		return confine.Command()
	case "userns":
		return confine.HoldUserNamespace()
	default:
		fmt.Fprintf(os.Stderr, "purple-init: unknown role %q; purple starts purple-init itself\n", role)
		return 125
	}
}
