# SPDX-License-Identifier: GPL-2.0-only
"""Estimates: from the same cell, else from the nearest, else from a boot."""

import json
from pathlib import Path

import pytest

from harness import matrixtimes, store
from harness.machine import Lane
from harness.matrixplan import Cell
from harness.matrixtimes import Times


def cell(module: str = "m", variant: str = "v", kernel: str = "6.1", lane: Lane = Lane.DET) -> Cell:
    return Cell(module, module, variant, kernel, "kasan", lane, ("a",), range(8))


KNOWN = {
    "m/v@6.1-kasan-det": Times(1.0, 10.0),
    "m/w@6.1-kasan-det": Times(3.0, 20.0),
    "n/v@6.1-kasan-det": Times(8.0, 30.0),
    "m/v@6.1-kasan-smp": Times(100.0, 1.0),
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
    found = matrixtimes.estimate([(one, 6)], KNOWN, boot_s=None, kernels_s=0, workers=2)
    assert (found.trials, found.trials_s, found.setup_s) == (6, 3 * trial_s, setup_s)
    assert (found.measured, found.guessed) == ((1, 0) if one.id in KNOWN else (0, 1))


def test_boot_says_how_fast_a_machine_is() -> None:
    def seconds(boot_s: float | None) -> float:
        found = matrixtimes.estimate([(cell(), 6)], {}, boot_s=boot_s, kernels_s=7, workers=2)
        return found.seconds - 7

    assert seconds(20) == pytest.approx(2 * seconds(10))
    assert seconds(None) > 0


def test_one_trial_keeps_one_worker_busy() -> None:
    found = matrixtimes.estimate([(cell(), 1)], KNOWN, boot_s=None, kernels_s=0, workers=8)
    assert found.trials_s == 1.0


def test_what_a_cell_took_is_remembered(tmp_path: Path) -> None:
    cache = store.Store.open(tmp_path)
    assert matrixtimes.load(cache) == {}
    records = [{"wall_s": 2.0}, {"wall_s": 4.0}]
    matrixtimes.learn(cache, cell(), records, seconds=10.0, workers=2)
    matrixtimes.learn(cache, cell(variant="w"), records, seconds=1.0, workers=1)
    matrixtimes.learn(cache, cell(variant="none"), [], seconds=1.0, workers=1)
    assert matrixtimes.load(cache) == {
        "m/v@6.1-kasan-det": Times(3.0, 7.0), "m/w@6.1-kasan-det": Times(3.0, 0.0)
    }  # fmt: skip
    matrixtimes.learn(cache, cell(), records[:1], seconds=2.5, workers=2)
    assert matrixtimes.load(cache)["m/v@6.1-kasan-det"] == Times(2.0, 0.5)


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
