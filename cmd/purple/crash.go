package main

// #include "crash.h"
// #include "streams.h"
import "C"

import (
	"os"
	"runtime/debug"

	"github.com/purple-sandbox/purple/internal/spec"
)

// standardError is the caller's. From catchCrashes on it is not descriptor 2, which Go's
// runtime prints to when it crashes.
var standardError = os.Stderr

// catchCrashes makes a crash of the runtime end as crash.c says.
func catchCrashes() {
	debug.SetTraceback("crash")
	if C.catch_crashes() >= 0 {
		standardError = os.NewFile(uintptr(C.inherited_streams[2]), "standard error")
	}
}

// mayHaveRun says that from now on a crash does not prove that nothing of the command
// has run.
func mayHaveRun() { C.crash_status = spec.StatusLost }
