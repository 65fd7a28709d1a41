// Command purple runs commands nobody vouches for as transient systemd units
// under a YAML policy.
package main

import (
	"errors"
	"fmt"
	"os"
)

func main() {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	err := newRootCommand(a).Execute()
	var status *statusError
	if err != nil && !(errors.As(err, &status) && status.err == nil) {
		fmt.Fprintf(a.stderr, "purple: %v\n", err)
	}
	os.Exit(exitStatus(err))
}
