# SPDX-License-Identifier: GPL-2.0-only
"""A family of several modules, in guests: what it finds, how that is shown and replayed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import bundle, families, klog, lab, trial
from harness.deadline import Deadline
from harness.guest import Guest
from harness.lab import Lab
from harness.machine import Lane
from harness.plugin import Build, RunScenario
from harness.trial import Trial, TrialResult
from harness.verdict import Kind, Verdict

pytestmark = pytest.mark.vm

TMEM = families.find_family("tmem")
SEEDS = range(1, 13)


def first_finding(made: Lab, variant: str) -> tuple[lab.Subject, Trial, TrialResult]:
    subject = made.subject(str(TMEM.folder), variant, "6.1", "kasan", Lane.DET)
    plans = lab.family_scenarios(TMEM, variant)
    for seed in SEEDS:
        ready = made.trial(subject, plans[seed % len(plans)], seed)
        result = trial.run_trial(ready)
        if result.findings:
            return subject, ready, result
    pytest.fail(f"{variant}: no finding with {len(SEEDS)} seeds")


def test_wrong_data_is_found_where_the_kernel_says_nothing(harness_lab: Lab) -> None:
    _, _, result = first_finding(harness_lab, "recycled-superblock")
    assert [finding.kind for finding in result.findings] == [Kind.DATA]
    assert klog.parse(result.evidence.console) == ()


def test_finding_in_one_module_is_decoded_in_all_and_replays(
    harness_lab: Lab, tmp_path: Path
) -> None:
    subject, ready, result = first_finding(harness_lab, "stale-superblock")
    text = lab.decoded(result, harness_lab.kernel("6.1", "kasan"))
    for place in ("tmem/tmem.c:", "tmem/zback.c:", "poolfs/super.c:"):
        assert place in text
    lives = [json.loads(line) for line in result.evidence.report.splitlines()]
    loaded = {event["module"]: event["loaded"] for event in lives if event["ev"] == "loaded"}
    assert loaded.keys() == {"tmem", "zback", "tpoolfs"}
    assert all(loaded.values())

    path = bundle.write_bundle(tmp_path, ready, result, subject.archive, text)
    found = bundle.load_bundle(path)
    assert found.symbols.keys() == {"tmem", "zback", "tpoolfs"}
    again, differences = harness_lab.replay_trial(found)
    assert differences == ()
    assert trial.run_trial(again).evidence.console == result.evidence.console


def test_scenario_for_one_module_does_for_one_that_stands_on_others(
    run_scenario: RunScenario,
) -> None:
    result = run_scenario("tmem", "load-unload", seed=1)
    assert result.verdict is Verdict.PASS
    assert b'"module":"tmem"' in result.evidence.report.replace(b": ", b":")


def test_what_a_module_needs_is_loaded_with_it_by_hand(guest: Guest, build: Build) -> None:
    def loaded() -> set[str]:
        shown = guest.run("cat /proc/modules", deadline=Deadline.after(120)).text
        return {line.split()[0] for line in shown.splitlines()}

    before = loaded()
    with guest.loaded(build("tmem")):
        assert loaded() - before == {"tmem", "tpoolfs"}
    assert loaded() == before
