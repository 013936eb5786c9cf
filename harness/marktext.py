# SPDX-License-Identifier: GPL-2.0-only
"""Text of strangers on its way into XML or HTML: what may not stand there is spelt out.

Escaping is the writers' work (:mod:`xml.etree`, Jinja2). This is about characters that no
escape makes legal, and about those that make a text look like another one.
"""

from __future__ import annotations

import re

# Not characters of XML 1.0 (section 2.2), C1 controls, and what turns the direction of text or
# takes no room (Unicode's Trojan Source characters).
_NOT_SHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufeff\ufffe\uffff]"
)


def legal(text: str) -> str:
    """Return a text in which each character is legal and can be seen."""
    return _NOT_SHOWN.sub(_spelt, text.replace("\r\n", "\n"))


def _spelt(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def clipped(text: str, limit: int) -> str:
    """Return the first ``limit`` characters, and how many more there were."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n… {len(text) - limit} more characters"
