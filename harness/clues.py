# SPDX-License-Identifier: GPL-2.0-only
"""Which scenarios are likely to come to the functions that a kernel's report names. Pure.

A stack says in which system call a task was, or which part of the kernel made it come to the
module; and functions of a module are named after what they are for. A scenario's operations are
system calls. What both have is a clue. A clue that every scenario has says nothing; the fewer have
it, the more it says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from harness import klog
from harness.klogframes import strip_suffix
from harness.ops import OPS
from harness.scenario import Scenario, Step, steps_of

_FRAME: Final = re.compile(
    r"(?P<weak>\? )?(?P<name>[A-Za-z_][\w.$]*)\+0x[0-9a-f]+/0x[0-9a-f]+(?P<module> \[\w+)?"
)
#: Of a title: ``KASAN: use-after-free Read in foo_read``.
_TITLE: Final = re.compile(r" in (?P<name>[A-Za-z_]\w*)$")

_READ: Final = ("read", "pread", "pread_hole", "read_file", "await_line")
_WRITE: Final = ("write", "pwrite", "write_file")
_OPEN: Final = ("open", "write_file", "read_file")
_UMOUNT: Final = ("umount", "umount_all")
_INTERFACE: Final = ("ifup", "ifdown")

#: How the kernel calls its system calls: ``__x64_sys_read``, ``ksys_read``, ``vfs_read``.
_CALL: Final = re.compile(
    r"(?:__(?:x64|ia32|arm64|riscv|s390x|se|do)_(?:compat_)?sys|k?sys|__sys|vfs)_(?P<name>\w+)"
)
#: System calls whose name is no op's.
_CALLS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("open", "openat", "openat2", "creat"), _OPEN),
    **dict.fromkeys(("read", "readv", "pread64", "preadv", "iter_read"), _READ),
    **dict.fromkeys(("write", "writev", "pwrite64", "pwritev", "iter_write"), _WRITE),
    **dict.fromkeys(("newstat", "newfstatat", "newlstat", "statx", "getattr"), ("stat",)),
    **dict.fromkeys(("getdents", "getdents64"), ("readdir",)),
    **dict.fromkeys(("mkdirat",), ("mkdir",)),
    **dict.fromkeys(("unlinkat",), ("unlink", "rmdir")),
    **dict.fromkeys(("renameat", "renameat2"), ("rename",)),
    **dict.fromkeys(("umount", "oldumount"), _UMOUNT),
    **dict.fromkeys(("execve", "execveat"), ("exec",)),
    **dict.fromkeys(("sendto", "sendmsg"), ("send",)),
    **dict.fromkeys(("recvfrom", "recvmsg"), ("recv",)),
    **dict.fromkeys(("ppoll",), ("poll",)),
    **dict.fromkeys(("init_module",), ("finit_module",)),
    **dict.fromkeys(("ioctl",), ("ioctl", *_INTERFACE)),
}
#: Other functions of the kernel by which one comes into a module; reports are often cut off before
#: the system call itself.
_INSIDE: Final = tuple(
    (re.compile(pattern), ops)
    for pattern, ops in (
        (r"do_init_module|load_module|do_one_initcall", ("finit_module",)),
        (r"free_module", ("delete_module",)),
        (r"do_filp_open|path_openat|chrdev_open|misc_open", _OPEN),
        (r"_*fput|filp_close|task_work_run", ("close",)),
        (r"(?:kernfs_fop|sysfs_kf|proc_reg|seq|configfs|new_sync|full_proxy)_read\w*", _READ),
        (r"(?:kernfs_fop|sysfs_kf|proc_reg|configfs|new_sync|full_proxy)_write\w*", _WRITE),
        (r"iterate_dir", ("readdir",)),
        (r"do_unlinkat", ("unlink",)),
        (r"path_mount|do_new_mount|vfs_get_tree|get_tree_\w+", ("mount",)),
        (r"cleanup_mnt|deactivate_(?:locked_)?super|generic_shutdown_super|do_umount", _UMOUNT),
        (r"handle_mm_fault|__do_fault|do_wp_page", ("touch",)),
        (r"mmap_region|call_mmap", ("mmap",)),
        (r"exit_mmap|unmap_vmas|remove_vma", ("munmap",)),
        (r"(?:udp|raw|inet|sock)_send\w*|ip_send_skb|ip_local_out", ("send",)),
        (r"(?:udp|raw|inet|sock)_recv\w*", ("recv",)),
        (r"_*dev_open", ("ifup",)),
        (r"_*dev_close\w*", ("ifdown",)),
        (r"_*dev_change_flags|devinet_ioctl", _INTERFACE),
        (r"do_exit|do_group_exit", ("kill",)),
    )
)
#: What functions of modules are called that an op leads to, where it is not called so itself.
_MEANT: Final[Mapping[str, tuple[str, ...]]] = {
    "read": _READ,
    "show": _READ,
    "write": _WRITE,
    "store": _WRITE,
    "release": ("close",),
    "iterate": ("readdir",),
    "fault": ("touch",),
    "xmit": ("send",),
    "init": ("finit_module",),
    "exit": ("delete_module",),
}
#: Shorter words are too often part of others, letters.
_MIN_WORD: Final = 4


@dataclass(frozen=True, slots=True)
class Clues:
    """What a report says of who was at work."""

    #: Names of ops that lead to functions of its stacks.
    ops: frozenset[str]
    #: Words in the names of the module's functions.
    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class Likely:
    """A scenario, and what makes it likely that it comes to a report's functions."""

    workload: Scenario
    #: Clues that it has and others have not, those first that the fewest have.
    because: tuple[str, ...]


def read_clues(title: str, text: str) -> Clues:
    """Return the clues in a report.

    Args:
        title: as syzbot names it; may be all that there is.
        text: of the kernel's report; of several in it the first that matters counts.
    """
    reports = klog.parse(text.encode())
    if reports:
        text = text.encode()[reports[0].start : reports[0].end].decode()
    frames = [match for match in _FRAME.finditer(text) if not match["weak"]]
    everybody = {strip_suffix(match["name"]) for match in frames}
    own = {strip_suffix(match["name"]) for match in frames if match["module"]}
    if (named := _TITLE.search(title)) and named["name"] not in everybody:
        # Of a function with a frame it is known whose it is.
        own.add(named["name"])
    words = {word for name in own for word in name.lower().split("_")}
    ops = {op for name in everybody for op in _ops_of(name)}
    ops |= {op for word in words for op in _MEANT.get(word, (word,)) if op in OPS}
    return Clues(frozenset(ops), frozenset(word for word in words if len(word) >= _MIN_WORD))


def _ops_of(function: str) -> Iterator[str]:
    """Yield the ops that lead to a function of the kernel."""
    if call := _CALL.fullmatch(function):
        name = call["name"]
        yield from _CALLS.get(name, (name,) if name in OPS else ())
    for pattern, ops in _INSIDE:
        if pattern.fullmatch(function):
            yield from ops


def sort_workloads(workloads: Sequence[Scenario], clues: Clues) -> tuple[Likely, ...]:
    """Return scenarios in the order in which they are worth trying, of equals as they came."""
    found = [_found(workload, clues) for workload in workloads]
    holders = {clue: sum(clue in one for one in found) for one in found for clue in one}
    telling = {clue: 1 / count for clue, count in holders.items() if count < len(workloads)}
    likely = [
        Likely(
            workload, tuple(sorted(one & telling.keys(), key=lambda clue: (-telling[clue], clue)))
        )
        for workload, one in zip(workloads, found, strict=True)
    ]
    return tuple(sorted(likely, key=lambda one: -sum(telling[clue] for clue in one.because)))


def _found(workload: Scenario, clues: Clues) -> set[str]:
    """Return the clues that a scenario has."""
    steps = [step for step in steps_of(workload) if isinstance(step, Step)]
    texts = [workload.name, *(actor.name for actor in workload.actors)]
    texts += [arg for step in steps for arg in step.args if isinstance(arg, str)]
    words = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    return {step.spec.name for step in steps} & clues.ops | {
        clue for clue in clues.words if any(_is_like(clue, word) for word in words)
    }


def _is_like(one: str, other: str) -> bool:
    """Whether two words are the same but for one end, as ``packet`` and ``packets``."""
    shorter, longer = sorted((one, other), key=len)
    # What a word ends with is more often nothing of its own: ``unload`` and ``load``.
    return (len(shorter) >= _MIN_WORD and longer.startswith(shorter)) or (
        len(shorter) > _MIN_WORD and longer.endswith(shorter)
    )
