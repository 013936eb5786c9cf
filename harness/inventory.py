# SPDX-License-Identifier: GPL-2.0-only
"""What of kernels and of all that is made from them lies in the cache, and what may go.

A kernel is stale when it was built for a name and a profile whose inputs are
others by now. Nothing here asks the network.
"""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import image, kernelfiles, kernels, store
from harness.errors import HarnessError
from harness.kernelfiles import Recipe

_DAY_S = 86400.0


class State(enum.StrEnum):
    BUILT = "built"
    STALE = "stale"
    UNFINISHED = "unfinished"
    BEING_BUILT = "being built"
    ABSENT = "not built"


@dataclass(frozen=True, slots=True)
class Entry:
    """A kernel that is known, or that somebody built once."""

    name: str
    profile: str
    state: State
    #: Version of its source, where it was built.
    version: str = ""
    #: Why it is stale, or what stands in the way of it.
    why: str = ""
    key: str = ""
    path: Path | None = None
    size_mib: int = 0
    #: What can be found in it.
    detectors: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in a JSON document."""
        return {
            "kernel": self.name,
            "profile": self.profile,
            "state": self.state.value,
            "version": self.version or None,
            "why": self.why or None,
            "size_mib": self.size_mib,
            "detectors": list(self.detectors),
        }


@dataclass(frozen=True, slots=True)
class Removal:
    """Something in the cache that may go."""

    kind: str
    key: str
    path: Path
    why: str
    size_mib: int


def list_kernels(cache: store.Store) -> tuple[Entry, ...]:
    """Return every kernel that is known or lies in the cache.

    Raises:
        UsageError: a kernel's or profile's file is wrong.
    """
    entries: list[Entry] = []
    seen: set[str] = set()
    for name, profile in kernelfiles.combinations():
        entry = _known(cache, name, profile)
        entries.append(entry)
        seen.add(entry.key)
    for path, record in _records(cache):
        if path.name not in seen:
            entries.append(_other(cache, path, record))
    for path in sorted((cache.root / "kernel").glob(f"{kernels.UNFINISHED}*")):
        key = path.name.removeprefix(kernels.UNFINISHED)
        if key not in seen:
            entries.append(
                Entry("?", "?", State.STALE, why="unfinished, and its inputs changed", key=key,
                      path=path, size_mib=store.size_mib(path))
            )  # fmt: skip
    return tuple(entries)


def removals(
    cache: store.Store, *, sources: bool, unfinished: bool, unused_days: float
) -> tuple[Removal, ...]:
    """Return what may go.

    Args:
        sources: also source trees of which no kernel is left.
        unfinished: also builds that were interrupted and could go on.
        unused_days: also what was not used for so long and is quickly made again.
    """
    found: list[Removal] = []
    kept: list[Entry] = []
    for entry in list_kernels(cache):
        gone = entry.state is State.STALE or (unfinished and entry.state is State.UNFINISHED)
        if entry.path is None:
            continue
        if gone:
            why = entry.why or "unfinished"
            label = f"{entry.name}-{entry.profile}: {why}"
            found.append(Removal("kernel", entry.key, entry.path, label, entry.size_mib))
        else:
            kept.append(entry)
    if sources:
        needed = set(_sources_of(cache, kept))
        found += _all_but(cache, "source", needed, "no kernel was built from it")
    kernel_keys = {entry.key for entry in kept}
    current = image.current_keys(cache)
    if "image" in current:
        images = {current["image"]}
        images |= {image.key_with_extra(current["image"], key) for key in kernel_keys}
        found += _all_but(cache, "image", images, "made from other inputs than now")
        found += _all_but(cache, "executor", {current["executor"]}, "its source changed")
        found += _all_but(cache, "packages", {current["packages"]}, "other versions are used now")
    else:
        images = {path.name for path in _artefacts(cache, "image")}
    for kind in ("module", "template", "accelerators"):
        found += _of_gone(cache, kind, kernel_keys, images, unused_days)
    return tuple(found)


def remove(cache: store.Store, removal: Removal) -> bool:
    """Remove something, unless it is in use; say whether it is gone."""
    return cache.remove(removal.kind, removal.key, removal.path)


def _known(cache: store.Store, name: str, profile: str) -> Entry:
    recipe = kernelfiles.load_recipe(name, profile)
    try:
        key = kernels.current_key(cache, recipe)
        found = kernels.find_kernel(cache, recipe)
    except HarnessError as error:
        return Entry(name, profile, State.ABSENT, why=error.message)
    if found is not None:
        return _built(found)
    if key is not None:
        path = cache.root / "kernel" / f"{kernels.UNFINISHED}{key}"
        if path.is_dir():
            state = State.BEING_BUILT if cache.is_being_made("kernel", key) else State.UNFINISHED
            return Entry(name, profile, state, key=key, path=path, size_mib=store.size_mib(path))
    return Entry(name, profile, State.ABSENT, key=key or "")


def _built(kernel: kernels.Kernel) -> Entry:
    return Entry(
        kernel.name,
        kernel.profile,
        State.BUILT,
        version=kernel.version,
        key=kernel.key,
        path=kernel.path,
        size_mib=store.size_mib(kernel.path),
        detectors=kernel.detectors,
    )


def _other(cache: store.Store, path: Path, record: dict[str, Any]) -> Entry:
    """Return a built kernel that no known name leads to."""
    name, profile = str(record.get("name", "?")), str(record.get("profile", "?"))
    try:
        recipe = _recipe_again(name, profile, str(record.get("file", "")))
        found = kernels.find_kernel(cache, recipe)
        if found is not None and found.key == path.name:
            return _built(found)
        why = _difference(recipe, record)
    except HarnessError as error:
        why = error.message
    return Entry(
        name,
        profile,
        State.STALE,
        version=str(record.get("version", "")),
        why=why,
        key=path.name,
        path=path,
        size_mib=store.size_mib(path),
    )


def _recipe_again(name: str, profile: str, file: str) -> Recipe:
    """Return the recipe that a kernel was built by; its file may have been given by path."""
    known = name in kernelfiles.known_kernels()
    return kernelfiles.load_recipe(name if known or not file else file, profile)


def _difference(recipe: Recipe, record: dict[str, Any]) -> str:
    now = kernels.compiler_version(recipe.compiler)
    if record.get("compiler") != now:
        return f"compiled with {record.get('compiler')}, now {now}"
    return "its source, its options or the way of building changed"


def _records(cache: store.Store) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in _artefacts(cache, "kernel"):
        try:
            record = json.loads((path / "kernel.json").read_text())
        except (OSError, ValueError):
            record = {}
        yield path, record if isinstance(record, dict) else {}


def _sources_of(cache: store.Store, kept: Iterable[Entry]) -> Iterator[str]:
    kept_keys = {entry.key for entry in kept}
    for path, record in _records(cache):
        if path.name in kept_keys and "source_key" in record:
            yield str(record["source_key"])
    for entry in kept:
        if entry.state in (State.UNFINISHED, State.BEING_BUILT) and entry.path is not None:
            key = kernels.source_of_unfinished(entry.path)
            if key is not None:
                yield key


def _artefacts(cache: store.Store, kind: str) -> list[Path]:
    return sorted((cache.root / kind).glob("[!.]*"))


def _all_but(cache: store.Store, kind: str, keep: set[str], why: str) -> Iterator[Removal]:
    for path in _artefacts(cache, kind):
        if path.name not in keep:
            yield Removal(kind, path.name, path, why, store.size_mib(path))


def _of_gone(
    cache: store.Store, kind: str, kernel_keys: set[str], images: set[str], unused_days: float
) -> Iterator[Removal]:
    """Yield artefacts whose kernel or image goes, or that nobody has used for long."""
    oldest = time.time() - unused_days * _DAY_S
    for path in _artefacts(cache, kind):
        made_from = store.made_from(path)
        why = ""
        if made_from.get("kernel", "") not in {"", *kernel_keys}:
            why = "its kernel is not kept"
        elif made_from.get("image", "") not in {"", *images}:
            why = "its image is not kept"
        elif path.stat().st_mtime < oldest:
            why = f"not used for {unused_days:g} days"
        if why:
            yield Removal(kind, path.name, path, why, store.size_mib(path))
