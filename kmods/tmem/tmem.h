/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Second-chance memory for clean pages: a filesystem puts a page that it is
 * about to drop, and may get it back when it reads that page again.
 *
 * What a backend keeps is a copy. A put may be refused and a get may miss at any
 * time, with and without a reason; so the true data stay with the filesystem,
 * and with them the duty to invalidate what is no longer true.
 *
 * Backends come and go, filesystems are mounted and unmounted, in any order.
 */
#ifndef TMEM_H
#define TMEM_H

#include <linux/types.h>

struct super_block;

/**
 * struct tmem_client - a mount, as the core knows it
 * @sb: the mount's superblock
 * @id: number of the mount, given to no other one
 *
 * The filesystem keeps it from tmem_init_fs() to tmem_invalidate_fs() and gives
 * it to every call. Which of the two is the key is tmem's affair: see its
 * parameter scheme.
 */
struct tmem_client {
	struct super_block *sb;
	u32 id;
};

/**
 * struct tmem_key - a page within a mount
 * @ino: its file's inode number
 * @index: its place in the file, in pages
 */
struct tmem_key {
	u64 ino;
	pgoff_t index;
};

/*
 * For filesystems. Calls for one page must not overlap, which the lock of a page
 * sees to. None of the calls on pages sleeps.
 */
int tmem_init_fs(struct tmem_client *client, struct super_block *sb);
int tmem_put_page(const struct tmem_client *client, const struct tmem_key *key, const void *data);
int tmem_get_page(const struct tmem_client *client, const struct tmem_key *key, void *data);
void tmem_invalidate_page(const struct tmem_client *client, const struct tmem_key *key);
void tmem_invalidate_inode(const struct tmem_client *client, u64 ino);
void tmem_invalidate_fs(struct tmem_client *client);

/**
 * struct tmem_backend - who keeps the pages
 * @name: for messages
 * @page_bytes: size of a page; mounts with another block size get no pool
 * @put_page: keeps a copy; after it, @get_page has that copy or none, but no
 *	older one. 0, or a negative errno when refused
 * @get_page: 0, or -ENOENT
 * @invalidate_page: forgets a page
 * @invalidate_inode: forgets all pages of a file
 * @invalidate_fs: forgets a pool
 *
 * A pool holds the pages of a mount. Its name is chosen by the core; it begins
 * with its first page.
 */
struct tmem_backend {
	const char *name;
	unsigned long page_bytes;
	int (*put_page)(unsigned long pool, const struct tmem_key *key, const void *data);
	int (*get_page)(unsigned long pool, const struct tmem_key *key, void *data);
	void (*invalidate_page)(unsigned long pool, const struct tmem_key *key);
	void (*invalidate_inode)(unsigned long pool, u64 ino);
	void (*invalidate_fs)(unsigned long pool);
};

/*
 * For backends. When tmem_unregister_backend() has returned, nobody is inside
 * the backend and nobody comes in: what it still keeps is the backend's to free.
 */
int tmem_register_backend(const struct tmem_backend *backend);
void tmem_unregister_backend(const struct tmem_backend *backend);

#endif
