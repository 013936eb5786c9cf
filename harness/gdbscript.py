# SPDX-License-Identifier: GPL-2.0-only
"""Scripts for gdb: where a guest's modules lie, and a stop in one of them. Pure.

They are for runs of the same trial, one after another. While a debugger holds QEMU, the clock of
``-icount sleep=off`` jumps to the next timer, so that a stop changes what comes after it. The first
script stops where modules are loaded and tells where their sections lie; the second knows that,
and its first stop is the first one at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Final

#: Where a finding is said, whatever it is; not kasan_report(), which is also called where
#: reports are off.
FINDINGS: Final = ("print_report", "oops_enter", "__warn", "panic")

#: Module → section → address.
Places = Mapping[str, Mapping[str, int]]

_MARK: Final = "sections of "

#: How a line begins that :data:`COUNT` prints when the guest has stopped.
STOPPED: Final = "the guest has stopped at "
#: Goes behind the script for a person: stop once and leave the guest as it is. Where there is
#: none any more, gdb has no $pc and ends before it prints anything.
COUNT: Final = f"""\
continue
printf "{STOPPED}%#lx\\n", $pc
disconnect
"""

# `struct module.sect_attrs` is there when do_init_module() is called (kernel/module/sysfs.c).
_PROBE: Final = Template("""\
set pagination off
set confirm off
set python print-stack full
file $vmlinux
target remote $socket
python
import json

import gdb

wanted = set($modules)
gdb.Breakpoint("do_init_module", type=gdb.BP_HARDWARE_BREAKPOINT)
while wanted:
    gdb.execute("continue", to_string=True)
    module = gdb.parse_and_eval("(struct module *)$$rdi").dereference()
    name = module["name"].string()
    attrs = module["sect_attrs"]
    found = {}
    for index in range(int(attrs["nsections"])):
        one = attrs["attrs"][index]
        # A binary attribute since 5.8 (ed66f991bb19).
        kind = "battr" if "battr" in [field.name for field in one.type.fields()] else "mattr"
        found[one[kind]["attr"]["name"].string()] = int(one["address"])
    print("$mark" + json.dumps([name, found]))
    wanted.discard(name)
end
kill
""")

_HEAD: Final = Template("""\
# gdb -x this file, then `continue`: it stops where a breakpoint below says.
set pagination off
set confirm off
# Not every kernel has all of them.
set breakpoint pending on
file $vmlinux
""")


def write_probe(vmlinux: Path, socket: Path, modules: Sequence[str]) -> str:
    """Return the script of the first run; what it prints reads :func:`read_places`.

    Args:
        socket: on which QEMU waits for gdb.
    """
    return _PROBE.substitute(
        vmlinux=vmlinux, socket=socket, modules=json.dumps(list(modules)), mark=_MARK
    )


def read_places(printed: str) -> dict[str, dict[str, int]]:
    """Return where the sections of modules lay when each was loaded for the first time."""
    places: dict[str, dict[str, int]] = {}
    for line in printed.splitlines():
        if line.startswith(_MARK):
            name, found = json.loads(line.removeprefix(_MARK))
            places.setdefault(name, found)
    return places


def write(
    vmlinux: Path, socket: Path, modules: Mapping[str, Path], places: Places, stops: Sequence[str]
) -> str:
    """Return the script for a person.

    Args:
        modules: name → file with debug information.
        places: where they will lie; those that are not there are left out.
        stops: as gdb takes them: ``kasan_report``, ``*(poolfs_write+0x26)``.
    """
    lines = []
    for name, ko in modules.items():
        sections = {key: at for key, at in places.get(name, {}).items() if key.startswith(".")}
        if ".text" not in sections:
            continue
        others = " ".join(f"-s {key} {at:#x}" for key, at in sections.items() if key != ".text")
        lines.append(f"add-symbol-file {ko} {sections['.text']:#x} {others}".rstrip())
    lines.append(f"target remote {socket}")
    lines += [f"hbreak {place}" for place in stops]
    return _HEAD.substitute(vmlinux=vmlinux) + "\n".join(lines) + "\n"
