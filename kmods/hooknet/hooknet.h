/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef HOOKNET_H
#define HOOKNET_H

#include <linux/netfilter.h>
#include <linux/types.h>

#include "kmh_mistake.h"

struct seq_file;
struct sk_buff;

/* Waited for on the spot: the timer is too coarse for what is shorter than this. */
#define HOOKNET_SPOT_US	10000
#define HOOKNET_MAX_US	(10 * 1000 * 1000)

/*
 * Each part is made with the module (init), starts to work (start), stops being
 * visible (stop), is waited for (quiesce) and goes with the module (exit). What
 * a part does not need it does not have.
 */

/* main.c: who is inside. */
void hooknet_enter(void);
void hooknet_leave(void);
const char *hooknet_state(void);
int hooknet_users(void);

/* hook.c: handlers, and the packets that pass them. */
int hooknet_hook_start(void);
void hooknet_hook_stop(void);
void hooknet_hook_exit(void);
int hooknet_add_handler(const char *name, unsigned int protocol, unsigned int delay_us);
int hooknet_del_handler(const char *name);
void hooknet_show_handlers(struct seq_file *m);
unsigned long hooknet_packets(void);

/* hold.c: packets that wait, and the timer that sends them on. */
int hooknet_hold_init(void);
void hooknet_hold_start(void);
void hooknet_hold_quiesce(void);
void hooknet_hold_drain(void);
void hooknet_hold_exit(void);
unsigned int hooknet_hold(struct sk_buff *skb, const struct nf_hook_state *state,
			  unsigned int delay_us);
unsigned int hooknet_held(void);

/* ledger.c: sums for each protocol, entered by a work item. */
int hooknet_ledger_init(void);
void hooknet_ledger_quiesce(void);
void hooknet_ledger_exit(void);
void hooknet_ledger_count(u8 protocol);
void hooknet_show_ledger(struct seq_file *m);

/* sampler.c: the thread that looks how busy it is. */
int hooknet_sampler_start(void);
void hooknet_sampler_quiesce(void);
void hooknet_show_samples(struct seq_file *m);

/* control.c: /proc/hooknet. */
int hooknet_control_start(void);
void hooknet_control_stop(void);

#endif
