# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that others have made: a developer's tree, and packages made here for it."""

import lzma
import shutil
from pathlib import Path

import pytest

from harness import kernels, machine, readymade, sources, store
from harness.archive import Archive, Package
from harness.deadline import Deadline
from harness.errors import InfrastructureError, KernelBuildError, UsageError
from harness.kernelfiles import Recipe

CONFIG = "".join(f"{option}=y\n" for option in readymade._GUEST_NEEDS)


@pytest.fixture
def cache(tmp_path: Path) -> store.Store:
    return store.Store.open(tmp_path / "cache")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What `make bzImage modules` leaves, as far as anybody looks at it."""
    root = tmp_path / "linux"
    for name in readymade._BUILT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    (root / "arch/x86/boot/bzImage").write_text("kernel")
    (root / "vmlinux").write_text("symbols")
    (root / "include/config/kernel.release").write_text("6.19.0-mine+\n")
    (root / ".config").write_text(CONFIG + "CONFIG_SLUB_DEBUG=y\nCONFIG_RANDOMIZE_BASE=y\n")
    return root


def tree_recipe(tree: Path, profile: str = "distro") -> Recipe:
    path = tree.parent / "mine.yaml"
    path.write_text("name: mine\nprovider: tree\npath: linux\n")
    return kernels.load_recipe(str(path), profile)


def test_tree_is_used_as_it_is(cache: store.Store, tree: Path) -> None:
    kernel = kernels.build_kernel(cache, tree_recipe(tree))
    assert kernel.release == "6.19.0-mine+"
    assert kernel.build.resolve() == tree
    assert kernel.source == tree
    assert kernel.bzimage.read_text() == "kernel"
    assert "nokaslr" in kernel.arguments
    assert kernel.vmlinux == kernel.path / "build" / "vmlinux"
    assert "SLUB poison" in kernel.detectors
    assert kernel.make_variables == ("CC=gcc",)
    assert kernels.find_kernel(cache, tree_recipe(tree)) == kernel


def test_source_of_a_tree_that_was_built_elsewhere(cache: store.Store, tree: Path) -> None:
    (tree.parent / "source").mkdir()
    (tree / "source").symlink_to("../source")
    assert kernels.build_kernel(cache, tree_recipe(tree)).source == tree.parent / "source"


def test_tree_that_was_built_anew_is_another_kernel(cache: store.Store, tree: Path) -> None:
    first = kernels.build_kernel(cache, tree_recipe(tree))
    (tree / "arch/x86/boot/bzImage").write_text("another")
    assert kernels.find_kernel(cache, tree_recipe(tree)) is None
    second = kernels.build_kernel(cache, tree_recipe(tree))
    assert (first.bzimage.read_text(), second.bzimage.read_text()) == ("kernel", "another")
    # What was built before is removed without the tree that it leads to.
    assert cache.remove("kernel", first.key)
    assert (tree / ".config").is_file()


def test_tree_that_was_not_built(cache: store.Store, tree: Path) -> None:
    (tree / "arch/x86/boot/bzImage").unlink()
    (tree / "Module.symvers").unlink()
    with pytest.raises(UsageError, match=r"has no arch/x86/boot/bzImage, Module\.symvers"):
        kernels.build_kernel(cache, tree_recipe(tree))


def test_tree_that_is_not_there(cache: store.Store, tree: Path) -> None:
    recipe = tree_recipe(tree)
    shutil.rmtree(tree)
    with pytest.raises(UsageError, match=r"mine\.yaml: path: .*/linux: no such folder"):
        kernels.build_kernel(cache, recipe)


def test_tree_that_lacks_what_every_guest_needs(cache: store.Store, tree: Path) -> None:
    (tree / ".config").write_text("CONFIG_SLUB_DEBUG=y\n" + CONFIG.replace("CONFIG_TMPFS=y\n", ""))
    with pytest.raises(UsageError, match="configured without CONFIG_TMPFS, which a guest needs"):
        kernels.build_kernel(cache, tree_recipe(tree))


@pytest.mark.parametrize(
    ("profile", "option"), [("kasan", "CONFIG_KASAN"), ("distro", "CONFIG_SLUB_DEBUG")]
)
def test_tree_that_lacks_what_the_profile_needs(
    cache: store.Store, tree: Path, profile: str, option: str
) -> None:
    (tree / ".config").write_text(CONFIG)
    with pytest.raises(UsageError, match=f"without {option}.*, which the profile {profile} needs"):
        kernels.build_kernel(cache, tree_recipe(tree, profile))


TOOL = "#!/bin/sh\necho '{said}' >&2\nexit 1\n"

RELEASE = "6.1.0-9-amd64"


def package(name: str, size: int = 1) -> Package:
    return Package(name, "6.1.9-1", f"{size:064x}", size)


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """An archive of the packages of one kernel; returns which depends on which."""
    depends = {
        "linux-image-amd64": [f"linux-image-{RELEASE}"],
        f"linux-image-{RELEASE}": ["kmod", "linux-base"],
        "linux-headers-amd64": [f"linux-headers-{RELEASE}"],
        f"linux-headers-{RELEASE}": ["linux-headers-6.1.0-9-common", "linux-kbuild-6.1", "gcc-12"],
        "linux-headers-6.1.0-9-common": [],
        "linux-kbuild-6.1": [],
    }

    def resolve(self: Archive, name: str, deadline: Deadline) -> Package:
        if name not in depends:
            raise InfrastructureError(f"package {name}: not in {', '.join(self.suites)}")
        return package(name, 1000 if name == f"linux-image-{RELEASE}" else 1)

    def fetch(self: Archive, one: Package, into: Path, deadline: Deadline) -> Path:
        path = into / f"{one.name}.deb"
        path.write_text(one.name)
        return path

    def unpack(deb: Path, into: Path, deadline: Deadline) -> None:
        name = deb.read_text()
        headers = into / "usr/src" / f"linux-headers-{RELEASE}"
        if name == f"linux-image-{RELEASE}":
            (into / "boot").mkdir(parents=True)
            (into / "boot" / f"vmlinuz-{RELEASE}").write_text("kernel")
            modules = into / "lib/modules" / RELEASE
            (modules / "kernel/net").mkdir(parents=True)
            for module, needs in (("virtio_pci", ""), ("failover", ""), ("virtio-net", "failover")):
                content = lzma.compress(f"\0depends={needs}\0".encode())
                (modules / "kernel/net" / f"{module}.ko.xz").write_bytes(content)
            (modules / "modules.builtin").write_text("kernel/fs/configfs.ko\n")
        elif name == f"linux-headers-{RELEASE}":
            headers.mkdir(parents=True)
            (headers / "Makefile").write_text(
                "include /usr/src/linux-headers-6.1.0-9-common/Makefile\n"
            )
            (headers / ".config").write_text(CONFIG + "CONFIG_SLUB_DEBUG=y\n")
            (headers / "vmlinux").write_text("types, and no symbols")
            for tool in ("basic/fixdep", "mod/modpost"):
                path = headers / "scripts" / tool
                path.parent.mkdir(parents=True)
                path.write_text(TOOL.format(said=" ".join(depends.get(f"{tool} says", []))))
                path.chmod(0o755)
        elif name == "linux-headers-6.1.0-9-common":
            (headers.parent / name).mkdir(parents=True)

    monkeypatch.setattr(Archive, "update", lambda self, deadline: None)
    monkeypatch.setattr(Archive, "resolve", resolve)
    monkeypatch.setattr(Archive, "depends", lambda self, one, deadline: tuple(depends[one.name]))
    monkeypatch.setattr(Archive, "fetch", fetch)
    monkeypatch.setattr(readymade, "unpack", unpack)
    return depends


def test_binary_is_taken_with_its_headers_and_modules(
    cache: store.Store, archive: dict[str, list[str]]
) -> None:
    recipe = kernels.load_recipe("6.1", "distro")
    assert kernels.find_kernel(cache, recipe) is None
    kernel = kernels.build_kernel(cache, recipe)
    assert (kernel.release, kernel.version) == (RELEASE, "6.1.9-1")
    assert kernel.bzimage.read_text() == "kernel"
    assert "rdinit=/early/init" in kernel.arguments
    assert kernel.vmlinux is None
    # The headers work where they lie.
    include = (kernel.build / "Makefile").read_text().split()[1]
    assert (kernel.build.resolve() / include).parent.resolve() == kernel.source
    assert kernel.extra is not None
    assert kernel.source.is_dir()
    assert kernels.find_kernel(cache, recipe) == kernel


def test_modules_come_after_what_they_need_and_what_is_part_of_the_kernel_does_not(
    cache: store.Store, archive: dict[str, list[str]]
) -> None:
    kernel = kernels.build_kernel(cache, kernels.load_recipe("6.1", "distro"))
    folder = cache.root / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    readymade.unpack(_deb(cache.root, f"linux-image-{RELEASE}"), folder, Deadline.after(60))
    entries = readymade.early_entries(folder / "lib/modules" / RELEASE, ("virtio_net", "configfs"))
    assert list(entries) == ["early/failover.ko", "early/virtio_net.ko", "early/init"]
    assert entries["early/init"].content.decode().splitlines()[1:] == [
        "/bin/busybox insmod /early/failover.ko",
        "/bin/busybox insmod /early/virtio_net.ko",
        "exec /init",
    ]
    with pytest.raises(
        KernelBuildError, match=r"module nothing: neither in 6\.1\.0-9-amd64 nor part"
    ):
        readymade.early_entries(folder / "lib/modules" / RELEASE, ("nothing",))
    assert kernel.extra is not None


def _deb(folder: Path, name: str) -> Path:
    path = folder / "one.deb"
    path.write_text(name)
    return path


def test_what_a_binary_is_was_decided_once(
    cache: store.Store, archive: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = kernels.load_recipe("6.1", "distro")
    kernel = kernels.build_kernel(cache, recipe)

    def unreachable(self: Archive, deadline: Deadline) -> None:
        raise InfrastructureError("Debian's archive cannot be asked")

    monkeypatch.setattr(Archive, "update", unreachable)
    assert kernels.build_kernel(cache, recipe) == kernel
    sources.forget(cache, recipe)
    with pytest.raises(InfrastructureError, match="cannot be asked"):
        kernels.build_kernel(cache, recipe)


def test_binary_that_vanished_from_the_archive(
    cache: store.Store, archive: dict[str, list[str]]
) -> None:
    del archive["linux-headers-amd64"]
    with pytest.raises(InfrastructureError, match="package linux-headers-amd64: not in bookworm"):
        kernels.build_kernel(cache, kernels.load_recipe("6.1", "distro"))


def test_headers_of_another_version(cache: store.Store, archive: dict[str, list[str]]) -> None:
    archive["linux-headers-amd64"] = []
    with pytest.raises(KernelBuildError, match=f"the headers are not those of {RELEASE}"):
        kernels.build_kernel(cache, kernels.load_recipe("6.1", "distro"))


@pytest.mark.parametrize("tool", ["basic/fixdep", "mod/modpost"])
def test_headers_whose_programs_do_not_run_here(
    cache: store.Store, archive: dict[str, list[str]], tool: str
) -> None:
    archive[f"{tool} says"] = [f"{tool}: libc.so.6: version `GLIBC_2.99` not found"]
    with pytest.raises(KernelBuildError, match="do not run here") as caught:
        kernels.build_kernel(cache, kernels.load_recipe("6.1", "distro"))
    assert "GLIBC_2.99" in caught.value.evidence


def test_arguments_of_a_profile_come_last(tmp_path: Path) -> None:
    nowhere = Path("-")
    guest = machine.Machine(
        qemu=nowhere, lane=machine.Lane.DET, accelerator=machine.Accelerator.TCG, bzimage=nowhere,
        initrd=nowhere, memory=nowhere, share_memory=False, console=nowhere, input=nowhere,
        arguments=("slub_debug=FZPU",),
    )  # fmt: skip
    argv = guest.argv(qmp_fd=3, report="null")
    assert argv[argv.index("-append") + 1].endswith("kmemleak=off slub_debug=FZPU")
