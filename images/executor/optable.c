// SPDX-License-Identifier: GPL-2.0-only
/*
 * What ops there are and what words each takes. harness/ops.py has the same
 * table for scenarios; a test compares it with what `executor tables` prints.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/module.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "executor.h"

static const struct flag open_flags[] = {
	{ "rdonly", O_RDONLY }, { "wronly", O_WRONLY }, { "rdwr", O_RDWR },
	{ "creat", O_CREAT }, { "excl", O_EXCL }, { "trunc", O_TRUNC },
	{ "append", O_APPEND }, { "nonblock", O_NONBLOCK },
	{ "directory", O_DIRECTORY }, { "path", O_PATH }, { "sync", O_SYNC },
	{ "nofollow", O_NOFOLLOW }, { },
};
static const struct flag whence_choice[] = {
	{ "set", SEEK_SET }, { "cur", SEEK_CUR }, { "end", SEEK_END }, { },
};
static const struct flag prot_flags[] = {
	{ "read", PROT_READ }, { "write", PROT_WRITE }, { "exec", PROT_EXEC }, { },
};
static const struct flag map_flags[] = {
	{ "shared", MAP_SHARED }, { "private", MAP_PRIVATE },
	{ "populate", MAP_POPULATE }, { },
};
static const struct flag touch_choice[] = {
	{ "read", 0 }, { "write", 1 }, { },
};
static const struct flag poll_flags[] = {
	{ "in", POLLIN }, { "out", POLLOUT }, { "pri", POLLPRI }, { },
};
static const struct flag mount_flags[] = {
	{ "ro", MS_RDONLY }, { "nosuid", MS_NOSUID }, { "nodev", MS_NODEV },
	{ "noexec", MS_NOEXEC }, { "remount", MS_REMOUNT }, { "bind", MS_BIND },
	{ "move", MS_MOVE }, { "silent", MS_SILENT }, { },
};
static const struct flag umount_flags[] = {
	{ "force", MNT_FORCE }, { "detach", MNT_DETACH },
	{ "expire", MNT_EXPIRE }, { "nofollow", UMOUNT_NOFOLLOW }, { },
};
static const struct flag finit_flags[] = {
	{ "ignore_modversions", MODULE_INIT_IGNORE_MODVERSIONS },
	{ "ignore_vermagic", MODULE_INIT_IGNORE_VERMAGIC }, { },
};
static const struct flag delete_flags[] = {
	{ "nonblock", O_NONBLOCK }, { "trunc", O_TRUNC }, { },
};
static const struct flag signal_choice[] = {
	{ "HUP", SIGHUP }, { "INT", SIGINT }, { "KILL", SIGKILL },
	{ "USR1", SIGUSR1 }, { "TERM", SIGTERM }, { "STOP", SIGSTOP },
	{ "CONT", SIGCONT }, { },
};

static const struct flag socket_choice[] = {
	{ "udp", SOCK_DGRAM }, { "raw", SOCK_RAW }, { },
};
const struct flag type_choice[] = {
	{ "stream", SOCK_STREAM }, { "dgram", SOCK_DGRAM }, { "raw", SOCK_RAW },
	{ "rdm", SOCK_RDM }, { "seqpacket", SOCK_SEQPACKET }, { "dccp", SOCK_DCCP }, { },
};
static const struct flag call_choice[] = {
	{ "bind", CALL_BIND }, { "connect", CALL_CONNECT }, { "listen", CALL_LISTEN },
	{ "accept", CALL_ACCEPT }, { "send", CALL_SEND }, { "sendto", CALL_SENDTO },
	{ "recvfrom", CALL_RECVFROM }, { "getsockopt", CALL_GETSOCKOPT },
	{ "setsockopt", CALL_SETSOCKOPT }, { "getsockname", CALL_GETSOCKNAME },
	{ "getpeername", CALL_GETPEERNAME }, { "shutdown", CALL_SHUTDOWN }, { },
};

static const char * const kind_names[] = {
	[P_SLOT] = "slot", [P_MAP] = "map", [P_COUNT] = "count",
	[P_NUMBER] = "number", [P_OFFSET] = "offset", [P_U64] = "u64",
	[P_KEY] = "key", [P_MODE] = "mode", [P_BARRIER] = "barrier",
	[P_PATH] = "path", [P_TEXT] = "text", [P_ACTOR] = "actor",
	[P_FLAGS] = "flags", [P_CHOICE] = "choice",
};

#define SLOT		{ P_SLOT, NULL, NULL }
#define MAP		{ P_MAP, NULL, NULL }
#define COUNT		{ P_COUNT, NULL, NULL }
#define NUMBER		{ P_NUMBER, NULL, NULL }
#define OFFSET		{ P_OFFSET, NULL, NULL }
#define U64		{ P_U64, NULL, NULL }
#define KEY		{ P_KEY, NULL, NULL }
#define MODE		{ P_MODE, NULL, NULL }
#define BARRIER		{ P_BARRIER, NULL, NULL }
#define PATH		{ P_PATH, NULL, NULL }
#define TEXT		{ P_TEXT, NULL, NULL }
#define ACTOR		{ P_ACTOR, NULL, NULL }
#define FLAGS(t)	{ P_FLAGS, #t, t }
#define CHOICE(t)	{ P_CHOICE, #t, t }

#define NPARAMS(...)	(sizeof((struct param[]){ __VA_ARGS__ }) / sizeof(struct param))
#define OP(n, ...) \
	{ .name = #n, .run = op_##n, .param = { __VA_ARGS__ }, .nparams = NPARAMS(__VA_ARGS__) }
#define OP_REST(n, ...) \
	{ .name = #n, .run = op_##n, .param = { __VA_ARGS__ }, .nparams = NPARAMS(__VA_ARGS__), \
	  .rest = true }
#define OP_PLAIN(n)	{ .name = #n, .run = op_##n }

static const struct op_type op_types[] = {
	OP(open, SLOT, PATH, FLAGS(open_flags), MODE),
	OP(close, SLOT),
	OP(read, SLOT, COUNT, KEY, NUMBER),
	OP(write, SLOT, COUNT, KEY),
	OP(pread, SLOT, NUMBER, COUNT, KEY, NUMBER),
	OP(pread_hole, SLOT, NUMBER, COUNT),
	OP(pwrite, SLOT, NUMBER, COUNT, KEY),
	OP(lseek, SLOT, OFFSET, CHOICE(whence_choice)),
	OP(fsync, SLOT),
	OP(ftruncate, SLOT, NUMBER),
	OP(ioctl, SLOT, U64, U64, TEXT),
	OP(mmap, MAP, SLOT, COUNT, FLAGS(prot_flags), FLAGS(map_flags), NUMBER),
	OP(munmap, MAP),
	OP(touch, MAP, CHOICE(touch_choice), KEY),
	OP(poll, SLOT, FLAGS(poll_flags), NUMBER),
	OP(stat, PATH),
	OP_REST(readdir, SLOT),
	OP(mkdir, PATH, MODE),
	OP(rmdir, PATH),
	OP(unlink, PATH),
	OP(rename, PATH, PATH),
	{ .name = "chdir", .run = op_chdir, .param = { PATH }, .nparams = 1,
	  .process_only = true },
	OP(mount, TEXT, PATH, TEXT, FLAGS(mount_flags), TEXT),
	OP(umount, PATH, FLAGS(umount_flags)),
	OP(umount_all, PATH, FLAGS(umount_flags)),
	OP_PLAIN(sync),
	OP(write_file, PATH, TEXT),
	OP(read_file, PATH, TEXT),
	OP_REST(exec, PATH),
	OP(kill, ACTOR, CHOICE(signal_choice)),
	OP(sleep, NUMBER, NUMBER),
	OP(delay, NUMBER),
	OP_PLAIN(yield),
	OP(pin, NUMBER),
	OP(barrier, BARRIER),
	OP(await_line, PATH, TEXT, NUMBER),
	OP(socket, SLOT, CHOICE(socket_choice), NUMBER),
	OP(send, SLOT, NUMBER, COUNT, KEY),
	OP(recv, SLOT, COUNT, KEY, NUMBER, NUMBER),
	OP(open_socket, SLOT, NUMBER, CHOICE(type_choice), NUMBER),
	OP(socket_call, SLOT, CHOICE(call_choice), NUMBER, NUMBER, TEXT),
	OP(finit_module, PATH, TEXT, FLAGS(finit_flags)),
	OP(delete_module, PATH, FLAGS(delete_flags)),
	{ .name = "survey", .run = op_survey, .param = { TEXT }, .nparams = 1,
	  .process_only = true },
	{ .name = "survey_sockets", .run = op_survey_sockets,
	  .param = { TEXT, NUMBER, NUMBER }, .nparams = 3, .process_only = true },
	OP(ifup, PATH),
	OP(ifdown, PATH),
};

const struct op_type *op_by_index(unsigned int i)
{
	return i < ARRAY_SIZE(op_types) ? &op_types[i] : NULL;
}

const struct op_type *op_by_name(const char *name)
{
	const struct op_type *type;

	for (unsigned int i = 0; (type = op_by_index(i)); i++) {
		if (!strcmp(type->name, name))
			return type;
	}
	return NULL;
}

static void print_table(const char *name, const struct flag *table)
{
	printf("table %s", name);
	for (; table->name; table++)
		printf(" %s", table->name);
	printf("\n");
}

void tables_print(void)
{
	const struct op_type *type;

	for (unsigned int i = 0; (type = op_by_index(i)); i++) {
		printf("op %s", type->name);
		for (unsigned int p = 0; p < type->nparams; p++) {
			printf(" %s", kind_names[type->param[p].kind]);
			if (type->param[p].table)
				printf(":%s", type->param[p].table_name);
		}
		printf("%s%s\n", type->rest ? " ..." : "",
		       type->process_only ? " process-only" : "");
	}
	for (unsigned int i = 0; (type = op_by_index(i)); i++) {
		for (unsigned int p = 0; p < type->nparams; p++) {
			if (type->param[p].table)
				print_table(type->param[p].table_name, type->param[p].table);
		}
	}
	printf("limits program=%d actors=%d nodes=%d depth=%d rest=%d slots=%d maps=%d "
	       "barriers=%d io=%d modules=%d ranks=%d steps=%d slice_us=%d settle_us=%d "
	       "fails=%d\n",
	       MAX_PROGRAM, MAX_ACTORS, MAX_NODES, MAX_DEPTH, MAX_REST, MAX_SLOTS, MAX_MAPS,
	       MAX_BARRIERS, MAX_IO, MAX_MODULES, MAX_RANKS, MAX_STEPS, MIN_SLICE_US,
	       MAX_SETTLE_US, MAX_FAILS);
	for (int res = 0; res < RES_MAX; res++) {
		if (result_name(res))
			printf("result %s\n", result_name(res));
	}
}
