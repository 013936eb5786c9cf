// SPDX-License-Identifier: GPL-2.0-only
/* A bus with one device on it, and one way back for a failed load and for unload. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/err.h>
#include <linux/fs.h>
#include <linux/module.h>

#include "kmh_mistake.h"
#include "knobs.h"

struct bus_type knobs_bus = {
	.name = "knobs",
};

static struct knobs_device *dk0;
static dev_t knobs_region;

enum knobs_reached {
	REACHED_BUS,
	REACHED_REGION,
	REACHED_OBJECT,
	REACHED_DEVICE,
	REACHED_PARENT,
	REACHED_CDEV,
};

/* The steps in reverse order, from the last one that was done. */
static noinline void knobs_undo(enum knobs_reached reached)
{
	switch (reached) {
	case REACHED_CDEV:
		/* Nobody has it open: who does holds the module. */
		cdev_del(&dk0->cdev);
		fallthrough;
	case REACHED_PARENT:
		/*
		 * Mistake wrong-device: the file is the parent's, and removed
		 * from dk0, which has none of that name. Caught by the page
		 * fault (KASAN: of its shadow) of whoever reads it after the
		 * unload.
		 */
		device_remove_file(MISTAKE(wrong_device) ? &dk0->dev : dk0->dev.parent,
				   &dev_attr_myknob1);
		fallthrough;
	case REACHED_DEVICE:
		knobs_device_del(dk0);
		fallthrough;
	case REACHED_OBJECT:
		knobs_device_put(dk0);
		fallthrough;
	case REACHED_REGION:
		unregister_chrdev_region(knobs_region, 1);
		fallthrough;
	case REACHED_BUS:
		bus_unregister(&knobs_bus);
	}
}

static int __init knobs_init(void)
{
	enum knobs_reached reached;
	int err;

	err = bus_register(&knobs_bus);
	if (err)
		return err;

	reached = REACHED_BUS;
	err = alloc_chrdev_region(&knobs_region, 0, 1, "knobs");
	if (err)
		goto out_undo;

	reached = REACHED_REGION;
	dk0 = knobs_device_new(knobs_region);
	if (IS_ERR(dk0)) {
		err = PTR_ERR(dk0);
		goto out_undo;
	}

	reached = REACHED_OBJECT;
	err = knobs_device_add(dk0);
	if (err)
		goto out_undo;

	reached = REACHED_DEVICE;
	err = device_create_file(dk0->dev.parent, &dev_attr_myknob1);
	if (err)
		goto out_undo;

	/* Last: from here on it can be opened, and init must not fail any more. */
	reached = REACHED_PARENT;
	err = cdev_add(&dk0->cdev, knobs_region, 1);
	if (err)
		goto out_undo;
	return 0;

out_undo:
	pr_err("cannot make dk0: %d (step %d)\n", err, reached + 1);
	knobs_undo(reached);
	return err;
}
module_init(knobs_init);

static void __exit knobs_exit(void)
{
	knobs_undo(REACHED_CDEV);
}
module_exit(knobs_exit);

MODULE_DESCRIPTION("A device with two knobs and a page of memory, on a bus of its own");
MODULE_LICENSE("GPL");
KMH_MODULE_VARIANT();
