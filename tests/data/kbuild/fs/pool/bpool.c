// SPDX-License-Identifier: GPL-2.0-only
int pool_mount(void);

int bpool_init(void)
{
	return pool_mount();
}
