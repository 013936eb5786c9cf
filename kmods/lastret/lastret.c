// SPDX-License-Identifier: GPL-2.0-only
/*
 * lastret: every open of the device starts a thread that ends at once. A thread
 * holds the module by a reference of its own, and nobody waits for it.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/miscdevice.h>
#include <linux/module.h>

#include "kmh_compat.h"
#include "kmh_mistake.h"

/*
 * Mistake put-then-return: from module_put() on nothing holds the module, and
 * the thread has still to return from it. Caught by the sweep: unloaded under
 * task in lastret_thread. Without somebody who keeps the thread from running it
 * is out before the module's memory goes, and nothing is ever seen.
 */
static int lastret_thread(void *data)
{
	if (MISTAKE(put_then_return)) {
		module_put(THIS_MODULE);
		return 0;
	}
	/* The last reference is dropped by the kernel's code, which does not return. */
	kmh_module_put_and_exit(0);
}

static int lastret_open(struct inode *inode, struct file *file)
{
	struct task_struct *thread;

	/* The file holds the module by now, so there is one to get. */
	__module_get(THIS_MODULE);
	thread = kthread_run(lastret_thread, NULL, KBUILD_MODNAME);
	if (IS_ERR(thread)) {
		module_put(THIS_MODULE);
		return PTR_ERR(thread);
	}
	return 0;
}

static const struct file_operations lastret_fops = {
	.owner	= THIS_MODULE,
	.open	= lastret_open,
};

static struct miscdevice lastret_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "lastret",
	.fops	= &lastret_fops,
};

module_misc_device(lastret_device);

MODULE_DESCRIPTION("Device whose threads return after, or within, their use of the module");
MODULE_LICENSE("GPL");
KMH_MODULE_VARIANT();
