// SPDX-License-Identifier: GPL-2.0-only
/*
 * grower: each of its lives keeps eight pages, which kmemleak does not know of, and
 * an object that it was told to leave alone.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/gfp.h>
#include <linux/kmemleak.h>
#include <linux/module.h>
#include <linux/slab.h>

#define OBJECT	1000
#define ORDER	3

static int __init grower_init(void)
{
	void *object = kmalloc(OBJECT, GFP_KERNEL);

	if (!object)
		return -ENOMEM;
	kmemleak_not_leak(object);
	if (!alloc_pages(GFP_KERNEL, ORDER))
		pr_warn("no pages to keep\n");
	return 0;
}

static void __exit grower_exit(void)
{
}

module_init(grower_init);
module_exit(grower_exit);
MODULE_DESCRIPTION("Keeps memory in each of its lives");
MODULE_LICENSE("GPL");
