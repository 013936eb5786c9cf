# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures for the tests that need no guest."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

# A parsed program lives until the process ends, on purpose.
os.environ["ASAN_OPTIONS"] = "detect_leaks=0"

_SOURCE = Path(__file__).parent.parent / "images" / "executor"
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")


def _build(tmp_path_factory: pytest.TempPathFactory, name: str, *flags: str) -> Path:
    """One build for all workers of a test run."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    target = folder / name
    sources = sorted(_SOURCE.glob("*.c"))
    with FileLock(f"{target}.lock"):
        if not target.exists():
            argv = ["gcc", *_FLAGS, *flags, "-o", f"{target}.new", *map(str, sources)]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
            if "-static" in flags and "cannot find -lc" in done.stderr:
                pytest.skip("no static C library")
            assert done.returncode == 0, done.stderr
            os.rename(f"{target}.new", target)
    return target


@pytest.fixture(scope="session")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The in-guest executor as the image has it, for `executor run` on this host."""
    return _build(tmp_path_factory, "executor", "-static")


@pytest.fixture(scope="session")
def checked_executor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executor with gcc's sanitizers, which do not work in a static binary."""
    flags = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    return _build(tmp_path_factory, "executor-checked", *flags)
