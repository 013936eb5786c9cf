// SPDX-License-Identifier: GPL-2.0-only
/*
 * Brings a filesystem into the kernel and takes it out again, knowing nothing
 * of its insides: what must be torn down with it is the filesystem's to say,
 * through its init and done.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/printk.h>
#include <linux/rcupdate.h>

#include "kmh_mistake.h"
#include "vfs_attach.h"

enum vfs_reached {
	VFS_INITIALISED,
	VFS_REGISTERED,
};

/*
 * The only way back, from wherever vfs_attach() came to: the steps in reverse
 * order.
 */
static void vfs_undo(const struct vfs_attachment *vfs, enum vfs_reached reached)
{
	int err;

	switch (reached) {
	case VFS_REGISTERED:
		/*
		 * Mistake no-unregister: the kernel's list of filesystems goes
		 * on pointing into the module. Caught by the page fault (KASAN:
		 * of its shadow) when the list is next walked, which reading
		 * /proc/filesystems does.
		 */
		if (MISTAKE(no_unregister))
			err = 0;
		else
			err = unregister_filesystem(vfs->type);
		if (err)
			pr_err("%s was not registered: %d\n", vfs->name, err);
		fallthrough;
	case VFS_INITIALISED:
		/*
		 * The last unmount left its inodes to RCU, and freeing them
		 * needs the pool and the code that done is about to take away.
		 *
		 * Mistake no-rcu-barrier: it does not wait for them. Caught by
		 * SLUB (objects remaining) when done destroys the pool, and by
		 * the oops of the callback: a null pointer in free_inode as
		 * long as that is there, a page fault when it has gone.
		 */
		if (!MISTAKE(no_rcu_barrier))
			rcu_barrier();
		vfs->done();
	}
}

int vfs_attach(const struct vfs_attachment *vfs)
{
	int err;

	err = vfs->init();
	if (err)
		return err;

	err = register_filesystem(vfs->type);
	if (err) {
		pr_err("cannot register %s: %d\n", vfs->name, err);
		vfs_undo(vfs, VFS_INITIALISED);
	}
	return err;
}

void vfs_detach(const struct vfs_attachment *vfs)
{
	vfs_undo(vfs, VFS_REGISTERED);
}
