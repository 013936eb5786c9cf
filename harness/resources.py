# SPDX-License-Identifier: GPL-2.0-only
"""Where the project's data lies: in the checkout, or in the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """Return a data folder: ``images``, ``kmods`` or ``scenarios``."""
    inside = _PACKAGE / "data" / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
