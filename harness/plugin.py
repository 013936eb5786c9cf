# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin: fixtures that put a module to the test.

A finding is a test failure that shows its title, the decoded stack and the
command that replays it. Trouble of the harness itself is an error.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from harness import bundle, kernels, lab, report, scenario, store
from harness.errors import HarnessError, UsageError
from harness.guest import Guest, start_guest
from harness.lab import Lab
from harness.machine import Lane
from harness.modules import Module
from harness.trial import TrialResult, run_trial

_LAB = pytest.StashKey[Lab]()


class Build(Protocol):
    """What the fixture ``build`` is."""

    def __call__(self, folder: str | Path, variant: str = "good") -> Module: ...


class RunScenario(Protocol):
    """What the fixture ``run_scenario`` is."""

    def __call__(
        self,
        folder: str | Path,
        plan: str,
        *,
        seed: int = 0,
        variant: str = "good",
        lane: str = "det",
        check: bool = True,
    ) -> TrialResult: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose the kernel and where bundles go."""
    group = parser.getgroup("kmod-harness", "kernel modules in QEMU guests")
    group.addoption(
        "--kernel", default=kernels.DEFAULT_KERNEL, help="kernel that guests run (default: 6.1)"
    )
    group.addoption(
        "--profile", default=kernels.DEFAULT_PROFILE, help="its configuration (default: kasan)"
    )
    group.addoption(
        "--bundles", type=Path, default=Path("runs"), help="where bundles go (default: runs)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the options before anything is collected."""
    try:
        kernels.load_recipe(config.getoption("--kernel"), config.getoption("--profile"))
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make trouble of the harness an error: a test that was never run did not fail."""
    made = yield
    if call.excinfo is not None and call.excinfo.errisinstance(HarnessError):
        made.longrepr = f"{call.excinfo.type.__name__}: {call.excinfo.value}"
        if call.when == "call":
            # pytest knows an error by its phase.
            made.when = "setup"
    return made


def _progress(config: pytest.Config) -> report.Progress:
    """Return what says how far a kernel build is; workers of xdist have no terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or capture is None:
        return lambda what, done: None
    line = report.ProgressLine()

    def say(what: str, done: float | None) -> None:
        with capture.global_and_fixture_disabled():
            line(what, done)

    return say


@pytest.fixture(scope="session")
def harness_lab(pytestconfig: pytest.Config) -> Lab:
    """Everything that trials are made from, looked up once a session.

    Kernel, image and templates come from the cache; several workers that need
    the same one make it once.
    """
    if _LAB not in pytestconfig.stash:
        pytestconfig.stash[_LAB] = Lab(store.Store.open(), _progress(pytestconfig))
    return pytestconfig.stash[_LAB]


@pytest.fixture(scope="session")
def kernel_name(pytestconfig: pytest.Config) -> str:
    """The kernel that was asked for with ``--kernel``."""
    return str(pytestconfig.getoption("--kernel"))


@pytest.fixture(scope="session")
def profile_name(pytestconfig: pytest.Config) -> str:
    """The profile that was asked for with ``--profile``."""
    return str(pytestconfig.getoption("--profile"))


@pytest.fixture(scope="session")
def build(harness_lab: Lab, kernel_name: str, profile_name: str) -> Build:
    """Compile a module: ``build("kmods/poolfs", "good")``."""

    def compiled(folder: str | Path, variant: str = "good") -> Module:
        return harness_lab.build(os.fspath(folder), variant, kernel_name, profile_name)

    return compiled


@pytest.fixture
def guest(harness_lab: Lab, kernel_name: str, profile_name: str) -> Iterator[Guest]:
    """A guest of its own for this test, over SSH; what its kernel reports fails the test."""
    template, keys = harness_lab.ssh(kernel_name, profile_name, Lane.SMP)
    with start_guest(template, keys) as started:
        yield started
        splats = started.splats()
        console = started.console()
        lives = started.lives
    if splats:
        kernel = harness_lab.kernel(kernel_name, profile_name)
        titles = "\n".join(f"  splat: {splat.title}" for splat in splats)
        printed = "\n".join(
            console[splat.start : splat.end].decode(errors="backslashreplace") for splat in splats
        )
        text = lab.decode_text(printed, kernel, lives)
        pytest.fail(f"the guest's kernel reported:\n{titles}\n\n{text}", pytrace=False)


@pytest.fixture
def run_scenario(
    harness_lab: Lab, kernel_name: str, profile_name: str, pytestconfig: pytest.Config
) -> RunScenario:
    """Run one trial in a pristine clone: ``run_scenario("kmods/poolfs", "load-unload", seed=7)``.

    A finding fails the test, unless ``check=False`` asks for the result.
    """

    def run(
        folder: str | Path,
        plan: str,
        *,
        seed: int = 0,
        variant: str = "good",
        lane: str = "det",
        check: bool = True,
    ) -> TrialResult:
        __tracebackhide__ = True
        subject = harness_lab.subject(
            os.fspath(folder), variant, kernel_name, profile_name, Lane(lane)
        )
        read = scenario.load_scenario(scenario.find_scenario(plan))
        trial = harness_lab.trial(subject, read, seed)
        result = run_trial(trial)
        if result.findings and check:
            kernel = harness_lab.kernel(kernel_name, profile_name)
            text = lab.decoded(result, kernel)
            root = pytestconfig.rootpath / pytestconfig.getoption("--bundles")
            path = bundle.write_bundle(root, trial, result, subject.archive, text)
            pytest.fail(report.failure_text(result, text, path), pytrace=False)
        return result

    return run
