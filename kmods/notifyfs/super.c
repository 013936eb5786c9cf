// SPDX-License-Identifier: GPL-2.0-only
/* The filesystem: a few files that say what the notifier heard. */
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/kernel.h>
#include <linux/module.h>

#include "kmh_compat.h"
#include "notifyfs.h"

#define NOTIFYFS_MAGIC	0x6e6f7469

/* Inode numbers, which are the files' places in notifyfs_files[]. */
enum {
	INO_UP = 2,
	INO_DOWN,
	INO_LAST,
};

static ssize_t notifyfs_read(struct file *file, char __user *buf, size_t size, loff_t *pos)
{
	struct notifyfs_counts counts;
	char text[sizeof(counts.last) + 24];
	int len = 0;

	notifyfs_counts_get(&counts);
	switch (file_inode(file)->i_ino) {
	case INO_UP:
		len = scnprintf(text, sizeof(text), "%llu\n", counts.up);
		break;
	case INO_DOWN:
		len = scnprintf(text, sizeof(text), "%llu\n", counts.down);
		break;
	case INO_LAST:
		len = scnprintf(text, sizeof(text), "%s\n", counts.last);
		break;
	}
	return simple_read_from_buffer(buf, size, pos, text, len);
}

static const struct file_operations notifyfs_file_operations = {
	.owner	= THIS_MODULE,
	.llseek	= generic_file_llseek,
	.read	= notifyfs_read,
};

static const struct tree_descr notifyfs_files[] = {
	[INO_UP]	= { "up", &notifyfs_file_operations, 0444 },
	[INO_DOWN]	= { "down", &notifyfs_file_operations, 0444 },
	[INO_LAST]	= { "last", &notifyfs_file_operations, 0444 },
	{ "" },
};

static int notifyfs_fill_super(struct super_block *sb, struct fs_context *fc)
{
	return simple_fill_super(sb, NOTIFYFS_MAGIC, notifyfs_files);
}

static int notifyfs_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, notifyfs_fill_super);
}

static const struct fs_context_operations notifyfs_context_operations = {
	.get_tree = notifyfs_get_tree,
};

static int notifyfs_init_fs_context(struct fs_context *fc)
{
	fc->ops = &notifyfs_context_operations;
	return 0;
}

/* Its name is a parameter of the module. */
struct file_system_type notifyfs_type = {
	.owner			= THIS_MODULE,
	.init_fs_context	= notifyfs_init_fs_context,
	.kill_sb		= kmh_kill_persistent_super,
};
