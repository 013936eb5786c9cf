# SPDX-License-Identifier: GPL-2.0-only
"""What ``harness verify`` does."""

from __future__ import annotations

import argparse

from rich.console import Console

from harness import bundle, catalogue, families, report, store, verify
from harness.commands import replayed, show_progress
from harness.errors import ExitStatus, UsageError
from harness.lab import Lab, Subject
from harness.verify import Verdict


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Say whether a changed module still shows a bundle's finding."""
    found = bundle.load_bundle(arguments.bundle)
    if not found.titles:
        raise UsageError(f"{found.path}: has no finding to look for")
    family = families.find_family(arguments.module)
    families.find_variant(family, arguments.variant)
    with show_progress() as progress:
        made = Lab(store.Store.open(), progress)
        spec = found.spec
        # First, for it may not compile.
        subject = made.subject(
            str(family.folder), arguments.variant, spec.kernel, spec.profile, spec.lane
        )
        _check_module(found, subject)
        moved = made.changed_trial(found, subject, spec.seed).spec.plan
        if moved != spec.plan:
            progress.console.print(
                f"plan: {spec.plan}; in the changed module {moved}",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
        was = replayed(made, found, progress)
        done = verify.verify(
            found.titles[0],
            lambda seed: made.reseeded(was, seed),
            lambda seed: made.changed_trial(found, subject, seed),
            seed=spec.seed,
            most=arguments.trials,
            confidence=arguments.confidence / 100,
            workers=arguments.workers,
            progress=progress,
        )
        kept = None
        if done.example is not None:
            kept = catalogue.keep(made, subject, *done.example, arguments.bundles)
    if arguments.json:
        report.write_json(arguments.json, done.document())
    if str(arguments.json) != "-":
        out = Console(highlight=False, soft_wrap=True)
        out.print(f"title: {done.title}", markup=False)
        out.print(done.sentence(), markup=False)
        if kept is not None:
            out.print(report.replay_command(kept), markup=False)
    return ExitStatus.OK if done.verdict is Verdict.FIXED else ExitStatus.FINDINGS


def _check_module(found: bundle.Bundle, subject: Subject) -> None:
    made = {module.name for module in subject.module.everything}
    missing = sorted(set(found.symbols) - made)
    if missing:
        raise UsageError(
            f"{found.path}: its program loads {missing[0]}.ko, and {subject.family.folder} makes "
            f"{', '.join(f'{name}.ko' for name in sorted(made))}",
            hint="--module is the folder of the same module, changed",
        )
