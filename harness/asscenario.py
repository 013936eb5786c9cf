# SPDX-License-Identifier: GPL-2.0-only
"""A program as a scenario that a person can read and pytest can run. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from harness.errors import UsageError
from harness.ops import OPS, REQUIRED, Kind, Param, Value
from harness.program import NEEDS, Actor, Choose, Loop, Node, Op, Program, module_of_path

#: What every scenario of one module may say of it.
_OWN: Final = ("ko", "module")


def document(program: Program, about: str, lane: str, modules: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a scenario that becomes the program again.

    Args:
        about: what it is there for, one line.
        modules: a module's name → what a scenario calls it: ``module``, ``module.core``.

    Raises:
        UsageError: it holds what no scenario says: a plan or a schedule.
    """
    if program.park is not None or program.schedule is not None:
        what = "a plan" if program.park is not None else "a schedule"
        raise UsageError(
            f"program {program.name}: has {what}, which no scenario can hold",
            hint="its bundle replays it",
        )
    names = _short_names(program.actors)
    writer = _Writer(names, modules)
    return {
        "about": about,
        "surfaces": ["module"],
        "lanes": {lane: {"bound_us": program.bound_us, "kmemleak": program.kmemleak}},
        "setup": writer.steps(program.setup),
        "actors": [writer.actor(actor) for actor in program.actors],
        "teardown": writer.steps(program.teardown),
    }


def text(fields: Mapping[str, Any]) -> str:
    """Return a scenario's fields as YAML, one step a line."""
    lines = [f"about: {_flow(fields['about'])}", f"surfaces: {_flow(fields['surfaces'])}",
             f"lanes: {_flow(fields['lanes'])}"]  # fmt: skip
    for key in ("setup", "actors", "teardown"):
        items = fields[key]
        if not items:
            lines.append(f"{key}: []")
            continue
        lines.append(f"{key}:")
        for item in items:
            lines += _item(item, "  ")
    return "\n".join(lines) + "\n"


def _item(item: Mapping[str, Any], indent: str) -> Iterator[str]:
    """One entry of a list; what has a list of its own goes on below."""
    nested = [key for key in ("do", "choose") if key in item]
    if not nested:
        yield f"{indent}- {_flow(item)}"
        return
    mark = "- "
    for key, value in item.items():
        if key not in nested:
            yield f"{indent}{mark}{key}: {_flow(value)}"
        else:
            yield f"{indent}{mark}{key}:"
            for below in value:
                yield from _item(below, indent + "    ")
        mark = "  "


def _flow(value: Any) -> str:
    dumped = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return dumped.removesuffix("\n").removesuffix("\n...")


def _short_names(actors: Sequence[Actor]) -> dict[str, str]:
    """Actors' names as a scenario may have them: it makes ``user.0`` of ``user`` itself."""
    return {actor.name: re.sub(r"[^a-z0-9_-]", "-", actor.name.lower()) for actor in actors}


@dataclasses.dataclass(frozen=True, slots=True)
class _Writer:
    names: Mapping[str, str]
    modules: Mapping[str, str]

    def actor(self, actor: Actor) -> dict[str, Any]:
        fields: dict[str, Any] = {"name": self.names[actor.name]}
        if actor.kind != "process":
            fields["kind"] = actor.kind
        if actor.fifo:
            fields["fifo"] = actor.fifo
        if actor.repeat != (0 if actor.until else 1):
            fields["repeat"] = actor.repeat
        if actor.until:
            fields["until"] = [self.names.get(name, name) for name in actor.until]
        return {**fields, "do": self.steps(actor.body)}

    def steps(self, nodes: Sequence[Node]) -> list[dict[str, Any]]:
        # What the module needs is loaded first for whoever runs the scenario.
        return [
            self._step(node)
            for node in nodes
            if not (isinstance(node, Op) and node.place.startswith(NEEDS))
        ]

    def _step(self, node: Node) -> dict[str, Any]:
        match node:
            case Op():
                return self._op(node)
            case Loop():
                return {"loop": node.count, "do": self.steps(node.body)}
            case Choose():
                return {
                    "choose": [
                        {"weight": branch.weight, "do": self.steps(branch.body)}
                        if branch.weight != 1
                        else {"do": self.steps(branch.body)}
                        for branch in node.branches
                    ]
                }

    def _op(self, op: Op) -> dict[str, Any]:
        params = OPS[op.name].params
        values = {
            param.name: self._value(op, param, value)
            for param, value in zip(params, op.args, strict=True)
            if param.default is REQUIRED or value != param.default
        }
        step: dict[str, Any] = {op.name: self._short(op, values)}
        if op.expect != ("ok",):
            step["expect"] = "any" if op.expect == ("any",) else list(op.expect)
        if op.stop_on:
            step["stop_on"] = list(op.stop_on)
        if op.retries:
            step["retries"] = op.retries
        if op.fail:
            step["fail"] = op.fail
        return step

    def _short(self, op: Op, values: dict[str, Any]) -> Any:
        short = OPS[op.name].short
        if not values:
            return {}
        if short is not None and set(values) == {short.name} and short.kind is not Kind.REST:
            return values[short.name]
        return values

    def _value(self, op: Op, param: Param, value: Value) -> Any:
        if isinstance(value, tuple):
            return [_escaped(word) for word in value]
        if not isinstance(value, str):
            return value
        if param.kind is Kind.ACTOR:
            return self.names.get(value, value)
        if op.name in ("finit_module", "delete_module") and param.name in ("path", "name"):
            known = self.modules.get(module_of_path(value))
            if known is not None:
                name = known if op.name == "delete_module" else known.replace("module", "ko", 1)
                return f"${{{name}}}"
        return _escaped(value)


def _escaped(text: str) -> str:
    return text.replace("$", "$$")
