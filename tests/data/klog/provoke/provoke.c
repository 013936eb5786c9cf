// SPDX-License-Identifier: GPL-2.0-only
/*
 * Provokes one report of the kernel per load: insmod provoke.ko what=NAME.
 *
 * One function per report; the comment names the detector that must catch it.
 * All bad values go through volatile variables or OPTIMIZER_HIDE_VAR, so that
 * the compiler neither warns about the bug nor removes it.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/etherdevice.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/interrupt.h>
#include <linux/kobject.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/proc_fs.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/timer.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

static char *what = "";
module_param(what, charp, 0);
MODULE_PARM_DESC(what, "which report to provoke");

/* Keeps the compiler from seeing through a value. */
#define HIDE(x) ({ typeof(x) _x = (x); OPTIMIZER_HIDE_VAR(_x); _x; })

struct victim {
	char data[40];
	struct list_head list;
	struct timer_list timer;
	struct work_struct work;
	struct rcu_head rcu;
	spinlock_t lock;
};

static char table[16];

static noinline struct victim *freed_victim(void)
{
	struct victim *v = kzalloc(sizeof(*v), GFP_KERNEL);

	kfree(v);
	return HIDE(v);
}

/* KASAN: slab out-of-bounds, use-after-free, invalid free. */
static noinline void kasan_uaf_read(void)
{
	pr_info("%d\n", READ_ONCE(freed_victim()->data[8]));
}

static noinline void kasan_uaf_write(void)
{
	WRITE_ONCE(freed_victim()->data[8], 1);
}

static noinline void kasan_uaf_list(void)
{
	struct victim *v = kzalloc(sizeof(*v), GFP_KERNEL);
	LIST_HEAD(head);

	list_add(&v->list, &head);
	kfree(HIDE(v));
	INIT_LIST_HEAD(&freed_victim()->list);
	list_del(&HIDE(v)->list);
}

static noinline void kasan_oob_read(void)
{
	char *p = kmalloc(24, GFP_KERNEL);

	pr_info("%d\n", READ_ONCE(p[HIDE(24)]));
	kfree(p);
}

static noinline void kasan_oob_memset(void)
{
	char *p = kmalloc(24, GFP_KERNEL);

	memset(p, 1, HIDE(32));
	kfree(p);
}

static noinline void kasan_double_free(void)
{
	kfree(freed_victim());
}

static noinline void kasan_invalid_free(void)
{
	char *p = kmalloc(24, GFP_KERNEL);

	kfree(HIDE(p + 8));
}

static noinline void kasan_stack_oob(void)
{
	char local[16] = { 0 };

	pr_info("%d\n", READ_ONCE(local[HIDE(20)]));
}

static noinline void kasan_global_oob(void)
{
	pr_info("%d\n", READ_ONCE(table[HIDE(18)]));
}

static noinline void kasan_vmalloc_oob(void)
{
	char *p = vmalloc(100);

	pr_info("%d\n", READ_ONCE(p[HIDE(4000)]));
	vfree(p);
}

static noinline void kasan_cache_uaf(void)
{
	struct kmem_cache *c = kmem_cache_create("provoke_uaf", 64, 0, 0, NULL);
	char *p = kmem_cache_alloc(c, GFP_KERNEL);

	kmem_cache_free(c, p);
	pr_info("%d\n", READ_ONCE(HIDE(p)[8]));
	kmem_cache_destroy(c);
}

/* Exceptions. */
static noinline void null_read(void)
{
	pr_info("%d\n", READ_ONCE(((struct victim *)HIDE(0UL))->data[8]));
}

/* Past KASAN, which would speak first. */
static noinline __no_sanitize_address void null_read_raw(void)
{
	asm volatile("movq 8(%0), %%rax" :: "r"(HIDE(0UL)) : "rax", "memory");
}

static noinline void null_call(void)
{
	void (*f)(void) = (void *)HIDE(0UL);

	f();
	pr_info("not reached\n");
}

static noinline void page_fault_read(void)
{
	asm volatile("movq (%0), %%rax" :: "r"(HIDE(0xff90000000000000UL)) : "rax", "memory");
}

static noinline void page_fault_write_ro(void)
{
	asm volatile("movb $1, (%0)" :: "r"(HIDE((void *)hex_asc)) : "memory");
}

static noinline void execute_data(void)
{
	void (*f)(void) = kzalloc(64, GFP_KERNEL);

	HIDE(f)();
	pr_info("not reached\n");
}

static noinline void wild_read(void)
{
	asm volatile("movq (%0), %%rax" :: "r"(HIDE(0xdead000000000100UL)) : "rax", "memory");
}

static noinline void divide(void)
{
	asm volatile("xorl %%edx, %%edx; movl $1, %%eax; divl %0"
		     :: "r"(HIDE(0)) : "eax", "edx");
}

static noinline void bad_opcode(void)
{
	asm volatile("ud1 %eax, %eax");
}

static noinline int overflow_stack(int depth)
{
	volatile char local[512];

	local[depth % 512] = depth;
	return overflow_stack(depth + 1) + local[(depth + 1) % 512];
}

static noinline void stack_overflow(void)
{
	pr_info("%d\n", overflow_stack(1));
}

/* BUG(), WARN(), panic(). */
static noinline void bug(void)
{
	BUG();
}

static noinline void bug_on(void)
{
	BUG_ON(HIDE(1));
}

static noinline void warn(void)
{
	WARN(1, "something is odd: %d\n", 42);
}

static noinline void warn_on_once(void)
{
	WARN_ON_ONCE(HIDE(1));
}

static noinline void provoke_panic(void)
{
	panic("provoked on purpose, code %d", 42);
}

/* lockdep, spinlock debugging. */
static DEFINE_MUTEX(lock_a);
static DEFINE_MUTEX(lock_b);
static DEFINE_SPINLOCK(lock_c);

static noinline void take_a_then_b(void)
{
	mutex_lock(&lock_a);
	mutex_lock(&lock_b);
	mutex_unlock(&lock_b);
	mutex_unlock(&lock_a);
}

static noinline void take_b_then_a(void)
{
	mutex_lock(&lock_b);
	mutex_lock(&lock_a);
	mutex_unlock(&lock_a);
	mutex_unlock(&lock_b);
}

static noinline void lock_circular(void)
{
	take_a_then_b();
	take_b_then_a();
}

static noinline void lock_recursive(void)
{
	mutex_lock(&lock_a);
	mutex_lock(&lock_a);
}

static void lock_timer_fn(struct timer_list *t)
{
	spin_lock(&lock_c);
	spin_unlock(&lock_c);
}

static noinline void lock_inconsistent(void)
{
	struct timer_list t;

	spin_lock(&lock_c);
	spin_unlock(&lock_c);
	timer_setup_on_stack(&t, lock_timer_fn, 0);
	mod_timer(&t, jiffies + 1);
	msleep(100);
	del_timer_sync(&t);
	destroy_timer_on_stack(&t);
}

static DEFINE_SPINLOCK(lock_d);

/* C is taken in soft interrupts, D with them enabled; then D inside C. */
static noinline void lock_irq_unsafe(void)
{
	struct timer_list t;

	timer_setup_on_stack(&t, lock_timer_fn, 0);
	mod_timer(&t, jiffies + 1);
	msleep(100);
	del_timer_sync(&t);
	destroy_timer_on_stack(&t);
	spin_lock(&lock_d);
	spin_unlock(&lock_d);
	spin_lock_bh(&lock_c);
	spin_lock(&lock_d);
	spin_unlock(&lock_d);
	spin_unlock_bh(&lock_c);
}

static noinline void lock_unbalanced(void)
{
	mutex_lock(&lock_a);
	mutex_unlock(&lock_a);
	mutex_unlock(&lock_a);
}

static noinline void lock_held_freed(void)
{
	struct victim *v = kzalloc(sizeof(*v), GFP_KERNEL);

	spin_lock_init(&v->lock);
	spin_lock(&v->lock);
	kfree(v);
}

static noinline void lock_no_key(void)
{
	struct victim *v = kzalloc(sizeof(*v), GFP_KERNEL);

	spin_lock(&v->lock);
	spin_unlock(&v->lock);
	kfree(v);
}

static noinline void lock_nest_not_held(void)
{
	mutex_lock_nest_lock(&lock_a, &lock_b);
}

/* Two locks of one class under two names. */
static noinline void lock_class_twice(void)
{
	static struct lock_class_key key;
	static struct mutex one, two;

	__mutex_init(&one, "one", &key);
	__mutex_init(&two, "two", &key);
	mutex_lock(&one);
	mutex_unlock(&one);
	mutex_lock(&two);
	mutex_unlock(&two);
}

static noinline void spin_bad_magic(void)
{
	struct victim *v = kzalloc(sizeof(*v), GFP_KERNEL);

	spin_lock_init(&v->lock);
	v->lock.rlock.magic = 0;
	spin_lock(&v->lock);
	spin_unlock(&v->lock);
	kfree(v);
}

static int end_with_lock(void *unused)
{
	mutex_lock(&lock_a);
	return 0;
}

static noinline void thread_keeps_lock(void)
{
	kthread_run(end_with_lock, NULL, "keeper");
	msleep(200);
}

static void work_with_lock(struct work_struct *work)
{
	mutex_lock(&lock_a);
}

static noinline void work_keeps_lock(void)
{
	static DECLARE_WORK(work, work_with_lock);

	schedule_work(&work);
	msleep(200);
}

static ssize_t locked_write(struct file *f, const char __user *b, size_t n, loff_t *p)
{
	mutex_lock(&lock_a);
	return n;
}

static const struct file_operations locked_fops = { .write = locked_write };

/* Whoever writes to the file returns to user space with a lock. */
static noinline void lock_to_user(void)
{
	debugfs_create_file("provoke_lock", 0200, NULL, NULL, &locked_fops);
}

static void __rcu *shared;

static noinline void rcu_unprotected(void)
{
	pr_info("%p\n", rcu_dereference(shared));
}

/* DEBUG_ATOMIC_SLEEP. */
static noinline void sleep_in_atomic(void)
{
	spin_lock(&lock_c);
	mutex_lock(&lock_a);
	mutex_unlock(&lock_a);
	spin_unlock(&lock_c);
}

static noinline void schedule_in_atomic(void)
{
	preempt_disable();
	schedule_timeout_uninterruptible(1);
	preempt_enable();
}

/* Watchdogs. */
static noinline void spin_without_preemption(void)
{
	unsigned long end = jiffies + 30 * HZ;

	preempt_disable();
	while (time_before(jiffies, end))
		cpu_relax();
	preempt_enable();
}

static noinline void spin_in_rcu(void)
{
	unsigned long end = jiffies + 30 * HZ;

	rcu_read_lock();
	while (time_before(jiffies, end))
		cpu_relax();
	rcu_read_unlock();
}

static noinline void never_completed(void)
{
	DECLARE_COMPLETION_ONSTACK(c);

	wait_for_completion(&c);
}

static int take_and_keep(void *unused)
{
	mutex_lock(&lock_a);
	ssleep(1000);
	return 0;
}

static noinline void lock_never_released(void)
{
	kthread_run(take_and_keep, NULL, "keeper");
	msleep(100);
	mutex_lock(&lock_a);
}

/* DEBUG_LIST, refcount, DEBUG_OBJECTS. */
static noinline void list_double_add(void)
{
	struct victim *v = kzalloc(sizeof(*v), GFP_KERNEL);
	LIST_HEAD(head);

	list_add(&v->list, &head);
	list_add(HIDE(&v->list), &head);
}

static noinline void list_del_twice(void)
{
	struct victim *v = kzalloc(sizeof(*v), GFP_KERNEL);
	LIST_HEAD(head);

	list_add(&v->list, &head);
	list_del(&v->list);
	list_del(HIDE(&v->list));
}

static noinline void refcount_underflow(void)
{
	refcount_t r = REFCOUNT_INIT(1);

	if (refcount_dec_and_test(&r) && refcount_dec_and_test(&r))
		pr_info("not reached\n");
}

static noinline void refcount_inc_zero(void)
{
	refcount_t r = REFCOUNT_INIT(0);

	refcount_inc(&r);
}

static void victim_timer_fn(struct timer_list *t)
{
}

static noinline void odebug_free_active(void)
{
	struct victim *v = kzalloc(sizeof(*v), GFP_KERNEL);

	timer_setup(&v->timer, victim_timer_fn, 0);
	mod_timer(&v->timer, jiffies + 100 * HZ);
	kfree(v);
}

static noinline void odebug_init_active(void)
{
	struct victim *v = kzalloc(sizeof(*v), GFP_KERNEL);

	timer_setup(&v->timer, victim_timer_fn, 0);
	mod_timer(&v->timer, jiffies + 100 * HZ);
	timer_setup(&v->timer, victim_timer_fn, 0);
}

static noinline void odebug_double_call_rcu(void)
{
	struct victim *v = kzalloc(sizeof(*v), GFP_KERNEL);

	kfree_rcu(v, rcu);
	kfree_rcu(HIDE(v), rcu);
}

/* SLUB's own complaints. */
static noinline void slab_objects_remain(void)
{
	struct kmem_cache *c = kmem_cache_create("provoke_pool", 72, 0, 0, NULL);

	WARN_ON(!kmem_cache_alloc(c, GFP_KERNEL));
	WARN_ON(!kmem_cache_alloc(c, GFP_KERNEL));
	kmem_cache_destroy(c);
}

/* Past KASAN, which would speak first. */
static noinline __no_sanitize_address void poke(char *p)
{
	asm volatile("movb $0x42, (%0)" :: "r"(p) : "memory");
}

static noinline void slab_redzone(void)
{
	struct kmem_cache *c = kmem_cache_create("provoke_zone", 72, 0,
						 SLAB_RED_ZONE | SLAB_CONSISTENCY_CHECKS, NULL);
	char *p = kmem_cache_alloc(c, GFP_KERNEL);

	poke(p + 74);
	kmem_cache_free(c, p);
	kmem_cache_destroy(c);
}

static noinline void slab_poison(void)
{
	struct kmem_cache *c = kmem_cache_create("provoke_poison", 72, 0,
						 SLAB_POISON | SLAB_CONSISTENCY_CHECKS, NULL);
	char *p = kmem_cache_alloc(c, GFP_KERNEL);
	char *neighbour = kmem_cache_alloc(c, GFP_KERNEL);

	/* The neighbour keeps the slab while KASAN's quarantine is emptied. */
	kmem_cache_free(c, p);
	kmem_cache_shrink(c);
	poke(HIDE(p) + 16);
	kmem_cache_free(c, neighbour);
	kmem_cache_destroy(c);
}

/* Sizes that make no sense. */
static noinline void vmalloc_zero(void)
{
	vfree(vmalloc(HIDE(0UL)));
}

static noinline void kvmalloc_huge(void)
{
	kvfree(kvmalloc(HIDE(1UL << 33), GFP_KERNEL));
}

/* Pages. */
static noinline void bad_page(void)
{
	/* Too large for the processor's own lists, which are not checked. */
	const unsigned int order = 5;
	struct page *p = alloc_pages(GFP_KERNEL, order);

	p->mapping = (void *)0x1234;
	__free_pages(p, order);
}

/* kobjects, sysfs, proc. */
static noinline void sysfs_duplicate(void)
{
	if (kobject_create_and_add("provoke_dup", kernel_kobj) &&
	    kobject_create_and_add("provoke_dup", kernel_kobj))
		pr_info("not reached\n");
}

static noinline void kobject_init_twice(void)
{
	struct kobject *k = kobject_create_and_add("provoke_twice", kernel_kobj);

	kobject_init(k, get_ktype(k));
}

static noinline void kobject_put_uninit(void)
{
	struct kobject *k = kzalloc(sizeof(*k), GFP_KERNEL);

	kobject_put(k);
}

static noinline void device_without_release(void)
{
	struct device *d = kzalloc(sizeof(*d), GFP_KERNEL);

	dev_set_name(d, "provoke_device");
	if (!device_register(d))
		device_unregister(d);
}

static noinline void sysfs_remove_absent(void)
{
	static struct attribute *attrs[] = { NULL };
	static const struct attribute_group group = { .name = "absent", .attrs = attrs };

	sysfs_remove_group(kernel_kobj, &group);
}

static noinline void proc_duplicate(void)
{
	proc_mkdir("provoke_dup", NULL);
	proc_mkdir("provoke_dup", NULL);
}

static noinline void proc_remove_full(void)
{
	struct proc_dir_entry *dir = proc_mkdir("provoke_dir", NULL);

	proc_mkdir("inside", dir);
	remove_proc_entry("provoke_dir", NULL);
}

static noinline void proc_remove_absent(void)
{
	remove_proc_entry("provoke_absent", NULL);
}

/* A network device that somebody still uses. */
static noinline void netdev_held(void)
{
	struct net_device *dev = alloc_netdev(0, "provoke%d", NET_NAME_UNKNOWN, ether_setup);
	static const struct net_device_ops ops;

	dev->netdev_ops = &ops;
	if (!register_netdev(dev)) {
		dev_hold(dev);
		unregister_netdev(dev);
	}
}

/* kmemleak. */
static noinline void leak(void)
{
	static int n;

	for (n = 0; n < 3; n++)
		memset(HIDE(kmalloc(120, GFP_KERNEL)), n, 120);
}

/* A filesystem of which something is still in use when it is unmounted. */
static const struct super_operations keep_super_ops = {
	.statfs = simple_statfs,
	.drop_inode = generic_delete_inode,
};

static int keep_inode_fill(struct super_block *sb, struct fs_context *fc)
{
	struct inode *root = new_inode(sb);

	root->i_ino = 1;
	root->i_mode = S_IFDIR | 0755;
	root->i_op = &simple_dir_inode_operations;
	root->i_fop = &simple_dir_operations;
	sb->s_op = &keep_super_ops;
	sb->s_root = d_make_root(root);
	if (!strcmp(what, "busy_inode"))
		igrab(root);
	else
		dget(sb->s_root);
	return 0;
}

static int keep_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, keep_inode_fill);
}

static const struct fs_context_operations keep_ops = { .get_tree = keep_get_tree };

static int keep_init_context(struct fs_context *fc)
{
	fc->ops = &keep_ops;
	return 0;
}

static struct file_system_type keepfs = {
	.owner = THIS_MODULE,
	.name = "keepfs",
	.init_fs_context = keep_init_context,
	.kill_sb = kill_anon_super,
};

static noinline void busy_fs(void)
{
	register_filesystem(&keepfs);
}

/* Bugs that need the module to be gone. */
static struct timer_list late_timer;

static void late_timer_fn(struct timer_list *t)
{
	pr_info("too late\n");
}

static noinline void timer_outlives(void)
{
	timer_setup(&late_timer, late_timer_fn, 0);
	mod_timer(&late_timer, jiffies + HZ);
}

static int late_thread(void *unused)
{
	ssleep(1);
	return 0;
}

static noinline void thread_outlives(void)
{
	kthread_run(late_thread, NULL, "late");
}

static ssize_t stay_read(struct file *f, char __user *b, size_t n, loff_t *p)
{
	ssleep(2);
	return 0;
}

static const struct proc_ops stay_ops = { .proc_read = stay_read };

static noinline void kmod_outlives(void)
{
	proc_create("provoke_stay", 0400, NULL, &stay_ops);
}

/* check_mm(), when the loader's memory goes */
static noinline void rss_counter(void)
{
	atomic_long_inc(&current->mm->rss_stat.count[MM_ANONPAGES]);
}

/* check_mm(), when the loader's memory goes */
static noinline void page_tables(void)
{
	mm_inc_nr_ptes(current->mm);
}

/* vm_normal_page(), when the loader's memory goes */
static noinline void bad_page_map(void)
{
	unsigned long at = vm_mmap(NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE,
				   MAP_ANONYMOUS | MAP_PRIVATE, 0);
	spinlock_t *lock;
	pte_t *pte;

	if (IS_ERR_VALUE(at) || put_user(1, (int __user *)at))
		return;
	mmap_read_lock(current->mm);
	if (!follow_pte(current->mm, at, &pte, &lock)) {
		set_pte(pte, pfn_pte(HIDE(1UL << 32), PAGE_SHARED));
		pte_unmap_unlock(pte, lock);
	}
	mmap_read_unlock(current->mm);
}

/* filp_close() */
static noinline void file_count_zero(void)
{
	struct file *file = filp_open("/", O_RDONLY, 0);

	if (IS_ERR(file))
		return;
	atomic_long_set(&file->f_count, 0);
	filp_close(file, NULL);
}

static atomic_t at_the_line;

static void start_together(void)
{
	atomic_inc(&at_the_line);
	while (atomic_read(&at_the_line) < 2)
		cpu_relax();
}

static noinline int warn_together(void *unused)
{
	start_together();
	WARN(HIDE(1), "one of two at once\n");
	return 0;
}

static noinline int read_together(void *unused)
{
	struct victim *v = freed_victim();

	start_together();
	return READ_ONCE(v->data[3]);
}

/* WARN() and KASAN, on two processors at the same time */
static noinline void two_at_once(void)
{
	struct task_struct *one = kthread_create(warn_together, NULL, "one");
	struct task_struct *two = kthread_create(read_together, NULL, "two");

	if (IS_ERR(one) || IS_ERR(two))
		return;
	kthread_bind(one, 0);
	kthread_bind(two, 1);
	wake_up_process(one);
	wake_up_process(two);
}

#define P(name) { #name, name }

static const struct provocation {
	const char *name;
	void (*run)(void);
} provocations[] = {
	P(kasan_uaf_read), P(kasan_uaf_write), P(kasan_uaf_list), P(kasan_oob_read),
	P(kasan_oob_memset), P(kasan_double_free), P(kasan_invalid_free), P(kasan_stack_oob),
	P(kasan_global_oob), P(kasan_vmalloc_oob), P(kasan_cache_uaf), P(null_read),
	P(null_read_raw), P(null_call), P(page_fault_read), P(page_fault_write_ro),
	P(execute_data), P(wild_read), P(divide), P(bad_opcode), P(stack_overflow), P(bug),
	P(bug_on), P(warn), P(warn_on_once), P(provoke_panic), P(lock_circular),
	P(lock_recursive), P(lock_inconsistent), P(lock_irq_unsafe),
	P(lock_unbalanced), P(lock_held_freed), P(lock_no_key), P(lock_to_user),
	P(lock_nest_not_held), P(lock_class_twice), P(spin_bad_magic), P(thread_keeps_lock),
	P(work_keeps_lock), P(vmalloc_zero), P(kvmalloc_huge), P(netdev_held),
	P(rcu_unprotected), P(sleep_in_atomic), P(schedule_in_atomic),
	P(spin_without_preemption), P(spin_in_rcu), P(never_completed), P(lock_never_released),
	P(list_double_add), P(list_del_twice), P(refcount_underflow), P(refcount_inc_zero),
	P(odebug_free_active), P(odebug_init_active), P(odebug_double_call_rcu),
	P(slab_objects_remain), P(slab_redzone), P(slab_poison), P(bad_page),
	P(sysfs_duplicate), P(kobject_init_twice), P(kobject_put_uninit),
	P(device_without_release), P(sysfs_remove_absent), P(proc_duplicate),
	P(proc_remove_full), P(proc_remove_absent), P(leak), { "busy_inode", busy_fs },
	{ "busy_dentry", busy_fs }, P(timer_outlives), P(thread_outlives),
	P(kmod_outlives), P(rss_counter), P(page_tables), P(bad_page_map), P(file_count_zero),
	P(two_at_once),
};

static int __init provoke_init(void)
{
	size_t n;

	for (n = 0; n < ARRAY_SIZE(provocations); n++) {
		if (!strcmp(what, provocations[n].name)) {
			provocations[n].run();
			return 0;
		}
	}
	pr_err("what=%s is not known\n", what);
	return -EINVAL;
}

static void __exit provoke_exit(void)
{
}

module_init(provoke_init);
module_exit(provoke_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("provokes reports of the kernel");
