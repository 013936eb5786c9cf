# SPDX-License-Identifier: GPL-2.0-only
"""Which option brings what a module lacks. The way from make's output is in test_ownsource.py."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from harness import buildhelp
from harness.kernels import Kernel


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(
        tmp_path / "linux",
        {
            "Kconfig": "config MD\n\tbool 'x'\nconfig DM\n\ttristate 'x'\n\tdepends on MD\n",
            "drivers/Makefile": "obj-$(CONFIG_MD) += md/\nobj-y += base/\n",
            "drivers/md/Makefile": "dm-mod-y += dm.o dm-table.o\nobj-$(CONFIG_DM) += dm-mod.o\n"
            "obj-$(CONFIG_DM_EXTRA) += extra.o\ndm-mod-$(CONFIG_DM_UEVENT) += uevent.o\n"
            "dm-mod-objs += dm-mod.o\n",
            "drivers/md/dm-table.c": "EXPORT_SYMBOL(dm_get);\n\tEXPORT_SYMBOL_NS(dm_put, DM);\n",
            "drivers/base/Makefile": "obj-y += core.o\n",
            "drivers/base/core.c": "EXPORT_SYMBOL_GPL( device_add );\n// EXPORT_SYMBOL(dm_gone);\n",
            "arch/arm/a.c": "EXPORT_SYMBOL(on_arm);\n",
            "arch/x86/a.S": "EXPORT_SYMBOL(on_x86)\n",
            "tools/a.c": "EXPORT_SYMBOL(in_tools);\n",
        },
    )


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("drivers/md/dm-table.c", ("DM", "MD")),
        ("drivers/md/extra.c", ("DM_EXTRA", "MD")),
        ("drivers/md/uevent.c", ("DM_UEVENT", "DM", "MD")),
        ("drivers/md/nothing.c", ("MD",)),
        ("drivers/base/core.c", ()),
    ],
)
def test_options_without_which_a_file_is_not_compiled(
    source: Path, file: str, options: tuple[str, ...]
) -> None:
    assert buildhelp.options_of(source, file) == options


def test_who_exports_a_symbol(source: Path) -> None:
    names = ("dm_get", "dm_put", "device_add", "dm_gone", "on_arm", "on_x86", "in_tools", "dm")
    assert buildhelp.exporters(source, names) == {
        "dm_get": "drivers/md/dm-table.c",
        "dm_put": "drivers/md/dm-table.c",
        "device_add": "drivers/base/core.c",
        "on_x86": "arch/x86/a.S",
    }


HEADER = """\
#ifndef _H
#define _H
int always(void);
#ifdef CONFIG_A
struct state { int x; };
# if IS_ENABLED(CONFIG_B) || defined(CONFIG_C_MODULE)
int deep(void);
# else
int otherwise(void);
# endif
#elif defined(CONFIG_D)
int instead(void);
#endif
#if !defined(CONFIG_E)
int without(void);
#endif
#endif
int after(void);
"""


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("always", ()),
        ("state", ("A",)),
        ("deep", ("A", "B", "C")),
        ("otherwise", ("A",)),
        ("instead", ("D",)),
        ("without", ()),
        ("after", ()),
    ],
)
def test_options_that_a_declaration_stands_under(name: str, options: tuple[str, ...]) -> None:
    assert list(buildhelp.guards(HEADER, [name])) == [(name, options)]


def kernel(folder: Path, source: Path) -> Kernel:
    (folder / "build").mkdir(exist_ok=True)
    return Kernel("6.1", "x", "6.1-x", "1", "gcc", "0", "k", folder, source)


def test_headers_alone_say_only_which_symbols(tmp_path: Path) -> None:
    # As of Debian's binary: no Kconfig, no sources.
    (tmp_path / "headers").mkdir()
    output = 'ERROR: modpost: "dm_get" [/x/y.ko] undefined!\n' * 2
    found = buildhelp.explain(output, kernel(tmp_path, tmp_path / "headers"), tmp_path)
    assert found == buildhelp.Help("needs dm_get, which the kernel does not export")
    assert buildhelp.explain("x.c:1:1: error: no", kernel(tmp_path, tmp_path / "headers"), tmp_path
                             ) == buildhelp.Help()  # fmt: skip


def test_symbol_under_a_condition_in_a_file_that_is_compiled(tmp_path: Path, source: Path) -> None:
    home = write(tmp_path / "own/mine", {"Kbuild": ""})
    output = 'ERROR: modpost: "device_add" [/x/y.ko] undefined!\n'
    found = buildhelp.explain(output, kernel(tmp_path, source), home)
    assert "device_add, which drivers/base/core.c exports only under a condition" in found.why
    assert found.hint is None


def test_plain_mistake_is_left_to_the_compiler(tmp_path: Path, source: Path) -> None:
    write(source, {"include/linux/x.h": "int well_known(void);\n"})
    output = "mine.c:1:9: error: implicit declaration of function ‘well_known’\n"
    assert buildhelp.explain(output, kernel(tmp_path, source), tmp_path) == buildhelp.Help()


def test_only_what_is_nowhere_without_a_condition_says_something(
    tmp_path: Path, source: Path
) -> None:
    often = "".join(f"#ifdef CONFIG_O{n}\nint often;\n#endif\n" for n in range(9))
    options = "".join(f"config O{n}\n\tbool 'x'\n" for n in range(9))
    write(
        source,
        {
            "include/linux/a.h": "int known;\n#ifdef CONFIG_DM\nint known, rare;\n#endif\n" + often,
            "include/linux/b.h": "#ifdef CONFIG_MD\nint known;\n#endif\n",
            "Kconfig": (source / "Kconfig").read_text() + options,
        },
    )
    tried = kernel(tmp_path, source)

    def why(*names: str) -> str:
        lines = (f"mine.c:1:9: error: ‘{name}’ undeclared\n" for name in names)
        return buildhelp.explain("".join(lines), tried, tmp_path).why

    assert why("known") == why("often") == why("known", "often") == ""
    assert why("known", "often", "rare") == "needs options that the kernel 6.1-x lacks: DM"


def test_option_that_cannot_be_had_gets_no_hint(tmp_path: Path, source: Path) -> None:
    home = write(tmp_path / "own/mine", {"Kbuild": ""})
    write(source, {"Kconfig": "config MD\n\tbool 'x'\n\tdepends on GONE\nconfig DM\n"
                   "\ttristate 'x'\n\tdepends on MD\n"})  # fmt: skip
    output = 'ERROR: modpost: "dm_get" [/x/y.ko] undefined!\n'
    found = buildhelp.explain(output, kernel(tmp_path, source), home)
    assert "lacks: DM (for dm_get)" in found.why
    assert found.hint is None
