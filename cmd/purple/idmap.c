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

// Only system calls that do not fail, as errno is shared, too. Whoever has started
// this may have been killed before prctl(2): then there is another parent.
static int wait_to_be_killed(void *starter) {
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	while (syscall(SYS_getppid) == *(const pid_t *)starter)
		syscall(SYS_ppoll, 0, 0, 0, 0, 0);
	syscall(SYS_exit_group, 0);
	return 0;
}

int start_in_user_namespace(void) {
	static char stack[16384] __attribute__((aligned(16)));
	static pid_t self;
	sigset_t all, before;
	self = getpid();
	// A handler of Go's would run on memory that it takes for its own.
	sigfillset(&all);
	if (pthread_sigmask(SIG_BLOCK, &all, &before) != 0)
		return -1;
	int pid = clone(wait_to_be_killed, stack + sizeof stack, CLONE_VM | CLONE_NEWUSER | SIGCHLD, &self);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return pid;
}
