# SPDX-License-Identifier: GPL-2.0-only
"""A matrix file and the cells that it stands for. No guest, no cache.

A cell is one variant of a module on one kernel in one lane: what a line of a
verdict table is about. Cells come kernel by kernel, as they are run.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pydantic

from harness import families, kernels, modulebuild, scenario, scenario_yaml, seeds, store
from harness.errors import UsageError
from harness.families import Family
from harness.kernels import DEFAULT_KERNEL, DEFAULT_PROFILE
from harness.machine import Lane
from harness.rates import Claim
from harness.scenario import Scenario
from harness.scenario_yaml import Document, Model, Place, near

#: More is a slip of the pen: each cell costs a template of its own.
MAX_CELLS: Final = 10_000
MAX_TRIALS: Final = 1_000_000
MAX_SECONDS: Final = 30 * 24 * 3600.0

_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}

_Names = Annotated[list[str], pydantic.Field(min_length=1)]


def _name_or_names(value: object) -> list[str]:
    match value:
        case str():
            return [value]
        case list() if value and all(isinstance(name, str) for name in value):
            return value
    raise ValueError("should be a name or a list of names")


def _entry(value: object) -> dict[str, Any]:
    match value:
        case str():
            return {"module": value}
        case dict():
            return value
    raise ValueError("should be a module's name, or a mapping with the field module")


# Plain validators and not unions: pydantic tells an error for each member of one.
_OneOrMore = Annotated[list[str], pydantic.PlainValidator(_name_or_names)]


class _ModuleModel(Model):
    module: str
    variants: _Names | None = None
    scenarios: _Names | None = None


class _PatternModel(Model):
    kernel: _OneOrMore | None = None
    profile: _OneOrMore | None = None
    lane: _OneOrMore | None = None
    module: _OneOrMore | None = None
    variant: _OneOrMore | None = None


class _IncludeModel(Model):
    kernel: _OneOrMore
    module: str
    profile: _OneOrMore | None = None
    lane: _OneOrMore | None = None
    variant: _OneOrMore | None = None
    scenarios: _Names | None = None
    seeds: str | None = None


class _BudgetModel(Model):
    trials: str | None = None
    time: str | None = None


class _MatrixModel(Model):
    about: str = ""
    kernels: _Names
    modules: Annotated[
        list[Annotated[_ModuleModel, pydantic.BeforeValidator(_entry)]],
        pydantic.Field(min_length=1),
    ]
    profiles: _Names = pydantic.Field(default_factory=lambda: [DEFAULT_PROFILE])
    lanes: _Names = pydantic.Field(default_factory=lambda: [Lane.DET.value])
    scenarios: _Names | None = None
    seeds: str = "0:8"
    until: Literal["end", "finding"] = "end"
    exclude: list[_PatternModel] = pydantic.Field(default_factory=list)
    include: list[_IncludeModel] = pydantic.Field(default_factory=list)
    budget: _BudgetModel = _BudgetModel()


@dataclass(frozen=True, slots=True)
class Cell:
    """One variant of a module on one kernel in one lane, before it was run."""

    #: What :func:`harness.families.find_family` is to be given.
    folder: str
    module: str
    variant: str
    kernel: str
    profile: str
    lane: Lane
    #: What :func:`harness.scenario.find_scenario` is to be given; they take turns.
    plans: tuple[str, ...]
    seeds: range
    #: Titles that it must have, as regular expressions; none for a correct variant.
    promised: tuple[str, ...] = ()
    #: It ends with its first finding.
    stops: bool = False
    #: Why it cannot be run, when that is known beforehand.
    skip: str | None = None

    @property
    def id(self) -> str:
        return f"{self.module}/{self.variant}@{self.kernel}-{self.profile}-{self.lane.value}"

    @property
    def scenarios(self) -> tuple[str, ...]:
        return tuple(Path(plan).stem for plan in self.plans)

    @property
    def weight(self) -> int:
        """How many trials it may take."""
        return 0 if self.skip else len(self.seeds)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may take; None for as much as it needs."""

    trials: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix file that was read, checked and expanded."""

    #: What messages and the document call the file.
    file: str
    cells: tuple[Cell, ...]
    budget: Budget = Budget()
    claim: Claim | None = None

    @property
    def digest(self) -> str:
        """A name for what is run: cells, scenarios and sources."""
        folders = sorted({cell.folder for cell in self.cells})
        plans = sorted({plan for cell in self.cells for plan in cell.plans})
        return store.digest(
            {
                "cells": [
                    # No paths: they differ between machines, and reasons may hold some.
                    [cell.id, cell.scenarios, [cell.seeds.start, cell.seeds.stop],
                     cell.promised, cell.stops, cell.skip is not None]
                    for cell in self.cells
                ],
                "sources": [modulebuild.sources_digest(families.find_family(it)) for it in folders],
                "scenarios": [store.digest_file(scenario.find_scenario(plan)) for plan in plans],
            }
        )  # fmt: skip

    def only_kernels(self, names: Sequence[str]) -> frozenset[str]:
        """Return the ids of the cells on some kernels.

        Raises:
            UsageError: one of them is not in the matrix.
        """
        known = list(dict.fromkeys(cell.kernel for cell in self.cells))
        for name in names:
            if name not in known:
                raise UsageError(f"kernel {name!r}: not in {self.file}; it has {', '.join(known)}")
        return frozenset(cell.id for cell in self.cells if cell.kernel in names)

    def shard(self, number: int, count: int) -> frozenset[str]:
        """Return the ids of one of ``count`` shards, the first being 1.

        Shards have about as many trials each and as few kernels as can be; they
        are the same on every machine.

        Raises:
            UsageError: no cell is left for it.
        """
        total = sum(cell.weight for cell in self.cells)
        before = 0
        found = set()
        for cell in self.cells:
            # It goes where its middle trial lies.
            if cell.weight and (2 * before + cell.weight) * count // (2 * total) == number - 1:
                found.add(cell.id)
            before += cell.weight
        if not found:
            cells = sum(cell.weight > 0 for cell in self.cells)
            raise UsageError(
                f"shard {number}/{count}: no cell is left for it; {self.file} has {cells} to run",
                hint="ask for fewer shards",
            )
        return frozenset(found)

    def claiming(self, claim: Claim) -> Matrix:
        """Return the matrix that runs each cell until a claim holds or a finding refutes it.

        Raises:
            UsageError: that takes too many trials.
        """
        cells = tuple(
            replace(
                cell, seeds=range(cell.seeds.start, cell.seeds.start + claim.trials), stops=True
            )
            for cell in self.cells
        )
        _check_trials(self.file, cells, f"a claim of {claim}")
        return replace(self, cells=cells, claim=claim)


def parse_shard(text: str) -> tuple[int, int]:
    """Return number and count of ``2/5``.

    Raises:
        UsageError: it is no shard.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"shard {text!r}: none", hint="write 2/5 for the second of five")
    return int(match[1]), int(match[2])


def parse_seconds(text: str) -> float:
    """Return the seconds of ``1h30m``, ``90s`` or ``2.5h``; a number alone is seconds.

    Raises:
        ValueError: it is no duration, or none that a run could take.
    """
    number = r"(\d{1,9}(?:\.\d{1,9})?)"
    if not re.fullmatch(rf"(?:{number}[dhms])+|{number}", text):
        raise ValueError(f"{text[:40]!r} is no duration; write 90s, 20m, 1h30m or 2d")
    parts = re.findall(rf"{number}([dhms]?)", text)
    seconds = sum(float(value) * _UNITS[unit or "s"] for value, unit in parts)
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"{text!r} is not between 0 and {MAX_SECONDS / 86400:.0f} days")
    return seconds


def load_matrix(path: Path) -> Matrix:
    """Read a matrix file.

    Raises:
        UsageError: it cannot be read or is malformed, names what is not known,
            or stands for nothing or for too much; says file, line and field.
    """
    try:
        text = scenario_yaml.read_text(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_matrix(text, str(path))


def parse_matrix(text: str, file: str) -> Matrix:
    """Read a matrix from a text; the same errors as :func:`load_matrix`."""
    document = scenario_yaml.parse(text, file, "a matrix", as_written=True)
    return _Expansion(document).matrix()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A module of the matrix with what was said about it."""

    family: Family
    folder: str
    variants: tuple[str, ...]
    plans: tuple[str, ...] | None


class _Expansion:
    """From a document to cells; every name is checked where it stands."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._model = document.validate(_MatrixModel)
        self._folder = Path(document.file).parent
        self._stops = self._model.until == "finding"
        self._skips: dict[tuple[str, str], str | None] = {}
        self._scenarios: dict[str, Scenario] = {}

    def matrix(self) -> Matrix:
        model = self._model
        budget = self._budget(model.budget)
        self._check_names(("kernels",), model.kernels, self._check_kernel)
        self._check_names(("profiles",), model.profiles, self._check_profile)
        self._check_names(("lanes",), model.lanes, self._check_lane)
        plans = self._plans(("scenarios",), model.scenarios)
        wanted = self._seeds(("seeds",), model.seeds)
        entries = [self._entry(i, item, plans) for i, item in enumerate(model.modules)]
        self._check_doubles(entries)
        variants = sum(len(entry.variants) for entry in entries)
        axes = len(model.kernels) * len(model.profiles) * len(model.lanes) * variants
        if axes > MAX_CELLS:
            raise self._document.error(
                (),
                f"stands for {axes} cells ({len(model.kernels)} kernels x "
                f"{len(model.profiles)} profiles x {len(model.lanes)} lanes x {variants} "
                f"variants); the limit is {MAX_CELLS}",
            )
        cells: dict[str, Cell] = {}
        for kernel, profile, lane, entry in itertools.product(
            map(self._kernel, model.kernels), model.profiles, model.lanes, entries
        ):
            for variant in entry.variants:
                cell = self._cell(kernel, profile, lane, entry, variant, wanted)
                cells[cell.id] = cell
        whole = tuple(cells.values())
        for index, pattern in enumerate(model.exclude):
            self._check_pattern(index, pattern, whole)
            cells = {id: cell for id, cell in cells.items() if not self._matches(pattern, cell)}
        for index, item in enumerate(model.include):
            for cell in self._included(index, item, wanted):
                cells[cell.id] = cell
        return Matrix(self._document.file, self._checked(cells), budget)

    def _checked(self, cells: dict[str, Cell]) -> tuple[Cell, ...]:
        # Kernel by kernel, whatever was included last; the sort is a stable one.
        places = dict.fromkeys((cell.kernel, cell.profile) for cell in cells.values())
        order = {place: number for number, place in enumerate(places)}
        found = sorted(cells.values(), key=lambda cell: order[cell.kernel, cell.profile])
        if not found:
            raise self._document.error(("exclude",), "nothing is left to run")
        if len(found) > MAX_CELLS:
            raise self._document.error(
                ("include",), f"stands for {len(found)} cells; the limit is {MAX_CELLS}"
            )
        if not any(cell.weight for cell in found):
            raise self._document.error(
                (), f"nothing to run: {len(found)} cells, and none can be; "
                f"{found[0].id}: {found[0].skip}"
            )  # fmt: skip
        _check_trials(self._document.file, found, "the matrix")
        return tuple(found)

    def _budget(self, model: _BudgetModel) -> Budget:
        trials = seconds = None
        if model.trials is not None:
            with self._document.blame(("budget", "trials")):
                if not re.fullmatch(r"[1-9]\d{0,8}", model.trials):
                    raise ValueError(f"{model.trials[:40]!r} is no number of trials from 1")
                trials = int(model.trials)
        if model.time is not None:
            with self._document.blame(("budget", "time")):
                seconds = parse_seconds(model.time)
        return Budget(trials, seconds)

    def _check_names(self, place: Place, names: Iterable[str], check: Any) -> None:
        seen = set()
        for index, name in enumerate(names):
            self._named((*place, index), check, name)
            if name in seen:
                raise self._document.error((*place, index), f"{name!r} is there twice")
            seen.add(name)

    def _named(self, place: Place, check: Any, name: str) -> None:
        try:
            check(name)
        except UsageError as error:
            raise self._document.error(place, error.message) from error

    def _check_kernel(self, name: str) -> None:
        """Check that a kernel goes together with some profile."""
        name = self._kernel(name)
        _some(kernels.load_recipe, [(name, it) for it in (DEFAULT_PROFILE, *self._model.profiles)])

    def _check_profile(self, name: str) -> None:
        """Check that a profile goes together with some kernel."""
        names = [DEFAULT_KERNEL, *map(self._kernel, self._model.kernels)]
        _some(kernels.load_recipe, [(it, name) for it in names])

    def _kernel(self, name: str) -> str:
        """Return a kernel's name; the path of its file is one from the matrix's folder."""
        return str(self._folder / name) if name.endswith(".yaml") else name

    @staticmethod
    def _check_lane(name: str) -> None:
        known = [lane.value for lane in Lane]
        if name not in known:
            raise UsageError(f"lane {name!r}: unknown; known: {', '.join(known)}")

    def _seeds(self, place: Place, text: str) -> range:
        try:
            return seeds.parse(text)
        except UsageError as error:
            raise self._document.error(place, error.message) from error

    def _plans(self, place: Place, names: Sequence[str] | None) -> tuple[str, ...] | None:
        if names is None:
            return None
        found = []
        for index, name in enumerate(names):
            beside = self._folder / name
            plan = str(beside) if "/" in name or beside.suffix in (".yaml", ".yml") else name
            try:
                self._scenario(plan)
            except UsageError as error:
                raise self._document.error((*place, index), error.message) from error
            found.append(plan)
        return tuple(found)

    def _entry(self, index: int, item: _ModuleModel, plans: tuple[str, ...] | None) -> _Entry:
        place: Place = ("modules", index)
        family, folder = self._family((*place, "module"), item.module)
        return _Entry(
            family,
            folder,
            self._variants((*place, "variants"), family, item.variants),
            self._plans((*place, "scenarios"), item.scenarios) or plans,
        )

    def _family(self, place: Place, name: str) -> tuple[Family, str]:
        beside = self._folder / name
        # A path is one from the file; a name is a folder under kmods/.
        folder = str(beside) if "/" in name or name.endswith(".ko") else name
        try:
            return families.find_family(folder), folder
        except UsageError as error:
            known = sorted(family.name for family in families.all_families())
            raise self._document.error(place, error.message + near(name, known)) from error

    def _variants(
        self, place: Place, family: Family, names: Sequence[str] | None
    ) -> tuple[str, ...]:
        self._check_names(place, names or (), lambda name: families.find_variant(family, name))
        return tuple(names or family.variants)

    def _check_doubles(self, entries: Sequence[_Entry]) -> None:
        seen = set()
        for index, entry in enumerate(entries):
            if entry.family.name in seen:
                raise self._document.error(
                    ("modules", index), f"module {entry.family.name} is there twice"
                )
            seen.add(entry.family.name)

    def _cell(
        self, kernel: str, profile: str, lane: str, entry: _Entry, variant: str, wanted: range
    ) -> Cell:
        made = families.find_variant(entry.family, variant)
        cell = Cell(
            folder=entry.folder,
            module=entry.family.name,
            variant=variant,
            kernel=kernel,
            profile=profile,
            lane=Lane(lane),
            plans=entry.plans or made.scenarios or entry.family.scenarios,
            seeds=wanted,
            promised=made.expect,
            stops=self._stops,
        )
        return self._fitted(cell, entry)

    def _fitted(self, cell: Cell, entry: _Entry) -> Cell:
        """Return a cell with the scenarios that it can be put through, or with why not."""
        made = families.find_variant(entry.family, cell.variant)
        if made.expect and made.lane == Lane.SMP.value and cell.lane is Lane.DET:
            return replace(cell, skip="its mistake takes two processors: lane smp")
        why = self._why_not_kernel(cell.kernel, cell.profile)
        if why is not None:
            return replace(cell, skip=why)
        if not cell.plans:
            return replace(cell, skip=f"the module.yaml of {cell.module} names no scenario")
        fitting = []
        for plan in cell.plans:
            read = self._scenario(plan)
            lacks = sorted(set(read.surfaces) - entry.family.offers)
            if lacks:
                why = f"no scenario fits: {read.name} is for a module with {', '.join(lacks)}"
            elif cell.lane.value not in [lane.name for lane in read.lanes]:
                why = f"no scenario fits: {read.name} has no lane {cell.lane.value}"
            else:
                fitting.append(plan)
        if not fitting:
            return replace(cell, skip=why)
        return replace(cell, plans=tuple(fitting))

    def _scenario(self, plan: str) -> Scenario:
        if plan not in self._scenarios:
            self._scenarios[plan] = scenario.load_scenario(scenario.find_scenario(plan))
        return self._scenarios[plan]

    def _why_not_kernel(self, kernel: str, profile: str) -> str | None:
        if (kernel, profile) not in self._skips:
            try:
                kernels.load_recipe(kernel, profile)
                self._skips[kernel, profile] = None
            except UsageError as error:
                self._skips[kernel, profile] = error.message
        return self._skips[kernel, profile]

    def _check_pattern(self, index: int, pattern: _PatternModel, cells: Sequence[Cell]) -> None:
        place: Place = ("exclude", index)
        if pattern == _PatternModel():
            raise self._document.error(place, "names nothing, and so would exclude everything")
        for field, names in pattern:
            known = list(dict.fromkeys(_fields(cell)[field] for cell in cells))
            for name in map(self._kernel, names or ()):
                if name not in known:
                    raise self._document.error(
                        (*place, field),
                        f"{field} {name!r}: not in this matrix; it has {', '.join(known)}",
                    )

    def _matches(self, pattern: _PatternModel, cell: Cell) -> bool:
        fields = _fields(cell)
        return all(
            names is None or fields[field] in map(self._kernel, names) for field, names in pattern
        )

    def _included(self, index: int, item: _IncludeModel, wanted: range) -> Iterator[Cell]:
        place: Place = ("include", index)
        family, folder = self._family((*place, "module"), item.module)
        profiles = item.profile or self._model.profiles[:1]
        lanes = item.lane or self._model.lanes[:1]
        self._check_names((*place, "kernel"), item.kernel, self._check_kernel)
        self._check_names((*place, "profile"), profiles, self._check_profile)
        self._check_names((*place, "lane"), lanes, self._check_lane)
        variants = self._variants((*place, "variant"), family, item.variant)
        entry = _Entry(family, folder, variants, self._plans((*place, "scenarios"), item.scenarios))
        if item.seeds is not None:
            wanted = self._seeds((*place, "seeds"), item.seeds)
        for kernel, profile, lane, variant in itertools.product(
            map(self._kernel, item.kernel), profiles, lanes, variants
        ):
            yield self._cell(kernel, profile, lane, entry, variant, wanted)


def _some(check: Callable[[str, str], object], pairs: Sequence[tuple[str, str]]) -> None:
    """Check that one of some pairs is good.

    Raises:
        UsageError: none is; why the first one is not.
    """
    errors = []
    for pair in pairs:
        try:
            check(*pair)
        except UsageError as error:
            errors.append(error)
        else:
            return
    raise errors[0]


def _fields(cell: Cell) -> dict[str, str]:
    return {
        "kernel": cell.kernel, "profile": cell.profile, "lane": cell.lane.value,
        "module": cell.module, "variant": cell.variant,
    }  # fmt: skip


def _check_trials(file: str, cells: Iterable[Cell], what: str) -> None:
    weights = [cell.weight for cell in cells]
    if sum(weights) > MAX_TRIALS:
        raise UsageError(
            f"{file}: {what} needs {sum(weights)} trials of {len(weights)} cells; "
            f"the limit is {MAX_TRIALS}",
            hint="fewer seeds, or fewer cells: see exclude",
        )
