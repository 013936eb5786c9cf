# SPDX-License-Identifier: GPL-2.0-only
"""Kernels: how one is built, and where it lies in the cache.

What there is to build, :mod:`harness.kernelfiles` says. A kernel that is compiled
here is compiled in a folder that an interruption leaves behind, so that the next
attempt goes on where that one was. What was built is recorded beside it in
``kernel.json``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import kconfig, kconfigtree, kernelfiles, proc, readymade, sources, store
from harness.deadline import Deadline
from harness.errors import CommandError, KernelBuildError, UsageError
from harness.kernelfiles import DEFAULT_KERNEL as DEFAULT_KERNEL
from harness.kernelfiles import DEFAULT_PROFILE as DEFAULT_PROFILE
from harness.kernelfiles import DebianImage, Recipe, Tree
from harness.kernelfiles import load_recipe as load_recipe

logger = logging.getLogger(__name__)

#: Part of every kernel's key: raise it when the way of building changes.
RECIPE_VERSION = "2"

#: A build on one slow core; a bound, not an estimate.
BUILD_LIMIT_S = 3 * 3600.0
#: What one step of make takes on one processor, and fetching and unpacking, measured.
_STEP_S = 0.5
_FETCH_S = 60.0
#: Source tree, objects of one build and the result, MiB; said before it starts.
BUILD_SPACE_MIB = 4000
#: The same for the packages of a binary kernel.
BINARY_SPACE_MIB = 1500

_KIND = "kernel"
#: Where a kernel is compiled, beside the place where it will be.
UNFINISHED = ".unfinished-"
#: In that folder, once it is configured.
_CONFIGURED = "configured"
#: The source, as links, and what is made from it in a folder right below.
_TREE = "linux"
#: A link to the cache, in both of them: one path to a module's sources is right in either.
CACHE_LINK = "cache"
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
    #: The kernel with debug information, or None: Debian's binary has none.
    vmlinux: Path | None = None
    #: Kernel arguments beside those of every guest.
    arguments: tuple[str, ...] = ()
    #: What can be found in it: names as in :func:`harness.kernelfiles.detectors`.
    detectors: tuple[str, ...] = ()
    #: Its own reports, which say nothing about a module: patterns of title and text.
    known: tuple[tuple[str, str], ...] = ()
    #: What make needs to be told to compile a module for it.
    make_variables: tuple[str, ...] = ()

    @property
    def bzimage(self) -> Path:
        return self.path / "bzImage"

    @property
    def extra(self) -> Path | None:
        """An archive that the guest unpacks after its image, or None."""
        path = self.path / readymade.EXTRA
        return path if path.is_file() else None

    @property
    def build(self) -> Path:
        """The build tree that modules compile against, by the name that make has for it."""
        return (self.path / "build").resolve()


def read_config(kernel: Kernel) -> dict[str, str]:
    """Return how a kernel is configured: option → value."""
    return kconfig.parse((kernel.build / ".config").read_text())


def require_vmlinux(kernel: Kernel) -> Path:
    """Return the kernel with its debug information.

    Raises:
        UsageError: there is none.
    """
    if kernel.vmlinux is None:
        raise UsageError(
            f"kernel {kernel.name}-{kernel.profile} has no debug information: whose memory is"
            " whose cannot be told",
            hint="look through memory with --profile kasan",
        )
    return kernel.vmlinux


def find_kernel(cache: store.Store, recipe: Recipe) -> Kernel | None:
    """Return a kernel that is built already and up to date, or None; needs no network.

    Raises:
        UsageError: a developer's tree was not built, or lacks what the profile needs.
    """
    key = current_key(cache, recipe)
    path = None if key is None else cache.find(_KIND, key)
    return None if path is None else load_kernel(cache, recipe, path)


def load_kernel(cache: store.Store, recipe: Recipe, path: Path) -> Kernel:
    """Read the record of a built kernel."""
    record = json.loads((path / "kernel.json").read_text())
    source_key, source = record.pop("source_key", None), record.pop("source", "")
    record.pop("file", None)
    arguments = recipe.arguments
    if (path / readymade.EXTRA).is_file():
        arguments += (f"rdinit={readymade.EARLY_INIT}",)
    config = kconfig.parse((path / "build" / ".config").read_text())
    if config.get("CONFIG_RANDOMIZE_BASE") == "y":
        # One address for one symbol, in every boot.
        arguments += ("nokaslr",)
    vmlinux = path / "build" / "vmlinux"
    told = recipe.compiler != "gcc" or not recipe.is_compiled
    variables = [f"CC={recipe.compiler}"] if told else []
    if isinstance(recipe.origin, DebianImage):
        # It would be made from the kernel's, which the headers do not have.
        variables.append("CONFIG_DEBUG_INFO_BTF_MODULES=")
    return Kernel(
        **record,
        path=path,
        source=cache.root / "source" / source_key / "linux" if source_key else path / source,
        # Debian's headers have a file of this name, with types and no symbols.
        vmlinux=vmlinux
        if vmlinux.is_file() and not isinstance(recipe.origin, DebianImage)
        else None,
        arguments=arguments,
        detectors=kernelfiles.detectors(config, arguments),
        known=tuple((report.title, report.text) for report in recipe.known),
        make_variables=tuple(variables),
    )


def build_kernel(
    cache: store.Store, recipe: Recipe, progress: Progress = lambda what, done: None
) -> Kernel:
    """Return a kernel, building it when the cache does not have it.

    Raises:
        KernelBuildError: it does not configure or compile; carries the first error.
        StorageError: the disk is full.
        InfrastructureError: the archive cannot be reached.
        UsageError: its source is not what its file says.
    """
    found = find_kernel(cache, recipe)
    if found is not None:
        return found
    deadline = Deadline.after(BUILD_LIMIT_S)
    needed_mib = needed_space_mib(recipe)
    if store.free_mib(cache.root) < needed_mib:
        raise store.no_space(cache.root, needed_mib=needed_mib)
    make: Callable[[Path], None]
    if isinstance(recipe.origin, Tree):
        key = _readymade_key(recipe, readymade.tree_inputs(recipe))

        def make(into: Path) -> None:
            _record(recipe, into, key, readymade.fill_from_tree(recipe, into))
    elif isinstance(recipe.origin, DebianImage):
        parts = readymade.resolve_parts(cache, recipe.origin, progress)
        key = _parts_key(recipe, parts)

        def make(into: Path) -> None:
            facts = readymade.fill_from_packages(cache, recipe, parts, into, progress)
            _record(recipe, into, key, facts)
    else:
        # Before a source is fetched for a compiler that is not there.
        compiler_version(recipe.compiler)
        source, tree = sources.get_source(cache, recipe, progress, deadline)
        cache.use(tree.parent)
        key = _source_key(recipe, source)
        unfinished = cache.root / _KIND / f"{UNFINISHED}{key}"

        def make(into: Path) -> None:
            _make_kernel(recipe, tree, unfinished, into, progress)
            version = source.package.version if source.package else sources.tree_version(tree)
            release = (into / "build/include/config/kernel.release").read_text().strip()
            facts = {"release": release, "version": version, "source_key": source.key}
            _record(recipe, into, key, facts)

    path = cache.build(
        _KIND, key, make, deadline=deadline, on_wait=lambda text: progress(text, None)
    )
    return load_kernel(cache, recipe, path)


def configuration(
    cache: store.Store, recipe: Recipe, progress: Progress = lambda what, done: None
) -> dict[str, str]:
    """Return option → value of a kernel, which need not be built for that.

    Raises:
        UsageError: Kconfig does not take an option that was added.
        KernelBuildError: it does not configure.
    """
    found = find_kernel(cache, recipe)
    if found is not None:
        return read_config(found)
    if not recipe.is_compiled:
        found = build_kernel(cache, recipe, progress)
        return read_config(found)
    deadline = Deadline.after(BUILD_LIMIT_S)
    compiler_version(recipe.compiler)
    source, tree = sources.get_source(cache, recipe, progress, deadline)

    def make(into: Path) -> None:
        linked = into.resolve() / _TREE
        _link_source(tree, linked)
        _configure(recipe, tree, linked, progress)
        (linked / "build/.config").rename(into / "config")
        shutil.rmtree(linked)

    path = cache.build("config", _source_key(recipe, source), make, deadline=deadline)
    return kconfig.parse((path / "config").read_text())


def source_tree(
    cache: store.Store, recipe: Recipe, progress: Progress = lambda what, done: None
) -> Path:
    """Return the top of the source that a kernel is compiled from.

    Raises:
        UsageError: there is no source of it, as of Debian's binary.
    """
    if recipe.is_compiled:
        _, tree = sources.get_source(cache, recipe, progress, Deadline.after(BUILD_LIMIT_S))
        cache.use(tree.parent)
        return tree
    source = build_kernel(cache, recipe, progress).source
    if not (source / "Kconfig").is_file():
        raise UsageError(
            f"kernel {recipe.label}: of it there is no source to take modules from",
            hint="`--profile kasan` compiles it",
        )
    return source


def needed_space_mib(recipe: Recipe) -> int:
    """Return the room on the disk that making a kernel takes, MiB."""
    if recipe.is_compiled:
        return BUILD_SPACE_MIB
    return BINARY_SPACE_MIB if isinstance(recipe.origin, DebianImage) else 100


def current_key(cache: store.Store, recipe: Recipe) -> str | None:
    """Return the name that a kernel has in the cache, or None when only the network knows.

    Raises:
        UsageError: a developer's tree was not built, or lacks what the profile needs.
    """
    if isinstance(recipe.origin, Tree):
        return _readymade_key(recipe, readymade.tree_inputs(recipe))
    if isinstance(recipe.origin, DebianImage):
        parts = readymade.find_parts(cache, recipe.origin)
        return None if parts is None else _parts_key(recipe, parts)
    source = sources.find_source(cache, recipe)
    return None if source is None else _source_key(recipe, source)


def estimate_s(recipe: Recipe) -> float:
    """Return about how long making a kernel takes here, seconds."""
    if not recipe.is_compiled:
        return _FETCH_S if isinstance(recipe.origin, DebianImage) else 1.0
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


def compiler_version(program: str = "gcc") -> str:
    """Return the first line of ``gcc --version``."""
    proc.require_program(program, program)
    shown = proc.run([program, "--version"], deadline=Deadline.after(60)).stdout.decode()
    return shown.splitlines()[0]


def _source_key(recipe: Recipe, source: sources.Source) -> str:
    return store.digest(
        {
            "recipe": RECIPE_VERSION,
            "name": recipe.name,
            "profile": recipe.profile,
            "options": json.dumps(recipe.options),
            "source": source.sha256,
            "compiler": compiler_version(recipe.compiler),
            "environment": json.dumps(_REPRODUCIBLE),
        }
    )


def _parts_key(recipe: Recipe, parts: readymade.Parts) -> str:
    packages = {package.name: package.sha256 for package in parts.everything}
    return _readymade_key(recipe, {**packages, "modules": " ".join(recipe.modules)})


def _readymade_key(recipe: Recipe, inputs: Mapping[str, str]) -> str:
    return store.digest(
        {
            "recipe": RECIPE_VERSION,
            "name": recipe.name,
            "profile": recipe.profile,
            "inputs": json.dumps(dict(inputs), sort_keys=True),
            # What its modules are compiled with is for the caller to see in their key.
            "compiler": compiler_version(recipe.compiler),
        }
    )


def _record(recipe: Recipe, into: Path, key: str, facts: Mapping[str, Any]) -> None:
    record = {
        "file": str(recipe.file),
        "name": recipe.name,
        "profile": recipe.profile,
        **facts,
        "compiler": compiler_version(recipe.compiler),
        "config_sha256": store.digest_file(into / "build" / ".config"),
        "key": key,
    }
    (into / "kernel.json").write_text(json.dumps(record, indent=1))


def _make_kernel(
    recipe: Recipe, source: Path, unfinished: Path, into: Path, progress: Progress
) -> None:
    """Configure and compile a kernel; what an interrupted attempt has left is used."""
    # It is called so by make, which decides by the names whether one is below the other.
    unfinished = unfinished.resolve()
    tree = unfinished / _TREE
    if not (unfinished / _CONFIGURED).is_file():
        shutil.rmtree(unfinished, ignore_errors=True)
        _link_source(source, tree)
        _configure(recipe, source, tree, progress)
        (unfinished / _CONFIGURED).touch()
    _compile(recipe, tree, progress)
    tree.rename(into / _TREE)
    shutil.rmtree(unfinished)
    (into / "build").symlink_to(f"{_TREE}/build")
    build = into / "build"
    shutil.copyfile(build / "arch/x86/boot/bzImage", into / "bzImage")
    _strip_build_tree(build)
    # The build tree names the place it was configured in; it has moved.
    place = unfinished.with_name(unfinished.name.removeprefix(UNFINISHED))
    _relocate(build, unfinished, place)
    # For a module, make puts the path that it was told behind the build tree's and behind the
    # source's (kbuild-dir, scripts/Makefile.build).
    for folder in (into / _TREE, into / _TREE / "build"):
        cache = os.path.relpath(place.parent.parent, place / folder.relative_to(into))
        (folder / CACHE_LINK).symlink_to(cache)


def _link_source(source: Path, tree: Path) -> None:
    """Make a tree of links to a source, whose build tree can lie right below it.

    The kernel's Makefile calls its source ``..`` there and nowhere else. KASAN keeps the names
    of files beside their variables, in what is loaded, and no prefix map changes those: called
    by its whole path, a source gave another kernel in each other folder.

    Args:
        tree: without a link in its path, for those in it are relative.
    """
    tree.mkdir(parents=True)
    for path in source.resolve().iterdir():
        if path.name not in ("build", CACHE_LINK):
            (tree / path.name).symlink_to(os.path.relpath(path, tree))


def source_of_unfinished(path: Path) -> str | None:
    """Return the key of the source that an interrupted build is of, or None."""
    link = path / _TREE / "Makefile"
    return link.resolve().parent.parent.name if link.is_symlink() else None


def make_command(tree: Path, compiler: str, *words: str) -> list[str]:
    """Return the argv that calls the kernel's make for the build tree right below a tree."""
    build = tree / "build"
    # Paths in the debug information are those of the kernel tree, on every machine. Of
    # several that fit, the last one counts.
    maps = " ".join(
        f"-ffile-prefix-map={path}={name}"
        for path, name in ((f"{tree}/", ""), ("../", ""), (build, "."))
    )
    told = [] if compiler == "gcc" else [f"CC={compiler}"]
    return [
        "make", "-C", str(tree), f"O={build}", f"KCFLAGS={maps}", f"KAFLAGS={maps}", *told,
        *words,
    ]  # fmt: skip


def _configure(recipe: Recipe, source: Path, tree: Path, progress: Progress) -> None:
    """Configure a kernel below a tree of links to its source."""
    progress(f"configuring {recipe.label}", None)
    deadline = Deadline.after(sources.FETCH_LIMIT_S)
    build = tree / "build"
    build.mkdir(exist_ok=True)
    wanted: Mapping[str, str] = dict(recipe.options)
    try:
        proc.run(make_command(tree, recipe.compiler, "tinyconfig"), deadline=deadline)
        with (build / ".config").open("a") as file:
            for option, value in wanted.items():
                unset = f"# {option} is not set\n"
                file.write(unset if value == "n" else f"{option}={value}\n")
        proc.run(make_command(tree, recipe.compiler, "olddefconfig"), deadline=deadline)
    except CommandError as error:
        raise KernelBuildError(
            f"kernel {recipe.label}: configuration failed",
            evidence=first_error(error.evidence),
            hint=_compiler_hint(recipe, error.evidence),
        ) from error
    config = kconfig.parse((build / ".config").read_text())
    _require_added(recipe, config, source)
    kconfig.require(wanted, config, source)


def _require_added(recipe: Recipe, config: Mapping[str, str], source: Path) -> None:
    """Check that the options which a user added are there.

    Raises:
        UsageError: one is not; says what it depends on.
    """
    added = {option: value for option, value in recipe.options if option in recipe.added}
    dropped = kconfig.missing(added, config)
    if not dropped:
        return
    tree = kconfigtree.Tree(source)
    names = [option.removeprefix("CONFIG_") for option in dropped]
    is_now = [
        f"{name}={added[option]} (is {config.get(option, 'n')}): {tree.explain(name, config)}"
        for name, option in zip(names, dropped, strict=True)
    ]
    wanted = {n: added[o] for n, o in zip(names, dropped, strict=True) if added[o] in ("y", "m")}
    more = tree.propose(wanted, config).options.items() - {
        (option.removeprefix("CONFIG_"), value) for option, value in added.items()
    }
    raise UsageError(
        f"kernel {recipe.name} does not take {', '.join(names)} as asked for in {recipe.profile}",
        evidence="\n".join(is_now),
        hint="add what it depends on, too: --add-config "
        + ",".join(f"{name}={value}" for name, value in sorted(more))
        if more
        else None,
    )


def _compile(recipe: Recipe, tree: Path, progress: Progress) -> None:
    jobs = os.cpu_count() or 1
    # make says only what it still does.
    steps = before = sum(1 for _ in (tree / "build").rglob(".*.cmd"))
    started = time.monotonic()

    def count(line: bytes) -> None:
        nonlocal steps
        if _STEP.match(line):
            steps += 1
            done = min(steps / recipe.steps, 0.999)
            elapsed = time.monotonic() - started
            left = elapsed / max(steps - before, 1) * recipe.steps * (1 - done)
            progress(
                f"building {recipe.label} ({steps} of about {recipe.steps} steps, "
                f"about {left / 60:.0f} min to go)",
                done,
            )

    done = proc.run(
        make_command(tree, recipe.compiler, f"-j{jobs + 1}", "bzImage", "modules"),
        deadline=Deadline.after(BUILD_LIMIT_S), env=_REPRODUCIBLE, check=False,
        on_line=count, merge_stderr=True,
    )  # fmt: skip
    if done.status != 0:
        raise KernelBuildError(
            f"kernel {recipe.label}: compilation failed after {steps} steps",
            evidence=first_error(done.stdout.decode(errors="replace")),
            hint=_compiler_hint(recipe, done.stdout.decode(errors="replace")),
        )
    logger.info("%s: %d steps in %.0f s", recipe.label, steps, time.monotonic() - started)


def _compiler_hint(recipe: Recipe, output: str) -> str | None:
    """Return what to do when it may be the compiler that a kernel does not like."""
    if "is too old" not in output and "gcc" not in output and "error:" not in output:
        return None
    return (
        f"the compiler was {compiler_version(recipe.compiler)}; another one is named by"
        f" `compiler: gcc-12` in {recipe.file.name}"
    )


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


def _relocate(build: Path, was: Path, will_be: Path) -> None:
    """Mend the absolute path that an out-of-tree build tree keeps of itself.

    Its top Makefile names the source tree, which does not move, and since 6.13
    the build tree, too (``export KBUILD_OUTPUT``).
    """
    makefile = build / "Makefile"
    makefile.write_text(makefile.read_text().replace(str(was), str(will_be)))
