# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from harness import kconfig
from harness.errors import KernelBuildError
from harness.resources import data_dir


def test_parse_knows_set_and_unset() -> None:
    text = '# a comment\nCONFIG_A=y\nCONFIG_B="-x"\n# CONFIG_C is not set\n'
    assert kconfig.parse(text) == {"CONFIG_A": "y", "CONFIG_B": '"-x"', "CONFIG_C": "n"}


def test_later_fragment_wins() -> None:
    assert kconfig.merge([{"A": "y"}, {"A": "n"}]) == {"A": "n"}


def test_unset_and_absent_are_the_same() -> None:
    assert kconfig.missing({"CONFIG_A": "n", "CONFIG_B": "y"}, {"CONFIG_B": "y"}) == ()


def test_dropped_option_is_named_with_what_it_depends_on(tmp_path: Path) -> None:
    (tmp_path / "mm").mkdir()
    (tmp_path / "mm" / "Kconfig").write_text(
        'config SLUB_TINY\n\tbool\n\nconfig KASAN\n\tbool "KASAN"\n\tdepends on !SLUB_TINY\n'
    )
    with pytest.raises(KernelBuildError, match="1 of 2 options did not survive") as caught:
        kconfig.require({"CONFIG_KASAN": "y", "CONFIG_SMP": "y"}, {"CONFIG_SMP": "y"}, tmp_path)
    assert "CONFIG_KASAN" in caught.value.message
    assert "mm/Kconfig: depends on !SLUB_TINY" in caught.value.evidence


def test_message_stays_short_when_everything_was_dropped(tmp_path: Path) -> None:
    wanted = {f"CONFIG_{number:02}": "y" for number in range(30)}
    with pytest.raises(KernelBuildError, match="30 of 30 options did not survive") as caught:
        kconfig.require(wanted, {}, tmp_path)
    assert "CONFIG_07, ..." in caught.value.message
    assert "CONFIG_08" not in str(caught.value)


def test_option_that_a_series_does_not_have(tmp_path: Path) -> None:
    assert kconfig.depends_on("CONFIG_NOWHERE", tmp_path).startswith("no kernel option")


@pytest.mark.parametrize("path", sorted((data_dir("images") / "fragments").glob("*.config")))
def test_fragment_has_nothing_that_would_be_passed_over(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert len(kconfig.parse(path.read_text())) == len(lines)


def test_what_a_configuration_lacks_is_said_with_its_use() -> None:
    config = {"CONFIG_A": "y", "CONFIG_B": "m"}
    required = {"CONFIG_A": "one", "CONFIG_B": "two", "CONFIG_C": "three"}
    assert kconfig.lacks(config, required) == "CONFIG_B (two); CONFIG_C (three)"
    assert kconfig.lacks(config, {"CONFIG_A": "one"}) == ""
