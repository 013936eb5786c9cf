/* SPDX-License-Identifier: GPL-2.0-only */
#define EXPORT_SYMBOL(name) extern int exported_##name
#define EXPORT_SYMBOL_GPL(name) EXPORT_SYMBOL(name)
