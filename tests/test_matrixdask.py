# SPDX-License-Identifier: GPL-2.0-only
"""Cells on a cluster, with trials that are made up; with the library where it is installed."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import cli, matrixdask, matrixplan, matrixrun
from harness.errors import CommandError, ExitStatus, InfrastructureError, StorageError, UsageError
from harness.matrixdoc import MadeKernel
from harness.matrixplan import Budget, Cell, Matrix
from harness.matrixrun import CellState, Prepared, Record, Run, State

MATRIX = """
kernels: [6.1]
modules: [{module: poolfs, variants: [good, no-owner, pool-busy]}]
seeds: 0:4
until: finding
"""


class FakeRunner:
    """On the other machine: bundles lie in a folder of its own."""

    def __init__(self, made: object, *, workers: int, bundles: Path) -> None:
        self.bundles = bundles

    def prepare(self, cell: Cell) -> Prepared:
        if cell.variant == "pool-busy":
            raise CommandError("make failed", status=2)
        made = MadeKernel(
            name=cell.kernel, profile="kasan", release="6.1.9", version="", compiler=""
        )
        return Prepared(made, "tcg")

    def trials(self, cell: Cell, seeds: Iterator[int]) -> Iterator[Record]:
        for seed in seeds:
            hit = cell.variant == "no-owner" and seed == 2
            path = self.bundles / f"{cell.variant}-{seed}"
            if hit:
                path.mkdir()
                (path / "console.log").write_text("what it said")
            yield {
                "module": cell.module, "variant": cell.variant, "kernel": cell.kernel,
                "profile": cell.profile, "lane": cell.lane.value, "scenario": "s", "seed": seed,
                "verdict": "fail" if hit else "pass",
                "findings": [{"kind": "inside", "title": cell.promised[0]}] if hit else [],
                "bundle": str(path) if hit else None, "wall_s": 1.0,
            }  # fmt: skip
            if hit:
                return

    def discard(self, bundles: Iterable[str]) -> None:
        assert list(bundles) == []


class Client:
    """A cluster of one machine, which is this one."""

    def __init__(self, address: str, timeout: float) -> None:
        if address == "tcp://nowhere:1":
            raise OSError("Timed out trying to connect\nmore")

    def submit(self, function: Callable[[Any], Any], task: Any, *, pure: bool) -> Any:
        # Over the wire and back, as it would be.
        task = pickle.loads(pickle.dumps(task))
        return SimpleFuture(lambda: pickle.loads(pickle.dumps(function(task))))

    def close(self) -> None:
        pass


class SimpleFuture:
    def __init__(self, result: Callable[[], Any]) -> None:
        self.result = result


def as_completed(futures: Iterable[SimpleFuture], timeout: float | None) -> Iterator[SimpleFuture]:
    if timeout == 0:
        raise TimeoutError
    yield from reversed(list(futures))


@pytest.fixture(autouse=True)
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(matrixdask, "LabRunner", FakeRunner)
    monkeypatch.setattr(matrixdask, "_lab", lambda: None)
    library = SimpleNamespace(Client=Client, as_completed=as_completed)
    monkeypatch.setitem(sys.modules, "distributed", library)


class Memory(list[Any]):
    """A journal that is a list."""


def run(matrix: Matrix, state: State | None = None) -> tuple[Run, Memory]:
    memory = Memory()
    own = frozenset(cell.id for cell in matrix.cells)
    made = Run(matrix, own, state or State(), memory, FakeRunner(None, workers=1, bundles=Path()))
    matrixdask.run_cells("tcp://here:1", made, workers=1, bundles=Path("runs"))
    return made, memory


def parsed() -> Matrix:
    return matrixplan.parse_matrix(MATRIX, "m.yaml")


def results(made: Run) -> dict[str, Any]:
    cells = [matrixrun.result(cell, made.state.of(cell.id)) for cell in made.matrix.cells]
    return {cell.variant: cell for cell in cells}


def test_cells_come_back_with_their_trials_and_bundles() -> None:
    made, memory = run(parsed())
    found = results(made)
    assert (found["good"].trials, found["good"].agrees) == (4, True)
    assert (found["no-owner"].trials, found["no-owner"].agrees) == (3, True)
    assert found["no-owner"].bundle == "runs/no-owner-2"
    assert Path("runs/no-owner-2/console.log").read_text() == "what it said"
    assert (found["pool-busy"].state, found["pool-busy"].why) == ("error", "make failed")
    assert memory[-1] == {"ev": "end"}
    assert results(SimpleNamespace(matrix=made.matrix, state=matrixrun.fold(memory))) == found


def test_what_is_known_is_not_run_again() -> None:
    matrix = parsed()
    state = State({matrix.cells[0].id: CellState(state="done")})
    _, memory = run(matrix, state)
    assert {entry["cell"] for entry in memory[:-1]} == {cell.id for cell in matrix.cells[1:]}


def test_machine_with_other_sources_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = parsed()
    digests = iter(["here", "there", "there", "there"])
    monkeypatch.setattr(Matrix, "digest", property(lambda self: next(digests)))
    made, _ = run(matrix)
    assert {cell.why for cell in results(made).values()} == {
        "modules or scenarios on that machine are not those of this one"
    }


def test_machine_that_is_lost_is_an_error_of_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(task: matrixdask.Task) -> matrixdask.Outcome:
        raise RuntimeError("worker died")

    monkeypatch.setattr(matrixdask, "run_task", lost)
    made, _ = run(parsed())
    assert {(cell.state, cell.why) for cell in results(made).values()} == {
        ("error", "the cluster lost it: worker died")
    }


def test_full_disk_of_a_machine_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(task: matrixdask.Task) -> matrixdask.Outcome:
        raise StorageError("no space left")

    monkeypatch.setattr(matrixdask, "run_task", full)
    with pytest.raises(StorageError):
        run(parsed())


def test_time_that_is_over_leaves_the_rest_to_the_next_run() -> None:
    matrix = Matrix("m.yaml", parsed().cells, Budget(seconds=1e-9))
    made, memory = run(matrix)
    assert memory == []
    assert results(made)["good"].state == "not-run"


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ("--dask nowhere", "--dask 'nowhere': no address"),
        ("--dask tcp://nowhere:1", "no scheduler answers: Timed out trying to connect"),
    ],
)
def test_mistake_is_said(argv: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.yaml").write_text(MATRIX)
    assert cli.main(["matrix", "m.yaml", *argv.split()]) == ExitStatus.USAGE
    assert why in capsys.readouterr().err.replace("\n", " ")


def test_budget_of_trials_cannot_be_shared() -> None:
    with pytest.raises(UsageError, match=r"m\.yaml: budget\.trials: cells that run side by side"):
        matrixdask.check_address("tcp://x:1", Matrix("m.yaml", (), Budget(trials=5)))


def test_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match="the library is not installed") as caught:
        matrixdask.check_address("tcp://x:1", parsed())
    assert "pip install 'kmod-harness[dask]'" in str(caught.value)


def test_bundle_that_wants_out_of_its_folder_does_not_get_out(tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(InfrastructureError, match=r"malformed: evil: .*link"):
        matrixdask._unpack(matrixdask._pack(folder), tmp_path / "runs", "evil")


@pytest.mark.filterwarnings("ignore")
def test_with_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "distributed")
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None,
        protocol="tcp", host="127.0.0.1",
    ) as cluster:  # fmt: skip
        matrix = parsed()
        own = frozenset(cell.id for cell in matrix.cells)
        runner = FakeRunner(None, workers=1, bundles=Path())
        made = Run(matrix, own, State(), Memory(), runner)
        matrixdask.run_cells(cluster.scheduler_address, made, workers=1, bundles=Path("runs"))
    assert results(made)["no-owner"].bundle == "runs/no-owner-2"
    assert results(made)["pool-busy"].why == "make failed"
