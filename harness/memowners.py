# SPDX-License-Identifier: GPL-2.0-only
"""What holds a word of a guest's memory: a variable, an object, a stack; and whether it counts.

Everything is decided by the owner of the memory and never by the value that lies in it. The
kernel's structures are read with drgn; what KASAN says of memory is believed beside what the
allocators say, because it knows of objects in its quarantine too.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import drgn
import numpy as np
from drgn import FaultError, Object, TypeKind
from drgn.helpers import ValidationError
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.kthread import kthread_data
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
from drgn.helpers.linux.percpu import per_cpu_ptr
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import idle_task
from drgn.helpers.linux.slab import slab_object_info

from harness import elf, memtypes
from harness.errors import GuestError
from harness.mempages import PAGE_SHIFT, PAGE_SIZE, walk
from harness.mempercpu import PerCpu
from harness.memtypes import NO_FIELD, Field, plain_symbol
from harness.ram import Ram

#: Where the image of x86-64 kernels is mapped (arch/x86/include/asm/page_64_types.h).
_IMAGE_MAP: Final = 0xFFFFFFFF80000000
#: Where modules are put (MODULES_VADDR, MODULES_END), in the smallest of all configurations.
MODULE_AREA: Final = (0xFFFFFFFFA0000000, 0xFFFFFFFFFF000000)
#: Areas of addresses of kernels whose memory is not moved (Documentation/arch/x86/x86_64/mm.rst).
_DIRECT_MAP, _VMALLOC, _VMEMMAP = 0xFFFF888000000000, 0xFFFFC90000000000, 0xFFFFEA0000000000
_VMALLOC_SIZE: Final = 32 << 40
#: CONFIG_KASAN_SHADOW_OFFSET of x86-64 (arch/x86/Kconfig).
_SHADOW_OFFSET: Final = 0xDFFFFC0000000000
#: Bytes of shadow from here on stand for memory that nobody may use (mm/kasan/kasan.h).
_POISON: Final = 0x80
#: Users of an entry of sysfs that was removed (KN_DEACTIVATED_BIAS, fs/kernfs/kernfs-internal.h).
_KN_DEACTIVATED: Final = -0x7FFFFFFF
#: Threads that run the works of workqueues (include/linux/sched.h).
_PF_WQ_WORKER: Final = 0x20
#: What a page's type says of one without, and of a free block (before 6.11 bits were cleared
#: in it, since then it is a number in the first byte; include/linux/page-flags.h).
_FREE_TYPES: Final = (0xFF000000, 0xF0000000)

#: What drgn raises where a kernel's structures are not what they should be.
_UNREADABLE: Final = (FaultError, LookupError, ValidationError, ValueError, AttributeError)
_IDLE_STACK: Final = "the stack of an idle task, which calls no module"
#: How a reason begins that is none: nobody knows whose memory it is.
UNKNOWN: Final = "cannot be told"


@dataclass(frozen=True, slots=True)
class Holder:
    """What a word of memory is part of."""

    #: A name that is the same in each boot, such as ``netdev_chain.head``.
    name: str
    #: The same with numbers.
    detail: str
    #: Why nobody follows what is written there; empty for what counts.
    dead: str = ""
    #: The field, and the virtual address of what it is counted from.
    field: Field = NO_FIELD
    base: int = 0
    #: Where the object begins, when its type is not known.
    untyped: int = 0


class Memory:
    """A guest's memory, as its kernel has laid it out."""

    def __init__(self, ram: Ram, release: str, vmlinux: Path) -> None:
        """Read how a kernel has laid out a memory.

        Raises:
            GuestError: it is not the memory of that kernel.
        """
        self._ram = ram
        notes = ram.vmcoreinfo(release)
        prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
        prog.add_memory_segment(
            0, ram.size, lambda address, count, offset, physical: ram.read(offset, count), True
        )
        try:
            prog.set_linux_kernel_custom(notes, False)
            prog.load_debug_info([str(vmlinux)])
            int(prog["init_task"].pid)
        except (*_UNREADABLE, drgn.MissingDebugInfoError, OSError) as error:
            raise GuestError(f"the guest's memory does not fit {vmlinux.name}: {error}") from error
        self.prog = prog
        self._vmlinux = vmlinux
        # Not functools.cache: that would keep each memory for as long as this process.
        self._variables: dict[tuple[str, int], drgn.Type | None] = {}
        self._waiting: dict[int, frozenset[int]] = {}
        self._returns: dict[int, frozenset[int]] = {}
        self._image = (prog.symbol("_text").address, prog.symbol("_end").address)
        moved = re.search(rb"NUMBER\(phys_base\)=(-?\d+)", notes)
        self._levels = 5 if b"NUMBER(pgtable_l5_enabled)=1" in notes else 4
        self._image_shift = _IMAGE_MAP - (int(moved[1]) if moved else 0)
        self._direct = self._number("page_offset_base", _DIRECT_MAP)
        self._kasan = self._has_symbol("__asan_load8")
        self.percpu = PerCpu(prog)

    def _number(self, variable: str, default: int) -> int:
        """Return what a variable says that only some configurations have."""
        try:
            return int(self.prog[variable])
        except LookupError:
            return default

    def _has_symbol(self, name: str) -> bool:
        try:
            self.prog.symbol(name)
        except LookupError:
            return False
        return True

    # ---- areas of addresses ---------------------------------------------------------------------

    @functools.cached_property
    def used_areas(self) -> list[tuple[int, int, str]]:
        """Parts of the area of modules that are in use: first, behind the last, by whom."""
        modules = {
            base: module.name.string_().decode()
            for module in for_each_module(self.prog)
            for base, size in module_address_regions(module)
            if size
        }
        low, high = MODULE_AREA
        return [
            (begin, end, f"module {modules[begin]}" if begin in modules else who)
            for begin, end, who in self._areas
            if low <= begin < high
        ]

    @functools.cached_property
    def _areas(self) -> list[tuple[int, int, str]]:
        """Areas that vmalloc() and its kin gave out, in order, and who asked for them."""
        return sorted(
            (int(area.va_start), int(area.va_end), self._function(int(area.vm.caller)))
            for area in for_each_vmap_area(self.prog)
            if area.vm
        )

    def _function(self, address: int) -> str:
        try:
            return plain_symbol(self.prog.symbol(address).name)
        except LookupError:
            return "a module"

    @functools.cached_property
    def _mapped(self) -> dict[int, int]:
        """Page frames that have an address beside that of the direct map, and which."""
        vmalloc = self._number("vmalloc_base", _VMALLOC)
        pages = int(pfn_to_page(self.prog, self._ram.size >> PAGE_SHIFT))
        ranges = (
            (vmalloc, vmalloc + _VMALLOC_SIZE),
            (self._number("vmemmap_base", _VMEMMAP), pages),
            MODULE_AREA,
        )
        top = self.prog.symbol("init_top_pgt").address - self._image_shift
        return {
            frame: address
            for low, high in ranges
            for frame, address in walk(self._ram, top, low, high, levels=self._levels)
        }

    @functools.cached_property
    def _frames(self) -> dict[int, int]:
        return {address: frame for frame, address in self._mapped.items()}

    def physical(self, address: int) -> int | None:
        """Return where in memory a kernel's address is; None for one that is nowhere."""
        if self._image[0] <= address < self._image[1]:
            return address - self._image_shift
        if 0 <= address - self._direct < self._ram.size:
            return address - self._direct
        frame = self._frames.get(address & -PAGE_SIZE)
        return None if frame is None else frame << PAGE_SHIFT | address & PAGE_SIZE - 1

    def read_word(self, address: int) -> int | None:
        """Return the word at a kernel's address; None where there is no memory."""
        at = self.physical(address)
        return None if at is None else int.from_bytes(self._ram.read(at, 8), "little")

    @functools.cached_property
    def _image_words(self) -> tuple[int, np.typing.NDArray[np.uint64]]:
        begin = self.prog.symbol("_sdata").address - self._image_shift
        end = self._image[1] - self._image_shift
        return begin, np.frombuffer(self._ram.read(begin, (end - begin) & -8), dtype="<u8")

    def find_pointers(self, address: int) -> Iterator[Holder]:
        """Yield which of the kernel's variables that count lead to an address."""
        begin, words = self._image_words
        for index in np.flatnonzero(words == np.uint64(address)):
            holder = self.find_holder(begin + int(index) * 8)
            # What has no name is KASAN's list of all variables (struct kasan_global).
            if not holder.dead and holder.base:
                yield holder

    def find_references(self, addresses: frozenset[int]) -> dict[int, Holder]:
        """Return for each address which memory that counts leads to it, if any does.

        Of several the one whose name comes first, so that it is the same one each time.
        """
        found: dict[int, Holder] = {}
        for at, address in self._ram.words_equal(addresses):
            holder = self.find_holder(at)
            if holder.dead or not holder.base:
                continue
            best = found.get(address)
            if best is None or holder.name < best.name:
                found[address] = holder
        return found

    # ---- from a word to what holds it -----------------------------------------------------------

    def find_holder(self, at: int) -> Holder:
        """Return what holds the word at a physical address.

        What cannot be told, because the kernel's own records are not as they should be,
        is said to be so.
        """
        try:
            return self._find_holder(at)
        except _UNREADABLE as error:
            return Holder("memory", f"memory at {at:#x}", f"{UNKNOWN} ({error})")

    def _find_holder(self, at: int) -> Holder:
        page = pfn_to_page(self.prog, at >> PAGE_SHIFT)
        image, address = at + self._image_shift, at + self._direct
        if PageReserved(page):
            # Of the image, what was only for booting was given to the page allocator.
            if self._image[0] <= image < self._image[1]:
                return self._in_image(image)
            return self._reserved(at, address)
        if PageSlab(compound_head(page)):
            return self._in_slab(address)
        if self._is_free(page):
            return Holder("free page", f"{address:#x}", "a free page")
        if self._is_users(page):
            return Holder("user page", f"{address:#x}", "a process's memory, or a file's")
        mapped = self._mapped.get(at >> PAGE_SHIFT)
        if mapped is not None:
            return self._in_area(mapped | at & PAGE_SIZE - 1)
        if self._is_poisoned(address):
            return Holder("freed page", f"{address:#x}", "freed, as KASAN has it")
        return self._in_pages(page, address)

    def _in_image(self, address: int) -> Holder:
        begin = self.prog.symbol("init_stack").address
        if begin <= address < begin + self._stack_size:
            return Holder("idle stack", f"{address:#x}", _IDLE_STACK)
        try:
            symbol = self.prog.symbol(address)
        except LookupError:
            return Holder("kernel image", f"{address:#x}")
        return self._in_variable(symbol.name, symbol.address, symbol.address, address)

    def _in_variable(self, full: str, known: int, base: int, address: int) -> Holder:
        """Return the holder for a variable that begins at an address.

        Args:
            known: where debug information has it, which is elsewhere for per-CPU variables.
        """
        name, offset = plain_symbol(full), address - base
        type_ = self._variable_type(full, known)
        if type_ is None:
            field = Field(f"+{offset:#x}" if offset else "")
        else:
            field = memtypes.field_at(type_, offset)
        detail = f"{full}+{offset:#x} at {address:#x}"
        dead = memtypes.why_record(name) or memtypes.why_record_field(name + field.path)
        return Holder(name + field.path, detail, dead, field, base)

    def _variable_type(self, name: str, known: int) -> drgn.Type | None:
        if (name, known) not in self._variables:
            # Static variables share names: the type of one says nothing of the others, and which
            # one drgn finds first is chance.
            type_ = self._type_at(name, None, known)
            if type_ is None:
                type_ = self._type_at(name, elf.find_file(self._vmlinux, name, known), known)
            self._variables[name, known] = type_
        return self._variables[name, known]

    def _type_at(self, name: str, file: str | None, known: int) -> drgn.Type | None:
        """Return the type of a variable, if it is the one that lies at an address."""
        with contextlib.suppress(LookupError):
            variable = self.prog.variable(name, file)
            if variable.address_ == known:
                return variable.type_
        return None

    def _reserved(self, at: int, address: int) -> Holder:
        """Return the holder of memory that was taken before there was an allocator."""
        if self.percpu.holds(address):
            return self._in_percpu(address)
        mapped = self._mapped.get(at >> PAGE_SHIFT)
        if mapped is not None:
            return self._in_area(mapped | at & PAGE_SIZE - 1)
        return Holder("memory reserved at boot", f"{address:#x}", untyped=address)

    def _in_percpu(self, address: int) -> Holder:
        symbol = self.percpu.find_symbol(address)
        if symbol is None:
            dead = "" if self.percpu.is_allocated(address) else "a free per-CPU allocation"
            return Holder("a per-CPU allocation", f"per-CPU allocation at {address:#x}", dead)
        known, name, base = symbol
        holder = self._in_variable(name, known, base, address)
        # At its end no processor of the guest is in an interrupt.
        if re.search(r"(irq|exception|entry)_stack", name):
            return replace(holder, dead="a stack for interrupts, which nobody is in")
        return holder

    # ---- slab objects ---------------------------------------------------------------------------

    def _in_slab(self, address: int) -> Holder:
        # Between its last use and the end of its time in KASAN's quarantine an object is in
        # nobody's list of free ones.
        if self._is_poisoned(address):
            return Holder("slab", f"{address:#x}", "a free object, or a red zone")
        info = slab_object_info(self.prog, address)
        if info is None:
            return Holder("slab", f"{address:#x}", "no slab")
        cache = info.slab_cache.name.string_().decode(errors="backslashreplace")
        offset = address - info.address
        detail = f"{cache}+{offset:#x} at {address:#x}"
        if not info.allocated:
            return Holder(cache, detail, "a free object")
        if info.address in self._awaiting(int(info.slab_cache)):
            return Holder(cache, detail, "an object that was given to kfree_rcu()")
        size = int(info.slab_cache.object_size)
        if not 0 <= offset < size:
            return Holder(cache, detail, "the allocator's own record of an object")
        type_ = memtypes.find_cache_type(self.prog, cache, size)
        if type_ is None and info.address in self._workers:
            type_ = self.prog.type("struct worker")
        if type_ is None:
            return Holder(f"an object of {cache}", detail, untyped=info.address)
        field = memtypes.field_at(type_, offset)
        path = f"{type_.tag}{field.path}"
        name = path + self._object_name(type_, info.address)
        dead = self._why_unused(type_, info.address, path)
        return Holder(name, detail, dead, field, info.address)

    def _awaiting(self, cache: int) -> frozenset[int]:
        """Return a cache's objects that are collected until there are enough to be freed.

        Since 6.18 that may take for ever (rcu_free of struct slub_percpu_sheaves, mm/slub.c).
        """
        if cache in self._waiting:
            return self._waiting[cache]
        found: set[int] = set()
        sheaves = Object(self.prog, "struct kmem_cache *", cache)
        for cpu in for_each_online_cpu(self.prog):
            try:
                sheaf = per_cpu_ptr(sheaves.cpu_sheaves, cpu).rcu_free.read_()
            except (AttributeError, FaultError):
                break
            if sheaf:
                found.update(int(sheaf.objects[n]) for n in range(int(sheaf.size)))
        self._waiting[cache] = frozenset(found)
        return self._waiting[cache]

    @functools.cached_property
    def _workers(self) -> frozenset[int]:
        """The workers of workqueues, which lie among objects of unknown types."""
        tasks = (task for _, task in self._stacks if int(task.flags) & _PF_WQ_WORKER)
        return frozenset(int(kthread_data(task)) for task in tasks)

    def _why_unused(self, type_: drgn.Type, address: int, path: str) -> str:
        """Return why nobody follows what a field of a live object says, or nothing."""
        item = Object(self.prog, type_, address=address)
        if type_.tag == "kernfs_node" and int(item.active.counter) == _KN_DEACTIVATED:
            return "a removed entry of sysfs, which who has looked at it remembers"
        # Nobody can begin to use one whose count is negative (use_pde(), fs/proc/inode.c).
        if type_.tag == "proc_dir_entry" and int(item.in_use.counter) < 0:
            return "a removed entry of proc, which who has looked at it remembers"
        return memtypes.why_record_field(path)

    def _object_name(self, type_: drgn.Type, address: int) -> str:
        field = memtypes.name_field(type_.tag)
        if field is None:
            return ""
        try:
            name = Object(self.prog, type_, address=address).member_(field).string_()
        except FaultError:
            return ""
        return f" of {name.decode(errors='backslashreplace')}"

    # ---- pages ----------------------------------------------------------------------------------

    def _is_free(self, page: Object) -> bool:
        # Pages that nobody counts have a type instead: slabs, page tables (since 6.14).
        if PageTail(page) or int(page._refcount.counter) != 0:
            return False
        return int(page.page_type) & 0xFF000000 in _FREE_TYPES

    def _is_users(self, page: Object) -> bool:
        if PageLRU(page) or PageSwapBacked(page):
            return True
        return int(compound_head(page).mapping) != 0

    def _is_poisoned(self, address: int) -> bool:
        if not self._kasan:
            return False
        try:
            shadow = self.prog.read((address >> 3) + _SHADOW_OFFSET & (1 << 64) - 1, 1)
        except FaultError:
            return False
        return bool(shadow[0] >= _POISON)

    def _in_pages(self, page: Object, address: int) -> Holder:
        start = self._direct + (int(page_to_pfn(compound_head(page))) << PAGE_SHIFT)
        if start in self._depot_pools:
            return Holder("stack depot", f"{address:#x}", "stack traces of KASAN's")
        detail = f"{address:#x}, in pages from {start:#x}"
        return Holder("pages of the page allocator", detail, untyped=start)

    @functools.cached_property
    def _depot_pools(self) -> frozenset[int]:
        """Where the stack depot keeps its traces (lib/stackdepot.c; pools were slabs until 6.3)."""
        for name in ("stack_pools", "stack_slabs"):
            try:
                pools = self.prog[name]
            except LookupError:
                continue
            length = pools.type_.length if pools.type_.kind == TypeKind.ARRAY else None
            count = length if length is not None else int(self.prog["stack_max_pools"])
            return frozenset(pool for n in range(count) if (pool := int(pools[n])))
        return frozenset()

    # ---- areas of vmalloc(), and stacks ---------------------------------------------------------

    @functools.cached_property
    def _stack_size(self) -> int:
        return int(drgn.sizeof(self.prog.type("union thread_union")))

    @functools.cached_property
    def _stacks(self) -> list[tuple[int, Object]]:
        stacks = ((int(task.stack), task) for task in for_each_task(self.prog))
        return sorted(stacks, key=lambda pair: pair[0])

    def _in_area(self, address: int) -> Holder:
        at = bisect.bisect_right(self._stacks, address, key=lambda pair: pair[0]) - 1
        if at >= 0 and address < self._stacks[at][0] + self._stack_size:
            return self._on_stack(self._stacks[at][1], address)
        if self.percpu.holds(address):
            return self._in_percpu(address)
        at = bisect.bisect_right(self._areas, address, key=lambda area: area[0]) - 1
        if at < 0 or address >= self._areas[at][1]:
            return self._in_page_struct(address)
        begin, _, who = self._areas[at]
        if begin in self._idle_stacks:
            return Holder("idle stack", f"{address:#x}", _IDLE_STACK)
        detail = f"{who}'s area {begin:#x}+{address - begin:#x}"
        if begin in self._kept_stacks:
            return Holder(f"memory of {who}", detail, "a stack kept for the next task")
        return Holder(f"memory of {who}", detail)

    @functools.cached_property
    def _idle_stacks(self) -> frozenset[int]:
        """Stacks of the processors' idle tasks, which no list of tasks has."""
        cpus = for_each_online_cpu(self.prog)
        return frozenset(int(idle_task(self.prog, cpu).stack) for cpu in cpus)

    @functools.cached_property
    def _kept_stacks(self) -> frozenset[int]:
        """Stacks of tasks that have ended, which the next tasks get (kernel/fork.c)."""
        found = set()
        for words in self.percpu.variable("cached_stacks"):
            for vm in words:
                if vm:
                    found.add(int(vm.addr))
        return frozenset(found)

    def _in_page_struct(self, address: int) -> Holder:
        try:
            type_ = self.prog.type("struct page")
            index, offset = divmod(address - self._number("vmemmap_base", _VMEMMAP), type_.size)
            page = pfn_to_page(self.prog, index)
            dead = "a free page's" if self._is_free(page) else ""
            # Which of a page's fields it is depends on what the page is for.
            return Holder("struct page", f"{address:#x}, page {index:#x}+{offset:#x}", dead)
        except FaultError:
            return Holder("kernel memory", f"{address:#x}")

    def _on_stack(self, task: Object, address: int) -> Holder:
        name = f"stack of {task.comm.string_().decode(errors='backslashreplace')}"
        detail = f"{address:#x}, stack of task {int(task.pid)}"
        if int(task.on_cpu):
            # Nobody has kept the registers of a processor that was stopped.
            return Holder(name, detail, "a stack in use: nobody knows how much of it")
        if address < int(task.thread.sp):
            return Holder(name, detail, "the free part of a stack")
        # A frame may have room that was not written since an earlier call.
        if self.read_word(address) not in self._callers(int(task.pid)):
            return Holder(name, detail, "on a stack, and no return address")
        return Holder(name, detail)

    def _callers(self, pid: int) -> frozenset[int]:
        """Return the addresses to which the functions return that a task is in."""
        if pid not in self._returns:
            found = set()
            for frame in self.prog.stack_trace(pid):
                with contextlib.suppress(LookupError):
                    found.add(frame.pc)
            self._returns[pid] = frozenset(found)
        return self._returns[pid]
