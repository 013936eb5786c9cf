# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that were not compiled here run trials as those that were."""

from pathlib import Path

import pytest

from harness import scenario
from harness.deadline import Deadline
from harness.guest import start_guest
from harness.lab import Lab
from harness.machine import Lane
from harness.trial import TrialResult, run_trial

pytestmark = pytest.mark.vm

PLAN = scenario.load_scenario(scenario.find_scenario("load-unload"))


def run(made: Lab, variant: str, kernel: str, profile: str) -> TrialResult:
    # Seed 0 looks for leaks, where the kernel can.
    subject = made.subject("poolfs", variant, kernel, profile, Lane.DET)
    return run_trial(made.trial(subject, PLAN, seed=0))


def test_debians_binary_finds_what_it_can(harness_lab: Lab) -> None:
    kernel = harness_lab.kernel("6.1", "distro")
    assert "KASAN" not in kernel.detectors
    assert "page poison" in kernel.detectors
    assert run(harness_lab, "good", "6.1", "distro").findings == ()
    found = run(harness_lab, "leak-pool", "6.1", "distro").findings
    assert "residue: slab cache poolfs_inode" in {finding.title for finding in found}
    found = run(harness_lab, "no-unregister", "6.1", "distro").findings
    # The kernel's own report, with functions but no KASAN.
    assert found[0].title.startswith("BUG: unable to handle kernel paging request in ")


def test_debians_binary_is_reached_over_ssh(harness_lab: Lab) -> None:
    template, keys = harness_lab.ssh("6.1", "distro", Lane.SMP)
    kernel = harness_lab.kernel("6.1", "distro")
    with start_guest(template, keys) as guest:
        shown = guest.run("uname -r; cat /proc/cmdline; lsmod", deadline=Deadline.after(120)).text
    assert shown.splitlines()[0] == kernel.release
    assert "slub_debug=FZPU" in shown
    assert "virtio_net" in shown


def test_a_built_tree_is_used_as_it_is(harness_lab: Lab, tmp_path: Path) -> None:
    tree = harness_lab.kernel().build
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nprovider: tree\npath: {tree}\n")
    kernel = harness_lab.kernel(str(path), "kasan")
    assert kernel.release == harness_lab.kernel().release
    assert kernel.build.resolve() == tree.resolve()
    assert run(harness_lab, "good", str(path), "kasan").findings == ()
