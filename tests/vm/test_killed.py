# SPDX-License-Identifier: GPL-2.0-only
"""SIGKILL of whatever takes part: no guest is left, and nothing counts as passed."""

import contextlib
import os
import select
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import families, lab, trial
from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.lab import Lab
from harness.machine import Lane

pytestmark = pytest.mark.vm

#: More trials than are done before somebody is killed.
ENDLESS = """
import pytest

@pytest.mark.parametrize("seed", range(100))
def test_it(run_scenario, seed):
    run_scenario("poolfs", "held-vs-rmmod", seed=seed)
"""


def good_trial(made: Lab) -> trial.Trial:
    family = families.find_family("poolfs")
    subject = made.subject(str(family.folder), "good", "6.1", "kasan", Lane.DET)
    return made.trial(subject, lab.family_scenarios(family, "good")[1], 1)


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


def descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield int(child)
                yield from descendants(int(child))


def assert_gone(handles: list[int]) -> None:
    for handle in handles:
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            assert selector.select(60), "a guest outlived its harness"
        os.close(handle)


def test_guest_whose_qemu_is_killed_is_an_error_and_never_a_pass(harness_lab: Lab) -> None:
    ready = good_trial(harness_lab)
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
    good_trial(harness_lab)
    argv = [sys.executable, "-m", "harness.cli", "run", "poolfs", "--seeds", "1:100",
            "--bundles", str(tmp_path)]  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as harness:
        guests = await_guests(harness.pid, b"-incoming")
        handles = [os.pidfd_open(pid) for pid in guests]
        harness.kill()
    assert_gone(handles)


@pytest.fixture
def project(
    harness_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[bytes]]:
    """A run of pytest with two workers in somebody's project, each with a guest."""
    good_trial(harness_lab)
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(harness_lab.cache.root))
    (tmp_path / "test_endless.py").write_text(ENDLESS)
    argv = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"]
    with (
        (tmp_path / "output").open("wb") as output,
        subprocess.Popen(argv, cwd=tmp_path, stdout=output, stderr=output) as run,
    ):
        yield run
        run.kill()


def workers_with_guests(pytest_pid: int) -> list[int]:
    deadline = Deadline.after(600)
    while True:
        found = [pid for pid in descendants(pytest_pid) if guests_of(pid, b"-incoming")]
        if len(found) >= 2:
            return found
        assert not deadline.expired, "the workers started no guests"
        select.select([], [], [], 0.05)


def test_killed_pytest_leaves_no_guest(project: subprocess.Popen[bytes]) -> None:
    workers = workers_with_guests(project.pid)
    guests = [guest for worker in workers for guest in guests_of(worker, b"-incoming")]
    handles = [os.pidfd_open(guest) for guest in guests]
    project.kill()
    assert_gone(handles)


def test_killed_worker_leaves_no_guest_and_its_test_does_not_pass(
    project: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    worker = workers_with_guests(project.pid)[0]
    handles = [os.pidfd_open(guest) for guest in guests_of(worker, b"-incoming")]
    os.kill(worker, signal.SIGKILL)
    assert_gone(handles)
    # The other worker, and one that takes the dead one's place, go on until told to stop.
    workers_with_guests(project.pid)
    project.send_signal(signal.SIGINT)
    project.wait(600)
    shown = (tmp_path / "output").read_text()
    assert "worker 'gw" in shown
    assert "crashed" in shown
