# SPDX-License-Identifier: GPL-2.0-only
"""Whether a module brings sockets, by what an object file needs of others."""

import shutil
import subprocess
from pathlib import Path

import pytest

from harness import sockets


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
@pytest.mark.parametrize(
    ("called", "defined", "calls", "families"),
    [
        (["sock_register", "printk"], "own", {"sock_register"}, ()),
        (["inet_register_protosw", "inet6_register_protosw"], "own",
         {"inet_register_protosw", "inet6_register_protosw"}, (2, 10)),
        (["__netlink_kernel_create"], "own", {"__netlink_kernel_create"}, ()),
        # Who offers it to others does not call it.
        (["printk"], "sock_register", set(), ()),
    ],
)  # fmt: skip
def test_calls_that_make_sockets_possible_are_found(
    tmp_path: Path, called: list[str], defined: str, calls: set[str], families: tuple[int, ...]
) -> None:
    text = "".join(f"int {name}(void);\n" for name in called)
    text += f"int {defined}(void) {{ return {' + '.join(f'{name}()' for name in called)}; }}\n"
    (tmp_path / "m.c").write_text(text)
    subprocess.run(["gcc", "-c", "m.c", "-o", "m.ko"], cwd=tmp_path, check=True)
    found = sockets.read_calls(tmp_path / "m.ko")
    assert found == calls
    assert sockets.internet_families(found) == families
