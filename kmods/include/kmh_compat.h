/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between the kernels that the catalogue builds on (5.10 to 7.x),
 * in one place: a module uses the kmh_ name and has no version test of its own.
 * Each entry names the version in which the kernel changed.
 */
#ifndef KMH_COMPAT_H
#define KMH_COMPAT_H

#include <linux/dcache.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/timer.h>

/* Is it that kernel or a later one? family.mk gives its numbers. */
#define KMH_KERNEL_CODE (KMH_KERNEL_MAJOR * 1000 + KMH_KERNEL_MINOR)
#define KMH_KERNEL(major, minor) (KMH_KERNEL_CODE >= (major) * 1000 + (minor))

/* 5.18: inodes are charged to the memory cgroup of their LRU list. */
static inline void *kmh_alloc_inode_sb(struct super_block *sb, struct kmem_cache *cache)
{
#if KMH_KERNEL(5, 18)
	return alloc_inode_sb(sb, cache, GFP_KERNEL);
#else
	return kmem_cache_alloc(cache, GFP_KERNEL);
#endif
}

/*
 * Inode operations got a user namespace as first argument in 5.12 and an
 * idmapping instead in 6.3: KMH_IDMAP_ARG stands before the first one.
 */
#if KMH_KERNEL(6, 3)
#define KMH_IDMAP_ARG struct mnt_idmap *idmap,
#elif KMH_KERNEL(5, 12)
#define KMH_IDMAP_ARG struct user_namespace *mnt_userns,
#else
#define KMH_IDMAP_ARG
#endif

/* 6.15: mkdir returns a dentry, or NULL for the one it was given. */
#if KMH_KERNEL(6, 15)
#define kmh_mkdir_ret struct dentry *
#define KMH_MKDIR_RET(err) ERR_PTR(err)
#else
#define kmh_mkdir_ret int
#define KMH_MKDIR_RET(err) (err)
#endif

/* 7.3: create is not told any more that the file must be new. */
#if KMH_KERNEL(7, 3)
#define KMH_CREATE_MODE umode_t mode
#else
#define KMH_CREATE_MODE umode_t mode, bool excl
#endif

/* For a filesystem that is not mounted with an idmapping. */
static inline void kmh_inode_init_owner(struct inode *inode, const struct inode *dir,
					umode_t mode)
{
#if KMH_KERNEL(6, 3)
	inode_init_owner(&nop_mnt_idmap, inode, dir, mode);
#elif KMH_KERNEL(5, 12)
	inode_init_owner(&init_user_ns, inode, dir, mode);
#else
	inode_init_owner(inode, dir, mode);
#endif
}

/* The times of an inode became private: ctime in 6.6, the others in 6.7. */
static inline void kmh_inode_init_times(struct inode *inode)
{
#if KMH_KERNEL(6, 7)
	simple_inode_init_ts(inode);
#else
#if KMH_KERNEL(6, 6)
	inode->i_mtime = inode_set_ctime_current(inode);
#else
	inode->i_ctime = current_time(inode);
	inode->i_mtime = inode->i_ctime;
#endif
	inode->i_atime = inode->i_mtime;
#endif
}

/* What is in @dir has just changed. */
static inline void kmh_inode_modified(struct inode *dir)
{
#if KMH_KERNEL(6, 7)
	inode_set_mtime_to_ts(dir, inode_set_ctime_current(dir));
#elif KMH_KERNEL(6, 6)
	dir->i_mtime = inode_set_ctime_current(dir);
#else
	dir->i_ctime = current_time(dir);
	dir->i_mtime = dir->i_ctime;
#endif
}

/*
 * A filesystem whose only store is the dentry cache pins its dentries. Until
 * 6.19 that is one more reference, and killing the superblock drops it.
 */
static inline void kmh_d_make_persistent(struct dentry *dentry, struct inode *inode)
{
#if KMH_KERNEL(6, 19)
	d_make_persistent(dentry, inode);
#else
	d_instantiate(dentry, inode);
	dget(dentry);
#endif
}

static inline void kmh_kill_persistent_super(struct super_block *sb)
{
#if KMH_KERNEL(6, 19)
	kill_anon_super(sb);
#else
	kill_litter_super(sb);
#endif
}

/* 6.18 renamed it. */
#if KMH_KERNEL(6, 18)
#define kmh_inode_just_drop inode_just_drop
#else
#define kmh_inode_just_drop generic_delete_inode
#endif

/* 6.5: reading into a pipe no longer steals pages. */
#if KMH_KERNEL(6, 5)
#define kmh_file_splice_read filemap_splice_read
#else
#define kmh_file_splice_read generic_file_splice_read
#endif

/*
 * Pages that have no store but memory. Exported since 5.14; before, a page must
 * be made dirty by hand, or dropping the caches loses what was written.
 */
#if KMH_KERNEL(5, 14)
#define kmh_ram_aops ram_aops
#else
static inline int kmh_set_page_dirty(struct page *page)
{
	return !TestSetPageDirty(page);
}

static const struct address_space_operations __maybe_unused kmh_ram_aops = {
	.readpage	= simple_readpage,
	.write_begin	= simple_write_begin,
	.write_end	= simple_write_end,
	.set_page_dirty	= kmh_set_page_dirty,
};
#endif

/* 5.17 renamed it, and stable releases of older series followed; both are macros. */
#ifdef module_put_and_kthread_exit
#define kmh_module_put_and_exit module_put_and_kthread_exit
#else
#define kmh_module_put_and_exit module_put_and_exit
#endif

/*
 * 5.19: address space operations take folios, of one page unless a filesystem
 * asks for more. (5.18 has half of that change and is not catered for.)
 */
#if KMH_KERNEL(5, 19)
#define kmh_folio			folio
#define kmh_read_folio			read_folio
#define kmh_invalidate_folio		invalidate_folio
#define kmh_invalidate_len		size_t
#define kmh_release_folio		release_folio
#define kmh_release_ret			bool
#define kmh_folio_address		folio_address
#define kmh_folio_attach_private	folio_attach_private
#define kmh_folio_detach_private	folio_detach_private
#define kmh_folio_mark_uptodate		folio_mark_uptodate
#define kmh_folio_put			folio_put
#define kmh_folio_test_private		folio_test_private
#define kmh_folio_test_uptodate		folio_test_uptodate
#define kmh_folio_unlock		folio_unlock
#else
#define kmh_folio			page
#define kmh_read_folio			readpage
#define kmh_invalidate_folio		invalidatepage
#define kmh_invalidate_len		unsigned int
#define kmh_release_folio		releasepage
#define kmh_release_ret			int
#define kmh_folio_address		page_address
#define kmh_folio_attach_private	attach_page_private
#define kmh_folio_detach_private	detach_page_private
#define kmh_folio_mark_uptodate		SetPageUptodate
#define kmh_folio_put			put_page
#define kmh_folio_test_private		PagePrivate
#define kmh_folio_test_uptodate		PageUptodate
#define kmh_folio_unlock		unlock_page
#endif

/*
 * The page at @index, locked, and with a reference; a new one if need be, NULL
 * without memory. (6.4 made an error pointer of that NULL.)
 */
static inline struct kmh_folio *kmh_filemap_grab(struct address_space *mapping, pgoff_t index)
{
#if KMH_KERNEL(5, 19)
	struct folio *folio = __filemap_get_folio(mapping, index,
						  FGP_LOCK | FGP_ACCESSED | FGP_CREAT,
						  mapping_gfp_mask(mapping));

	return IS_ERR(folio) ? NULL : folio;
#else
	return find_or_create_page(mapping, index, mapping_gfp_mask(mapping));
#endif
}

/* What an inode operation got for KMH_IDMAP_ARG, for another one that it calls. */
#if KMH_KERNEL(6, 3)
#define KMH_IDMAP_PASS idmap,
#elif KMH_KERNEL(5, 12)
#define KMH_IDMAP_PASS mnt_userns,
#else
#define KMH_IDMAP_PASS
#endif

/* 6.2 renamed them; 6.15 took the old names away. */
#if KMH_KERNEL(6, 2)
#define kmh_timer_delete timer_delete
#define kmh_timer_delete_sync timer_delete_sync
#else
#define kmh_timer_delete del_timer
#define kmh_timer_delete_sync del_timer_sync
#endif

#endif
