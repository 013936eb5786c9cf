# SPDX-License-Identifier: GPL-2.0-only
"""Bundles: folders that hold all that a trial needs to be run again.

A bundle holds what went into the guest (the payload and the program, byte for
byte), what the guest was (kernel, image, QEMU) and what came out (console,
report, findings). It never holds a key, nor anything of the host but these.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import __version__, schedules, store
from harness.errors import UsageError
from harness.machine import Lane
from harness.program import Program
from harness.trial import Trial, TrialResult, TrialSpec

FORMAT = 1

#: Limits on what is read from a bundle, which may come from anybody, bytes.
_MAX_RECORD = 1 << 20
_MAX_PROGRAM = 1 << 20
_MAX_PAYLOAD = 256 << 20

_MAX_TEXT = 32 << 20

_FILES = {"program.txt": _MAX_PROGRAM, "payload.cpio": _MAX_PAYLOAD}


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
    console_sha256: str
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


def _fill(folder: Path, trial: Trial, result: TrialResult, payload: bytes, decoded: str) -> None:
    (folder / "program.txt").write_bytes(trial.program)
    (folder / "payload.cpio").write_bytes(payload)
    (folder / "console.log").write_bytes(result.evidence.console)
    (folder / "report.jsonl").write_bytes(result.evidence.report)
    (folder / "findings.txt").write_text(decoded)
    modules = folder / "modules"
    modules.mkdir()
    for name, ko in trial.symbols.items():
        shutil.copyfile(ko, modules / f"{name}.ko")
    record = {
        "format": FORMAT,
        "harness": __version__,
        "trial": {**asdict(trial.spec), "lane": trial.spec.lane.value},
        "bound_s": trial.bound_s,
        "made_of": made_of(trial),
        "findings": [
            {"kind": finding.kind.value, "title": finding.title} for finding in result.findings
        ],
        "sha256": {
            "program.txt": store.digest_bytes(trial.program),
            "payload.cpio": store.digest_bytes(payload),
            "console.log": store.digest_bytes(result.evidence.console),
            **{f"modules/{name}.ko": store.digest_file(ko) for name, ko in trial.symbols.items()},
        },
    }
    (folder / "bundle.json").write_text(json.dumps(record, indent=1) + "\n")
    schedule = Program.parse(trial.program).schedule
    said = f"{schedules.describe(schedule)}\n\n" if schedule else ""
    (folder / "README.md").write_text(_readme(trial.spec, result, said))


def made_of(trial: Trial) -> dict[str, str]:
    """Return what a trial's guest is made of: names → versions and digests."""
    base = trial.template.base
    return {
        "kernel": base.kernel.key,
        "kernel source": base.kernel.version,
        "compiler": base.kernel.compiler,
        "image": base.image.key,
        "qemu": base.qemu_version(),
        "accelerator": base.accelerator.value,
    }


def _readme(spec: TrialSpec, result: TrialResult, schedule: str) -> str:
    titles = "".join(f"- {finding.title}\n" for finding in result.findings)
    return f"""# {spec.module} ({spec.variant}), seed {spec.seed}

Found on kernel {spec.kernel} ({spec.profile}), lane {spec.lane.value}, scenario {spec.scenario}:

{titles}
{schedule}Run it again with `harness replay FOLDER --times 20`, this folder being FOLDER.

| file | what it is |
|---|---|
| `findings.txt` | the findings with functions and source lines |
| `console.log` | all that the guest's kernel printed |
| `report.jsonl` | the executor's report: errnos, data checks, residue |
| `program.txt` | the program that ran, with its seed |
| `payload.cpio` | what was put into the guest before it was saved as a template |
| `modules/` | the modules with debug information |
| `bundle.json` | which kernel, image, QEMU; digests of the files here |
"""


def load_bundle(path: Path) -> Bundle:
    """Read a bundle and check it.

    Raises:
        UsageError: a file is missing, changed or too large, or the record is
            not one of this format.
    """
    record = _load_record(path)
    try:
        _check_format(path, record)
        digests = dict(record["sha256"])
        files = {name: _load_file(path, name, limit, digests) for name, limit in _FILES.items()}
        symbols = {}
        for name in digests:
            if name.startswith("modules/"):
                _load_file(path, name, _MAX_PAYLOAD, digests)
                symbols[Path(name).stem] = path / name
        fields = dict(record["trial"])
        spec = TrialSpec(**{**fields, "lane": Lane(fields["lane"]), "seed": int(fields["seed"])})
        return Bundle(
            path=path,
            spec=spec,
            bound_s=float(record["bound_s"]),
            program=files["program.txt"],
            payload=files["payload.cpio"],
            made_of={str(name): str(value) for name, value in record["made_of"].items()},
            titles=tuple(str(finding["title"]) for finding in record["findings"]),
            console_sha256=str(digests["console.log"]),
            symbols=symbols,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}/bundle.json: malformed: {error!r}") from error


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
    if file.stat().st_size > _MAX_RECORD:
        raise UsageError(f"{file}: larger than {_MAX_RECORD >> 10} KiB")
    try:
        record = json.loads(file.read_text())
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


def _load_file(path: Path, name: str, limit: int, digests: Mapping[str, str]) -> bytes:
    file = path / name
    if ".." in Path(name).parts or not file.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"{path}: names a file outside of itself: {name}")
    if not file.is_file():
        raise UsageError(f"{path}: {name} is missing")
    if file.stat().st_size > limit:
        raise UsageError(f"{file}: larger than {limit >> 20} MiB")
    content = file.read_bytes()
    if store.digest_bytes(content) != digests[name]:
        raise UsageError(f"{file}: changed since the bundle was written (SHA-256 differs)")
    return content
