# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the battery that are more than trials and their findings.

They go through every instruction (:mod:`harness.sweep`), every allocation
(:mod:`harness.failsweep`) or all of a guest's memory (:mod:`harness.memscan`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from harness import failsweep, failtext, kernels, sweep, uses, workloads
from harness.bench import Bench, Case, Found, Skipped
from harness.errors import UsageError
from harness.machine import Lane
from harness.surfaces import Kind
from harness.trial import TrialResult
from harness.uses import Group
from harness.verdict import Finding

#: Lives before a guest's memory is looked through.
POINTER_TURNS: Final = 3


def _det_config(bench: Bench, what: str) -> Mapping[str, str]:
    """Return the options of the kernel.

    Raises:
        Skipped: the det lane was not asked for.
    """
    if not bench.det:
        raise Skipped(f"{what} in the det lane only")
    kernel = bench.made.kernel(bench.options.kernel, bench.options.profile)
    return kernels.read_config(kernel)


def _kernel_name(bench: Bench) -> str:
    return f"{bench.options.kernel}-{bench.options.profile}"


def park_sweep(bench: Bench) -> Iterable[Found]:
    """Unload under every instruction of the module that its users reach."""
    config = _det_config(bench, "a task can be stopped at an instruction")
    groups = bench.groups()
    # Asked for by name: a kernel that cannot is the user's mistake.
    sweep.check_kernel(_kernel_name(bench), config)
    done = sweep.run_sweep(
        bench.made,
        bench.subject(Lane.DET),
        [workloads.users(bench.around, f"sweep-{one.name}", [one], 1, 1) for one in groups],
        seed=1,
        cycles=None,
        workers=bench.options.workers,
        progress=bench.progress,
    )
    bench.trials += done.trials
    for found in done.found.values():
        if not bench.is_known(found.finding):
            yield Found(found.finding, bench.keep(found.trial, found.result))


def failures(bench: Bench) -> Iterable[Found]:
    """Make each allocation of a load, of each surface's use and of an unload fail once."""
    surfaces = bench.surfaces
    config = _det_config(bench, "what fails is the same twice")
    try:
        failsweep.check_kernel(_kernel_name(bench), config)
    except UsageError as error:
        raise Skipped(str(error)) from None
    done = failsweep.run(
        bench.made,
        bench.subject(Lane.DET),
        workloads.in_order(bench.around, _one_of_each(uses.groups(surfaces))),
        workers=bench.options.workers,
        budget_s=bench.options.fail_s,
        # What a load asks for before it calls init is the kernel's, and the same for all.
        loader=False,
        progress=bench.progress,
    )
    bench.trials += done.trials
    kept = {
        one.finding.title: bench.keep(one.trial, one.result)
        for one in done.findings
        if not bench.is_known(one.finding)
    }
    kernel = bench.made.kernel(bench.options.kernel, bench.options.profile)
    places = failtext.read_places(done, kernel)
    bench.fail_sites += failtext.document(done, places, kept)["fail_sites"]
    if done.cut and not done.shots and not done.findings:
        raise Skipped(f"time was over before anything had failed, of {len(done.cut)} steps")
    bench.remarks.append(f"{len(done.shots)} failures at {len(done.sites())} sites")
    if done.cut:
        bench.remarks.append(f"time was over before the end of {len(done.cut)} steps")
    yield from (
        Found(one.finding, kept[one.finding.title])
        for one in done.findings
        if one.finding.title in kept
    )


def _one_of_each(groups: Iterable[Group]) -> list[Group]:
    """Return the first of those whose names differ by their numbers: ram0 stands for ram15."""
    kinds: dict[tuple[Kind, str], Group] = {}
    for group in groups:
        kinds.setdefault((group.kind, re.sub(r"\d+", "", group.name)), group)
    return list(kinds.values())


def pointers(bench: Bench) -> Iterable[Found]:
    """Look through the guest's memory for what still leads to where the module was."""
    groups = uses.groups(bench.surfaces)
    kernel = bench.made.kernel(bench.options.kernel, bench.options.profile)
    if kernel.vmlinux is None:
        raise Skipped(f"kernel {_kernel_name(bench)} has no debug information to read memory with")

    def name(result: TrialResult) -> tuple[Finding, ...]:
        if result.evidence.memory:
            bench.remarks += result.evidence.memory.remarks
        return result.findings

    plan = workloads.use(bench.around, groups, 1, name="pointers", turns=POINTER_TURNS)
    return bench.run([Case(plan, 1, bench.lane, name, scan=True)])
