// SPDX-License-Identifier: GPL-2.0-only
/*
 * /proc/hooknet: what there is to see, and one command for each write:
 *   add NAME PROTOCOL DELAY_US	a handler for an IP protocol (0: for all)
 *   del NAME			and away with it
 *
 * fs/proc protects a module from its readers by itself: removing the file waits
 * for whoever is in one of these functions, and closes it for all who have it
 * open. They are counted nevertheless, so that an unload that nobody insists on
 * does not take it away from them.
 */
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "hooknet.h"

#define HOOKNET_COMMAND	64

static int hooknet_show(struct seq_file *m, void *data)
{
	seq_printf(m, "state %s\nusers %d\nheld %u\n", hooknet_state(), hooknet_users(),
		   hooknet_held());
	hooknet_show_handlers(m);
	hooknet_show_ledger(m);
	hooknet_show_samples(m);
	return 0;
}

static int hooknet_open(struct inode *inode, struct file *file)
{
	int err;

	hooknet_enter();
	err = single_open(file, hooknet_show, NULL);
	if (err)
		hooknet_leave();
	return err;
}

static int hooknet_release(struct inode *inode, struct file *file)
{
	int err = single_release(inode, file);

	hooknet_leave();
	return err;
}

static int hooknet_command(char *text)
{
	unsigned int protocol, delay_us;
	char name[HOOKNET_COMMAND];
	char rest;

	text = strim(text);
	if (sscanf(text, "add %63s %u %u %c", name, &protocol, &delay_us, &rest) == 3)
		return hooknet_add_handler(name, protocol, delay_us);
	if (sscanf(text, "del %63s %c", name, &rest) == 1)
		return hooknet_del_handler(name);
	return -EINVAL;
}

static ssize_t hooknet_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	char *text;
	int err;

	if (len >= HOOKNET_COMMAND)
		return -EINVAL;
	text = memdup_user_nul(buf, len);
	if (IS_ERR(text))
		return PTR_ERR(text);

	err = hooknet_command(text);
	kfree(text);
	return err ?: len;
}

static const struct proc_ops hooknet_proc_ops = {
	.proc_open	= hooknet_open,
	.proc_read	= seq_read,
	.proc_lseek	= seq_lseek,
	.proc_write	= hooknet_write,
	.proc_release	= hooknet_release,
};

int hooknet_control_start(void)
{
	return proc_create("hooknet", 0600, NULL, &hooknet_proc_ops) ? 0 : -ENOMEM;
}

void hooknet_control_stop(void)
{
	remove_proc_entry("hooknet", NULL);
}
