#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Write what harness.klog finds in the logs of tests/data/klog to expected.json, for review."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.klog import parse

DATA = Path(__file__).resolve().parent.parent / "tests/data/klog"


def main() -> int:
    found = {
        path.name: [dataclasses.asdict(report) for report in parse(path.read_bytes())]
        for path in sorted(DATA.glob("*.log"))
    }
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (DATA / "expected.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
