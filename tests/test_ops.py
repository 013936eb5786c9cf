# SPDX-License-Identifier: GPL-2.0-only
"""The op table and the conversion of single values."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from harness import ops
from harness.ops import OPS, Kind, Param


def test_defaults_fit_their_own_parameters() -> None:
    for spec in OPS.values():
        for param in spec.params:
            if not isinstance(param.default, ops._Required):
                assert ops.check_value(param, param.default) == param.default
            assert (param.kind in (Kind.FLAGS, Kind.CHOICE)) == bool(param.table)


def test_only_the_last_parameter_is_open_ended() -> None:
    for spec in OPS.values():
        assert all(param.kind is not Kind.REST for param in spec.params[:-1])


def test_short_form_is_for_ops_with_one_required_parameter() -> None:
    assert OPS["close"].short == OPS["close"].params[0]
    assert OPS["open"].short is None
    assert OPS["yield"].short is None


def test_errnos_are_those_of_this_system() -> None:
    known = {ops.canonical_result(name) for name in errno.errorcode.values()}
    # Python's module has no name for this one.
    assert known | {"EHWPOISON"} == set(ops.ERRNOS)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [("EWOULDBLOCK", "EAGAIN"), ("ENOTSUP", "EOPNOTSUPP"), ("ok", "ok"), ("SHORT", "SHORT")],
)
def test_results_have_one_name(name: str, canonical: str) -> None:
    assert ops.canonical_result(name) == canonical


def test_unknown_result_is_refused() -> None:
    with pytest.raises(ValueError, match="no errno is called 'EWHAT'"):
        ops.canonical_result("EWHAT")


@pytest.mark.parametrize(
    ("kind", "table", "value", "why"),
    [
        (Kind.SLOT, "", 16, r"16 is not in 0\.\.15"),
        (Kind.SLOT, "", True, "p is a number, not True"),
        (Kind.SLOT, "", "1", "p is a number, not '1'"),
        (Kind.SLOT, "", None, "p is a number, not None"),
        (Kind.MODE, "", 0o1000, r"512 is not in 0\.\.511"),
        (Kind.U64, "", 2**64, "is not in 0"),
        (Kind.NUMBER, "", 10**30, r"0x.*\.\.\. is not in|is not in"),
        (Kind.PATH, "", "", "p is empty"),
        (Kind.PATH, "", 7, "p is a text, not 7"),
        (Kind.TEXT, "", "a\0b", "NUL"),
        (Kind.TEXT, "", "\ud800", "surrogate"),
        (Kind.FLAGS, "prot_flags", ("read", "run"), "'run' is none of its flags: read, write"),
        (Kind.FLAGS, "prot_flags", ("read", "read"), "named twice"),
        (Kind.FLAGS, "prot_flags", "read", "p is a list of texts"),
        (Kind.CHOICE, "whence_choice", "top", "'top' is none of its choices: set, cur, end"),
        (Kind.REST, "", ("x",) * 25, "25 words, more than 24"),
        (Kind.REST, "", 3, "p is a list of texts"),
    ],
)
def test_values_that_do_not_fit_are_refused(kind: Kind, table: str, value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ops.check_value(Param("p", kind, table=table), value)


@pytest.mark.parametrize("text", ["", "x", "01", "+1", "-0", "1 ", "1_000", "٣", "9" * 5000])
def test_numbers_are_plain_decimal(text: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number"):
        ops.parse_number(text, -10, 10)


def test_number_in_range_is_read() -> None:
    assert ops.parse_number("-7", -10, 10) == -7
    with pytest.raises(ValueError, match=r"11 is not in -10\.\.10"):
        ops.parse_number("11", -10, 10)
