/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef NOTIFYFS_H
#define NOTIFYFS_H

#include <linux/fs.h>
#include <linux/if.h>
#include <linux/notifier.h>

/**
 * struct notifyfs_counts - what happened to the network's interfaces
 * @up: times that one was taken up
 * @down: times that one was taken down
 * @last: the last event, such as "lo up", or nothing
 */
struct notifyfs_counts {
	u64 up;
	u64 down;
	char last[IFNAMSIZ + 8];
};

/* events.c */
extern struct notifier_block notifyfs_notifier;
int notifyfs_log_create(void);
void notifyfs_log_destroy(void);
void notifyfs_counts_get(struct notifyfs_counts *counts);

/* super.c */
extern struct file_system_type notifyfs_type;

#endif
