# SPDX-License-Identifier: GPL-2.0-only
"""Source trees of kernels: from Debian's archive, or from any source archive.

Which version of a package stands for a kernel is decided the first time and
remembered, so that what is built goes on working without a network.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import proc, store
from harness.archive import Archive, Package, unpack
from harness.deadline import Deadline
from harness.errors import CommandError, InfrastructureError, UsageError
from harness.kernelfiles import DebianImage, DebianSource, Recipe, Tarball

#: For fetching and unpacking; a bound, not an estimate.
FETCH_LIMIT_S = 1800.0
#: Seconds without a byte after which an address counts as unreachable.
_SILENCE_S = 60.0

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Source:
    """A source tree as a value, whether it is in the cache or not."""

    #: SHA-256 of what it is unpacked from.
    sha256: str
    #: Its folder's name in the cache.
    key: str
    package: Package | None = None


def find_source(cache: store.Store, recipe: Recipe) -> Source | None:
    """Return what a kernel's source is, as far as is known without a network."""
    origin = recipe.origin
    if isinstance(origin, Tarball):
        return Source(origin.sha256, store.digest({"tarball": origin.sha256}))
    if isinstance(origin, DebianSource):
        package = load_resolved(cache, origin.package)
        return None if package is None else _of_package(package)
    return None


def get_source(
    cache: store.Store, recipe: Recipe, progress: Progress, deadline: Deadline
) -> tuple[Source, Path]:
    """Return a kernel's source and its tree in the cache, fetching it when it is not there.

    Raises:
        InfrastructureError: it cannot be fetched.
        UsageError: it is not what the kernel's file says.
    """
    origin = recipe.origin
    if isinstance(origin, Tarball):
        source = find_source(cache, recipe)
        assert source is not None

        def make(into: Path) -> None:
            _unpack_tarball(origin, recipe, into, progress)
    elif isinstance(origin, DebianSource):
        package = _resolve(cache, origin, progress)
        source = _of_package(package)

        def make(into: Path) -> None:
            _fetch_package(cache, origin, package, into, progress)
    else:
        raise AssertionError(f"{recipe.label} is not compiled")
    path = cache.build(
        "source", source.key, make, deadline=deadline, on_wait=lambda text: progress(text, None)
    )
    return source, path / "linux"


def forget(cache: store.Store, recipe: Recipe) -> None:
    """Forget which version of its packages a kernel was: the newest one counts again."""
    origin = recipe.origin
    names: tuple[str, ...] = ()
    if isinstance(origin, DebianSource):
        names = (origin.package,)
    elif isinstance(origin, DebianImage):
        names = (resolved_name(origin),)
    for name in names:
        resolved_path(cache, name).unlink(missing_ok=True)


def tree_version(tree: Path) -> str:
    """Return the version that a kernel tree's Makefile says, such as ``6.19.2``.

    Raises:
        UsageError: it is no kernel tree.
    """
    try:
        text = (tree / "Makefile").read_text(errors="replace")
    except OSError:
        text = ""
    fields = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(\S*)$", text, re.M))
    if not fields.get("VERSION") or not (tree / "Kconfig").is_file():
        raise UsageError(f"{tree}: not a kernel's source tree")
    numbers = [str(fields.get(name, "0")) for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    return ".".join(numbers) + str(fields.get("EXTRAVERSION", ""))


def archive_of(cache: store.Store, suites: tuple[str, ...]) -> Archive:
    """Return the private view of some suites; hold the lock ``apt`` to use it."""
    return Archive(cache.root / "apt" / "-".join(suites), suites)


def resolved_name(origin: DebianImage) -> str:
    """Return the name under which the packages of a binary kernel are remembered."""
    return f"{origin.image}-{origin.suites[0]}"


def load_resolved(cache: store.Store, name: str) -> Package | None:
    """Return the version of a package that was decided on, or None."""
    try:
        return Package(**json.loads(resolved_path(cache, name).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def resolved_path(cache: store.Store, name: str) -> Path:
    """Return the file that remembers which packages a name stands for."""
    return cache.root / "resolved" / f"{name}.json"


def _of_package(package: Package) -> Source:
    key = store.digest({"package": package.name, "sha256": package.sha256})
    return Source(package.sha256, key, package)


def _resolve(cache: store.Store, origin: DebianSource, progress: Progress) -> Package:
    """Return the newest version of the source package, remembered after the first time."""
    known = load_resolved(cache, origin.package)
    if known is not None and cache.find("source", _of_package(known).key):
        return known
    progress(f"asking Debian's archive for the newest {origin.package}", None)
    deadline = Deadline.after(FETCH_LIMIT_S)
    archive = archive_of(cache, origin.suites)
    with cache.lock("apt", deadline):
        archive.update(deadline)
        package = archive.resolve(origin.package, deadline)
    path = resolved_path(cache, origin.package)
    store.write_atomically(path, json.dumps(asdict(package)).encode())
    return package


def _fetch_package(
    cache: store.Store, origin: DebianSource, package: Package, into: Path, progress: Progress
) -> None:
    deadline = Deadline.after(FETCH_LIMIT_S)
    progress(f"fetching {package.name} {package.version} ({package.size_bytes >> 20} MiB)", None)
    with cache.lock("apt", deadline):
        deb = archive_of(cache, origin.suites).fetch(package, into, deadline)
    progress(f"unpacking {package.name} {package.version}", None)
    unpack(deb, into / "deb", deadline)
    deb.unlink()
    tarball = next((into / "deb" / "usr" / "src").glob("linux-source-*.tar.xz"))
    _untar(tarball, into / "linux", deadline)
    shutil.rmtree(into / "deb")


def _unpack_tarball(origin: Tarball, recipe: Recipe, into: Path, progress: Progress) -> None:
    deadline = Deadline.after(FETCH_LIMIT_S)
    if re.match(r"https?://", origin.url):
        archive = into / "archive"
        found = _download(origin.url, archive, progress, deadline)
    else:
        archive = recipe.file.parent / Path(origin.url.removeprefix("file://")).expanduser()
        if not archive.is_file():
            raise UsageError(f"{recipe.file}: url: {archive}: no such file")
        found = store.digest_file(archive)
    if found != origin.sha256:
        raise UsageError(
            f"{recipe.file}: sha256: {origin.url} has {found}, not {origin.sha256}",
            hint="nothing of it was unpacked; whoever publishes the archive says its checksum",
        )
    progress(f"unpacking {archive.name if archive.parent != into else origin.url}", None)
    try:
        _untar(archive, into / "linux", deadline)
    except CommandError as error:
        raise UsageError(
            f"{recipe.file}: url: {origin.url} cannot be unpacked", evidence=error.evidence
        ) from error
    (into / "archive").unlink(missing_ok=True)
    try:
        tree_version(into / "linux")
    except UsageError as error:
        raise UsageError(
            f"{recipe.file}: url: {origin.url} does not hold a kernel's source tree"
        ) from error


def _untar(archive: Path, into: Path, deadline: Deadline) -> None:
    into.mkdir()
    proc.run(
        ["tar", "-xf", str(archive), "-C", str(into), "--strip-components=1"], deadline=deadline
    )


def _download(url: str, into: Path, progress: Progress, deadline: Deadline) -> str:
    """Fetch a file; return its SHA-256. Proxies and certificates are the system's."""
    total = hashlib.sha256()
    what = f"fetching {url}"
    progress(what, None)
    try:
        with urllib.request.urlopen(url, timeout=_SILENCE_S) as answer, into.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            received = 0
            while chunk := answer.read(1 << 20):
                file.write(chunk)
                total.update(chunk)
                received += len(chunk)
                progress(f"{what} ({received >> 20} MiB)", received / size if size else None)
                if deadline.expired:
                    raise deadline.exceeded(f"{url} was not fetched")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise InfrastructureError(
            f"{url}: cannot be fetched: {getattr(error, 'reason', error)}",
            hint="`url` may be the path of a file, too",
        ) from error
    return total.hexdigest()
