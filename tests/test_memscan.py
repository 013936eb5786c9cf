# SPDX-License-Identifier: GPL-2.0-only
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from harness import elf, memscan
from harness.memowners import UNKNOWN, Holder
from harness.memscan import Gone
from harness.memtypes import Field
from harness.symbolise import ModuleLife
from harness.verdict import Kind
from tests.test_elf import compile_object

SOURCE = """
struct node { struct node *next; void (*call)(void); };
static void called(void) { }
static struct node first = { 0, called };
static struct node second __attribute__((section(".data.other"))) = { &first, called };
static int percpu __attribute__((section(".data..percpu"), used)) = 1;
const char *word(void) { return "a word of some length"; }
int call(int which) { (which ? first : second).call(); return which; }
"""

TEXT, DATA, OTHER = 0xFFFFFFFFA0000000, 0xFFFFFFFFA0002000, 0xFFFFFFFFA0002800
STRING, PERCPU = 0xFFFFFFFFA0003000, 0xFFFF888000001000
SECTIONS = (
    (".text", TEXT),
    (".data", DATA),
    (".data.other", OTHER),
    (".rodata.str1.1", STRING),
    (".data..percpu", PERCPU),
)


@pytest.fixture(scope="module")
def ko(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_object(tmp_path_factory.mktemp("ko"), "-fno-pic", source=SOURCE, name="mod")


def life(ko: Path, **changes: object) -> ModuleLife:
    one = ModuleLife("mod", ko, TEXT, 0x4000, 1, 100, SECTIONS)
    return replace(one, **changes)  # type: ignore[arg-type]


def address(ko: Path, name: str) -> int:
    """Return where a variable or function is, as the module was laid out."""
    file = elf.load_all(ko)
    (symbol,) = file.by_name[name]
    return dict(SECTIONS)[file.sections[symbol.section].name] + symbol.value


class Memory:
    """Some holders, and who leads to them."""

    def __init__(self, *holders: Holder, leading: Mapping[int, Holder] | None = None) -> None:
        self.holders = holders
        self.leading = leading or {}

    def find_holder(self, at: int) -> Holder:
        raise AssertionError(at)

    def find_references(self, addresses: frozenset[int]) -> Mapping[int, Holder]:
        return {at: self.leading[at] for at in addresses if at in self.leading}

    def find_pointers(self, address: int) -> Iterator[Holder]:
        return iter(())

    def physical(self, address: int) -> int | None:
        return None

    def read_word(self, address: int) -> int | None:
        return None


CHAIN = Holder("netdev_chain.head", "netdev_chain+0x0 at 0xffffffff81000000")


def titles(gone: Gone, memory: Memory, *values: int) -> list[str]:
    found = memscan.judge(zip(memory.holders, values, strict=True), gone, memory)
    assert {finding.kind for finding in found} <= {Kind.STALE}
    return [finding.title for finding in found]


def test_pointer_is_named_by_both_its_ends(ko: Path) -> None:
    gone = Gone([life(ko)])
    (finding,) = memscan.judge([(CHAIN, address(ko, "first") + 8)], gone, Memory())
    assert finding.kind is Kind.STALE
    assert finding.title == "stale pointer: netdev_chain.head → first"
    assert "netdev_chain+0x0 at 0xffffffff81000000" in finding.detail
    assert f"{address(ko, 'first') + 8:#x}, first+0x8 [mod, load 1]" in finding.detail
    assert "0x" not in finding.title


@pytest.mark.parametrize(
    ("name", "shown"), [("called", "called"), ("second", "second"), ("word", "word")]
)
def test_functions_and_variables_of_each_section_are_known(ko: Path, name: str, shown: str) -> None:
    assert titles(Gone([life(ko)]), Memory(CHAIN), address(ko, name)) == [
        f"stale pointer: netdev_chain.head → {shown}"
    ]


def test_string_has_no_name_of_its_own(ko: Path) -> None:
    (title,) = titles(Gone([life(ko)]), Memory(CHAIN), STRING + 2)
    assert title.endswith("→ a string of mod")


def test_what_nobody_follows_is_no_finding(ko: Path) -> None:
    dead = replace(CHAIN, dead="a free object")
    assert titles(Gone([life(ko)]), Memory(dead), address(ko, "first")) == []


def test_several_pointers_of_one_title_are_one_finding(ko: Path) -> None:
    count = 11
    first = address(ko, "first")
    holders = [(replace(CHAIN, detail=f"element {n}"), first) for n in range(count)]
    (finding,) = memscan.judge(holders, Gone([life(ko)]), Memory())
    lines = finding.detail.splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("element 0 =")
    assert lines[-1] == "and 3 more"


def test_memory_of_an_unknown_type_is_named_by_who_leads_to_it(ko: Path) -> None:
    thing = Holder("an object of kmalloc-64", "kmalloc-64+0x8", untyped=0x1000)
    lost = replace(thing, untyped=0x2000)
    memory = Memory(thing, lost, leading={0x1000: Holder("device.p of dk0", "device+0x8")})
    first = address(ko, "first")
    assert titles(Gone([life(ko)]), memory, first, first) == [
        "stale pointer: *device.p of dk0 → first",
        "stale pointer: an object of kmalloc-64 → first",
    ]


def test_list_is_named_in_place_of_its_element(ko: Path) -> None:
    element = Holder(
        "other_notifier.next", "other", field=Field(".next", "notifier_block", 0, "next"), base=16
    )

    class Chained(Memory):
        def find_pointers(self, address: int) -> Iterator[Holder]:
            return iter([CHAIN] if address == 16 else [])

    (finding,) = memscan.judge([(element, address(ko, "first"))], Gone([life(ko)]), Chained())
    assert finding.title == "stale pointer: netdev_chain.head → first"
    assert finding.detail.endswith("; netdev_chain+0x0 at 0xffffffff81000000 leads there")


def test_where_sections_lie_apart_nothing_is_between_them(ko: Path) -> None:
    """Since 6.4 a module's first address and size say where its code is, and no more."""
    apart = [(name, at if name == ".text" else at + (1 << 21)) for name, at in SECTIONS]
    gone = Gone([life(ko, sections=tuple(apart))])
    assert gone.find(address(ko, "called")) is not None
    assert gone.find(address(ko, "first") + (1 << 21)) is not None
    assert gone.find(TEXT + 0x2000) is None
    assert gone.end < TEXT + (1 << 21) + 0x4000


def test_where_nothing_is_known_of_sections_the_range_counts(ko: Path) -> None:
    gone = Gone([life(ko, sections=())])
    target = gone.find(TEXT + 0x123)
    assert target is not None
    assert (target.name, target.detail) == ("mod", "mod+0x123 [mod]")
    assert gone.find(TEXT + 0x4000) is None


def test_per_cpu_section_is_not_where_the_module_was(ko: Path) -> None:
    assert Gone([life(ko)]).find(PERCPU) is None


def test_who_was_there_last_is_named(ko: Path) -> None:
    lives = [life(ko, load=2, unloaded_us=200), life(ko), life(ko, load=3, unloaded_us=None)]
    target = Gone(lives).find(address(ko, "first"))
    assert target is not None
    assert "load 2" in target.detail


@pytest.mark.parametrize("changes", [{"unloaded_us": None}, {"base": 0}])
def test_module_that_is_there_or_of_which_nothing_is_known_is_not_gone(
    ko: Path, changes: dict[str, object]
) -> None:
    gone = Gone([life(ko, **changes)])
    assert not gone
    assert gone.find(address(ko, "first")) is None


def test_load_that_was_refused_is_known_by_places_in_pages(ko: Path) -> None:
    """Nobody knows where it was; its parts were as far into a page as each time."""
    gone = Gone([life(ko)])
    elsewhere = 0x7000
    assert titles(gone, Memory(CHAIN), address(ko, "second") + elsewhere) == [
        "stale pointer: netdev_chain.head → second"
    ]
    assert titles(gone, Memory(CHAIN), address(ko, "second") + elsewhere + 8) == []


def test_pointers_to_where_somebody_is_are_left_out(ko: Path) -> None:
    words = [(0, TEXT), (8, TEXT + 0x1000), (16, TEXT + 0x1FFF), (24, TEXT + 0x2000)]
    areas = [(TEXT + 0x1000, TEXT + 0x2000, "module other")]
    assert memscan.outside(words, areas) == [(0, TEXT), (24, TEXT + 0x2000)]


def test_who_is_where_a_module_was_is_said() -> None:
    ranges = [(TEXT, TEXT + 0x2000, "mod"), (TEXT + 0x2000, TEXT + 0x3000, "mod")]
    areas = [
        (TEXT + 0x1000, TEXT + 0x5000, "module other"),
        (TEXT + 0x8000, TEXT + 0x9000, "alloc_insn_page"),
    ]
    assert memscan.reused(ranges, areas) == (
        "where mod was there is module other now: pointers to there were not looked at",
    )
    assert memscan.reused(ranges, areas[1:]) == ()


def test_words_of_which_nobody_knows_whose_they_are_are_said() -> None:
    lost = replace(CHAIN, dead=f"{UNKNOWN} (no page)")
    assert memscan.unknown([(lost, 1), (CHAIN, 2), (lost, 3)]) == (
        "whose 2 words are cannot be told (no page): they were left out",
    )
    assert memscan.unknown([(CHAIN, 1)]) == ()
