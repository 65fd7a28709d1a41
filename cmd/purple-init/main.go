// Command purple-init is the inside of a Purple unit. purple starts it through
// systemd; it is not meant to be called by hand.

// Or the runtime keeps open the files of the processor limit, which are the host's.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/purple-sandbox/purple/internal/confine"
)

// The main goroutine keeps the main thread: the ids that init takes on while it
// makes the command's user namespace are per thread.
func init() { runtime.LockOSThread() }

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	switch {
	case len(args) == 0:
		return confine.Supervise()
	case slices.Equal(args, []string{"init"}):
		return confine.Init(false)
	case slices.Equal(args, []string{"init", "sealed"}):
		return confine.Init(true)
	case len(args) == 2 && args[0] == "trial":
		return confine.Trial(args[1])
	case len(args) == 2 && args[0] == "tried":
		return confine.Tried(args[1])
	default:
		fmt.Fprintf(os.Stderr, "purple-init: cannot be called with %q; purple starts purple-init itself\n", args)
		return 125
	}
}
