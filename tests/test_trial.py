# SPDX-License-Identifier: GPL-2.0-only
"""Trials whose guest's memory is looked through, without a guest."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import kernels, report, trial
from harness.errors import GuestError, UsageError
from harness.kernels import Kernel
from harness.machine import EXECUTOR_DONE, Lane
from harness.trial import Trial, TrialSpec
from harness.verdict import Evidence, Finding, Kind, MemoryScan, Verdict

LIFE = {
    "ev": "life", "module": "foo", "number": 1, "base": "0xffffffffa0000000", "size": 8192,
    "loaded_us": 1, "unloaded_us": 2,
}  # fmt: skip
PASSED = (
    {"ev": "loaded", "module": "foo", "loaded": 1, "unloaded": 1},
    {"ev": "audited"},
    {"ev": "detectors"},
    {"ev": "end"},
)
STALE = Finding(Kind.STALE, "stale pointer: netdev_chain.head → foo_notifier", "detail")

KERNEL = Kernel(
    name="6.1", profile="kasan", release="6.1.9-kasan", version="6.1.9-1", compiler="gcc",
    config_sha256="", key="", path=Path("-"), source=Path("-"),
)  # fmt: skip


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def evidence(memory: MemoryScan | None, *events: dict[str, Any]) -> Evidence:
    return Evidence(b"", lines(*(events or PASSED)), EXECUTOR_DONE, 60.0, memory=memory)


def ready(*, scan: bool = True) -> Trial:
    template: Any = SimpleNamespace(base=SimpleNamespace(kernel=KERNEL))
    spec = TrialSpec("foo", "good", "6.1", "kasan", Lane.DET, "cycle", 1)
    return Trial(spec, template, b"", 1.0, {"foo": Path("foo.ko")}, scan)


def test_sections_of_a_life_are_read() -> None:
    # The table of symbols goes after init, and another module may have its data there.
    told = {
        **LIFE,
        "sections": {
            ".text": "0xffffffffa0000000",
            ".data": "0xffffffffa0002000",
            ".symtab": "0xffffffffa0006000",
            ".strtab": "0xffffffffa0006800",
        },
    }
    (life,) = trial.module_lives(lines(told), {"foo": Path("foo.ko")})
    assert dict(life.sections) == {".text": 0xFFFFFFFFA0000000, ".data": 0xFFFFFFFFA0002000}
    (life,) = trial.module_lives(lines(LIFE), {"foo": Path("foo.ko")})
    assert life.sections == ()


def test_stale_pointer_fails_a_trial() -> None:
    result = trial.judge(ready(), evidence(MemoryScan((STALE,), 100, 1.25)))
    assert result.verdict is Verdict.FAIL
    assert result.findings == (STALE,)


def test_memory_without_one_passes_and_its_time_is_told() -> None:
    remark = "where foo was there is module bar now: pointers to there were not looked at"
    looked = MemoryScan((), 100, 1.25, (remark,))
    result = trial.judge(ready(), evidence(looked))
    assert result.verdict is Verdict.PASS
    assert f"memory 1.2 s): no finding ({remark})" in report.one_line(result)
    assert report.trial_record(result, None)["memory"] == {
        "words": 100, "took_s": 1.25, "remarks": [remark],
    }  # fmt: skip


def test_memory_that_nobody_was_to_look_at_is_not_told() -> None:
    result = trial.judge(ready(scan=False), evidence(None))
    assert "memory" not in report.one_line(result)
    assert "memory" not in report.trial_record(result, None)


def test_memory_that_was_not_looked_at_is_no_pass() -> None:
    with pytest.raises(GuestError, match="no module was unloaded"):
        trial.judge(ready(), evidence(None))


def test_guest_that_hung_has_no_memory_to_look_at() -> None:
    hung = replace(evidence(None, LIFE), status=None)
    assert trial.judge(ready(), hung).findings[0].kind is Kind.HANG


def test_kernel_without_debug_information_says_so() -> None:
    with pytest.raises(UsageError, match=r"kernel 6\.1-kasan has no debug information"):
        kernels.require_vmlinux(KERNEL)
    assert kernels.require_vmlinux(replace(KERNEL, vmlinux=Path("v"))) == Path("v")
