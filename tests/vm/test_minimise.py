# SPDX-License-Identifier: GPL-2.0-only
"""From a stress scenario's finding to a small program, a C file and a verdict on a fix."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

import pytest

from harness import bundle, cli, families, lab, scenario, shrink
from harness.deadline import Deadline
from harness.errors import ExitStatus, GuestError
from harness.guest import start_guest
from harness.lab import Lab
from harness.machine import Lane
from harness.program import Op, Program, walk

pytestmark = pytest.mark.vm

SEEDS = range(1, 9)
GUEST_LIMIT_S = 300.0


@pytest.fixture(scope="module")
def stress_bundle(harness_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a scenario of five actors shows of a module that nobody counts as in use."""
    root = tmp_path_factory.mktemp("runs")
    return bundle_of(harness_lab, "no-owner", "files-vs-rmmod", root)


def bundle_of(made: Lab, variant: str, name: str, root: Path) -> Path:
    """Return the bundle of what the first seed shows that shows anything of a poolfs."""
    folder = families.find_family("poolfs").folder
    subject = made.subject(str(folder), variant, "6.1", "kasan", Lane.DET)
    plan = scenario.load_scenario(scenario.find_scenario(name))
    trials = (made.trial(subject, plan, seed) for seed in SEEDS)
    for trial, result in lab.run_trials(trials, 1, stop=lambda result: bool(result.findings)):
        if result.findings:
            return bundle.write_bundle(root, trial, result, subject.archive, "")
    pytest.fail(f"poolfs {variant}: no finding with {len(SEEDS)} seeds")


def test_program_gets_small_and_its_c_file_shows_the_same(
    harness_lab: Lab, stress_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bundle.load_bundle(stress_bundle)
    assert len(Program.parse(found.program).actors) == 5
    source = tmp_path / "reproducer.c"
    argv = ["minimise", str(stress_bundle), "--as", "c", "--out", str(source)]
    assert cli.main(argv) == ExitStatus.FINDINGS
    capsys.readouterr()

    (path,) = (stress_bundle.parent / "minimised").iterdir()
    least = bundle.load_bundle(path)
    assert least.titles[0] == found.titles[0]
    program = Program.parse(least.program)
    for actor in program.actors:
        assert sum(isinstance(node, Op) for _, node in walk(actor.body)) <= 3, least.program
    assert shrink.size(program).ops < shrink.size(Program.parse(found.program)).ops
    # The small one replays as the large one did.
    assert cli.main(["replay", str(path), "--times", "3"]) == ExitStatus.FINDINGS
    assert "same console bytes: 3 of 3" in capsys.readouterr().out

    binary = tmp_path / "reproducer"
    subprocess.run(["cc", "-static", "-o", binary, source], check=True)
    command = "/tmp/reproducer /tmp"
    assert found.titles[0] in titles_of_program(harness_lab, binary, command, least)


def test_script_shows_the_same(
    harness_lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle_of(harness_lab, "pool-busy", "load-unload", tmp_path / "runs")
    script = tmp_path / "reproducer"
    argv = ["minimise", str(path), "--as-it-is", "--as", "sh", "--out", str(script)]
    assert cli.main(argv) == ExitStatus.FINDINGS
    found = bundle.load_bundle(path)
    seen = titles_of_program(harness_lab, script, "sh /tmp/reproducer /tmp", found)
    assert found.titles[0] in seen


def titles_of_program(made: Lab, program: Path, command: str, found: bundle.Bundle) -> set[str]:
    """Run a program in guests without the executor's help, and return what their kernels say."""
    template, keys = made.ssh("6.1", "kasan", Lane.SMP)
    seen: set[str] = set()
    for _ in range(4):
        with start_guest(template, keys) as guest:
            deadline = Deadline.after(GUEST_LIMIT_S)
            guest.put(program.read_bytes(), "/tmp/reproducer", mode=0o755, deadline=deadline)
            for name, ko in found.symbols.items():
                guest.put(ko.read_bytes(), f"/tmp/{name}.ko", deadline=deadline)
            # A panic takes the connection with it.
            with contextlib.suppress(GuestError):
                guest.run(command, check=False, deadline=deadline)
            seen |= {splat.title for splat in guest.splats()}
        if set(found.titles) & seen:
            break
    return seen


@pytest.mark.parametrize(
    ("variant", "verdict", "status"),
    [("good", "fixed", ExitStatus.OK), ("no-owner", "still there", ExitStatus.FINDINGS)],
)
def test_change_is_judged(
    stress_bundle: Path, tmp_path: Path, variant: str, verdict: str, status: ExitStatus
) -> None:
    out = tmp_path / "out.json"
    argv = ["verify", str(stress_bundle), "--module", "poolfs", "--variant", variant,
            "--json", str(out), "--bundles", str(tmp_path)]  # fmt: skip
    assert cli.main(argv) == status
    document = json.loads(out.read_text())
    assert document["verdict"] == verdict
    assert document["before"]["hits"] > 0


def test_regression_test_fails_until_the_module_is_mended(
    harness_lab: Lab,
    stress_bundle: Path,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # pytester gives its runs a home of their own; a kernel takes minutes to build.
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(harness_lab.cache.root))
    out = pytester.path / "test_regression.py"
    argv = ["minimise", str(stress_bundle), "--as-it-is", "--as", "pytest", "--out", str(out)]
    assert cli.main(argv) == ExitStatus.FINDINGS
    text = out.read_text().replace("Path(__file__).parent", repr("poolfs"))
    out.write_text(text)
    failed = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-x")
    failed.assert_outcomes(failed=1)
    out.write_text(text.replace('"no-owner"', '"good"'))
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=4)


def test_report_of_a_user_becomes_a_bundle(tmp_path: Path) -> None:
    examples = Path(__file__).parents[2] / "examples" / "reports"
    out = tmp_path / "out.json"
    argv = ["reproduce", str(examples / "gadget.yaml"), "--seconds", "300", "--no-minimise",
            "--json", str(out), "--bundles", str(tmp_path)]  # fmt: skip
    assert cli.main(argv) == ExitStatus.FINDINGS
    document = json.loads(out.read_text())
    assert document["title"] == "KASAN: use-after-free Read in dkkeeper_exit"
    assert document["rate"]["hits"] > 0
    assert bundle.load_bundle(Path(document["bundle"])).titles[0] == document["title"]
