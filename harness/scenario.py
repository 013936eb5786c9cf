# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios: YAML that says what users do to any module with given surfaces.

A scenario names no module: it says ``${ko}``, ``${fstype}`` or ``${mnt}``, or
``${ko.backend}`` for one of several modules, and
``scenario_compile.compile_program`` puts the values in. The shape of the YAML is in
``docs/scenarios.md``; the ops and their parameters are in :mod:`harness.ops`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import pydantic

from harness import ops, scenario_yaml
from harness.errors import ScenarioError, UsageError
from harness.ops import OPS, Kind, OpSpec, Param, Value
from harness.program import ActorKind
from harness.scenario_yaml import Document, Model, Place, near

#: Where the scenarios that come with the harness lie.
SCENARIOS: Final = Path(__file__).parent / "scenarios"

REFERENCE: Final = re.compile(r"\$(?:\$|\{([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?)\}|)")
_STEP_FIELDS: Final = ("expect", "stop_on", "retries", "fail")
#: The number of an actor's instance, where ``count`` makes several.
INSTANCE: Final = "i"

#: A number, or text with ``${name}`` in it that will be one.
Count = int | str


@dataclass(frozen=True, slots=True)
class Step:
    """An op before its bindings are known."""

    place: str
    line: int
    spec: OpSpec
    #: One value per parameter; texts may hold ``${name}``.
    args: tuple[Value, ...]
    expect: tuple[str, ...]
    stop_on: tuple[str, ...]
    retries: int
    fail: int


@dataclass(frozen=True, slots=True)
class LoopStep:
    """A loop before its bindings are known."""

    place: str
    line: int
    count: Count
    body: tuple[AnyStep, ...]


@dataclass(frozen=True, slots=True)
class ChooseStep:
    """A choice before the bindings of its branches are known."""

    place: str
    line: int
    weights: tuple[int, ...]
    bodies: tuple[tuple[AnyStep, ...], ...]


AnyStep = Step | LoopStep | ChooseStep


@dataclass(frozen=True, slots=True)
class ActorTemplate:
    """An actor as the scenario has it: ``count`` instances of one body."""

    name: str
    place: str
    line: int
    count: Count
    kind: ActorKind
    fifo: int
    repeat: Count
    until: tuple[str, ...]
    body: tuple[AnyStep, ...]


@dataclass(frozen=True, slots=True)
class Lane:
    """What one lane can afford."""

    name: str
    #: Microseconds of guest time.
    bound_us: int
    #: Whether it affords the scans of kmemleak, which take 5 s of guest time.
    kmemleak: bool
    #: Default bindings, such as repeat counts.
    bindings: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A validated scenario."""

    name: str
    #: What messages call the file.
    file: str
    about: str
    #: Ways into a module that it must offer, such as ``filesystem``.
    surfaces: tuple[str, ...]
    lanes: tuple[Lane, ...]
    setup: tuple[AnyStep, ...]
    actors: tuple[ActorTemplate, ...]
    teardown: tuple[AnyStep, ...]

    def lane(self, name: str) -> Lane:
        """One lane's budget.

        :raises UsageError: The scenario has no such lane.
        """
        for lane in self.lanes:
            if lane.name == name:
                return lane
        known = ", ".join(lane.name for lane in self.lanes)
        raise UsageError(f"scenario {self.name} has no lane {name!r}, only {known}")

    @property
    def needs(self) -> frozenset[str]:
        """Names of the bindings that no lane gives a default for."""
        given = set.intersection(*({key for key, _ in lane.bindings} for lane in self.lanes))
        return frozenset(names_used(self)) - given - {INSTANCE}


def find_scenario(name: str) -> Path:
    """The file of a scenario that comes with the harness, or of a path to one.

    :raises UsageError: There is neither.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name)
    known = sorted(path.stem for path in SCENARIOS.glob("*.yaml"))
    if name in known:
        return SCENARIOS / f"{name}.yaml"
    raise UsageError(f"no scenario is called {name!r}{near(name, known)}")


def load_scenario(path: Path) -> Scenario:
    """The scenario in a file.

    :raises ScenarioError: It cannot be read or is malformed.
    """
    try:
        text = scenario_yaml.read_text(path)
    except OSError as error:
        raise ScenarioError(f"{path}:1: cannot be read: {error.strerror}") from error
    return parse_scenario(text, str(path))


def parse_scenario(text: str, name: str) -> Scenario:
    """The scenario in a text; ``name`` is its file's, for messages and the stem.

    :raises ScenarioError: ``file:line: field: what is wrong``.
    """
    document = scenario_yaml.parse(text, name)
    model = document.validate(_ScenarioModel)
    parser = _StepParser(document)
    scenario = Scenario(
        name=Path(name).stem,
        file=name,
        about=model.about,
        surfaces=tuple(model.surfaces),
        lanes=tuple(_lane(document, key, lane) for key, lane in model.lanes.items()),
        setup=parser.steps(model.setup, ("setup",)),
        actors=tuple(_actor(parser, index, actor) for index, actor in enumerate(model.actors)),
        teardown=parser.steps(model.teardown, ("teardown",)),
    )
    _check_actors(document, scenario)
    return scenario


def check_steps(document: Document, items: list[Any], place: Place) -> None:
    """Check a list of steps in a document that is no scenario itself.

    :raises ScenarioError: ``file:line: field: what is wrong``.
    """
    _StepParser(document).steps(items, place)


def _check_count(value: object) -> Count:
    match value:
        case bool():
            pass
        case int():
            return ops.check_number(value, 1, ops.MAX_NUMBER)
        case str() if "${" in value:
            return value
    raise ValueError(f"should be a number or ${{name}}, not {value!r:.40}")


def _check_names(value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("should be a name or a list of names")
    return tuple(names)


# Plain validators and not unions: pydantic tells an error for each member of
# a union, and puts its own names for them into the place.
_CountField = Annotated[Count, pydantic.PlainValidator(_check_count)]
_NamesField = Annotated[tuple[str, ...], pydantic.PlainValidator(_check_names)]


class _LaneModel(Model):
    model_config = pydantic.ConfigDict(extra="allow")

    bound_us: Annotated[int, pydantic.Field(ge=1, le=ops.MAX_BOUND_US)]
    kmemleak: bool = False


class _ActorModel(Model):
    name: Annotated[str, pydantic.Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
    count: _CountField = 1
    kind: ActorKind = "process"
    fifo: Annotated[int, pydantic.Field(ge=0, le=ops.MAX_FIFO)] = 0
    repeat: _CountField | None = None
    until: _NamesField = ()
    do: Annotated[list[Any], pydantic.Field(min_length=1)]


class _ScenarioModel(Model):
    about: Annotated[str, pydantic.Field(min_length=1)]
    surfaces: Annotated[
        list[
            Literal[
                "module", "filesystem", "device", "sysfs", "debugfs", "proc", "netlink",
                "socket", "hook",
                # Other modules of the family, by their roles.
                "core", "backend", "keeper",
                # An interface whose events it hears; a file that shows the last one.
                "interface", "event_file",
                # An attribute of the parent of its device, there before and after it.
                "parent_sysfs",
                # Parameters with which its load is refused with EBUSY, half-way.
                "taken_params",
            ]
        ],
        pydantic.Field(min_length=1),
    ]  # fmt: skip
    lanes: Annotated[dict[Literal["det", "smp"], _LaneModel], pydantic.Field(min_length=1)]
    setup: list[Any] = pydantic.Field(default_factory=list)
    actors: Annotated[list[_ActorModel], pydantic.Field(min_length=1, max_length=ops.MAX_ACTORS)]
    teardown: list[Any] = pydantic.Field(default_factory=list)


class _BranchModel(Model):
    weight: Annotated[int, pydantic.Field(ge=1, le=ops.MAX_WEIGHT)] = 1
    do: list[Any]


class _LoopModel(Model):
    loop: _CountField
    do: list[Any]


class _ChooseModel(Model):
    choose: Annotated[list[_BranchModel], pydantic.Field(min_length=1)]


def _lane(document: Document, name: str, model: _LaneModel) -> Lane:
    extra = model.model_extra or {}
    for key, value in extra.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", key) or key == INSTANCE:
            raise document.error(("lanes", name, key), "cannot be the name of a binding")
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise document.error(("lanes", name, key), "is a number or a text")
    pairs = tuple((key, str(value)) for key, value in extra.items())
    return Lane(name, model.bound_us, model.kmemleak, pairs)


def _actor(parser: _StepParser, index: int, model: _ActorModel) -> ActorTemplate:
    place: Place = ("actors", index)
    until = model.until
    for field in ("count", "repeat"):
        parser.check_count((*place, field), getattr(model, field))
    repeat: Count = model.repeat if model.repeat is not None else (0 if until else 1)
    return ActorTemplate(
        name=model.name,
        place=scenario_yaml.place_text(place),
        line=parser.document.line(place),
        count=model.count,
        kind=model.kind,
        fifo=model.fifo,
        repeat=repeat,
        until=until,
        body=parser.steps(model.do, (*place, "do")),
    )


class _StepParser:
    """Lists of steps; every error names file, line and field."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def steps(self, items: list[Any], place: Place) -> tuple[AnyStep, ...]:
        if len([part for part in place if part == "do"]) > ops.MAX_DEPTH:
            raise self.document.error(place, f"nested deeper than {ops.MAX_DEPTH}")
        return tuple(self._step(item, (*place, index)) for index, item in enumerate(items))

    def check_count(self, place: Place, value: object) -> None:
        if isinstance(value, str):
            self._check_references(place, value)

    def _check_references(self, place: Place, text: str) -> None:
        for match in REFERENCE.finditer(text):
            if match[0] == "$":
                raise self.document.error(
                    place, f"'$' in {text[:40]!r} is neither ${{name}} nor $$"
                )

    def _step(self, item: object, place: Place) -> AnyStep:
        if isinstance(item, str):
            item = {item: None}
        if not isinstance(item, dict):
            raise self.document.error(place, "a step is an op's name or a mapping")
        keys = [str(key) for key in item]
        line = self.document.line(place)
        if "loop" in item:
            loop = self.document.validate(_LoopModel, place, item)
            self.check_count((*place, "loop"), loop.loop)
            body = self.steps(loop.do, (*place, "do"))
            return LoopStep(scenario_yaml.place_text(place), line, loop.loop, body)
        if "choose" in item:
            choose = self.document.validate(_ChooseModel, place, item)
            bodies = tuple(
                self.steps(branch.do, (*place, "choose", index, "do"))
                for index, branch in enumerate(choose.choose)
            )
            weights = tuple(branch.weight for branch in choose.choose)
            return ChooseStep(scenario_yaml.place_text(place), line, weights, bodies)
        names = [key for key in keys if key not in _STEP_FIELDS]
        for name in names:
            if name not in OPS:
                known = (*OPS, "loop", "choose", *_STEP_FIELDS)
                raise self.document.error(
                    (*place, name), f"no op or field is called {name[:40]!r}{near(name, known)}"
                )
        if len(names) != 1:
            raise self.document.error(place, f"a step has one op, not {len(names)}")
        return self._op(item, OPS[names[0]], place)

    def _op(self, item: Mapping[str, object], spec: OpSpec, place: Place) -> Step:
        return Step(
            place=scenario_yaml.place_text(place),
            line=self.document.line(place),
            spec=spec,
            args=self._args(spec, item[spec.name], (*place, spec.name)),
            expect=self._results(item.get("expect", "ok"), (*place, "expect")),
            stop_on=self._results(item.get("stop_on", []), (*place, "stop_on")),
            retries=self._number(item, "retries", ops.MAX_RETRIES, place),
            fail=self._number(item, "fail", ops.MAX_FAIL_NTH, place),
        )

    def _number(self, item: Mapping[str, object], field: str, high: int, place: Place) -> int:
        value = item.get(field, 0)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.document.error((*place, field), "is a number")
        with self.document.blame((*place, field)):
            return ops.check_number(value, 0, high)

    def _results(self, value: object, place: Place) -> tuple[str, ...]:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.document.error(place, "is a list of errno names, 'ok' or 'any'")
        if place[-1] == "expect" and not names:
            raise self.document.error(place, "allows no result at all")
        if "any" in names:
            if len(names) > 1:
                raise self.document.error(place, "'any' stands alone")
            return ("any",)
        known = (*ops.RESULTS, "any")
        result = []
        for name in names:
            try:
                result.append(ops.canonical_result(name))
            except ValueError as error:
                raise self.document.error(place, f"{error}{near(name, known)}") from None
        return tuple(dict.fromkeys(result))

    def _args(self, spec: OpSpec, value: object, place: Place) -> tuple[Value, ...]:
        if not isinstance(value, dict):
            value = self._short(spec, value, place)
        known = [param.name for param in spec.params]
        for key in value:
            if key not in known:
                raise self.document.error(
                    (*place, key), f"{spec.name} has no {str(key)[:40]!r}{near(str(key), known)}"
                )
        args = []
        for param in spec.params:
            if param.name in value:
                args.append(self._arg(param, value[param.name], (*place, param.name)))
            elif param.default is ops.REQUIRED:
                raise self.document.error((*place, param.name), "is missing")
            else:
                args.append(param.default)
        return tuple(args)

    def _short(self, spec: OpSpec, value: object, place: Place) -> dict[str, object]:
        if value is None:
            return {}
        if spec.short is None:
            raise self.document.error(place, f"{spec.name} takes a mapping of its parameters")
        return {spec.short.name: value}

    def _arg(self, param: Param, value: object, place: Place) -> Value:
        if param.kind in (Kind.FLAGS, Kind.REST):
            value = tuple(value) if isinstance(value, list) else (value,)
        texts = value if isinstance(value, tuple) else (value,)
        for text in texts:
            if isinstance(text, str):
                self._check_references(place, text)
        with self.document.blame(place):
            if _is_open(param, value):
                return cast(Value, value)
            return ops.check_value(param, cast(Value, value))


def _is_open(param: Param, value: object) -> bool:
    """Whether a value can only be judged once its bindings are known."""
    if isinstance(value, tuple):
        return param.kind is Kind.REST and all(isinstance(text, str) for text in value)
    return isinstance(value, str) and "$" in value


def _steps_in(steps: Iterable[AnyStep]) -> Iterator[AnyStep]:
    for step in steps:
        yield step
        match step:
            case LoopStep():
                yield from _steps_in(step.body)
            case ChooseStep():
                for body in step.bodies:
                    yield from _steps_in(body)


def steps_of(scenario: Scenario) -> Iterator[AnyStep]:
    """Every step of its setup and its actors: what is done beside and before an unload."""
    for body in (scenario.setup, *(actor.body for actor in scenario.actors)):
        yield from _steps_in(body)


def names_used(scenario: Scenario) -> Iterator[str]:
    bodies = [scenario.setup, scenario.teardown, *(actor.body for actor in scenario.actors)]
    texts: list[object] = [
        field for actor in scenario.actors for field in (actor.count, actor.repeat)
    ]
    for step in (step for body in bodies for step in _steps_in(body)):
        match step:
            case Step():
                for arg in step.args:
                    texts += arg if isinstance(arg, tuple) else [arg]
            case LoopStep():
                texts.append(step.count)
    for text in texts:
        if isinstance(text, str):
            yield from (match[1] for match in REFERENCE.finditer(text) if match[1])


def _check_actors(document: Document, scenario: Scenario) -> None:
    """Names, who waits for whom, and that what is used was opened."""
    names = [actor.name for actor in scenario.actors]
    waits = {actor.name: actor.until for actor in scenario.actors}
    for index, actor in enumerate(scenario.actors):
        place: Place = ("actors", index)
        if names.index(actor.name) != index:
            raise document.error((*place, "name"), f"{actor.name!r} is taken")
        for other in actor.until:
            if other not in names:
                raise document.error(
                    (*place, "until"), f"no actor is called {other[:40]!r}{near(other, names)}"
                )
        if _reaches(waits, actor.name):
            raise document.error((*place, "until"), "actors wait for each other in a ring")
        _check_slots(document, actor)
    _check_slots(document, None, scenario.setup)
    _check_slots(document, None, scenario.teardown)


def _reaches(waits: Mapping[str, tuple[str, ...]], start: str) -> bool:
    seen: set[str] = set()
    todo = list(waits[start])
    while todo:
        name = todo.pop()
        if name == start:
            return True
        if name not in seen:
            seen.add(name)
            todo += waits.get(name, ())
    return False


def _check_slots(
    document: Document, actor: ActorTemplate | None, body: tuple[AnyStep, ...] = ()
) -> None:
    steps = [step for step in _steps_in(actor.body if actor else body) if isinstance(step, Step)]
    makers = {Kind.SLOT: ("open", "socket", "open_socket"), Kind.MAP: ("mmap",)}
    for step in steps:
        if actor is None and step.spec.name == "barrier":
            raise document.error_at(step.line, step.place, "a barrier outside the actors")
        if actor and actor.kind == "thread" and step.spec.process_only:
            raise document.error_at(step.line, step.place, f"{step.spec.name} is not for threads")
        for param, value in zip(step.spec.params, step.args, strict=True):
            fillers = makers.get(param.kind, ())
            if not fillers or step.spec.name in fillers:
                continue
            if not any(other.spec.name in fillers and other.args[0] == value for other in steps):
                missing = f"nothing fills it ({', '.join(fillers)})"
                raise document.error_at(
                    step.line, step.place, f"{param.name} {value} is used, but {missing}"
                )
