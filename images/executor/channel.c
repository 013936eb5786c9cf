// SPDX-License-Identifier: GPL-2.0-only
/*
 * The way out for the report and in for the program.
 *
 * In a guest both go through I/O ports, because no driver of the kernel under
 * test and no interrupt is involved: an output byte is one exit to QEMU, taken
 * at the instruction that writes it, and so the same in every replay.
 *
 * The machine is stopped to be saved by the agent too, at one exact instruction:
 * the harness starts QEMU with `-action panic=pause`, and pvpanic's port is the
 * one way to say so that needs no kernel driver.
 *
 * QEMU: docs/specs/pvpanic, hw/char/debugcon.c (reads answer 0xe9), docs/specs/fw_cfg (selector
 * register 0x510, data register 0x511, directory at key 0x19),
 * hw/misc/debugexit.c (exit status = value << 1 | 1).
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "executor.h"

/* Not 0x402: SeaBIOS sends its own messages there when somebody listens. */
#define DEBUGCON_PORT		0xe9
#define DEBUGCON_READBACK	0xe9
#define FWCFG_SELECTOR		0x510
#define FWCFG_DATA		0x511
#define FWCFG_DIRECTORY		0x19
#define FWCFG_MAX_FILES		4096
#define EXIT_PORT		0xf4
#define EXIT_VALUE		0x10
#define PAUSE_PORT		0x505
#define PAUSE_VALUE		0x01	/* pvpanic: "guest panicked" */
#define PROGRAM_NAME		"opt/kmod-harness/program"
#define PROGRAM_SYSFS		"/sys/firmware/qemu_fw_cfg/by_name/" PROGRAM_NAME "/raw"

static enum { CH_STDOUT, CH_IOPL, CH_DEVPORT } kind;
static int devport = -1;
static int program_key = -1;

struct fwcfg_file {
	uint32_t size;
	uint16_t select;
	uint16_t reserved;
	char name[56];
};

void channel_open_stdout(void)
{
	kind = CH_STDOUT;
}

const char *channel_kind(void)
{
	static const char * const names[] = { "stdout", "iopl", "devport" };

	return names[kind];
}

/* On a host, tests run as root must not touch the kernel they run on. */
bool channel_in_guest(void)
{
	return kind != CH_STDOUT;
}

static void fwcfg_select(uint16_t key)
{
	outw(key, FWCFG_SELECTOR);
}

static void fwcfg_read(void *buf, size_t len)
{
	insb(FWCFG_DATA, buf, len);
}

static int fwcfg_find(const char *name)
{
	struct fwcfg_file file;
	uint32_t count;

	fwcfg_select(FWCFG_DIRECTORY);
	fwcfg_read(&count, sizeof(count));
	count = be32toh(count);
	if (count > FWCFG_MAX_FILES)
		return -1;
	while (count--) {
		fwcfg_read(&file, sizeof(file));
		file.name[sizeof(file.name) - 1] = '\0';
		if (!strcmp(file.name, name))
			return be16toh(file.select);
	}
	return -1;
}

/*
 * iopl needs CONFIG_X86_IOPL_IOPERM. Without it /dev/port writes one byte per
 * system call; it cannot select a fw_cfg item, which wants one 16-bit access,
 * so the program then comes through the kernel's own fw_cfg driver.
 */
int channel_open_guest(const char **why)
{
	if (iopl(3) == 0) {
		kind = CH_IOPL;
		if (inb(DEBUGCON_PORT) != DEBUGCON_READBACK) {
			*why = "no debugcon at port 0xe9";
			return -1;
		}
		program_key = fwcfg_find(PROGRAM_NAME);
		if (program_key < 0) {
			*why = "no fw_cfg item " PROGRAM_NAME;
			return -1;
		}
		return 0;
	}
	devport = open("/dev/port", O_RDWR | O_CLOEXEC);
	if (devport < 0) {
		*why = "neither iopl nor /dev/port works";
		return -1;
	}
	kind = CH_DEVPORT;
	if (access(PROGRAM_SYSFS, R_OK)) {
		*why = "no " PROGRAM_SYSFS;
		return -1;
	}
	return 0;
}

/* After a fork: whether the port permission is inherited depends on the kernel. */
void channel_reopen(void)
{
	if (kind == CH_IOPL)
		iopl(3);
}

/* In actors, which have no business at the ports. */
void channel_drop(void)
{
	if (kind == CH_IOPL)
		iopl(0);
}

void channel_write(const char *buf, size_t len)
{
	ssize_t n;

	if (kind == CH_IOPL) {
		outsb(DEBUGCON_PORT, buf, len);
		return;
	}
	while (len) {
		if (kind == CH_DEVPORT)
			n = pwrite(devport, buf, 1, DEBUGCON_PORT);
		else
			n = write(STDOUT_FILENO, buf, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		buf += n;
		len -= n;
	}
}

/* Selects the item again each time, so that a clone sees its own content. */
static ssize_t item_read(char *buf, size_t size)
{
	ssize_t n;
	int fd;

	if (kind == CH_IOPL) {
		fwcfg_select(program_key);
		fwcfg_read(buf, size);
		return size;
	}
	fd = open(PROGRAM_SYSFS, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = pread(fd, buf, size, 0);
	for (ssize_t more = 1; n > 0 && (size_t)n < size && more > 0; n += more) {
		more = pread(fd, buf + n, size - n, n);
		if (more < 0)
			more = 0;
	}
	close(fd);
	return n;
}

/*
 * The item holds a decimal byte count, a newline and that many bytes; a count
 * of 0 says that there is nothing. Returns a malloc'd buffer with a NUL behind
 * it and its length, 0 when there is nothing, -1 when the item makes no sense.
 */
ssize_t channel_read_input(char **content)
{
	char head[12] = "";
	unsigned long len;
	size_t skip;
	char *end, *buf;

	*content = NULL;
	if (item_read(head, sizeof(head) - 1) < 2)
		return -1;
	len = strtoul(head, &end, 10);
	skip = end - head + 1;
	if (end == head || *end != '\n' || head[0] == '-' || len > MAX_CONTENT)
		return -1;
	if (!len)
		return 0;
	buf = malloc(skip + len + 1);
	if (!buf || item_read(buf, skip + len) != (ssize_t)(skip + len)) {
		free(buf);
		return -1;
	}
	memmove(buf, buf + skip, len);
	buf[len] = '\0';
	*content = buf;
	return len;
}

/*
 * Stops the machine. It goes on from here, in this QEMU or in a clone of it,
 * when the harness says so.
 */
void channel_pause_machine(void)
{
	unsigned char value = PAUSE_VALUE;

	if (kind == CH_IOPL)
		outb(value, PAUSE_PORT);
	else if (kind == CH_DEVPORT && pwrite(devport, &value, 1, PAUSE_PORT) < 0)
		sleep_us(1);
}

/* QEMU ends with status 33; without the device the machine powers off. */
void channel_exit_machine(void)
{
	unsigned char value = EXIT_VALUE;

	if (kind == CH_IOPL)
		outb(value, EXIT_PORT);
	else if (kind == CH_DEVPORT && pwrite(devport, &value, 1, EXIT_PORT) < 0)
		sleep_us(1);
	reboot(RB_POWER_OFF);
}
