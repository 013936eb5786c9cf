// SPDX-License-Identifier: GPL-2.0-only
/*
 * Somebody else: keeps a reference to a device, as a driver of something that
 * hangs on it would, and drops it when it goes. It needs nothing of the module
 * that made the device and does not hold it: unloading that one goes ahead, or
 * waits, as it sees fit.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/device.h>
#include <linux/module.h>
#include <linux/platform_device.h>

static char *name = "dk0";
module_param(name, charp, 0444);
MODULE_PARM_DESC(name, "name of a device below /sys/devices/platform (default: dk0)");

static struct device *kept;

static int __init dkkeeper_init(void)
{
	kept = device_find_child_by_name(&platform_bus, name);
	if (!kept) {
		pr_err("no device is called %s\n", name);
		return -ENODEV;
	}
	return 0;
}
module_init(dkkeeper_init);

static void __exit dkkeeper_exit(void)
{
	put_device(kept);
}
module_exit(dkkeeper_exit);

MODULE_DESCRIPTION("Keeps a reference to a device");
MODULE_LICENSE("GPL");
