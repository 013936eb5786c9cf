# SPDX-License-Identifier: GPL-2.0-only
"""What a failure sweep has seen: failures that came about, the sites they are at, the findings."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from harness import failplan, failstack, verdict
from harness.failplan import Failure
from harness.failstack import Call, Fault
from harness.lab import Subject
from harness.program import Op
from harness.trial import Trial, TrialResult
from harness.verdict import Finding


class Verdict(enum.StrEnum):
    """What became of a site, the worst first."""

    FINDING = "finding"
    #: The kernel went wrong before it had run anything of the module's.
    KERNEL = "kernel"
    #: The step failed, and all was well.
    FAILED = "failed"
    #: The step succeeded all the same, and all was well.
    COPED = "coped"


@dataclass(frozen=True, slots=True)
class Shot:
    """One failure that came about."""

    failure: Failure
    step: Op
    scenario: str
    errno: str
    #: Empty where the kernel was silent.
    stack: tuple[Call, ...]
    #: What failed, such as ``failslab``; empty where the kernel was silent.
    kind: str

    @property
    def key(self) -> tuple[str, str, int]:
        """Scenario, step and number."""
        return self.scenario, self.step.place, self.failure.nth


@dataclass(frozen=True, slots=True)
class Found:
    """A distinct finding and the trial that shows it with the fewest failures."""

    finding: Finding
    trial: Trial
    result: TrialResult
    #: None where the scenario shows it without any failure.
    failures: tuple[Failure, ...] | None


@dataclass(frozen=True, slots=True)
class Site:
    """A place where something can fail, and what became of it each time that it did."""

    op: str
    #: The step as a scenario names it.
    where: str
    scenario: str
    #: Which of the step's allocations: the first one, and others from the same place.
    nths: tuple[int, ...]
    kind: str
    #: The innermost function comes first; for a silent one, what was certainly active.
    stack: tuple[Call, ...]
    silent: bool
    errnos: tuple[str, ...]
    verdict: Verdict
    #: Titles.
    findings: tuple[str, ...]


@dataclass(slots=True)
class FailSweep:
    """The state and result of a failure sweep."""

    subject: Subject
    workers: int = 1
    shots: list[Shot] = field(default_factory=list)
    #: Title → the finding; those of a scenario without failures, too.
    found: dict[str, Found] = field(default_factory=dict)
    #: Titles by :attr:`Shot.key`.
    blamed: dict[tuple[str, str, int], tuple[str, ...]] = field(default_factory=dict)
    trials: int = 0
    took_s: float = 0.0
    #: Steps whose end the budget did not allow to see.
    cut: list[str] = field(default_factory=list)
    #: Allocations of loads that were left out, because they come before a module's init.
    skipped: int = 0

    @property
    def sites_a_minute(self) -> float:
        """How many failures came about in a minute."""
        return 60.0 * len(self.shots) / self.took_s if self.took_s else 0.0

    def sites(self) -> list[Site]:
        """Return a line for each place, in the order of steps and numbers."""
        groups: dict[tuple[str, str, tuple[Call, ...], str], list[Shot]] = {}
        for shot, stack in _placed(self.shots):
            key = (shot.scenario, shot.step.place, stack, shot.kind)
            groups.setdefault(key, []).append(shot)
        sites = [self._site(stack, group) for (_, _, stack, _), group in groups.items()]
        return sorted(sites, key=lambda site: (site.scenario, site.where, site.nths))

    def _site(self, stack: tuple[Call, ...], group: list[Shot]) -> Site:
        first = group[0]
        titles = [title for shot in group for title in self.blamed.get(shot.key, ())]
        return Site(
            op=first.step.name,
            where=first.step.place,
            scenario=first.scenario,
            nths=tuple(sorted({shot.failure.nth for shot in group})),
            kind=first.kind,
            stack=stack,
            silent=not first.stack,
            errnos=tuple(dict.fromkeys(shot.errno for shot in group)),
            verdict=self._verdict(group, titles, stack),
            findings=tuple(dict.fromkeys(titles)),
        )

    def _verdict(
        self, group: Sequence[Shot], titles: Sequence[str], stack: Sequence[Call]
    ) -> Verdict:
        if titles:
            return Verdict.KERNEL if self._is_kernels(group, titles, stack) else Verdict.FINDING
        coped = all(shot.errno in shot.step.expect for shot in group)
        return Verdict.COPED if coped else Verdict.FAILED

    def _is_kernels(
        self, group: Sequence[Shot], titles: Sequence[str], stack: Sequence[Call]
    ) -> bool:
        """Whether no module is to blame: it failed what must not fail, or before any init."""
        if _must_not_fail(stack):
            return True
        if group[0].step.name != "finit_module" or not stack:
            return False
        if in_init(stack) or any(call.module for call in stack):
            return False
        if any(shot.errno == "ok" for shot in group):
            return False
        names = {module.name for module in self.subject.module.everything}
        details = (self.found[title].finding for title in titles if title in self.found)
        return not any(f"[{name}" in one.detail or name in one.title
                       for one in details for name in names)  # fmt: skip

    @property
    def findings(self) -> list[Found]:
        """The module's findings: not those that the kernel alone is to blame for."""
        kernels = {
            title
            for site in self.sites() if site.verdict is Verdict.KERNEL
            for title in site.findings
        }  # fmt: skip
        bad = {
            title
            for site in self.sites() if site.verdict is Verdict.FINDING
            for title in site.findings
        }  # fmt: skip
        return [one for title, one in self.found.items() if title not in kernels - bad]

    def totals(self) -> dict[str, int]:
        """Return how many sites have each verdict."""
        sites = self.sites()
        return {kind.value: sum(site.verdict is kind for site in sites) for kind in Verdict}


def _placed(shots: Sequence[Shot]) -> Iterator[tuple[Shot, tuple[Call, ...]]]:
    """Each shot with its stack; a silent one with what its neighbours share."""
    steps: dict[tuple[str, str], list[Shot]] = {}
    for shot in sorted(shots, key=lambda shot: shot.failure.nth):
        steps.setdefault((shot.scenario, shot.step.place), []).append(shot)
    for group in steps.values():
        for index, shot in enumerate(group):
            if shot.stack:
                yield shot, shot.stack
                continue
            before = next((one.stack for one in reversed(group[:index]) if one.stack), ())
            after = next((one.stack for one in group[index:] if one.stack), ())
            yield shot, failstack.common_root(before, after)


#: The buffer cache asks with __GFP_NOFAIL and does not look at the answer (grow_dev_page() in
#: fs/buffer.c), while error injection fails the function that it calls all the same.
_BUFFERS: Final = frozenset(
    ("__getblk_gfp", "__getblk_slow", "bdev_getblk", "grow_dev_page", "grow_dev_folio")
)
_UNFAILING: Final = (("__filemap_add_folio", _BUFFERS),)


def _must_not_fail(stack: Sequence[Call]) -> bool:
    names = [call.function.partition(".")[0] for call in stack]
    return any(
        inner in names and callers & set(names[names.index(inner) :])
        for inner, callers in _UNFAILING
    )


def in_init(stack: Iterable[Call]) -> bool:
    return any(call.function.startswith("do_one_initcall") for call in stack)


def read_shots(
    result: TrialResult, scenario: str, steps: Sequence[Op], failures: Sequence[Failure]
) -> list[Shot]:
    """Return the failures of a trial that came about, each with where it was."""
    faults = list(failstack.read_faults(result.evidence.console))
    shots = []
    left = dict.fromkeys(failures)
    for event in verdict.parse_report(result.evidence.report):
        failure = failplan.failure_of(event["where"]) if event["ev"] == "fail" else None
        if failure is None:
            continue
        left.pop(failure, None)
        fault = faults.pop(0) if event["told"] and faults else None
        if event["fired"]:
            shots.append(_shot(failure, steps[failure.step], scenario, event["errno"], fault))
    # A panic came before it could be told: the kernel's own notice says that it came about.
    if left and faults:
        failure = next(iter(left))
        shots.append(_shot(failure, steps[failure.step], scenario, "?", faults[0]))
    return shots


def _shot(failure: Failure, step: Op, scenario: str, errno: str, fault: Fault | None) -> Shot:
    stack, kind = (fault.stack, fault.name) if fault else ((), "")
    return Shot(failure, step, scenario, errno, stack, kind)
