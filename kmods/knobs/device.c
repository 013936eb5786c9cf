// SPDX-License-Identifier: GPL-2.0-only
/*
 * A dk as the driver core sees it: two knobs in sysfs, and a life that ends when
 * the last reference is dropped, whoever drops it.
 */
#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/platform_device.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#include "kmh_mistake.h"
#include "knobs.h"

#define KNOB_MAX	1000

/* What knobs start with: of the parent, not of any dk. */
static atomic_t knob_default = ATOMIC_INIT(0);

static DECLARE_COMPLETION(knobs_released);
static struct task_struct *knobs_releaser;

static int knob_parse(const char *text, unsigned int *knob)
{
	int err = kstrtouint(text, 10, knob);

	if (err)
		return err;
	return *knob > KNOB_MAX ? -ERANGE : 0;
}

static ssize_t myknob0_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct knobs_device *kd = to_knobs_device(dev);
	unsigned int knob;

	mutex_lock(&kd->lock);
	knob = kd->knob;
	mutex_unlock(&kd->lock);
	return sysfs_emit(buf, "%u\n", knob);
}

static ssize_t myknob0_store(struct device *dev, struct device_attribute *attr,
			     const char *buf, size_t count)
{
	struct knobs_device *kd = to_knobs_device(dev);
	unsigned int knob;
	int err = knob_parse(buf, &knob);

	if (err)
		return err;

	mutex_lock(&kd->lock);
	usleep_range(100, 200);		/* to turn one takes a moment */
	kd->knob = knob;
	mutex_unlock(&kd->lock);
	return count;
}
static DEVICE_ATTR_RW(myknob0);

static struct attribute *knobs_attrs[] = {
	&dev_attr_myknob0.attr,
	NULL
};
ATTRIBUTE_GROUPS(knobs);

/* A file of the parent, which was there before the module and will be after. */
static ssize_t myknob1_show(struct device *parent, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", atomic_read(&knob_default));
}

static ssize_t myknob1_store(struct device *parent, struct device_attribute *attr,
			     const char *buf, size_t count)
{
	unsigned int knob;
	int err = knob_parse(buf, &knob);

	if (err)
		return err;

	atomic_set(&knob_default, knob);
	return count;
}
DEVICE_ATTR_RW(myknob1);

/* Runs when the last reference goes, in the context of whoever had it. */
static void knobs_release(struct device *dev)
{
	kfree(to_knobs_device(dev));
	knobs_releaser = current;
	complete(&knobs_released);
}

/**
 * knobs_device_new - make a dk that nobody sees yet
 * @devt: its number
 *
 * Return: the device, with one reference that knobs_device_put() drops, or an
 * error pointer.
 */
struct knobs_device *knobs_device_new(dev_t devt)
{
	struct knobs_device *kd = kzalloc(sizeof(*kd), GFP_KERNEL);
	int err;

	if (!kd)
		return ERR_PTR(-ENOMEM);

	mutex_init(&kd->lock);
	kd->knob = atomic_read(&knob_default);
	device_initialize(&kd->dev);
	kd->dev.bus = &knobs_bus;
	kd->dev.parent = &platform_bus;
	kd->dev.devt = devt;
	kd->dev.groups = knobs_groups;

	/*
	 * Mistake no-release: nothing is done when the last reference goes.
	 * Caught by the driver core's warning; the memory is lost.
	 */
	kd->dev.release = MISTAKE(no_release) ? NULL : knobs_release;
	knobs_chardev_init(kd);

	err = dev_set_name(&kd->dev, "dk%u", MINOR(devt));
	if (err) {
		knobs_device_put(kd);
		return ERR_PTR(err);
	}
	return kd;
}

/**
 * knobs_device_add - show a dk in sysfs, on its bus and in /dev
 * @kd: from knobs_device_new()
 *
 * Return: 0 or a negative errno.
 */
int knobs_device_add(struct knobs_device *kd)
{
	return device_add(&kd->dev);
}

/**
 * knobs_device_del - undo knobs_device_add()
 * @kd: what was added
 *
 * When it returns, nobody is in myknob0 any more.
 */
void knobs_device_del(struct knobs_device *kd)
{
	/*
	 * Mistake store-deadlock: the lock that myknob0 takes is held while the
	 * driver core waits for those who are in myknob0. Caught by lockdep, as
	 * soon as both orders were seen, and by the hang of both sides if they
	 * meet.
	 */
	if (MISTAKE(store_deadlock))
		mutex_lock(&kd->lock);
	device_del(&kd->dev);
	if (MISTAKE(store_deadlock))
		mutex_unlock(&kd->lock);
}

/*
 * A release function can say that it will do nothing more, but not that it has
 * returned: somebody else may have been preempted on the way out of it. When
 * every task has been scheduled by its own will, he is out.
 */
static void knobs_wait_for_release(void)
{
	wait_for_completion(&knobs_released);
	if (knobs_releaser != current)
		synchronize_rcu_tasks();
}

/**
 * knobs_device_put - give up a dk
 * @kd: from knobs_device_new(), not visible any more
 *
 * When it returns, its release function has run, and nobody is in it.
 */
void knobs_device_put(struct knobs_device *kd)
{
	/*
	 * Mistake kfree-device: the memory is freed as if nobody else could
	 * have a reference. Caught by KASAN when somebody who has one drops it;
	 * what the driver core keeps for the device is lost.
	 */
	if (MISTAKE(kfree_device))
		kfree(kd);
	else
		put_device(&kd->dev);

	/*
	 * Mistake late-release: it does not wait, so that somebody else's
	 * reference outlives the module. Caught by the page fault of whoever
	 * drops it, where knobs_release() was.
	 *
	 * Without a release function that runs, there is nothing to wait for.
	 */
	if (!MISTAKE(late_release) && !MISTAKE(kfree_device) && !MISTAKE(no_release))
		knobs_wait_for_release();
}
