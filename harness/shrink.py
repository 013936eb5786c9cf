# SPDX-License-Identifier: GPL-2.0-only
"""Programs that are a little smaller than another: what a search for the smallest one tries.

Zeller and Hildebrandt's way (IEEE Transactions on Software Engineering 28, 2002): large parts
are left out first, then smaller ones, then single steps, and at last numbers get smaller. A plan
(:mod:`harness.plan`) gets simpler: an earlier hit, a plain unload, a task by its name. Pure.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from harness import plan as plans
from harness import schedules
from harness.ops import OPS, Kind
from harness.plan import Action, Plan
from harness.program import Actor, Branch, Choose, Loop, Node, Op, Park, Program, bodies, walk

Nodes = tuple[Node, ...]

#: Actions that none is simpler than: the plainest unload, and none at all.
_PLAIN: Final = (Action.DELETE, Action.USERS)


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


def smaller(program: Program, *, stops: bool = True) -> Iterator[Program]:
    """Yield programs with one thing less, the boldest steps first.

    None of them is larger in any respect, so that taking them one after another ends.

    Args:
        stops: the program's plan, if it has one, stops somebody. One that does not is left out
            as a whole or stays as it is.
    """
    yield from _less_scheduled(program)
    park = program.park
    if park is None:
        yield from _less_done(program)
        return
    if not stops:
        yield dataclasses.replace(program, park=None)
        yield from _less_done(program)
        return
    for hit in _earlier(park):
        yield _at_hit(program, park, hit)
    yield from _with_plain_unload(program, park)
    anybody = _who_plays(program, park)
    for fewer in _less_done(program):
        if anybody and not _who_plays(fewer, park):
            # Nobody is left to be stopped.
            continue
        yield fewer
        yield from _at_earlier_hits(program, fewer)
    # Last: with fewer actors there are fewer to choose from.
    yield from _with_named_role(program, park)


def _less_done(program: Program) -> Iterator[Program]:
    """Yield programs that do less, with the schedule or plan that there is."""
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


def _earlier(park: Park) -> tuple[int, ...]:
    """Hits before that of a plan, the first one first."""
    hit = park.hits
    return tuple(dict.fromkeys(one for one in (1, hit // 2, hit - 1) if 1 <= one < hit))


def _at_hit(program: Program, park: Park, hit: int) -> Program:
    plan = dataclasses.replace(plans.parse(park.plan), hit=hit)
    return _with_plan(program, dataclasses.replace(park, hits=hit), plan)


def _at_earlier_hits(program: Program, fewer: Program) -> Iterator[Program]:
    """Yield a smaller program with earlier hits: what was left out may have been hits before it.

    Args:
        program: the one that was made smaller.
    """
    before, after = program.park, fewer.park
    if before is None or after is None:
        return
    who = _who_counts(program, before)
    # Of threads of the kernel and of the setup nobody knows for whom they get there.
    if not who or who != _who_counts(fewer, after):
        for hit in _earlier(after):
            yield _at_hit(fewer, after, hit)


def _who_plays(program: Program, park: Park) -> tuple[Actor, ...]:
    """The actors that a plan may stop."""
    return tuple(one for one in program.actors if fnmatch.fnmatchcase(one.name, park.role))


def _who_counts(program: Program, park: Park) -> tuple[Actor, ...]:
    """The actors that a plan may stop, and those whose end ends them: more turns are more hits."""
    plays = _who_plays(program, park)
    awaited = {name for actor in plays for name in actor.until}
    return (*plays, *(actor for actor in program.actors if actor.name in awaited))


def _with_plain_unload(program: Program, park: Park) -> Iterator[Program]:
    """Yield the plan with the action that says least, though it asks more than once."""
    plan = plans.parse(park.plan)
    if plan.action not in _PLAIN:
        body = plans.action_body(Action.DELETE, program, {"module": park.module})
        park = dataclasses.replace(park, body=body, mode=Action.DELETE.mode)
        yield _with_plan(program, park, dataclasses.replace(plan, action=Action.DELETE))


def _with_named_role(program: Program, park: Park) -> Iterator[Program]:
    """Yield the plan for each actor that may play its part; one that names an actor stays."""
    plan = plans.parse(park.plan)
    if any(actor.name == plan.role for actor in program.actors):
        return
    for actor in _who_plays(program, park):
        named = dataclasses.replace(park, role=actor.name)
        yield _with_plan(program, named, dataclasses.replace(plan, role=actor.name))


def _with_plan(program: Program, park: Park, plan: Plan) -> Program:
    return dataclasses.replace(program, park=dataclasses.replace(park, plan=str(plan)))


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
    park = program.park
    if park is not None:
        # `close` kills everybody.
        park = dataclasses.replace(park, body=_without_mention(park.body, gone))
    return dataclasses.replace(
        program,
        actors=actors,
        schedule=schedule,
        park=park,
        setup=_without_mention(program.setup, gone),
        teardown=_without_mention(program.teardown, gone),
    )


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
