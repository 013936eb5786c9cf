# SPDX-License-Identifier: GPL-2.0-only
"""What a guest's core file shows of its modules: the view that a person asks for first.

The file is an ordinary one, for drgn and crash; this is no more than a beginning.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import drgn
from drgn import FaultError, Object, Program
from drgn.helpers.linux.fs import d_path, for_each_file
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.slab import for_each_slab_cache, slab_cache_for_each_allocated_object

from harness.errors import GuestError
from harness.ram import open_ram

#: Objects of one cache, and frames of one task, that are listed.
_LISTED: Final = 8
_FRAMES: Final = 24


# elf(5)
_PHOFF_AT, _PHNUM_AT = 0x20, 0x38
_PHENT: Final = 56
_PT_NOTE: Final = 4


def add_vmcoreinfo(core: Path, release: str) -> None:
    """Put what the kernel left for debuggers into a core file's notes.

    QEMU would have, had the guest's kernel told it where that lies, which takes CONFIG_KEXEC.

    Raises:
        GuestError: the kernel left nothing, or the file is no core file.
    """
    with open_ram(core) as memory:
        note = _note(b"VMCOREINFO", memory.vmcoreinfo(release))
    with core.open("r+b") as file:
        head = file.read(64)
        (table,) = struct.unpack_from("<Q", head, _PHOFF_AT)
        (count,) = struct.unpack_from("<H", head, _PHNUM_AT)
        for at in range(table, table + count * _PHENT, _PHENT):
            file.seek(at)
            kind, flags, begin, *rest = struct.unpack("<IIQQQQQQ", file.read(_PHENT))
            if kind != _PT_NOTE:
                continue
            size = rest[2]
            file.seek(begin)
            notes = file.read(size) + note
            # Behind everything else, where there is room for more.
            end = file.seek(0, 2)
            file.write(bytes(-end % 4) + notes)
            rest[2] = rest[3] = len(notes)
            file.seek(at)
            file.write(struct.pack("<IIQQQQQQ", kind, flags, end + -end % 4, *rest))
            return
    raise GuestError(f"{core}: no core file: it has no notes")


def _note(name: bytes, text: bytes) -> bytes:
    words = struct.pack("<III", len(name) + 1, len(text), 0)
    return b"".join(part + bytes(-len(part) % 4) for part in (words, name + b"\0", text))


def view(core: Path, vmlinux: Path, modules: Mapping[str, Path]) -> list[str]:
    """Return who crashed, the modules, who holds them, who is inside, and what is left of objects.

    Args:
        core: see :func:`lookinside.dump_core`.
        modules: name → file with debug information.

    Raises:
        GuestError: the file cannot be read, or is not of this kernel.
    """
    program = Program()
    try:
        program.set_core_dump(str(core))
        program.load_debug_info([str(vmlinux), *map(str, modules.values())])
    except drgn.MissingDebugInfoError:
        # Of modules that are gone there is nothing that it could belong to.
        pass
    except (OSError, ValueError, LookupError) as error:
        raise GuestError(f"{core}: cannot be read: {error}") from error
    return [
        *_crashed(program),
        *_modules(program, modules),
        *_objects(program, modules),
    ]


def _crashed(program: Program) -> Iterator[str]:
    try:
        thread = program.crashed_thread()
        frames = list(thread.stack_trace())
        task = thread.object
    except (ValueError, LookupError, FaultError) as error:
        yield f"who crashed is not known: {error}"
        return
    yield f"crashed: {_task(task)}"
    for frame in frames[:_FRAMES]:
        yield f"  {_frame(frame)}"


def _frame(frame: drgn.StackFrame) -> str:
    try:
        path, line, _ = frame.source()
        where = f" {path}:{line}"
    except LookupError:
        where = ""
    return f"{frame.name or hex(frame.pc)}{where}"


def _task(task: Object) -> str:
    return f"{task.comm.string_().decode(errors='replace')} ({int(task.pid)})"


def _modules(program: Program, wanted: Mapping[str, Path]) -> Iterator[str]:
    head = program["modules"].address_of_()
    loaded = {_text(one.name): one for one in list_for_each_entry("struct module", head, "list")}
    for name, module in loaded.items():
        # One more than there are users, until it is on its way out (MODULE_REF_BASE).
        users = max(0, int(module.refcnt.counter) - 1)
        state = module.state.format_(type_name=False)
        yield f"module {name}: {state}, {users} references"
    for name in wanted:
        if name not in loaded:
            yield f"module {name}: not loaded any more"
    own = {name: loaded[name] for name in wanted if name in loaded}
    for name, module in own.items():
        yield from _guarded(f"module {name}: its users", _users(name, module))
    owners = {module.value_(): name for name, module in own.items()}
    yield from _guarded("mounts", _mounts(program, owners))
    ranges = [(first, end, name) for name, module in own.items() for first, end in _areas(module)]
    for task in for_each_task(program):
        yield from _guarded(f"files of {_task(task)}", _files(task, owners))
        inside = [_frame(frame) for frame in _frames(program, task)
                  if any(first <= frame.pc < end for first, end, _ in ranges)]  # fmt: skip
        if inside:
            yield f"inside: {_task(task)} in {', '.join(inside)}"


def _guarded(what: str, lines: Iterator[str]) -> Iterator[str]:
    """Lines as far as they come: a kernel that has crashed may have any list in pieces."""
    try:
        yield from lines
    except (ValueError, LookupError, FaultError, AttributeError) as error:
        yield f"{what}: cannot be walked: {error}"


def _text(name: Object) -> str:
    return str(name.string_().decode(errors="replace"))


def _users(name: str, module: Object) -> Iterator[str]:
    head = module.source_list.address_of_()
    for use in list_for_each_entry("struct module_use", head, "source_list"):
        yield f"held: {name} by module {_text(use.source.name)}"


def _mounts(program: Program, owners: Mapping[int, str]) -> Iterator[str]:
    head = program["super_blocks"].address_of_()
    for block in list_for_each_entry("struct super_block", head, "s_list"):
        owner = owners.get(int(block.s_type.owner))
        if owner is not None:
            count = int(block.s_active.counter)
            yield f"held: {owner} by a mount of {_text(block.s_type.name)}, {count} users"


def _files(task: Object, owners: Mapping[int, str]) -> Iterator[str]:
    if not task.files:
        return
    for number, file in for_each_file(task):
        owner = owners.get(int(file.f_op.owner)) if file and file.f_op else None
        if owner is not None:
            path = d_path(file.f_path).decode(errors="replace")
            yield f"held: {owner} by {_task(task)}, descriptor {int(number)} on {path}"


def _areas(module: Object) -> Iterator[tuple[int, int]]:
    """Where a module's core lies: two fields until 6.3, an array since (ac3b43283923)."""
    if _has(module, "core_layout"):
        areas = [module.core_layout]
    elif _has(module, "mem"):
        areas = list(module.mem)
    else:
        return
    for area in areas:
        base = int(area.base)
        if base:
            yield base, base + int(area.size)


def _has(module: Object, name: str) -> bool:
    return any(member.name == name for member in module.type_.type.members or ())


def _frames(program: Program, task: Object) -> list[drgn.StackFrame]:
    try:
        return list(program.stack_trace(task))
    except (ValueError, LookupError, FaultError):
        return []


def _objects(program: Program, wanted: Mapping[str, Path]) -> Iterator[str]:
    for cache in for_each_slab_cache(program):
        name = cache.name.string_().decode(errors="replace")
        if not any(name.startswith(one) for one in wanted):
            continue
        found = []
        try:
            for one in slab_cache_for_each_allocated_object(cache, "void"):
                found.append(hex(one.value_()))
        except (ValueError, LookupError, FaultError) as error:
            yield f"cache {name}: cannot be walked: {error}"
            continue
        more = f", and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        yield f"cache {name}: {len(found)} objects {', '.join(found[:_LISTED])}{more}".rstrip()
