// SPDX-License-Identifier: GPL-2.0-only
/* /dev/dk0: a page of memory that can be read and written. */
#include <linux/fs.h>
#include <linux/minmax.h>
#include <linux/module.h>

#include "kmh_mistake.h"
#include "knobs.h"

/*
 * Mistake cdev-without-owner: neither the device nor its operations name the
 * module, so an open handle raises the device's count and not the module's.
 * Caught by the errno of delete_module, which must be EAGAIN while it is open:
 * unload begins, and hangs in exit until whoever has it open is done.
 */
#define KNOBS_OWNER	(MISTAKE(cdev_without_owner) ? NULL : THIS_MODULE)

static int knobs_open(struct inode *inode, struct file *file)
{
	struct knobs_device *kd = container_of(inode->i_cdev, struct knobs_device, cdev);

	get_device(&kd->dev);
	file->private_data = kd;
	return 0;
}

static int knobs_close(struct inode *inode, struct file *file)
{
	struct knobs_device *kd = file->private_data;

	put_device(&kd->dev);
	return 0;
}

static ssize_t knobs_read(struct file *file, char __user *buf, size_t size, loff_t *pos)
{
	struct knobs_device *kd = file->private_data;
	ssize_t done;

	mutex_lock(&kd->lock);
	done = simple_read_from_buffer(buf, size, pos, kd->data, kd->size);
	mutex_unlock(&kd->lock);
	return done;
}

static ssize_t knobs_write(struct file *file, const char __user *buf, size_t size, loff_t *pos)
{
	struct knobs_device *kd = file->private_data;
	ssize_t done;

	if (*pos >= KNOBS_BYTES)
		return -ENOSPC;

	mutex_lock(&kd->lock);
	done = simple_write_to_buffer(kd->data, KNOBS_BYTES, pos, buf, size);
	if (done > 0)
		kd->size = max_t(size_t, kd->size, *pos);
	mutex_unlock(&kd->lock);
	return done;
}

static const struct file_operations knobs_file_operations = {
	.owner		= KNOBS_OWNER,
	.open		= knobs_open,
	.release	= knobs_close,
	.read		= knobs_read,
	.write		= knobs_write,
	.llseek		= default_llseek,
};

/**
 * knobs_chardev_init - prepare a dk's character device
 * @kd: whose device is initialised
 *
 * From cdev_add() on its reference count is one that the device's hangs on.
 */
void knobs_chardev_init(struct knobs_device *kd)
{
	cdev_init(&kd->cdev, &knobs_file_operations);
	kd->cdev.owner = KNOBS_OWNER;
	cdev_set_parent(&kd->cdev, &kd->dev.kobj);
}
