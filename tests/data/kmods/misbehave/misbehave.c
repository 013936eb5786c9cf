// SPDX-License-Identifier: GPL-2.0-only
/* A misc device that does nothing, and a mistake for each way to spoil a test. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/completion.h>
#include <linux/configfs.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/panic.h>
#include <linux/proc_fs.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/trace_events.h>
#include <linux/vmalloc.h>

static unsigned int level;
module_param(level, uint, 0644);
MODULE_PARM_DESC(level, "how much of nothing, at most 9");

static const struct file_operations misbehave_fops = {
#ifndef MISTAKE_no_owner
	.owner = THIS_MODULE,
#endif
	.llseek = noop_llseek,
};

static struct miscdevice misbehave_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "misbehave",
	.fops = &misbehave_fops,
};

static const struct proc_ops misbehave_proc_ops = {
	.proc_lseek = noop_llseek,
};

static int misbehave_receive(struct sk_buff *skb, struct net_device *dev,
			     struct packet_type *type, struct net_device *from)
{
	kfree_skb(skb);
	return NET_RX_DROP;
}

/* Of a type that is for experiments (IEEE 802): no packet of it comes. */
static void __maybe_unused misbehave_add_handler(void)
{
	struct packet_type *type = kzalloc(sizeof(*type), GFP_KERNEL);

	if (!type)
		return;
	type->type = htons(0x88b5);
	type->func = misbehave_receive;
	dev_add_pack(type);
}

static void __maybe_unused misbehave_add_event(void)
{
	char *text = kzalloc(MAX_DYNEVENT_CMD_LEN, GFP_KERNEL);
	struct dynevent_cmd cmd;

	if (!text)
		return;
	kprobe_event_cmd_init(&cmd, text, MAX_DYNEVENT_CMD_LEN);
	if (!kprobe_event_gen_cmd_start(&cmd, "misbehave", "kernel_halt"))
		kprobe_event_gen_cmd_end(&cmd);
	kfree(text);
}

#if defined(MISTAKE_folders) || defined(MISTAKE_folders_no_owner)
/* Folders that users make, with a file in each. */
#ifdef MISTAKE_folders
#define FOLDERS_OWNER	THIS_MODULE
#else
#define FOLDERS_OWNER	NULL
#endif

static ssize_t misbehave_depth_show(struct config_item *item, char *page)
{
	return sprintf(page, "0\n");
}
CONFIGFS_ATTR_RO(misbehave_, depth);

static struct configfs_attribute *misbehave_attrs[] = {
	&misbehave_attr_depth,
	NULL,
};

static void misbehave_release(struct config_item *item)
{
	kfree(item);
}

static struct configfs_item_operations misbehave_item_ops = {
	.release = misbehave_release,
};

static const struct config_item_type misbehave_item_type = {
	.ct_owner = FOLDERS_OWNER,
	.ct_item_ops = &misbehave_item_ops,
	.ct_attrs = misbehave_attrs,
};

static struct config_item *misbehave_make_item(struct config_group *group, const char *name)
{
	struct config_item *item = kzalloc(sizeof(*item), GFP_KERNEL);

	if (!item)
		return ERR_PTR(-ENOMEM);
	config_item_init_type_name(item, name, &misbehave_item_type);
	return item;
}

static struct configfs_group_operations misbehave_group_ops = {
	.make_item = misbehave_make_item,
};

static const struct config_item_type misbehave_folders_type = {
	.ct_owner = FOLDERS_OWNER,
	.ct_group_ops = &misbehave_group_ops,
};

static struct configfs_subsystem misbehave_folders = {
	.su_group.cg_item = {
		.ci_namebuf = "misbehave",
		.ci_type = &misbehave_folders_type,
	},
};

static int __maybe_unused misbehave_add_folders(void)
{
	config_group_init(&misbehave_folders.su_group);
	mutex_init(&misbehave_folders.su_mutex);
	return configfs_register_subsystem(&misbehave_folders);
}

static void __maybe_unused misbehave_remove_folders(void)
{
	configfs_unregister_subsystem(&misbehave_folders);
}
#else
static int __maybe_unused misbehave_add_folders(void)
{
	return 0;
}

static void __maybe_unused misbehave_remove_folders(void)
{
}
#endif

static DECLARE_COMPLETION(never);
static void *kept;

/* Not part of init, whose code goes when it has run: nobody could tell its name. */
static noinline void misbehave_keep(void)
{
	WRITE_ONCE(kept, vmalloc(3 * PAGE_SIZE));
}

static int __init misbehave_init(void)
{
	int err;

	if (level > 9)
		return -EINVAL;
	if (__is_defined(MISTAKE_panics_on_load))
		panic("misbehave: as it was told");
	if (__is_defined(MISTAKE_init_waits))
		wait_for_completion(&never);
	if (__is_defined(MISTAKE_init_refuses))
		return -ENODEV;
	if (__is_defined(MISTAKE_quiet_warning))
		add_taint(TAINT_WARN, LOCKDEP_STILL_OK);
	if (__is_defined(MISTAKE_leaves_memory))
		misbehave_keep();
	if (__is_defined(MISTAKE_leaves_proc))
		proc_create("misbehave", 0444, NULL, &misbehave_proc_ops);
	if (__is_defined(MISTAKE_leaves_handler))
		misbehave_add_handler();
	if (__is_defined(MISTAKE_leaves_event))
		misbehave_add_event();
	err = misc_register(&misbehave_misc);
	if (err)
		return err;
	err = misbehave_add_folders();
	if (err)
		misc_deregister(&misbehave_misc);
	return err;
}
module_init(misbehave_init);

#ifndef MISTAKE_no_exit
static void __exit misbehave_exit(void)
{
	if (__is_defined(MISTAKE_exit_waits))
		wait_for_completion(&never);
	misbehave_remove_folders();
	misc_deregister(&misbehave_misc);
}
module_exit(misbehave_exit);
#endif

MODULE_DESCRIPTION("Modules that spoil tests, one mistake at a time");
MODULE_LICENSE("GPL");
