# SPDX-License-Identifier: GPL-2.0-only
"""From an element of a list to the list: who comes before a forgotten element is chance.

A stale pointer often lies in the element that was in a list before it: a notifier of
whoever registered one just before. That differs from kernel to kernel; the list does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Protocol

from harness.memowners import Holder

#: Elements that are looked at before a list counts as broken.
_LIMIT = 4096

_WORD = 8


class Reader(Protocol):
    """What following a list needs of a memory; addresses are the kernel's."""

    def physical(self, address: int) -> int | None: ...
    def read_word(self, address: int) -> int | None: ...
    def find_holder(self, at: int) -> Holder: ...
    def find_pointers(self, address: int) -> Iterator[Holder]: ...


def find_list(memory: Reader, holder: Holder) -> Holder | None:
    """Return what holds the head of the list that a holder is an element of.

    None for what is in no list, or in one whose head is not found.
    """
    follow: Callable[[Reader, Holder], Holder | None] | None = {
        ("list_head", "next"): _ring,
        ("list_head", "prev"): _ring,
        ("hlist_node", "next"): _hashed,
    }.get((holder.field.parent, holder.field.name))
    if follow is None and holder.field.name == "next" and holder.field.parent:
        follow = _chain
    return follow(memory, holder) if follow else None


def _place(holder: Holder) -> int:
    """Return the address of the structure that a holder's field is in."""
    return holder.base + holder.field.parent_at


def _ring(memory: Reader, holder: Holder) -> Holder | None:
    """Follow a ``list_head`` away from where the module was, to a variable that is only that."""
    step = _WORD if holder.field.name == "next" else 0
    at = _place(holder)
    for _ in range(_LIMIT):
        where = memory.physical(at)
        found = memory.find_holder(where) if where is not None else None
        # An element is a field of something; a head that is one, too, is not told from it.
        if found is not None and re.fullmatch(r"[\w.]+(\[\])*\.(next|prev)", found.name):
            head = re.sub(r"\.(next|prev)$", "", found.name)
            if "." not in head:
                return Holder(head, found.detail, found.dead)
        following = memory.read_word(at + step)
        if following is None or following == _place(holder):
            return None
        at = following
    return None


def _hashed(memory: Reader, holder: Holder) -> Holder | None:
    """Follow an ``hlist_node`` back to the bucket."""
    for _ in range(_LIMIT):
        # struct hlist_node { next, **pprev }
        before = memory.read_word(_place(holder) + _WORD)
        where = memory.physical(before) if before is not None else None
        if where is None:
            return None
        holder = memory.find_holder(where)
        if (holder.field.parent, holder.field.name) != ("hlist_node", "next"):
            return holder
    return None


def _chain(memory: Reader, holder: Holder) -> Holder | None:
    """Find who leads to the first of structures that have one ``next`` each."""
    parent = holder.field.parent
    seen = set()
    while _place(holder) not in seen:
        seen.add(_place(holder))
        before = next(memory.find_pointers(_place(holder)), None)
        if before is None or (before.field.parent, before.field.name) != (parent, "next"):
            return before
        holder = before
    return None
