# SPDX-License-Identifier: GPL-2.0-only
"""A script for gdb: attach to a guest, and know its modules when they are loaded. Pure.

Where a module's sections lie is read from the kernel's own list of them when it is about
to run the module's init (``do_init_module()``, ``struct module.sect_attrs``), so that nothing
has to be known before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Final

#: Where a finding is said, whatever it is.
FINDINGS: Final = ("kasan_report", "oops_enter", "__warn", "panic")

_SCRIPT: Final = Template("""\
# gdb -x this file; it stops where a module has just been loaded, breakpoints set.
set pagination off
set confirm off
set python print-stack full
file $vmlinux
target remote $socket
python
import gdb

MODULES = $modules
STOPS = $stops


def sections(module):
    attrs = module["sect_attrs"]
    for index in range(int(attrs["nsections"])):
        one = attrs["attrs"][index]
        # Since 5.8 it is a binary attribute (ed66f991bb19).
        fields = [field.name for field in one.type.fields()]
        attribute = one["battr"] if "battr" in fields else one["mattr"]
        yield attribute["attr"]["name"].string(), int(one["address"])


def load(module):
    name = module["name"].string()
    ko = MODULES.pop(name, None)
    if ko is None:
        return
    found = dict(sections(module))
    words = " ".join(f"-s {key} {at:#x}" for key, at in found.items()
                     if key != ".text" and key.startswith("."))
    gdb.execute(f"add-symbol-file {ko} {found['.text']:#x} {words}", to_string=True)
    print(f"{name}: its text is at {found['.text']:#x}")


gate = gdb.Breakpoint("do_init_module", type=gdb.BP_HARDWARE_BREAKPOINT)
while MODULES:
    gdb.execute("continue", to_string=True)
    frame = gdb.newest_frame()
    if frame.name() != "do_init_module":
        break
    load(gdb.parse_and_eval("(struct module *)$$rdi").dereference())
gate.delete()
for place in STOPS:
    gdb.execute(f"hbreak {place}")
end
""")


def write(
    vmlinux: Path, socket: Path, modules: Mapping[str, Path], stops: Sequence[str] = FINDINGS
) -> str:
    """Return the script.

    Args:
        socket: on which QEMU waits for gdb.
        modules: name → file with debug information.
        stops: where to stop, as gdb takes it: ``kasan_report``, ``*(poolfs_write+0x26)``.
    """
    return _SCRIPT.substitute(
        vmlinux=vmlinux,
        socket=socket,
        modules=json.dumps({name: str(ko) for name, ko in modules.items()}),
        stops=json.dumps(list(stops)),
    )
