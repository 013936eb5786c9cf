// SPDX-License-Identifier: GPL-2.0-only
/* A thread that looks, now and then, how much has come through since it last did. */
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/sched.h>
#include <linux/seq_file.h>

#include "hooknet.h"

#define HOOKNET_SAMPLES		8
/*
 * More than an unload takes between quiesce and the end of the text, most of which
 * is synchronize_rcu_tasks(): a thread that nobody waited for would otherwise be
 * through in time, and its mistake not be seen.
 */
#define HOOKNET_SAMPLE_MS	500

/*
 * One writer, the thread; a reader may see a sample of the round before. They
 * are kept when it is stopped and started again.
 */
static struct {
	struct task_struct *thread;
	bool leave;
	unsigned int next;
	unsigned long sample[HOOKNET_SAMPLES];
} hooknet_sampler;

static int hooknet_sample(void *data)
{
	unsigned long before = hooknet_packets(), now;

	while (!kthread_should_stop() && !READ_ONCE(hooknet_sampler.leave)) {
		/* Not to be woken up: each sample is of the same length. */
		msleep(HOOKNET_SAMPLE_MS);
		now = hooknet_packets();
		WRITE_ONCE(hooknet_sampler.sample[hooknet_sampler.next], now - before);
		hooknet_sampler.next = (hooknet_sampler.next + 1) % HOOKNET_SAMPLES;
		before = now;
	}
	return 0;
}

void hooknet_show_samples(struct seq_file *m)
{
	unsigned int i;

	seq_printf(m, "packets in %u ms:", HOOKNET_SAMPLE_MS);
	for (i = 0; i < HOOKNET_SAMPLES; i++)
		seq_printf(m, " %lu", READ_ONCE(hooknet_sampler.sample[i]));
	seq_putc(m, '\n');
}

int hooknet_sampler_start(void)
{
	struct task_struct *thread;

	WRITE_ONCE(hooknet_sampler.leave, false);
	thread = kthread_run(hooknet_sample, NULL, "hooknet");
	if (IS_ERR(thread))
		return PTR_ERR(thread);

	hooknet_sampler.thread = thread;
	return 0;
}

void hooknet_sampler_quiesce(void)
{
	/*
	 * Mistake thread-not-waited: the thread is asked to leave, which it will
	 * do when it has slept. Caught by the page fault when it wakes up and
	 * nothing is where it was.
	 */
	if (MISTAKE(thread_not_waited))
		WRITE_ONCE(hooknet_sampler.leave, true);
	else
		kthread_stop(hooknet_sampler.thread);
}
