# SPDX-License-Identifier: GPL-2.0-only
"""Which modules of a place are taken. The way to a kernel that has them is in test_ownsource.py."""

import shutil
from pathlib import Path

import pytest

from harness import intree, kconfigtree
from harness.errors import UsageError
from harness.kconfigtree import Tree

SOURCE = Path(__file__).parent / "data" / "kbuild"
POOL = intree.find(SOURCE, "fs/pool")
ROOM = {"CONFIG_BLOCK": "y", "CONFIG_MISC": "y"}


@pytest.fixture
def tree() -> Tree:
    return Tree(SOURCE)


def names(choice: intree.Choice) -> list[str]:
    return [one.name for one in choice.modules]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("../../etc", "leads out of it by"),
        ("/fs/pool", "begins with '/'"),
        ("fs//pool", "a part of it is empty"),
        ("fs/pool\0", r"'pool\\x00' is no name"),
        ("fs/po\nol", r"'po\\nol' is no name"),
        ("", "a part of it is empty"),
        ("fs/none", "fs has no module none"),
        ("nofs/none", "no such folder in the kernel's source"),
    ],
)
def test_place_that_is_none(place: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        intree.find(SOURCE, place)


@pytest.mark.parametrize("place", ["fs/link", "link/pool", "fs/link.c", "fs/gone"])
def test_place_behind_a_link_is_refused(tmp_path: Path, place: str) -> None:
    source = tmp_path / "linux"
    shutil.copytree(SOURCE, source)
    (source / "fs/link").symlink_to("/etc")
    (source / "link").symlink_to("fs")
    (source / "fs/gone").symlink_to("gone")
    with pytest.raises(UsageError, match=r"(fs/)?(link|gone) is a link in the kernel's source"):
        intree.find(source, place)
    # Where the source itself lies is another matter.
    (tmp_path / "here").symlink_to(source)
    assert intree.find(tmp_path / "here", "fs/pool") == POOL


def test_all_of_a_small_place_are_taken(tree: Tree) -> None:
    choice = intree.choose("fs/pool", POOL, tree, ROOM)
    assert names(choice) == ["pool", "apool", "bpool"]
    assert choice.added == {"APOOL": "m", "BPOOL": "m"}
    assert choice.notes == ()


def test_of_a_large_place_those_that_the_kernel_has(tree: Tree) -> None:
    config = {**ROOM, "CONFIG_BPOOL": "m", "CONFIG_POOL_FS": "m"}
    choice = intree.choose("fs/pool", POOL, tree, config, few=2)
    assert names(choice) == ["pool", "bpool"]
    assert choice.added == {}
    assert choice.notes == ("1 other modules of fs/pool are not configured in this kernel",)


def test_large_place_of_which_the_kernel_has_nothing(tree: Tree) -> None:
    with pytest.raises(UsageError, match=r"names 3 modules, none of which .*: pool, apool, bpool"
                       ) as caught:  # fmt: skip
        intree.choose("fs/pool", POOL, tree, ROOM, few=2)
    assert "--in-tree fs/pool/pool" in str(caught.value.hint)


def test_what_cannot_be_configured_is_left_out(tree: Tree) -> None:
    tree.symbols["APOOL"].conditions[0] = kconfigtree.parse("NOWHERE")
    choice = intree.choose("fs/pool", POOL, tree, ROOM)
    assert names(choice) == ["pool", "bpool"]
    assert len(choice.notes) == 1
    assert choice.notes[0].startswith("apool: NOWHERE: no option of this name")
    assert "APOOL: fs/pool/Kconfig:5: tristate; depends on NOWHERE" in choice.notes[0]


def test_what_kconfig_left_out_after_all(tree: Tree) -> None:
    config = {**ROOM, "CONFIG_POOL_FS": "m", "CONFIG_BPOOL": "y"}
    gone = intree.missing(POOL[:3], tree, config)
    assert [one.name for one, _ in gone] == ["apool", "bpool"]
    assert gone[1][1].startswith("BPOOL is y: fs/pool/Kconfig:")
