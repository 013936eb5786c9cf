# SPDX-License-Identifier: GPL-2.0-only
"""Which points of a module a trial reached, by whom and in what: from QEMU's log. Pure."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness import elf, ops, symbolise
from harness.exectrace import Visit
from harness.points import TRACER_CALL, Point
from harness.program import Program, node_names
from harness.verdict import Event

#: The role of the kernel's threads and callbacks.
KERNEL: Final = "kernel"
#: The role of whoever prepares what the actors of a scenario find.
SETUP: Final = "setup"

_INIT: Final = ".init.text"

#: Instructions behind which QEMU begins a new block.
_ENDS: Final = re.compile(r"(j|call|ret|iret|loop|rep|sys|int|hlt|ud2|sti|popf|in |out )")


@dataclass(frozen=True, slots=True)
class Reach:
    """A point that a scenario reaches, and by which actors."""

    point: Point
    scenario: str
    #: Pattern for the names of the actors that play one part; "kernel" for its threads.
    role: str
    #: The op in which they reach it; empty for threads of the kernel.
    op: str
    #: How many other actors run meanwhile.
    company: int
    hits: int
    #: How early, among all that the scenario reaches.
    order: int


def find_reaches(
    visits: Sequence[Visit],
    lives: Sequence[Life],
    ko: Path,
    known: Sequence[Point],
    program: Program,
) -> list[Reach]:
    """Return which points a program reached, in the order in which it came to them."""
    roles, names = actor_roles(program), node_names(program)
    counts: dict[tuple[Point, str], tuple[int, int, str]] = {}
    for order, (point, visit) in enumerate(locate(visits, lives, ko, known)):
        role = roles.get(visit.actor) if visit.actor is not None else KERNEL
        name = names[visit.op] if visit.op is not None else ""
        # Init's memory is freed, and others' code comes to lie there.
        foreign = point.section == _INIT and name not in ("", "finit_module")
        if role is not None and not foreign:
            hits, order, op = counts.get((point, role), (0, order, name))
            counts[point, role] = (hits + 1, order, op)
    return [
        Reach(point, program.name, role, op, _company(program, role), hits, order)
        for (point, role), (hits, order, op) in counts.items()
    ]


def _company(program: Program, role: str) -> int:
    """How many others run beside a role: the actors begin when the setup has ended."""
    return 0 if role == SETUP else len(program.actors) - 1


def actor_roles(program: Program) -> dict[int, str]:
    """Number of an actor → pattern for the names of all that play the same part.

    The teardown of a program is no user of the module, and nobody else runs then.
    """
    by_place: dict[str, list[str]] = {}
    for actor in program.actors:
        by_place.setdefault(actor.place, []).append(actor.name)
    roles = {ops.MAX_ACTORS: SETUP}
    for number, actor in enumerate(program.actors):
        same = by_place[actor.place]
        roles[number] = f"{actor.name.rpartition('.')[0]}.*" if len(same) > 1 else actor.name
    return roles


@dataclass(frozen=True, slots=True)
class Life:
    """Where a module lay between a load and its unload."""

    core: int
    #: Its code of init, which is freed when that has returned; 0 without any.
    init: int


def module_lives(events: Iterable[Event], ko: Path) -> list[Life]:
    """Where the module that a plan is for lay, in each of its lives."""
    starts = dict(core_sections(ko))
    lives = {
        Life(
            int(str(event["section_at"]), 0) - starts[event["section"]],
            int(str(event["init_at"]), 0),
        )
        for event in events
        if event["ev"] == "armed" and event["section"] in starts
    }
    return sorted(lives, key=lambda life: life.core)


def core_sections(ko: Path) -> list[tuple[str, int]]:
    """Executable sections of a module's core, and where each begins in it."""
    file = elf.load(ko)
    return [(file.sections[index].name, start) for index, start in symbolise.text_layout(file)]


def locate(
    visits: Sequence[Visit], lives: Sequence[Life], ko: Path, known: Sequence[Point]
) -> list[tuple[Point, Visit]]:
    """Return every point that was reached and in which visit, in order of time."""
    places = _Places(lives, ko)
    by_section: dict[str, list[Point]] = {}
    for point in known:
        by_section.setdefault(point.section, []).append(point)
    blocks: list[tuple[Visit, list[Point]]] = []
    previous: dict[int | None, list[Point]] = {}
    for visit in visits:
        section, value = places.find(visit.address)
        members = by_section.get(section, [])
        at = bisect.bisect_left(members, value, key=lambda point: point.value)
        if at == len(members) or members[at].value != value:
            continue
        before = previous.get(visit.actor, [])
        if members[at] in before[1:]:
            # That block was left early, and this one is its rest.
            del before[before.index(members[at]) :]
        block = _block(members, at, visit.limit)
        previous[visit.actor] = block
        blocks.append((visit, block))
    return [(point, visit) for visit, block in blocks for point in block]


def _block(members: Sequence[Point], at: int, limit: int) -> list[Point]:
    """Straight code from a point on: to the first jump, or as far as QEMU would go."""
    block = [members[at]]
    while (
        (block[-1].text == TRACER_CALL or not _ENDS.match(block[-1].text))
        and (not limit or len(block) < limit)
        and at + len(block) < len(members)
        and members[at + len(block)].function == block[0].function
    ):
        block.append(members[at + len(block)])
    return block


class _Places:
    """Addresses of a module to sections and offsets, in whichever of its lives."""

    def __init__(self, lives: Sequence[Life], ko: Path) -> None:
        sizes = {section.name: section.size for section in elf.load(ko).sections}
        core = dict(core_sections(ko))
        self._spans = [
            (life.core + start, sizes[name], name) for life in lives for name, start in core.items()
        ]
        self._spans += [
            (life.init, sizes[_INIT], _INIT) for life in lives if life.init and _INIT in sizes
        ]

    def find(self, address: int) -> tuple[str, int]:
        """The section and the offset in it; no section for an address in another module."""
        for start, size, section in self._spans:
            if start <= address < start + size:
                return section, address - start
        return "", 0
