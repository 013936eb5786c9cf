# SPDX-License-Identifier: GPL-2.0-only
"""A matrix as JUnit XML, of the shape that pytest writes and Jenkins and GitLab read.

A test case is a cell, a suite is a module on one kernel in one lane. A cell fails when what
was seen is not what it promises: a mistake that was caught as promised is a pass.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from harness.marktext import legal
from harness.matrixdoc import Cell, Document

#: What a failure of each sort is called in ``type``.
NOT_CAUGHT = "not-caught"
UNPROMISED = "unpromised"


def to_xml(document: Document) -> str:
    """Return the document as JUnit XML."""
    root = Element("testsuites", name=legal(document.file))
    _sum_up(root, document.cells)
    kinds = {(bug.module, bug.title): bug.type for bug in document.bugs}
    replays = {(bug.module, bug.title): bug.replay for bug in document.bugs}
    suites: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in document.cells:
        place = (cell.module, cell.kernel, cell.profile, cell.lane)
        suites.setdefault(place, []).append(cell)
    for (module, kernel, profile, lane), cells in suites.items():
        suite = ElementTree.SubElement(root, "testsuite")
        suite.set("name", legal(f"{module} {kernel}-{profile} {lane}"))
        _sum_up(suite, cells)
        began = _timestamp(document.began)
        if began is not None:
            suite.set("timestamp", began)
        _add_properties(suite, document, kernel, profile)
        for cell in cells:
            name = (cell.module, cell.title or "")
            suite.append(_case(cell, kinds.get(name), replays.get(name)))
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _sum_up(element: Element, cells: Iterable[Cell]) -> None:
    tags = [_outcome(cell) for cell in cells]
    counts = {"tests": len(tags), "failures": tags.count("failure"),
              "errors": tags.count("error"), "skipped": tags.count("skipped")}  # fmt: skip
    for name, count in counts.items():
        element.set(name, str(count))
    element.set("time", _seconds(sum(cell.wall_s for cell in cells)))


def _outcome(cell: Cell) -> str:
    """Return the name of the element that says how a cell fared; nothing stands for a pass."""
    if cell.state == "error":
        return "error"
    if cell.state != "done":
        return "skipped"
    if cell.agrees is None:
        # Not a pass: nobody can tell.
        return "skipped"
    return "" if cell.agrees else "failure"


def _case(cell: Cell, kind: str | None, replay: str | None) -> Element:
    case = Element("testcase")
    case.set("classname", legal(f"{cell.module}.{cell.kernel}-{cell.profile}-{cell.lane}"))
    case.set("name", legal(f"{cell.variant}[{cell.id}]"))
    case.set("time", _seconds(cell.wall_s))
    outcome = _outcome(cell)
    if outcome == "skipped":
        ElementTree.SubElement(case, outcome, message=legal(_why_skipped(cell)))
    elif outcome:
        told = ElementTree.SubElement(case, outcome, message=legal(_message(cell)))
        told.set("type", legal(_type(cell, outcome, kind)))
        told.text = legal(_story(cell, replay))
    if outcome not in ("error", "failure") and cell.title:
        # Where CI servers look for the story behind a pass.
        ElementTree.SubElement(case, "system-out").text = legal(_story(cell, replay))
    return case


def _why_skipped(cell: Cell) -> str:
    if cell.state == "done":
        return f"cannot be told: {cell.why or 'what was seen is neither promised nor ruled out'}"
    return f"{cell.state}: {cell.why or 'no reason given'}"


def _message(cell: Cell) -> str:
    if cell.state == "error":
        return cell.why or "error of the harness, no reason given"
    if cell.title is None:
        return f"not caught in {cell.trials} trials"
    return cell.title


def _type(cell: Cell, outcome: str, kind: str | None) -> str:
    if outcome == "error":
        return "harness"
    if cell.title is None:
        return NOT_CAUGHT
    return kind or UNPROMISED


def _story(cell: Cell, replay: str | None) -> str:
    lines = [f"trials: {cell.trials}, with a finding: {cell.findings}"]
    if cell.caught_after is not None:
        lines.append(f"trials until the first: {cell.caught_after}")
    lines.append(f"scenarios: {', '.join(cell.scenarios) or '-'}")
    lines.append(f"seen: {cell.title or 'no finding'}")
    lines.append(f"promised: {' or '.join(cell.promised) or 'no finding'}")
    if cell.why:
        lines.append(f"why: {cell.why}")
    if cell.bundle:
        lines.append(f"bundle: {cell.bundle}")
    # The bug's own bundle may be of another cell.
    if replay or cell.bundle:
        lines.append(f"replay: {f'harness replay {cell.bundle}' if cell.bundle else replay}")
    return "\n".join(lines)


def _add_properties(suite: Element, document: Document, kernel: str, profile: str) -> None:
    facts = [("processors", str(document.machine.processors))]
    facts += [("accelerator", name) for name in document.machine.accelerators]
    for made in document.kernels:
        if (made.name, made.profile) == (kernel, profile):
            facts += [("kernel release", made.release), ("kernel source", made.version),
                      ("compiler", made.compiler)]  # fmt: skip
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in facts:
        ElementTree.SubElement(properties, "property", name=name, value=legal(value))


def _seconds(value: float) -> str:
    # XML schemas know no infinity in a decimal.
    return f"{value:.3f}" if 0 <= value < 1e12 else "0.000"


def _timestamp(text: str) -> str | None:
    """Return a time in UTC, without the zone that some readers stumble over."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if when.tzinfo is not None:
        when = when.astimezone(datetime.UTC)
    return when.replace(tzinfo=None).isoformat(timespec="seconds")
