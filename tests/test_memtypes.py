# SPDX-License-Identifier: GPL-2.0-only
import drgn
import pytest
from drgn import Program, Type, TypeMember

from harness import memtypes
from harness.memtypes import Field, field_at


@pytest.fixture
def prog() -> Program:
    return Program(drgn.Platform(drgn.Architecture.X86_64))


def word(prog: Program) -> Type:
    return prog.pointer_type(prog.void_type())


def node(prog: Program) -> Type:
    members = [TypeMember(word(prog), "next", 0), TypeMember(word(prog), "prev", 64)]
    return prog.struct_type("list_head", 16, members)


def test_field_of_a_structure_in_a_structure(prog: Program) -> None:
    outer = prog.struct_type(
        "outer", 24, [TypeMember(word(prog), "first", 0), TypeMember(node(prog), "entry", 64)]
    )
    assert field_at(outer, 0) == Field(".first", "outer", 0, "first")
    assert field_at(outer, 16) == Field(".entry.prev", "list_head", 8, "prev")


def test_field_of_an_array_has_no_number(prog: Program) -> None:
    heads = prog.array_type(prog.array_type(node(prog), 2), 4)
    assert field_at(heads, 5 * 16 + 8) == Field("[][].prev", "list_head", 5 * 16, "prev")


def test_members_without_a_name_belong_to_what_holds_them(prog: Program) -> None:
    inner = prog.union_type(
        None, 16, [TypeMember(prog.int_type("int", 4, True), "number", 0),
                   TypeMember(node(prog), "list", 0)]
    )  # fmt: skip
    outer = prog.struct_type("outer", 24, [TypeMember(inner, None, 64)])
    # A pointer comes before a number, and before what is only long enough.
    assert field_at(outer, 8).path == ".list.next"
    assert field_at(outer, 16) == Field(".list.prev", "list_head", 8, "prev")
    number = prog.int_type("unsigned long", 8, False)
    both = prog.union_type("u", 8, [TypeMember(number, "one", 0), TypeMember(number, "two", 0)])
    assert field_at(both, 0).path == ".one"
    pointers = prog.typedef_type("p_t", prog.array_type(word(prog), 2))
    mixed = prog.union_type(
        "u", 16, [TypeMember(number, "one", 0), TypeMember(pointers, "many", 0)]
    )
    assert field_at(mixed, 8).path == ".many[]"
    assert field_at(mixed, 0).path == ".many[]"


def test_typedef_and_hole_and_what_has_no_fields(prog: Program) -> None:
    byte = prog.int_type("char", 1, True)
    outer = prog.struct_type(
        "outer", 16, [TypeMember(byte, "a", 0), TypeMember(word(prog), "b", 64)]
    )
    assert field_at(prog.typedef_type("outer_t", outer), 8).path == ".b"
    assert field_at(outer, 4).path == ""
    assert field_at(word(prog), 0) == Field()
    assert field_at(prog.struct_type("unknown"), 8) == Field()
    assert field_at(prog.array_type(prog.struct_type("empty", 0, []), 3), 0).path == ""


def test_bits_are_no_pointers(prog: Program) -> None:
    number = prog.int_type("unsigned long", 8, False)
    bits = drgn.Object(prog, number, bit_field_size=4, value=0)
    flags = prog.struct_type("flags", 8, [TypeMember(bits, "low", 0)])
    assert field_at(flags, 0).path == ""


@pytest.mark.parametrize(
    ("name", "plain"),
    [("fops", "fops"), ("fops.3", "fops"), ("__key.17", "__key"), ("f.isra.0", "f"),
     ("f.constprop.0.cold", "f"), ("f.part.2", "f"), ("a.partly", "a.partly")],
)  # fmt: skip
def test_what_a_compiler_adds_to_a_name_is_dropped(name: str, plain: str) -> None:
    assert memtypes.plain_symbol(name) == plain


def test_records_are_told_from_what_is_used() -> None:
    assert "highest address" in memtypes.why_record("mod_tree")
    assert memtypes.why_record("netdev_chain") == ""
    assert "lockdep" in memtypes.why_record_field("task_struct.held_locks[].acquire_ip")
    assert "lockdep" in memtypes.why_record_field("task_struct.softirq_disable_ip")
    assert "bounds" in memtypes.why_record_field("vmap_area.va_start")
    assert "compared" in memtypes.why_record_field("worker.last_func")
    assert "compared" in memtypes.why_record_field("hrtimer_bases.next_timer")
    for used in (
        "worker.current_func",
        "task_struct.thread.sp",
        "vmap_area.vm",
        "kmem_cache.ctor",
        "task_struct.softirqs",
    ):
        assert memtypes.why_record_field(used) == ""


class Types:
    """Knows some structures by size."""

    def __init__(self, prog: Program, **sizes: int | None) -> None:
        self.known = {
            f"struct {name}": prog.struct_type(name) if size is None
            else prog.struct_type(name, size, [])
            for name, size in sizes.items()
        }  # fmt: skip

    def type(self, name: str) -> Type:
        if name not in self.known:
            raise LookupError(name)
        return self.known[name]


@pytest.mark.parametrize(
    ("cache", "size", "tag"),
    [
        ("dentry", 192, "dentry"),
        ("kernfs_node_cache", 128, "kernfs_node"),
        ("filp", 256, "file"),
        ("mm_struct", 900, "mm_struct"),
        ("kmalloc-256", 256, None),
        ("inode_cache", 500, None),
        ("declared", 100, None),
        ("nobody's", 100, None),
    ],
)
def test_type_of_a_caches_objects(prog: Program, cache: str, size: int, tag: str | None) -> None:
    types = Types(
        prog, dentry=192, kernfs_node=128, file=232, mm_struct=800, inode=600, declared=None
    )
    found = memtypes.find_cache_type(types, cache, size)  # type: ignore[arg-type]
    assert (found.tag if found else None) == tag


def test_objects_of_some_types_have_names() -> None:
    assert memtypes.name_field("kmem_cache") == "name"
    assert memtypes.name_field("file") is None
    assert memtypes.name_field(None) is None
