// SPDX-License-Identifier: GPL-2.0-only
/* Files and directories: names live in the dentry cache. What is in a file: data.c. */
#include <linux/fs.h>
#include <linux/module.h>

#include "kmh_compat.h"
#include "poolfs.h"

/* simple_dir_operations with an owner. */
static const struct file_operations poolfs_dir_operations = {
	.owner		= POOLFS_OWNER,
	.open		= dcache_dir_open,
	.release	= dcache_dir_close,
	.llseek		= dcache_dir_lseek,
	.read		= generic_read_dir,
	.iterate_shared	= dcache_readdir,
	.fsync		= noop_fsync,
};

static int poolfs_make(struct inode *dir, struct dentry *dentry, umode_t mode)
{
	struct inode *inode = poolfs_new_inode(dir->i_sb, dir, mode);

	if (!inode)
		return -ENOMEM;

	kmh_d_make_persistent(dentry, inode);
	kmh_inode_modified(dir);
	return 0;
}

static int poolfs_create(KMH_IDMAP_ARG struct inode *dir, struct dentry *dentry,
			 KMH_CREATE_MODE)
{
	return poolfs_make(dir, dentry, mode | S_IFREG);
}

static kmh_mkdir_ret poolfs_mkdir(KMH_IDMAP_ARG struct inode *dir, struct dentry *dentry,
				  umode_t mode)
{
	int err = poolfs_make(dir, dentry, mode | S_IFDIR);

	if (!err)
		inc_nlink(dir);
	return KMH_MKDIR_RET(err);
}

static const struct inode_operations poolfs_dir_inode_operations = {
	.lookup		= simple_lookup,
	.create		= poolfs_create,
	.link		= simple_link,
	.unlink		= simple_unlink,
	.mkdir		= poolfs_mkdir,
	.rmdir		= simple_rmdir,
	.rename		= simple_rename,
	.setattr	= simple_setattr,
	.getattr	= simple_getattr,
};

/**
 * poolfs_new_inode - take a file or directory from the pool
 * @sb: mount that it is for
 * @dir: where it will be, NULL for the root
 * @mode: its type, S_IFREG or S_IFDIR, and permissions
 *
 * Return: the inode, with no name yet, or NULL without memory.
 */
struct inode *poolfs_new_inode(struct super_block *sb, const struct inode *dir, umode_t mode)
{
	struct inode *inode = new_inode(sb);

	if (!inode)
		return NULL;

	inode->i_ino = poolfs_data_ino(sb);
	kmh_inode_init_owner(inode, dir, mode);
	kmh_inode_init_times(inode);

	if (S_ISDIR(mode)) {
		inode->i_op = &poolfs_dir_inode_operations;
		inode->i_fop = &poolfs_dir_operations;
		inc_nlink(inode);	/* for "." */
		return inode;
	}

	if (poolfs_data_init(inode)) {
		iput(inode);
		return NULL;
	}
	return inode;
}
