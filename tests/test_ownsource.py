# SPDX-License-Identifier: GPL-2.0-only
"""From names to modules, with a kernel of a few files that is really configured and compiled."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness import (
    cli,
    families,
    inventory,
    modulebuild,
    ownarguments,
    ownsource,
    sources,
    store,
)
from harness.errors import BuildError, ExitStatus, InfrastructureError, UsageError
from harness.lab import Lab
from harness.modules import Module
from harness.ownsource import Own

SOURCE = Path(__file__).parent / "data" / "kbuild"

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One cache for all tests: what they differ in is in its names."""
    root = tmp_path_factory.mktemp("images")
    for kind in ("kernels", "profiles", "fragments"):
        (root / kind).mkdir()
    with tarfile.open(root / "linux.tar.gz", "w:gz") as tar:
        tar.add(SOURCE, arcname="linux-9.8.7")
    sha256 = store.digest_file(root / "linux.tar.gz")
    (root / "kernels/fake.yaml").write_text(
        f"name: fake\nprovider: tarball\nurl: ../linux.tar.gz\nsha256: {sha256}\n"
    )
    (root / "fragments/kasan.config").write_text('CONFIG_LOCALVERSION="-small"\n')
    (root / "fragments/more.config").write_text(
        'CONFIG_LOCALVERSION="-check"\nCONFIG_BLOCK=y\nCONFIG_NET=y\nCONFIG_NIC=m\n'
    )
    (root / "profiles/kasan.yaml").write_text("name: kasan\nfragments: [kasan]\n")
    (root / "profiles/check.yaml").write_text("name: check\nfragments: [kasan, more]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KMOD_HARNESS_IMAGES", str(root))
        yield Lab(store.Store.open(tmp_path_factory.mktemp("cache")))


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def compiled(made: Lab, own: Own) -> Module:
    """Compile what was resolved, as trials would."""
    return made.build(own.target, families.GOOD, own.kernel, own.profile)


def names(found: tuple[Module, ...]) -> list[str]:
    return [module.name for module in found]


def mains(found: tuple[Own, ...]) -> list[str]:
    return [own.family.roles[families.MAIN] for own in found]


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- folders ------------------------------------------------------------------------------------

ONE = "int one(void)\n{\n\treturn 1;\n}\n"


def test_folder_that_was_not_written_for_this_project(made: Lab, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "mine",
        {
            "Makefile": (
                "ifneq ($(KERNELRELEASE),)\n\tNAME := mine\n\tobj-m := $(NAME).o\n"
                "\tmine-objs := main.o sub/part.o\n\tccflags-y := -I$(src)/include\nelse\n"
                "all:\n\t$(MAKE) -C /lib/modules/`uname -r`/build M=$(PWD) modules\nendif\n"
            ),
            "main.c": '#include <mine.h>\n#include "table.inc"\nint mine(void) { return N + T; }\n',
            "sub/part.c": "int part;\n",
            "include/mine.h": "#define N 1\n",
            "table.inc": "#define T 2\n",
        },
    )
    before = snapshot(folder)
    own = ownsource.resolve(made, str(folder), kernel="fake")
    assert (own.kernel, own.profile, own.target) == ("fake", "kasan", str(folder))
    module = compiled(made, own)
    assert names(module.everything) == ["mine"]
    assert module.vermagic.startswith("9.8.7-small SMP")
    assert snapshot(folder) == before


def test_make_knows_the_folder_it_works_in(made: Lab, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "mine",
        {
            "Kbuild": "obj-m := mine.o\nccflags-y := -I$(PWD)/include\n",
            "mine.c": "#include <mine.h>\n" + ONE,
            "include/mine.h": "",
        },
    )
    assert compiled(made, ownsource.resolve(made, str(folder), kernel="fake")).name == "mine"


SEVERAL = {
    "Makefile": "obj-m += user.o sub/\nobj-$(CONFIG_MINE_EXTRA) += extra.o\n",
    "sub/Makefile": "obj-m := base.o\n",
    "sub/base.c": "int base_call(void) { return 1; }\nEXPORT_SYMBOL_GPL(base_call);\n",
    "user.c": "int base_call(void);\nint user(void) { return base_call(); }\n",
    "extra.c": ONE,
}


def test_several_modules_come_with_what_they_need(made: Lab, tmp_path: Path) -> None:
    folder = write(tmp_path / "user-1.0", SEVERAL)
    before = len(list((made.cache.root / "module").glob("*")))
    found = ownsource.resolve_all(made, str(folder), kernel="fake")
    assert mains(found) == ["user", "base", "extra"]
    module = compiled(made, found[0])
    assert names(module.needs) == ["base"]
    assert sorted(names(module.everything)) == ["base", "extra", "user"]
    # One of them alone has only what it needs with it.
    assert names(compiled(made, found[2]).everything) == ["extra"]
    assert names(compiled(made, found[1]).everything) == ["base"]
    # All from one compilation.
    assert len(list((made.cache.root / "module").iterdir())) == before + 1


def test_module_of_several_is_chosen_by_name(made: Lab, tmp_path: Path) -> None:
    folder = write(tmp_path / "several", SEVERAL)
    assert ownsource.resolve(made, str(folder), kernel="fake", main="base").target.endswith(
        "several/base.o"
    )
    with pytest.raises(UsageError, match=r"module 'usr': none of these: .*did you mean user"):
        ownsource.resolve(made, str(folder), kernel="fake", main="usr")


def test_option_that_no_kernel_has_makes_a_module(made: Lab, tmp_path: Path) -> None:
    files = {"Makefile": "obj-$(CONFIG_MINE) += mine.o\n", "mine.c": ONE}
    folder = write(tmp_path / "mine", files)
    assert compiled(made, ownsource.resolve(made, str(folder), kernel="fake")).name == "mine"


def test_folder_that_decides_on_an_option_itself_is_obeyed(made: Lab, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "mine",
        {
            "Makefile": "CONFIG_A := n\nobj-$(CONFIG_A) += a.o\nobj-m += b.o\n",
            "a.c": "#error not wanted\n",
            "b.c": ONE,
        },
    )
    module = compiled(made, ownsource.resolve(made, str(folder), kernel="fake"))
    assert names(module.everything) == ["b"]


def test_module_that_make_does_not_make(made: Lab, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "mine",
        {"Makefile": "CONFIG_A := n\nobj-$(CONFIG_A) += mine.o\nobj-m += b.o\n", "b.c": ONE},
    )
    with pytest.raises(BuildError, match=r"make makes no mine\.ko of it, but b") as caught:
        compiled(made, ownsource.resolve(made, str(folder), kernel="fake"))
    assert f"{folder}/b.o" in str(caught.value.hint)


def test_kbuild_files_further_down(made: Lab, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "mine",
        {
            "Makefile": "all:\n\t$(MAKE) -C src\n",
            "src/core/Kbuild": "obj-m := core.o\nccflags-y := -I$(src)/../..\n",
            "src/core/core.c": "#include <top.h>\nint core(void) { return TOP; }\n"
            "EXPORT_SYMBOL(core);\n",
            "src/mine/Makefile": "obj-m := mine.o\n",
            "src/mine/mine.c": "int core(void);\nint mine(void) { return core(); }\n",
            "top.h": "#define TOP 1\n",
        },
    )
    own = ownsource.resolve(made, str(folder), kernel="fake")
    assert own.family.build == ("src/core", "src/mine")
    assert names(compiled(made, own).everything) == ["core", "mine"]


def test_what_was_found_in_a_folder_is_no_part_of_its_source(made: Lab, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {"Kbuild": "obj-m := mine.o\n", "mine.c": ONE})
    own = ownsource.resolve(made, str(folder), kernel="fake")
    before = modulebuild.sources_digest(own.family)
    left = ("mine.o", "mine.ko", "mine.mod", "mine.mod.c", ".mine.o.cmd", "Module.symvers",
            "modules.order", "harness.yaml", "runs/x/bundle.json", "runs/x/console.txt",
            ".git/HEAD")  # fmt: skip
    write(folder, dict.fromkeys(left, "x"))
    assert modulebuild.sources_digest(own.family) == before
    write(folder, {"mine.h": ""})
    assert modulebuild.sources_digest(own.family) != before


def test_links_are_followed_once(made: Lab, tmp_path: Path) -> None:
    write(tmp_path / "shared", {"shared.h": "#define SHARED 1\n"})
    folder = write(
        tmp_path / "mine",
        {"Kbuild": "obj-m := mine.o\n", "mine.c": '#include "common/shared.h"\n' + ONE},
    )
    (folder / "common").symlink_to(tmp_path / "shared")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.h").symlink_to(tmp_path / "nowhere.h")
    assert compiled(made, ownsource.resolve(made, str(folder), kernel="fake")).name == "mine"


def test_folder_with_more_than_a_modules_sources(
    made: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modulebuild, "_COPY_LIMIT_FILES", 10)
    files = {"Kbuild": "obj-m := mine.o\n", "mine.c": ONE}
    folder = write(tmp_path / "mine", files | {f"{n}.txt": "" for n in range(20)})
    with pytest.raises(UsageError, match=r"holds 22 files, .* at most 10 files"):
        compiled(made, ownsource.resolve(made, str(folder), kernel="fake"))


# ---- what is wrong with a folder ----------------------------------------------------------------


def failure(made: Lab, folder: Path, profile: str | None = None) -> BuildError:
    own = ownsource.resolve(made, str(folder), kernel="fake", profile=profile)
    with pytest.raises(BuildError) as caught:
        compiled(made, own)
    return caught.value


def test_no_kbuild_file(made: Lab, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no Kbuild file in it"):
        ownsource.resolve(made, str(write(tmp_path / "mine", {"a.c": ONE})), kernel="fake")


def test_first_error_has_its_place(made: Lab, tmp_path: Path) -> None:
    error = failure(
        made, write(tmp_path / "mine", {"Kbuild": "obj-m := mine.o\n", "mine.c": "int x = y;\n"})
    )
    assert "mine: does not compile for 9.8.7-small" in error.message
    assert "mine.c:1:9: error:" in error.evidence


USES_BLOCK = {
    "Kbuild": "obj-m := mine.o\n",
    "mine.c": "int submit_block(void);\nint mine(void) { return submit_block(); }\n",
}


def test_symbol_of_an_option_that_the_kernel_lacks(made: Lab, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", USES_BLOCK)
    error = failure(made, folder)
    assert "lacks: BLOCK (for submit_block)" in error.message
    assert "--add-config BLOCK=y" in str(error.hint)
    # And that helps.
    own = ownsource.resolve(made, str(folder), kernel="fake", add_config=["BLOCK=y"])
    assert own.profile == "check"
    assert compiled(made, own).name == "mine"


def test_symbol_of_a_module_of_the_kernel_that_has_to_be_selected(
    made: Lab, tmp_path: Path
) -> None:
    files = {"Kbuild": "obj-m := mine.o\n",
             "mine.c": "int pool_mount(void);\nint (*p)(void) = pool_mount;\n"}  # fmt: skip
    error = failure(made, write(tmp_path / "mine", files), "check")
    assert "lacks: POOL_FS (for pool_mount)" in error.message
    assert "--add-config APOOL=m,MISC=y" in str(error.hint)


def test_declaration_under_an_option_that_the_kernel_lacks(made: Lab, tmp_path: Path) -> None:
    files = {"Kbuild": "obj-m := mine.o\n",
             "mine.c": "#include <linux/nic.h>\nstruct nic_state state;\n"
                       "int mine(void) { return sizeof(struct nic_state); }\n"}  # fmt: skip
    error = failure(made, write(tmp_path / "mine", files))
    assert "lacks: NET" in error.message
    assert "--add-config NET=y" in str(error.hint)


def test_makefile_that_says_itself_what_it_needs(made: Lab, tmp_path: Path) -> None:
    text = "ifndef CONFIG_POOL_FS\n$(error ** You need POOL_FS in your KERNEL_TREE **)\nendif\n"
    files = {"Makefile": text + "obj-m := mine.o\n", "mine.c": ONE}
    error = failure(made, write(tmp_path / "mine", files))
    assert "lacks: POOL_FS" in error.message
    assert "You need POOL_FS" in error.evidence


def test_symbol_that_nobody_exports(made: Lab, tmp_path: Path) -> None:
    files = {
        "Kbuild": "obj-m := mine.o\n",
        "mine.c": "int nobody(void);\nint (*p)(void) = nobody;\n",
    }
    error = failure(made, write(tmp_path / "mine", files))
    assert (
        "needs nobody, which neither the kernel fake exports nor a source beside" in error.message
    )
    assert error.hint is None


def test_symbol_of_a_module_beside(made: Lab, tmp_path: Path) -> None:
    write(tmp_path / "base", {"Kbuild": "obj-m := base.o\n", "base.c": SEVERAL["sub/base.c"]})
    files = {"Kbuild": "obj-m := user.o\n", "user.c": SEVERAL["user.c"]}
    error = failure(made, write(tmp_path / "user", files))
    assert "needs symbols of another module: base_call, of " in error.message
    assert "base/base.c" in error.message
    assert "obj-m := base/ user/" in str(error.hint)
    # And that helps.
    (tmp_path / "Kbuild").write_text("obj-m := base/ user/\n")
    own = ownsource.resolve(made, f"{tmp_path}/user.o", kernel="fake")
    assert names(compiled(made, own).everything) == ["base", "user"]


def test_header_outside_of_the_folder(made: Lab, tmp_path: Path) -> None:
    write(tmp_path / "other", {"other.h": ""})
    files = {"Kbuild": "obj-m := mine.o\n", "mine.c": '#include "../other/other.h"\n' + ONE}
    error = failure(made, write(tmp_path / "mine", files))
    assert "includes ../other/other.h, which is outside of its folder" in error.message
    assert f"{tmp_path}/other/other.h" in str(error.hint)


def test_header_that_the_kernel_does_not_have(made: Lab, tmp_path: Path) -> None:
    files = {"Kbuild": "obj-m := mine.o\n", "mine.c": "#include <linux/gone.h>\n" + ONE}
    error = failure(made, write(tmp_path / "mine", files))
    assert "includes linux/gone.h, which the kernel fake does not have" in error.message


NEEDS_BASE = {
    "base/Kbuild": "obj-m := base.o\n",
    "base/base.c": "int base_call(void) { return 1; }\nEXPORT_SYMBOL(base_call);\n",
    "mine/Kbuild": "obj-m := mine.o\n",
    "mine/mine.c": "int base_call(void);\nint (*p)(void) = base_call;\n",
}


@pytest.mark.parametrize(
    ("files", "words", "said"),
    [
        ({"mine/mine.c": ONE}, "{}/mine", ("no Kbuild file in it",)),
        ({}, "{}/absent", ("absent': no such folder",)),
        ({"mine/Kbuild": "obj-m := mine.o\n", "mine/mine.c": "int x;\nint z = y;\n"}, "{}/mine",
         ("mine: does not compile for 9.8.7-small", "mine.c:2:9: error:")),
        ({f"mine/{name}": text for name, text in USES_BLOCK.items()}, "{}/mine",
         ("lacks: BLOCK (for submit_block)", "hint: build a kernel that has it: --add-config")),
        ({f"mine/{name}": text for name, text in USES_BLOCK.items()},
         "{}/mine --add-config NO_SUCH",
         ("--add-config: kernel fake cannot have NO_SUCH",)),
        (NEEDS_BASE, "{}/mine",
         ("needs symbols of another module: base_call", "hint: compile them together")),
        ({}, "{}/other/nic.ko",
         ("built for kernel 9.8.7-check, not for 9.8.7-small", "hint: give the folder")),
        ({"mine.ko": "no module"}, "{}/mine.ko", ("mine.ko: not a kernel module",)),
        ({}, "--in-tree fs/poool", ("fs has no module poool; did you mean pool?",)),
        ({"mine.deb/x": ""}, "--dkms {}/mine.deb", ("mine.deb: no such file",)),
    ],
    ids=["no-kbuild", "no-folder", "compile", "option", "no-such-option", "other-module",
         "vermagic", "no-module", "place", "package"],
)  # fmt: skip
def test_bad_input_is_the_users_and_is_said_without_a_traceback(
    made: Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: Mapping[str, str],
    words: str,
    said: tuple[str, ...],
) -> None:
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(made.cache.root))
    write(tmp_path, files)
    (tmp_path / "other").mkdir()
    shutil.copyfile(made.kernel("fake", "check").build / "drivers/net/nic.ko",
                    tmp_path / "other/nic.ko")  # fmt: skip
    argv = [*words.format(tmp_path).split(), "--kernel", "fake", "--profile", "kasan"]
    assert cli.main(["check", *argv]) == ExitStatus.USAGE
    error = capsys.readouterr().err
    for text in said:
        assert text in error
    assert "Traceback" not in error


# ---- modules of the kernel's own source ---------------------------------------------------------


def test_modules_of_the_kernels_own_source(made: Lab) -> None:
    found = ownsource.resolve_all(made, in_tree="fs/pool", kernel="fake")
    assert mains(found) == ["bpool", "pool", "apool"]
    # What they depend on comes with them; the tests of them were not asked for, nor
    # what cannot be a module.
    assert {own.profile for own in found} == {"kasan+APOOL=m+BLOCK=y+BPOOL=m+MISC=y"}
    module = compiled(made, found[0])
    assert names(module.everything) == ["help", "pool", "bpool"]
    assert module.vermagic.startswith("9.8.7-small.")
    kernel = made.kernel(found[0].kernel, found[0].profile)
    assert Path(found[0].target).samefile(kernel.build / "fs/pool/bpool.ko")


@pytest.mark.parametrize("place", ["drivers/net/nic", "drivers/net/nic.c", "drivers/net/nic_main"])
def test_one_module_of_a_folder_in_a_profile_that_has_it(made: Lab, place: str) -> None:
    own = ownsource.resolve(made, in_tree=place, kernel="fake")
    assert own.profile == "check"
    assert names(compiled(made, own).everything) == ["nic"]


def test_module_that_the_profile_has_built_in(made: Lab) -> None:
    own = ownsource.resolve(made, in_tree="drivers/net/nic", kernel="fake", profile="kasan+NET+NIC")
    assert own.profile == "kasan+NET=y+NIC=m"


def test_profile_that_was_named_is_built_upon(made: Lab) -> None:
    own = ownsource.resolve(
        made, in_tree="fs/pool", kernel="fake", profile="check", add_config=["SMP,TINY=y"]
    )
    assert own.profile == "check+APOOL=m+BPOOL=m+MISC=y"


def test_module_of_the_kernel_for_a_module_of_ones_own(made: Lab, tmp_path: Path) -> None:
    files = {"Kbuild": "obj-m := mine.o\n",
             "mine.c": "int nic_send(void);\nint mine(void) { return nic_send(); }\n"}  # fmt: skip
    own = ownsource.resolve(
        made, str(write(tmp_path / "mine", files)), kernel="fake", profile="check"
    )
    assert names(compiled(made, own).everything) == ["nic", "mine"]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("fs/poll", r"fs has no module poll"),
        ("drivrs/net", "no such folder in the kernel's source; did you mean drivers"),
        ("../fs", "not a place in the kernel's source, as fs/fat is: leads out of it"),
        ("/fs/pool", "not a place in the kernel's source, as fs/fat is: begins with '/'"),
        ("drivers/net/nik", r"drivers/net has no module nik; did you mean nic\?"),
        ("fs/pool/debug", r"nothing in it can be a module: debug: POOL_DEBUG is bool"),
        ("fs/pool/pool_test", r"cannot be configured"),
    ],
)
def test_place_with_nothing_to_take(made: Lab, place: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        ownsource.resolve(made, in_tree=place, kernel="fake")


def test_place_outside_is_said_before_the_source_is_fetched(
    made: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*rest: object) -> None:
        raise AssertionError("the source was fetched")

    monkeypatch.setattr(ownsource.kernels, "source_tree", never)
    with pytest.raises(UsageError, match=r"leads out of it by '\.\.'"):
        ownsource.resolve(made, in_tree="fs/../../etc", kernel="fake")


def test_report_about_a_place_that_is_not_there_runs_nothing(
    made: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*rest: object) -> None:
        raise AssertionError("something was built")

    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(made.cache.root))
    for name in ("kernel", "build", "subject"):
        monkeypatch.setattr(Lab, name, never)
    form = tmp_path / "report.yaml"
    form.write_text("title: oops\nkernel: '9.8'\nmodule: {in_tree: drivrs/net}\n")
    words = ["reproduce", str(form), "--kernel", "fake", "--profile", "kasan"]
    assert cli.main(words) == ExitStatus.USAGE
    said = capsys.readouterr().err
    assert "--in-tree drivrs/net: no such folder in the kernel's source; did you mean" in said


# ---- options --------------------------------------------------------------------------------


def test_option_is_added_with_what_it_depends_on(made: Lab, tmp_path: Path) -> None:
    folder = str(write(tmp_path / "mine", USES_BLOCK))
    own = ownsource.resolve(made, folder, kernel="fake", add_config=["CONFIG_APOOL=m"])
    assert own.profile == "kasan+APOOL=m+BLOCK=y+MISC=y"
    assert compiled(made, own).name == "mine"
    again = ownsource.resolve(made, folder, kernel="fake", add_config=["MISC", "APOOL=m,BLOCK=y"])
    assert again.profile == own.profile


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("NOTHING", r"cannot have NOTHING\n.*no option of this name"),
        ("MISC=m", r"MISC: can be y, but not a module"),
        ("A_STRING=y", r"A_STRING: is no switch but a string"),
        ("POOL_TEST=m", r"POOL_TEST: .*depends on MISC && KUNIT"),
        ("block=y", r"'block=y': not of the form NAME=VALUE"),
        ("BLOCK=yes", r"not of the form"),
        ("BLOCK=y;reboot", r"not of the form"),
    ],
)
def test_option_that_cannot_be_added(made: Lab, tmp_path: Path, word: str, why: str) -> None:
    folder = write(tmp_path / "mine", USES_BLOCK)
    with pytest.raises(UsageError, match=why):
        ownsource.resolve(made, str(folder), kernel="fake", add_config=[word])


def test_what_kconfig_drops_is_said_with_what_it_needs(made: Lab) -> None:
    with pytest.raises(UsageError, match="does not take APOOL as asked for") as caught:
        made.kernel("fake", "kasan+APOOL=m")
    assert "fs/pool/Kconfig:5: tristate; depends on MISC && BLOCK" in caught.value.evidence
    assert "(BLOCK is n, MISC is n)" in caught.value.evidence
    assert "--add-config BLOCK=y,MISC=y" in str(caught.value.hint)


def test_kernel_with_options_is_listed_as_the_others(made: Lab) -> None:
    kernel = made.kernel("fake", "kasan+BLOCK=y+MISC=y")
    entries = {entry.key: entry for entry in inventory.list_kernels(made.cache)}
    assert entries[kernel.key].state is inventory.State.BUILT
    assert entries[kernel.key].profile == "kasan+BLOCK=y+MISC=y"


def test_words_of_the_command_line(made: Lab) -> None:
    parser = argparse.ArgumentParser()
    ownarguments.add_arguments(parser)
    words = "--in-tree fs/pool --main apool --kernel fake --add-config NET --add-config TINY=y"
    own = ownarguments.from_arguments(made, parser.parse_args(words.split()))
    assert own.family.name == "apool"
    assert own.profile == "kasan+APOOL=m+BLOCK=y+BPOOL=m+MISC=y+NET=y"


# ---- compiled modules, and trees ------------------------------------------------------------


def test_compiled_module_in_the_tree_it_was_built_in(made: Lab, tmp_path: Path) -> None:
    kernel = made.kernel("fake", "check")
    built = kernel.build
    # A developer's, with ``O=`` away from the source.
    left_out = shutil.ignore_patterns("source", "cache")
    shutil.copytree(built, tmp_path / "linux", symlinks=True, ignore=left_out)
    (tmp_path / "linux/source").symlink_to(kernel.source)
    (tmp_path / "linux/arch/x86/boot").mkdir(parents=True, exist_ok=True)
    (tmp_path / "linux/arch/x86/boot/bzImage").write_text("kernel\n")
    with (tmp_path / "linux/.config").open("a") as file:
        file.writelines(f"{option}=y\n" for option in ownsource.readymade._GUEST_NEEDS)
    ko = write(tmp_path / "kos", {}) / "nic.ko"
    ko.parent.mkdir()
    shutil.copyfile(built / "drivers/net/nic.ko", ko)
    own = ownsource.resolve(made, str(ko), kernel_tree=tmp_path / "linux")
    assert own.profile == "kasan"
    assert own.kernel.endswith("/tree-linux.yaml")
    assert names(compiled(made, own).everything) == ["nic"]
    again = ownsource.resolve(made, in_tree="drivers/net/nic", kernel_tree=tmp_path / "linux")
    assert again.kernel == own.kernel


def test_tree_that_was_not_built(made: Lab, tmp_path: Path) -> None:
    (tmp_path / "linux").mkdir()
    with pytest.raises(UsageError, match="not a kernel tree that was built"):
        ownsource.resolve(made, "poolfs", kernel_tree=tmp_path / "linux")


def test_module_for_another_kernel(made: Lab, tmp_path: Path) -> None:
    built = made.kernel("fake", "check").build
    shutil.copyfile(built / "drivers/net/nic.ko", tmp_path / "nic.ko")
    own = ownsource.resolve(made, str(tmp_path / "nic.ko"), kernel="fake", profile="kasan")
    with pytest.raises(BuildError, match=r"built for kernel 9\.8\.7-check, not for 9\.8\.7-small"):
        compiled(made, own)


def test_module_for_the_same_kernel_configured_otherwise(made: Lab, tmp_path: Path) -> None:
    kernel = made.kernel("fake", "check")
    ko = (kernel.build / "drivers/net/nic.ko").read_bytes()
    (tmp_path / "nic.ko").write_bytes(ko.replace(b"SMP mod_unload ", b"SMP preempt    "))
    own = ownsource.resolve(made, str(tmp_path / "nic.ko"), kernel="fake", profile="check")
    with pytest.raises(
        BuildError, match=r"vermagic is .* SMP preempt', and the kernel has SMP mod_unload"
    ):
        compiled(made, own)


# ---- packages for DKMS ----------------------------------------------------------------------

CONF = """\
PACKAGE_NAME="mine"
PACKAGE_VERSION="1.2"
MAKE[0]="make -C ${kernel_source_dir} M=${dkms_tree}/${PACKAGE_NAME}/${PACKAGE_VERSION}/build"
BUILT_MODULE_NAME[0]="$PACKAGE_NAME"
DEST_MODULE_LOCATION[0]="/extra"
"""
PACKAGE = {"dkms.conf": CONF, "Makefile": "obj-m := mine.o\n", "mine.c": ONE}


def write_deb(folder: Path, files: Mapping[str, str], link: str | None = None) -> Path:
    tree = folder / "tree"
    write(tree, {"DEBIAN/control": "Package: mine-dkms\nVersion: 1.2\nArchitecture: all\n"
                 "Maintainer: A <a@example.org>\nDescription: x\n"})  # fmt: skip
    write(tree / "usr/src/mine-1.2", files)
    if link:
        (tree / "usr/src/mine-1.2/link.h").symlink_to(link)
    deb = folder / "mine-dkms.deb"
    subprocess.run(["dpkg-deb", "--build", str(tree), str(deb)], check=True, capture_output=True)
    return deb


def test_package_from_a_file(made: Lab, tmp_path: Path) -> None:
    own = ownsource.resolve(made, dkms=str(write_deb(tmp_path, PACKAGE)), kernel="fake")
    assert own.family.name == "mine"
    assert own.family.description == "mine 1.2"
    assert own.profile == "check"
    assert made.cache.root in Path(own.target).parents
    assert names(compiled(made, own).everything) == ["mine"]
    assert own.notes == ()


def test_package_of_several_folders(made: Lab, tmp_path: Path) -> None:
    make = "make -C $kernel_source_dir M=$dkms_tree/mine/1.2/build/"
    files = {
        "dkms.conf": 'PACKAGE_NAME=mine\nPACKAGE_VERSION=1.2\n'
        f'MAKE="{make}src/base modules \\\n && {make}src/user modules"\n'
        "BUILT_MODULE_NAME[0]=base\nBUILT_MODULE_LOCATION[0]=src/base/\n"
        "BUILT_MODULE_NAME[1]=user\nBUILT_MODULE_LOCATION[1]=src/user/\nPRE_BUILD=configure.sh\n",
        "src/base/Kbuild": "obj-m := base.o\n",
        "src/base/base.c": SEVERAL["sub/base.c"],
        "src/user/Makefile": "obj-m := user.o\n",
        "src/user/user.c": SEVERAL["user.c"],
    }  # fmt: skip
    found = ownsource.resolve_all(made, dkms=str(write_deb(tmp_path, files)), kernel="fake")
    assert mains(found) == ["user", "base"]
    assert found[0].notes == ("PRE_BUILD=configure.sh: not run",)
    assert names(compiled(made, found[0]).everything) == ["base", "user"]


def test_link_that_leads_out_of_a_package_is_left_out(made: Lab, tmp_path: Path) -> None:
    deb = write_deb(tmp_path, PACKAGE, link="/etc/passwd")
    own = ownsource.resolve(made, dkms=str(deb), kernel="fake")
    assert own.notes == ("link.h: leads out of the package; left out",)
    assert not (own.family.home / "link.h").is_symlink()


def test_package_without_a_module(made: Lab, tmp_path: Path) -> None:
    files = {"dkms.conf": "PACKAGE_NAME=mine\nPACKAGE_VERSION=1\n", "Makefile": "all:\n"}
    with pytest.raises(UsageError, match=r"its dkms\.conf and Makefiles name no module"):
        ownsource.resolve(made, dkms=str(write_deb(tmp_path, files)), kernel="fake")


def test_package_that_is_not_for_dkms(made: Lab, tmp_path: Path) -> None:
    deb = write_deb(tmp_path, {"README": ""})
    before = set((made.cache.root / "dkms").glob("*"))
    with pytest.raises(UsageError, match=r"holds no usr/src/\*/dkms\.conf"):
        ownsource.resolve(made, dkms=str(deb), kernel="fake")
    # Nothing of it stays.
    assert set((made.cache.root / "dkms").iterdir()) == before


class Archive:
    """Debian's archive with one package in it."""

    def __init__(self, deb: Path) -> None:
        self.deb = deb
        self.asked = 0

    def update(self, deadline: object) -> None:
        self.asked += 1

    def resolve(self, name: str, deadline: object) -> ownsource.Package:
        if name != "mine-dkms":
            raise InfrastructureError(f"package {name}: not there")
        return ownsource.Package(name, "1.2", store.digest_file(self.deb), 1)

    def names(self, suffix: str, deadline: object) -> tuple[str, ...]:
        return ("mine-dkms", "yours-dkms")

    def fetch(self, package: ownsource.Package, into: Path, deadline: object) -> Path:
        return Path(shutil.copy(self.deb, into / "mine-dkms_1.2.deb"))


def test_package_from_the_archive(
    made: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(write_deb(tmp_path, PACKAGE))
    monkeypatch.setattr(sources, "archive_of", lambda cache, suites: archive)
    own = ownsource.resolve(made, dkms="mine-dkms", kernel="fake")
    assert compiled(made, own).name == "mine"
    # What was decided once needs no archive any more.
    assert ownsource.resolve(made, dkms="mine-dkms", kernel="fake") == own
    assert archive.asked == 1
    with pytest.raises(UsageError, match=r"mime-dkms: no such package.*did you mean mine-dkms"):
        ownsource.resolve(made, dkms="mime-dkms", kernel="fake")
    with pytest.raises(UsageError, match="not a name of a Debian package"):
        ownsource.resolve(made, dkms="-o=Evil", kernel="fake")
    with pytest.raises(UsageError, match="no such file"):
        ownsource.resolve(made, dkms="nothing.deb", kernel="fake")


def test_one_thing_is_named(made: Lab) -> None:
    with pytest.raises(UsageError, match="name one thing"):
        ownsource.resolve(made)
    with pytest.raises(UsageError, match=r"given: a, fs/fat"):
        ownsource.resolve(made, "a", in_tree="fs/fat")
