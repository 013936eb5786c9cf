# SPDX-License-Identifier: GPL-2.0-only
"""What grows with each life of a module: objects of slab caches, per-CPU memory, pages.

kmemleak finds memory that nothing points to. What is still pointed to, and what comes from the
page allocator, it does not find: that only shows as more and more of it. So the guest counts what
there is after several lives, and again, and once more, and what has grown both times by as much as
one a life is a finding.

What has been freed must not count. KASAN keeps freed objects in a quarantine, where they look
allocated; shrinking a cache takes its own out of it (``kmem_cache_shrink()`` calls
``kasan_cache_shrink()``, mm/slab_common.c), and leaves counts that are exact.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Final

#: Lives between two counts.
LIVES: Final = 8
#: Lives before the first count are those in which caches fill and tables reach their size.
COUNTS: Final = 3

_MARK: Final = "kmod-harness-count"
_LINE: Final = re.compile(rf"{_MARK} (\d+) (.+)".encode())
#: They follow what else is allocated: kmemleak has an object for each.
_FOLLOWS: Final = re.compile(r"kmemleak_.*")
#: How the title of a finding begins.
TITLE: Final = "grows: "

_PAGES: Final = "pages"
_PERCPU: Final = "pages of per-CPU memory"
#: Lines to /dev/kmsg hold 992 bytes at most (LOG_LINE_MAX, kernel/printk/printk.c).
_CACHES_A_LINE: Final = 20


def is_growth(title: str) -> bool:
    """Whether a finding is that something grows."""
    return title.startswith(TITLE)


def count_step(lives: int = LIVES) -> dict[str, object]:
    """Return the step of a scenario that counts, each time that so many lives are over.

    Between the shrinking and the reading the shell starts nobody: a cache from which somebody
    allocates gets a slab at hand, all of whose objects are said to be in use. For the same reason
    all files have been opened once before the caches are shrunk for the last time, and the
    counts' own is open.
    """
    script = "; ".join(
        (
            "n=$(($(cat /tmp/lives 2>/dev/null || echo 0) + 1))",
            "echo $n > /tmp/lives",
            # The first time, which does not count, throws out what the guest's start has left.
            f"[ $n = 1 ] || [ $((n % {lives})) = 0 ] || exit 0",
            # A message in ten would be dropped.
            "echo on > /proc/sys/kernel/printk_devkmsg",
            "echo 3 > /proc/sys/vm/drop_caches",
            "exec 3< /proc/slabinfo",
            # Twice: what the first frees by RCU is in a quarantine only then.
            "for i in 1 2; do sleep 0.05; "
            "for f in /sys/kernel/slab/*/shrink; do echo 1 > $f; done; done",
            'i=0; t=""',
            "while read -r name used rest; do i=$((i + 1))",
            '[ $i -gt 2 ] && t="$t $name $used"',
            f'[ $((i % {_CACHES_A_LINE})) = 0 ] && t="$t\n"',
            "done <&3",
            # Free are those of each zone and those that a processor keeps at hand, which
            # MemFree leaves out; what is not yet added up is added up first.
            "cat /proc/sys/vm/stat_refresh",
            '{ echo -e "$t"',
            "awk '/^Percpu:/ { printf \"Percpu: %d \", $2 / 4 }' /proc/meminfo",
            'awk \'/pages free/ { n += $3 } $1 == "count:" { n += $2 } '
            'END { print "free: " n }\' /proc/zoneinfo; } | '
            f'while read -r l; do echo "{_MARK} $n $l" > /dev/kmsg; done',
        )
    )
    # In a scenario $ begins a name.
    return {"exec": {"program": "/bin/busybox", "args": ["sh", "-c", script.replace("$", "$$")]}}


def read_counts(console: bytes) -> tuple[tuple[int, Mapping[str, int]], ...]:
    """Return each count on a console: after how many lives, and how much there was of what."""
    counts: dict[int, dict[str, int]] = {}
    # Bytes: every trial's console is looked through, and hardly any has a count.
    for match in _LINE.finditer(console):
        words = match[2].decode(errors="replace").split()
        counts.setdefault(int(match[1]), {}).update(
            {name: int(number) for name, number in zip(words[::2], words[1::2], strict=False)}
        )
    return tuple((lives, _named(counts[lives])) for lives in sorted(counts) if lives > 1)


def _named(count: Mapping[str, int]) -> Mapping[str, int]:
    """Free memory is turned into what is in use, so that everything grows the same way."""
    named = {name: number for name, number in count.items() if not _FOLLOWS.fullmatch(name)}
    free, percpu = named.pop("free:", None), named.pop("Percpu:", None)
    if free is not None:
        named[_PAGES] = -free
    if percpu is not None:
        named[_PERCPU] = percpu
    return named


def grown(console: bytes) -> tuple[tuple[str, str], ...]:
    """Return what has grown from each count to the next by one a life at least, and by how much.

    Nothing is said where the guest has not counted often enough: see read_counts.
    """
    counts = read_counts(console)
    if len(counts) < COUNTS:
        return ()
    (_, last), found = counts[-1], []
    for name in last:
        steps = [
            (later[name] - sooner[name], end - start)
            for (start, sooner), (end, later) in itertools.pairwise(counts)
            if name in sooner and name in later
        ]
        if len(steps) == len(counts) - 1 and all(step >= lives for step, lives in steps):
            text = ", ".join(f"{step:+d} in {lives} lives" for step, lives in steps)
            found.append((name, text))
    return tuple(found)
