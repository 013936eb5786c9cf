# SPDX-License-Identifier: GPL-2.0-only
"""From what a guest left behind to a verdict. Pure: bytes in, findings out.

A trial passes only on evidence: the program ran to its end, every errno was
allowed, the console holds no report, what was read back is what was written,
nothing is left after unload, and no task was inside the module when it went.
When the evidence itself is missing, that is an error and never a pass.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from harness import audit, growth, klog, program
from harness.errors import GuestError, NotLoadedError
from harness.machine import EXECUTOR_DONE

Event = dict[str, Any]

#: Names an address inside a module that was there once, or returns None.
Resolve = Callable[[str, int], str | None]


def resolve_nothing(module: str, address: int) -> str | None:
    """Know no address: for evidence without the module's symbols."""
    return None


class Verdict(enum.StrEnum):
    PASS = "pass"
    FAIL = "fail"


class Kind(enum.StrEnum):
    """What sort of thing is wrong."""

    SPLAT = "splat"
    RESIDUE = "residue"
    LEAK = "leak"
    ERRNO = "errno"
    DATA = "data"
    HANG = "hang"
    INSIDE = "inside"
    DIED = "died"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, under a name that is stable across kernels."""

    kind: Kind
    title: str
    #: The report, stack or numbers behind it, as text.
    detail: str = ""

    def __str__(self) -> str:
        return self.title


#: What the executor's own reading of stacks can make KASAN say, with two processors: the
#: unwinder looks at the registers of a task that has gone on meanwhile (unwind_next_frame()
#: in arch/x86/kernel/unwind_orc.c). A title and something in the text, as in ``known``.
_OF_READING_STACKS = (r"KASAN: [\w-]+ Read in unwind_next_frame", r"\bproc_pid_stack\+")

#: Guest time of a trial that ended in a panic at once.
_SHORT_TRIAL_US = 20_000


@dataclass(frozen=True, slots=True)
class MemoryScan:
    """What looking through a guest's memory gave (``harness/memscan.py``)."""

    findings: tuple[Finding, ...]
    #: Words that point to where a module was, live or not.
    words: int
    took_s: float
    #: What could not be looked at, and why.
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a guest left behind."""

    console: bytes
    #: The executor's report, JSON lines.
    report: bytes
    #: QEMU's exit status, or None when it had to be ended at the limit.
    status: int | None
    #: That limit, seconds.
    limit_s: float
    #: How long starting QEMU and restoring the guest took, seconds.
    restore_s: float = 0.0
    #: None where nobody looked, or where no module had gone.
    memory: MemoryScan | None = None


def has_stopped(report: bytes) -> bool:
    """Return whether a plan has stopped a task, by the executor's report.

    Raises:
        GuestError: a line that is complete is not an event.
    """
    return any(event["ev"] == "parked" for event in parse_report(report))


def parse_report(report: bytes) -> tuple[Event, ...]:
    """Return the executor's events; a line that was cut off by a panic is left out.

    Raises:
        GuestError: a line that is complete is not an event.
    """
    events = []
    lines = report.split(b"\n")
    for line in lines[:-1]:
        try:
            event = json.loads(line)
            event["ev"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            text = line[:200].decode(errors="backslashreplace")
            raise GuestError(f"the executor's report has a line that is none: {text}") from error
        events.append(event)
    return tuple(events)


def length_us(evidence: Evidence) -> int:
    """Return how long actors were at a module: until its last load or unload, microseconds.

    The program has a schedule, which says when they began. A guest that did not live to
    say it, and a module that was gone before, get the length of a short trial.
    """
    events = parse_report(evidence.report)
    begun = [int(event["at"]) for event in events if event["ev"] == "schedule" and event["begun"]]
    ends = [
        int(event[key])
        for event in events
        for key in ("loaded_us", "unloaded_us")
        if event["ev"] == "life" and key in event
    ]
    if not begun or not ends:
        return _SHORT_TRIAL_US
    return max(_SHORT_TRIAL_US, max(ends) - begun[0])


def judge(
    evidence: Evidence,
    resolve: Resolve = lambda module, address: None,
    *,
    detectors: Iterable[str] = (),
    known: Iterable[tuple[str, str]] = (),
) -> tuple[Finding, ...]:
    """Return everything that is wrong in a trial; nothing means that it passed.

    Args:
        detectors: what the kernel has; those that can tell must have been awake.
        known: reports of the kernel's own that are no findings: patterns of the
            whole title, and of something in the text.

    Raises:
        GuestError: the evidence is incomplete, so there is no verdict.
    """
    events = parse_report(evidence.report)
    by_name: dict[str, list[Event]] = {}
    for event in events:
        by_name.setdefault(event["ev"], []).append(event)
    splats = [*_splats(evidence.console, named_leaks="leak" in by_name)]
    patterns = (_OF_READING_STACKS, *known)
    findings = [finding for finding in splats if not _is_known(finding, patterns)]
    has_own = len(findings) < len(splats)
    findings += _inside(by_name.get("inside", ()), by_name.get("parked", ()), resolve)
    findings += _hangs(by_name.get("hang", ()))
    findings += _data(by_name.get("data", ()))
    findings += _errnos(by_name.get("unexpected", ()))
    findings += _leaks(by_name.get("leak", ()), resolve)
    findings += _residue(by_name.get("residue", ()), resolve)
    findings += [
        Finding(Kind.LEAK, f"{growth.TITLE}{name}", detail)
        for name, detail in growth.grown(evidence.console)
    ]
    if not findings and not has_own:
        findings += _taint(by_name.get("detectors", ()))
    if not findings:
        findings += _deaths(by_name.get("died", ()))
    if evidence.memory is not None:
        findings += evidence.memory.findings
    findings += _ending(evidence, by_name, findings)
    if not findings:
        # Lockdep reports once and then no more, whoever's the report was.
        _require_evidence(by_name, frozenset(detectors), lockdep_spoke=has_own)
    # What came first is what the rest may have come of, however often it came again.
    first: dict[str, Finding] = {}
    for finding in findings:
        first.setdefault(finding.title, finding)
    return tuple(first.values())


def _splats(console: bytes, *, named_leaks: bool) -> Iterable[Finding]:
    for report in klog.parse(console):
        # The kernel counts on the console what the executor has read in full.
        if report.signature == klog.LEAK_COUNT and named_leaks:
            continue
        text = console[report.start : report.end].decode(errors="backslashreplace")
        yield Finding(Kind.SPLAT, report.title, text)


def _inside(
    events: Iterable[Event], parked: Iterable[Event], resolve: Resolve
) -> Iterable[Finding]:
    points = {event.get("actor"): event for event in parked}
    for event in events:
        module, stack = event.get("module", ""), event.get("stack", "")
        addresses = [int(text, 16) for text in re.findall(r"0x([0-9a-f]{16})\b", stack)]
        point = points.get(event.get("actor"))
        if point is not None and stack == point.get("stack"):
            # The kernel prints a function's first address as the end of the one before.
            addresses.insert(0, int(str(point["ip"]), 0))
        where = next(filter(None, (resolve(module, address) for address in addresses)), None)
        if where is None:
            frame = re.search(rf"\] ([\w.$]+)\+0x\S+ \[{re.escape(module)}\]", stack)
            where = frame[1] if frame else None
        place = f" in {where.split('+')[0]}" if where else f" of {module or '?'}"
        yield Finding(Kind.INSIDE, f"unloaded under task{place}", _detail(event))


def _hangs(events: Iterable[Event]) -> Iterable[Finding]:
    for event in events:
        operation = event.get("op", "?").split(" ")[0]
        yield Finding(Kind.HANG, f"hang: {operation} did not return", _detail(event))


def _deaths(events: Iterable[Event]) -> Iterable[Finding]:
    """Name tasks that died of something that no report on the console explains."""
    for event in events:
        if not event.get("wanted"):
            operation = event.get("op", "?").split(" ")[0]
            title = f"died: {event.get('signal')} during {operation}"
            yield Finding(Kind.DIED, title, _detail(event))


def _data(events: Iterable[Event]) -> Iterable[Finding]:
    for event in events:
        operation = event.get("op", "read").split(" ")[0]
        yield Finding(Kind.DATA, f"lost data: {operation} returned other bytes", _detail(event))


def _errnos(events: Iterable[Event]) -> Iterable[Finding]:
    for event in events:
        operation = event.get("op", "?").split(" ")[0]
        title = f"errno: {operation} returned {event['errno']}"
        if (operation, event["errno"]) == ("delete_module", "ok"):
            title = "unloaded while in use: delete_module succeeded"
        yield Finding(Kind.ERRNO, title, _detail(event))


# A caller that lay in a module which is gone: the scan for leaks follows the unload.
_BARE_CALLER = re.compile(r"(?m)(?<=\] )0x([0-9a-f]{16})$")


def _leaks(events: Iterable[Event], resolve: Resolve) -> Iterable[Finding]:
    for event in events:
        text = _BARE_CALLER.sub(
            lambda match: resolve("", int(match[1], 16)) or match[0], event.get("text", "")
        )
        reports = klog.parse(text.encode())
        title = reports[0].title if reports else "memory leak"
        yield Finding(Kind.LEAK, title, text)


def _residue(events: Iterable[Event], resolve: Resolve) -> Iterable[Finding]:
    changes = [
        audit.Change(event["section"], event["sign"], _named(event, resolve)) for event in events
    ]
    for title in audit.residue(changes):
        yield Finding(Kind.RESIDUE, title)


def _named(event: Event, resolve: Resolve) -> str:
    """Return the line of an event, by a function's name where it ends with an address in one."""
    line: str = event["line"]
    before, space, last = line.rpartition(" ")
    if event["section"] not in audit.BY_ADDRESS or not re.fullmatch("0x[0-9a-f]+", last):
        return line
    where = resolve("", int(last, 16))
    return before + space + (where.split("+")[0] if where else "code that has gone")


#: Bits of /proc/sys/kernel/tainted that say that something went wrong
#: (Documentation/admin-guide/tainted-kernels.rst). What a module is by itself, such
#: as out of the tree, unsigned or proprietary, is none of them.
_TAINT: Final = {
    4: "machine check", 5: "bad page", 7: "oops or BUG", 9: "warning", 14: "soft lockup",
}  # fmt: skip


def _taint(events: Iterable[Event]) -> Iterable[Finding]:
    """Name what the kernel remembers, and the console does not tell."""
    for event in events:
        now, before = event.get("taint", -1), event.get("taint_before", -1)
        if now < 0 or before < 0:
            continue
        for bit, what in _TAINT.items():
            if now & ~before & 1 << bit:
                yield Finding(
                    Kind.SPLAT, f"tainted: {what} that the console does not show", _detail(event)
                )


def _ending(
    evidence: Evidence, events: dict[str, list[Event]], findings: list[Finding]
) -> Iterable[Finding]:
    """Yield what is wrong with the way the trial ended, beyond what was found."""
    if "bad-program" in events:
        bad = events["bad-program"][0]
        raise GuestError(f"the executor refused line {bad.get('line')}: {bad.get('why')}")
    if evidence.status is None:
        if not any(finding.kind in (Kind.SPLAT, Kind.HANG) for finding in findings):
            yield Finding(
                Kind.HANG,
                "hang: guest stopped answering",
                f"no end within {evidence.limit_s:.0f} s of host time",
            )
        return
    if "end" in events or findings:
        return
    tail = evidence.console[-2000:].decode(errors="backslashreplace")
    raise GuestError(
        f"the guest ended with QEMU's status {evidence.status} "
        f"(expected {EXECUTOR_DONE}) before its program did, and the console holds no report",
        evidence=tail,
    )


def _is_known(finding: Finding, known: Iterable[tuple[str, str]]) -> bool:
    return any(
        re.fullmatch(title, finding.title) and re.search(text, finding.detail)
        for title, text in known
    )


def _require_evidence(
    events: dict[str, list[Event]], detectors: frozenset[str], *, lockdep_spoke: bool
) -> None:
    """Refuse to pass a trial in which nothing was put to the test, or nobody looked."""
    for event in events.get("trouble", ()):
        raise GuestError(f"the executor had trouble: {event.get('what')} {event.get('errno', '')}")
    # A task that was stopped at an instruction of the module is proof enough of it.
    if "parked" not in events and not _loads(events):
        raise NotLoadedError("the module was never loaded: this trial shows nothing")
    for missing, what in (("audited", "residue was not looked for"), ("detectors", "no detectors")):
        # A plan whose unload was refused changed nothing, and ends its trial at once.
        if missing not in events and not (missing == "audited" and "refused" in events):
            raise GuestError(f"the executor's report is incomplete: {what}")
    if "truncated" in events:
        raise GuestError("the executor's report was cut off: it may have held a finding")
    for event in events.get("schedule", ()):
        if not event.get("over"):
            raise GuestError("the schedule was not carried out to its end")
    for event in events["detectors"]:
        # -1 stands for a kernel that does not say, because it has none.
        if event.get("lockdep") == -1 and "lockdep" in detectors:
            raise GuestError("lockdep did not answer, and the kernel has it")
        if event.get("lockdep") == 0 and not lockdep_spoke:
            raise GuestError("lockdep switched itself off without a report on the console")
        if "hung task" in detectors and event.get("hung_task", 1) <= 0:
            raise GuestError("the watch for hung tasks was switched off")
        if "fault injection" in detectors and not event.get("fault_injection", True):
            raise GuestError("fault injection is gone, and the kernel has it")
        if event.get("printk_lost", 0) > 0:
            raise GuestError(f"the kernel lost {event['printk_lost']} console messages")
    for event in events.get("leaks", ()):
        if not event.get("alive"):
            raise GuestError(f"kmemleak did not work: {event.get('errno', 'switched off')}")


def _loads(events: dict[str, list[Event]]) -> int:
    """Count the loads that the scenario asked for, not those of what its module needs."""
    loads: int = sum(event.get("loaded", 0) for event in events.get("loaded", ()))
    for event in events.get("errnos", ()):
        if event.get("op") == "finit_module" and event["where"].startswith(f"{program.NEEDS}["):
            loads -= event["counts"].get("ok", 0)
    return int(loads)


def _detail(event: Event) -> str:
    return "\n".join(f"{name}: {value}" for name, value in event.items() if name != "ev")
