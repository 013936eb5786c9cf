# SPDX-License-Identifier: GPL-2.0-only
"""The battery: what ``harness check`` puts a module through, test by test.

A test is a name and a function that yields what it found; it runs trials through
its :class:`~harness.bench.Bench`, which learns the module's surfaces once and keeps
a bundle of every trial with a finding. A test of another kind is one more :class:`Test` in
:data:`TESTS`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from harness import growth, kernels, surfaces, sweeptests, uses, verdict, workloads
from harness.bench import CYCLES, Bench, Case, Found, Learned, Outcome, Result, Skipped, answers
from harness.errors import HarnessError, UsageError
from harness.scenario import Scenario
from harness.surfaces import Surface
from harness.trial import TrialResult
from harness.uses import Group
from harness.verdict import Finding

SCHEMA: Final = "kmod-harness/check/1"

#: Parameters that are tried at their boundaries.
_MAX_PARAMETERS: Final = 12
#: Of each race, where nobody says how many.
SEEDS: Final = 2
_LEAK_TURNS: Final = 3
_TURNS: Final = 6


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


def _load(bench: Bench) -> Iterable[Found]:
    yield from bench.learned.found
    if bench.learned.stop and not bench.learned.found:
        raise Skipped(bench.learned.stop)
    if bench.learned.stop.startswith("it does not load"):
        bench.remarks.append(
            "parameters that it needs can stand in a harness.yaml: `harness init` writes one"
        )
    if bench.learned.cut:
        bench.remarks.append(f"{bench.learned.cut} things that it brings are not listed")
    for surface, why in uses.not_used(bench.learned.surfaces):
        if why.startswith("beyond"):
            continue
        bench.remarks.append(f"{surface.kind.value} {surface.name} is not used: {why}")
    bench.remarks += bench.learned.remarks


def _simple(make: Callable[[workloads.Around], Scenario]) -> Callable[[Bench], Iterable[Found]]:
    """Return a test of one trial."""

    def run(bench: Bench) -> Iterable[Found]:
        _ = bench.surfaces
        return bench.run([Case(make(bench.around), lane=bench.lane)])

    return run


def _cycles(bench: Bench) -> Iterable[Found]:
    _ = bench.surfaces
    return bench.run([Case(workloads.cycles(bench.around, bench.options.cycles), 1, bench.lane)])


def _use(bench: Bench) -> Iterable[Found]:
    groups = bench.groups()
    return bench.run(
        Case(workloads.use(bench.around, groups, seed), seed, bench.lane)
        for seed in range(1, 1 + bench.options.seeds)
    )


def _leaks(bench: Bench) -> Iterable[Found]:
    groups = uses.groups(bench.surfaces)
    kernel = bench.made.kernel(bench.options.kernel, bench.options.profile)
    if "kmemleak" not in kernel.detectors:
        raise Skipped("the kernel cannot tell leaked memory")
    # Only seed 0 looks for it: see Lab.trial.
    plan = workloads.use(bench.around, groups, 0, name="leaks", turns=_LEAK_TURNS, leaks=True)
    return bench.run([Case(plan, 0, bench.lane)])


def _growth(bench: Bench) -> Iterable[Found]:
    # What has grown once may be no more than the slab that a cache had at hand each time: it is
    # told when it grows as much in twice as many lives, too.
    first = _counted(bench, growth.LIVES, told=lambda finding: not growth.is_growth(finding.title))
    if first.found or not first.held_back:
        return first.found
    return _counted(bench, 2 * growth.LIVES).found


@dataclass(frozen=True, slots=True)
class _Counted:
    """What a guest that counts its memory has shown."""

    found: tuple[Found, ...]
    #: Some of its findings are not among those.
    held_back: bool


def _counted(
    bench: Bench, lives: int, told: Callable[[Finding], bool] = lambda finding: True
) -> _Counted:
    """Count memory three times, after so many lives each.

    Raises:
        Skipped: the guest has not counted it as often.
    """
    groups = uses.groups(bench.surfaces)
    plan = workloads.use(
        bench.around, groups, 1, name="growth", turns=lives * growth.COUNTS,
        after=[growth.count_step(lives)],
    )  # fmt: skip
    counted: list[int] = []
    shown: list[Finding] = []

    def name(result: TrialResult) -> tuple[Finding, ...]:
        counted.append(len(growth.read_counts(result.evidence.console)))
        shown.extend(result.findings)
        return tuple(filter(told, result.findings))

    found = tuple(bench.run([Case(plan, 1, bench.lane, name)]))
    if not shown and counted != [growth.COUNTS]:
        raise Skipped(f"the guest counted its memory {sum(counted)} times of {growth.COUNTS}")
    return _Counted(found, held_back=not all(map(told, shown)))


def _parameters(bench: Bench) -> Iterable[Found]:
    _ = bench.surfaces
    kinds = [value.partition(":")[::2] for name, value in bench.modinfo if name == "parmtype"]
    if not kinds:
        raise Skipped("it has no parameters")
    if len(kinds) > _MAX_PARAMETERS:
        rest = ", ".join(name for name, _ in kinds[_MAX_PARAMETERS:])
        bench.remarks.append(f"not tried: {rest}")
    tried = kinds[:_MAX_PARAMETERS]
    cases = [
        Case(workloads.parameter(bench.around, name, kind), 1, bench.lane,
             functools.partial(name_parameter, name))
        for name, kind in tried
    ]  # fmt: skip
    cases += [
        Case(workloads.parameter(bench.around, name, kind, huge=True), 1, bench.lane,
             functools.partial(name_huge, bench, name))
        for name, kind in tried
        if workloads.has_huge_values(kind)
    ]  # fmt: skip
    return bench.run(cases)


#: What becomes of a guest without memory.
_NO_MEMORY: Final = re.compile(r".*([Oo]ut of memory|deadlocked on memory|page allocation).*")


def name_huge(bench: Bench, name: str, result: TrialResult) -> tuple[Finding, ...]:
    """Return findings of loads with huge numbers: to do as much as one was told to is none."""
    found = name_parameter(name, result)
    busy = any(one.kind is verdict.Kind.HANG for one in found)
    full = any(_NO_MEMORY.fullmatch(one.title) for one in found)
    if not busy and not full:
        return found
    why = "had no memory left" if full else "had not ended when time was over"
    bench.remarks.append(f"{name}: a load with a huge number {why}")
    # Nor is what comes of being interrupted in it.
    consequences = (verdict.Kind.HANG, verdict.Kind.ERRNO, verdict.Kind.RESIDUE)
    return tuple(
        one for one in found if one.kind not in consequences and not _NO_MEMORY.fullmatch(one.title)
    )


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
    above = [one for one in bench.surfaces if one.kind is surfaces.Kind.DEPENDENT]
    needed = [one.name for one in bench.module.needs]
    if not needed and not above:
        raise Skipped("it needs no other module, and none is known to need it")
    if bench.not_loaded:
        bench.remarks.append(f"not loaded, though they need it: {', '.join(bench.not_loaded)}")
    plans = [workloads.dependents(bench.around, needed)] if needed else []
    plans += [
        workloads.needed_by(bench.around, one, may_refuse=one.name in bench.above) for one in above
    ]
    return bench.run(Case(plan, lane=bench.lane) for plan in plans)


def _forced(bench: Bench) -> Iterable[Found]:
    _ = bench.surfaces
    kernel = bench.made.kernel(bench.options.kernel, bench.options.profile)
    if kernels.read_config(kernel).get("CONFIG_MODULE_FORCE_UNLOAD") != "y":
        raise Skipped("the kernel lacks CONFIG_MODULE_FORCE_UNLOAD")
    return bench.run([Case(workloads.forced(bench.around), lane=bench.lane)])


def _contract(bench: Bench) -> Iterable[Found]:
    pinning = [one for one in bench.surfaces if uses.must_pin(one)]
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
    took, what, state = uses.held_by(surface)
    # An oops takes the sums with it; then nobody can say that it was not held.
    sums = answers(events, took)
    if sums and not sums["ok"]:
        return tuple(finding for finding in result.findings if finding.title != _IN_USE)
    named = []
    for finding in result.findings:
        title = finding.title
        if title == _IN_USE:
            title = f"missing owner: {what} can be {state} while its module is unloaded"
        elif re.fullmatch(r"errno: delete_module returned (EAGAIN|EBUSY)", title):
            title = f"still in use after the last release of {what}"
        named.append(dataclasses.replace(finding, title=title))
    # The cause before the crash that it leads to.
    return tuple(sorted(named, key=lambda finding: not finding.title.startswith("missing owner")))


def _files(bench: Bench) -> Iterable[Found]:
    several = [one for one in uses.groups(bench.surfaces) if one.kind in surfaces.FILES]
    if not several:
        raise Skipped("it has no files in sysfs, debugfs, procfs or sysctl")
    return bench.run(
        Case(workloads.held_files(bench.around, one), 1, bench.lane,
             functools.partial(name_files, one, workloads.first_unload(bench.around)))
        for one in several
    )  # fmt: skip


def name_files(group: Group, first_unload: str, result: TrialResult) -> tuple[Finding, ...]:
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
                  and one["where"] == first_unload), None)  # fmt: skip
    if first and first["counts"].get("ok") and answers(events, "pread")["ok"]:
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


TESTS: Final = (
    Test("load", "Load, look what has come, unload: nothing is left, nothing is said.", _load),
    Test("unload-absent", "Unload what is not loaded: ENOENT.",
         _simple(workloads.unload_absent)),
    Test("load-twice", "A second load: EEXIST, and the first is none the worse.",
         _simple(workloads.load_twice)),
    Test("cycles", f"{CYCLES} lives (or --cycles N) with nobody there: nothing is left.", _cycles),
    Test("parameters", "Each parameter at its boundaries: it loads, or says why not.", _parameters),
    Test("signals", "Signals during load and unload.", _signals),
    Test("forced", "Forced unload with nobody there (--only forced).", _forced, extra=True),
    Test("dependents", "What it needs cannot go before it, nor it before what needs it.",
         _dependents),
    Test("use", "Each surface is used, then the module goes.", _use),
    Test("contract", "While a device is open or a filesystem mounted, unload is refused.",
         _contract),
    Test("files", "Open files of sysfs, debugfs, procfs: harmless when the module has gone.",
         _files),
    Test("users", "Users of each surface against unload.", _users),
    Test("crowd", "Users of all surfaces at once against unload.", _crowd),
    Test("leaks", f"{_LEAK_TURNS} lives with users: no leaked memory.", _leaks),
    Test("growth", f"{growth.LIVES * growth.COUNTS} lives with users: no memory grows with them."
         " Where some does, twice as many.", _growth),
    Test("pointers", f"{sweeptests.POINTER_TURNS} lives with users: nothing in the guest's memory"
         " leads to where the module was.", sweeptests.pointers),
    Test("failures", "Each allocation of load, use and unload fails once.", sweeptests.failures),
    Test("sweep", "Unload under every instruction that users reach (--sweep).",
         sweeptests.park_sweep, extra=True),
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
    # Whatever is wrong with the module is said before any test begins.
    _ = bench.module
    check_settings(bench)
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


def check_settings(bench: Bench) -> None:
    """Compare what a harness.yaml says with the module that it is about.

    Raises:
        UsageError: it names a module that the folder does not make.
        HarnessError: the module cannot be built.
    """
    wanted = bench.around.load_first
    # Without any there is nothing to compile it for.
    there = [one.name for one in bench.module.everything] if wanted else []
    for name in wanted:
        if name not in there:
            raise UsageError(
                f"harness.yaml: load_first: no module is called {name!r}; "
                f"there are: {', '.join(there)}"
            )


def _surfaces_seen(bench: Bench) -> tuple[Surface, ...]:
    # Only if a test has asked for them: a load of its own is a trial that nobody wanted.
    learned = bench.__dict__.get("learned")
    return learned.surfaces if isinstance(learned, Learned) else ()
