# SPDX-License-Identifier: GPL-2.0-only
"""Stale pointers in the memory of real guests: found, named, and only where there are some."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness import bundle, families, lab, scenario, trial
from harness.lab import Lab
from harness.machine import Lane
from harness.program import Program
from harness.trial import Trial, TrialResult
from harness.verdict import Kind

pytestmark = pytest.mark.vm

LEAVER = Path(__file__).parent.parent / "data" / "leaver"


def prepare(
    made: Lab, folder: str, variant: str, name: str, cycles: int, *, scan: bool = True
) -> tuple[lab.Subject, Trial]:
    family = families.find_family(folder)
    subject = made.subject(str(family.folder), variant, "6.1", "kasan", Lane.DET)
    plan = scenario.load_scenario(scenario.find_scenario(name))
    return subject, made.trial(subject, plan, 1, scan=scan, cycles=cycles)


def stale(result: TrialResult) -> set[str]:
    prefix = "stale pointer: "
    return {
        finding.title.removeprefix(prefix)
        for finding in result.findings
        if finding.kind is Kind.STALE
    }


def test_pointers_count_in_what_is_kept_and_not_in_what_is_freed(harness_lab: Lab) -> None:
    """The module says itself where it leaves what; see tests/data/leaver/leaver.c."""
    _, ready = prepare(harness_lab, str(LEAVER), "good", "cycle", 1)
    result = trial.run_trial(ready)
    assert stale(result) == {
        "an object of kmalloc-1k → kept_kmalloc",
        "an object of leaver_pool → kept_pool",
        "kmem_cache.ctor of leaver_pool → pool_ctor",
        "pages of the page allocator → kept_large",
        "pages of the page allocator → kept_page",
        "struct page → kept_private",
        "memory of a module → kept_vmalloc",
        # Who asked for that memory, in the record of it.
        "*vmap_area.vm → leave_vmalloc",
        "a per-CPU allocation → kept_percpu",
        "reboot_notifier_list.head → kept_in_chain",
        "crypto_alg_list → kept_in_list",
    }


@pytest.mark.parametrize(
    ("family", "variant", "name", "title"),
    [
        ("notifyfs", "exit-forgets-notifier", "cycle", "netdev_chain.head → notifyfs_notifier"),
        ("poolfs", "leak-pool", "load-unload",
         "kmem_cache.ctor of poolfs_inode → poolfs_inode_once"),
        # The audit reads the list, and the guest dies: its memory says what of.
        ("poolfs", "no-unregister", "load-unload", "file_systems → poolfs_type"),
    ],
)  # fmt: skip
def test_what_a_variant_forgets_is_named(
    harness_lab: Lab, family: str, variant: str, name: str, title: str
) -> None:
    _, ready = prepare(harness_lab, family, variant, name, 1)
    assert stale(trial.run_trial(ready)) == {title}


def test_correct_module_leaves_none_in_fifty_cycles(harness_lab: Lab) -> None:
    _, ready = prepare(harness_lab, "poolfs", "good", "load-unload", 50)
    whole = Program.parse(ready.program)
    whole = dataclasses.replace(whole, bound_us=20 * whole.bound_us)
    result = trial.run_trial(
        dataclasses.replace(ready, program=whole.serialise(), bound_s=whole.bound_us / 1e6)
    )
    assert result.findings == ()
    assert result.evidence.memory is not None
    # What counts for nothing is there, so it was looked at.
    assert result.evidence.memory.words > 0
    assert sorted(life.load for life in result.lives)[-1] == 50


def test_finding_replays_with_its_scan_and_the_same_bytes(harness_lab: Lab, tmp_path: Path) -> None:
    subject, ready = prepare(harness_lab, "notifyfs", "exit-forgets-notifier", "cycle", 1)
    result = trial.run_trial(ready)
    path = bundle.write_bundle(tmp_path, ready, result, subject.archive, "")
    again, differences = harness_lab.replay_trial(bundle.load_bundle(path))
    assert differences == ()
    replay = trial.run_trial(again)
    assert replay.findings == result.findings
    assert replay.evidence.console == result.evidence.console
    # Whether the guest's memory is kept is nothing that it could know of.
    unseen = trial.run_trial(dataclasses.replace(again, scan=False))
    assert unseen.evidence.memory is None
    assert unseen.evidence.report == result.evidence.report
    assert unseen.evidence.console == result.evidence.console
