# SPDX-License-Identifier: GPL-2.0-only
"""Bundles: folders that hold all that a trial needs to be run again.

A bundle holds what went into the guest (the payload and the program, byte for
byte), what the guest was (kernel and its configuration, image, QEMU and its arguments) and what
came out (console, report, findings). It never holds a key, nor anything of the host but these.

Whoever opens one may have it from anybody: nothing of it is used before all of it was checked.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from harness import __version__, plan, schedules, store
from harness.errors import UsageError
from harness.machine import Lane
from harness.program import Program
from harness.trial import Trial, TrialResult, TrialSpec

FORMAT = 1

#: Limits on what is read from a bundle, which may come from anybody, bytes.
_MAX_RECORD: Final = 1 << 20
_MAX_PROGRAM: Final = 1 << 20
_MAX_PAYLOAD: Final = 256 << 20
_MAX_TEXT: Final = 32 << 20
#: Of modules, of findings, and of letters in a word that a person reads.
_MAX_MODULES: Final = 64
_MAX_FINDINGS: Final = 1000
_MAX_WORD: Final = 500

#: Files whose digests the record has, and how large they may be. The first three are in every one.
_FILES: Final = {
    "program.txt": _MAX_PROGRAM,
    "payload.cpio": _MAX_PAYLOAD,
    "console.log": _MAX_TEXT,
    "report.jsonl": _MAX_TEXT,
    "findings.txt": _MAX_TEXT,
    "kernel.config": _MAX_TEXT,
}
_NEEDED: Final = tuple(_FILES)[:3]
#: The kernel takes names of modules like this, and gdb's scripts have them in commands.
_MODULE: Final = re.compile(r"modules/([A-Za-z0-9_-]{1,63})\.ko")
#: No path: a file that came with a bundle would say what is downloaded and compiled.
_KERNEL: Final = re.compile(r"[\w][\w.~-]{0,63}", re.ASCII)
#: How an archive for the guest begins (cpio(5)).
_PAYLOAD_MAGIC: Final = b"070701"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and checked."""

    path: Path
    spec: TrialSpec
    bound_s: float
    program: bytes
    payload: bytes
    #: What the guest was made of then: names → versions and digests.
    made_of: Mapping[str, str]
    titles: tuple[str, ...]
    console: bytes
    #: Module's name → its file with debug information, in the bundle.
    symbols: Mapping[str, Path]


def write_bundle(
    root: Path, trial: Trial, result: TrialResult, payload: bytes, decoded: str
) -> Path:
    """Write a trial's bundle below a folder; one of the same name is replaced.

    Args:
        decoded: the findings with functions and source lines, for a person.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    trial = _movable(trial)
    result = replace(result, spec=trial.spec)
    path = root / trial.spec.label
    staging = root / f".{trial.spec.label}.new"
    with store.storage_errors(root):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            _fill(staging, trial, result, payload, decoded)
            shutil.rmtree(path, ignore_errors=True)
            staging.rename(path)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    return path


def _movable(trial: Trial) -> Trial:
    """A kernel whose file's path was given has a name, too, and that is the same elsewhere."""
    name = trial.spec.kernel
    if name.endswith(".yaml"):
        name = Path(name).stem
    return replace(trial, spec=replace(trial.spec, kernel=name))


def _fill(folder: Path, trial: Trial, result: TrialResult, payload: bytes, decoded: str) -> None:
    files = {
        "program.txt": trial.program,
        "payload.cpio": payload,
        "console.log": result.evidence.console,
        "report.jsonl": result.evidence.report,
        "findings.txt": decoded.encode(),
    }
    config = trial.template.base.kernel.build / ".config"
    if config.is_file():
        files["kernel.config"] = config.read_bytes()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    modules = folder / "modules"
    modules.mkdir()
    for name, ko in trial.symbols.items():
        shutil.copyfile(ko, modules / f"{name}.ko")
    made = made_of(trial)
    record = {
        "format": FORMAT,
        "harness": __version__,
        "trial": {**asdict(trial.spec), "lane": trial.spec.lane.value},
        "bound_s": trial.bound_s,
        "made_of": made,
        "findings": [
            {"kind": finding.kind.value, "title": _printable(finding.title)}
            for finding in result.findings
        ],
        "sha256": {
            **{name: store.digest_bytes(content) for name, content in files.items()},
            **{f"modules/{name}.ko": store.digest_file(ko) for name, ko in trial.symbols.items()},
        },
    }
    (folder / "bundle.json").write_text(json.dumps(record, indent=1) + "\n")
    schedule = Program.parse(trial.program).schedule
    said = f"{schedules.describe(schedule)}\n\n" if schedule else ""
    (folder / "README.md").write_text(_readme(trial.spec, result, said, made))


def _printable(text: str) -> str:
    """What a kernel said, as it may stand in a terminal."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)[:_MAX_WORD]


def made_of(trial: Trial) -> dict[str, str]:
    """Return what a trial's guest is made of: names → versions and digests."""
    base = trial.template.base
    known = {
        "kernel": base.kernel.key,
        "kernel source": base.kernel.version,
        "kernel release": base.kernel.release,
        "kernel configuration": base.kernel.config_sha256,
        # What is named by its inputs may still be another one, by one that nobody thought of.
        "kernel image": store.digest_file(base.kernel.bzimage),
        "compiler": base.kernel.compiler,
        "image": base.image.key,
        "qemu": base.qemu_version(),
        "qemu arguments": base.qemu_arguments(),
        "accelerator": base.accelerator.value,
    }
    # Of a module that came compiled nobody knows what from.
    return known | ({"module sources": trial.sources} if trial.sources else {})


#: What a difference is about that is more than a version: nobody can compare two lines of these.
_LONG: Final = 80


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """Return in words how what a guest is made of differs from what it was made of."""
    found = []
    for name, was in then.items():
        instead = now.get(name, "nothing")
        if was == instead:
            continue
        if len(was) > _LONG or len(instead) > _LONG:
            gone = [word for word in was.split() if word not in instead.split()]
            come = [word for word in instead.split() if word not in was.split()]
            was, instead = " ".join(gone) or "the same words", " ".join(come) or "other order"
        found.append(f"{name}: was {was}, is {instead}")
    return tuple(found)


def first_difference(then: bytes, now: bytes) -> str:
    """Return where two consoles part, in words; nothing where they are the same."""
    if then == now:
        return ""
    lines = then.split(b"\n"), now.split(b"\n")
    number = next(
        (at for at, pair in enumerate(zip(*lines, strict=False)) if pair[0] != pair[1]),
        min(map(len, lines)),
    )
    was, instead = (repr(side[number])[1:] if number < len(side) else "its end" for side in lines)
    return f"line {number + 1}: was {was}, is {instead}"


def _readme(spec: TrialSpec, result: TrialResult, schedule: str, made: Mapping[str, str]) -> str:
    titles = "".join(f"- {finding.title}\n" for finding in result.findings)
    facts = "".join(f"- {name}: {value}\n" for name, value in made.items())
    return f"""# {spec.module} ({spec.variant}), seed {spec.seed}

Found on kernel {spec.kernel} ({spec.profile}), lane {spec.lane.value}, scenario {spec.scenario}:

{titles}
{schedule}Run it again with `harness replay FOLDER --times 20`, this folder being FOLDER. What is
missing is built, and what is not as it was then is said. `harness minimise FOLDER` looks for
what of it is needed, `harness replay FOLDER --gdb` looks inside.

| file | what it is |
|---|---|
| `findings.txt` | the findings with functions and source lines |
| `console.log` | all that the guest's kernel printed |
| `report.jsonl` | the executor's report: errnos, data checks, residue |
| `program.txt` | the program that ran, with its seed |
| `payload.cpio` | what was put into the guest before it was saved as a template |
| `modules/` | the modules with debug information |
| `kernel.config` | how the kernel was configured |
| `bundle.json` | which kernel, image, QEMU; digests of the files here |

It was made of:

{facts}"""


def load_bundle(path: Path) -> Bundle:
    """Read a bundle and check it.

    Raises:
        UsageError: a file is missing, changed, too large or outside of the bundle; or what one
            says is malformed, or more than a trial may be.
    """
    record = _load_record(path)
    try:
        _check_format(path, record)
        digests = {str(name): str(digest) for name, digest in record["sha256"].items()}
        files, symbols = _load_files(path, digests)
        spec = _spec(path, record["trial"])
        bound_s = _bound_s(path, record["bound_s"], spec, files["program.txt"])
        if not files["payload.cpio"].startswith(_PAYLOAD_MAGIC):
            raise UsageError(f"{path}/payload.cpio: no archive for the guest (cpio, newc)")
        found = record["findings"]
        if len(found) > _MAX_FINDINGS:
            raise UsageError(f"{path}: {len(found)} findings, more than {_MAX_FINDINGS}")
        return Bundle(
            path=path,
            spec=spec,
            bound_s=bound_s,
            program=files["program.txt"],
            payload=files["payload.cpio"],
            made_of={
                _word(path, "made_of", name): _word(path, name, value, 10 * _MAX_WORD)
                for name, value in record["made_of"].items()
            },
            titles=tuple(_word(path, "title", finding["title"]) for finding in found),
            console=files["console.log"],
            symbols=symbols,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(f"{path}/bundle.json: malformed: {error!r}"[:_MAX_WORD]) from error


def _load_files(path: Path, digests: Mapping[str, str]) -> tuple[dict[str, bytes], dict[str, Path]]:
    """Return the files that a record names, checked: contents, and places of the modules."""
    missing = [name for name in _NEEDED if name not in digests]
    if missing:
        raise UsageError(f"{path}/bundle.json: has no digest of {missing[0]}")
    if len(digests) > len(_FILES) + _MAX_MODULES:
        raise UsageError(f"{path}: {len(digests)} files, more than {_MAX_MODULES} modules have")
    files, symbols = {}, {}
    for name in digests:
        module = _MODULE.fullmatch(name)
        _check_inside(path, name)
        if module is None and name not in _FILES:
            raise UsageError(f"{path}: names a file that no bundle has: {name[:80]!r}")
        content = _load_file(path, name, _FILES.get(name, _MAX_PAYLOAD), digests[name])
        if module is None:
            files[name] = content
        else:
            symbols[module[1]] = path / name
    return files, symbols


def _spec(path: Path, fields: Mapping[str, Any]) -> TrialSpec:
    words = {name: value for name, value in fields.items() if name not in ("lane", "seed")}
    for name, value in words.items():
        _word(path, name, value)
    if not _KERNEL.fullmatch(fields["kernel"]) or fields["kernel"].endswith(".yaml"):
        raise UsageError(
            f"{path}: kernel {fields['kernel'][:80]!r} is no name of one",
            hint="a file of one's own lies in $KMOD_HARNESS_IMAGES/kernels, see docs/kernels.md",
        )
    seed = fields["seed"]
    if not isinstance(seed, int):
        raise TypeError(f"seed {seed!r:.40}")
    return TrialSpec(**words, lane=Lane(fields["lane"]), seed=seed)


def _bound_s(path: Path, said: Any, spec: TrialSpec, text: bytes) -> float:
    """Return how long a program may take, which is what the record has to say, too.

    Raises:
        UsageError: it is not, or it is no program that the executor would take.
    """
    try:
        whole = Program.parse(text)
        if whole.park is not None:
            plan.parse(whole.park.plan)
    except UsageError as error:
        raise UsageError(f"{path}/program.txt: {error.message}", hint=error.hint) from error
    bound_s = (whole.bound_us + whole.settle_us) / 1e6
    # NaN is like nothing, and JSON as Python reads it knows it.
    if not math.isclose(float(said), bound_s):
        raise UsageError(f"{path}: says {said!r:.40} s, and its program may take {bound_s:g}")
    if spec.seed != whole.seed:
        raise UsageError(f"{path}: says seed {spec.seed!r:.40}, and its program has {whole.seed}")
    return bound_s


def _word(path: Path, name: str, value: Any, most: int = _MAX_WORD) -> str:
    """Return what a person will read; a terminal takes some of what is no letter for commands.

    Raises:
        UsageError: it is no such text.
    """
    if not isinstance(value, str) or not value.isprintable() or len(value) > most:
        raise UsageError(f"{path}/bundle.json: {name[:40]!r}: no line of text: {value!r:.80}")
    return value


@dataclass(frozen=True, slots=True)
class Texts:
    """What a bundle says to a person; nothing of it was checked against a digest."""

    titles: tuple[str, ...]
    #: findings.txt: decoded, with functions and source lines.
    findings: str
    program: str
    console: bytes
    #: The executor's report, JSON lines.
    report: bytes


def read_texts(path: Path) -> Texts:
    """Read a bundle to show it, not to run it; a text that it lacks is empty.

    Raises:
        UsageError: it is no bundle, or a text of it is too large or cannot be read.
    """
    record = _load_record(path)
    try:
        _check_format(path, record)
        titles = tuple(str(finding["title"]) for finding in record["findings"])
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path}/bundle.json: malformed: {error!r}") from error
    return Texts(
        titles=titles,
        findings=_read_text(path, "findings.txt", _MAX_TEXT).decode(errors="backslashreplace"),
        program=_read_text(path, "program.txt", _MAX_PROGRAM).decode(errors="backslashreplace"),
        console=_read_text(path, "console.log", _MAX_TEXT),
        report=_read_text(path, "report.jsonl", _MAX_TEXT),
    )


def _read_text(path: Path, name: str, limit: int) -> bytes:
    file = path / name
    try:
        if not file.resolve().is_relative_to(path.resolve()):
            raise UsageError(f"{path}: {name} leads outside of the bundle")
        # A pipe or device would be waited for.
        if not file.is_file():
            return b""
        if file.stat().st_size > limit:
            raise UsageError(f"{file}: larger than {limit >> 20} MiB")
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error


def _load_record(path: Path) -> dict[str, Any]:
    file = path / "bundle.json"
    if not file.is_file():
        raise UsageError(
            f"{path}: not a bundle (no bundle.json in it)",
            hint="a failing trial prints the folder of its bundle",
        )
    _check_inside(path, "bundle.json")
    try:
        if file.stat().st_size > _MAX_RECORD:
            raise UsageError(f"{file}: larger than {_MAX_RECORD >> 10} KiB")
        record = json.loads(file.read_text())
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{file}: not JSON: {error}") from error
    except RecursionError as error:
        raise UsageError(f"{file}: nested too deeply") from error
    if not isinstance(record, dict):
        raise UsageError(f"{file}: not an object")
    return record


def _check_format(path: Path, record: Mapping[str, Any]) -> None:
    if record["format"] != FORMAT:
        raise UsageError(f"{path}: bundle format {record['format']}, this harness reads {FORMAT}")


def _check_inside(path: Path, name: str) -> None:
    try:
        inside = (path / name).resolve().is_relative_to(path.resolve())
    except (OSError, RuntimeError):
        # A link that leads to itself.
        inside = False
    if ".." in Path(name).parts or not inside:
        raise UsageError(f"{path}: names a file outside of itself: {name[:80]!r}")


def _load_file(path: Path, name: str, limit: int, digest: str) -> bytes:
    file = path / name
    # A pipe or device would be waited for.
    if not file.is_file():
        raise UsageError(f"{path}: {name} is missing")
    try:
        if file.stat().st_size > limit:
            raise UsageError(f"{file}: larger than {limit >> 20} MiB")
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error
    if store.digest_bytes(content) != digest:
        raise UsageError(f"{file}: changed since the bundle was written (SHA-256 differs)")
    return content
