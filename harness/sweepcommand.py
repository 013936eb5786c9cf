# SPDX-License-Identifier: GPL-2.0-only
"""What ``harness sweep`` does."""

from __future__ import annotations

import argparse
import fnmatch
from pathlib import Path

from rich.console import Console

from harness import (
    catalogue,
    families,
    kernels,
    klog,
    lab,
    plan,
    points,
    report,
    scenario,
    store,
    sweeptext,
)
from harness import sweep as sweeping
from harness.commands import announce, show_progress
from harness.errors import ExitStatus, UsageError
from harness.lab import Lab
from harness.machine import Lane
from harness.plan import Action


def sweep(arguments: argparse.Namespace) -> ExitStatus:
    """Stop a task at every instruction that a module's scenarios reach."""
    family = families.find_family(arguments.module)
    families.find_variant(family, arguments.variant)
    kernels.load_recipe(arguments.kernel, arguments.profile)
    if arguments.scenario:
        names = [scenario.find_scenario(name) for name in arguments.scenario]
        workloads = tuple(scenario.load_scenario(name) for name in names)
    else:
        # All that the family has: a point that one variant's own scenario does not
        # come to may be where it goes wrong.
        workloads = tuple(
            dict.fromkeys(
                (*lab.family_scenarios(family, arguments.variant), *_scenarios_of(family))
            )
        )
    actions = [Action(name) for name in arguments.action or ()]
    given = [plan.parse(text) for text in arguments.plan or ()]
    text = _read_report(arguments.from_report) if arguments.from_report else None
    patterns = arguments.function or ["*"]
    with show_progress() as progress:
        made = Lab(store.Store.open(), progress)
        announce(made, arguments, progress.console)
        subject = made.subject(
            str(family.folder), arguments.variant, arguments.kernel, arguments.profile, Lane.DET
        )
        if arguments.of:
            subject = subject.aimed_at(arguments.of)
        kernel = made.kernel(arguments.kernel, arguments.profile)
        config = kernels.read_config(kernel)
        sweeping.check_kernel(f"{kernel.name}-{kernel.profile}", config)
        wanted_title = None
        if text is not None:
            known = made.points(subject.target.ko)
            given += sweeping.plans_from_report(text, subject.target.name, known, arguments.hits)
            wanted_title = _report_title(text)
        done = sweeping.run_sweep(
            made,
            subject,
            workloads,
            seed=arguments.seed,
            cycles=arguments.cycles,
            actions=actions,
            hits=arguments.hits,
            workers=arguments.workers,
            wanted=lambda reach: any(
                fnmatch.fnmatchcase(reach.point.function, pattern) for pattern in patterns
            ),
            given=given,
            enough=lambda done: arguments.until_finding and done.has_planned,
            progress=progress,
        )
        kept = {
            title: catalogue.keep(made, subject, found.trial, found.result, arguments.bundles)
            for title, found in done.found.items()
        }
        places = points.read_places(
            subject.target.ko, done.points, roots=(kernel.build, kernel.source)
        )
    document = sweeptext.document(done, places, kept)
    if str(arguments.json) != "-":
        sweeptext.print_listing(done, places, kept, Console(highlight=False, soft_wrap=True))
        if wanted_title is not None:
            print(sweeptext.reproduction(done, wanted_title))
    if arguments.html:
        report.write_text(arguments.html, sweeptext.page(done, places, kept))
    if arguments.json:
        report.write_json(arguments.json, document)
    return ExitStatus.FINDINGS if done.found else ExitStatus.OK


def _scenarios_of(family: families.Family) -> tuple[scenario.Scenario, ...]:
    return tuple(scenario.load_scenario(scenario.find_scenario(name)) for name in family.scenarios)


def _read_report(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _report_title(text: str) -> str:
    reports = klog.parse(text.encode())
    return reports[0].title if reports else ""
