# SPDX-License-Identifier: GPL-2.0-only
"""Cells as test items, and tests on several kernels: with trials that are made up."""

import pytest

CONFTEST = """
from harness import plugin
from harness.errors import QemuError
from harness.matrixdoc import MadeKernel
from harness.matrixrun import Prepared


class Runner:
    def prepare(self, cell):
        if cell.variant == "pool-busy":
            raise QemuError("QEMU did not start")
        made = MadeKernel(name="", profile="", release="", version="", compiler="")
        return Prepared(made, "tcg")

    def trials(self, cell, seeds):
        for seed in seeds:
            hit = cell.variant != "good" and seed == 1
            yield {
                "seed": seed, "findings": [{"kind": "splat", "title": "BUG in g"}] if hit else [],
                "bundle": "runs/b" if hit else None, "wall_s": 1.0,
            }

    def discard(self, bundles):
        pass


plugin.cell_runner = lambda config: Runner()
"""

MATRIX = """
kernels: [5.10, 6.1, 7.2]
modules:
  - {module: poolfs, variants: [good, pool-busy, no-owner]}
  - {module: hooknet, variants: [timer-not-synced]}
seeds: 0:2
"""


@pytest.fixture(autouse=True)
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(pytester.path / "cache"))
    pytester.makeconftest(CONFTEST)
    (pytester.path / "my-matrix.yaml").write_text(MATRIX)


def run(pytester: pytest.Pytester, *argv: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-v", *argv)


def test_cells_are_test_items(pytester: pytest.Pytester) -> None:
    (pytester.path / "runs" / "b").mkdir(parents=True)
    (pytester.path / "runs" / "b" / "findings.txt").write_text("the decoded stack\n")
    result = run(pytester, "--kernel", "5.10,6.1", "my-matrix.yaml")
    result.assert_outcomes(passed=2, failed=2, errors=2, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "my-matrix.yaml::poolfs/good@5.10-kasan-det PASSED*",
            "my-matrix.yaml::poolfs/no-owner@5.10-kasan-det FAILED*",
            "my-matrix.yaml::hooknet/timer-not-synced@5.10-kasan-det SKIPPED*",
            "poolfs/no-owner@5.10-kasan-det: 1 of 2 trials had findings",
            "  not promised: BUG in g (1 of 2 trials; seeds 1)",
            "the decoded stack",
            "replay: harness replay runs/b",
        ]
    )
    result.stdout.fnmatch_lines(["*poolfs/pool-busy@6.1-kasan-det: QEMU did not start"])


def test_without_a_choice_all_kernels_of_the_file_are_run(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--collect-only", "my-matrix.yaml")
    result.stdout.fnmatch_lines(["*poolfs/good@7.2-kasan-det*", "*12 tests collected*"])


def test_bundle_that_is_not_there_is_said(pytester: pytest.Pytester) -> None:
    result = run(pytester, "my-matrix.yaml", "-k", "no-owner and 7.2")
    result.assert_outcomes(failed=1, deselected=11)
    result.stdout.fnmatch_lines(["runs/b: cannot be read: No such file or directory"])


def test_matrix_that_nobody_named_is_not_collected(pytester: pytest.Pytester) -> None:
    assert run(pytester).ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_malformed_matrix_is_an_error_with_its_line(pytester: pytest.Pytester) -> None:
    (pytester.path / "my-matrix.yaml").write_text("kernels: [2.4]\nmodules: [poolfs]\n")
    result = run(pytester, "my-matrix.yaml")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*my-matrix.yaml:1: kernels?0?: kernel '2.4': unknown*"])


def test_kernel_that_the_matrix_has_not(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--kernel", "6.12", "my-matrix.yaml")
    result.stdout.fnmatch_lines(["*kernel '6.12': not in *my-matrix.yaml; it has 5.10, 6.1, 7.2*"])


def test_tests_are_run_on_each_kernel_that_was_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(kernel_name):
            assert kernel_name in ("5.10", "6.1")

        def test_other():
            pass
        """
    )
    result = run(pytester, "--kernel", "5.10,6.1")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*::test_it?5.10? PASSED*", "*::test_it?6.1? PASSED*"])
    result = run(pytester)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*::test_it PASSED*"])


def test_unknown_kernel_among_several(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--kernel", "6.1,2.4")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*kernel '2.4': unknown; known: 5.10, 6.1*"])
