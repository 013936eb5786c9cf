# SPDX-License-Identifier: GPL-2.0-only
"""What the ``harness`` command does: one function a subcommand."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from harness import (
    catalogue,
    families,
    kernels,
    klogview,
    lab,
    report,
    scenario,
    schedules,
    seeds,
    store,
)
from harness.bundle import Bundle
from harness.deadline import Deadline
from harness.errors import ExitStatus, UsageError
from harness.guest import start_guest
from harness.lab import Lab
from harness.machine import Lane
from harness.qemu import find_qemu
from harness.report import ProgressLine
from harness.trial import Trial, TrialResult

#: A person may stay in a guest for as long as he likes, within reason.
PERSON_LIMIT_S = 7 * 24 * 3600.0


def setup(arguments: argparse.Namespace) -> ExitStatus:
    """Build everything that the first trial needs."""
    with show_progress() as progress:
        made = Lab(store.Store.open(), progress)
        announce(made, arguments, progress.console)
        for lane in Lane:
            made.booted(arguments.kernel, arguments.profile, lane)
    return ExitStatus.OK


def doctor(arguments: argparse.Namespace) -> ExitStatus:
    """Say what works on this machine."""
    kernels.load_recipe(arguments.kernel, arguments.profile)
    cache = store.Store.open()
    table = Table(show_header=False, box=None)
    with show_progress() as progress:
        made = Lab(cache, progress)
        table.add_row("cache", f"{cache.root} ({store.free_mib(cache.root)} MiB free)")
        table.add_row("qemu", str(find_qemu()))
        announce(made, arguments, progress.console)
        kernel = made.kernel(arguments.kernel, arguments.profile)
        table.add_row("kernel", f"{kernel.release} from {kernel.version}, {kernel.compiler}")
        table.add_row("it finds", ", ".join(kernel.detectors) or "nothing")
        probes = made.probes(arguments.kernel, arguments.profile)
        for probe in probes:
            state = "works" if probe.works else "does not work"
            table.add_row(f"accelerator {probe.accelerator}", f"{state}: {probe.reason}")
    Console().print(table)
    works = any(probe.works for probe in probes)
    return ExitStatus.OK if works else ExitStatus.HARNESS


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Run trials of one variant of one module."""
    wanted = seeds.parse(arguments.seeds)
    lane = Lane(arguments.lane)
    depth = schedules.parse_method(arguments.schedule) if arguments.schedule else None
    if depth is not None and lane is not Lane.DET:
        raise UsageError(
            f"--schedule in the {lane.value} lane: priorities say who runs first where there is"
            " one processor",
            hint="leave out --lane",
        )
    family = families.find_family(arguments.module)
    families.find_variant(family, arguments.variant)
    kernels.load_recipe(arguments.kernel, arguments.profile)
    if arguments.scenario:
        plans: tuple[scenario.Scenario, ...] = (
            scenario.load_scenario(scenario.find_scenario(arguments.scenario)),
        )
    else:
        plans = lab.family_scenarios(family, arguments.variant)
    records = []
    found = False
    with show_progress() as progress:
        made = Lab(store.Store.open(), progress)
        announce(made, arguments, progress.console)
        subject = made.subject(
            str(family.folder), arguments.variant, arguments.kernel, arguments.profile, lane
        )
        trials = catalogue.trials(
            made, subject, plans, wanted, arguments.seconds, depth, scan=arguments.scan_memory
        )
        for trial, result in lab.run_trials(
            trials, arguments.workers, stop=lambda result: _enough(result, arguments)
        ):
            path = catalogue.keep(made, subject, trial, result, arguments.bundles)
            found = found or bool(result.findings)
            records.append(report.trial_record(result, path))
            if str(arguments.json) != "-":
                progress.console.print(
                    report.one_line(result), highlight=False, markup=False, soft_wrap=True
                )
    records.sort(key=lambda record: int(record["seed"]))
    if arguments.json:
        report.write_json(arguments.json, {"trials": records})
    return ExitStatus.FINDINGS if found else ExitStatus.OK


def stress(arguments: argparse.Namespace) -> ExitStatus:
    """Put every variant of every module family to the test and print the table."""
    outcomes = _run_catalogue(arguments, Lane.DET)
    wide_console().print(report.verdict_table(outcome.row for outcome in outcomes))
    if arguments.json:
        trials = [record for outcome in outcomes for record in outcome.records]
        report.write_json(arguments.json, {"trials": trials})
    agrees = all(outcome.row.agrees for outcome in outcomes)
    return ExitStatus.OK if agrees else ExitStatus.FINDINGS


def show_catalogue(arguments: argparse.Namespace) -> ExitStatus:
    """Run every variant until it is caught and print the detection matrix."""
    outcomes = _run_catalogue(arguments, Lane(arguments.lane))
    wide_console().print(report.detection_table(outcome.row for outcome in outcomes))
    if arguments.json:
        report.write_json(arguments.json, catalogue.document(outcomes))
    agrees = all(outcome.row.agrees for outcome in outcomes)
    return ExitStatus.OK if agrees else ExitStatus.FINDINGS


def shell(arguments: argparse.Namespace) -> ExitStatus:
    """Give a person a shell in a prepared guest, or run one command in it."""
    lane = Lane(arguments.lane)
    with show_progress() as progress:
        made = Lab(store.Store.open(), progress)
        announce(made, arguments, progress.console)
        template, keys = made.ssh(arguments.kernel, arguments.profile, lane)
        module = None
        if arguments.module:
            module = made.build(
                arguments.module, arguments.variant, arguments.kernel, arguments.profile
            )
    with start_guest(template, keys) as guest:
        if module is not None:
            deadline = Deadline.after(PERSON_LIMIT_S)
            guest.run("mkdir -p /payload", deadline=deadline)
            for one in module.everything:
                guest.put(one.stripped.read_bytes(), one.path, deadline=deadline)
        if arguments.command:
            command = " ".join(arguments.command)
            done = guest.run(command, deadline=Deadline.after(PERSON_LIMIT_S), check=False)
            os.write(1, done.stdout)
            os.write(2, done.stderr)
            return ExitStatus.OK if done.status == 0 else ExitStatus.FINDINGS
        guest.interact()
        for splat in guest.splats():
            Console(stderr=True).print(f"the kernel said: {splat.title}", markup=False)
    return ExitStatus.OK


def klog(arguments: argparse.Namespace) -> ExitStatus:
    """Find the reports in kernel logs; needs no guest."""
    symbols = klogview.load_symbols(arguments.vmlinux, arguments.modules)
    names = tuple(dict.fromkeys(arguments.files)) or (klogview.STDIN,)
    views = [klogview.view(name, klogview.read_log(name), symbols) for name in names]
    for remark in dict.fromkeys(remark for shown in views for remark in shown.remarks):
        print(f"harness: {remark}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(klogview.to_json(views), indent=1))
    else:
        text = "\n".join(klogview.to_text(shown) for shown in views)
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    return ExitStatus.FINDINGS if any(shown.reports for shown in views) else ExitStatus.OK


def _run_catalogue(arguments: argparse.Namespace, lane: Lane) -> list[catalogue.Outcome]:
    chosen = (
        tuple(families.find_family(name) for name in arguments.family)
        if arguments.family
        else families.all_families()
    )
    kernels.load_recipe(arguments.kernel, arguments.profile)
    limits = catalogue.Limits(
        good_trials=arguments.good_trials,
        good_seconds=arguments.good_seconds,
        bad_trials=arguments.bad_trials,
    )
    with show_progress() as progress:
        made = Lab(store.Store.open(), progress)
        announce(made, arguments, progress.console)
        outcomes = []
        for stint in (one for family in chosen for one in catalogue.stints(family, limits, lane)):
            outcome = catalogue.run_stint(
                made,
                stint,
                kernel=arguments.kernel,
                profile=arguments.profile,
                workers=arguments.workers,
                bundles=arguments.bundles,
                progress=progress,
            )
            outcomes.append(outcome)
            # The table comes at the end, and that is long after the first verdict.
            progress.console.print(
                report.row_line(outcome.row), highlight=False, markup=False, soft_wrap=True
            )
        return outcomes


def wide_console() -> Console:
    """A log file has no width of its own, and a folded command cannot be pasted."""
    return Console(width=None if sys.stdout.isatty() else 200)


def _enough(result: TrialResult, arguments: argparse.Namespace) -> bool:
    return bool(arguments.until_finding and result.findings)


def announce(made: Lab, arguments: argparse.Namespace, console: Console) -> None:
    """Say at the start that a kernel has to be built, and how long that takes."""
    recipe = kernels.load_recipe(arguments.kernel, arguments.profile)
    if kernels.find_kernel(made.cache, recipe) is None:
        minutes = kernels.estimate_s(recipe) / 60
        how = f"about {minutes:.0f} minutes on {os.cpu_count()} processors"
        if not recipe.is_compiled:
            how = "taken as it is"
        console.print(f"kernel {recipe.label} is not here yet: {how}, once", highlight=False)


def replayed(made: Lab, found: Bundle, progress: ProgressLine) -> Trial:
    """Return the trial that a bundle holds, and say what it is made of now and was not then."""
    trial, differences = made.replay_trial(found)
    for difference in differences:
        progress.console.print(
            f"not as it was: {difference}", highlight=False, markup=False, soft_wrap=True
        )
    return trial


@contextlib.contextmanager
def show_progress() -> Iterator[ProgressLine]:
    with ProgressLine() as line:
        yield line
