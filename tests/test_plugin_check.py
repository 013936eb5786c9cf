# SPDX-License-Identifier: GPL-2.0-only
"""A module's tests as test items, in a repository of its own: with trials that are made up."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

PLUGIN = """
import pathlib

from harness import battery
from harness.battery import Test
from harness.bench import Found, Skipped
from harness.errors import GuestError
from harness.verdict import Finding, Kind


def fine(bench):
    return []


def wrong(bench):
    yield Found(Finding(Kind.RESIDUE, "residue: misc device m"), pathlib.Path("runs/b"))
    yield Found(Finding(Kind.SPLAT, "WARNING in m_exit"))


def away(bench):
    raise GuestError("the guest has gone")


def nothing(bench):
    raise Skipped(f"nothing for {bench.options.kernel}")


battery.TESTS = (
    Test("load", "", fine), Test("cycles", "", wrong), Test("use", "", away),
    Test("users", "", nothing), Test("sweep", "", wrong, extra=True),
)
"""


@pytest.fixture(autouse=True)
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(pytester.path / "cache"))
    # Not a conftest: a repository that uses the harness needs none.
    pytester.makepyfile(madeup=PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=":")
    folder = pytester.mkdir("module")
    (folder / "Kbuild").write_text("obj-m := m.o\n")


def run(pytester: pytest.Pytester, *argv: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "madeup", "-v", *argv)


def test_harness_yaml_is_collected_without_a_conftest(pytester: pytest.Pytester) -> None:
    (pytester.path / "module" / "harness.yaml").write_text("{}\n")
    pytester.makepyfile(test_other="def test_other(): assert True")
    result = run(pytester)
    result.assert_outcomes(passed=2, failed=1, errors=1, skipped=1)
    result.stdout.fnmatch_lines(["*module/harness.yaml::load PASSED*"])


def test_mark_of_written_tests_is_known_in_a_repository_of_its_own(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.vm\ndef test_other(): pass\n")
    run(pytester, "--strict-markers").assert_outcomes(passed=1)
    run(pytester, "-m", "not vm").assert_outcomes(deselected=1)


def test_folder_is_named_on_the_command_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_other="def test_other(): assert True")
    result = run(pytester, "--harness-check", "module")
    result.assert_outcomes(passed=1, failed=1, errors=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "residue: residue: misc device m",
            "replay: harness replay runs/b",
            "splat: WARNING in m_exit",
        ]
    )
    result.stdout.fnmatch_lines(["*InfrastructureError: use: the guest has gone*"])


def test_folder_beside_other_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_other="def test_other(): assert True")
    result = run(pytester, "--harness-check", "module", "test_other.py")
    result.assert_outcomes(passed=2, failed=1, errors=1, skipped=1)


def test_kbuild_file_alone_is_not_collected(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_other="def test_other(): assert True")
    run(pytester).assert_outcomes(passed=1)


def test_one_item_for_each_kernel(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--harness-check", "module", "--kernel", "5.10,6.1")
    result.assert_outcomes(passed=2, failed=2, errors=2, skipped=2)
    result.stdout.fnmatch_lines(["*module/Kbuild::load[[]5.10[]] PASSED*"])
    result.stdout.fnmatch_lines(["*nothing for 6.1*"])


def test_same_under_xdist(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--harness-check", "module", "-n", "2")
    result.assert_outcomes(passed=1, failed=1, errors=1, skipped=1)


def test_verdicts_go_into_junits_document(pytester: pytest.Pytester) -> None:
    run(pytester, "--harness-check", "module", "--junitxml", "out.xml")
    (suite,) = ElementTree.parse(pytester.path / "out.xml").getroot()
    cases = {case.get("name"): case for case in suite}
    inside = {name: [part.tag for part in case] for name, case in cases.items()}
    assert inside == {"load": [], "cycles": ["failure"], "use": ["error"], "users": ["skipped"]}
    # Whoever reads only this file knows what was found, and how to see it again.
    text = cases["cycles"][0].text or ""
    assert "residue: residue: misc device m" in text
    assert "replay: harness replay runs/b" in text
    assert "the guest has gone" in (cases["use"][0].text or "")


def test_modules_to_load_first_must_be_there(pytester: pytest.Pytester) -> None:
    (pytester.path / "module" / "harness.yaml").write_text("load_first: [cor]\n")
    made_up = pytester.path / "madeup.py"
    made_up.write_text(
        made_up.read_text()
        + """
from harness.bench import Bench
from harness.modules import Module

Bench.module = Module("m", "good", pathlib.Path("m.ko"), "", "")
"""
    )
    result = run(pytester)
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(["*load_first: no module is called 'cor'; there are: m*"])


def test_mistakes_of_the_user_are_said(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--harness-check", "nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*module 'nowhere': no such folder*"])
    (pytester.path / "module" / "harness.yaml").write_text("parameter: a=1\n")
    result = run(pytester)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*harness.yaml:1: parameter: unknown field; did you mean*"])
