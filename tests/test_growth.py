# SPDX-License-Identifier: GPL-2.0-only
"""What grows from one count of a guest's memory to the next."""

import pytest

from harness import growth


def console(*counts: str) -> bytes:
    """A console with a count after each eight lives; what stands in it, one cache a word pair."""
    lines = [
        f"[   11.0{n}][   T71] {growth._MARK} {8 * n} {part}"
        for n, count in enumerate(counts, 1)
        for part in count.split(", ")
    ]
    return "\n".join(["[    1.0] something else 1 2", *lines, ""]).encode()


def test_first_life_only_throws_out_what_was_there_before() -> None:
    first = f"[   9.0][   T5] {growth._MARK} 1 dentry 1\n".encode()
    counts = console("dentry 9", "dentry 17")
    assert [lives for lives, _ in growth.read_counts(first + counts)] == [8, 16]
    assert growth.grown(first + counts) == ()


def test_one_a_life_in_each_window_is_growth() -> None:
    text = console("dentry 9 filp 3", "dentry 17 filp 11", "dentry 30 filp 18")
    assert growth.grown(text) == (("dentry", "+8 in 8 lives, +13 in 8 lives"),)


@pytest.mark.parametrize(
    "counts",
    [
        # Only at first, only at the end, up and down.
        ("a 0", "a 100", "a 100"),
        ("a 0", "a 0", "a 100"),
        ("a 100", "a 0", "a 100"),
        # Too few counts, and a cache that was not always there.
        ("a 0", "a 8"),
        ("b 0", "a 0", "a 8"),
        (),
    ],
)
def test_what_is_no_growth(counts: tuple[str, ...]) -> None:
    assert growth.grown(console(*counts)) == ()


def test_free_pages_that_become_fewer_are_pages_in_use() -> None:
    text = console("a 1, Percpu: 60 free: 900", "a 1, Percpu: 60 free: 880", "Percpu: 60 free: 870")
    assert growth.grown(text) == (("pages", "+20 in 8 lives, +10 in 8 lives"),)
    text = console("Percpu: 60 free: 900", "Percpu: 70 free: 900", "Percpu: 80 free: 901")
    assert growth.grown(text) == (("pages of per-CPU memory", "+10 in 8 lives, +10 in 8 lives"),)


def test_what_follows_other_memory_is_not_told_again() -> None:
    assert (
        growth.grown(console("kmemleak_object 0", "kmemleak_object 9", "kmemleak_object 18")) == ()
    )


def test_line_that_was_cut_off_is_read_as_far_as_it_goes() -> None:
    text = console("a 0 b", "a 8 b", "a 16 b")
    assert growth.grown(text) == (("a", "+8 in 8 lives, +8 in 8 lives"),)
