# SPDX-License-Identifier: GPL-2.0-only
"""What the ``harness`` command does: one function a subcommand."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness import bundle, kernels, lab, modules, report, scenario, seeds, store
from harness.deadline import Deadline
from harness.errors import ExitStatus
from harness.guest import start_guest
from harness.lab import Lab
from harness.machine import Lane
from harness.qemu import find_qemu
from harness.report import ProgressLine, Row
from harness.trial import Trial, TrialResult

#: A person may stay in a guest's shell for as long as he likes, within reason.
_SHELL_LIMIT_S = 7 * 24 * 3600.0


def setup(arguments: argparse.Namespace) -> ExitStatus:
    """Build everything that the first trial needs."""
    with _progress() as progress:
        made = Lab(store.Store.open(), progress)
        _announce(made, arguments, progress.console)
        for lane in Lane:
            made.booted(arguments.kernel, arguments.profile, lane)
    return ExitStatus.OK


def doctor(arguments: argparse.Namespace) -> ExitStatus:
    """Say what works on this machine."""
    kernels.load_recipe(arguments.kernel, arguments.profile)
    cache = store.Store.open()
    table = Table(show_header=False, box=None)
    with _progress() as progress:
        made = Lab(cache, progress)
        table.add_row("cache", f"{cache.root} ({store.free_mib(cache.root)} MiB free)")
        table.add_row("qemu", str(find_qemu()))
        _announce(made, arguments, progress.console)
        kernel = made.kernel(arguments.kernel, arguments.profile)
        table.add_row("kernel", f"{kernel.release} from {kernel.version}, {kernel.compiler}")
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
    family = modules.find_family(arguments.module)
    modules.find_variant(family, arguments.variant)
    kernels.load_recipe(arguments.kernel, arguments.profile)
    if arguments.scenario:
        plans: tuple[scenario.Scenario, ...] = (
            scenario.load_scenario(scenario.find_scenario(arguments.scenario)),
        )
    else:
        plans = lab.family_scenarios(family, arguments.variant)
    records = []
    found = False
    with _progress() as progress:
        made = Lab(store.Store.open(), progress)
        _announce(made, arguments, progress.console)
        subject = made.subject(
            str(family.folder), arguments.variant, arguments.kernel, arguments.profile, lane
        )
        trials = _trials(made, subject, plans, _lasting(wanted, arguments.seconds))
        for trial, result in lab.run_trials(
            trials, arguments.workers, stop=lambda result: _enough(result, arguments)
        ):
            path = _keep(made, subject, trial, result, arguments.bundles)
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
    families = modules.all_families()
    rows: list[Row] = []
    records = []
    with _progress() as progress:
        made = Lab(store.Store.open(), progress)
        _announce(made, arguments, progress.console)
        for family in families:
            for stint in _stints(family, arguments):
                row, trials = _run_stint(made, family, stint, arguments, progress)
                rows.append(row)
                records += trials
    # A log file has no width of its own, and a folded command cannot be pasted.
    Console(width=None if sys.stdout.isatty() else 200).print(report.verdict_table(rows))
    if arguments.json:
        report.write_json(arguments.json, {"trials": records})
    return ExitStatus.OK if all(row.agrees for row in rows) else ExitStatus.FINDINGS


def replay(arguments: argparse.Namespace) -> ExitStatus:
    """Run the trial of a bundle again, and say how much of it was the same."""
    found = bundle.load_bundle(arguments.bundle)
    kernels.load_recipe(found.spec.kernel, found.spec.profile)
    titles: Counter[bool] = Counter()
    consoles: Counter[bool] = Counter()
    seen: Counter[str] = Counter()
    with _progress() as progress:
        made = Lab(store.Store.open(), progress)
        trial, differences = made.replay_trial(found)
        for difference in differences:
            progress.console.print(f"not as it was: {difference}", highlight=False)
        trials = itertools.repeat(trial, arguments.times)
        for _, result in lab.run_trials(trials, arguments.workers, stop=lambda result: False):
            shown = tuple(finding.title for finding in result.findings)
            titles[shown[:1] == found.titles[:1]] += 1
            digest = store.digest_bytes(result.evidence.console)
            consoles[digest == found.console_sha256] += 1
            seen["; ".join(shown) or "no finding"] += 1
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"title: {found.titles[0] if found.titles else 'no finding'}", markup=False)
    out.print(f"same title: {titles[True]} of {arguments.times}")
    out.print(f"same console bytes: {consoles[True]} of {arguments.times}")
    for outcome, count in seen.most_common():
        out.print(f"  {count} x {outcome}", markup=False)
    return ExitStatus.FINDINGS if titles[True] else ExitStatus.OK


def shell(arguments: argparse.Namespace) -> ExitStatus:
    """Give a person a shell in a prepared guest, or run one command in it."""
    lane = Lane(arguments.lane)
    with _progress() as progress:
        made = Lab(store.Store.open(), progress)
        _announce(made, arguments, progress.console)
        template, keys = made.ssh(arguments.kernel, arguments.profile, lane)
        module = None
        if arguments.module:
            module = made.build(
                arguments.module, arguments.variant, arguments.kernel, arguments.profile
            )
    with start_guest(template, keys) as guest:
        if module is not None:
            deadline = Deadline.after(_SHELL_LIMIT_S)
            guest.run("mkdir -p /payload", deadline=deadline)
            for path, entry in module.payload():
                guest.put(entry.content, f"/{path}", deadline=deadline)
        if arguments.command:
            command = " ".join(arguments.command)
            done = guest.run(command, deadline=Deadline.after(_SHELL_LIMIT_S), check=False)
            os.write(1, done.stdout)
            os.write(2, done.stderr)
            return ExitStatus.OK if done.status == 0 else ExitStatus.FINDINGS
        guest.interact()
        for splat in guest.splats():
            Console(stderr=True).print(f"the kernel said: {splat.title}", markup=False)
    return ExitStatus.OK


@dataclass(frozen=True, slots=True)
class _Stint:
    """One line of the verdict table before it was run."""

    variant: str
    lane: Lane
    seeds: range
    seconds: float | None
    expect: tuple[str, ...]


def _stints(family: modules.Family, arguments: argparse.Namespace) -> Iterator[_Stint]:
    for name, variant in family.variants.items():
        if name == modules.GOOD:
            yield _Stint(name, Lane.DET, range(arguments.good_trials), None, ())
            yield _Stint(name, Lane.SMP, range(1), arguments.good_seconds, ())
        else:
            lane = Lane(variant.lane)
            # Seed 0 looks for leaks, which takes longer than all that follow together.
            first = 0 if any("leak" in promise for promise in variant.expect) else 1
            tries = range(first, first + arguments.bad_trials)
            yield _Stint(name, lane, tries, None, variant.expect)


def _run_stint(
    made: Lab,
    family: modules.Family,
    stint: _Stint,
    arguments: argparse.Namespace,
    progress: ProgressLine,
) -> tuple[Row, list[dict[str, object]]]:
    subject = made.subject(
        str(family.folder), stint.variant, arguments.kernel, arguments.profile, stint.lane
    )
    plans = lab.family_scenarios(family, stint.variant)

    def settles(result: TrialResult) -> bool:
        if stint.expect:
            return report.promised_finding(result.findings, stint.expect) is not None
        return bool(result.findings)

    records: list[dict[str, object]] = []
    caught: tuple[int, str, Path] | None = None
    trials = _trials(made, subject, plans, _lasting(stint.seeds, stint.seconds))
    label = f"{family.name} {stint.variant}, {stint.lane.value} lane"
    for trial, result in lab.run_trials(trials, arguments.workers, stop=settles):
        path = _keep(made, subject, trial, result, arguments.bundles)
        records.append(report.trial_record(result, path))
        share = None if stint.seconds else len(records) / len(stint.seeds)
        progress(f"{label} ({len(records)} trials)", share)
        if settles(result) and path is not None and (caught is None or trial.spec.seed < caught[0]):
            promised = report.promised_finding(result.findings, stint.expect)
            caught = (trial.spec.seed, (promised or result.findings[0]).title, path)
    row = Row(
        module=family.name,
        variant=stint.variant,
        lane=stint.lane.value,
        trials=len(records),
        caught_after=None if caught is None else caught[0] - stint.seeds.start + 1,
        title=None if caught is None else caught[1],
        promised=stint.expect[0] if stint.expect else None,
        bundle=None if caught is None else caught[2],
    )
    return row, records


def _trials(
    made: Lab,
    subject: lab.Subject,
    plans: tuple[scenario.Scenario, ...],
    numbers: Iterator[int],
) -> Iterator[Trial]:
    """Yield one trial a seed; the scenarios take turns."""
    for seed in numbers:
        yield made.trial(subject, plans[seed % len(plans)], seed)


def _lasting(wanted: range, seconds: float | None) -> Iterator[int]:
    """Yield the seeds of a range, and further ones until a time is over."""
    yield from wanted
    if seconds is not None:
        deadline = Deadline.after(seconds)
        for seed in itertools.count(wanted.stop):
            if deadline.expired:
                return
            yield seed


def _enough(result: TrialResult, arguments: argparse.Namespace) -> bool:
    return bool(arguments.until_finding and result.findings)


def _keep(
    made: Lab, subject: lab.Subject, trial: Trial, result: TrialResult, folder: Path
) -> Path | None:
    """Write the bundle of a failing trial; a passing one leaves nothing."""
    if not result.findings:
        return None
    kernel = made.kernel(subject.kernel, subject.profile)
    text = lab.decoded(result, kernel)
    return bundle.write_bundle(folder.absolute(), trial, result, subject.archive, text)


def _announce(made: Lab, arguments: argparse.Namespace, console: Console) -> None:
    """Say at the start that a kernel has to be built, and how long that takes."""
    recipe = kernels.load_recipe(arguments.kernel, arguments.profile)
    if kernels.find_kernel(made.cache, recipe) is None:
        minutes = kernels.estimate_s(recipe) / 60
        console.print(
            f"kernel {recipe.label} is not built yet: about {minutes:.0f} minutes on "
            f"{os.cpu_count()} processors, once",
            highlight=False,
        )


@contextlib.contextmanager
def _progress() -> Iterator[ProgressLine]:
    with ProgressLine() as line:
        yield line
