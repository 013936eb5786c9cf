// SPDX-License-Identifier: GPL-2.0-only
int lib_help(void)
{
	return 0;
}
EXPORT_SYMBOL(lib_help);
