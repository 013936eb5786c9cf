// SPDX-License-Identifier: GPL-2.0-only
/*
 * Registrations come in order, and each of them can fail. There is one way back,
 * for init that came half-way and for exit: notifyfs_undo().
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/string.h>

#include "kmh_mistake.h"
#include "notifyfs.h"

static char *fsname = "notifyfs";
module_param(fsname, charp, 0444);
MODULE_PARM_DESC(fsname, "name of the filesystem type (default: notifyfs)");

/* How far init has come: the last step that is done. */
enum notifyfs_reached {
	REACHED_LOG,
	REACHED_NOTIFIER,
	REACHED_FILESYSTEM,
};

/* The steps in reverse order, from the last one that was done. */
static noinline void notifyfs_undo(enum notifyfs_reached reached)
{
	int err;

	switch (reached) {
	case REACHED_FILESYSTEM:
		/* Nothing is mounted: a mount holds the module. */
		err = unregister_filesystem(&notifyfs_type);
		if (err)
			pr_err("%s was not registered: %d\n", fsname, err);
		fallthrough;
	case REACHED_NOTIFIER:
		/*
		 * Mistake exit-forgets-notifier: exit knows of one thing that
		 * init registered, not of both. Caught at the next event on any
		 * interface, by the page fault (KASAN: of its shadow) of the
		 * chain that goes on to where the notifier was.
		 */
		if (MISTAKE(exit_forgets_notifier) && reached == REACHED_FILESYSTEM)
			err = 0;
		else
			err = unregister_netdevice_notifier(&notifyfs_notifier);
		if (err)
			pr_err("the notifier was not registered: %d\n", err);
		fallthrough;
	case REACHED_LOG:
		notifyfs_log_destroy();
	}
}

static bool notifyfs_name_valid(void)
{
	/* The kernel takes what follows a dot for a subtype, and a dot for a bug. */
	return *fsname && !strpbrk(fsname, "./");
}

static int __init notifyfs_module_init(void)
{
	enum notifyfs_reached reached;
	int err;

	if (!notifyfs_name_valid()) {
		pr_err("fsname=%s cannot be the name of a filesystem\n", fsname);
		return -EINVAL;
	}

	err = notifyfs_log_create();
	if (err)
		return err;

	reached = REACHED_LOG;
	err = register_netdevice_notifier(&notifyfs_notifier);
	if (err)
		goto out_undo;

	reached = REACHED_NOTIFIER;
	notifyfs_type.name = fsname;
	err = register_filesystem(&notifyfs_type);
	if (err)
		goto out_undo;
	return 0;

out_undo:
	pr_err("cannot register %s: %d\n", reached == REACHED_LOG ? "the notifier" : fsname, err);

	/*
	 * Mistake error-swallowed: init says that all is well, and the module
	 * stays with half of what it is. Caught by finit_module, which answers 0
	 * for a name that was taken.
	 */
	if (MISTAKE(error_swallowed))
		return 0;

	/*
	 * Mistake init-leaves-notifier: what was registered before the step
	 * that failed is forgotten. Caught at the next event on any interface,
	 * like exit-forgets-notifier.
	 */
	if (MISTAKE(init_leaves_notifier))
		reached = REACHED_LOG;
	notifyfs_undo(reached);

	/*
	 * Mistake undo-twice: whoever found the error undid everything, and so
	 * does whoever is told of it. Caught by KASAN: the log is freed, and
	 * its work looked for in it once more.
	 */
	if (MISTAKE(undo_twice))
		notifyfs_undo(reached);
	return err;
}
module_init(notifyfs_module_init);

static void __exit notifyfs_module_exit(void)
{
	notifyfs_undo(REACHED_FILESYSTEM);
}
module_exit(notifyfs_module_exit);

MODULE_DESCRIPTION("Filesystem that shows what happens to network interfaces");
MODULE_LICENSE("GPL");
MODULE_ALIAS_FS("notifyfs");
KMH_MODULE_VARIANT();
