#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Measure harness.klog against a folder of logs whose titles are known.

usage: klog_score.py DIR [--part I/N]

DIR holds ``NNN.log`` files and ``expected.json``: ``{"NNN": {"title": str | null, "alt": [str],
"type": str, "corrupted": bool, "frame": str | null}}``. A title agrees when it equals ``title``
or stands in ``alt``. Prints each miss, then the score; exit status 1 when a log's report was
missed or invented, or fewer than 97 % of the titles of intact reports agree.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.klog import contains_report, parse

REQUIRED = 0.97


def main() -> int:
    parser = argparse.ArgumentParser(description="measure harness.klog against known titles")
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--part", metavar="I/N", help="every Nth log only, from the Ith (to keep some unseen)"
    )
    args = parser.parse_args()
    expected = json.loads((args.folder / "expected.json").read_text(encoding="utf-8"))
    names = sorted(expected, key=lambda name: (len(name), name))
    if args.part:
        first, _, step = args.part.partition("/")
        names = names[int(first) :: int(step)]
    presence = intact = agree = torn = torn_agree = torn_flag = flag = 0
    for name in names:
        want = expected[name]
        log = (args.folder / f"{name}.log").read_bytes()
        reports = parse(log)
        got = reports[0].title if reports else None
        found = got is not None
        if found != contains_report(log):
            print(f"{name}: contains_report disagrees with parse")
        if found == (bool(want["title"])):
            presence += 1
        else:
            print(f"{name}: PRESENCE want {want['title']!r}, got {got!r}")
            if not want["title"]:
                continue
        if not want["title"]:
            continue
        same = got == want["title"] or got in want["alt"]
        if want["corrupted"]:
            torn += 1
            torn_agree += same
            torn_flag += bool(reports and reports[0].corrupted)
            continue
        intact += 1
        agree += same
        if reports and reports[0].corrupted:
            flag += 1
        if not same:
            print(f"{name}: want {want['title']!r}\n{'':{len(name)}}   got {got!r}")
    share = agree / intact if intact else 1.0
    print(f"report or none right: {presence} of {len(names)}")
    print(f"title of intact reports: {agree} of {intact} ({share:.1%}); called corrupted: {flag}")
    print(f"title of corrupted reports: {torn_agree} of {torn}; called corrupted: {torn_flag}")
    return 0 if presence == len(names) and share >= REQUIRED else 1


if __name__ == "__main__":
    sys.exit(main())
