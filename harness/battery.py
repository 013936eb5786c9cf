# SPDX-License-Identifier: GPL-2.0-only
"""The battery: what ``harness check`` puts a module through, test by test.

A test is a name and a function that yields what it found; it runs trials through
its :class:`Bench`, which learns the module's surfaces once and keeps a bundle of
every trial with a finding. A test of another kind (a sweep of failures, a scan of
memory) is one more :class:`Test` in :data:`TESTS`.
"""

from __future__ import annotations

import dataclasses
import enum
import fnmatch
import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness import catalogue, elf, kconfig, lab, modules, surfaces, sweep, verdict, workloads
from harness.checkfile import CheckFile
from harness.errors import HarnessError, NotLoadedError, UsageError
from harness.lab import Lab, Subject
from harness.machine import Lane
from harness.modules import Family
from harness.report import Progress, replay_command
from harness.scenario import Scenario
from harness.surfaces import Surface
from harness.trial import Trial, TrialResult
from harness.verdict import Event, Finding
from harness.workloads import Group

SCHEMA: Final = "kmod-harness/check/1"

#: Parameters that are tried at their boundaries.
_MAX_PARAMETERS: Final = 12
#: A test that has found so many different things starts no further trial.
_ENOUGH: Final = 4
#: Of each race, where nobody says how many.
SEEDS: Final = 2
_CYCLES: Final = 10
_LEAK_TURNS: Final = 3
_TURNS: Final = 6


class Outcome(enum.StrEnum):
    """What became of a test."""

    PASS = "pass"
    FINDING = "finding"
    #: The harness failed: nothing is known of the module.
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Found:
    """A finding of a test, and where the trial is kept that showed it."""

    finding: Finding
    bundle: Path | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a test."""

    name: str
    about: str
    outcome: Outcome
    found: tuple[Found, ...] = ()
    #: Why it was skipped, what the harness' trouble was, or what was left out.
    why: str = ""
    trials: int = 0
    wall_s: float = 0.0

    def record(self) -> dict[str, Any]:
        """Return it as it stands in a JSON document."""
        return {
            "name": self.name,
            "about": self.about,
            "verdict": self.outcome.value,
            "why": self.why or None,
            "trials": self.trials,
            "wall_s": round(self.wall_s, 3),
            "findings": [
                {
                    "kind": one.finding.kind.value,
                    "title": one.finding.title,
                    "bundle": None if one.bundle is None else str(one.bundle),
                    "replay": None if one.bundle is None else replay_command(one.bundle),
                }
                for one in self.found
            ],
        }


class Skipped(Exception):
    """A test does not apply; the text says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """One trial of a test."""

    plan: Scenario
    seed: int = 1
    lane: Lane = Lane.DET
    #: What the trial's findings are called in this test.
    name: Callable[[TrialResult], tuple[Finding, ...]] = lambda result: result.findings


@dataclass(frozen=True, slots=True)
class Options:
    """How much is done."""

    kernel: str
    profile: str
    lanes: tuple[Lane, ...]
    seeds: int
    workers: int
    bundles: Path
    variant: str = modules.GOOD


@dataclass(frozen=True, slots=True)
class Learned:
    """What the first trials have shown."""

    surfaces: tuple[Surface, ...]
    found: tuple[Found, ...]
    #: Why nothing else can be tried, or nothing.
    stop: str = ""
    #: Things that a survey found and could not tell.
    cut: int = 0


class Bench:
    """One module on the bench: what tests run their trials through."""

    def __init__(
        self, made: Lab, family: Family, settings: CheckFile, options: Options, progress: Progress
    ) -> None:
        self.made = made
        self.family = family
        self.settings = settings
        self.options = options
        self.progress = progress
        #: Trials run for the test under way.
        self.trials = 0
        #: Remarks on what the test under way has left out.
        self.remarks: list[str] = []
        #: Filled by the failure sweep.
        self.fail_sites: list[dict[str, Any]] = []
        self._known = tuple(re.compile(pattern) for pattern in settings.known)

    @property
    def around(self) -> workloads.Around:
        return self.settings.around

    @property
    def det(self) -> bool:
        return Lane.DET in self.options.lanes

    @property
    def lane(self) -> Lane:
        """Where a test runs that one lane is enough for."""
        return Lane.DET if self.det else Lane.SMP

    def subject(self, lane: Lane | None = None) -> Subject:
        """Return the module, compiled, in a lane."""
        return self.made.subject(
            str(self.family.folder), self.options.variant, self.options.kernel,
            self.options.profile, lane or self.lane,
        )  # fmt: skip

    @functools.cached_property
    def module(self) -> modules.Module:
        return self.subject().module

    @functools.cached_property
    def modinfo(self) -> tuple[tuple[str, str], ...]:
        """Every field of the module's modinfo, repeated ones too."""
        return modules.modinfo_fields(self.module.ko)

    @functools.cached_property
    def learned(self) -> Learned:
        """What the module exposes, learned by loading it once."""
        return _learn(self)

    @property
    def surfaces(self) -> tuple[Surface, ...]:
        """What the module exposes.

        Raises:
            Skipped: it does not come so far that it could be used.
        """
        if self.learned.stop:
            raise Skipped(self.learned.stop)
        return self.learned.surfaces

    def groups(self) -> tuple[Group, ...]:
        """Return what can be used; skips the test where there is nothing."""
        found = workloads.groups(self.surfaces)
        if not found and not self.around.use:
            raise Skipped("it exposes nothing that a workload is known for")
        return found

    def run(self, cases: Iterable[Case]) -> Iterator[Found]:
        """Run trials, several at a time; yield what is found, each title once.

        Raises:
            HarnessError: the harness, not the module, failed.
        """
        seen: set[str] = set()
        for case, trial, result in self.results(cases, stop=lambda result: len(seen) >= _ENOUGH):
            named = tuple(one for one in case.name(result) if not self.is_known(one))
            if not named:
                continue
            path = self.keep(trial, result)
            for finding in named:
                if finding.title not in seen:
                    seen.add(finding.title)
                    yield Found(finding, path)

    def results(
        self,
        cases: Iterable[Case],
        stop: Callable[[TrialResult], bool] = lambda result: False,
    ) -> Iterator[tuple[Case, Trial, TrialResult]]:
        """Run trials, several at a time, and yield what became of each."""
        owner: dict[int, Case] = {}

        def ready() -> Iterator[Trial]:
            for case in cases:
                trial = self.made.trial(self.subject(case.lane), case.plan, case.seed)
                owner[id(trial)] = case
                yield trial

        for trial, result in lab.run_trials(ready(), self.options.workers, stop=stop):
            self.trials += 1
            yield owner[id(trial)], trial, result

    def keep(self, trial: Trial, result: TrialResult) -> Path | None:
        """Write the bundle of a trial that has findings."""
        subject = self.subject(trial.spec.lane)
        return catalogue.keep(self.made, subject, trial, result, self.options.bundles)

    def is_known(self, finding: Finding) -> bool:
        """Return whether the module's harness.yaml says that it is no finding."""
        return any(pattern.fullmatch(finding.title) for pattern in self._known)


@dataclass(frozen=True, slots=True)
class Test:
    """One test of the battery."""

    __test__ = False

    name: str
    about: str
    run: Callable[[Bench], Iterable[Found]]
    #: Only on demand: named with ``--only``, or by an option of its own.
    extra: bool = False


def run_test(bench: Bench, test: Test) -> Result:
    """Run one test to its end; the harness' own trouble becomes its outcome."""
    started = time.monotonic()
    bench.trials, bench.remarks = 0, []

    def result(outcome: Outcome, found: Sequence[Found] = (), why: str = "") -> Result:
        wall_s = time.monotonic() - started
        return Result(test.name, test.about, outcome, tuple(found), why, bench.trials, wall_s)

    if test.name in bench.settings.skip:
        return result(Outcome.SKIPPED, why=f"harness.yaml: {bench.settings.skip[test.name]}")
    bench.progress(f"{bench.family.name}: {test.name}", None)
    found: list[Found] = []
    try:
        found += test.run(bench)
    except Skipped as reason:
        return result(Outcome.SKIPPED, why=str(reason))
    except UsageError:
        # The same for every test: whoever asked has to act.
        raise
    except HarnessError as error:
        return result(Outcome.ERROR, found, str(error))
    why = "; ".join(bench.remarks)
    return result(Outcome.FINDING if found else Outcome.PASS, found, why)


def choose(only: Sequence[str], *, sweep_too: bool) -> tuple[Test, ...]:
    """Return the tests that were asked for.

    Args:
        only: names or patterns; nothing for all that run by default.

    Raises:
        UsageError: a pattern fits none.
    """
    for pattern in only:
        if not any(fnmatch.fnmatchcase(test.name, pattern) for test in TESTS):
            known = ", ".join(test.name for test in TESTS)
            raise UsageError(f"no test is called {pattern!r}; there are: {known}")
    return tuple(
        test
        for test in TESTS
        if (any(fnmatch.fnmatchcase(test.name, pattern) for pattern in only)
            if only else not test.extra or (sweep_too and test.name == "sweep"))
    )  # fmt: skip


def _answers(events: Iterable[Event], op: str) -> Counter[str]:
    """Count what an op answered, wherever it was called."""
    sums: Counter[str] = Counter()
    for event in events:
        if event["ev"] == "errnos" and event["op"] == op and not event["where"].startswith("needs"):
            sums.update(event["counts"])
    return sums


def _learn(bench: Bench) -> Learned:
    plan = workloads.survey(bench.around)
    try:
        ((_, trial, result),) = bench.results([Case(plan, lane=bench.lane)])
    except NotLoadedError:
        return Learned((), (), "it does not load here, which harness.yaml says is fine")
    events = verdict.parse_report(result.evidence.report)
    findings, stop = name_load(result.findings, events, bench.module)
    found = _kept(bench, trial, result, findings)
    learned = Learned(surfaces.learn(events), found, stop, surfaces.left_out(events))
    if stop:
        return learned
    filesystems = [one for one in learned.surfaces if one.kind is surfaces.Kind.FILESYSTEM]
    more = [Case(workloads.survey_mounted(bench.around, one), lane=bench.lane)
            for one in filesystems]  # fmt: skip
    seen = {(one.kind, one.name): one for one in learned.surfaces}
    for _, trial, result in bench.results(more):
        events = verdict.parse_report(result.evidence.report)
        for surface in surfaces.learn(events, "mounted"):
            seen.setdefault((surface.kind, surface.name), surface)
        found += _kept(bench, trial, result, result.findings)
    return dataclasses.replace(learned, surfaces=tuple(seen.values()), found=found)


def _kept(
    bench: Bench, trial: Trial, result: TrialResult, findings: Iterable[Finding]
) -> tuple[Found, ...]:
    wanted = [finding for finding in findings if not bench.is_known(finding)]
    path = bench.keep(trial, result) if wanted else None
    return tuple(Found(finding, path) for finding in wanted)


def name_load(
    findings: tuple[Finding, ...], events: Sequence[Event], module: modules.Module
) -> tuple[tuple[Finding, ...], str]:
    """Return the findings of a module's first load, and why nothing else can be tried.

    What stays behind because the module cannot be unloaded is no finding of its own.
    """
    names = {event["ev"] for event in events}
    loaded = _answers(events, "finit_module")
    unloaded = _answers(events, "delete_module")
    stuck = [finding.title for finding in findings if finding.kind is verdict.Kind.HANG]
    if not has_exit(module) and unloaded["EBUSY"] and not unloaded["ok"]:
        title = f"cannot be unloaded: {module.name} has no exit function"
        kept = tuple(
            finding
            for finding in findings
            if finding.kind not in (verdict.Kind.RESIDUE, verdict.Kind.ERRNO)
        )
        return (Finding(verdict.Kind.ERRNO, title), *kept), title
    if stuck:
        return findings, f"see load: {stuck[0]}"
    if "end" not in names:
        first = findings[0].title if findings else "the guest did not reach the end"
        return findings, f"see load: {first}"
    if not loaded["ok"]:
        said = ", ".join(loaded) or "nothing"
        return findings, f"it does not load: finit_module returned {said}"
    if not unloaded["ok"]:
        said = ", ".join(unloaded) or "nothing"
        return findings, f"it cannot be unloaded: delete_module returned {said}"
    return findings, ""


def has_exit(module: modules.Module) -> bool:
    """Return whether a module has an exit function; without one it stays for ever."""
    return "cleanup_module" in elf.load(module.ko).by_name


def _load(bench: Bench) -> Iterable[Found]:
    yield from bench.learned.found
    if bench.learned.stop and not bench.learned.found:
        raise Skipped(bench.learned.stop)
    if bench.learned.stop.startswith("it does not load"):
        bench.remarks.append("parameters that it needs can stand in a harness.yaml")
    if bench.learned.cut:
        bench.remarks.append(f"{bench.learned.cut} things that it brings are not listed")
    for surface, why in workloads.not_used(bench.learned.surfaces):
        if why.startswith("beyond"):
            continue
        bench.remarks.append(f"{surface.kind.value} {surface.name} is not used: {why}")


def _simple(make: Callable[[workloads.Around], Scenario]) -> Callable[[Bench], Iterable[Found]]:
    """Return a test of one trial."""

    def run(bench: Bench) -> Iterable[Found]:
        _ = bench.surfaces
        return bench.run([Case(make(bench.around), lane=bench.lane)])

    return run


def _cycles(bench: Bench) -> Iterable[Found]:
    _ = bench.surfaces
    return bench.run([Case(workloads.cycles(bench.around, _CYCLES), 1, bench.lane)])


def _use(bench: Bench) -> Iterable[Found]:
    groups = bench.groups()
    return bench.run(
        Case(workloads.use(bench.around, groups, seed), seed, bench.lane)
        for seed in range(1, 1 + bench.options.seeds)
    )


def _leaks(bench: Bench) -> Iterable[Found]:
    groups = workloads.groups(bench.surfaces)
    kernel = bench.made.kernel(bench.options.kernel, bench.options.profile)
    if "kmemleak" not in kernel.detectors:
        raise Skipped("the kernel cannot tell leaked memory")
    # Only seed 0 looks for it: see Lab.trial.
    plan = workloads.use(bench.around, groups, 0, turns=_LEAK_TURNS, leaks=True)
    return bench.run([Case(plan, 0, bench.lane)])


def _parameters(bench: Bench) -> Iterable[Found]:
    _ = bench.surfaces
    kinds = [value.partition(":")[::2] for name, value in bench.modinfo if name == "parmtype"]
    if not kinds:
        raise Skipped("it has no parameters")
    if len(kinds) > _MAX_PARAMETERS:
        rest = ", ".join(name for name, _ in kinds[_MAX_PARAMETERS:])
        bench.remarks.append(f"not tried: {rest}")
    return bench.run(
        Case(workloads.parameter(bench.around, name, kind), 1, bench.lane,
             functools.partial(name_parameter, name))
        for name, kind in kinds[:_MAX_PARAMETERS]
    )  # fmt: skip


def name_parameter(name: str, result: TrialResult) -> tuple[Finding, ...]:
    """Return findings with the parameter that a wrong errno was answered to."""
    return tuple(
        dataclasses.replace(one, title=f"{one.title} (parameter {name})")
        if one.kind in (verdict.Kind.ERRNO, verdict.Kind.HANG)
        else one
        for one in result.findings
    )


def _signals(bench: Bench) -> Iterable[Found]:
    _ = bench.surfaces
    return bench.run(
        Case(workloads.signals(bench.around, signal), seed, bench.lane)
        for signal in ("USR1", "KILL")
        for seed in range(1, 1 + bench.options.seeds)
    )


def _dependents(bench: Bench) -> Iterable[Found]:
    _ = bench.surfaces
    needed = [one.name for one in bench.module.needs]
    if not needed:
        raise Skipped("it needs no other module")
    return bench.run([Case(workloads.dependents(bench.around, needed), lane=bench.lane)])


def _contract(bench: Bench) -> Iterable[Found]:
    pinning = [one for one in bench.surfaces if one.kind in workloads.PINNING]
    if not pinning:
        raise Skipped("nothing that it exposes must keep it from being unloaded")
    return bench.run(
        Case(workloads.held(bench.around, one), 1, bench.lane,
             functools.partial(name_contract, one))
        for one in pinning
    )  # fmt: skip


#: A finding of the contract by the op that shows it.
_IN_USE: Final = "unloaded while in use: delete_module succeeded"


def name_contract(surface: Surface, result: TrialResult) -> tuple[Finding, ...]:
    """Return the findings of a trial that held one surface, in the words of the contract."""
    events = verdict.parse_report(result.evidence.report)
    took = "mount" if surface.kind is surfaces.Kind.FILESYSTEM else "open"
    what = f"a mount of {surface.name}" if took == "mount" else surface.name
    # An oops takes the sums with it; then nobody can say that it was not held.
    sums = _answers(events, took)
    if sums and not sums["ok"]:
        return tuple(finding for finding in result.findings if finding.title != _IN_USE)
    named = []
    for finding in result.findings:
        title = finding.title
        if title == _IN_USE:
            verb = "there" if took == "mount" else "open"
            title = f"missing owner: {what} can be {verb} while its module is unloaded"
        elif re.fullmatch(r"errno: delete_module returned (EAGAIN|EBUSY)", title):
            title = f"still in use after the last release of {what}"
        named.append(dataclasses.replace(finding, title=title))
    # The cause before the crash that it leads to.
    return tuple(sorted(named, key=lambda finding: not finding.title.startswith("missing owner")))


def _files(bench: Bench) -> Iterable[Found]:
    several = [one for one in workloads.groups(bench.surfaces) if one.kind in surfaces.FILES]
    if not several:
        raise Skipped("it has no files in sysfs, debugfs, procfs or sysctl")
    return bench.run(
        Case(workloads.held_files(bench.around, one), 1, bench.lane,
             functools.partial(name_files, one))
        for one in several
    )  # fmt: skip


def name_files(group: Group, result: TrialResult) -> tuple[Finding, ...]:
    """Return the findings of a trial that held files which must not pin their module."""
    refused = r"errno: delete_module returned (EAGAIN|EBUSY)"
    named = [
        dataclasses.replace(one, title=f"an open {group.kind.value} keeps the module from going")
        if re.fullmatch(refused, one.title)
        else one
        for one in result.findings
    ]
    events = verdict.parse_report(result.evidence.report)
    # The reads of this scenario come after its first unload, which may have been refused.
    first = next((one for one in events if one["ev"] == "errnos" and one["op"] == "delete_module"
                  and one["where"] == workloads.FIRST_UNLOAD), None)  # fmt: skip
    if first and first["counts"].get("ok") and _answers(events, "pread")["ok"]:
        title = f"an open {group.kind.value} still answers when its module has gone"
        named.append(Finding(verdict.Kind.DATA, title))
    return tuple(named)


def _users(bench: Bench) -> Iterable[Found]:
    groups = bench.groups()
    return bench.run(
        Case(workloads.users(bench.around, f"users-{group.name}", [group], seed, _TURNS), seed,
             bench.lane)
        for seed in range(1, 1 + bench.options.seeds)
        for group in groups
    )  # fmt: skip


#: Groups that use a module at the same time.
_CROWD: Final = 8


def _crowd(bench: Bench) -> Iterable[Found]:
    groups = bench.groups()[:_CROWD]
    return bench.run(
        Case(workloads.users(bench.around, "crowd", groups, seed, _TURNS), seed, lane)
        for lane in bench.options.lanes
        for seed in range(1, 1 + 2 * bench.options.seeds)
    )


def _sweep(bench: Bench) -> Iterable[Found]:
    if not bench.det:
        raise Skipped("a task can be stopped at an instruction in the det lane only")
    groups = bench.groups()
    subject = bench.subject(Lane.DET)
    kernel = bench.made.kernel(subject.kernel, subject.profile)
    config = kconfig.parse((kernel.build / ".config").read_text())
    sweep.check_kernel(f"{kernel.name}-{kernel.profile}", config)
    done = sweep.run_sweep(
        bench.made,
        subject,
        [workloads.users(bench.around, f"sweep-{one.name}", [one], 1, 1) for one in groups],
        seed=1,
        cycles=None,
        workers=bench.options.workers,
        progress=bench.progress,
    )
    bench.trials += len(done.outcomes)
    for found in done.found.values():
        if not bench.is_known(found.finding):
            yield Found(found.finding, bench.keep(found.trial, found.result))


TESTS: Final = (
    Test("load", "Load, look what has come, unload: nothing is left, nothing is said.", _load),
    Test("unload-absent", "Unload what is not loaded: ENOENT.",
         _simple(workloads.unload_absent)),
    Test("load-twice", "A second load: EEXIST, and the first is none the worse.",
         _simple(workloads.load_twice)),
    Test("cycles", f"{_CYCLES} lives with nobody there: nothing is left.", _cycles),
    Test("parameters", "Each parameter at its boundaries: it loads, or says why not.", _parameters),
    Test("signals", "Signals during load and unload.", _signals),
    Test("dependents", "What it needs cannot go before it.", _dependents),
    Test("use", "Each surface is used, then the module goes.", _use),
    Test("contract", "While a device is open or a filesystem mounted, unload is refused.",
         _contract),
    Test("files", "Open files of sysfs, debugfs, procfs: harmless when the module has gone.",
         _files),
    Test("users", "Users of each surface against unload.", _users),
    Test("crowd", "Users of all surfaces at once against unload.", _crowd),
    Test("leaks", f"{_LEAK_TURNS} lives with users: no leaked memory.", _leaks),
    Test("sweep", "Unload under every instruction that users reach (--sweep).", _sweep,
         extra=True),
)  # fmt: skip

#: What a ``harness.yaml`` may leave out.
NAMES: Final = tuple(test.name for test in TESTS)


@dataclass(frozen=True, slots=True)
class Checked:
    """A module that went through the battery."""

    module: str
    kernel: str
    profile: str
    release: str
    results: tuple[Result, ...]
    surfaces: tuple[Surface, ...]
    fail_sites: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)

    @property
    def errors(self) -> bool:
        return any(result.outcome is Outcome.ERROR for result in self.results)

    @property
    def findings(self) -> bool:
        return any(result.outcome is Outcome.FINDING for result in self.results)

    def document(self) -> dict[str, Any]:
        """Return it as a JSON document."""
        return {
            "schema": SCHEMA,
            "module": self.module,
            "kernel": self.kernel,
            "profile": self.profile,
            "release": self.release,
            "tests": [result.record() for result in self.results],
            "surfaces": [surface.record() for surface in self.surfaces],
            "fail_sites": [dict(site) for site in self.fail_sites],
        }


def run_battery(
    bench: Bench, tests: Sequence[Test], each: Callable[[Result], None] = lambda result: None
) -> Checked:
    """Run tests one after another; ``each`` is told the result of every one.

    Raises:
        HarnessError: the module cannot be built, or there is no kernel.
    """
    kernel = bench.made.kernel(bench.options.kernel, bench.options.profile)
    there = [one.name for one in bench.module.everything]
    for name in bench.around.load_first:
        if name not in there:
            raise UsageError(
                f"harness.yaml: load_first: no module is called {name!r}; "
                f"there are: {', '.join(there)}"
            )
    results = []
    for test in tests:
        result = run_test(bench, test)
        results.append(result)
        each(result)
    return Checked(
        module=bench.family.name,
        kernel=bench.options.kernel,
        profile=bench.options.profile,
        release=kernel.release,
        results=tuple(results),
        surfaces=_surfaces_seen(bench),
        fail_sites=tuple(bench.fail_sites),
    )


def _surfaces_seen(bench: Bench) -> tuple[Surface, ...]:
    # Only if a test has asked for them: a load of its own is a trial that nobody wanted.
    learned = bench.__dict__.get("learned")
    return learned.surfaces if isinstance(learned, Learned) else ()
