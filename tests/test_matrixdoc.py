# SPDX-License-Identifier: GPL-2.0-only
"""The document: bugs are counted from trials, shards merge into one, bad ones are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness import matrixdoc
from harness.errors import ExitStatus, UsageError
from harness.matrixdoc import Cell, Document, Machine, MadeKernel, Trial


def cell(kernel: str, variant: str = "bad", **fields: Any) -> Cell:
    """A cell of module ``m``, id and all."""
    known = {
        "id": f"{kernel}/{variant}", "module": "m", "variant": variant, "kernel": kernel,
        "profile": "kasan", "lane": "det", "scenarios": ("s",), "trials": 0, "findings": 0,
        "caught_after": None, "title": None, "promised": (), "agrees": None, "wall_s": 1.0,
        "state": "done", "why": None, "bundle": None,
    }  # fmt: skip
    return Cell(**{**known, **fields})


def trial(kernel: str, seed: int, *titles: str, variant: str = "bad", kind: str = "splat") -> Trial:
    return Trial(
        module="m", variant=variant, kernel=kernel, profile="kasan", lane="det", scenario="s",
        seed=seed, verdict="fail" if titles else "pass",
        findings=tuple(matrixdoc.Finding(kind=kind, title=title) for title in titles),
        bundle=f"runs/{kernel}-{variant}-{seed}" if titles else None, wall_s=1.0,
        cell=f"{kernel}/{variant}",
    )  # fmt: skip


def document(
    cells: list[Cell], trials: list[Trial], kernels: list[MadeKernel] | None = None
) -> Document:
    return matrixdoc.make(
        file="matrix.yaml", began="2026-01-01T00:00:00+00:00", ended="2026-01-01T01:00:00+00:00",
        machine=Machine(processors=2, accelerators=("tcg",)), kernels=kernels or [], cells=cells,
        trials=trials,
    )  # fmt: skip


def test_bug_is_counted_over_all_kernels_that_its_variants_were_tried_on() -> None:
    kernels = ["6.12", "5.10", "6.1", "7.2"]
    cells = [cell(kernel, trials=10) for kernel in kernels]
    cells += [cell(kernel, "good", trials=10) for kernel in kernels]
    trials = [
        trial("6.1", 4, "BUG in f"),
        trial("6.12", 2, "BUG in f"),
        trial("6.12", 1, "BUG in f"),
    ]
    (bug,) = document(cells, trials).bugs
    assert (bug.first_kernel, bug.last_kernel) == ("6.1", "6.12")
    assert [(one.kernel, one.hits, one.trials) for one in bug.kernels] == [
        ("5.10", 0, 10), ("6.1", 1, 10), ("6.12", 2, 10), ("7.2", 0, 10)
    ]  # fmt: skip
    assert (bug.hits, bug.trials, bug.variants) == (3, 40, ("bad",))
    # Clopper-Pearson, 3 of 40.
    assert (round(bug.rate.low, 4), round(bug.rate.high, 4)) == (0.0157, 0.2039)
    assert (bug.rate.method, bug.rate.confidence) == ("Clopper-Pearson", 0.95)
    assert bug.replay == "harness replay runs/6.1-bad-4"


def test_bug_of_two_variants_counts_the_trials_of_both() -> None:
    cells = [cell("6.1", "a", trials=5), cell("6.1", "b", trials=7), cell("6.1", "c", trials=9)]
    trials = [trial("6.1", 1, "x", variant="a"), trial("6.1", 1, "x", variant="b")]
    (bug,) = document(cells, trials).bugs
    assert (bug.variants, bug.hits, bug.trials) == (("a", "b"), 2, 12)


def test_title_twice_in_a_trial_is_one_hit() -> None:
    (bug,) = document([cell("6.1", trials=1)], [trial("6.1", 1, "x", "x", kind="leak")]).bugs
    assert (bug.title, bug.type, bug.hits) == ("x", "leak", 1)


def test_what_was_only_ever_seen_beside_another_title_stands_beside_it() -> None:
    trials = [trial("6.1", 1, "x", "y", "z"), trial("6.1", 2, "x", "y"), trial("6.1", 3, "z", "x")]
    found = document([cell("6.1", trials=3)], trials).bugs
    # y never stands alone or first; z does, once.
    assert [(bug.title, bug.hits, bug.also) for bug in found] == [
        ("x", 3, ("y",)),
        ("z", 2, ("y",)),
    ]


def test_promised_title_is_what_a_trial_is_about() -> None:
    cells = [cell("6.1", trials=1, promised=("n+", "y+"))]
    (bug,) = document(cells, [trial("6.1", 1, "x", "yy")]).bugs
    assert (bug.title, bug.also) == ("yy", ("x",))


def test_promise_that_is_no_expression_is_none() -> None:
    assert matrixdoc.promised_title(["x", "("], ["(", "x"]) == "x"


def test_kernels_of_one_s_own_are_ordered_by_their_release() -> None:
    kernels = [
        MadeKernel(name="mine", profile="kasan", release="6.6.3-mine", version="1", compiler="gcc"),
        MadeKernel(
            name="6.12", profile="kasan", release="6.12.9-kasan", version="1", compiler="gcc"
        ),
    ]
    cells = [cell(name, trials=1) for name in ("6.12", "mine", "6.1")]
    trials = [trial(name, 1, "x") for name in ("6.12", "mine", "6.1")]
    made = document(cells, trials, [*kernels, kernels[0]])
    assert [count.kernel for count in made.bugs[0].kernels] == ["6.1", "mine", "6.12"]
    assert [kernel.name for kernel in made.kernels] == ["mine", "6.12"]


@pytest.mark.parametrize(
    ("cells", "status"),
    [
        ([cell("6.1", agrees=True), cell("6.1", "b", state="skipped")], ExitStatus.OK),
        ([cell("6.1", agrees=True), cell("6.1", "b", agrees=False)], ExitStatus.FINDINGS),
        ([cell("6.1", state="error"), cell("6.1", "b", agrees=False)], ExitStatus.HARNESS),
        ([cell("6.1", state="not-run")], ExitStatus.OK),
    ],
)
def test_status(cells: list[Cell], status: ExitStatus) -> None:
    assert document(cells, []).status == status


def test_document_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    made = document([cell("6.1", trials=1)], [trial("6.1", 1, 'a "title"\x1b<b>')])
    path = tmp_path / "d.json"
    path.write_text(json.dumps(made.to_json()))
    assert matrixdoc.load(path) == made
    assert made.to_json()["schema"] == matrixdoc.SCHEMA


def test_fields_of_a_later_harness_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps({**document([], []).to_json(), "more": 1}))
    assert matrixdoc.load(path) == document([], [])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("[]", "schema: None, this harness reads"),
        ('{"schema": "kmod-harness/matrix/9"}', "schema: 'kmod-harness/matrix/9'"),
        ('{"schema": "kmod-harness/matrix/1"}', "file: Field required"),
        ("[" * 100000, "not JSON"),
    ],
)
def test_what_is_no_document(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=why):
        matrixdoc.load(path)


def test_field_that_is_wrong_is_named(tmp_path: Path) -> None:
    content = document([cell("6.1")], []).to_json()
    content["cells"][0]["state"] = "maybe"
    path = tmp_path / "d.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"d\.json: cells\.0\.state: Input should be 'done'"):
        matrixdoc.load(path)


def test_file_that_is_not_there_or_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        matrixdoc.load(tmp_path / "none")
    monkeypatch.setattr(matrixdoc, "MAX_BYTES", 10)
    (tmp_path / "large").write_text("x" * 11)
    with pytest.raises(UsageError, match="larger than"):
        matrixdoc.load(tmp_path / "large")


ELSEWHERE = {"state": "not-run", "why": matrixdoc.ELSEWHERE, "wall_s": 0.0}


def shards() -> dict[str, Document]:
    old, new = trial("6.1", 1, "x"), trial("7.2", 1, "x")
    return {
        "a": document([cell("6.1", trials=1), cell("7.2", **ELSEWHERE)], [old]),
        "b": document([cell("6.1", **ELSEWHERE), cell("7.2", trials=1)], [new]),
    }


def test_merged_shards_are_what_one_run_would_have_given() -> None:
    whole = document(
        [cell("6.1", trials=1), cell("7.2", trials=1)], [trial("6.1", 1, "x"), trial("7.2", 1, "x")]
    )
    made = shards()
    assert matrixdoc.merge(made) == whole
    assert matrixdoc.merge({"b": made["b"], "a": made["a"]}) == whole
    assert matrixdoc.missing(whole) == ()


def test_shard_that_is_not_there_is_missed() -> None:
    merged = matrixdoc.merge({"a": shards()["a"]})
    assert [one.id for one in matrixdoc.missing(merged)] == ["7.2/bad"]


def test_cells_that_every_shard_skips_merge() -> None:
    both = {name: document([cell("6.1", state="skipped")], []) for name in "ab"}
    assert [one.state for one in matrixdoc.merge(both).cells] == ["skipped"]


def test_shard_given_twice() -> None:
    made = shards()
    with pytest.raises(UsageError, match=r"c: cell 6\.1/bad was run in a already"):
        matrixdoc.merge({**made, "c": made["a"]})


def test_shards_of_two_matrices() -> None:
    with pytest.raises(UsageError, match="b: of another matrix than a: 1 cells, 2 there"):
        matrixdoc.merge({"a": shards()["a"], "b": document([cell("6.1")], [])})


def test_shard_that_contradicts_itself() -> None:
    with pytest.raises(UsageError, match=r"a: cells\.0\.trials: 2, but 0 trials"):
        matrixdoc.merge({"a": document([cell("6.1", trials=2)], [])})
    with pytest.raises(UsageError, match=r"a: trials\.0\.cell: no cell '7\.2/bad'"):
        matrixdoc.merge({"a": Document.model_validate(
            {**document([cell("6.1")], []).to_json(), "trials": [trial("7.2", 1).model_dump()]}
        )})  # fmt: skip
