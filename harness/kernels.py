# SPDX-License-Identifier: GPL-2.0-only
"""Kernels: what is known, how one is built, and where it lies in the cache.

A kernel is data: ``images/kernels/<name>.yaml`` says where its source comes
from and ``images/profiles/<name>.yaml`` which fragments it is configured with.
What was built is recorded beside it in ``kernel.json``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from harness import kconfig, proc, store
from harness.archive import Archive, Package, unpack
from harness.deadline import Deadline
from harness.errors import CommandError, InfrastructureError, KernelBuildError, UsageError
from harness.resources import data_dir

logger = logging.getLogger(__name__)

DEFAULT_KERNEL = "6.1"
DEFAULT_PROFILE = "kasan"

#: Part of every kernel's key: raise it when the way of building changes.
RECIPE_VERSION = "1"

#: A build on one slow core; a bound, not an estimate.
BUILD_LIMIT_S = 3 * 3600.0
#: The same for fetching and unpacking a source package.
FETCH_LIMIT_S = 1800.0
#: What one step of make takes on one processor, and fetching and unpacking, measured.
_STEP_S = 0.5
_FETCH_S = 60.0
#: Source tree, objects of one build and the result, MiB; said before it starts.
BUILD_SPACE_MIB = 4000

#: Compiler and clock leave no trace in what is built.
_REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 2026",
    "KBUILD_BUILD_USER": "kmod",
    "KBUILD_BUILD_HOST": "harness",
}

_STEP = re.compile(rb"^  [A-Z][A-Z0-9_]*(?: \[M\])? +\S+")
_COMPILER_ERROR = re.compile(
    r"^[^\s:]+:\d+(?::\d+)?: (?:fatal )?error: |^ERROR: modpost: |: undefined reference to "
)

Progress = Callable[[str, float | None], None]
"""Called with what is going on and how much of it is done (0 to 1, or None)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a kernel is made from: one kernel file and one profile file."""

    name: str
    profile: str
    package: str
    suites: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    #: Lines that make prints in a whole build, for the progress display.
    steps: int

    @property
    def label(self) -> str:
        return f"{self.name}-{self.profile}"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A built kernel in the cache."""

    name: str
    profile: str
    #: ``uname -r`` of the running kernel.
    release: str
    #: Version of the source package.
    version: str
    compiler: str
    #: SHA-256 of the final ``.config``.
    config_sha256: str
    #: Digest of all inputs.
    key: str
    path: Path
    source: Path

    @property
    def bzimage(self) -> Path:
        return self.path / "bzImage"

    @property
    def vmlinux(self) -> Path:
        return self.path / "build" / "vmlinux"

    @property
    def build(self) -> Path:
        """The build tree that modules compile against."""
        return self.path / "build"


def known_kernels() -> tuple[str, ...]:
    """Return the names of the kernels that have a file, oldest first."""
    names = (path.stem for path in (data_dir("images") / "kernels").glob("*.yaml"))
    return tuple(sorted(names, key=lambda name: [int(part) for part in re.findall(r"\d+", name)]))


def known_profiles() -> tuple[str, ...]:
    """Return the names of the profiles that have a file."""
    return tuple(sorted(path.stem for path in (data_dir("images") / "profiles").glob("*.yaml")))


def load_recipe(name: str = DEFAULT_KERNEL, profile: str = DEFAULT_PROFILE) -> Recipe:
    """Read what a kernel is made from.

    Raises:
        UsageError: no such kernel or profile; lists the known ones.
    """
    if name not in known_kernels():
        raise UsageError(f"kernel {name!r}: unknown; known: {', '.join(known_kernels())}")
    if profile not in known_profiles():
        raise UsageError(f"profile {profile!r}: unknown; known: {', '.join(known_profiles())}")
    images = data_dir("images")
    kernel = _read_yaml(images / "kernels" / f"{name}.yaml")
    settings = _read_yaml(images / "profiles" / f"{profile}.yaml")
    options = kconfig.merge(
        kconfig.parse((images / "fragments" / f"{fragment}.config").read_text())
        for fragment in settings["fragments"]
    )
    for option in kernel.get("lacks", ()):
        options.pop(option, None)
    return Recipe(
        name=name,
        profile=profile,
        package=kernel["package"],
        suites=tuple(kernel["suites"]),
        options=tuple(sorted(options.items())),
        steps=settings["steps"],
    )


def find_kernel(cache: store.Store, recipe: Recipe) -> Kernel | None:
    """Return a kernel that is built already and up to date, or None; needs no network."""
    package = _load_resolved(cache, recipe)
    if package is None:
        return None
    key = _kernel_key(recipe, package)
    path = cache.find("kernel", key)
    return None if path is None else load_kernel(path, cache)


def load_kernel(path: Path, cache: store.Store) -> Kernel:
    """Read the record of a built kernel."""
    record = json.loads((path / "kernel.json").read_text())
    source = cache.root / "source" / record.pop("source_key") / "linux"
    return Kernel(**record, path=path, source=source)


def build_kernel(
    cache: store.Store, recipe: Recipe, progress: Progress = lambda what, done: None
) -> Kernel:
    """Return a kernel, building it when the cache does not have it.

    Raises:
        KernelBuildError: it does not configure or compile; carries the first error.
        StorageError: the disk is full.
        InfrastructureError: the archive cannot be reached.
    """
    found = find_kernel(cache, recipe)
    if found is not None:
        return found
    deadline = Deadline.after(BUILD_LIMIT_S)
    if store.free_mib(cache.root) < BUILD_SPACE_MIB:
        raise store.no_space(cache.root, needed_mib=BUILD_SPACE_MIB)
    package = _resolve(cache, recipe, progress)
    source_key = store.digest({"package": package.name, "sha256": package.sha256})
    source = cache.build(
        "source", source_key, lambda into: _fetch_source(cache, recipe, package, into, progress),
        deadline=deadline, on_wait=lambda text: progress(text, None),
    )  # fmt: skip
    key = _kernel_key(recipe, package)
    path = cache.build(
        "kernel",
        key,
        lambda into: _make_kernel(recipe, package, source / "linux", into, progress, key),
        deadline=deadline,
        on_wait=lambda text: progress(text, None),
    )
    return load_kernel(path, cache)


def estimate_s(recipe: Recipe) -> float:
    """Return about how long building a kernel takes here, seconds."""
    return recipe.steps * _STEP_S / (os.cpu_count() or 1) + _FETCH_S


def first_error(output: str) -> str:
    """Return the first real error of a build's output with a few lines around it.

    What make prints last is only that a child failed; the reason is further up.
    """
    lines = output.splitlines()
    for number, line in enumerate(lines):
        if _COMPILER_ERROR.search(line):
            return "\n".join(lines[max(0, number - 1) : number + 5])
    for number, line in enumerate(lines):
        if re.search(r"\b[Ee]rror\b|\*\*\*", line):
            return "\n".join(lines[max(0, number - 2) : number + 3])
    return "\n".join(lines[-10:])


def compiler_version() -> str:
    """Return the first line of ``gcc --version``."""
    proc.require_program("gcc", "gcc")
    shown = proc.run(["gcc", "--version"], deadline=Deadline.after(60)).stdout.decode()
    return shown.splitlines()[0]


def _read_yaml(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict):
        raise UsageError(f"{path}: not a mapping")
    return content


def _kernel_key(recipe: Recipe, package: Package) -> str:
    return store.digest(
        {
            "recipe": RECIPE_VERSION,
            "name": recipe.name,
            "profile": recipe.profile,
            "options": json.dumps(recipe.options),
            "source": package.sha256,
            "compiler": compiler_version(),
            "environment": json.dumps(_REPRODUCIBLE),
        }
    )


def _resolved_path(cache: store.Store, recipe: Recipe) -> Path:
    return cache.root / "resolved" / f"{recipe.package}.json"


def _load_resolved(cache: store.Store, recipe: Recipe) -> Package | None:
    try:
        return Package(**json.loads(_resolved_path(cache, recipe).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _resolve(cache: store.Store, recipe: Recipe, progress: Progress) -> Package:
    """Return the newest version of the source package, remembered after the first time."""
    known = _load_resolved(cache, recipe)
    if known is not None and cache.find(
        "source", store.digest({"package": known.name, "sha256": known.sha256})
    ):
        return known
    progress(f"asking Debian's archive for the newest {recipe.package}", None)
    deadline = Deadline.after(FETCH_LIMIT_S)
    archive = Archive(cache.root / "apt" / "-".join(recipe.suites), recipe.suites)
    with cache.lock("apt", deadline):
        archive.update(deadline)
        package = archive.resolve(recipe.package, deadline)
    store.write_atomically(_resolved_path(cache, recipe), json.dumps(asdict(package)).encode())
    return package


def _fetch_source(
    cache: store.Store, recipe: Recipe, package: Package, into: Path, progress: Progress
) -> None:
    deadline = Deadline.after(FETCH_LIMIT_S)
    archive = Archive(cache.root / "apt" / "-".join(recipe.suites), recipe.suites)
    progress(f"fetching {package.name} {package.version} ({package.size_bytes >> 20} MiB)", None)
    with cache.lock("apt", deadline):
        deb = archive.fetch(package, into, deadline)
    progress(f"unpacking {package.name} {package.version}", None)
    unpack(deb, into / "deb", deadline)
    deb.unlink()
    tarball = next((into / "deb" / "usr" / "src").glob("linux-source-*.tar.xz"))
    (into / "linux").mkdir()
    proc.run(
        ["tar", "-xf", str(tarball), "-C", str(into / "linux"), "--strip-components=1"],
        deadline=deadline,
    )
    shutil.rmtree(into / "deb")


def _make_kernel(
    recipe: Recipe, package: Package, source: Path, into: Path, progress: Progress, key: str
) -> None:
    build = into / "build"
    build.mkdir()
    _configure(recipe, source, build, progress)
    _compile(recipe, source, build, progress)
    shutil.copyfile(build / "arch/x86/boot/bzImage", into / "bzImage")
    release = (build / "include/config/kernel.release").read_text().strip()
    _strip_build_tree(build)
    # The build tree names the place it was configured in; it is about to move.
    _relocate(build, into)
    config = build / ".config"
    record = {
        "name": recipe.name,
        "profile": recipe.profile,
        "release": release,
        "version": package.version,
        "compiler": compiler_version(),
        "config_sha256": store.digest_file(config),
        "key": key,
        "source_key": source.parent.name,
    }
    (into / "kernel.json").write_text(json.dumps(record, indent=1))


def make_command(source: Path, build: Path, *words: str) -> list[str]:
    """Return the argv that calls the kernel's make out of tree."""
    # Paths in the debug information are those of the kernel tree, on every machine.
    prefix = f"KCFLAGS=-ffile-prefix-map={source}/="
    return ["make", "-C", str(source), f"O={build}", prefix, *words]


def _configure(recipe: Recipe, source: Path, build: Path, progress: Progress) -> None:
    progress(f"configuring {recipe.label}", None)
    deadline = Deadline.after(FETCH_LIMIT_S)
    wanted: Mapping[str, str] = dict(recipe.options)
    try:
        proc.run(make_command(source, build, "tinyconfig"), deadline=deadline)
        with (build / ".config").open("a") as file:
            for option, value in wanted.items():
                unset = f"# {option} is not set\n"
                file.write(unset if value == "n" else f"{option}={value}\n")
        proc.run(make_command(source, build, "olddefconfig"), deadline=deadline)
    except CommandError as error:
        raise KernelBuildError(
            f"kernel {recipe.label}: configuration failed", evidence=first_error(error.evidence)
        ) from error
    kconfig.require(wanted, kconfig.parse((build / ".config").read_text()), source)


def _compile(recipe: Recipe, source: Path, build: Path, progress: Progress) -> None:
    jobs = os.cpu_count() or 1
    steps = 0
    started = time.monotonic()

    def count(line: bytes) -> None:
        nonlocal steps
        if _STEP.match(line):
            steps += 1
            done = min(steps / recipe.steps, 0.999)
            elapsed = time.monotonic() - started
            left = elapsed / done * (1 - done)
            progress(
                f"building {recipe.label} ({steps} of about {recipe.steps} steps, "
                f"about {left / 60:.0f} min to go)",
                done,
            )

    done = proc.run(
        make_command(source, build, f"-j{jobs + 1}", "bzImage", "modules"),
        deadline=Deadline.after(BUILD_LIMIT_S), env=_REPRODUCIBLE, check=False,
        on_line=count, merge_stderr=True,
    )  # fmt: skip
    if done.status != 0:
        raise KernelBuildError(
            f"kernel {recipe.label}: compilation failed after {steps} steps",
            evidence=first_error(done.stdout.decode(errors="replace")),
        )
    logger.info("%s: %d steps in %.0f s", recipe.label, steps, time.monotonic() - started)


def _strip_build_tree(build: Path) -> None:
    """Keep what modules need to compile; objects are two thirds of the tree."""
    keep = {"scripts", "tools"}
    for folder, folders, files in os.walk(build):
        if Path(folder) == build:
            folders[:] = [name for name in folders if name not in keep]
        for name in files:
            if name.endswith((".o", ".a", ".cmd", ".order")) or name == "vmlinux.bin":
                Path(folder, name).unlink()
    (build / ".tmp_vmlinux.kallsyms1").unlink(missing_ok=True)


def _relocate(build: Path, staging: Path) -> None:
    """Mend the absolute paths that an out-of-tree build tree keeps of itself.

    Only the generated top Makefile and the ``source`` link name it; both point
    at the source tree, which does not move.
    """
    makefile = build / "Makefile"
    text = makefile.read_text()
    if str(staging) in text:
        raise InfrastructureError(f"{makefile}: names its own place, cannot be moved")
