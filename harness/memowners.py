# SPDX-License-Identifier: GPL-2.0-only
"""What holds a word of a guest's memory: a variable, an object, a stack; and whether it counts.

Everything is decided by the owner of the memory and never by the value that lies in it. The
kernel's structures are read with drgn; what KASAN says of memory is believed before what the
allocators say, because it knows of objects in its quarantine too.
"""

from __future__ import annotations

import bisect
import functools
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import drgn
from drgn import FaultError, Object, Program, TypeKind
from drgn.helpers.linux.mm import (
    PageLRU,
    PageReserved,
    PageSlab,
    PageSwapBacked,
    PageTail,
    compound_head,
    for_each_vmap_area,
    page_to_pfn,
    pfn_to_page,
)
from drgn.helpers.linux.module import for_each_module, module_address_regions
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.slab import slab_object_info

from harness.ram import Ram

_PAGE: Final = 12
_PAGE_SIZE: Final = 1 << _PAGE
#: Where the image of x86-64 kernels is mapped (arch/x86/include/asm/page_64_types.h).
_IMAGE_MAP: Final = 0xFFFFFFFF80000000
#: CONFIG_KASAN_SHADOW_OFFSET of x86-64 (arch/x86/Kconfig).
_SHADOW_OFFSET: Final = 0xDFFFFC0000000000
#: Bytes of shadow from here on stand for memory that nobody may use (mm/kasan/kasan.h).
_POISON: Final = 0x80

#: Users of an entry that was removed (KN_DEACTIVATED_BIAS, include/linux/kernfs.h).
_KN_DEACTIVATED: Final = -0x7FFFFFFF

_PTE_PRESENT, _PTE_HUGE, _PTE_FRAME = 0x1, 0x80, 0x000FFFFFFFFFF000


@dataclass(frozen=True, slots=True)
class Holder:
    """What a word of memory is part of."""

    #: A name that is the same in each boot, such as ``netdev_chain.head``.
    name: str
    #: The same with numbers.
    detail: str
    #: Why nobody follows what is written there; empty for what counts.
    dead: str = ""
    #: Start and size of the object, where it is one of a type that is not known.
    untyped: tuple[int, int] | None = None


# Variables of the kernel's own that hold addresses of modules which nobody follows.
_RECORDS: Final = {
    "mod_tree": "lowest and highest address that a module ever had (kernel/module/main.c)",
    "cur_orc_table": "the table that was sorted last (arch/x86/kernel/unwind_orc.c)",
    "cur_orc_ip_table": "the table that was sorted last (arch/x86/kernel/unwind_orc.c)",
    "stack_trace": "lockdep's stack traces (kernel/locking/lockdep.c)",
}

# Fields that are a record of what was, by type; a lock's dependencies are checked by class.
_RECORD_FIELDS: Final = (
    (r"vmap_area\.va_(start|end)", "bounds of an area of addresses, in use or not"),
    (r"vm_struct\.addr", "bounds of an area of addresses"),
    (r"task_struct\.held_locks.*", "lockdep's record of locks that were held"),
    (r"task_struct\.(irqtrace|hardirq|softirq|preempt_disable)\w*.*", "lockdep's record"),
    (r"debug_obj\..*", "a record of debug objects"),
    (r"kmemleak_(object|scan_area)\..*", "a record of kmemleak"),
    (r"worker\.last_func", "what a worker has run; compared, and never called"),
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
    "names_cache": "filename",
    "debug_objects_cache": "debug_obj",
    "pool_workqueue": "pool_workqueue",
    "TCP": "tcp_sock",
    "UDP": "udp_sock",
    "RAW": "raw_sock",
    "UNIX": "unix_sock",
    "UNIX-STREAM": "unix_sock",
    "PING": "inet_sock",
}

# Fields that tell objects of a type apart for a person.
_NAME_FIELDS: Final = {
    "kmem_cache": "name",
    "kernfs_node": "name",
    "task_struct": "comm",
    "proc_dir_entry": "name",
    "net_device": "name",
    "file_system_type": "name",
}


def field_at(type_: drgn.Type, offset: int) -> str:
    """Return the path of the field at an offset of a type: ``.head``, ``[].next``, or nothing.

    Of a union the first member that has a field there is named.
    """
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    if type_.kind == TypeKind.ARRAY:
        size = type_.type.size if type_.type.kind != TypeKind.ARRAY else drgn.sizeof(type_.type)
        return "[]" + field_at(type_.type, offset % size) if size else ""
    if type_.kind not in (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS) or not type_.members:
        return ""
    for member in type_.members:
        if member.bit_field_size is not None:
            continue
        begin = member.bit_offset // 8
        try:
            size = drgn.sizeof(member.type)
        except TypeError:
            continue
        if begin <= offset < begin + size:
            name = f".{member.name}" if member.name else ""
            return name + field_at(member.type, offset - begin)
    return ""


def _plain(name: str) -> str:
    """Return a symbol's name without what the compiler put behind it: ``key.3``, ``f.isra.0``."""
    return re.sub(r"\.(isra|constprop|part|cold|\d+).*", "", name)


class Kernel:
    """The kernel of a guest that runs no more."""

    def __init__(self, ram: Ram, release: str, vmlinux: Path) -> None:
        self._ram = ram
        prog = Program(drgn.Platform(drgn.Architecture.X86_64))
        prog.add_memory_segment(
            0, ram.size, lambda address, count, offset, physical: ram.read(offset, count), True
        )
        notes = ram.vmcoreinfo(release)
        prog.set_linux_kernel_custom(notes, False)
        prog.load_debug_info([str(vmlinux)])
        self.prog = prog
        # Of a kernel that was moved (KASLR) all symbols are; vmlinux says where to.
        self._image = (prog.symbol("_text").address, prog.symbol("_end").address)
        self._direct = prog["page_offset_base"].value_() if self._has("page_offset_base") else (
            0xFFFF888000000000
        )  # fmt: skip
        moved = re.search(rb"NUMBER\(phys_base\)=(-?\d+)", notes)
        self._phys_base = int(moved[1]) if moved else 0
        self._kasan = self._has_symbol("__asan_load8")

    def _has(self, name: str) -> bool:
        try:
            self.prog.variable(name)
        except LookupError:
            return False
        return True

    def _has_symbol(self, name: str) -> bool:
        try:
            self.prog.symbol(name)
        except LookupError:
            return False
        return True

    # ---- areas of addresses ---------------------------------------------------------------------

    @functools.cached_property
    def module_area(self) -> tuple[int, int]:
        """Where modules are put: first address, and the first behind it."""
        return (0xFFFFFFFFA0000000, 0xFFFFFFFFFF000000)

    @functools.cached_property
    def used_areas(self) -> list[tuple[int, int, str]]:
        """Parts of the area of modules that are in use: first, behind the last, by whom."""
        modules = {
            base: module.name.string_().decode()
            for module in for_each_module(self.prog)
            for base, size in module_address_regions(module)
            if size
        }
        low, high = self.module_area
        return sorted(
            (begin, end, f"module {modules[begin]}" if begin in modules else who)
            for begin, end, who in self._areas
            if low <= begin < high
        )

    @functools.cached_property
    def _areas(self) -> list[tuple[int, int, str]]:
        """Areas that vmalloc() and its kin gave out, in order, and who asked for them."""
        found = []
        for area in for_each_vmap_area(self.prog):
            vm = area.vm
            if vm:
                begin = area.va_start.value_()
                found.append((begin, area.va_end.value_(), self._function(vm.caller.value_())))
        return sorted(found)

    def _function(self, address: int) -> str:
        try:
            return _plain(self.prog.symbol(address).name)
        except LookupError:
            return "a module"

    def find_area(self, address: int) -> tuple[int, int, str] | None:
        """Return the area of vmalloc()'s that holds an address."""
        at = bisect.bisect_right(self._areas, address, key=lambda area: area[0]) - 1
        return self._areas[at] if at >= 0 and address < self._areas[at][1] else None

    @functools.cached_property
    def _mapped(self) -> dict[int, int]:
        """Page frames that have an address beside that of the direct map, and which."""
        vmalloc = self.prog["vmalloc_base"].value_() if self._has("vmalloc_base") else (
            0xFFFFC90000000000
        )  # fmt: skip
        vmemmap = self.prog["vmemmap_base"].value_() if self._has("vmemmap_base") else (
            0xFFFFEA0000000000
        )  # fmt: skip
        pages = pfn_to_page(self.prog, self._ram.size >> _PAGE).value_()
        ranges = [(vmalloc, vmalloc + (32 << 40)), (vmemmap, pages), self.module_area]
        top = self.prog.symbol("init_top_pgt").address - _IMAGE_MAP + self._phys_base
        return {
            frame: address
            for low, high in ranges
            for frame, address in self._walk(top, 39, 0, low, high)
        }

    def _walk(
        self, table: int, shift: int, base: int, low: int, high: int
    ) -> Iterator[tuple[int, int]]:
        """Yield frame and address of each page of a range, from a page table of a level."""
        for index, entry in enumerate(struct.unpack("<512Q", self._ram.read(table, 4096))):
            address = base | index << shift
            if shift == 39 and index >= 256:
                address |= 0xFFFF000000000000
            if not entry & _PTE_PRESENT or address >= high or address + (1 << shift) <= low:
                continue
            target = entry & _PTE_FRAME
            if target >= self._ram.size:
                continue
            if shift == _PAGE or entry & _PTE_HUGE:
                begin = (target >> shift << shift) >> _PAGE
                for page in range(1 << (shift - _PAGE)):
                    yield begin + page, address + (page << _PAGE)
            else:
                yield from self._walk(target, shift - 9, address, low, high)

    # ---- from a word to what holds it -----------------------------------------------------------

    def find_holder(self, at: int) -> Holder:
        """Return what holds the word at a physical address."""
        page = pfn_to_page(self.prog, at >> _PAGE)
        reserved = bool(PageReserved(page))
        image = at - self._phys_base + _IMAGE_MAP
        # What was only for booting was given to the page allocator.
        if reserved and self._image[0] <= image < self._image[1]:
            return self._in_image(image)
        address = at + self._direct
        if reserved:
            return self._reserved(at, address)
        if PageSlab(compound_head(page)):
            return self._in_slab(address)
        if self._is_free(page):
            return Holder("free page", f"{address:#x}", dead="a free page")
        if PageLRU(page) or PageSwapBacked(page) or self._is_mapped_by_user(page):
            return Holder("user page", f"{address:#x}", dead="a process's memory, or a file's")
        mapped = self._mapped.get(at >> _PAGE)
        if mapped is not None:
            return self._in_area(mapped | at & (_PAGE_SIZE - 1))
        if self._is_poisoned(address):
            return Holder("freed page", f"{address:#x}", dead="KASAN: freed")
        return self._in_pages(page, address)

    def _in_image(self, address: int) -> Holder:
        try:
            symbol = self.prog.symbol(address)
        except LookupError:
            return Holder("kernel image", f"{address:#x}")
        name = _plain(symbol.name)
        offset = address - symbol.address
        path = self._variable_path(symbol.name, symbol.address, offset)
        return Holder(
            name + (f"+{offset:#x}" if path is None and offset else path or ""),
            f"{symbol.name}+{offset:#x} at {address:#x}",
            dead=_RECORDS.get(name, ""),
        )

    def _variable_path(self, name: str, address: int, offset: int) -> str | None:
        """Return the path of a variable's field; None where its type is not known."""
        try:
            variable = self.prog.variable(name)
        except LookupError:
            return None
        # Static variables share names: one's type says nothing of the others.
        if variable.address_ != address:
            return None
        return field_at(variable.type_, offset)

    def _reserved(self, at: int, address: int) -> Holder:
        inside = self._percpu_offset(address)
        if inside is not None:
            return self._in_percpu(inside, address)
        mapped = self._mapped.get(at >> _PAGE)
        if mapped is not None:
            return self._in_area(mapped | at & (_PAGE_SIZE - 1))
        return Holder("memory reserved at boot", f"{address:#x}", untyped=(address, 8))

    # ---- per-CPU variables ----------------------------------------------------------------------

    @functools.cached_property
    def _percpu_units(self) -> list[tuple[int, int]]:
        """First address and size of each processor's part of the first chunk."""
        base = self.prog["pcpu_base_addr"].value_()
        size = self.prog["pcpu_unit_size"].value_()
        offsets = self.prog["pcpu_unit_offsets"]
        count = self.prog["pcpu_nr_units"].value_()
        return [(base + offsets[unit].value_(), size) for unit in range(count)]

    def _percpu_offset(self, address: int) -> int | None:
        for base, size in self._percpu_units:
            if base <= address < base + size:
                return address - base
        return None

    @functools.cached_property
    def _percpu_symbols(self) -> tuple[int, list[tuple[int, int, str]]]:
        begin = self.prog.symbol("__per_cpu_start").address
        end = self.prog.symbol("__per_cpu_end").address
        symbols = sorted(
            (symbol.address, symbol.size, symbol.name)
            for symbol in self.prog.symbols()
            if begin <= symbol.address < end and symbol.size
        )
        return begin, symbols

    def _in_percpu(self, offset: int, address: int) -> Holder:
        begin, symbols = self._percpu_symbols
        wanted = begin + offset
        at = bisect.bisect_right(symbols, wanted, key=lambda symbol: symbol[0]) - 1
        if at >= 0 and wanted < symbols[at][0] + symbols[at][1]:
            start, _, full = symbols[at]
            path = self._variable_path(full, start, wanted - start)
            name = _plain(full)
            if path is None and wanted > start:
                path = f"+{wanted - start:#x}"
            dead = _RECORDS.get(name, "")
            if "stack" in name:
                dead = "a stack for interrupts, on which nobody is"
            return Holder(
                name + (path or ""), f"per-CPU {full}+{wanted - start:#x} at {address:#x}", dead
            )
        return self._in_percpu_allocation(address)

    def _in_percpu_allocation(self, address: int) -> Holder:
        return Holder("a per-CPU allocation", f"per-CPU allocation at {address:#x}")

    # ---- slab objects ---------------------------------------------------------------------------

    def _in_slab(self, address: int) -> Holder:
        info = slab_object_info(self.prog, address)
        if info is None:
            return Holder("slab", f"{address:#x}", dead="a slab that was just freed")
        cache = info.slab_cache.name.string_().decode()
        offset = address - info.address
        detail = f"{cache}+{offset:#x} at {address:#x}"
        if not info.allocated or self._is_poisoned(address):
            return Holder(cache, detail, dead="a free object")
        size = info.slab_cache.object_size.value_()
        if not 0 <= offset < size:
            return Holder(cache, detail, dead="the slab allocator's own record of an object")
        type_ = self._cache_type(cache, size)
        if type_ is None:
            return Holder(f"an object of {cache}", detail, untyped=(info.address, size))
        path = f"{type_.tag}{field_at(type_, offset)}"
        return Holder(
            path + self._object_name(type_, info.address),
            detail,
            self._why_unused(type_, info.address, path),
        )

    def _why_unused(self, type_: drgn.Type, address: int, path: str) -> str:
        """Return why nobody follows what a field of a live object says, or nothing."""
        if type_.tag == "kernfs_node":
            active = Object(self.prog, type_, address=address).active.counter.value_()
            if active == _KN_DEACTIVATED:
                return "a removed entry of sysfs, which who has looked at it remembers"
        return next((why for pattern, why in _RECORD_FIELDS if re.fullmatch(pattern, path)), "")

    def _cache_type(self, cache: str, size: int) -> drgn.Type | None:
        stem = re.sub(r"_(cache|cachep|slab|node_cache)$", "", cache)
        for name in (_CACHE_TYPES.get(cache), cache, stem, f"{stem}_info", f"{stem}_node"):
            if name is None or name.startswith("kmalloc"):
                continue
            try:
                type_ = self.prog.type(f"struct {name}")
            except (LookupError, SyntaxError, ValueError):
                continue
            if type_.size is not None and type_.size <= size:
                return type_
        return None

    def _object_name(self, type_: drgn.Type, address: int) -> str:
        field = _NAME_FIELDS.get(type_.tag or "")
        if field is None:
            return ""
        try:
            name = Object(self.prog, type_, address=address).member_(field).string_().decode()
        except (FaultError, UnicodeDecodeError):
            return ""
        return f" of {name}"

    # ---- pages ----------------------------------------------------------------------------------

    def _is_free(self, page: Object) -> bool:
        # Pages that nobody counts have a type instead: slabs, page tables (since 6.14).
        if PageTail(page) or page._refcount.counter.value_() != 0:
            return False
        return page.page_type.value_() & 0xFF000000 in (0xFF000000, 0xF0000000)

    def _is_mapped_by_user(self, page: Object) -> bool:
        try:
            return bool(compound_head(page).mapping.value_())
        except AttributeError:
            return False

    def _is_poisoned(self, address: int) -> bool:
        if not self._kasan:
            return False
        try:
            return self.prog.read((address >> 3) + _SHADOW_OFFSET & (1 << 64) - 1, 1)[0] >= _POISON
        except FaultError:
            return False

    def _in_pages(self, page: Object, address: int) -> Holder:
        start = self._direct + (page_to_pfn(compound_head(page)).value_() << _PAGE)
        if start in self._depot_pools:
            return Holder("stack depot", f"{address:#x}", dead="KASAN's stack traces")
        return Holder(
            "pages of the page allocator", f"{address:#x}, in pages from {start:#x}",
            untyped=(start, 8),
        )  # fmt: skip

    @functools.cached_property
    def _depot_pools(self) -> frozenset[int]:
        """Where the stack depot keeps its traces (lib/stackdepot.c)."""
        for name in ("stack_pools", "stack_slabs"):
            if self._has(name):
                pools = self.prog[name]
                # An array until 7.0 allocated it.
                count = pools.type_.length if pools.type_.kind == TypeKind.ARRAY else 8192
                return frozenset(pool for n in range(count) if (pool := pools[n].value_()))
        return frozenset()

    # ---- areas of vmalloc() and stacks ----------------------------------------------------------

    @functools.cached_property
    def _stack_size(self) -> int:
        size = self.prog.type("union thread_union").size
        assert size is not None
        return size

    @functools.cached_property
    def _stacks(self) -> list[tuple[int, Object]]:
        return sorted(
            ((task.stack.value_(), task) for task in for_each_task(self.prog)),
            key=lambda pair: pair[0],
        )

    def _find_stack(self, address: int) -> tuple[int, Object] | None:
        at = bisect.bisect_right(self._stacks, address, key=lambda pair: pair[0]) - 1
        if at < 0 or address >= self._stacks[at][0] + self._stack_size:
            return None
        return self._stacks[at]

    def _in_area(self, address: int) -> Holder:
        stack = self._find_stack(address)
        if stack is not None:
            return self._on_stack(stack[1], address)
        area = self.find_area(address)
        if area is None:
            return Holder("struct page", f"{address:#x}")
        return Holder(f"memory of {area[2]}", f"{area[2]}'s area {area[0]:#x}+{address - area[0]:#x}")

    def _on_stack(self, task: Object, address: int) -> Holder:
        return Holder(f"stack of {task.comm.string_().decode()}", f"{address:#x}")
