// SPDX-License-Identifier: GPL-2.0-only
/*
 * unbound: a platform driver, its device, and a file that reads what the driver
 * keeps for the device. The driver can be unbound while the file is open.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

struct unbound {
	struct miscdevice misc;
	struct kref users;
	char letter;
};

static struct platform_device *device;

static void unbound_free(struct kref *users)
{
	kfree(container_of(users, struct unbound, users));
}

static int unbound_open(struct inode *inode, struct file *file)
{
	struct unbound *unbound = container_of(file->private_data, struct unbound, misc);

	/* misc_deregister() waits for whoever opens. */
	kref_get(&unbound->users);
	file->private_data = unbound;
	return 0;
}

static ssize_t unbound_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	struct unbound *unbound = file->private_data;

	if (!size)
		return 0;
	return put_user(unbound->letter, to) ? -EFAULT : 1;
}

static int unbound_release(struct inode *inode, struct file *file)
{
	struct unbound *unbound = file->private_data;

#ifndef FREED_AT_UNBIND
	kref_put(&unbound->users, unbound_free);
#endif
	return 0;
}

static const struct file_operations unbound_fops = {
	.owner		= THIS_MODULE,
	.open		= unbound_open,
	.read		= unbound_read,
	.release	= unbound_release,
};

/* In place of the driver's remove(), whose type depends on the kernel. */
static void unbound_remove(void *data)
{
	struct unbound *unbound = data;

	misc_deregister(&unbound->misc);
#ifdef FREED_AT_UNBIND
	kfree(unbound);
#else
	kref_put(&unbound->users, unbound_free);
#endif
}

static int unbound_probe(struct platform_device *pdev)
{
	struct unbound *unbound = kzalloc(sizeof(*unbound), GFP_KERNEL);
	int err;

	if (!unbound)
		return -ENOMEM;
	kref_init(&unbound->users);
	unbound->letter = 'u';
	unbound->misc.minor = MISC_DYNAMIC_MINOR;
	unbound->misc.name = KBUILD_MODNAME;
	unbound->misc.fops = &unbound_fops;
	err = misc_register(&unbound->misc);
	if (err) {
		kfree(unbound);
		return err;
	}
	return devm_add_action_or_reset(&pdev->dev, unbound_remove, unbound);
}

static struct platform_driver unbound_driver = {
	.probe	= unbound_probe,
	.driver	= { .name = KBUILD_MODNAME },
};

static int __init unbound_init(void)
{
	int err = platform_driver_register(&unbound_driver);

	if (err)
		return err;
	device = platform_device_register_simple(KBUILD_MODNAME, PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(device))
		platform_driver_unregister(&unbound_driver);
	return PTR_ERR_OR_ZERO(device);
}

static void __exit unbound_exit(void)
{
	platform_device_unregister(device);
	platform_driver_unregister(&unbound_driver);
}

module_init(unbound_init);
module_exit(unbound_exit);

MODULE_DESCRIPTION("Driver that can be unbound while its device is open");
MODULE_LICENSE("GPL");
