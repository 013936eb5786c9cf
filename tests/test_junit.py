# SPDX-License-Identifier: GPL-2.0-only
"""JUnit XML: each cell is a case, and other people's readers count the same."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import junitparser
import pytest

from harness import junit, matrixdoc
from harness.matrixdoc import Cell, Document, Finding, Machine, MadeKernel, Trial

HOSTILE = "]]></failure><x a=\"'&\x00\x1b\ud7ff\u202e\ufffe"


def cell(variant: str, **fields: Any) -> Cell:
    known = {
        "id": f"id-{variant}", "module": "m", "variant": variant, "kernel": "6.1",
        "profile": "kasan", "lane": "det", "scenarios": ("s", "t"), "trials": 10, "findings": 0,
        "caught_after": None, "title": None, "promised": (), "agrees": True, "wall_s": 1.5,
        "state": "done", "why": None, "bundle": None,
    }  # fmt: skip
    return Cell(**{**known, **fields})


CELLS = [
    cell("good"),
    cell("caught", findings=3, caught_after=2, title="BUG in f", promised=("BUG in f",),
         bundle="runs/caught"),
    cell("missed", promised=("BUG in g",), agrees=False),
    cell("other", findings=1, title="BUG in f", promised=("BUG in g",), agrees=False,
         why="none of it was promised"),
    cell("broken", state="error", trials=0, agrees=None, why="QEMU died"),
    cell("left", state="skipped", trials=0, agrees=None, why="no such profile"),
    cell("later", state="not-run", trials=0, agrees=None),
    cell("vague", agrees=None, why="too few trials"),
    cell("good", id="2", lane="smp", wall_s=float("inf")),
]  # fmt: skip


def document(cells: list[Cell], began: str = "2026-01-01T01:00:00+01:00") -> Document:
    trials = [
        Trial(module="m", variant="other", kernel="6.1", profile="kasan", lane="det", scenario="s",
              seed=1, verdict="fail", findings=(Finding(kind="splat", title="BUG in f"),),
              bundle=None, wall_s=1.0, cell="id-other")
    ]  # fmt: skip
    return matrixdoc.make(
        file="matrix.yaml", began=began, ended=began,
        machine=Machine(processors=2, accelerators=("tcg",)),
        kernels=[MadeKernel(name="6.1", profile="kasan", release="6.1.9-kasan", version="6.1.9-1",
                            compiler="gcc 12")],
        cells=cells, trials=trials,
    )  # fmt: skip


def cases(xml: str) -> dict[str, ElementTree.Element]:
    return {
        case.attrib["classname"] + " " + case.attrib["name"]: case
        for case in ElementTree.fromstring(xml).iter("testcase")
    }


def test_a_cell_is_a_case_with_its_outcome() -> None:
    found = cases(junit.to_xml(document(CELLS)))
    outcomes = {name: [(each.tag, each.get("type"), each.get("message")) for each in case]
                for name, case in found.items()}  # fmt: skip
    assert outcomes == {
        "m.6.1-kasan-det good[id-good]": [],
        "m.6.1-kasan-det caught[id-caught]": [("system-out", None, None)],
        "m.6.1-kasan-det missed[id-missed]": [
            ("failure", "not-caught", "not caught in 10 trials")
        ],
        "m.6.1-kasan-det other[id-other]": [("failure", "splat", "BUG in f")],
        "m.6.1-kasan-det broken[id-broken]": [("error", "harness", "QEMU died")],
        "m.6.1-kasan-det left[id-left]": [("skipped", None, "skipped: no such profile")],
        "m.6.1-kasan-det later[id-later]": [("skipped", None, "not-run: no reason given")],
        "m.6.1-kasan-det vague[id-vague]": [
            ("skipped", None, "cannot be told: too few trials")
        ],
        "m.6.1-kasan-smp good[2]": [],
    }  # fmt: skip
    caught = found["m.6.1-kasan-det caught[id-caught]"][0].text or ""
    assert "promised: BUG in f\n" in caught
    assert caught.endswith("bundle: runs/caught\nreplay: harness replay runs/caught")
    other = found["m.6.1-kasan-det other[id-other]"][0].text or ""
    assert "seen: BUG in f\npromised: BUG in g\nwhy: none of it was promised" in other


def test_counts_are_those_of_the_cases() -> None:
    root = ElementTree.fromstring(junit.to_xml(document(CELLS)))
    for element in (root, *root):
        count = {tag: len(list(element.iter(tag))) for tag in ("testcase", "failure", "error",
                                                              "skipped")}  # fmt: skip
        told = {name: int(element.attrib[name]) for name in ("tests", "failures", "errors",
                                                            "skipped")}  # fmt: skip
        assert tuple(told.values()) == tuple(count.values())
    assert [suite.get("name") for suite in root] == ["m 6.1-kasan det", "m 6.1-kasan smp"]


def test_structure_is_what_the_schemas_agree_on() -> None:
    """Jenkins' xUnit schema: names, attributes, order of children, formats of numbers."""
    root = ElementTree.fromstring(junit.to_xml(document(CELLS)))
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite"
        assert set(suite.attrib) == {"name", "tests", "failures", "errors", "skipped", "time",
                                     "timestamp"}  # fmt: skip
        assert suite.attrib["timestamp"] == "2026-01-01T00:00:00"
        assert suite[0].tag == "properties"
        assert {child.tag for child in list(suite)[1:]} == {"testcase"}
        for case in suite.iter("testcase"):
            assert set(case.attrib) == {"classname", "name", "time"}
            assert case.attrib["time"].replace(".", "").isdigit()
            assert len(case) <= 1


def test_another_reader_counts_the_same(tmp_path: Path) -> None:
    file = tmp_path / "out.xml"
    file.write_text(junit.to_xml(document(CELLS)))
    read = junitparser.JUnitXml.fromfile(str(file))
    suites = list(read)
    assert [(suite.tests, suite.failures, suite.errors, suite.skipped) for suite in suites] == [
        (8, 2, 1, 3), (1, 0, 0, 0)
    ]  # fmt: skip
    by_name = {case.name: case.result for suite in suites for case in suite}
    assert isinstance(by_name["missed[id-missed]"][0], junitparser.Failure)
    assert isinstance(by_name["broken[id-broken]"][0], junitparser.Error)
    assert isinstance(by_name["left[id-left]"][0], junitparser.Skipped)
    assert by_name["good[id-good]"] == []
    properties = {each.name: each.value for each in suites[0].properties()}
    assert properties["kernel release"] == "6.1.9-kasan"


def test_a_stranger_cannot_leave_his_element() -> None:
    bad = cell(HOSTILE, id=HOSTILE, module=HOSTILE, title=HOSTILE, why=HOSTILE, bundle=HOSTILE,
               promised=(HOSTILE,), scenarios=(HOSTILE,), agrees=False)  # fmt: skip
    root = ElementTree.fromstring(junit.to_xml(document([*CELLS, bad])))
    *_, case = root.iter("testcase")
    assert [child.tag for child in case] == ["failure"]
    message = case[0].get("message") or ""
    assert message.startswith("]]></failure><x a=\"'&\\x00\\x1b")
    assert message.endswith("\\u202e\\ufffe")


@pytest.mark.parametrize("began", ["", "yesterday", "9999-99-99T00:00:00"])
def test_a_time_that_is_none_is_left_out(began: str) -> None:
    root = ElementTree.fromstring(junit.to_xml(document(CELLS, began=began)))
    assert all("timestamp" not in suite.attrib for suite in root)
