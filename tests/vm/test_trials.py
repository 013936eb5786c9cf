# SPDX-License-Identifier: GPL-2.0-only
"""Whole trials, in guests. TCG is enough."""

import os
import re
import sys
from pathlib import Path

import pytest

from harness import bundle, families, lab, proc, report, trial
from harness.errors import BuildError
from harness.lab import Lab
from harness.machine import Lane

pytestmark = pytest.mark.vm

POOLFS = families.find_family("poolfs")
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
    name = "no-rcu-barrier"
    _, result = first_caught(harness_lab, name, POOLFS.variants[name].expect)
    text = lab.decoded(result, harness_lab.kernel("6.1", "kasan"))
    assert re.search(r" (kernel|mm)/\S+\.c:\d+", text)
    assert re.search(r" poolfs/\w+\.c:\d+", text)
    assert str(harness_lab.cache.root) not in text


def test_module_that_does_not_compile(harness_lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "Kbuild").write_text("obj-m := broken.o\n")
    (tmp_path / "broken.c").write_text("#include <linux/module.h>\nint x = nonsense;\n")
    with pytest.raises(BuildError, match=r"broken: does not compile for 6\.1") as caught:
        harness_lab.build(str(tmp_path), "good", "6.1", "kasan")
    assert "broken.c:2:9: error:" in caught.value.evidence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Kbuild", "broken.c"]
