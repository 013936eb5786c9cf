# SPDX-License-Identifier: GPL-2.0-only
"""What ``harness replay`` does."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections import Counter

from rich.console import Console

from harness import bundle, kernels, lab, lookinside, report, stopat, store
from harness.commands import PERSON_LIMIT_S, replayed, show_progress
from harness.deadline import Deadline
from harness.errors import ExitStatus, QemuError, UsageError
from harness.lab import Lab
from harness.machine import Lane
from harness.trial import Trial


def replay(arguments: argparse.Namespace) -> ExitStatus:
    """Run the trial of a bundle again, and say how much of it was the same."""
    found = bundle.load_bundle(arguments.bundle)
    kernels.load_recipe(found.spec.kernel, found.spec.profile)
    if arguments.before is not None and not arguments.gdb:
        raise UsageError("--before says where gdb stops", hint="--gdb --before 200us")
    if arguments.gdb or arguments.core is not None:
        return _look(found, arguments)
    titles: Counter[bool] = Counter()
    consoles: Counter[bool] = Counter()
    seen: Counter[str] = Counter()
    parts = ""
    with show_progress() as progress:
        made = Lab(store.Store.open(), progress)
        trial = replayed(made, found, progress)
        trials = itertools.repeat(trial, arguments.times)
        for _, result in lab.run_trials(trials, arguments.workers, stop=lambda result: False):
            shown = tuple(finding.title for finding in result.findings)
            titles[shown[:1] == found.titles[:1]] += 1
            console = result.evidence.console
            consoles[console == found.console] += 1
            if trial.spec.lane is Lane.DET:
                parts = parts or bundle.first_difference(found.console, console)
            seen["; ".join(shown) or "no finding"] += 1
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"title: {found.titles[0] if found.titles else 'no finding'}", markup=False)
    out.print(f"same title: {titles[True]} of {arguments.times}")
    out.print(f"same console bytes: {consoles[True]} of {arguments.times}")
    if parts:
        out.print(f"  first other {parts}", markup=False)
    for outcome, count in seen.most_common():
        out.print(f"  {count} x {outcome}", markup=False)
    return ExitStatus.FINDINGS if titles[True] else ExitStatus.OK


def _look(found: bundle.Bundle, arguments: argparse.Namespace) -> ExitStatus:
    """Let somebody look into the trial instead of judging it."""
    before = None if arguments.before is None else stopat.parse_amount(arguments.before)
    with show_progress() as progress:
        made = Lab(store.Store.open(), progress)
        trial = replayed(made, found, progress)
    if arguments.gdb:
        _debug(trial, arguments.stop or [], before)
    else:
        _dump(trial, arguments)
    return ExitStatus.OK


def _debug(trial: Trial, stops: list[str], before: int | None) -> None:
    out = Console(highlight=False, soft_wrap=True)
    with lookinside.debugged(trial, stops, before) as session:
        out.print("the guest waits; in another terminal:")
        out.print(f"  gdb -x {session.script}", markup=False)
        where = ", ".join(stops or lookinside.default_stops(trial))
        if before is not None:
            where = f"{before} instructions before its first stop; once more, to {where}"
        out.print(
            f"`continue` there runs it to {where}; it ends with the guest, or with ^C here",
            markup=False,
        )
        limit = Deadline.after(PERSON_LIMIT_S)
        if before is not None:
            # A debugger that was ended takes the guest with it.
            with contextlib.suppress(QemuError):
                left = session.wait_early(limit)
                out.print(f"stopped {left} instructions before the first stop without --before")
        session.qemu.wait_exit(limit)


def _dump(trial: Trial, arguments: argparse.Namespace) -> None:
    out = Console(highlight=False, soft_wrap=True)
    lookinside.dump_core(trial, arguments.core)
    kernel = trial.template.base.kernel
    vmlinux = kernels.require_vmlinux(kernel)
    # Loading drgn takes longer than many a command does.
    from harness import corefile

    corefile.add_vmcoreinfo(arguments.core, kernel.release)
    for line in corefile.view(arguments.core, vmlinux, trial.symbols):
        out.print(line.replace(f"{kernel.source}/", ""), markup=False)
    names = " ".join(f"-s {ko}" for ko in (vmlinux, *trial.symbols.values()))
    out.print(f"drgn -c {report.shown_path(arguments.core)} {names}", markup=False)
    out.print(f"crash {vmlinux} {report.shown_path(arguments.core)}", markup=False)
