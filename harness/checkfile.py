# SPDX-License-Identifier: GPL-2.0-only
"""``harness.yaml``: what ``harness check`` is to know of a module and cannot learn.

Everything in it is optional, and so is the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import pydantic

from harness import ops, scenario, scenario_yaml
from harness.errors import ScenarioError
from harness.ops import OPS
from harness.scenario_yaml import Model, near
from harness.workloads import NOTHING, Around

NAME: Final = "harness.yaml"


@dataclass(frozen=True, slots=True)
class CheckFile:
    """What a ``harness.yaml`` says."""

    around: Around = NOTHING
    #: Titles that are no findings, as regular expressions of the whole title.
    known: tuple[str, ...] = ()
    #: Test → why it is left out.
    skip: Mapping[str, str] = field(default_factory=dict)


class _Model(Model):
    #: Of every load: ``name=value ...``.
    parameters: str = ""
    #: Other modules that the folder makes: loaded before it in this order.
    load_first: list[Annotated[str, pydantic.Field(pattern=r"^\w+$")]] = pydantic.Field(
        default_factory=list
    )
    setup: list[Any] = pydantic.Field(default_factory=list)
    use: list[Any] = pydantic.Field(default_factory=list)
    holds: list[Any] = pydantic.Field(default_factory=list)
    before_unload: list[Any] = pydantic.Field(default_factory=list)
    teardown: list[Any] = pydantic.Field(default_factory=list)
    fine: dict[str, list[str]] = pydantic.Field(default_factory=dict)
    known: list[str] = pydantic.Field(default_factory=list)
    skip: dict[str, Annotated[str, pydantic.Field(min_length=1)]] = pydantic.Field(
        default_factory=dict
    )
    #: What `harness init` saw; for people.
    surfaces: list[Any] = pydantic.Field(default_factory=list)


def load(folder: Path, tests: tuple[str, ...]) -> CheckFile:
    """Return what the file beside a module says, or nothing without one.

    Args:
        folder: of the sources; a module's file is taken for the folder that it lies in.
        tests: names of the tests that there are.

    Raises:
        ScenarioError: it is malformed: ``file:line: field: what is wrong``.
    """
    path = (folder if folder.is_dir() else folder.parent) / NAME
    return load_file(path, tests) if path.is_file() else CheckFile()


def load_file(path: Path, tests: tuple[str, ...]) -> CheckFile:
    """Return what one file says.

    Raises:
        ScenarioError: it cannot be read, or is malformed: ``file:line: field: what is wrong``.
    """
    try:
        text = scenario_yaml.read_text(path)
    except OSError as error:
        raise ScenarioError(f"{path}:1: cannot be read: {error.strerror}") from error
    return parse(text, str(path), tests)


def parse(text: str, name: str, tests: tuple[str, ...]) -> CheckFile:
    """Return what a text says; ``name`` is its file's, for messages.

    Raises:
        ScenarioError: it is malformed: ``file:line: field: what is wrong``.
    """
    document = scenario_yaml.parse(text, name, "a harness.yaml")
    model = document.validate(_Model)
    for phase in ("setup", "use", "holds", "before_unload", "teardown"):
        scenario.check_steps(document, getattr(model, phase), (phase,))
    for op, results in model.fine.items():
        if op not in OPS:
            raise document.error(("fine", op), f"no op is called {op[:40]!r}{near(op, OPS)}")
        for index, result in enumerate(results):
            with document.blame(("fine", op, index)):
                ops.canonical_result(result)
    for index, pattern in enumerate(model.known):
        try:
            re.compile(pattern)
        except re.error as error:
            raise document.error(("known", index), f"not a regular expression: {error}") from None
    for test in model.skip:
        if test not in tests:
            raise document.error(("skip", test), f"no test is called {test[:40]!r}"
                                 f"{near(test, tests)}")  # fmt: skip
    around = Around(
        parameters=model.parameters,
        load_first=tuple(model.load_first),
        setup=tuple(model.setup),
        use=tuple(model.use),
        holds=tuple(model.holds),
        before_unload=tuple(model.before_unload),
        teardown=tuple(model.teardown),
        fine=tuple((op, tuple(results)) for op, results in model.fine.items()),
    )
    return CheckFile(around, tuple(model.known), dict(model.skip))
