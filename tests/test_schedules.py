# SPDX-License-Identifier: GPL-2.0-only
"""Schedules as values: seeds, limits, text, and what is left of one that is cut down."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cli, ops, schedules, store
from harness.errors import ExitStatus, UsageError
from harness.machine import Lane
from harness.program import Actor, Op, Park, Program
from harness.schedules import Demotion, Schedule, Starvation, make_schedule
from harness.trial import TrialSpec

ACTORS = ("user.0", "user.1", "unloader")
PROGRAM = Program(
    "n", 1, 1_000_000, tuple(Actor(name, "p", (Op("p", "yield"),)) for name in ACTORS)
)
SCHEDULE = Schedule(
    "pct:3",
    1430,
    81_200,
    ("[kworker]", "user.0", "unloader"),
    (Demotion(5210), Starvation(9004, "user.0", 3120)),
)


def made(seed: int, depth: int = 3, length_us: int = 50_000, bound_us: int = 1_000_000) -> Schedule:
    return make_schedule(depth, seed, ACTORS, length_us=length_us, bound_us=bound_us)


def with_schedule(schedule: Schedule, **fields: Any) -> Program:
    return dataclasses.replace(PROGRAM, schedule=schedule, **fields)


def test_seed_makes_the_schedule() -> None:
    assert made(7) == made(7)
    assert len({made(seed) for seed in range(100)}) == 100
    assert made(7) != made(7, depth=2)


def test_every_role_gets_every_rank() -> None:
    """A priority that a seed never draws is an order that is never tried."""
    roles = {*ACTORS, schedules.TEARDOWN, *schedules.KERNEL_ROLES}
    drawn = [made(seed).ranks for seed in range(400)]
    assert all(sorted(ranks) == sorted(roles) for ranks in drawn)
    assert {ranks[0] for ranks in drawn} == {ranks[-1] for ranks in drawn} == roles


@given(
    st.integers(0, 2**63), st.integers(1, schedules.MAX_DEPTH), st.integers(0, 10**9),
    st.integers(2000, ops.MAX_BOUND_US),
)  # fmt: skip
def test_schedule_of_any_seed_is_valid_and_ends_in_half_of_the_bound(
    seed: int, depth: int, length_us: int, bound_us: int
) -> None:
    schedule = made(seed, depth, length_us, bound_us)
    prog = with_schedule(schedule, bound_us=max(bound_us, schedule.slice_us))
    assert Program.parse(prog.serialise()) == prog
    assert schedule.end_us <= bound_us // 2
    demotions = [step for step in schedule.steps if isinstance(step, Demotion)]
    assert len(demotions) == depth - 1
    for step in schedule.steps:
        assert step.at_us <= length_us
        if isinstance(step, Starvation):
            assert step.at_us + step.length_us <= schedule.end_us
            assert step.length_us <= schedules.STARVATIONS_US[1]


def test_lengths_of_starvation_are_uniform_in_their_logarithm() -> None:
    lengths = [
        step.length_us
        for seed in range(1000)
        for step in made(seed, length_us=300_000).steps
        if isinstance(step, Starvation)
    ]
    low, high = schedules.STARVATIONS_US
    middle = (low * high) ** 0.5
    assert 0.45 < sum(length < middle for length in lengths) / len(lengths) < 0.55


def test_schedule_stands_before_the_teardown() -> None:
    text = with_schedule(SCHEDULE).serialise().decode()
    assert text.endswith(
        "end\n"
        "schedule pct:3 1430 81200\n"
        "rank [kworker]\n"
        "rank user.0\n"
        "rank unloader\n"
        "demote 5210\n"
        "starve 9004 user.0 3120\n"
        "end\n"
        "teardown\nend\n"
    )
    assert Program.parse(text.encode()).schedule == SCHEDULE


def test_program_without_a_schedule_has_the_text_it_always_had() -> None:
    assert not re.search(rb"schedule|rank|demote|starve", PROGRAM.serialise())


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("schedule pct:3 1430", "schedule 1430", "bad schedule line"),
        ("schedule pct:3", "schedule PCT", "'PCT' is no name of a schedule"),
        (" 81200", " 500001", "500001 is not in"),
        (" 1430 ", " 1 ", "1 is not in 200"),
        ("rank user.0", "rank user.9", "nobody is called 'user.9'"),
        ("rank user.0", "rank unloader", "'unloader' has two ranks"),
        ("demote 5210", "demote 9005", "earlier than the one before"),
        ("demote 5210", "demote 81201", "81201 is not in"),
        ("demote 5210", "demote", "'demote' in a schedule"),
        ("user.0 3120", "user.1 3120", "'user.1' has no rank"),
        ("user.0 3120", "user.0 0", "0 is not in"),
        ("user.0 3120", "user.0 72197", "72197 is not in"),
        ("demote 5210\nstarve", "starve 1 user.0 1\nrank user.1\nstarve", "'rank user.1' in a"),
        ("starve 9004", "wait 9004", "'wait 9004 user.0 3120' in a schedule"),
    ],
)
def test_text_that_was_not_written_so_is_refused(old: str, new: str, why: str) -> None:
    text = with_schedule(SCHEDULE).serialise().decode()
    assert old in text
    with pytest.raises(UsageError, match=re.escape(why)):
        Program.parse(text.replace(old, new, 1).encode())


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"ranks": tuple(f"r{n}" for n in range(73))}, "73 ranks, more than 72"),
        ({"steps": (Demotion(1),) * 33}, "33 steps, more than 32"),
    ],
)
def test_schedule_that_the_executor_has_no_room_for(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        with_schedule(dataclasses.replace(SCHEDULE, **fields)).serialise()


def test_plan_and_schedule_exclude_each_other() -> None:
    park = Park("p", "user.*", "m", ".text", 20, 2, "users")
    with pytest.raises(UsageError, match="a plan and a schedule"):
        with_schedule(SCHEDULE, park=park).serialise()


def test_schedule_is_said_in_words() -> None:
    assert schedules.describe(SCHEDULE) == (
        "Schedule pct:3. Who runs first: [kworker], user.0, unloader.\n"
        "At 5.21 ms whoever is running falls below all others.\n"
        "At 9.004 ms user.0 gets no processor for 3.12 ms.\n"
        "Who keeps the processor for longer than 1.43 ms falls too.\n"
        "After 81.2 ms nobody has a priority any more."
    )


@pytest.mark.parametrize(("text", "depth"), [("pct", 3), ("pct:1", 1), ("pct:8", 8)])
def test_method_is_read(text: str, depth: int) -> None:
    assert schedules.parse_method(text) == depth


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("random", "'random' is no schedule"),
        ("pct:0", "is no schedule"),
        ("pct:9", "deeper than 8"),
    ],
)
def test_method_that_is_none(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        schedules.parse_method(text)


def test_bundle_without_a_finding_cannot_be_minimised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Program("s", 7, 1_000_000, ()).serialise()
    contents = {"program.txt": whole, "payload.cpio": b"070701", "console.log": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    spec = dataclasses.asdict(TrialSpec("m", "bad", "6.1", "kasan", Lane.DET, "s", 7))
    spec["lane"] = "det"
    digests = {name: store.digest_bytes(content) for name, content in contents.items()}
    record = {
        "format": 1, "trial": spec, "bound_s": 1.0, "made_of": {}, "findings": [],
        "sha256": digests,
    }  # fmt: skip
    (tmp_path / "bundle.json").write_text(json.dumps(record))
    assert cli.main(["minimise", str(tmp_path)]) == ExitStatus.USAGE
    assert "has no finding to keep" in capsys.readouterr().err
