# SPDX-License-Identifier: GPL-2.0-only
"""What ``harness check`` and ``harness init`` do."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import battery, checkfile, families, kernels, ownarguments, report, store
from harness.battery import Checked
from harness.bench import CYCLES, Bench, Options, Outcome, Result
from harness.commands import announce, show_progress, wide_console
from harness.errors import ExitStatus, UsageError
from harness.failsites import Verdict
from harness.lab import Lab
from harness.machine import Lane
from harness.ownsource import Own

_STYLES = {
    Outcome.PASS: "green",
    Outcome.FINDING: "bold red",
    Outcome.ERROR: "bold magenta",
    Outcome.SKIPPED: "dim",
}
_LANES = {"det": (Lane.DET,), "smp": (Lane.SMP,), "both": (Lane.DET, Lane.SMP)}


def check(arguments: argparse.Namespace) -> ExitStatus:
    """Put one module through the battery."""
    tests = battery.choose(arguments.only or [], sweep_too=arguments.sweep)
    if arguments.list:
        _list(tests)
        return ExitStatus.OK
    _check_words(arguments, arguments.variant)
    asked = checkfile.load_file(arguments.settings, battery.NAMES) if arguments.settings else None
    with show_progress() as progress:
        made = Lab(store.Store.open(), progress)
        own = ownarguments.from_arguments(made, arguments)
        settings = asked or checkfile.load(own.family.home, battery.NAMES)
        _announce(made, own, progress.console)
        bench = Bench(made, own.family, settings, _options(own, arguments), progress)
        done = battery.run_battery(
            bench, tests, lambda result: _say(result, progress.console, str(arguments.json))
        )
    if str(arguments.json) != "-":
        console = wide_console()
        console.print(surface_table(done))
        console.print(result_table(done.results))
        for line in site_lines(done.fail_sites):
            console.print(line, soft_wrap=True)
    if arguments.json:
        report.write_json(arguments.json, done.document())
    if done.findings:
        return ExitStatus.FINDINGS
    return ExitStatus.HARNESS if done.errors else ExitStatus.OK


def init(arguments: argparse.Namespace) -> ExitStatus:
    """Load a module once and write a ``harness.yaml`` with what was learned."""
    _check_words(arguments, families.GOOD)
    settings = checkfile.CheckFile()
    with show_progress() as progress:
        made = Lab(store.Store.open(), progress)
        own = ownarguments.from_arguments(made, arguments)
        path = _init_path(own, arguments)
        _announce(made, own, progress.console)
        bench = Bench(made, own.family, settings, _options(own, arguments), progress)
        learned = bench.learned
        text = learned_file(bench)
    report.write_text(path, text)
    out = Console(highlight=False, soft_wrap=True)
    for found in learned.found:
        out.print(f"found: {found.finding.title}", markup=False)
        if found.bundle is not None:
            out.print(f"  {report.replay_command(found.bundle)}", markup=False)
    out.print(f"wrote {report.shown_path(path)}", markup=False)
    if arguments.module is None:
        # Nobody looks for it here: the module has no folder of the user's own.
        out.print(f"it is read by `harness check ... --settings {report.shown_path(path)}`",
                  markup=False)  # fmt: skip
    return ExitStatus.FINDINGS if learned.found else ExitStatus.OK


def _check_words(arguments: argparse.Namespace, variant: str) -> None:
    """Refuse what is wrong by itself, before anything is built or looked up.

    Raises:
        UsageError: no module is named, or there is no such module, variant or kernel.
    """
    if arguments.kernel_tree is None:
        kernels.load_recipe(arguments.kernel, arguments.profile or kernels.DEFAULT_PROFILE)
    if arguments.module is not None:
        families.find_variant(families.find_family(arguments.module), variant)
    elif arguments.in_tree is None and arguments.dkms is None:
        raise UsageError("which module?", hint="a folder, --in-tree PLACE or --dkms PACKAGE")


def _init_path(own: Own, arguments: argparse.Namespace) -> Path:
    """Return where a ``harness.yaml`` goes: beside the module, or here for one of others' making.

    Raises:
        UsageError: one is there already.
    """
    home = own.family.home
    folder = home if home.is_dir() else home.parent
    path = (folder if arguments.module is not None else Path.cwd()) / checkfile.NAME
    if path.exists() and not arguments.force:
        raise UsageError(f"{path}: is there already", hint="--force writes it anew")
    return path


def _announce(made: Lab, own: Own, console: Console) -> None:
    announce(made, argparse.Namespace(kernel=own.kernel, profile=own.profile), console)
    for note in own.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _options(own: Own, arguments: argparse.Namespace) -> Options:
    return Options(
        kernel=own.kernel,
        profile=own.profile,
        lanes=_LANES[getattr(arguments, "lane", "det")],
        seeds=getattr(arguments, "seeds", 1),
        workers=arguments.workers,
        bundles=arguments.bundles,
        variant=getattr(arguments, "variant", families.GOOD),
        fail_s=getattr(arguments, "fail_seconds", None),
        cycles=getattr(arguments, "cycles", CYCLES),
    )


def learned_file(bench: Bench) -> str:
    """Return the text of a ``harness.yaml`` with what a module's first load has shown."""
    lines = [
        f"# What `harness check` is to know of {bench.family.name}; every field may be left out.",
        "# Of every load: `name=value ...`.",
        'parameters: ""',
    ]
    for name, value in bench.modinfo:
        if name == "parmtype":
            lines.append(f"#   {value.replace(':', ': ')}")
    lines += [
        "# Other modules that the folder makes, to be loaded first and in this order.",
        "load_first: []",
        "# Steps as in a scenario (docs/scenarios.md): before the first load, by somebody who",
        "# uses the module, after a load with nobody there, after the last unload.",
        "setup: []",
        "use: []",
        "holds: []",
        "teardown: []",
        "# The first stage of an unload that has two, as steps before each.",
        "before_unload: []",
        "# Results that are right, too: {finit_module: [ENODEV]}.",
        "fine: {}",
        "# Titles that are no findings: regular expressions of the whole title.",
        "known: []",
        '# Tests to leave out, with the reason: {signals: "..."}.',
        "skip: {}",
    ]
    lines.append("# What it brought when it was loaded; nobody reads this but you.")
    records = [one.record() for one in bench.learned.surfaces]
    if records:
        lines.append("surfaces:")
        for record in records:
            one = yaml.safe_dump(record, default_flow_style=True, width=1000, sort_keys=False)
            lines.append(f"  - {one.strip()}")
    else:
        lines.append("surfaces: []")
    return "\n".join(lines) + "\n"


def _list(tests: Sequence[battery.Test]) -> None:
    table = Table(show_header=False, box=None)
    for test in tests:
        table.add_row(test.name, test.about)
    Console().print(table)


def _say(result: Result, console: Console, json_out: str) -> None:
    if json_out == "-":
        return
    what = "; ".join(found.finding.title for found in result.found) or result.why
    mark = "FAIL" if result.outcome is Outcome.FINDING else result.outcome.value
    line = f"{mark:7} {result.name} ({result.trials} trials, {result.wall_s:.0f} s)"
    console.print(f"{line}{': ' + what if what else ''}", highlight=False, markup=False,
                  soft_wrap=True)  # fmt: skip


def surface_table(done: Checked) -> Table:
    """Return the table of what a module exposes."""
    table = Table(title=f"{done.module} exposes", title_justify="left", expand=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("how many", justify="right")
    table.add_column("names", overflow="fold")
    kinds: dict[str, list[str]] = {}
    for surface in done.surfaces:
        kinds.setdefault(surface.kind.value, []).append(surface.name)
    for kind, names in kinds.items():
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        table.add_row(kind, str(len(names)), Text(shown))
    return table


def site_lines(sites: Iterable[Mapping[str, Any]]) -> Iterator[Text]:
    """Yield what the failure sweep has found wrong: each failing site, what came of it, its stack.

    Args:
        sites: as in the JSON document, see docs/failure-sweep.md.
    """
    for site in sites:
        if not site["findings"]:
            continue
        numbers = ", ".join(map(str, site["nth"]))
        kernels = site["verdict"] == Verdict.KERNEL
        yield Text(f"failing site: allocation {numbers} of {site['op']} in {site['scenario']}"
                   f" ({site['kind']}), which said {', '.join(site['errno'])}"
                   + ("; the kernel's own, and no finding" if kernels else ""),
                   style="dim" if kernels else "bold red")  # fmt: skip
        for title in site["findings"]:
            yield Text(f"  {title}")
        for frame in site["stack"] or ("the kernel did not say where",):
            yield Text(f"    {frame}", style="dim")


def result_table(results: Sequence[Result]) -> Table:
    """Return the table of verdicts, with a command that replays each finding."""
    table = Table(title="verdicts", title_justify="left", expand=False)
    table.add_column("test", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("trials", justify="right")
    table.add_column("finding", overflow="fold")
    table.add_column("replay", overflow="fold")
    for result in results:
        verdict = Text(result.outcome.value, style=_STYLES[result.outcome])
        why = Text(result.why, style="dim")
        if not result.found:
            table.add_row(result.name, verdict, str(result.trials), why, "-")
        for number, found in enumerate(result.found):
            replay = report.replay_command(found.bundle) if found.bundle else "-"
            table.add_row(
                result.name if not number else "", verdict if not number else "",
                str(result.trials) if not number else "", Text(found.finding.title), Text(replay),
            )  # fmt: skip
        if result.found and result.why:
            table.add_row("", "", "", why, "-")
    return table
