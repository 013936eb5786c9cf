# SPDX-License-Identifier: GPL-2.0-only
"""A scenario, one module's bindings and a seed to a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from harness import ops
from harness.errors import ScenarioError, UsageError
from harness.ops import Param, Value
from harness.program import Actor, Branch, Choose, Loop, Node, Op, Program
from harness.scenario import (
    INSTANCE,
    REFERENCE,
    ActorTemplate,
    AnyStep,
    ChooseStep,
    Count,
    LoopStep,
    Scenario,
    Step,
    names_used,
)

#: Op runs of one actor beyond which a scenario is taken for a mistake.
MAX_RUNS: Final = 100_000_000


def compile_program(
    scenario: Scenario,
    *,
    seed: int,
    bindings: Mapping[str, str],
    lane: str = "det",
    kmemleak: bool | None = None,
) -> Program:
    """The program of a scenario for one module, lane and seed.

    ``bindings`` win over the lane's defaults, and so does ``kmemleak``.

    :raises UsageError: A binding is missing, the lane is unknown, or a value
        does not fit where it is put.
    """
    budget = scenario.lane(lane)
    values = {**dict(budget.bindings), **bindings}
    missing = sorted(set(names_used(scenario)) - set(values) - {INSTANCE})
    if missing:
        raise UsageError(
            f"scenario {scenario.name} needs " + ", ".join(f"${{{name}}}" for name in missing),
            hint=f"it is for modules with the surfaces {', '.join(scenario.surfaces)}",
        )
    compiler = _Compiler(scenario, values)
    program = Program(
        name=scenario.name,
        seed=seed,
        bound_us=budget.bound_us,
        actors=tuple(compiler.actors()),
        kmemleak=budget.kmemleak if kmemleak is None else kmemleak,
        setup=compiler.nodes(scenario.setup, 0),
        teardown=compiler.nodes(scenario.teardown, 0),
    )
    program.serialise()
    return program


class _Compiler:
    """Puts bindings into a scenario."""

    def __init__(self, scenario: Scenario, values: Mapping[str, str]) -> None:
        self._scenario = scenario
        self._values = values

    def actors(self) -> Iterator[Actor]:
        counts = {
            actor.name: self._count(actor, actor.count, ops.MAX_ACTORS)
            for actor in self._scenario.actors
        }
        for actor in self._scenario.actors:
            repeat = self._count(actor, actor.repeat, ops.MAX_NUMBER) if actor.repeat else 0
            until = tuple(name for other in actor.until for name in _instances(other, counts))
            for index, name in enumerate(_instances(actor.name, counts)):
                body = self.nodes(actor.body, index)
                self._check_runs(actor, body, repeat)
                yield Actor(name, actor.place, body, actor.kind, actor.fifo, repeat, until)

    def nodes(self, steps: tuple[AnyStep, ...], index: int) -> tuple[Node, ...]:
        return tuple(self._node(step, index) for step in steps)

    def _node(self, step: AnyStep, index: int) -> Node:
        match step:
            case LoopStep():
                return Loop(
                    self._count(step, step.count, ops.MAX_NUMBER), self.nodes(step.body, index)
                )
            case ChooseStep():
                bodies = (self.nodes(body, index) for body in step.bodies)
                return Choose(tuple(map(Branch, step.weights, bodies)))
            case Step():
                args = tuple(
                    self._arg(step, param, value, index)
                    for param, value in zip(step.spec.params, step.args, strict=True)
                )
                return Op(
                    step.place, step.spec.name, args, step.expect, step.stop_on, step.retries,
                    step.fail,
                )  # fmt: skip

    def _error(self, where: AnyStep | ActorTemplate, field: str, why: object) -> ScenarioError:
        return ScenarioError(f"{self._scenario.file}:{where.line}: {where.place}{field}: {why}")

    def _count(self, where: LoopStep | ActorTemplate, value: Count, high: int) -> int:
        try:
            if isinstance(value, int):
                return ops.check_number(value, 1, high)
            return ops.parse_number(self._text(value, 0), 1, high)
        except ValueError as error:
            raise self._error(where, f": {value}", error) from error

    def _text(self, text: str, index: int) -> str:
        values = {**self._values, INSTANCE: str(index)}
        return REFERENCE.sub(lambda match: values[match[1]] if match[1] else "$", text)

    def _arg(self, step: Step, param: Param, value: Value, index: int) -> Value:
        try:
            if isinstance(value, tuple):
                value = tuple(self._text(text, index) for text in value)
            elif isinstance(value, str):
                value = self._text(value, index)
                if param.kind in ops.NUMERIC:
                    value = ops.parse_number(value, -(2**63), 2**64)
            return ops.check_value(param, value)
        except ValueError as error:
            raise self._error(step, f".{step.spec.name}.{param.name}", error) from error

    def _check_runs(self, actor: ActorTemplate, body: tuple[Node, ...], repeat: int) -> None:
        runs = _runs(body) * max(repeat, 1)
        if runs > MAX_RUNS:
            raise self._error(actor, "", f"{runs} op runs, more than {MAX_RUNS}")


def _instances(name: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    if counts[name] == 1:
        return (name,)
    return tuple(f"{name}.{index}" for index in range(counts[name]))


def _runs(nodes: tuple[Node, ...]) -> int:
    total = 0
    for node in nodes:
        match node:
            case Op():
                total += 1
            case Loop():
                total += node.count * max(_runs(node.body), 1)
            case Choose():
                total += max(_runs(branch.body) for branch in node.branches)
    return total
