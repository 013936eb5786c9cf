# SPDX-License-Identifier: GPL-2.0-only
from collections.abc import Iterator

from harness.memlists import find_list
from harness.memowners import Holder
from harness.memtypes import Field

#: Where nothing is: what a module left behind leads to it.
GONE = 0xA0000000


class Words:
    """A memory in which each holder is at an address, which is also its place."""

    def __init__(self, holders: dict[int, Holder], words: dict[int, int]) -> None:
        self.holders, self.words = holders, words

    def physical(self, address: int) -> int | None:
        return address if address in self.holders else None

    def read_word(self, address: int) -> int | None:
        return self.words.get(address)

    def find_holder(self, at: int) -> Holder:
        return self.holders[at]

    def find_pointers(self, address: int) -> Iterator[Holder]:
        for at, value in self.words.items():
            if value == address and at in self.holders:
                yield self.holders[at]


def holder(name: str, base: int, parent: str, field: str, at: int = 0) -> Holder:
    path = name.partition(".")[2]
    return Holder(name, f"{name} at {base:#x}", field=Field(path, parent, at, field), base=base)


def ring(*places: int) -> tuple[dict[int, Holder], dict[int, int]]:
    """A list whose head is the first, and of which one element was a module's."""
    holders = {0x100: holder("things.next", 0x100, "list_head", "next"),
               0x108: holder("things.prev", 0x100, "list_head", "prev")}  # fmt: skip
    words = {}
    for at, following in zip(places, [*places[1:], places[0]], strict=True):
        words |= {at: following, following + 8: at}
    for at in set(places[1:]) - {GONE}:
        for offset, way in ((0, "next"), (8, "prev")):
            name = f"thing.entry.{way}"
            holders[at + offset] = holder(name, at - 0x20, "list_head", way, 0x20)
    # What is gone cannot be read.
    del words[GONE], words[GONE + 8]
    return holders, words


def test_ring_is_followed_away_from_what_is_gone() -> None:
    for order, next_of, prev_of in (
        ((0x100, 0x1020, 0x2020, GONE), 0x2020, 0x100),
        ((0x100, GONE, 0x1020, 0x2020), 0x100, 0x1020),
        ((0x100, 0x1020, GONE, 0x2020), 0x1020, 0x2020),
        ((0x100, GONE), 0x100, 0x100),
    ):
        holders, words = ring(*order)
        assert words[next_of] == words[prev_of + 8] == GONE
        for at in (next_of, prev_of + 8):
            found = find_list(Words(holders, words), holders[at])
            assert found is not None
            assert found.name == "things"


def test_ring_without_a_head_of_its_own_has_none() -> None:
    holders, words = ring(0x100, 0x1020, 0x2020, GONE)
    for at in (0x100, 0x108):
        way = holders[at].field.name
        holders[at] = holder(f"thing.entry.{way}", 0x100, "list_head", way)
    assert find_list(Words(holders, words), holders[0x2020]) is None


def test_ring_that_leads_nowhere_has_no_head() -> None:
    holders, words = ring(0x100, 0x1020, 0x2020, GONE)
    del words[0x1028]
    assert find_list(Words(holders, words), holders[0x2020]) is None


def test_bucket_is_found_through_what_is_before() -> None:
    first = holder("base.vectors[].first", 0x100, "hlist_head", "first")
    one = holder("timer.entry.next", 0x1000, "hlist_node", "next")
    two = holder("timer.entry.next", 0x2000, "hlist_node", "next")
    holders = {0x100: first, 0x1000: one, 0x2000: two}
    words = {0x100: 0x1000, 0x1000: 0x2000, 0x2000: GONE, 0x2008: 0x1000, 0x1008: 0x100}
    assert find_list(Words(holders, words), two) == first
    # What is before it was not memory.
    assert find_list(Words(holders, words | {0x1008: 0x666}), two) is None


def test_chain_is_followed_to_whoever_leads_to_it() -> None:
    head = holder("chain.head", 0x100, "raw_notifier_head", "head")
    one = holder("a_notifier.next", 0x1000, "notifier_block", "next", 8)
    two = holder("b_notifier.next", 0x2000, "notifier_block", "next", 8)
    holders = {0x100: head, 0x1010: one, 0x2010: two}
    words = {0x100: 0x1008, 0x1010: 0x2008, 0x2010: GONE}
    assert find_list(Words(holders, words), two) == head
    assert find_list(Words(holders, {0x2010: GONE}), two) is None


def test_chain_that_is_a_circle_has_no_head() -> None:
    one = holder("a.next", 0x1000, "thing", "next")
    two = holder("b.next", 0x2000, "thing", "next")
    words = {0x1000: 0x2000, 0x2000: 0x1000}
    assert find_list(Words({0x1000: one, 0x2000: two}, words), two) is None


def test_what_is_no_element_has_no_list() -> None:
    plain = holder("kmem_cache.ctor", 0x1000, "kmem_cache", "ctor")
    assert find_list(Words({}, {}), plain) is None
    head = holder("chain.head", 0x100, "raw_notifier_head", "head")
    assert find_list(Words({}, {}), head) is None
