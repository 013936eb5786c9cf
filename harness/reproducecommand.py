# SPDX-License-Identifier: GPL-2.0-only
"""What ``harness reproduce`` does."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from harness import (
    battery,
    bugreport,
    bundle,
    catalogue,
    checkfile,
    families,
    kernelfiles,
    minimise,
    minimisecommand,
    ownsource,
    report,
    reproduce,
    revision,
    scenario,
    store,
    uses,
    workloads,
)
from harness.bench import Bench, Options, Skipped
from harness.bugreport import BugReport
from harness.commands import announce, show_progress
from harness.errors import ExitStatus, UsageError
from harness.families import Family
from harness.kernelfiles import DEFAULT_PROFILE
from harness.lab import Lab, Subject
from harness.machine import Lane
from harness.reproduce import Reproduced
from harness.scenario import Scenario

#: Of the module, where nobody uses it.
_LIVES: Final = 3
#: Where it is used and nobody races: what depends on when a tick comes takes some.
_USED_LIVES: Final = 20


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Look for what a bug report tells of."""
    known = bugreport.read(arguments.report)
    variant = arguments.variant or known.variant
    kernel = arguments.kernel or bugreport.nearest_kernel(
        known.version, kernelfiles.known_kernels()
    )
    profile = arguments.profile or DEFAULT_PROFILE
    kernelfiles.load_recipe(kernel, profile)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(show_progress())
        made = Lab(store.Store.open(), progress)
        if known.in_tree and not arguments.module:
            own = ownsource.resolve(
                made, in_tree=known.in_tree, patch=known.patch, kernel=kernel,
                profile=arguments.profile,
            )  # fmt: skip
            source, profile = own.target, own.profile
        else:
            place = arguments.module or known.module or _guess(known)
            source = stack.enter_context(revision.unpacked(place, known.revision))
        family = families.find_family(source)
        families.find_variant(family, variant)
        out = progress.console
        out.print(f"looking for: {known.title}", markup=False, highlight=False)
        out.print(_which_kernel(known, kernel), markup=False, highlight=False)
        named = argparse.Namespace(kernel=kernel, profile=profile)
        announce(made, named, out)
        # A module that does not compile for that kernel is no bug that was not found.
        made.build(source, variant, kernel, profile)

        def subject(lane: Lane) -> Subject:
            return made.subject(source, variant, kernel, profile, lane)

        done = reproduce.reproduce(
            made,
            subject,
            _workloads(made, family, variant, kernel, profile, arguments, progress),
            title=known.title,
            text=known.text,
            budget_s=arguments.seconds,
            workers=arguments.workers,
            progress=progress,
        )
        path = None
        if done.shown is not None:
            trial, result = done.shown
            path = catalogue.keep(made, subject(trial.spec.lane), trial, result, arguments.bundles)
        small = None
        if path is not None and not arguments.no_minimise:
            found = bundle.load_bundle(path)
            small = minimisecommand.search(
                made, found, arguments.workers, minimise.SEEDS, arguments.seconds, progress
            )
    _say(done, path, str(arguments.json))
    if small is not None and path is not None and str(arguments.json) != "-":
        minimisecommand.say(bundle.load_bundle(path), *small)
    if arguments.json:
        kept = small[0] if small else path
        shown = None if kept is None else str(kept)
        report.write_json(arguments.json, done.document(shown))
    # What was asked for is the finding.
    return ExitStatus.FINDINGS if done.shown is not None else ExitStatus.OK


def _guess(known: BugReport) -> str:
    """Return the name of a sample module that the report has frames in.

    Raises:
        UsageError: there is none.
    """
    for name in known.names:
        for family in families.all_families():
            if family.name == name:
                return name
    named = f"; it names {', '.join(known.names[:5])}" if known.names else ""
    raise UsageError(
        f"the report does not say where the module's source is{named}",
        hint="--module FOLDER, or `module: {folder: ...}` in the report",
    )


def _which_kernel(known: BugReport, kernel: str) -> str:
    if kernel == known.version:
        return f"kernel: {kernel}"
    return f"kernel: {kernel}, for the report's {known.version}"


def _workloads(
    made: Lab,
    family: Family,
    variant: str,
    kernel: str,
    profile: str,
    arguments: argparse.Namespace,
    progress: report.Progress,
) -> Sequence[Scenario]:
    """Return a family's own scenarios, or what is known of whoever uses what it exposes."""
    if family.has_scenarios:
        return [scenario.load_scenario(scenario.find_scenario(one)) for one in family.scenarios]
    options = Options(
        kernel, profile, (Lane.DET,), 1, arguments.workers, arguments.bundles, variant
    )
    settings = checkfile.load(family.home, battery.NAMES)
    bench = Bench(made, family, settings, options, progress)
    around = bench.around
    plans = [workloads.survey(around), workloads.cycles(around, _LIVES)]
    try:
        exposed = bench.surfaces
    except Skipped:
        # It fails so early that loading it is all that can be done.
        return plans
    groups = uses.groups(exposed)
    plans.append(workloads.use(around, groups, 1, turns=_USED_LIVES))
    plans += [workloads.held(around, one) for one in exposed if uses.must_pin(one)]
    for seed in (1, 2):
        plans += [workloads.users(around, f"users-{one.name}-{seed}", [one], seed, 6)
                  for one in groups]  # fmt: skip
        if len(groups) > 1:
            plans.append(workloads.users(around, f"crowd-{seed}", groups[:8], seed, 6))
    return plans


def _say(done: Reproduced, path: Path | None, json_out: str) -> None:
    if json_out == "-":
        return
    out = Console(highlight=False, soft_wrap=True)
    for one in done.tried:
        others = "; ".join(f"{count} x {title}" for title, count in one.others.most_common(3))
        more = f" ({one.why})" if one.why else f" (others: {others})" if others else ""
        out.print(f"{one.way.value}: {one.hits} of {one.trials}{more}", markup=False)
        if one.order and (because := one.order[0].because):
            out.print(
                f"  {one.order[0].scenario} first, for its {', '.join(because[:4])}", markup=False
            )
    out.print(done.sentence(), markup=False)
    if path is not None:
        out.print(report.replay_command(path), markup=False)
