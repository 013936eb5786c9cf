# SPDX-License-Identifier: GPL-2.0-only
"""The search for a reported bug, with trials that are made up."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import families, plan, reproduce, reproducecommand, scenario, surfaces
from harness.clues import Likely
from harness.errors import BuildError, ExitStatus, StorageError, UsageError
from harness.machine import Lane
from harness.plan import Plan
from harness.reproduce import Reproduced, Tried, Turn, Way
from harness.scenario import Scenario
from harness.trial import TrialResult
from harness.verdict import Finding, Kind
from harness.verify import Count

#: What a trial is made of here: way, scenario, seed.
Made = tuple[str, str, int]
Answer = Callable[[Made], list[str]]


@dataclasses.dataclass(frozen=True)
class Spec:
    scenario: str
    seed: int
    plan: str


@dataclasses.dataclass(frozen=True)
class Tried_:
    made: Made
    plan: str = ""

    @property
    def spec(self) -> Spec:
        return Spec(self.made[1], self.made[2], self.plan)


def workload(name: str, *steps: str) -> Scenario:
    lines = "".join(f"      - {step}\n" for step in steps or ("yield",))
    return scenario.parse_scenario(
        "about: x\nsurfaces: [module]\nlanes:\n  det: {bound_us: 1000}\n"
        f"actors:\n  - name: user\n    do:\n{lines}",
        f"{name}.yaml",
    )


BOTH = (workload("one"), workload("two"))
A, B = plan.parse("* a+0x1 #1 then users"), plan.parse("kernel b+0x2 #1 then users")


class FakeLab:
    def __init__(self, frames: bool) -> None:
        self.frames = frames

    def points(self, ko: object) -> str:
        return "points"

    def trial(self, subject: str, workload: Scenario, seed: int, depth: int | None) -> Tried_:
        return Tried_((f"{subject} {depth}", workload.name, seed))

    def parked_trial(
        self, subject: str, workload: Scenario, seed: int, plan: Plan, cycles: None
    ) -> Tried_:
        if workload.name == "two":
            raise UsageError("no such role")
        return Tried_((f"plan {plan}", workload.name, seed), str(plan))

    def reseeded(self, trial: Tried_, seed: int) -> Tried_:
        return Tried_((*trial.made[:2], seed), trial.plan)


def search(
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer,
    *,
    limit: int = 30,
    frames: bool = True,
    workloads: tuple[Scenario, ...] = BOTH,
    given: tuple[Plan, ...] = (A, B),
    stops: Callable[[Made], bool] = lambda made: True,
    text: str = "...",
) -> tuple[Reproduced, list[Made]]:
    asked: list[Made] = []
    clocks: list[Clock] = []

    class Clock:
        remaining_s = 100.0

        def __init__(self, seconds: float) -> None:
            # Each way has room for so many trials, however long they take; all together for more.
            self.end = len(asked) + (limit if clocks else 10 * limit)
            clocks.append(self)

        @property
        def expired(self) -> bool:
            return len(asked) >= self.end

    def run_trials(trials: Iterator[Tried_], workers: int, *, stop: Any) -> Iterator[Any]:
        for trial in trials:
            asked.append(trial.made)
            findings = tuple(Finding(Kind.SPLAT, title) for title in answer(trial.made))
            evidence = SimpleNamespace(report=b'{"ev": "parked"}\n' if stops(trial.made) else b"")
            result = cast(TrialResult, SimpleNamespace(findings=findings, evidence=evidence))
            yield trial, result
            if stop(result):
                return

    def plans(text: str, module: str, known: object, hits: int) -> list[Plan]:
        if not frames:
            raise UsageError("the report has no frame")
        return [*given]

    monkeypatch.setattr(reproduce.lab, "run_trials", run_trials)
    monkeypatch.setattr(reproduce.Deadline, "after", Clock)
    monkeypatch.setattr(reproduce.sweep, "plans_from_report", plans)

    class Subject(str):
        module = SimpleNamespace(ko=None, name="m")

    done = reproduce.reproduce(
        cast(Any, FakeLab(frames)), lambda lane: cast(Any, Subject(lane.value)),
        workloads, title="oops", text=text, budget_s=100.0, workers=1,
    )  # fmt: skip
    return done, asked


def test_scenarios_take_turns_and_the_rate_is_of_the_one_that_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(made: Made) -> list[str]:
        return ["oops"] if made[1] == "two" and made[2] % 4 == 0 else ["leak"]

    done, asked = search(monkeypatch, answer)
    assert asked[:4] == [("det None", "one", 1), ("det None", "two", 2), ("det None", "one", 3),
                         ("det None", "two", 4)]  # fmt: skip
    assert asked[4:] == [("det None", "two", seed) for seed in range(5, 25)]
    assert [(one.way, one.trials, one.hits) for one in done.tried] == [(Way.SCENARIOS, 4, 1)]
    assert done.tried[0].others == {"leak": 3}
    assert done.rate == Count(5, 20)
    assert done.sentence().startswith(
        "reproduced after 4 trials; with 20 further seeds it shows in 5"
    )


def test_each_way_is_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    done, asked = search(
        monkeypatch,
        lambda made: ["oops"] if made[0] == "smp None" and made[2] == 3 else [],
        limit=4,
    )
    assert [one.way for one in done.tried] == [*Way]
    # A plan goes with every scenario that has its role.
    assert [made for made in asked if made[0].startswith("plan")] == [
        (f"plan {A}", "one", 1),
        (f"plan {B}", "one", 1),
    ]
    assert [one.trials for one in done.tried] == [4, 2, 4, 3]
    assert any(made[0] == "det 3" for made in asked)
    assert done.shown is not None


#: The task was in write(), and the module has something to do with tickets.
WRITES = """
BUG: KASAN: use-after-free in m_ticket+0xf9/0x2d1 [m]
CPU: 0 PID: 46 Comm: x Tainted: G O 6.3.1 #1
Call Trace:
 m_ticket+0xf9/0x2d1 [m]
 ? do_exit+0x1/0x2
 vfs_write+0x80/0x90
 do_syscall_64+0x39/0x46
"""
SLOT = "open: {slot: 0, path: /dev/m, flags: [rdwr]}"
FOUR = (
    workload("idle"),
    workload("opens", SLOT),
    workload("writes", SLOT, "write: {slot: 0, count: 1}"),
    workload("tickets-vs-rmmod", SLOT, "write: {slot: 0, count: 1}"),
)


def test_scenarios_with_clues_come_first_and_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    done, asked = search(
        monkeypatch, lambda made: [], limit=12, frames=False, workloads=FOUR, text=WRITES
    )
    names = [name for way, name, _ in asked if way == "det None"]
    tickets, writes, idle, opens = "tickets-vs-rmmod", "writes", "idle", "opens"
    assert names == [tickets, writes, idle, opens, tickets, writes, tickets, idle,
                     writes, tickets, writes, opens]  # fmt: skip
    assert [seed for way, _, seed in asked if way == "det None"] == [*range(1, 13)]
    first = done.document(None)["tried"][0]
    assert first["order"] == [
        {"scenario": tickets, "plan": None, "because": ["ticket", "write"], "trials": 4,
         "stopped": None},
        {"scenario": writes, "plan": None, "because": ["write"], "trials": 4, "stopped": None},
        {"scenario": idle, "plan": None, "because": [], "trials": 2, "stopped": None},
        {"scenario": opens, "plan": None, "because": [], "trials": 2, "stopped": None},
    ]  # fmt: skip


def test_where_most_have_clues_they_take_turns() -> None:
    likely = [Likely(one, ("write",) if one.name != "idle" else ()) for one in FOUR]
    turns = reproduce.turns(sorted(likely, key=lambda one: not one.because))
    names = [next(turns).workload.name for _ in range(8)]
    assert names == 2 * ["opens", "writes", "tickets-vs-rmmod", "idle"]
    assert [*reproduce.turns([])] == []


def hits(*numbers: int) -> tuple[Plan, ...]:
    return tuple(dataclasses.replace(one, hit=hit) for one in (A, B) for hit in numbers)


def test_plans_are_tried_where_they_are_likely_and_not_again_where_nobody_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stops(made: Made) -> bool:
        return made[0].startswith("plan * a+0x1 #1 ") and made[1] in ("writes", "idle")

    done, asked = search(
        monkeypatch, lambda made: [], workloads=(FOUR[0], FOUR[2]), given=hits(1, 2, 3),
        stops=stops, text=WRITES,
    )  # fmt: skip
    planned = [(way.removeprefix("plan "), name) for way, name, _ in asked if "plan" in way]
    assert planned == [
        ("* a+0x1 #1 then users", "writes"),
        ("kernel b+0x2 #1 then users", "writes"),
        ("* a+0x1 #1 then users", "idle"),
        ("kernel b+0x2 #1 then users", "idle"),
        ("* a+0x1 #2 then users", "writes"),
        ("* a+0x1 #2 then users", "idle"),
    ]
    order = done.document(None)["tried"][1]["order"]
    assert [(one["plan"], one["scenario"]) for one in order] == planned
    assert [one["stopped"] for one in order] == [1, 0, 1, 0, 0, 0]


def test_scenario_in_which_a_task_was_stopped_comes_before_one_with_clues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, asked = search(
        monkeypatch, lambda made: [], workloads=FOUR, stops=lambda made: made[1] == "opens",
        text=WRITES, limit=10,
    )  # fmt: skip
    assert next(name for way, name, _ in asked if way == "det 3") == "opens"
    schedules = done.tried[2]
    assert schedules.way is Way.SCHEDULES
    assert schedules.order[0].because == ("a+0x1", "b+0x2")


def test_what_was_begun_and_never_run_is_not_in_the_order() -> None:
    tried = Tried(Way.SCENARIOS, turns={("one", ""): Turn("one", "", ())})
    assert tried.order == ()


def test_what_does_not_show_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = search(monkeypatch, lambda made: [], limit=99, frames=False)
    assert done.trials == 3 * 99
    assert done.sentence() == "not reproduced: 0 of 297 trials, p < 1 % at 95 %"
    assert [one.why for one in done.tried] == ["", "the report has no frame", "", ""]
    document = done.document(None)
    assert (document["bundle"], document["rate"]) == (None, {"hits": 0, "trials": 297})
    assert [one["what"] for one in document["tried"]] == [way.value for way in Way]


def test_nothing_tried_says_nothing() -> None:
    assert Reproduced("x", []).sentence() == "not reproduced: nothing could be tried"
    assert Reproduced("x", []).document(None)["bound"] is None


LOG = """
BUG: KASAN: use-after-free in poolfs_write+0xf9/0x2d1 [poolfs]
CPU: 0 PID: 46 Comm: x Tainted: G O 6.3.1 #1
"""


def command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: bool, text: str = LOG,
    build: Callable[..., None] | None = None, **changes: Any,
) -> tuple[ExitStatus, list[Any]]:  # fmt: skip
    (tmp_path / "mail.txt").write_text(text)
    asked: list[Any] = []

    def subject(*names: Any) -> str:
        asked.append(names)
        return "subject"

    def run(made: Any, subject: Callable[[Lane], object], plans: Any, **rest: Any) -> Reproduced:
        asked.append([plan.name for plan in plans])
        subject(Lane.SMP)
        trial = SimpleNamespace(spec=SimpleNamespace(lane=Lane.DET))
        turn = Turn("mounts-vs-rmmod", "", ("write", "close"), 3)
        tried = Tried(Way.SCENARIOS, 3, int(shown), {("mounts-vs-rmmod", ""): turn})
        return Reproduced(rest["title"], [tried], cast(Any, (trial, None)) if shown else None,
                          Count(1, 20) if shown else None)  # fmt: skip

    monkeypatch.setattr(reproducecommand.store.Store, "open", lambda: None)
    made = SimpleNamespace(subject=subject, build=build or (lambda *names: None))
    monkeypatch.setattr(reproducecommand, "Lab", lambda cache, progress: made)
    monkeypatch.setattr(reproducecommand, "announce", lambda *rest: None)
    monkeypatch.setattr(reproducecommand.reproduce, "reproduce", run)
    monkeypatch.setattr(reproducecommand.catalogue, "keep", lambda *rest: Path("runs/b"))
    monkeypatch.setattr(reproducecommand.bundle, "load_bundle", lambda path: path)
    small = Path("runs/minimised/b"), None
    monkeypatch.setattr(reproducecommand.minimisecommand, "search", lambda *rest: small)
    monkeypatch.setattr(
        reproducecommand.minimisecommand, "say", lambda found, path, done: print("small", path)
    )
    fields = {"report": tmp_path / "mail.txt", "module": None, "variant": None, "kernel": None,
              "profile": "kasan", "seconds": 9.0, "workers": 1, "json": tmp_path / "out.json",
              "bundles": tmp_path, "no_minimise": False, **changes}  # fmt: skip
    return reproducecommand.run(argparse.Namespace(**fields)), asked


def test_sample_module_is_known_by_its_frames(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, asked = command(monkeypatch, tmp_path, shown=True)
    assert status == ExitStatus.FINDINGS
    assert "mounts-vs-rmmod" in asked[0]
    assert asked[1] == ("poolfs", "good", "6.1", "kasan", Lane.SMP)
    captured = capsys.readouterr()
    assert "kernel: 6.1, for the report's 6.3" in captured.err
    assert "  mounts-vs-rmmod first, for its write, close\n" in captured.out
    assert "harness replay runs/b" in captured.out
    assert "small runs/minimised/b" in captured.out
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["bundle"] == "runs/minimised/b"
    command(monkeypatch, tmp_path, shown=True, no_minimise=True)
    assert "small" not in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["bundle"] == "runs/b"


def test_not_reproduced_is_no_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, _ = command(monkeypatch, tmp_path, shown=False)
    assert status == ExitStatus.OK


def test_module_that_does_not_compile_is_said_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = []

    def build(*names: str) -> None:
        tried.append(names)
        raise BuildError("poolfs good: does not compile for 6.1.9")

    with pytest.raises(BuildError, match=r"does not compile for 6\.1\.9"):
        command(monkeypatch, tmp_path, shown=False, build=build)
    assert tried == [("poolfs", "good", "6.1", "kasan")]


@pytest.mark.parametrize("error", [BuildError, StorageError])
def test_what_cannot_be_built_is_no_way_that_was_not_gone(
    monkeypatch: pytest.MonkeyPatch, error: type[UsageError]
) -> None:
    def answer(made: Made) -> list[str]:
        raise error("no")

    with pytest.raises(error, match="no"):
        search(monkeypatch, answer)


def test_module_that_nobody_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = LOG.replace("poolfs", "mine")
    with pytest.raises(UsageError, match=r"where the module's source is; it names mine"):
        command(monkeypatch, tmp_path, shown=False, text=text)


def test_module_without_scenarios_is_used_by_what_it_exposes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    surface = surfaces.Surface(surfaces.Kind.CHARACTER, "/dev/m", 0o020600, "1:2")

    class FakeBench:
        around = reproducecommand.workloads.NOTHING
        surfaces = (surface,)

        def __init__(self, *rest: Any) -> None:
            pass

    monkeypatch.setattr(reproducecommand, "Bench", FakeBench)
    (tmp_path / "Kbuild").write_text("obj-m := m.o\n")
    family = families.find_family(str(tmp_path))
    arguments = argparse.Namespace(workers=1, bundles=tmp_path)
    plans = reproducecommand._workloads(
        cast(Any, None), family, "good", "6.1", "kasan", arguments, lambda *said: None
    )
    assert [plan.name for plan in plans] == [
        "load",
        "cycles",
        "use",
        "held-m",
        "users-m-1",
        "users-m-2",
    ]
