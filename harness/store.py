# SPDX-License-Identifier: GPL-2.0-only
"""The content-addressed cache: one folder per artefact, published whole or not at all.

An artefact's name is the digest of everything that went into it. It is made in
a staging folder beside its final place while a lock is held, and renamed when
it is complete, so whoever finds the final folder may trust it. A lock is
``flock(2)``: the kernel drops it when its holder dies, however that happens. A
staging folder whose lock is free was left by somebody who was killed, and is
removed by the next one who looks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import filelock
import platformdirs

from harness.deadline import Deadline
from harness.errors import StorageError, UsageError

logger = logging.getLogger(__name__)

_STAGING = ".staging-"
_LOCKS = "locks"
_MADE_FROM = "made_from.json"


def digest(inputs: Mapping[str, object]) -> str:
    """Return the name of the artefact that these inputs make, 16 hex digits.

    Args:
        inputs: anything that JSON has a form for.
    """
    text = json.dumps(dict(inputs), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_bytes(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_tree(root: Path, *, suffixes: tuple[str, ...] = ()) -> str:
    """Return a SHA-256 over names and contents of all files below a folder, in hex."""
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and (not suffixes or path.name.endswith(suffixes)):
            total.update(f"{path.relative_to(root)}\0{digest_file(path)}\n".encode())
    return total.hexdigest()


@contextlib.contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turn a full disk or a refused write into a message about the folder.

    Raises:
        StorageError: for ENOSPC, EDQUOT, EROFS, EACCES and EPERM.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(where) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StorageError(
                f"{where}: cannot be written: {os.strerror(error.errno)}",
                hint="set KMOD_HARNESS_CACHE to a folder that can be written",
            ) from error
        raise


def no_space(where: Path, *, needed_mib: int | None = None) -> StorageError:
    """Return the exception that says how much room there is, and how much is needed."""
    needed = "" if needed_mib is None else f", {needed_mib} MiB needed"
    return StorageError(
        f"{where}: no space left on the disk ({free_mib(where)} MiB free{needed})",
        hint="free some space, or set KMOD_HARNESS_CACHE to a folder on another disk",
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees all of it or the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def free_mib(path: Path) -> int:
    """Return the space that is free on the disk that holds a folder, in MiB."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free >> 20


def size_mib(path: Path) -> int:
    """Return the room that a folder's files take on the disk, in MiB; holes take none."""
    total = 0
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.lstat().st_blocks * 512
    return total >> 20


def note_made_from(path: Path, **keys: str) -> None:
    """Write down beside an artefact which others it was made from."""
    (path / _MADE_FROM).write_text(json.dumps(keys))


def made_from(path: Path) -> dict[str, str]:
    """Return which artefacts one was made from, by kind; nothing where that is not known."""
    try:
        keys = json.loads((path / _MADE_FROM).read_text())
    except (OSError, ValueError):
        return {}
    return {str(kind): str(key) for kind, key in keys.items()}


class Held:
    """An artefact that nobody removes as long as this object lives, or its process.

    The claim is a shared ``flock(2)`` on the artefact's folder.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        weakref.finalize(self, os.close, fd)

    @classmethod
    def claim(cls, path: Path) -> Held | None:
        """Claim an artefact; None when it has been removed meanwhile."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        held = cls(path, fd)
        # Whoever removes it does not keep its lock for long.
        fcntl.flock(fd, fcntl.LOCK_SH)
        try:
            same = os.path.samestat(os.fstat(fd), path.stat())
        except FileNotFoundError:
            same = False
        return held if same else None


class Store:
    """The cache folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._used: dict[Path, Held] = {}

    @classmethod
    def open(cls, root: Path | None = None) -> Store:
        """Open the cache, making it when it is new.

        The place is ``root``, else ``$KMOD_HARNESS_CACHE``, else the XDG cache folder.

        Raises:
            StorageError: it cannot be made or written.
        """
        if root is None:
            named = os.environ.get("KMOD_HARNESS_CACHE")
            root = Path(named) if named else platformdirs.user_cache_path("kmod-harness")
        root = root.absolute()
        if root.exists() and not root.is_dir():
            raise UsageError(f"{root}: not a folder", hint="set KMOD_HARNESS_CACHE to one")
        with storage_errors(root):
            try:
                (root / _LOCKS).mkdir(parents=True, exist_ok=True)
            except NotADirectoryError as error:
                raise UsageError(f"{root}: a parent of it is not a folder") from error
            if not os.access(root, os.W_OK) or not os.access(root / _LOCKS, os.W_OK):
                raise PermissionError(errno.EACCES, "not writable", str(root))
        store = cls(root)
        store.sweep()
        return store

    def find(self, kind: str, key: str) -> Path | None:
        """Return the folder of a finished artefact, or None."""
        path = self.root / kind / key
        return path if path.is_dir() else None

    @contextlib.contextmanager
    def lock(
        self, name: str, deadline: Deadline, on_wait: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        """Hold a lock that no other process holds.

        Args:
            name: what is locked; becomes part of a file name.
            deadline: how long to wait for another holder.
            on_wait: called once with a sentence when there is one.

        Raises:
            DeadlineExceeded: another holder did not let go in time.
        """
        path = self.root / _LOCKS / (name.replace("/", "-") + ".lock")
        lock = filelock.FileLock(path)
        with storage_errors(self.root):
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                if on_wait is not None:
                    on_wait(f"waiting for another harness that is making {name}")
                try:
                    lock.acquire(timeout=deadline.remaining_s)
                except filelock.Timeout:
                    raise deadline.exceeded(
                        f"{path}: another harness did not let go of this lock"
                    ) from None
        try:
            yield
        finally:
            lock.release()

    def build(
        self,
        kind: str,
        key: str,
        make: Callable[[Path], None],
        *,
        deadline: Deadline,
        on_wait: Callable[[str], None] | None = None,
    ) -> Path:
        """Return the folder of an artefact, making it when it is not there.

        However many processes ask, ``make`` runs in one of them. It is given an
        empty folder to fill; when it raises, nothing is left.

        Raises:
            StorageError: the disk is full or cannot be written.
            DeadlineExceeded: another process did not finish it in time.
        """
        found = self.find(kind, key)
        if found is not None:
            return found
        with self.lock(f"{kind}-{key}", deadline, on_wait), storage_errors(self.root):
            found = self.find(kind, key)
            if found is not None:
                return found
            staging = self.root / kind / f"{_STAGING}{key}"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            try:
                make(staging)
                staging.rename(self.root / kind / key)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        return self.root / kind / key

    def hold(
        self,
        kind: str,
        key: str,
        make: Callable[[Path], None],
        *,
        deadline: Deadline,
        on_wait: Callable[[str], None] | None = None,
    ) -> Held:
        """Like :meth:`build`, for artefacts that :meth:`make_room` removes.

        It counts as a use, and nothing removes the artefact while the returned
        object lives.
        """
        while True:
            path = self.build(kind, key, make, deadline=deadline, on_wait=on_wait)
            held = Held.claim(path)
            if held is not None:
                os.utime(path)
                return held

    def make_room(self, kind: str, *, limit_mib: int, needed_mib: int, deadline: Deadline) -> None:
        """Remove artefacts of a kind, those first that were used longest ago.

        It stops when ``needed_mib`` more would fit into ``limit_mib`` for all of
        the kind together, and onto the disk; or when all that is left is held.

        Raises:
            StorageError: the disk has no room for what is needed even so.
        """
        folder = self.root / kind
        with self.lock(f"room-{kind}", deadline):
            made = []
            for path in folder.glob("[!.]*"):
                with contextlib.suppress(FileNotFoundError):
                    made.append((path.stat().st_mtime, path))
            sizes = {path: size_mib(path) for _, path in made}
            used = sum(sizes.values())
            for _, path in sorted(made):
                if used + needed_mib <= limit_mib and free_mib(folder) >= needed_mib:
                    break
                if self.remove(kind, path.name):
                    used -= sizes[path]
        if free_mib(folder) < needed_mib:
            raise no_space(folder, needed_mib=needed_mib)

    def is_being_made(self, kind: str, key: str) -> bool:
        """Return whether somebody is making an artefact at this moment."""
        lock = filelock.FileLock(self.root / _LOCKS / f"{kind}-{key}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        lock.release()
        return False

    def use(self, path: Path) -> None:
        """Count a use of an artefact, and keep it from being removed as long as this cache is open.

        Raises:
            StorageError: it was removed since it was found.
        """
        if path in self._used:
            return
        held = Held.claim(path)
        if held is None:
            raise StorageError(
                f"{path}: was removed by another harness just now", hint="run this once more"
            )
        self._used[path] = held
        os.utime(path)

    def remove(self, kind: str, key: str, path: Path | None = None) -> bool:
        """Remove an artefact that nobody holds or makes; say whether it is gone.

        Args:
            path: a folder beside it that belongs to it, to be removed in its place.
        """
        path = path or self.root / kind / key
        lock = filelock.FileLock(self.root / _LOCKS / f"{kind}-{key}.lock")
        with contextlib.ExitStack() as claims:
            try:
                claims.enter_context(lock.acquire(timeout=0))
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                claims.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (filelock.Timeout, FileNotFoundError, BlockingIOError):
                return False
            # Renamed first: who is killed now leaves a staging folder to be swept.
            staging = path.with_name(f"{_STAGING}{key}")
            path.rename(staging)
            logger.info("removing %s", path)
            shutil.rmtree(staging, ignore_errors=True)
        return True

    def sweep(self) -> None:
        """Remove staging folders whose makers were killed."""
        for staging in self.root.glob(f"*/{_STAGING}*"):
            kind, key = staging.parent.name, staging.name.removeprefix(_STAGING)
            lock = filelock.FileLock(self.root / _LOCKS / f"{kind}-{key}.lock")
            try:
                lock.acquire(timeout=0)
            except (filelock.Timeout, OSError):
                continue
            try:
                logger.info("removing %s: its maker was killed", staging)
                shutil.rmtree(staging, ignore_errors=True)
            finally:
                lock.release()
