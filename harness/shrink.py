# SPDX-License-Identifier: GPL-2.0-only
"""Programs that are a little smaller than another: what a search for the smallest one tries.

Zeller and Hildebrandt's way (IEEE Transactions on Software Engineering 28, 2002): large parts
are left out first, then smaller ones, then single steps, and at last numbers get smaller. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from harness import schedules
from harness.ops import OPS, Kind
from harness.program import Actor, Branch, Choose, Loop, Node, Op, Program, bodies, walk

Nodes = tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """How large a program is."""

    actors: int
    #: Written down, not run.
    ops: int
    turns: int

    def __str__(self) -> str:
        return f"{_number(self.actors, 'actor')}, {_number(self.ops, 'operation')}"


def size(program: Program) -> Size:
    """Return how large a program is; a turn is one round of an actor or a loop."""
    nodes = [node for body in bodies(program) for _, node in walk(body)]
    loops = sum(node.count for node in nodes if isinstance(node, Loop))
    return Size(
        actors=len(program.actors),
        ops=sum(isinstance(node, Op) for node in nodes),
        turns=loops + sum(actor.repeat for actor in program.actors),
    )


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def smaller(program: Program) -> Iterator[Program]:
    """Yield programs with one thing less, the boldest steps first.

    None of them is larger in any respect, so that taking them one after another ends.
    """
    yield from _less_scheduled(program)
    for index in range(len(program.actors)):
        if len(program.actors) > 1:
            yield _without_actor(program, index)
    for index, actor in enumerate(program.actors):
        for fewer in _fewer_turns(actor):
            yield _with_actor(program, index, fewer)
    for index, actor in enumerate(program.actors):
        for body in _fewer(actor.body):
            if body:
                yield _with_actor(program, index, dataclasses.replace(actor, body=body))
    for body in _fewer(program.setup):
        yield dataclasses.replace(program, setup=body)
    for body in _fewer(program.teardown):
        yield dataclasses.replace(program, teardown=body)


def _less_scheduled(program: Program) -> Iterator[Program]:
    if program.schedule is None:
        return
    yield dataclasses.replace(program, schedule=None)
    for schedule in schedules.smaller(program.schedule):
        yield dataclasses.replace(program, schedule=schedule)


def _with_actor(program: Program, index: int, actor: Actor) -> Program:
    actors = (*program.actors[:index], actor, *program.actors[index + 1 :])
    return dataclasses.replace(program, actors=actors)


def _without_actor(program: Program, index: int) -> Program:
    gone = program.actors[index].name
    others = (*program.actors[:index], *program.actors[index + 1 :])
    actors = tuple(_without_partner(actor, gone) for actor in others)
    schedule = program.schedule
    if schedule is not None:
        schedule = schedules.without_role(schedule, gone)
    return dataclasses.replace(program, actors=actors, schedule=schedule)


def _without_partner(actor: Actor, gone: str) -> Actor:
    """An actor who neither waits for another's end nor does anything to him."""
    until = tuple(name for name in actor.until if name != gone)
    repeat = actor.repeat if until or actor.repeat else 1
    body = _without_mention(actor.body, gone)
    return dataclasses.replace(actor, until=until, repeat=repeat, body=body)


def _without_mention(nodes: Nodes, gone: str) -> Nodes:
    kept: list[Node] = []
    for node in nodes:
        match node:
            case Op():
                if not _mentions(node, gone):
                    kept.append(node)
            case Loop():
                if body := _without_mention(node.body, gone):
                    kept.append(dataclasses.replace(node, body=body))
            case Choose():
                kept.append(
                    Choose(
                        tuple(
                            Branch(branch.weight, _without_mention(branch.body, gone))
                            for branch in node.branches
                        )
                    )
                )
    return tuple(kept)


def _mentions(op: Op, actor: str) -> bool:
    pairs = zip(OPS[op.name].params, op.args, strict=True)
    return any(param.kind is Kind.ACTOR and value == actor for param, value in pairs)


def _fewer_turns(actor: Actor) -> Iterator[Actor]:
    if actor.repeat != 1:
        yield dataclasses.replace(actor, repeat=1, until=())
    if actor.repeat > 2:
        yield dataclasses.replace(actor, repeat=actor.repeat // 2)
    if actor.repeat == 2 and actor.until:
        yield dataclasses.replace(actor, until=())


def _fewer(nodes: Nodes) -> Iterator[Nodes]:
    """Yield shorter lists: without a half, a quarter, ... one node; then with a simpler node."""
    length = len(nodes)
    while length:
        for start in range(0, len(nodes), length):
            yield nodes[:start] + nodes[start + length :]
        length //= 2
    for index, node in enumerate(nodes):
        for instead in _simpler(node):
            yield nodes[:index] + instead + nodes[index + 1 :]


def _simpler(node: Node) -> Iterator[Nodes]:
    """Yield what may stand in a node's place."""
    match node:
        case Op():
            yield from ((op,) for op in _simpler_ops(node))
        case Loop():
            yield node.body
            if node.count > 2:
                yield (dataclasses.replace(node, count=node.count // 2),)
            for body in _fewer(node.body):
                if body:
                    yield (dataclasses.replace(node, body=body),)
        case Choose():
            yield from (branch.body for branch in node.branches)
            for index, branch in enumerate(node.branches):
                rest = node.branches[:index], node.branches[index + 1 :]
                if len(node.branches) > 2:
                    yield (Choose((*rest[0], *rest[1])),)
                for body in _fewer(branch.body):
                    yield (Choose((*rest[0], Branch(branch.weight, body), *rest[1])),)


def _simpler_ops(op: Op) -> Iterator[Op]:
    if op.retries:
        yield dataclasses.replace(op, retries=0)
    if op.name == "sleep":
        us, jitter = op.args
        assert isinstance(us, int)
        assert isinstance(jitter, int)
        if jitter:
            yield dataclasses.replace(op, args=(us, 0))
        if us > 1:
            yield dataclasses.replace(op, args=(us // 2, jitter))
