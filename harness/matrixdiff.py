# SPDX-License-Identifier: GPL-2.0-only
"""Two documents of a matrix: which bugs are new, which are gone, which are still there.

A bug is its title and its module. Nothing is called gone, nor new, where the other run
did not look: that is said instead.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from harness.matrixdoc import Bug, Document


class Change(enum.StrEnum):
    """What became of a bug since the previous run."""

    NEW = "new"
    GONE = "gone"
    STILL = "still there"
    #: Not seen in one of the runs, which did not run what shows it in the other.
    UNKNOWN = "not compared"


_ORDER = (Change.NEW, Change.GONE, Change.UNKNOWN, Change.STILL)


class Place(NamedTuple):
    """Where trials are run."""

    module: str
    variant: str
    kernel: str
    profile: str
    lane: str

    def __str__(self) -> str:
        return f"{self.module} {self.variant} on {self.kernel}-{self.profile} {self.lane}"


@dataclass(frozen=True, slots=True)
class Compared:
    """A bug of one of two documents, or of both."""

    title: str
    module: str
    change: Change
    before: Bug | None
    now: Bug | None
    #: Where one run saw it and the other ran nothing to its end.
    not_run: tuple[Place, ...] = ()
    #: Where one saw it and the other did not: trials of the other.
    looked: int = 0
    #: One of the runs saw the title only beside another one, which is the bug there.
    beside: bool = False


def key(bug: Bug) -> tuple[str, str]:
    """Return what makes two bugs the same."""
    return bug.module, bug.title


def compare(previous: Document, now: Document) -> tuple[Compared, ...]:
    """Return all bugs of both: what changed first, then by module and title."""
    old, new = ({key(bug): bug for bug in one.bugs} for one in (previous, now))
    ran_before, ran_now = _ran(previous), _ran(now)
    seen_before, seen_now = _seen(previous), _seen(now)
    found = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if name in seen_before and name in seen_now:
            beside = before is None or after is None
            found.append(Compared(name[1], name[0], Change.STILL, before, after, beside=beside))
        elif after is not None:
            found.append(_one_sided(after, None, Change.NEW, seen_now[name], ran_before))
        elif before is not None:
            found.append(_one_sided(None, before, Change.GONE, seen_before[name], ran_now))
    return tuple(sorted(found, key=lambda one: _ORDER.index(one.change)))


def _one_sided(
    now: Bug | None, before: Bug | None, change: Change, seen: set[Place], ran: dict[Place, int]
) -> Compared:
    bug = now or before
    assert bug is not None
    not_run = tuple(sorted(seen - ran.keys()))
    looked = sum(ran.get(place, 0) for place in seen)
    # One place that both ran tells that a bug is new. It is gone only when none is left to look at.
    told = looked > 0 and (change is Change.NEW or not not_run)
    return Compared(
        bug.title, bug.module, change if told else Change.UNKNOWN, before, now, not_run, looked
    )


def _ran(document: Document) -> dict[Place, int]:
    """Return the trials of each place whose cells were all run to their end."""
    trials: dict[Place, int] = {}
    unfinished = set()
    for cell in document.cells:
        place = Place(cell.module, cell.variant, cell.kernel, cell.profile, cell.lane)
        if cell.state == "done" and cell.trials:
            trials[place] = trials.get(place, 0) + cell.trials
        else:
            unfinished.add(place)
    return {place: count for place, count in trials.items() if place not in unfinished}


def _seen(document: Document) -> dict[tuple[str, str], set[Place]]:
    """Return where each bug was seen: by its trials, else, where none are kept, by its counts."""
    seen: dict[tuple[str, str], set[Place]] = {key(bug): set() for bug in document.bugs}
    for trial in document.trials:
        place = Place(trial.module, trial.variant, trial.kernel, trial.profile, trial.lane)
        for finding in trial.findings:
            seen.setdefault((trial.module, finding.title), set()).add(place)
    for bug in document.bugs:
        seen[key(bug)] = seen[key(bug)] or {
            Place(bug.module, variant, count.kernel, count.profile, count.lane)
            for variant in bug.variants
            for count in bug.kernels
            if count.hits
        }
    return seen


def tally(compared: Iterable[Compared]) -> dict[Change, int]:
    """Return how many there are of each change."""
    counts = dict.fromkeys(Change, 0)
    for one in compared:
        counts[one.change] += 1
    return counts
