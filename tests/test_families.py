# SPDX-License-Identifier: GPL-2.0-only
import re
from pathlib import Path

import pytest

from harness import families, scenario
from harness.errors import UsageError


def make(folder: Path, kbuild: str = "obj-m := foo.o\n", data: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "Kbuild").write_text(kbuild)
    if data is not None:
        (folder / "module.yaml").write_text(data)
    return folder


def test_family_is_found_by_name_and_by_folder(tmp_path: Path) -> None:
    assert families.find_family("poolfs").name == "poolfs"
    assert families.find_family(str(make(tmp_path / "x"))).name == "foo"


def test_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"module 'nothing': no such folder.*poolfs"):
        families.find_family("nothing")


def test_folder_without_kbuild(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no Kbuild file in it"):
        families.find_family(str(tmp_path))


def test_kbuild_without_a_module(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no obj-m"):
        families.find_family(str(make(tmp_path / "x", kbuild="# nothing\n")))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("name: [", "not YAML"),
        ("nme: foo", r"module\.yaml: name: Field required"),
        ("{name: foo, colour: red}", r"colour: Extra inputs"),
        ("{name: foo, variants: {bad: {mistakes: x}}}", r"variants\.bad\.mistakes: Extra inputs"),
        ("- a", "document"),
        ("{name: foo, build: [../x]}", r"build\.0: .*not a folder below this one"),
        ("{name: foo, build: [/etc]}", r"build\.0: .*not a folder below this one"),
        ("{name: foo, make: ['SHELL=/bin/x']}", r"make\.0: String should match pattern"),
    ],
)
def test_malformed_data_file(tmp_path: Path, data: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        families.find_family(str(make(tmp_path / "x", data=data)))


def test_unknown_variant_lists_the_known_ones() -> None:
    family = families.find_family("poolfs")
    with pytest.raises(UsageError, match=r"variant 'nothing' of poolfs: unknown; known: good, "):
        families.find_variant(family, "nothing")


FAMILIES = families.all_families()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_bad_variant_says_what_it_is_caught_by(family: families.Family) -> None:
    assert families.GOOD in family.variants
    for name, variant in family.variants.items():
        if name == families.GOOD:
            assert not variant.expect
            continue
        assert variant.mistake, name
        assert variant.detector, name
        assert variant.expect, name
        for pattern in variant.expect:
            re.compile(pattern)
            assert re.fullmatch(pattern, "") is None, f"{name}: a promise that anything keeps"
            assert re.fullmatch(pattern, "WARNING in something else") is None, name


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_family_offers_what_its_scenarios_need(family: families.Family) -> None:
    assert family.scenarios
    for name in family.scenarios:
        plan = scenario.load_scenario(scenario.find_scenario(name))
        assert set(plan.surfaces) <= family.offers


def kbuild_mistakes(family: families.Family) -> list[str]:
    text = (family.folder / "Kbuild").read_text().replace("\\\n", " ")
    found = re.search(r"^mistakes := (.*)$", text, re.MULTILINE)
    assert found, f"{family.name}: its Kbuild file sets no mistakes"
    return found[1].split()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_kbuild_and_data_file_name_the_same_variants(family: families.Family) -> None:
    assert [families.GOOD, *kbuild_mistakes(family)] == list(family.variants)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_mistake_stands_in_the_source_under_its_name(family: families.Family) -> None:
    folders = (family.folder, family.folder.parent / "include")
    text = "\n".join(path.read_text() for folder in folders for path in folder.glob("*.[ch]"))
    used = set(re.findall(r"\bMISTAKE\((\w+)\)", text))
    for name in family.variants.keys() - {families.GOOD}:
        assert name.replace("-", "_") in used, name
        assert f"Mistake {name}:" in text, name
