# SPDX-License-Identifier: GPL-2.0-only
"""The sweep: stop a task at every instruction of a module, and see what unload does.

A profiling trial of each scenario says which points it reaches, and who does. Every reached
point then gets a trial of its own, in which the task is held there while the module is unloaded
(or, where init or exit themselves are stopped, while the others go on), and a verdict.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harness import elf, kconfig, lab, points, verdict
from harness.errors import NotLoadedError, UsageError
from harness.lab import Lab, Subject
from harness.plan import REPEATED, REST, Action, Plan
from harness.points import Point
from harness.program import Program
from harness.reach import KERNEL, Reach, core_sections, find_reaches, module_lives
from harness.scenario import Scenario
from harness.trial import Trial, TrialResult
from harness.verdict import Event, Finding

#: Never reached: the profiling trial has a plan too, so that it runs as the others do.
_NEVER: Final = 10**15

#: How often a plan to whose point nobody came is tried again, in other scenarios that come to it
#: and with other seeds. Arming the breakpoint takes its time, so a workload that leaves much to
#: chance goes another way than in its profile; and a callback may come on top of whoever runs then.
ELSEWHERE: Final = 2
SEEDS: Final = 3

#: What a kernel must have, and what for.
REQUIRED: Final[Mapping[str, str]] = {
    "CONFIG_PERF_EVENTS": "events that a breakpoint raises",
    "CONFIG_HAVE_HW_BREAKPOINT": "breakpoints at instructions",
    "CONFIG_PREEMPTION": "stopping a task in the middle of the kernel",
    "CONFIG_STACKTRACE": "seeing where it was stopped",
    "CONFIG_KALLSYMS": "finding where a module's init is called",
    "CONFIG_MODULE_UNLOAD": "unloading",
}

#: What delete_module answers when it refuses.
_REFUSED: Final = ("EAGAIN", "EBUSY")


class Verdict(enum.StrEnum):
    """What became of a point, the worst first."""

    FINDING = "finding"
    #: The task could not be preempted there: interrupts off, a lock held, softirq.
    LATE = "late"
    #: Unload waited for the task, and then both went well.
    WAITED = "waited"
    #: Unload was refused.
    PROTECTED = "protected"
    #: The task had left the module before unload went through.
    GONE = "gone"
    #: Nothing went wrong.
    CLEAN = "clean"
    #: Reached, but nobody asked for it.
    SKIPPED = "skipped"
    UNREACHED = "unreached"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one plan."""

    plan: Plan
    reach: Reach
    verdict: Verdict
    #: Where the task really stopped, or what the unload waited in.
    detail: str
    findings: tuple[Finding, ...]
    wall_s: float
    #: The part of it that went into starting QEMU and restoring the guest.
    restore_s: float
    #: The scenario's; not always that of the sweep, see SEEDS.
    seed: int


@dataclass(frozen=True, slots=True)
class PointReport:
    """A line of the report."""

    point: Point
    hits: int
    verdict: Verdict
    detail: str = ""
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A distinct finding with the shortest plan that shows it."""

    finding: Finding
    #: None where only the scenario shows it, without a plan.
    plan: Plan | None
    reach: Reach | None
    trial: Trial
    result: TrialResult
    #: How many plans have shown it.
    plans: int
    #: The scenario shows it without a plan, too.
    by_itself: bool = False

    @property
    def shortness(self) -> tuple[int, int, int]:
        """A plan is shorter the simpler its action is and the earlier it comes to it.

        None at all comes last: it does not say where to look.
        """
        if self.plan is None or self.reach is None:
            return len(Action), 0, 0
        return list(Action).index(self.plan.action), self.plan.hit, self.reach.order


@dataclass(slots=True)
class Sweep:
    """The state and result of a sweep."""

    subject: Subject
    points: tuple[Point, ...]
    reached: tuple[Reach, ...] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    #: Trials that were run for them: a plan may take several.
    trials: int = 0
    #: How long the plans took in all, several at a time, seconds.
    took_s: float = 0.0
    workers: int = 1
    found: dict[str, Found] = field(default_factory=dict)

    def reports(self) -> list[PointReport]:
        """Return a line for each point, in the order of the file."""
        by_point: dict[Point, list[Outcome]] = {}
        for outcome in self.outcomes:
            by_point.setdefault(outcome.reach.point, []).append(outcome)
        hits: dict[Point, int] = {}
        for reach in self.reached:
            hits[reach.point] = hits.get(reach.point, 0) + reach.hits
        rank = list(Verdict)
        lines = []
        for point in self.points:
            outcomes = sorted(
                by_point.get(point, ()), key=lambda outcome: rank.index(outcome.verdict)
            )
            worst = outcomes[0] if outcomes else None
            without = Verdict.SKIPPED if point in hits else Verdict.UNREACHED
            lines.append(
                PointReport(
                    point,
                    hits.get(point, 0),
                    worst.verdict if worst else without,
                    worst.detail if worst else "",
                    tuple(outcomes),
                )
            )
        return lines

    @property
    def has_planned(self) -> bool:
        """Whether a plan has shown anything, be it what a scenario shows by itself."""
        return any(found.plans for found in self.found.values())

    @property
    def plans_a_minute(self) -> float:
        return 60.0 * len(self.outcomes) / self.took_s if self.took_s else 0.0

    @property
    def restore_share(self) -> float:
        """How much of the trials' time went into starting QEMU and restoring the guest."""
        wall_s = sum(outcome.wall_s for outcome in self.outcomes)
        return sum(outcome.restore_s for outcome in self.outcomes) / wall_s if wall_s else 0.0

    def totals(self) -> dict[str, int]:
        """Return how many points have each verdict."""
        reports = self.reports()
        return {kind.value: sum(report.verdict is kind for report in reports) for kind in Verdict}


def check_kernel(name: str, config: Mapping[str, str]) -> None:
    """Refuse a kernel in which a sweep would see nothing and call that clean.

    Args:
        config: its options (see kconfig.parse).

    Raises:
        UsageError: it lacks something; says what, and what for.
    """
    wanted = kconfig.lacks(config, REQUIRED)
    if wanted:
        raise UsageError(
            f"kernel {name} cannot be swept: it has no {wanted}",
            hint="a fragment of the profile can ask for them; CONFIG_PREEMPT gives preemption",
        )


def run_sweep(
    made: Lab,
    subject: Subject,
    workloads: Sequence[Scenario],
    *,
    seed: int,
    cycles: int | None,
    actions: Sequence[Action] = (),
    hits: int = 1,
    workers: int,
    wanted: Callable[[Reach], bool] = lambda reach: True,
    given: Sequence[Plan] = (),
    enough: Callable[[Sweep], bool] = lambda sweep: False,
    progress: Callable[[str, float | None], None] = lambda what, done: None,
) -> Sweep:
    """Profile the scenarios, then run a trial for every plan.

    Args:
        cycles: how often a scenario goes round, where it can be told.
        actions, hits: see plans_for.
        given: run these plans, in each scenario that has their role, and no others.
        enough: asked after each trial; once it says yes no further one is started.
        wanted: which of the reached points to stop at.

    Raises:
        HarnessError: a trial left no evidence; nothing of the sweep is kept.
    """
    sweep = Sweep(subject, made.points(subject.target.ko), workers=workers)
    if given:
        plans = _given_plans(sweep.points, given, workloads)
    else:
        _profile_all(made, sweep, workloads, seed, cycles, enough, progress)
        two_stage = "unload" in subject.family.surfaces and subject.target is subject.module
        unload = Action.TWO_STAGE if two_stage else Action.DELETE
        plans = [
            (plan, reach)
            for reach in choose(sweep.reached)
            if wanted(reach)
            for plan in plans_for(reach, actions, hits, unload)
        ]
    before = {second: first for first, second in itertools.pairwise(sweep.points)}
    plans.sort(key=lambda item: _suspicion(before, item[1]))
    by_name = {workload.name: workload for workload in workloads}
    started = time.monotonic()
    ended: dict[int, Outcome] = {}

    def run(tries: Sequence[_Try]) -> None:
        trials = _trials(made, subject, tries, by_name, cycles, lambda: enough(sweep))
        again = f", {len(tries)} of them again" if ended else ""
        for one, trial, result in _run_trials(trials, workers):
            outcome = judge(one.plan, one.reach, result, subject.target.ko)
            if one.number not in ended or outcome.verdict is not Verdict.UNREACHED:
                ended[one.number] = outcome
            sweep.trials += 1
            for finding in outcome.findings:
                _keep_shortest(sweep, _found(finding, outcome, trial, result))
            progress(
                f"sweeping {subject.family.name} {subject.module.variant} "
                f"({len(ended)} of {len(plans)} plans{again})",
                len(ended) / len(plans),
            )

    run([_Try(number, *item, seed) for number, item in enumerate(plans)])
    # Of plans that somebody wrote scenario and seed are his to choose, too.
    further = {} if given else {
        number: _further(number, plan, reach, seed, sweep.reached)
        for number, (plan, reach) in enumerate(plans)
    }  # fmt: skip
    while not enough(sweep):
        missed = [number for number, one in ended.items() if one.verdict is Verdict.UNREACHED]
        tries = [further[number].pop(0) for number in missed if further.get(number)]
        if not tries:
            break
        run(tries)
    sweep.took_s = time.monotonic() - started
    sweep.outcomes = sorted(ended.values(), key=lambda outcome: (outcome.reach.point, outcome.plan))
    return sweep


def _profile_all(
    made: Lab, sweep: Sweep, workloads: Sequence[Scenario], seed: int, cycles: int | None,
    enough: Callable[[Sweep], bool], progress: Callable[[str, float | None], None],
) -> None:  # fmt: skip
    """Find out what the scenarios reach, and keep what they show without any plan.

    Raises:
        NotLoadedError: none of them loads the module.
    """
    subject = sweep.subject
    without: list[NotLoadedError] = []
    for workload in workloads:
        name = f"{subject.family.name} {subject.module.variant} {workload.name}"
        progress(f"profiling {name}", None)
        try:
            found, ready, result = profile(made, subject, workload, seed=seed, cycles=cycles)
        except NotLoadedError as error:
            # Of several modules some scenarios do without one.
            without.append(error)
            continue
        sweep.reached += tuple(found)
        for finding in result.findings:
            _keep_shortest(sweep, Found(finding, None, None, ready, result, 0, by_itself=True))
        if enough(sweep):
            break
    if without and len(without) == len(workloads):
        raise without[0]


@dataclass(frozen=True, slots=True)
class _Try:
    """A plan to be carried out in a scenario with a seed."""

    #: Which of the plans that are wanted it is for.
    number: int
    plan: Plan
    reach: Reach
    seed: int


def _further(
    number: int, plan: Plan, reach: Reach, seed: int, reached: Sequence[Reach]
) -> list[_Try]:
    """What else may bring somebody to a plan's point, the likeliest first."""
    others = [
        other
        for other in reached
        if other.point == reach.point
        and other.scenario != reach.scenario
        and other.hits >= plan.hit
        and _in_life(other) == _in_life(reach)
    ]
    elsewhere = [
        _Try(number, dataclasses.replace(plan, role=other.role), other, seed)
        for other in others[:ELSEWHERE]
    ]
    return elsewhere + [_Try(number, plan, reach, seed + step) for step in range(1, 1 + SEEDS)]


def _trials(
    made: Lab, subject: Subject, tries: Sequence[_Try], workloads: Mapping[str, Scenario],
    cycles: int | None, enough: Callable[[], bool],
) -> Iterator[tuple[_Try, Trial]]:  # fmt: skip
    """Each with its trial, until there is enough."""
    refusal: UsageError | None = None
    any_begun = False
    for one in tries:
        if enough():
            return
        workload = workloads[one.reach.scenario]
        try:
            trial = made.parked_trial(subject, workload, one.seed, one.plan, cycles)
        except UsageError as error:
            refusal = error
            continue
        any_begun = True
        yield one, trial
    # A plan may name a role that only some scenarios have.
    if refusal is not None and not any_begun:
        raise refusal


def _run_trials(
    wanted: Iterator[tuple[_Try, Trial]], workers: int
) -> Iterator[tuple[_Try, Trial, TrialResult]]:
    """Run trials side by side; yield each with what it was for as it ends."""
    pending: dict[int, _Try] = {}

    def trials() -> Iterator[Trial]:
        for one, trial in wanted:
            pending[id(trial)] = one
            yield trial

    # They end by themselves once there is enough.
    for trial, result in lab.run_trials(trials(), workers, stop=lambda result: False):
        yield pending.pop(id(trial)), trial, result


def _found(finding: Finding, outcome: Outcome, trial: Trial, result: TrialResult) -> Found:
    if outcome.verdict is Verdict.UNREACHED:
        # Nobody was stopped: it is the scenario's.
        return Found(finding, None, None, trial, result, 0, by_itself=True)
    return Found(finding, outcome.plan, outcome.reach, trial, result, 1)


def _suspicion(before: Mapping[Point, Point], reach: Reach) -> tuple[int, bool, int]:
    """What comes first: entries and returns, then what follows a call, then the rest.

    That is where counts are taken and dropped; the verdicts do not depend on it. Of equals
    the users of a module come before its own init and exit: it is they whom it leaves behind.
    """
    point = reach.point
    if point.offset == 0 or point.text.startswith("ret"):
        rank = 0
    else:
        rank = 1 if before[point].text.startswith("call") else 2
    return rank, _in_life(reach), reach.order


def _given_plans(
    known: Sequence[Point], given: Sequence[Plan], workloads: Sequence[Scenario]
) -> list[tuple[Plan, Reach]]:
    """Plans that somebody wrote, in every scenario, since nobody was asked who gets there."""
    plans = []
    for plan in given:
        point = points.find_point(known, plan.function, plan.offset)
        for order, workload in enumerate(workloads):
            reach = Reach(point, workload.name, plan.role, "", 0, plan.hit, order)
            plans.append((plan, reach))
    return plans


def plans_from_report(text: str, module: str, known: Sequence[Point], hits: int) -> list[Plan]:
    """Plans that stop a task where a kernel's report has a frame in a module.

    A report from anywhere does: its stack says which instructions tasks were at, or would
    have returned to, when it was too late. The nearest to the top comes first.

    Args:
        text: the report, with names where the module was gone (see symbolise).
        hits: how many of the times that a point is reached to stop at.

    Raises:
        UsageError: no frame of it is an instruction of this module.
    """
    frame = re.compile(rf"([A-Za-z_][\w.$]*)\+0x([0-9a-f]+)/0x[0-9a-f]+ \[{re.escape(module)}[\],]")
    spots = {(point.function, point.offset) for point in known}
    found = dict.fromkeys((name, int(offset, 16)) for name, offset in frame.findall(text))
    plans = [
        Plan(role, function, offset, hit)
        for function, offset in found
        if (function, offset) in spots
        for hit in range(1, hits + 1)
        for role in ("*", KERNEL)
    ]
    if not plans:
        raise UsageError(
            f"the report has no frame that is an instruction of this {module}",
            hint="it must come from the same build; a frame reads `function+0x1/0x2 [module]`",
        )
    return plans


def _keep_shortest(sweep: Sweep, found: Found) -> None:
    known = sweep.found.get(found.finding.title)
    if known is not None:
        shortest = min(known, found, key=lambda one: one.shortness)
        found = dataclasses.replace(
            shortest,
            plans=known.plans + found.plans,
            by_itself=known.by_itself or found.by_itself,
        )
    sweep.found[found.finding.title] = found


def profile(
    made: Lab, subject: Subject, workload: Scenario, *, seed: int, cycles: int | None
) -> tuple[list[Reach], Trial, TrialResult]:
    """Return what a scenario reaches, from one trial that QEMU logs, and that trial.

    Raises:
        GuestError: the trial left no evidence.
        NotLoadedError: it did not load the module.
    """
    known = made.points(subject.target.ko)
    # Any point does, nobody gets there so often: but one of code that stays as long as the module.
    stays = dict(core_sections(subject.target.ko))
    spot = next((point for point in known if point.section in stays), known[0])
    never = Plan("*", spot.function, spot.offset, _NEVER)
    ready = made.parked_trial(subject, workload, seed, never, cycles)
    visits, result = made.visits(ready)
    lives = module_lives(verdict.parse_report(result.evidence.report), subject.target.ko)
    if not lives:
        name = subject.target.name
        raise NotLoadedError(f"scenario {workload.name}: it did not load the module {name}")
    program = Program.parse(ready.program)
    reached = find_reaches(visits, lives, subject.target.ko, known, program)
    return reached, ready, result


# ---- which plans --------------------------------------------------------------------------------


def choose(reached: Sequence[Reach]) -> list[Reach]:
    """For each point the scenario that comes to it first, with everybody who does in that one.

    Of a module's init and exit, one in which there are others to run meanwhile.
    """
    best: dict[Point, Reach] = {}
    for reach in reached:
        if reach.point not in best or _rank(reach) < _rank(best[reach.point]):
            best[reach.point] = reach
    return [
        reach
        for reach in reached
        if reach.scenario == best[reach.point].scenario
        and _is_alone(reach) == _is_alone(best[reach.point])
    ]


def _rank(reach: Reach) -> tuple[bool, int]:
    return _is_alone(reach), reach.order


def _is_alone(reach: Reach) -> bool:
    """Whether somebody loads or unloads the module with nobody there to find it."""
    return _in_life(reach) and not reach.company


def _in_life(reach: Reach) -> bool:
    return reach.op in ("finit_module", "delete_module")


def plans_for(
    reach: Reach, actions: Sequence[Action], hits: int = 1, unload: Action = Action.DELETE
) -> list[Plan]:
    """The plans for one point and role.

    Args:
        actions: none means what fits: while a module is loaded or unloaded it can
            be neither, but others may find it, so they run on; else it is unloaded.
        hits: how many of the times that it is reached to stop at.
        unload: how this module is unloaded.
    """
    if not actions:
        actions = [Action.USERS if _in_life(reach) and reach.company else unload]
    return [
        Plan(reach.role, reach.point.function, reach.point.offset, hit, action)
        for action in actions
        for hit in range(1, min(hits, reach.hits) + 1)
    ]


# ---- what became of a plan ----------------------------------------------------------------------


def judge(plan: Plan, reach: Reach, result: TrialResult, ko: Path) -> Outcome:
    """Return a plan's outcome from its trial's result."""
    by_name = {event["ev"]: event for event in verdict.parse_report(result.evidence.report)}
    kind, detail = _judge(by_name, plan.action, reach.point, ko)
    # What a scenario shows where nobody was stopped is none of the plan's.
    if result.findings and "parked" in by_name:
        # That a task was inside is what the sweep alone can say.
        inside = [one for one in result.findings if one.kind is verdict.Kind.INSIDE]
        kind, detail = Verdict.FINDING, (inside or result.findings)[0].title
    restore_s = result.evidence.restore_s
    seed = result.spec.seed
    return Outcome(plan, reach, kind, detail, result.findings, result.wall_s, restore_s, seed)


def _judge(events: dict[str, Event], action: Action, point: Point, ko: Path) -> tuple[Verdict, str]:
    parked, ended = events.get("parked"), events.get("let-go")
    if parked is None or ended is None:
        return Verdict.UNREACHED, ""
    stopped = stopped_at(parked, point, ko)
    if stopped is not None:
        return Verdict.LATE, stopped
    if ended["gave_way"]:
        waited = frames(ended.get("waited_in", ""))
        return Verdict.WAITED, f"in {waited[0].partition('+')[0]}" if waited else ""
    said: dict[str, str] = ended["answers"]
    answers = [answer for place, answer in said.items() if not place.startswith(REST)]
    if action in REPEATED:
        # The last try counts.
        answers = answers[-1:]
    if any(answer in _REFUSED for answer in answers):
        return Verdict.PROTECTED, ""
    if "ENOENT" in answers or not ended["held"]:
        return Verdict.GONE, ""
    return Verdict.CLEAN, ""


def frames(stack: str) -> list[str]:
    """Frames of /proc/PID/stack: ``function+0x1/0x2 [module]``."""
    return re.findall(r"^\[<0>\] (.+)$", stack, re.MULTILINE)


def stopped_at(parked: Event, point: Point, ko: Path) -> str | None:
    """Return where a task was stopped instead of at a point; None if it was there.

    A task that is preempted at an instruction stands below the interrupt that did
    it; one that could not be preempted at once stands in what enabled that again.
    """
    listed = frames(parked.get("stack", ""))
    for above, frame in itertools.pairwise(listed):
        if above.startswith("asm_"):
            if _is_at(frame, parked, point, ko):
                return None
            return f"stopped in {frame}"
    if listed:
        return f"stopped in {listed[0]}"
    # A callback that interrupts a processor without work, for one.
    return f"interrupted {parked.get('thread', 'a task')}"


def _is_at(frame: str, parked: Event, point: Point, ko: Path) -> bool:
    """Whether a frame is the point's address, whatever function it is named after.

    The kernel names a return address, so that the first one of a function is the end
    of the one before, which may lie in another section, or has no name at all.
    """
    address = int(str(parked["ip"]), 0)
    if frame == f"0x{address:016x}":
        return True
    match = re.fullmatch(r"(.+)\+(0x[0-9a-f]+)/(0x[0-9a-f]+) \[\S+\]", frame)
    if match is None:
        return False
    file = elf.load(ko)
    starts = dict(core_sections(ko))
    base = int(str(parked["section_at"]), 0) - starts.get(point.section, 0)
    for symbol in file.by_name.get(match[1], ()):
        section = file.sections[symbol.section].name
        comparable = section == point.section or {section, point.section} <= set(starts)
        at = base + starts.get(section, 0) + symbol.value + int(match[2], 16)
        if comparable and at == address:
            return True
        # Where sections lie to each other is not known of init: the end of one comes before it.
        ends = match[2] == match[3] and symbol == file.by_section[symbol.section][-1]
        if not comparable and ends and not point.value:
            return True
    return False
