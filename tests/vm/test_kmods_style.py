# SPDX-License-Identifier: GPL-2.0-only
"""The catalogue's C is kernel style: checkpatch --strict and sparse have nothing to say.

These need no guest, but the kernel's source and build tree.
"""

import os
import shutil
from pathlib import Path

import pytest

from harness import families, proc
from harness.deadline import Deadline
from harness.lab import Lab
from harness.resources import data_dir

pytestmark = pytest.mark.vm

FOLDERS = sorted({path.parent for path in data_dir("kmods").rglob("*.[ch]")})
FAMILIES = families.all_families()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_checkpatch_has_nothing_to_say(harness_lab: Lab, folder: Path) -> None:
    checkpatch = harness_lab.kernel("6.1", "kasan").source / "scripts" / "checkpatch.pl"
    files = sorted(str(path) for path in folder.glob("*.[ch]"))
    done = proc.run(
        # A bus can only be const since 6.4, and these modules are for 5.10, too.
        ["perl", str(checkpatch), "--no-tree", "--strict", "--terse", "--no-summary",
         "--ignore", "CONST_STRUCT", "-f", *files],
        deadline=Deadline.after(600), check=False, merge_stderr=True,
    )  # fmt: skip
    assert done.stdout.decode() == ""


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_sparse_has_nothing_to_say(
    harness_lab: Lab, tmp_path: Path, family: families.Family
) -> None:
    kernel = harness_lab.kernel("6.1", "kasan")
    shutil.copytree(data_dir("kmods"), tmp_path / "kmods")
    work = tmp_path / "kmods" / family.folder.name
    done = proc.run(
        ["make", "-C", str(kernel.build), f"M={work}", "C=2", f"-j{os.cpu_count()}", "modules"],
        deadline=Deadline.after(1800), merge_stderr=True,
    )  # fmt: skip
    shown = done.stdout.decode(errors="replace")
    assert "  CHECK   " in shown
    said = [line for line in shown.splitlines() if str(work) in line and ": warning: " in line]
    assert said == []
