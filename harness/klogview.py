# SPDX-License-Identifier: GPL-2.0-only
"""Kernel logs for a person or a program: what ``harness klog`` reads and shows.

Everything that a log says is somebody else's: what is shown of it holds no terminal escapes.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness import elf, klog, symbolise
from harness.errors import GuestError, UsageError
from harness.klog import Report
from harness.kofile import module_name
from harness.symbolise import ModuleLife
from harness.trial import module_lives

#: A log is read as a whole; one that is longer is refused, bytes.
MAX_LOG_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20
#: The name that stands for standard input.
STDIN = "-"
#: The file of a bundle that says where its modules lay.
_RECORD = "report.jsonl"

# Stands between the reports of a log while they are decoded; no cleaned text holds it.
_BETWEEN = "\x1e"
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
_OFFSET_LINE = re.compile(rb"Kernel Offset: 0x[0-9a-f]{1,16}")
_IN_MODULE = re.compile(r"\[([A-Za-z_][\w-]*)[\],: ]")
# As kmemleak shows a function that is no longer there.
_BARE_CALLER = re.compile(r"(?m)(?<=[\s\]] )0x([0-9a-f]{8,16})$")
# A kernel that is not the one that printed the log gives itself away by so many frames.
_MIN_KNOWN = 4


@dataclass(frozen=True, slots=True)
class Symbols:
    """Where functions, files and lines are looked up."""

    vmlinux: Path | None = None
    #: Files of each module, by the name that the kernel calls it.
    modules: Mapping[str, tuple[Path, ...]] = dataclasses.field(default_factory=dict)
    #: Where modules lay, where that is on record.
    lives: tuple[ModuleLife, ...] = ()

    def __bool__(self) -> bool:
        return self.vmlinux is not None or bool(self.modules)

    def lives_for(self, text: str) -> tuple[ModuleLife, ...]:
        """The lives on record; for each other module that ``text`` names, one without a place."""
        known = {life.name for life in self.lives}
        others = sorted({*_IN_MODULE.findall(text)} & self.modules.keys() - known)
        return (
            *self.lives,
            *(ModuleLife(name, _best(self.modules[name]), 0, 0, 1, None) for name in others),
        )


@dataclass(frozen=True, slots=True)
class View:
    """What was found in one log."""

    name: str
    reports: tuple[Report, ...]
    #: Line of the log in which each report begins, from 1, and that in which it ends.
    lines: tuple[tuple[int, int], ...]
    #: Text of each report with functions, files and lines; empty without symbols.
    decoded: tuple[str, ...] = ()
    #: What a person should know about the symbols.
    remarks: tuple[str, ...] = ()


def read_log(name: str) -> bytes:
    """Read a log; ``-`` is standard input.

    Raises:
        UsageError: it cannot be read, or is longer than MAX_LOG_BYTES.
    """
    try:
        if name == STDIN:
            log = _read(sys.stdin.buffer)
        else:
            with Path(name).open("rb") as file:
                log = _read(file)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise UsageError(f"{name}: does not fit into memory") from error
    if log is None:
        raise UsageError(
            f"{name}: longer than {MAX_LOG_BYTES >> 20} MiB",
            hint=f"`split -C {MAX_LOG_BYTES >> 20}m` cuts a log between lines",
        )
    return log


def _read(file: IO[bytes]) -> bytes | None:
    """All of a file, or None if that is too much; a pipe says how long it is only by ending."""
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file.read() if os.fstat(file.fileno()).st_size <= MAX_LOG_BYTES else None
    log = bytearray()
    while chunk := file.read(_CHUNK_BYTES):
        log += chunk
        if len(log) > MAX_LOG_BYTES:
            return None
    return bytes(log)


def load_symbols(vmlinux: Path | None, folder: Path | None) -> Symbols:
    """Check what a user named, and find the modules in a folder.

    A bundle's folder will do: it records where its modules lay.

    Raises:
        UsageError: a file or folder is missing or not what it should be.
    """
    if vmlinux is not None:
        _check_kernel(vmlinux)
    if folder is None:
        return Symbols(vmlinux)
    modules = _find_modules(folder)
    record = folder / _RECORD
    lives: tuple[ModuleLife, ...] = ()
    if record.is_file():
        files = {name: _best(paths) for name, paths in modules.items()}
        try:
            lives = module_lives(record.read_bytes(), files)
        except (GuestError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{record}: not a record of a trial: {error}") from error
        except OSError as error:
            raise UsageError(f"{record}: cannot be read: {error.strerror}") from error
    return Symbols(vmlinux, modules, tuple(life for life in lives if life.size))


def _check_kernel(path: Path) -> None:
    file = elf.load(path)
    if file.relocatable:
        raise UsageError(f"{path}: a module or object file, not a kernel", hint="try --modules")
    if not file.has_debug_information:
        raise UsageError(
            f"{path}: has no debug information",
            hint="a kernel is built with it when CONFIG_DEBUG_INFO is set; "
            "distributions ship it as a package of its own (-dbg, -debuginfo)",
        )


def _find_modules(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Files of each module below a folder; the kernel writes ``_`` for ``-`` in their names."""
    try:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder")
        paths = sorted([*folder.rglob("*.ko"), *folder.rglob("*.ko.debug")])
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from error
    found: dict[str, tuple[Path, ...]] = {}
    for path in paths:
        name = module_name(path.name.partition(".ko")[0])
        found[name] = (*found.get(name, ()), path)
    if not found:
        raise UsageError(
            f"{folder}: holds no module (*.ko, *.ko.debug)",
            hint="compressed modules (*.ko.xz, *.ko.zst) hold no debug information",
        )
    return found


def _best(paths: Sequence[Path]) -> Path:
    """The file of a module that has debug information, else the first."""
    for path in paths:
        try:
            if elf.load(path).has_debug_information:
                return path
        except UsageError:
            continue
    return paths[0]


def view(name: str, log: bytes, symbols: Symbols) -> View:
    """Find a log's reports, and look their frames up if there are symbols.

    Raises:
        UsageError: a module's file is not what it should be.
        InfrastructureError: addr2line is missing or failed, or took too long.
    """
    reports = tuple(_rename_leak(log, report, symbols) for report in klog.parse(log))
    lines = _line_numbers(log, reports)
    if not symbols or not reports:
        return View(name, reports, lines)
    texts = [_text(log, report) for report in reports]
    # Printed at a panic, maybe outside of the report.
    offset = _OFFSET_LINE.search(log)
    tail = offset[0].decode() if offset else ""
    joined = f"\n{_BETWEEN}\n".join([*texts, tail])
    lives = symbols.lives_for(joined)
    vmlinux, remarks = _fitting_kernel(joined, symbols.vmlinux)
    remarks += [
        f"{path}: has no debug information: its frames stay without lines"
        for path in sorted({life.ko for life in lives})
        if not elf.load(path).has_debug_information
    ]
    decoded = symbolise.decode(joined, vmlinux=vmlinux, modules=lives)
    parts = decoded.split(f"\n{_BETWEEN}\n")[:-1]
    return View(name, reports, lines, tuple(parts), tuple(remarks))


def _text(log: bytes, report: Report) -> str:
    return clean(log[report.start : report.end].decode("utf-8", "backslashreplace"))


def clean(text: str) -> str:
    """Text that a terminal shows as it stands: what controls it is written out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def _line_numbers(log: bytes, reports: Sequence[Report]) -> tuple[tuple[int, int], ...]:
    """First and last line of each report; what lies before it is counted once."""
    at = {0: 1}
    last = 0
    for place in sorted({p for report in reports for p in (report.start, report.end - 1)}):
        at[place] = at[last] + log.count(b"\n", last, place)
        last = place
    return tuple((at[report.start], at[report.end - 1]) for report in reports)


def _rename_leak(log: bytes, report: Report, symbols: Symbols) -> Report:
    """Name a leak after its module's function, although the module is gone."""
    if report.type != "LEAK" or not symbols.lives:
        return report
    text = _text(log, report)
    named = name_callers(text, symbols.lives)
    again = klog.parse(named.encode()) if named != text else ()
    if len(again) != 1:
        return report
    return dataclasses.replace(
        report, title=again[0].title, alt=again[0].alt, frame=again[0].frame,
        corrupted=again[0].corrupted, reason=again[0].reason, signature=again[0].signature,
    )  # fmt: skip


def name_callers(text: str, lives: Sequence[ModuleLife]) -> str:
    """A report's text in which bare addresses of callers carry names where a module lay there."""
    return _BARE_CALLER.sub(
        lambda match: symbolise.name_address(int(match[1], 16), lives) or match[0], text
    )


def _fitting_kernel(text: str, vmlinux: Path | None) -> tuple[Path | None, list[str]]:
    """The kernel if it can have printed a text, and what is to be said if not.

    Another kernel knows most functions too, and would name lines that are wrong.
    """
    if vmlinux is None:
        return None, []
    known, fitting = symbolise.count_fitting(text, vmlinux)
    if known < _MIN_KNOWN or fitting * 2 >= known:
        return vmlinux, []
    return None, [
        f"{vmlinux}: only {fitting} of {known} frames fit, so another kernel printed the log: "
        "its frames stay without lines"
    ]


# ---- what is shown ------------------------------------------------------------------------------


def to_json(views: Sequence[View]) -> dict[str, list[dict[str, Any]]]:
    """One key per log; a report is an object with the fields of :class:`harness.klog.Report`."""
    return {shown.name: [dataclasses.asdict(r) for r in shown.reports] for shown in views}


def to_text(shown: View) -> str:
    """One log's reports for a person."""
    name = "standard input" if shown.name == STDIN else clean(shown.name)
    if not shown.reports:
        return f"{name}: no report\n"
    count = len(shown.reports)
    blocks = [f"{name}: {count} report{'s' if count != 1 else ''}\n"]
    for number, report in enumerate(shown.reports):
        first, last = shown.lines[number]
        rows = [f"{number + 1}. {report.title}"]
        rows += [f"   also {title}" for title in report.alt]
        rows.append(f"   {_where(report)}")
        rows.append(f"   lines {first}-{last}, bytes {report.start}-{report.end}")
        if report.corrupted:
            rows.append(f"   corrupted: {report.reason}")
        if shown.decoded:
            rows.append("")
            rows += [f"   | {line}".rstrip() for line in shown.decoded[number].split("\n")]
        blocks.append(clean("\n".join(rows)) + "\n")
    return "\n".join(blocks)


def _where(report: Report) -> str:
    words = [report.type]
    if report.frame:
        words.append(f"in {report.frame}")
    if report.task:
        words.append(f"task {report.task}")
    if report.cpu is not None:
        words.append(f"CPU {report.cpu}")
    return ", ".join(words)
