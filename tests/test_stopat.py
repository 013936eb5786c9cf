# SPDX-License-Identifier: GPL-2.0-only
"""Amounts of instructions, and the plugin that counts them."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import cli, lookinside, replaycommand, stopat
from harness.errors import ExitStatus, UsageError
from harness.machine import Counter, Debug, Lane


@pytest.mark.parametrize(
    ("text", "instructions"),
    # An instruction is 2 ns of the guest's time: -icount shift=1.
    [("1", 1), ("5000", 5000), ("200us", 100_000), ("3ms", 1_500_000)],
)
def test_amount_is_instructions(text: str, instructions: int) -> None:
    assert stopat.parse_amount(text) == instructions


@pytest.mark.parametrize("text", ["", "0", "-5", "5s", "us", "1.5ms", "5 us", "1" * 40, "\u0661us"])
def test_amount_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="is no number of instructions, and no time"):
        stopat.parse_amount(text)


def test_plugin_compiles_and_is_handed_to_qemu(tmp_path: Path) -> None:
    counter = stopat.make_counter(tmp_path, at=70)
    assert counter.plugin.read_bytes().startswith(b"\x7fELF")
    assert stopat.read_count(counter) == 0
    counter.count.write_bytes((1 << 33).to_bytes(8, "little"))
    assert stopat.read_count(counter) == 1 << 33


def test_paths_with_commas_reach_the_plugin() -> None:
    counter = Counter(Path("/a,b/p.so"), Path("/a,b/count"), 70)
    words = Debug(counter=counter).argv()
    assert words == ["-plugin", "file=/a,,b/p.so,count=/a,,b/count,at=70"]
    assert "at=" not in Debug(counter=dataclasses.replace(counter, at=None)).argv()[1]


def test_lane_that_does_not_repeat_itself_is_refused() -> None:
    spec = SimpleNamespace(label="foo", lane=Lane.SMP)
    with (
        pytest.raises(UsageError, match="the smp lane does not repeat itself"),
        lookinside.debugged(SimpleNamespace(spec=spec), before=1),  # type: ignore[arg-type]
    ):
        pass


def test_amount_is_read_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SimpleNamespace(kernel="6.1", profile="kasan")
    found = SimpleNamespace(spec=spec)
    monkeypatch.setattr(replaycommand.bundle, "load_bundle", lambda path: found)
    fields = {"bundle": Path("b"), "gdb": True, "core": None, "stop": None, "before": "soon"}
    with pytest.raises(UsageError, match="'soon' is no number"):
        replaycommand.replay(argparse.Namespace(**fields))
    with pytest.raises(UsageError, match="--before says where gdb stops"):
        replaycommand.replay(argparse.Namespace(**fields | {"gdb": False}))
    assert cli.main(["replay", "b", "--before"]) == ExitStatus.USAGE
