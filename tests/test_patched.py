# SPDX-License-Identifier: GPL-2.0-only
"""Modules of the kernel's own source, patched."""

from pathlib import Path

import pytest

from harness import kbuildfiles, patched
from harness.errors import UsageError
from harness.kbuildfiles import Made
from harness.patched import Patch
from harness.store import Store

MAKEFILE = """\
ccflags-y := -DSOMETHING
obj-$(CONFIG_FOO) += foo.o
obj-$(CONFIG_BAR)\t+= bar.o sub/
obj-y += always.o
foo-y := one.o two.o
foo-$(CONFIG_MORE) += more.o
"""

FIX = """\
Subject: of a mail, as git format-patch writes it

--- a/drivers/foo/one.c
+++ b/drivers/foo/one.c
@@ -1,3 +1,4 @@
 first
+barrier
 second
 third
"""

ONE = "first\nbarrier\nsecond\nthird\n"
FOO = Made("foo", "drivers/foo", "FOO", ("one", "two"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "linux/drivers/foo"
    (folder / "sub").mkdir(parents=True)
    (folder / "Makefile").write_text(MAKEFILE)
    (folder / "one.c").write_text(ONE)
    (folder / "sub/deep.c").write_text("deep\n")
    for built in ("one.o", "foo.ko", ".one.o.cmd", "foo.mod.c"):
        (folder / built).write_text("built")
    return tmp_path / "linux"


@pytest.fixture
def fix(tmp_path: Path) -> Path:
    (tmp_path / "fix.patch").write_text(FIX)
    return tmp_path / "fix.patch"


@pytest.fixture
def cache(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_fix_is_taken_back_and_made_again(cache: Store, source: Path, fix: Path) -> None:
    folder = patched.copy(cache, source, "drivers/foo", [FOO], Patch(fix, reverse=True))
    assert (folder / "one.c").read_text() == "first\nsecond\nthird\n"
    assert (folder / "sub/deep.c").is_file()
    assert not list(folder.glob("*.o")) + list(folder.glob("*.ko")) + list(folder.glob(".*"))
    assert (source / "drivers/foo/one.c").read_text() == ONE
    (source / "drivers/foo/one.c").write_text("first\nsecond\nthird\n")
    again = patched.copy(cache, source, "drivers/foo/", [FOO], Patch(fix))
    assert again != folder
    assert (again / "one.c").read_text() == ONE


def test_option_becomes_a_module_and_others_are_not_made(
    cache: Store, source: Path, fix: Path
) -> None:
    folder = patched.copy(cache, source, "drivers/foo", [FOO], Patch(fix, reverse=True))
    (made,) = kbuildfiles.read(folder)
    assert (made.name, made.option, made.parts) == ("foo", "", ("one", "two", "more"))
    text = (folder / "Kbuild").read_text()
    assert "obj-m += foo.o" in text
    assert "left-out\t+= bar.o sub/" in text
    assert "left-out += always.o" in text
    assert "foo-$(CONFIG_MORE) += more.o" in text


def test_of_one_module_in_a_folder_what_lies_below_is_left(
    cache: Store, source: Path, fix: Path
) -> None:
    folder = patched.copy(cache, source, "drivers/foo/foo", [FOO], Patch(fix, reverse=True))
    assert sorted(path.name for path in folder.iterdir()) == ["Kbuild", "Makefile", "one.c"]


@pytest.mark.parametrize(
    ("text", "reverse", "why"),
    [
        (FIX, False, "cannot be applied here"),
        ("no patch at all\n", True, "cannot be taken back here"),
        (FIX.replace("foo/one.c", "foo/../../../one.c"), True, "cannot be taken back here"),
        (FIX.replace("drivers/foo", "drivers/other"), True, "cannot be taken back here"),
    ],
)
def test_patch_that_does_not_fit_is_refused(
    cache: Store, source: Path, fix: Path, text: str, reverse: bool, why: str
) -> None:
    (source.parent / "one.c").write_text(ONE)
    fix.write_text(text)
    with pytest.raises(UsageError, match=why):
        patched.copy(cache, source, "drivers/foo", [FOO], Patch(fix, reverse))
    assert (source.parent / "one.c").read_text() == ONE
    assert not list((cache.root / "patched").iterdir())


def test_patch_that_is_not_there(cache: Store, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.patch: cannot be read: No such file"):
        patched.copy(cache, source, "drivers/foo", [FOO], Patch(tmp_path / "none.patch"))


def test_module_further_below_has_to_be_named(cache: Store, source: Path, fix: Path) -> None:
    below = Made("deep", "drivers/foo/sub", "DEEP", ("deep",))
    with pytest.raises(UsageError, match="to be changed lie below drivers/foo"):
        patched.copy(cache, source, "drivers/foo", [below], Patch(fix))
