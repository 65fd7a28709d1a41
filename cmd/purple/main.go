// Command purple runs commands nobody vouches for as transient systemd units
// under a YAML policy.
package main

import (
	"os"
	"runtime"
)

// The main goroutine keeps the main thread: a thread that has entered a
// sandbox's network namespace must end with its goroutine (internal/network),
// and the main thread cannot.
func init() { runtime.LockOSThread() }

func main() {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(a.main(os.Args[1:]))
}
