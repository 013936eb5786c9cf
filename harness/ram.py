# SPDX-License-Identifier: GPL-2.0-only
"""A guest's memory as the file that QEMU kept it in: reading it, and which words point where.

An address of the guest's physical memory is an offset in the file, as long as the guest has
less memory than fits below the hole for devices (2 GiB on q35, QEMU, hw/i386/pc_q35.c).
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.errors import GuestError

#: Read at a time, bytes: what a processor's caches hold.
_CHUNK: Final = 1 << 22
_WORD: Final = 8

_Words = npt.NDArray[np.uint64]
_Mask = npt.NDArray[np.bool_]


class Ram:
    """The memory of a guest that runs no more. Made by :func:`open_ram`."""

    def __init__(self, fd: int, data: mmap.mmap) -> None:
        self._fd = fd
        self._data = data
        self.size = len(data)

    def read(self, address: int, count: int) -> bytes:
        """Return some bytes of physical memory; what lies behind its end is left out."""
        return self._data[address : address + count]

    def words_between(self, low: int, high: int) -> list[tuple[int, int]]:
        """Return where words lie whose value is in ``low..high-1``: address and value of each.

        Words are 8 bytes and aligned, as compilers lay out pointers.
        """
        first, span = np.uint64(low), np.uint64(high - low)
        # One comparison for two: what is below becomes very large.
        return self._words_where(lambda words: words - first < span)

    def words_equal(self, values: frozenset[int]) -> list[tuple[int, int]]:
        """Return where words lie that have one of some values."""
        if not values:
            return []
        wanted = np.array(sorted(values), dtype="<u8")
        return self._words_where(lambda words: np.isin(words, wanted))

    def vmcoreinfo(self, release: str) -> bytes:
        """Return what the kernel left for debuggers (Documentation/admin-guide/kdump/vmcoreinfo).

        Raises:
            GuestError: there is none.
        """
        begin = f"OSRELEASE={release}\n".encode()
        at = self._data.find(begin)
        while at >= 0:
            text = self._data[at : self._data.find(b"\0", at, at + (1 << 14))]
            # Others print the release, too.
            if b"\nSYMBOL(swapper_pg_dir)=" in text:
                return text
            at = self._data.find(begin, at + 1)
        raise GuestError(
            f"the guest's memory holds no VMCOREINFO of kernel {release}",
            hint="memory is looked through in kernels with CONFIG_VMCORE_INFO or CONFIG_KEXEC",
        )

    def _words_where(self, matches: Callable[[_Words], _Mask]) -> list[tuple[int, int]]:
        return [
            (at + int(index) * _WORD, int(words[index]))
            for at, words in self._chunks()
            for index in np.flatnonzero(matches(words))
        ]

    def _chunks(self) -> Iterator[tuple[int, _Words]]:
        buffer = bytearray(_CHUNK)
        view = memoryview(buffer)
        for begin, end in self._extents():
            for at in range(begin, end, _CHUNK):
                count = os.preadv(self._fd, [view[: min(_CHUNK, end - at)]], at)
                yield at, np.frombuffer(buffer, dtype="<u8", count=count // _WORD)

    def _extents(self) -> Iterator[tuple[int, int]]:
        """Yield the parts of the file that are no holes: what the guest never wrote is zero."""
        end = 0
        while end < self.size:
            try:
                begin = os.lseek(self._fd, end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(self._fd, begin, os.SEEK_HOLE)
            yield begin - begin % _WORD, end


@contextlib.contextmanager
def open_ram(path: Path) -> Iterator[Ram]:
    """Open a guest's memory for the length of a ``with`` block.

    Raises:
        GuestError: there is no such file, or nothing in it.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise GuestError(f"{path}: the guest's memory is not there: {error}") from error
        stack.enter_context(data)
        yield Ram(file.fileno(), data)
