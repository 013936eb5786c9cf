# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

from harness import modulebuild
from harness.kernels import Kernel


def made_kernel(folder: Path, release: str) -> Kernel:
    (folder / "kernel" / "k" / "build").mkdir(parents=True)
    return Kernel(
        name="k", profile="p", release=release, version="1", compiler="gcc", config_sha256="0",
        key="k", path=folder / "kernel" / "k", source=folder / "source",
    )  # fmt: skip


def test_module_is_compiled_under_a_name_that_is_the_same_everywhere(tmp_path: Path) -> None:
    kernel = made_kernel(tmp_path, "6.12.3-kasan")
    tree = tmp_path / "module" / "x" / "src"
    assert modulebuild._seen_from(kernel, tree) == "../../../module/x/src"
    maps = modulebuild._prefix_maps(kernel, tree).split()
    assert f"-ffile-prefix-map={tmp_path}/source/=" in maps
    assert f"-ffile-prefix-map={tree}/=" in maps
    assert "-ffile-prefix-map=../../../module/x/src/=" in maps


def test_module_is_called_by_its_way_through_the_cache(tmp_path: Path) -> None:
    """A build tree right below its source: what leads out of one leads elsewhere from the other."""
    kernel = made_kernel(tmp_path, "6.1.9")
    linux = kernel.path / "linux"
    kernel.build.rmdir()
    (linux / "build").mkdir(parents=True)
    (kernel.path / "build").symlink_to("linux/build")
    (linux / "build" / "source").symlink_to("..")
    (linux / "cache").symlink_to("../../..")
    (linux / "build" / "cache").symlink_to("../../../..")
    tree = tmp_path / "module" / "x" / "src"
    tree.mkdir(parents=True)
    seen = modulebuild._seen_from(kernel, tree)
    assert seen == "cache/module/x/src"
    for top in (linux, linux / "build"):
        assert (top / seen).samefile(tree)


def test_module_for_a_tree_whose_build_tree_is_elsewhere(tmp_path: Path) -> None:
    """A developer's own: ``O=`` right below the source, or anywhere."""
    kernel = made_kernel(tmp_path, "6.1.9")
    source = tmp_path / "own" / "linux"
    (source / "build").mkdir(parents=True)
    kernel.build.rmdir()
    kernel.build.symlink_to(source / "build")
    tree = tmp_path / "module" / "x" / "src"
    assert modulebuild._seen_from(kernel, tree) == "../../../module/x/src"
    (source / "build" / "source").symlink_to("..")
    assert modulebuild._seen_from(kernel, tree) == str(tree)


def test_module_has_its_whole_path_where_make_works_in_its_folder(tmp_path: Path) -> None:
    kernel = made_kernel(tmp_path, "6.13.0")
    tree = tmp_path / "module" / "x" / "src"
    assert modulebuild._seen_from(kernel, tree) == str(tree)
