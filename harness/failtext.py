# SPDX-License-Identifier: GPL-2.0-only
"""A failure sweep as people and programs read it: the table, the totals, the document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import failstack, lab, symbolise
from harness.failsites import FailSweep, Site, Verdict
from harness.failstack import Call
from harness.kernels import Kernel
from harness.report import replay_command

_STYLES: Final = {
    Verdict.FINDING: "bold red",
    Verdict.KERNEL: "yellow",
    Verdict.FAILED: "green",
    Verdict.COPED: "green",
}

#: A frame → where its source is, inlined functions first.
Places = Mapping[Call, tuple[str, ...]]

_DECODED: Final = re.compile(r"^ *(?P<text>.+)$")


def read_places(sweep: FailSweep, kernel: Kernel) -> Places:
    """Return the source lines of all frames, as reports are decoded."""
    calls = tuple(dict.fromkeys(call for site in sweep.sites() for call in site.stack))
    lives = tuple(
        symbolise.ModuleLife(module.name, module.ko, 0, 0, 1, None)
        for module in sweep.subject.module.everything
    )
    text = "".join(f" {call}\n" for call in calls)
    decoded = lab.decode_text(text, kernel, lives).split("\n") if calls else []
    places: dict[Call, tuple[str, ...]] = {}
    inlined: list[str] = []
    for line in decoded:
        line = line.strip()
        call = next((call for call in calls[len(places) :][:1] if line.startswith(str(call))), None)
        if call is None:
            inlined.append(line.removesuffix(" [inline]"))
            continue
        where = line.removeprefix(str(call)).strip()
        places[call] = (*inlined, f"{call.function} {where}".strip())
        inlined = []
    return places


def document(
    sweep: FailSweep, places: Places, bundles: Mapping[str, Path | None]
) -> dict[str, Any]:
    """Return a failure sweep as it stands in a JSON document."""
    subject = sweep.subject
    return {
        "module": subject.family.name,
        "variant": subject.module.variant,
        "kernel": subject.kernel,
        "profile": subject.profile,
        "fail_sites": [_site(sweep, site, places, bundles) for site in sweep.sites()],
        "totals": sweep.totals(),
        "failures": len(sweep.shots),
        "trials": sweep.trials,
        "failures_a_minute": round(sweep.sites_a_minute, 1),
        "cut": sweep.cut,
        "skipped": sweep.skipped,
        "findings": [
            {
                "title": found.finding.title,
                "kind": found.finding.kind.value,
                "plan": found.trial.spec.plan,
                "without_failure": found.failures is None,
                "bundle": str(bundles.get(found.finding.title)),
            }
            for found in sweep.findings
        ],
    }


def _site(
    sweep: FailSweep, site: Site, places: Places, bundles: Mapping[str, Path | None]
) -> dict[str, Any]:
    modules = [module.name for module in sweep.subject.module.everything]
    inside = failstack.in_module(site.stack, modules)
    return {
        "op": site.op,
        "where": site.where,
        "scenario": site.scenario,
        "nth": list(site.nths),
        "kind": site.kind,
        "silent": site.silent,
        "function": failstack.subject(site.stack) if site.stack else None,
        "in_module": inside is not None,
        "stack": [line for call in site.stack for line in places.get(call, (str(call),))],
        "errno": list(site.errnos),
        "verdict": site.verdict.value,
        "findings": list(site.findings),
        "bundle": next(
            (str(bundles[title]) for title in site.findings if bundles.get(title)), None
        ),
    }


def print_table(
    sweep: FailSweep, places: Places, bundles: Mapping[str, Path | None], console: Console
) -> None:
    """Print a line for each site in the module's own calls, and each step's others as one."""
    subject = sweep.subject
    kernel = f"{subject.kernel}-{subject.profile}"
    console.print(Text(f"{subject.family.name} {subject.module.variant}, kernel {kernel}", "bold"))
    table = Table("step", "N", "errno", "verdict", "what failed", box=None, pad_edge=False)
    modules = [module.name for module in subject.module.everything]
    others: dict[tuple[str, str], list[Site]] = {}
    for site in sweep.sites():
        inside = failstack.in_module(site.stack, modules)
        if inside is None and not site.findings:
            others.setdefault((site.scenario, site.where), []).append(site)
            continue
        table.add_row(
            f"{site.scenario} {site.op}",
            _numbers(site.nths),
            ", ".join(site.errnos),
            Text(site.verdict.value, _STYLES[site.verdict]),
            Text(_what(site, inside, places)),
        )
    for (scenario, _), sites in others.items():
        numbers = sorted(nth for site in sites for nth in site.nths)
        errnos = dict.fromkeys(errno for site in sites for errno in site.errnos)
        worst = min((site.verdict for site in sites), key=list(Verdict).index)
        table.add_row(
            f"{scenario} {sites[0].op}",
            _numbers(numbers),
            ", ".join(errnos),
            Text(worst.value, _STYLES[worst]),
            f"{len(sites)} places in the kernel",
        )
    console.print(table)
    console.print()
    totals = ", ".join(f"{count} {name}" for name, count in sweep.totals().items() if count)
    console.print(f"{len(sweep.sites())} sites: {totals or 'none'}")
    console.print(
        f"{len(sweep.shots)} failures in {sweep.trials} trials, "
        f"{sweep.sites_a_minute:.0f} a minute with {sweep.workers} workers"
    )
    if sweep.skipped:
        console.print(f"{sweep.skipped} of loads, before the module's init, were left out")
    if sweep.cut:
        console.print(f"time was over before the end of {', '.join(sweep.cut)}", markup=False)
    for title, found in sweep.found.items():
        console.print()
        console.print(Text(title, style="bold red"))
        shown = found.trial.spec.plan if found.failures else "none, the scenario shows it"
        console.print(f"  failure: {shown}", markup=False)
        for site in sweep.sites():
            if title in site.findings and site.stack:
                console.print(f"  site:    {_what(site, None, places)}", markup=False)
                break
        path = bundles.get(title)
        if path is not None:
            console.print(f"  replay:  {replay_command(path)}", markup=False)


def _what(site: Site, inside: Call | None, places: Places) -> str:
    """Who asked, and the module's line that led there."""
    if not site.stack:
        return "the kernel did not say"
    asked = failstack.caller(site.stack)
    parts = [failstack.subject(site.stack)]
    frame = inside or asked
    if frame is not None:
        parts += [line for line in places.get(frame, (str(frame),))[-1:] if line not in parts]
    return ("silent, in " if site.silent else "") + " < ".join(parts)


def _numbers(values: Sequence[int]) -> str:
    """``1-3, 7``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value <= runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
