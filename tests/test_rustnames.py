# SPDX-License-Identifier: GPL-2.0-only
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.rustnames import demangle


@pytest.mark.parametrize(
    ("mangled", "path"),
    [
        ("_RNvCs1234_4demo4main", "demo::main"),
        ("_RNvNtCsAB_4demo5inner4call", "demo::inner::call"),
        ("_RNvMs_NtCsAB_4demo5innerNtB4_4Type4call", "<demo::inner::Type>::call"),
        ("_RNvXs_CsAB_4demoNtB4_4TypeNtNtCs_4core3fmt7Display3fmt",
         "<demo::Type as core::fmt::Display>::fmt"),
        ("_RNvYNtCsAB_4demo4TypeNtB4_5Trait4call", "<demo::Type as demo::Trait>::call"),
        ("_RNvMCsAB_4demoRNtB2_4Type4call", "<&demo::Type>::call"),
        ("_RNvMCsAB_4demoQL_NtB2_4Type4call", "<&mut demo::Type>::call"),
        ("_RNvMCsAB_4demoSh4call", "<[u8]>::call"),
        ("_RINvCsAB_4demo4callllE", "demo::call"),
        ("_RNCNvCsAB_4demo4call0", "demo::call::{closure}"),
        ("_RNvCsAB_4demo5_4call", "demo::4call"),
    ],
)  # fmt: skip
def test_path_is_read(mangled: str, path: str) -> None:
    assert demangle(mangled) == path


@pytest.mark.parametrize(
    "name",
    [
        "kfree", "_R", "_RNv", "_RNvC9demo", "_RNvB_4call", "_RNvCsé_4demo4main",
        "_RNvMCsAB_4demoFuEu4call", "_R" + "M" * 100, "_R" + "S" * 100,
        "_RNvM" + "C1a" + "R" * 100, "_RNvCs_", "_RZ",
    ],
)  # fmt: skip
def test_anything_else_stays_as_it_is(name: str) -> None:
    assert demangle(name) == name


@given(st.text(alphabet="RNvMXYIBCELQs_0123456789ab", max_size=60))
def test_no_name_makes_it_fail(rest: str) -> None:
    assert isinstance(demangle("_R" + rest), str)
