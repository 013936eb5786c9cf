/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef KNOBS_H
#define KNOBS_H

#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/mutex.h>
#include <linux/types.h>

#define KNOBS_BYTES	4096

/**
 * struct knobs_device - a dk
 * @dev: how the driver core sees it; its reference count is this object's
 * @cdev: how files see it; holds a reference to @dev for as long as one is open
 * @lock: for all that follows
 * @knob: what myknob0 shows
 * @size: bytes of @data that were written
 * @data: what files read and write
 */
struct knobs_device {
	struct device dev;
	struct cdev cdev;
	struct mutex lock;	/* for what follows */
	unsigned int knob;
	size_t size;
	u8 data[KNOBS_BYTES];
};

static inline struct knobs_device *to_knobs_device(struct device *dev)
{
	return container_of(dev, struct knobs_device, dev);
}

/* main.c */
extern struct bus_type knobs_bus;

/* device.c */
extern struct device_attribute dev_attr_myknob1;
struct knobs_device *knobs_device_new(dev_t devt);
int knobs_device_add(struct knobs_device *kd);
void knobs_device_del(struct knobs_device *kd);
void knobs_device_put(struct knobs_device *kd);

/* chardev.c */
void knobs_chardev_init(struct knobs_device *kd);

#endif
