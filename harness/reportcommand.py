# SPDX-License-Identifier: GPL-2.0-only
"""What ``harness report`` does: a matrix's document as a page, or for a CI server."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import findingview, htmlreport, junit, matrixdoc, report, resources
from harness.errors import ExitStatus, UsageError
from harness.findingview import FindingView
from harness.matrixdoc import Bug


def html(arguments: argparse.Namespace) -> ExitStatus:
    """Write the page."""
    document = matrixdoc.load(arguments.document)
    previous = matrixdoc.load(arguments.previous) if arguments.previous else None
    for folder in arguments.source:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder", hint="sources of modules lie in it")
    sources = [*arguments.source, resources.data_dir("kmods")]
    near = arguments.document.absolute().parent

    def view(bug: Bug) -> FindingView:
        return findingview.view(bug.title, bug.bundle, near, sources, bug.also)

    _check_out(arguments.out, arguments.document, arguments.previous)
    report.write_text(arguments.out, htmlreport.page(document, view, previous))
    return ExitStatus.OK


def junit_xml(arguments: argparse.Namespace) -> ExitStatus:
    """Write JUnit XML."""
    document = matrixdoc.load(arguments.document)
    _check_out(arguments.out, arguments.document)
    report.write_text(arguments.out, junit.to_xml(document))
    return ExitStatus.OK


def _check_out(out: Path, *inputs: Path | None) -> None:
    for path in inputs:
        if path is not None and out.exists() and out.samefile(path):
            raise UsageError(f"{out}: would overwrite what is read")
    if out.is_dir():
        raise UsageError(f"{out}: a folder, not a file to write")
