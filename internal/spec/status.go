package spec

import "golang.org/x/sys/unix"

// The exit statuses that are Purple's own: a contract, as docs and `purple run
// --help` have it. Anything else is the command's.
const (
	// StatusLost: the command may have run, and then Purple failed: how it has ended is
	// not known, or something that was to be kept of it is lost. It never takes the
	// place of a status other than 0 that the command is known to have ended with.
	StatusLost          = 123
	StatusTimeout       = 124
	StatusRefused       = 125 // nothing of the command has run
	StatusNotExecutable = 126
	StatusNotFound      = 127
	StatusOOM           = 137
)

// ExitStatus is the shell's convention: 128+n for signal n.
func ExitStatus(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
