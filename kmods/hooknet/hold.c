// SPDX-License-Identifier: GPL-2.0-only
/*
 * Packets that are held back. A timer ticks as long as the module is in service,
 * and sends on those whose time has come.
 */
#include <linux/ip.h>
#include <linux/jiffies.h>
#include <linux/list.h>
#include <linux/netdevice.h>
#include <linux/netfilter.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/timer.h>
#include <net/dst.h>
#include <net/sock.h>

#include "hooknet.h"
#include "kmh_compat.h"

#define HOOKNET_MAX_HELD	256

/**
 * struct hooknet_held - a packet that waits
 * @node: in hooknet_hold_state.packets
 * @skb: the packet, stolen from netfilter
 * @state: how it goes on
 * @due: in jiffies
 */
struct hooknet_held {
	struct list_head node;
	struct sk_buff *skb;
	struct nf_hook_state state;
	unsigned long due;
};

/**
 * struct hooknet_hold_state - all that wait
 * @lock: held for a moment, with softirqs off
 * @packets: of struct hooknet_held, in the order in which they came
 * @count: how many
 * @tick: arms itself again
 */
struct hooknet_hold_state {
	spinlock_t lock;	/* for packets and count */
	struct list_head packets;
	unsigned int count;
	struct timer_list tick;
};

static struct hooknet_hold_state *hooknet_hold_state;

/*
 * Takes a packet away from its sender, unless there are too many. What it needs
 * to go on must last until then: its route, and the socket that it is sent for,
 * which may be on its way out already. The loopback interface of the first
 * network namespace never goes.
 *
 * Return: NF_STOLEN; NF_ACCEPT when it goes on at once; NF_DROP when its route is
 * no more.
 */
unsigned int hooknet_hold(struct sk_buff *skb, const struct nf_hook_state *state,
			  unsigned int delay_us)
{
	struct hooknet_hold_state *hold = hooknet_hold_state;
	struct hooknet_held *held;
	bool full;

	if (!skb_dst_force(skb))
		return NF_DROP;
	held = kmalloc(sizeof(*held), GFP_ATOMIC);
	if (!held)
		return NF_ACCEPT;
	if (state->sk && !refcount_inc_not_zero(&state->sk->sk_refcnt))
		goto out_held;

	held->skb = skb;
	held->state = *state;
	held->due = jiffies + usecs_to_jiffies(delay_us);

	spin_lock_bh(&hold->lock);
	full = hold->count == HOOKNET_MAX_HELD;
	if (!full) {
		list_add_tail(&held->node, &hold->packets);
		hold->count++;
	}
	spin_unlock_bh(&hold->lock);
	if (!full)
		return NF_STOLEN;

	if (state->sk)
		sock_gen_put(state->sk);
out_held:
	kfree(held);
	return NF_ACCEPT;
}

unsigned int hooknet_held(void)
{
	return READ_ONCE(hooknet_hold_state->count);
}

static void hooknet_send_on(struct hooknet_held *held)
{
	struct sock *sk = held->state.sk;

	local_bh_disable();
	rcu_read_lock();
	held->state.okfn(held->state.net, sk, held->skb);
	rcu_read_unlock();
	local_bh_enable();

	if (sk)
		sock_gen_put(sk);
	kfree(held);
}

static void hooknet_send_due(struct hooknet_hold_state *hold, bool all)
{
	struct hooknet_held *held, *next;
	LIST_HEAD(due);

	spin_lock_bh(&hold->lock);
	list_for_each_entry_safe(held, next, &hold->packets, node) {
		if (!all && time_before(jiffies, held->due))
			continue;
		list_move_tail(&held->node, &due);
		hold->count--;
	}
	spin_unlock_bh(&hold->lock);

	list_for_each_entry_safe(held, next, &due, node)
		hooknet_send_on(held);
}

static void hooknet_tick(struct timer_list *tick)
{
	struct hooknet_hold_state *hold = container_of(tick, struct hooknet_hold_state, tick);

	hooknet_send_due(hold, false);
	mod_timer(&hold->tick, jiffies + 1);
}

int hooknet_hold_init(void)
{
	struct hooknet_hold_state *hold;

	hold = kzalloc(sizeof(*hold), GFP_KERNEL);
	if (!hold)
		return -ENOMEM;

	spin_lock_init(&hold->lock);
	INIT_LIST_HEAD(&hold->packets);
	timer_setup(&hold->tick, hooknet_tick, 0);
	hooknet_hold_state = hold;
	return 0;
}

void hooknet_hold_start(void)
{
	mod_timer(&hooknet_hold_state->tick, jiffies + 1);
}

/* Only the timer arms the timer. */
void hooknet_hold_quiesce(void)
{
	struct hooknet_hold_state *hold = hooknet_hold_state;

	/*
	 * Mistake timer-forgotten: the timer ticks on. Caught by the debug objects
	 * of timers when hooknet_hold_exit() frees it; without them by the page
	 * fault of the next tick.
	 *
	 * Mistake timer-not-synced: the timer is deleted, but one that is just
	 * ticking on another processor is not waited for, and arms itself again.
	 * Caught as the one above.
	 */
	if (MISTAKE(timer_not_synced))
		kmh_timer_delete(&hold->tick);
	else if (!MISTAKE(timer_forgotten))
		kmh_timer_delete_sync(&hold->tick);
}

/* Nobody puts a packet in any more; those that wait go on at once. */
void hooknet_hold_drain(void)
{
	hooknet_send_due(hooknet_hold_state, true);
}

void hooknet_hold_exit(void)
{
	kfree(hooknet_hold_state);
}
