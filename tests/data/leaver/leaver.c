// SPDX-License-Identifier: GPL-2.0-only
/*
 * leaver: when it goes, it leaves pointers to itself wherever a pointer can be.
 * Those in what it keeps must be found, and those in what it frees must not.
 * Each place has a variable of its own to point to, so a finding says which.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/crypto.h>
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/reboot.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

/* crypto/internal.h: a list of the kernel's own that modules may see. */
extern struct list_head crypto_alg_list;

#define OBJECT		1000
#define LARGE		(64 * 1024)

static int kept_kmalloc, kept_large, kept_pool, kept_vmalloc, kept_page, kept_private, kept_percpu;
static int freed_kmalloc, freed_large, freed_pool, freed_vmalloc, freed_page, freed_percpu;
static int freed_later;

static struct list_head kept_in_list;
static struct kmem_cache *pool;

static int on_reboot(struct notifier_block *block, unsigned long action, void *data)
{
	return NOTIFY_DONE;
}

static struct notifier_block kept_in_chain = { .notifier_call = on_reboot };

/* A worker remembers what it has run last. */
static void work_that_ran(struct work_struct *work)
{
}

static DECLARE_WORK(done_work, work_that_ran);

static void pool_ctor(void *object)
{
	memset(object, 0, OBJECT);
}

/* In the middle, where no allocator puts something of its own. */
static void leave(void *memory, int *what)
{
	/* Nobody reads it again, and the compiler knows. */
	if (memory)
		WRITE_ONCE(((void **)memory)[40], what);
}

static noinline void leave_slab(void)
{
	void *freed = kmalloc(OBJECT, GFP_KERNEL), *from_pool = kmem_cache_alloc(pool, GFP_KERNEL);

	leave(kmalloc(OBJECT, GFP_KERNEL), &kept_kmalloc);
	leave(kmem_cache_alloc(pool, GFP_KERNEL), &kept_pool);
	leave(freed, &freed_kmalloc);
	kfree(freed);
	leave(from_pool, &freed_pool);
	if (from_pool)
		kmem_cache_free(pool, from_pool);
}

static noinline void leave_pages(void)
{
	void *freed = kmalloc(LARGE, GFP_KERNEL), *page = (void *)__get_free_page(GFP_KERNEL);
	struct page *kept = alloc_page(GFP_KERNEL);

	leave(kmalloc(LARGE, GFP_KERNEL), &kept_large);
	leave(freed, &freed_large);
	kfree(freed);
	leave(page, &freed_page);
	free_page((unsigned long)page);
	if (kept) {
		leave(page_address(kept), &kept_page);
		set_page_private(kept, (unsigned long)&kept_private);
	}
}

static noinline void leave_vmalloc(void)
{
	void *freed = vmalloc(LARGE);

	leave(vmalloc(LARGE), &kept_vmalloc);
	leave(freed, &freed_vmalloc);
	vfree(freed);
}

static noinline void leave_percpu(void)
{
	void __percpu *kept = __alloc_percpu(OBJECT, 8), *freed = __alloc_percpu(OBJECT, 8);

	if (kept)
		leave(per_cpu_ptr(kept, 0), &kept_percpu);
	if (freed)
		leave(per_cpu_ptr(freed, 0), &freed_percpu);
	free_percpu(freed);
}

struct given_to_rcu {
	void *room[OBJECT / sizeof(void *)];
	struct rcu_head rcu;
};

/* What is to be freed waits for others of its kind, for seconds. */
static noinline void leave_rcu(void)
{
	struct given_to_rcu *freed = kmalloc(sizeof(*freed), GFP_KERNEL);

	leave(freed, &freed_later);
	if (freed)
		kfree_rcu(freed, rcu);
}

static int __init leaver_init(void)
{
	pool = kmem_cache_create("leaver_pool", OBJECT, 0, 0, pool_ctor);
	return pool ? register_reboot_notifier(&kept_in_chain) : -ENOMEM;
}

static void __exit leaver_exit(void)
{
	leave_slab();
	leave_pages();
	leave_vmalloc();
	leave_percpu();
	leave_rcu();
	schedule_work(&done_work);
	flush_work(&done_work);
	list_add_tail(&kept_in_list, &crypto_alg_list);
}

module_init(leaver_init);
module_exit(leaver_exit);
MODULE_DESCRIPTION("Leaves pointers to itself wherever a pointer can be");
MODULE_LICENSE("GPL");
