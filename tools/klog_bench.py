#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Time harness.klog on a long log: harmless lines with reports among them.

usage: klog_bench.py [--megabytes N] [--reports N] [--hostile] [LOG ...]

The reports come from the given logs, by default those of tests/data/klog. Prints processor
seconds, peak memory and the number of reports found; exit status 1 when it took more than 5 s or
300 MB per 100 MB. --hostile shows instead that time grows in proportion to length on input made to
hurt: no newlines, headers in every line, reports that do not end.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.klog import parse

DATA = Path(__file__).resolve().parent.parent / "tests/data/klog"
LIMIT_S, LIMIT_MB = 5.0, 300.0
HARMLESS = (
    "systemd[1]: Started Session {n} of user root.",
    "audit: type=1400 audit(1486238739.637:{n}): avc:  denied  {{ write }} for  pid=10020",
    "EXT4-fs (sda1): mounted filesystem with ordered data mode. Opts: (null) {n}",
    "usb 1-1: new high-speed USB device number {n} using xhci_hcd",
    "IPv6: ADDRCONF(NETDEV_CHANGE): eth{n}: link becomes ready",
    "INFO: lockdep is turned off. {n}",
    "e1000: eth0 NIC Link is Up 1000 Mbps Full Duplex, Flow Control: RX {n}",
)
HEADER = b"[    1.000000][ T1] BUG: KASAN: use-after-free in foo+0x1/0x2\n"
# What follows a header, for 50 kB.
HOSTILE = {
    "no newline": b"A",
    "brackets": b"[<[<[<[<[<[<[ ] ? ? ? ",
    "headers": HEADER,
    "contexts": b"".join(HEADER.replace(b"T1", b"T%d" % n) for n in range(100)),
    "frames": b"[    1.000000]  foo+0x1/0x2\n",
    "rust": b" <a::b::c::d::e::f::g::h::i::j::k::l::m>::\n",
    "rust line": b"<a::b::c::d::e::f::g::h::i::j::k::l::m>::",
    "stamps": b"[    1.000000]",
    "blanks": b" " * 1000 + b"\n",
    "empty": b"\n",
}


def write(file: IO[bytes], megabytes: int, reports: list[bytes], count: int) -> None:
    """A log of harmless lines with ``count`` reports spread over it."""
    pick = random.Random(1)
    size = megabytes * 1_000_000
    step = size // (count + 1)
    length = done = n = 0
    while length < size:
        n += 1
        text = pick.choice(HARMLESS).format(n=n)
        length += file.write(f"[{n / 100:12.6f}][ T{n % 4000:5}] {text}\n".encode())
        if done < count and length > step * (done + 1):
            length += file.write(reports[done % len(reports)] + b"\n")
            done += 1
    file.flush()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def measure(log: bytes) -> tuple[float, int]:
    start = time.process_time()
    found = len(parse(log))
    return time.process_time() - start, found


def measure_hostile() -> int:
    for name, unit in HOSTILE.items():
        block = HEADER + (unit * (50_000 // len(unit) + 1))[:50_000] + b"\n"
        times = [measure(block * blocks)[0] for blocks in (10, 20, 40)]
        print(f"{name:12} 0.5 MB {times[0]:6.2f} s, 1 MB {times[1]:6.2f} s, 2 MB {times[2]:6.2f} s")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="time harness.klog on a long log")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--reports", type=int, default=50)
    parser.add_argument("--hostile", action="store_true")
    parser.add_argument("logs", nargs="*", type=Path)
    args = parser.parse_args()
    if args.hostile:
        return measure_hostile()
    paths = args.logs or sorted(DATA.glob("*.log"))
    reports = [log for log in (path.read_bytes() for path in paths) if len(parse(log)) == 1]
    with tempfile.NamedTemporaryFile() as file:
        write(file, args.megabytes, reports, args.reports)
        log = Path(file.name).read_bytes()
    before = peak_mb()
    seconds, found = measure(log)
    print(
        f"{len(log) / 1e6:.0f} MB, {args.reports} reports put in, {found} found: {seconds:.2f} s, "
        f"peak {peak_mb():.0f} MB ({before:.0f} MB of it before parsing)"
    )
    allowed = args.megabytes / 100
    return 0 if seconds <= LIMIT_S * allowed and peak_mb() <= LIMIT_MB * allowed else 1


if __name__ == "__main__":
    sys.exit(main())
