# SPDX-License-Identifier: GPL-2.0-only
"""What ``harness matrix`` says and exits with, with trials that are made up."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from harness import cli, matrixcommand, matrixdoc, matrixlab, matrixplan
from harness.errors import BuildError, ExitStatus, StorageError
from harness.kernels import Kernel
from harness.matrixdoc import MadeKernel
from harness.matrixplan import Cell
from harness.matrixrun import Prepared, Record

MATRIX = """
kernels: [6.12, 5.10]
modules: [{module: poolfs, variants: [good, no-owner]}]
seeds: 0:4
"""
PROMISED = "unloaded while in use: delete_module succeeded"


class FakeRunner:
    """In place of guests: ``no-owner`` does what it promises, but for kernel 5.10."""

    title = PROMISED
    ran = 0
    dies_at: int | None = None
    broken: str | None = None

    def __init__(self, made: object, *, workers: int, bundles: Path) -> None:
        pass

    def prepare(self, cell: Cell) -> Prepared:
        if cell.kernel == FakeRunner.broken:
            raise BuildError("poolfs: does not compile")
        release = f"{cell.kernel}.7-kasan"
        return Prepared(
            MadeKernel(
                name=cell.kernel, profile="kasan", release=release, version="1", compiler="g"
            ),
            "tcg",
        )

    def trials(self, cell: Cell, seeds: Iterator[int]) -> Iterator[Record]:
        for seed in seeds:
            FakeRunner.ran += 1
            if FakeRunner.ran == FakeRunner.dies_at:
                raise KeyboardInterrupt
            hit = cell.variant == "no-owner" and seed == 1
            yield {
                "module": cell.module, "variant": cell.variant, "kernel": cell.kernel,
                "profile": cell.profile, "lane": cell.lane.value, "scenario": "held-vs-rmmod",
                "seed": seed, "verdict": "fail" if hit else "pass",
                "findings": [{"kind": "inside", "title": FakeRunner.title}] if hit else [],
                "bundle": f"runs/{cell.kernel}" if hit else None, "wall_s": 2.0,
            }  # fmt: skip

    def discard(self, bundles: Iterable[str]) -> None:
        assert list(bundles) == []


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(matrixcommand, "LabRunner", FakeRunner)
    for name, value in (("ran", 0), ("dies_at", None), ("title", PROMISED), ("broken", None)):
        monkeypatch.setattr(FakeRunner, name, value)
    (tmp_path / "m.yaml").write_text(MATRIX)
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def harness(*argv: str) -> int:
    return cli.main(["matrix", *argv])


def test_run_says_what_it_takes_and_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("m.yaml", "--json", "out.json", "--workers", "2") == ExitStatus.OK
    shown = capsys.readouterr()
    assert "m.yaml: 4 cells with 16 trials on 2 kernels" in shown.err
    # No kernel is built in an empty cache.
    assert re.search(r"building 5\.10-kasan, 6\.12-kasan \d+ min", shown.err)
    # Older kernels first, whatever the file's order.
    assert re.search(r"module +┃ variant +┃ +5\.10 ┃ +6\.12", shown.out)
    assert re.search(r"poolfs +│ good +│ +0/4 │ +0/4", shown.out)
    assert re.search(r"poolfs +│ no-owner +│ +1/4 │ +1/4", shown.out)
    assert "1 distinct bugs (rates: Clopper-Pearson, 95% confidence):" in shown.out
    assert (
        f"poolfs: {PROMISED}; kernels 5.10 to 6.12; 2/8 (3.2% to 65.1%); "
        "harness replay runs/5.10" in shown.out
    )
    document = matrixdoc.load(Path("out.json"))
    assert [kernel.release for kernel in document.kernels] == ["5.10.7-kasan", "6.12.7-kasan"]
    assert document.file == "m.yaml"


def test_document_on_stdout_is_all_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("m.yaml", "--json", "-") == ExitStatus.OK
    assert json.loads(capsys.readouterr().out)["schema"] == matrixdoc.SCHEMA


def test_finding_that_was_not_promised(capsys: pytest.CaptureFixture[str]) -> None:
    FakeRunner.title = "BUG in g"
    assert harness("m.yaml") == ExitStatus.FINDINGS
    shown = capsys.readouterr().out
    assert "1/4 NO" in shown
    assert (
        "not as it must be: poolfs/no-owner@5.10-kasan-det: not promised: BUG in g (1 of" in shown
    )


def test_cell_that_cannot_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    FakeRunner.broken = "5.10"
    assert harness("m.yaml") == ExitStatus.HARNESS
    shown = capsys.readouterr().out
    assert "error in poolfs/good@5.10-kasan-det: poolfs: does not compile" in shown
    assert re.search(r"good +│ error │ +0/4", shown)


def test_interrupted_and_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    FakeRunner.dies_at = 7
    assert harness("m.yaml", "--json", "out.json") == 130
    shown = capsys.readouterr().err
    assert "interrupted; runs/m.journal.jsonl has 6 trials: the same command goes on" in shown
    assert not Path("out.json").exists()
    FakeRunner.dies_at = None
    assert harness("m.yaml", "--json", "out.json") == ExitStatus.OK
    shown = capsys.readouterr().err
    assert "going on with runs/m.journal.jsonl: 6 trials are there" in shown
    assert "m.yaml: 3 cells with 10 trials" in shown
    assert FakeRunner.ran == 17
    # Finished: asked for again, it is run again.
    assert harness("m.yaml") == ExitStatus.OK
    assert FakeRunner.ran == 17 + 16


def test_matrix_that_changed_meanwhile(capsys: pytest.CaptureFixture[str]) -> None:
    FakeRunner.dies_at = 7
    harness("m.yaml")
    Path("m.yaml").write_text(MATRIX.replace("0:4", "0:5"))
    assert harness("m.yaml") == ExitStatus.USAGE
    assert "is of another run: of m.yaml" in capsys.readouterr().err
    FakeRunner.dies_at = None
    assert harness("m.yaml", "--fresh") == ExitStatus.OK
    assert Path("runs/m.journal.previous.jsonl").exists()


def test_shards_merge_to_the_result_of_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("m.yaml", "--json", "whole.json") == ExitStatus.OK
    assert harness("m.yaml", "--kernel", "6.12", "--json", "a.json") == ExitStatus.OK
    shown = capsys.readouterr()
    assert "of 4 cells" in shown.err
    assert re.search(r"variant +┃ 6\.12 ┃\n", shown.out)
    assert harness("m.yaml", "--kernel", "5.10", "--json", "b.json") == ExitStatus.OK
    capsys.readouterr()
    assert harness("merge", "merged.json", "a.json", "b.json") == ExitStatus.OK
    assert "2/8 (3.2% to 65.1%)" in capsys.readouterr().out
    whole, merged = (matrixdoc.load(Path(name)) for name in ("whole.json", "merged.json"))
    same = {"began": "", "ended": ""}
    assert merged.model_copy(update=same) == whole.model_copy(update=same)
    for number in "12":
        harness("m.yaml", "--shard", f"{number}/2", "--json", f"{number}.json")
    assert harness("merge", "by-shard.json", "1.json", "2.json") == ExitStatus.OK
    assert matrixdoc.load(Path("by-shard.json")).cells == whole.cells
    capsys.readouterr()
    # A shard whose machine was lost is not passed over.
    assert harness("merge", "merged.json", "a.json") == ExitStatus.HARNESS
    shown = capsys.readouterr()
    assert "2 of 4 cells are in none of these documents, such as poolfs/good@5.10" in shown.err
    assert "not run" in shown.out


def test_dry_run_lists_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("m.yaml", "--dry-run", "--until", "p<1%@95%") == ExitStatus.OK
    shown = capsys.readouterr()
    assert "poolfs/no-owner@6.12-kasan-det  299 trials: held-vs-rmmod" in shown.out
    assert "p<1%@95% holds for a cell after 299 trials" in shown.err
    assert "about at most" in shown.err
    assert FakeRunner.ran == 0
    assert not Path("runs").exists()


def test_claim_refuted_and_held(capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("m.yaml", "--until", "p<10%@95%") == ExitStatus.OK
    shown = capsys.readouterr().out
    assert re.search(r"good +│ +0/29 │ +0/29", shown)
    assert re.search(r"no-owner +│ +1/2 │ +1/2", shown)
    assert "p<10%@95% holds for 2 cells; 2 refuted" in shown
    assert FakeRunner.ran == 2 * 29 + 2 * 29


def test_claim_that_could_not_be_put_to_the_test_is_open(
    capsys: pytest.CaptureFixture[str],
) -> None:
    FakeRunner.broken = "5.10"
    harness("m.yaml", "--until", "p<10%@95%")
    assert "p<10%@95% holds for 1 cells; 1 refuted, 2 open" in capsys.readouterr().out


def test_journal_with_a_strange_entry(capsys: pytest.CaptureFixture[str]) -> None:
    FakeRunner.dies_at = 7
    harness("m.yaml")
    with Path("runs/m.journal.jsonl").open("a") as file:
        file.write('{"ev": "trial", "cell": "x", "trial": {}}\n')
    assert harness("m.yaml") == ExitStatus.USAGE
    assert "m.journal.jsonl: an entry of it is malformed: KeyError('seed')" in (
        capsys.readouterr().err
    )


def test_budget_is_said_before(capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.yaml").write_text(MATRIX + "budget: {trials: 5, time: 1m}\n")
    assert harness("m.yaml") == ExitStatus.OK
    shown = capsys.readouterr()
    assert "the budget of 5 trials will end it before all are run" in shown.err
    assert "the budget of 60 s will end it before that" in shown.err
    assert re.search(r"no-owner +│ +not run │ +0/1 \?", shown.out)


def test_times_are_known_the_next_time(capsys: pytest.CaptureFixture[str]) -> None:
    harness("m.yaml")
    assert "times of 0 cells known from before, of 4 guessed" in capsys.readouterr().err
    harness("m.yaml", "--dry-run")
    assert "times of 4 cells known from before, of 0 guessed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ("none.yaml", "none.yaml: cannot be read: No such file or directory"),
        ("m.yaml other.yaml", "other.yaml: one FILE at a time"),
        ("m.yaml --kernel 7.2", "kernel '7.2': not in m.yaml; it has 6.12, 5.10"),
        ("m.yaml --shard 3/2", "shard '3/2': none"),
        ("m.yaml --shard 1/9", "shard 1/9: no cell is left for it; m.yaml has 4 to run"),
        ("m.yaml --kernel 5.10 --shard 1/2", "no cell of it can be run on what was asked for"),
        ("m.yaml --until p<1", "claim 'p<1': not understood"),
        ("m.yaml --journal m.yaml", "m.yaml:1: not an entry of a journal"),
        ("merge", "merge: needs an output and at least one document"),
        ("merge out.json", "merge: needs an output and at least one document"),
        ("merge out.json none.json", "none.json: cannot be read"),
        ("merge out.json m.yaml", "m.yaml: not JSON"),
        ("", "the following arguments are required: FILE"),
    ],
)
def test_mistake_is_said(argv: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness(*argv.split()) == ExitStatus.USAGE
    shown = capsys.readouterr().err
    assert why in shown.replace("\n", " ")
    assert "Traceback" not in shown
    assert FakeRunner.ran == 0


def test_durations() -> None:
    assert [matrixcommand.duration(s) for s in (0.4, 99, 100, 3600, 6000, 90000)] == [
        "0 s", "99 s", "2 min", "60 min", "1 h 40 min", "25 h 0 min"
    ]  # fmt: skip


def test_table_tells_apart_what_must_be_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.yaml").write_text(MATRIX.replace("6.12, 5.10", "6.1") + "lanes: [det, smp]\n")
    harness("m.yaml")
    assert re.search(r"variant +┃ 6\.1 det ┃ 6\.1 smp", capsys.readouterr().out)


class BrokenLab:
    """A lab whose kernels do not compile, or whose disk is full."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    def kernel(self, name: str, profile: str) -> Kernel:
        self.asked += 1
        raise self.error


def test_kernel_that_does_not_build_is_tried_once() -> None:
    made = BrokenLab(BuildError("no"))
    runner = matrixlab.LabRunner(made, workers=1, bundles=Path("runs"))  # type: ignore[arg-type]
    for cell in matrixplan.parse_matrix(MATRIX, "m.yaml").cells:
        with pytest.raises(BuildError):
            runner.prepare(cell)
    assert made.asked == 2


def test_full_disk_is_no_kernel_s_fault() -> None:
    made = BrokenLab(StorageError("full"))
    runner = matrixlab.LabRunner(made, workers=1, bundles=Path("runs"))  # type: ignore[arg-type]
    for cell in matrixplan.parse_matrix(MATRIX, "m.yaml").cells[:2]:
        with pytest.raises(StorageError):
            runner.prepare(cell)
    assert made.asked == 2


def test_only_bundles_of_this_run_are_removed(tmp_path: Path) -> None:
    runner = matrixlab.LabRunner(BrokenLab(StorageError("")), workers=1, bundles=tmp_path / "runs")  # type: ignore[arg-type]
    for name in ("runs/a", "runs/b", "other"):
        (tmp_path / name).mkdir(parents=True)
    runner.discard(["elsewhere/runs/a", "../other"])
    assert not (tmp_path / "runs" / "a").exists()
    assert (tmp_path / "runs" / "b").exists()
    assert (tmp_path / "other").exists()
