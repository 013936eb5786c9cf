/* SPDX-License-Identifier: GPL-2.0-only */
#ifdef CONFIG_NET
struct nic_state {
	int sent;
};
#endif
