// SPDX-License-Identifier: GPL-2.0-only
/*
 * hooknet: counts and delays the packets of the loopback interface. This file
 * has the module's doors and its unload in two stages, see two_stage.h: the
 * first is asked for through the parameter "unload", the second is the exit.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/netdevice.h>
#include <linux/string.h>

#include "hooknet.h"
#include "kmh_mistake.h"
#include "two_stage.h"

static void hooknet_quiesce(void)
{
	hooknet_hold_quiesce();
	/* The hook is called under RCU: packets that were in it are through now. */
	synchronize_net();
	hooknet_hold_drain();
	hooknet_ledger_quiesce();
	hooknet_sampler_quiesce();
}

static int hooknet_start(void)
{
	int err;

	err = hooknet_sampler_start();
	if (err)
		return err;
	hooknet_hold_start();

	err = hooknet_hook_start();
	if (err)
		goto out_quiesce;

	err = hooknet_control_start();
	if (err)
		goto out_hook;
	return 0;

out_hook:
	hooknet_hook_stop();
out_quiesce:
	hooknet_quiesce();
	return err;
}

static void hooknet_stop(void)
{
	/* Waits for those who read or write it, and closes it for all others. */
	hooknet_control_stop();
	hooknet_hook_stop();
}

static const struct two_stage_ops hooknet_two_stage_ops = {
	.start		= hooknet_start,
	.stop		= hooknet_stop,
	.quiesce	= hooknet_quiesce,
};

DEFINE_TWO_STAGE(hooknet_stages, hooknet_two_stage_ops);

void hooknet_enter(void)
{
	two_stage_enter(&hooknet_stages);
}

void hooknet_leave(void)
{
	two_stage_leave(&hooknet_stages);
}

const char *hooknet_state(void)
{
	return two_stage_name(&hooknet_stages);
}

int hooknet_users(void)
{
	return two_stage_users(&hooknet_stages);
}

/*
 * Whoever says "frozen" has frozen every process but his own. So nobody comes or
 * goes, but that does not tell that nobody is inside: a frozen task has what it
 * had, and goes on where it was. The count decides, as ever.
 */
static int hooknet_unload(enum two_stage_policy policy, bool frozen)
{
	/*
	 * Mistake frozen-is-not-out: processes that cannot run are taken for
	 * processes that are not there, and no check is made. Caught by the page
	 * fault when one of them has thawed and reads the packet that it was
	 * sent: its destructor is in the module that is gone.
	 */
	bool empty = MISTAKE(frozen_is_not_out) && frozen;
	int err;

	err = two_stage_stop(&hooknet_stages, empty ? TWO_STAGE_DELAY : policy);
	if (err)
		return err;

	/*
	 * Mistake checked-once: nobody was inside before the hook was taken away,
	 * so nobody is looked for after it. Caught by the page fault in the
	 * destructor of the packet that was in the hook at that time.
	 */
	if (MISTAKE(checked_once) || empty)
		return two_stage_release(&hooknet_stages);
	return two_stage_recheck(&hooknet_stages, policy);
}

static int hooknet_unload_set(const char *word, const struct kernel_param *kp)
{
	if (sysfs_streq(word, "now"))
		return hooknet_unload(TWO_STAGE_RETURN, false);
	if (sysfs_streq(word, "frozen"))
		return hooknet_unload(TWO_STAGE_RETURN, true);
	if (sysfs_streq(word, "delay"))
		return hooknet_unload(TWO_STAGE_DELAY, false);
	if (sysfs_streq(word, "resume"))
		return two_stage_resume(&hooknet_stages);
	return -EINVAL;
}

static int hooknet_unload_get(char *buffer, const struct kernel_param *kp)
{
	return scnprintf(buffer, PAGE_SIZE, "%s %d\n", hooknet_state(), hooknet_users());
}

static const struct kernel_param_ops hooknet_unload_ops = {
	.set = hooknet_unload_set,
	.get = hooknet_unload_get,
};
module_param_cb(unload, &hooknet_unload_ops, NULL, 0600);
MODULE_PARM_DESC(unload, "asks for the first stage of unloading: now, delay, frozen, or resume");

static int __init hooknet_init(void)
{
	int err;

	err = hooknet_hold_init();
	if (err)
		return err;

	err = hooknet_ledger_init();
	if (err)
		goto out_hold;

	err = two_stage_begin(&hooknet_stages);
	if (err)
		goto out_ledger;
	return 0;

out_ledger:
	hooknet_ledger_exit();
out_hold:
	hooknet_hold_exit();
	return err;
}
module_init(hooknet_init);

static void __exit hooknet_exit(void)
{
	two_stage_end(&hooknet_stages);
	hooknet_hook_exit();
	hooknet_ledger_exit();
	hooknet_hold_exit();
}
module_exit(hooknet_exit);

MODULE_DESCRIPTION("Counts and delays the packets of the loopback interface");
MODULE_LICENSE("GPL");
KMH_MODULE_VARIANT();
