# SPDX-License-Identifier: GPL-2.0-only
"""A failure sweep of a module that is only told of: which trials it takes, what it concludes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from harness import failsweep, failtext, lab, program, scenario, scenario_compile
from harness.deadline import Deadline
from harness.errors import UsageError
from harness.failplan import MEASURE, Failure, failure_of
from harness.failsites import FailSweep, Verdict
from harness.machine import Lane
from harness.program import Loop, Op, Program
from harness.trial import Trial, TrialResult, TrialSpec
from harness.verdict import Evidence, Finding, Kind
from harness.verdict import Verdict as TrialVerdict

CONFIG = "".join(f"{option}=y\n" for option in failsweep.REQUIRED)
TEXT = """\
about: test
surfaces: [module]
lanes:
  det: {bound_us: 100000}
  smp: {bound_us: 100000}
actors:
  - name: a
    repeat: 3
    do:
      - finit_module: ${ko}
      - stat: /x
      - delete_module: ${module}
teardown:
  - delete_module: ${module}
    expect: [ok, ENOENT]
"""
#: Which functions are active at the Nth allocation of a load: the module's init comes last.
LOADER, INIT = "load_module+0x10/0x90", "m_init+0x{:x}/0x90 [m]\ndo_one_initcall+0x8/0x90"


def stack_of(step: int, nth: int) -> list[str]:
    if step != 0:
        return [f"vfs_stat+0x{nth:x}/0x90"]
    own = [INIT.format(nth)] if nth > 2 else [f"layout+0x{nth:x}/0x90"]
    return [*"\n".join(own).split("\n"), LOADER]


@dataclass
class Guest:
    """Answers for the module, and remembers what it was asked."""

    #: Step → allocations.
    counts: dict[int, int]
    #: Failures with a finding of their own.
    bad: dict[tuple[int, int], str] = field(default_factory=dict)
    #: Failures that the kernel does not print.
    silent: frozenset[tuple[int, int]] = frozenset()
    #: Failures after which the step succeeds.
    coped: frozenset[tuple[int, int]] = frozenset()
    #: Titles that show in any trial.
    always: tuple[str, ...] = ()
    #: Failures that end the guest.
    fatal: frozenset[tuple[int, int]] = frozenset()
    #: Titles that show when two failures come together.
    together: str = ""
    #: What the measuring trial says of the counts, if not the truth.
    measured: dict[int, int | None] = field(default_factory=dict)
    dies: bool = False
    asked: list[list[Failure]] = field(default_factory=list)

    def run(self, trial: Trial) -> TrialResult:
        events: list[dict[str, Any]] = []
        console, titles, asked = [], list(self.always), []
        us = 1_000_000
        ended = not self.dies
        for op in _ops(Program.parse(trial.program).actors[0].body):
            failure = failure_of(op.place)
            if not op.fail or failure is None:
                continue
            key = failure.step, failure.nth
            asked.append(failure)
            us += 100_000
            count = self.counts[failure.step]
            left = max(0, op.fail - count)
            if op.fail == MEASURE:
                said = self.measured.get(failure.step, count)
                if said is None:
                    continue
                left = MEASURE - said
            if not left and key not in self.silent:
                console.append(_notice(us, stack_of(*key)))
            if not left and key in self.bad:
                titles.append(self.bad[key])
            if not left and key in self.fatal:
                ended = False
                break
            failed = not left and key not in self.coped
            events.append(
                {"ev": "fail", "where": op.place, "op": op.name, "nth": op.fail, "us": us - 500,
                 "end_us": us + 500, "fired": not left, "left": left,
                 "told": not left and key not in self.silent,
                 "errno": "ENOMEM" if failed else "ok"}
            )  # fmt: skip
        self.asked.append(asked)
        if self.together and len(asked) > 1 and MEASURE not in [one.nth for one in asked]:
            titles.append(self.together)
        if ended:
            events.append({"ev": "end"})
        report = "".join(json.dumps(event) + "\n" for event in events).encode()
        findings = tuple(Finding(Kind.SPLAT, title, f"{title} text") for title in titles)
        return TrialResult(
            trial.spec,
            TrialVerdict.FAIL if findings else TrialVerdict.PASS,
            findings,
            Evidence("".join(console).encode(), report, 0, 60.0),
            (),
            0.1,
        )


def _ops(nodes: tuple[program.Node, ...]) -> Iterator[Op]:
    for node in nodes:
        if isinstance(node, Loop):
            yield from _ops(node.body)
        elif isinstance(node, Op):
            yield node


def _notice(us: int, stack: list[str]) -> str:
    lines = ["FAULT_INJECTION: forcing a failure.", "name failslab, interval 1, probability 0",
             "Call Trace:", " <TASK>", " should_failslab+0x1/0x2", " kmem_cache_alloc+0x1/0x2",
             *(f" {frame}" for frame in stack), " </TASK>"]  # fmt: skip
    stamp = f"[{us // 1_000_000:5}.{us % 1_000_000:06}][   T43] "
    return "".join(f"{stamp}{line}\n" for line in lines)


class FakeLab:
    """Compiles scenarios; runs nothing."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        folder.mkdir(exist_ok=True)
        (folder / ".config").write_text(config)
        self.folder = folder

    def kernel(self, name: str, profile: str) -> Any:
        return SimpleNamespace(build=self.folder, name=name, profile=profile)

    def compiled(self, subject: Any, workload: Any, seed: int, cycles: int) -> Program:
        values = {"ko": "/m.ko", "module": "m"}
        return scenario_compile.compile_program(workload, seed=seed, bindings=values)

    def program_trial(self, subject: Any, workload: Any, made: Program, plan: str) -> Trial:
        spec = TrialSpec("m", "good", "6.1", "kasan", Lane.DET, workload.name, 1, plan)
        return Trial(spec, None, made.serialise(), 1.0, {})  # type: ignore[arg-type]


MODULE = SimpleNamespace(name="m", ko=Path("m.ko"))
SUBJECT: Any = SimpleNamespace(
    family=SimpleNamespace(name="m"),
    module=SimpleNamespace(name="m", variant="good", everything=(MODULE,)),
    kernel="6.1",
    profile="kasan",
)

Sweep = Callable[..., FailSweep]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    def run(guest: Guest, text: str = TEXT, config: str = CONFIG, **fields: Any) -> FailSweep:
        def run_trials(trials: Any, workers: int, *, stop: Any) -> Iterator[Any]:
            for trial in trials:
                yield trial, guest.run(trial)

        monkeypatch.setattr(lab, "run_trials", run_trials)
        made: Any = FakeLab(tmp_path / "build", config)
        workloads = [scenario.parse_scenario(text, "t.yaml")]
        return failsweep.run(made, SUBJECT, workloads, workers=1, **fields)

    return run


def verdicts(done: FailSweep) -> dict[tuple[str, tuple[int, ...]], Verdict]:
    return {(site.op, site.nths): site.verdict for site in done.sites()}


def test_each_allocation_of_each_step_fails_once(sweep: Sweep) -> None:
    guest = Guest({0: 4, 1: 1, 2: 0})
    done = sweep(guest)
    assert done.found == {}
    assert [(site.op, site.nths) for site in done.sites()] == [
        ("finit_module", (1,)), ("finit_module", (2,)), ("finit_module", (3,)),
        ("finit_module", (4,)), ("stat", (1,)),
    ]  # fmt: skip
    # The measuring trial, one for all steps, and one for loads: what is there, and one more.
    assert [[str(one) for one in asked] for asked in guest.asked] == [
        [f"{step}#{MEASURE}" for step in range(3)],
        ["1#1", "1#2", "2#1"],
        ["0#1", "0#2", "0#3", "0#4", "0#5"],
    ]  # fmt: skip
    assert set(verdicts(done).values()) == {Verdict.FAILED}
    assert (len(done.shots), done.trials, done.cut) == (5, 3, [])


def test_more_than_were_measured_are_tried_until_none_is_left(sweep: Sweep) -> None:
    guest = Guest({0: 40, 1: 0, 2: 0}, measured={0: 3, 1: None})
    done = sweep(guest, batch=64)
    assert max(one.nth for asked in guest.asked[1:] for one in asked) > 40
    assert len([shot for shot in done.shots if shot.step.name == "finit_module"]) == 40
    assert done.cut == []


def test_finding_is_looked_at_one_failure_a_trial(sweep: Sweep) -> None:
    guest = Guest({0: 4, 1: 0, 2: 0}, bad={(0, 3): "oops in m_init"})
    done = sweep(guest)
    assert verdicts(done)["finit_module", (3,)] is Verdict.FINDING
    assert list(verdicts(done).values()).count(Verdict.FINDING) == 1
    found = done.found["oops in m_init"]
    assert found.failures == (Failure(0, 3),)
    assert found.trial.spec.plan == "fail 3 of finit_module 0"
    assert done.findings == [found]


def test_failure_that_ends_the_guest_is_known_by_the_kernels_notice(sweep: Sweep) -> None:
    guest = Guest({0: 4, 1: 0, 2: 0}, bad={(0, 2): "panic"}, fatal=frozenset({(0, 2)}))
    done = sweep(guest)
    assert [site.nths for site in done.sites()] == [(1,), (2,), (3,), (4,)]
    (site,) = (site for site in done.sites() if site.findings)
    assert (site.nths, site.errnos, site.findings) == ((2,), ("?",), ("panic",))


def test_failures_that_only_harm_together_are_told_with_their_trial(sweep: Sweep) -> None:
    guest = Guest({0: 3, 1: 0, 2: 0}, together="leak")
    done = sweep(guest)
    failures = done.found["leak"].failures
    assert failures is not None
    assert len(failures) > 1
    assert not any(site.findings for site in done.sites())
    assert [found.finding.title for found in done.findings] == ["leak"]


def test_what_shows_without_a_failure_is_not_put_down_to_one(sweep: Sweep) -> None:
    guest = Guest({0: 2, 1: 0, 2: 0}, always=("residue: x",))
    done = sweep(guest)
    assert done.found["residue: x"].failures is None
    assert not any(site.findings for site in done.sites())
    assert len(done.shots) == 2


def test_scenario_that_does_not_live_without_a_failure_is_not_swept(sweep: Sweep) -> None:
    guest = Guest({0: 2, 1: 0, 2: 0}, always=("panic",), dies=True)
    done = sweep(guest)
    assert (done.trials, done.shots) == (1, [])
    assert [found.finding.title for found in done.findings] == ["panic"]


def test_load_that_fails_before_init_is_the_kernels_business(sweep: Sweep) -> None:
    bad = {(0, 2): "WARNING in layout", (0, 3): "WARNING in m_init"}
    done = sweep(Guest({0: 4, 1: 0, 2: 0}, bad=bad))
    assert verdicts(done)["finit_module", (2,)] is Verdict.KERNEL
    assert verdicts(done)["finit_module", (3,)] is Verdict.FINDING
    assert [found.finding.title for found in done.findings] == ["WARNING in m_init"]


@pytest.mark.parametrize(
    ("bad", "coped"),
    [
        # It names the module.
        ({(0, 2): "oops in [m] code"}, frozenset()),
        # The load went on, and the module was run.
        ({(0, 2): "oops"}, frozenset({(0, 2)})),
        # No load: the module is there.
        ({(1, 1): "oops"}, frozenset()),
        # The same with the module's own allocation.
        ({(0, 2): "oops", (0, 3): "oops"}, frozenset()),
    ],
)
def test_what_may_be_the_modules_fault_is_a_finding(
    sweep: Sweep, bad: dict[tuple[int, int], str], coped: frozenset[tuple[int, int]]
) -> None:
    done = sweep(Guest({0: 4, 1: 1, 2: 0}, bad=bad, coped=coped))
    assert len(done.findings) == 1


def test_step_that_goes_on_without_memory_has_coped(sweep: Sweep) -> None:
    done = sweep(Guest({0: 0, 1: 2, 2: 0}, coped=frozenset({(1, 2)})))
    assert verdicts(done) == {("stat", (1,)): Verdict.FAILED, ("stat", (2,)): Verdict.COPED}
    assert done.totals()["coped"] == 1


def test_silent_failure_lies_between_its_neighbours(sweep: Sweep) -> None:
    done = sweep(Guest({0: 5, 1: 0, 2: 0}, silent=frozenset({(0, 4)})))
    (site,) = (site for site in done.sites() if site.silent)
    assert site.nths == (4,)
    assert [call.function for call in site.stack] == ["m_init", "do_one_initcall", "load_module"]


def test_same_place_is_one_site(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    same = ["m_init+0x1/0x90 [m]", LOADER]
    monkeypatch.setitem(globals(), "stack_of", lambda step, nth: same)
    done = sweep(Guest({0: 3, 1: 0, 2: 0}, bad={(0, 2): "x"}))
    (site,) = done.sites()
    assert (site.nths, site.verdict, site.findings) == ((1, 2, 3), Verdict.FINDING, ("x",))


def test_what_comes_before_init_may_be_left_out(sweep: Sweep) -> None:
    guest = Guest({0: 12, 1: 1, 2: 0})
    stacks = {nth: stack_of(0, 1) if nth < 8 else stack_of(0, nth) for nth in range(1, 13)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "stack_of", lambda step, nth: stacks[nth])
        done = sweep(guest, batch=2, loader=False)
    tried = sorted(one.nth for asked in guest.asked[1:] for one in asked if one.step == 0)
    # The load's last allocations come first, down to where init has not been called yet.
    assert tried == list(range(7, 14))
    assert done.skipped == 6
    assert done.cut == []
    assert guest.asked[1][0].step != 0


def test_only_some_ops_are_swept_if_so_asked(sweep: Sweep) -> None:
    guest = Guest({0: 4, 1: 2, 2: 0})
    done = sweep(guest, ops=["stat"])
    assert {shot.step.name for shot in done.shots} == {"stat"}
    with pytest.raises(UsageError, match="m good: no step of t is one of mount"):
        sweep(guest, ops=["mount"])


def test_kernel_that_cannot_make_anything_fail_is_refused(sweep: Sweep) -> None:
    with pytest.raises(UsageError, match=r"no CONFIG_FAILSLAB \(slab allocations that fail\)"):
        sweep(Guest({}), config=CONFIG.replace("CONFIG_FAILSLAB=y\n", ""))


def test_budget_that_is_over_says_what_is_left(sweep: Sweep) -> None:
    guest = Guest({0: 4, 1: 2, 2: 0})
    done = sweep(guest, budget_s=0.0)
    assert done.trials == 1
    assert done.cut == ["t actors[0].do[0]", "t actors[0].do[1]", "t actors[0].do[2]"]


def test_budget_that_ends_within_a_round_says_so(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = iter([False, False, *[True] * 100])
    monkeypatch.setattr(Deadline, "expired", property(lambda self: next(over)))
    done = sweep(Guest({0: 4, 1: 2, 2: 0}), budget_s=5.0, batch=4)
    # Loads come last.
    assert [shot.failure for shot in done.shots] == [Failure(1, 1), Failure(1, 2)]
    assert done.cut == ["t actors[0].do[0]"]


def test_scenarios_of_several_actors_are_left_out() -> None:
    names = ["load-unload", "files-vs-rmmod", "held-vs-rmmod"]
    loaded = [scenario.load_scenario(scenario.find_scenario(name)) for name in names]
    assert [one.name for one in failsweep.simple(loaded)] == ["load-unload", "held-vs-rmmod"]
    assert [one.name for one in failsweep.simple(loaded[1:2])] == ["cycle"]


def test_document_and_table_tell_each_site(sweep: Sweep) -> None:
    done = sweep(Guest({0: 4, 1: 1, 2: 0}, bad={(0, 3): "oops in m_init"}))
    bundles = {"oops in m_init": Path("/runs/x")}
    places = {
        call: (f"{call.function} m.c:{call.offset}",)
        for site in done.sites() for call in site.stack
    }  # fmt: skip
    document = failtext.document(done, places, bundles)
    assert json.loads(json.dumps(document)) == document
    (bad,) = (site for site in document["fail_sites"] if site["findings"])
    assert bad == {
        "op": "finit_module", "where": "actors[0].do[0]", "scenario": "t", "nth": [3],
        "kind": "failslab", "silent": False, "function": "m_init", "in_module": True,
        "stack": ["kmem_cache_alloc m.c:1", "m_init m.c:3", "do_one_initcall m.c:8",
                  "load_module m.c:16"],
        "errno": ["ENOMEM"], "verdict": "finding", "findings": ["oops in m_init"],
        "bundle": "/runs/x",
    }  # fmt: skip
    assert document["totals"] == {"finding": 1, "kernel": 0, "failed": 4, "coped": 0}
    out = io.StringIO()
    failtext.print_table(done, places, bundles, Console(file=out, width=200))
    text = out.getvalue()
    assert "m_init < m_init m.c:3" in text
    assert "2 places in the kernel" in text
    assert "harness replay /runs/x" in text
    assert "failure: fail 3 of finit_module 0" in text


def test_frames_are_decoded_with_what_was_inlined(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = sweep(Guest({0: 3, 1: 0, 2: 0}))
    asked = []

    def decode(text: str, kernel: Any, lives: Any) -> str:
        asked.append((text, [life.name for life in lives]))
        return "".join(
            f" kzalloc slab.h:7 [inline]\n{line} m.c:3\n" if "m_init" in line else f"{line}\n"
            for line in text.splitlines()
        )

    monkeypatch.setattr(lab, "decode_text", decode)
    places = failtext.read_places(done, None)  # type: ignore[arg-type]
    shown = {call.function: lines for call, lines in places.items()}
    assert shown["m_init"] == ("kzalloc slab.h:7", "m_init m.c:3")
    assert shown["load_module"] == ("load_module",)
    # One run of the decoder for all.
    ((text, lives),) = asked
    assert text.count("load_module") == 1
    assert lives == ["m"]


def test_nothing_to_decode_asks_for_nothing(sweep: Sweep) -> None:
    done = sweep(Guest({0: 0, 1: 0, 2: 0}))
    assert failtext.read_places(done, None) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("frames", "verdict"),
    [
        (["__filemap_add_folio", "filemap_add_folio", "__getblk_gfp", "m_mount"], Verdict.KERNEL),
        (["__filemap_add_folio.cold", "bdev_getblk", "m_mount"], Verdict.KERNEL),
        # The page cache of a file: its caller looks.
        (["__filemap_add_folio", "filemap_add_folio", "m_write"], Verdict.FINDING),
        (["kmem_cache_alloc", "__getblk_gfp", "m_mount"], Verdict.FINDING),
    ],
)
def test_failure_that_must_not_be_is_nobodys(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, frames: list[str], verdict: Verdict
) -> None:
    """The buffer cache of a disk asks for what error injection refuses all the same."""
    stack = [f"{frame}+0x1/0x2" for frame in frames]
    monkeypatch.setitem(globals(), "stack_of", lambda step, nth: stack)
    done = sweep(Guest({0: 0, 1: 1, 2: 0}, bad={(1, 1): "oops"}))
    assert verdicts(done)["stat", (1,)] is verdict
    assert len(done.findings) == (verdict is Verdict.FINDING)


def test_what_has_shown_is_looked_at_whatever_the_time(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = Guest({0: 4, 1: 0, 2: 0}, bad={(0, 3): "oops"})

    class Over:
        @property
        def expired(self) -> bool:
            # When the batch with it has run.
            return any(Failure(0, 3) in asked for asked in guest.asked)

    monkeypatch.setattr(failsweep.Deadline, "after", lambda seconds: Over())
    done = sweep(guest, budget_s=1.0)
    assert done.found["oops"].failures == (Failure(0, 3),)
