# SPDX-License-Identifier: GPL-2.0-only
"""The search for the smallest program that still shows a finding.

What is tried says :mod:`harness.shrink`. A program that is smaller runs at other times, so that a
race which it still has may need another seed: each is tried with a few. Where a plan has stopped
a task, one has to be stopped in whatever is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from harness import lab, shrink, verdict
from harness.deadline import Deadline
from harness.errors import NotLoadedError, UsageError
from harness.program import Program
from harness.trial import Trial, TrialResult

Progress = Callable[[str, float | None], None]

#: Seeds of each program that is tried.
SEEDS: Final = 3


@dataclass(frozen=True, slots=True)
class Step:
    """A smaller program that shows the same."""

    trial: Trial
    result: TrialResult


@dataclass(frozen=True, slots=True)
class Minimised:
    """Where a search has ended."""

    #: None where nothing could be left out.
    best: Step | None
    trials: int
    #: There is nothing left to try; otherwise time was over.
    complete: bool


def minimise(
    trial: Trial,
    title: str,
    *,
    titles: frozenset[str],
    workers: int,
    seeds: int = SEEDS,
    budget_s: float | None = None,
    keep: Callable[[Step], None] = lambda step: None,
    progress: Progress = lambda what, done: None,
) -> Minimised:
    """Look for the smallest program that shows a finding.

    Args:
        trial: one that shows it.
        title: the finding's.
        titles: all that may show; another one would be another bug.
        seeds: tried of each program, its own first.
        budget_s: start no further trial after so long.
        keep: told each program that is smaller than the one before, so that whoever
            interrupts the search has the best so far.

    Raises:
        UsageError: the trial does not show it when it is run again.
        HarnessError: a trial left no evidence.
    """
    deadline = None if budget_s is None else Deadline.after(budget_s)
    search = _Search(title, titles, workers, seeds, deadline, progress)
    program = Program.parse(trial.program)
    shown = search.first(trial, iter([program]))
    if shown is None:
        raise UsageError(
            f"{trial.spec.label}: does not show {title!r} with {search.trials} seeds",
            hint="`harness replay --times 20` says how often it does",
        )
    search.stops = program.park is not None and verdict.has_stopped(shown.result.evidence.report)
    return search.run(trial, program, keep)


class _Search:
    """A search under way."""

    def __init__(
        self,
        title: str,
        titles: frozenset[str],
        workers: int,
        seeds: int,
        deadline: Deadline | None,
        progress: Progress,
    ) -> None:
        self.title = title
        self.titles = titles
        self.workers = workers
        self.seeds = seeds
        self.deadline = deadline
        self.progress = progress
        self.trials = 0
        #: A plan stops a task in what is looked for.
        self.stops = False
        #: Programs that were tried.
        self.tried: set[bytes] = set()

    @property
    def _over(self) -> bool:
        return self.deadline is not None and self.deadline.expired

    def run(self, trial: Trial, program: Program, keep: Callable[[Step], None]) -> Minimised:
        best = None
        while not self._over:
            self.progress(f"minimising: {shrink.size(program)}, {self.trials} trials", None)
            step = self.first(trial, shrink.smaller(program, stops=self.stops))
            if step is None:
                return Minimised(best, self.trials, not self._over)
            best, program = step, Program.parse(step.trial.program)
            keep(step)
        return Minimised(best, self.trials, complete=False)

    def first(self, trial: Trial, programs: Iterator[Program]) -> Step | None:
        """Return the first program that shows it; of those run side by side, the shortest."""
        found: list[Step] = []
        # What loads the module may have been left out, like anything else.
        for tried, result in lab.run_trials(
            self._trials(trial, programs),
            self.workers,
            stop=self._shows,
            pass_over=NotLoadedError,
        ):
            self.trials += 1
            if self._shows(result):
                found.append(Step(tried, result))
        return min(found, key=lambda step: len(step.trial.program), default=None)

    def _trials(self, trial: Trial, programs: Iterator[Program]) -> Iterator[Trial]:
        planned = Program.parse(trial.program).park is not None
        for program in programs:
            for seed in range(program.seed, program.seed + self.seeds):
                text = dataclasses.replace(program, seed=seed).serialise()
                if text in self.tried:
                    continue
                if self._over:
                    return
                # Noted before it has run: of several that show it the others are not tried again.
                self.tried.add(text)
                spec = dataclasses.replace(trial.spec, seed=seed)
                if planned:
                    plan = program.park.plan if program.park else ""
                    spec = dataclasses.replace(spec, plan=plan)
                yield dataclasses.replace(trial, spec=spec, program=text)

    def _shows(self, result: TrialResult) -> bool:
        shown = {finding.title for finding in result.findings}
        if self.title not in shown or not shown <= self.titles:
            return False
        # Else its plan would say what has nothing to do with it.
        return not self.stops or verdict.has_stopped(result.evidence.report)
