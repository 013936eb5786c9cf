// SPDX-License-Identifier: GPL-2.0-only
/*
 * poolfs: mounts, and the pool that all of them take their inodes from.
 *
 * The pool is made with the module and not with a mount. No unmount may take
 * it away, so it has to go when the filesystem itself does: that is what done
 * is for.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/rcupdate.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/statfs.h>

#include "kmh_compat.h"
#include "poolfs.h"
#include "vfs_attach.h"

#define POOLFS_MAGIC 0x706f6f6c	/* "pool" */

static unsigned short mode = 0755;
module_param(mode, ushort, 0444);
MODULE_PARM_DESC(mode, "permissions of a mount's root directory (default 0755)");

static unsigned long long max_bytes = 64ULL << 20;
module_param(max_bytes, ullong, 0444);
MODULE_PARM_DESC(max_bytes, "largest size of a file in bytes (default 64 MiB)");

/**
 * struct poolfs_pool - where inodes come from
 * @inodes: the cache
 * @prototype: the one object of it that belongs to no mount; holds the limits
 *	that a mount starts with
 */
struct poolfs_pool {
	struct kmem_cache *inodes;
	struct poolfs_inode *prototype;
};

static struct poolfs_pool *poolfs_pool;

static bool poolfs_limits_valid(const struct poolfs_limits *limits)
{
	return !(limits->mode & ~S_IALLUGO) &&
	       limits->max_bytes >= PAGE_SIZE && limits->max_bytes <= MAX_LFS_FILESIZE;
}

static void poolfs_inode_once(void *object)
{
	struct poolfs_inode *pi = object;

	inode_init_once(&pi->vfs_inode);
}

static int poolfs_init(void)
{
	const struct poolfs_limits limits = { .mode = mode, .max_bytes = max_bytes };
	struct poolfs_pool *pool;

	if (!poolfs_limits_valid(&limits)) {
		pr_err("parameters mode=%o max_bytes=%llu are out of range\n", mode, max_bytes);
		return -EINVAL;
	}

	pool = kzalloc(sizeof(*pool), GFP_KERNEL);
	if (!pool)
		return -ENOMEM;

	pool->inodes = kmem_cache_create(POOLFS_NAME "_inode", sizeof(struct poolfs_inode), 0,
					 SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT, poolfs_inode_once);
	if (!pool->inodes)
		goto out_pool;

	pool->prototype = kmem_cache_alloc(pool->inodes, GFP_KERNEL);
	if (!pool->prototype)
		goto out_inodes;

	pool->prototype->limits = limits;
	poolfs_pool = pool;
	return 0;

out_inodes:
	kmem_cache_destroy(pool->inodes);
out_pool:
	kfree(pool);
	return -ENOMEM;
}

/* Inlined, so that SLUB's "when called from" says on whose behalf. */
static __always_inline void poolfs_destroy_pool(void)
{
	struct poolfs_pool *pool = poolfs_pool;

	/* Whoever comes too late trips over a null pointer, not over freed memory. */
	poolfs_pool = NULL;
	if (!pool)
		return;

	/*
	 * Mistake pool-busy: the pool is destroyed before the prototype is
	 * given back. Caught by SLUB: one object remaining.
	 */
	if (!MISTAKE(pool_busy))
		kmem_cache_free(pool->inodes, pool->prototype);

	/*
	 * Mistake leak-pool: the pool survives its module. Nothing complains;
	 * caught by the audit, which finds the cache poolfs_inode after unload.
	 */
	if (!MISTAKE(leak_pool))
		kmem_cache_destroy(pool->inodes);

	if (MISTAKE(pool_busy))
		kmem_cache_free(pool->inodes, pool->prototype);
	kfree(pool);
}

static void poolfs_done(void)
{
	poolfs_destroy_pool();
}

static struct inode *poolfs_alloc_inode(struct super_block *sb)
{
	struct poolfs_inode *pi = kmh_alloc_inode_sb(sb, poolfs_pool->inodes);

	if (!pi)
		return NULL;
	pi->limits = poolfs_pool->prototype->limits;
	pi->store = NULL;
	return &pi->vfs_inode;
}

/* The VFS calls it from an RCU callback: path walks look at inodes without a lock. */
static void poolfs_free_inode(struct inode *inode)
{
	kmem_cache_free(poolfs_pool->inodes, POOLFS_I(inode));
}

static void poolfs_evict_inode(struct inode *inode)
{
	truncate_inode_pages_final(&inode->i_data);
	clear_inode(inode);
	poolfs_data_evict(inode);
}

static int poolfs_show_options(struct seq_file *m, struct dentry *root)
{
	const struct poolfs_limits *limits = &POOLFS_I(d_inode(root))->limits;

	seq_printf(m, ",mode=%o,max_bytes=%llu", limits->mode, limits->max_bytes);
	return 0;
}

static const struct super_operations poolfs_super_operations = {
	.alloc_inode	= poolfs_alloc_inode,
	.free_inode	= poolfs_free_inode,
	.evict_inode	= poolfs_evict_inode,
	.drop_inode	= kmh_inode_just_drop,
	.statfs		= simple_statfs,
	.show_options	= poolfs_show_options,
};

enum poolfs_option {
	OPT_MODE,
	OPT_MAX_BYTES,
};

static const struct fs_parameter_spec poolfs_parameters[] = {
	fsparam_u32oct("mode",		OPT_MODE),
	fsparam_u64("max_bytes",	OPT_MAX_BYTES),
	{}
};

static int poolfs_parse_param(struct fs_context *fc, struct fs_parameter *param)
{
	struct poolfs_limits *limits = fc->fs_private;
	struct fs_parse_result result;
	int opt;

	opt = fs_parse(fc, poolfs_parameters, param, &result);
	if (opt < 0)
		return opt;

	switch (opt) {
	case OPT_MODE:
		limits->mode = result.uint_32 & S_IALLUGO;
		break;
	case OPT_MAX_BYTES:
		limits->max_bytes = result.uint_64;
		break;
	}
	return 0;
}

/* The root inode holds a mount's limits, and refuses those that make no sense. */
static int poolfs_set_limits(struct inode *root, const struct poolfs_limits *limits)
{
	if (!poolfs_limits_valid(limits))
		return -EINVAL;

	POOLFS_I(root)->limits = *limits;
	root->i_sb->s_maxbytes = limits->max_bytes;
	return 0;
}

static int poolfs_fill_super(struct super_block *sb, struct fs_context *fc)
{
	const struct poolfs_limits *limits = fc->fs_private;
	struct inode *root;
	int err;

	sb->s_magic = POOLFS_MAGIC;
	sb->s_blocksize = PAGE_SIZE;
	sb->s_blocksize_bits = PAGE_SHIFT;
	sb->s_op = &poolfs_super_operations;
	sb->s_time_gran = 1;

	err = poolfs_data_mount(sb);
	if (err)
		return err;

	root = poolfs_new_inode(sb, NULL, S_IFDIR | limits->mode);
	if (!root)
		return -ENOMEM;

	err = poolfs_set_limits(root, limits);
	if (err) {
		errorfc(fc, "max_bytes=%llu is out of range", limits->max_bytes);
		goto out_root;
	}

	sb->s_root = d_make_root(root);	/* takes root, also when it fails */
	return sb->s_root ? 0 : -ENOMEM;

out_root:
	/*
	 * Mistake failed-mount-leak: the mount that failed keeps its root inode.
	 * The VFS looks for forgotten inodes only in a superblock that got its
	 * root. Caught by SLUB at unload (one object remaining for each failed
	 * mount) and by kmemleak.
	 */
	if (!MISTAKE(failed_mount_leak))
		iput(root);
	return err;
}

static int poolfs_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, poolfs_fill_super);
}

static void poolfs_free_fc(struct fs_context *fc)
{
	kfree(fc->fs_private);
}

static const struct fs_context_operations poolfs_context_operations = {
	.parse_param	= poolfs_parse_param,
	.get_tree	= poolfs_get_tree,
	.free		= poolfs_free_fc,
};

static int poolfs_init_fs_context(struct fs_context *fc)
{
	fc->fs_private = kmemdup(&poolfs_pool->prototype->limits,
				 sizeof(struct poolfs_limits), GFP_KERNEL);
	if (!fc->fs_private)
		return -ENOMEM;

	fc->ops = &poolfs_context_operations;
	return 0;
}

/* Also for a mount that failed: then without a root, and maybe without anything. */
static void poolfs_kill_sb(struct super_block *sb)
{
	bool had_root = sb->s_root;

	kmh_kill_persistent_super(sb);
	poolfs_data_umount(sb, had_root);

	/*
	 * Mistake per-mount-destroy: the pool goes with this mount, as if it
	 * were its own. With one mount at a time nobody notices. Caught by SLUB
	 * when another is mounted (objects remaining, called from
	 * poolfs_kill_sb), then by the null pointer that the other one finds.
	 */
	if (MISTAKE(per_mount_destroy)) {
		rcu_barrier();
		poolfs_destroy_pool();
	}
}

static struct file_system_type poolfs_type = {
	.owner			= POOLFS_OWNER,
	.name			= POOLFS_NAME,
	.init_fs_context	= poolfs_init_fs_context,
	.parameters		= poolfs_parameters,
	.kill_sb		= poolfs_kill_sb,
};

const struct vfs_attachment poolfs_attachment = {
	.name	= POOLFS_NAME,
	.init	= poolfs_init,
	.done	= poolfs_done,
	.type	= &poolfs_type,
};
