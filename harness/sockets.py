# SPDX-License-Identifier: GPL-2.0-only
"""Whether a module may bring sockets: read from the functions of the kernel that it calls.

``/proc/net/protocols`` has names, and nothing says of which family, type and number they are.
Whoever brings sockets asks one of a few functions to let ``socket(2)`` come to him; where a
module calls one of them, the guest tries what can be opened (op ``survey_sockets``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from harness import elf

#: Families of the internet, whose sockets come by number of an IP protocol: the function that
#: registers one (net/ipv4/af_inet.c, net/ipv6/af_inet6.c) → the family.
_INTERNET: Final = {"inet_register_protosw": 2, "inet6_register_protosw": 10}
#: And what registers a family, or a protocol of one: net/socket.c, net/netlink/af_netlink.c,
#: net/bluetooth/af_bluetooth.c, net/can/af_can.c, net/phonet/af_phonet.c, drivers/net/ppp/pppox.c,
#: net/vmw_vsock/af_vsock.c.
_OTHERS: Final = frozenset({
    "sock_register", "__netlink_kernel_create", "bt_sock_register", "can_proto_register",
    "phonet_proto_register", "register_pppox_proto", "vsock_core_register",
})  # fmt: skip
#: Numbers that an IP protocol may have (RFC 791).
IP_PROTOCOLS: Final = 256


def read_calls(ko: Path) -> frozenset[str]:
    """Return which functions a module calls that make sockets of it possible.

    Raises:
        UsageError: it cannot be read, or is no module.
    """
    return elf.load(ko).undefined & (_INTERNET.keys() | _OTHERS)


def internet_families(calls: frozenset[str]) -> tuple[int, ...]:
    """Return the families of which each IP protocol is worth a try."""
    return tuple(family for name, family in _INTERNET.items() if name in calls)
