# SPDX-License-Identifier: GPL-2.0-only
"""A matrix as one HTML page that needs nothing else: no script, no font, no network.

The page is a Jinja2 template with escaping on; what no escape makes legal is spelt out on the
way (:mod:`harness.marktext`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from harness import __version__, findingview, matrixdiff, rates
from harness.findingview import FindingView
from harness.marktext import clipped, legal
from harness.matrixdiff import Change, Compared
from harness.matrixdoc import Bug, Cell, Document
from harness.timeline import Timeline

#: Findings beyond this many are named but not told.
MAX_TOLD = 250
#: Characters of reports in a page; findings that come later have theirs in the bundle only.
MAX_TEXT = 2_500_000

#: Returns what the bundle of a bug has to say.
View = Callable[[Bug], FindingView]

# Geometry of a timeline, in units of its own.
_LEFT, _RIGHT, _ROW, _TOP, _WIDTH = 150, 30, 34, 30, 960
_NICE = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Fate:
    """What a cell looks like."""

    #: Class of the style sheet.
    style: str
    mark: str
    words: str


_STATES = {
    "error": Fate("error", "!", "error of the harness"),
    "skipped": Fate("not-run", "–", "skipped"),
    "not-run": Fate("not-run", "·", "not run"),
}

#: What is to be looked at first.
_URGENCY = ("wrong", "error", "untold")


def fate(cell: Cell) -> Fate:
    """Return how a cell is drawn: the hotter, the more trials had a finding."""
    if cell.state != "done":
        return _STATES[cell.state]
    if cell.agrees is None:
        return Fate("untold", "?", "cannot be told")
    if not cell.agrees:
        what = "not promised" if cell.title else "not caught"
        return Fate("wrong", "✗", what)
    if not cell.findings:
        return Fate("clean", "✓", "no finding, as promised")
    heat = 1 + sum(cell.findings >= cell.trials * share for share in (0.1, 0.5, 0.9))
    return Fate(f"heat{heat}", "✓", "found as promised")


def _cell_words(cell: Cell, seen: Fate) -> str:
    """Return a cell for who cannot see it, or holds a pointer over it."""
    parts = [f"{seen.words}: {cell.title}" if cell.title else seen.words]
    if cell.caught_after is not None:
        parts.append(f"first in trial {cell.caught_after}")
    parts += [cell.why] if cell.why else []
    return "; ".join(parts)


def remark(one: Compared) -> str:
    """Return what stands behind a change."""
    places = ", ".join(map(str, one.not_run[:3]))
    if len(one.not_run) > 3:
        places += f" and {len(one.not_run) - 3} more"
    match one.change:
        case Change.STILL:
            return _trend(one)
        case Change.NEW:
            told = f"not in {one.looked} trials of the previous run there"
            return f"{told}; it did not run {places}" if places else told
        case Change.GONE:
            return f"not in {one.looked} trials of this run there"
        case Change.UNKNOWN:
            which = "the previous run" if one.before is None else "this run"
            return f"{which} did not finish {places or 'what shows it'}"


def _trend(one: Compared) -> str:
    """Say more or less only of the same places, where the intervals of the rate do not touch."""
    if one.now is None:
        return "now seen only beside another finding"
    if one.before is None:
        return "before seen only beside another finding"
    if _places(one.now) != _places(one.before):
        return "counted over other cells than before"
    if one.now.rate.high < one.before.rate.low:
        return "rarer than before"
    if one.now.rate.low > one.before.rate.high:
        return "more frequent than before"
    return "as before"


def _places(bug: Bug) -> tuple[object, ...]:
    return bug.variants, {(count.kernel, count.profile, count.lane) for count in bug.kernels}


def page(document: Document, view: View, previous: Document | None = None) -> str:
    """Return the page.

    Args:
        view: what the bundle of a bug has to say.
        previous: the document of the run before, to tell what is new and what is gone.
    """
    compared = None if previous is None else matrixdiff.compare(previous, document)
    changes = {} if compared is None else {(one.module, one.title): one for one in compared}
    numbers = {matrixdiff.key(bug): number for number, bug in enumerate(document.bugs, 1)}
    environment = _environment()
    return environment.get_template("report.html.j2").render(
        document=document,
        bugs=list(_told(document.bugs, view, changes)),
        more=document.bugs[MAX_TOLD:],
        numbers=numbers,
        columns=_columns(document),
        rows=_rows(document),
        states=_tally(document.cells),
        troubled=sorted(
            (cell for cell in document.cells if fate(cell).style in _URGENCY),
            key=lambda cell: _URGENCY.index(fate(cell).style),
        ),
        unrun=[cell for cell in document.cells if fate(cell).style == "not-run"],
        compared=compared,
        tally=None if compared is None else matrixdiff.tally(compared),
        previous=previous,
        style=Markup(_source("report.css")),
    )


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("harness", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    made.globals.update(
        fate=fate,
        draw=draw,
        remark=remark,
        cell_words=_cell_words,
        counted=_counted,
        version=__version__,
    )
    made.filters.update(percent=rates.percent, ms=lambda us: f"{us / 1000:.1f}")
    return made


def _finalize(value: Any) -> Any:
    if isinstance(value, Markup):
        return value
    return legal(value) if isinstance(value, str) else value


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _source(name: str) -> str:
    loader = jinja2.PackageLoader("harness", "templates")
    return loader.get_source(jinja2.Environment(autoescape=True), name)[0]


@dataclass(frozen=True, slots=True)
class Told:
    """A bug with all that is shown of it."""

    bug: Bug
    view: FindingView
    text: str
    compared: Compared | None


def _told(bugs: Sequence[Bug], view: View, changes: dict[tuple[str, str], Compared]) -> list[Told]:
    told, room = [], MAX_TEXT
    for bug in bugs[:MAX_TOLD]:
        seen = view(bug)
        text = clipped(seen.decoded, min(room, findingview.MAX_DECODED))
        room = max(0, room - len(text))
        told.append(Told(bug, seen, text, changes.get(matrixdiff.key(bug))))
    return told


Column = tuple[str, str, str]


def _columns(document: Document) -> list[Column]:
    """Kernel, profile and lane of each column: kernels in the order of the document, by release."""
    order = {(made.name, made.profile): number for number, made in enumerate(document.kernels)}
    found = dict.fromkeys((cell.kernel, cell.profile, cell.lane) for cell in document.cells)
    return sorted(found, key=lambda one: (order.get(one[:2], len(order)), one))


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """A variant of a module."""

    module: str
    variant: str
    cells: dict[Column, list[Cell]]


def _rows(document: Document) -> list[MatrixRow]:
    rows: dict[tuple[str, str], MatrixRow] = {}
    for cell in document.cells:
        row = rows.setdefault((cell.module, cell.variant), MatrixRow(cell.module, cell.variant, {}))
        row.cells.setdefault((cell.kernel, cell.profile, cell.lane), []).append(cell)
    return list(rows.values())


def _tally(cells: Sequence[Cell]) -> list[tuple[str, str, int]]:
    """Return for each sort of cell its style, its name and how many there are."""
    counts = {
        ("clean", "as promised"): sum(
            cell.state == "done" and cell.agrees is True for cell in cells
        ),
        ("wrong", "not as promised"): sum(
            cell.state == "done" and cell.agrees is False for cell in cells
        ),
        ("untold", "cannot be told"): sum(
            cell.state == "done" and cell.agrees is None for cell in cells
        ),
        ("error", "in error"): sum(cell.state == "error" for cell in cells),
        ("not-run", "skipped or not run"): sum(
            cell.state in ("skipped", "not-run") for cell in cells
        ),
    }
    return [(style, name, count) for (style, name), count in counts.items()]


@dataclass(frozen=True, slots=True)
class Box:
    """A bar of the drawing."""

    x: float
    y: float
    width: float
    height: float
    sort: str
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A mark of the drawing."""

    x: float
    y: float
    finding: bool
    label: str
    #: Without its time.
    short: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A timeline in the units of its picture."""

    width: int
    height: int
    left: int
    right: int
    #: Name, sort and middle of each row.
    names: tuple[tuple[str, str, float], ...]
    boxes: tuple[Box, ...]
    dots: tuple[Dot, ...]
    #: Where lines of the scale stand, and what they say.
    ticks: tuple[tuple[float, str], ...]
    finding_x: float | None
    words: tuple[str, ...]


def draw(line: Timeline) -> Drawing:
    """Place a timeline's rows, bars and marks."""
    moments = [
        *(mark.us for row in line.rows for mark in row.marks),
        *(bar.begin_us for row in line.rows for bar in row.bars),
    ]
    # What the console has of before the program is drawn too.
    first = min([line.begin_us, *moments])
    span = max(1, line.end_us - first)
    inner = _WIDTH - _LEFT - _RIGHT

    def x(us: int) -> float:
        return round(_LEFT + inner * min(1.0, max(0.0, (us - first) / span)), 1)

    names, boxes, dots, words = [], [], [], []
    finding_x = None
    for number, row in enumerate(line.rows):
        top = _TOP + number * _ROW
        names.append((row.name, row.sort, top + _ROW / 2))
        for bar in row.bars:
            end = line.end_us if bar.end_us is None else bar.end_us
            slim = bar.sort == "run"
            boxes.append(
                Box(
                    x(bar.begin_us), top + (14 if slim else 7),
                    round(max(2.0, x(end) - x(bar.begin_us)), 1), 6 if slim else 20,
                    bar.sort, f"{bar.label}, {_span(line, bar.begin_us, bar.end_us)}",
                )
            )  # fmt: skip
            words.append(f"{row.name}: {boxes[-1].label}")
        for mark in row.marks:
            label = f"{mark.label}, at {_at(line, mark.us)}"
            dots.append(Dot(x(mark.us), top + _ROW / 2, mark.finding, label, mark.label))
            words.append(f"{row.name}: {label}")
            if mark.finding:
                finding_x = x(mark.us)
    step = _step(span)
    ticks = tuple(
        (x(line.begin_us + us), f"{us / 1000:g}")
        for us in range(0, line.end_us - line.begin_us + 1, step)
    )
    return Drawing(
        _WIDTH, _TOP + len(line.rows) * _ROW + 26, _LEFT, _RIGHT, tuple(names), tuple(boxes),
        tuple(dots), ticks, finding_x, tuple(words),
    )  # fmt: skip


def _step(span: int) -> int:
    """Return µs between lines of the scale: at most ten of them."""
    power = 1
    while True:
        for factor in _NICE:
            if span / (factor * power) <= 10:
                return factor * power
        power *= 10


def _at(line: Timeline, us: int) -> str:
    return f"{(us - line.begin_us) / 1000:.1f} ms"


def _span(line: Timeline, begin: int, end: int | None) -> str:
    if end is None:
        return f"from {_at(line, begin)} on"
    return f"{_at(line, begin)} to {_at(line, end)}"
