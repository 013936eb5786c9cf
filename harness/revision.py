# SPDX-License-Identifier: GPL-2.0-only
"""A module's source as a git revision or a tarball has it, unpacked for as long as it is needed."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import CommandError, UsageError
from harness.proc import require_program, run
from harness.template import scratch_folder

_LIMIT_S = 300.0
#: Of a tarball or a revision: a kernel's source has some 90,000 files and 1.5 GiB.
_MAX_FILES = 200_000
_MAX_BYTES = 4 << 30


@contextlib.contextmanager
def unpacked(place: str, revision: str = "") -> Iterator[str]:
    """Yield what to find a module by: a folder or a name as it is, or what was unpacked.

    Args:
        place: a folder, a name under ``kmods/``, or a tarball.
        revision: of the git repository that the folder is in.

    Raises:
        UsageError: the revision does not exist, or the tarball is none, leads outside or is too
            large.
    """
    path = Path(place)
    if revision:
        with scratch_folder() as folder:
            yield str(_check_out(path, revision, folder))
    elif path.is_file() and tarfile.is_tarfile(path):
        with scratch_folder() as folder:
            _extract(path, folder)
            yield str(_only_folder(folder))
    else:
        yield place


def commits(path: Path, good: str, bad: str) -> tuple[str, ...]:
    """Return the commits behind one and up to another that touch a folder, the oldest first.

    Raises:
        UsageError: one of them does not exist, or nothing lies between them.
    """
    span = f"{_commit(path, good)}..{_commit(path, bad)}"
    found = _ask(path, span, "rev-list", "--reverse", "--abbrev-commit", span, "--", ".").split()
    if not found:
        raise UsageError(f"{path}: no commit between {good} and {bad} touches it")
    return tuple(found)


def describe(path: Path, commit: str) -> str:
    """Return a commit in a line: its short name and its subject."""
    return _ask(path, commit, "show", "--no-patch", "--format=%h %s", commit)


def _commit(path: Path, revision: str) -> str:
    # A word that begins with a dash would be an option.
    words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    return _ask(path, revision, *words)


def _ask(path: Path, revision: str, *words: str) -> str:
    git = str(require_program("git", "git"))
    try:
        done = run([git, "-C", str(path), *words], deadline=Deadline.after(_LIMIT_S))
    except CommandError as error:
        why = (error.evidence or "").strip().splitlines()
        # To verify a name quietly is to say nothing when there is none.
        said = why[-1] if why else "there is no such commit"
        raise UsageError(f"{path}: git revision {revision!r} cannot be had: {said}") from error
    return done.stdout.decode().strip()


def _check_out(path: Path, revision: str, folder: Path) -> Path:
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder, and a revision needs one in a git repository")
    commit = _commit(path, revision)
    prefix = _ask(path, revision, "rev-parse", "--show-prefix")
    top = _ask(path, revision, "rev-parse", "--show-toplevel")
    archive = folder / "revision.tar"
    _ask(path, revision, "-C", top, "archive", f"--output={archive}", commit)
    tree = folder / "tree"
    tree.mkdir()
    _extract(archive, tree)
    found = tree / prefix
    if not found.is_dir():
        raise UsageError(f"{path}: git revision {revision!r} has no folder {prefix}")
    return found


def _extract(archive: Path, into: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            _check_size(archive, tar)
            # Neither links nor names that lead outside, nor devices: PEP 706.
            tar.extractall(into, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UsageError(f"{archive}: cannot be unpacked: {error}") from error


def _check_size(archive: Path, tar: tarfile.TarFile) -> None:
    """Refuse what would fill the disk, by what it says of itself; no more is unpacked.

    Raises:
        UsageError: it is larger than sources of a module are.
    """
    size = 0
    for files, member in enumerate(tar, start=1):
        size += member.size
        if files > _MAX_FILES or size > _MAX_BYTES:
            raise UsageError(
                f"{archive}: holds more than {_MAX_FILES} files or {_MAX_BYTES >> 20} MiB"
            )


def _only_folder(folder: Path) -> Path:
    """A tarball has one folder, mostly, and everything in it."""
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
