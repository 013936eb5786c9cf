# SPDX-License-Identifier: GPL-2.0-only
"""A deadlock of unload and of those it waits for is told as a hang, beside what lockdep says."""

import pytest

from harness.plugin import RunScenario
from harness.verdict import Kind

pytestmark = pytest.mark.vm

#: One of these has to bring both sides together; nearly each does.
SEEDS = range(1, 13)


def test_deadlock_is_told_as_a_hang_of_unload(run_scenario: RunScenario) -> None:
    for seed in SEEDS:
        result = run_scenario(
            "knobs", "device-vs-rmmod", seed=seed, variant="store-deadlock", check=False
        )
        hangs = {finding.title: finding for finding in result.findings if finding.kind is Kind.HANG}
        if hangs:
            break
    else:
        pytest.fail(f"no hang with {len(SEEDS)} seeds")
    assert "knobs_device_del" in hangs["hang: delete_module did not return"].detail
    # Others are still under way, and one of them is inside.
    assert any("myknob0_" in finding.detail for finding in hangs.values())
