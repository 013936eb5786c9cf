# SPDX-License-Identifier: GPL-2.0-only
"""What a sweep concludes from what it sees; the sweeps themselves are in test_sweep_vm."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import elf, ops, points, sweep, symbolise
from harness import reach as reaching
from harness.errors import NotLoadedError, UsageError
from harness.exectrace import Visit
from harness.machine import Lane
from harness.plan import Action, Plan
from harness.points import Point
from harness.program import Actor, Op, Program
from harness.reach import KERNEL, Reach
from harness.sweep import Verdict
from harness.trial import TrialResult, TrialSpec
from harness.verdict import Evidence, Finding, Kind
from harness.verdict import Verdict as TrialVerdict
from tests.test_points import compile_object

BASE = 0xFFFFFFFFA0000000
INIT = 0xFFFFFFFFA0006000
#: A function at the beginning of each section, and one that loops.
SOURCE = """
int outer(int x);
int first(int x) { return outer(x) + outer(x + 1); }
int loop(int x) { int y = 0; while (x--) y += outer(y); return y; }
__attribute__((section(".init.text"))) int begin(int x) { return outer(x) - 1; }
__attribute__((section(".exit.text"))) int leave(int x) { return outer(x) * 3; }
"""


@pytest.fixture(scope="module")
def ko(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_object(tmp_path_factory.mktemp("ko"), "-fno-pie", source=SOURCE)


@pytest.fixture(scope="module")
def known(ko: Path) -> tuple[Point, ...]:
    return points.find_points(ko)


def address(ko: Path, point: Point) -> int:
    file = elf.load(ko)
    starts = {file.sections[index].name: start for index, start in symbolise.text_layout(file)}
    return (BASE + starts[point.section] if point.section in starts else INIT) + point.value


def of(known: tuple[Point, ...], function: str) -> list[Point]:
    return [point for point in known if point.function == function]


# ---- from a trace to points ---------------------------------------------------------------------


def located(
    ko: Path, known: tuple[Point, ...], *visits: tuple[Point, int, int | None]
) -> list[tuple[Point, int | None]]:
    trace = [Visit(address(ko, point), limit, actor) for point, limit, actor in visits]
    found = reaching.locate(trace, [reaching.Life(BASE, INIT)], ko, known)
    return [(point, visit.actor) for point, visit in found]


def test_block_reaches_to_its_first_jump(ko: Path, known: tuple[Point, ...]) -> None:
    first = of(known, "first")
    block = [point for point, _ in located(ko, known, (first[0], 0, 2))]
    assert block == first[: len(block)]
    assert block[-1].text.startswith("call")
    assert not any(point.text.startswith("call") for point in block[:-1])


def test_block_is_no_longer_than_qemu_lets_it_be(ko: Path, known: tuple[Point, ...]) -> None:
    first = of(known, "first")
    assert located(ko, known, (first[0], 1, 2)) == [(first[0], 2)]


def test_block_that_was_left_early_is_counted_once(ko: Path, known: tuple[Point, ...]) -> None:
    first = of(known, "first")
    whole = located(ko, known, (first[0], 0, 2))
    # An interrupt came before the second instruction; another task ran meanwhile.
    seen = located(ko, known, (first[0], 0, 2), (of(known, "leave")[0], 1, 3), (first[1], 0, 2))
    assert [entry for entry in seen if entry[1] == 2] == whole


def test_sections_of_init_and_exit_are_found_where_they_lie(
    ko: Path, known: tuple[Point, ...]
) -> None:
    begin, leave = of(known, "begin")[0], of(known, "leave")[0]
    assert located(ko, known, (begin, 1, 0), (leave, 1, None)) == [(begin, 0), (leave, None)]


def test_actors_of_one_part_share_a_role() -> None:
    program = Program(
        "p", 1, 1000,
        (Actor("user.0", "actors[0]", ()), Actor("user.1", "actors[0]", ()),
         Actor("remover", "actors[1]", ())),
    )  # fmt: skip
    roles = reaching.actor_roles(program)
    assert [roles[number] for number in range(3)] == ["user.*", "user.*", "remover"]


def test_nobody_else_runs_in_a_setup(ko: Path, known: tuple[Point, ...]) -> None:
    actors = (Actor("user.0", "actors[0]", ()), Actor("user.1", "actors[0]", ()))
    begin = of(known, "begin")[0]
    visits = [Visit(address(ko, begin), 1, ops.MAX_ACTORS), Visit(address(ko, begin), 1, 1)]
    found = reaching.find_reaches(
        visits, [reaching.Life(BASE, INIT)], ko, known, Program("p", 1, 1000, actors)
    )
    assert [(one.role, one.company) for one in found] == [("setup", 0), ("user.*", 1)]


def test_what_lies_where_init_was_is_not_init(ko: Path, known: tuple[Point, ...]) -> None:
    body = (Op("actors[0].do[0]", "finit_module", ("/m.ko", "")),
            Op("actors[0].do[1]", "sync"))  # fmt: skip
    program = Program("p", 1, 1000, (Actor("user", "actors[0]", body),))
    begin, leave = of(known, "begin")[0], of(known, "leave")[0]
    visits = [
        Visit(address(ko, point), 1, 0, op) for point, op in ((begin, 0), (begin, 1), (leave, 1))
    ]
    found = reaching.find_reaches(visits, [reaching.Life(BASE, INIT)], ko, known, program)
    assert [(one.point, one.hits) for one in found] == [(begin, 1), (leave, 1)]


def test_code_of_other_modules_is_left_out(ko: Path, known: tuple[Point, ...]) -> None:
    trace = [Visit(INIT + 0x8000, 0, 0), Visit(BASE - 16, 0, 0)]
    assert reaching.locate(trace, [reaching.Life(BASE, INIT)], ko, known) == []


def test_lives_of_a_module_come_from_the_report(ko: Path) -> None:
    found = points.find_points(ko)
    starts = {point.section: address(ko, point) - point.value for point in found}
    text, leave = starts[".text"], starts[".exit.text"]
    events = [
        {"ev": "armed", "section": ".text", "section_at": hex(text), "init_at": hex(INIT)},
        {
            "ev": "armed",
            "section": ".exit.text",
            "section_at": hex(leave + 0x8000),
            "init_at": "0x0",
        },
        {"ev": "armed", "section": ".text", "section_at": hex(text), "init_at": hex(INIT)},
    ]
    assert reaching.module_lives(events, ko) == [
        reaching.Life(BASE, INIT), reaching.Life(BASE + 0x8000, 0),
    ]  # fmt: skip


def test_profile_watches_code_that_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Init's goes when it has run, and with it where the module's other code lies."""
    shell = SOURCE[: SOURCE.index("int first")] + SOURCE[SOURCE.index("__attribute__") :]
    ko = compile_object(tmp_path, "-fno-pie", source=shell)
    found = points.find_points(ko)
    assert found[0].section == ".init.text"

    def parked_trial(subject: Any, workload: Any, seed: int, plan: Plan, cycles: Any) -> Any:
        asked.append(plan.function)
        return SimpleNamespace(program=Program("p", 1, 1, ()).serialise())

    def visits(ready: Any) -> tuple[tuple[Visit, ...], Any]:
        where = {point.section: address(ko, point) - point.value for point in found}
        report = {
            "ev": "armed", "section": ".exit.text", "section_at": hex(where[".exit.text"]),
            "init_at": hex(INIT),
        }  # fmt: skip
        evidence = SimpleNamespace(report=json.dumps(report).encode() + b"\n")
        return (), SimpleNamespace(evidence=evidence)

    asked: list[str] = []
    made = SimpleNamespace(points=lambda ko: found, parked_trial=parked_trial, visits=visits)
    subject = SimpleNamespace(target=SimpleNamespace(ko=ko, name="foo"))
    workload = SimpleNamespace(name="w")
    sweep.profile(cast(Any, made), cast(Any, subject), cast(Any, workload), seed=1, cycles=1)
    assert asked == ["leave"]


# ---- which plans --------------------------------------------------------------------------------

POINT = Point(".text", 38, "foo_write", 0x26, "ret")


def reach(**fields: object) -> Reach:
    return dataclasses.replace(Reach(POINT, "s", "user", "write", 0, 7, 40), **fields)  # type: ignore[arg-type]


def test_scenario_that_comes_first_is_chosen_with_all_its_roles() -> None:
    late = reach(scenario="late", order=100)
    early = [reach(scenario="early"), reach(scenario="early", role=KERNEL, op="", order=50)]
    assert sweep.choose([late, *early]) == early


def test_init_is_stopped_where_there_is_company() -> None:
    alone = reach(scenario="alone", op="finit_module", order=1)
    together = reach(scenario="together", op="finit_module", company=2, order=9)
    assert sweep.choose([alone, together]) == [together]
    assert sweep.plans_for(together, ()) == [Plan("user", "foo_write", 0x26, 1, Action.USERS)]
    assert sweep.plans_for(alone, ()) == [Plan("user", "foo_write", 0x26, 1, Action.DELETE)]


def test_init_of_a_setup_says_nothing_that_one_with_company_does_not_say_better() -> None:
    setup = reach(op="finit_module", role="setup", order=1)
    later = reach(op="finit_module", role="remover", company=2, order=9)
    user = reach(role="user.*", order=3)
    assert sweep.choose([setup, later]) == [later]
    assert sweep.choose([setup, user]) == [user]
    assert sweep.choose([setup]) == [setup]


def test_entries_of_handlers_come_first_then_those_of_init() -> None:
    entry = dataclasses.replace(POINT, offset=0, text="push %rbx")
    between = dataclasses.replace(POINT, offset=8, text="mov %rax,%rbx")
    expected = [
        reach(point=entry, order=5),
        reach(point=POINT, order=6),
        reach(point=entry, op="finit_module", order=1),
        reach(point=between, order=4),
    ]
    before = {entry: POINT, POINT: entry, between: entry}
    mixed = expected[::-1]
    assert sorted(mixed, key=lambda one: sweep._suspicion(before, one)) == expected


def test_no_plan_waits_for_a_hit_that_does_not_come() -> None:
    plans = sweep.plans_for(reach(hits=2), [Action.RELOAD, Action.UMOUNT], hits=5)
    assert [(plan.action, plan.hit) for plan in plans] == [
        (Action.RELOAD, 1), (Action.RELOAD, 2), (Action.UMOUNT, 1), (Action.UMOUNT, 2),
    ]  # fmt: skip


# ---- what became of a plan ----------------------------------------------------------------------

PREEMPTED = "[<0>] irqentry_exit+0x57/0x67\n[<0>] asm_sysvec_irq_work+0x16/0x20\n[<0>] {}\n"


def parked(ko: Path, point: Point, stack: str) -> dict[str, object]:
    at = address(ko, point)
    start = at - point.value
    return {"ev": "parked", "ip": hex(at), "section_at": hex(start), "stack": stack}


def let_go(answer: str = "EAGAIN", again: str = "", **fields: object) -> dict[str, object]:
    answers = {"park.do[0]": answer}
    if again:
        answers |= {"park.rest[1]": "ok", "park.do[2]": again, "park.rest[3]": "ok"}
    return {"ev": "let-go", "held": True, "gave_way": False, "answers": answers, **fields}


def judged(
    ko: Path, point: Point, *events: dict[str, object], findings: tuple[Finding, ...] = ()
) -> sweep.Outcome:
    report = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    spec = TrialSpec("foo", "good", "6.1", "kasan", Lane.DET, "s", 1, "p")
    result = TrialResult(
        spec=spec,
        verdict=TrialVerdict.FAIL if findings else TrialVerdict.PASS,
        findings=findings,
        evidence=Evidence(b"", report, 33, 60.0, 0.04),
        lives=(),
        wall_s=1.0,
    )
    plan = Plan("user", point.function, point.offset)
    return sweep.judge(plan, reach(point=point), result, ko)


def frame(point: Point) -> str:
    return f"{point.name}/0x99 [foo]"


@pytest.mark.parametrize(
    ("ended", "wanted"),
    [
        (let_go("EAGAIN"), (Verdict.PROTECTED, "")),
        (let_go("EBUSY"), (Verdict.PROTECTED, "")),
        (let_go("ok"), (Verdict.CLEAN, "")),
        (let_go("EAGAIN", "EAGAIN"), (Verdict.PROTECTED, "")),
        # What had kept it was not the task's.
        (let_go("EAGAIN", "ok"), (Verdict.CLEAN, "")),
        (let_go("EAGAIN", "ENOENT"), (Verdict.GONE, "")),
        (let_go("ok", held=False), (Verdict.GONE, "")),
        (let_go("ENOENT"), (Verdict.GONE, "")),
        (let_go("ok", gave_way=True, waited_in="[<0>] misc_deregister+0x1/0x2\n"),
         (Verdict.WAITED, "in misc_deregister")),
    ],
)  # fmt: skip
def test_verdict_follows_from_what_unload_did(
    ko: Path, known: tuple[Point, ...], ended: dict[str, object], wanted: tuple[Verdict, str]
) -> None:
    point = of(known, "first")[2]
    outcome = judged(ko, point, parked(ko, point, PREEMPTED.format(frame(point))), ended)
    assert (outcome.verdict, outcome.detail) == wanted


def test_plan_whose_point_was_not_reached(ko: Path, known: tuple[Point, ...]) -> None:
    point = of(known, "first")[2]
    assert judged(ko, point).verdict is Verdict.UNREACHED


def test_finding_is_a_plans_only_where_somebody_was_stopped(
    ko: Path, known: tuple[Point, ...]
) -> None:
    point = of(known, "first")[2]
    oops = Finding(Kind.SPLAT, "oops")
    missed = judged(ko, point, findings=(oops,))
    assert missed.verdict is Verdict.UNREACHED
    nothing = cast(Any, None)
    by_itself = sweep._found(oops, missed, nothing, nothing)
    assert (by_itself.plan, by_itself.plans, by_itself.by_itself) == (None, 0, True)
    # The guest died while somebody was held: nobody said any more how that ended.
    stopped = judged(ko, point, parked(ko, point, ""), findings=(oops,))
    assert (stopped.verdict, stopped.detail) == (Verdict.FINDING, "oops")
    planned = sweep._found(oops, stopped, nothing, nothing)
    assert (planned.plan, planned.plans, planned.by_itself) == (stopped.plan, 1, False)


def test_task_that_stopped_elsewhere_is_late_and_says_where(
    ko: Path, known: tuple[Point, ...]
) -> None:
    point, later = of(known, "first")[2:4]
    stack = "[<0>] preempt_schedule_thunk+0x1a/0x1c\n[<0>] _raw_spin_unlock+0x2a/0x2f\n"
    outcome = judged(ko, point, parked(ko, point, stack + f"[<0>] {frame(later)}\n"), let_go())
    assert outcome.verdict is Verdict.LATE
    assert outcome.detail == "stopped in preempt_schedule_thunk+0x1a/0x1c"
    outcome = judged(ko, point, parked(ko, point, PREEMPTED.format(frame(later))), let_go())
    assert outcome.detail == f"stopped in {frame(later)}"


def test_callback_that_interrupted_a_thread_says_which(ko: Path, known: tuple[Point, ...]) -> None:
    point = of(known, "first")[2]
    event = {**parked(ko, point, ""), "thread": "swapper/0"}
    outcome = judged(ko, point, event, let_go())
    assert (outcome.verdict, outcome.detail) == (Verdict.LATE, "interrupted swapper/0")


@pytest.mark.parametrize("function", ["first", "loop", "begin", "leave"])
def test_first_instruction_is_named_after_what_lies_before_it(
    ko: Path, known: tuple[Point, ...], function: str
) -> None:
    # The kernel prints a return address as the end of the function before, if there is one.
    point = of(known, function)[0]
    file = elf.load(ko)
    stack = PREEMPTED.format(f"0x{address(ko, point):016x}")
    if function in ("loop", "leave"):
        before = file.by_name["first"][0] if function == "loop" else _last_of_text(file)
        size = address(ko, point) - BASE - before.value
        stack = PREEMPTED.format(f"{before.name}+{size:#x}/{size:#x} [foo]")
    outcome = judged(ko, point, parked(ko, point, stack), let_go())
    assert outcome.verdict is Verdict.PROTECTED, outcome.detail


def test_first_instruction_of_init_is_named_after_the_end_of_another_section(
    ko: Path, known: tuple[Point, ...]
) -> None:
    point = next(point for point in known if point.section == ".init.text" and not point.value)
    for place, wanted in (
        ("leave+0xf67/0xf67", Verdict.PROTECTED),
        ("leave+0xf66/0xf67", Verdict.LATE),
        # What follows it is another function of its own section.
        ("first+0xf67/0xf67", Verdict.LATE),
    ):
        stack = PREEMPTED.format(f"{place} [foo]")
        outcome = judged(ko, point, parked(ko, point, stack), let_go())
        assert outcome.verdict is wanted, outcome.detail


def _last_of_text(file: elf.Elf) -> elf.Symbol:
    index = next(n for n, section in enumerate(file.sections) if section.name == ".text")
    return file.by_section[index][-1]


def test_task_inside_is_what_a_finding_is_called_after(ko: Path, known: tuple[Point, ...]) -> None:
    point = of(known, "first")[2]
    findings = (Finding(Kind.SPLAT, "BUG: x"), Finding(Kind.INSIDE, "unloaded under task in y"))
    outcome = judged(
        ko, point, parked(ko, point, PREEMPTED.format(frame(point))), findings=findings
    )
    assert (outcome.verdict, outcome.detail) == (Verdict.FINDING, "unloaded under task in y")


# ---- the whole ----------------------------------------------------------------------------------


def test_points_that_nobody_reached_are_listed(ko: Path, known: tuple[Point, ...]) -> None:
    point, other = known[0], known[1]
    done = sweep.Sweep(None, known)  # type: ignore[arg-type]
    done.reached = (reach(point=point), reach(point=other, hits=3))
    done.outcomes = [
        judged(ko, point, parked(ko, point, PREEMPTED.format(frame(point))), let_go()),
        judged(ko, point, parked(ko, point, "[<0>] x+0x1/0x2\n"), let_go()),
    ]
    reports = done.reports()
    assert [report.point for report in reports] == list(known)
    # The worst of its plans, and one that was not asked for.
    assert [report.verdict for report in reports[:3]] == [
        Verdict.LATE, Verdict.SKIPPED, Verdict.UNREACHED,
    ]  # fmt: skip
    assert (reports[1].hits, reports[2].hits) == (3, 0)
    assert sum(done.totals().values()) == len(known)


def test_kernel_in_which_nothing_could_be_seen_is_refused() -> None:
    config = dict.fromkeys(sweep.REQUIRED, "y")
    sweep.check_kernel("6.1-kasan", config)
    config |= {"CONFIG_PREEMPTION": "n"}
    del config["CONFIG_PERF_EVENTS"]
    with pytest.raises(
        UsageError, match=r"kernel 6\.1-kasan cannot be swept: it has no "
    ) as caught:
        sweep.check_kernel("6.1-kasan", config)
    assert "CONFIG_PERF_EVENTS (events that a breakpoint raises)" in caught.value.message
    assert "CONFIG_PREEMPTION (stopping a task" in caught.value.message
    assert "CONFIG_STACKTRACE" not in caught.value.message


REPORT = """BUG: unable to handle page fault for address: ffffffffa0000045
RIP: 0010:{last}/0x40 [foo, load 1, unloaded]
Call Trace:
 ? {later}/0x40 [foo]
 vfs_write+0x12/0x34
 {last}/0x40 [foo]
 other+0x5/0x6 [bar]
"""


def test_frames_of_a_report_become_plans_the_top_one_first(known: tuple[Point, ...]) -> None:
    last, later = of(known, "first")[-1], of(known, "loop")[3]
    text = REPORT.format(last=last.name, later=later.name)
    plans = sweep.plans_from_report(text, "foo", known, hits=2)
    assert [(plan.role, plan.function, plan.offset, plan.hit) for plan in plans[:5]] == [
        ("*", "first", last.offset, 1), (KERNEL, "first", last.offset, 1),
        ("*", "first", last.offset, 2), (KERNEL, "first", last.offset, 2),
        ("*", "loop", later.offset, 1),
    ]  # fmt: skip
    assert len(plans) == 8


def test_report_of_another_build_is_refused(known: tuple[Point, ...]) -> None:
    with pytest.raises(UsageError, match="no frame that is an instruction of this foo"):
        sweep.plans_from_report(" first+0x3fff/0x4000 [foo]", "foo", known, hits=1)


def test_finding_keeps_the_shortest_plan_that_shows_it(known: tuple[Point, ...]) -> None:
    finding = Finding(Kind.SPLAT, "BUG")
    there = reach(point=known[0])
    plans = [
        Plan("user", known[0].function, known[0].offset, hit, action)
        for hit, action in ((2, Action.DELETE), (1, Action.RELOAD), (1, Action.DELETE))
    ]
    found = [
        sweep.Found(finding, None, None, None, None, 0, by_itself=True),  # type: ignore[arg-type]
        *(sweep.Found(finding, plan, there, None, None, 1) for plan in plans),  # type: ignore[arg-type]
    ]
    for order in itertools.permutations(found):
        kept = sweep.Sweep(None, known)  # type: ignore[arg-type]
        for one in order:
            sweep._keep_shortest(kept, one)
        best = kept.found["BUG"]
        assert (best.plan, best.plans, best.by_itself) == (plans[-1], 3, True)


def profiled(
    monkeypatch: pytest.MonkeyPatch,
    without: set[str],
    *names: str,
    shown: str = "",
    enough: Callable[[sweep.Sweep], bool] = lambda done: False,
) -> tuple[sweep.Sweep, list[str]]:
    """Sweep scenarios of which some do not load the module, and the others do not reach it.

    Returns also those that loaded it.

    Args:
        shown: the scenario that shows something by itself.
    """

    def profile(made: Any, subject: Any, workload: Any, **rest: Any) -> Any:
        if workload.name in without:
            raise NotLoadedError(f"scenario {workload.name}: it did not load the module")
        asked.append(workload.name)
        findings = (Finding(Kind.SPLAT, "oops"),) if workload.name == shown else ()
        return [], None, SimpleNamespace(findings=findings)

    asked: list[str] = []
    monkeypatch.setattr(sweep, "profile", profile)
    module = SimpleNamespace(ko=None, variant="good")
    family = SimpleNamespace(name="m", surfaces={})
    subject = SimpleNamespace(family=family, module=module, target=module)
    made = SimpleNamespace(points=lambda ko: ())
    workloads = [SimpleNamespace(name=name) for name in names]
    done = sweep.run_sweep(
        cast(Any, made), cast(Any, subject), cast(Any, workloads), seed=1, cycles=1, workers=1,
        enough=enough,
    )  # fmt: skip
    return done, asked


def test_scenario_that_does_without_a_module_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, asked = profiled(monkeypatch, {"one"}, "one", "two")
    assert (done.reached, asked) == ((), ["two"])


def test_module_that_no_scenario_loads_cannot_be_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotLoadedError, match="scenario one: it did not load"):
        profiled(monkeypatch, {"one", "two"}, "one", "two")


def test_sweep_ends_with_a_profile_that_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    done, asked = profiled(
        monkeypatch, set(), "one", "two", shown="one", enough=lambda done: bool(done.found)
    )
    assert (asked, list(done.found)) == (["one"], ["oops"])
    assert done.found["oops"].by_itself
    # No plan has shown it yet.
    assert not done.has_planned


def tried(
    monkeypatch: pytest.MonkeyPatch,
    reached: list[Reach],
    comes: Callable[[str, int, Plan], bool],
    given: tuple[Plan, ...] = (),
) -> tuple[sweep.Sweep, list[tuple[str, int, str]]]:
    """A sweep of one point; ``comes`` says in which trials somebody comes to it."""

    def profile(made: Any, subject: Any, workload: Any, **fields: object) -> Any:
        mine = [one for one in reached if one.scenario == workload.name]
        return mine, None, SimpleNamespace(findings=())

    def parked_trial(subject: Any, workload: Any, seed: int, plan: Plan, cycles: Any) -> Any:
        asked.append((workload.name, seed, plan.role))
        return SimpleNamespace(there=comes(workload.name, seed, plan), seed=seed)

    def run_trials(trials: Any, workers: int, stop: Any) -> Any:
        return ((trial, trial) for trial in trials)

    def judge(plan: Plan, there: Reach, result: Any, ko: Any) -> sweep.Outcome:
        kind = Verdict.PROTECTED if result.there else Verdict.UNREACHED
        return sweep.Outcome(plan, there, kind, "", (), 1.0, 0.2, result.seed)

    asked: list[tuple[str, int, str]] = []
    monkeypatch.setattr(sweep, "profile", profile)
    monkeypatch.setattr(sweep.lab, "run_trials", run_trials)
    monkeypatch.setattr(sweep, "judge", judge)
    module = SimpleNamespace(ko=None, variant="good")
    subject = SimpleNamespace(
        family=SimpleNamespace(name="m", surfaces={}), module=module, target=module
    )
    made = SimpleNamespace(points=lambda ko: (ENTRY,), parked_trial=parked_trial)
    names = dict.fromkeys(one.scenario for one in reached)
    done = sweep.run_sweep(
        cast(Any, made), cast(Any, subject),
        cast(Any, [SimpleNamespace(name=name) for name in names]),
        seed=1, cycles=1, workers=1, given=given,
    )  # fmt: skip
    return done, asked


ENTRY = Point(".text", 0, "foo_write", 0, "endbr64")


def test_plan_to_whose_point_nobody_came_is_tried_elsewhere_and_with_other_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = [
        reach(point=ENTRY, scenario="first", order=1),
        reach(point=ENTRY, scenario="second", order=2, role="other"),
        # There the point is part of a load, which is another plan.
        reach(point=ENTRY, scenario="third", order=3, op="finit_module"),
    ]
    done, asked = tried(monkeypatch, reached, lambda name, seed, plan: (name, seed) == ("first", 3))
    assert asked == [
        ("first", 1, "user"), ("second", 1, "other"), ("first", 2, "user"), ("first", 3, "user"),
    ]  # fmt: skip
    (outcome,) = done.outcomes
    assert (outcome.verdict, outcome.reach.scenario) == (Verdict.PROTECTED, "first")
    assert outcome.seed == 3
    assert done.trials == 4
    done, asked = tried(monkeypatch, reached, lambda name, seed, plan: name == "second")
    assert [(one.plan.role, one.reach.scenario) for one in done.outcomes] == [("other", "second")]


def test_point_that_nobody_comes_to_again_is_unreached(monkeypatch: pytest.MonkeyPatch) -> None:
    done, asked = tried(
        monkeypatch, [reach(point=ENTRY, scenario="one")], lambda name, seed, plan: False
    )
    assert [seed for _, seed, _ in asked] == [1, *range(2, 2 + sweep.SEEDS)]
    assert [one.verdict for one in done.outcomes] == [Verdict.UNREACHED]
    assert done.totals()["unreached"] == 1


def test_plan_that_somebody_wrote_keeps_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    done, asked = tried(
        monkeypatch, [reach(point=ENTRY, scenario="one")], lambda name, seed, plan: False,
        given=(Plan("user", "foo_write", 0),),
    )  # fmt: skip
    assert asked == [("one", 1, "user")]
    assert [outcome.verdict for outcome in done.outcomes] == [Verdict.UNREACHED]
