# SPDX-License-Identifier: GPL-2.0-only
"""A finding as a person reads it: its report, the lines of source, the timeline.

All comes from the bundle's folder, which may be anybody's, and may be gone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import bundle, timeline
from harness.errors import HarnessError
from harness.timeline import Timeline

#: A kernel's report is shown up to so many characters.
MAX_DECODED = 40_000
#: Lines before and after the one that a frame names.
_AROUND = 5
_MAX_SOURCE = 1 << 20

# A decoded frame: `poolfs_done+0x4c/0x57 [poolfs] poolfs/super.c:126`, `f file.c:1 [inline]`;
# of a module that is gone, the brackets hold a sentence.
_FRAME = re.compile(
    r"([A-Za-z_][\w.]{0,120})(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?(?: \[[^\]\n]{1,120}\])? "
    r"([\w./+-]{1,300}\.(?:[chS]|rs)):(\d{1,7})\b"
)
# Where a module was compiled, in bundles of older harnesses.
_BUILD = re.compile(r"/\S{1,300}?/kernel/[0-9a-f]{16}/build/")


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Lines of source around the one that a frame names."""

    #: As the frame has it.
    path: str
    line: int
    function: str
    #: Number and text of each line.
    lines: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class FindingView:
    """What a bundle has to say about one of its findings."""

    decoded: str
    excerpt: Excerpt | None
    timeline: Timeline | None
    #: Why something is not here, a sentence each.
    lacks: tuple[str, ...]


def view(
    title: str,
    folder: str | None,
    near: Path,
    sources: Sequence[Path],
    also: Sequence[str] = (),
) -> FindingView:
    """Return what is to be seen of a finding; what is missing is said, never an error.

    Args:
        folder: the bundle's, as the document has it.
        near: folder of the document; a bundle is looked for from here, and from there.
        sources: folders in which the folders of modules' sources lie.
        also: titles that were seen beside it; their reports follow.
    """
    if folder is None:
        return FindingView("", None, None, ("No bundle was kept.",))
    try:
        path = next((at for at in (Path(folder), near / folder) if at.is_dir()), None)
        if path is None:
            return FindingView("", None, None, (f"The bundle is not here: {folder}",))
        texts = bundle.read_texts(path)
    except (HarnessError, OSError) as error:
        return FindingView("", None, None, (f"The bundle cannot be read: {error}",))
    lacks = []
    decoded = section(texts.findings, title, texts.titles)
    if not decoded:
        lacks.append("The bundle's findings.txt does not have this title.")
    shown: Timeline | None = None
    try:
        shown = timeline.read(title, texts.program, texts.console, texts.report)
    except HarnessError as error:
        lacks.append(f"The bundle's report.jsonl cannot be read: {error}")
    else:
        if shown is None:
            lacks.append("The bundle's report.jsonl says nothing of times.")
    found = excerpt(_BUILD.sub("", decoded), sources)
    for other in also:
        more = section(texts.findings, other, texts.titles)
        if more:
            decoded += f"\n\n{other}\n" if more == other else f"\n\n{other}\n\n{more}\n"
    return FindingView(_BUILD.sub("", decoded), found, shown, tuple(lacks))


def section(findings: str, title: str, titles: Sequence[str]) -> str:
    """Return the part of findings.txt below a title, up to the next one."""
    lines = findings.splitlines()
    heads = set(titles)
    starts = [number for number, line in enumerate(lines) if line == title]
    if not starts:
        return ""
    # Titles stand at the beginning, or after an empty line.
    after = (
        number
        for number in range(starts[0] + 1, len(lines))
        if lines[number] in heads and not lines[number - 1]
    )
    body = lines[starts[0] + 1 : next(after, len(lines))]
    return "\n".join(body).strip("\n") or title


def excerpt(decoded: str, sources: Sequence[Path]) -> Excerpt | None:
    """Return the lines around the innermost frame whose source is here."""
    for line in decoded.splitlines():
        for match in _FRAME.finditer(line):
            # `? f` is what lay on the stack, not who called.
            if line[: match.start()].rstrip().endswith("?"):
                continue
            lines = _source_lines(match[2], int(match[3]), sources)
            if lines:
                return Excerpt(match[2], int(match[3]), match[1], lines)
    return None


def _source_lines(name: str, line: int, sources: Sequence[Path]) -> tuple[tuple[int, str], ...]:
    for folder in sources:
        file = folder / name
        try:
            # Frames are a stranger's: no way leads out of the folder.
            if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
                continue
            if file.stat().st_size > _MAX_SOURCE:
                continue
            text = file.read_text(errors="backslashreplace").splitlines()
        except OSError:
            continue
        if 0 < line <= len(text):
            first, last = max(1, line - _AROUND), min(len(text), line + _AROUND)
            return tuple((number, text[number - 1]) for number in range(first, last + 1))
    return ()
