# SPDX-License-Identifier: GPL-2.0-only
"""New, gone, still there: and nothing of it where the other run did not look."""

from typing import Any

from harness import matrixdiff, matrixdoc
from harness.matrixdiff import Change, Compared, Place
from harness.matrixdoc import Cell, Document, Finding, Machine, Trial


def cell(kernel: str, variant: str = "bad", **fields: Any) -> Cell:
    known = {
        "id": f"{kernel}/{variant}", "module": "m", "variant": variant, "kernel": kernel,
        "profile": "kasan", "lane": "det", "scenarios": ("s",), "trials": 10, "findings": 0,
        "caught_after": None, "title": None, "promised": (), "agrees": None, "wall_s": 1.0,
        "state": "done", "why": None, "bundle": None,
    }  # fmt: skip
    return Cell(**{**known, **fields})


def document(cells: list[Cell], *seen: tuple[str, str, str]) -> Document:
    """One trial with a finding for each kernel, variant and title."""
    trials = [
        Trial(
            module="m", variant=variant, kernel=kernel, profile="kasan", lane="det", scenario="s",
            seed=number, verdict="fail", findings=(Finding(kind="splat", title=title),),
            bundle=None, wall_s=1.0, cell=f"{kernel}/{variant}",
        )
        for number, (kernel, variant, title) in enumerate(seen)
    ]  # fmt: skip
    return matrixdoc.make(
        file="f", began="2026-01-01T00:00:00+00:00", ended="2026-01-01T01:00:00+00:00",
        machine=Machine(processors=1, accelerators=()), kernels=[], cells=cells, trials=trials,
    )  # fmt: skip


def only(previous: Document, now: Document) -> Compared:
    (found,) = matrixdiff.compare(previous, now)
    return found


BAD = Place("m", "bad", "6.1", "kasan", "det")


def test_still_there() -> None:
    one = document([cell("6.1")], ("6.1", "bad", "x"))
    found = only(one, one)
    assert (found.change, found.title, found.module) == (Change.STILL, "x", "m")
    assert found.before == found.now == one.bugs[0]


def test_new_and_gone_where_both_looked() -> None:
    with_it = document([cell("6.1", trials=7)], ("6.1", "bad", "x"))
    without = document([cell("6.1", trials=30)])
    found = only(without, with_it)
    assert (found.change, found.looked, found.not_run) == (Change.NEW, 30, ())
    found = only(with_it, without)
    assert (found.change, found.looked, found.not_run) == (Change.GONE, 30, ())


def test_not_compared_where_the_other_run_did_not_look() -> None:
    with_it = document([cell("6.1")], ("6.1", "bad", "x"))
    for other in (
        document([]),
        document([cell("6.1", "good")]),
        document([cell("6.12")]),
        document([cell("6.1", state="not-run", trials=0, why="another shard's")]),
        document([cell("6.1", state="error", trials=3, why="QEMU died")]),
        document([cell("6.1"), cell("6.1", id="2", state="error", trials=3)]),
    ):
        assert only(other, with_it).change is Change.UNKNOWN
        found = only(with_it, other)
        assert (found.change, found.not_run, found.looked) == (Change.UNKNOWN, (BAD,), 0)


def test_gone_needs_every_place_that_saw_it_and_new_needs_one() -> None:
    seen = (("6.1", "bad", "x"), ("6.12", "bad", "x"))
    with_it = document([cell("6.1"), cell("6.12")], *seen)
    half = document([cell("6.12", trials=4)])
    gone = only(with_it, half)
    assert (gone.change, gone.not_run, gone.looked) == (Change.UNKNOWN, (BAD,), 4)
    new = only(half, with_it)
    assert (new.change, new.not_run, new.looked) == (Change.NEW, (BAD,), 4)


def test_places_without_the_bug_do_not_matter() -> None:
    with_it = document([cell("6.1"), cell("6.12")], ("6.12", "bad", "x"))
    assert only(with_it, document([cell("6.12")])).change is Change.GONE


def test_same_title_in_another_module_is_another_bug() -> None:
    one = document([cell("6.1")], ("6.1", "bad", "x"))
    moved = one.model_dump(by_alias=True)
    for part in (*moved["cells"], *moved["bugs"], *moved["trials"]):
        part["module"] = "other"
    found = matrixdiff.compare(one, Document.model_validate(moved))
    assert [(each.module, each.change) for each in found] == [
        ("m", Change.UNKNOWN), ("other", Change.UNKNOWN)
    ]  # fmt: skip


def test_a_title_that_is_now_seen_only_beside_another_is_not_gone() -> None:
    alone = document([cell("6.1")], ("6.1", "bad", "x"))
    both = document([cell("6.1", promised=("y",))], ("6.1", "bad", "x"))
    both_trial = both.trials[0].model_copy(
        update={"findings": tuple(Finding(kind="splat", title=title) for title in "xy")}
    )
    both = matrixdoc.make(
        file="f", began=both.began, ended=both.ended, machine=both.machine, kernels=[],
        cells=both.cells, trials=[both_trial],
    )  # fmt: skip
    assert [(bug.title, bug.also) for bug in both.bugs] == [("y", ("x",))]
    for previous, now in ((alone, both), (both, alone)):
        found = {one.title: one for one in matrixdiff.compare(previous, now)}
        assert (found["x"].change, found["x"].beside) == (Change.STILL, True)
    assert {one.title: one.change for one in matrixdiff.compare(alone, both)} == {
        "x": Change.STILL, "y": Change.NEW
    }  # fmt: skip


def test_counts_stand_in_where_no_trials_were_kept() -> None:
    one = document([cell("6.1")], ("6.1", "bad", "x")).model_copy(update={"trials": ()})
    assert only(one, document([])).not_run == (BAD,)


def test_what_changed_comes_first() -> None:
    old = document([cell("6.1")], ("6.1", "bad", "a"), ("6.1", "bad", "z"))
    now = document([cell("6.1")], ("6.1", "bad", "a"), ("6.1", "bad", "n"))
    found = matrixdiff.compare(old, now)
    assert [(one.title, one.change) for one in found] == [
        ("n", Change.NEW), ("z", Change.GONE), ("a", Change.STILL)
    ]  # fmt: skip
    assert matrixdiff.tally(found) == {
        Change.NEW: 1, Change.GONE: 1, Change.STILL: 1, Change.UNKNOWN: 0
    }  # fmt: skip
