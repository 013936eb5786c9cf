# SPDX-License-Identifier: GPL-2.0-only
"""How long a matrix will take, from how long its cells took before.

What was measured is kept in the cache. A cell that was never run is taken to
be like the nearest one that was: the same variant on another kernel, another
variant of the module, another module in that lane; then as long as this
machine takes to boot a kernel says.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness import store
from harness.matrixplan import Cell

_FILE: Final = "matrix-times.json"

#: A trial, one that looks for leaks, and what comes before a cell's trials, as parts of
#: booting a kernel on the same machine.
_TRIAL_BOOTS: Final = 0.4
_LEAKS_BOOTS: Final = 5.0
_SETUP_BOOTS: Final = 1.5

#: The seed with which leaks are looked for (see :meth:`harness.lab.Lab.trial`).
LEAKS_SEED: Final = 0

#: Booting, on a machine of which nothing is known, seconds.
_BOOT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Times:
    """What is known of some cells."""

    #: Host time of one trial, seconds; of most, and of the one that looks for leaks.
    trial_s: float
    leaks_s: float
    #: Time before and between its trials: compiling, templates.
    setup_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """What is left to do of a cell."""

    cell: Cell
    trials: int
    #: One of them looks for leaks.
    leaks: bool = False

    def seconds(self, times: Times, workers: int) -> float:
        """Return how long its trials take, side by side."""
        each = [times.leaks_s] * self.leaks + [times.trial_s] * (self.trials - self.leaks)
        return _side_by_side(each, workers)


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a run will take, seconds."""

    trials: int
    trials_s: float
    setup_s: float
    kernels_s: float
    #: How many cells' times are known, and how many were guessed from others or from a boot.
    measured: int
    guessed: int

    @property
    def seconds(self) -> float:
        return self.trials_s + self.setup_s + self.kernels_s


def load(cache: store.Store) -> dict[str, Times]:
    """Return what was measured on this machine; nothing when it cannot be read."""
    try:
        content = json.loads((cache.root / _FILE).read_bytes())
        return {
            str(id): Times(*(float(one[name]) for name in ("trial_s", "leaks_s", "setup_s")))
            for id, one in content.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def learn(
    cache: store.Store,
    cell: Cell,
    records: Sequence[Mapping[str, Any]],
    seconds: float,
    workers: int,
) -> None:
    """Keep how long a cell took; the newest time counts.

    Raises:
        StorageError: the disk is full.
    """
    known = load(cache)
    walls = {int(record["seed"]): float(record["wall_s"]) for record in records}
    leaks = walls.get(LEAKS_SEED)
    others = [wall for seed, wall in walls.items() if seed != LEAKS_SEED]
    before = known.get(cell.id)
    if others or before is not None:
        trial_s = statistics.fmean(others) if others else before.trial_s if before else 0.0
        known[cell.id] = Times(
            trial_s,
            leaks if leaks is not None else before.leaks_s if before else trial_s,
            max(0.0, seconds - _side_by_side(list(walls.values()), workers)),
        )
    content = {
        id: {name: round(getattr(one, name), 3) for name in ("trial_s", "leaks_s", "setup_s")}
        for id, one in known.items()
    }
    with store.storage_errors(cache.root):
        store.write_atomically(cache.root / _FILE, json.dumps(content, indent=1).encode())


def _side_by_side(each: Sequence[float], workers: int) -> float:
    """Return how long some trials take together: none is shared between workers."""
    return max([sum(each) / workers, *each])


def boot_s(cache: store.Store) -> float | None:
    """Return how long this machine takes to boot a kernel, from the saved guests."""
    found = []
    for path in (cache.root / "template").glob("[!.]*/template.json"):
        try:
            found.append(float(json.loads(path.read_bytes())["boot_s"]))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return statistics.median(found) if found else None


def estimate(
    works: Iterable[Work],
    known: Mapping[str, Times],
    *,
    boot_s: float | None,
    kernels_s: float,
    workers: int,
) -> Estimate:
    """Return how long some cells will take.

    Args:
        kernels_s: time for kernels that have to be built first.
    """
    near = _Near(known)
    boot = _BOOT_S if boot_s is None else boot_s
    fallback = Times(_TRIAL_BOOTS * boot, _LEAKS_BOOTS * boot, _SETUP_BOOTS * boot)
    total = measured = guessed = 0
    trials_s = setup_s = 0.0
    for work in works:
        times = known.get(work.cell.id)
        measured += times is not None
        guessed += times is None
        times = times or near.find(work.cell) or fallback
        total += work.trials
        trials_s += work.seconds(times, workers)
        setup_s += times.setup_s
    return Estimate(total, trials_s, setup_s, kernels_s, measured, guessed)


class _Near:
    """Means over cells that have something in common."""

    def __init__(self, known: Mapping[str, Times]) -> None:
        groups: dict[tuple[str, ...], list[Times]] = defaultdict(list)
        for id, times in known.items():
            subject, _, place = id.rpartition("@")
            module, lane = subject.partition("/")[0], place.rpartition("-")[2]
            for group in ((subject, lane), (module, lane), (lane,)):
                groups[group].append(times)
        self._means = {
            group: Times(
                statistics.fmean(one.trial_s for one in them),
                statistics.fmean(one.leaks_s for one in them),
                statistics.fmean(one.setup_s for one in them),
            )
            for group, them in groups.items()
        }

    def find(self, cell: Cell) -> Times | None:
        lane = cell.lane.value
        groups = ((f"{cell.module}/{cell.variant}", lane), (cell.module, lane), (lane,))
        return next((self._means[group] for group in groups if group in self._means), None)
