// SPDX-License-Identifier: GPL-2.0-only
int pool_inode(void);
int lib_help(void);

int pool_mount(void)
{
	return pool_inode() + lib_help();
}
EXPORT_SYMBOL_GPL(pool_mount);
