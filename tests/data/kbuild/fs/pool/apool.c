// SPDX-License-Identifier: GPL-2.0-only
int pool_mount(void);

int apool_init(void)
{
	return pool_mount();
}
