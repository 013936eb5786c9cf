// SPDX-License-Identifier: GPL-2.0-only
/* Ops on network interfaces. */
#define _GNU_SOURCE
#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "executor.h"

static int change_flags(int fd, struct ifreq *ifr, bool up)
{
	if (syscall(SYS_ioctl, fd, SIOCGIFFLAGS, ifr) < 0)
		return errno;
	if (up)
		ifr->ifr_flags |= IFF_UP;
	else
		ifr->ifr_flags &= ~IFF_UP;
	return syscall(SYS_ioctl, fd, SIOCSIFFLAGS, ifr) < 0 ? errno : 0;
}

static int set_up(const char *name, bool up)
{
	struct ifreq ifr = { };
	int fd, err;

	/* The kernel would cut it, and find another interface. */
	if (strlen(name) >= sizeof(ifr.ifr_name))
		return ENODEV;
	strcpy(ifr.ifr_name, name);
	fd = syscall(SYS_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno;
	err = change_flags(fd, &ifr, up);
	close(fd);
	return err;
}

int op_ifup(struct ctx *c, const struct node *n)
{
	(void)c;
	return set_up(n->arg[0].s, true);
}

int op_ifdown(struct ctx *c, const struct node *n)
{
	(void)c;
	return set_up(n->arg[0].s, false);
}
