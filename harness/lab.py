# SPDX-License-Identifier: GPL-2.0-only
"""From names to trials: the one way in for the command line and for pytest.

A lab remembers what it looked up, so that a run of a thousand trials asks for
the kernel, the image and each template once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness import (
    accel,
    bundle,
    cpio,
    elf,
    exectrace,
    families,
    kernels,
    modulebuild,
    modules,
    ops,
    points,
    program,
    scenario,
    scenario_compile,
    schedules,
    store,
    symbolise,
    template,
    verdict,
)
from harness import plan as plans
from harness.errors import HarnessError, UsageError
from harness.exectrace import Visit
from harness.families import Family
from harness.guest import ssh_template
from harness.image import Image, build_image, with_extra
from harness.kernels import DEFAULT_KERNEL, DEFAULT_PROFILE, Kernel
from harness.keys import Keys
from harness.machine import Accelerator, Lane, Trace
from harness.modules import Module
from harness.plan import Plan
from harness.points import Point
from harness.program import Park
from harness.qemu import find_qemu
from harness.scenario import Scenario
from harness.template import Base, Template
from harness.trial import Trial, TrialResult, TrialSpec, collect, judge, run_trial

Progress = Callable[[str, float | None], None]

#: How long a guest rests before its memory is looked through. RCU, work items and lists of free
#: pages need a fraction of a second; kfree_rcu() keeps what it was given for up to 5 s since 6.2,
#: and in series of before that have got this, such as 6.1 (KFREE_DRAIN_JIFFIES, kernel/rcu/tree.c).
SETTLE_US: Final = 6_000_000


def _quiet(what: str, done: float | None) -> None:
    pass


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What trials are run on: one variant of a module, compiled; one object for each."""

    family: Family
    module: Module
    payload: tuple[tuple[str, cpio.Entry], ...]
    kernel: str
    profile: str
    lane: Lane
    #: Which of the modules is swept; None: the main one.
    swept: Module | None = None

    @property
    def target(self) -> Module:
        """The module whose instructions a sweep stops at."""
        return self.swept or self.module

    def aimed_at(self, name: str) -> Subject:
        """Return it with another of its modules as the target.

        Args:
            name: of the module, or its role in the family.

        Raises:
            UsageError: no module of it is called so.
        """
        known = {one.name: one for one in self.module.everything} | dict(self.module.others)
        if name not in known:
            raise UsageError(f"{self.family.name}: has no module {name!r}; there are: "
                             f"{', '.join(sorted(known))}")  # fmt: skip
        return dataclasses.replace(self, swept=known[name])

    @property
    def archive(self) -> bytes:
        """The payload as it goes into the guest."""
        return cpio.archive(dict(self.payload))


class Lab:
    """Makes and remembers what trials need, from the cache where it can.

    Every method may build a kernel, and so take minutes, the first time.
    """

    def __init__(self, cache: store.Store, progress: Progress = _quiet) -> None:
        self.cache = cache
        self.progress = progress

    @functools.cache  # noqa: B019 - a lab lives as long as its process
    def kernel(self, name: str = DEFAULT_KERNEL, profile: str = DEFAULT_PROFILE) -> Kernel:
        """Return a built kernel."""
        recipe = kernels.load_recipe(name, profile)
        kernel = kernels.build_kernel(self.cache, recipe, self.progress)
        self.cache.use(kernel.path)
        return kernel

    @functools.cache  # noqa: B019
    def image(self) -> Image:
        """Return the guest's image."""
        image = build_image(self.cache, self.progress)
        self.cache.use(image.initrd.parent)
        return image

    @functools.cache  # noqa: B019
    def image_for(self, name: str, profile: str) -> Image:
        """Return the image that a kernel's guests boot: with modules of its own, if it has any."""
        kernel = self.kernel(name, profile)
        if kernel.extra is None:
            return self.image()
        image = with_extra(self.cache, self.image(), kernel.extra, kernel.key)
        self.cache.use(image.initrd.parent)
        return image

    @functools.cache  # noqa: B019
    def probes(self, name: str, profile: str) -> tuple[accel.Probe, ...]:
        """Return what became of each accelerator."""
        kernel, image = self.kernel(name, profile), self.image_for(name, profile)
        return accel.probe(self.cache, kernel, image, find_qemu(), self.progress)

    @functools.cache  # noqa: B019
    def base(
        self, name: str, profile: str, lane: Lane, leaks: bool = False, scan: bool = False
    ) -> Base:
        """Return what the guests of a lane are made of."""
        accelerator = Accelerator.TCG
        if lane is Lane.SMP and accel.may_work():
            accelerator = accel.best(self.probes(name, profile))
        kernel = self.kernel(name, profile)
        image = self.image_for(name, profile)
        return Base(kernel, image, find_qemu(), lane, accelerator, leaks, scan)

    @functools.cache  # noqa: B019
    def booted(
        self, name: str, profile: str, lane: Lane, leaks: bool = False, scan: bool = False
    ) -> Template:
        """Return the template of a freshly booted kernel."""
        base = self.base(name, profile, lane, leaks, scan)
        return template.boot_template(self.cache, base, self.progress)

    @functools.cache  # noqa: B019
    def ssh(self, name: str, profile: str, lane: Lane) -> tuple[Template, Keys]:
        """Return the template of a guest that serves SSH, and the keys to it."""
        return ssh_template(self.cache, self.base(name, profile, lane), self.progress)

    @functools.cache  # noqa: B019
    def build(self, folder: str, variant: str, name: str, profile: str) -> Module:
        """Return a compiled variant of a module family."""
        family = families.find_family(folder)
        kernel = self.kernel(name, profile)
        module = modules.build_module(self.cache, family, variant, kernel, self.progress)
        self.cache.use(module.ko.parent)
        return module

    @functools.cache  # noqa: B019
    def subject(self, folder: str, variant: str, name: str, profile: str, lane: Lane) -> Subject:
        """Return a module ready for trials: compiled, and in a template."""
        family = families.find_family(folder)
        families.find_variant(family, variant)
        kernels.load_recipe(name, profile)
        module = self.build(folder, variant, name, profile)
        return Subject(family, module, module.payload(), name, profile, lane)

    @functools.cache  # noqa: B019
    def subject_with_dependents(
        self, folder: str, variant: str, name: str, profile: str, lane: Lane
    ) -> tuple[Subject, tuple[str, ...]]:
        """Return a module ready for trials, with those of its kernel's own that need it.

        Modules of others come as :meth:`subject` returns them. Besides, the names of those
        that need it and are left out: a program has room for :data:`ops.MAX_MODULES`.
        """
        found = self.subject(folder, variant, name, profile, lane)
        kernel = self.kernel(name, profile)
        module, left = modules.build_with_dependents(
            self.cache, found.module, found.family, kernel, ops.MAX_MODULES
        )
        if module is found.module:
            return found, left
        self.cache.use(module.ko.parent)
        return dataclasses.replace(found, module=module, payload=module.payload()), left

    # Few at a time: who remembers a template keeps it from making room for others.
    @functools.lru_cache(maxsize=4)  # noqa: B019
    def prepared(self, subject: Subject, leaks: bool, scan: bool = False) -> Template:
        """Return the template in which a subject's trials start."""
        below = self.booted(subject.kernel, subject.profile, subject.lane, leaks, scan)
        return template.stack_template(self.cache, below, subject.archive, self.progress)

    def trial(
        self, subject: Subject, plan: Scenario, seed: int, depth: int | None = None, *,
        scan: bool = False, cycles: int | None = None,
    ) -> Trial:  # fmt: skip
        """Return a trial of a subject: a scenario with a seed.

        Leaks are looked for with seed 0 only, and where the kernel can: whether memory
        is lost does not hang on the schedule, and looking takes long.

        Args:
            depth: of a schedule made from the seed (``harness/schedules.py``); none by
                default. The first trial of a scenario that has one comes after
                another without, which says how long it takes.
            scan: look through the guest's memory at the end for pointers into what was
                unloaded.
            cycles: how often the scenario goes round, where it can be told.
        """
        bindings = _bindings(subject)
        if cycles is not None:
            bindings["cycles"] = str(cycles)
        compiled = scenario_compile.compile_program(
            plan, seed=seed, bindings=bindings, lane=subject.lane.value
        )
        compiled = program.load_first(compiled, _needs(subject.module))
        can = "kmemleak" in self.kernel(subject.kernel, subject.profile).detectors
        compiled = dataclasses.replace(compiled, kmemleak=compiled.kmemleak and can and seed == 0)
        if depth is not None:
            schedule = schedules.make_schedule(
                depth,
                seed,
                [actor.name for actor in compiled.actors if not actor.fifo],
                length_us=self.length_us(subject, plan),
                bound_us=compiled.bound_us,
            )
            compiled = dataclasses.replace(compiled, schedule=schedule)
        if scan:
            kernel = self.kernel(subject.kernel, subject.profile)
            kernels.require_vmlinux(kernel)
            compiled = dataclasses.replace(compiled, settle_us=SETTLE_US)
        return self._trial(subject, plan, compiled)

    @functools.cache  # noqa: B019
    def length_us(self, subject: Subject, plan: Scenario) -> int:
        """Return how long a scenario takes in a guest without a schedule, microseconds.

        Raises:
            GuestError: the guest left no evidence to judge.
        """
        ready = self.trial(subject, plan, 1)
        whole = program.Program.parse(ready.program)
        measured = dataclasses.replace(whole, schedule=schedules.MEASURE).serialise()
        ready = dataclasses.replace(ready, program=measured)
        return verdict.length_us(run_trial(ready).evidence)

    def parked_trial(
        self, subject: Subject, workload: Scenario, seed: int, plan: Plan, cycles: int | None = None
    ) -> Trial:
        """Return the trial in which a scenario is stopped at one point, as a plan says.

        Args:
            cycles: how often the scenario goes round, where it can be told; its
                own number fits a stress run, and a sweep has a trial for each point.

        Raises:
            UsageError: the plan's point is not in the module, or its role not in
                the scenario.
        """
        bindings = _bindings(subject)
        if cycles is not None:
            bindings["cycles"] = str(cycles)
        compiled = scenario_compile.compile_program(
            workload, seed=seed, bindings=bindings, lane=subject.lane.value, kmemleak=False
        )
        compiled = program.load_first(compiled, _needs(subject.module))
        target = subject.target
        point = points.find_point(self.points(target.ko), plan.function, plan.offset)
        # What is unloaded under the task is the module that it is in.
        if subject.swept is not None:
            bindings |= {"module": target.name, "ko": target.path}
        park = Park(
            plan=str(plan),
            role=plans.role_pattern(plan.role, compiled, target.name),
            module=target.name,
            section=point.section,
            offset=point.value,
            hits=plan.hit,
            mode=plan.action.mode,
            body=plans.action_body(plan.action, compiled, bindings),
        )
        return self._trial(
            subject, workload, dataclasses.replace(compiled, park=park), plan=str(plan)
        )

    def compiled(
        self, subject: Subject, workload: Scenario, seed: int, cycles: int
    ) -> program.Program:
        """Return a scenario's program for a subject, without what its modules need."""
        bindings = {**_bindings(subject), "cycles": str(cycles)}
        return scenario_compile.compile_program(
            workload, seed=seed, bindings=bindings, lane=subject.lane.value, kmemleak=False
        )

    def program_trial(
        self, subject: Subject, workload: Scenario, compiled: program.Program, plan: str
    ) -> Trial:
        """Return the trial of a program that was made from :meth:`compiled`.

        Args:
            plan: what it does that the scenario does not, for people.
        """
        compiled = program.load_first(compiled, _needs(subject.module))
        return self._trial(subject, workload, compiled, plan=plan)

    def visits(self, trial: Trial) -> tuple[tuple[Visit, ...], TrialResult]:
        """Run a trial with a log of what was executed in modules; return both.

        Raises:
            GuestError: the guest left no evidence to judge.
        """
        mark = elf.load(self.image().executor).by_name["actor_mark"][0].value
        with template.scratch_folder() as folder:
            log = folder / "trace"
            trace = Trace(log, ((mark, mark), exectrace.MODULE_AREA))
            evidence = collect(trial, trace)
            with log.open(errors="replace") as lines:
                found = tuple(exectrace.visits(exectrace.parse(lines), mark))
        return found, judge(trial, evidence)

    @functools.cache  # noqa: B019
    def points(self, ko: Path) -> tuple[Point, ...]:
        """Return where the instructions of a module's file begin."""
        return points.find_points(ko)

    def _trial(
        self, subject: Subject, workload: Scenario, compiled: program.Program, plan: str = ""
    ) -> Trial:
        spec = TrialSpec(
            module=subject.family.name,
            variant=subject.module.variant,
            kernel=subject.kernel,
            profile=subject.profile,
            lane=subject.lane,
            scenario=workload.name,
            seed=compiled.seed,
            plan=plan,
            schedule=compiled.schedule.name if compiled.schedule else "",
        )
        return self._ready(subject, spec, compiled)

    def _ready(self, subject: Subject, spec: TrialSpec, compiled: program.Program) -> Trial:
        scan = compiled.settle_us > 0
        return Trial(
            spec=spec,
            template=self.prepared(subject, compiled.kmemleak, scan),
            program=compiled.serialise(),
            bound_s=(compiled.bound_us + compiled.settle_us) / 1e6,
            symbols={one.name: one.ko for one in subject.module.everything},
            scan=scan,
            sources=self._sources(subject),
        )

    @functools.cache  # noqa: B019
    def _sources(self, subject: Subject) -> str:
        return modulebuild.sources_digest(subject.family)

    def replay_trial(self, found: bundle.Bundle) -> tuple[Trial, tuple[str, ...]]:
        """Return the trial that a bundle holds, and how what it is made of differs from then."""
        spec = found.spec
        whole = program.Program.parse(found.program)
        scan = whole.settle_us > 0
        booted = self.booted(spec.kernel, spec.profile, spec.lane, whole.kmemleak, scan)
        stacked = template.stack_template(self.cache, booted, found.payload, self.progress)
        sources = found.made_of.get("module sources", "")
        trial = Trial(spec, stacked, found.program, found.bound_s, found.symbols, scan, sources)
        return trial, bundle.differences(found.made_of, bundle.made_of(trial))

    def reseeded(self, trial: Trial, seed: int) -> Trial:
        """Return a trial of the same program with another seed."""
        whole = dataclasses.replace(program.Program.parse(trial.program), seed=seed)
        spec = dataclasses.replace(trial.spec, seed=seed)
        return dataclasses.replace(trial, spec=spec, program=whole.serialise())

    def changed_trial(self, found: bundle.Bundle, subject: Subject, seed: int) -> Trial:
        """Return the trial that a bundle holds, of the same module compiled from other source.

        A plan keeps its function and offset, or moves with its instruction.

        Raises:
            UsageError: there is no such instruction in the changed module any more.
        """
        whole = dataclasses.replace(program.Program.parse(found.program), seed=seed)
        spec = dataclasses.replace(
            found.spec, module=subject.family.name, variant=subject.module.variant, seed=seed
        )
        if whole.park is not None:
            park = self._moved(found, subject, whole.park)
            whole = dataclasses.replace(whole, park=park)
            spec = dataclasses.replace(spec, plan=park.plan)
        return self._ready(subject, spec, whole)

    def _moved(self, found: bundle.Bundle, subject: Subject, park: Park) -> Park:
        """Return where a changed module has what a plan stops at."""
        plan = plans.parse(park.plan)
        changed = [one for one in subject.module.everything if one.name == park.module]
        if not changed or park.module not in found.symbols:
            raise UsageError(
                f"{found.path}: its plan is about a module {park.module}, and"
                f" {subject.family.name} makes none of that name"
            )
        point = points.find_counterpart(
            self.points(found.symbols[park.module]),
            self.points(changed[0].ko),
            plan.function,
            plan.offset,
        )
        plan = dataclasses.replace(plan, offset=point.offset)
        return dataclasses.replace(park, plan=str(plan), section=point.section, offset=point.value)


def _bindings(subject: Subject) -> dict[str, str]:
    """Return the values that a subject has for a scenario's names."""
    return {"mnt": "/mnt", **module_bindings(subject.module), **_surface_bindings(subject.family)}


def _needs(module: Module) -> dict[str, list[str]]:
    """Return which modules' files must be loaded before which."""
    return {one.path: [needed.path for needed in one.needs] for one in module.everything}


def module_bindings(module: Module) -> dict[str, str]:
    """Return what a scenario calls a family's modules: the main one, and others by role."""
    bindings = {"module": module.name, "ko": module.path}
    for role, other in module.others:
        bindings |= {f"module.{role}": other.name, f"ko.{role}": other.path}
    return bindings


def _surface_bindings(family: Family) -> dict[str, str]:
    """Return what a scenario calls the surfaces that a family names."""
    known = {"filesystem": "fstype"}
    return {known.get(kind, kind): name for kind, name in family.surfaces.items()}


def family_scenarios(family: Family, variant: str) -> tuple[Scenario, ...]:
    """Return the scenarios that a variant of a family is put through.

    Raises:
        UsageError: its data file names none.
    """
    names = families.find_variant(family, variant).scenarios or family.scenarios
    if not names:
        raise UsageError(
            f"{family.name}: its module.yaml names no scenario",
            hint="add `scenarios: [load-unload]`, or say --scenario",
        )
    return tuple(scenario.load_scenario(scenario.find_scenario(name)) for name in names)


def run_trials(
    trials: Iterator[Trial],
    workers: int,
    *,
    stop: Callable[[TrialResult], bool],
    pass_over: type[HarnessError] | tuple[()] = (),
) -> Iterator[tuple[Trial, TrialResult]]:
    """Run trials side by side and yield each result as it comes.

    Args:
        trials: taken one at a time, as workers become free.
        stop: asked with each result; once it says yes no further trial starts.
        pass_over: a trial that raises this has no result, and is not heard of.

    Raises:
        HarnessError: the first other one that a trial raised, after the running ones ended.
    """
    # A guest is killed when the thread that started it ends: the pool's threads
    # last until every trial has been collected.
    with ThreadPoolExecutor(max_workers=workers) as pool:
        running: dict[Future[TrialResult], Trial] = {}
        stopped = False
        while True:
            while not stopped and len(running) < workers:
                trial = next(trials, None)
                if trial is None:
                    break
                running[pool.submit(run_trial, trial)] = trial
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda future: running[future].spec.seed):
                trial = running.pop(future)
                try:
                    result = future.result()
                except pass_over:
                    continue
                stopped = stopped or stop(result)
                yield trial, result


def decoded(result: TrialResult, kernel: Kernel) -> str:
    """Return a result's findings as text, with functions and source lines."""
    parts = []
    for finding in result.findings:
        text = decode_text(finding.detail, kernel, result.lives)
        parts.append(f"{finding.title}\n\n{text}\n" if text else f"{finding.title}\n")
    return "\n".join(parts)


def decode_text(text: str, kernel: Kernel, lives: Sequence[symbolise.ModuleLife]) -> str:
    """Return what a kernel printed, with functions and source lines."""
    text = symbolise.decode(text, vmlinux=kernel.vmlinux, modules=lives)
    # Assembly files are named in full, and a module's after the folder that it was
    # compiled from; where this machine keeps them is nobody's business.
    for folder in (kernel.source, kernel.build):
        text = text.replace(f"{folder}/", "")
    return text
