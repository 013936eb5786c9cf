# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that are not compiled here: Debian's binary, and a developer's own tree.

Each fills a folder of the cache so that it looks like that of a kernel which was
compiled: ``bzImage``, ``build`` for modules, and a record.
"""

from __future__ import annotations

import json
import lzma
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import cpio, kconfig, kofile, proc, sources, store
from harness.archive import Package, unpack
from harness.deadline import Deadline
from harness.errors import InfrastructureError, KernelBuildError, UsageError
from harness.kernelfiles import DebianImage, Recipe, Tree

#: Archive that a guest unpacks after its image: the kernel's own modules.
EXTRA = "extra.cpio"
#: The first program in a guest that has them.
EARLY_INIT = "/early/init"

#: What a guest cannot do without, whoever configured its kernel.
_GUEST_NEEDS = (
    "CONFIG_64BIT", "CONFIG_BINFMT_ELF", "CONFIG_BINFMT_SCRIPT", "CONFIG_BLK_DEV_INITRD",
    "CONFIG_DEBUG_FS", "CONFIG_DEVTMPFS", "CONFIG_MODULES", "CONFIG_MODULE_UNLOAD",
    "CONFIG_PCI", "CONFIG_PRINTK", "CONFIG_PROC_FS", "CONFIG_SERIAL_8250_CONSOLE",
    "CONFIG_SYSFS", "CONFIG_TMPFS", "CONFIG_X86_IOPL_IOPERM",
)  # fmt: skip

#: What a build leaves that modules compile against, and the guest boots.
_BUILT = (
    "arch/x86/boot/bzImage", ".config", "Module.symvers", "include/config/kernel.release",
    "scripts/mod/modpost",
)  # fmt: skip

#: How the packages are called that a kernel is spread over; since 7.x they are more.
_PARTS = ("linux-image-", "linux-binary-", "linux-modules-", "linux-base-", "linux-headers-",
          "linux-kbuild-")  # fmt: skip

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """The packages of a binary kernel."""

    image: Package
    others: tuple[Package, ...]

    @property
    def everything(self) -> tuple[Package, ...]:
        return (self.image, *self.others)


def find_parts(cache: store.Store, origin: DebianImage) -> Parts | None:
    """Return the packages that a binary kernel is, as decided the first time, or None."""
    path = sources.resolved_path(cache, sources.resolved_name(origin))
    try:
        image, *others = (Package(**fields) for fields in json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return Parts(image, tuple(others))


def resolve_parts(cache: store.Store, origin: DebianImage, progress: Progress) -> Parts:
    """Ask the archive which packages the newest binary kernel is, and remember that.

    Raises:
        InfrastructureError: the archive cannot be reached, or does not have it.
    """
    progress(f"asking Debian's archive for the newest {origin.image}", None)
    deadline = Deadline.after(sources.FETCH_LIMIT_S)
    archive = sources.archive_of(cache, origin.suites)
    found: dict[str, Package] = {}
    with cache.lock("apt", deadline):
        archive.update(deadline)
        todo = [origin.image, origin.headers]
        while todo:
            name = todo.pop()
            if name not in found:
                found[name] = archive.resolve(name, deadline)
                needed = archive.depends(found[name], deadline)
                todo += [other for other in needed if other.startswith(_PARTS)]
    # The one that holds the kernel is by far the largest.
    image = max(
        (package for name, package in found.items() if name.startswith("linux-image-")),
        key=lambda package: package.size_bytes,
    )
    others = (found[name] for name in sorted(found) if found[name] is not image)
    parts = Parts(image, tuple(others))
    path = sources.resolved_path(cache, sources.resolved_name(origin))
    store.write_atomically(path, json.dumps([asdict(one) for one in parts.everything]).encode())
    return parts


def fill_from_packages(
    cache: store.Store, recipe: Recipe, parts: Parts, into: Path, progress: Progress
) -> dict[str, Any]:
    """Unpack a binary kernel into a folder; return what is known of it.

    Raises:
        KernelBuildError: the packages are not what they used to be, or lack what the
            profile needs.
    """
    assert isinstance(recipe.origin, DebianImage)
    deadline = Deadline.after(sources.FETCH_LIMIT_S)
    archive = sources.archive_of(cache, recipe.origin.suites)
    unpacked = into / "unpacked"
    for package in parts.everything:
        progress(f"fetching {package.name} {package.version}", None)
        with cache.lock("apt", deadline):
            deb = archive.fetch(package, into, deadline)
        unpack(deb, unpacked, deadline)
        deb.unlink()
    images = {path.name.removeprefix("vmlinuz-"): path for path in unpacked.glob("boot/vmlinuz-*")}
    images |= {path.parent.name: path for path in unpacked.glob("usr/lib/modules/*/vmlinuz")}
    if len(images) != 1:
        raise KernelBuildError(f"{parts.image.name}: holds {len(images)} kernels, not one")
    release, bzimage = images.popitem()
    shutil.copyfile(bzimage, into / "bzImage")
    headers = unpacked / "usr" / "src" / f"linux-headers-{release}"
    if not (headers / ".config").is_file():
        raise KernelBuildError(f"kernel {recipe.label}: the headers are not those of {release}")
    _require(recipe, kconfig.parse((headers / ".config").read_text()), "it")
    if recipe.modules:
        folder = next(
            (path for path in (unpacked / "lib/modules", unpacked / "usr/lib/modules")
             if (path / release / "kernel").is_dir()), None,
        )  # fmt: skip
        if folder is None:
            raise KernelBuildError(f"{parts.image.name}: holds no modules for {release}")
        entries = early_entries(folder / release, recipe.modules)
        (into / EXTRA).write_bytes(cpio.archive(entries))
    (unpacked / "usr").rename(into / "usr")
    shutil.rmtree(unpacked)
    common = _unroot(into / "usr" / "src" / f"linux-headers-{release}")
    (into / "build").symlink_to(f"usr/src/linux-headers-{release}")
    _check_tools(recipe, into / "build")
    return {"release": release, "version": parts.image.version, "source": f"usr/src/{common}"}


def tree_folder(recipe: Recipe) -> Path:
    """Return the folder of a developer's tree.

    Raises:
        UsageError: it was not built, or is no kernel tree; names what is missing.
    """
    assert isinstance(recipe.origin, Tree)
    folder = recipe.file.parent / Path(recipe.origin.path).expanduser()
    if not folder.is_dir():
        raise UsageError(f"{recipe.file}: path: {folder}: no such folder")
    missing = [name for name in _BUILT if not (folder / name).exists()]
    if missing:
        raise UsageError(
            f"{folder}: not a kernel tree that was built: it has no {', '.join(missing)}",
            hint="`make bzImage modules` in it makes them",
        )
    return folder.resolve()


def tree_inputs(recipe: Recipe) -> dict[str, str]:
    """Return the digests that tell a developer's tree from what it was before.

    Raises:
        UsageError: it was not built, or lacks what the profile needs.
    """
    folder = tree_folder(recipe)
    _require(recipe, kconfig.parse((folder / ".config").read_text()), str(folder))
    names = ("arch/x86/boot/bzImage", ".config", "Module.symvers")
    return {"path": str(folder), **{name: store.digest_file(folder / name) for name in names}}


def fill_from_tree(recipe: Recipe, into: Path) -> dict[str, Any]:
    """Make a kernel's folder that leads to a developer's tree; return what is known of it."""
    folder = tree_folder(recipe)
    shutil.copyfile(folder / "arch/x86/boot/bzImage", into / "bzImage")
    (into / "build").symlink_to(folder)
    source = folder / "source" if (folder / "source").is_dir() else folder
    release = (folder / "include/config/kernel.release").read_text().strip()
    return {
        "release": release,
        "version": release,
        # Of the kernels that are compiled here it is a tree of links.
        "source": str((source / "Makefile").resolve().parent),
    }


def early_entries(folder: Path, names: Iterable[str]) -> dict[str, cpio.Entry]:
    """Return what makes a guest load modules of its kernel before its first program.

    Args:
        folder: ``/lib/modules/RELEASE`` of the kernel.

    Raises:
        KernelBuildError: a module is neither there nor part of the kernel.
    """
    files = {_module_name(path): path for path in sorted(folder.glob("kernel/**/*.ko*"))}
    builtin_path = folder / "modules.builtin"
    builtin = {
        _module_name(Path(line))
        for line in (builtin_path.read_text().splitlines() if builtin_path.is_file() else ())
    }
    order: dict[str, bytes] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in order or name in builtin or name in above:
            return
        if name not in files:
            raise KernelBuildError(f"module {name}: neither in {folder.name} nor part of it")
        content = _plain(files[name])
        for needed in _depends(content):
            add(needed, (*above, name))
        order[name] = content

    for name in names:
        add(name, ())
    lines = [f"/bin/busybox insmod /early/{name}.ko" for name in order]
    script = "\n".join(["#!/bin/busybox sh", *lines, "exec /init", ""])
    entries = {f"early/{name}.ko": cpio.Entry(content) for name, content in order.items()}
    return {**entries, EARLY_INIT.removeprefix("/"): cpio.Entry(script.encode(), 0o755)}


def _require(recipe: Recipe, config: Mapping[str, str], what: str) -> None:
    for needs, why in ((_GUEST_NEEDS, "a guest"), (recipe.needs, f"the profile {recipe.profile}")):
        gone = [option for option in needs if config.get(option, "n") == "n"]
        if gone:
            raise UsageError(
                f"kernel {recipe.label}: {what} was configured without {', '.join(gone)},"
                f" which {why} needs"
            )


def _unroot(headers: Path) -> str:
    """Mend the one path in unpacked headers that starts at the root.

    Returns:
        The name of the folder with the headers that all flavours share.
    """
    makefile = headers / "Makefile"
    text = makefile.read_text()
    common = re.search(r"/usr/src/(linux-headers-[\w.+~-]+-common(?:-\w+)?)", text)
    if common is None:
        raise InfrastructureError(f"{makefile}: does not say where the common headers are")
    makefile.write_text(text.replace("/usr/src/", "../"))
    return common[1]


def _check_tools(recipe: Recipe, build: Path) -> None:
    """Check that the programs which come with the headers run on this machine."""
    for name in ("basic/fixdep", "mod/modpost"):
        # Without arguments it has nothing to do, and may say so.
        tool = build / "scripts" / name
        done = proc.run([str(tool)], deadline=Deadline.after(60), check=False)
        said = done.stderr.decode(errors="backslashreplace")
        if "GLIBC_" in said or "error while loading shared libraries" in said:
            raise KernelBuildError(
                f"kernel {recipe.label}: the programs in its headers do not run here",
                evidence=said.strip(),
                hint="they are made for a newer Debian than this one; its source can be"
                " compiled here",
            )


def _module_name(path: Path) -> str:
    return kofile.module_name(path.name.partition(".ko")[0])


def _plain(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".ko":
        return content
    raise KernelBuildError(f"{path.name}: compressed in a way that is not known here")


def _depends(module: bytes) -> tuple[str, ...]:
    """Return what modpost wrote down: ``depends=a,b`` among strings that end with a zero."""
    match = re.search(rb"\0depends=([\w,-]*)\0", module)
    return tuple(match[1].decode().replace("-", "_").split(",")) if match and match[1] else ()
