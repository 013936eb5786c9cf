// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hears of interfaces that come up and go down. Whoever takes an interface down
 * holds the network's big lock while the chain is called, so the notifier only
 * notes what happened; work does the rest when things have settled.
 */
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/netdevice.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "kmh_mistake.h"
#include "notifyfs.h"

#define SETTLE_MS	50

struct notifyfs_log {
	spinlock_t lock;		/* for both counts */
	struct notifyfs_counts heard;
	struct notifyfs_counts settled;	/* what readers see */
	struct delayed_work settle;
};

static struct notifyfs_log *notifyfs_log;

static void notifyfs_settle(struct work_struct *work)
{
	struct notifyfs_log *log =
		container_of(to_delayed_work(work), struct notifyfs_log, settle);

	spin_lock(&log->lock);
	log->settled = log->heard;
	spin_unlock(&log->lock);
}

static int notifyfs_event(struct notifier_block *nb, unsigned long event, void *info)
{
	const struct net_device *dev = netdev_notifier_info_to_dev(info);
	struct notifyfs_log *log = notifyfs_log;

	if (event != NETDEV_UP && event != NETDEV_DOWN)
		return NOTIFY_DONE;

	spin_lock(&log->lock);
	if (event == NETDEV_UP)
		log->heard.up++;
	else
		log->heard.down++;
	snprintf(log->heard.last, sizeof(log->heard.last), "%s %s", dev->name,
		 event == NETDEV_UP ? "up" : "down");
	spin_unlock(&log->lock);

	schedule_delayed_work(&log->settle, msecs_to_jiffies(SETTLE_MS));
	return NOTIFY_OK;
}

struct notifier_block notifyfs_notifier = {
	.notifier_call = notifyfs_event,
};

/**
 * notifyfs_counts_get - what has happened until now
 * @counts: filled in
 *
 * Context: may sleep; waits for work that is queued.
 */
void notifyfs_counts_get(struct notifyfs_counts *counts)
{
	flush_delayed_work(&notifyfs_log->settle);

	spin_lock(&notifyfs_log->lock);
	*counts = notifyfs_log->settled;
	spin_unlock(&notifyfs_log->lock);
}

/**
 * notifyfs_log_create - make what the notifier writes to
 *
 * Return: 0, or -ENOMEM.
 */
int notifyfs_log_create(void)
{
	struct notifyfs_log *log = kzalloc(sizeof(*log), GFP_KERNEL);

	if (!log)
		return -ENOMEM;

	spin_lock_init(&log->lock);
	INIT_DELAYED_WORK(&log->settle, notifyfs_settle);
	notifyfs_log = log;
	return 0;
}

/**
 * notifyfs_log_destroy - undo notifyfs_log_create()
 *
 * The notifier must be gone already: it is told of every interface once more
 * while it is taken out, and queues the work again.
 */
void notifyfs_log_destroy(void)
{
	/*
	 * Mistake work-not-flushed: what the notifier queued is still to come.
	 * Caught by debugobjects (a timer in memory that is being freed); where
	 * there is none, by the fault of the timer in memory that is somebody
	 * else's, or of the work in text that has gone.
	 */
	if (!MISTAKE(work_not_flushed))
		cancel_delayed_work_sync(&notifyfs_log->settle);
	kfree(notifyfs_log);
}
