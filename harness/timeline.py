# SPDX-License-Identifier: GPL-2.0-only
"""Who did what in a guest, and when: from a bundle's texts to rows on the guest's clock.

The executor's report holds times for the program's start and end, for each life of a module,
and for a task that a plan held. The console holds the time of a report and the task that it
hit. Single operations have no times on record: they are listed in the order of the program,
with what they returned. When a panic came first, the sums never did: that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness import klog
from harness.verdict import Event, parse_report

#: More than these are not drawn: nobody could tell them apart.
_MAX_LIVES = 200
_MAX_ROWS = 40
_MAX_STEPS = 400
_MAX_NOTES = 40

#: A guest's clock cannot have come further than this, µs (half a year).
_MAX_US = 1 << 44

_STAMP = re.compile(r"^\[ {0,4}(\d{1,7})\.(\d{6})\]", re.MULTILINE)
_LOADING = re.compile(
    r"(?m)^\[ {0,4}(\d{1,7})\.(\d{6})\](?:\[[^\]\n]{0,12}\])? "
    r"([\w-]{1,56}): loading out-of-tree module"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that lasted; an end of None is that of the record."""

    begin_us: int
    end_us: int | None
    label: str
    #: ``life`` of a module, ``run`` of an actor, ``hold`` of a task by a plan.
    sort: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at a moment."""

    us: int
    label: str
    #: Whether it is the finding that is looked at.
    finding: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A module, an actor or the kernel."""

    name: str
    sort: str
    bars: tuple[Bar, ...] = ()
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """An operation of an actor, and what it returned."""

    actor: str
    place: str
    operation: str
    #: Such as ``ok ×5, EAGAIN ×2``; empty where nothing is on record.
    results: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """All of it; times are µs of the guest's clock."""

    begin_us: int
    #: The last moment that is drawn.
    end_us: int
    rows: tuple[Row, ...]
    steps: tuple[Step, ...]
    #: Sentences about what has no time on record.
    notes: tuple[str, ...]
    #: Whether the executor reported the results of operations.
    summed: bool


def read(title: str, program: str, console: bytes, report: bytes) -> Timeline | None:
    """Return the timeline of a trial, seen from one of its findings; None when nothing has a time.

    Raises:
        GuestError: the executor's report is none.
    """
    events = parse_report(report)
    by_name: dict[str, list[Event]] = {}
    for event in events:
        if isinstance(event["ev"], str):
            by_name.setdefault(event["ev"], []).append(event)
    begin = _first_us(by_name.get("start", ()), "us")
    if begin is None:
        return None
    end = _first_us(by_name.get("end", ()), "us")
    actors = _actors(program)
    text = console.decode(errors="backslashreplace")
    found, task = _moment(title, console)
    rows = [*_modules(by_name, text), *_actor_rows(actors, by_name, begin)]
    if found is not None:
        rows = _with_finding(rows, Mark(found, title, finding=True), task)
    last = max([begin, *(_ends(rows))])
    if end is not None and end >= last:
        if found is None:
            rows = _with_finding(rows, Mark(end, f"{title} (seen by then)", finding=True), "audit")
            last = end
        elif end - begin <= 2 * (last - begin):
            last = end
    elif end is None:
        last = max([last, *_console_ends(text, last)])
    return Timeline(
        begin_us=begin,
        end_us=max(last, begin + 1),
        rows=tuple(rows[:_MAX_ROWS]),
        steps=_steps(program, by_name.get("errnos", ())),
        notes=tuple(_notes(by_name, end, begin)),
        summed="errnos" in by_name,
    )


def _us(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MAX_US:
        return None
    return value


def _first_us(events: Iterable[Event], name: str) -> int | None:
    return next((us for event in events if (us := _us(event.get(name))) is not None), None)


def _moment(title: str, console: bytes) -> tuple[int | None, str | None]:
    """When a report was printed, and which task it hit."""
    for report in klog.parse(console):
        if report.title == title:
            text = console[report.start : report.end].decode(errors="backslashreplace")
            stamp = _STAMP.search(text)
            return stamp and _stamp_us(stamp), report.task
    return None, None


def _stamp_us(match: re.Match[str]) -> int:
    return int(match[1]) * 1_000_000 + int(match[2])


def _actors(program: str) -> list[str]:
    """Names in the order of the program, set-up and teardown around them."""
    return ["setup", *(match[1] for match in re.finditer(r"(?m)^actor (\S+) ", program)),
            "teardown"]  # fmt: skip


def _modules(by_name: Mapping[str, list[Event]], console: str) -> list[Row]:
    lives: dict[str, list[Bar]] = {}
    for event in by_name.get("life", ())[:_MAX_LIVES]:
        loaded = _us(event.get("loaded_us"))
        if loaded is None:
            continue
        unloaded = _us(event.get("unloaded_us"))
        label = f"life {event.get('number', '?')}"
        if unloaded is None:
            label += ", not unloaded"
        lives.setdefault(str(event.get("module", "?")), []).append(
            Bar(loaded, unloaded, label, "life")
        )
    rows = [Row(name, "module", tuple(bars)) for name, bars in lives.items()]
    # A panic takes the lives with it; that a module was loaded first, the kernel has said.
    for match in _LOADING.finditer(console):
        if match[3] not in lives and all(row.name != match[3] for row in rows):
            mark = Mark(_stamp_us(match), "first load, says the console")
            rows.append(Row(match[3], "module", (), (mark,)))
    return rows


def _actor_rows(actors: list[str], by_name: Mapping[str, list[Event]], begin: int) -> Iterable[Row]:
    parked = by_name.get("parked", ())
    took = _first_us(by_name.get("let-go", ()), "took_us")
    done = {str(event.get("actor")): event.get("iterations") for event in by_name.get("done", ())}
    for actor in actors:
        bars: list[Bar] = []
        if actor not in ("setup", "teardown"):
            rounds = f"{done[actor]} rounds" if actor in done else "its end is not on record"
            bars.append(Bar(begin, None, rounds, "run"))
        for event in parked:
            at = _us(event.get("us"))
            if str(event.get("actor")) == actor and at is not None:
                bars.append(Bar(at, None if took is None else at + took,
                                f"held: {event.get('plan', '')}", "hold"))  # fmt: skip
        if bars:
            yield Row(actor, "actor", tuple(bars))
    for event in parked:
        at = _us(event.get("us"))
        if str(event.get("actor")) not in actors and at is not None:
            name = str(event.get("thread") or event.get("actor") or "kernel")
            bar = Bar(at, None if took is None else at + took, f"held: {event.get('plan', '')}",
                      "hold")  # fmt: skip
            yield Row(name, "kernel", (bar,))


def _with_finding(rows: list[Row], mark: Mark, task: str | None) -> list[Row]:
    """Put the mark into the row of the task that it hit; any other gets a row of its own."""
    for number, row in enumerate(rows):
        # The kernel knows a task by 15 bytes.
        if task is not None and row.sort == "actor" and row.name[:15] == task:
            marked = Row(row.name, row.sort, row.bars, (*row.marks, mark))
            return [*rows[:number], marked, *rows[number + 1 :]]
    return [*rows, Row(task or "kernel", "kernel", (), (mark,))]


def _ends(rows: Iterable[Row]) -> Iterable[int]:
    for row in rows:
        for bar in row.bars:
            yield bar.begin_us if bar.end_us is None else bar.end_us
        for mark in row.marks:
            yield mark.us


def _console_ends(console: str, last: int) -> list[int]:
    """The last time on the console, when it is not of another age."""
    stamps = [_stamp_us(match) for match in _STAMP.finditer(console[-4000:])]
    return [us for us in stamps[-1:] if us < last + 60_000_000]


def _steps(program: str, errnos: Iterable[Event]) -> tuple[Step, ...]:
    results: dict[str, str] = {}
    for event in errnos:
        counts = event.get("counts")
        if isinstance(counts, dict):
            results[str(event.get("where"))] = ", ".join(
                f"{name} ×{count}" for name, count in counts.items()
            )
    steps: list[Step] = []
    actor = ""
    for line in program.splitlines():
        words = line.split(" ", 5)
        if words[0] in ("setup", "teardown"):
            actor = words[0]
        elif words[0] == "actor" and len(words) > 1:
            actor = words[1]
        elif words[0] == "op" and len(words) == 6 and len(steps) < _MAX_STEPS:
            steps.append(Step(actor, words[1], words[5], results.get(words[1], "")))
    return tuple(steps)


def _notes(by_name: Mapping[str, list[Event]], end: int | None, begin: int) -> Iterable[str]:
    def said(event: Mapping[str, Any], what: str) -> str:
        return f"{event.get('actor', '?')} at {event.get('where', '?')}: {what}"

    told = [
        *(said(event, f"{event.get('op')} returned {event.get('errno')}, which is not allowed")
          for event in by_name.get("unexpected", ())),
        *(said(event, f"{event.get('op')} read other bytes than were written")
          for event in by_name.get("data", ())),
        *(said(event, f"inside {event.get('module')} when {event.get('by')} unloaded it")
          for event in by_name.get("inside", ())),
        *(said(event, f"{event.get('op')} did not return") for event in by_name.get("hang", ())),
        *(said(event, f"died of {event.get('signal')}") for event in by_name.get("died", ())
          if not event.get("wanted")),
        *(f"after unload: {event.get('sign')} {event.get('section')} {event.get('line')}"
          for event in by_name.get("residue", ())),
    ]  # fmt: skip
    yield from told[:_MAX_NOTES]
    if len(told) > _MAX_NOTES:
        yield f"{len(told) - _MAX_NOTES} more are in report.jsonl"
    if end is None:
        yield "The guest did not live to report the end of the program."
    else:
        yield f"The program and the audit after it ended at {(end - begin) / 1000:.0f} ms."
