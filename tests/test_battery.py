# SPDX-License-Identifier: GPL-2.0-only
"""The battery's tests and verdicts, with trials that are made up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import battery, growth, sweeptests, workloads
from harness import bench as benches
from harness.bench import Bench, Case, Found, Options, Outcome, Result
from harness.checkfile import CheckFile
from harness.errors import GuestError, NotLoadedError, UsageError
from harness.families import Family
from harness.lab import Lab, Subject
from harness.machine import EXECUTOR_DONE, Lane
from harness.modules import Module
from harness.surfaces import Kind, Surface
from harness.trial import Trial, TrialResult
from harness.uses import Group
from harness.verdict import Evidence, Finding, MemoryScan, Verdict
from harness.verdict import Kind as Sort
from harness.workloads import NOTHING, Around

DEVICE = {"ev": "surface", "survey": "loaded", "section": "node", "mode": "20600",
          "number": "240:0", "line": "/dev/m"}  # fmt: skip
FILE = {"ev": "surface", "survey": "loaded", "section": "procfs", "mode": "100644",
        "number": "", "line": "/proc/m"}  # fmt: skip
FILESYSTEM = {"ev": "surface", "survey": "loaded", "section": "filesystem", "mode": "0",
              "number": "", "line": "nodev\tmfs"}  # fmt: skip
BELOW = {**FILE, "survey": "mounted", "line": "/proc/fs/m"}
END = {"ev": "end", "ok": True}
IN_USE = Finding(Sort.ERRNO, "unloaded while in use: delete_module succeeded")


KERNEL = SimpleNamespace(
    release="6.1.0", detectors=["KASAN", "kmemleak"], vmlinux=Path("vmlinux"), build=Path("absent")
)


def sums(op: str, **counts: int) -> dict[str, Any]:
    return {"ev": "errnos", "where": "actors[0].do[0]", "op": op, "counts": counts}


LIFE = (sums("finit_module", ok=1), sums("delete_module", ok=1), END)


def result(*events: dict[str, Any], findings: Iterable[Finding] = ()) -> TrialResult:
    report = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    found = tuple(findings)
    return TrialResult(
        spec=cast(Any, SimpleNamespace(lane=Lane.DET)),
        verdict=Verdict.FAIL if found else Verdict.PASS,
        findings=found,
        evidence=Evidence(b"", report, EXECUTOR_DONE, 60.0),
        lives=(),
        wall_s=1.0,
    )


Answer = Callable[[Case], TrialResult]


class FakeBench(Bench):
    """A bench whose trials are answered by a function."""

    def __init__(self, answer: Answer, *fields: dict[str, Any], **settings: Any) -> None:
        made = cast(Lab, SimpleNamespace(kernel=lambda *name: KERNEL))
        options = Options("6.1", "kasan", (Lane.DET, Lane.SMP), 2, 1, Path("runs"))
        super().__init__(made, Family(name="m"), CheckFile(**settings), options, lambda *said: None)
        self.answer = answer
        self.cases: list[Case] = []
        self.module = Module("m", "good", Path("m.ko"), "", "")
        self.modinfo = ()
        self.requests = ()
        self.socket_calls = frozenset()
        self.not_loaded = ()

    def results(
        self,
        cases: Iterable[Case],
        stop: Callable[[TrialResult], bool] = lambda result: False,
    ) -> Iterator[tuple[Case, Trial, TrialResult]]:
        for case in cases:
            self.cases.append(case)
            self.trials += 1
            answered = self.answer(case)
            yield case, cast(Trial, None), answered
            if stop(answered):
                return

    def keep(self, trial: Trial, result: TrialResult) -> Path | None:
        return Path("runs/b") if result.findings else None


@pytest.fixture(autouse=True)
def exit_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benches, "has_exit", lambda module: True)


def counted(times: int, *findings: Finding) -> TrialResult:
    """A guest that has counted its memory so often."""
    lines = [f"[ 1.0][ T1] kmod-harness-count {8 * n} dentry 5" for n in range(1, 1 + times)]
    found = result(*LIFE)
    kept = dataclasses.replace(found.evidence, console="\n".join([*lines, ""]).encode())
    return dataclasses.replace(found, evidence=kept, findings=findings)


def fine(case: Case) -> TrialResult:
    """A module with a device, a file and a filesystem, in which nothing is wrong."""
    if case.plan.name == "growth":
        return counted(growth.COUNTS)
    if case.plan.name == "mounted-mfs":
        return result(*LIFE, BELOW)
    return result(*LIFE, DEVICE, FILE, FILESYSTEM, sums("open", ok=1), sums("mount", ok=1))


def outcome(bench: Bench, name: str) -> Result:
    (test,) = battery.choose([name], sweep_too=False)
    return battery.run_test(bench, test)


def test_module_with_nothing_wrong_passes_every_test() -> None:
    bench = FakeBench(fine)
    # That one has no cases of its own; see below.
    tests = [one for one in battery.choose([], sweep_too=False) if one.name != "failures"]
    done = battery.run_battery(bench, tests)
    outcomes = {one.name: (one.outcome, one.why) for one in done.results}
    skipped = {name: why for name, (what, why) in outcomes.items() if what is Outcome.SKIPPED}
    assert skipped == {
        "parameters": "it has no parameters",
        "dependents": "it needs no other module, and none is known to need it",
    }
    assert {what for name, (what, _) in outcomes.items() if name not in skipped} == {Outcome.PASS}
    assert [one.name for one in done.surfaces] == ["/dev/m", "mfs", "/proc/m", "/proc/fs/m"]
    assert not done.findings
    assert not done.errors
    # Both lanes race, and what is learned is learned once.
    assert {case.lane for case in bench.cases} == {Lane.DET, Lane.SMP}
    assert [case.plan.name for case in bench.cases].count("load") == 1


def test_document_has_what_is_promised() -> None:
    found = Finding(Sort.RESIDUE, "residue: misc device m")

    def answer(case: Case) -> TrialResult:
        if case.plan.name == "cycles":
            return result(*LIFE, findings=[found])
        return fine(case)

    done = battery.run_battery(FakeBench(answer), battery.choose(["load", "cycles"],
                                                                 sweep_too=False))  # fmt: skip
    document = json.loads(json.dumps(done.document()))
    assert document["schema"] == battery.SCHEMA
    assert (document["module"], document["kernel"]) == ("m", "6.1")
    assert document["fail_sites"] == []
    assert document["surfaces"][0] == {
        "kind": "character device", "name": "/dev/m", "mode": "0600", "number": "240:0",
    }  # fmt: skip
    load, cycles = document["tests"]
    assert (load["name"], load["verdict"], load["findings"]) == ("load", "pass", [])
    assert (cycles["name"], cycles["verdict"], cycles["trials"]) == ("cycles", "finding", 1)
    assert cycles["findings"] == [
        {
            "kind": "residue", "title": found.title, "bundle": "runs/b",
            "replay": "harness replay runs/b",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "findings", "title", "why"),
    [
        ((sums("finit_module", ok=1),), [Finding(Sort.SPLAT, "KASAN: x in m_init")],
         "KASAN: x in m_init", "see load: KASAN: x in m_init"),
        ((END,), [Finding(Sort.HANG, "hang: finit_module did not return")],
         "hang: finit_module did not return", "see load: hang: finit_module did not return"),
        ((sums("finit_module", ok=1), END),
         [Finding(Sort.HANG, "hang: delete_module did not return")],
         "hang: delete_module did not return", "see load: hang: delete_module did not return"),
        ((sums("finit_module", ENODEV=1), END),
         [Finding(Sort.ERRNO, "errno: finit_module returned ENODEV")],
         "errno: finit_module returned ENODEV", "it does not load: finit_module returned ENODEV"),
        (({"ev": "unexpected", "where": "needs[2]", "op": "finit_module /payload/common.ko % -",
           "errno": "ENOENT"}, END),
         [Finding(Sort.ERRNO, "errno: finit_module returned ENOENT")],
         "errno: finit_module returned ENOENT",
         "it does not load: common, which it needs, returned ENOENT; the guest's console may say"
         " why"),
        ((sums("finit_module", ok=1), sums("delete_module", EBUSY=1), END),
         [Finding(Sort.ERRNO, "errno: delete_module returned EBUSY")],
         "errno: delete_module returned EBUSY",
         "it cannot be unloaded: delete_module returned EBUSY"),
    ],
    ids=["panics", "init-hangs", "exit-hangs", "refuses", "need-refuses", "stays"],
)  # fmt: skip
def test_module_that_misbehaves_has_one_verdict_and_the_rest_says_why(
    events: tuple[dict[str, Any], ...], findings: list[Finding], title: str, why: str
) -> None:
    bench = FakeBench(lambda case: result(*events, findings=findings))
    done = battery.run_battery(bench, battery.choose([], sweep_too=False))
    load, *rest = done.results
    assert load.outcome is Outcome.FINDING
    assert [found.finding.title for found in load.found] == [title]
    assert {one.outcome for one in rest} == {Outcome.SKIPPED}
    assert {one.why for one in rest} == {why}
    assert bench.trials == 0
    assert len(bench.cases) == 1


def test_module_without_an_exit_function_is_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benches, "has_exit", lambda module: False)
    wrong = [
        Finding(Sort.ERRNO, "errno: delete_module returned EBUSY"),
        Finding(Sort.RESIDUE, "residue: module m"),
        Finding(Sort.SPLAT, "WARNING in m_init"),
    ]
    events = (sums("finit_module", ok=1), sums("delete_module", EBUSY=51), END)
    bench = FakeBench(lambda case: result(*events, findings=wrong))
    titles = [found.finding.title for found in outcome(bench, "load").found]
    assert titles == ["cannot be unloaded: m has no exit function", "WARNING in m_init"]
    assert outcome(bench, "crowd").why == "cannot be unloaded: m has no exit function"


def test_missing_owner_is_called_that() -> None:
    device = Surface(Kind.CHARACTER, "/dev/m", 0o020600)
    crash = Finding(Sort.SPLAT, "BUG: unable to handle kernel paging request in filp_close")
    seen = battery.name_contract(device, result(sums("open", ok=1), findings=[crash, IN_USE]))
    assert [finding.title for finding in seen] == [
        "missing owner: /dev/m can be open while its module is unloaded", crash.title,
    ]  # fmt: skip
    filesystem = Surface(Kind.FILESYSTEM, "mfs")
    seen = battery.name_contract(filesystem, result(sums("mount", ok=1), findings=[IN_USE]))
    assert [finding.title for finding in seen] == [
        "missing owner: a mount of mfs can be there while its module is unloaded"
    ]


def test_folder_in_configfs_must_keep_the_module() -> None:
    tree = {"ev": "surface", "survey": "loaded", "section": "configfs", "mode": "40755",
            "number": "", "line": "/sys/kernel/config/m"}  # fmt: skip
    file = {**tree, "survey": "made", "mode": "100644",
            "line": "/sys/kernel/config/m/made-by-check/size"}  # fmt: skip

    def answer(case: Case) -> TrialResult:
        if case.plan.name == "made-sys-kernel-config-m":
            return result(*LIFE, file)
        if case.plan.name == "held-sys-kernel-config-m":
            return result(*LIFE, sums("mkdir", ok=1), findings=[IN_USE])
        return result(*LIFE, tree)

    bench = FakeBench(answer)
    (found,) = outcome(bench, "contract").found
    assert found.finding.title == (
        "missing owner: a folder in /sys/kernel/config/m can be there while its module is unloaded"
    )
    assert [one.name for one in bench.surfaces] == [tree["line"], file["line"]]
    tree_itself = bench.surfaces[0]
    refused = result(sums("mkdir", EPERM=1), findings=[IN_USE])
    assert battery.name_contract(tree_itself, refused) == ()


PROTOCOL = {"ev": "surface", "survey": "loaded", "section": "protocol", "mode": "0", "number": "",
            "line": "M"}  # fmt: skip
SOCKET = {**PROTOCOL, "survey": "sockets", "section": "socket", "line": "27 dgram 0"}


def with_socket(case: Case) -> TrialResult:
    if case.plan.name == "sockets":
        return result(*LIFE, SOCKET)
    if case.plan.name.startswith("held-"):
        return result(*LIFE, sums("open_socket", ok=1), findings=[IN_USE])
    return result(*LIFE, PROTOCOL)


def test_socket_must_keep_the_module() -> None:
    bench = FakeBench(with_socket)
    (found,) = outcome(bench, "contract").found
    assert found.finding.title == (
        "missing owner: a socket of family 27 dgram 0 can be open while its module is unloaded"
    )
    assert [case.plan.name for case in bench.cases[:2]] == ["load", "sockets"]
    assert [(one.kind, one.name) for one in bench.surfaces] == [
        (Kind.PROTOCOL, "M"), (Kind.SOCKET, "family 27 dgram 0"),
    ]  # fmt: skip
    refused = result(sums("open_socket", EPERM=1), findings=[IN_USE])
    assert battery.name_contract(bench.surfaces[1], refused) == ()


def test_sockets_are_tried_where_the_module_may_bring_some() -> None:
    plain = FakeBench(fine)
    outcome(plain, "load")
    assert "sockets" not in [case.plan.name for case in plain.cases]
    calling = FakeBench(fine)
    calling.socket_calls = frozenset({"inet_register_protosw"})
    assert outcome(calling, "load").outcome is Outcome.PASS
    (case,) = (case for case in calling.cases if case.plan.name == "sockets")
    tried = [op.args for op in case.plan.actors[0].body if op.spec.name == "survey_sockets"]
    assert [args[1] for args in tried] == [0, 2, 0, 2]


def test_what_opening_sockets_shows_belongs_to_the_load() -> None:
    splat = Finding(Sort.SPLAT, "WARNING in m_create")

    def answer(case: Case) -> TrialResult:
        if case.plan.name == "sockets":
            return result(*LIFE, findings=[splat])
        return result(*LIFE, PROTOCOL)

    load = outcome(FakeBench(answer), "load")
    assert [found.finding for found in load.found] == [splat]
    assert load.why == "network protocol M is not used: no socket can be opened that could not" \
        " be before"  # fmt: skip


def test_device_that_cannot_be_opened_is_not_held() -> None:
    device = Surface(Kind.CHARACTER, "/dev/m", 0o020600)
    splat = Finding(Sort.SPLAT, "WARNING in m_open")
    trial = result(sums("open", ENXIO=2), findings=[IN_USE, splat])
    assert battery.name_contract(device, trial) == (splat,)


def test_panic_that_took_the_sums_does_not_hide_a_missing_owner() -> None:
    device = Surface(Kind.CHARACTER, "/dev/m", 0o020600)
    (seen,) = battery.name_contract(device, result(findings=[IN_USE]))
    assert seen.title.startswith("missing owner")


def test_unload_that_is_refused_after_the_last_release_is_called_that() -> None:
    device = Surface(Kind.CHARACTER, "/dev/m", 0o020600)
    refused = Finding(Sort.ERRNO, "errno: delete_module returned EAGAIN")
    (seen,) = battery.name_contract(device, result(sums("open", ok=1), findings=[refused]))
    assert seen.title == "still in use after the last release of /dev/m"


def test_file_that_pins_its_module_is_called_that() -> None:
    first_unload = workloads.first_unload(NOTHING)
    group = Group("sysfs-files", (Surface(Kind.SYSFS, "/sys/m/a", 0o100644),))
    refused = Finding(Sort.ERRNO, "errno: delete_module returned EBUSY")
    other = Finding(Sort.SPLAT, "WARNING in m_show")
    first, second = battery.name_files(group, first_unload, result(findings=[refused, other]))
    assert first.title == "an open sysfs file keeps the module from going"
    assert second is other


@pytest.mark.parametrize(
    ("unloaded", "read", "wrong"),
    [({"ok": 1}, {"ok": 1}, True), ({"ok": 1}, {"ENODEV": 1}, False),
     ({"EBUSY": 1}, {"ok": 1}, False)],
)  # fmt: skip
def test_file_that_answers_without_its_module_is_a_finding(
    unloaded: dict[str, int], read: dict[str, int], wrong: bool
) -> None:
    group = Group("debugfs-files", (Surface(Kind.DEBUGFS, "/sys/kernel/debug/m", 0o100444),))
    (place,) = (op.place for op in workloads.held_files(NOTHING, group).actors[1].body
                if op.args[0] == "${module}" and op.expect != ("ok", "ENOENT"))  # fmt: skip
    first_unload = workloads.first_unload(NOTHING)
    first = {**sums("delete_module", **unloaded), "where": place}
    seen = battery.name_files(group, first_unload, result(first, sums("delete_module", ok=1),
                                            sums("pread", **read)))  # fmt: skip
    title = "an open debugfs file still answers when its module has gone"
    assert [one.title for one in seen] == ([title] if wrong else [])


def test_wrong_errno_of_a_load_names_the_parameter() -> None:
    wrong = Finding(Sort.ERRNO, "errno: finit_module returned EFAULT")
    splat = Finding(Sort.SPLAT, "WARNING in m_init")
    bench = FakeBench(
        lambda case: (
            result(*LIFE, findings=[wrong, splat])
            if case.plan.name == "parameter-size"
            else fine(case)
        )
    )
    bench.modinfo = (("parmtype", "size:uint"), ("parm", "size:how large"), ("license", "GPL"))
    titles = [found.finding.title for found in outcome(bench, "parameters").found]
    assert titles == ["errno: finit_module returned EFAULT (parameter size)", splat.title]


def test_only_so_many_parameters_are_tried_and_the_rest_is_named() -> None:
    bench = FakeBench(fine)
    bench.modinfo = tuple(("parmtype", f"p{number}:int") for number in range(14))
    done = outcome(bench, "parameters")
    assert done.outcome is Outcome.PASS
    assert done.why == "not tried: p12, p13"
    names = [case.plan.name for case in bench.cases if case.plan.name.startswith("parameter")]
    assert len([name for name in names if not name.endswith("-huge")]) == 12
    assert len([name for name in names if name.endswith("-huge")]) == 12


@pytest.mark.parametrize(
    ("title", "kind", "why"),
    [
        ("hang: finit_module did not return", Sort.HANG, "had not ended when time was over"),
        ("kernel panic: System is deadlocked on memory", Sort.SPLAT, "had no memory left"),
    ],
)
def test_who_asks_for_two_billion_things_waits_for_them(title: str, kind: Sort, why: str) -> None:
    found = [Finding(kind, title), Finding(Sort.ERRNO, "errno: delete_module returned EBUSY"),
             Finding(Sort.SPLAT, "WARNING in m_alloc")]  # fmt: skip

    def answer(case: Case) -> TrialResult:
        if case.plan.name != "parameter-count-huge":
            return fine(case)
        return result(*LIFE, findings=found)

    bench = FakeBench(answer)
    bench.modinfo = (("parmtype", "count:int"),)
    done = outcome(bench, "parameters")
    # What the kernel complains of is a finding all the same.
    assert [one.finding.title for one in done.found] == ["WARNING in m_alloc"]
    assert done.why == f"count: a load with a huge number {why}"


def test_what_hangs_with_a_small_number_is_a_finding() -> None:
    hang = Finding(Sort.HANG, "hang: finit_module did not return")

    def answer(case: Case) -> TrialResult:
        return result(*LIFE, findings=[hang]) if case.plan.name == "parameter-n" else fine(case)

    bench = FakeBench(answer)
    bench.modinfo = (("parmtype", "n:int"),)
    (found,) = outcome(bench, "parameters").found
    assert found.finding.title == "hang: finit_module did not return (parameter n)"


def test_dependents_are_what_the_module_needs() -> None:
    bench = FakeBench(fine)
    bench.module = dataclasses.replace(bench.module, needs=(bench.module,))
    assert outcome(bench, "dependents").outcome is Outcome.PASS
    assert bench.cases[-1].plan.name == "dependents"


def test_module_of_the_family_that_needs_the_main_one_is_used() -> None:
    bench = FakeBench(lambda case: result(*LIFE))
    above = dataclasses.replace(bench.module, name="m_user", needs=(bench.module,))
    alone = dataclasses.replace(bench.module, name="m_other")
    bench.module = dataclasses.replace(bench.module, others=(("user", above), ("other", alone)))
    assert [one.name for one in bench.surfaces] == ["m_user"]
    assert outcome(bench, "dependents").outcome is Outcome.PASS
    assert bench.cases[-1].plan.name == "needed-by-m_user"
    outcome(bench, "users")
    assert bench.cases[-1].plan.name == "users-m_user"


def test_module_of_the_kernel_that_needs_it_may_refuse_to_load() -> None:
    bench = FakeBench(lambda case: result(*LIFE))
    bench.family = bench.family.model_copy(update={"folder": Path("build/m.ko")})
    bench.not_loaded = ("m_far",)
    above = dataclasses.replace(bench.module, name="m_user", needs=(bench.module,))
    bench.module = dataclasses.replace(bench.module, others=(("user", above),))
    done = outcome(bench, "dependents")
    assert (done.outcome, done.why) == (Outcome.PASS, "not loaded, though they need it: m_far")
    load = bench.cases[-1].plan.actors[0].body[1]
    assert {"ok", "ENODEV"} <= set(load.expect)
    assert "ENODEV" in load.stop_on
    assert "ok" not in load.stop_on


@pytest.mark.parametrize("can", [True, False])
def test_forced_unload_is_tried_on_demand_and_where_the_kernel_can(
    monkeypatch: pytest.MonkeyPatch, can: bool
) -> None:
    assert "forced" not in {test.name for test in battery.choose([], sweep_too=True)}
    config = {"CONFIG_MODULE_FORCE_UNLOAD": "y"} if can else {}
    monkeypatch.setattr(battery.kernels, "read_config", lambda kernel: config)
    bench = FakeBench(fine)
    done = outcome(bench, "forced")
    assert done.outcome is (Outcome.PASS if can else Outcome.SKIPPED)
    assert ("forced" in {case.plan.name for case in bench.cases}) is can


def test_module_that_exposes_nothing_has_no_users() -> None:
    bench = FakeBench(lambda case: result(*LIFE))
    for name, why in [("use", "exposes nothing"), ("contract", "nothing that it exposes"),
                      ("files", "no files in sysfs"), ("users", "exposes nothing")]:  # fmt: skip
        done = outcome(bench, name)
        assert done.outcome is Outcome.SKIPPED
        assert why in done.why
    assert outcome(bench, "cycles").outcome is Outcome.PASS


def test_cycles_are_as_many_as_were_asked_for() -> None:
    bench = FakeBench(fine)
    bench.options = dataclasses.replace(bench.options, cycles=41)
    assert outcome(bench, "cycles").outcome is Outcome.PASS
    plan = bench.cases[-1].plan
    assert (plan.name, plan.actors[0].repeat) == ("cycles", 41)
    # Five times as many as in the ten that are the usual number, begun.
    usual = FakeBench(fine)
    outcome(usual, "cycles")
    bounds = [one.cases[-1].plan.lane("det").bound_us for one in (bench, usual)]
    assert bounds[0] == 5 * bounds[1]


def test_leaks_are_looked_for_where_the_kernel_can(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = FakeBench(lambda case: result(*LIFE))
    assert outcome(bench, "leaks").outcome is Outcome.PASS
    assert (bench.cases[-1].plan.name, bench.cases[-1].seed) == ("leaks", 0)
    assert bench.cases[-1].plan.lane("det").kmemleak
    monkeypatch.setattr(KERNEL, "detectors", ["KASAN"])
    assert outcome(bench, "leaks").why == "the kernel cannot tell leaked memory"


def test_growth_is_counted_often_enough_or_not_looked_for() -> None:
    bench = FakeBench(fine)
    assert outcome(bench, "growth").outcome is Outcome.PASS
    (user, *_) = bench.cases[-1].plan.actors
    assert user.repeat == growth.LIVES * growth.COUNTS
    bench = FakeBench(lambda case: counted(2) if case.plan.name == "growth" else fine(case))
    done = outcome(bench, "growth")
    assert done.outcome is Outcome.SKIPPED
    assert done.why == "the guest counted its memory 2 times of 3"


@pytest.mark.parametrize("twice", [True, False])
def test_growth_is_told_when_it_goes_on_in_twice_as_many_lives(twice: bool) -> None:
    grows = Finding(Sort.LEAK, "grows: dentry", "+12 in 8 lives, +8 in 8 lives")

    def answer(case: Case) -> TrialResult:
        if case.plan.name != "growth":
            return fine(case)
        first = case.plan.actors[0].repeat == growth.LIVES * growth.COUNTS
        return counted(growth.COUNTS, *([grows] if first or twice else []))

    bench = FakeBench(answer)
    done = outcome(bench, "growth")
    repeats = [case.plan.actors[0].repeat for case in bench.cases if case.plan.name == "growth"]
    assert repeats == [24, 48]
    assert "% 16)) = 0" in str(bench.cases[-1].plan)
    assert done.outcome is (Outcome.FINDING if twice else Outcome.PASS)
    assert [one.finding for one in done.found] == ([grows] if twice else [])


def test_what_else_a_guest_that_counts_shows_is_told_at_once() -> None:
    shown = (Finding(Sort.LEAK, "grows: dentry"), Finding(Sort.SPLAT, "WARNING in m_exit"))
    bench = FakeBench(lambda case: counted(1, *shown) if case.plan.name == "growth" else fine(case))
    done = outcome(bench, "growth")
    assert [one.finding.title for one in done.found] == ["WARNING in m_exit"]
    assert [case.plan.name for case in bench.cases].count("growth") == 1


def test_what_cannot_be_used_is_said_by_load() -> None:
    disk = {**FILESYSTEM, "line": "\tmfs"}
    done = outcome(FakeBench(lambda case: result(*LIFE, disk)), "load")
    assert done.outcome is Outcome.PASS
    assert done.why.startswith("filesystem on a block device mfs is not used: needs a block device")


def test_trouble_of_the_harness_is_an_error_and_the_next_test_runs() -> None:
    def answer(case: Case) -> TrialResult:
        if case.plan.name == "cycles":
            raise GuestError("the guest has gone")
        return fine(case)

    done = battery.run_battery(FakeBench(answer), battery.choose(["cycles", "use"],
                                                                 sweep_too=False))  # fmt: skip
    assert [one.outcome for one in done.results] == [Outcome.ERROR, Outcome.PASS]
    assert done.results[0].why == "the guest has gone"
    assert done.errors


def test_mistake_of_the_user_ends_the_battery() -> None:
    def answer(case: Case) -> TrialResult:
        raise UsageError("no such folder")

    with pytest.raises(UsageError):
        battery.run_battery(FakeBench(answer), battery.choose([], sweep_too=False))


def test_module_that_may_refuse_to_load_is_left_alone() -> None:
    def answer(case: Case) -> TrialResult:
        raise NotLoadedError("the module was never loaded")

    done = battery.run_battery(FakeBench(answer), battery.choose([], sweep_too=False))
    assert {one.outcome for one in done.results} == {Outcome.SKIPPED}
    assert "harness.yaml says is fine" in done.results[0].why


def test_module_that_refuses_to_load_may_need_parameters() -> None:
    refused = Finding(Sort.ERRNO, "errno: finit_module returned EINVAL")
    bench = FakeBench(lambda case: result(sums("finit_module", EINVAL=1), END, findings=[refused]))
    why = outcome(bench, "load").why
    assert why == "parameters that it needs can stand in a harness.yaml: `harness init` writes one"


def test_family_that_is_unloaded_in_two_stages_is_asked_first() -> None:
    bench = FakeBench(fine)
    bench.family = Family(name="m", surfaces={"unload": "/sys/module/m/parameters/unload"})
    (stage,) = bench.around.before_unload
    assert stage["write_file"] == {"path": "/sys/module/m/parameters/unload", "data": "now"}
    own = FakeBench(fine, around=Around(before_unload=({"stat": "/x"},)))
    own.family = bench.family
    assert own.around.before_unload == ({"stat": "/x"},)


def test_modules_to_load_first_must_be_there() -> None:
    bench = FakeBench(fine, around=Around(load_first=("core",)))
    with pytest.raises(UsageError, match="load_first: no module is called 'core'; there are: m"):
        battery.run_battery(bench, battery.choose([], sweep_too=False))


def test_known_titles_are_no_findings() -> None:
    wrong = Finding(Sort.RESIDUE, "residue: slab cache m")
    answer: Answer = lambda case: result(*LIFE, DEVICE, findings=[wrong])  # noqa: E731
    assert outcome(FakeBench(answer), "load").outcome is Outcome.FINDING
    bench = FakeBench(answer, known=("residue: slab cache .*",))
    assert outcome(bench, "load").outcome is Outcome.PASS
    assert outcome(bench, "cycles").outcome is Outcome.PASS


def test_skipped_tests_say_the_reason_of_the_file() -> None:
    done = outcome(FakeBench(fine, skip={"signals": "slow"}), "signals")
    assert (done.outcome, done.why) == (Outcome.SKIPPED, "harness.yaml: slow")


def test_enough_different_findings_end_a_test() -> None:
    numbers = iter(range(100))
    bench = FakeBench(
        lambda case: (
            fine(case)
            if case.plan.name in ("load", "mounted-mfs")
            else result(findings=[Finding(Sort.SPLAT, f"WARNING {next(numbers)}")])
        )
    )
    bench.options = dataclasses.replace(bench.options, seeds=50)
    found = outcome(bench, "users").found
    assert len(found) < 10
    assert isinstance(found[0], Found)


def test_tests_are_chosen_by_name_or_pattern() -> None:
    assert [test.name for test in battery.choose(["use*"], sweep_too=False)] == ["use", "users"]
    assert "sweep" not in {test.name for test in battery.choose([], sweep_too=False)}
    assert "sweep" in {test.name for test in battery.choose([], sweep_too=True)}
    with pytest.raises(UsageError, match="no test is called 'nonsense'; there are: load,"):
        battery.choose(["nonsense"], sweep_too=False)


def test_trials_are_made_in_the_lane_of_their_case_and_kept_when_they_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The bench itself, with a lab that only notes what it is asked for."""
    made = SimpleNamespace(
        subject_with_dependents=lambda folder, variant, kernel, profile, lane: (lane, ()),
        trial=lambda subject, plan, seed, *, scan: SimpleNamespace(
            spec=SimpleNamespace(lane=subject), plan=plan, seed=seed, scan=scan
        ),
    )
    wrong = Finding(Sort.SPLAT, "WARNING in m_exit")
    answered = {1: result(), 2: result(findings=[wrong]), 3: result(findings=[wrong])}

    def run_trials(trials: Iterator[Any], workers: int, *, stop: Any) -> Iterator[Any]:
        assert workers == 3
        for trial in trials:
            assert trial.scan is (trial.seed == 3)
            yield trial, answered[trial.seed]
            stop(answered[trial.seed])

    kept: list[tuple[object, int]] = []

    def keep(made: object, subject: object, trial: Any, result: object, folder: Path) -> Path:
        assert folder == tmp_path
        kept.append((subject, trial.seed))
        return tmp_path / str(trial.seed)

    monkeypatch.setattr(benches.lab, "run_trials", run_trials)
    monkeypatch.setattr(benches.catalogue, "keep", keep)
    options = Options("6.1", "kasan", (Lane.DET, Lane.SMP), 2, 3, tmp_path)
    bench = Bench(cast(Lab, made), Family(name="m"), CheckFile(), options, lambda *said: None)
    plan = workloads.cycles(NOTHING, 1)
    cases = [Case(plan, 1), Case(plan, 2, Lane.SMP), Case(plan, 3, scan=True)]
    found = list(bench.run(cases))
    assert [(one.finding.title, one.bundle) for one in found] == [(wrong.title, tmp_path / "2")]
    assert kept == [(Lane.SMP, 2), (Lane.DET, 3)]
    assert bench.trials == 3


def test_sweep_takes_the_users_of_each_surface(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".config").write_text("CONFIG_PREEMPT=y\n")
    kernel = SimpleNamespace(build=tmp_path, name="6.1", profile="kasan", release="6.1.0")
    monkeypatch.setattr(FakeBench, "subject", lambda bench, lane: Subject)
    bench = FakeBench(fine)
    bench.made = cast(Lab, SimpleNamespace(kernel=lambda *name: kernel))
    wrong = Finding(Sort.INSIDE, "unloaded under task in m_read")
    taken: list[str] = []

    def run_sweep(made: object, subject: object, plans: list[Any], **rest: Any) -> Any:
        taken.extend(plan.name for plan in plans)
        found = SimpleNamespace(finding=wrong, trial=None, result=result(findings=[wrong]))
        return SimpleNamespace(trials=2, found={wrong.title: found})

    monkeypatch.setattr(sweeptests.sweep, "check_kernel", lambda *rest: None)
    monkeypatch.setattr(sweeptests.sweep, "run_sweep", run_sweep)
    done = outcome(bench, "sweep")
    assert [one.finding for one in done.found] == [wrong]
    assert taken == ["sweep-m", "sweep-mfs", "sweep-proc-files"]


@pytest.mark.parametrize(("findings", "kept"), [((), []), (("KASAN: x", "noise"), ["KASAN: x"])])
def test_failures_come_with_their_sites(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, findings: tuple[str, ...], kept: list[str]
) -> None:
    config = "".join(f"{name}=y\n" for name in sweeptests.failsweep.REQUIRED)
    (tmp_path / ".config").write_text(config)
    kernel = SimpleNamespace(build=tmp_path)
    monkeypatch.setattr(FakeBench, "subject", lambda bench, lane: Subject)
    bench = FakeBench(fine, known=("noise",))
    bench.options = dataclasses.replace(bench.options, fail_s=7.0)
    bench.made = cast(Lab, SimpleNamespace(kernel=lambda *name: kernel))
    taken: dict[str, Any] = {}

    def run(made: object, subject: object, plans: Iterable[Any], **rest: Any) -> Any:
        taken.update(rest, plans=[plan.name for plan in plans])
        found = [
            SimpleNamespace(
                finding=Finding(Sort.SPLAT, title), trial=None, result=result(findings=[IN_USE])
            )
            for title in findings
        ]
        return SimpleNamespace(trials=9, findings=found, shots=[1, 2], sites=lambda: [1],
                               cut=["m load"])  # fmt: skip

    monkeypatch.setattr(sweeptests.failsweep, "run", run)
    monkeypatch.setattr(sweeptests.failtext, "read_places", lambda *rest: {})
    monkeypatch.setattr(
        sweeptests.failtext, "document", lambda done, places, paths: {"fail_sites": [{"n": 1}]}
    )
    done = outcome(bench, "failures")
    assert [one.finding.title for one in done.found] == kept
    assert done.outcome is (Outcome.FINDING if kept else Outcome.PASS)
    assert done.why == "2 failures at 1 sites; time was over before the end of 1 steps"
    assert bench.fail_sites == [{"n": 1}]
    assert taken["plans"] == ["order-m", "order-mfs", "order-proc-files"]
    assert (taken["budget_s"], taken["loader"]) == (7.0, False)


def test_nothing_that_failed_is_no_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = "".join(f"{name}=y\n" for name in sweeptests.failsweep.REQUIRED)
    (tmp_path / ".config").write_text(config)
    monkeypatch.setattr(FakeBench, "subject", lambda bench, lane: Subject)
    ram = [{**DEVICE, "line": f"/dev/ram{number}"} for number in range(12)]
    bench = FakeBench(lambda case: result(*LIFE, *ram, DEVICE))
    kernel = SimpleNamespace(build=tmp_path)
    bench.made = cast(Lab, SimpleNamespace(kernel=lambda *name: kernel))
    taken: list[str] = []

    def run(made: object, subject: object, plans: Iterable[Any], **rest: Any) -> Any:
        taken.extend(plan.name for plan in plans)
        return SimpleNamespace(trials=1, findings=[], shots=[], cut=["a", "b"], sites=list)

    monkeypatch.setattr(sweeptests.failsweep, "run", run)
    monkeypatch.setattr(sweeptests.failtext, "read_places", lambda *rest: {})
    monkeypatch.setattr(sweeptests.failtext, "document", lambda *rest: {"fail_sites": []})
    done = outcome(bench, "failures")
    assert done.outcome is Outcome.SKIPPED
    assert done.why == "time was over before anything had failed, of 2 steps"
    # Twelve of one kind are one.
    assert sorted(taken) == ["order-m", "order-ram0"]


def test_failures_need_a_kernel_in_which_something_can_fail(tmp_path: Path) -> None:
    (tmp_path / ".config").write_text("CONFIG_FAILSLAB=y\n")
    bench = FakeBench(fine)
    kernel = SimpleNamespace(build=tmp_path)
    bench.made = cast(Lab, SimpleNamespace(kernel=lambda *name: kernel))
    done = outcome(bench, "failures")
    assert done.outcome is Outcome.SKIPPED
    assert "CONFIG_FAULT_INJECTION (making something fail)" in done.why


def test_pointers_are_looked_for_in_memory_that_was_kept() -> None:
    memory = MemoryScan((), 5, 0.1, ("where m was there is n now",))

    def answer(case: Case) -> TrialResult:
        found = fine(case)
        if not case.scan:
            return found
        kept = dataclasses.replace(found.evidence, memory=memory)
        return dataclasses.replace(found, evidence=kept)

    bench = FakeBench(answer)
    bench.made = cast(Lab, SimpleNamespace(kernel=lambda *name: KERNEL))
    done = outcome(bench, "pointers")
    assert (done.outcome, done.why) == (Outcome.PASS, "where m was there is n now")
    assert [case.scan for case in bench.cases] == [False, False, True]
    # A bundle of its own: that of `use` is not written over.
    assert bench.cases[-1].plan.name == "pointers"


def test_pointers_cannot_be_read_without_debug_information(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KERNEL, "vmlinux", None)
    done = outcome(FakeBench(fine), "pointers")
    assert done.outcome is Outcome.SKIPPED
    assert "no debug information" in done.why


@pytest.mark.parametrize("test", ["sweep", "failures"])
def test_sweeps_need_the_det_lane(test: str) -> None:
    bench = FakeBench(fine)
    bench.options = dataclasses.replace(bench.options, lanes=(Lane.SMP,))
    done = outcome(bench, test)
    assert done.outcome is Outcome.SKIPPED
    assert "det lane only" in done.why
