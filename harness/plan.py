# SPDX-License-Identifier: GPL-2.0-only
"""Plans: which task to stop at which instruction, and what is done then, as text.

One line says all of it, and a person can edit it::

    user.* poolfs_write+0x26 #3 then delete_module

The first actor whose name matches ``user.*`` and that reaches the instruction
at ``poolfs_write+0x26`` for its third time is held there while ``delete_module``
runs. Two roles are not names: ``unloader`` is whoever unloads the module in the
program itself, and ``init`` whoever loads it. The line names no address, so it
holds for a module that was compiled again, as long as that offset still begins
an instruction.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from harness import ops
from harness.errors import UsageError
from harness.ops import Value
from harness.program import Node, Op, ParkMode, Program, module_of_path, walk

_PLAN: Final = re.compile(
    r"(?P<role>\S+) +(?P<function>[A-Za-z_.$][\w.$]*)\+(?P<offset>0x[0-9a-f]+|[0-9]+) +"
    r"#(?P<hit>[1-9][0-9]{0,17}) +then +(?P<action>[a-z][a-z_ -]*[a-z])"
)

#: Roles that stand for whoever does something, and the op that tells him.
SPECIAL_ROLES: Final = {"unloader": "delete_module", "init": "finit_module"}


class Action(enum.StrEnum):
    """What is done while the task is held."""

    #: Unload, refused at once while the module is in use (see REPEATED).
    DELETE = "delete_module"
    #: Unload without O_NONBLOCK.
    DELETE_BLOCKING = "delete_module blocking"
    #: The module's own first stage of unloading, then unload.
    TWO_STAGE = "two-stage"
    #: Unload and load again.
    RELOAD = "reload"
    #: Unbind its driver from the device through sysfs, then unload.
    UNBIND = "unbind"
    #: Take its mounts out of the tree, then unload.
    UMOUNT = "umount"
    #: Kill the others, which closes what they have open, then unload.
    CLOSE = "close"
    #: Nothing: the other actors run on.
    USERS = "users"

    @property
    def mode(self) -> ParkMode:
        """How the task is held."""
        return "users" if self is Action.USERS else "hold"


#: Refused, these are tried again when the other actors have gone on: it may be something of
#: theirs, and not what the task holds itself, that has kept the module from going.
REPEATED: Final = (Action.DELETE, Action.DELETE_BLOCKING, Action.TWO_STAGE)
#: Where an op is that does nothing but let the others run.
REST: Final = "park.rest"
#: How long actors get to die, or to go on, microseconds.
_OTHERS_RUN_US: Final = 40_000

#: What a family's surfaces must have for an action.
_NEEDS: Final = {Action.TWO_STAGE: ("unload",), Action.UNBIND: ("driver", "bound")}


@dataclass(frozen=True, slots=True, order=True)
class Plan:
    """One plan; ``str()`` of it is the line that :func:`parse` reads."""

    #: Pattern for names of actors, or one of SPECIAL_ROLES.
    role: str
    function: str
    #: Bytes from the function's start.
    offset: int
    #: The task is stopped when it gets there for this time, from 1.
    hit: int = 1
    action: Action = Action.DELETE

    def __str__(self) -> str:
        where = f"{self.function}+{self.offset:#x}"
        return f"{self.role} {where} #{self.hit} then {self.action.value}"


def parse(text: str) -> Plan:
    """The plan in a line.

    Raises:
        UsageError: it is not one.
    """
    match = _PLAN.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"{text.strip()[:80]!r} is no plan",
            hint="a plan reads `user.* poolfs_write+0x26 #3 then delete_module`",
        )
    try:
        action = Action(match["action"])
    except ValueError:
        known = ", ".join(repr(action.value) for action in Action)
        raise UsageError(f"no action is called {match['action']!r}; there are {known}") from None
    offset = int(match["offset"], 0)
    return Plan(match["role"], match["function"], offset, int(match["hit"]), action)


def role_pattern(role: str, program: Program, module: str) -> str:
    """The pattern for names of actors that a role means in a program.

    Raises:
        UsageError: nobody in the program does what the role is named for.
    """
    wanted = SPECIAL_ROLES.get(role)
    if wanted is None or any(actor.name == role for actor in program.actors):
        return role
    bodies = [("setup", program.setup), *((actor.name, actor.body) for actor in program.actors)]
    for name, body in reversed(bodies):
        for _, node in walk(body):
            if isinstance(node, Op) and node.name == wanted:
                subject = node.args[0]
                if isinstance(subject, str) and module_of_path(subject) == module:
                    return name
    raise UsageError(f"program {program.name}: nobody in it does {wanted} to {module}")


def action_body(action: Action, program: Program, bindings: Mapping[str, str]) -> tuple[Node, ...]:
    """The ops of an action, each of which may answer whatever it likes.

    Args:
        bindings: the scenario's values: ``module``, ``ko``, ``mnt``, ``unload``, ``driver``
            (its folder in sysfs) and ``bound`` (the device's name there) are used.

    Raises:
        UsageError: the action needs a value that is not there.
    """
    missing = [name for name in _NEEDS.get(action, ()) if name not in bindings]
    if missing:
        raise UsageError(f"action {action.value!r}: the module has no {missing[0]!r} surface")
    delete = _op("delete_module", bindings["module"])
    nodes: list[Op] = []
    match action:
        case Action.DELETE:
            nodes = [delete]
        case Action.DELETE_BLOCKING:
            nodes = [_op("delete_module", bindings["module"], flags=())]
        case Action.TWO_STAGE:
            nodes = [_op("write_file", bindings["unload"], "now"), delete]
        case Action.RELOAD:
            nodes = [delete, _op("finit_module", bindings["ko"])]
        case Action.UNBIND:
            nodes = [_op("write_file", f"{bindings['driver']}/unbind", bindings["bound"]), delete]
        case Action.UMOUNT:
            nodes = [_op("umount_all", bindings["mnt"]), delete]
        case Action.CLOSE:
            nodes = [_op("kill", actor.name, signal="KILL") for actor in program.actors]
            # To die they have to run, which they may once the unloader sleeps.
            nodes += [_op("sleep", _OTHERS_RUN_US), delete]
        case Action.USERS:
            pass
    if action in REPEATED:
        # Refused once more when the others have gone on, it is the task's own; busy is a module
        # that one of them has begun to unload, and they have to go on to get to its end.
        rest = _op("sleep", _OTHERS_RUN_US)
        stops = ("ok",), ("ok", "EAGAIN"), ("ok", "EAGAIN")
        nodes = [
            node
            for stop in stops
            for node in (*nodes[:-1], dataclasses.replace(nodes[-1], stop_on=stop), rest)
        ]
    return tuple(_placed(node, index) for index, node in enumerate(nodes))


def _placed(op: Op, index: int) -> Op:
    place = REST if op.name == "sleep" else "park.do"
    return dataclasses.replace(op, place=f"{place}[{index}]")


def _op(name: str, *args: Value, **named: Value) -> Op:
    params = ops.OPS[name].params
    values = list(args)
    for param in params[len(args) :]:
        values.append(named.get(param.name, cast(Value, param.default)))
    return Op("park", name, tuple(values), expect=("any",))
