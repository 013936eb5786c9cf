# SPDX-License-Identifier: GPL-2.0-only
"""Schedules: who runs before whom, and when that changes, made from a seed.

The method is PCT's (Burckhardt et al., ASPLOS 2010): each party gets a random
priority, and at ``depth - 1`` random moments whoever is running falls below all
others. Virtual time stands where PCT counts steps, and the length of the same
trial without a schedule where it counts them all. On top come starvations, as
in rr's chaos mode: somebody gets no processor at all, for a time whose logarithm
is uniform, because what has to wait long in order to go wrong does not care
about the order of the others.

A schedule is part of the program, and so of its bundle. Its text is to be
edited (``images/executor/schedule.c`` carries it out)::

    schedule pct:3 1430 81200
    rank [kworker]
    rank user.0
    rank unloader
    demote 5210
    starve 9004 user.0 3120
    end

``schedule NAME SLICE_US END_US``; a ``rank`` line for each role, the first of
which runs before all others; times are in microseconds since the actors began.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from harness import ops
from harness.errors import UsageError

#: The kernel's own parties: what runs work items, softirqs that had to wait, grace
#: periods, what starts threads, and the threads that were started since.
KERNEL_ROLES: Final = ("[kworker]", "[ksoftirqd]", "[kthreadd]", "[rcu]", "[new]")
TEARDOWN: Final = "teardown"

#: Demotions that PCT's bound is worth anything for: it falls with each by the length.
DEFAULT_DEPTH: Final = 3
MAX_DEPTH: Final = 8
MAX_STARVATIONS: Final = 2

#: Limits of what is drawn, with a uniform logarithm, microseconds.
SLICES_US: Final = (500, 8_000)
STARVATIONS_US: Final = (100, 30_000)
#: A schedule lasts that many times as long as the trial without it, and a bit.
_STRETCH: Final = 4
_EXTRA_US: Final = 40_000
#: However long the trial: a person waits for it, and so does the kernel's watchdog.
_LONGEST_US: Final = 2_000_000

_METHOD: Final = re.compile(r"pct(?::([1-9][0-9]?))?")
_NAME: Final = re.compile(r"[a-z][a-z0-9:.-]{0,31}")


@dataclass(frozen=True, slots=True)
class Demotion:
    """Whoever runs at that time moves to the bottom."""

    at_us: int


@dataclass(frozen=True, slots=True)
class Starvation:
    """A role gets no processor for some time."""

    at_us: int
    role: str
    length_us: int


Step = Demotion | Starvation


@dataclass(frozen=True, slots=True)
class Schedule:
    """Equal schedules of equal programs give the same order of execution."""

    #: The method that made it, for the report.
    name: str
    #: Whoever uses most of that time is demoted too.
    slice_us: int
    #: When all have their own priority again.
    end_us: int
    #: Roles, the first runs before all others.
    ranks: tuple[str, ...]
    #: In the order of their times.
    steps: tuple[Step, ...] = ()


#: Changes nothing, and has the executor say when the actors began.
MEASURE: Final = Schedule("measure", ops.MIN_SLICE_US, 0, ())


def parse_method(text: str) -> int:
    """Return the depth that ``pct`` or ``pct:DEPTH`` asks for.

    Raises:
        UsageError: it is no method, or too deep.
    """
    match = _METHOD.fullmatch(text)
    if match is None:
        raise UsageError(f"{text[:40]!r} is no schedule", hint="write pct, or pct:3 for a depth")
    depth = int(match[1] or DEFAULT_DEPTH)
    if depth > MAX_DEPTH:
        raise UsageError(f"schedule {text}: deeper than {MAX_DEPTH}")
    return depth


def make_schedule(
    depth: int, seed: int, actors: Iterable[str], *, length_us: int, bound_us: int
) -> Schedule:
    """Return the schedule of a seed.

    Args:
        actors: names of those that have no priority of their own.
        length_us: how long the trial lasts without a schedule.
        bound_us: of the program, of which a schedule takes no more than half.
    """
    # Of a generator's methods random() alone is promised to stay as it is.
    draw = random.Random(f"schedule {depth} {seed}").random
    roles = [*actors, TEARDOWN, *KERNEL_ROLES]
    order = sorted((draw(), role) for role in roles)
    slice_us = _log_uniform(draw(), *SLICES_US)
    # The rest of the bound is for the same trial twice, in case a schedule delays it to its end.
    left_us = max(0, bound_us - 2 * length_us)
    end_us = min(left_us // 2, _STRETCH * length_us + _EXTRA_US, _LONGEST_US)
    span_us = min(length_us, end_us)
    steps: list[Step] = [Demotion(int(draw() * span_us)) for _ in range(depth - 1)]
    for _ in range(int(draw() * (MAX_STARVATIONS + 1))):
        at_us, role = int(draw() * span_us), roles[int(draw() * len(roles))]
        starved_us = min(_log_uniform(draw(), *STARVATIONS_US), end_us - at_us)
        if starved_us:
            steps.append(Starvation(at_us, role, starved_us))
    return Schedule(
        f"pct:{depth}",
        slice_us,
        end_us,
        tuple(role for _, role in order),
        tuple(sorted(steps, key=lambda step: step.at_us)),
    )


def _log_uniform(share: float, low: int, high: int) -> int:
    return int(low * math.exp(share * math.log(high / low)))


def schedule_lines(schedule: Schedule, actors: Sequence[str], bound_us: int) -> Iterator[str]:
    """The schedule as it stands in a program; ValueError for one that is not valid."""
    if not _NAME.fullmatch(schedule.name):
        raise ValueError(f"{schedule.name[:40]!r} is no name of a schedule")
    # What is left of the bound is for a program that goes on without it.
    end_us = ops.check_number(schedule.end_us, 0, bound_us // 2)
    slice_us = ops.check_number(schedule.slice_us, ops.MIN_SLICE_US, bound_us)
    yield f"schedule {schedule.name} {slice_us} {end_us}"
    if len(schedule.ranks) > ops.MAX_RANKS:
        raise ValueError(f"{len(schedule.ranks)} ranks, more than {ops.MAX_RANKS}")
    for number, role in enumerate(schedule.ranks):
        if role not in (*actors, TEARDOWN, *KERNEL_ROLES):
            raise ValueError(f"nobody is called {role[:40]!r}")
        if role in schedule.ranks[:number]:
            raise ValueError(f"{role!r} has two ranks")
        yield f"rank {role}"
    if len(schedule.steps) > ops.MAX_STEPS:
        raise ValueError(f"{len(schedule.steps)} steps, more than {ops.MAX_STEPS}")
    earlier = 0
    for step in schedule.steps:
        at_us = ops.check_number(step.at_us, 0, end_us)
        if at_us < earlier:
            raise ValueError("a step that is earlier than the one before")
        earlier = at_us
        if isinstance(step, Demotion):
            yield f"demote {at_us}"
            continue
        if step.role not in schedule.ranks:
            raise ValueError(f"{step.role[:40]!r} has no rank")
        yield f"starve {at_us} {step.role} {ops.check_number(step.length_us, 1, end_us - at_us)}"
    yield "end"


def read_schedule(words: Sequence[str], next_line: Callable[[], Sequence[str]]) -> Schedule:
    """The schedule whose first line's words are given; ValueError where it is none.

    Whether it is valid :func:`schedule_lines` says.
    """
    if len(words) != 4:
        raise ValueError("bad schedule line")
    end_us = ops.parse_number(words[3], 0, ops.MAX_BOUND_US)
    slice_us = ops.parse_number(words[2], 0, ops.MAX_BOUND_US)
    ranks: list[str] = []
    steps: list[Step] = []
    while (line := list(next_line())) != ["end"]:
        match line:
            case ["rank", role] if not steps:
                ranks.append(role)
            case ["demote", at]:
                steps.append(Demotion(ops.parse_number(at, 0, end_us)))
            case ["starve", at, role, length]:
                at_us = ops.parse_number(at, 0, end_us)
                steps.append(Starvation(at_us, role, ops.parse_number(length, 1, end_us - at_us)))
            case _:
                raise ValueError(f"{' '.join(line)[:40]!r} in a schedule")
    return Schedule(words[1], slice_us, end_us, tuple(ranks), tuple(steps))


def describe(schedule: Schedule) -> str:
    """The schedule in words, one sentence a line."""
    lines = [
        f"Schedule {schedule.name}. Who runs first: {', '.join(schedule.ranks) or 'as usual'}.",
    ]
    for step in schedule.steps:
        at = f"At {step.at_us / 1000:g} ms"
        if isinstance(step, Demotion):
            lines.append(f"{at} whoever is running falls below all others.")
        else:
            lines.append(f"{at} {step.role} gets no processor for {step.length_us / 1000:g} ms.")
    lines.append(
        f"Who keeps the processor for longer than {schedule.slice_us / 1000:g} ms falls too."
    )
    lines.append(f"After {schedule.end_us / 1000:g} ms nobody has a priority any more.")
    return "\n".join(lines)


def smaller(schedule: Schedule) -> Iterator[Schedule]:
    """Yield the schedule without one of its steps, the last of them first."""
    for at in reversed(range(len(schedule.steps))):
        yield replace(schedule, steps=schedule.steps[:at] + schedule.steps[at + 1 :])


def without_role(schedule: Schedule, gone: str) -> Schedule:
    """Return the schedule of a program that has one role less."""
    return replace(
        schedule,
        ranks=tuple(role for role in schedule.ranks if role != gone),
        steps=tuple(
            step for step in schedule.steps if not isinstance(step, Starvation) or step.role != gone
        ),
    )
