# SPDX-License-Identifier: GPL-2.0-only
"""Programs of a failure sweep."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness import failplan, ops
from harness.errors import UsageError
from harness.failplan import Failure, Line
from harness.ops import Value
from harness.program import Actor, Branch, Choose, Loop, Node, Op, Program, node_names
from harness.scenario import find_scenario, load_scenario
from harness.scenario_compile import compile_program

BINDINGS = {
    "module": "m", "ko": "/m.ko", "mnt": "/mnt", "fstype": "mfs", "cycles": "1",
}  # fmt: skip


def compiled(name: str, **bindings: str) -> Program:
    found = load_scenario(find_scenario(name))
    return compile_program(found, seed=1, bindings={**BINDINGS, **bindings}, kmemleak=False)


def lines_of(program: Program) -> tuple[Line, ...]:
    return failplan.find_lines(program, set())


def names(line: Line) -> list[str]:
    return [line.steps[index].name for index in line.swept]


def op(name: str, *args: Value, expect: tuple[str, ...] = ("ok",), place: str = "p") -> Op:
    return Op(place, name, args, expect)


def with_body(*body: Node) -> Program:
    return Program("n", 1, 1000, (Actor("a", "actors[0]", body),))


LOAD = op("finit_module", "/m.ko", "", ())
UNLOAD = op("delete_module", "m", ("nonblock",))
STAT = op("stat", "/x")


def test_steps_of_a_life_are_swept_once() -> None:
    # The other two ways that it may take have no step that this one has not.
    (line,) = lines_of(compiled("load-unload"))
    assert names(line) == [
        "finit_module", "mount", "open", "write", "pread", "open", "pwrite", "close", "open",
        "readdir", "close", "unlink", "stat", "unlink", "pread", "close", "umount",
        "delete_module",
    ]  # fmt: skip
    assert line.steps[0].name == "mkdir"


def test_step_of_another_scenario_is_not_swept_again() -> None:
    seen: set[tuple[str, tuple[Value, ...]]] = set()
    failplan.find_lines(compiled("load-unload"), seen)
    first, second = failplan.find_lines(compiled("refused-mounts", refused_options="x=1"), seen)
    assert names(first) == ["mount"]
    assert first.steps[first.swept[0]].args[4] == "x=1"
    assert names(second) == ["pwrite", "pread"]
    assert failplan.find_lines(compiled("load-unload"), seen) == ()


@pytest.mark.parametrize(
    ("body", "swept"),
    [
        ((STAT, LOAD, STAT, UNLOAD, STAT), [1, 2, 3]),
        # Refused as it should be: nothing is loaded.
        ((replace(LOAD, expect=("EBUSY",)), STAT), [0]),
        ((LOAD, replace(UNLOAD, expect=("EAGAIN",)), STAT), [0, 1, 2]),
        ((LOAD, op("sleep", 1, 0), op("yield"), op("sync")), [0]),
        ((LOAD, STAT, STAT), [0, 1]),
        ((Loop(5, (LOAD, UNLOAD)),), [0, 1]),
    ],
)
def test_only_what_may_enter_the_module_is_swept(body: tuple[Node, ...], swept: list[int]) -> None:
    (line,) = lines_of(with_body(*body))
    assert list(line.swept) == swept


def test_each_way_of_a_choice_is_a_line() -> None:
    one, two = op("stat", "/1"), op("stat", "/2")
    choose = Choose((Branch(1, (one,)), Branch(5, (two,))))
    first, second = lines_of(with_body(LOAD, choose, UNLOAD))
    assert first.steps == (LOAD, one, UNLOAD)
    assert second.steps == (LOAD, two, UNLOAD)
    assert (first.swept, second.swept) == ((0, 1, 2), (1,))


def test_several_actors_have_no_order() -> None:
    with pytest.raises(UsageError, match="has 5 actors; a failure sweep") as error:
        lines_of(compiled("files-vs-rmmod"))
    assert "such as cycle" in str(error.value)


def test_everything_held_is_let_go_before_the_teardown() -> None:
    (line, *_) = lines_of(compiled("load-unload"))
    assert [(end.name, *end.args[:1]) for end in line.cleanup] == [
        ("close", 0), ("close", 1), ("close", 2), ("umount", "/mnt"), ("umount_all", "/mnt"),
        ("delete_module", "m"),
    ]  # fmt: skip
    assert line.cleanup[-1].retries == 20
    mapped = with_body(LOAD, op("mmap", 1, 3, 10, ("read",), ("shared",), 0))
    assert [end.name for end in lines_of(mapped)[0].cleanup] == ["munmap", "close"]


def test_what_a_line_has_mounted_and_made_goes_when_it_ends_early() -> None:
    mounted = ("none", "/mnt/a", "mfs", (), "")
    line, *_ = lines_of(with_body(
        LOAD, op("mkdir", "/mnt/a", 0o755), op("mount", *mounted), op("mkdir", "/mnt/a/b", 0o755),
        op("mkdir", "/config/x", 0o755), op("mkdir", "/config/x/y", 0o755), op("mount", *mounted),
        STAT, op("rmdir", "/config/x/y"), op("rmdir", "/config/x"), op("umount", "/mnt/a", ()),
        UNLOAD,
    ))  # fmt: skip
    # The last one first; what lies in the mount goes with it.
    assert [(end.name, end.args, end.expect) for end in line.cleanup] == [
        ("umount", ("/mnt/a", ()), ("any",)),
        ("rmdir", ("/config/x/y",), ("any",)),
        ("rmdir", ("/config/x",), ("any",)),
    ]


def test_failing_step_may_answer_that_there_is_no_memory() -> None:
    step = failplan.failing(replace(STAT, expect=("ok", "ENOENT"), retries=7), 3)
    assert (step.fail, step.retries) == (3, 0)
    assert {"ok", "ENOENT", "ENOMEM", "SHORT"} <= set(step.expect)
    assert "EINVAL" not in step.expect
    # Its line ends where it failed for the failure's sake, not where it may fail anyway.
    assert "ENOMEM" in step.stop_on
    assert {"ok", "ENOENT"}.isdisjoint(step.stop_on)
    assert failplan.failing(replace(STAT, expect=("any",)), 3).expect == ("any",)


def test_line_ends_where_a_datagram_may_be_lost() -> None:
    send = op("send", 1, 4000, 100, 1)
    step = failplan.failing(send, 1)
    assert {"ok", "ENOMEM"} <= set(step.stop_on)
    Program.parse(with_body(step).serialise())


def test_init_may_make_of_it_what_it_likes() -> None:
    step = failplan.failing(LOAD, 1)
    assert {"EINVAL", "EBUSY", "ENODEV", "ok"} <= set(step.expect)
    assert set(step.stop_on) == set(ops.ERRNOS)


def test_read_without_memory_may_be_short() -> None:
    read = failplan.failing(op("pread", 0, 0, 10, 1, 10), 1)
    assert read.args == (0, 0, 10, 1, 0)
    hole = failplan.failing(op("pread_hole", 0, 5, 10), 1)
    assert (hole.name, hole.args) == ("pread", (0, 5, 10, None, 0))


def test_block_is_the_step_with_its_failure_and_a_whole_life() -> None:
    base = with_body(LOAD, STAT, UNLOAD)
    (line,) = lines_of(base)
    program = failplan.make_program(base, line, [Failure(1, 4)])
    text = program.serialise().decode().splitlines()
    assert Program.parse(program.serialise()) == program
    life = [
        "loop 1", "finit_module", "stat", "delete_module", "end",
    ]  # fmt: skip
    shown = [
        line if line.split()[0] in ("loop", "end", "fail") else line.split()[5]
        for line in text if line.split()[0] in ("loop", "op", "end", "fail")
    ]  # fmt: skip
    block = ["loop 1", "finit_module", "fail 4", "stat", "delete_module", "end"]
    # The ends of the setup, the actor and the teardown around them.
    assert shown == ["end", *life, *block, *life, "end", "end"]
    assert program.bound_us == 3 * base.bound_us


def test_place_tells_the_block() -> None:
    base = with_body(LOAD, STAT, UNLOAD)
    (line,) = lines_of(base)
    program = failplan.make_program(base, line, [Failure(1, 4), Failure(1, 5)])
    places = [
        node.place for block in program.actors[0].body if isinstance(block, Loop)
        for node in block.body if isinstance(node, Op)
    ]  # fmt: skip
    found = [failplan.failure_of(place) for place in places]
    assert found == [None] * 3 + [Failure(1, 4)] * 6 + [Failure(1, 5)] * 6
    for place in ("", "actors[0].do[1]", "x#1", "1#x", "needs[0]"):
        assert failplan.failure_of(place) is None


def test_measuring_counts_each_swept_step_once() -> None:
    base = with_body(LOAD, op("yield"), STAT, UNLOAD)
    (line,) = lines_of(base)
    body = failplan.measuring_program(base, line).actors[0].body
    counted = [node for node in body if isinstance(node, Op) and node.fail]
    assert [node.place for node in counted] == [f"{index}#1000000000" for index in (0, 2, 3)]
    assert {node.fail for node in counted} == {failplan.MEASURE}


def test_batches_are_what_a_program_has_room_for() -> None:
    base = compiled("load-unload")
    line = lines_of(base)[0]
    failures = [Failure(1, nth) for nth in range(1, 200)]
    cut = list(failplan.batches(base, line, failures, 64))
    assert [failure for batch in cut for failure in batch] == failures
    assert 1 < len(cut[0]) < 64
    for batch in cut:
        program = failplan.make_program(base, line, batch)
        program.serialise()
        assert len(node_names(program)) <= 1010
    assert [len(batch) for batch in failplan.batches(base, line, failures[:5], 2)] == [2, 2, 1]
    assert list(failplan.batches(base, line, [], 4)) == []
