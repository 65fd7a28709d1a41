// Turns a crash of Go's runtime into what the contract of exit statuses says: one line
// and 125, or another status once the command may have run.
//
// Where the machine has no thread or no memory left, or a library panics in a goroutine
// of its own, the runtime prints pages to standard error and exits with 2, which could
// be a command's own status. With GOTRACEBACK=crash it ends by SIGABRT instead, and it
// leaves the signal to a handler that was there before it (sigfwdgo() in
// runtime/signal_unix.go). Its text goes to a file in memory from main on.

#define _GNU_SOURCE // memfd_create(2)
#include "crash.h"
#include "streams.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int crash_status = 125; // nothing of the command has run

static int text = -1; // what the runtime prints

// put_line prints the first line that the runtime has printed. Nobody chooses that, but
// it may quote something: no byte of it steers a terminal.
static void put_line(void) {
	static const char before[] = "purple: internal error: ";
	char line[256], said[sizeof line - sizeof before];
	size_t length = sizeof before - 1;
	ssize_t n = text < 0 ? 0 : pread(text, said, sizeof said - 1, 0);
	memcpy(line, before, length);
	for (ssize_t i = 0; i < n && said[i] != '\n'; i++)
		line[length++] = said[i] >= ' ' && said[i] < 0x7f ? said[i] : '?';
	if (length == sizeof before - 1) {
		memcpy(line + length, "aborted", 7);
		length += 7;
	}
	line[length++] = '\n';
	n = write(inherited_streams[STDERR_FILENO], line, length);
	(void)n;
}

static void on_abort(int signal) {
	(void)signal;
	put_line();
	_exit(crash_status);
}

__attribute__((constructor(102))) static void handle_abort(void) {
	struct sigaction action;
	memset(&action, 0, sizeof action);
	action.sa_handler = on_abort;
	action.sa_flags = SA_ONSTACK; // as the runtime wants it of every handler
	sigaction(SIGABRT, &action, NULL);
}

// catch_crashes puts the file in the place of standard error. Without it the runtime's
// text comes, too, and the status is right all the same.
int catch_crashes(void) {
	if (inherited_streams[STDERR_FILENO] < 0)
		return -1;
	text = memfd_create("purple-crash", MFD_CLOEXEC);
	return text < 0 ? -1 : dup2(text, STDERR_FILENO);
}
