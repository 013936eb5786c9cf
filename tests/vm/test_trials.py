# SPDX-License-Identifier: GPL-2.0-only
"""Whole trials, in guests. TCG is enough."""

import contextlib
import os
import select
import selectors
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness import bundle, lab, modules, proc, report, trial
from harness.deadline import Deadline
from harness.errors import BuildError, GuestError, HarnessError
from harness.lab import Lab
from harness.machine import Lane
from harness.plugin import RunScenario
from harness.verdict import Verdict

pytestmark = pytest.mark.vm

POOLFS = modules.find_family("poolfs")
BAD = [
    (name, variant)
    for name, variant in POOLFS.variants.items()
    if name != modules.GOOD and variant.lane == "det"
]

#: Seeds after which a bad variant must have shown itself, and what a bug of the
#: harness would cost in time if it never does.
SEEDS = range(1, 13)


def trials_of(made: Lab, variant: str, seeds: range, lane: Lane = Lane.DET) -> list[trial.Trial]:
    subject = made.subject(str(POOLFS.folder), variant, "6.1", "kasan", lane)
    plans = lab.family_scenarios(POOLFS, variant)
    return [made.trial(subject, plans[seed % len(plans)], seed) for seed in seeds]


def first_caught(made: Lab, variant: str, expect: tuple[str, ...]) -> tuple[trial.Trial, object]:
    for ready in trials_of(made, variant, SEEDS):
        result = trial.run_trial(ready)
        if report.promised_finding(result.findings, expect):
            return ready, result
    pytest.fail(f"{variant}: {expect[0]!r} was not found with {len(SEEDS)} seeds")


@pytest.mark.parametrize("plan", POOLFS.scenarios)
def test_good_module_shows_nothing(run_scenario: RunScenario, plan: str) -> None:
    result = run_scenario("poolfs", plan, seed=1)
    assert result.verdict is Verdict.PASS


def test_good_module_shows_nothing_in_smp(run_scenario: RunScenario) -> None:
    assert run_scenario("poolfs", "files-vs-rmmod", seed=1, lane="smp").verdict is Verdict.PASS


@pytest.mark.parametrize(("name", "variant"), BAD, ids=[name for name, _ in BAD])
def test_bad_variant_is_caught_with_its_own_title(
    harness_lab: Lab, name: str, variant: modules.Variant
) -> None:
    first_caught(harness_lab, name, variant.expect)


def guests_of(pid: int, marker: bytes) -> list[int]:
    """Return the children of a process whose command line has a word in it."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                with contextlib.suppress(OSError):
                    if marker in Path(f"/proc/{child}/cmdline").read_bytes():
                        found.append(int(child))
    return found


def await_guests(pid: int, marker: bytes) -> list[int]:
    """Return the guests of a process as soon as it has any.

    Nothing tells a stranger of a new child, so this looks again and again, at
    a distance that leaves the processors to the guests.
    """
    deadline = Deadline.after(600)
    while not (found := guests_of(pid, marker)):
        assert not deadline.expired, "no guest was started"
        select.select([], [], [], 0.05)
    return found


class Burner:
    """Keeps every processor busy for the length of a `with` block."""

    def __enter__(self) -> None:
        argv = [sys.executable, "-c", "while True: pass"]
        self.children = [proc.Process(argv) for _ in range(os.cpu_count() or 1)]

    def __exit__(self, *error: object) -> None:
        for child in self.children:
            child.__exit__(None, None, None)


def test_replay_prints_the_same_bytes_on_a_busy_machine(harness_lab: Lab, tmp_path: Path) -> None:
    """The claim of the det lane, in small; `harness replay --times` shows it in large."""
    name = "no-owner"
    ready, result = first_caught(harness_lab, name, POOLFS.variants[name].expect)
    kernel = harness_lab.kernel("6.1", "kasan")
    subject = harness_lab.subject(str(POOLFS.folder), name, "6.1", "kasan", Lane.DET)
    text = lab.decoded(result, kernel)
    path = bundle.write_bundle(tmp_path, ready, result, subject.archive, text)
    again, differences = harness_lab.replay_trial(bundle.load_bundle(path))
    assert differences == ()
    with Burner():
        replays = [trial.run_trial(again) for _ in range(4)]
    for replay in replays:
        assert replay.findings == result.findings
        assert replay.evidence.console == result.evidence.console
        assert replay.evidence.report == result.evidence.report


def test_other_seed_prints_other_bytes(harness_lab: Lab) -> None:
    """Without this, a guest that never ran its program would replay perfectly."""
    turn = len(POOLFS.scenarios)
    one, other = trials_of(harness_lab, "good", range(1, 2 + turn, turn))
    assert one.spec.scenario == other.spec.scenario
    reports = [trial.run_trial(ready).evidence.report for ready in (one, other)]
    assert reports[0] != reports[1]


def test_finding_is_decoded_to_source_lines(harness_lab: Lab) -> None:
    name = "no-owner"
    _, result = first_caught(harness_lab, name, POOLFS.variants[name].expect)
    text = lab.decoded(result, harness_lab.kernel("6.1", "kasan"))
    assert "fs/" in text
    assert ".c:" in text


def test_guest_whose_qemu_is_killed_is_an_error_and_never_a_pass(harness_lab: Lab) -> None:
    ready = trials_of(harness_lab, "good", range(1, 2))[0]
    outcome: list[HarnessError | trial.TrialResult] = []

    def run() -> None:
        try:
            outcome.append(trial.run_trial(ready))
        except HarnessError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    os.kill(await_guests(os.getpid(), b"-incoming")[0], signal.SIGKILL)
    thread.join()
    assert isinstance(outcome[0], HarnessError)


def test_killed_harness_leaves_no_guest(harness_lab: Lab, tmp_path: Path) -> None:
    trials_of(harness_lab, "good", range(1, 2))
    argv = [sys.executable, "-m", "harness.cli", "run", "poolfs", "--seeds", "1:100",
            "--bundles", str(tmp_path)]  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as harness:
        guests = await_guests(harness.pid, b"-incoming")
        handles = [os.pidfd_open(pid) for pid in guests]
        harness.kill()
    for handle in handles:
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            assert selector.select(60), "a guest outlived its harness"
        os.close(handle)


def test_module_that_does_not_compile(harness_lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "Kbuild").write_text("obj-m := broken.o\n")
    (tmp_path / "broken.c").write_text("#include <linux/module.h>\nint x = nonsense;\n")
    with pytest.raises(BuildError, match="broken good: does not compile") as caught:
        harness_lab.build(str(tmp_path), "good", "6.1", "kasan")
    assert "broken.c:2:9: error:" in caught.value.evidence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Kbuild", "broken.c"]


def test_set_up_that_fails_is_an_error(harness_lab: Lab) -> None:
    from harness import cpio, template

    payload = {"payload/setup": cpio.Entry(b"#!/bin/sh\necho what went wrong\nexit 7\n", 0o755)}
    below = harness_lab.booted("6.1", "kasan", Lane.DET)
    with pytest.raises(GuestError, match="set-up failed") as caught:
        template.stack_template(harness_lab.cache, below, cpio.archive(payload))
    assert "what went wrong" in caught.value.evidence
