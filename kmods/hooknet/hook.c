// SPDX-License-Identifier: GPL-2.0-only
/* Handlers of packets: a list of them, and the netfilter hook that walks it. */
#include <linux/delay.h>
#include <linux/ip.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/netfilter_ipv4.h>
#include <linux/preempt.h>
#include <linux/rculist.h>
#include <linux/seq_file.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <net/net_namespace.h>

#include "hooknet.h"

/**
 * struct hooknet_handler - what is done with some packets
 * @node: in hooknet_handlers
 * @rcu: to free it after the last walk that may have met it
 * @name: what it is deleted by
 * @protocol: IP protocol of its packets, 0 for all
 * @delay_us: how long each of them is delayed
 * @packets: how many there were
 */
struct hooknet_handler {
	struct list_head node;
	struct rcu_head rcu;
	char name[16];
	unsigned int protocol;
	unsigned int delay_us;
	atomic_long_t packets;
};

/* Walked under RCU, changed under the mutex. */
static LIST_HEAD(hooknet_handlers);
static DEFINE_MUTEX(hooknet_handlers_lock);

static atomic_long_t hooknet_seen;

static struct hooknet_handler *hooknet_find_handler(const char *name)
{
	struct hooknet_handler *handler;

	lockdep_assert_held(&hooknet_handlers_lock);
	list_for_each_entry(handler, &hooknet_handlers, node) {
		if (!strcmp(handler->name, name))
			return handler;
	}
	return NULL;
}

int hooknet_add_handler(const char *name, unsigned int protocol, unsigned int delay_us)
{
	struct hooknet_handler *handler;
	int err = 0;

	if (protocol > 255 || delay_us > HOOKNET_MAX_US)
		return -ERANGE;

	handler = kzalloc(sizeof(*handler), GFP_KERNEL);
	if (!handler)
		return -ENOMEM;
	handler->protocol = protocol;
	handler->delay_us = delay_us;
	if (strscpy(handler->name, name, sizeof(handler->name)) < 0)
		err = -ENAMETOOLONG;

	mutex_lock(&hooknet_handlers_lock);
	if (!err && hooknet_find_handler(name))
		err = -EEXIST;
	if (!err)
		list_add_tail_rcu(&handler->node, &hooknet_handlers);
	mutex_unlock(&hooknet_handlers_lock);

	if (err)
		kfree(handler);
	return err;
}

static void hooknet_free_handler(struct hooknet_handler *handler)
{
	/*
	 * Mistake no-grace-period: the handler is off the list, and freed at once,
	 * while a sender may stand on it. Caught by KASAN in the hook.
	 */
	if (MISTAKE(no_grace_period))
		kfree(handler);
	else
		kfree_rcu(handler, rcu);
}

int hooknet_del_handler(const char *name)
{
	struct hooknet_handler *handler;

	mutex_lock(&hooknet_handlers_lock);
	handler = hooknet_find_handler(name);
	if (handler)
		list_del_rcu(&handler->node);
	mutex_unlock(&hooknet_handlers_lock);

	if (!handler)
		return -ENOENT;
	hooknet_free_handler(handler);
	return 0;
}

void hooknet_show_handlers(struct seq_file *m)
{
	struct hooknet_handler *handler;

	mutex_lock(&hooknet_handlers_lock);
	list_for_each_entry(handler, &hooknet_handlers, node)
		seq_printf(m, "handler %s protocol %u delay_us %u packets %ld\n", handler->name,
			   handler->protocol, handler->delay_us,
			   atomic_long_read(&handler->packets));
	mutex_unlock(&hooknet_handlers_lock);
}

/* How many packets some handler has taken care of since the module was loaded. */
unsigned long hooknet_packets(void)
{
	return atomic_long_read(&hooknet_seen);
}

/*
 * Mistake packets-not-counted: a packet whose destructor is the module's does not
 * count as somebody inside. Caught by the page fault of the receiver that reads
 * the packet when the module is gone.
 */
#define HOOKNET_COUNTS_PACKETS (!MISTAKE(packets_not_counted))

/* Destructor of a tag: nobody uses the packet any more. */
static void hooknet_packet_gone(struct sk_buff *tag)
{
	if (HOOKNET_COUNTS_PACKETS)
		hooknet_leave();
}

/*
 * Asks to be told when a packet is gone, wherever that will be: read by its
 * receiver or dropped on the way.
 *
 * The destructor of the packet itself is no place for it. It is the sender's
 * (sock_wfree, which wakes him up); every queue that a packet may stay in for
 * long calls it before (skb_orphan() in loopback_xmit(), skb_set_owner_r()); and
 * the UDP of most kernels frees what was read without a look at it
 * (__consume_stateless_skb() in 6.1). So it is left alone, and an empty packet
 * with a destructor of its own is hung on the list of fragments: it is freed
 * with the data, when the last clone has gone.
 *
 * Packets that share their data (TCP keeps a clone to send it again), or that use
 * that list themselves, pass without one.
 */
static void hooknet_tag_packet(struct sk_buff *skb)
{
	struct sk_buff *tag;

	if (skb_cloned(skb) || skb_is_gso(skb) || skb_has_frag_list(skb) || skb_zcopy(skb))
		return;

	tag = alloc_skb(0, GFP_ATOMIC);
	if (!tag)
		return;

	if (HOOKNET_COUNTS_PACKETS)
		hooknet_enter();
	tag->destructor = hooknet_packet_gone;
	skb_shinfo(skb)->frag_list = tag;
}

/* Senders are processes, and may be preempted here, or a softirq that answers. */
static unsigned int hooknet_packet(void *priv, struct sk_buff *skb,
				   const struct nf_hook_state *state)
{
	struct hooknet_handler *handler;
	unsigned int delay_us = 0;
	bool handled = false;

	if (!(state->out->flags & IFF_LOOPBACK))
		return NF_ACCEPT;

	list_for_each_entry_rcu(handler, &hooknet_handlers, node) {
		if (handler->protocol && handler->protocol != ip_hdr(skb)->protocol)
			continue;
		handled = true;
		if (handler->delay_us > HOOKNET_SPOT_US)
			delay_us = max(delay_us, handler->delay_us);
		else if (!in_softirq())
			udelay(handler->delay_us);
		atomic_long_inc(&handler->packets);
	}
	if (!handled)
		return NF_ACCEPT;

	atomic_long_inc(&hooknet_seen);
	hooknet_ledger_count(ip_hdr(skb)->protocol);
	hooknet_tag_packet(skb);
	return delay_us ? hooknet_hold(skb, state, delay_us) : NF_ACCEPT;
}

static const struct nf_hook_ops hooknet_ops = {
	.hook		= hooknet_packet,
	.pf		= NFPROTO_IPV4,
	.hooknum	= NF_INET_LOCAL_OUT,
	.priority	= NF_IP_PRI_FIRST,
};

int hooknet_hook_start(void)
{
	return nf_register_net_hook(&init_net, &hooknet_ops);
}

/* The hook may go on running until the next synchronize_net() has returned. */
void hooknet_hook_stop(void)
{
	nf_unregister_net_hook(&init_net, &hooknet_ops);
}

/* Nobody walks the list any more. */
void hooknet_hook_exit(void)
{
	struct hooknet_handler *handler, *next;

	list_for_each_entry_safe(handler, next, &hooknet_handlers, node)
		kfree(handler);
}
