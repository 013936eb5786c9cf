# SPDX-License-Identifier: GPL-2.0-only
"""The failure sweep: make each allocation of each step fail, and see what becomes of it.

A measuring trial tells for each step of a scenario how many allocations it asks for. Then each of
them fails once, several in one trial (:mod:`harness.failplan`); whatever a trial shows is looked
at again with one failure a trial, so that a finding has the site that it comes from and a bundle
of its own. Sites are told apart by their stacks (:mod:`harness.failstack`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from harness import failplan, kconfig, kernels, lab, scenario, verdict
from harness.deadline import Deadline
from harness.errors import UsageError
from harness.failplan import Failure, Line
from harness.failsites import FailSweep, Found, in_init, read_shots
from harness.lab import Lab, Subject
from harness.program import Program
from harness.scenario import Scenario
from harness.trial import Trial, TrialResult
from harness.verdict import Finding

Progress = Callable[[str, float | None], None]

#: What a kernel must have, and what for.
REQUIRED: Final[Mapping[str, str]] = {
    "CONFIG_FAULT_INJECTION": "making something fail",
    "CONFIG_FAILSLAB": "slab allocations that fail",
    "CONFIG_FAIL_PAGE_ALLOC": "page allocations that fail",
    "CONFIG_FAULT_INJECTION_DEBUG_FS": "saying which allocations count",
    "CONFIG_STACKTRACE": "seeing where one failed",
}

#: Failures of one trial, while nothing shows.
BATCH: Final = 16
#: Tried at a time where it is not known how many there are.
_WINDOW: Final = 16


@dataclass(slots=True)
class _Step:
    """What is known of one step of a line."""

    #: Allocations that it asks for; None while that is not known.
    count: int | None
    tried: int = 0
    #: The highest that came about.
    reached: int = 0

    @property
    def is_open(self) -> bool:
        """Whether there may be more to fail."""
        return self.tried == 0 or self.reached == self.tried

    def take(self) -> range:
        """Return what to try next: all that is known of and one more, or a window."""
        end = self.tried + _WINDOW
        if self.count is not None and not self.tried:
            end = self.count + 1
        numbers = range(self.tried + 1, end + 1)
        self.tried = end
        return numbers


@dataclass(frozen=True, slots=True, eq=False)
class _Track:
    """A line under way."""

    scenario: Scenario
    base: Program
    line: Line
    #: Those of its steps that are swept, by their index.
    steps: dict[int, _Step]


def check_kernel(name: str, config: Mapping[str, str]) -> None:
    """Refuse a kernel in which nothing can be made to fail.

    Args:
        config: its options (see kconfig.parse).

    Raises:
        UsageError: it lacks something; says what, and what for.
    """
    wanted = kconfig.lacks(config, REQUIRED)
    if wanted:
        raise UsageError(
            f"kernel {name} cannot make allocations fail: it has no {wanted}",
            hint="the profile kasan has them",
        )


def simple(workloads: Sequence[Scenario]) -> tuple[Scenario, ...]:
    """Return the scenarios of one actor, whose steps have an order; ``cycle`` where none has."""
    found = tuple(
        one for one in workloads
        if len(one.actors) == 1 and one.actors[0].count == 1
    )  # fmt: skip
    return found or (scenario.load_scenario(scenario.find_scenario("cycle")),)


def run(
    made: Lab,
    subject: Subject,
    workloads: Sequence[Scenario],
    *,
    workers: int,
    budget_s: float | None = None,
    ops: Iterable[str] = (),
    batch: int = BATCH,
    loader: bool = True,
    seed: int = 1,
    progress: Progress = lambda what, done: None,
) -> FailSweep:
    """Make every allocation of every step of some scenarios fail, once each.

    Args:
        workloads: scenarios of one actor. A step that another has already is not swept again.
        budget_s: start no further trial after so much time; what is left is said in ``cut``.
        ops: only steps of these ops; none means all.
        batch: failures of one trial, while nothing shows.
        loader: also what the kernel asks for before it calls a module's init, which is
            much the same for all modules.

    Raises:
        UsageError: the kernel cannot, a scenario has several actors, or no step has such an op.
        HarnessError: a trial left no evidence.
    """
    kernel = made.kernel(subject.kernel, subject.profile)
    config = kernels.read_config(kernel)
    check_kernel(f"{kernel.name}-{kernel.profile}", config)
    under_way = _Run(made, subject, workers, budget_s, batch, loader, seed, progress)
    return under_way.run(workloads, frozenset(ops))


_Job = tuple[_Track, tuple[Failure, ...]]


class _Run:
    """A sweep under way."""

    def __init__(
        self,
        made: Lab,
        subject: Subject,
        workers: int,
        budget_s: float | None,
        batch: int,
        loader: bool,
        seed: int,
        progress: Progress,
    ) -> None:
        self.made = made
        self.seed = seed
        self.batch = batch
        self.loader = loader
        self.progress = progress
        self.sweep = FailSweep(subject, workers)
        self.deadline = None if budget_s is None else Deadline.after(budget_s)
        self.known: dict[str, frozenset[str]] = {}
        self.total = 0

    def run(self, workloads: Sequence[Scenario], wanted: frozenset[str]) -> FailSweep:
        started = time.monotonic()
        tracks: list[_Track] = []
        seen: failplan.Seen = set()
        asked = False
        for workload in workloads:
            base = self.made.compiled(self.sweep.subject, workload, self.seed, cycles=1)
            for line in failplan.find_lines(base, seen):
                swept = tuple(
                    step for step in line.swept if not wanted or line.steps[step].name in wanted
                )
                if swept:
                    asked = True
                    kept = dataclasses.replace(line, swept=swept)
                    tracks += self._measure(workload, base, kept)
        if not asked and wanted:
            raise UsageError(
                f"{self._name}: no step of {', '.join(one.name for one in workloads)} is one of"
                f" {', '.join(sorted(wanted))}",
                hint="`--op` takes the name of an operation, such as mount",
            )
        self.total = sum(step.count or 0 for track in tracks for step in track.steps.values())
        while any(self._open(track) for track in tracks) and not self._over():
            self._round(tracks)
        for track in tracks:
            self._cut(track, self._open(track))
        self.sweep.took_s = time.monotonic() - started
        return self.sweep

    @property
    def _name(self) -> str:
        return f"{self.sweep.subject.family.name} {self.sweep.subject.module.variant}"

    def _open(self, track: _Track) -> list[int]:
        return [index for index, step in track.steps.items() if step.is_open]

    def _over(self) -> bool:
        return self.deadline is not None and self.deadline.expired

    def _cut(self, track: _Track, steps: Iterable[int]) -> None:
        places = (f"{track.scenario.name} {track.line.steps[step].place}" for step in steps)
        self.sweep.cut = list(dict.fromkeys((*self.sweep.cut, *places)))

    def _measure(self, workload: Scenario, base: Program, line: Line) -> list[_Track]:
        """Count the allocations of a line's steps; what shows without failures shows here."""
        self.progress(f"measuring {self._name} {workload.name}", None)
        program = failplan.measuring_program(base, line)
        trial = self._trial(workload, program, "measure")
        ((_, result),) = lab.run_trials(iter([trial]), 1, stop=lambda result: False)
        self.sweep.trials += 1
        for finding in result.findings:
            self.sweep.found.setdefault(finding.title, Found(finding, trial, result, None))
        before = self.known.get(workload.name, frozenset())
        self.known[workload.name] = before | {finding.title for finding in result.findings}
        events = verdict.parse_report(result.evidence.report)
        if not any(event["ev"] == "end" for event in events):
            # It does not live to its end without any failure.
            return []
        counts = {
            failure.step: failplan.MEASURE - event["left"]
            for event in events
            if event["ev"] == "fail" and (failure := failplan.failure_of(event["where"]))
        }
        steps = {step: _Step(counts.get(step)) for step in line.swept}
        return [_Track(workload, base, line, steps)]

    def _trial(self, workload: Scenario, program: Program, label: str) -> Trial:
        return self.made.program_trial(self.sweep.subject, workload, program, plan=f"fail {label}")

    def _round(self, tracks: Sequence[_Track]) -> None:
        """Try what may be there, and what has shown something once more by itself."""
        jobs: list[_Job] = []
        for track in tracks:
            every = [
                Failure(index, nth)
                for index in self._open(track)
                for nth in track.steps[index].take()
            ]
            for loads in (False, True):
                some = [failure for failure in every if _is_load(track, failure) is loads]
                batches = failplan.batches(track.base, track.line, some, self.batch)
                jobs += [(track, batch) for batch in batches]
        # Init comes late in a load: what there is before it comes last of all.
        jobs.sort(key=lambda job: (_is_load(job[0], job[1][0]), -job[1][0].nth))
        again: list[_Job] = []
        for track, failures, trial, result in self._run(jobs):
            fresh = self._fresh(track, result)
            if fresh and len(failures) > 1:
                again += [(track, (failure,)) for failure in failures]
                self._keep(fresh, trial, result, failures)
            else:
                self._take(track, failures, trial, result)
        # Whatever the time: without it nobody knows which failure has done it.
        for track, failures, trial, result in self._run(again, in_time=False):
            self._take(track, failures, trial, result)

    def _run(
        self, jobs: Sequence[_Job], *, in_time: bool = True
    ) -> Iterator[tuple[_Track, tuple[Failure, ...], Trial, TrialResult]]:
        pending: dict[int, _Job] = {}

        def trials() -> Iterator[Trial]:
            for track, failures in jobs:
                if in_time and self._over():
                    self._cut(track, (one.step for one in failures))
                    continue
                if not self.loader and self._before_init(track, failures):
                    self.sweep.skipped += len(failures)
                    continue
                program = failplan.make_program(track.base, track.line, failures)
                label = " to ".join(
                    f"{one.nth} of {track.line.steps[one.step].name} {one.step}"
                    for one in dict.fromkeys((failures[0], failures[-1]))
                )
                trial = self._trial(track.scenario, program, label)
                pending[id(trial)] = track, failures
                yield trial

        for trial, result in lab.run_trials(
            trials(), self.sweep.workers, stop=lambda result: False
        ):
            track, failures = pending.pop(id(trial))
            self.sweep.trials += 1
            yield track, failures, trial, result
            done = len(self.sweep.shots)
            self.progress(
                f"sweeping {self._name} ({done} failures)",
                min(1.0, done / self.total) if self.total else None,
            )

    def _before_init(self, track: _Track, failures: Sequence[Failure]) -> bool:
        """Whether all that fails here is known to come before a module's init is called."""
        last = failures[-1]
        place = track.line.steps[last.step].place
        loads = [
            shot for shot in self.sweep.shots
            if shot.stack and shot.key[:2] == (track.scenario.name, place)
        ]  # fmt: skip
        before = [shot.failure.nth for shot in loads if not in_init(shot.stack)]
        init = [shot.failure.nth for shot in loads if in_init(shot.stack)]
        if not init or failures[0].step != last.step:
            return False
        return any(last.nth < nth < min(init) for nth in before)

    def _fresh(self, track: _Track, result: TrialResult) -> tuple[Finding, ...]:
        """What the scenario does not show by itself."""
        known = self.known.get(track.scenario.name, frozenset())
        return tuple(finding for finding in result.findings if finding.title not in known)

    def _keep(
        self, fresh: Sequence[Finding], trial: Trial, result: TrialResult,
        failures: tuple[Failure, ...],
    ) -> None:  # fmt: skip
        for finding in fresh:
            known = self.sweep.found.get(finding.title)
            if known is None or len(failures) < len(known.failures or ()):
                self.sweep.found[finding.title] = Found(finding, trial, result, failures)

    def _take(
        self, track: _Track, failures: tuple[Failure, ...], trial: Trial, result: TrialResult
    ) -> None:
        """Note what came of a trial whose findings are those of one failure, or none."""
        fresh = self._fresh(track, result)
        self._keep(fresh, trial, result, failures)
        for shot in read_shots(result, track.scenario.name, track.line.steps, failures):
            self.sweep.shots.append(shot)
            step = track.steps[shot.failure.step]
            step.reached = max(step.reached, shot.failure.nth)
            if fresh:
                self.sweep.blamed[shot.key] = tuple(finding.title for finding in fresh)


def _is_load(track: _Track, failure: Failure) -> bool:
    return track.line.steps[failure.step].name == "finit_module"
