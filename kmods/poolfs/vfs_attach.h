/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VFS_ATTACH_H
#define VFS_ATTACH_H

struct file_system_type;

/**
 * struct vfs_attachment - a filesystem, as its module's entry code sees it
 * @name: for messages
 * @init: makes what belongs to the whole filesystem and to no mount;
 *	0 or a negative errno, and then nothing is left behind
 * @done: takes it apart again. Called once for each successful @init, when no
 *	mount exists, none can come, and every callback handed to RCU has run
 * @type: what is registered
 */
struct vfs_attachment {
	const char *name;
	int (*init)(void);
	void (*done)(void);
	struct file_system_type *type;
};

int vfs_attach(const struct vfs_attachment *vfs);
void vfs_detach(const struct vfs_attachment *vfs);

#endif
