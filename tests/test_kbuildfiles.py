# SPDX-License-Identifier: GPL-2.0-only
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness import kbuildfiles
from harness.kbuildfiles import Made


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def named(made: tuple[Made, ...]) -> list[str]:
    return [f"{one.folder}/{one.name}".lstrip("/") for one in made]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("obj-m := a.o b-c.o", ["a", "b-c"]),
        ("obj-m+=a.o\nobj-m += b.o # why", ["a", "b"]),
        ("obj-$(CONFIG_A) += a.o", ["a"]),
        ("obj-${CONFIG_A} = a.o", ["a"]),
        ("N = a\nM := $(N)x\nobj-m := $(M).o ${N}.o", ["ax", "a"]),
        ("N := a\nN += b\nobj-m := $(addsuffix .o,$(N))", []),
        ("ifneq ($(KERNELRELEASE),)\n\tobj-m := a.o\nelse\n\tobj-m := b.o\nendif", ["a", "b"]),
        ("obj-m := \\\n\ta.o \\\n\tb.o", ["a", "b"]),
        ("obj-y := builtin.o\nobj-m := a.o", ["a"]),
        ("all:\n\tmake obj-m=x.o M=$(PWD)\n# obj-m := no.o", []),
        ("obj-m := $(UNKNOWN).o", []),
        ("override obj-m := a.o", ["a"]),
        ("", []),
    ],
)
def test_what_a_file_names(tmp_path: Path, text: str, found: list[str]) -> None:
    assert named(kbuildfiles.read(write(tmp_path, {"Makefile": text + "\n"}))) == found


def test_options_and_parts(tmp_path: Path) -> None:
    text = "obj-$(CONFIG_FOO) += foo.o\nfoo-y := a.o sub/b.o\nfoo-$(CONFIG_BAR) += c.o\n"
    text += "foo-objs += d.o\n"
    (one,) = kbuildfiles.read(write(tmp_path, {"Kbuild": text}))
    assert one == Made("foo", "", "FOO", ("a", "sub/b", "c", "d"))


def test_folders_below(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "Kbuild": "obj-m := a.o sub/\nobj-y += other/\n",
            "Makefile": "obj-m := not-read.o\n",
            "sub/Makefile": "obj-m := b.o deeper/ ../ /etc/ ./\n",
            "sub/deeper/Makefile": "obj-m := c.o ../deeper/\n",
            "other/Makefile": "obj-m := d.o\n",
        },
    )
    assert named(kbuildfiles.read(tmp_path)) == ["a", "sub/b", "sub/deeper/c", "other/d"]
    assert named(kbuildfiles.read(tmp_path, depth=0)) == ["a"]
    assert named(kbuildfiles.read(tmp_path, "sub")) == ["sub/b", "sub/deeper/c"]


def test_folders_that_nothing_leads_to(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "Makefile": "all:\n",
            "src/a/Makefile": "obj-m := a.o sub/\n",
            "src/a/sub/Makefile": "obj-m := b.o\n",
            "src/c/Kbuild": "obj-m := c.o\n",
            ".git/Makefile": "obj-m := no.o\n",
        },
    )
    assert kbuildfiles.folders_with_modules(tmp_path) == ("src/a", "src/c")


def test_too_many_folders_are_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kbuildfiles, "_FOLDERS_LIMIT", 3)
    write(tmp_path, {f"{n}/Makefile": "obj-m := a.o\n" for n in range(9)})
    assert kbuildfiles.folders_with_modules(tmp_path) == ("0", "1", "2")


EXPORTS = "EXPORT_SYMBOL_GPL(call);\n"


@pytest.mark.parametrize(
    ("folder", "exporting", "modules", "main"),
    [
        ("thing", (), ("thing", "other"), "thing"),
        ("thing-1.2", (), ("a", "thing", "b"), "thing"),
        ("fat", ("fat",), ("fat", "vfat", "msdos"), "vfat"),
        ("x", ("core",), ("core", "user"), "user"),
        ("x", (), ("a", "b"), "b"),
        # All offer something: the name decides, or the last.
        ("b", ("a", "b"), ("a", "b", "c"), "c"),
        ("b", ("a", "b", "c"), ("a", "b", "c"), "b"),
    ],
)
def test_main_one_of_several(
    tmp_path: Path, folder: str, exporting: tuple[str, ...], modules: tuple[str, ...], main: str
) -> None:
    files = {"Kbuild": f"obj-m := {' '.join(f'{name}.o' for name in modules)}\n"}
    files |= {f"{name}.c": EXPORTS if name in exporting else "" for name in modules}
    write(tmp_path / folder, files)
    made = kbuildfiles.read(tmp_path / folder)
    assert kbuildfiles.choose_main(tmp_path / folder, made, folder).name == main
    order = [one.name for one in kbuildfiles.in_load_order(tmp_path / folder, made)]
    assert order[: len(exporting)] == list(exporting)
    assert sorted(order) == sorted(modules)
