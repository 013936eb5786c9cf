# SPDX-License-Identifier: GPL-2.0-only
"""Programs of a failure sweep: one scenario, in which an op's Nth allocation fails.

A scenario with one actor is a line of steps. A *block* walks that line up to one step, lets an
allocation fail in it, goes on if the step has succeeded all the same, puts everything away, and
walks the whole line once more, when all must be well. A program is a number of blocks: what one
leaves behind would show in the next, and whatever shows is looked at again one block at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from harness import ops
from harness.errors import UsageError
from harness.ops import OPS, Kind, Value
from harness.program import Actor, Choose, Loop, Node, Op, Program, walk

#: What an op may answer when an allocation has failed in it, besides what it may anyway.
SANE: Final = ("ENOMEM", "ENOBUFS", "ENOSPC", "ENFILE", "EAGAIN", "EINTR", "SHORT", "SIGBUS")
#: A module's init may make of it what it likes; that it failed is what counts.
_INIT: Final = ops.ERRNOS

#: Ops that enter the kernel on nobody's behalf, or in another task.
_NOT_SWEPT: Final = frozenset(
    ("sleep", "delay", "yield", "barrier", "pin", "kill", "exec", "await_line", "sync", "chdir",
     "umount_all", "lseek")
)  # fmt: skip

#: A datagram may be lost on its way without a word to its sender.
_MAY_LOSE: Final = frozenset(("send",))

#: How often a module is asked to go, in blocks: the last reference may be dropped later.
_RETRIES: Final = 20
#: More than any op asks for: how much of it is left tells how often it did.
MEASURE: Final = ops.MAX_FAIL_NTH
#: Blocks of one program.
_MAX_BLOCKS: Final = 64
#: Ops of one program: the executor reports what each has answered, and no report is endless.
_MAX_OPS: Final = 1000
#: Text that a program has besides its blocks, bytes.
_SPARE: Final = 8192
_WARM: Final = "warm"


#: Steps that were swept already: what is done, and with what.
Seen = set[tuple[str, tuple[Value, ...]]]


@dataclass(frozen=True, slots=True)
class Line:
    """A scenario's steps, one after another."""

    steps: tuple[Op, ...]
    #: What puts everything away, after whatever step.
    cleanup: tuple[Op, ...]
    #: Indexes of the steps in which something is made to fail.
    swept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """The Nth allocation of a step."""

    step: int
    nth: int

    def __str__(self) -> str:
        return f"{self.step}#{self.nth}"


def find_lines(program: Program, seen: Seen) -> tuple[Line, ...]:
    """Return the lines of a program of one actor: one for each way that its choices can go.

    A step that was seen before, in another line, is not swept again.

    Args:
        seen: steps that were; those of this program are added.

    Raises:
        UsageError: it has several actors, whose steps have no order.
    """
    if len(program.actors) != 1:
        raise UsageError(
            f"scenario {program.name} has {len(program.actors)} actors; a failure sweep takes one"
            " step after another",
            hint="name a scenario with one actor, such as cycle",
        )
    body = (*program.setup, *program.actors[0].body)
    choices = (len(node.branches) for _, node in walk(body) if isinstance(node, Choose))
    lines = []
    for way in range(max(choices, default=1)):
        steps = tuple(_flat(body, way))
        swept = tuple(_swept(steps, seen))
        if swept:
            lines.append(Line(steps, _cleanup(steps, program.teardown), swept))
    return tuple(lines)


def _flat(nodes: Iterable[Node], way: int) -> Iterator[Op]:
    """One way through the nodes; loops are gone through once."""
    for node in nodes:
        match node:
            case Op():
                yield node
            case Loop():
                yield from _flat(node.body, way)
            case Choose():
                branch = node.branches[min(way, len(node.branches) - 1)]
                yield from _flat(branch.body, way)


def _swept(steps: Sequence[Op], seen: Seen) -> Iterator[int]:
    loaded = 0
    for index, step in enumerate(steps):
        known = (step.name, step.args) in seen
        if step.name == "finit_module":
            loaded += "ok" in step.expect
        elif not loaded or step.name in _NOT_SWEPT:
            continue
        elif step.name == "delete_module":
            loaded -= "ok" in step.expect
        if not known:
            seen.add((step.name, step.args))
            yield index


def _cleanup(steps: Sequence[Op], teardown: Sequence[Node]) -> tuple[Op, ...]:
    """What ends an actor's hold of things, then what the scenario does at its end."""
    places: dict[tuple[str, Value], None] = {}
    for step in steps:
        for param, value in zip(OPS[step.name].params, step.args, strict=True):
            if param.kind is Kind.MAP:
                places["munmap", value] = None
            elif param.kind is Kind.SLOT:
                places["close", value] = None
    ordered = sorted(places, key=lambda one: one[0], reverse=True)
    ends = [Op("end", name, (value,), ("any",)) for name, value in ordered]
    ends += _folders_put_away(steps)
    ends += [dataclasses.replace(op, retries=_RETRIES) if op.name == "delete_module" else op
             for op in _flat(teardown, 0)]  # fmt: skip
    return tuple(ends)


def _folders_put_away(steps: Sequence[Op]) -> list[Op]:
    """What takes mounts and folders away again, the last one first.

    A mount keeps its filesystem's module, as a folder of configfs does; what lies in a mount goes
    with it.
    """
    mounts = {str(step.args[1]) for step in steps if step.name == "mount"}
    ends: dict[Op, None] = {}
    for step in reversed(steps):
        if step.name == "mount":
            ends[Op("end", "umount", (step.args[1], ()), ("any",))] = None
        elif step.name == "mkdir" and not any(
            f"{step.args[0]}/".startswith(f"{mount}/") for mount in mounts
        ):
            ends[Op("end", "rmdir", (step.args[0],), ("any",))] = None
    return list(ends)


def failing(step: Op, nth: int) -> Op:
    """Return a step whose Nth allocation fails; where it fails for that, its line ends."""
    may = _INIT if step.name == "finit_module" else SANE
    expect = step.expect
    if expect != ("any",):
        expect = (*expect, *(name for name in may if name not in expect))
    stop = tuple(name for name in (*may, *step.stop_on) if name not in step.expect)
    if step.name in _MAY_LOSE:
        stop = (*stop, *step.expect)
    return dataclasses.replace(
        _lenient(step), fail=nth, expect=expect, stop_on=tuple(dict.fromkeys(stop)), retries=0
    )


def _lenient(step: Op) -> Op:
    """A step that may read less: without memory it gets so far and no further."""
    if step.name == "pread_hole":
        return Op(step.place, "pread", (*step.args, None, 0), step.expect)
    args = tuple(
        0 if param.name == "min" else value
        for param, value in zip(OPS[step.name].params, step.args, strict=True)
    )
    return dataclasses.replace(step, args=args)


def make_program(base: Program, line: Line, failures: Sequence[Failure]) -> Program:
    """Return a scenario's program in which these failures come one after another."""
    blocks = [node for failure in failures for node in _block(line, failure)]
    return _with_body(base, (*_walk(line, _WARM), *blocks), len(failures))


def measuring_program(base: Program, line: Line) -> Program:
    """Return the program that tells how many allocations each swept step asks for."""
    counted = tuple(
        dataclasses.replace(step, place=str(Failure(index, MEASURE)), fail=MEASURE, retries=0)
        if index in line.swept else step
        for index, step in enumerate(line.steps)
    )  # fmt: skip
    return _with_body(base, (*_walk(line, _WARM), *counted, *line.cleanup), 1)


def _with_body(base: Program, body: tuple[Node, ...], blocks: int) -> Program:
    actor: Actor = dataclasses.replace(base.actors[0], body=body, repeat=1, until=())
    return dataclasses.replace(
        base,
        bound_us=min(base.bound_us * (2 + blocks), ops.MAX_BOUND_US),
        kmemleak=False,
        setup=(),
        actors=(actor,),
    )


def _walk(line: Line, where: str) -> Iterator[Node]:
    """The whole line without a failure, and what puts everything away."""
    # A loop of one turn, so that what ends a turn does not end the program.
    yield Loop(1, tuple(_at(step, where) for step in line.steps))
    yield from (_at(op, where) for op in line.cleanup)


def _block(line: Line, failure: Failure) -> Iterator[Node]:
    where = str(failure)
    before = tuple(_at(step, where) for step in line.steps[: failure.step])
    failed = dataclasses.replace(failing(line.steps[failure.step], failure.nth), place=where)
    after = tuple(_at(step, where) for step in line.steps[failure.step + 1 :])
    yield Loop(1, (*before, failed, *after))
    yield from (_at(op, where) for op in line.cleanup)
    yield from _walk(line, where)


def _at(op: Op, where: str) -> Op:
    return dataclasses.replace(op, place=f"{where} {op.place}")


def failure_of(place: str) -> Failure | None:
    """Return the failure whose block a place of the program lies in, or None."""
    step, mark, nth = place.partition(" ")[0].partition("#")
    if not mark or not step.isdecimal() or not nth.isdecimal():
        return None
    return Failure(int(step), int(nth))


def batches(
    base: Program, line: Line, failures: Sequence[Failure], most: int
) -> Iterator[tuple[Failure, ...]]:
    """Cut failures into batches that a program has room for."""
    fits = min(most, _room(base, line, failures)) if failures else 1
    for start in range(0, len(failures), fits):
        yield tuple(failures[start : start + fits])


def _room(base: Program, line: Line, failures: Sequence[Failure]) -> int:
    """How many blocks a program may have, at least one; each is as large as the largest."""
    longest = max(failures, key=lambda one: (line.steps[one.step].name == "finit_module", one.nth))
    (text, nodes), (more_text, more_nodes) = (
        _size(make_program(base, line, (longest,) * count)) for count in (0, 1)
    )
    # What is loaded before is put in later.
    by_text = (ops.MAX_PROGRAM_BYTES - _SPARE - text) // (more_text - text)
    by_nodes = (_MAX_OPS - nodes) // (more_nodes - nodes)
    return max(1, min(_MAX_BLOCKS, by_text, by_nodes))


def _size(program: Program) -> tuple[int, int]:
    return len(program.serialise()), sum(1 for _ in walk(program.actors[0].body))
