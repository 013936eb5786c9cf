# SPDX-License-Identifier: GPL-2.0-only
"""Memory that grows with each life of a module, in guests."""

from pathlib import Path

import pytest

from harness import growth, trial, workloads
from harness.lab import Lab
from harness.machine import Lane

pytestmark = pytest.mark.vm

GROWER = Path(__file__).parent.parent / "data" / "grower"


@pytest.mark.parametrize(
    ("folder", "grown"),
    [(str(GROWER), {"grows: kmalloc-1k", "grows: pages"}), ("lastret", set())],
    ids=["grower", "lastret"],
)
def test_what_each_life_keeps_is_found(harness_lab: Lab, folder: str, grown: set[str]) -> None:
    subject = harness_lab.subject(folder, "good", "6.1", "kasan", Lane.DET)
    turns = growth.LIVES * growth.COUNTS
    plan = workloads.use(workloads.NOTHING, (), 1, turns=turns, after=[growth.count_step()])
    result = trial.run_trial(harness_lab.trial(subject, plan, 1))
    counts = growth.read_counts(result.evidence.console)
    assert [lives for lives, _ in counts] == [8, 16, 24]
    assert {"pages", "pages of per-CPU memory", "kmalloc-1k"} <= set(counts[-1][1])
    assert {one.title for one in result.findings} == grown
