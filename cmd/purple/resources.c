// Makes sure, before Go's runtime begins, that it can. What it cannot do without, it
// ends the process for: with pages of text and the status 2.

#include "streams.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

// What the runtime and the packages of this program take until main begins, with some
// room, and files for what a run opens at the most.
enum { least_threads = 10, least_files = 48 };
static const size_t least_space = (size_t)1280 << 20; // of addresses; most is only reserved
static const rlim_t least_data = 256 << 20;

static void refuse(const char *what) {
	static const char before[] = "purple: cannot start: ";
	char line[256];
	int length = snprintf(line, sizeof line, "%s%s\n", before, what);
	ssize_t n = write(STDERR_FILENO, line, (size_t)length);
	(void)n;
	_exit(125);
}

static pthread_barrier_t all_there;

static void *be_there(void *unused) {
	pthread_barrier_wait(&all_there);
	return unused;
}

// can_have_threads starts as many at once as will be needed, since no number tells
// what limits above this process's own control group leave it.
static int can_have_threads(void) {
	pthread_t threads[least_threads];
	pthread_attr_t small;
	int started = 0;
	if (pthread_barrier_init(&all_there, NULL, least_threads + 1) != 0 || pthread_attr_init(&small) != 0)
		return 0;
	pthread_attr_setstacksize(&small, 64 << 10);
	while (started < least_threads && pthread_create(&threads[started], &small, be_there, NULL) == 0)
		started++;
	if (started < least_threads)
		return 0; // those that wait end with the process
	pthread_barrier_wait(&all_there);
	for (int i = 0; i < least_threads; i++)
		pthread_join(threads[i], NULL);
	return 1;
}

static int is_limited(int resource, rlim_t least) {
	struct rlimit limit;
	return getrlimit(resource, &limit) == 0 && limit.rlim_max != RLIM_INFINITY && limit.rlim_max < least;
}

static int can_have_space(void) {
	void *space = mmap(NULL, least_space, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (space == MAP_FAILED)
		return 0;
	munmap(space, least_space);
	return 1;
}

__attribute__((constructor(103))) static void check_resources(void) {
	if (is_limited(RLIMIT_NOFILE, least_files))
		refuse("it may not open enough files: raise the limit (ulimit -n)");
	if (!can_have_space())
		refuse("it may not have enough address space: raise the limit (ulimit -v)");
	if (is_limited(RLIMIT_DATA, least_data))
		refuse("it may not have enough memory: raise the limit (ulimit -d)");
	if (!can_have_threads())
		refuse("it may not have enough threads: raise TasksMax= of its unit, or the limit of processes (ulimit -u)");
}
