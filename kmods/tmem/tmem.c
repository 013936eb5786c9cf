// SPDX-License-Identifier: GPL-2.0-only
/*
 * tmem: the core between filesystems and the one backend that there may be.
 *
 * It knows each mount from its first call to its last, with a backend or
 * without, so that one which comes later can serve mounts that were there
 * before. There are two ways to know a mount:
 *
 * superblocks: by the address of its superblock, which is also the name of its
 *	pool. It is right as long as every unmount takes the mount out of the
 *	table and its pages out of the backend: the address is used again.
 * ids: by a number that is never used again. When a backend appears, the number
 *	is mapped to a pool; no superblock is looked at after its mount.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/srcu.h>
#include <linux/string.h>
#include <linux/xarray.h>

#include "kmh_mistake.h"
#include "tmem.h"

static char *scheme = "superblocks";
module_param(scheme, charp, 0444);
MODULE_PARM_DESC(scheme, "how mounts are known: superblocks (default) or ids");

/**
 * struct tmem_fs - a mount in the table
 * @sb: its superblock; NULL where mounts are known by number
 * @block_bytes: its block size, where there is no superblock to ask
 * @pool: name of its pool at the backend
 * @has_pool: whether it has one
 */
struct tmem_fs {
	struct super_block *sb;
	unsigned long block_bytes;
	unsigned long pool;
	bool has_pool;
};

static bool tmem_by_id;
static struct kmem_cache *tmem_fs_cache;

/* Every mount: superblock's address or number → struct tmem_fs. */
static DEFINE_XARRAY_ALLOC1(tmem_table);
static u32 tmem_next_id;
static unsigned long tmem_next_pool;

/* Changes of the table and of the backend. Calls on pages do not take it. */
static DEFINE_MUTEX(tmem_lock);

/* A call is inside the backend only in here. */
DEFINE_STATIC_SRCU(tmem_srcu);
static const struct tmem_backend __rcu *tmem_backend;

static unsigned long tmem_table_key(const struct tmem_client *client)
{
	return tmem_by_id ? client->id : (unsigned long)client->sb;
}

/* Give a mount its pool. Not inlined, so that a report says what was done. */
static noinline void tmem_adopt(struct tmem_fs *fs, const struct tmem_backend *backend)
{
	unsigned long block_bytes = fs->sb ? fs->sb->s_blocksize : fs->block_bytes;

	lockdep_assert_held(&tmem_lock);
	if (block_bytes != backend->page_bytes)
		return;

	fs->pool = fs->sb ? (unsigned long)fs->sb : ++tmem_next_pool;
	fs->has_pool = true;
}

static const struct tmem_backend *tmem_locked_backend(void)
{
	return rcu_dereference_protected(tmem_backend, lockdep_is_held(&tmem_lock));
}

/**
 * tmem_init_fs - a filesystem is mounted, and will put and get pages
 * @client: filled, for the other calls
 * @sb: its superblock, with its block size set
 *
 * Whatever becomes of the mount, tmem_invalidate_fs() must follow.
 *
 * Return: 0 or a negative errno.
 */
int tmem_init_fs(struct tmem_client *client, struct super_block *sb)
{
	const struct tmem_backend *backend;
	struct tmem_fs *fs;
	int err;

	fs = kmem_cache_zalloc(tmem_fs_cache, GFP_KERNEL);
	if (!fs)
		return -ENOMEM;

	client->sb = sb;
	fs->block_bytes = sb->s_blocksize;
	if (!tmem_by_id)
		fs->sb = sb;

	mutex_lock(&tmem_lock);
	backend = tmem_locked_backend();
	if (backend)
		tmem_adopt(fs, backend);

	if (tmem_by_id)
		err = xa_alloc_cyclic(&tmem_table, &client->id, fs, xa_limit_32b, &tmem_next_id,
				      GFP_KERNEL);
	else
		err = xa_insert(&tmem_table, tmem_table_key(client), fs, GFP_KERNEL);
	mutex_unlock(&tmem_lock);

	if (err < 0) {
		kmem_cache_free(tmem_fs_cache, fs);
		return err;
	}
	return 0;
}
EXPORT_SYMBOL_GPL(tmem_init_fs);

/**
 * tmem_invalidate_fs - a filesystem is unmounted, or its mount has failed
 * @client: the mount; of no use afterwards
 */
void tmem_invalidate_fs(struct tmem_client *client)
{
	const struct tmem_backend *backend;
	struct tmem_fs *fs;
	bool keeps;

	mutex_lock(&tmem_lock);
	backend = tmem_locked_backend();

	/*
	 * Mistake stale-superblock: without a backend there is nothing to
	 * invalidate, so the mount stays in the table. Caught by KASAN when a
	 * backend comes and tmem_adopt() asks the superblock for its block size.
	 */
	if (MISTAKE(stale_superblock) && !backend)
		goto out_unlock;

	/*
	 * Mistake recycled-superblock: a mount that was read-only in the end has
	 * written nothing, so its pages are left with the backend. Nothing
	 * complains; the next superblock at that address gets them. Caught by
	 * comparing data.
	 */
	keeps = MISTAKE(recycled_superblock) && sb_rdonly(client->sb);

	fs = xa_erase(&tmem_table, tmem_table_key(client));
	if (fs && fs->has_pool && !keeps)
		backend->invalidate_fs(fs->pool);
	if (fs)
		kmem_cache_free(tmem_fs_cache, fs);
out_unlock:
	mutex_unlock(&tmem_lock);
}
EXPORT_SYMBOL_GPL(tmem_invalidate_fs);

/*
 * Where a call goes: the backend, or NULL where there is none, or no pool for this
 * mount. Good for as long as tmem_srcu is held.
 */
static const struct tmem_backend *tmem_find(const struct tmem_client *client, unsigned long *pool)
{
	const struct tmem_backend *backend = srcu_dereference(tmem_backend, &tmem_srcu);
	const struct tmem_fs *fs;

	/* Only its own unmount takes it out of the table, and that comes later. */
	fs = backend ? xa_load(&tmem_table, tmem_table_key(client)) : NULL;
	if (!fs || !fs->has_pool)
		return NULL;
	*pool = fs->pool;
	return backend;
}

/**
 * tmem_put_page - offer a page that is about to be dropped
 * @client: the mount
 * @key: the page
 * @data: what is in it
 *
 * Return: 0, or a negative errno when nobody takes it. Either way no older copy
 * of it is kept.
 */
int tmem_put_page(const struct tmem_client *client, const struct tmem_key *key, const void *data)
{
	const struct tmem_backend *backend;
	int srcu, err = -ENODEV;
	unsigned long pool;

	srcu = srcu_read_lock(&tmem_srcu);
	backend = tmem_find(client, &pool);
	if (backend)
		err = backend->put_page(pool, key, data);
	srcu_read_unlock(&tmem_srcu, srcu);
	return err;
}
EXPORT_SYMBOL_GPL(tmem_put_page);

/**
 * tmem_get_page - ask for a page that was put
 * @client: the mount
 * @key: the page
 * @data: filled on success, undefined else
 *
 * Return: 0, or a negative errno: read it from where it really is.
 */
int tmem_get_page(const struct tmem_client *client, const struct tmem_key *key, void *data)
{
	const struct tmem_backend *backend;
	int srcu, err = -ENODEV;
	unsigned long pool;

	srcu = srcu_read_lock(&tmem_srcu);
	backend = tmem_find(client, &pool);
	if (backend)
		err = backend->get_page(pool, key, data);
	srcu_read_unlock(&tmem_srcu, srcu);
	return err;
}
EXPORT_SYMBOL_GPL(tmem_get_page);

/**
 * tmem_invalidate_page - a page has changed
 * @client: the mount
 * @key: the page
 */
void tmem_invalidate_page(const struct tmem_client *client, const struct tmem_key *key)
{
	const struct tmem_backend *backend;
	unsigned long pool;
	int srcu;

	srcu = srcu_read_lock(&tmem_srcu);
	backend = tmem_find(client, &pool);
	if (backend)
		backend->invalidate_page(pool, key);
	srcu_read_unlock(&tmem_srcu, srcu);
}
EXPORT_SYMBOL_GPL(tmem_invalidate_page);

/**
 * tmem_invalidate_inode - a file has been truncated or deleted
 * @client: the mount
 * @ino: the file's inode number
 */
void tmem_invalidate_inode(const struct tmem_client *client, u64 ino)
{
	const struct tmem_backend *backend;
	unsigned long pool;
	int srcu;

	srcu = srcu_read_lock(&tmem_srcu);
	backend = tmem_find(client, &pool);
	if (backend)
		backend->invalidate_inode(pool, ino);
	srcu_read_unlock(&tmem_srcu, srcu);
}
EXPORT_SYMBOL_GPL(tmem_invalidate_inode);

/**
 * tmem_register_backend - a backend has come
 * @backend: must stay as it is until tmem_unregister_backend()
 *
 * Mounts that are there already get their pools now.
 *
 * Return: 0, or -EBUSY when there is one.
 */
int tmem_register_backend(const struct tmem_backend *backend)
{
	struct tmem_fs *fs;
	unsigned long key;
	int err = 0;

	mutex_lock(&tmem_lock);
	if (tmem_locked_backend()) {
		err = -EBUSY;
		goto out_unlock;
	}

	xa_for_each(&tmem_table, key, fs)
		tmem_adopt(fs, backend);
	/* Who sees the backend sees the pools. */
	rcu_assign_pointer(tmem_backend, backend);
out_unlock:
	mutex_unlock(&tmem_lock);
	return err;
}
EXPORT_SYMBOL_GPL(tmem_register_backend);

/**
 * tmem_unregister_backend - a backend leaves, with filesystems mounted or not
 * @backend: the one that is registered
 */
void tmem_unregister_backend(const struct tmem_backend *backend)
{
	struct tmem_fs *fs;
	unsigned long key;

	mutex_lock(&tmem_lock);
	if (WARN_ON(tmem_locked_backend() != backend))
		goto out_unlock;

	RCU_INIT_POINTER(tmem_backend, NULL);

	/*
	 * From here on nobody comes in; who is inside may still be compressing.
	 *
	 * Mistake no-wait-in-flight: it does not wait for them. Caught by KASAN
	 * in the backend's own functions, which come back to pools that are
	 * freed, or by a task that is still inside when the module has gone.
	 */
	if (!MISTAKE(no_wait_in_flight))
		synchronize_srcu(&tmem_srcu);

	xa_for_each(&tmem_table, key, fs)
		fs->has_pool = false;
out_unlock:
	mutex_unlock(&tmem_lock);
}
EXPORT_SYMBOL_GPL(tmem_unregister_backend);

static int __init tmem_init(void)
{
	tmem_by_id = !strcmp(scheme, "ids");
	if (!tmem_by_id && strcmp(scheme, "superblocks")) {
		pr_err("scheme=%s is neither superblocks nor ids\n", scheme);
		return -EINVAL;
	}

	tmem_fs_cache = kmem_cache_create("tmem_fs", sizeof(struct tmem_fs), 0, 0, NULL);
	return tmem_fs_cache ? 0 : -ENOMEM;
}
module_init(tmem_init);

/* Filesystems and backends use its symbols, so all of them have gone. */
static void __exit tmem_exit(void)
{
	kmem_cache_destroy(tmem_fs_cache);
	xa_destroy(&tmem_table);
}
module_exit(tmem_exit);

MODULE_DESCRIPTION("Second-chance memory: the core between filesystems and a backend");
MODULE_LICENSE("GPL");
KMH_MODULE_VARIANT();
