// SPDX-License-Identifier: GPL-2.0-only
/*
 * How many packets there were of each protocol. Senders count into fresh numbers
 * without a lock; a work item, some time after the first of them, enters all that
 * has gathered into the sums.
 */
#include <linux/atomic.h>
#include <linux/jiffies.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "hooknet.h"

#define HOOKNET_PROTOCOLS	256
#define HOOKNET_ENTRY_DELAY	HZ

/**
 * struct hooknet_ledger - the sums
 * @fresh: what was counted since the last entry
 * @sum: what was entered, under @lock
 * @lock: of readers and the work item
 * @enter: makes the next entry; waiting whenever there is something fresh
 */
struct hooknet_ledger {
	atomic_long_t fresh[HOOKNET_PROTOCOLS];
	unsigned long sum[HOOKNET_PROTOCOLS];
	struct mutex lock;	/* for sum */
	struct delayed_work enter;
};

static struct hooknet_ledger *hooknet_ledger;

/* In any context. */
void hooknet_ledger_count(u8 protocol)
{
	struct hooknet_ledger *ledger = hooknet_ledger;

	atomic_long_inc(&ledger->fresh[protocol]);
	schedule_delayed_work(&ledger->enter, HOOKNET_ENTRY_DELAY);
}

static void hooknet_ledger_enter(struct work_struct *work)
{
	struct hooknet_ledger *ledger = container_of(to_delayed_work(work),
						     struct hooknet_ledger, enter);
	unsigned int i;

	mutex_lock(&ledger->lock);
	for (i = 0; i < HOOKNET_PROTOCOLS; i++)
		ledger->sum[i] += atomic_long_xchg(&ledger->fresh[i], 0);
	mutex_unlock(&ledger->lock);
}

/* Up to date: what is fresh is entered first. */
void hooknet_show_ledger(struct seq_file *m)
{
	struct hooknet_ledger *ledger = hooknet_ledger;
	unsigned int i;

	flush_delayed_work(&ledger->enter);
	mutex_lock(&ledger->lock);
	for (i = 0; i < HOOKNET_PROTOCOLS; i++) {
		if (ledger->sum[i])
			seq_printf(m, "protocol %u packets %lu\n", i, ledger->sum[i]);
	}
	mutex_unlock(&ledger->lock);
}

int hooknet_ledger_init(void)
{
	hooknet_ledger = kzalloc(sizeof(*hooknet_ledger), GFP_KERNEL);
	if (!hooknet_ledger)
		return -ENOMEM;

	mutex_init(&hooknet_ledger->lock);
	INIT_DELAYED_WORK(&hooknet_ledger->enter, hooknet_ledger_enter);
	return 0;
}

/* Nobody counts any more. */
void hooknet_ledger_quiesce(void)
{
	/*
	 * Mistake work-not-flushed: the last entry is still to be made. Caught by
	 * the debug objects of its timer when hooknet_ledger_exit() frees it;
	 * without them by the page fault of the worker.
	 */
	if (!MISTAKE(work_not_flushed))
		flush_delayed_work(&hooknet_ledger->enter);
}

void hooknet_ledger_exit(void)
{
	kfree(hooknet_ledger);
}
