package main

// #include "streams.h"
import "C"

import (
	"fmt"
	"syscall"

	"github.com/purple-sandbox/purple/internal/stdio"
)

// callersStreams are the standard streams as purple was started with them, see
// streams.c. One that the command must not have is an error; the supervisor, who
// gets them, looks once more. A terminal is none of them: the command has a pty.
func callersStreams(terminal [3]bool) ([3]int, error) {
	var streams [3]int
	for n := range streams {
		fd := int(C.inherited_streams[n])
		if fd < 0 {
			return streams, fmt.Errorf("cannot keep %s: %w", stdio.Names[n], syscall.Errno(-fd))
		}
		if !terminal[n] {
			if err := checkStream(n, fd); err != nil {
				return streams, fmt.Errorf("cannot pass %s to the command: %w", stdio.Names[n], err)
			}
		}
		streams[n] = fd
	}
	return streams, nil
}

// descriptorOf is where the caller's stream n is: standard error is not 2, see
// catchCrashes.
func descriptorOf(n int) int {
	if fd := int(C.inherited_streams[n]); fd >= 0 {
		return fd
	}
	return n
}

func checkStream(n, fd int) error {
	facts, err := stdio.Examine(fd)
	if err != nil {
		return fmt.Errorf("cannot examine it: %w", err)
	}
	_, err = facts.Way(n)
	return err
}
