# SPDX-License-Identifier: GPL-2.0-only
"""Cells of a matrix on the machines of a Dask cluster: one task each.

Each machine has its own cache and builds what its cells need; journal and
bundles stay with whoever asked.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness import report, store
from harness.deadline import Deadline
from harness.errors import HarnessError, InfrastructureError, StorageError, UsageError
from harness.journal import Entry
from harness.lab import Lab
from harness.matrixlab import LabRunner
from harness.matrixplan import Cell, Matrix
from harness.matrixrun import CellState, Run, State, reason

_CONNECT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Task:
    """A cell to be run elsewhere."""

    matrix: Matrix
    cell: Cell
    #: What is known of it already.
    known: CellState
    #: Names what the matrix is made of here; it must be the same there.
    digest: str
    workers: int


@dataclass(slots=True)
class Outcome:
    """What came back of a cell."""

    entries: list[Entry] = field(default_factory=list)
    #: Name of a bundle → its folder as a tar archive.
    bundles: dict[str, bytes] = field(default_factory=dict)

    def append(self, entry: Any) -> None:
        """Keep an entry, as a journal does."""
        self.entries.append(entry)


def check_address(address: str, matrix: Matrix) -> None:
    """Check what can be checked before anything is asked of a cluster.

    Raises:
        UsageError: the library is not there, or the matrix cannot be run side by side.
    """
    _library()
    if matrix.budget.trials is not None:
        raise UsageError(
            f"{matrix.file}: budget.trials: cells that run side by side cannot share one",
            hint="use budget.time, or leave --dask out",
        )
    if "://" not in address:
        raise UsageError(f"--dask {address!r}: no address", hint="write tcp://HOST:8786")


def run_cells(address: str, run: Run, *, workers: int, bundles: Path) -> None:
    """Run what is missing on a cluster.

    Args:
        workers: guests side by side on each machine.

    Raises:
        UsageError: no scheduler answers.
        StorageError: a machine's disk is full.
    """
    digest = run.matrix.digest
    limit = run.matrix.budget.seconds
    deadline = None if limit is None else Deadline.after(limit)
    with _connected(address) as client:
        futures = {
            client.submit(run_task, _task(run, cell, digest, workers), pure=False): cell
            for cell in run.cells
            if run.state.of(cell.id).state is None
        }
        left = None if deadline is None else deadline.remaining_s
        # Those that are not there in time are forgotten, and left to the next run.
        with contextlib.suppress(TimeoutError):
            for future in _library().as_completed(futures, timeout=left):
                cell = futures[future]
                _take(run, cell, _outcome(future, cell), bundles)
    run.finish(deadline)


def _task(run: Run, cell: Cell, digest: str, workers: int) -> Task:
    # A copy: a worker in this process would write into what is known here.
    known = copy.deepcopy(run.state.of(cell.id))
    return Task(run.matrix, cell, known, digest, workers)


def run_task(task: Task) -> Outcome:
    """Run a cell on this machine; called by Dask."""
    outcome = Outcome()
    cell = task.cell
    try:
        if task.matrix.digest != task.digest:
            raise UsageError("modules or scenarios on that machine are not those of this one")
        with tempfile.TemporaryDirectory(prefix="kmod-harness-") as folder:
            runner = LabRunner(_lab(), workers=task.workers, bundles=Path(folder))
            state = State({cell.id: task.known})
            Run(task.matrix, frozenset([cell.id]), state, outcome, runner).run_cell(cell)
            for path in sorted(Path(folder).iterdir()):
                outcome.bundles[path.name] = _pack(path)
    except StorageError:
        raise
    except HarnessError as error:
        outcome.append({"ev": "cell", "cell": cell.id, "state": "error", "why": reason(error)})
    return outcome


@functools.cache
def _lab() -> Lab:
    """Return what this process makes its guests from, looked up once."""
    return Lab(store.Store.open())


def _outcome(future: Any, cell: Cell) -> Outcome:
    try:
        result: Outcome = future.result()
    except StorageError:
        raise
    except Exception as error:
        # Whatever happens to a machine is the end of its cell, and of no other.
        why = reason(InfrastructureError(f"the cluster lost it: {error}"))
        return Outcome([{"ev": "cell", "cell": cell.id, "state": "error", "why": why}])
    return result


def _take(run: Run, cell: Cell, outcome: Outcome, bundles: Path) -> None:
    """Write down what came back; bundles come before what names them."""
    for name, packed in outcome.bundles.items():
        _unpack(packed, bundles, name)
    for entry in outcome.entries:
        if entry["ev"] == "trial" and entry["trial"]["bundle"] is not None:
            path = bundles.absolute() / Path(entry["trial"]["bundle"]).name
            entry["trial"]["bundle"] = str(report.shown_path(path))
        run.keep(entry)
    run.progress(cell, len(run.state.of(cell.id).records))


def _pack(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return packed.getvalue()


def _unpack(packed: bytes, bundles: Path, name: str) -> None:
    with store.storage_errors(bundles):
        bundles.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(bundles / name, ignore_errors=True)
        try:
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(bundles, filter="data")
        except tarfile.TarError as error:
            raise InfrastructureError(f"a bundle came back malformed: {name}: {error}") from error


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        client = _library().Client(address, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--dask {address}: no scheduler answers: {str(error).splitlines()[0]}",
            hint="start one with `dask scheduler`, and `dask worker` on each machine",
        ) from error
    try:
        yield client
    finally:
        client.close()


def _library() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise UsageError(
            "--dask: the library is not installed", hint="pip install 'kmod-harness[dask]'"
        ) from error
    return distributed
