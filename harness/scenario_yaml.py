# SPDX-License-Identifier: GPL-2.0-only
"""YAML to plain values with the line of each, and models checked against them.

PyYAML's own loader forgets where a value came from; so the text is composed to
nodes, and the nodes are turned into values here, with a limit on how many: an
alias may stand for a tree of any size.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

import pydantic
import yaml

from harness.errors import ScenarioError

MAX_BYTES: Final = 262144
#: Values of one document, aliases counted each time.
MAX_VALUES: Final = 20000
MAX_DEPTH: Final = 64

_NUMBERS: Final = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

#: Keys and indexes from the top of the document.
Place = tuple[str | int, ...]
_M = TypeVar("_M", bound=pydantic.BaseModel)


class Model(pydantic.BaseModel):
    """Base of the models: what YAML says is taken as it is, and nothing more."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


def place_text(place: Place) -> str:
    """``("actors", 1, "do", 3)`` as ``actors[1].do[3]``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def near(word: str, known: Iterable[str]) -> str:
    """A clause that names what ``word`` may have been meant for, or nothing."""
    matches = difflib.get_close_matches(word, sorted(set(known)), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML document as plain values."""

    file: str
    value: object
    lines: Mapping[Place, int]

    def line(self, place: Place) -> int:
        """Line of a value, or of the nearest one around it; 1 for the first."""
        while place not in self.lines:
            place = place[:-1]
        return self.lines[place]

    def error(self, place: Place, why: str) -> ScenarioError:
        """An error at a place of the document."""
        return self.error_at(self.line(place), place_text(place), why)

    def error_at(self, line: int, field: str, why: str) -> ScenarioError:
        """An error whose line is known already."""
        where = f"{field}: " if field else ""
        return ScenarioError(f"{self.file}:{line}: {where}{why}")

    @contextlib.contextmanager
    def blame(self, place: Place) -> Iterator[None]:
        """Turns a ValueError of its block into an error at ``place``."""
        try:
            yield
        except ValueError as error:
            raise self.error(place, str(error)) from error

    def validate(self, model: type[_M], place: Place = (), value: object = ...) -> _M:
        """The value at ``place`` as a model.

        :raises ScenarioError: It does not fit; the first error is told.
        """
        try:
            return model.model_validate(self.value if value is ... else value)
        except pydantic.ValidationError as error:
            raise self._first(place, error, model) from None

    def _first(
        self, place: Place, error: pydantic.ValidationError, model: type[pydantic.BaseModel]
    ) -> ScenarioError:
        details = error.errors(include_url=False, include_context=False)
        # An unknown field explains a missing one more often than not.
        first = next((item for item in details if item["type"] == "extra_forbidden"), details[0])
        where = (*place, *first["loc"])
        match first["type"]:
            case "missing":
                return self.error(where, "is missing")
            case "extra_forbidden":
                return self.error(
                    where, f"unknown field{near(str(where[-1]), _known_fields(model))}"
                )
            case _:
                # pydantic adds parts of its own, such as "[key]".
                while where not in self.lines:
                    where = where[:-1]
                why = first["msg"].removeprefix("Value error, ")
                return self.error(where, why[:1].lower() + why[1:])


def _known_fields(asked: type[pydantic.BaseModel]) -> list[str]:
    """Fields of a model, and of all that may stand in it."""
    models = Model.__subclasses__() if issubclass(asked, Model) else (asked,)
    return [field for model in models for field in model.model_fields]


def read_text(path: Path) -> str:
    """The text in a file, as far as :func:`parse` would take it.

    :raises OSError: It cannot be read.
    :raises ScenarioError: It is not UTF-8.
    """
    data = path.read_bytes()[: MAX_BYTES + 1]
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ScenarioError(f"{path}:{line}: is not UTF-8") from error


def parse(text: str, file: str, what: str = "a scenario", *, as_written: bool = False) -> Document:
    """The one document in a text.

    :param what: What it is, for messages.
    :param as_written: Leave numbers the texts that they are: to YAML, ``5.10`` is 5.1
        and ``1:30`` is 90.

    :raises ScenarioError: The text is no YAML, too large, or has something in
        it that ``what`` has no use for.
    """
    if len(text) > MAX_BYTES:
        raise ScenarioError(f"{file}:1: longer than {MAX_BYTES} characters")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ScenarioError(f"{file}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ScenarioError(f"{file}:1: not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ScenarioError(f"{file}:1: nested too deeply") from error
    if not isinstance(node, yaml.MappingNode):
        raise ScenarioError(f"{file}:1: {what} is a mapping of fields")
    lines: dict[Place, int] = {}
    value = _Converter(file, lines, as_written).value(node, ())
    return Document(file, value, MappingProxyType(lines))


class _Converter:
    """Nodes to values, each counted and its line noted."""

    def __init__(self, file: str, lines: dict[Place, int], as_written: bool) -> None:
        self._file = file
        self._as_written = as_written
        self._lines = lines
        self._count = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, place: Place) -> object:
        line = node.start_mark.line + 1
        self._lines.setdefault(place, line)
        self._count += 1
        if self._count > MAX_VALUES:
            raise self._error(line, f"more than {MAX_VALUES} values, aliases counted each time")
        if len(place) > MAX_DEPTH:
            raise self._error(line, f"nested deeper than {MAX_DEPTH}")
        match node:
            case yaml.MappingNode():
                return self._mapping(node, place)
            case yaml.SequenceNode():
                return [self.value(item, (*place, i)) for i, item in enumerate(node.value)]
            case _:
                return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._scalar(key_node)
            if not isinstance(key, str):
                raise self._error(line, f"a field's name is a text, not {key!r:.40}")
            if key in result:
                raise self._error(line, f"{key[:40]!r} is there twice")
            self._lines[(*place, key)] = line
            result[key] = self.value(value_node, (*place, key))
        return result

    def _scalar(self, node: yaml.Node) -> object:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(line, "a field's name is a text")
        if self._as_written and node.tag in _NUMBERS:
            return str(node.value)
        try:
            value = self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, KeyError) as error:
            raise self._error(line, f"{str(node.value)[:40]!r} has no value") from error
        if value is None or isinstance(value, (str, bool, int)):
            return value
        # A version such as 6.10 would be another one as a number.
        raise self._error(
            line,
            f"{str(node.value)[:40]!r} is no text, number or truth value; a text stands in quotes",
        )

    def _error(self, line: int, why: str) -> ScenarioError:
        return ScenarioError(f"{self._file}:{line}: {why}")
