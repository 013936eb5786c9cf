// SPDX-License-Identifier: GPL-2.0-only
/*
 * A plugin for QEMU that counts the instructions a guest executes, and stops it after so many.
 *
 *	-plugin stopat.so,count=FILE[,at=N]
 *
 * The first eight bytes of FILE, which must be there, hold the number so far. A debugger's own
 * stop lets QEMU's clock jump to the next timer, because the processor then stands still while
 * the machine still counts as running (docs/decisions/0007, 0010). So the processor is held here,
 * within an instruction block, until the main thread has noted that the machine is stopped.
 *
 * QEMU does not install the header of its plugins everywhere; what is used of it is declared
 * below (include/qemu/qemu-plugin.h, version 1 of the interface). The rest is not part of that
 * interface, and may be missing from a QEMU that was built without loadable modules.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define EXPORT	__attribute__((visibility("default")))
/* The main thread is waited for this long, in steps of a tenth of a millisecond. */
#define LIMIT	600000
#define STEP_NS	100000

struct qemu_plugin_tb;
typedef uint64_t plugin_id;
typedef void (*trans_cb)(plugin_id id, struct qemu_plugin_tb *block);
typedef void (*exec_cb)(unsigned int vcpu, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, trans_cb cb);
/* The flags are an enum; 0 is QEMU_PLUGIN_CB_NO_REGS. */
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, exec_cb cb, int flags,
					  void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);

EXPORT int qemu_plugin_version = 1;

static volatile uint64_t *count;
static uint64_t at = UINT64_MAX;

static void (*vmstop_prepare)(void);
static void (*vmstop)(int state);
static bool (*is_running)(void);
static int paused;

/* Before a block is executed: as if it were, all of it. */
static void executed(unsigned int vcpu, void *data)
{
	const struct timespec step = { .tv_nsec = STEP_NS };
	uint64_t before = *count;

	*count = before + (uintptr_t)data;
	if (before >= at || *count < at)
		return;
	vmstop_prepare();
	vmstop(paused);
	for (int turn = 0; is_running() && turn < LIMIT; turn++)
		nanosleep(&step, NULL);
	/* That it is to stop is written to the processor just after what was waited for. */
	nanosleep(&step, NULL);
}

static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
	void *size = (void *)(uintptr_t)qemu_plugin_tb_n_insns(block);

	qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, size);
}

static bool find_stop(void)
{
	int (*parse)(const void *lookup, const char *name, int otherwise, void *error);
	const void *states = dlsym(RTLD_DEFAULT, "RunState_lookup");

	parse = dlsym(RTLD_DEFAULT, "qapi_enum_parse");
	vmstop_prepare = dlsym(RTLD_DEFAULT, "qemu_system_vmstop_request_prepare");
	vmstop = dlsym(RTLD_DEFAULT, "qemu_system_vmstop_request");
	is_running = dlsym(RTLD_DEFAULT, "runstate_is_running");
	if (!states || !parse || !vmstop_prepare || !vmstop || !is_running)
		return false;
	paused = parse(states, "paused", -1, NULL);
	return paused >= 0;
}

static bool map_count(const char *path)
{
	int file = open(path, O_RDWR | O_CLOEXEC);
	void *at_file;

	if (file < 0)
		return false;
	at_file = mmap(NULL, sizeof(*count), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	count = at_file;
	return at_file != MAP_FAILED;
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "at=", 3)) {
			at = strtoull(argv[i] + 3, NULL, 10);
		} else if (!strncmp(argv[i], "count=", 6) && !map_count(argv[i] + 6)) {
			fprintf(stderr, "stopat: %s: %s\n", argv[i] + 6, strerror(errno));
			return -1;
		}
	}
	if (!count || !find_stop()) {
		fprintf(stderr, "stopat: this QEMU cannot be stopped from a plugin\n");
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
