# SPDX-License-Identifier: GPL-2.0-only
"""Estimates: from the same cell, else from the nearest, else from a boot."""

import json
from pathlib import Path

import pytest

from harness import matrixtimes, store
from harness.machine import Lane
from harness.matrixplan import Cell
from harness.matrixtimes import Times, Work


def cell(module: str = "m", variant: str = "v", kernel: str = "6.1", lane: Lane = Lane.DET) -> Cell:
    return Cell(module, module, variant, kernel, "kasan", lane, ("a",), range(8))


KNOWN = {
    "m/v@6.1-kasan-det": Times(1.0, 9.0, 10.0),
    "m/w@6.1-kasan-det": Times(3.0, 9.0, 20.0),
    "n/v@6.1-kasan-det": Times(8.0, 9.0, 30.0),
    "m/v@6.1-kasan-smp": Times(100.0, 9.0, 1.0),
}


@pytest.mark.parametrize(
    ("one", "trial_s", "setup_s"),
    [
        (cell(), 1.0, 10.0),
        (cell(kernel="7.2"), 1.0, 10.0),
        (cell(variant="new"), 2.0, 15.0),
        (cell("new"), 4.0, 20.0),
        (cell("new", lane=Lane.SMP), 100.0, 1.0),
    ],
)
def test_nearest_that_is_known(one: Cell, trial_s: float, setup_s: float) -> None:
    found = matrixtimes.estimate([Work(one, 6)], KNOWN, boot_s=None, kernels_s=0, workers=2)
    assert (found.trials, found.trials_s, found.setup_s) == (6, 3 * trial_s, setup_s)
    assert (found.measured, found.guessed) == ((1, 0) if one.id in KNOWN else (0, 1))


def test_boot_says_how_fast_a_machine_is() -> None:
    def seconds(boot_s: float | None) -> float:
        found = matrixtimes.estimate([Work(cell(), 6)], {}, boot_s=boot_s, kernels_s=7, workers=2)
        return found.seconds - 7

    assert seconds(20) == pytest.approx(2 * seconds(10))
    assert seconds(None) > 0


@pytest.mark.parametrize(
    ("trials", "leaks", "workers", "seconds"),
    [(1, False, 8, 1), (6, False, 2, 3), (6, True, 2, 9), (20, True, 2, 14), (0, False, 2, 0)],
)
def test_a_trial_is_not_shared_between_workers(
    trials: int, leaks: bool, workers: int, seconds: float
) -> None:
    works = [Work(cell(), trials, leaks)]
    found = matrixtimes.estimate(works, KNOWN, boot_s=None, kernels_s=0, workers=workers)
    assert (found.trials, found.trials_s) == (trials, seconds)


def record(seed: int, wall_s: float) -> dict[str, float]:
    return {"seed": seed, "wall_s": wall_s}


def test_what_a_cell_took_is_remembered(tmp_path: Path) -> None:
    cache = store.Store.open(tmp_path)
    assert matrixtimes.load(cache) == {}
    one, id = cell(), "m/v@6.1-kasan-det"
    matrixtimes.learn(cache, one, [record(0, 20), record(1, 2), record(2, 4)], 30.0, 2)
    assert matrixtimes.load(cache) == {id: Times(3.0, 20.0, 10.0)}
    # The newest counts; of what was not run, the one before.
    matrixtimes.learn(cache, one, [record(3, 5), record(4, 5)], 6.0, 2)
    assert matrixtimes.load(cache) == {id: Times(5.0, 20.0, 1.0)}
    matrixtimes.learn(cache, one, [record(0, 9)], 9.5, 2)
    assert matrixtimes.load(cache) == {id: Times(5.0, 9.0, 0.5)}


def test_cell_of_which_too_little_was_seen_is_not_remembered(tmp_path: Path) -> None:
    cache = store.Store.open(tmp_path)
    matrixtimes.learn(cache, cell(), [], seconds=1.0, workers=1)
    matrixtimes.learn(cache, cell(), [record(0, 9)], seconds=9.0, workers=1)
    assert matrixtimes.load(cache) == {}
    matrixtimes.learn(cache, cell(), [record(7, 2)], seconds=1.0, workers=1)
    assert matrixtimes.load(cache) == {"m/v@6.1-kasan-det": Times(2.0, 2.0, 0.0)}


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"trial_s": "x"}}', '{"a": {}}'])
def test_times_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    cache = store.Store.open(tmp_path)
    (tmp_path / "matrix-times.json").write_text(text)
    assert matrixtimes.load(cache) == {}


def test_boot_time_is_that_of_the_saved_guests(tmp_path: Path) -> None:
    cache = store.Store.open(tmp_path)
    assert matrixtimes.boot_s(cache) is None
    for name, boot in (("a", 5), ("b", 7), ("c", 90), ("d", None)):
        (tmp_path / "template" / name).mkdir(parents=True)
        record = {} if boot is None else {"boot_s": boot}
        (tmp_path / "template" / name / "template.json").write_text(json.dumps(record))
    assert matrixtimes.boot_s(cache) == 7
