# SPDX-License-Identifier: GPL-2.0-only
"""``harness kernels``: what is known and built, build it, remove what is not needed."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import commands, inventory, kernelfiles, kernels, report, sources, store
from harness.errors import ExitStatus, HarnessError, UsageError
from harness.inventory import State

_STYLES = {State.BUILT: "green", State.STALE: "yellow", State.UNFINISHED: "yellow"}


def list_kernels(arguments: argparse.Namespace) -> ExitStatus:
    """Print what is known, built, stale, and how large."""
    cache = store.Store.open()
    entries = inventory.list_kernels(cache)
    if arguments.json:
        report.write_json(arguments.json, {"kernels": [entry.to_json() for entry in entries]})
        return ExitStatus.OK
    table = Table(box=None)
    for name in ("kernel", "profile", "state", "version"):
        table.add_column(name, no_wrap=True)
    table.add_column("MiB", justify="right")
    table.add_column("", overflow="fold")
    for entry in entries:
        remark = entry.why or ("finds: " + ", ".join(entry.detectors) if entry.detectors else "")
        table.add_row(
            entry.name, entry.profile, Text(entry.state.value, style=_STYLES.get(entry.state, "")),
            entry.version or "-", str(entry.size_mib) if entry.path else "-", Text(remark),
        )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table)
    total = sum(entry.size_mib for entry in entries)
    console.print(
        f"{total} MiB of kernels in {cache.root}, {store.free_mib(cache.root)} MiB free",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    return ExitStatus.OK


def build(arguments: argparse.Namespace) -> ExitStatus:
    """Build kernels; those that fail do not keep the others from being built."""
    profile = arguments.profile
    kernelfiles.load_recipe(profile=profile) if not arguments.name else None
    names = arguments.name or [name for name, fits in kernelfiles.combinations() if fits == profile]
    recipes = [kernelfiles.load_recipe(name, profile) for name in names]
    cache = store.Store.open()
    if arguments.update:
        for recipe in recipes:
            sources.forget(cache, recipe)
    missing = [recipe for recipe in recipes if kernels.find_kernel(cache, recipe) is None]
    needed_mib = sum(kernels.needed_space_mib(recipe) for recipe in missing)
    if store.free_mib(cache.root) < needed_mib:
        raise store.no_space(cache.root, needed_mib=needed_mib)
    status = ExitStatus.OK
    with commands.show_progress() as progress:
        if missing:
            minutes = sum(kernels.estimate_s(recipe) for recipe in missing) / 60
            progress.console.print(
                f"{len(missing)} to build: {', '.join(recipe.label for recipe in missing)}; about "
                f"{minutes:.0f} minutes. What is interrupted goes on when it is asked for again.",
                highlight=False,
            )
        for recipe in recipes:
            try:
                kernel = kernels.build_kernel(cache, recipe, progress)
            except HarnessError as error:
                progress.console.print(f"harness: {error}", markup=False, soft_wrap=True)
                status = max(status, error.exit_status)
                continue
            progress.console.print(
                f"{recipe.label}: {kernel.release} from {kernel.version}, {kernel.compiler}",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
    return status


def prune(arguments: argparse.Namespace) -> ExitStatus:
    """Remove what nothing needs any more; say what and how much."""
    if arguments.unused < 0:
        raise UsageError(f"--unused {arguments.unused:g}: not a number of days")
    cache = store.Store.open()
    found = inventory.removals(
        cache,
        sources=arguments.sources,
        unfinished=arguments.unfinished,
        unused_days=arguments.unused,
    )
    console = Console(highlight=False, soft_wrap=True)
    freed = 0
    kept = 0
    for removal in found:
        what = f"{removal.kind} {removal.key} ({removal.size_mib} MiB): {removal.why}"
        if arguments.dry_run:
            freed += removal.size_mib
            console.print(f"would remove {what}", markup=False)
        elif inventory.remove(cache, removal):
            freed += removal.size_mib
            console.print(f"removed {what}", markup=False)
        else:
            kept += 1
            console.print(f"in use, kept: {what}", markup=False)
    would = "would be freed" if arguments.dry_run else "freed"
    console.print(f"{freed} MiB {would}, {len(found) - kept} of {len(found)} folders", markup=False)
    return ExitStatus.OK
