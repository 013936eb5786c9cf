# SPDX-License-Identifier: GPL-2.0-only
"""Programs as values and as text; the text against the executor is in test_executor_text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import ops
from harness.errors import UsageError
from harness.program import (
    Actor,
    Branch,
    Choose,
    Loop,
    Node,
    Op,
    Park,
    Program,
    decode_word,
    encode_word,
    module_of_path,
)

_YIELD = Op("p", "yield")
_A = Actor("a", "actors[0]", (_YIELD,))
_PROGRAM = Program("n", 1, 1000, (_A,))


def test_text_is_what_a_person_can_read() -> None:
    body = (
        Op("actors[0].do[0]", "open", (3, "/mnt/a b", ("rdwr", "creat"), 0o600), ("ok", "ENOENT")),
        Loop(4, (Op("actors[0].do[1].do[0]", "pread", (3, 0, 10, None, 5), stop_on=("EIO",)),)),
        Choose((Branch(3, (Op("c", "mount", ("", "/m", "x", (), "")),)),)),
    )
    actors = (Actor("a.0", "actors[0]", body, until=("b",), repeat=0), Actor("b", "actors[1]", ()))
    prog = Program("n", 2**64 - 1, 99, actors, True, setup=(Op("setup[0]", "sync", retries=3),))
    assert prog.serialise().decode() == (
        "kmod-program 1\n"
        "name n\n"
        "seed 18446744073709551615\n"
        "bound_us 99\n"
        "kmemleak 1\n"
        "setup\n"
        "op setup[0] ok - 3 sync\n"
        "end\n"
        "actor a.0 process 0 actors[0] 0 b\n"
        "op actors[0].do[0] ok,ENOENT - 0 open 3 /mnt/a%20b rdwr,creat 0600\n"
        "loop 4\n"
        "op actors[0].do[1].do[0] ok EIO 0 pread 3 0 10 - 5\n"
        "end\n"
        "choose\n"
        "branch 3\n"
        "op c ok - 0 mount % /m x - %\n"
        "end\n"
        "end\n"
        "end\n"
        "actor b process 0 actors[1] 1 -\n"
        "end\n"
        "teardown\n"
        "end\n"
    )
    assert Program.parse(prog.serialise()) == prog


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))))
def test_words_round_trip(text: str) -> None:
    word = encode_word(text)
    assert decode_word(word) == text
    assert word.isascii()
    assert word
    assert " " not in word


@pytest.mark.parametrize("word", ["", "a b", "%0", "%0a", "%00", "%FF", "a%", "ü", "\t"])
def test_what_no_encoder_writes_is_no_word(word: str) -> None:
    with pytest.raises(ValueError, match=r"is not a word|utf-8|NUL"):
        decode_word(word)


@pytest.mark.parametrize(
    ("path", "name"), [("/m/pool-fs.ko", "pool_fs"), ("a.ko.xz", "a"), ("poolfs", "poolfs")]
)
def test_module_is_named_as_the_kernel_does(path: str, name: str) -> None:
    assert module_of_path(path) == name


def _op(*args: Any, name: str = "open", **fields: Any) -> Program:
    return replace(_PROGRAM, actors=(replace(_A, body=(Op("p", name, args, **fields),)),))


def _nested(depth: int) -> tuple[Node, ...]:
    body: tuple[Node, ...] = (_YIELD,)
    for _ in range(depth):
        body = (Loop(1, body),)
    return body


def _actors(*actors: Actor) -> Program:
    return replace(_PROGRAM, actors=actors)


@pytest.mark.parametrize(
    ("prog", "why"),
    [
        (replace(_PROGRAM, seed=-1), "-1 is not in 0"),
        (replace(_PROGRAM, bound_us=0), "0 is not in 1"),
        (_op(name="insmod"), "no op is called 'insmod'"),
        (_op(1), "open has 4 parameters, not 1"),
        (_op(name="sync", expect=("EWHAT",)), "no errno is called 'EWHAT'"),
        (_op(name="sync", expect=("EWOULDBLOCK",)), "EWOULDBLOCK has another name: EAGAIN"),
        (_op(name="sync", retries=1001), "1001 is not in 0"),
        (_op(name="sync", fail=10**9 + 1), "1000000001 is not in 1"),
        (_actors(replace(_A, body=(replace(_YIELD, fail=1),) * 513)), "513 ops that fail"),
        (_op("c", "TERM", name="kill"), "no actor is called 'c'"),
        (_actors(_A, _A), "two actors have the same name"),
        (_actors(replace(_A, name="")), "'' is no name"),
        (_actors(replace(_A, name="x" * 64)), "is no name"),
        (_actors(replace(_A, kind="fiber")), "a process or a thread"),  # type: ignore[arg-type]
        (_actors(replace(_A, repeat=0)), "actor a would never end"),
        (_actors(replace(_A, until=("a",))), "actor a cannot wait for a"),
        (_actors(replace(_A, until=("b",))), "actor a cannot wait for b"),
        (_actors(replace(_A, fifo=91)), "91 is not in 0"),
        (_actors(replace(_A, kind="thread", body=(Op("p", "chdir", ("/",)),))), "not for threads"),
        (_actors(*(replace(_A, name=f"a{i}") for i in range(65))), "65 actors, more than 64"),
        (_actors(replace(_A, body=(Choose(()),))), "a choice without branches"),
        (_actors(replace(_A, body=(Loop(0, ()),))), "0 is not in 1"),
        (_actors(replace(_A, body=_nested(17))), "nested deeper than 16"),
        (_actors(replace(_A, body=(_YIELD,) * 4097)), "4097 ops and blocks, more than 4096"),
        (_op("x" * ops.MAX_PROGRAM_BYTES, name="stat"), "more than the 131072"),
        (replace(_PROGRAM, setup=(Op("setup[0]", "barrier", (1,)),)), "outside the actors"),
        (
            replace(
                _PROGRAM,
                setup=tuple(Op("s", "delete_module", (f"m{i}", ())) for i in range(9)),
            ),
            "9 modules, more than 8",
        ),
    ],
)
def test_program_that_the_executor_would_refuse_is_not_written(prog: Program, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        prog.serialise()


def test_deepest_program_that_fits_is_written() -> None:
    prog = _actors(replace(_A, body=_nested(16)))
    assert Program.parse(prog.serialise()) == prog


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("kmod-program 1", "kmod-program 2", "line 1: unknown version"),
        ("seed 1", "seed", "line 3: line is not 'seed' and its value"),
        ("seed 1", "seed 01", "line 3: '01' is not a whole number"),
        ("setup", "set", "line 6: no setup"),
        ("teardown", "tear", "line 11: no teardown"),
        ("setup", "settle_us\nsetup", "line 6: line is not 'settle_us' and its value"),
        ("setup", "settle_us 0\nsetup", "line 6: 0 is not"),
        ("actor a process", "actor a fiber", "line 8: bad actor line"),
        ("op p ok - 0 yield", "op p ok - 0 yield 1", "line 9: yield has too many words"),
        ("op p ok - 0 yield", "op p ok - 0 stat", "line 9: stat has too few words"),
        ("op p ok - 0 yield", "op p ok", "line 9: op line is too short"),
        ("op p ok - 0 yield", "op p ok - 0 yeld", "line 9: no op is called 'yeld'"),
        ("op p ok - 0 yield", "fail 0\nop p ok - 0 yield", "line 9: 0 is not in 1"),
        ("op p ok - 0 yield", "fail 1\nloop 1", "line 10: 'fail' before 'loop'"),
        ("op p ok - 0 yield", "nop", "line 9: 'nop' in a list of ops"),
        ("op p ok - 0 yield", "op p ok - 0 mkdir /x 755", "'755' is not a mode such as 0644"),
        ("op p ok - 0 yield", "choose\nloop 1", "line 10: 'choose' holds branches"),
        ("op p ok - 0 yield", "loop 1\n" * 17, "nested deeper than 16"),
        ("op p ok - 0 yield", "op p EAGAIN,any - 0 yield", "no errno is called 'any'"),
        ("op p ok - 0 yield", "op p%41 ok - 0 yield", "not the form that serialise"),
        ("teardown\nend\n", "teardown\n", "the text ends too early"),
        ("teardown\nend\n", "teardown\nend", "the last line has no newline"),
        ("teardown\nend\n", "teardown\nend\nend\n", "text after the end"),
        ("name n", "name ü", "it is not ASCII"),
    ],
)
def test_text_that_was_not_written_so_is_refused(old: str, new: str, why: str) -> None:
    text = _PROGRAM.serialise().decode()
    assert old in text
    with pytest.raises(UsageError, match=why):
        Program.parse(text.replace(old, new, 1).encode())


_PARK = Park("user.* f+0x4 #2 then users", "user.*", "m", ".text", 20, 2, "users")


def test_plan_travels_between_actors_and_teardown() -> None:
    body = (Op("park.do[0]", "delete_module", ("m", ("nonblock",)), ("any",)),)
    prog = replace(_PROGRAM, park=replace(_PARK, mode="hold", body=body))
    lines = prog.serialise().decode().splitlines()
    at = lines.index("park user.*%20f+0x4%20#2%20then%20users user.* m .text 20 2 hold")
    assert lines[at - 1] == "end"
    assert lines[at + 1 : at + 4] == [
        "op park.do[0] any - 0 delete_module m nonblock", "end", "teardown",
    ]  # fmt: skip
    assert Program.parse(prog.serialise()) == prog


def test_failing_allocation_is_a_line_of_its_own() -> None:
    body = (replace(_YIELD, fail=3), _YIELD)
    prog = replace(_PROGRAM, actors=(replace(_A, body=body),))
    text = prog.serialise().decode()
    assert "\nfail 3\nop p ok - 0 yield\nop p ok - 0 yield\nend\n" in text
    assert Program.parse(prog.serialise()) == prog
    assert b"fail" not in _PROGRAM.serialise()


def test_program_without_a_plan_has_the_text_it_always_had() -> None:
    assert b"park" not in _PROGRAM.serialise()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"hits": 0}, "is not in"),
        ({"offset": -1}, "is not in"),
        ({"mode": "wait"}, "hold or users"),
        ({"role": ""}, "without a role"),
        ({"body": (Op("park.do[0]", "barrier", (0,)),)}, "barrier outside"),
    ],
)
def test_plan_that_the_executor_would_refuse(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        replace(_PROGRAM, park=replace(_PARK, **fields)).serialise()
