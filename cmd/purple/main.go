// Command purple runs commands nobody vouches for as transient systemd units
// under a YAML policy.
package main

import (
	"os"
	"runtime"
)

// The main goroutine keeps the main thread: a thread that has entered a
// sandbox's network namespace must end with its goroutine (internal/network),
// and the main thread cannot. All work is another goroutine's, which is on no thread
// of its own: else each turn of one that it waits for is two switches of threads.
func init() { runtime.LockOSThread() }

func main() {
	catchCrashes()
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: standardError}
	status := make(chan int)
	go func() { status <- a.main(os.Args[1:]) }()
	os.Exit(<-status)
}
