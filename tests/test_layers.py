# SPDX-License-Identifier: GPL-2.0-only
"""Modules import only from rows above them, never sideways."""

import ast
from pathlib import Path

import pytest

import harness

PACKAGE = Path(harness.__file__).parent

ROWS = (
    ("errors", "resources", "kloglines", "rustnames", "marktext", "memtypes", "mempercpu",
     "gdbscript"),
    ("deadline", "cpio", "machine", "savedstate", "kconfig", "kconfigtree", "ops", "seeds",
     "klogframes", "rates", "kbuildfiles", "dkms", "ram", "disks", "elf"),
    ("matrixdoc", "schedules", "mempages"),
    ("matrixdiff", "junit", "memowners"),
    ("klognames", "proc", "qmp", "audit", "program", "scenario_yaml", "memlists",
     "growth"),
    ("klogrules", "store", "scenario", "kernelfiles", "kofile"),
    ("klogextent", "surfaces", "ioctls", "sockets", "failstack", "ascode", "asscenario", "asshell",
     "patched", "intree", "families"),
    ("klog", "scenario_compile", "symbolise", "archive", "qemu", "terminal", "plan", "exectrace",
     "journal", "uses", "failplan", "aspytest"),
    ("sources", "verdict", "points", "workloads", "shrink"),
    ("timeline", "bugreport", "clues", "checkfile"),
    ("readymade", "image"),
    ("kernels",),
    ("buildhelp", "kernelmodules"),
    ("modulebuild",),
    ("modules", "keys", "template", "reach", "inventory", "memscan", "corefile",
     "stopat"),
    ("accel", "guest", "trial", "matrixplan", "revision"),
    ("bundle", "report", "klogview", "matrixrun", "matrixtimes", "lookinside"),
    ("findingview",),
    ("htmlreport",),
    ("lab",),
    ("ownsource", "minimise", "verify"),
    ("ownarguments",),
    ("sweep", "failsites", "bisect"),
    ("sweeptext", "failsweep", "failtext"),
    ("catalogue", "reproduce"),
    ("matrixlab", "bench"),
    ("sweeptests",),
    ("battery",),
    ("matrixdask",),
    ("commands", "plugin"),
    ("sweepcommand", "failcommand", "kernelscommand", "matrixcommand", "reportcommand",
     "checkcommand", "minimisecommand", "verifycommand", "replaycommand", "bisectcommand"),
    ("reproducecommand",),
    ("cli",),
)  # fmt: skip


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "harness":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {n.name.split(".")[1] for n in node.names if n.name.startswith("harness.")}
    return found - {"__version__"}


MODULES = sorted(path for path in PACKAGE.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_imports_only_from_rows_above(path: Path) -> None:
    row_of = {name: number for number, row in enumerate(ROWS) for name in row}
    assert path.stem in row_of, f"{path.stem} stands in no row"
    not_above = {name for name in imports(path) if row_of[name] >= row_of[path.stem]}
    assert not not_above


def test_only_proc_starts_programs() -> None:
    users = {
        path.stem
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) and any(n.name == "subprocess" for n in node.names)
    }
    assert users == {"proc"}


def test_nothing_sleeps() -> None:
    for path in MODULES:
        assert "time.sleep" not in path.read_text(), path
