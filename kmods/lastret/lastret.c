// SPDX-License-Identifier: GPL-2.0-only
/*
 * lastret: a device that can be opened and closed, and whose use count is right
 * at every moment but one.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>

#include "kmh_mistake.h"

/*
 * Mistake put-in-release: the module counts its users itself. open is safe, for
 * misc_open() and misc_deregister() exclude each other; but from module_put()
 * on, nothing holds the module, and the task has still to return from it. Caught
 * by the sweep: unloaded under task in lastret_release. Without somebody who
 * holds the task there, it is out before the module's memory goes, and nothing
 * is ever seen.
 */
static int lastret_open(struct inode *inode, struct file *file)
{
	if (MISTAKE(put_in_release) && !try_module_get(THIS_MODULE))
		return -ENODEV;
	return 0;
}

static int lastret_release(struct inode *inode, struct file *file)
{
	if (MISTAKE(put_in_release))
		module_put(THIS_MODULE);
	return 0;
}

static const struct file_operations lastret_fops = {
	.owner		= MISTAKE(put_in_release) ? NULL : THIS_MODULE,
	.open		= lastret_open,
	.release	= lastret_release,
};

static struct miscdevice lastret_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "lastret",
	.fops	= &lastret_fops,
};

module_misc_device(lastret_device);

MODULE_DESCRIPTION("Device whose last return is, or is not, under its use count");
MODULE_LICENSE("GPL");
KMH_MODULE_VARIANT();
