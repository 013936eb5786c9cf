# SPDX-License-Identifier: GPL-2.0-only
"""Fields of the kernel's types by their offset, and which of them nobody follows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import drgn
from drgn import TypeKind

_AGGREGATES: Final = (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS)

# Variables of the kernel's own that hold addresses of modules which nobody follows.
_RECORDS: Final = {
    "mod_tree": "lowest and highest address that a module ever had (kernel/module/main.c)",
    "module_addr_min": "lowest address that a module ever had (kernel/module.c)",
    "module_addr_max": "highest address that a module ever had (kernel/module.c)",
    "execmem_info": "bounds of the areas for code (arch/x86/mm/init.c)",
    "cur_orc_table": "the table that was sorted last (arch/x86/kernel/unwind_orc.c)",
    "cur_orc_ip_table": "the table that was sorted last (arch/x86/kernel/unwind_orc.c)",
    "stack_trace": "lockdep's stack traces (kernel/locking/lockdep.c)",
    "exec_summary_regs": "registers for the end of an oops (arch/x86/kernel/dumpstack.c)",
}

# Fields that are a record of what was, by type; a lock's dependencies are checked by class.
_RECORD_FIELDS: Final = (
    (r"vmap_area\.va_(start|end)", "bounds of an area of addresses, in use or not"),
    (r"vm_struct\.addr", "bounds of an area of addresses"),
    (r"task_struct\.held_locks\b.*", "lockdep's record of locks that were held"),
    (r"task_struct\.(irqtrace|hardirq_\w+|softirq_\w+|preempt_disable_ip)\b.*", "lockdep's record"),
    (r"debug_obj\..*", "a record of debug objects"),
    (r"worker\.last_func", "what a worker has run; compared, and never called"),
    (r"hrtimer_bases\.(softirq_)?next_timer", "compared with timers, and never followed"),
    (r"kmemleak_(object|scan_area)\..*", "a record of kmemleak"),
)

# Slab caches whose name does not say the type of their objects.
_CACHE_TYPES: Final = {
    "filp": "file",
    "mnt_cache": "mount",
    "net_namespace": "net",
    "signal_cache": "signal_struct",
    "sighand_cache": "sighand_struct",
    "files_cache": "files_struct",
    "skbuff_head_cache": "sk_buff",
    "shmem_inode_cache": "shmem_inode_info",
    "sock_inode_cache": "socket_alloc",
    "proc_inode_cache": "proc_inode",
    "debug_objects_cache": "debug_obj",
    "TCP": "tcp_sock",
    "UDP": "udp_sock",
    "RAW": "raw_sock",
    "UNIX": "unix_sock",
    "UNIX-STREAM": "unix_sock",
}

# Fields that tell objects of a type apart for a person.
_NAME_FIELDS: Final = {
    "kmem_cache": "name",
    "kernfs_node": "name",
    "task_struct": "comm",
    "proc_dir_entry": "name",
    "net_device": "name",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a type."""

    #: From the type on, such as ``.head`` or ``[].entry.next``; empty for the whole.
    path: str = ""
    #: The innermost structure that has it: its tag and where it begins in the type.
    parent: str = ""
    parent_at: int = 0
    #: Its name there.
    name: str = ""


NO_FIELD: Final = Field()


def field_at(type_: drgn.Type, offset: int) -> Field:
    """Return the field at an offset of a type.

    Of a union the first member is named that has a pointer there, else the first that is
    long enough; so it is the same one each time.
    """
    path, parent, parent_at, name = "", "", 0, ""
    base = 0
    while True:
        while type_.kind == TypeKind.TYPEDEF:
            type_ = type_.type
        if type_.kind == TypeKind.ARRAY:
            size = _size(type_.type)
            if not size:
                break
            base += (offset - base) // size * size
            path += "[]"
            type_ = type_.type
            continue
        if type_.kind not in _AGGREGATES or not type_.members:
            break
        member = _member_at(type_, offset - base)
        if member is None:
            break
        parent, parent_at = type_.tag or parent, base if type_.tag else parent_at
        base += member.bit_offset // 8
        if member.name:
            path, name = f"{path}.{member.name}", member.name
        type_ = member.type
    return Field(path, parent, parent_at, name)


def _member_at(type_: drgn.Type, offset: int) -> drgn.TypeMember | None:
    fitting = [
        member
        for member in type_.members or ()
        if member.bit_field_size is None
        and 0 <= offset - member.bit_offset // 8 < _size(member.type)
    ]
    for member in fitting if len(fitting) > 1 else ():
        if _has_pointer(member.type, offset - member.bit_offset // 8):
            return member
    return fitting[0] if fitting else None


def _has_pointer(type_: drgn.Type, offset: int) -> bool:
    """Return whether a type has a pointer at an offset."""
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    if type_.kind == TypeKind.ARRAY:
        size = _size(type_.type)
        return size > 0 and _has_pointer(type_.type, offset % size)
    if type_.kind in _AGGREGATES:
        member = _member_at(type_, offset)
        return member is not None and _has_pointer(member.type, offset - member.bit_offset // 8)
    return bool(type_.kind == TypeKind.POINTER)


def _size(type_: drgn.Type) -> int:
    try:
        return int(drgn.sizeof(type_))
    except TypeError:
        # Of a type that is only declared, or an array without an end.
        return 0


def plain_symbol(name: str) -> str:
    """Return a symbol's name without what the compiler put behind it: ``key.3``, ``f.isra.0``."""
    return re.sub(r"\.(isra|constprop|part|cold|lto_priv|\d+)\b.*", "", name)


def why_record(variable: str) -> str:
    """Return why nobody follows what is in a variable, or nothing."""
    return _RECORDS.get(variable, "")


def why_record_field(path: str) -> str:
    """Return why nobody follows what is in a field such as ``task_struct.comm``, or nothing."""
    return next((why for pattern, why in _RECORD_FIELDS if re.fullmatch(pattern, path)), "")


def find_cache_type(prog: drgn.Program, cache: str, size: int) -> drgn.Type | None:
    """Return the type of a slab cache's objects, as its name has it; None for one without."""
    if cache.startswith("kmalloc"):
        return None
    stem = re.sub(r"_(cache|cachep|slab|node_cache)$", "", cache)
    for name in (_CACHE_TYPES.get(cache), cache, stem, f"{stem}_info", f"{stem}_node"):
        try:
            type_ = prog.type(f"struct {name}") if name else None
        except (LookupError, SyntaxError, ValueError):
            continue
        if type_ is not None and type_.size is not None and type_.size <= size:
            return type_
    return None


def name_field(tag: str | None) -> str | None:
    """Return the field that tells objects of a type apart for a person."""
    return _NAME_FIELDS.get(tag or "")
