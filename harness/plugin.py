# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin: fixtures that put a module to the test; matrix files and modules as tests.

A finding is a test failure that shows its title, the decoded stack and the
command that replays it. Trouble of the harness itself is an error.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from harness import (
    battery,
    bundle,
    checkfile,
    families,
    kernels,
    lab,
    matrixdoc,
    matrixplan,
    matrixrun,
    ownsource,
    report,
    scenario,
    store,
)
from harness.bench import Bench, Found, Options, Outcome
from harness.checkfile import CheckFile
from harness.errors import HarnessError, InfrastructureError, UsageError
from harness.guest import Guest, start_guest
from harness.lab import Lab
from harness.machine import Lane
from harness.matrixlab import LabRunner
from harness.matrixplan import Cell, Matrix
from harness.matrixrun import Run, Runner, State
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
        "--kernel", metavar="NAME[,NAME]",
        help="kernels that guests run (default: 6.1; of a matrix file: all of its own)",
    )  # fmt: skip
    group.addoption(
        "--profile", default=kernels.DEFAULT_PROFILE, help="its configuration (default: kasan)"
    )
    group.addoption(
        "--harness-check", type=Path, action="append", default=[], metavar="DIR",
        help="put the module in this folder through every test of `harness check`; may be repeated",
    )  # fmt: skip
    group.addoption(
        "--bundles", type=Path, default=Path("runs"), help="where bundles go (default: runs)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the options before anything is collected."""
    # Tests that `harness minimise --as pytest` writes have it.
    config.addinivalue_line("markers", "vm: boots or clones QEMU guests (TCG is enough)")
    try:
        for name in _kernels(config):
            kernels.load_recipe(name, config.getoption("--profile"))
        folders = [_build_file(path) for path in config.getoption("--harness-check")]
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    if folders and config.args_source is not pytest.Config.ArgsSource.ARGS:
        # Who names a module wants its tests, and not those of the folder he stands in.
        config.args = []
    # A worker of pytest-xdist is given the arguments of its master, these included.
    config.args += [path for path in map(os.fspath, folders) if path not in config.args]


def _build_file(folder: Path) -> Path:
    """Return the file that stands for a module's folder: pytest collects files."""
    families.find_family(os.fspath(folder))
    names = (checkfile.NAME, "Kbuild", "Makefile")
    return next(folder / name for name in names if (folder / name).is_file())


def _kernels(config: pytest.Config) -> tuple[str, ...]:
    """Return the kernels that were asked for, or the default one."""
    asked = config.getoption("--kernel")
    return tuple(dict.fromkeys(asked.split(","))) if asked else (kernels.DEFAULT_KERNEL,)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses a kernel once for each, where several were asked for."""
    names = _kernels(metafunc.config)
    if len(names) > 1 and "kernel_name" in metafunc.fixturenames:
        metafunc.parametrize("kernel_name", names, indirect=True, scope="session")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Take a matrix file that was named on the command line, and every module's harness.yaml."""
    if file_path.name.endswith("matrix.yaml") and parent.session.isinitpath(file_path):
        return MatrixFile.from_parent(parent, path=file_path)
    asked = (path.resolve() for path in parent.config.getoption("--harness-check"))
    if file_path.name == checkfile.NAME or (
        file_path.name in ("Kbuild", "Makefile") and file_path.parent.resolve() in asked
    ):
        return CheckedFile.from_parent(parent, path=file_path)
    return None


class MatrixFile(pytest.File):
    """A matrix file."""

    def collect(self) -> Iterator[MatrixItem]:
        """Yield a test for each cell on the kernels that were asked for."""
        try:
            matrix = matrixplan.load_matrix(self.path)
            own = frozenset(cell.id for cell in matrix.cells)
            if self.config.getoption("--kernel"):
                own = matrix.only_kernels(_kernels(self.config))
        except UsageError as error:
            raise self.CollectError(str(error)) from error
        for cell in matrix.cells:
            if cell.id in own:
                yield MatrixItem.from_parent(self, name=cell.id, matrix=matrix, cell=cell)


class _Nowhere:
    """pytest knows what became of a cell; nobody goes on with it."""

    def append(self, entry: Mapping[str, Any]) -> None:
        pass


class MatrixItem(pytest.Item):
    """A cell of a matrix."""

    def __init__(self, *, matrix: Matrix, cell: Cell, **rest: Any) -> None:
        super().__init__(**rest)
        self._matrix = matrix
        self._cell = cell

    def runtest(self) -> None:
        """Run the cell's trials; a finding that was not promised fails."""
        if self._cell.skip is not None:
            pytest.skip(self._cell.skip)
        state = State()
        runner = cell_runner(self.config)
        Run(self._matrix, frozenset([self._cell.id]), state, _Nowhere(), runner).run_cell(
            self._cell
        )
        found = matrixrun.result(self._cell, state.of(self._cell.id))
        if found.state == "error":
            raise InfrastructureError(f"{found.id}: {found.why}")
        if found.agrees is False:
            pytest.fail(_cell_text(found), pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        # Not the name alone: pytest would take its dots for those of a Python name.
        return self.path, None, f"cell {self.name}"


def cell_runner(config: pytest.Config) -> Runner:
    """Return what runs cells: one trial at a time where pytest itself has workers."""
    parallel = 1 if hasattr(config, "workerinput") else os.cpu_count() or 1
    bundles = config.rootpath / config.getoption("--bundles")
    return LabRunner(_session_lab(config), workers=parallel, bundles=bundles)


class CheckedFile(pytest.File):
    """A module: what ``harness check`` would put it through."""

    def collect(self) -> Iterator[CheckItem]:
        """Yield an item for each test, on each kernel that was asked for."""
        try:
            family = families.find_family(os.fspath(self.path.parent))
            settings = checkfile.load(family.home, battery.NAMES)
        except UsageError as error:
            raise self.CollectError(str(error)) from error
        names = _kernels(self.config)
        for kernel in names:
            bench = functools.cache(functools.partial(self._bench, settings, kernel))
            for test in battery.choose([], sweep_too=False):
                name = f"{test.name}[{kernel}]" if len(names) > 1 else test.name
                yield CheckItem.from_parent(self, name=name, test=test, bench=bench)

    def _bench(self, settings: CheckFile, kernel: str) -> Bench:
        return check_bench(self.config, self.path.parent, settings, kernel)


def check_bench(config: pytest.Config, folder: Path, settings: CheckFile, kernel: str) -> Bench:
    """Return a bench with a folder's module on it; made when the first of its tests runs."""
    made = _session_lab(config)
    profile = config.getoption("--profile")
    own = ownsource.resolve(made, os.fspath(folder), kernel=kernel, profile=profile)
    options = Options(
        kernel=own.kernel,
        profile=own.profile,
        lanes=(Lane.DET, Lane.SMP),
        seeds=battery.SEEDS,
        workers=1 if hasattr(config, "workerinput") else os.cpu_count() or 1,
        bundles=config.rootpath / config.getoption("--bundles"),
    )
    return Bench(made, own.family, settings, options, _progress(config))


class CheckItem(pytest.Item):
    """One test of the battery on one module."""

    def __init__(self, *, test: battery.Test, bench: Callable[[], Bench], **rest: Any) -> None:
        super().__init__(**rest)
        self._test = test
        self._bench = bench

    def runtest(self) -> None:
        """Run the test; a finding fails it."""
        bench = self._bench()
        battery.check_settings(bench)
        result = battery.run_test(bench, self._test)
        match result.outcome:
            case Outcome.SKIPPED:
                pytest.skip(result.why)
            case Outcome.ERROR:
                raise InfrastructureError(f"{self.name}: {result.why}")
            case Outcome.FINDING:
                pytest.fail("\n\n".join(map(_found_text, result.found)), pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"check {self.name}"


def _found_text(found: Found) -> str:
    text = f"{found.finding.kind.value}: {found.finding.title}"
    if found.bundle is None:
        return text
    return text + _bundle_text(found.bundle)


def _cell_text(found: matrixdoc.Cell) -> str:
    text = f"{found.id}: {found.findings} of {found.trials} trials had findings\n  "
    text += found.why or found.title or ""
    return text if found.bundle is None else text + _bundle_text(Path(found.bundle))


def _bundle_text(path: Path) -> str:
    try:
        text = "\n\n" + (path / "findings.txt").read_text()
    except OSError as error:
        text = f"\n\n{path}: cannot be read: {error.strerror}\n"
    return f"{text}\nreplay: {report.replay_command(path)}"


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
    return _session_lab(pytestconfig)


def _session_lab(config: pytest.Config) -> Lab:
    if _LAB not in config.stash:
        config.stash[_LAB] = Lab(store.Store.open(), _progress(config))
    return config.stash[_LAB]


@pytest.fixture(scope="session")
def kernel_name(request: pytest.FixtureRequest) -> str:
    """The kernel that was asked for with ``--kernel``; of several, each in turn."""
    return str(getattr(request, "param", _kernels(request.config)[0]))


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
