// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is in files: it lives in the page cache and nowhere else.
 *
 * The family tmem builds these sources with another file in the place of this
 * one, in which the page cache stands in front of a store.
 */
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/splice.h>

#include "kmh_compat.h"
#include "poolfs.h"

static const struct file_operations poolfs_file_operations = {
	.owner		= POOLFS_OWNER,
	.llseek		= generic_file_llseek,
	.read_iter	= generic_file_read_iter,
	.write_iter	= generic_file_write_iter,
	.mmap		= generic_file_mmap,
	.fsync		= noop_fsync,
	.splice_read	= kmh_file_splice_read,
	.splice_write	= iter_file_splice_write,
};

static const struct inode_operations poolfs_file_inode_operations = {
	.setattr	= simple_setattr,
	.getattr	= simple_getattr,
};

/* A mount needs nothing of its own. */
int poolfs_data_mount(struct super_block *sb)
{
	return 0;
}

void poolfs_data_umount(struct super_block *sb, bool had_root)
{
}

unsigned long poolfs_data_ino(struct super_block *sb)
{
	return get_next_ino();
}

int poolfs_data_init(struct inode *inode)
{
	inode->i_op = &poolfs_file_inode_operations;
	inode->i_fop = &poolfs_file_operations;
	inode->i_mapping->a_ops = &kmh_ram_aops;
	mapping_set_gfp_mask(inode->i_mapping, GFP_HIGHUSER);
	mapping_set_unevictable(inode->i_mapping);
	return 0;
}

void poolfs_data_evict(struct inode *inode)
{
}
