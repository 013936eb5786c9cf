# SPDX-License-Identifier: GPL-2.0-only
"""A run's journal: what is done is on the disk before it counts as done.

One JSON object a line, the first of them says what the run is. Whoever is
killed leaves at most half a line, which the next one cuts off.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from harness import store
from harness.errors import UsageError

FORMAT: Final = "kmod-harness/journal/1"

#: A journal of a million trials has 500 MiB.
MAX_BYTES: Final = 1 << 30

Entry = dict[str, Any]


class Journal:
    """An open journal; nobody else writes it meanwhile."""

    def __init__(self, path: Path, fd: int, header: Entry, entries: list[Entry]) -> None:
        self.path = path
        self._fd = fd
        self.header = header
        #: What was in it when it was opened.
        self.entries = entries

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write an entry; it is on the disk when this returns.

        Raises:
            StorageError: the disk is full.
        """
        with store.storage_errors(self.path.parent):
            _write(self._fd, entry)


@contextlib.contextmanager
def open_journal(path: Path, header: Mapping[str, Any], *, fresh: bool) -> Iterator[Journal]:
    """Open a journal for going on with it, or begin one.

    Args:
        header: says what the run is; the field ``digest`` tells runs apart.
        fresh: begin anew, whatever is there; what was is kept beside it, once.

    Raises:
        UsageError: the journal is of another run, is no journal, or in use.
        StorageError: the folder cannot be written, or the disk is full.
    """
    with store.storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{path}: another harness is writing this journal",
                hint="wait for it, or name another with --journal",
            ) from None
        there = [] if fresh else _read(path, fd)
        if not there:
            with store.storage_errors(path.parent):
                _begin(path, fd, header)
            yield Journal(path, fd, dict(header), [])
            return
        first, *entries = there
        if first.get("format") != FORMAT:
            raise UsageError(
                f"{path}:1: no journal of format {FORMAT}",
                hint="--fresh begins anew, --journal names another file",
            )
        if first.get("digest") != header["digest"]:
            raise UsageError(
                f"{path}: is of another run: of {first.get('file')}, began "
                f"{first.get('began')}; what is to be run, or its sources, have changed since",
                hint="--fresh begins anew, --journal names another file",
            )
        yield Journal(path, fd, first, entries)
    finally:
        os.close(fd)


def _begin(path: Path, fd: int, header: Mapping[str, Any]) -> None:
    if os.fstat(fd).st_size:
        # A copy and not a rename: the lock is on this file.
        path.with_suffix(".previous.jsonl").write_bytes(path.read_bytes())
    os.ftruncate(fd, 0)
    _write(fd, {"format": FORMAT, **header})
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(fd: int, entry: Mapping[str, Any]) -> None:
    line = json.dumps(entry).encode() + b"\n"
    os.lseek(fd, 0, os.SEEK_END)
    while line:
        line = line[os.write(fd, line) :]
    os.fsync(fd)


def _read(path: Path, fd: int) -> list[Entry]:
    """Return the entries; half a line at the end is cut off."""
    size = os.fstat(fd).st_size
    if size > MAX_BYTES:
        raise UsageError(f"{path}: larger than {MAX_BYTES >> 20} MiB", hint="--fresh begins anew")
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    entries = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise UsageError(
                f"{path}:{number}: not an entry of a journal",
                hint="--fresh begins anew, --journal names another file",
            )
        entries.append(entry)
    if len(whole) < len(content):
        if not entries:
            raise UsageError(f"{path}:1: not an entry of a journal", hint="--fresh begins anew")
        os.ftruncate(fd, len(whole))
    return entries
