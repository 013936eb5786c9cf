# SPDX-License-Identifier: GPL-2.0-only
"""What ``harness bisect`` does."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness import bisect, bundle, families, kernelfiles, report, revision, store, verify
from harness.bisect import Judge, Step
from harness.bundle import Bundle
from harness.commands import replayed, show_progress
from harness.errors import ExitStatus, UsageError
from harness.lab import Lab
from harness.rates import CONFIDENCE
from harness.report import ProgressLine
from harness.trial import Trial


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Say since when, or with what, a bundle's finding shows."""
    found = bundle.load_bundle(arguments.bundle)
    if not found.titles:
        raise UsageError(f"{found.path}: has no finding to look for")
    if sum(map(bool, (arguments.kernels, arguments.git, arguments.options))) != 1:
        raise UsageError("one of --kernels, --git and --options")
    family = families.find_family(arguments.module)
    families.find_variant(family, arguments.variant)
    with show_progress() as progress:
        made = Lab(store.Store.open(), progress)
        trial = replayed(made, found, progress)
        was = verify.measure(
            found.titles[0],
            lambda seed: made.reseeded(trial, seed),
            seed=found.spec.seed,
            workers=arguments.workers,
            progress=progress,
        )
        if not was.hits:
            raise UsageError(f"{found.path}: shows {found.titles[0]!r} in {was} trials")
        judge = Judge(
            found.titles[0],
            verify.trials_needed(was, CONFIDENCE),
            found.spec.seed,
            arguments.workers,
        )
        look = _Looks(made, found, str(family.folder), arguments.variant, judge, progress)
        if arguments.git:
            answer, steps = _over_commits(look, arguments.git)
        elif arguments.options:
            answer, steps = _over_options(look, arguments.options.split(","))
        else:
            answer, steps = _over_kernels(look, arguments.kernels)
    if arguments.json:
        report.write_json(
            arguments.json,
            {
                "schema": bisect.SCHEMA,
                "title": found.titles[0],
                "before": {"hits": was.hits, "trials": was.trials},
                "steps": [step.record() for step in steps],
                "answer": answer,
            },
        )
    if str(arguments.json) != "-":
        Console(highlight=False, soft_wrap=True).print(answer, markup=False)
    return ExitStatus.FINDINGS if any(step.shows for step in steps) else ExitStatus.OK


@dataclasses.dataclass(frozen=True, slots=True)
class _Looks:
    made: Lab
    found: Bundle
    folder: str
    variant: str
    judge: Judge
    progress: ProgressLine

    def at(self, name: str, kernel: str, profile: str, folder: str | None = None) -> Step:
        spec = dataclasses.replace(self.found.spec, kernel=kernel, profile=profile)
        moved = dataclasses.replace(self.found, spec=spec)

        def make(seed: int) -> Trial:
            subject = self.made.subject(
                folder or self.folder, self.variant, kernel, profile, spec.lane
            )
            return self.made.changed_trial(moved, subject, seed)

        self.progress(f"{name}: {self.found.titles[0]}", None)
        step = self.judge.look(name, make)
        self.progress.console.print(step.sentence(), markup=False, highlight=False)
        return step


def _over_kernels(look: _Looks, wanted: str) -> tuple[str, list[Step]]:
    """Each kernel is looked at: a bug may come, go, and come again."""
    names = kernelfiles.known_kernels() if wanted == "all" else tuple(wanted.split(","))
    profile = look.found.spec.profile
    for name in names:
        kernelfiles.load_recipe(name, profile)
    steps = [look.at(name, name, profile) for name in names]
    showing = [step.name for step in steps if step.shows]
    if not showing:
        return "none of them shows it", steps
    return f"first kernel that shows it: {showing[0]}; all: {', '.join(showing)}", steps


def _over_options(look: _Looks, options: Sequence[str]) -> tuple[str, list[Step]]:
    """Each option is left out, alone, of the kernel that the bundle is from."""
    spec = look.found.spec
    steps = []
    for option in options:
        name = option.removeprefix("CONFIG_")
        profile = kernelfiles.add_options(spec.profile, {f"CONFIG_{name}": "n"})
        steps.append(look.at(f"without {name}", spec.kernel, profile))
    needed = [
        step.name.removeprefix("without ") for step in steps if not step.shows and not step.why
    ]
    return f"needed for it to show: {', '.join(needed) or 'none of them'}", steps


def _over_commits(look: _Looks, span: str) -> tuple[str, list[Step]]:
    good, dots, bad = span.partition("..")
    if not dots or not good or not bad:
        raise UsageError(f"--git {span}: is no range", hint="--git GOOD..BAD")
    spec = look.found.spec
    commits = revision.commits(Path(look.folder), good, bad)

    def at(commit: str) -> Step:
        with revision.unpacked(look.folder, commit) as folder:
            return look.at(commit, spec.kernel, spec.profile, folder)

    ends = [(good, False), (bad, True)]
    steps = []
    for commit, shows in ends:
        step = at(commit)
        steps.append(step)
        if step.why:
            raise UsageError(f"--git {span}: {step.sentence()}")
        if step.shows is not shows:
            why = "shows it already" if step.shows else "does not show it"
            raise UsageError(f"--git {span}: {commit} {why}", hint="--git GOOD..BAD, in this order")
    first, more = bisect.first_that_shows(commits, at)
    steps += more
    if first is None:
        return "the commits where it began cannot be tried", steps
    return f"first commit that shows it: {revision.describe(Path(look.folder), first)}", steps
