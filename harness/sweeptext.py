# SPDX-License-Identifier: GPL-2.0-only
"""A sweep as people and programs read it: the listing, the totals, the document."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from harness.points import Place, Point
from harness.report import replay_command
from harness.sweep import Found, Outcome, PointReport, Sweep, Verdict

_STYLES: Final = {
    Verdict.FINDING: "bold red",
    Verdict.LATE: "yellow",
    Verdict.WAITED: "cyan",
    Verdict.PROTECTED: "green",
    Verdict.GONE: "green",
    Verdict.CLEAN: "green",
    Verdict.SKIPPED: "dim",
    Verdict.UNREACHED: "dim",
}


def document(
    sweep: Sweep, places: Mapping[Point, Place], bundles: Mapping[str, Path | None]
) -> dict[str, Any]:
    """Return a sweep as it stands in a JSON document."""
    subject = sweep.subject
    return {
        "module": subject.family.name,
        "variant": subject.module.variant,
        "swept": subject.target.name,
        "kernel": subject.kernel,
        "profile": subject.profile,
        "points": [_point(report, places[report.point]) for report in sweep.reports()],
        "totals": sweep.totals(),
        "plans": len(sweep.outcomes),
        "trials": sweep.trials,
        "plans_a_minute": round(sweep.plans_a_minute, 1),
        "restore_share": round(sweep.restore_share, 3),
        "findings": [
            {
                "title": found.finding.title,
                "kind": found.finding.kind.value,
                "plan": None if found.plan is None else str(found.plan),
                "scenario": found.trial.spec.scenario,
                "plans": found.plans,
                "by_itself": found.by_itself,
                "bundle": str(bundles[found.finding.title]),
            }
            for found in _ordered(sweep)
        ],
    }


def _point(report: PointReport, place: Place) -> dict[str, Any]:
    record: dict[str, Any] = {
        "function": report.point.function,
        "offset": report.point.offset,
        "section": report.point.section,
        "instruction": report.point.text,
        "line": place.line,
        "hits": report.hits,
        "verdict": report.verdict.value,
    }
    if place.inlined:
        record["inlined"] = list(place.inlined)
    if report.detail:
        record["detail"] = report.detail
    if report.outcomes:
        record["plans"] = [_outcome(outcome) for outcome in report.outcomes]
    return record


def _outcome(outcome: Outcome) -> dict[str, Any]:
    record: dict[str, Any] = {
        "plan": str(outcome.plan),
        "scenario": outcome.reach.scenario,
        "seed": outcome.seed,
        "verdict": outcome.verdict.value,
    }
    if outcome.detail:
        record["detail"] = outcome.detail
    if outcome.findings:
        record["findings"] = [finding.title for finding in outcome.findings]
    return record


def _ordered(sweep: Sweep) -> list[Found]:
    return sorted(sweep.found.values(), key=lambda found: (-found.plans, found.finding.title))


def print_listing(
    sweep: Sweep,
    places: Mapping[Point, Place],
    bundles: Mapping[str, Path | None],
    console: Console,
) -> None:
    """Print each function with a line for each run of points that fared alike."""
    subject = sweep.subject
    kernel = f"{subject.kernel}-{subject.profile}"
    of = f", {subject.target.name}" if subject.target is not subject.module else ""
    title = f"{subject.family.name} {subject.module.variant}{of}, kernel {kernel}"
    console.print(Text(title, "bold"))
    function = ""
    for run in _runs(sweep.reports(), places):
        first = run[0]
        if first.point.function != function:
            function = first.point.function
            console.print(Text(f"{function}  {first.point.section}", style="bold"))
        console.print(_line(run, places))
    console.print()
    totals = sweep.totals()
    console.print(", ".join(f"{count} {name}" for name, count in totals.items() if count))
    reached = len({reach.point for reach in sweep.reached})
    console.print(
        f"{reached} of {len(sweep.points)} points reached; {len(sweep.outcomes)} plans run "
        f"in {sweep.trials} trials, {sweep.plans_a_minute:.0f} plans a minute with "
        f"{sweep.workers} workers; "
        f"restoring the guest took {sweep.restore_share:.0%} of the time"
    )
    for found in _ordered(sweep):
        console.print()
        console.print(Text(found.finding.title, style="bold red"))
        console.print(f"  plan:   {found.plan or 'none, the scenario shows it'}", markup=False)
        alone = "; without a plan, too" if found.plan and found.by_itself else ""
        console.print(
            f"  shown:  by {found.plans} plans, in {found.trial.spec.scenario} first{alone}"
        )
        path = bundles[found.finding.title]
        if path is not None:
            console.print(f"  replay: {replay_command(path)}", markup=False)


def page(sweep: Sweep, places: Mapping[Point, Place], bundles: Mapping[str, Path | None]) -> str:
    """Return the listing as an HTML page."""
    console = Console(record=True, file=io.StringIO(), width=200, highlight=False)
    print_listing(sweep, places, bundles, console)
    return console.export_html()


def _runs(reports: list[PointReport], places: Mapping[Point, Place]) -> list[list[PointReport]]:
    """Neighbouring points of one source line that fared alike."""
    runs: list[list[PointReport]] = []
    for report in reports:
        last = runs[-1][-1] if runs else None
        if (
            last is not None
            and last.point.function == report.point.function
            and places[last.point].line == places[report.point].line
            and (last.verdict, last.detail) == (report.verdict, report.detail)
        ):
            runs[-1].append(report)
        else:
            runs.append([report])
    return runs


def _line(run: list[PointReport], places: Mapping[Point, Place]) -> Text:
    first, last = run[0], run[-1]
    place = places[first.point]
    span = f"+{first.point.offset:#x}"
    if last is not first:
        span += f"..{last.point.offset:#x}"
    hits = max(report.hits for report in run)
    inlined = f" ({place.inlined[0]} inlined)" if place.inlined else ""
    text = Text(f"  {span:<14} {hits:>6}  ")
    text.append(f"{first.verdict.value:<10}", style=_STYLES[first.verdict])
    text.append(f" {place.line}{inlined}")
    if first.detail:
        text.append(f"  {first.detail}", style=_STYLES[first.verdict])
    return text


def reproduction(sweep: Sweep, title: str) -> str:
    """Say whether a report's title came up again, and with which plan."""
    found = sweep.found.get(title)
    if found is not None:
        return f"reproduced: {title}, with {found.plan or 'no plan'}"
    others = ", ".join(sorted(sweep.found)) or "no finding"
    return f"not reproduced: {title or 'a report without a known title'}; seen instead: {others}"
