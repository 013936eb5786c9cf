/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef POOLFS_H
#define POOLFS_H

#include <linux/fs.h>
#include <linux/kernel.h>

#include "kmh_mistake.h"

/* Filesystem and pool are called as the module that these sources are built into. */
#define POOLFS_NAME KBUILD_MODNAME

/**
 * struct poolfs_limits - what holds for a mount
 * @mode: permissions of the root directory
 * @max_bytes: size that no file may grow beyond
 */
struct poolfs_limits {
	umode_t mode;
	u64 max_bytes;
};

struct poolfs_store;

/*
 * An object of the pool. The module's own limits are in one that belongs to no
 * mount (the prototype); those of a mount are in its root, and every inode
 * starts with the prototype's. Only data.c knows what the store is.
 */
struct poolfs_inode {
	struct poolfs_limits limits;
	struct poolfs_store *store;
	struct inode vfs_inode;
};

static inline struct poolfs_inode *POOLFS_I(struct inode *inode)
{
	return container_of(inode, struct poolfs_inode, vfs_inode);
}

/*
 * Mistake no-owner: mounts and open files do not hold the module, so that it
 * can be unloaded under them. Caught by delete_module returning 0 while
 * something is mounted, by SLUB (objects remaining), and by the page fault or
 * KASAN report of the next user.
 */
#define POOLFS_OWNER (MISTAKE(no_owner) ? NULL : THIS_MODULE)

extern const struct vfs_attachment poolfs_attachment;

struct inode *poolfs_new_inode(struct super_block *sb, const struct inode *dir, umode_t mode);

/* data.c: what is in files, and what a mount needs for that. */
int poolfs_data_mount(struct super_block *sb);
void poolfs_data_umount(struct super_block *sb, bool had_root);
unsigned long poolfs_data_ino(struct super_block *sb);
int poolfs_data_init(struct inode *inode);
void poolfs_data_evict(struct inode *inode);

#endif
