# SPDX-License-Identifier: GPL-2.0-only
"""What ``harness minimise`` does."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from rich.console import Console

from harness import (
    ascode,
    aspytest,
    asscenario,
    asshell,
    bundle,
    lab,
    minimise,
    report,
    shrink,
    store,
)
from harness.bundle import Bundle
from harness.commands import replayed, show_progress
from harness.errors import ExitStatus, UsageError
from harness.lab import Lab
from harness.minimise import Step
from harness.program import Program, check_alone
from harness.report import ProgressLine

#: What ``--as`` writes → where, if nobody says.
FORMS = {
    "c": Path("reproducer.c"),
    "sh": Path("reproducer.sh"),
    "pytest": Path("test_regression.py"),
}
#: Those for a machine without the harness.
_ALONE = {"c": ascode.write, "sh": asshell.write}


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Look for the smallest program that shows a bundle's finding, and write it down."""
    found = bundle.load_bundle(arguments.bundle)
    if not found.titles:
        raise UsageError(f"{found.path}: has no finding to keep")
    before = Program.parse(found.program)
    _check_form(arguments, before)
    path, done = found.path, None
    if not arguments.as_it_is:
        with show_progress() as progress:
            made = Lab(store.Store.open(), progress)
            path, done = search(
                made, found, arguments.workers, arguments.seeds, arguments.seconds, progress
            )
    say(found, path, done)
    if arguments.form:
        _write_form(arguments, bundle.load_bundle(path))
    return ExitStatus.FINDINGS


def search(
    made: Lab,
    found: Bundle,
    workers: int,
    seeds: int,
    seconds: float | None,
    progress: ProgressLine,
) -> tuple[Path, minimise.Minimised]:
    """Look for the smallest program that shows a bundle's finding; return its bundle.

    Raises:
        UsageError: the bundle does not show it any more.
        HarnessError: a trial left no evidence.
    """
    trial = replayed(made, found, progress)
    keeper = _Keeper(made, found)
    try:
        done = minimise.minimise(
            trial,
            found.titles[0],
            titles=frozenset(found.titles),
            workers=workers,
            seeds=seeds,
            budget_s=seconds,
            keep=keeper.keep,
            progress=progress,
        )
    finally:
        # Whoever interrupts it has the best so far.
        if keeper.path is not None:
            progress.console.print(
                f"bundle: {report.shown_path(keeper.path)}",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
    return keeper.path or found.path, done


class _Keeper:
    """Keeps the bundle of the smallest program so far, in one folder."""

    def __init__(self, made: Lab, found: Bundle) -> None:
        self.made = made
        self.found = found
        self.path: Path | None = None

    def keep(self, step: Step) -> None:
        root = self.found.path.absolute().parent / "minimised"
        if root.name == self.found.path.absolute().parent.name:
            root = root.parent
        kernel = self.made.kernel(self.found.spec.kernel, self.found.spec.profile)
        text = lab.decoded(step.result, kernel)
        before = self.path
        self.path = bundle.write_bundle(root, step.trial, step.result, self.found.payload, text)
        # Another seed has another name.
        if before is not None and before != self.path:
            shutil.rmtree(before, ignore_errors=True)


def say(found: Bundle, path: Path, done: minimise.Minimised | None) -> None:
    """Say what became of a search; without one, what the bundle's program is."""
    before = after = Program.parse(found.program)
    if done is not None and done.best is not None:
        after = Program.parse(done.best.trial.program)
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"title: {found.titles[0]}", markup=False)
    if done is not None:
        state = "nothing can be left out any more" if done.complete else "time was over"
        out.print(f"{done.trials} trials; {state}")
        out.print(f"was:   {shrink.size(before)}")
        out.print(f"is:    {shrink.size(after)}")
    if before.park is not None:
        was = before.park.plan
        now = "none, for it stopped nobody" if after.park is None else after.park.plan
        out.print(f"plan:  {now}{'' if now == was else f' (was: {was})'}", markup=False)
    for line in after.serialise().decode().splitlines()[5:]:
        out.print(f"  {line}", markup=False)
    out.print(report.replay_command(path), markup=False)


def _check_form(arguments: argparse.Namespace, program: Program) -> None:
    """Refuse what cannot be written before an hour is spent on it.

    Raises:
        UsageError: the program has what the form cannot hold, or the file is there already.
    """
    if not arguments.form:
        return
    out = _out(arguments)
    if out.exists() and not arguments.force:
        raise UsageError(f"{out}: is there already", hint="--force writes it anew")
    # A schedule may turn out not to be needed; a plan is what the bundle is about.
    if program.park is not None and arguments.form in _ALONE:
        check_alone(program)
    elif program.park is not None:
        asscenario.document(program, "", "", {})


def _out(arguments: argparse.Namespace) -> Path:
    out: Path = arguments.out or FORMS[arguments.form]
    return out


def _write_form(arguments: argparse.Namespace, found: Bundle) -> None:
    program = Program.parse(found.program)
    spec = found.spec
    names = sorted(found.symbols)
    if write := _ALONE.get(arguments.form):
        about = f"{found.titles[0]}\n\nKernel {spec.kernel} ({spec.profile}), {spec.module}."
        text = write(program, about, [f"{name}.ko" for name in names])
    else:
        text = aspytest.write(
            program,
            found.titles[0],
            lane=spec.lane.value,
            variant=spec.variant,
            kernel=spec.kernel,
            modules={name: "module" for name in names if len(names) == 1 or name == spec.module},
        )
    out = _out(arguments)
    report.write_text(out, text)
    Console(highlight=False, soft_wrap=True).print(f"wrote {out}", markup=False)
