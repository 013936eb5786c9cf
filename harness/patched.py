# SPDX-License-Identifier: GPL-2.0-only
"""Modules of the kernel's own source with changes made to them, compiled outside of it.

The kernel stays as it is; only the folder is copied, and its Makefile told that what was an
option is a module.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness import kbuildfiles, store
from harness.deadline import Deadline
from harness.errors import UsageError
from harness.kbuildfiles import Made
from harness.proc import require_program, run

#: Raise it when what is written beside the sources changes.
_VERSION: Final = "1"
_LIMIT_S: Final = 300.0
#: What a Makefile makes here; composite objects (``foo-y``) are another matter.
_GOAL: Final = re.compile(r"^(\s*)obj-(?:\$[({]CONFIG_(\w+)[)}]|[ym])(?=\s*[+:?]?=)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Patch:
    """Changes to modules of the kernel's own source."""

    #: As ``git show`` or ``diff -u`` write it, its names seen from the top of the source.
    path: Path
    #: Take them back instead: of a fix, what was before.
    reverse: bool = False


def copy(
    cache: store.Store, source: Path, place: str, modules: Iterable[Made], patch: Patch
) -> Path:
    """Return a copy of a folder of the kernel's source that makes some of its modules, changed.

    Args:
        source: the top of the kernel's source.
        place: the folder, or one module in it, seen from there (see :mod:`harness.intree`).
        modules: those that are wanted.

    Raises:
        UsageError: the patch cannot be read or applied, or is about other files.
    """
    # Of a folder with one module in question, what lies below it belongs to others.
    whole = (source / place).is_dir()
    folder = place.strip("/") if whole else str(Path(place.strip("/")).parent)
    wanted = {one.option for one in modules if one.folder == folder}
    if not wanted:
        raise UsageError(
            f"{patch.path}: the modules to be changed lie below {folder}",
            hint="name the folder of one of them",
        )
    try:
        text = patch.path.read_bytes()
    except OSError as error:
        raise UsageError(f"{patch.path}: cannot be read: {error.strerror}") from error
    every = (source / folder).rglob("*") if whole else (source / folder).iterdir()
    files = [
        path
        for path in sorted(every)
        if path.is_file() and not kbuildfiles.PRODUCTS.search(path.name)
    ]
    key = store.digest(
        {
            "version": _VERSION,
            "patch": store.digest_bytes(text),
            "reverse": patch.reverse,
            "folder": folder,
            "options": sorted(wanted),
            "files": {str(path.relative_to(source)): store.digest_file(path) for path in files},
        }
    )
    deadline = Deadline.after(_LIMIT_S)

    def make(into: Path) -> None:
        for path in files:
            to = into / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
        _apply(text, patch, into, deadline)
        _write_kbuild(into / folder, wanted)

    path = cache.build("patched", key, make, deadline=deadline)
    cache.use(path)
    return path / folder


def _apply(text: bytes, patch: Patch, into: Path, deadline: Deadline) -> None:
    program = str(require_program("patch", "patch"))
    direction = "--reverse" if patch.reverse else "--forward"
    done = run(
        [program, "-p1", "--batch", direction, "--no-backup-if-mismatch", "--reject-file=-"],
        cwd=into, input=text, deadline=deadline, check=False, merge_stderr=True,
    )  # fmt: skip
    if done.status:
        how = "taken back" if patch.reverse else "applied"
        raise UsageError(
            f"{patch.path}: cannot be {how} here",
            hint="its names are seen from the top of the kernel's source, as `git show` has them",
            evidence=done.stdout.decode(errors="replace"),
        )


def _write_kbuild(folder: Path, wanted: set[str]) -> None:
    name = next(name for name in kbuildfiles.NAMES if (folder / name).is_file())
    text = (folder / name).read_text(errors="replace")
    made = _GOAL.sub(lambda goal: goal[1] + ("obj-m" if goal[2] in wanted else "left-out"), text)
    (folder / kbuildfiles.NAMES[0]).write_text(made)
