// SPDX-License-Identifier: GPL-2.0-only
/* A misc device that does nothing, and a mistake for each way to spoil a test. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/panic.h>
#include <linux/proc_fs.h>
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

static DECLARE_COMPLETION(never);
static void *kept;

/* Not part of init, whose code goes when it has run: nobody could tell its name. */
static noinline void misbehave_keep(void)
{
	WRITE_ONCE(kept, vmalloc(3 * PAGE_SIZE));
}

static int __init misbehave_init(void)
{
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
	return misc_register(&misbehave_misc);
}
module_init(misbehave_init);

#ifndef MISTAKE_no_exit
static void __exit misbehave_exit(void)
{
	if (__is_defined(MISTAKE_exit_waits))
		wait_for_completion(&never);
	misc_deregister(&misbehave_misc);
}
module_exit(misbehave_exit);
#endif

MODULE_DESCRIPTION("Modules that spoil tests, one mistake at a time");
MODULE_LICENSE("GPL");
