// SPDX-License-Identifier: GPL-2.0-only
/*
 * zback: a backend of tmem that keeps pages in memory, compressed with LZO.
 *
 * It may be loaded and unloaded at any time, with filesystems mounted or not:
 * nothing holds it but the calls that are inside, and those are tmem's to wait
 * for. What it keeps at the end is its own to free.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/lzo.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/rbtree.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/xarray.h>

#include "kmh_mistake.h"
#include "tmem.h"

/* A put comes from where memory is reclaimed: it may neither wait nor use reserves. */
#define ZBACK_GFP (GFP_NOWAIT | __GFP_NOMEMALLOC | __GFP_NOWARN)

static unsigned int max_pages = 4096;
module_param(max_pages, uint, 0444);
MODULE_PARM_DESC(max_pages, "pages that are kept of one mount (default 4096)");

/**
 * struct zback_page - a page that is kept
 * @node: in its pool's tree, by @key
 * @key: file and place in it
 * @bytes: size of @data
 * @data: compressed, or as it is where that is no shorter
 */
struct zback_page {
	struct rb_node node;
	struct tmem_key key;
	size_t bytes;
	void *data;
};

/**
 * struct zback_pool - the pages of one mount
 * @count: how many there are
 * @pages: tree of struct zback_page
 * @lock: protects the others; a look at @count alone needs none. It is the last:
 *	KASAN writes to the beginning of what is freed, and who comes too late
 *	should fault and not spin
 */
struct zback_pool {
	unsigned int count;
	struct rb_root pages;
	spinlock_t lock;	/* of @count and @pages */
};

/* What a compression needs beside its input. */
struct zback_scratch {
	u8 work[LZO1X_1_MEM_COMPRESS];
	u8 out[lzo1x_worst_compress(PAGE_SIZE)];
};

static struct kmem_cache *zback_page_cache;
static DEFINE_XARRAY(zback_pools);	/* name → struct zback_pool */

static struct dentry *zback_dir;
static atomic_t zback_kept, zback_hits, zback_misses, zback_refused;

static int zback_compare(const struct tmem_key *a, const struct tmem_key *b)
{
	if (a->ino != b->ino)
		return a->ino < b->ino ? -1 : 1;
	if (a->index != b->index)
		return a->index < b->index ? -1 : 1;
	return 0;
}

/* The first page that is not before @key. */
static struct zback_page *zback_first(struct zback_pool *pool, const struct tmem_key *key)
{
	struct rb_node *node = pool->pages.rb_node;
	struct zback_page *first = NULL;

	lockdep_assert_held(&pool->lock);
	while (node) {
		struct zback_page *page = rb_entry(node, struct zback_page, node);

		if (zback_compare(&page->key, key) < 0) {
			node = node->rb_right;
		} else {
			first = page;
			node = node->rb_left;
		}
	}
	return first;
}

static struct zback_page *zback_find(struct zback_pool *pool, const struct tmem_key *key)
{
	struct zback_page *page = zback_first(pool, key);

	return page && !zback_compare(&page->key, key) ? page : NULL;
}

static void zback_free_page(struct zback_page *page)
{
	kfree(page->data);
	kmem_cache_free(zback_page_cache, page);
}

static void zback_remove(struct zback_pool *pool, struct zback_page *page)
{
	lockdep_assert_held(&pool->lock);
	rb_erase(&page->node, &pool->pages);
	WRITE_ONCE(pool->count, pool->count - 1);
	atomic_dec(&zback_kept);
	zback_free_page(page);
}

/* There is no page with its key. */
static void zback_insert(struct zback_pool *pool, struct zback_page *page)
{
	struct rb_node **link = &pool->pages.rb_node, *parent = NULL;

	lockdep_assert_held(&pool->lock);
	while (*link) {
		struct zback_page *other = rb_entry(*link, struct zback_page, node);

		parent = *link;
		if (zback_compare(&page->key, &other->key) < 0)
			link = &parent->rb_left;
		else
			link = &parent->rb_right;
	}
	rb_link_node(&page->node, parent, link);
	rb_insert_color(&page->node, &pool->pages);
	WRITE_ONCE(pool->count, pool->count + 1);
	atomic_inc(&zback_kept);
}

/* Without one, a pool is made: it begins with its first page. */
static struct zback_pool *zback_get_pool(unsigned long name)
{
	struct zback_pool *pool = xa_load(&zback_pools, name);

	if (pool)
		return pool;

	pool = kmalloc(sizeof(*pool), ZBACK_GFP);
	if (!pool)
		return NULL;
	spin_lock_init(&pool->lock);
	pool->pages = RB_ROOT;
	pool->count = 0;

	if (xa_insert(&zback_pools, name, pool, ZBACK_GFP)) {
		kfree(pool);
		/* Another put was first, or there is no memory. */
		pool = xa_load(&zback_pools, name);
	}
	return pool;
}

static void zback_free_pool(struct zback_pool *pool)
{
	struct zback_page *page, *next;

	rbtree_postorder_for_each_entry_safe(page, next, &pool->pages, node) {
		atomic_dec(&zback_kept);
		zback_free_page(page);
	}
	kfree(pool);
}

/* A copy of a page that is in no pool yet. */
static struct zback_page *zback_compress(const struct tmem_key *key, const void *data)
{
	struct zback_scratch *scratch;
	struct zback_page *page;
	const void *from;

	page = kmem_cache_alloc(zback_page_cache, ZBACK_GFP);
	scratch = kmalloc(sizeof(*scratch), ZBACK_GFP);
	if (!page || !scratch)
		goto out_free;

	page->key = *key;
	page->bytes = sizeof(scratch->out);
	from = scratch->out;
	if (lzo1x_1_compress(data, PAGE_SIZE, scratch->out, &page->bytes, scratch->work) ||
	    page->bytes >= PAGE_SIZE) {
		page->bytes = PAGE_SIZE;
		from = data;
	}

	page->data = kmemdup(from, page->bytes, ZBACK_GFP);
	if (!page->data)
		goto out_free;
	kfree(scratch);
	return page;

out_free:
	kfree(scratch);
	if (page)
		kmem_cache_free(zback_page_cache, page);
	return NULL;
}

static int zback_put_page(unsigned long name, const struct tmem_key *key, const void *data)
{
	struct zback_pool *pool = zback_get_pool(name);
	struct zback_page *page, *old;

	if (!pool)
		return -ENOMEM;

	page = zback_compress(key, data);
	if (page && READ_ONCE(pool->count) >= max_pages) {
		zback_free_page(page);
		page = NULL;
	}

	spin_lock(&pool->lock);
	old = zback_find(pool, key);
	if (old)
		zback_remove(pool, old);
	if (page)
		zback_insert(pool, page);
	spin_unlock(&pool->lock);

	if (!page)
		atomic_inc(&zback_refused);
	return page ? 0 : -ENOMEM;
}

static int zback_decompress(const struct zback_page *page, void *data)
{
	size_t bytes = PAGE_SIZE;

	if (page->bytes == PAGE_SIZE) {
		memcpy(data, page->data, PAGE_SIZE);
		return 0;
	}
	if (lzo1x_decompress_safe(page->data, page->bytes, data, &bytes) || bytes != PAGE_SIZE)
		return -EIO;
	return 0;
}

static int zback_get_page(unsigned long name, const struct tmem_key *key, void *data)
{
	struct zback_pool *pool = xa_load(&zback_pools, name);
	struct zback_page *page;
	int err = -ENOENT;

	if (pool) {
		spin_lock(&pool->lock);
		page = zback_find(pool, key);
		if (page)
			err = zback_decompress(page, data);
		spin_unlock(&pool->lock);
	}
	atomic_inc(err ? &zback_misses : &zback_hits);
	return err;
}

static void zback_invalidate_page(unsigned long name, const struct tmem_key *key)
{
	struct zback_pool *pool = xa_load(&zback_pools, name);
	struct zback_page *page;

	if (!pool)
		return;

	spin_lock(&pool->lock);
	page = zback_find(pool, key);
	if (page)
		zback_remove(pool, page);
	spin_unlock(&pool->lock);
}

static void zback_invalidate_inode(unsigned long name, u64 ino)
{
	struct zback_pool *pool = xa_load(&zback_pools, name);
	const struct tmem_key first = { .ino = ino };
	struct zback_page *page;

	if (!pool)
		return;

	spin_lock(&pool->lock);
	while ((page = zback_first(pool, &first)) && page->key.ino == ino)
		zback_remove(pool, page);
	spin_unlock(&pool->lock);
}

/* The mount is over: nobody else uses this pool. */
static void zback_invalidate_fs(unsigned long name)
{
	struct zback_pool *pool = xa_erase(&zback_pools, name);

	if (pool)
		zback_free_pool(pool);
}

static const struct tmem_backend zback_backend = {
	.name			= KBUILD_MODNAME,
	.page_bytes		= PAGE_SIZE,
	.put_page		= zback_put_page,
	.get_page		= zback_get_page,
	.invalidate_page	= zback_invalidate_page,
	.invalidate_inode	= zback_invalidate_inode,
	.invalidate_fs		= zback_invalidate_fs,
};

static void zback_free_pools(void)
{
	struct zback_pool *pool;
	unsigned long name;

	xa_for_each(&zback_pools, name, pool) {
		xa_erase(&zback_pools, name);
		zback_free_pool(pool);
	}
}

static int __init zback_init(void)
{
	int err;

	zback_page_cache = kmem_cache_create("zback_page", sizeof(struct zback_page), 0, 0, NULL);
	if (!zback_page_cache)
		return -ENOMEM;

	zback_dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	debugfs_create_atomic_t("kept", 0444, zback_dir, &zback_kept);
	debugfs_create_atomic_t("hits", 0444, zback_dir, &zback_hits);
	debugfs_create_atomic_t("misses", 0444, zback_dir, &zback_misses);
	debugfs_create_atomic_t("refused", 0444, zback_dir, &zback_refused);

	err = tmem_register_backend(&zback_backend);
	if (err)
		goto out_undo;
	return 0;

out_undo:
	debugfs_remove(zback_dir);
	kmem_cache_destroy(zback_page_cache);
	return err;
}
module_init(zback_init);

static void __exit zback_exit(void)
{
	tmem_unregister_backend(&zback_backend);
	debugfs_remove(zback_dir);

	/*
	 * Filesystems that are still mounted will not invalidate anything here.
	 *
	 * Mistake pages-leaked: it is left to them. With all of them unmounted
	 * before, nothing is wrong. Caught by SLUB: objects remaining.
	 */
	if (!MISTAKE(pages_leaked))
		zback_free_pools();
	kmem_cache_destroy(zback_page_cache);
}
module_exit(zback_exit);

MODULE_DESCRIPTION("Backend of tmem that keeps pages compressed");
MODULE_LICENSE("GPL");
KMH_MODULE_VARIANT();
