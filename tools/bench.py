# SPDX-License-Identifier: GPL-2.0-only
"""How fast the parts are, as medians and ratios measured in one run.

``make bench``. Nothing here passes or fails: speed is shown, not asserted.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness import lab, scenario, scenario_compile, store
from harness.deadline import Deadline
from harness.guest import start_guest
from harness.kernels import DEFAULT_KERNEL, DEFAULT_PROFILE
from harness.machine import Lane
from harness.qemu import Qemu, start_qemu
from harness.report import ProgressLine
from harness.template import BOOT_LIMIT_S, Base, Template, scratch_folder, start_clone, wrap_input

SMALLEST = """
about: One system call, to see how soon a guest answers.
surfaces: [module]
lanes: {det: {bound_us: 1000000}, smp: {bound_us: 1000000}}
actors:
  - {name: one, repeat: 1, do: [{stat: /}]}
"""


def first_result(fifo: int, deadline: Deadline) -> None:
    """Wait until the executor has said what its actor did."""
    seen = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fifo, selectors.EVENT_READ)
        while b'"ev":"done"' not in seen:
            if not selector.select(deadline.remaining_s):
                raise deadline.exceeded("no result from the executor")
            seen += os.read(fifo, 1 << 16)


@contextmanager
def report_pipe(folder: Path) -> Iterator[int]:
    """Put a pipe where the report goes, so that its first byte is an event."""
    path = folder / "report"
    os.mkfifo(path)
    fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield fifo
    finally:
        os.close(fifo)


def boot(base: Base, program: bytes) -> float:
    """Return the seconds from starting QEMU to the first result of a booted guest."""
    with scratch_folder() as folder, report_pipe(folder) as fifo:
        (folder / "input").write_bytes(wrap_input(program))
        memory = folder / "memory"
        with memory.open("wb") as file:
            file.truncate(512 << 20)
        deadline = Deadline.after(BOOT_LIMIT_S)
        started = time.monotonic()
        machine = base.machine(folder, memory)
        with start_qemu(machine, report=f"file,path={folder / 'report'}") as qemu:
            qemu.wait_paused(deadline)
            qemu.qmp.command("cont", deadline)
            first_result(fifo, deadline)
            return time.monotonic() - started


def restore(template: Template, program: bytes) -> tuple[float, int]:
    """Return the seconds from starting QEMU to a clone's first result, and its private KiB."""
    with scratch_folder() as folder, report_pipe(folder) as fifo:
        started = time.monotonic()
        with start_clone(template, folder, wrap_input(program)) as qemu:
            first_result(fifo, Deadline.after(BOOT_LIMIT_S))
            taken = time.monotonic() - started
            return taken, private_kib(qemu)


def private_kib(qemu: Qemu) -> int:
    """Return the memory that a QEMU shares with nobody (proc(5), smaps_rollup)."""
    text = Path(f"/proc/{qemu.pid}/smaps_rollup").read_text()
    return sum(int(size) for size in re.findall(r"^Private_Dirty:\s+(\d+)", text, re.M))


def ssh_answer(made: lab.Lab, arguments: argparse.Namespace, lane: Lane) -> float:
    """Return the seconds from starting QEMU to the first answer over SSH."""
    template, keys = made.ssh(arguments.kernel, arguments.profile, lane)
    started = time.monotonic()
    with start_guest(template, keys) as guest:
        guest.run("true", deadline=Deadline.after(BOOT_LIMIT_S))
        return time.monotonic() - started


def trials_a_minute(
    made: lab.Lab, arguments: argparse.Namespace, lane: Lane, workers: int, trials: int
) -> float:
    """Return how many trials of the correct module are done in a minute."""
    subject = made.subject("kmods/poolfs", "good", arguments.kernel, arguments.profile, lane)
    plan = scenario.load_scenario(scenario.find_scenario("files-vs-rmmod"))
    ready = (made.trial(subject, plan, seed) for seed in range(trials))
    started = time.monotonic()
    done = sum(1 for _ in lab.run_trials(ready, workers, stop=lambda result: False))
    return 60 * done / (time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="how often each is measured")
    parser.add_argument("--trials", type=int, default=24, help="trials for each throughput")
    parser.add_argument("--kernel", default=DEFAULT_KERNEL)
    parser.add_argument("--profile", default=DEFAULT_PROFILE)
    arguments = parser.parse_args()
    out = Console()
    table = Table("what", "min", "median", "max", "ratio to boot")
    with ProgressLine() as progress:
        made = lab.Lab(store.Store.open(), progress)
        plan = scenario.parse_scenario(SMALLEST, "smallest.yaml")
        for lane in Lane:
            _latencies(made, arguments, lane, plan, table, progress)
        rates = Table("lane", *(f"{workers} workers" for workers in (1, 2, 8)))
        for lane in Lane:
            row = []
            for workers in (1, 2, 8):
                progress(f"throughput, {lane.value} lane, {workers} workers", None)
                rate = trials_a_minute(made, arguments, lane, workers, arguments.trials)
                row.append(f"{rate:.0f}")
            rates.add_row(lane.value, *row)
    out.print(table)
    out.print("trials a minute (poolfs, files-vs-rmmod):")
    out.print(rates)
    return 0


def _latencies(
    made: lab.Lab, arguments: argparse.Namespace, lane: Lane, plan: scenario.Scenario,
    table: Table, progress: ProgressLine,
) -> None:  # fmt: skip
    compiled = scenario_compile.compile_program(plan, seed=0, bindings={}, lane=lane.value)
    program = compiled.serialise()
    base = made.base(arguments.kernel, arguments.profile, lane)
    template = made.booted(arguments.kernel, arguments.profile, lane)
    ssh_answer(made, arguments, lane)
    boots, restores, memory, answers = [], [], [], []
    # In turn, so that a machine whose speed drifts does not favour one of them.
    for turn in count(1):
        if turn > arguments.times:
            break
        progress(f"latency, {lane.value} lane ({turn} of {arguments.times})", None)
        boots.append(boot(base, program))
        taken, private = restore(template, program)
        restores.append(taken)
        memory.append(private / 1024)
        answers.append(ssh_answer(made, arguments, lane))
    whole = statistics.median(boots)
    for what, values in (
        (f"{lane.value}: boot to first result, s", boots),
        (f"{lane.value}: restore to first result, s", restores),
        (f"{lane.value}: restore to first SSH answer, s", answers),
        (f"{lane.value}: private memory of a clone, MiB", memory),
    ):
        middle = statistics.median(values)
        ratio = "" if what.endswith("MiB") else f"{whole / middle:.1f}"
        table.add_row(what, f"{min(values):.2f}", f"{middle:.2f}", f"{max(values):.2f}", ratio)


if __name__ == "__main__":
    sys.exit(main())
