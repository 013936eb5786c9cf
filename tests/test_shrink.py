# SPDX-License-Identifier: GPL-2.0-only
"""Smaller programs, and the search for the smallest one, with trials that are made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import minimise, plan, shrink
from harness.errors import NotLoadedError, UsageError
from harness.plan import Action, Plan
from harness.program import Actor, Branch, Choose, Loop, Node, Op, Park, Program, walk
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


def planned(program: Program, line: str, role: str = "") -> Program:
    """A program with a plan, as a sweep has it."""
    wanted = plan.parse(line)
    bindings = {"module": "m", "ko": "/payload/m.ko", "unload": "/sys/u"}
    body = plan.action_body(wanted.action, program, bindings)
    park = Park(line, role or wanted.role, "m", ".text", 38, wanted.hit, wanted.action.mode, body)
    return dataclasses.replace(program, schedule=None, park=park)


def plan_of(program: Program) -> Plan:
    """What a program's plan says, once it is sure that it does what it says."""
    assert program.park is not None
    said = plan.parse(program.park.plan)
    assert said.hit == program.park.hits
    assert said.action.mode == program.park.mode
    return said


def plans_of(program: Program) -> list[str]:
    """Plans that are tried of a program in which nothing else changes."""
    return [
        str(plan_of(one))
        for one in shrink.smaller(program)
        if dataclasses.replace(one, park=program.park) == program
    ]


@pytest.mark.parametrize(
    ("hit", "earlier"), [(1, []), (2, [1]), (3, [1, 2]), (8, [1, 4, 7]), (10**15, None)]
)
def test_plan_is_tried_with_earlier_hits(hit: int, earlier: list[int] | None) -> None:
    program = planned(PROGRAM, f"user m_open+0x26 #{hit} then users")
    wanted = [1, 10**15 // 2, 10**15 - 1] if earlier is None else earlier
    assert plans_of(program) == [f"user m_open+0x26 #{one} then users" for one in wanted]


@pytest.mark.parametrize("action", [*Action])
def test_plan_is_tried_with_the_plain_unload(action: Action) -> None:
    if action is Action.UNBIND or action is Action.UMOUNT:
        program = planned(PROGRAM, "user m_open+0x26 #1 then reload")
        assert program.park is not None
        text = f"user m_open+0x26 #1 then {action.value}"
        program = dataclasses.replace(program, park=dataclasses.replace(program.park, plan=text))
    else:
        program = planned(PROGRAM, f"user m_open+0x26 #1 then {action.value}")
    plain = planned(PROGRAM, "user m_open+0x26 #1 then delete_module")
    found = [one for one in shrink.smaller(program) if one == plain]
    assert len(found) == (action not in (Action.DELETE, Action.USERS))
    assert plans_of(program) == [str(plan_of(one)) for one in found]


def test_role_becomes_the_name_of_each_who_plays_it() -> None:
    program = planned(PROGRAM, "*er m_open+0x26 #1 then users")
    assert plans_of(program) == [
        f"{name} m_open+0x26 #1 then users" for name in ("user", "remover", "killer")
    ]
    (named,) = (
        one for one in shrink.smaller(program) if one.park and one.park.plan.startswith("remover ")
    )
    assert named.park is not None
    assert named.park.role == "remover"
    # Whoever does something is somebody, too.
    program = planned(PROGRAM, "unloader m_exit+0x3 #1 then users", role="remover")
    assert plans_of(program) == ["remover m_exit+0x3 #1 then users"]
    # A thread of the kernel is nobody of the program's.
    assert plans_of(planned(PROGRAM, "kernel m_work+0x3 #1 then users")) == []


def test_with_a_plan_each_step_takes_something_away_and_adds_nothing() -> None:
    def measured(program: Program) -> tuple[int, ...]:
        one = plan_of(program)
        return (*measure(program), one.hit, [*Action].index(one.action), one.role == "*")

    program = planned(PROGRAM, "* m_open+0x26 #6 then close")
    for fewer in shrink.smaller(program):
        now, before = measured(fewer), measured(program)
        assert all(one <= other for one, other in zip(now, before, strict=True)), fewer
        assert now != before
        # Who has gone is not killed any more.
        assert Program.parse(fewer.serialise()) == fewer


def opened(program: Program, name: str) -> int:
    """How often an actor opens the device."""

    def count(nodes: tuple[Node, ...]) -> int:
        return sum(
            node.count * count(node.body) if isinstance(node, Loop) else node == OPEN
            for node in nodes
        )

    return sum(one.repeat * count(one.body) for one in program.actors if one.name == name)


def test_hits_that_are_left_out_are_taken_off_the_plan() -> None:
    """The last of all hits is meant: with fewer of them it has another number."""
    actors = (actor("user", Loop(4, (OPEN, CLOSE)), OPEN, repeat=2), PROGRAM.actors[2])
    program = planned(
        dataclasses.replace(PROGRAM, actors=actors), "* m_open+0x26 #10 then delete_module"
    )

    def is_last(program: Program) -> bool:
        hits = opened(program, "user")
        return bool(hits) and LOAD in program.setup and plan_of(program).hit == hits

    assert is_last(program)
    steps = 0
    while fewer := next((one for one in shrink.smaller(program) if is_last(one)), None):
        program = fewer
        steps += 1
        assert steps < 100
    assert str(plan_of(program)) == "user m_open+0x26 #1 then delete_module"
    assert shrink.size(program) == shrink.Size(actors=1, ops=2, turns=1)


def test_hits_stay_where_nobody_who_counts_has_changed() -> None:
    program = planned(PROGRAM, "user m_open+0x26 #3 then users")
    without = {
        plan_of(one).hit
        for one in shrink.smaller(program)
        if one.actors[0] == program.actors[0] and one.actors != program.actors
    }
    assert without == {3}
    # Who has to wait for another one's end has as many hits as he lets him have.
    program = planned(PROGRAM, "remover m_exit+0x26 #3 then users")
    waited = {
        plan_of(one).hit
        for one in shrink.smaller(program)
        if len(one.actors) == 3 and one.actors[0].repeat == 1
    }
    assert waited == {1, 2, 3}
    # Nobody knows for whom the kernel's threads come, nor whether the setup does.
    program = planned(PROGRAM, "kernel m_work+0x3 #2 then users")
    assert {plan_of(one).hit for one in shrink.smaller(program) if not one.setup} == {1, 2}


def test_somebody_is_left_to_be_stopped() -> None:
    program = planned(PROGRAM, "killer m_open+0x26 #2 then users")
    assert all("killer" in [one.name for one in fewer.actors] for fewer in shrink.smaller(program))


def test_plan_that_stops_nobody_is_left_out_as_a_whole_or_stays() -> None:
    program = planned(PROGRAM, f"* m_open+0x26 #{10**15} then reload")
    tried = [one.park for one in shrink.smaller(program, stops=False)]
    assert tried[0] is None
    assert {one.plan for one in tried[1:] if one} == {program.park.plan if program.park else ""}


Answer = Callable[[Program], list[str]]


#: What the executor's report says of a task that was stopped.
PARKED = b'{"ev": "parked"}\n'


def search(
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer,
    program: Program = PROGRAM,
    stops: Callable[[Program], bool] = lambda program: False,
    **options: Any,
) -> tuple[minimise.Minimised, list[Program]]:
    kept: list[Program] = []

    def run_trials(
        trials: Iterator[Any], workers: int, *, stop: Any, pass_over: Any
    ) -> Iterator[Any]:
        for trial in trials:
            program = Program.parse(trial.program)
            assert trial.spec.seed == program.seed
            assert trial.spec.plan == (program.park.plan if program.park else "")
            findings = tuple(Finding(Kind.SPLAT, title) for title in answer(program))
            evidence = SimpleNamespace(report=PARKED if stops(program) else b"")
            result = cast(TrialResult, SimpleNamespace(findings=findings, evidence=evidence))
            yield trial, result
            if stop(result):
                return

    monkeypatch.setattr(minimise.lab, "run_trials", run_trials)
    spec = Spec(seed=program.seed, plan=program.park.plan if program.park else "")
    trial = cast(Trial, Tried(spec=spec, program=program.serialise()))
    done = minimise.minimise(
        trial, "oops", titles=frozenset(["oops", "also"]), workers=1,
        keep=lambda step: kept.append(Program.parse(step.trial.program)), **options,
    )  # fmt: skip
    return done, kept


@dataclasses.dataclass(frozen=True)
class Spec:
    seed: int
    label: str = "m"
    plan: str = ""


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


def test_search_makes_the_plan_simpler_too(monkeypatch: pytest.MonkeyPatch) -> None:
    program = planned(PROGRAM, "* m_open+0x26 #6 then reload")

    def stops(program: Program) -> bool:
        return program.park is not None and program.park.role in ("*", "user")

    done, kept = search(
        monkeypatch, lambda program: ["oops"] if holds(program) else [], program, stops
    )
    assert done.complete
    assert str(plan_of(kept[-1])) == "user m_open+0x26 #1 then delete_module"
    assert shrink.size(kept[-1]).ops == 2
    assert done.best is not None
    assert done.best.trial.spec.plan == "user m_open+0x26 #1 then delete_module"


def test_where_somebody_was_stopped_somebody_has_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scenario may show it by itself; then the plan would be no more than a story."""
    program = planned(PROGRAM, "user m_open+0x26 #6 then users")

    def stops(program: Program) -> bool:
        return program.park is not None and program.park.hits == 6 and OPEN in [
            node for one in program.actors for _, node in walk(one.body)
        ]  # fmt: skip

    done, kept = search(monkeypatch, lambda program: ["oops"], program, stops)
    assert done.complete
    assert all(stops(one) for one in kept)
    assert shrink.size(kept[-1]) == shrink.Size(actors=1, ops=1, turns=1)


def test_plan_that_stops_nobody_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    program = planned(PROGRAM, f"* m_open+0x26 #{10**15} then delete_module")
    done, kept = search(monkeypatch, lambda program: ["oops"] if holds(program) else [], program)
    assert done.complete
    assert kept[0] == dataclasses.replace(program, park=None)
    assert done.best is not None
    assert done.best.trial.spec.plan == ""
