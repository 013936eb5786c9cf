# SPDX-License-Identifier: GPL-2.0-only
"""The engine of a matrix with a runner that makes its results up: no guest."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import journal, matrixdoc, matrixrun, rates
from harness.errors import BuildError, ExitStatus, GuestError, StorageError
from harness.machine import Lane
from harness.matrixdoc import Document, MadeKernel
from harness.matrixplan import Budget, Cell, Matrix
from harness.matrixrun import CellState, Prepared, Record, Run, State

BEGAN = "2026-01-01T00:00:00+00:00"


def cell(variant: str = "good", kernel: str = "6.1", **fields: Any) -> Cell:
    known = {
        "folder": "m", "module": "m", "variant": variant, "kernel": kernel, "profile": "kasan",
        "lane": Lane.DET, "plans": ("a", "b"), "seeds": range(8),
    }  # fmt: skip
    return Cell(**{**known, **fields})


def titles(cell: Cell, seed: int) -> tuple[str, ...]:
    """What a trial shows: a function of cell and seed, as in the det lane."""
    if cell.variant == "good":
        return ()
    return ("BUG in f",) if seed % 3 == 2 and cell.kernel != "5.10" else ()


class Runner:
    """Two trials side by side, which end in an order of their own."""

    def __init__(
        self,
        shows: Callable[[Cell, int], tuple[str, ...]] = titles,
        *,
        dies_after: int | None = None,
        order: int = 0,
    ) -> None:
        self.shows = shows
        self.left = dies_after
        self.ran: list[tuple[str, int]] = []
        self.prepared: list[str] = []
        self.discarded: list[str] = []
        self.random = random.Random(order)

    def prepare(self, cell: Cell) -> Prepared:
        self.prepared.append(cell.id)
        if cell.variant == "broken":
            raise BuildError("m broken: does not compile", evidence="\n  m.c:1:1: error: no\nmore")
        made = MadeKernel(
            name=cell.kernel, profile="kasan", release=f"{cell.kernel}.9", version="1", compiler="g"
        )
        return Prepared(made, "tcg")

    def trials(self, cell: Cell, seeds: Iterator[int]) -> Iterator[Record]:
        running: list[int] = []
        stopped = False
        while True:
            while len(running) < 2 and not stopped and (seed := next(seeds, None)) is not None:
                running.append(seed)
            if not running:
                return
            seed = running.pop(self.random.randrange(len(running)))
            if cell.variant == "lost" and seed == 3:
                raise GuestError("the guest lost its console")
            if cell.variant == "full" and seed == 3:
                raise StorageError("no space left on the disk")
            found = self.shows(cell, seed)
            stopped = stopped or (cell.stops and bool(found))
            self.ran.append((cell.id, seed))
            yield {
                "module": cell.module, "variant": cell.variant, "kernel": cell.kernel,
                "profile": cell.profile, "lane": cell.lane.value,
                "scenario": cell.scenarios[seed % 2], "seed": seed,
                "verdict": "fail" if found else "pass",
                "findings": [{"kind": "splat", "title": title} for title in found],
                "bundle": f"runs/{cell.variant}-{cell.kernel}-{seed}" if found else None,
                "wall_s": 1.5,
            }  # fmt: skip
            if self.left is not None:
                self.left -= 1
                if self.left <= 0:
                    raise KeyboardInterrupt

    def discard(self, bundles: Iterable[str]) -> None:
        self.discarded += bundles


class Memory:
    """A journal that is a list."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def append(self, entry: Any) -> None:
        self.entries.append(entry)


def run(
    cells: list[Cell], runner: Runner | None = None, *, own: Iterable[str] | None = None,
    budget: Budget | None = None,
) -> tuple[Document, Memory]:  # fmt: skip
    matrix = Matrix("m.yaml", tuple(cells), budget or Budget())
    ids = frozenset(own if own is not None else (one.id for one in cells))
    memory, state = Memory(), State()
    Run(matrix, ids, state, memory, runner or Runner()).go()
    return made(matrix, ids, state), memory


def made(matrix: Matrix, own: frozenset[str], state: State) -> Document:
    return matrixrun.document(matrix, own, state, began=BEGAN, ended=BEGAN, processors=2)


BAD = cell("bad", promised=("BUG in f", "other"))


def test_each_seed_of_each_cell_is_a_trial() -> None:
    found, _ = run([cell(), BAD])
    assert [(one.id, one.trials, one.findings, one.agrees) for one in found.cells] == [
        ("m/good@6.1-kasan-det", 8, 0, True),
        ("m/bad@6.1-kasan-det", 8, 2, True),
    ]
    assert [one.seed for one in found.trials] == [*range(8), *range(8)]
    bad = found.cells[1]
    assert (bad.title, bad.caught_after, bad.bundle) == ("BUG in f", 3, "runs/bad-6.1-2")
    assert (bad.state, bad.why, bad.wall_s, bad.scenarios) == ("done", None, 12.0, ("a", "b"))
    assert [kernel.release for kernel in found.kernels] == ["6.1.9"]
    assert found.machine.accelerators == ("tcg",)
    assert found.status is ExitStatus.OK


MANY = [
    cell(), BAD, cell("bad", "5.10", promised=("BUG in f",)), cell("odd", "5.10"),
    cell("bad", "7.2", stops=True), cell("skipped", skip="why"), cell("broken"), cell("odd", "7.2"),
]  # fmt: skip


@pytest.mark.parametrize("dies_after", range(1, 45))
def test_killed_anywhere_and_gone_on_with_is_the_same_as_in_one_go(
    dies_after: int, tmp_path: Path
) -> None:
    whole, _ = run(MANY)
    matrix = Matrix("m.yaml", tuple(MANY))
    own = frozenset(one.id for one in MANY)
    path = tmp_path / "journal"
    ran: list[tuple[str, int]] = []
    for attempt in range(60):
        runner = Runner(dies_after=dies_after, order=attempt)
        with journal.open_journal(path, {"digest": "d", "began": BEGAN}, fresh=False) as opened:
            state = matrixrun.fold(opened.entries)
            try:
                Run(matrix, own, state, opened, runner).go()
                break
            except KeyboardInterrupt:
                pass
            finally:
                ran += runner.ran
        # Half a line of what was being written.
        with path.open("ab") as file:
            file.write(b'{"ev": "tri')
    assert state.ended
    assert made(matrix, own, state) == whole
    # Nothing is run twice but what was not on the disk yet: a trial that ran beside the last one.
    assert len(ran) == len(set(ran))


def test_cell_that_stops_counts_nothing_beyond_its_finding() -> None:
    for order in range(20):
        runner = Runner(order=order)
        found, _ = run([cell("bad", stops=True, promised=("BUG in f",))], runner)
        (one,) = found.cells
        assert (one.trials, one.findings, one.caught_after) == (3, 1, 3)
        assert [trial.seed for trial in found.trials] == [0, 1, 2]
        assert one.state == "done"


def test_finding_of_a_later_seed_does_not_hide_one_of_an_earlier() -> None:
    known = CellState(records={2: _record(2, "x"), 1: _record(1, "y"), 3: _record(3)})
    one = cell(stops=True)
    assert [record["seed"] for record in known.counted(one)] == [1]
    assert list(known.missing(one)) == [0]
    assert list(CellState(records={2: _record(2, "x")}).missing(cell())) == [0, 1, 3, 4, 5, 6, 7]


def _record(seed: int, *shown: str) -> Record:
    return {
        "seed": seed, "findings": [{"kind": "splat", "title": title} for title in shown],
        "bundle": f"runs/{seed}" if shown else None, "wall_s": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("promised", "shown", "whole", "agrees", "why"),
    [
        ((), [()], True, True, None),
        ((), [("x",)], True, False, None),
        ((), [("x",)], False, False, "the budget ended it after 1 of 2 trials"),
        ((), [()], False, None, "the budget ended it after 1 of 2 trials"),
        (("x",), [("x",), ()], True, True, None),
        (("x",), [("y", "x"), ()], True, True, None),
        (("x", "y+"), [("x",), ("yy",)], True, True, None),
        (("x",), [("x1",), ()], True, False, "not promised: x1 (1 of 2 trials; seeds 0)"),
        (("x",), [("x",), ("y",)], True, False, "not promised: y (1 of 2 trials; seeds 1)"),
        (("x",), [(), ()], True, False, "promised, and not found in 2 trials"),
        (("x",), [()], False, None, "the budget ended it after 1 of 2 trials"),
        (("x",), [("x",)], False, True, "the budget ended it after 1 of 2 trials"),
    ],
)
def test_what_agrees(
    promised: tuple[str, ...],
    shown: list[tuple[str, ...]],
    whole: bool,
    agrees: bool | None,
    why: str | None,
) -> None:
    known = CellState(
        records={seed: _record(seed, *found) for seed, found in enumerate(shown)},
        state="done" if whole else None,
    )
    found = matrixrun.result(cell(seeds=range(2), promised=promised), known)
    assert (found.agrees, found.why) == (agrees, why)


def test_title_is_what_is_promised_where_that_was_seen() -> None:
    known = CellState(records={0: _record(0, "y"), 1: _record(1, "z", "x")}, state="done")
    found = matrixrun.result(cell(promised=("x",)), known)
    assert (found.title, found.caught_after, found.bundle) == ("x", 2, "runs/1")
    found = matrixrun.result(cell(), known)
    assert (found.title, found.caught_after, found.bundle) == ("y", 1, "runs/0")


def test_cell_that_cannot_be_run_does_not_end_the_run() -> None:
    runner = Runner()
    found, _ = run([cell("broken"), cell("lost"), cell("skipped", skip="why not"), cell()], runner)
    assert [(one.state, one.trials > 0, one.agrees) for one in found.cells] == [
        ("error", False, None), ("error", True, None), ("skipped", False, None),
        ("done", True, True),
    ]  # fmt: skip
    assert [one.why for one in found.cells] == [
        "m broken: does not compile: m.c:1:1: error: no", "the guest lost its console",
        "why not", None,
    ]  # fmt: skip
    assert "m/skipped@6.1-kasan-det" not in runner.prepared
    assert found.status is ExitStatus.HARNESS


def test_full_disk_ends_the_run_and_nothing_of_it_is_lost() -> None:
    cells = [cell("full"), cell()]
    memory, state, runner = Memory(), State(), Runner()
    with pytest.raises(StorageError):
        Run(Matrix("m", tuple(cells)), frozenset(c.id for c in cells), state, memory, runner).go()
    assert {entry["ev"] for entry in memory.entries} == {"prepared", "trial"}
    assert runner.prepared == ["m/full@6.1-kasan-det"]


def test_bundles_that_show_nothing_new_are_removed() -> None:
    runner = Runner(
        lambda cell, seed: {1: ("x",), 3: ("y", "x"), 4: ("x",), 5: ("y",)}.get(seed, ())
    )
    found, _ = run([cell()], runner)
    assert sorted(runner.discarded) == ["runs/good-6.1-4", "runs/good-6.1-5"]
    assert [trial.bundle for trial in found.trials if trial.findings] == [
        "runs/good-6.1-1", "runs/good-6.1-3", None, None
    ]  # fmt: skip
    assert {bug.title: bug.bundle for bug in found.bugs} == {
        "x": "runs/good-6.1-1", "y": "runs/good-6.1-3"
    }  # fmt: skip


def test_budget_of_trials_is_used_cell_by_cell() -> None:
    cells = [cell(), BAD, cell("bad", "7.2")]
    found, memory = run(cells, budget=Budget(trials=11))
    assert [(one.state, one.trials) for one in found.cells] == [
        ("done", 8), ("not-run", 3), ("not-run", 0)
    ]  # fmt: skip
    assert [one.why for one in found.cells[1:]] == [
        "the budget ended it after 3 of 8 trials", "the budget ended it before its first trial"
    ]  # fmt: skip
    assert found.status is ExitStatus.OK
    assert memory.entries[-1] == {"ev": "end"}


def test_budget_of_trials_that_was_used_is_not_there_after_going_on() -> None:
    matrix = Matrix("m.yaml", (cell(), BAD), Budget(trials=11))
    own = frozenset(one.id for one in matrix.cells)
    memory, state = Memory(), State()
    with pytest.raises(KeyboardInterrupt):
        Run(matrix, own, state, memory, Runner(dies_after=9)).go()
    again = matrixrun.fold(memory.entries)
    runner = Runner()
    Run(matrix, own, again, memory, runner).go()
    assert len(runner.ran) == 2
    assert [one.trials for one in made(matrix, own, again).cells] == [8, 3]


def test_time_that_is_over_leaves_the_run_unfinished() -> None:
    matrix = Matrix("m.yaml", (cell(),), Budget(seconds=1e-9))
    memory, state, runner = Memory(), State(), Runner()
    Run(matrix, frozenset(["m/good@6.1-kasan-det"]), state, memory, runner).go()
    assert (runner.ran, memory.entries, state.ended) == ([], [], False)
    assert made(matrix, frozenset([cell().id]), state).cells[0].state == "not-run"


def test_shards_merge_into_what_one_run_gives() -> None:
    whole, _ = run(MANY)
    matrix = Matrix("m.yaml", tuple(MANY))
    shards = {f"{number}.json": run(MANY, own=matrix.shard(number, 3))[0] for number in (3, 1, 2)}
    merged = matrixdoc.merge(shards)
    assert merged.cells == whole.cells
    assert merged.bugs == whole.bugs
    assert merged.trials == whole.trials
    assert matrixdoc.missing(merged) == ()


def test_claim_holds_or_is_refuted() -> None:
    matrix = Matrix("m.yaml", (cell(), cell("bad"))).claiming(rates.parse_claim("p<5%@95%"))
    found, _ = run(list(matrix.cells))
    assert [(one.trials, one.findings, one.agrees) for one in found.cells] == [
        (59, 0, True), (3, 1, False)
    ]  # fmt: skip


def test_progress_and_times_are_told() -> None:
    told: list[Any] = []
    matrix = Matrix("m.yaml", (cell(seeds=range(2)),))
    Run(
        matrix, frozenset([cell().id]), State(), Memory(), Runner(),
        progress=lambda cell, trials: told.append(trials),
        timed=lambda cell, records, seconds: told.append((len(records), seconds >= 0)),
    ).go()  # fmt: skip
    assert told == [0, 1, 2, (2, True)]


def test_reason_is_what_the_compiler_says() -> None:
    evidence = "  CC [M]  inode.o\ninode.c:5:1: error: initialization of 'int'\n"
    error = BuildError("m good: does not compile", evidence=evidence)
    assert matrixrun.reason(error) == (
        "m good: does not compile: inode.c:5:1: error: initialization of 'int'"
    )
    assert matrixrun.reason(BuildError("m", evidence="\n  it is gone\n")) == "m: it is gone"
    assert matrixrun.reason(BuildError("m")) == "m"
