// Makes sure, before Go's runtime begins, that it can. What it cannot do without, it
// ends the process for: with pages of text and the status 2.

#define _GNU_SOURCE // strsep(3)
#include "streams.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
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

// Below this many that are left, it is tried whether there are enough: trying takes a
// thirtieth of a start.
enum { plenty = 256, few_processes = 4096 };

// read_line reads the beginning of a file, without a newline at its end; 0: it cannot.
static int read_line(const char *name, char *line, size_t size) {
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	ssize_t n;
	if (fd < 0)
		return 0;
	n = read(fd, line, size - 1);
	close(fd);
	if (n <= 0)
		return 0;
	line[n] = 0;
	return 1;
}

// has_room tells whether a control group may have many tasks more; 0: perhaps not.
static int has_room(char *group, size_t length) {
	char text[64];
	long long most;
	strcpy(group + length, "/pids.max");
	if (!read_line(group, text, sizeof text))
		return 0;
	if (strncmp(text, "max", 3) == 0)
		return 1;
	most = atoll(text);
	strcpy(group + length, "/pids.current");
	return read_line(group, text, sizeof text) && most - atoll(text) >= plenty;
}

// groups_have_room looks at the control group of this process and at all above it.
static int groups_have_room(const char *mount, const char *path) {
	char group[PATH_MAX];
	size_t root = strlen(mount), length = root + strlen(path);
	if (path[0] != '/' || strstr(path, "/..") || length + sizeof "/pids.current" > sizeof group)
		return 0;
	strcpy(group, mount);
	strcpy(group + root, path);
	for (; length > root + 1; length--) {
		int is_end = group[length] == 0 || group[length] == '/';
		if (is_end && !has_room(group, length))
			return 0;
		group[length] = 0;
	}
	// The root itself has no limit, unless it is that of a cgroup namespace only.
	strcpy(group + root, "/pids.max");
	return access(group, F_OK) != 0 || has_room(group, root);
}

// may_lack_threads tells whether something near limits them, as far as the kernel tells
// that quickly. The pids controller has a hierarchy of its own with cgroup v1
// (cgroups(7), "/proc/PID/cgroup").
static int may_lack_threads(void) {
	char text[4096], *line, *rest = text;
	const char *v2 = NULL, *v1 = NULL;
	struct rlimit limit;
	if (getuid() != 0 && (getrlimit(RLIMIT_NPROC, &limit) != 0 || limit.rlim_cur < few_processes))
		return 1;
	if (!read_line("/proc/self/cgroup", text, sizeof text))
		return 1;
	while ((line = strsep(&rest, "\n")) != NULL) {
		char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
		if (path == NULL)
			continue;
		*path++ = 0;
		if (controllers[1] == 0)
			v2 = path;
		else if (strcmp(controllers + 1, "pids") == 0)
			v1 = path;
	}
	if (v1 != NULL)
		return !groups_have_room("/sys/fs/cgroup/pids", v1);
	return v2 == NULL || !groups_have_room("/sys/fs/cgroup", v2);
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
	if (may_lack_threads() && !can_have_threads())
		refuse("it may not have enough threads: raise TasksMax= of its unit, or the limit of processes (ulimit -u)");
}
