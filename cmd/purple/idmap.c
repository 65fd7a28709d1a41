// A user namespace lives in a process. This one shares purple's memory, so that it
// costs no copy of it, and does nothing until it is killed.

#define _GNU_SOURCE // clone(2)
#include "idmap.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// Only system calls without a trace in the memory that it shares, such as errno:
// these do not fail, and the last does not return.
static int wait_to_be_killed(void *unused) {
	(void)unused;
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	for (;;)
		syscall(SYS_ppoll, 0, 0, 0, 0, 0);
}

int start_in_user_namespace(void) {
	static char stack[16384] __attribute__((aligned(16)));
	sigset_t all, before;
	// A handler of Go's would run on memory that it takes for its own.
	sigfillset(&all);
	if (pthread_sigmask(SIG_BLOCK, &all, &before) != 0)
		return -1;
	int pid = clone(wait_to_be_killed, stack + sizeof stack, CLONE_VM | CLONE_NEWUSER | SIGCHLD, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return pid;
}
