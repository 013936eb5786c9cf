# SPDX-License-Identifier: GPL-2.0-only
"""A module on the bench: its trials, what it exposes, what is kept of its findings.

The tests that are run on it are in :mod:`harness.battery`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from harness import (
    catalogue,
    elf,
    families,
    ioctls,
    kofile,
    lab,
    modules,
    sockets,
    surfaces,
    uses,
    verdict,
    workloads,
)
from harness.checkfile import CheckFile
from harness.errors import NotLoadedError
from harness.families import Family
from harness.lab import Lab, Subject
from harness.machine import Lane
from harness.report import Progress, replay_command
from harness.scenario import Scenario
from harness.surfaces import Surface
from harness.trial import Trial, TrialResult
from harness.uses import Group
from harness.verdict import Event, Finding

#: Filesystems and folders that are looked into for what a load alone does not show.
_LOOKED_INTO: Final = 8
#: A test that has found so many different things starts no further trial.
_ENOUGH: Final = 4


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
    #: Whether the guest's memory is looked through at the end.
    scan: bool = False


#: Lives with nobody there, where nobody says how many.
CYCLES: Final = 10


@dataclass(frozen=True, slots=True)
class Options:
    """How much is done."""

    kernel: str
    profile: str
    lanes: tuple[Lane, ...]
    seeds: int
    workers: int
    bundles: Path
    variant: str = families.GOOD
    #: After so many seconds no further failure is tried; None: when all have been.
    fail_s: float | None = None
    #: How often the test of that name loads and unloads.
    cycles: int = CYCLES


@dataclass(frozen=True, slots=True)
class Learned:
    """What the first trials have shown."""

    surfaces: tuple[Surface, ...]
    found: tuple[Found, ...]
    #: Why nothing else can be tried, or nothing.
    stop: str = ""
    #: Things that a survey found and could not tell.
    cut: int = 0
    #: What could not be used as it should.
    remarks: tuple[str, ...] = ()


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
        #: Filled by the test ``failures``.
        self.fail_sites: list[dict[str, Any]] = []
        self._known = tuple(re.compile(pattern) for pattern in settings.known)

    @functools.cached_property
    def around(self) -> workloads.Around:
        """What goes around every scenario, from the harness.yaml and the module.yaml."""
        around = self.settings.around
        if around.before_unload or "unload" not in self.family.surfaces:
            return around
        # See kmods/include/two_stage.h; a moment after the last user has gone it is granted.
        stage: dict[str, Any] = {
            "write_file": {"path": self.family.surfaces["unload"], "data": "now"},
            "expect": ["ok", "ENOENT", "EALREADY"],
            "retries": 50,
        }
        return dataclasses.replace(around, before_unload=(stage,))

    @property
    def det(self) -> bool:
        return Lane.DET in self.options.lanes

    @property
    def lane(self) -> Lane:
        """Where a test runs that one lane is enough for."""
        return Lane.DET if self.det else Lane.SMP

    def subject(self, lane: Lane | None = None) -> Subject:
        """Return the module, compiled, in a lane, with those of its kernel's own that need it."""
        return self._subject(lane or self.lane)[0]

    def _subject(self, lane: Lane) -> tuple[Subject, tuple[str, ...]]:
        return self.made.subject_with_dependents(
            str(self.family.folder), self.options.variant, self.options.kernel,
            self.options.profile, lane,
        )  # fmt: skip

    @functools.cached_property
    def not_loaded(self) -> tuple[str, ...]:
        """Modules of the kernel's own that need the module and are left out."""
        return self._subject(self.lane)[1]

    @functools.cached_property
    def above(self) -> frozenset[str]:
        """Modules of the kernel's own that need the module and come with it."""
        own = self.family.folder.suffix == ".ko"
        return frozenset(other.name for _, other in self.module.others) if own else frozenset()

    @functools.cached_property
    def module(self) -> modules.Module:
        return self.subject().module

    @functools.cached_property
    def modinfo(self) -> tuple[tuple[str, str], ...]:
        """Every field of the module's modinfo, repeated ones too."""
        return kofile.modinfo_fields(self.module.ko)

    @functools.cached_property
    def requests(self) -> tuple[int, ...]:
        """Requests for ioctl() that the module's code knows."""
        return ioctls.read_requests(self.module.ko)

    @functools.cached_property
    def socket_calls(self) -> frozenset[str]:
        """Functions by which sockets come that the module calls."""
        return sockets.read_calls(self.module.ko)

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
        found = uses.groups(self.surfaces)
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
                subject = self.subject(case.lane)
                trial = self.made.trial(subject, case.plan, case.seed, scan=case.scan)
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


def answers(events: Iterable[Event], op: str) -> Counter[str]:
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
    loaded = surfaces.with_requests(surfaces.learn(events), bench.requests)
    seen = (*loaded, *surfaces.learn_links(bench.modinfo), *_dependents(bench))
    learned = Learned(seen, found, stop, surfaces.left_out(events))
    return learned if stop else _learn_more(bench, _learn_sockets(bench, learned))


def _dependents(bench: Bench) -> Iterator[Surface]:
    """Yield the modules of the family, or the kernel's, that cannot be loaded without it."""
    for one in bench.module.everything:
        if bench.module.name in (needed.name for needed in one.needs):
            yield Surface(surfaces.Kind.DEPENDENT, one.name)


def _learn_sockets(bench: Bench, learned: Learned) -> Learned:
    """Return what was learned with the sockets that a module brings, if it may bring any.

    Many are tried, and what a broken one does belongs to them: it is a trial of its own.
    """
    brings = any(one.kind is surfaces.Kind.PROTOCOL for one in learned.surfaces)
    if not brings and not bench.socket_calls:
        return learned
    internet = sockets.internet_families(bench.socket_calls)
    plan = workloads.survey_sockets(bench.around, internet)
    ((_, trial, result),) = bench.results([Case(plan, lane=bench.lane)])
    events = verdict.parse_report(result.evidence.report)
    opened = surfaces.with_requests(surfaces.learn_sockets(events), bench.requests)
    return dataclasses.replace(
        learned,
        surfaces=(*learned.surfaces, *opened),
        found=learned.found + _kept(bench, trial, result, result.findings),
    )


def _learn_more(bench: Bench, learned: Learned) -> Learned:
    """Return what was learned with what is only there while something is used."""
    inside = [one for one in learned.surfaces if uses.shows_more(one)][:_LOOKED_INTO]
    plans = {plan.name: (plan, one) for one in inside
             for plan in [workloads.survey_inside(bench.around, one)]}  # fmt: skip
    seen = {(one.kind, one.name): one for one in learned.surfaces}
    found, remarks = learned.found, []
    cases = (Case(plan, lane=bench.lane) for plan, _ in plans.values())
    for case, trial, result in bench.results(cases):
        events = verdict.parse_report(result.evidence.report)
        one = plans[case.plan.name][1]
        op, _, _ = uses.held_by(one)
        said = answers(events, op)
        # A folder that cannot be made is one that holds none of a user's.
        if said and not said["ok"] and op == "mount":
            remarks.append(f"filesystem {one.name} is not used: mount returned {', '.join(said)}")
        for surface in surfaces.learn_inside(events):
            seen.setdefault((surface.kind, surface.name), surface)
        found += _kept(bench, trial, result, result.findings)
    return dataclasses.replace(
        learned, surfaces=tuple(seen.values()), found=found, remarks=tuple(remarks)
    )


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
    loaded = answers(events, "finit_module")
    unloaded = answers(events, "delete_module")
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
    for event in events:
        if event["ev"] == "unexpected" and event["where"].startswith("needs"):
            operation, path = event["op"].split()[:2]
            if operation == "finit_module":
                return findings, (
                    f"it does not load: {PurePosixPath(path).stem}, which it needs, returned"
                    f" {event['errno']}; the guest's console may say why"
                )
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
