# SPDX-License-Identifier: GPL-2.0-only
"""What trials of a changed module say, with trials that are made up."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import cli, rates, verify, verifycommand
from harness.errors import ExitStatus, UsageError
from harness.trial import TrialResult
from harness.verdict import Finding, Kind
from harness.verify import Count, Verdict, Verified

Answer = Callable[[int], list[str]]


def run(
    monkeypatch: pytest.MonkeyPatch, before: Answer, after: Answer, **options: Any
) -> tuple[Verified, list[tuple[str, int]]]:
    asked: list[tuple[str, int]] = []

    def run_trials(trials: Iterator[Any], workers: int, *, stop: Any) -> Iterator[Any]:
        for trial in trials:
            asked.append(trial)
            titles = (before if trial[0] == "before" else after)(trial[1])
            findings = tuple(Finding(Kind.SPLAT, title) for title in titles)
            result = cast(TrialResult, SimpleNamespace(findings=findings))
            yield trial, result
            if stop(result):
                return

    monkeypatch.setattr(verify.lab, "run_trials", run_trials)
    settings: dict[str, Any] = {"seed": 7, "most": 300, "confidence": 0.95, "workers": 1, **options}
    done = verify.verify(
        "oops",
        lambda seed: cast(Any, ("before", seed)),
        lambda seed: cast(Any, ("after", seed)),
        **settings,
    )
    return done, asked


def always(seed: int) -> list[str]:
    return ["oops"]


def never(seed: int) -> list[str]:
    return []


def test_what_always_showed_and_never_does_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    done, asked = run(monkeypatch, always, never)
    assert done.verdict is Verdict.FIXED
    assert done.before == Count(5, 5)
    assert done.after == Count(0, verify.LEAST_TRIALS)
    assert asked[0] == ("before", 7)
    assert asked[5] == ("after", 7)
    assert done.sentence().startswith(
        "fixed: 0 of 20 trials show it, so that its rate is below 14 %"
    )
    assert done.chance < 1e-6


def test_what_is_rare_needs_more_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = run(monkeypatch, lambda seed: ["oops"] if seed % 10 == 0 else [], never)
    assert done.before == Count(5, 44)
    low = rates.interval(5, 44, 0.9).low
    assert (1 - low) ** done.after.trials <= 0.05 < (1 - low) ** (done.after.trials - 1)
    assert done.verdict is Verdict.FIXED
    assert done.chance <= 0.05


def test_one_finding_is_enough_to_say_that_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    done, asked = run(monkeypatch, always, lambda seed: ["oops"] if seed == 10 else ["other"])
    assert done.verdict is Verdict.STILL_THERE
    assert done.after == Count(1, 4)
    assert done.sentence() == (
        "still there: in 1 of 4 trials; before the change it showed in 5 of 5 trials"
    )
    assert asked[-1] == ("after", 10)
    assert done.example is not None
    assert done.example[0] == ("after", 10)


def test_another_finding_is_not_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = run(monkeypatch, always, lambda seed: ["leak"] if seed > 8 else [])
    assert done.verdict is Verdict.OTHER
    assert done.others == ("leak",)
    assert "something else shows, leak" in done.sentence()
    assert done.example is not None


def test_too_few_trials_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = run(monkeypatch, always, never, most=3)
    assert done.verdict is Verdict.NOT_ENOUGH
    assert "0 of 3 trials show it, 20 without it are needed" in done.sentence()


def test_bundle_that_shows_nothing_any_more_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    done, asked = run(monkeypatch, never, never)
    assert done.verdict is Verdict.NOT_ENOUGH
    assert "the bundle's own module does not show it either, 0 of 60 trials" in done.sentence()
    assert {what for what, _ in asked} == {"before"}


@dataclasses.dataclass(frozen=True)
class Spec:
    kernel: str = "6.1"
    profile: str = "kasan"
    lane: str = "det"
    seed: int = 1
    plan: str = "* f+0x1 #1 then users"


def command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verdict: Verdict, makes: str = "m",
    plan: str = Spec.plan,
) -> ExitStatus:  # fmt: skip
    found = SimpleNamespace(path=Path("b"), titles=("oops",), spec=Spec(), symbols={"m": Path()})
    module = SimpleNamespace(everything=[SimpleNamespace(name=makes)])
    family = SimpleNamespace(folder=Path("m"))
    subject = SimpleNamespace(module=module, family=family)
    made = SimpleNamespace(
        replay_trial=lambda found: (None, ("qemu: was 1, is 2",)),
        subject=lambda *names: subject,
        changed_trial=lambda *rest: SimpleNamespace(spec=Spec(plan=plan)),
    )
    done = Verified(verdict, "oops", Count(5, 5), Count(0, 20), 20, 0.95, (), None)
    monkeypatch.setattr(verifycommand.bundle, "load_bundle", lambda path: found)
    monkeypatch.setattr(verifycommand.families, "find_family", lambda name: family)
    monkeypatch.setattr(verifycommand.families, "find_variant", lambda family, name: None)
    monkeypatch.setattr(verifycommand.store.Store, "open", lambda: None)
    monkeypatch.setattr(verifycommand, "Lab", lambda cache, progress: made)
    monkeypatch.setattr(verifycommand.verify, "verify", lambda *rest, **named: done)
    arguments = argparse.Namespace(
        bundle=Path("b"), module="m", variant="good", trials=9, confidence=95.0, workers=1,
        json=tmp_path / "out.json", bundles=tmp_path,
    )  # fmt: skip
    return verifycommand.run(arguments)


@pytest.mark.parametrize(
    ("verdict", "status"),
    [(Verdict.FIXED, ExitStatus.OK), (Verdict.STILL_THERE, ExitStatus.FINDINGS),
     (Verdict.OTHER, ExitStatus.FINDINGS), (Verdict.NOT_ENOUGH, ExitStatus.FINDINGS)],
)  # fmt: skip
def test_status_and_document(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verdict: Verdict, status: ExitStatus
) -> None:
    assert command(monkeypatch, tmp_path, verdict) == status
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["schema"] == verify.SCHEMA
    assert document["verdict"] == verdict.value


def test_plan_that_moves_with_its_instruction_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, tmp_path, Verdict.FIXED)
    assert "plan:" not in capsys.readouterr().err
    command(monkeypatch, tmp_path, Verdict.FIXED, plan="* f+0x9 #1 then users")
    said = capsys.readouterr().err
    assert "plan: * f+0x1 #1 then users; in the changed module * f+0x9 #1 then users" in said


def test_another_module_cannot_be_a_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"loads m\.ko, and m makes other\.ko"):
        command(monkeypatch, tmp_path, Verdict.FIXED, makes="other")


def test_confidence_is_a_share(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "b", "--module", "m", "--confidence", "100"]) == ExitStatus.USAGE
    assert "at least 50 and less than 100" in capsys.readouterr().err
