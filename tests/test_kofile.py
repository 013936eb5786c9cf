# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from harness import kofile
from harness.errors import BuildError


def test_file_that_is_no_module(tmp_path: Path) -> None:
    (tmp_path / "x.ko").write_bytes(b"nonsense")
    with pytest.raises(BuildError, match="not a kernel module"):
        kofile.modinfo(tmp_path / "x.ko")


def test_modinfo_keeps_repeated_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"parmtype=a:int\0\0parmtype=b:bool\0"
    monkeypatch.setattr(kofile.elf, "read_section", lambda path, name: content)
    assert kofile.modinfo_fields(Path("m.ko")) == (("parmtype", "a:int"), ("parmtype", "b:bool"))
    assert kofile.modinfo(Path("m.ko")) == {"parmtype": "a:int"}


@pytest.mark.parametrize(
    ("text", "names"),
    [("pre: crc32c", ("crc32c",)), ("pre: a b-c post: d pre: e", ("a", "b-c", "e")),
     ("post: d", ()), ("", ())],
)  # fmt: skip
def test_soft_needs_are_what_comes_before(text: str, names: tuple[str, ...]) -> None:
    assert kofile.soft_needs({"softdep": text}) == names
