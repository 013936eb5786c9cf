# SPDX-License-Identifier: GPL-2.0-only
"""How many trials, and how much processor time, it takes to the first finding.

``make bench-sweep``. For each racy variant of the catalogue, four ways to look for its mistake:

    stress     the smp lane, running freely, another seed each trial
    random     the det lane, another seed each trial
    schedules  the same, with priorities, demotions and starvations of that seed
    sweep      harness sweep --until-finding, its profiling trials counted as trials

Each is run several times independently (other seeds), one guest at a time, and given up at a
budget of processor time. Any finding counts, for the correct variants have none. What is shown is
the median of the runs, censored ones counted as their budget, and a 95 % confidence interval of the
trials that one finding takes (exact, of a Poisson process; no upper end where nothing was found).
Nothing here passes or fails: losses are shown like wins.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness import families, lab, scenario, schedules, store, sweep
from harness.kernels import DEFAULT_KERNEL, DEFAULT_PROFILE
from harness.lab import Lab
from harness.machine import Lane
from harness.report import ProgressLine
from harness.trial import run_trial

#: Variants whose mistake takes two that meet, or could be taken for one of that kind.
RACY = (
    "poolfs:no-owner", "poolfs:no-rcu-barrier",
    "knobs:cdev-without-owner", "knobs:late-release", "knobs:store-deadlock",
    "tmem:no-wait-in-flight",
    # One processor cannot show timer-not-synced: a loss that belongs in the table.
    "hooknet:thread-not-waited", "hooknet:checked-once", "hooknet:no-grace-period",
    "hooknet:timer-not-synced",
    "lastret:put-then-return",
)  # fmt: skip

ARMS = ("stress", "random", "schedules", "sweep")


@dataclass(frozen=True, slots=True)
class Run:
    """One search."""

    module: str
    variant: str
    arm: str
    seed: int
    trials: int
    cpu_s: float
    wall_s: float
    #: What was found; None when the budget was spent.
    title: str | None


class _Spent(Exception):
    """The budget of processor time is spent."""


def cpu_s() -> float:
    """Processor time of all guests that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def search(
    made: Lab, family: families.Family, variant: str, arm: str, seed: int, budget_s: float,
    kernel: str, profile: str,
) -> Run:  # fmt: skip
    """Look for a variant's mistake once."""
    lane = Lane.SMP if arm == "stress" else Lane.DET
    subject = made.subject(str(family.folder), variant, kernel, profile, lane)
    names = dict.fromkeys((*family.variants[variant].scenarios, *family.scenarios))
    plans = [scenario.load_scenario(scenario.find_scenario(name)) for name in names]
    made.prepared(subject, False)
    cpu, wall = cpu_s(), time.monotonic()
    looks = {"sweep": _swept, "schedules": _scheduled}.get(arm, _tried)
    trials, title = looks(made, subject, plans, seed, lambda: cpu_s() - cpu > budget_s)
    return Run(
        family.name, variant, arm, seed, trials, cpu_s() - cpu, time.monotonic() - wall, title
    )


def _tried(
    made: Lab, subject: lab.Subject, plans: list[scenario.Scenario], seed: int,
    spent: Callable[[], bool], depth: int | None = None,
) -> tuple[int, str | None]:  # fmt: skip
    """Trials of one scenario after the other, each with a seed of its own."""
    trials = 0
    for number in itertools.count(1):
        # Seed 0 looks for leaks, which is another matter.
        ready = made.trial(subject, plans[number % len(plans)], seed * 1_000_000 + number, depth)
        result = run_trial(ready)
        trials += 1
        if result.findings:
            return trials, result.findings[0].title
        if spent():
            break
    return trials, None


def _scheduled(
    made: Lab, subject: lab.Subject, plans: list[scenario.Scenario], seed: int,
    spent: Callable[[], bool],
) -> tuple[int, str | None]:  # fmt: skip
    """As :func:`_tried`; the trials that say how long the others take are counted too."""
    known = [made.length_us(subject, plan) for plan in plans]
    trials, title = _tried(made, subject, plans, seed, spent, schedules.DEFAULT_DEPTH)
    return trials + len(known), title


def _swept(
    made: Lab, subject: lab.Subject, plans: list[scenario.Scenario], seed: int,
    spent: Callable[[], bool],
) -> tuple[int, str | None]:  # fmt: skip
    """A sweep that ends with its first finding, be it one that a profile shows already."""
    trials = 0

    def count(what: str, done: float | None) -> None:
        nonlocal trials
        trials += 1
        if spent():
            raise _Spent

    try:
        done = sweep.run_sweep(
            made,
            subject,
            plans,
            seed=seed,
            cycles=1,
            workers=1,
            enough=lambda done: bool(done.found),
            progress=count,
        )
    except _Spent:
        return trials, None
    return trials, next(iter(done.found), None)


def poisson_interval(hits: int) -> tuple[float, float]:
    """The exact 95 % confidence interval of the mean of a Poisson count."""

    def below(mean: float) -> float:
        """Probability of at most ``hits - 1`` at this mean, or at most ``hits``."""
        return sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(upto))

    def solve(target: float) -> float:
        low, high = 1e-9, 10.0 * (hits + 5)
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle) > target else (low, middle)
        return low

    upto = hits
    first = solve(0.975) if hits else 0.0
    upto = hits + 1
    return first, solve(0.025)


def summary(runs: list[Run]) -> dict[str, object]:
    """Median and interval of one arm's runs."""
    hits = sum(run.title is not None for run in runs)
    trials = sum(run.trials for run in runs)
    low, high = poisson_interval(hits)
    titles = sorted({run.title for run in runs if run.title})
    return {
        "runs": len(runs),
        "found": hits,
        "median_trials": statistics.median(run.trials for run in runs),
        "median_cpu_s": round(statistics.median(run.cpu_s for run in runs), 1),
        "trials_per_finding": [
            round(trials / high, 1),
            None if not low else round(trials / low, 1),
        ],
        "titles": titles,
    }


def table_of(rows: list[tuple[str, str, dict[str, object]]]) -> Table:
    """The table that people read."""
    table = Table(title="to the first finding", title_justify="left")
    for name in ("variant", "arm", "found", "trials", "95 %", "CPU s", "titles"):
        table.add_column(name, overflow="fold")
    for variant, arm, told in rows:
        low, high = told["trials_per_finding"]  # type: ignore[misc]
        table.add_row(
            variant, arm, f"{told['found']}/{told['runs']}", str(told["median_trials"]),
            f"{low}-{high or 'inf'}", str(told["median_cpu_s"]),
            "; ".join(told["titles"][:3]),  # type: ignore[index]
        )  # fmt: skip
    return table


def wanted_runs(variants: list[str], arms: list[str], runs: int) -> Iterator[tuple[str, str, int]]:
    """Every search, the arms in turn so that a busy hour hits them all."""
    for variant in variants:
        for seed in range(1, runs + 1):
            for arm in arms:
                yield variant, arm, seed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--variant", action="append", metavar="FAMILY:VARIANT")
    parser.add_argument("--arm", action="append", choices=ARMS)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--budget", type=float, default=120.0, help="processor seconds a run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--kernel", default=DEFAULT_KERNEL)
    parser.add_argument("--profile", default=DEFAULT_PROFILE)
    arguments = parser.parse_args()
    done: dict[tuple[str, str], list[Run]] = {}
    with ProgressLine() as progress:
        made = Lab(store.Store.open(), progress)
        for variant, arm, seed in wanted_runs(
            arguments.variant or list(RACY), arguments.arm or list(ARMS), arguments.runs
        ):
            name, _, mistake = variant.partition(":")
            family = families.find_family(name)
            families.find_variant(family, mistake)
            progress(f"{variant} {arm} (run {seed})", None)
            run = search(
                made, family, mistake, arm, seed, arguments.budget, arguments.kernel,
                arguments.profile,
            )  # fmt: skip
            done.setdefault((variant, arm), []).append(run)
            if arguments.json:
                # After each: it takes hours, and whoever ends it has what there was.
                document = document_of(done, arguments.budget)
                arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    rows = [(variant, arm, summary(runs)) for (variant, arm), runs in done.items()]
    Console(width=None if sys.stdout.isatty() else 200).print(table_of(rows))
    return 0


def document_of(done: dict[tuple[str, str], list[Run]], budget_s: float) -> dict[str, object]:
    """What ``--json`` writes."""
    arms = [{"variant": variant, "arm": arm, **summary(runs)}
            for (variant, arm), runs in done.items()]  # fmt: skip
    runs = [asdict(run) for several in done.values() for run in several]
    return {"budget_cpu_s": budget_s, "arms": arms, "runs": runs}


if __name__ == "__main__":
    sys.exit(main())
