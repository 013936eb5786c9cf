// SPDX-License-Identifier: GPL-2.0-only
/* The module's two doors. What is behind them is the filesystem's business. */
#include <linux/module.h>

#include "kmh_mistake.h"
#include "poolfs.h"
#include "vfs_attach.h"

static int __init poolfs_module_init(void)
{
	return vfs_attach(&poolfs_attachment);
}
module_init(poolfs_module_init);

static void __exit poolfs_module_exit(void)
{
	vfs_detach(&poolfs_attachment);
}
module_exit(poolfs_module_exit);

MODULE_DESCRIPTION("In-memory filesystem whose inodes come from a pool of its own");
MODULE_LICENSE("GPL");
MODULE_ALIAS_FS(POOLFS_NAME);
KMH_MODULE_VARIANT();
