// Lets the kernel begin with what the start of a unit would wait for later.
//
// Up to version 255 systemd moves a unit's first process into its control group,
// for which the kernel takes a lock that costs a grace period of RCU, 4 to 13 ms,
// unless it was taken a moment ago (cgroup_threadgroup_rwsem in
// kernel/cgroup/cgroup.c, rcu_sync_enter() in kernel/rcu/sync.c; the mount option
// favordynmods of cgroups(7) takes the same cost away). So a thread takes it
// beforehand, by moving this process to the control group that it is in. That it
// may not do so, or that there is no such group, only makes the start slower.
//
// It is C because it is worth what it comes early: here, before the Go runtime and
// the packages of this program are there, which takes 3 ms and more.

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// starts_unit tells whether one of the arguments in front of the command to run
// asks for a unit. A name that only looks like it costs nothing but the move.
static int starts_unit(int argc, char **argv) {
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "run") == 0 || strcmp(argv[i], "learn") == 0)
			return 1;
	return 0;
}

// own_group finds the path in cgroup v2 in the content of /proc/self/cgroup.
static const char *own_group(char *text) {
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (strncmp(line, "0::/", 4) == 0)
			return line + 3;
	return NULL;
}

static int read_text(const char *name, char *text, size_t size) {
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = read(fd, text, size - 1);
	close(fd);
	text[n < 0 ? 0 : n] = 0;
	return n > 0 ? 0 : -1;
}

static void *move_to_own_group(void *unused) {
	static const char *const roots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
	char text[8192], name[8192 + 64];
	(void)unused;
	if (read_text("/proc/self/cgroup", text, sizeof text) != 0)
		return NULL;
	const char *group = own_group(text);
	for (size_t i = 0; group && i < sizeof roots / sizeof *roots; i++) {
		snprintf(name, sizeof name, "%s%s/cgroup.procs", roots[i], group);
		int fd = open(name, O_WRONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		ssize_t written = write(fd, "0", 1);
		(void)written;
		close(fd);
		break;
	}
	return NULL;
}

// share_heap keeps threads from heaps of their own, which libseccomp's compiler would
// let grow page by page.
static void share_heap(void) { mallopt(M_ARENA_MAX, 1); }

__attribute__((constructor)) static void prime(int argc, char **argv) {
	pthread_t thread;
	sigset_t all, before;
	if (!starts_unit(argc, argv))
		return;
	// Signals are for threads that Go knows.
	sigfillset(&all);
	if (pthread_sigmask(SIG_BLOCK, &all, &before) != 0)
		return;
	if (pthread_create(&thread, NULL, move_to_own_group, NULL) == 0)
		pthread_detach(thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	share_heap();
}
