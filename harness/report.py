# SPDX-License-Identifier: GPL-2.0-only
"""What people and programs read: tables, documents, the text of a failure."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import store
from harness.trial import TrialResult
from harness.verdict import Finding, Verdict

Progress = Callable[[str, float | None], None]
"""Called with what is going on and how much of it is done (0 to 1, or None)."""

#: Seconds between two lines of progress where there is no terminal.
_QUIET_STEP_S = 20.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the verdict table: a variant in a lane."""

    module: str
    variant: str
    kernel: str
    lane: str
    trials: int
    #: Trials with a finding.
    findings: int
    #: Trials until the first finding, or None.
    caught_after: int | None
    title: str | None
    #: Titles that it may have, as regular expressions; none for the correct variant.
    expect: tuple[str, ...]
    #: Folder of the bundle of that finding.
    bundle: Path | None

    @property
    def agrees(self) -> bool:
        """Return whether what was seen is what must be seen."""
        if not self.expect:
            return self.title is None
        return self.title is not None and _promise(self.title, self.expect) is not None

    @property
    def promised(self) -> str | None:
        """Return the promise that was kept, or else the first; a fixed title stands as it is."""
        if not self.expect:
            return None
        pattern = (self.title and _promise(self.title, self.expect)) or self.expect[0]
        plain = re.sub(r"\\(\W)", r"\1", pattern)
        return plain if re.fullmatch(pattern, plain) else pattern


def _promise(title: str, expect: Sequence[str]) -> str | None:
    return next((pattern for pattern in expect if re.fullmatch(pattern, title)), None)


def promised_finding(findings: Iterable[Finding], expect: Sequence[str]) -> Finding | None:
    """Return the finding that carries a promised title, the first promise first."""
    for pattern in expect:
        for finding in findings:
            if re.fullmatch(pattern, finding.title):
                return finding
    return None


def verdict_table(rows: Iterable[Row]) -> Table:
    """Return the table that ``make stress`` ends with."""
    table = _table("verdicts", "module", "variant", "lane")
    table.add_column("trials", justify="right")
    table.add_column("caught after", justify="right")
    table.add_column("finding", overflow="fold")
    table.add_column("replay", overflow="fold")
    for row in rows:
        table.add_row(
            row.module, row.variant, row.lane, str(row.trials), _number(row.caught_after),
            _finding(row), replay_command(row.bundle) if row.bundle else "-",
        )  # fmt: skip
    return table


def row_line(row: Row) -> str:
    """Return the verdict on one variant in a line, for whoever waits for the table."""
    trials = f"{row.trials} trial{'s' * (row.trials != 1)}"
    agrees = "" if row.agrees else " (NOT AS PROMISED)"
    return f"{row.module} {row.variant}, {row.lane} lane, {trials}: {_finding(row).plain}{agrees}"


def detection_table(rows: Iterable[Row]) -> Table:
    """Return the detection matrix: what each variant promises, and what was seen of it."""
    table = _table("detection matrix", "family", "variant", "kernel", "lane")
    table.add_column("trials", justify="right")
    table.add_column("to first finding", justify="right")
    table.add_column("title", overflow="fold")
    table.add_column("promised", overflow="fold")
    table.add_column("agrees")
    for row in rows:
        table.add_row(
            row.module, row.variant, row.kernel, row.lane, str(row.trials),
            _number(row.caught_after), _finding(row), Text(row.promised or "-"),
            "yes" if row.agrees else Text("NO", style="bold red"),
        )  # fmt: skip
    return table


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left", expand=False)
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _finding(row: Row) -> Text:
    found = row.title or ("NOT CAUGHT" if row.expect else "no finding")
    return Text(found, style="green" if row.agrees else "bold red")


def replay_command(path: Path) -> str:
    """Return the command that runs a bundle again."""
    return f"harness replay {shown_path(path)}"


def shown_path(path: Path) -> Path:
    """Return a path as a person in this folder would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def trial_record(result: TrialResult, path: Path | None) -> dict[str, Any]:
    """Return a trial as it stands in a JSON document."""
    spec = result.spec
    memory = result.evidence.memory
    looked: dict[str, Any] = {}
    if memory is not None:
        looked["memory"] = {
            "words": memory.words,
            "took_s": round(memory.took_s, 3),
            "remarks": list(memory.remarks),
        }
    return {
        "module": spec.module,
        "variant": spec.variant,
        "kernel": spec.kernel,
        "profile": spec.profile,
        "lane": spec.lane.value,
        "scenario": spec.scenario,
        "seed": spec.seed,
        "schedule": spec.schedule,
        "verdict": result.verdict.value,
        "findings": [
            {"kind": finding.kind.value, "title": finding.title} for finding in result.findings
        ],
        "bundle": None if path is None else str(path),
        "wall_s": round(result.wall_s, 3),
        **looked,
    }


def write_json(path: Path, document: object) -> None:
    """Write a document; ``-`` is standard output.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    write_text(path, json.dumps(document, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text; ``-`` is standard output.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    if str(path) == "-":
        sys.stdout.write(text)
        return
    with store.storage_errors(path.absolute().parent):
        store.write_atomically(path.absolute(), text.encode())


def failure_text(result: TrialResult, decoded: str, path: Path) -> str:
    """Return what a person sees of a failing trial: titles, stacks, how to see it again."""
    titles = "\n".join(f"  {finding.kind.value}: {finding.title}" for finding in result.findings)
    spec = result.spec
    return (
        f"{spec.module} ({spec.variant}), scenario {spec.scenario}, seed {spec.seed}, "
        f"lane {spec.lane.value}, kernel {spec.kernel}-{spec.profile}:\n{titles}\n\n"
        f"{decoded}\nreplay: {replay_command(path)}"
    )


def one_line(result: TrialResult) -> str:
    """Return a trial in one line."""
    spec = result.spec
    what = "; ".join(finding.title for finding in result.findings) or "no finding"
    mark = "FAIL" if result.verdict is Verdict.FAIL else "pass"
    memory = result.evidence.memory
    took = f"{result.wall_s:.1f} s" + (f", memory {memory.took_s:.1f} s" if memory else "")
    remarks = "".join(f" ({remark})" for remark in memory.remarks) if memory else ""
    return (
        f"{mark} {spec.module} {spec.variant} {spec.lane.value} {spec.scenario} "
        f"seed {spec.seed} ({took}): {what}{remarks}"
    )


class ProgressLine:
    """Says what is going on: one changing line on a terminal, else a line now and then."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._status = self.console.status("") if self.console.is_terminal else None
        self._last_text = ""
        self._last_s = 0.0

    def __call__(self, what: str, done: float | None = None) -> None:
        text = what if done is None else f"{what}, {done:.0%}"
        if self._status is not None:
            self._status.update(text)
            return
        now = time.monotonic()
        # A new step is said at once, the same one going on only now and then.
        new = what.split("(")[0] != self._last_text.split("(")[0]
        if new or now - self._last_s >= _QUIET_STEP_S:
            self.console.print(text, highlight=False, markup=False)
            self._last_text, self._last_s = what, now

    def __enter__(self) -> ProgressLine:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()
