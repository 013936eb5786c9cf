# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from harness import dkms
from harness.errors import UsageError

NAMED = "PACKAGE_NAME=x\nPACKAGE_VERSION=1\nBUILT_MODULE_NAME=x\n"


def test_what_a_plain_file_says() -> None:
    conf = dkms.parse(
        "# a comment\n"
        'PACKAGE_NAME="foo-dkms"\n'
        "PACKAGE_VERSION='1.0+2'   # said\n"
        'CLEAN="make clean"\n'
        "MAKE[0]=\"'make' -C src KVER=$kernelver CONFIG_FOO=m\"\n"
        'BUILT_MODULE_NAME[0]="${PACKAGE_NAME}"\n'
        'BUILT_MODULE_LOCATION[0]="./src/"\n'
        "BUILT_MODULE_NAME[1]=bar\nDEST_MODULE_LOCATION[1]=/updates\n"
    )
    assert (conf.package, conf.version) == ("foo-dkms", "1.0+2")
    assert conf.modules == (("foo-dkms", "src"), ("bar", ""))
    assert conf.folders == ("src",)
    assert conf.options == ("CONFIG_FOO=m",)
    assert conf.notes == ()


@pytest.mark.parametrize(
    ("make", "folders"),
    [
        ("make", ("",)),
        ("make all", ("",)),
        ("make -C ${kernel_source_dir} M=${dkms_tree}/x/1/build", ("",)),
        ("make -C ${kernel_source_dir} M=$dkms_tree/x/1/build/a/b modules", ("a/b",)),
        ("make -C ${kernel_source_dir} SUBDIRS=${dkms_tree}/x/1/build/a", ("a",)),
        ("cd a && make KERNEL=$kernel_source_dir", ("a",)),
        ("make -C a \\\n && make -C b", ("a", "b")),
        ("sh configure", ("",)),
    ],
)
def test_folders_that_make_is_told_to_build_in(make: str, folders: tuple[str, ...]) -> None:
    assert dkms.parse(f'{NAMED}MAKE="{make}"\n').folders == folders


@pytest.mark.parametrize(
    "line",
    [
        "BUILT_MODULE_NAME=$(id)",
        "BUILT_MODULE_NAME=`id`",
        'BUILT_MODULE_NAME="${kernelver%%-*}"',
        "BUILT_MODULE_NAME=${UNKNOWN}",
        "BUILT_MODULE_NAME=x reboot",
    ],
)
def test_what_only_a_shell_knows_is_left_out(line: str) -> None:
    conf = dkms.parse(f"PACKAGE_NAME=x\nPACKAGE_VERSION=1\n{line}\n")
    assert conf.modules == ()
    assert conf.notes == ("BUILT_MODULE_NAME: would have to be computed by a shell, and is not",)


def test_nothing_is_run(tmp_path: Path) -> None:
    path = tmp_path / "dkms.conf"
    touched = tmp_path / "touched"
    path.write_text(
        f"touch {touched}\nPACKAGE_NAME=x$(touch {touched})\nA=`touch {touched}`\n"
        f"MAKE[0]='touch {touched}; make'\nPRE_BUILD='touch {touched}'\n" + NAMED
    )
    conf = dkms.read(path)
    assert not touched.exists()
    assert f"not run: touch {touched}"[:40] in conf.notes[0]
    assert f"PRE_BUILD=touch {touched}: not run" in conf.notes
    assert conf.modules == (("x", ""),)


def test_conditions_are_not_evaluated() -> None:
    conf = dkms.parse(
        NAMED + 'if [ -f "$kernel_source_dir/.config" ]; then\n  . x\n  if true; then\n'
        "    BUILT_MODULE_NAME[1]=y\n  fi\nfi\n"
        'case "$arch" in\n x86) BUILT_MODULE_NAME[2]=z ;;\nesac\n'
        "if true; then BUILT_MODULE_NAME[3]=w; fi\n"
        "f() {\n BUILT_MODULE_NAME[4]=v\n}\nBUILT_MODULE_NAME[5]=last\n"
    )
    assert conf.modules == (("x", ""), ("last", ""))
    assert any("set under a condition" in note for note in conf.notes)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("BUILT_MODULE_NAME=../../etc/x", r"'\.\./\.\./etc/x' is no module's name"),
        ("BUILT_MODULE_NAME='a b'", "is no module's name"),
        ("BUILT_MODULE_LOCATION=../..", "leads out of the package"),
        ("BUILT_MODULE_LOCATION=/etc", "is not a folder of the package"),
        ("BUILT_MODULE_LOCATION=a/../../b", "leads out of the package"),
        ("MAKE='make M=/etc'", r"MAKE\[0\]: '/etc' is not a folder"),
        ('MAKE="make M=$dkms_tree/x/1/build/../../../../etc"', "leads out of the package"),
        ("MAKE='cd / && make'", "is not a folder of the package"),
        ("PACKAGE_NAME=../x", "is no name or version of a package"),
        ("A=\0", "not a text file"),
    ],
)
def test_what_leads_out_of_the_package_is_refused(line: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        dkms.parse(f"{NAMED}{line}\n")


def test_too_much_of_it(tmp_path: Path) -> None:
    (tmp_path / "dkms.conf").write_text("#" * 200_000)
    with pytest.raises(UsageError, match="larger than 64 KiB"):
        dkms.read(tmp_path / "dkms.conf")
    many = "".join(f"BUILT_MODULE_NAME[{n}]=m{n}\n" for n in range(100))
    with pytest.raises(UsageError, match="names 100 modules, at most 64"):
        dkms.parse(many)


@pytest.mark.parametrize("text", ["A='", 'A="${', "A=\\", "if\nif\nif", "}}}}", "[0]=x", "A[=x"])
def test_what_is_cut_off_says_nothing(text: str) -> None:
    assert dkms.parse(text).modules == ()
