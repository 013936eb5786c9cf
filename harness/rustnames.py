# SPDX-License-Identifier: GPL-2.0-only
"""Rust's mangled names (v0) in kernel stacks to the paths that a reader knows.

Rust RFC 2603 ("rust-symbol-name-mangling-v0") gives the grammar; what this reads of it are paths,
and of types those that a path is made of. A name that holds more stays as it is.
"""

from __future__ import annotations

from typing import NoReturn

_BASIC = {
    "a": "i8", "b": "bool", "c": "char", "d": "f64", "e": "str", "f": "f32", "h": "u8",
    "i": "isize", "j": "usize", "l": "i32", "m": "u32", "n": "i128", "o": "u128", "s": "i16",
    "t": "u16", "u": "()", "v": "...", "x": "i64", "y": "u64", "z": "!", "p": "_",
}  # fmt: skip
_MAX_DEPTH = 32


def demangle(name: str) -> str:
    """``_RNvMs_Cs1234_5crateNtB3_4Type4func`` -> ``<crate::Type>::func``; others unchanged."""
    if not name.startswith("_R"):
        return name
    try:
        return _Reader(name[2:]).path(0)
    except _Unreadable:
        return name


class _Unreadable(Exception):
    """The name is not of the part of the grammar that is read here."""


class _Reader:
    """A recursive descent over one name; back references count from behind ``_R``."""

    def __init__(self, text: str, at: int = 0) -> None:
        self.text = text
        self.at = at

    def fail(self) -> NoReturn:
        raise _Unreadable(self.text)

    def take(self) -> str:
        if self.at >= len(self.text):
            self.fail()
        self.at += 1
        return self.text[self.at - 1]

    def base62(self) -> int:
        """``_`` is 0, ``0_`` is 1, and so on."""
        digits = ""
        while (char := self.take()) != "_":
            digits += char
        value = 0
        for char in digits:
            if not (char.isascii() and char.isalnum()):
                self.fail()
            order = int(char) if char.isdigit() else ord(char) - ord("a") + 10
            value = value * 62 + (order if not char.isupper() else ord(char) - ord("A") + 36)
        return value + 1 if digits else 0

    def skip_disambiguator(self) -> None:
        if self.text[self.at : self.at + 1] == "s":
            self.at += 1
            self.base62()

    def identifier(self) -> str:
        self.skip_disambiguator()
        digits = ""
        while self.text[self.at : self.at + 1].isdigit() and len(digits) < 4:
            digits += self.take()
        if not digits:
            self.fail()
        if self.text[self.at : self.at + 1] == "_":
            self.at += 1
        end = self.at + int(digits)
        if end > len(self.text):
            self.fail()
        found, self.at = self.text[self.at : end], end
        return found

    def back(self, depth: int, kind: str) -> str:
        target = self.base62()
        if target >= self.at:
            self.fail()
        other = _Reader(self.text, target)
        return other.path(depth) if kind == "path" else other.type(depth)

    def path(self, depth: int) -> str:
        if depth > _MAX_DEPTH:
            self.fail()
        tag = self.take()
        if tag == "C":
            return self.identifier()
        if tag == "B":
            return self.back(depth + 1, "path")
        if tag in "MX":
            self.skip_disambiguator()
            self.path(depth + 1)
        if tag == "M":
            return f"<{self.type(depth + 1)}>"
        if tag in "XY":
            return f"<{self.type(depth + 1)} as {self.path(depth + 1)}>"
        if tag == "N":
            namespace = self.take()
            parent, own = self.path(depth + 1), self.identifier()
            if namespace.islower():
                return f"{parent}::{own}"
            return f"{parent}::{{{'closure' if namespace == 'C' else 'shim'}}}"
        if tag == "I":
            generic = self.path(depth + 1)
            while self.text[self.at : self.at + 1] not in ("E", ""):
                self.type(depth + 1)
            self.take()
            return generic
        self.fail()

    def type(self, depth: int) -> str:
        if depth > _MAX_DEPTH:
            self.fail()
        tag = self.take()
        if tag in _BASIC:
            return _BASIC[tag]
        if tag == "B":
            return self.back(depth + 1, "type")
        if tag in "RQPO":
            if self.text[self.at : self.at + 1] == "L":
                self.at += 1
                self.base62()
            prefix = {"R": "&", "Q": "&mut ", "P": "*const ", "O": "*mut "}[tag]
            return prefix + self.type(depth + 1)
        if tag == "S":
            return f"[{self.type(depth + 1)}]"
        self.at -= 1
        return self.path(depth)
