# SPDX-License-Identifier: GPL-2.0-only
"""Templates: a guest prepared once, stopped and saved, to be cloned for each trial.

Templates stack. The first one of a kernel boots; a further one is a clone of
it that got a payload (modules, set-up) and was stopped and saved again. No
input reaches a guest but the content of its fw_cfg item, and the agent in it
stops the machine itself, at one exact instruction; so in the ``det`` lane a
template is a function of its inputs too, and one that is made again elsewhere
gives the same trials.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness import proc, savedstate, store
from harness.deadline import Deadline
from harness.errors import DeadlineExceeded, GuestError, QemuError, UsageError
from harness.image import Image
from harness.kernels import Kernel
from harness.machine import ICOUNT_SHIFT, MEMORY_MIB, Accelerator, Debug, Lane, Machine, Trace
from harness.qemu import Qemu, start_qemu

#: Longest boot that is waited for: an emulated debug kernel on a busy, slow host.
BOOT_LIMIT_S = 900.0

#: What the fw_cfg item says when there is nothing in it.
NO_INPUT = b"0\n"

_KIND = "template"

#: How much of the host's time is in a saved guest; in each key.
_CLOCKS = "settled"

#: Room that all templates together may take by default, GiB. Most take less than
#: 0.2, and a second to make again.
_LIMIT_GIB = 12

#: Room that one can take, MiB: a guest's whole memory, and its devices.
_NEEDED_MIB = MEMORY_MIB + 64

Progress = Callable[[str, float | None], None]


def cache_limit_mib() -> int:
    """Return the room that templates may take together, from KMOD_HARNESS_TEMPLATES_GIB, MiB.

    Raises:
        UsageError: the variable holds no number, or too small a one.
    """
    text = os.environ.get("KMOD_HARNESS_TEMPLATES_GIB", str(_LIMIT_GIB))
    try:
        limit = int(float(text) * 1024)
    except (ValueError, OverflowError):
        limit = 0
    if limit < _NEEDED_MIB:
        raise UsageError(
            f"KMOD_HARNESS_TEMPLATES_GIB={text}: not a number of GiB from"
            f" {_NEEDED_MIB / 1024:.2g} on",
            hint=f"leave it unset for {_LIMIT_GIB}",
        )
    return limit


@dataclass(frozen=True, slots=True)
class Base:
    """What a guest is made of, whatever is done in it."""

    kernel: Kernel
    image: Image
    qemu: Path
    lane: Lane
    accelerator: Accelerator
    #: With the kernel's memory leak detector.
    leaks: bool = False
    #: For guests whose memory is looked through at the end.
    scan: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """Kernel arguments beside those of every guest."""
        # What somebody got and has not written is as its last owner left it, pointers and all.
        return (*self.kernel.arguments, "init_on_alloc=1") if self.scan else self.kernel.arguments

    def machine(
        self, folder: Path, memory: Path, *, share: bool = False, incoming: bool = False,
        ssh: bool = False, trace: Trace | None = None, debug: Debug | None = None,
    ) -> Machine:  # fmt: skip
        """Return the machine whose console and input lie in a folder."""
        return Machine(
            qemu=self.qemu,
            lane=self.lane,
            accelerator=self.accelerator,
            bzimage=self.kernel.bzimage,
            initrd=self.image.initrd,
            memory=memory,
            share_memory=share,
            console=folder / "console.log",
            input=folder / "input",
            leaks=self.leaks,
            incoming=incoming,
            ssh=ssh,
            trace=trace,
            debug=debug,
            arguments=self.arguments,
        )

    def qemu_arguments(self) -> str:
        """Return QEMU's command line, without the paths that say nothing about the guest."""
        return " ".join(_anonymous(self).argv(qmp_fd=0, report=""))

    def qemu_version(self) -> str:
        """Return the first line of what QEMU says of itself."""
        shown = proc.run([str(self.qemu), "--version"], deadline=Deadline.after(60)).stdout
        return shown.decode().splitlines()[0]


@dataclass(frozen=True, slots=True)
class Template:
    """A saved guest in the cache."""

    base: Base
    key: str
    #: Where it is; it is not removed from the cache while this object lives.
    held: store.Held = field(repr=False, compare=False)
    #: How long this machine took from starting QEMU to the agent's stop, seconds.
    #: The calibration from which a trial's limit follows.
    made_in_s: float
    #: How long the boot took that this template stands on, seconds.
    boot_s: float

    @property
    def path(self) -> Path:
        return self.held.path

    @property
    def memory(self) -> Path:
        return self.path / "memory"

    @property
    def state(self) -> Path:
        return self.path / "state"


def wrap_input(content: bytes) -> bytes:
    """Return the content of the fw_cfg item that carries a payload or a program."""
    return b"%d\n" % len(content) + content


def boot_template(
    cache: store.Store, base: Base, progress: Progress = lambda what, done: None
) -> Template:
    """Return the template of a freshly booted kernel.

    Raises:
        GuestError: the kernel did not reach the agent; carries the console's end.
        StorageError: the disk is full.
    """
    key = store.digest(
        {
            "kernel": base.kernel.key,
            "image": base.image.key,
            "qemu": f"{base.qemu_version()} {base.qemu.stat().st_size}",
            "lane": base.lane.value,
            "accelerator": base.accelerator.value,
            "machine": base.qemu_arguments(),
            "clocks": _CLOCKS,
        }
    )
    return _make(cache, key, base, None, NO_INPUT, progress, f"booting {base.kernel.release}")


def stack_template(
    cache: store.Store,
    below: Template,
    payload: bytes,
    progress: Progress = lambda what, done: None,
) -> Template:
    """Return the template that stands on another one and has a payload unpacked in it.

    The payload is a cpio archive (see :mod:`harness.cpio`). An executable
    ``payload/setup`` in it is run, and must exit with status 0.

    Raises:
        GuestError: the set-up failed; carries the console's end.
    """
    key = store.digest({"below": below.key, "payload": store.digest_bytes(payload)})
    return _make(
        cache, key, below.base, below, wrap_input(payload), progress, "preparing the guest"
    )


@contextlib.contextmanager
def start_clone(
    template: Template, folder: Path, content: bytes, *, ssh: bool = False,
    trace: Trace | None = None, debug: Debug | None = None, keep_memory: bool = False,
) -> Iterator[Qemu]:  # fmt: skip
    """Run a clone of a template for the length of a ``with`` block.

    Args:
        folder: where its console (``console.log``) and report (``report``) go.
        content: what the guest finds in its fw_cfg item.
        trace: a log of executed instructions to write.
        debug: how to look into it; one that a debugger is to attach to does not run yet.
        keep_memory: have the guest's memory in a file of its own (``memory``), which is
            there when the guest has ended; else what it writes is nowhere.
    """
    (folder / "input").write_bytes(content)
    memory = template.memory
    if keep_memory:
        memory = folder / "memory"
        with store.storage_errors(folder):
            copy_sparse(template.memory, memory)
    machine = template.base.machine(
        folder, memory, share=keep_memory, incoming=True, ssh=ssh, trace=trace, debug=debug
    )
    with start_qemu(machine, report=f"file,path={folder / 'report'}") as qemu:
        qemu.load(template.state, go=debug is None or debug.gdb is None)
        yield qemu


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for one guest's files; it is gone afterwards.

    Folders of harnesses that were killed are removed by the next one.
    """
    parent = Path(tempfile.gettempdir()) / f"kmod-harness-{os.getuid()}"
    parent.mkdir(mode=0o700, exist_ok=True)
    for stale in parent.iterdir():
        owner = stale.name.partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=parent) as name:
        yield Path(name)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _anonymous(base: Base) -> Machine:
    """Return the machine with the paths left out that say nothing about it."""
    nowhere = Path("-")
    return Machine(
        qemu=nowhere, lane=base.lane, accelerator=base.accelerator, bzimage=nowhere,
        initrd=nowhere, memory=nowhere, share_memory=True, console=nowhere, input=nowhere,
        leaks=base.leaks, arguments=base.arguments,
    )  # fmt: skip


def _make(
    cache: store.Store, key: str, base: Base, below: Template | None, content: bytes,
    progress: Progress, what: str,
) -> Template:  # fmt: skip
    def make(into: Path) -> None:
        progress(f"{what} ({base.lane.value} lane)", None)
        cache.make_room(
            _KIND,
            limit_mib=limit_mib,
            needed_mib=_NEEDED_MIB,
            deadline=Deadline.after(BOOT_LIMIT_S),
        )
        (into / "input").write_bytes(content)
        if below is None:
            with (into / "memory").open("wb") as file:
                file.truncate(MEMORY_MIB << 20)
        else:
            copy_sparse(below.memory, into / "memory")
        started = time.monotonic()
        _run_to_pause(base, into, below)
        made = time.monotonic() - started
        record = {"made_in_s": made, "boot_s": made if below is None else below.boot_s}
        (into / "template.json").write_text(json.dumps(record))
        store.note_made_from(into, kernel=base.kernel.key, image=base.image.key)

    limit_mib = cache_limit_mib()
    deadline = Deadline.after(2 * BOOT_LIMIT_S)
    held = cache.hold(
        _KIND, key, make, deadline=deadline, on_wait=lambda text: progress(text, None)
    )
    record = json.loads((held.path / "template.json").read_text())
    return Template(base, key, held, record["made_in_s"], record["boot_s"])


def _run_to_pause(base: Base, folder: Path, below: Template | None) -> None:
    """Run a guest until its agent stops it, then save it."""
    machine = base.machine(folder, folder / "memory", share=True, incoming=below is not None)
    with start_qemu(machine, report=f"file,path={folder / 'report'}") as qemu:
        try:
            if below is not None:
                qemu.load(below.state)
            qemu.wait_paused(Deadline.after(BOOT_LIMIT_S))
            _check_report(folder)
            qemu.save(folder / "state")
            qemu.quit()
        except (QemuError, DeadlineExceeded) as error:
            raise _lost(qemu, folder, error) from error
    if base.lane is Lane.DET:
        state = folder / "state"
        state.write_bytes(savedstate.settle_clocks(state.read_bytes(), shift=ICOUNT_SHIFT))


def _check_report(folder: Path) -> None:
    """Check that the agent stopped the guest because all went well."""
    for line in (folder / "report").read_text(errors="replace").splitlines():
        event = json.loads(line)
        if event["ev"] == "setup-failed":
            raise GuestError(
                f"the guest's set-up failed with status {event.get('status')}",
                evidence=console_tail(folder),
            )


def _lost(qemu: Qemu, folder: Path, error: Exception) -> Exception:
    """Return the exception that tells why a guest did not get as far as its agent."""
    status = qemu.wait_exit(Deadline.after(proc.GRACE_S))
    if status == -signal.SIGBUS:
        # The memory is a mapped file: a disk that fills up shows like this.
        return store.no_space(folder, needed_mib=MEMORY_MIB)
    said = qemu.errors()
    return GuestError(
        f"the guest did not reach its agent: {error}"
        + (f"; QEMU exited with status {status}" if status is not None else ""),
        evidence="\n".join(filter(None, [said, console_tail(folder)])),
        hint="`harness doctor` boots a known kernel and says what does not work",
    )


def console_tail(folder: Path, lines: int = 25) -> str:
    """Return the end of a guest's console as text."""
    try:
        return proc.tail((folder / "console.log").read_bytes(), lines)
    except FileNotFoundError:
        return "(no console)"


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file, leaving its holes holes (lseek(2), ``SEEK_DATA``)."""
    with source.open("rb") as reader, target.open("wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        writer.truncate(size)
        position = 0
        while position < size:
            try:
                begin = os.lseek(reader.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(reader.fileno(), begin, os.SEEK_HOLE)
            position = begin
            while position < end:
                position += os.copy_file_range(
                    reader.fileno(), writer.fileno(), end - position, position, position
                )
