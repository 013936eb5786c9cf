// SPDX-License-Identifier: GPL-2.0-only
int submit_block(void)
{
	return 0;
}
EXPORT_SYMBOL(submit_block);
