/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A mistake that one variant of a module makes on purpose.
 *
 * MISTAKE(leak_pool) is 1 in the variant "leak-pool" and 0 in every other, as a
 * constant expression: it works in an if and in an initialiser, both branches
 * are compiled whatever the variant, and the dead one leaves no code behind.
 * Above each use stands a comment: "Mistake <variant>:", what is wrong, and
 * which detector must catch it. family.mk gives the compiler the names.
 */
#ifndef KMH_MISTAKE_H
#define KMH_MISTAKE_H

#include <linux/kconfig.h>
#include <linux/module.h>

#define MISTAKE(name) __is_defined(KMH_MISTAKE_##name)

/* `modinfo -F variant foo.ko` tells which one was built. */
#define KMH_MODULE_VARIANT() MODULE_INFO(variant, KMH_VARIANT)

#endif
