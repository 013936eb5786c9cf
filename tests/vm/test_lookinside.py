# SPDX-License-Identifier: GPL-2.0-only
"""A debugger in a replay, and the core file of a guest that panics."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import bundle, cli, corefile, families, lab, lookinside, proc, scenario
from harness.deadline import Deadline
from harness.errors import ExitStatus, UsageError
from harness.lab import Lab
from harness.machine import INSTRUCTIONS_PER_US, Lane
from harness.trial import Trial, TrialResult

pytestmark = pytest.mark.vm

SEEDS = range(1, 13)


def finding(
    made: Lab, family: str, variant: str, name: str
) -> tuple[lab.Subject, Trial, TrialResult]:
    folder = str(families.find_family(family).folder)
    subject = made.subject(folder, variant, "6.1", "kasan", Lane.DET)
    plan = scenario.load_scenario(scenario.find_scenario(name))
    trials = (made.trial(subject, plan, seed) for seed in SEEDS)
    for trial, result in lab.run_trials(trials, 1, stop=lambda result: bool(result.findings)):
        if result.findings:
            return subject, trial, result
    pytest.fail(f"{family} {variant}: no finding with {len(SEEDS)} seeds")


def gdb(session: lookinside.Session, *commands: str) -> str:
    """As a person would, but that nobody types."""
    words = [word for command in commands for word in ("-ex", command)]
    argv = ["gdb", "-nx", "-batch", "-x", str(session.script), *words]
    return proc.run(argv, deadline=Deadline.after(600.0), merge_stderr=True).stdout.decode()


needs_gdb = pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
#: At the finding: who is there, and the pointer that it is about.
SEE = ("bt 12", r'printf "address %lx\n", info->access_addr')


@needs_gdb
def test_debugger_stops_in_the_module_and_reads_the_freed_pointer(harness_lab: Lab) -> None:
    _, trial, result = finding(harness_lab, "hooknet", "no-grace-period", "packets-vs-unload")
    said = re.search(rb"at addr ([0-9a-f]{16}) by task", result.evidence.console)
    assert said
    with lookinside.debugged(trial) as session:
        out = gdb(session, "continue", *SEE)
    assert re.search(r"hooknet_packet .* at \S*hook\.c:\d+", out), out
    assert f"address {said[1].decode()}" in out


@needs_gdb
def test_debugger_stops_before_the_finding_and_finds_it_as_it_was(harness_lab: Lab) -> None:
    _, trial, result = finding(harness_lab, "hooknet", "no-grace-period", "packets-vs-unload")
    said = re.search(rb"at addr ([0-9a-f]{16}) by task", result.evidence.console)
    assert said
    wanted = 200 * INSTRUCTIONS_PER_US
    with lookinside.debugged(trial, before=wanted) as session:
        with ThreadPoolExecutor(1) as pool:
            early = pool.submit(session.wait_early, Deadline.after(600.0))
            out = gdb(session, "continue", r'printf "early at %#lx\n", $pc', "continue", *SEE)
        left = early.result()
        console = (session.script.parent / "console.log").read_bytes()
    # A block of instructions is not stopped within, and has 512 at most (TCG_MAX_INSNS).
    assert wanted - 512 < left <= wanted
    first, second = out.split("early at ")
    assert "SIGINT" in first
    assert "print_report" not in second.partition("Breakpoint")[0]
    assert re.search(r"hooknet_packet .* at \S*hook\.c:\d+", second), out
    assert f"address {said[1].decode()}" in second
    # The clock is where it was, too: what is printed first has the same time on it.
    at = result.evidence.console.index(b"====")
    assert console[:at] == result.evidence.console[:at]


def test_stop_that_never_comes_or_lies_too_early_is_said(harness_lab: Lab, tmp_path: Path) -> None:
    _, trial, _ = finding(harness_lab, "poolfs", "leak-pool", "load-unload")
    with (
        pytest.raises(UsageError, match="its guest ends without a stop"),
        lookinside.debugged(trial, ["vmalloc_sync_nothing"], before=1),
    ):
        pass
    with (
        pytest.raises(UsageError, match=r"stops after \d+ instructions, and \d+ earlier is"),
        lookinside.debugged(trial, ["do_init_module"], before=10**12),
    ):
        pass


def test_plan_says_where_the_debugger_stops(harness_lab: Lab) -> None:
    from harness import plan as plans

    folder = str(families.find_family("lastret").folder)
    subject = harness_lab.subject(folder, "good", "6.1", "kasan", Lane.DET)
    workload = lab.family_scenarios(subject.family, "good")[0]
    point = next(one for one in harness_lab.points(subject.module.ko)
                 if one.function == "lastret_thread" and one.offset)  # fmt: skip
    plan = plans.Plan("*", point.function, point.offset)
    trial = harness_lab.parked_trial(subject, workload, 1, plan)
    assert lookinside.default_stops(trial) == (f"*(lastret_thread+{point.offset:#x})",)


def test_core_file_shows_who_crashed_and_what_is_left(
    harness_lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject, trial, result = finding(harness_lab, "poolfs", "no-owner", "files-vs-rmmod")
    path = bundle.write_bundle(tmp_path, trial, result, subject.archive, "")
    core = tmp_path / "core"
    assert cli.main(["replay", str(path), "--core", str(core)]) == ExitStatus.OK
    out = capsys.readouterr().out
    # The RCU callback that finds no pool to put the inode back to.
    assert re.search(r"^crashed: \S+ \(\d+\)$", out, re.MULTILINE), out
    assert re.search(r"^  poolfs_\w+ poolfs/\w+\.c:\d+$", out, re.MULTILINE), out
    left = re.search(r"cache poolfs_inode: (\d+) objects 0xffff", out)
    assert left, out
    assert int(left[1]) > 0
    assert f"drgn -c {core}" in out
    # It is not written over.
    assert cli.main(["replay", str(path), "--core", str(core)]) == ExitStatus.USAGE


def test_core_file_shows_who_is_in_the_module(harness_lab: Lab, tmp_path: Path) -> None:
    _, trial, _ = finding(harness_lab, "hooknet", "no-grace-period", "packets-vs-unload")
    core = tmp_path / "core"
    lookinside.dump_core(trial, core)
    kernel = trial.template.base.kernel
    assert kernel.vmlinux is not None
    corefile.add_vmcoreinfo(core, kernel.release)
    lines = corefile.view(core, kernel.vmlinux, trial.symbols)
    assert not [line for line in lines if "cannot be walked" in line], lines
    # Both that send are in the hook, one of them with functions that were inlined there.
    inside = [line for line in lines if line.startswith("inside: ")]
    assert any(
        re.fullmatch(r"inside: sender\.\d \(\d+\) in .*hooknet_packet \S*hook\.c:\d+", line)
        for line in inside
    ), lines
    assert any(line.startswith("module hooknet: ") for line in lines), lines


def test_guest_that_ends_by_itself_has_no_core(harness_lab: Lab, tmp_path: Path) -> None:
    _, trial, _ = finding(harness_lab, "poolfs", "leak-pool", "load-unload")
    with pytest.raises(UsageError, match="does not panic"):
        lookinside.dump_core(trial, tmp_path / "core")
    assert not (tmp_path / "core").exists()
