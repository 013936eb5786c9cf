# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from harness import kconfigtree
from harness.kconfigtree import Tree

TOP = """\
mainmenu "A kernel"

source "arch/$(SRCARCH)/Kconfig"
source "nowhere/Kconfig"
source "Kconfig"

config NET
	bool "Networks"

menuconfig CARDS
	bool "Cards"
	depends on NET && \\
		BUS
	help
		A text.

		depends on NOTHING is a part of it
	if it says so

if CARDS
config CARD_A
	tristate "A"
	depends on FIRMWARE || BUILTIN_FIRMWARE
	select HELPER if FAST

choice
	prompt "Speed"
	depends on CARD_A
config FAST
	bool "fast"
config SLOW
	bool
	prompt "slow"
endchoice
endif # CARDS

config BUILTIN_FIRMWARE
	bool "Firmware"

config FIRMWARE
	def_bool y
	depends on SCSI = y

config HELPER
	tristate

config OLD
	tristate "Old"
	depends on !CARDS

config DEEP
	tristate "Deep"
	depends on $(success,test -e (x)) && CARD_A=m && LEVEL > 3

menu "Numbers"
	visible if NET
	depends on NET
config LEVEL
	int "Level"
	range 1 9
comment "said"
	depends on NOTHING
endmenu

config TWICE
	bool "Twice" if NET
	depends on NOTHING
config TWICE
	depends on NET

config CIRCLE
	bool "Circle"
	depends on ROUND
config ROUND
	bool "Round"
	depends on CIRCLE
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "arch/x86").mkdir(parents=True)
    (tmp_path / "Kconfig").write_text(TOP)
    (tmp_path / "arch/x86/Kconfig").write_text('config BUS\n\tbool "Bus"\n')
    return Tree(tmp_path)


def test_conditions_are_those_of_all_blocks_around(tree: Tree) -> None:
    assert tree.condition("BUS") == "y"
    assert tree.condition("CARDS") == "NET && BUS"
    assert tree.condition("CARD_A") == "CARDS && (FIRMWARE || BUILTIN_FIRMWARE)"
    assert tree.condition("FAST") == "CARDS && CARD_A"
    assert tree.condition("LEVEL") == "NET"
    assert tree.condition("DEEP") == "CARD_A=m && LEVEL>3"
    assert tree.condition("TWICE") == "(NOTHING) || (NET)"
    assert tree.symbols["BUS"].place == "arch/x86/Kconfig:1"
    assert [name for name in ("FAST", "SLOW", "FIRMWARE", "HELPER") if tree.symbols[name].prompt
            ] == ["FAST", "SLOW"]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "added"),
    [
        ({"NET": "y"}, {"NET": "y"}),
        ({"CARDS": "y"}, {"NET": "y", "BUS": "y", "CARDS": "y"}),
        # Of two sides of a choice the one that can be had.
        (
            {"CARD_A": "m"},
            {"NET": "y", "BUS": "y", "CARDS": "y", "BUILTIN_FIRMWARE": "y", "CARD_A": "m"},
        ),
        # No prompt: what selects it.
        (
            {"HELPER": "m"},
            {"NET": "y", "BUS": "y", "CARDS": "y", "BUILTIN_FIRMWARE": "y", "CARD_A": "m"},
        ),
        ({"OLD": "m"}, {"OLD": "m"}),
        # One definition that can be met is enough.
        ({"TWICE": "y"}, {"NET": "y", "TWICE": "y"}),
        (
            {"DEEP": "m"},
            {"NET": "y", "BUS": "y", "CARDS": "y", "BUILTIN_FIRMWARE": "y", "CARD_A": "m",
             "DEEP": "m"},
        ),
    ],
)  # fmt: skip
def test_what_an_option_needs(tree: Tree, wanted: dict[str, str], added: dict[str, str]) -> None:
    proposal = tree.propose(wanted, {})
    assert (proposal.options, proposal.problems) == (added, [])


def test_what_is_there_is_not_added(tree: Tree) -> None:
    config = {"CONFIG_NET": "y", "CONFIG_BUS": "y", "CONFIG_CARDS": "y",
              "CONFIG_FIRMWARE": "y"}  # fmt: skip
    assert tree.propose({"CARD_A": "m"}, config).options == {"CARD_A": "m"}
    assert tree.propose({"CARDS": "y"}, config).options == {}
    assert tree.propose({"CARD_A": "m"}, config | {"CONFIG_CARD_A": "y"}).options == {"CARD_A": "m"}


@pytest.mark.parametrize(
    ("wanted", "config", "why"),
    [
        ({"GONE": "y"}, {}, "GONE: no option of this name"),
        ({"NET": "m"}, {}, "NET: can be y, but not a module"),
        ({"LEVEL": "y"}, {}, "LEVEL: is no switch but a int"),
        ({"OLD": "m"}, {"CONFIG_CARDS": "y"}, "OLD: Kconfig:47: tristate; depends on !CARDS"),
        ({"CIRCLE": "y"}, {}, "CIRCLE: Kconfig:71: bool; depends on ROUND (ROUND is n)"),
    ],
)
def test_what_cannot_be_had(
    tree: Tree, wanted: dict[str, str], config: dict[str, str], why: str
) -> None:
    problems = tree.propose(wanted, config).problems
    assert [problem[: len(why)] for problem in problems][-1:] == [why]


def test_explanation_says_what_is_missing(tree: Tree) -> None:
    said = tree.explain("CARD_A", {"CONFIG_CARDS": "y"})
    assert said.endswith(
        "tristate; depends on CARDS && (FIRMWARE || BUILTIN_FIRMWARE)"
        " (BUILTIN_FIRMWARE is n, FIRMWARE is n)"
    )
    assert "no prompt; selected by CARD_A" in tree.explain("HELPER", {})
    assert tree.explain("GONE", {}) == "no option of this name in this kernel"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("A && (B || !C)", "A && (B || !C)"),
        ("!(A && B)", "!(A && B)"),
        ('A="x" || B != m', "A=x || B!=m"),
        ("A # why", "A"),
        ("$(cc-option,-mfoo) && A", "A"),
        ("(A", "A"),
        ("&& ||", "y"),
        ("", "y"),
    ],
)
def test_expressions(text: str, shown: str) -> None:
    said = str(kconfigtree.parse(text))
    assert said.replace(" != ", "!=").replace(" = ", "=") == shown
