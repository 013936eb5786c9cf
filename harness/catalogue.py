# SPDX-License-Identifier: GPL-2.0-only
"""The module catalogue put to the test: which mistake is caught, after how many trials.

Each variant of a family is one stint. A bad one runs until its first finding,
and agrees when that finding carries a promised title; the correct one runs to
the end of its trials and agrees when there is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import bundle, families, lab, report
from harness.deadline import Deadline
from harness.lab import Lab
from harness.machine import Lane
from harness.report import Progress, Row
from harness.scenario import Scenario
from harness.trial import Trial, TrialResult

#: In the ``smp`` lane a variant gets so many times the trials before it counts as not caught.
_SMP_TIMES = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each kind of variant is tried."""

    #: Trials of a correct variant in the ``det`` lane.
    good_trials: int
    #: Time of a correct variant in the ``smp`` lane, seconds.
    good_seconds: float
    #: Trials after which a bad variant counts as not caught, in the ``det`` lane.
    bad_trials: int


@dataclass(frozen=True, slots=True)
class Stint:
    """One line of the table before it was run."""

    family: families.Family
    variant: str
    lane: Lane
    seeds: range
    #: Go on with further seeds for so long.
    seconds: float | None
    #: Titles that the finding may have, as regular expressions; none for a correct variant.
    expect: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stint that was run: its line, and a record of each trial."""

    row: Row
    records: tuple[dict[str, Any], ...]


def stints(family: families.Family, limits: Limits, lane: Lane) -> Iterator[Stint]:
    """Yield what a family is put through.

    Bad ones come first: a few trials each, where the correct one takes minutes. One that
    one processor cannot show is run in the lane that its data file names, whatever
    ``lane`` says.
    """
    for name, variant in sorted(family.variants.items(), key=lambda item: item[0] == families.GOOD):
        if name == families.GOOD:
            yield Stint(family, name, Lane.DET, range(limits.good_trials), None, ())
            yield Stint(family, name, Lane.SMP, range(1), limits.good_seconds, ())
        else:
            own = Lane(variant.lane)
            if own is Lane.DET:
                own = lane
            # Seed 0 looks for leaks, which takes longer than all that follow together.
            first = 0 if any("leak" in promise for promise in variant.expect) else 1
            # Without the virtual clock it takes luck.
            times = 1 if own is Lane.DET else _SMP_TIMES
            tries = range(first, first + times * limits.bad_trials)
            yield Stint(family, name, own, tries, None, variant.expect)


def run_stint(
    made: Lab,
    stint: Stint,
    *,
    kernel: str,
    profile: str,
    workers: int,
    bundles: Path,
    progress: Progress,
) -> Outcome:
    """Run a stint to its first finding or to its end.

    Args:
        bundles: folder for the bundles of findings.

    Raises:
        HarnessError: the harness, not the module, failed.
    """
    family = stint.family
    subject = made.subject(str(family.folder), stint.variant, kernel, profile, stint.lane)
    plans = lab.family_scenarios(family, stint.variant)
    records: list[dict[str, Any]] = []
    caught: tuple[int, TrialResult, Path] | None = None
    ready = trials(made, subject, plans, stint.seeds, stint.seconds)
    label = f"{family.name} {stint.variant}, {stint.lane.value} lane"
    for trial, result in lab.run_trials(
        ready, workers, stop=lambda result: bool(stint.expect and result.findings)
    ):
        path = keep(made, subject, trial, result, bundles)
        records.append(report.trial_record(result, path))
        share = None if stint.seconds else len(records) / len(stint.seeds)
        progress(f"{label} ({len(records)} trials)", share)
        if path is not None and (caught is None or trial.spec.seed < caught[0]):
            caught = (trial.spec.seed, result, path)
    records.sort(key=lambda record: int(record["seed"]))
    row = Row(
        module=family.name,
        variant=stint.variant,
        kernel=kernel,
        lane=stint.lane.value,
        trials=len(records),
        findings=sum(record["verdict"] == "fail" for record in records),
        caught_after=None if caught is None else caught[0] - stint.seeds.start + 1,
        title=None if caught is None else _shown_title(caught[1], stint.expect),
        expect=stint.expect,
        bundle=None if caught is None else caught[2],
    )
    return Outcome(row, tuple(records))


def _shown_title(result: TrialResult, expect: Sequence[str]) -> str:
    promised = report.promised_finding(result.findings, expect)
    return (promised or result.findings[0]).title


def trials(
    made: Lab,
    subject: lab.Subject,
    plans: tuple[Scenario, ...],
    seeds: range,
    seconds: float | None,
    depth: int | None = None,
    *,
    scan: bool = False,
) -> Iterator[Trial]:
    """Yield one trial a seed, and further ones until a time is over; the scenarios take turns.

    Args:
        depth: of a schedule for each trial; none by default.
        scan: look through the memory of each guest at its end.
    """
    for seed in _lasting(seeds, seconds):
        yield made.trial(subject, plans[seed % len(plans)], seed, depth, scan=scan)


def _lasting(seeds: range, seconds: float | None) -> Iterator[int]:
    yield from seeds
    if seconds is not None:
        deadline = Deadline.after(seconds)
        for seed in itertools.count(seeds.stop):
            if deadline.expired:
                return
            yield seed


def keep(
    made: Lab, subject: lab.Subject, trial: Trial, result: TrialResult, folder: Path
) -> Path | None:
    """Write the bundle of a failing trial; a passing one leaves nothing.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    if not result.findings:
        return None
    kernel = made.kernel(subject.kernel, subject.profile)
    text = lab.decoded(result, kernel)
    return bundle.write_bundle(folder.absolute(), trial, result, subject.archive, text)


def document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the detection matrix as it stands in a JSON document."""
    bad = [outcome.row for outcome in outcomes if outcome.row.expect]
    good: dict[str, list[Row]] = {}
    for outcome in outcomes:
        if not outcome.row.expect:
            good.setdefault(outcome.row.module, []).append(outcome.row)
    return {
        "variants": [
            {
                "family": row.module,
                "variant": row.variant,
                "lane": row.lane,
                "promised": row.promised,
                "title": row.title,
                "agrees": row.agrees,
                "trials_to_first": row.caught_after,
                "kernel": row.kernel,
                "bundle": None if row.bundle is None else str(row.bundle),
            }
            for row in bad
        ],
        "good": [
            {
                "family": family,
                "trials": sum(row.trials for row in rows),
                "findings": sum(row.findings for row in rows),
                "by_lane": {row.lane: row.trials for row in rows},
                "titles": [row.title for row in rows if row.title],
            }
            for family, rows in good.items()
        ],
    }
