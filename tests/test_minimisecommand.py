# SPDX-License-Identifier: GPL-2.0-only
"""`harness minimise`: what is refused before a search, and what is written after it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import cli, minimise, minimisecommand
from harness.errors import ExitStatus, UsageError
from harness.machine import Lane
from harness.program import Actor, Op, Park, Program
from harness.trial import TrialSpec

SPEC = TrialSpec("m", "bad", "6.1", "kasan", Lane.DET, "s", 7)
BODY = (Op("a", "finit_module", ("/payload/m.ko", "", ())), Op("a", "mkdir", ("/tmp/x", 0o755)))
PROGRAM = Program("s", 7, 1_000_000, (Actor("user", "a", BODY),))
PLANNED = dataclasses.replace(
    PROGRAM, park=Park("user m_read+0x1 #1 then users", "user", "m", ".text", 1, 1, "users")
)


def bundle_of(program: Program, *titles: str) -> Any:
    return SimpleNamespace(
        path=Path("runs/b"), titles=titles, program=program.serialise(), spec=SPEC,
        symbols={"m": Path("m.ko")}, payload=b"",
    )  # fmt: skip


def run(
    monkeypatch: pytest.MonkeyPatch, found: Any, out: Path, form: str, **more: Any
) -> ExitStatus:
    monkeypatch.setattr(minimisecommand.bundle, "load_bundle", lambda path: found)
    fields = {"bundle": Path("b"), "form": form, "out": out, "force": False, "as_it_is": True,
              "seeds": 1, "seconds": None, "workers": 1, **more}  # fmt: skip
    return minimisecommand.run(argparse.Namespace(**fields))


@pytest.mark.parametrize(("form", "wanted"), [("c", "do_mkdir("), ("pytest", "run_scenario(")])
def test_program_is_written_in_another_form(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    form: str, wanted: str,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    assert run(monkeypatch, bundle_of(PROGRAM, "oops"), out, form) == ExitStatus.FINDINGS
    assert wanted in out.read_text()
    shown = capsys.readouterr().out
    assert "title: oops" in shown
    assert "op a ok - 0 mkdir /tmp/x 0755" in shown
    assert f"wrote {out}" in shown
    with pytest.raises(UsageError, match="is there already"):
        run(monkeypatch, bundle_of(PROGRAM, "oops"), out, form)
    run(monkeypatch, bundle_of(PROGRAM, "oops"), out, form, force=True)


@pytest.mark.parametrize("form", ["c", "pytest"])
def test_plan_is_refused_before_the_search(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str
) -> None:
    with pytest.raises(UsageError, match=r"plan|stopped at"):
        run(monkeypatch, bundle_of(PLANNED, "oops"), tmp_path / "out", form, as_it_is=False)


def test_bundle_without_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no finding to keep"):
        run(monkeypatch, bundle_of(PROGRAM), tmp_path / "out", "c")


def test_best_so_far_is_kept_in_one_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write(root: Path, trial: Any, result: Any, payload: bytes, text: str) -> Path:
        path = root / f"seed{trial}"
        path.mkdir(parents=True)
        return path

    monkeypatch.setattr(minimisecommand.bundle, "write_bundle", write)
    monkeypatch.setattr(minimisecommand.lab, "decoded", lambda result, kernel: "")
    found = bundle_of(PROGRAM, "oops")
    found.path = tmp_path / "runs" / "b"
    made = cast(Any, SimpleNamespace(kernel=lambda *names: None))
    keeper = minimisecommand._Keeper(made, found)
    for seed in (7, 8):
        keeper.keep(cast(Any, SimpleNamespace(trial=seed, result=None)))
    assert keeper.path == tmp_path / "runs" / "minimised" / "seed8"
    assert [path.name for path in (tmp_path / "runs" / "minimised").iterdir()] == ["seed8"]
    # Of one that is minimised already it stays in that folder.
    found.path = keeper.path
    keeper = minimisecommand._Keeper(made, found)
    keeper.keep(cast(Any, SimpleNamespace(trial=9, result=None)))
    assert keeper.path == tmp_path / "runs" / "minimised" / "seed9"


def test_who_interrupts_the_search_has_the_best_so_far(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(root: Path, trial: Any, result: Any, payload: bytes, text: str) -> Path:
        path = root / f"seed{trial}"
        path.mkdir(parents=True)
        return path

    def interrupted(trial: Any, title: str, *, keep: Any, **rest: Any) -> None:
        for seed in (7, 8):
            keep(SimpleNamespace(trial=seed, result=None))
        raise KeyboardInterrupt

    found = bundle_of(PROGRAM, "oops")
    found.path = tmp_path / "runs" / "b"
    made = SimpleNamespace(kernel=lambda *names: None)
    monkeypatch.setattr(minimisecommand.bundle, "load_bundle", lambda path: found)
    monkeypatch.setattr(minimisecommand.bundle, "write_bundle", write)
    monkeypatch.setattr(minimisecommand.lab, "decoded", lambda result, kernel: "")
    monkeypatch.setattr(minimisecommand.minimise, "minimise", interrupted)
    monkeypatch.setattr(minimisecommand.store.Store, "open", lambda: None)
    monkeypatch.setattr(minimisecommand, "Lab", lambda cache, progress: made)
    monkeypatch.setattr(minimisecommand, "replayed", lambda made, found, progress: None)
    out = tmp_path / "out.c"
    # As a shell has it: 128 and the signal's number.
    assert cli.main(["minimise", "b", "--as", "c", "--out", str(out)]) == 130
    best = tmp_path / "runs" / "minimised" / "seed8"
    assert [*best.parent.iterdir()] == [best]
    said = capsys.readouterr().err
    assert f"bundle: {best}" in said
    assert "harness: interrupted" in said
    assert not out.exists()


def test_what_became_of_the_plan_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def said(after: Program) -> str:
        best = cast(Any, SimpleNamespace(trial=SimpleNamespace(program=after.serialise())))
        minimisecommand.say(
            bundle_of(PLANNED, "oops"), Path("b"), minimise.Minimised(best, 3, complete=True)
        )
        return capsys.readouterr().out

    assert "plan:  user m_read+0x1 #1 then users\n" in said(PLANNED)
    assert PLANNED.park is not None
    park = dataclasses.replace(PLANNED.park, plan="a m_read+0x1 #1 then users")
    assert ("plan:  a m_read+0x1 #1 then users (was: user m_read+0x1 #1 then users)") in said(
        dataclasses.replace(PLANNED, park=park)
    )
    assert "plan:  none, for it stopped nobody (was: user" in said(PROGRAM)
