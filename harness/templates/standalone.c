// SPDX-License-Identifier: GPL-2.0-only
/*
 * Parts of the C files that `harness minimise --as c` writes (harness/ascode.py). A part
 * begins with a line that names it and what it needs; those that a program uses are put
 * together in the order of this file.
 */
/* @base */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLOTS		16
#define ACTORS		64
#define BARRIERS	16
#define LIMIT_S		120

/* No errno of the kernel's. */
#define SHORT		1001
#define SKIPPED		1002
#define EXIT		1003

#define LIST_END	-1

/* Of the modules. */
static const char *folder = "/payload";

static struct shared {
	_Atomic int go;
	_Atomic int done[ACTORS];
	_Atomic int pid[ACTORS];
	_Atomic unsigned int arrived[BARRIERS];
} *shared;

static uint64_t rng;

static uint64_t draw(void)
{
	uint64_t z = rng += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static void pause_us(uint64_t us)
{
	struct timespec ts = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };

	nanosleep(&ts, NULL);
}

static bool in_list(int result, va_list list)
{
	bool found = false;
	int one;

	while ((one = va_arg(list, int)) != LIST_END)
		found |= one == result;
	return found;
}

/* Is a result one of those that follow, up to LIST_END? */
__attribute__((unused)) static bool is(int result, ...)
{
	va_list list;
	bool found;

	va_start(list, result);
	found = in_list(result, list);
	va_end(list);
	return found;
}

/* Says so if a result is none of those that follow, up to LIST_END. */
__attribute__((unused)) static void expect(const char *what, int result, ...)
{
	va_list list;
	bool found;

	va_start(list, result);
	found = in_list(result, list);
	va_end(list);
	if (!found)
		fprintf(stderr, "unexpected: %s: %s\n", what,
			result == SHORT ? "fewer bytes" : result == EXIT ? "its status" :
			result ? strerror(result) : "success");
}

/* @slots */
static int fds[SLOTS] = { [0 ... SLOTS - 1] = -1 };

/* @choose */
/* One of several ways, in proportion to their weights. */
static int pick(int first, ...)
{
	int total = first, number = 0, one;
	va_list list;
	int64_t at;

	va_start(list, first);
	while ((one = va_arg(list, int)) != LIST_END)
		total += one;
	va_end(list);
	at = draw() % total - first;
	va_start(list, first);
	while (at >= 0) {
		at -= va_arg(list, int);
		number++;
	}
	va_end(list);
	return number;
}

/* @modules */
static const char *in_folder(const char *name)
{
	static char path[4096];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

/* @data */
static unsigned char buf[1 << 20];

static void fill(unsigned char *to, size_t len, uint64_t key)
{
	memset(to, 'a' + key % 26, len);
}

/* @check data */
static int check(ssize_t got, int64_t key, uint64_t least)
{
	if (got < 0)
		return errno;
	for (ssize_t i = 0; key >= 0 && i < got; i++) {
		if (buf[i] != 'a' + key % 26) {
			fprintf(stderr, "unexpected: byte %zd is %#x\n", i, buf[i]);
			break;
		}
	}
	if ((uint64_t)got < least)
		fprintf(stderr, "unexpected: %zd bytes, less than %llu\n", got,
			(unsigned long long)least);
	return 0;
}

/* @open */
static int do_open(int slot, const char *path, int flags, mode_t mode)
{
	if (fds[slot] >= 0)
		close(fds[slot]);
	fds[slot] = open(path, flags | O_CLOEXEC, mode);
	return fds[slot] < 0 ? errno : 0;
}

/* @close */
static int do_close(int slot)
{
	int fd = fds[slot];

	if (fd < 0)
		return SKIPPED;
	fds[slot] = -1;
	return close(fd) ? errno : 0;
}

/* @read data check */
static int do_read(int slot, size_t count, int64_t key, uint64_t least)
{
	return fds[slot] < 0 ? SKIPPED : check(read(fds[slot], buf, count), key, least);
}

/* @write data */
static int do_write(int slot, size_t count, uint64_t key)
{
	ssize_t done;

	if (fds[slot] < 0)
		return SKIPPED;
	fill(buf, count, key);
	done = write(fds[slot], buf, count);
	return done < 0 ? errno : (size_t)done < count ? SHORT : 0;
}

/* @pread data check */
static int do_pread(int slot, off_t offset, size_t count, int64_t key, uint64_t least)
{
	return fds[slot] < 0 ? SKIPPED : check(pread(fds[slot], buf, count, offset), key, least);
}

/* @pread_hole data */
static int do_pread_hole(int slot, off_t offset, size_t count)
{
	ssize_t got;

	if (fds[slot] < 0)
		return SKIPPED;
	got = pread(fds[slot], buf, count, offset);
	if (got < 0)
		return errno;
	for (ssize_t i = 0; i < got; i++) {
		if (buf[i]) {
			fprintf(stderr, "unexpected: byte %zd of a hole is %#x\n", i, buf[i]);
			break;
		}
	}
	return 0;
}

/* @pwrite data */
static int do_pwrite(int slot, off_t offset, size_t count, uint64_t key)
{
	ssize_t done;

	if (fds[slot] < 0)
		return SKIPPED;
	fill(buf, count, key);
	done = pwrite(fds[slot], buf, count, offset);
	return done < 0 ? errno : (size_t)done < count ? SHORT : 0;
}

/* @lseek */
static int do_lseek(int slot, off_t offset, int whence)
{
	return fds[slot] < 0 ? SKIPPED : lseek(fds[slot], offset, whence) < 0 ? errno : 0;
}

/* @fsync */
static int do_fsync(int slot)
{
	return fds[slot] < 0 ? SKIPPED : fsync(fds[slot]) ? errno : 0;
}

/* @ftruncate */
static int do_ftruncate(int slot, off_t length)
{
	return fds[slot] < 0 ? SKIPPED : ftruncate(fds[slot], length) ? errno : 0;
}

/* @ioctl */
#include <sys/ioctl.h>

static int do_ioctl(int slot, unsigned long request, unsigned long arg, const char *data)
{
	static char text[4096];

	if (fds[slot] < 0)
		return SKIPPED;
	snprintf(text, sizeof(text), "%s", data);
	return ioctl(fds[slot], request, *data ? (unsigned long)text : arg) < 0 ? errno : 0;
}

/* @maps */
static void *maps[SLOTS];
static size_t map_len[SLOTS];

/* @mmap maps */
static int do_mmap(int map, int slot, size_t length, int prot, int flags, off_t offset)
{
	void *at;

	if (fds[slot] < 0)
		return SKIPPED;
	if (maps[map])
		munmap(maps[map], map_len[map]);
	at = mmap(NULL, length, prot, flags, fds[slot], offset);
	maps[map] = at == MAP_FAILED ? NULL : at;
	map_len[map] = length;
	return at == MAP_FAILED ? errno : 0;
}

/* @munmap maps */
static int do_munmap(int map)
{
	void *at = maps[map];

	maps[map] = NULL;
	return !at ? SKIPPED : munmap(at, map_len[map]) ? errno : 0;
}

/* @touch maps */
/* A page that is not there any more ends the program, with SIGBUS. */
static int do_touch(int map, bool writes)
{
	volatile unsigned char *at = maps[map];

	if (!at)
		return SKIPPED;
	for (size_t i = 0; i < map_len[map]; i += 4096) {
		if (writes)
			at[i] = 'a';
		else
			(void)at[i];
	}
	return 0;
}

/* @poll */
#include <poll.h>

static int do_poll(int slot, short events, int timeout_ms)
{
	struct pollfd pfd = { .fd = fds[slot], .events = events };

	return fds[slot] < 0 ? SKIPPED : poll(&pfd, 1, timeout_ms) < 0 ? errno : 0;
}

/* @stat */
static int do_stat(const char *path)
{
	struct stat st;

	return stat(path, &st) ? errno : 0;
}

/* @readdir */
static int do_readdir(int slot)
{
	static char entries[32768];
	long got;

	if (fds[slot] < 0)
		return SKIPPED;
	while ((got = syscall(SYS_getdents64, fds[slot], entries, sizeof(entries))) > 0)
		;
	return got < 0 ? errno : 0;
}

/* @mkdir */
static int do_mkdir(const char *path, mode_t mode)
{
	return mkdir(path, mode) ? errno : 0;
}

/* @rmdir */
static int do_rmdir(const char *path)
{
	return rmdir(path) ? errno : 0;
}

/* @unlink */
static int do_unlink(const char *path)
{
	return unlink(path) ? errno : 0;
}

/* @rename */
static int do_rename(const char *from, const char *to)
{
	return rename(from, to) ? errno : 0;
}

/* @chdir */
static int do_chdir(const char *path)
{
	return chdir(path) ? errno : 0;
}

/* @mount */
static int do_mount(const char *source, const char *target, const char *type,
		    unsigned long flags, const char *data)
{
	return mount(source, target, type, flags, data) ? errno : 0;
}

/* @umount */
static int do_umount(const char *target, int flags)
{
	return umount2(target, flags) ? errno : 0;
}

/* @umount_all */
/* Everything at or below a path, the last one first. */
static int do_umount_all(const char *under, int flags)
{
	char line[4096], target[4096], last[4096];
	size_t len = strlen(under);
	FILE *mounts;

	for (;;) {
		*last = '\0';
		mounts = fopen("/proc/self/mounts", "re");
		if (!mounts)
			return errno;
		while (fgets(line, sizeof(line), mounts)) {
			if (sscanf(line, "%*s %4095s", target) == 1 &&
			    !strncmp(target, under, len) && (!target[len] || target[len] == '/'))
				strcpy(last, target);
		}
		fclose(mounts);
		if (!*last)
			return 0;
		if (umount2(last, flags))
			return errno;
	}
}

/* @sync */
static int do_sync(void)
{
	sync();
	return 0;
}

/* @write_file */
static int do_write_file(const char *path, const char *data)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return errno;
	if (write(fd, data, strlen(data)) < 0)
		err = errno;
	close(fd);
	return err;
}

/* @read_file */
static int do_read_file(const char *path, const char *equals)
{
	static char text[65536];
	int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;
	ssize_t got;

	if (fd < 0)
		return errno;
	got = read(fd, text, sizeof(text) - 1);
	if (got < 0)
		err = errno;
	close(fd);
	if (err)
		return err;
	text[got] = '\0';
	text[strcspn(text, "\n")] = '\0';
	if (*equals && strcmp(text, equals))
		fprintf(stderr, "unexpected: %s has %s, not %s\n", path, text, equals);
	return 0;
}

/* @await_line */
static int do_await_line(const char *path, const char *wanted, unsigned int timeout_ms)
{
	char line[4096];

	for (unsigned int waited = 0; waited <= timeout_ms; waited++) {
		FILE *file = fopen(path, "re");
		bool found = false;

		if (!file)
			return errno;
		while (!found && fgets(line, sizeof(line), file)) {
			line[strcspn(line, "\n")] = '\0';
			found = !strcmp(line, wanted);
		}
		fclose(file);
		if (found)
			return 0;
		pause_us(1000);
	}
	return ETIMEDOUT;
}

/* @exec */
static int do_exec(char * const argv[])
{
	int status = 0;
	pid_t pid = fork();

	if (pid < 0)
		return errno;
	if (!pid) {
		execv(argv[0], argv);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status ? EXIT : 0;
}

/* @kill */
static int do_kill(int target, int signal)
{
	if (shared->done[target] || !shared->pid[target])
		return ESRCH;
	return kill(shared->pid[target], signal) ? errno : 0;
}

/* @sleep */
static int do_sleep(uint64_t us, uint64_t jitter_us)
{
	pause_us(us + (jitter_us ? draw() % (jitter_us + 1) : 0));
	return 0;
}

/* @delay */
static int do_delay(uint64_t spins)
{
	uint64_t turns = draw() % (spins + 1);

	for (volatile uint64_t i = 0; i < turns; i++)
		;
	return 0;
}

/* @yield */
static int do_yield(void)
{
	sched_yield();
	return 0;
}

/* @pin */
static int do_pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) ? errno : 0;
}

/* @barrier */
/* Until so many have come here. */
static int do_barrier(int number, unsigned int parties)
{
	unsigned int turn = shared->arrived[number]++ / parties + 1;

	while (shared->arrived[number] < turn * parties)
		pause_us(50);
	return 0;
}

/* @loopback */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

static struct sockaddr_in loopback(int port)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
}

/* @socket loopback */
static int do_socket(int slot, int type, int number)
{
	struct sockaddr_in address = loopback(type == SOCK_RAW ? 0 : number);
	int err;

	if (fds[slot] >= 0)
		close(fds[slot]);
	fds[slot] = socket(AF_INET, type | SOCK_CLOEXEC, type == SOCK_RAW ? number : 0);
	if (fds[slot] < 0)
		return errno;
	if (type == SOCK_DGRAM && !number)
		return 0;
	if (!bind(fds[slot], (struct sockaddr *)&address, sizeof(address)))
		return 0;
	err = errno;
	close(fds[slot]);
	fds[slot] = -1;
	return err;
}

/* @send data loopback */
static int do_send(int slot, int port, size_t count, uint64_t key)
{
	struct sockaddr_in to = loopback(port);
	ssize_t sent;

	if (fds[slot] < 0)
		return SKIPPED;
	fill(buf, count, key);
	sent = sendto(fds[slot], buf, count, MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof(to));
	return sent < 0 ? errno : (size_t)sent < count ? SHORT : 0;
}

/* @recv data loopback */
/* What it says is not looked at: a raw socket has the header of IP before it. */
static int do_recv(int slot, size_t count, int timeout_ms)
{
	struct pollfd pfd = { .fd = fds[slot], .events = POLLIN };

	if (fds[slot] < 0)
		return SKIPPED;
	if (timeout_ms && poll(&pfd, 1, timeout_ms) < 0)
		return errno;
	return recv(fds[slot], buf, count, MSG_DONTWAIT) < 0 ? errno : 0;
}

/* @open_socket */
#include <sys/socket.h>

static int do_open_socket(int slot, int family, int type, int protocol)
{
	if (fds[slot] >= 0)
		close(fds[slot]);
	fds[slot] = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
	return fds[slot] < 0 ? errno : 0;
}

/* @socket_call */
#include <sys/socket.h>

enum socket_call {
	CALL_BIND, CALL_CONNECT, CALL_LISTEN, CALL_ACCEPT, CALL_SEND, CALL_SENDTO,
	CALL_RECVFROM, CALL_GETSOCKOPT, CALL_SETSOCKOPT, CALL_GETSOCKNAME, CALL_GETPEERNAME,
	CALL_SHUTDOWN,
};

static int do_socket_call(int slot, enum socket_call call, int level, int number, const char *data)
{
	static char text[4096], sent[200];
	socklen_t len = number ? number : 16, room = sizeof(text), size = sizeof(int);
	struct sockaddr *address = (struct sockaddr *)text;
	int fd = fds[slot], family = 0, done = -1;

	if (fd < 0)
		return SKIPPED;
	memset(text, 0, sizeof(text));
	if (call == CALL_BIND || call == CALL_CONNECT || call == CALL_SENDTO) {
		getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
		address->sa_family = family;
		snprintf(text + sizeof(sa_family_t), sizeof(text) - sizeof(sa_family_t), "%s", data);
	} else {
		snprintf(text, sizeof(text), "%s", data);
	}
	switch (call) {
	case CALL_BIND:
		done = bind(fd, address, len);
		break;
	case CALL_CONNECT:
		done = connect(fd, address, len);
		break;
	case CALL_LISTEN:
		done = listen(fd, number);
		break;
	case CALL_ACCEPT:
		done = accept(fd, NULL, NULL);
		if (done >= 0)
			close(done);
		break;
	case CALL_SEND:
		done = send(fd, sent, sizeof(sent), MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case CALL_SENDTO:
		done = sendto(fd, sent, sizeof(sent), MSG_DONTWAIT | MSG_NOSIGNAL, address, len);
		break;
	case CALL_RECVFROM:
		done = recvfrom(fd, sent, sizeof(sent), MSG_DONTWAIT, address, &room);
		break;
	case CALL_GETSOCKOPT:
		done = getsockopt(fd, level, number, text, &room);
		break;
	case CALL_SETSOCKOPT:
		room = strlen(data) > sizeof(int) ? strlen(text) : sizeof(int);
		done = setsockopt(fd, level, number, text, room);
		break;
	case CALL_GETSOCKNAME:
		done = getsockname(fd, address, &room);
		break;
	case CALL_GETPEERNAME:
		done = getpeername(fd, address, &room);
		break;
	case CALL_SHUTDOWN:
		done = shutdown(fd, number);
		break;
	}
	return done < 0 ? errno : 0;
}

/* @interface */
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int set_up(const char *interface, bool up)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), err = 0;
	struct ifreq request = { };

	if (fd < 0)
		return errno;
	snprintf(request.ifr_name, IFNAMSIZ, "%s", interface);
	if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		err = errno;
	request.ifr_flags = up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP;
	if (!err && ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		err = errno;
	close(fd);
	return err;
}

/* @ifup interface */
static int do_ifup(const char *interface)
{
	return set_up(interface, true);
}

/* @ifdown interface */
static int do_ifdown(const char *interface)
{
	return set_up(interface, false);
}

/* @finit_module modules */
static int do_finit_module(const char *path, const char *params, int flags)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), err;

	if (fd < 0)
		return errno;
	err = syscall(SYS_finit_module, fd, params, flags) ? errno : 0;
	close(fd);
	return err;
}

/* @delete_module */
static int do_delete_module(const char *name, unsigned int flags)
{
	return syscall(SYS_delete_module, name, flags) ? errno : 0;
}

/* @main */
static void begin(int number, uint64_t seed, int priority)
{
	struct sched_param param = { .sched_priority = priority };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	rng = seed ^ (number + 1) * 0x9e3779b97f4a7c15ULL;
	rng = draw();
	if (priority && sched_setscheduler(0, SCHED_FIFO, &param))
		perror("SCHED_FIFO");
	while (!shared->go)
		pause_us(100);
}

static void start(int number, void (*body)(void), uint64_t seed, int priority)
{
	pid_t pid = fork();

	if (pid < 0) {
		perror("fork");
		exit(1);
	}
	if (!pid) {
		begin(number, seed, priority);
		body();
		_exit(0);
	}
	shared->pid[number] = pid;
}

static void wait_for_all(int count)
{
	int left = count, status;
	pid_t pid;

	alarm(LIMIT_S);
	shared->go = 1;
	while (left && (pid = wait(&status)) > 0) {
		for (int i = 0; i < count; i++) {
			if (shared->pid[i] == pid) {
				shared->done[i] = 1;
				left--;
			}
		}
	}
}

static void prepare(int argc, char **argv)
{
	if (argc > 2) {
		fprintf(stderr, "usage: %s [FOLDER OF THE MODULES]\n", argv[0]);
		exit(2);
	}
	if (argc > 1)
		folder = argv[1];
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
}
