# SPDX-License-Identifier: GPL-2.0-only
"""Sweeps, in guests."""

import dataclasses
import re
from pathlib import Path

import pytest

from harness import bundle, families, lab, plan, scenario, sweep, trial, verdict
from harness.lab import Lab, Subject
from harness.machine import Lane
from harness.plan import Action, Plan
from harness.reach import KERNEL
from harness.scenario import Scenario
from harness.sweep import Sweep, Verdict

pytestmark = pytest.mark.vm

DATA = Path(__file__).parent.parent / "data"
LASTRET = families.find_family("lastret")
MISTAKE = "put-then-return"


def subject_of(made: Lab, family: families.Family, variant: str) -> Subject:
    return made.subject(str(family.folder), variant, "6.1", "kasan", Lane.DET)


def workloads_of(family: families.Family) -> tuple[Scenario, ...]:
    return lab.family_scenarios(family, families.GOOD)


def sweep_of(made: Lab, family: families.Family, variant: str, **fields: object) -> Sweep:
    subject = subject_of(made, family, variant)
    return sweep.run_sweep(
        made, subject, workloads_of(family), seed=1, cycles=1, workers=1, **fields
    )  # type: ignore[arg-type]


def park(
    made: Lab, variant: str, workload: str, text: str, family: str = "poolfs", cycles: int = 1
) -> sweep.Outcome:
    """Carry out one plan, with the first seed that gets there, and judge it.

    Who comes first is left to the seed, and what a seed stands for changes with the executor:
    with one in 24 the mounter takes the filesystem away before any user has opened a file.
    """
    found = scenario.load_scenario(scenario.find_scenario(workload))
    subject = subject_of(made, families.find_family(family), variant)
    for seed in range(1, 7):
        done = sweep.run_sweep(
            made, subject, [found], seed=seed, cycles=cycles, workers=1, given=[plan.parse(text)]
        )
        (outcome,) = done.outcomes
        if outcome.verdict is not Verdict.UNREACHED:
            break
    return outcome


def last_return(made: Lab, subject: Subject) -> Plan:
    """Stop the thread of lastret at its last instruction."""
    thread = [point for point in made.points(subject.module.ko)
              if point.function == "lastret_thread"]  # fmt: skip
    return Plan(KERNEL, "lastret_thread", thread[-1].offset)


def test_unload_under_a_last_return_is_seen(harness_lab: Lab) -> None:
    done = sweep_of(harness_lab, LASTRET, MISTAKE)
    promised = LASTRET.variants[MISTAKE].expect[0]
    inside = [title for title in done.found if title.startswith("unloaded under task")]
    assert inside == [promised]
    # All that is behind the call that drops the count, and nothing else.
    bad = [report.point for report in done.reports() if report.verdict is Verdict.FINDING]
    thread = [point for point in done.points if point.function == "lastret_thread"]
    assert bad == thread[-len(bad) :]
    assert bad
    assert thread[-len(bad) - 1].text.startswith("call")


OPEN_MEANWHILE = """\
about: the file is open while the thread that its opening has started comes to its end
surfaces: [module, device]
lanes:
  det: {bound_us: 20000000}
setup:
  - finit_module: "${ko}"
actors:
  - name: user
    do:
      - open: {slot: 0, path: "/dev/${device}"}
      - sleep: 8000
      - close: 0
teardown:
  - delete_module: "${module}"
    expect: [ok, ENOENT]
"""

#: The same, and its opener unloads the module: not the plan.
UNLOADED_MEANWHILE = OPEN_MEANWHILE.replace(
    "teardown:", '      - delete_module: "${module}"\n        retries: 20\nteardown:'
)

#: The same, and he starts another thread, which has a reference until it has run.
OPENED_AGAIN = OPEN_MEANWHILE.replace(
    "      - close: 0",
    '      - open: {slot: 1, path: "/dev/${device}"}\n      - close: 1\n      - close: 0',
)


@pytest.mark.parametrize(
    "text",
    [OPEN_MEANWHILE, UNLOADED_MEANWHILE, OPENED_AGAIN],
    ids=["opened", "unloaded", "opened-again"],
)
@pytest.mark.parametrize(
    ("variant", "wanted"), [(families.GOOD, Verdict.PROTECTED), (MISTAKE, Verdict.FINDING)]
)
def test_reference_of_another_protects_nobody(
    harness_lab: Lab, variant: str, wanted: Verdict, text: str
) -> None:
    """The open file does while it is open; then what the thread itself holds decides."""
    subject = subject_of(harness_lab, LASTRET, variant)
    last = last_return(harness_lab, subject)
    workload = scenario.parse_scenario(text, "open-meanwhile.yaml")
    done = sweep.run_sweep(
        harness_lab, subject, [workload], seed=1, cycles=None, workers=1, given=[last]
    )
    (outcome,) = done.outcomes
    assert outcome.verdict is wanted
    assert [one.title for one in outcome.findings if one.kind is verdict.Kind.INSIDE] == (
        list(LASTRET.variants[variant].expect) if variant == MISTAKE else []
    )


def test_correct_twin_shows_nothing(harness_lab: Lab) -> None:
    done = sweep_of(harness_lab, LASTRET, families.GOOD)
    assert done.found == {}
    totals = done.totals()
    assert totals["protected"] > 20
    assert totals["skipped"] == totals["finding"] == 0
    reached = {reach.point for reach in done.reached}
    # Init, exit, the file operations and the thread: everything but the error path.
    assert {point.section for point in reached} == {".text", ".init.text", ".exit.text"}
    assert {reach.role for reach in done.reached} == {"user", KERNEL}


def test_trace_leaves_the_trial_as_it_was(harness_lab: Lab) -> None:
    subject = subject_of(harness_lab, LASTRET, families.GOOD)
    (workload,) = workloads_of(LASTRET)
    never = Plan("*", "lastret_open", 0, 10**15)
    ready = harness_lab.parked_trial(subject, workload, 1, never, 1)
    visits, traced = harness_lab.visits(ready)
    assert visits
    plain = trial.collect(ready)
    assert (traced.evidence.console, traced.evidence.report) == (plain.console, plain.report)


def test_profile_agrees_with_breakpoints(harness_lab: Lab) -> None:
    """A second source for the hits: the plan's own event counts them too."""
    subject = subject_of(harness_lab, LASTRET, families.GOOD)
    (workload,) = workloads_of(LASTRET)
    reached, _, _ = sweep.profile(harness_lab, subject, workload, seed=1, cycles=3)
    entry = next(reach for reach in reached if reach.point.name == "lastret_open+0x0")
    assert (entry.hits, entry.role, entry.op) == (3, "user", "open")
    for hit, wanted in ((3, Verdict.PROTECTED), (4, Verdict.UNREACHED)):
        last = Plan("user", "lastret_open", 0, hit)
        ready = harness_lab.parked_trial(subject, workload, 1, last, 3)
        result = trial.run_trial(ready)
        assert sweep.judge(last, entry, result, subject.module.ko).verdict is wanted
        # Refused: what would follow is known without it.
        ended = b'"ev":"refused"' in result.evidence.report
        assert ended == (wanted is Verdict.PROTECTED)


def test_bundle_of_a_plan_replays(harness_lab: Lab, tmp_path: Path) -> None:
    subject = subject_of(harness_lab, LASTRET, MISTAKE)
    (workload,) = workloads_of(LASTRET)
    found = last_return(harness_lab, subject)
    ready = harness_lab.parked_trial(subject, workload, 1, found, 1)
    result = trial.run_trial(ready)
    assert "unloaded under task in lastret_thread" in {one.title for one in result.findings}
    path = bundle.write_bundle(tmp_path, ready, result, subject.archive, "")
    # Where this machine keeps things is nobody's business, and not the same elsewhere.
    folder = str(harness_lab.cache.root).encode()
    assert not [one for one in path.rglob("*") if one.is_file() and folder in one.read_bytes()]
    again, differences = harness_lab.replay_trial(bundle.load_bundle(path))
    assert differences == ()
    assert again.spec.plan == str(found)
    for _ in range(3):
        replay = trial.run_trial(again)
        assert replay.evidence.console == result.evidence.console
        assert replay.evidence.report == result.evidence.report


def test_mount_holds_what_it_needs_and_no_owner_does_not(harness_lab: Lab) -> None:
    text = "cycler poolfs_create+0x0 #1 then delete_module"
    assert park(harness_lab, "good", "load-unload", text).verdict is Verdict.PROTECTED
    outcome = park(harness_lab, "no-owner", "load-unload", text)
    assert outcome.verdict is Verdict.FINDING
    assert outcome.detail == "unloaded under task in poolfs_create"


@pytest.mark.parametrize("role", ["init", "remover"])
def test_users_run_while_init_is_stopped(harness_lab: Lab, role: str) -> None:
    text = f"{role} poolfs_module_init+0x0 #1 then users"
    outcome = park(harness_lab, "good", "mounts-vs-rmmod", text)
    assert outcome.verdict is Verdict.CLEAN


def test_real_time_task_is_stopped_in_init(harness_lab: Lab) -> None:
    """Its breakpoint is set while it is on its way into init, and may not sleep for that."""
    text = "unloader hooknet_ledger_init+0x0 #1 then users"
    outcome = park(harness_lab, "good", "came-between-vs-unload", text, family="hooknet")
    assert (outcome.verdict, outcome.findings) == (Verdict.CLEAN, ())


def test_users_run_while_exit_is_stopped(harness_lab: Lab) -> None:
    text = "unloader poolfs_module_exit+0x0 #1 then users"
    # Whether an unload comes between the mounts is left to chance.
    assert park(harness_lab, "good", "mounts-vs-rmmod", text, cycles=8).verdict is Verdict.CLEAN


@pytest.mark.parametrize(
    "action", [one for one in Action if one not in (Action.TWO_STAGE, Action.UNBIND)]
)
def test_every_action_of_a_correct_module_is_harmless(harness_lab: Lab, action: Action) -> None:
    text = f"user.* poolfs_create+0x0 #1 then {action.value}"
    outcome = park(harness_lab, "good", "files-vs-rmmod", text, cycles=4)
    assert outcome.findings == ()
    assert outcome.verdict in (Verdict.PROTECTED, Verdict.CLEAN, Verdict.WAITED, Verdict.LATE)


#: Somebody reads from a device whose driver is unbound meanwhile.
READ_ONE = """
about: A letter from the device.
surfaces: [module, device]
lanes:
  det: {bound_us: 5000000}
setup:
  - finit_module: ${ko}
actors:
  - name: user
    do:
      - open: {slot: 0, path: "/dev/${device}"}
      - read: {slot: 0, count: 1}
      - close: 0
teardown:
  - delete_module: ${module}
    expect: [ok, ENOENT]
"""


@pytest.mark.parametrize("variant", ["good", "freed-at-unbind"])
def test_driver_is_unbound_under_a_reader(harness_lab: Lab, variant: str, tmp_path: Path) -> None:
    (tmp_path / "read-one.yaml").write_text(READ_ONE)
    found = scenario.load_scenario(tmp_path / "read-one.yaml")
    subject = subject_of(harness_lab, families.load_family(DATA / "unbound"), variant)
    given = [plan.parse("user unbound_read+0x0 #1 then unbind")]
    done = sweep.run_sweep(
        harness_lab, subject, [found], seed=1, cycles=None, workers=1, given=given
    )
    (outcome,) = done.outcomes
    promised = subject.family.variants[variant].expect
    assert [re.fullmatch(title, one) is not None for one in done.found for title in promised] == [
        True for _ in promised
    ]
    assert bool(outcome.findings) == bool(promised)
    if not promised:
        # The open file keeps the module.
        assert outcome.verdict is Verdict.PROTECTED


def test_report_of_a_finding_becomes_the_plan_that_shows_it(harness_lab: Lab) -> None:
    subject = subject_of(harness_lab, LASTRET, MISTAKE)
    (workload,) = workloads_of(LASTRET)
    known = harness_lab.points(subject.module.ko)
    ready = harness_lab.parked_trial(subject, workload, 1, last_return(harness_lab, subject), 1)
    result = trial.run_trial(ready)
    text = lab.decoded(result, harness_lab.kernel("6.1", "kasan"))
    plans = sweep.plans_from_report(text, "lastret", known, hits=1)
    done = sweep.run_sweep(
        harness_lab, subject, [workload], seed=1, cycles=1, workers=1, given=plans
    )
    splat = next(one for one in result.findings if one.kind is verdict.Kind.SPLAT)
    assert done.found[splat.title].plan.function == "lastret_thread"


def test_hold_is_real(harness_lab: Lab) -> None:
    """Control: the same unload without the hold goes by unseen."""
    subject = subject_of(harness_lab, LASTRET, MISTAKE)
    (workload,) = workloads_of(LASTRET)
    ready = harness_lab.parked_trial(subject, workload, 1, Plan("*", "lastret_open", 0, 10**15), 1)
    result = trial.run_trial(dataclasses.replace(ready))
    assert result.findings == ()
