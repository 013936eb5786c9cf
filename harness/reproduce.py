# SPDX-License-Identifier: GPL-2.0-only
"""The search for a reported bug: the same title, by whatever shows it first.

Four searches come one after another, each with its share of the time: the module's scenarios with
one seed after another, plans that stop a task where the report has frames, seeded schedules, and
the `smp` lane with its free-running processors.

In each of them those scenarios come first that are likely to come to the report's functions: by
the clues that they have (:mod:`harness.clues`), and, once plans have stopped tasks there, by that.
"""

from __future__ import annotations

import enum
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from harness import clues, lab, rates, sweep, verdict, verify
from harness.clues import Likely
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
#: Turns of likely scenarios for each of the others: a clue may be wrong.
_LIKELY_TURNS: Final = 3


class Way(enum.StrEnum):
    """How a bug is looked for; in this order."""

    SCENARIOS = "scenarios with seeds"
    PLANS = "tasks stopped where the report has frames"
    SCHEDULES = "scenarios with seeded priorities"
    SMP = "several processors"


#: Parts of what is left of the time when a way begins.
_SHARES: Final = {Way.SCENARIOS: 0.4, Way.PLANS: 0.4, Way.SCHEDULES: 0.5, Way.SMP: 1.0}


@dataclass(slots=True)
class Turn:
    """What was tried of a scenario, or of a plan in one."""

    scenario: str
    #: As a line; empty without one.
    plan: str
    #: What makes the scenario likely to come to the report's functions.
    because: tuple[str, ...]
    trials: int = 0
    #: Trials in which the plan has stopped a task.
    stopped: int = 0

    def record(self) -> dict[str, Any]:
        """Return it as it stands in a JSON document."""
        return {
            "scenario": self.scenario,
            "plan": self.plan or None,
            "because": list(self.because),
            "trials": self.trials,
            "stopped": self.stopped if self.plan else None,
        }


@dataclass(slots=True)
class Tried:
    """What one way has shown."""

    way: Way
    trials: int = 0
    hits: int = 0
    #: Scenario and plan → what was tried of them, in the order in which they began.
    turns: dict[tuple[str, str], Turn] = field(default_factory=dict)
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
            "order": [one.record() for one in self.order],
        }

    @property
    def order(self) -> tuple[Turn, ...]:
        """What was tried, in the order in which it began."""
        return tuple(one for one in self.turns.values() if one.trials)


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
                f"shows in {self.rate.hits} ({rates.percent(bound.low)} to "
                f"{rates.percent(bound.high)}, {rates.percent(bound.confidence)})"
            )
        if not self.trials:
            return "not reproduced: nothing could be tried"
        above = rates.silence(self.trials)
        return f"not reproduced: 0 of {self.trials} trials, p < {rates.percent(above)} at 95 %"

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
    likely = clues.sort_workloads(workloads, clues.read_clues(title, text))
    search = _Search(made, subject, likely, title, workers, Deadline.after(budget_s), progress)
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
    #: Scenarios, the likeliest first.
    likely: Sequence[Likely]
    title: str
    workers: int
    deadline: Deadline
    progress: Progress
    #: Points at which a task was stopped, by scenario.
    stopped: dict[str, list[str]] = field(default_factory=dict)
    #: Scenarios, and what nobody in them came to.
    missed: set[tuple[str, str]] = field(default_factory=set)

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

    def _trials(self, way: Way, text: str) -> Iterator[tuple[Likely, Trial]]:
        subject = self.subject(Lane.SMP if way is Way.SMP else Lane.DET)
        if way is Way.PLANS:
            known = self.made.points(subject.module.ko)
            given = sweep.plans_from_report(text, subject.module.name, known, _HITS)
            return self._planned(subject, given)
        depth = DEFAULT_DEPTH if way is Way.SCHEDULES else None
        return (
            (one, self.made.trial(subject, one.workload, seed, depth))
            for seed, one in zip(itertools.count(1), turns(self._by_stops()), strict=False)
        )

    def _planned(self, subject: Subject, given: Sequence[Plan]) -> Iterator[tuple[Likely, Trial]]:
        # In the likely scenarios first; and first hits before second ones, for who never comes to a
        # point does not come there twice.
        pairs = sorted(
            itertools.product(given, self.likely),
            key=lambda pair: (pair[0].hit, not pair[1].because),
        )
        for plan, one in pairs:
            if (one.workload.name, _before(str(plan))) in self.missed:
                continue
            try:
                yield one, self.made.parked_trial(subject, one.workload, 1, plan, cycles=None)
            except UsageError:
                # A role that this scenario does not have.
                continue

    def _by_stops(self) -> list[Likely]:
        """Return the scenarios, those first in which plans have stopped tasks."""
        seen = [
            replace(one, because=(*self.stopped.get(one.workload.name, ()), *one.because))
            for one in self.likely
        ]
        return sorted(seen, key=lambda one: -len(self.stopped.get(one.workload.name, ())))

    def _first(
        self, trials: Iterator[tuple[Likely, Trial]], tried: Tried, end: Deadline
    ) -> tuple[Trial, TrialResult] | None:
        shown = None
        begun = (self._begun(tried, *pair) for pair in trials)
        in_time = itertools.takewhile(lambda trial: not end.expired, begun)
        for trial, result in lab.run_trials(in_time, self.workers, stop=self._shows):
            self._note(tried, trial, result)
            titles = {finding.title for finding in result.findings}
            if self._shows(result):
                tried.hits += 1
                shown = shown or (trial, result)
            tried.others.update(titles - {self.title})
            self.progress(f"{self.title}: {tried.way.value}, {tried.trials} trials", None)
        return shown

    def _begun(self, tried: Tried, one: Likely, trial: Trial) -> Trial:
        spec = trial.spec
        tried.turns.setdefault(
            (spec.scenario, spec.plan), Turn(spec.scenario, spec.plan, one.because)
        )
        return trial

    def _note(self, tried: Tried, trial: Trial, result: TrialResult) -> None:
        spec = trial.spec
        turn = tried.turns[spec.scenario, spec.plan]
        tried.trials += 1
        turn.trials += 1
        if not spec.plan:
            return
        if verdict.has_stopped(result.evidence.report):
            turn.stopped += 1
            points = self.stopped.setdefault(spec.scenario, [])
            if (point := spec.plan.split()[1]) not in points:
                points.append(point)
        else:
            self.missed.add((spec.scenario, _before(spec.plan)))

    def _shows(self, result: TrialResult) -> bool:
        return verify.shows(result, self.title)

    def rate(self, shown: Trial) -> Count:
        """How often further seeds of the same program show it."""
        trials = (self.made.reseeded(shown, shown.spec.seed + n) for n in range(1, RATE_TRIALS + 1))
        results = lab.run_trials(trials, self.workers, stop=lambda result: False)
        hits = [self._shows(result) for _, result in results]
        return Count(sum(hits), len(hits))


def turns(likely: Sequence[Likely]) -> Iterator[Likely]:
    """Yield scenarios for ever: all of them once, then those with clues more often than others."""
    first = [one for one in likely if one.because]
    rest = [one for one in likely if not one.because]
    if not first or len(first) >= _LIKELY_TURNS * len(rest):
        # They have most of the turns as it is.
        yield from itertools.cycle(likely)
        return
    yield from (*first, *rest)
    again = itertools.cycle(first)
    for one in itertools.cycle(rest):
        yield from itertools.islice(again, _LIKELY_TURNS)
        yield one


def _before(plan: str) -> str:
    """What a plan has before the number of its hit: who, and where."""
    return plan.partition(" #")[0]
