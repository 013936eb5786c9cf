# SPDX-License-Identifier: GPL-2.0-only
"""The executor's parser: it takes what the harness writes and refuses the rest."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import ops
from harness.errors import UsageError
from harness.ops import OPS, Kind, Param
from harness.program import Actor, Branch, Choose, Loop, Node, Op, Park, Program
from harness.schedules import KERNEL_ROLES, TEARDOWN, Demotion, Schedule, Starvation

_GOOD = Program(
    "good",
    7,
    1000,
    (
        Actor(
            "a",
            "actors[0]",
            (
                Op("actors[0].do[0]", "open", (0, "/x y", ("rdwr", "creat"), 0o644), ("any",)),
                Loop(2, (Op("actors[0].do[1]", "read", (0, 10, None, 0), ("ok", "EIO")),)),
                Choose((Branch(1, ()), Branch(2, (Op("p", "kill", ("b", "USR1")),)))),
                Op("p", "barrier", (3,)),
            ),
            until=("b",),
            repeat=0,
        ),
        Actor("b", "actors[1]", (Op("p", "exec", ("/bin/true", ("", "a%b", "ü"))),), "thread"),
    ),
    setup=(Op("setup[0]", "finit_module", ("/m/a-b.ko", "x=1 y=2", ())),),
)

_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)


def _values(param: Param) -> st.SearchStrategy[Any]:
    match param.kind:
        case Kind.FLAGS:
            return st.lists(st.sampled_from(ops.TABLES[param.table]), unique=True).map(tuple)
        case Kind.CHOICE:
            return st.sampled_from(ops.TABLES[param.table])
        case Kind.REST:
            return st.lists(_texts, max_size=3).map(tuple)
        case Kind.TEXT:
            return _texts
        case Kind.PATH:
            return _texts.filter(bool)
        case Kind.ACTOR:
            return st.just("a")
        case kind:
            low, high = ops.RANGES[kind]
            numbers = st.integers(low, high)
            return st.none() | numbers if kind is Kind.KEY else numbers


_results = st.just(("any",)) | st.lists(
    st.sampled_from(ops.RESULTS), min_size=1, max_size=3, unique=True
).map(tuple)


def _ops(name: str) -> st.SearchStrategy[Op]:
    args = st.tuples(*(_values(param) for param in OPS[name].params))
    retries = st.integers(0, ops.MAX_RETRIES)
    fail = st.one_of(st.just(0), st.integers(1, ops.MAX_FAIL_NTH))
    return st.builds(Op, _texts, st.just(name), args, _results, _results, retries, fail)


def _extend(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    some = st.lists(nodes, max_size=2).map(tuple)
    branch = st.builds(Branch, st.integers(1, ops.MAX_WEIGHT), some)
    choose = st.builds(Choose, st.lists(branch, min_size=1, max_size=2).map(tuple))
    return st.builds(Loop, st.integers(1, ops.MAX_NUMBER), some) | choose


def _bodies(names: tuple[str, ...]) -> st.SearchStrategy[tuple[Node, ...]]:
    leaves = st.one_of([_ops(name) for name in names])
    return st.lists(st.recursive(leaves, _extend, max_leaves=4), max_size=3).map(tuple)


# Modules have a limit of their own, which random paths would reach at once.
_ANYWHERE = tuple(
    name for name in OPS if name not in ("barrier", "kill", "finit_module", "delete_module")
)
_IN_ACTORS = (*_ANYWHERE, "barrier", "kill")
_IN_THREADS = tuple(name for name in _IN_ACTORS if not OPS[name].process_only)


_phases = _bodies(_ANYWHERE)
_body_of = {"process": _bodies(_IN_ACTORS), "thread": _bodies(_IN_THREADS)}
_names = st.lists(st.sampled_from(["b", "c.0", "d_e-f"]), max_size=2, unique=True)


_plans = st.builds(
    Park,
    plan=_texts,
    role=_texts.filter(bool),
    module=_texts.filter(bool),
    section=_texts.filter(bool),
    offset=st.integers(0, 2**63),
    hits=st.integers(1, 2**63),
    mode=st.sampled_from(("hold", "users")),
    body=_phases,
)


@st.composite
def schedules_of(draw: st.DrawFn, names: list[str], bound_us: int) -> Schedule:
    roles = draw(st.lists(st.sampled_from([*names, TEARDOWN, *KERNEL_ROLES]), unique=True))
    end_us = draw(st.integers(0, bound_us // 2))
    steps: list[Demotion | Starvation] = []
    for at_us in sorted(draw(st.lists(st.integers(0, end_us), max_size=4))):
        if roles and at_us < end_us and draw(st.booleans()):
            length_us = draw(st.integers(1, end_us - at_us))
            steps.append(Starvation(at_us, draw(st.sampled_from(roles)), length_us))
        else:
            steps.append(Demotion(at_us))
    slice_us = draw(st.integers(ops.MIN_SLICE_US, bound_us))
    return Schedule("pct:3", slice_us, end_us, tuple(roles), tuple(steps))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    actors = []
    for name in ["a", *draw(_names)]:
        kind = draw(st.sampled_from(("process", "thread")))
        until = ("a",) if name != "a" and draw(st.booleans()) else ()
        repeat = draw(st.integers(0 if until else 1, ops.MAX_NUMBER))
        fifo = draw(st.integers(0, ops.MAX_FIFO))
        body = draw(_body_of[kind])
        actors.append(Actor(name, draw(_texts), body, kind, fifo, repeat, until))
    bound_us = draw(st.integers(1, ops.MAX_BOUND_US))
    park = draw(st.none() | _plans)
    schedule = None
    if park is None and bound_us >= ops.MIN_SLICE_US and draw(st.booleans()):
        schedule = draw(schedules_of([actor.name for actor in actors], bound_us))
    return Program(
        name=draw(_texts),
        seed=draw(st.integers(0, 2**64 - 1)),
        bound_us=bound_us,
        actors=tuple(actors),
        kmemleak=draw(st.booleans()),
        setup=draw(_phases),
        teardown=draw(_phases),
        park=park,
        schedule=schedule,
        settle_us=draw(st.integers(0, ops.MAX_SETTLE_US)),
    )


def check(binary: Path, text: bytes) -> dict[str, Any]:
    done = subprocess.run([binary, "check", "-"], input=text, capture_output=True, timeout=60)
    assert done.stderr == b"", done.stderr.decode()
    (line,) = done.stdout.splitlines()
    event: dict[str, Any] = json.loads(line)
    assert done.returncode == (0 if event["ev"] == "program" else 2)
    return event


def _count(nodes: tuple[Node, ...]) -> int:
    total = 0
    for node in nodes:
        total += 1
        if isinstance(node, Loop):
            total += _count(node.body)
        elif isinstance(node, Choose):
            total += sum(1 + _count(branch.body) for branch in node.branches)
    return total


_slow = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@_slow
@given(programs())
def test_every_program_reads_back_as_it_was(prog: Program) -> None:
    assert Program.parse(prog.serialise()) == prog


@_slow
@given(programs())
def test_executor_takes_every_program_that_the_harness_writes(
    checked_executor: Path, prog: Program
) -> None:
    bodies = [prog.setup, prog.teardown, *(actor.body for actor in prog.actors)]
    bodies += [prog.park.body] if prog.park else []
    event = check(checked_executor, prog.serialise())
    assert event["ev"] == "program", event
    assert event["actors"] == len(prog.actors)
    assert event["nodes"] == sum(map(_count, bodies))


def _mutate(text: bytes, seed: int) -> bytes:
    rng = random.Random(seed)
    data = bytearray(text)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.randint(1, 20)]
            case 2:
                data[at:at] = rng.choice(
                    (b" ", b"\n", b"%", b"%00", b"-", b"end\n", b"99999999999")
                )
            case 3:
                lines = bytes(data).split(b"\n")
                line = rng.randrange(len(lines))
                lines[line:line] = [rng.choice(lines)] * rng.randint(1, 3)
                data = bytearray(b"\n".join(lines))
            case 4:
                data = data[:at]
            case _:
                words = bytes(data).split(b" ")
                words[rng.randrange(len(words))] = rng.choice(words)
                data = bytearray(b" ".join(words))
    return bytes(data)


@settings(_slow, max_examples=100)
@given(st.integers(0, 2**32), st.none() | programs())
def test_mutated_text_never_breaks_the_parsers_and_they_agree(
    checked_executor: Path, seed: int, prog: Program | None
) -> None:
    text = _mutate((prog or _GOOD).serialise(), seed)
    event = check(checked_executor, text)
    try:
        Program.parse(text)
    except UsageError:
        return
    # Whatever the harness can read, the executor can run.
    assert event["ev"] == "program", (event, text)


def assert_refused(
    executor: Path, text: bytes, old: bytes, new: bytes, line: int, why: str
) -> None:
    """Assert that a text with one change is refused, with the line and the reason."""
    assert old in text
    event = check(executor, text.replace(old, new, 1))
    assert event["ev"] == "bad-program"
    assert why in event["why"]
    assert event["line"] == line


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        (b"kmod-program 1", b"kmod-program 2", 1, "version '2' is not known"),
        (b"kmod-program 1\n", b"", 1, "line is not 'kmod-program' and its value"),
        (b"seed 7", b"seed 07", 3, "'07' is not a number"),
        (b"seed 7", b"seed 18446744073709551616", 3, "is not a number"),
        (b"bound_us 1000", b"bound_us 0", 4, "0 is not in 1..3600000000"),
        (b"kmemleak 0", b"kmemleak 2", 5, "2 is not in 0..1"),
        (b"setup\n", b"settle_us 0\nsetup\n", 6, "0 is not in 1..60000000"),
        (b"setup\n", b"settle_us\nsetup\n", 6, "line is not 'settle_us' and its value"),
        (b"kmemleak 0", b"kmemleak  0", 5, "more than one space"),
        (b"setup\n", b"set-up\n", 6, "'set-up' where 'setup' should be"),
        (b"op setup[0] ok", b"op setup[0] EWHAT", 7, "no result is called 'EWHAT'"),
        (b"op setup[0] ok", b"op setup[0] ok,", 7, "bad list"),
        (b"finit_module", b"insmod", 7, "no op is called 'insmod'"),
        (b"x=1%20y=2", b"x=1%2", 7, "bad percent code"),
        (b"x=1%20y=2", b"x=1%00", 7, "bad percent code"),
        (b"x=1%20y=2 -", b"x=1%20y=2", 7, "'op' line has 8 words, not 9"),
        (b"x=1%20y=2", b"x=\xff", 7, "byte 0xff in the text"),
        (b"x=1%20y=2", b"x=\t", 7, "byte 0x09 in the text"),
        (b"actor a process 0", b"actor a fiber 0", 9, "a process or a thread, not 'fiber'"),
        (b"actor a process 0", b"actor a process 91", 9, "91 is not in 0..90"),
        (b"actor a process 0 actors[0] 0 b", b"actor a process 0 p 0 -", 9, "would never end"),
        (b"actor b", b"actor a", 23, "two actors are called 'a'"),
        (b"actors[0] 0 b", b"actors[0] 0 a", 27, "'a' cannot wait for 'a'"),
        (b"actors[0] 0 b", b"actors[0] 0 c", 27, "'a' cannot wait for 'c'"),
        (b"kill b", b"kill c", 27, "no actor is called 'c'"),
        (b"kill b USR1", b"kill b USR9", 18, "no choice is called 'USR9'"),
        (b"rdwr,creat", b"rdwr,create", 10, "no flag is called 'create'"),
        (b"creat 0644", b"creat 644", 10, "'644' is not a mode"),
        (b"open 0", b"open 16", 10, "16 is not in 0..15"),
        (b"read 0 10", b"read 0 65537", 12, "65537 is not in 1..65536"),
        (b"loop 2", b"loop 0", 11, "0 is not in 1..1000000000"),
        (b"loop 2", b"lop 2", 11, "'lop' in a list of ops"),
        (b"branch 1", b"branch 0", 15, "0 is not in 1..1000000"),
        (b"barrier 3", b"barrier -1", 21, "-1 is not in 0..15"),
        (b"exec /bin/true", b"chdir", 24, "'chdir' is not for threads"),
        (b"teardown\nend\n", b"teardown\nend\nend\n", 27, "text after the end"),
        (b"teardown\nend\n", b"teardown\n", 27, "the text ends too early"),
        (b"teardown\nend\n", b"teardown\nend", 27, "the last line has no newline"),
        (b"teardown\n", b"teardown\nop p ok - 0 barrier 1\n", 28, "a barrier outside the actors"),
    ],
)
def test_bad_text_is_refused_with_line_and_reason(
    checked_executor: Path, old: bytes, new: bytes, line: int, why: str
) -> None:
    text = _GOOD.serialise()
    assert_refused(checked_executor, text, old, new, line, why)


_PARK = b"park p%20l user m .text 20 2 hold\nop park.do[0] any - 0 yield\nend\n"


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        (b" 20 2 hold", b" 20 2 wait", 26, "a plan says hold or users, not 'wait'"),
        (b" 20 2 hold", b" 20 0 hold", 26, "hit 0 times"),
        (b" 20 2 hold", b" 0x20 2 hold", 26, "'0x20' is not a number"),
        (b" 20 2 hold", b" 20 2", 26, "'park' line has 7 words, not 8"),
        (b"yield\nend\n", b"barrier 1\nend\n", 30, "a barrier outside the actors"),
        (b"yield\nend\n", b"yield\nend\n" + _PARK, 29, "'park' where 'teardown' should be"),
        (b"yield\nend\n", b"kill c TERM\nend\n", 30, "no actor is called 'c'"),
    ],
)
def test_bad_plan_is_refused_with_line_and_reason(
    checked_executor: Path, old: bytes, new: bytes, line: int, why: str
) -> None:
    text = _GOOD.serialise().replace(b"teardown\n", _PARK + b"teardown\n")
    assert check(checked_executor, text)["ev"] == "program"
    assert_refused(checked_executor, text, old, new, line, why)


_SCHEDULE = b"schedule pct:3 300 400\nrank a\nrank [rcu]\ndemote 5\nstarve 9 a 30\nend\n"


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        (b"pct:3 300", b"300", 26, "'schedule' line has 3 words, not 4"),
        (b"300 400", b"300 501", 26, "501 is not in 0..500"),
        (b"300 400", b"199 400", 26, "199 is not in 200..1000"),
        (b"rank a", b"rank", 27, "'rank' line has 1 words, not 2"),
        (b"rank a", b"rank nobody", 27, "nobody is called 'nobody'"),
        (b"rank a", b"rank [rcu]", 28, "'[rcu]' has two ranks"),
        (b"demote 5", b"rank teardown\nrank b\ndemote 401", 31, "401 is not in 0..400"),
        (b"demote 5", b"demote 10", 30, "earlier than the one before"),
        (b"demote 5", b"demote 5 a", 29, "'demote' line has 3 words, not 2"),
        (b"demote 5", b"demote 5\nrank b", 30, "a rank after a step"),
        (b"demote 5", b"promote 5", 29, "'promote' in a schedule"),
        (b"demote 5", b"demote 5\n" * 33, 61, "more than 32 steps"),
        (b"9 a 30", b"9 b 30", 30, "'b' has no rank"),
        (b"9 a 30", b"9 a 392", 30, "392 is not in 1..391"),
        (b"end\nteardown", b"teardown", 31, "'teardown' in a schedule"),
        (b"schedule pct", _PARK + b"schedule pct", 29, "a plan and a schedule"),
    ],
)
def test_bad_schedule_is_refused_with_line_and_reason(
    checked_executor: Path, old: bytes, new: bytes, line: int, why: str
) -> None:
    text = _GOOD.serialise().replace(b"teardown\n", _SCHEDULE + b"teardown\n")
    assert check(checked_executor, text)["ev"] == "program"
    assert_refused(checked_executor, text, old, new, line, why)


def _with_body(body: list[str]) -> bytes:
    lines = ["kmod-program 1", "name n", "seed 1", "bound_us 1", "kmemleak 0", "setup", *body]
    return ("\n".join([*lines, "end", "teardown", "end"]) + "\n").encode()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (["op p ok - 0 yield"] * (ops.MAX_NODES + 1), f"more than {ops.MAX_NODES} nodes"),
        (["loop 1"] * 17 + ["end"] * 17, "nested deeper than 16"),
        (["op p ok - 0 exec /x" + " a" * 25], "more than 24 words at the end"),
        (["op p ok - 0 exec /x" + " a" * 50], "more than 40 words"),
        (["op p ok - 0 stat /" + "x" * ops.MAX_PROGRAM_BYTES], "more than 131072"),
        ([f"op p ok - 0 delete_module m{i} -" for i in range(9)], "more than 8 modules"),
        (["fail 1", "op p ok - 0 yield"] * 513, "more than 512 ops that fail"),
        (["fail 0", "op p ok - 0 yield"], "0 is not in 1..1000000000"),
        (["fail 1 2", "op p ok - 0 yield"], "'fail' line has 3 words, not 2"),
        (["fail 1"], "'fail' before 'end'"),
        (["fail 1", "fail 2", "op p ok - 0 yield"], "'fail' before 'fail'"),
        (["op p ok"], "'op' line is too short"),
        (["choose", "end"], "'choose' holds branches"),
        (["choose", "loop 1", "end", "end"], "'choose' holds branches, not 'loop'"),
        (["", "op p ok - 0 yield"], "empty line"),
    ],
)
def test_limits_are_kept(checked_executor: Path, body: list[str], why: str) -> None:
    event = check(checked_executor, _with_body(body))
    assert event["ev"] == "bad-program"
    assert why in event["why"]


def test_too_many_actors_are_refused(checked_executor: Path) -> None:
    text = _with_body([]).replace(
        b"teardown\n",
        b"".join(b"actor a%d process 0 p 1 -\nend\n" % i for i in range(65)) + b"teardown\n",
    )
    assert check(checked_executor, text)["why"] == "more than 64 actors"


def test_bad_program_is_told_by_run_too(executor: Path) -> None:
    done = subprocess.run([executor, "run", "-"], input=b"", capture_output=True, timeout=60)
    assert done.returncode == 2
    assert json.loads(done.stdout) == {
        "ev": "bad-program",
        "line": 1,
        "why": "the text ends too early",
    }
