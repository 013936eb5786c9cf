# SPDX-License-Identifier: GPL-2.0-only
"""The result of a matrix as one JSON document, and what can be read out of it.

Bugs are not recorded but counted from the trials, so that documents of several
shards merge into the one that a single run would have written.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pydantic

from harness import rates
from harness.errors import ExitStatus, UsageError

SCHEMA: Final = "kmod-harness/matrix/1"

#: A document may come from anybody; one of 100,000 trials takes 40 MiB.
MAX_BYTES: Final = 256 << 20

State = Literal["done", "error", "skipped", "not-run"]

#: Why a cell was not run that belongs to another shard.
ELSEWHERE: Final = "another shard's"

Count = Annotated[int, pydantic.Field(ge=0)]


class _Part(pydantic.BaseModel):
    # Documents of later harnesses may have further fields.
    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)


class Machine(_Part):
    """What it ran on."""

    processors: int
    accelerators: tuple[str, ...]


class MadeKernel(_Part):
    """A kernel as it was built."""

    name: str
    profile: str
    release: str
    version: str
    compiler: str


class Cell(_Part):
    """One variant of a module on one kernel in one lane, and what became of it."""

    id: str
    module: str
    variant: str
    kernel: str
    profile: str
    lane: str
    scenarios: tuple[str, ...]
    trials: Count
    #: Trials with a finding.
    findings: Count
    #: Trials until the first one with ``title``.
    caught_after: int | None
    #: What was found: what is promised where that was seen, else the first.
    title: str | None
    #: Titles that it must have, as regular expressions; none for a correct variant.
    promised: tuple[str, ...]
    #: Whether what was seen is what must be seen; None when it cannot be told.
    agrees: bool | None
    #: Host time of its trials, added up.
    wall_s: float
    state: State
    #: What is behind the state, or behind a ``no`` in ``agrees``.
    why: str | None
    #: Folder of the bundle with ``title``.
    bundle: str | None


class KernelCount(_Part):
    """How often a bug was seen on one kernel, in one lane."""

    kernel: str
    profile: str
    lane: str
    hits: Count
    trials: Count


class Rate(_Part):
    """Where the rate of a bug lies."""

    low: float
    high: float
    confidence: float
    method: str


class Bug(_Part):
    """A title of a module that is the main one of some trial, wherever it was seen."""

    title: str
    type: str
    module: str
    variants: tuple[str, ...]
    first_kernel: str
    last_kernel: str
    #: All kernels that its variants were tried on, also those without a hit.
    kernels: tuple[KernelCount, ...]
    hits: Count
    trials: Count
    rate: Rate
    bundle: str | None
    replay: str | None
    #: Titles that were only ever seen beside another one, in trials of this bug.
    also: tuple[str, ...] = ()


class Finding(_Part):
    """One thing that a trial showed."""

    kind: str
    title: str


class Trial(_Part):
    """A trial, as :func:`harness.report.trial_record` has it, and its cell."""

    module: str
    variant: str
    kernel: str
    profile: str
    lane: str
    scenario: str
    seed: int
    verdict: Literal["pass", "fail"]
    findings: tuple[Finding, ...]
    bundle: str | None
    wall_s: float
    cell: str


class Document(_Part):
    """All of it."""

    # The field's name must not hide BaseModel.schema.
    format: Annotated[str, pydantic.Field(alias="schema")]
    file: str
    began: str
    ended: str
    machine: Machine
    kernels: tuple[MadeKernel, ...]
    cells: tuple[Cell, ...]
    bugs: tuple[Bug, ...]
    trials: tuple[Trial, ...]

    @property
    def status(self) -> ExitStatus:
        """What a run with this result exits with."""
        if any(cell.state == "error" for cell in self.cells):
            return ExitStatus.HARNESS
        if any(cell.agrees is False for cell in self.cells):
            return ExitStatus.FINDINGS
        return ExitStatus.OK

    def to_json(self) -> dict[str, Any]:
        """Return it as it is written."""
        return self.model_dump(by_alias=True, mode="json")


def load(path: Path) -> Document:
    """Read a document.

    Raises:
        UsageError: it cannot be read, or is no such document; names the field.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES >> 20} MiB")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise UsageError(
            f"{path}: schema: {found!r:.60}, this harness reads {SCHEMA!r}",
            hint="`harness matrix FILE --json OUT` writes such a document",
        )
    try:
        return Document.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: {where}: {first['msg']}") from None


def make(
    *,
    file: str,
    began: str,
    ended: str,
    machine: Machine,
    kernels: Iterable[MadeKernel],
    cells: Iterable[Cell],
    trials: Iterable[Trial],
) -> Document:
    """Return the document of a run; the bugs are counted."""
    cells, trials = tuple(cells), tuple(trials)
    made = sorted({(kernel.name, kernel.profile): kernel for kernel in kernels}.values(),
                  key=lambda kernel: (_numbers(kernel.release), kernel.profile))  # fmt: skip
    return Document.model_validate(
        {
            "schema": SCHEMA,
            "file": file,
            "began": began,
            "ended": ended,
            "machine": machine,
            "kernels": tuple(made),
            "cells": cells,
            "bugs": count_bugs(cells, trials, made),
            "trials": trials,
        }
    )


def kernel_order(
    names: Iterable[str], kernels: Iterable[MadeKernel] = ()
) -> dict[str, tuple[object, ...]]:
    """Return for each kernel's name what to sort it by: its release, else its name's numbers."""
    releases = {kernel.name: kernel.release for kernel in kernels}
    return {name: (_numbers(releases.get(name, name)), name) for name in names}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part[:9]) for part in re.findall(r"\d+", text)[:4])


def count_bugs(
    cells: Sequence[Cell], trials: Sequence[Trial], kernels: Iterable[MadeKernel] = ()
) -> tuple[Bug, ...]:
    """Return each main title of each module once, with its rate over all trials of its variants."""
    promised = {cell.id: cell.promised for cell in cells}
    seen: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    main = set()
    for trial in trials:
        titles = [finding.title for finding in trial.findings]
        for title in dict.fromkeys(titles):
            seen[trial.module, title].append(trial)
        if titles:
            main.add((trial.module, main_title(titles, promised.get(trial.cell, ()))))
    tried: dict[tuple[str, str], dict[tuple[str, str, str], int]] = defaultdict(
        lambda: defaultdict(int)
    )
    for cell in cells:
        if cell.trials:
            tried[cell.module, cell.variant][cell.kernel, cell.profile, cell.lane] += cell.trials
    order = kernel_order({cell.kernel for cell in cells}, kernels)
    bugs = [
        _bug(module, title, hits, tried, order).model_copy(
            update={"also": _beside(module, hits, main)}
        )
        for (module, title), hits in seen.items()
        if (module, title) in main
    ]
    return tuple(sorted(bugs, key=lambda bug: (bug.module, bug.title)))


def promised_title(titles: Sequence[str], promised: Sequence[str]) -> str | None:
    """Return the title that is promised, the first promise first."""
    for pattern in promised:
        for title in titles:
            # What stands in a document need not be an expression.
            with contextlib.suppress(re.error):
                if re.fullmatch(pattern, title):
                    return title
    return None


def main_title(titles: Sequence[str], promised: Sequence[str]) -> str:
    """Return what a trial's findings are about: the promised one, or else the first."""
    return promised_title(titles, promised) or titles[0]


def _beside(module: str, hits: Sequence[Trial], main: Set[tuple[str, str]]) -> tuple[str, ...]:
    titles = dict.fromkeys(finding.title for hit in hits for finding in hit.findings)
    return tuple(title for title in titles if (module, title) not in main)


def _bug(
    module: str,
    title: str,
    hits: Sequence[Trial],
    tried: Mapping[tuple[str, str], Mapping[tuple[str, str, str], int]],
    order: Mapping[str, tuple[object, ...]],
) -> Bug:
    variants = sorted({trial.variant for trial in hits})
    trials: dict[tuple[str, str, str], int] = defaultdict(int)
    for variant in variants:
        for place, number in tried[module, variant].items():
            trials[place] += number
    counts = [
        KernelCount(
            kernel=place[0], profile=place[1], lane=place[2], trials=number,
            hits=sum((hit.kernel, hit.profile, hit.lane) == place for hit in hits),
        )
        for place, number in sorted(trials.items(), key=lambda item: (order[item[0][0]], item[0]))
    ]  # fmt: skip
    shown = [count.kernel for count in counts if count.hits]
    # The one to look at: of the oldest kernel, with the lowest seed.
    first = min(hits, key=lambda hit: (hit.bundle is None, order[hit.kernel], hit.seed, hit.cell))
    found = rates.interval(len(hits), sum(count.trials for count in counts))
    return Bug(
        title=title,
        type=next(finding.kind for finding in first.findings if finding.title == title),
        module=module,
        variants=tuple(variants),
        first_kernel=shown[0],
        last_kernel=shown[-1],
        kernels=tuple(counts),
        hits=len(hits),
        trials=sum(count.trials for count in counts),
        rate=Rate(
            low=round(found.low, 6), high=round(found.high, 6),
            confidence=found.confidence, method=found.method,
        ),
        bundle=first.bundle,
        replay=None if first.bundle is None else f"harness replay {first.bundle}",
    )  # fmt: skip


def merge(documents: Mapping[str, Document]) -> Document:
    """Return the document of the whole matrix from those of its shards.

    Args:
        documents: by the name that messages call each.

    Raises:
        UsageError: they are not of one matrix, a cell was run in two of them, or
            one contradicts itself.
    """
    names = list(documents)
    first = documents[names[0]]
    ids = [cell.id for cell in first.cells]
    best: dict[str, tuple[str, Cell]] = {}
    trials: dict[str, list[Trial]] = {}
    for name, document in documents.items():
        if [cell.id for cell in document.cells] != ids:
            raise UsageError(
                f"{name}: of another matrix than {names[0]}: {len(document.cells)} cells, "
                f"{len(ids)} there",
                hint="the shards of one run come from the same FILE",
            )
        own = _check_trials(name, document)
        for cell in document.cells:
            before = best.get(cell.id)
            if before is None or _is_elsewhere(before[1]):
                best[cell.id] = (name, cell)
                trials[cell.id] = own[cell.id]
            elif not _is_elsewhere(cell) and "skipped" not in (cell.state, before[1].state):
                raise UsageError(
                    f"{name}: cell {cell.id} was run in {before[0]} already",
                    hint="give each shard once",
                )
    return make(
        file=first.file,
        began=min(document.began for document in documents.values()),
        ended=max(document.ended for document in documents.values()),
        machine=Machine(
            processors=max(document.machine.processors for document in documents.values()),
            accelerators=tuple(
                sorted({name for one in documents.values() for name in one.machine.accelerators})
            ),
        ),
        kernels=[kernel for document in documents.values() for kernel in document.kernels],
        cells=[cell for _, cell in best.values()],
        trials=[trial for name in best for trial in trials.get(name, ())],
    )


def _check_trials(name: str, document: Document) -> dict[str, list[Trial]]:
    """Return the trials of each cell, when they are as many as the cell says."""
    trials: dict[str, list[Trial]] = {cell.id: [] for cell in document.cells}
    for number, trial in enumerate(document.trials):
        if trial.cell not in trials:
            raise UsageError(f"{name}: trials.{number}.cell: no cell {trial.cell!r:.80}")
        trials[trial.cell].append(trial)
    for number, cell in enumerate(document.cells):
        if cell.trials != len(trials[cell.id]):
            raise UsageError(
                f"{name}: cells.{number}.trials: {cell.trials}, but {len(trials[cell.id])} "
                f"trials of {cell.id} are there"
            )
    return trials


def _is_elsewhere(cell: Cell) -> bool:
    return cell.state == "not-run" and cell.why == ELSEWHERE


def missing(document: Document) -> tuple[Cell, ...]:
    """Return the cells that belong to a shard which is not there."""
    return tuple(cell for cell in document.cells if _is_elsewhere(cell))
