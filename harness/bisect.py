# SPDX-License-Identifier: GPL-2.0-only
"""Since when, and with what, a bundle's finding shows: with rates, not with single runs.

A place (a kernel, a commit, a kernel without an option) shows the finding when one trial does. That
it does not show it is said after so many trials that their silence would be a chance of less than
the wanted confidence leaves, at the lowest rate that the bundle's own module speaks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness import lab, rates, verify
from harness.errors import BuildError, UsageError
from harness.trial import Trial
from harness.verify import Count

SCHEMA: Final = "kmod-harness/bisect/1"


@dataclass(frozen=True, slots=True)
class Step:
    """What one place has shown."""

    name: str
    count: Count
    #: Why nothing could be tried there.
    why: str = ""

    @property
    def shows(self) -> bool:
        return self.count.hits > 0

    def sentence(self) -> str:
        """Return it in words."""
        if self.why:
            return f"{self.name}: not tried: {self.why}"
        bound = rates.interval(self.count.hits, self.count.trials)
        return (
            f"{self.name}: {'shows it' if self.shows else 'does not'}, {self.count} trials "
            f"({rates.percent(bound.low)} to {rates.percent(bound.high)})"
        )

    def record(self) -> dict[str, Any]:
        """Return it as it stands in a JSON document."""
        return {
            "name": self.name,
            "hits": self.count.hits,
            "trials": self.count.trials,
            "why": self.why or None,
        }


@dataclass(frozen=True, slots=True)
class Judge:
    """Says of a place whether it shows a finding."""

    title: str
    #: Trials after which it does not.
    trials: int
    seed: int
    workers: int

    def look(self, name: str, make: Callable[[int], Trial]) -> Step:
        """Run trials until one shows it, or there were enough.

        Args:
            make: the trial of a seed; builds what it needs.

        Raises:
            HarnessError: a trial left no evidence, and it was not the module that cannot be built.
        """
        count = Count(0, 0)
        seeds = range(self.seed, self.seed + self.trials)
        try:
            for _, result in lab.run_trials(
                (make(seed) for seed in seeds),
                self.workers,
                stop=lambda result: verify.shows(result, self.title),
            ):
                count = Count(count.hits + verify.shows(result, self.title), count.trials + 1)
        except (BuildError, UsageError) as error:
            # A kernel on which it does not compile, or a commit that is broken.
            return Step(name, Count(0, 0), error.message.splitlines()[0])
        return Step(name, count)


def first_that_shows(
    names: Sequence[str], look: Callable[[str], Step]
) -> tuple[str | None, list[Step]]:
    """Return the first of several that shows it, by halving, and every step.

    Args:
        names: in order; the last one is known to show it and those before the first one are
            known not to.

    A place where nothing can be tried is passed over, towards the last one.
    """
    low, high = 0, len(names) - 1
    steps: list[Step] = []
    while low < high:
        middle = (low + high) // 2
        step = None
        for at in _around(middle, low, high):
            step = look(names[at])
            steps.append(step)
            if not step.why:
                middle = at
                break
        if step is None or step.why:
            # Between the two nothing can be tried: it came with one of them.
            return None, steps
        low, high = (low, middle) if step.shows else (middle + 1, high)
    return names[high] if names else None, steps


def _around(middle: int, low: int, high: int) -> Iterator[int]:
    yield from range(middle, high)
    yield from range(middle - 1, low - 1, -1)
