# SPDX-License-Identifier: GPL-2.0-only
"""One trial: restore, run the program, collect, judge. A value in, a value out."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness import symbolise, verdict
from harness.deadline import Deadline
from harness.errors import GuestError
from harness.machine import Lane, Trace
from harness.template import Template, scratch_folder, start_clone, wrap_input
from harness.verdict import Evidence, Finding, MemoryScan, Verdict

#: A trial may take this many boots of its kernel, and a fixed part on top: the
#: machine's own speed, not a constant, says when a guest is lost.
_LIMIT_BOOTS = 20
_LIMIT_FIXED_S = 60.0
#: Host time that a second of the guest's virtual clock may take when it is busy.
_SLOWDOWN = 20.0


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """Which trial: enough for a person to name it and for the harness to make it again."""

    module: str
    variant: str
    kernel: str
    profile: str
    lane: Lane
    scenario: str
    seed: int
    #: What was done that the scenario does not do: which task was stopped where, or
    #: what was made to fail; nothing in most trials.
    plan: str = ""
    #: By which method its tasks are scheduled; nothing for the kernel's own way.
    schedule: str = ""

    @property
    def label(self) -> str:
        """A name for files: letters, digits, dots and dashes."""
        words = (
            self.module, self.variant, self.kernel, self.profile, self.lane.value,
            self.scenario, f"seed{self.seed}", *filter(None, (self.plan, self.schedule)),
        )  # fmt: skip
        return re.sub(r"[^\w.]+", "-", "-".join(words))


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that is ready to run."""

    spec: TrialSpec
    template: Template
    #: The program's text, as the executor reads it.
    program: bytes
    #: Guest time after which the program is stopped, seconds.
    bound_s: float
    #: Module's name → its ``.ko`` with debug information.
    symbols: Mapping[str, Path]
    #: Look through the guest's memory at the end (``harness/memscan.py``).
    scan: bool = False
    #: Digest of what its modules were compiled from; empty where nobody knows.
    sources: str = ""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What became of a trial."""

    spec: TrialSpec
    verdict: Verdict
    findings: tuple[Finding, ...]
    evidence: Evidence
    lives: tuple[symbolise.ModuleLife, ...]
    wall_s: float


def run_trial(trial: Trial) -> TrialResult:
    """Run a trial in a clone of its template.

    Raises:
        GuestError: the guest left no evidence to judge.
        QemuError: QEMU did not start or restore.
    """
    started = time.monotonic()
    evidence = collect(trial)
    return judge(trial, evidence, time.monotonic() - started)


def judge(trial: Trial, evidence: Evidence, wall_s: float = 0.0) -> TrialResult:
    """Return what became of a trial, from what its guest left behind.

    Raises:
        GuestError: that is not enough to judge by.
    """
    lives = module_lives(evidence.report, trial.symbols)
    findings = verdict.judge(
        evidence,
        lambda module, at: symbolise.name_address(at, lives),
        detectors=trial.template.base.kernel.detectors,
        known=trial.template.base.kernel.known,
    )
    if trial.scan and evidence.memory is None and not findings:
        raise GuestError("memory was to be looked through, and no module was unloaded")
    return TrialResult(
        spec=trial.spec,
        verdict=Verdict.FAIL if findings else Verdict.PASS,
        findings=findings,
        evidence=evidence,
        lives=lives,
        wall_s=wall_s,
    )


def collect(trial: Trial, trace: Trace | None = None) -> Evidence:
    """Run a trial and return what the guest left behind, unjudged.

    Args:
        trace: a log of executed code to write, which takes a few times as long.
    """
    limit_s = time_limit_s(trial)
    with scratch_folder() as folder:
        content = wrap_input(trial.program)
        started = time.monotonic()
        with start_clone(
            trial.template, folder, content, trace=trace, keep_memory=trial.scan
        ) as qemu:
            restored = time.monotonic()
            status = qemu.wait_exit(Deadline.after(limit_s))
        evidence = Evidence(
            console=(folder / "console.log").read_bytes(),
            report=(folder / "report").read_bytes(),
            status=status,
            limit_s=limit_s,
            restore_s=restored - started,
        )
        if not trial.scan:
            return evidence
        return dataclasses.replace(evidence, memory=_scan(trial, evidence, folder / "memory"))


def _scan(trial: Trial, evidence: Evidence, memory: Path) -> MemoryScan | None:
    # Loading numpy and drgn takes longer than many a command does.
    from harness.memscan import scan

    lives = module_lives(evidence.report, trial.symbols)
    if evidence.status is None or not any(life.unloaded_us and life.base for life in lives):
        return None
    settled = any(event["ev"] == "end" for event in verdict.parse_report(evidence.report))
    return scan(memory, trial.template.base.kernel, lives, settled=settled)


def time_limit_s(trial: Trial) -> float:
    """Return how long a trial may take on this machine, seconds of host time."""
    waiting = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    own = _LIMIT_BOOTS * trial.template.boot_s + _SLOWDOWN * trial.bound_s
    return waiting * (_LIMIT_FIXED_S + own)


#: They go when init has ended, and others may come to lie there: layout_symtab() in
#: kernel/module/kallsyms.c puts them with the rest of what is only for loading.
_FOR_LOADING: Final = (".symtab", ".strtab")


def module_lives(report: bytes, symbols: Mapping[str, Path]) -> tuple[symbolise.ModuleLife, ...]:
    """Return where each module lay in each of its lives, from the executor's report.

    A module whose lives a panic kept from being reported gets one without a
    place: enough to find a source line by function and offset.
    """
    lives = [
        symbolise.ModuleLife(
            name=event["module"],
            ko=symbols[event["module"]],
            base=int(str(event["base"]), 0),
            size=int(event["size"]),
            load=int(event["number"]),
            unloaded_us=event.get("unloaded_us"),
            sections=tuple(
                (str(name), int(str(address), 0))
                for name, address in event.get("sections", {}).items()
                if name not in _FOR_LOADING
            ),
        )
        for event in verdict.parse_report(report)
        if event["ev"] == "life" and event["module"] in symbols
    ]
    lives += _lives_seen(report, symbols, {life.base for life in lives})
    known = {life.name for life in lives}
    lives += [
        symbolise.ModuleLife(name=name, ko=ko, base=0, size=0, load=1, unloaded_us=None)
        for name, ko in symbols.items()
        if name not in known
    ]
    return tuple(lives)


def _lives_seen(
    report: bytes, symbols: Mapping[str, Path], known: set[int]
) -> list[symbolise.ModuleLife]:
    """Return lives of which a panic left no record but that a task was found inside."""
    lives: dict[int, symbolise.ModuleLife] = {}
    for event in verdict.parse_report(report):
        if event["ev"] != "inside" or event["module"] not in symbols:
            continue
        base = int(str(event["base"]), 0)
        if base not in known:
            lives[base] = symbolise.ModuleLife(
                name=event["module"],
                ko=symbols[event["module"]],
                base=base,
                size=int(event["size"]),
                load=1,
                unloaded_us=0,
            )
    return list(lives.values())
