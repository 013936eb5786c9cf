# SPDX-License-Identifier: GPL-2.0-only
"""The page: everything is on it, nothing of it is a stranger's markup, and anybody can read it."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness import cli, findingview, htmlreport, matrixdoc
from harness.findingview import Excerpt, FindingView
from harness.matrixdoc import Bug, Cell, Document, Finding, Machine, MadeKernel, Trial
from harness.timeline import Bar, Mark, Row, Step, Timeline

HOSTILE = "</title></script><script>alert(1)</script><img src=x onerror='a'>\"'&\x1b\u202e"

_VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes and their text; refuses what does not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._said: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open
        self.text = "".join(self._said)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, (tag, self.getpos())
        if tag in ("td", "th", "li", "dt", "dd"):
            self._said.append(" ")

    def handle_data(self, data: str) -> None:
        self._said.append(data)

    def all(self, *tags: str) -> Iterator[dict[str, str | None]]:
        return (attrs for tag, attrs in self.elements if tag in tags)


def cell(variant: str = "bad", kernel: str = "6.1", **fields: Any) -> Cell:
    known = {
        "id": f"{kernel}/{variant}", "module": "m", "variant": variant, "kernel": kernel,
        "profile": "kasan", "lane": "det", "scenarios": ("s",), "trials": 10, "findings": 0,
        "caught_after": None, "title": None, "promised": (), "agrees": True, "wall_s": 1.0,
        "state": "done", "why": None, "bundle": None,
    }  # fmt: skip
    return Cell(**{**known, **fields})


def document(cells: list[Cell], titles: list[str], **fields: Any) -> Document:
    trials = [
        Trial(module="m", variant="bad", kernel="6.1", profile="kasan", lane="det", scenario="s",
              seed=number, verdict="fail", findings=(Finding(kind="splat", title=title),),
              bundle=f"runs/{number}", wall_s=1.0, cell="6.1/bad")
        for number, title in enumerate(titles)
    ]  # fmt: skip
    known = {
        "file": "matrix.yaml", "began": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T01:00:00+00:00",
        "machine": Machine(processors=2, accelerators=("tcg",)),
        "kernels": [MadeKernel(name="6.1", profile="kasan", release="6.1.9", version="6.1.9-1",
                               compiler="gcc 12"),
                    MadeKernel(name="6.12", profile="kasan", release="6.12.9", version="v",
                               compiler="gcc 12")],
    }  # fmt: skip
    return matrixdoc.make(**{**known, **fields}, cells=cells, trials=trials)


def no_view(bug: Bug) -> FindingView:
    return FindingView("", None, None, ("No bundle was kept.",))


def full_view(text: str) -> FindingView:
    return FindingView(
        decoded=f"report of {text}",
        excerpt=Excerpt("m/a.c", 7, text, ((6, "int x;"), (7, text))),
        timeline=Timeline(
            1_000_000, 1_100_000,
            (Row(text, "actor", (Bar(1_000_000, None, text, "run"),
                                 Bar(1_010_000, 1_020_000, text, "hold")),
                 (Mark(1_050_000, text, finding=True),)),
             Row("m", "module", (), (Mark(990_000, "first load"),))),
            (Step(text, "actors[0].do[0]", text, "ok ×1"),), (text,), summed=True,
        ),
        lacks=(text,),
    )  # fmt: skip


CELLS = [
    cell("good"),
    cell("bad", findings=2, title="BUG in f", promised=("BUG in f",), caught_after=3),
    cell("missed", promised=("x",), agrees=False),
    cell("broken", state="error", trials=0, agrees=None, why="QEMU died"),
    cell("left", state="skipped", trials=0, agrees=None, why="no such profile"),
    cell("later", kernel="6.12", state="not-run", trials=0, agrees=None, why="another shard's"),
    cell("vague", kernel="6.12", agrees=None),
]


def check(text: str) -> Page:
    """What holds for every page."""
    page = Page(text)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((attrs.get(name) or "").split()) <= set(ids)
        assert not any(name.startswith("on") for name in attrs)
    for attrs in page.all("a"):
        assert (attrs["href"] or "").removeprefix("#") in ids
    # Nothing from elsewhere, nothing that runs.
    assert [attrs["href"] for attrs in page.all("link")] == ["data:,"]
    assert not list(page.all("script", "iframe", "object", "img", "base", "form"))
    assert not re.search(r"url\(|@import|//", re.search(r"<style>(.*?)</style>", text, re.S)[1])
    assert all(attrs.get("scope") for attrs in page.all("th"))
    assert all("tabindex" in attrs for attrs in page.all("pre"))
    for attrs in page.all("svg"):
        assert attrs["role"] == "img"
        assert attrs["aria-labelledby"]
    assert [tag for tag, _ in page.elements if tag in ("header", "nav", "main", "footer")] == [
        "header", "nav", "main", "footer"
    ]  # fmt: skip
    assert [tag for tag, _ in page.elements].count("h1") == 1
    return page


def test_everything_is_on_the_page() -> None:
    text = htmlreport.page(document(CELLS, ["BUG in f", "WARNING in g"]),
                           lambda bug: full_view(bug.title))  # fmt: skip
    page = check(text)
    for said in ("2 findings", "2 cells as promised", "1 cell not as promised", "1 cell in error",
                 "1 cell cannot be told", "2 cells skipped or not run", "QEMU died", "2/10",
                 "found as promised: BUG in f; first in trial 3", "not caught", "no such profile",
                 "1 of 10 trials; rate 0.25 % to 45 % (95 %, Clopper-Pearson)", "runs/0",
                 "harness replay runs/0", "report of WARNING in g", "m/a.c:7", "gcc 12",
                 "BUG in f, from 0.0 ms on", "BUG in f, 10.0 ms to 20.0 ms",
                 "BUG in f, at 50.0 ms", "2 processors", "7 cells", "2 trials",
                 "first load, at -10.0 ms"):  # fmt: skip
        assert said in re.sub(r"\s+", " ", page.text), said
    assert "Since the previous run" not in page.text


def test_a_cell_leads_to_its_finding() -> None:
    text = htmlreport.page(document(CELLS, ["A in a", "BUG in f"]), no_view)
    (link,) = [attrs for attrs in check(text).all("a") if "cell" in (attrs.get("class") or "")]
    assert link["href"] == "#finding-2"
    assert link["class"] == "cell heat2"


@pytest.mark.parametrize(
    ("findings", "style"),
    [(1, "heat1"), (9, "heat1"), (10, "heat2"), (49, "heat2"), (50, "heat3"), (90, "heat4")],
)
def test_the_more_trials_the_hotter(findings: int, style: str) -> None:
    assert htmlreport.fate(cell(trials=100, findings=findings, title="x")).style == style


def test_columns_stand_in_the_order_of_releases() -> None:
    cells = [cell(kernel=kernel, id=kernel) for kernel in ("6.12", "unknown", "6.1")]
    text = htmlreport.page(document(cells, []), no_view)
    assert re.findall(r'<th scope="col">(\S+?)<br>', text) == ["6.1", "6.12", "unknown"]


def test_what_changed_since_the_previous_run() -> None:
    old = document(CELLS, ["BUG in f", "old one"])
    now = document(CELLS, ["BUG in f", "new one"])
    page = check(htmlreport.page(now, no_view, old))
    said = re.sub(r"\s+", " ", page.text)
    for line in ("1 new", "1 gone", "1 still there", "0 not compared",
                 "new m new one – 1 of 10 not in 10 trials of the previous run there",
                 "gone m old one 1 of 10 – not in 10 trials of this run there",
                 "still there m BUG in f 1 of 10 1 of 10 as before"):  # fmt: skip
        assert line in said, line
    nothing = document([], [])
    said = re.sub(r"\s+", " ", check(htmlreport.page(nothing, no_view, old)).text)
    assert "this run did not finish m bad on 6.1-kasan det" in said
    said = re.sub(r"\s+", " ", check(htmlreport.page(now, no_view, nothing)).text)
    assert "not compared m BUG in f – 1 of 10 the previous run did not finish m bad on" in said
    assert "Neither run has a finding." in check(htmlreport.page(nothing, no_view, nothing)).text


def test_a_trend_is_told_only_of_the_same_places() -> None:
    many = document([cell(trials=50)], ["x"] * 45)
    few = document([cell(trials=50)], ["x"] * 2)
    assert "more frequent than before" in htmlreport.page(many, no_view, few)
    assert "rarer than before" in htmlreport.page(few, no_view, many)
    more = document([cell(trials=50), cell(kernel="6.12", trials=500)], ["x"] * 2)
    assert "counted over other cells than before" in htmlreport.page(more, no_view, many)


def test_what_was_seen_beside_a_finding_stands_with_it() -> None:
    alone = document([cell()], ["x"])
    trial = alone.trials[0].model_copy(
        update={"findings": tuple(Finding(kind="splat", title=title) for title in "zx")}
    )
    both = matrixdoc.make(
        file="f", began=alone.began, ended=alone.ended, machine=alone.machine, kernels=[],
        cells=alone.cells, trials=[trial],
    )  # fmt: skip
    said = re.sub(r"\s+", " ", check(htmlreport.page(both, no_view, alone)).text)
    assert "Beside it x" in said
    assert "now seen only beside another finding" in said
    said = htmlreport.page(alone, no_view, both)
    assert "before seen only beside another finding" in said


def test_an_empty_matrix_has_a_page() -> None:
    page = check(htmlreport.page(document([], [], kernels=[]), no_view))
    assert "The matrix has no cells." in page.text
    assert "No trial had a finding." in page.text
    assert "No kernel was built." in page.text


def test_a_stranger_cannot_leave_his_element() -> None:
    bad = cell(HOSTILE, id=HOSTILE, module=HOSTILE, kernel=HOSTILE, profile=HOSTILE, lane=HOSTILE,
               title=HOSTILE, why=HOSTILE, bundle=HOSTILE, promised=(HOSTILE,), agrees=False,
               scenarios=(HOSTILE,))  # fmt: skip
    made = document(
        [*CELLS, bad], [HOSTILE], file=HOSTILE, began=HOSTILE, ended=HOSTILE,
        machine=Machine(processors=1, accelerators=(HOSTILE,)),
        kernels=[MadeKernel(name=HOSTILE, profile=HOSTILE, release=HOSTILE, version=HOSTILE,
                            compiler=HOSTILE)],
    )  # fmt: skip
    bugs = tuple(
        bug.model_copy(update=dict.fromkeys(("type", "module", "bundle", "replay"), HOSTILE))
        for bug in made.bugs
    )
    made = made.model_copy(update={"bugs": bugs})
    text = htmlreport.page(made, lambda bug: full_view(HOSTILE), document(CELLS, ["a"]))
    page = check(text)
    assert "alert(1)" in page.text
    assert "\\x1b\\u202e" in page.text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_five_thousand_trials_and_many_findings_make_a_small_page() -> None:
    cells = [cell(f"v{n}", kernel, id=f"{kernel}/{n}", trials=100, findings=50, title="x 1")
             for n in range(50) for kernel in ("6.1", "6.12")]  # fmt: skip
    cells.append(cell(trials=5000))
    made = document(cells, [f"x {n % 400}" for n in range(5000)])
    assert len(made.trials) == 5000
    long = FindingView("y" * 100_000, None, None, ())
    text = htmlreport.page(made, lambda bug: long)
    assert len(text.encode()) < 5_000_000
    page = check(text)
    assert "150 more" in page.text
    assert "60000 more characters" in page.text
    assert page.text.count("y" * 1000) >= htmlreport.MAX_TEXT // findingview.MAX_DECODED


def _schemes() -> dict[str, dict[str, str]]:
    css = (Path(htmlreport.__file__).parent / "templates" / "report.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
                   for part in css.split("prefers-color-scheme: dark"))  # fmt: skip
    return {"light": light, "dark": dark}


def _luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_aa(scheme: str) -> None:
    colours = _schemes()[scheme]
    pairs = [name.removesuffix("-bg") for name in colours if name.endswith("-bg")]
    assert len(pairs) == 15
    for name in pairs:
        assert _contrast(colours[f"{name}-bg"], colours[f"{name}-fg"]) >= 4.5, name
    for name in ("bar", "hold", "alarm"):
        assert _contrast(colours[name], colours["page-bg"]) >= 3.0, name


@pytest.fixture
def written(tmp_path: Path) -> Path:
    file = tmp_path / "doc.json"
    file.write_text(json.dumps(document(CELLS, ["BUG in f"]).to_json()))
    return file


def test_commands_write_what_they_are_asked_for(written: Path) -> None:
    page, xml = written.with_name("page.html"), written.with_name("out.xml")
    assert cli.main(["report", "html", str(written), "--out", str(page),
                     "--previous", str(written), "--source", str(written.parent)]) == 0  # fmt: skip
    assert "The bundle is not here: runs/0" in check(page.read_text()).text
    assert "still there" in page.read_text()
    assert cli.main(["report", "junit", str(written), "--out", str(xml)]) == 0
    assert xml.read_text().startswith('<?xml version="1.0"')


def test_standard_output_will_do(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "html", str(written), "--out", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["html", "DOC", "--out", "DOC"], "would overwrite what is read"),
        (["html", "DOC", "--out", "PAGE", "--previous", "gone.json"], "gone.json: cannot be read"),
        (["html", "DOC", "--out", "PAGE", "--source", "gone"], "gone: no such folder"),
        (["junit", "DOC", "--out", "."], "a folder, not a file to write"),
        (["junit", "DOC"], "--out"),
        (["html", "PLAIN", "--out", "PAGE"], "schema"),
    ],
)
def test_user_mistakes_are_named(
    written: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    plain = written.with_name("plain.json")
    plain.write_text("{}")
    names = {"DOC": str(written), "PLAIN": str(plain), "PAGE": str(written.with_name("p.html"))}
    before = written.read_bytes()
    assert cli.main(["report", *(names.get(word, word) for word in arguments)]) == 2
    assert why in capsys.readouterr().err
    assert written.read_bytes() == before
    assert not written.with_name("p.html").exists()
