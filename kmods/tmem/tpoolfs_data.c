// SPDX-License-Identifier: GPL-2.0-only
/*
 * tpoolfs is poolfs with this file in the place of data.c: what is in files
 * lives in a store, the page cache stands in front of it, and a page that is
 * dropped from there is offered to tmem.
 *
 * Writes go through to the store, so that pages are always clean. What tmem has
 * of a file agrees with its store, as long as the store's lock is held.
 */
#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/rwsem.h>
#include <linux/slab.h>
#include <linux/splice.h>
#include <linux/uio.h>
#include <linux/xarray.h>

#include "kmh_compat.h"
#include "poolfs.h"
#include "tmem.h"

/**
 * struct tpoolfs_mount - what a mount has of its own
 * @client: what tmem knows it by
 * @last_ino: inode numbers count from 1 in each mount, as those on a disk do
 */
struct tpoolfs_mount {
	struct tmem_client client;
	atomic_long_t last_ino;
};

/**
 * struct poolfs_store - what is in a file
 * @lock: nests inside the lock of a page. Writing: pages change here, and with
 *	that what tmem has of them. Reading: what passes between here, tmem and the
 *	page cache is true
 * @pages: index → a page's bytes; nothing where there is a hole
 */
struct poolfs_store {
	struct rw_semaphore lock;
	struct xarray pages;
};

static const struct tmem_client *tpoolfs_client(const struct inode *inode)
{
	const struct tpoolfs_mount *mount = inode->i_sb->s_fs_info;

	return &mount->client;
}

static struct poolfs_store *tpoolfs_store(struct inode *inode)
{
	return POOLFS_I(inode)->store;
}

/* Make a locked page of the page cache what it should be: from tmem, or from the store. */
static void tpoolfs_fill(struct kmh_folio *folio)
{
	struct inode *inode = folio->mapping->host;
	const struct tmem_key key = { .ino = inode->i_ino, .index = folio->index };
	struct poolfs_store *store = tpoolfs_store(inode);
	void *to = kmh_folio_address(folio);
	const void *from;

	/* So that we are asked before it is dropped. */
	if (!kmh_folio_test_private(folio))
		kmh_folio_attach_private(folio, store);
	if (kmh_folio_test_uptodate(folio))
		return;

	down_read(&store->lock);
	if (tmem_get_page(tpoolfs_client(inode), &key, to)) {
		from = xa_load(&store->pages, folio->index);
		if (from)
			memcpy(to, from, PAGE_SIZE);
		else
			memset(to, 0, PAGE_SIZE);
	}
	up_read(&store->lock);
	kmh_folio_mark_uptodate(folio);
}

static int tpoolfs_read_folio(struct file *file, struct kmh_folio *folio)
{
	tpoolfs_fill(folio);
	kmh_folio_unlock(folio);
	return 0;
}

/*
 * A page is about to be dropped, though it is still true: offer it to tmem. This
 * may be called to find memory, so it waits for nothing.
 */
static kmh_release_ret tpoolfs_release_folio(struct kmh_folio *folio, gfp_t gfp)
{
	struct inode *inode = folio->mapping->host;
	const struct tmem_key key = { .ino = inode->i_ino, .index = folio->index };
	struct poolfs_store *store = tpoolfs_store(inode);

	if (kmh_folio_test_uptodate(folio) && down_read_trylock(&store->lock)) {
		/* What lies behind the end of the file is about to be dropped for good. */
		if ((loff_t)folio->index << PAGE_SHIFT < i_size_read(inode))
			tmem_put_page(tpoolfs_client(inode), &key, kmh_folio_address(folio));
		up_read(&store->lock);
	}
	kmh_folio_detach_private(folio);
	return true;
}

/* A page, or a part of it, is truncated: who does that invalidates tmem. */
static void tpoolfs_invalidate_folio(struct kmh_folio *folio, kmh_invalidate_len offset,
				     kmh_invalidate_len len)
{
	if (offset == 0 && len == PAGE_SIZE)
		kmh_folio_detach_private(folio);
}

static const struct address_space_operations tpoolfs_aops = {
	.kmh_read_folio		= tpoolfs_read_folio,
	.kmh_release_folio	= tpoolfs_release_folio,
	.kmh_invalidate_folio	= tpoolfs_invalidate_folio,
};

/* The store's page at @index, made if need be; NULL without memory. */
static void *tpoolfs_store_page(struct poolfs_store *store, pgoff_t index)
{
	void *bytes = xa_load(&store->pages, index);

	if (bytes)
		return bytes;

	bytes = kzalloc(PAGE_SIZE, GFP_KERNEL);
	if (bytes && xa_err(xa_store(&store->pages, index, bytes, GFP_KERNEL))) {
		kfree(bytes);
		bytes = NULL;
	}
	return bytes;
}

/* Change a part of one page, everywhere. The inode is locked. */
static int tpoolfs_write_page(struct inode *inode, loff_t pos, const void *from, size_t len)
{
	const struct tmem_key key = { .ino = inode->i_ino, .index = pos >> PAGE_SHIFT };
	struct poolfs_store *store = tpoolfs_store(inode);
	size_t offset = offset_in_page(pos);
	struct kmh_folio *folio;
	void *bytes;

	/* Before the store's lock is taken: reclaim takes it, too. */
	bytes = tpoolfs_store_page(store, key.index);
	folio = bytes ? kmh_filemap_grab(inode->i_mapping, key.index) : NULL;
	if (!folio)
		return -ENOMEM;

	tpoolfs_fill(folio);

	down_write(&store->lock);
	memcpy(bytes + offset, from, len);
	memcpy(kmh_folio_address(folio) + offset, from, len);
	tmem_invalidate_page(tpoolfs_client(inode), &key);
	up_write(&store->lock);

	kmh_folio_unlock(folio);
	kmh_folio_put(folio);
	return 0;
}

static ssize_t tpoolfs_write(struct kiocb *iocb, struct iov_iter *from, void *bytes)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	ssize_t done = 0;
	size_t len;
	int err;

	while (iov_iter_count(from)) {
		len = min_t(size_t, PAGE_SIZE - offset_in_page(iocb->ki_pos), iov_iter_count(from));
		len = copy_from_iter(bytes, len, from);
		if (!len)
			return done ?: -EFAULT;

		err = tpoolfs_write_page(inode, iocb->ki_pos, bytes, len);
		if (err)
			return done ?: err;

		done += len;
		iocb->ki_pos += len;
		if (iocb->ki_pos > i_size_read(inode))
			i_size_write(inode, iocb->ki_pos);
	}
	return done;
}

static ssize_t tpoolfs_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	void *bytes;
	ssize_t ret;

	bytes = kmalloc(PAGE_SIZE, GFP_KERNEL);
	if (!bytes)
		return -ENOMEM;

	inode_lock(inode);
	ret = generic_write_checks(iocb, from);
	if (ret > 0)
		ret = file_remove_privs(iocb->ki_filp) ?:
		      file_update_time(iocb->ki_filp) ?:
		      tpoolfs_write(iocb, from, bytes);
	inode_unlock(inode);

	kfree(bytes);
	return ret;
}

static void tpoolfs_free_pages(struct poolfs_store *store, pgoff_t first)
{
	unsigned long index;
	void *bytes;

	xa_for_each_start(&store->pages, index, bytes, first) {
		xa_erase(&store->pages, index);
		kfree(bytes);
	}
}

/*
 * Cut a file off in the store and at tmem. The page cache follows: whoever fills
 * a page from now on finds zeros behind the end, and nobody puts one from there.
 */
static int tpoolfs_shrink(struct inode *inode, loff_t size)
{
	struct poolfs_store *store = tpoolfs_store(inode);
	size_t rest = PAGE_SIZE - offset_in_page(size);
	void *zeros;
	int err;

	if (rest < PAGE_SIZE) {
		zeros = kzalloc(rest, GFP_KERNEL);
		err = zeros ? tpoolfs_write_page(inode, size, zeros, rest) : -ENOMEM;
		kfree(zeros);
		if (err)
			return err;
	}

	down_write(&store->lock);
	i_size_write(inode, size);
	tpoolfs_free_pages(store, DIV_ROUND_UP(size, PAGE_SIZE));
	tmem_invalidate_inode(tpoolfs_client(inode), inode->i_ino);
	up_write(&store->lock);
	return 0;
}

static int tpoolfs_setattr(KMH_IDMAP_ARG struct dentry *dentry, struct iattr *attr)
{
	struct inode *inode = d_inode(dentry);
	int err;

	err = setattr_prepare(KMH_IDMAP_PASS dentry, attr);
	if (err)
		return err;

	if (attr->ia_valid & ATTR_SIZE && attr->ia_size < i_size_read(inode)) {
		err = tpoolfs_shrink(inode, attr->ia_size);
		if (err)
			return err;
	}
	return simple_setattr(KMH_IDMAP_PASS dentry, attr);
}

static const struct file_operations tpoolfs_file_operations = {
	.owner		= POOLFS_OWNER,
	.llseek		= generic_file_llseek,
	.read_iter	= generic_file_read_iter,
	.write_iter	= tpoolfs_write_iter,
	.mmap		= generic_file_readonly_mmap,
	.fsync		= noop_fsync,
	.splice_read	= kmh_file_splice_read,
	.splice_write	= iter_file_splice_write,
};

static const struct inode_operations tpoolfs_file_inode_operations = {
	.setattr	= tpoolfs_setattr,
	.getattr	= simple_getattr,
};

int poolfs_data_mount(struct super_block *sb)
{
	struct tpoolfs_mount *mount;
	int err;

	mount = kzalloc(sizeof(*mount), GFP_KERNEL);
	if (!mount)
		return -ENOMEM;

	err = tmem_init_fs(&mount->client, sb);
	if (err) {
		kfree(mount);
		return err;
	}
	sb->s_fs_info = mount;
	return 0;
}

/* The mount's inodes have gone, so that nobody puts or gets any more. */
void poolfs_data_umount(struct super_block *sb, bool had_root)
{
	struct tpoolfs_mount *mount = sb->s_fs_info;

	if (!mount)
		return;

	/*
	 * Mistake mount-error-skips-invalidate: a mount that failed is not
	 * invalidated, as if this were put_super(), which the VFS calls only for
	 * a superblock that got its root. Caught by SLUB when tmem is unloaded
	 * (objects remaining), or by KASAN when a backend comes before that.
	 */
	if (!MISTAKE(mount_error_skips_invalidate) || had_root)
		tmem_invalidate_fs(&mount->client);
	sb->s_fs_info = NULL;
	kfree(mount);
}

unsigned long poolfs_data_ino(struct super_block *sb)
{
	struct tpoolfs_mount *mount = sb->s_fs_info;

	return atomic_long_inc_return(&mount->last_ino);
}

int poolfs_data_init(struct inode *inode)
{
	struct poolfs_store *store;

	store = kmalloc(sizeof(*store), GFP_KERNEL);
	if (!store)
		return -ENOMEM;
	init_rwsem(&store->lock);
	xa_init(&store->pages);
	POOLFS_I(inode)->store = store;

	inode->i_op = &tpoolfs_file_inode_operations;
	inode->i_fop = &tpoolfs_file_operations;
	inode->i_mapping->a_ops = &tpoolfs_aops;
	/* No high memory: pages are read and written where they are. */
	mapping_set_gfp_mask(inode->i_mapping, GFP_USER);
	return 0;
}

/* For the last time: a deleted file, or an unmount, which invalidates all at once. */
void poolfs_data_evict(struct inode *inode)
{
	struct poolfs_store *store = tpoolfs_store(inode);

	if (!store)
		return;

	if (!inode->i_nlink)
		tmem_invalidate_inode(tpoolfs_client(inode), inode->i_ino);
	tpoolfs_free_pages(store, 0);
	xa_destroy(&store->pages);
	kfree(store);
	POOLFS_I(inode)->store = NULL;
}
