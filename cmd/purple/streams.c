// Makes sure that the descriptors 0, 1 and 2 are the caller's, or /dev/null, before
// anything else of this program runs.
//
// A caller may have closed one of them, as cron jobs and daemons do. The next file
// that this program opens then has its number: a connection with the system's bus
// would be the standard input of the command. Go's runtime looks, too, but after the
// constructors, and after the threads that those have started.
//
// What is passed on to a command are copies that are made here: whatever happens to
// the numbers 0 to 2 later on, nothing of this program's own is ever among them.

#include "streams.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int inherited_streams[3]; // the copies; negative: why there is none, a negative errno

static const int status_refused = 125; // nothing of the command has run

static void refuse(void) {
	static const char line[] = "purple: cannot open \"/dev/null\" in the place of a standard stream that is closed\n";
	ssize_t written = write(STDERR_FILENO, line, sizeof line - 1);
	(void)written;
	_exit(status_refused);
}

// open(2) gives the lowest number that is free, and all below fd are open. What is
// read from /dev/null ends at once, what is written to it is discarded.
static void open_if_closed(int fd) {
	if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
		return;
	if (open("/dev/null", fd == STDIN_FILENO ? O_RDONLY : O_WRONLY) != fd)
		refuse();
}

// The lowest priority that is a program's: before the constructor of prime.c.
__attribute__((constructor(101))) static void take_streams(void) {
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		open_if_closed(fd);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		int copy = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
		inherited_streams[fd] = copy >= 0 ? copy : -errno;
	}
}
