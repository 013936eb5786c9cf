# SPDX-License-Identifier: GPL-2.0-only
"""Whether a change mends what a bundle shows, with the numbers that say so.

The bundle's own module is run first, with one seed after another: how often it shows the finding
says how many trials without it mean something. Then the changed module runs the same programs.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from harness import lab, rates
from harness.trial import Trial, TrialResult

SCHEMA: Final = "kmod-harness/verify/1"

#: Trials of the bundle's own module: until so many findings, and no more than so many in all.
_BEFORE_HITS: Final = 5
_BEFORE_TRIALS: Final = 60
#: Of the changed module, however often the finding came before.
LEAST_TRIALS: Final = 20


class Verdict(enum.StrEnum):
    """What can be said of a change."""

    FIXED = "fixed"
    STILL_THERE = "still there"
    #: The finding has gone, and something else shows.
    OTHER = "something else"
    NOT_ENOUGH = "not enough evidence"


@dataclass(frozen=True, slots=True)
class Count:
    """Findings in trials."""

    hits: int
    trials: int

    def __str__(self) -> str:
        return f"{self.hits} of {self.trials}"


@dataclass(frozen=True, slots=True)
class Verified:
    """What trials of a change have shown."""

    verdict: Verdict
    title: str
    before: Count
    after: Count
    #: Trials of the changed module that are needed.
    wanted: int
    #: Between 0 and 1.
    confidence: float
    #: Titles that the changed module shows besides.
    others: tuple[str, ...]
    #: A trial of the changed module that shows something.
    example: tuple[Trial, TrialResult] | None

    @property
    def chance(self) -> float:
        """How probable so many trials without the finding are, had nothing changed, at most."""
        return float((1 - _lowest(self.before, self.confidence)) ** self.after.trials)

    def sentence(self) -> str:
        """Return it in words that can be quoted."""
        sure = f"{100 * self.confidence:g} %"
        before = f"before the change it showed in {self.before} trials"
        if self.verdict is Verdict.STILL_THERE:
            return f"still there: in {self.after} trials; {before}"
        if not self.before.hits:
            return (
                f"not enough evidence: the bundle's own module does not show it either, "
                f"{self.before} trials"
            )
        if self.verdict is Verdict.NOT_ENOUGH:
            return (
                f"not enough evidence: {self.after} trials show it, {self.wanted} without it are "
                f"needed; {before}"
            )
        below = rates.silence(self.after.trials, self.confidence)
        gone = (
            f"{self.after} trials show it, so that its rate is below {rates.percent(below)}"
            f" ({sure}); {before}, and with that rate this would come by chance with at most "
            f"{rates.percent(self.chance)}"
        )
        if self.verdict is Verdict.OTHER:
            return f"it has gone and something else shows, {'; '.join(self.others)}: {gone}"
        return f"fixed: {gone}"

    def document(self) -> dict[str, Any]:
        """Return it as a JSON document."""
        return {
            "schema": SCHEMA,
            "verdict": self.verdict.value,
            "title": self.title,
            "before": {"hits": self.before.hits, "trials": self.before.trials},
            "after": {"hits": self.after.hits, "trials": self.after.trials},
            "wanted": self.wanted,
            "confidence": self.confidence,
            "others": list(self.others),
            "sentence": self.sentence(),
        }


def verify(
    title: str,
    before: Callable[[int], Trial],
    after: Callable[[int], Trial],
    *,
    seed: int,
    most: int,
    confidence: float,
    workers: int,
    progress: Callable[[str, float | None], None] = lambda what, done: None,
) -> Verified:
    """Run trials of both modules and judge the change.

    Args:
        title: of the finding.
        before: makes the trial of the bundle's own module with a seed.
        after: makes that of the changed one.
        seed: the first of both.
        most: trials of the changed module, at most.
        confidence: wanted, between 0.5 and 1.

    Raises:
        HarnessError: a trial left no evidence.
    """
    was = measure(title, before, seed=seed, workers=workers, progress=progress)
    wanted = trials_needed(was, confidence)
    tried = min(wanted, most) if was.hits else 0
    now, others, example = Count(0, 0), dict[str, None](), None
    for trial, result in lab.run_trials(
        _counted((after(number) for number in range(seed, seed + tried)), tried, progress),
        workers,
        stop=lambda result: shows(result, title),
    ):
        now = Count(now.hits + shows(result, title), now.trials + 1)
        others |= dict.fromkeys(one.title for one in result.findings if one.title != title)
        if result.findings and (example is None or shows(result, title)):
            example = trial, result
    return Verified(
        verdict=_judge(was, now, wanted, bool(others)),
        title=title,
        before=was,
        after=now,
        wanted=wanted,
        confidence=confidence,
        others=tuple(others),
        example=example,
    )


def measure(
    title: str,
    make: Callable[[int], Trial],
    *,
    seed: int,
    workers: int,
    progress: Callable[[str, float | None], None] = lambda what, done: None,
) -> Count:
    """Return how often a bundle's own module shows a finding, with one seed after another.

    Raises:
        HarnessError: a trial left no evidence.
    """
    progress("the module as it was", None)
    shown: list[bool] = []

    def is_enough(result: TrialResult) -> bool:
        shown.append(shows(result, title))
        return sum(shown) >= _BEFORE_HITS

    seeds = range(seed, seed + _BEFORE_TRIALS)
    for _ in lab.run_trials((make(number) for number in seeds), workers, stop=is_enough):
        pass
    return Count(sum(shown), len(shown))


def _counted(
    trials: Iterator[Trial], total: int, progress: Callable[[str, float | None], None]
) -> Iterator[Trial]:
    for number, trial in enumerate(trials):
        progress("the changed module", number / total)
        yield trial


def shows(result: TrialResult, title: str) -> bool:
    """Return whether a trial has a finding of a title."""
    return any(finding.title == title for finding in result.findings)


def _lowest(count: Count, confidence: float) -> float:
    """The rate that findings in trials speak for, at least."""
    if not count.hits:
        return 0.0
    # One side only: the other half of what the interval leaves lies above it.
    return rates.interval(count.hits, count.trials, 2 * confidence - 1).low


def trials_needed(before: Count, confidence: float) -> int:
    """Return how many trials without a finding say with some confidence that it has gone."""
    low = _lowest(before, confidence)
    if not 0 < low < 1:
        return LEAST_TRIALS
    return max(LEAST_TRIALS, rates.Claim(low, confidence).trials)


def _judge(before: Count, after: Count, wanted: int, others: bool) -> Verdict:
    if after.hits:
        return Verdict.STILL_THERE
    if not before.hits or after.trials < wanted:
        return Verdict.NOT_ENOUGH
    return Verdict.OTHER if others else Verdict.FIXED
