# SPDX-License-Identifier: GPL-2.0-only
"""Bug reports as users write them: what is known, from a form, a mail or a log.

A form is YAML with the fields of :class:`BugReport`; whatever it leaves out is taken from the
kernel's report in it. A mail or a log is nothing but that. Pure, but for reading the file, and for
looking where links beside it lead.

A report may come from anybody: what it names is checked here, before anything is fetched or run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import pydantic

from harness import intree, klog, scenario_yaml
from harness.errors import UsageError
from harness.patched import Patch
from harness.scenario_yaml import Model

#: The version in an oops (``dump_stack_print_info()``) and the kernel's first line.
_VERSION: Final = re.compile(
    r"(?:Linux version |(?:Comm|comm): .{1,80}?[ \t])(?P<version>\d+\.\d+)[\w.+~-]*(?: #\d+| \()"
)
#: A frame in a module, or a name of one that was gone: see symbolise.
_FRAME: Final = re.compile(r"[A-Za-z_][\w.]*\+0x[0-9a-f]+/0x[0-9a-f]+ \[(?P<module>\w+)")
_LINKED: Final = re.compile(r"^.*?Modules linked in: (?P<names>[^\n]*)", re.MULTILINE)
_UNLOADED: Final = re.compile(r"\[last unloaded: (?P<module>\w+)")
_MAX_BYTES: Final = 4 << 20
#: Of a word of a form, characters.
_MAX_WORD: Final = 500


@dataclass(frozen=True, slots=True)
class BugReport:
    """What is known of a bug."""

    #: As syzbot names it.
    title: str
    #: Version of the kernel, such as ``6.1``; empty where nobody says.
    version: str
    #: A folder or a name, as the report says it; empty where it says none.
    module: str
    variant: str
    #: In a git repository at ``module``, if it is one.
    revision: str
    #: Names of modules that the kernel's report has frames in, the nearest to the top first.
    names: tuple[str, ...]
    #: The kernel's report.
    text: str
    #: A place in the kernel's source instead of ``module``.
    in_tree: str = ""
    #: Changes to what is there.
    patch: Patch | None = None


def _check_line(value: str) -> str:
    """A line as it is; other text no program takes as a name, and a terminal for commands.

    Raises:
        ValueError: it is no line of text.
    """
    if len(value) > _MAX_WORD:
        raise ValueError(f"longer than {_MAX_WORD} characters")
    if odd := next((one for one in value if not one.isprintable()), ""):
        raise ValueError(f"{value[:80]!r} is no line of text: it has {odd!r} in it")
    return value


_Line = Annotated[str, pydantic.AfterValidator(_check_line)]
_Text = Annotated[str, pydantic.Field(min_length=1), pydantic.AfterValidator(_check_line)]


class _Module(Model):
    #: The user's own, as `--module` is: it may lie anywhere.
    folder: _Text | None = None
    variant: _Line = "good"
    revision: _Line = ""
    #: A place in the kernel's source, instead of a folder.
    in_tree: _Text | None = None
    #: Of ``in_tree``: files, seen from the report's folder.
    patch: _Text | None = None
    revert: _Text | None = None


class _Form(Model):
    title: str = ""
    #: A series, or the whole version as ``uname -r`` has it.
    kernel: str = ""
    module: _Module | None = None
    #: The kernel's report, or all that the console said.
    log: str = ""
    #: Whatever else there is to tell, for people.
    story: str = ""


def read(path: Path) -> BugReport:
    """Return what a file says.

    Raises:
        UsageError: it cannot be read, or no bug can be made out in it.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise UsageError(f"{path}: {size >> 10} KiB, more than {_MAX_BYTES >> 10}")
        text = path.read_text(errors="replace")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix in (".yaml", ".yml"):
        return from_form(text, str(path))
    return _checked(_from_log(text), str(path))


def from_form(text: str, name: str) -> BugReport:
    """Return what a form says; ``name`` is its file's, for messages.

    Raises:
        ScenarioError: it is malformed: ``file:line: field: what is wrong``.
        UsageError: no bug can be made out in it.
    """
    document = scenario_yaml.parse(text, name, "a bug report", as_written=True)
    form = document.validate(_Form)
    seen = _from_log(form.log)
    version = seen.version
    if form.kernel:
        match = re.match(r"\d+\.\d+", form.kernel)
        if match is None:
            raise document.error(("kernel",), f"{form.kernel[:40]!r} is no version of Linux")
        version = match[0]
    with document.blame(("title",)):
        title = _check_line(form.title.strip())
    known = replace(seen, title=title or seen.title, version=version)
    if form.module is not None:
        known = _with_module(known, form.module, document, name)
    return _checked(known, name)


def _with_module(
    known: BugReport, module: _Module, document: scenario_yaml.Document, name: str
) -> BugReport:
    changes = [field for field in ("patch", "revert") if getattr(module, field)]
    if bool(module.folder) is bool(module.in_tree):
        raise document.error(("module",), "one of `folder` and `in_tree` is needed")
    if changes and (module.folder or len(changes) > 1):
        raise document.error(
            ("module", changes[-1]), "one of `patch` and `revert` goes with `in_tree`"
        )
    patch, in_tree = None, ""
    if module.in_tree:
        try:
            in_tree = intree.check_place(module.in_tree)
        except UsageError as error:
            raise document.error(("module", "in_tree"), error.message) from error
    if file := module.patch or module.revert:
        with document.blame(("module", changes[0])):
            patch = Patch(_beside(Path(name).parent, file), reverse=module.revert is not None)
    return replace(
        known,
        module=module.folder or "",
        variant=module.variant,
        revision=module.revision,
        in_tree=in_tree,
        patch=patch,
    )


def _beside(folder: Path, file: str) -> Path:
    """Return a file that came with a report.

    Raises:
        ValueError: it lies somewhere else.
    """
    path = folder / file
    if Path(file).is_absolute() or ".." in Path(file).parts:
        why = "leads out of the report's folder"
    elif _is_inside(path, folder):
        return path
    else:
        why = "is a link to nothing in the report's folder"
    raise ValueError(f"{file[:80]!r} {why}; it has to lie there, or below")


def _is_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        # A link that leads to itself.
        return False


def _from_log(text: str) -> BugReport:
    reports = klog.parse(text.encode())
    # What came first is the bug, and what came after may be no more than its consequence.
    own = text.encode()[reports[0].start : reports[0].end].decode() if reports else ""
    version = _VERSION.search(text)
    names = [match["module"] for match in _FRAME.finditer(own)]
    names += [match["module"] for match in _UNLOADED.finditer(text)]
    linked = " ".join(match["names"] for match in _LINKED.finditer(text))
    names += re.findall(r"(?:^| )(\w+)(?=\(| |$)", linked)
    return BugReport(
        title=reports[0].title if reports else "",
        version=version["version"] if version else "",
        module="",
        variant="good",
        revision="",
        names=tuple(dict.fromkeys(names)),
        text=text,
    )


def _checked(report: BugReport, name: str) -> BugReport:
    if not report.title:
        raise UsageError(
            f"{name}: nothing in it says what happened",
            hint="it needs a `title`, or a `log` with a report of the kernel",
        )
    if not report.version:
        raise UsageError(
            f"{name}: nothing in it says which kernel",
            hint="`kernel: 6.1`, or a log with a line `Comm: ... 6.1.0-18-amd64 #1`",
        )
    return report


def nearest_kernel(version: str, known: Sequence[str]) -> str:
    """Return the known kernel that comes nearest to a version.

    Args:
        version: two numbers, such as ``6.8``.
        known: names of kernels; those that are no version are left out.

    Raises:
        UsageError: none of them is a version.
    """
    numbered = {_numbers(name): name for name in known if re.fullmatch(r"\d+\.\d+", name)}
    if not numbered:
        raise UsageError("no kernel is known by its version")
    major, minor = _numbers(version)
    # 5.19 lies before 6.0: twenty to a major number, as it has been since 3.0.
    return numbered[
        min(numbered, key=lambda one: (abs((one[0] - major) * 20 + one[1] - minor), one))
    ]


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)
