# SPDX-License-Identifier: GPL-2.0-only
"""A matrix in guests: killed half-way it goes on, and the result is that of one go."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import matrixdoc
from harness.lab import Lab
from harness.matrixdoc import Document

pytestmark = pytest.mark.vm

MATRIX = """
kernels: [6.1]
modules: [{module: poolfs, variants: [good, leak-pool, no-owner]}]
seeds: 1:4
"""


@pytest.fixture
def project(harness_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(harness_lab.cache.root))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text(MATRIX)
    return tmp_path


def start(*argv: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "harness.cli", "matrix", "m.yaml", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    shown, _ = process.communicate(timeout=1800)
    return process.returncode, shown.decode()


def comparable(path: Path) -> Document:
    """A document without its times and without where its bundles lie."""
    document = matrixdoc.load(path)
    cells = [cell.model_copy(update={"wall_s": 0, "bundle": None}) for cell in document.cells]
    trials = [
        trial.model_copy(update={"wall_s": 0, "bundle": trial.bundle is not None})
        for trial in document.trials
    ]
    bugs = [bug.model_copy(update={"bundle": None, "replay": None}) for bug in document.bugs]
    return document.model_copy(
        update={"began": "", "ended": "", "cells": cells, "trials": trials, "bugs": bugs}
    )


def test_killed_half_way_it_goes_on_to_the_same_result(project: Path) -> None:
    status, shown = finished(start("--bundles", "one", "--json", "one.json"))
    assert status == 0, shown
    killed = start("--bundles", "two", "--json", "two.json")
    assert killed.stdout is not None
    # Said when it begins: the first cell has been written down, two are to be run.
    assert any(b"cell 2 of 3" in line for line in killed.stdout)
    killed.send_signal(signal.SIGKILL)
    finished(killed)
    status, shown = finished(start("--bundles", "two", "--json", "two.json"))
    assert status == 0, shown
    assert "going on with two/m.journal.jsonl" in shown
    assert comparable(project / "two.json") == comparable(project / "one.json")
    found = {cell.variant: cell for cell in comparable(project / "two.json").cells}
    assert (found["good"].findings, found["good"].trials) == (0, 3)
    assert found["leak-pool"].title == "residue: slab cache poolfs_inode"
    assert found["no-owner"].agrees
