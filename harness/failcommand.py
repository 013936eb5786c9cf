# SPDX-License-Identifier: GPL-2.0-only
"""What ``harness failsweep`` does."""

from __future__ import annotations

import argparse

from harness import catalogue, failsweep, failtext, families, kernels, lab, report, scenario, store
from harness.commands import announce, show_progress, wide_console
from harness.errors import ExitStatus, UsageError
from harness.lab import Lab
from harness.machine import Lane
from harness.ops import OPS
from harness.scenario import Scenario


def sweep(arguments: argparse.Namespace) -> ExitStatus:
    """Make each allocation of each step of a module's scenarios fail."""
    family = families.find_family(arguments.module)
    families.find_variant(family, arguments.variant)
    kernels.load_recipe(arguments.kernel, arguments.profile)
    unknown = [name for name in arguments.op or () if name not in OPS]
    if unknown:
        raise UsageError(f"--op {unknown[0]}: no operation is called so")
    workloads = _workloads(arguments, family)
    with show_progress() as progress:
        made = Lab(store.Store.open(), progress)
        announce(made, arguments, progress.console)
        subject = made.subject(
            str(family.folder), arguments.variant, arguments.kernel, arguments.profile, Lane.DET
        )
        done = failsweep.run(
            made,
            subject,
            workloads,
            workers=arguments.workers,
            budget_s=arguments.seconds,
            ops=arguments.op or (),
            batch=arguments.batch,
            loader=not arguments.skip_loader,
            progress=progress,
        )
        kept = {
            title: catalogue.keep(made, subject, found.trial, found.result, arguments.bundles)
            for title, found in done.found.items()
        }
        kernel = made.kernel(arguments.kernel, arguments.profile)
        places = failtext.read_places(done, kernel)
    if str(arguments.json) != "-":
        failtext.print_table(done, places, kept, wide_console())
    if arguments.json:
        report.write_json(arguments.json, failtext.document(done, places, kept))
    return ExitStatus.FINDINGS if done.findings else ExitStatus.OK


def _workloads(arguments: argparse.Namespace, family: families.Family) -> tuple[Scenario, ...]:
    if arguments.scenario:
        names = [scenario.find_scenario(name) for name in arguments.scenario]
        return tuple(scenario.load_scenario(name) for name in names)
    return failsweep.simple(lab.family_scenarios(family, arguments.variant))
