# SPDX-License-Identifier: GPL-2.0-only
"""The search for a reported bug: the same title, by whatever shows it first.

Four searches come one after another, each with its share of the time: the module's scenarios with
one seed after another, plans that stop a task where the report has frames, seeded schedules, and
the `smp` lane with its free-running processors.
"""

from __future__ import annotations

import enum
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from harness import lab, rates, sweep, verify
from harness.deadline import Deadline
from harness.errors import BuildError, StorageError, UsageError
from harness.lab import Lab, Subject
from harness.machine import Lane
from harness.plan import Plan
from harness.scenario import Scenario
from harness.schedules import DEFAULT_DEPTH
from harness.trial import Trial, TrialResult
from harness.verify import Count

SCHEMA: Final = "kmod-harness/reproduce/1"

Progress = Callable[[str, float | None], None]

#: Seeds that say how often it shows, once it has.
RATE_TRIALS: Final = 20
#: Of each point that a report's stack names.
_HITS: Final = 3


class Way(enum.StrEnum):
    """How a bug is looked for; in this order."""

    SCENARIOS = "scenarios with seeds"
    PLANS = "tasks stopped where the report has frames"
    SCHEDULES = "scenarios with seeded priorities"
    SMP = "several processors"


#: Parts of what is left of the time when a way begins.
_SHARES: Final = {Way.SCENARIOS: 0.4, Way.PLANS: 0.4, Way.SCHEDULES: 0.5, Way.SMP: 1.0}


@dataclass(slots=True)
class Tried:
    """What one way has shown."""

    way: Way
    trials: int = 0
    hits: int = 0
    #: Other titles, and in how many trials.
    others: Counter[str] = field(default_factory=Counter)
    #: Why it was not gone.
    why: str = ""

    def record(self) -> dict[str, Any]:
        """Return it as it stands in a JSON document."""
        return {
            "what": self.way.value,
            "trials": self.trials,
            "hits": self.hits,
            "others": dict(self.others),
            "why": self.why or None,
        }


@dataclass(slots=True)
class Reproduced:
    """Where a search has ended."""

    title: str
    tried: list[Tried]
    shown: tuple[Trial, TrialResult] | None = None
    #: With further seeds, by the way that has shown it.
    rate: Count | None = None

    @property
    def trials(self) -> int:
        return sum(one.trials for one in self.tried)

    @property
    def bound(self) -> rates.Interval:
        """Where the rate lies."""
        seen = self.rate or Count(0, max(1, self.trials))
        return rates.interval(seen.hits, seen.trials)

    def sentence(self) -> str:
        """Return it in words that can be quoted."""
        if self.rate:
            bound = self.bound
            return (
                f"reproduced after {self.trials} trials; with {self.rate.trials} further seeds it "
                f"shows in {self.rate.hits} ({100 * bound.low:.0f} % to {100 * bound.high:.0f} %, "
                f"{100 * bound.confidence:.0f} %)"
            )
        if not self.trials:
            return "not reproduced: nothing could be tried"
        above = rates.silence(self.trials)
        return f"not reproduced: 0 of {self.trials} trials, p < {100 * above:.2g} % at 95 %"

    def document(self, bundle: str | None) -> dict[str, Any]:
        """Return it as a JSON document."""
        seen = self.rate or Count(0, self.trials)
        return {
            "schema": SCHEMA,
            "title": self.title,
            "tried": [one.record() for one in self.tried],
            "rate": {"hits": seen.hits, "trials": seen.trials},
            "bound": None if not seen.trials else {"low": self.bound.low, "high": self.bound.high},
            "sentence": self.sentence(),
            "bundle": bundle,
        }


def reproduce(
    made: Lab,
    subject: Callable[[Lane], Subject],
    workloads: Sequence[Scenario],
    *,
    title: str,
    text: str,
    budget_s: float,
    workers: int,
    progress: Progress = lambda what, done: None,
) -> Reproduced:
    """Look for a title until it shows or time is over.

    Args:
        subject: the module, compiled, in a lane.
        workloads: scenarios to put it through.
        text: the kernel's report, for its frames.

    Raises:
        BuildError: the module does not compile.
        HarnessError: a trial left no evidence.
    """
    search = _Search(made, subject, workloads, title, workers, Deadline.after(budget_s), progress)
    done = Reproduced(title, [])
    for way in Way:
        if search.deadline.expired:
            break
        tried = Tried(way)
        done.tried.append(tried)
        done.shown = search.try_way(way, text, tried)
        if done.shown is not None:
            done.rate = search.rate(done.shown[0])
            break
    return done


@dataclass(slots=True)
class _Search:
    made: Lab
    subject: Callable[[Lane], Subject]
    workloads: Sequence[Scenario]
    title: str
    workers: int
    deadline: Deadline
    progress: Progress

    def try_way(self, way: Way, text: str, tried: Tried) -> tuple[Trial, TrialResult] | None:
        end = Deadline.after(self.deadline.remaining_s * _SHARES[way])
        self.progress(f"{self.title}: {way.value}", None)
        try:
            trials = self._trials(way, text)
            return self._first(trials, tried, end)
        except (BuildError, StorageError):
            raise
        except UsageError as error:
            tried.why = error.message
            return None

    def _trials(self, way: Way, text: str) -> Iterator[Trial]:
        subject = self.subject(Lane.SMP if way is Way.SMP else Lane.DET)
        if way is Way.PLANS:
            known = self.made.points(subject.module.ko)
            given = sweep.plans_from_report(text, subject.module.name, known, _HITS)
            return self._planned(subject, given)
        depth = DEFAULT_DEPTH if way is Way.SCHEDULES else None
        return (
            self.made.trial(subject, plan, seed, depth)
            for seed, plan in zip(itertools.count(1), itertools.cycle(self.workloads), strict=False)
        )

    def _planned(self, subject: Subject, given: Sequence[Plan]) -> Iterator[Trial]:
        for plan, workload in itertools.product(given, self.workloads):
            try:
                yield self.made.parked_trial(subject, workload, 1, plan, cycles=None)
            except UsageError:
                # A role that this scenario does not have.
                continue

    def _first(
        self, trials: Iterator[Trial], tried: Tried, end: Deadline
    ) -> tuple[Trial, TrialResult] | None:
        shown = None
        in_time = itertools.takewhile(lambda trial: not end.expired, trials)
        for trial, result in lab.run_trials(in_time, self.workers, stop=self._shows):
            tried.trials += 1
            titles = {finding.title for finding in result.findings}
            if self._shows(result):
                tried.hits += 1
                shown = shown or (trial, result)
            tried.others.update(titles - {self.title})
            self.progress(f"{self.title}: {tried.way.value}, {tried.trials} trials", None)
        return shown

    def _shows(self, result: TrialResult) -> bool:
        return verify.shows(result, self.title)

    def rate(self, shown: Trial) -> Count:
        """How often further seeds of the same program show it."""
        trials = (self.made.reseeded(shown, shown.spec.seed + n) for n in range(1, RATE_TRIALS + 1))
        results = lab.run_trials(trials, self.workers, stop=lambda result: False)
        hits = [self._shows(result) for _, result in results]
        return Count(sum(hits), len(hits))
