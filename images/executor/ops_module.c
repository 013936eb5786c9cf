// SPDX-License-Identifier: GPL-2.0-only
/* finit_module and delete_module, with a record of where the module lay. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor.h"

int op_finit_module(struct ctx *c, const struct node *n)
{
	char name[NAME_LEN];
	int fd, err;

	fd = syscall(SYS_openat, AT_FDCWD, n->arg[0].s, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return errno;
	fail_arm(c);
	err = syscall(SYS_finit_module, fd, n->arg[1].s, (int)n->arg[2].i) ? errno : 0;
	fail_disarm(c);
	close(fd);
	if (!err) {
		module_name_of_path(name, sizeof(name), n->arg[0].s);
		life_loaded(c->prog, program_module(c->prog, name), now_us());
	}
	return err;
}

/*
 * Unload that goes ahead while a task is inside the module may end without a
 * sound, so it is looked for: the range is noted before, because afterwards
 * nothing tells whose the addresses on a stack were.
 */
int op_delete_module(struct ctx *c, const struct node *n)
{
	const char *name = n->arg[0].s;
	int module = program_module(c->prog, name);
	uint32_t disturbed = atomic_load(&shared->park.disturbed);
	uint64_t base = 0, size = 0, begun_us;
	uint32_t life;
	bool known;
	int err;

	known = module_range(name, &base, &size);
	life = life_open(module);
	if (c->index == ACTOR_UNLOADER) {
		note_before(c, name);
		/* Users may fail from its start on, if it is not refused. */
		atomic_store(&shared->park.disturbed, 1);
	}
	begun_us = now_us();
	fail_arm(c);
	err = syscall(SYS_delete_module, name, (unsigned int)n->arg[1].i) ? errno : 0;
	fail_disarm(c);
	if (err) {
		if (c->index == ACTOR_UNLOADER)
			atomic_store(&shared->park.disturbed, disturbed);
		return err;
	}
	life_unloaded(c->prog, life, module, now_us());
	if (known && size)
		find_inside(c, name, base, size, begun_us);
	return 0;
}
