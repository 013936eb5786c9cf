# SPDX-License-Identifier: GPL-2.0-only
"""Since when a finding shows, with trials that are made up."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import bisect, bisectcommand
from harness.bisect import Judge, Step
from harness.errors import BuildError, ExitStatus, UsageError
from harness.trial import TrialResult
from harness.verdict import Finding, Kind
from harness.verify import Count

ALWAYS = Count(5, 5)
COMMITS = [f"c{number}" for number in range(20)]


def looks(first: int, broken: set[int]) -> tuple[Any, list[str]]:
    asked: list[str] = []

    def look(name: str) -> Step:
        asked.append(name)
        number = int(name[1:])
        if number in broken:
            return Step(name, Count(0, 0), "does not compile")
        return Step(name, Count(int(number >= first), 20))

    return look, asked


@pytest.mark.parametrize("first", range(20))
def test_first_of_many_is_found_by_halving(first: int) -> None:
    look, asked = looks(first, set())
    found, steps = bisect.first_that_shows(COMMITS, look)
    assert found == f"c{first}"
    assert [step.name for step in steps] == asked
    assert len(asked) <= 5


@pytest.mark.parametrize("first", range(2, 20))
def test_what_cannot_be_tried_is_passed_over(first: int) -> None:
    broken = {3, 4, 9, 10, 11} - {first, first - 1}
    found, _ = bisect.first_that_shows(COMMITS, looks(first, broken)[0])
    assert found == f"c{first}"


def test_nothing_is_said_where_nothing_can_be_tried() -> None:
    look, _ = looks(9, set(range(1, 19)))
    found, _ = bisect.first_that_shows(COMMITS[1:], look)
    assert found is None


def test_one_commit_is_the_one() -> None:
    look, asked = looks(0, set())
    assert bisect.first_that_shows(["c7"], look) == ("c7", [])
    assert asked == []


def test_place_is_looked_at_until_it_shows_or_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_trials(trials: Iterator[int], workers: int, *, stop: Any) -> Iterator[Any]:
        for seed in trials:
            findings = (Finding(Kind.SPLAT, "oops"),) if seed == 9 else ()
            result = cast(TrialResult, SimpleNamespace(findings=findings))
            yield seed, result
            if stop(result):
                return

    monkeypatch.setattr(bisect.lab, "run_trials", run_trials)
    judge = Judge("oops", 20, 7, 1)
    step = judge.look("6.1", lambda seed: cast(Any, seed))
    assert (step.shows, step.count) == (True, Count(1, 3))
    assert step.sentence().startswith("6.1: shows it, 1 of 3 trials (0.84 % to 91 %)")
    assert Step("6.1", Count(1, 1)).sentence().endswith("1 of 1 trials (2.5 % to 100 %)")
    step = dataclasses.replace(judge, seed=30).look("6.1", lambda seed: cast(Any, seed))
    assert (step.shows, step.count) == (False, Count(0, 20))

    def broken(seed: int) -> Any:
        raise BuildError("m: does not compile\nsecond line")

    step = judge.look("5.10", broken)
    assert step.sentence() == "5.10: not tried: m: does not compile"
    assert step.record() == {"name": "5.10", "hits": 0, "trials": 0, "why": "m: does not compile"}


@dataclasses.dataclass(frozen=True)
class Spec:
    kernel: str = "6.1"
    profile: str = "kasan"
    lane: str = "det"
    seed: int = 1


@dataclasses.dataclass(frozen=True)
class Found:
    path: Path = Path("b")
    titles: tuple[str, ...] = ("oops",)
    spec: Spec = Spec()


def command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, showing: set[str], was: Count = ALWAYS,
    **options: str,
) -> tuple[ExitStatus, dict[str, Any]]:  # fmt: skip
    def look(self: Judge, name: str, make: object) -> Step:
        assert self.trials == 20
        return Step(name, Count(int(name in showing), 20))

    @contextlib.contextmanager
    def unpacked(place: str, revision: str) -> Iterator[str]:
        yield f"{place}@{revision}"

    monkeypatch.setattr(bisectcommand.bundle, "load_bundle", lambda path: Found())
    family = SimpleNamespace(folder=tmp_path)
    monkeypatch.setattr(bisectcommand.families, "find_family", lambda name: family)
    monkeypatch.setattr(bisectcommand.families, "find_variant", lambda family, name: None)
    monkeypatch.setattr(bisectcommand.store.Store, "open", lambda: None)
    monkeypatch.setattr(bisectcommand, "Lab", lambda cache, progress: None)
    monkeypatch.setattr(bisectcommand, "replayed", lambda made, found, progress: None)
    monkeypatch.setattr(bisectcommand.verify, "measure", lambda *rest, **named: was)
    monkeypatch.setattr(bisectcommand.Judge, "look", look)
    monkeypatch.setattr(bisectcommand.revision, "unpacked", unpacked)
    monkeypatch.setattr(bisectcommand.revision, "commits", lambda *rest: ("c1", "c2", "c3", "bad"))
    monkeypatch.setattr(bisectcommand.revision, "describe", lambda path, one: f"{one} a change")
    fields = {"bundle": Path("b"), "module": "m", "variant": "good", "kernels": None, "git": None,
              "options": None, "workers": 1, "json": tmp_path / "out.json", **options}  # fmt: skip
    status = bisectcommand.run(argparse.Namespace(**fields))
    return status, json.loads((tmp_path / "out.json").read_text())


def test_each_kernel_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, said = command(monkeypatch, tmp_path, {"6.1", "7.2"}, kernels="all")
    assert status == ExitStatus.FINDINGS
    assert said["answer"] == "first kernel that shows it: 6.1; all: 6.1, 7.2"
    assert [step["name"] for step in said["steps"]] == ["5.10", "6.1", "6.12", "7.2"]
    status, said = command(monkeypatch, tmp_path, set(), kernels="6.1")
    assert (status, said["answer"]) == (ExitStatus.OK, "none of them shows it")


def test_option_that_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, said = command(monkeypatch, tmp_path, {"without B"}, options="CONFIG_A,B")
    assert said["answer"] == "needed for it to show: A"


def test_first_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, said = command(monkeypatch, tmp_path, {"c2", "c3", "bad"}, git="good..bad")
    assert said["answer"] == "first commit that shows it: c2 a change"


@pytest.mark.parametrize(
    ("showing", "options", "why"),
    [
        (set(), {}, "one of --kernels, --git and --options"),
        (set(), {"kernels": "6.1", "git": "a..b"}, "one of --kernels"),
        (set(), {"kernels": "9.9"}, "9.9"),
        (set(), {"git": "a"}, "is no range"),
        ({"good", "bad"}, {"git": "good..bad"}, "good shows it already"),
        (set(), {"git": "good..bad"}, "bad does not show it"),
    ],
)
def test_what_makes_no_sense_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, showing: set[str], options: dict[str, str],
    why: str,
) -> None:  # fmt: skip
    with pytest.raises(UsageError, match=why):
        command(monkeypatch, tmp_path, showing, **options)


def test_bundle_that_shows_nothing_any_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="shows 'oops' in 0 of 60 trials"):
        command(monkeypatch, tmp_path, set(), Count(0, 60), kernels="6.1")
