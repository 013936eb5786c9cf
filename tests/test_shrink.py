# SPDX-License-Identifier: GPL-2.0-only
"""Smaller programs, and the search for the smallest one, with trials that are made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import minimise, shrink
from harness.errors import NotLoadedError, UsageError
from harness.program import Actor, Branch, Choose, Loop, Node, Op, Program, walk
from harness.schedules import Demotion, Schedule, Starvation
from harness.trial import Trial, TrialResult
from harness.verdict import Finding, Kind

LOAD = Op("setup[0]", "finit_module", ("/payload/m.ko", "", ()))
UNLOAD = Op("t[0]", "delete_module", ("m", ("nonblock",)), retries=3)
OPEN = Op("a[0]", "open", (0, "/dev/m", ("rdwr",), 0o644))
CLOSE = Op("a[1]", "close", (0,))
SLEEP = Op("a[2]", "sleep", (40, 8))
KILL = Op("b[0]", "kill", ("user", "KILL"))
CHOICE = Choose((Branch(1, (CLOSE,)), Branch(2, ())))


def actor(name: str, *body: Node, **fields: Any) -> Actor:
    return Actor(name, name, body, **fields)


PROGRAM = Program(
    "p",
    5,
    1_000_000,
    actors=(
        actor("user", OPEN, Loop(8, (SLEEP, CHOICE)), repeat=6),
        actor("remover", UNLOAD, SLEEP, repeat=0, until=("user",)),
        actor("killer", KILL),
    ),
    setup=(LOAD,),
    teardown=(UNLOAD,),
    schedule=Schedule("pct:3", 500, 1000, ("user", "killer"),
                      (Demotion(3), Starvation(4, "killer", 5))),
)  # fmt: skip


def measure(program: Program) -> tuple[int, ...]:
    """What may only fall: parts, turns, and every number in them."""
    bodies = (program.setup, *(one.body for one in program.actors), program.teardown)
    nodes = [node for body in bodies for _, node in walk(body)]
    numbers = [
        value
        for node in nodes
        if isinstance(node, Op)
        for value in (node.retries, *(one for one in node.args if isinstance(one, int)))
    ]
    turns = sum(one.repeat or 100 for one in program.actors)
    turns += sum(node.count for node in nodes if isinstance(node, Loop))
    schedule = program.schedule
    steps = 1 + len(schedule.steps) + len(schedule.ranks) if schedule else 0
    until = sum(len(one.until) for one in program.actors)
    return len(program.actors), len(nodes), turns, sum(numbers), steps, until


def test_each_step_takes_something_away_and_adds_nothing() -> None:
    seen = 0
    for fewer in shrink.smaller(PROGRAM):
        seen += 1
        now, before = measure(fewer), measure(PROGRAM)
        assert all(one <= other for one, other in zip(now, before, strict=True)), fewer
        assert now != before
        # The executor takes it.
        assert Program.parse(fewer.serialise()) == fewer
    assert seen > 25


def test_smallest_programs_are_reached_and_the_search_ends() -> None:
    """Whatever is asked for, greedy steps lead to a program with nothing else."""
    program, steps = PROGRAM, 0
    while (fewer := next((one for one in shrink.smaller(program) if holds(one)), None)) is not None:
        program = fewer
        steps += 1
        assert steps < 200
    assert shrink.size(program) == shrink.Size(actors=1, ops=2, turns=1)
    assert program.schedule is None


def holds(program: Program) -> bool:
    """The module is loaded, and somebody opens the device."""
    body = [node for one in program.actors for _, node in walk(one.body)]
    return LOAD in program.setup and OPEN in body


def test_who_is_gone_is_not_waited_for_nor_killed() -> None:
    without = next(one for one in shrink.smaller(PROGRAM)
                   if "user" not in [actor.name for actor in one.actors])  # fmt: skip
    remover, killer = without.actors
    assert (remover.until, remover.repeat) == ((), 1)
    assert killer.body == ()
    assert without.schedule is not None
    assert without.schedule.ranks == ("killer",)


def test_size_in_words() -> None:
    assert str(shrink.size(PROGRAM)) == "3 actors, 8 operations"
    assert str(shrink.Size(1, 1, 1)) == "1 actor, 1 operation"


Answer = Callable[[Program], list[str]]


def search(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, **options: Any
) -> tuple[minimise.Minimised, list[Program]]:
    kept: list[Program] = []

    def run_trials(
        trials: Iterator[Any], workers: int, *, stop: Any, pass_over: Any
    ) -> Iterator[Any]:
        for trial in trials:
            program = Program.parse(trial.program)
            assert trial.spec.seed == program.seed
            findings = tuple(Finding(Kind.SPLAT, title) for title in answer(program))
            result = cast(TrialResult, SimpleNamespace(findings=findings))
            yield trial, result
            if stop(result):
                return

    monkeypatch.setattr(minimise.lab, "run_trials", run_trials)
    spec = Spec(seed=PROGRAM.seed)
    trial = cast(Trial, Tried(spec=spec, program=PROGRAM.serialise()))
    done = minimise.minimise(
        trial, "oops", titles=frozenset(["oops", "also"]), workers=1,
        keep=lambda step: kept.append(Program.parse(step.trial.program)), **options,
    )  # fmt: skip
    return done, kept


@dataclasses.dataclass(frozen=True)
class Spec:
    seed: int
    label: str = "m"


@dataclasses.dataclass(frozen=True)
class Tried:
    spec: Spec
    program: bytes


def test_search_keeps_each_smaller_program_and_ends_with_the_smallest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, kept = search(monkeypatch, lambda program: ["oops"] if holds(program) else [])
    assert done.complete
    assert done.best is not None
    assert Program.parse(done.best.trial.program) == kept[-1]
    assert shrink.size(kept[-1]).ops == 2
    assert len(kept) > 3


def test_program_that_loads_nothing_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_trial(trial: Any) -> TrialResult:
        if LOAD not in Program.parse(trial.program).setup:
            raise NotLoadedError("the module was never loaded")
        return cast(TrialResult, SimpleNamespace(findings=(Finding(Kind.SPLAT, "oops"),)))

    monkeypatch.setattr(minimise.lab, "run_trial", run_trial)
    trial = cast(Trial, Tried(spec=Spec(seed=PROGRAM.seed), program=PROGRAM.serialise()))
    done = minimise.minimise(
        trial, "oops", titles=frozenset(["oops"]), workers=1, keep=lambda step: None
    )
    assert done.complete
    assert done.best is not None
    assert Program.parse(done.best.trial.program).setup == (LOAD,)


def test_another_title_is_another_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(program: Program) -> list[str]:
        return ["oops", "also"] if program == PROGRAM else ["oops", "new"]

    done, kept = search(monkeypatch, answer)
    assert done.complete
    assert (done.best, kept) == (None, [])


def test_smaller_program_may_need_another_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(program: Program) -> list[str]:
        whole = dataclasses.replace(program, seed=PROGRAM.seed) == PROGRAM
        return ["oops"] if whole or program.seed == PROGRAM.seed + 2 else []

    done, _ = search(monkeypatch, answer)
    assert done.best is not None
    assert Program.parse(done.best.trial.program).seed >= PROGRAM.seed + 2
    done, _ = search(monkeypatch, answer, seeds=2)
    assert done.best is None


def test_what_does_not_show_any_more_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="does not show 'oops' with 3 seeds"):
        search(monkeypatch, lambda program: [])


def test_search_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Over:
        @property
        def expired(self) -> bool:
            return len(asked) > 4

    asked: list[Program] = []

    def answer(program: Program) -> list[str]:
        asked.append(program)
        return ["oops"]

    monkeypatch.setattr(minimise.Deadline, "after", lambda seconds: Over())
    done, kept = search(monkeypatch, answer, budget_s=1.0)
    assert not done.complete
    assert done.best is not None
    assert len(kept) == 4
