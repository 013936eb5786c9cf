# SPDX-License-Identifier: GPL-2.0-only
"""The guest's initramfs: busybox, dropbear, the executor, nothing else.

It holds no key: the same image is the same bytes on every machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import audit, cpio, proc, store
from harness.archive import Archive, Package, unpack
from harness.deadline import Deadline
from harness.errors import CommandError, InfrastructureError
from harness.resources import data_dir

_SUITES = ("bookworm", "bookworm-updates", "bookworm-security")
_PACKAGES = ("busybox-static", "dropbear-bin", "libtomcrypt1", "libtommath1", "libcrypt1",
             "zlib1g", "libc6", "libgmp10")  # fmt: skip

#: What dropbear's programs need at run time, beside the C library.
_LIMIT_S = 900.0

RECIPE_VERSION = "1"

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Image:
    """A built initramfs in the cache."""

    key: str
    initrd: Path
    #: Folder with the unpacked packages, for tools that run on the host.
    packages: Path
    #: The executor as it is in the image.
    executor: Path


def build_image(
    cache: store.Store, progress: Progress = lambda what, done: None, *, debug: bool = False
) -> Image:
    """Return the image, building it when an input changed.

    Raises:
        InfrastructureError: the archive cannot be reached, or the executor
            does not compile.
    """
    deadline = Deadline.after(_LIMIT_S)
    packages_key, packages = _packages(cache, progress, deadline)
    executor_source = data_dir("images") / "executor"
    executor_key = _executor_key(executor_source, deadline)
    executor = cache.build(
        "executor", executor_key, lambda into: _compile(executor_source, into, progress),
        deadline=deadline,
    )  # fmt: skip
    key = _image_key(packages_key, executor)

    def make(into: Path) -> None:
        progress("building the guest's image", None)
        entries = _contents(packages, executor / "executor")
        # Not compressed: an emulated KASAN kernel unpacks far slower than QEMU loads.
        (into / "initrd").write_bytes(cpio.archive(entries))

    path = cache.build("image", key, make, deadline=deadline)
    return Image(key, path / "initrd", packages, executor / "executor")


def with_extra(cache: store.Store, image: Image, extra: Path, kernel_key: str) -> Image:
    """Return the image with an archive behind it that the guest unpacks, too."""
    key = key_with_extra(image.key, kernel_key)

    def make(into: Path) -> None:
        (into / "initrd").write_bytes(image.initrd.read_bytes() + extra.read_bytes())

    path = cache.build("image", key, make, deadline=Deadline.after(_LIMIT_S))
    return dataclasses.replace(image, key=key, initrd=path / "initrd")


def key_with_extra(image_key: str, kernel_key: str) -> str:
    """Return the name of an image with a kernel's archive behind it."""
    return store.digest({"image": image_key, "kernel": kernel_key})


def current_keys(cache: store.Store) -> dict[str, str]:
    """Return the names of what guests are made of now, by kind; nothing if not all is built."""
    deadline = Deadline.after(_LIMIT_S)
    resolved = _load_resolved(cache.root / "resolved" / "image.json")
    executor_key = _executor_key(data_dir("images") / "executor", deadline)
    executor = cache.find("executor", executor_key)
    if resolved is None or executor is None:
        return {}
    packages_key = _packages_key(resolved)
    key = _image_key(packages_key, executor)
    return {"packages": packages_key, "executor": executor_key, "image": key}


def _executor_key(source: Path, deadline: Deadline) -> str:
    return store.digest({"source": store.digest_tree(source), "compiler": _compiler(deadline)})


def _image_key(packages_key: str, executor: Path) -> str:
    return store.digest(
        {
            "recipe": RECIPE_VERSION,
            "packages": packages_key,
            "executor": store.digest_file(executor / "executor"),
            "initramfs": store.digest_tree(data_dir("images") / "initramfs"),
            "audit": audit.specification(),
        }
    )


def _compiler(deadline: Deadline) -> str:
    proc.require_program("gcc", "gcc")
    return proc.run(["gcc", "--version"], deadline=deadline).stdout.decode().splitlines()[0]


def _compile(source: Path, into: Path, progress: Progress) -> None:
    progress("compiling the executor", None)
    files = sorted(str(path.relative_to(source)) for path in source.glob("*.c"))
    try:
        proc.run(
            ["gcc", "-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra", "-static", "-pthread",
             f"-ffile-prefix-map={source}/=", "-Wl,--build-id=none",
             "-o", str(into / "executor"), *files],
            deadline=Deadline.after(_LIMIT_S), cwd=source,
        )  # fmt: skip
    except CommandError as error:
        raise InfrastructureError(
            "the executor does not compile", evidence=error.evidence
        ) from error


def _packages(cache: store.Store, progress: Progress, deadline: Deadline) -> tuple[str, Path]:
    """Return the unpacked packages; which versions was decided the first time."""
    resolved_path = cache.root / "resolved" / "image.json"
    resolved = _load_resolved(resolved_path)
    archive = Archive(cache.root / "apt" / "-".join(_SUITES), _SUITES)
    if resolved is None or cache.find("packages", _packages_key(resolved)) is None:
        with cache.lock("apt", deadline):
            progress("asking Debian's archive for busybox and dropbear", None)
            archive.update(deadline)
            resolved = tuple(archive.resolve(name, deadline) for name in _PACKAGES)
        store.write_atomically(
            resolved_path, json.dumps([asdict(package) for package in resolved]).encode()
        )
    key = _packages_key(resolved)
    packages = resolved

    def make(into: Path) -> None:
        with cache.lock("apt", deadline):
            for package in packages:
                deb = archive.fetch(package, into, deadline)
                unpack(deb, into, deadline)
                deb.unlink()

    return key, cache.build("packages", key, make, deadline=deadline)


def _load_resolved(path: Path) -> tuple[Package, ...] | None:
    try:
        return tuple(Package(**fields) for fields in json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _packages_key(packages: tuple[Package, ...]) -> str:
    return store.digest({package.name: package.sha256 for package in packages})


def _contents(packages: Path, executor: Path) -> dict[str, cpio.Entry]:
    initramfs = data_dir("images") / "initramfs"
    entries = {
        "init": cpio.Entry((initramfs / "init").read_bytes(), 0o755),
        "bin/busybox": cpio.Entry(_find(packages, "busybox").read_bytes(), 0o755),
        "bin/dropbear": cpio.Entry(_find(packages, "dropbear").read_bytes(), 0o755),
        "bin/serve": cpio.Entry((initramfs / "serve").read_bytes(), 0o755),
        "bin/executor": cpio.Entry(executor.read_bytes(), 0o755),
        "etc/harness/audit": cpio.Entry(audit.specification().encode()),
        "etc/passwd": cpio.Entry(b"root:x:0:0:root:/root:/bin/sh\n"),
        "etc/group": cpio.Entry(b"root:x:0:\n"),
        "etc/shells": cpio.Entry(b"/bin/sh\n"),
        "etc/nsswitch.conf": cpio.Entry(b"passwd: files\ngroup: files\n"),
        "root/.profile": cpio.Entry(b"export PATH=/bin PS1='guest:\\w# '\n"),
    }
    for library in _libraries(packages, _find(packages, "dropbear")):
        entries[f"lib/{library.name}"] = cpio.Entry(library.resolve().read_bytes(), 0o755)
    loader = _find(packages, "ld-linux-x86-64.so.2")
    entries["lib64/ld-linux-x86-64.so.2"] = cpio.Entry(loader.resolve().read_bytes(), 0o755)
    return entries


def _find(packages: Path, name: str) -> Path:
    found = sorted(path for path in packages.rglob(name) if path.is_file())
    if not found:
        raise InfrastructureError(f"{name}: not in the packages {', '.join(_PACKAGES)}")
    return found[0]


def _libraries(packages: Path, program: Path) -> list[Path]:
    """Return the shared libraries of a program, and theirs, from the unpacked packages."""
    found: dict[str, Path] = {}
    todo = [program]
    while todo:
        shown = proc.run(
            ["readelf", "-d", str(todo.pop())], deadline=Deadline.after(60)
        ).stdout.decode()
        for name in re.findall(r"\(NEEDED\).*\[([^\]]+)\]", shown):
            if name not in found and not name.startswith("ld-linux"):
                found[name] = _find(packages, name)
                todo.append(found[name])
    return [path for _, path in sorted(found.items())]


def host_tool(image: Image, name: str) -> tuple[list[str], dict[str, str]]:
    """Return argv and environment that run a program of the packages on the host."""
    program = _find(image.packages, name)
    paths = {os.fspath(path.parent) for path in _libraries(image.packages, program)}
    paths = {path for path in paths if "libc.so.6" not in os.listdir(path)}
    return [str(program)], {"LD_LIBRARY_PATH": ":".join(sorted(paths))}
