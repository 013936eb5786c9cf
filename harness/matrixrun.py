# SPDX-License-Identifier: GPL-2.0-only
"""Running a matrix: cell by cell, each trial on the disk before the next one counts.

What comes out is a function of the cells and of the trials in the journal, so
that a run that was killed and went on gives the result of one in one go.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness import matrixdoc
from harness.deadline import Deadline
from harness.errors import HarnessError, StorageError
from harness.journal import Entry
from harness.matrixdoc import Document, MadeKernel
from harness.matrixplan import Cell, Matrix

#: A trial as :func:`harness.report.trial_record` has it.
Record = dict[str, Any]

#: Of a compiler's errors and of a guest's last words, in the document.
_REASON_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a cell's trials run on."""

    kernel: MadeKernel
    accelerator: str


class Runner(Protocol):
    """Runs the trials of one cell at a time."""

    def prepare(self, cell: Cell) -> Prepared:
        """Build what a cell needs; raises HarnessError when that cannot be."""

    def trials(self, cell: Cell, seeds: Iterator[int]) -> Iterator[Record]:
        """Run a trial for each seed and yield its record as it ends, in any order.

        Seeds are taken as workers become free. In a cell that stops, none is
        taken after a finding.
        """

    def discard(self, bundles: Iterable[str]) -> None:
        """Remove bundles that nobody needs."""


class Sink(Protocol):
    """Where entries go: a journal."""

    def append(self, entry: Mapping[str, Any]) -> None:
        """Keep an entry."""


@dataclass(slots=True)
class CellState:
    """What is known of a cell while it is run."""

    records: dict[int, Record] = field(default_factory=dict)
    prepared: Prepared | None = None
    #: How it ended, when it has.
    state: matrixdoc.State | None = None
    why: str | None = None

    def counted(self, cell: Cell) -> list[Record]:
        """Return the records that count, by seed.

        Trials beyond the finding that ended the cell do not: whether they had
        been begun by then is luck.
        """
        end = self._end(cell)
        return [self.records[seed] for seed in sorted(self.records) if seed <= end]

    def missing(self, cell: Cell) -> Iterator[int]:
        """Yield the seeds that are still to be run."""
        end = min(self._end(cell) + 1, cell.seeds.stop)
        return (seed for seed in range(cell.seeds.start, end) if seed not in self.records)

    def complete(self, cell: Cell) -> bool:
        """Return whether nothing is left to run."""
        return next(self.missing(cell), None) is None

    def _end(self, cell: Cell) -> int:
        hits = [seed for seed, record in self.records.items() if record["findings"]]
        return min(hits) if cell.stops and hits else cell.seeds.stop


@dataclass(slots=True)
class State:
    """What is known of a run: folded from the entries of its journal."""

    cells: dict[str, CellState] = field(default_factory=dict)
    ended: bool = False

    def apply(self, entry: Entry) -> None:
        """Take one more entry into account."""
        match entry:
            case {"ev": "trial", "cell": id, "trial": record}:
                self.of(id).records[int(record["seed"])] = record
            case {"ev": "prepared", "cell": id, "kernel": kernel, "accelerator": accelerator}:
                made = MadeKernel.model_validate(kernel)
                self.of(id).prepared = Prepared(made, str(accelerator))
            case {"ev": "cell", "cell": id, "state": state, "why": why}:
                self.of(id).state, self.of(id).why = state, why
            case {"ev": "end"}:
                self.ended = True

    def of(self, id: str) -> CellState:
        """Return what is known of one cell."""
        return self.cells.setdefault(id, CellState())


def fold(entries: Iterable[Entry]) -> State:
    """Return the state that a journal's entries tell of."""
    state = State()
    for entry in entries:
        state.apply(entry)
    return state


@dataclass(slots=True)
class Run:
    """A run of some cells of a matrix."""

    matrix: Matrix
    #: Ids of the cells that are run here; the others are another shard's.
    own: frozenset[str]
    state: State
    sink: Sink
    runner: Runner
    #: Told before a cell and after each of its trials: the cell, and its trials so far.
    progress: Callable[[Cell, int], None] = lambda cell, trials: None
    #: Told after a cell: the cell, its new trials, and how long all of it took.
    timed: Callable[[Cell, Sequence[Record], float], None] = lambda cell, records, seconds: None

    @property
    def cells(self) -> list[Cell]:
        """The cells that are run here."""
        return own_cells(self.matrix, self.own)

    def go(self) -> None:
        """Run what is missing until all is done or the budget is used up.

        Raises:
            StorageError: the disk is full; no cell after this one could be run.
        """
        budget = self.matrix.budget
        deadline = None if budget.seconds is None else Deadline.after(budget.seconds)
        left = budget.trials
        for cell in self.cells:
            known = self.state.of(cell.id)
            if known.state is None and left != 0 and not _over(deadline):
                self.run_cell(cell, deadline, left)
            if left is not None:
                left = max(0, left - len(known.counted(cell)))
        self.finish(deadline)

    def finish(self, deadline: Deadline | None) -> None:
        """Note that the run has come to its end, when it has."""
        # What the time ended goes on the next time; what the number ended never will.
        if not _over(deadline) or all(self.state.of(cell.id).state for cell in self.cells):
            self.keep({"ev": "end"})

    def run_cell(
        self, cell: Cell, deadline: Deadline | None = None, limit: int | None = None
    ) -> None:
        """Run what is missing of a cell.

        Args:
            limit: trials that it may have, with those that it has already.
        """
        known = self.state.of(cell.id)
        before = set(known.records)
        started = time.monotonic()
        self.progress(cell, len(before))
        try:
            prepared = self.runner.prepare(cell)
            self.keep(
                {
                    "ev": "prepared",
                    "cell": cell.id,
                    "kernel": prepared.kernel.model_dump(),
                    "accelerator": prepared.accelerator,
                }
            )
            wanted = None if limit is None else max(0, limit - len(known.counted(cell)))
            seeds = itertools.islice(known.missing(cell), wanted)
            ready = itertools.takewhile(lambda _: not _over(deadline), seeds)
            for record in self.runner.trials(cell, ready):
                self.keep({"ev": "trial", "cell": cell.id, "trial": record})
                self.progress(cell, len(known.records))
        except StorageError:
            raise
        except HarnessError as error:
            self._close(cell, "error", reason(error))
        else:
            if known.complete(cell):
                self._close(cell, "done", None)
        new = [record for seed, record in known.records.items() if seed not in before]
        self.timed(cell, new, time.monotonic() - started)

    def _close(self, cell: Cell, state: matrixdoc.State, why: str | None) -> None:
        known = self.state.of(cell.id)
        kept = kept_bundles(known.counted(cell))
        bundles = [record["bundle"] for record in known.records.values()]
        self.runner.discard(path for path in bundles if path is not None and path not in kept)
        self.keep({"ev": "cell", "cell": cell.id, "state": state, "why": why})

    def keep(self, entry: Entry) -> None:
        """Write an entry down, and take it into account."""
        self.sink.append(entry)
        self.state.apply(entry)


def own_cells(matrix: Matrix, own: frozenset[str]) -> list[Cell]:
    """Return those of the cells that can be run at all."""
    return [cell for cell in matrix.cells if cell.id in own and cell.skip is None]


def _over(deadline: Deadline | None) -> bool:
    return deadline is not None and deadline.expired


def reason(error: HarnessError) -> str:
    """Return an error as one line of a document."""
    lines = [line.strip() for line in error.evidence.splitlines() if line.strip()]
    # Make says what it does before the compiler says what is wrong.
    first = next((line for line in lines if "error:" in line), lines[0] if lines else "")
    return ": ".join(filter(None, [error.message, first]))[:_REASON_CHARACTERS]


def kept_bundles(records: Sequence[Record]) -> frozenset[str]:
    """Return the bundles that are worth their room: for each title, the first that shows it."""
    first: dict[str, Any] = {}
    for record in records:
        for finding in record["findings"]:
            first.setdefault(finding["title"], record["bundle"])
    return frozenset(path for path in first.values() if path is not None)


def result(cell: Cell, known: CellState, *, elsewhere: bool = False) -> matrixdoc.Cell:
    """Return a cell as it stands in the document."""
    records = known.counted(cell)
    shown = _shown(records, cell.promised)
    state, why = _state(cell, known, len(records), elsewhere)
    agrees: bool | None = None
    if state in ("done", "not-run"):
        agrees, remark = _agrees(cell, records, state == "done")
        why = why or remark
    return matrixdoc.Cell(
        id=cell.id,
        module=cell.module,
        variant=cell.variant,
        kernel=cell.kernel,
        profile=cell.profile,
        lane=cell.lane.value,
        scenarios=cell.scenarios,
        trials=len(records),
        findings=sum(bool(record["findings"]) for record in records),
        caught_after=None if shown is None else shown[0] + 1,
        title=None if shown is None else shown[1],
        promised=cell.promised,
        agrees=agrees,
        wall_s=round(sum(float(record["wall_s"]) for record in records), 3),
        state=state,
        why=why,
        bundle=None if shown is None else _bundle(records, shown[1]),
    )


def _state(
    cell: Cell, known: CellState, trials: int, elsewhere: bool
) -> tuple[matrixdoc.State, str | None]:
    if cell.skip is not None:
        return "skipped", cell.skip
    if elsewhere:
        return "not-run", matrixdoc.ELSEWHERE
    if known.state is not None:
        return known.state, known.why
    ended = f"after {trials} of {len(cell.seeds)} trials" if trials else "before its first trial"
    return "not-run", f"the budget ended it {ended}"


def _agrees(cell: Cell, records: Sequence[Record], whole: bool) -> tuple[bool | None, str | None]:
    """Return whether what was seen is what must be seen, and what is behind a no."""
    failed = [record for record in records if record["findings"]]
    if not cell.promised:
        return (False if failed else True if whole else None), None
    strange = [record for record in failed if _promised_title(record, cell.promised) is None]
    if strange:
        seeds = ", ".join(str(record["seed"]) for record in strange[:8])
        title = strange[0]["findings"][0]["title"]
        share = f"{len(strange)} of {len(records)} trials"
        return False, f"not promised: {title} ({share}; seeds {seeds})"
    if failed:
        return True, None
    return (False, f"promised, and not found in {len(records)} trials") if whole else (None, None)


def _promised_title(record: Record, promised: Sequence[str]) -> str | None:
    titles = [finding["title"] for finding in record["findings"]]
    return matrixdoc.promised_title(titles, promised)


def _shown(records: Sequence[Record], promised: Sequence[str]) -> tuple[int, str] | None:
    """Return place and title of the first promised finding, or else of the first."""
    for index, record in enumerate(records):
        title = _promised_title(record, promised)
        if title is not None:
            return index, title
    for index, record in enumerate(records):
        if record["findings"]:
            return index, record["findings"][0]["title"]
    return None


def _bundle(records: Sequence[Record], title: str) -> str | None:
    return next(
        (
            record["bundle"]
            for record in records
            if any(finding["title"] == title for finding in record["findings"])
        ),
        None,
    )


def document(
    matrix: Matrix, own: frozenset[str], state: State, *, began: str, ended: str, processors: int
) -> Document:
    """Return the document of a run."""
    mine = own_cells(matrix, own)
    prepared = [known for cell in mine if (known := state.of(cell.id).prepared) is not None]
    trials = []
    for cell in mine:
        records = state.of(cell.id).counted(cell)
        kept = kept_bundles(records)
        for record in records:
            path = record["bundle"] if record["bundle"] in kept else None
            trials.append(
                matrixdoc.Trial.model_validate({**record, "bundle": path, "cell": cell.id})
            )
    return matrixdoc.make(
        file=matrix.file,
        began=began,
        ended=ended,
        machine=matrixdoc.Machine(
            processors=processors,
            accelerators=tuple(sorted({one.accelerator for one in prepared})),
        ),
        kernels=[one.kernel for one in prepared],
        cells=[
            result(cell, state.of(cell.id), elsewhere=cell.id not in own) for cell in matrix.cells
        ],
        trials=trials,
    )
