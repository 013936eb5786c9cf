# SPDX-License-Identifier: GPL-2.0-only
"""What of the host's time is taken out of a saved machine."""

import json
import struct
from typing import Any

import pytest

from harness import savedstate
from harness.errors import QemuError

TICKS = "cpu_ticks_offset"
CLOCK = "cpu_clock_offset"
#: What a machine has executed, instructions, and when its next timer is due, ns.
EXECUTED = 1000
DUE = 9000


def field(name: str, size: int = 8, **more: int) -> dict[str, Any]:
    return {"name": name, "type": "x", "size": size, **more}


TIMER: dict[str, Any] = {
    "name": "timer", "instance_id": 0, "version": 2,
    "fields": [field(TICKS), field("unused"), field(CLOCK)],
    "subsections": [
        {
            "vmsd_name": "timer/icount", "version": 1,
            "fields": [field("qemu_icount_bias"), field("qemu_icount")],
        }
    ],
}  # fmt: skip
APIC: dict[str, Any] = {
    "name": "apic", "instance_id": 0, "version": 3,
    "fields": [field("id", 1), field("isr", 4, array_len=8), field("timer_expiry")],
}  # fmt: skip


def section(number: int, device: dict[str, Any], content: bytes, *, foot: int = 0x7E) -> bytes:
    name = device["name"].encode()
    head = b"\x04" + struct.pack(">I", number) + bytes([len(name)]) + name
    head += struct.pack(">II", device["instance_id"], device["version"])
    return head + content + bytes([foot]) + struct.pack(">I", number)


def state(
    *, bias: int = 0, due: int = DUE, ticks: int = 0, clock: int = 0,
    described: tuple[dict[str, Any], ...] = (TIMER, APIC), foot: int = 0x7E,
) -> bytes:  # fmt: skip
    """Return a stream as QEMU writes it."""
    counter = b"\x05\x0ctimer/icount" + struct.pack(">Iqq", 1, bias, EXECUTED)
    timer = struct.pack(">qqq", ticks, 0, clock) + counter
    apic = bytes(33) + struct.pack(">q", due)
    text = json.dumps({"page_size": 4096, "devices": described}).encode()
    return (
        # What looks like one in some device's data is no section.
        b"QEVM\x04....\x05timer\0\0\0\0\0\0\0\2" + bytes(60)
        + section(1, TIMER, timer) + section(7, APIC, apic, foot=foot)
        + b"\0\6" + struct.pack(">I", len(text)) + text
    )  # fmt: skip


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_time_goes_to_the_next_timer_where_it_had_not(shift: int) -> None:
    """One was stopped before the main loop came by, the other one after it."""
    before, after = state(bias=5), state(bias=DUE - (EXECUTED << shift))
    assert before != after
    assert savedstate.settle_clocks(before, shift=shift) == after
    assert savedstate.settle_clocks(after, shift=shift) == after


def test_time_does_not_go_back() -> None:
    """No timer is set, or it is due already."""
    for due in (-1, DUE - 1):
        late = state(bias=DUE, due=due)
        assert savedstate.settle_clocks(late, shift=1) == late


def test_hosts_clocks_are_taken_out() -> None:
    assert savedstate.settle_clocks(
        state(bias=DUE, ticks=123456, clock=-7), shift=1
    ) == state(bias=DUE)  # fmt: skip


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"", "no description"),
        (state()[:-1], "no description"),
        (b"\6\0\0\0\7{'bad'}", "no description"),
        (b"\6\0\0\0\2{}", "no description"),
        (state(described=(TIMER,)), "no apic"),
        (state(described=(APIC,)), "no timer"),
        (state(described=(TIMER | {"subsections": []}, APIC)), "timer is not as described"),
        (state(described=(TIMER, APIC | {"version": 4})), "apic is not as described"),
        (state(foot=0x7D), "apic is not as described"),
    ],
)
def test_state_of_another_machine_is_refused(stream: bytes, why: str) -> None:
    with pytest.raises(QemuError, match=why):
        savedstate.settle_clocks(stream, shift=1)


def test_machine_that_does_not_count_instructions() -> None:
    timer = TIMER | {"subsections": []}
    content = struct.pack(">qqq", 0, 0, 0)
    text = json.dumps({"devices": [timer, APIC]}).encode()
    stream = section(1, timer, content) + section(2, APIC, bytes(41))
    stream += b"\6" + struct.pack(">I", len(text)) + text
    with pytest.raises(QemuError, match="no instruction counter"):
        savedstate.settle_clocks(stream, shift=1)
