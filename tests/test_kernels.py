# SPDX-License-Identifier: GPL-2.0-only
"""Building kernels, with a source tree of a few lines in the place of a kernel's."""

import hashlib
import http.server
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cli, inventory, kernels, sources, store
from harness.deadline import Deadline
from harness.errors import (
    ExitStatus,
    InfrastructureError,
    KernelBuildError,
    StorageError,
    UsageError,
)
from harness.inventory import State
from harness.kernelfiles import Recipe

SOURCE = Path(__file__).parent / "data" / "kernel"

KERNEL = """\
name: fake
provider: tarball
url: linux.tar.gz
sha256: {sha256}
"""


def write_tarball(folder: Path, path: Path) -> Path:
    """Pack a source tree as kernel.org does, below one folder."""
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname="linux-9.8.7")
    return path


def changed_source(folder: Path) -> Path:
    """Return a copy of the source tree, to be changed."""
    return Path(shutil.copytree(SOURCE, folder / "changed"))


def write_kernel(root: Path, tarball: Path) -> None:
    """Write the file of the kernel ``fake`` for a tarball."""
    sha256 = hashlib.sha256(tarball.read_bytes()).hexdigest()
    (root / "kernels" / "fake.yaml").write_text(KERNEL.format(sha256=sha256))


def write_images(root: Path) -> Path:
    """Write a folder of files of one's own: a kernel ``fake`` and a profile ``plain``."""
    for kind in ("kernels", "profiles", "fragments"):
        (root / kind).mkdir(parents=True)
    (root / "fragments" / "plain.config").write_text("CONFIG_A=y\n# CONFIG_B is not set\n")
    (root / "profiles" / "plain.yaml").write_text(
        "name: plain\nfragments: [plain]\nsteps: 2\narguments: [quiet]\n"
    )
    write_kernel(root, write_tarball(SOURCE, root / "kernels" / "linux.tar.gz"))
    return root


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = write_images(tmp_path / "images")
    monkeypatch.setenv("KMOD_HARNESS_IMAGES", str(root))
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(tmp_path / "cache"))
    return root


@pytest.fixture
def cache(images: Path) -> store.Store:
    return store.Store.open()


@pytest.fixture
def recipe(images: Path) -> Recipe:
    return kernels.load_recipe("fake", "plain")


def listed(cache: store.Store, name: str, profile: str) -> inventory.Entry:
    entries = inventory.list_kernels(cache)
    return next(one for one in entries if (one.name, one.profile) == (name, profile))


def soon() -> Deadline:
    return Deadline.after(60)


def log(cache: store.Store) -> list[str]:
    """What the fake kernel's make did, in order, whether the build is finished or not."""
    found = sorted((cache.root / "kernel").glob("*/linux/build/log"))
    assert len(found) == 1
    return found[0].read_text().split()


def test_kernel_is_built_once_and_recorded(cache: store.Store, recipe: Recipe) -> None:
    said: list[str] = []
    assert kernels.find_kernel(cache, recipe) is None
    kernel = kernels.build_kernel(cache, recipe, lambda what, done: said.append(what))
    assert kernel.release == "9.8.7-rc6-fake"
    assert kernel.version == "9.8.7-rc6"
    assert kernel.bzimage.read_text() == "kernel\n"
    assert kernel.arguments == ("quiet",)
    assert kernel.vmlinux is None
    assert kernel.extra is None
    assert "CONFIG_A=y" in (kernel.build / ".config").read_text()
    assert (kernel.source / "Kconfig").is_file()
    # It was configured and compiled elsewhere, right below what is its source.
    tree = kernel.build.resolve().parent
    assert (kernel.build / "Makefile").read_text().splitlines() == [
        f"export KBUILD_OUTPUT = {tree}/build",
        f"include {tree}/Makefile",
    ]
    assert (tree / "Kconfig").samefile(kernel.source / "Kconfig")
    assert all((top / "cache").samefile(cache.root) for top in (tree, kernel.build))
    assert any(text.startswith("building fake-plain (2 of about 2 steps") for text in said)
    assert kernels.find_kernel(cache, recipe) == kernel
    said.clear()
    assert kernels.build_kernel(cache, recipe, lambda what, done: said.append(what)) == kernel
    assert said == []


def test_build_that_was_killed_goes_on(cache: store.Store, recipe: Recipe, images: Path) -> None:
    sources.get_source(cache, recipe, lambda what, done: None, soon())
    tree = next((cache.root / "source").glob("*/linux"))
    (tree / "stop").touch()
    script = (
        "from harness import kernels, store\n"
        "kernels.build_kernel(store.Store.open(), kernels.load_recipe('fake', 'plain'),"
        " lambda what, done: print(what, flush=True))"
    )
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert any("2 of about 2 steps" in line for line in child.stdout)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    (tree / "stop").unlink()
    again = store.Store.open()
    entry = listed(again, "fake", "plain")
    assert entry.state is State.UNFINISHED
    assert log(again) == ["configured", "one"]
    with again.lock(f"kernel-{entry.key}", soon()):
        assert listed(again, "fake", "plain").state is State.BEING_BUILT
    kernels.build_kernel(again, recipe)
    assert log(again) == ["configured", "one", "two"]
    assert not list((again.root / "kernel").glob(".*"))


def test_build_that_failed_says_why_and_goes_on(cache: store.Store, recipe: Recipe) -> None:
    sources.get_source(cache, recipe, lambda what, done: None, soon())
    tree = next((cache.root / "source").glob("*/linux"))
    (tree / "broken").touch()
    with pytest.raises(KernelBuildError, match="fake-plain: compilation failed") as caught:
        kernels.build_kernel(cache, recipe)
    assert "drivers/two.c:7:3: error: no such thing" in caught.value.evidence
    assert "`compiler: gcc-12` in fake.yaml" in (caught.value.hint or "")
    assert kernels.find_kernel(cache, recipe) is None
    (tree / "broken").unlink()
    kernels.build_kernel(cache, recipe)
    assert log(cache) == ["configured", "one", "two"]


def test_option_that_did_not_survive_is_named(images: Path, cache: store.Store) -> None:
    (images / "fragments" / "plain.config").write_text("CONFIG_IMPOSSIBLE=y\n")
    with pytest.raises(KernelBuildError, match="did not survive olddefconfig: CONFIG_IMPOSSIBLE"):
        kernels.build_kernel(cache, kernels.load_recipe("fake", "plain"))


def test_option_is_looked_up_in_all_of_the_source(
    images: Path, cache: store.Store, tmp_path: Path
) -> None:
    """What is configured is a tree of links, and its folders are not entered."""
    tree = changed_source(tmp_path)
    (tree / "mm").mkdir()
    (tree / "mm" / "Kconfig").write_text("config IMPOSSIBLE\n\tbool\n\tdepends on MAGIC\n")
    write_kernel(images, write_tarball(tree, images / "kernels" / "linux.tar.gz"))
    (images / "fragments" / "plain.config").write_text("CONFIG_IMPOSSIBLE=y\n")
    with pytest.raises(KernelBuildError) as caught:
        kernels.build_kernel(cache, kernels.load_recipe("fake", "plain"))
    assert "mm/Kconfig: depends on MAGIC" in f"{caught.value} {caught.value.evidence}"


def test_source_with_folders_of_our_names(images: Path, cache: store.Store, tmp_path: Path) -> None:
    tree = changed_source(tmp_path)
    for name in ("build", "cache"):
        (tree / name).mkdir()
        (tree / name / "theirs").touch()
    write_kernel(images, write_tarball(tree, images / "kernels" / "linux.tar.gz"))
    kernel = kernels.build_kernel(cache, kernels.load_recipe("fake", "plain"))
    assert (kernel.build / ".config").is_file()
    assert not (kernel.build / "theirs").exists()
    assert (kernel.build / "cache").samefile(cache.root)
    assert [path.name for path in (kernel.source / "build").iterdir()] == ["theirs"]


def test_cache_behind_a_link(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    """The link is not as deep as where it leads."""
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b" / "c")
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(tmp_path / "link"))
    cache = store.Store.open()
    assert kernels.configuration(cache, recipe)["CONFIG_A"] == "y"
    kernel = kernels.build_kernel(cache, recipe)
    assert (kernel.build / ".." / "Kconfig").samefile(kernel.source / "Kconfig")
    assert (kernel.build / "cache").samefile(cache.root)


def test_compiler_that_a_kernel_does_not_like(images: Path, cache: store.Store) -> None:
    (images / "fragments" / "plain.config").write_text("CONFIG_OLD_GCC=y\n")
    with pytest.raises(KernelBuildError, match="configuration failed") as caught:
        kernels.build_kernel(cache, kernels.load_recipe("fake", "plain"))
    assert "Compiler is too old" in caught.value.evidence
    assert "another one is named by `compiler: gcc-12`" in (caught.value.hint or "")


def test_compiler_that_is_not_there(images: Path, cache: store.Store) -> None:
    with (images / "kernels" / "fake.yaml").open("a") as file:
        file.write("compiler: gcc-99\n")
    with pytest.raises(InfrastructureError, match="gcc-99: not found on PATH") as caught:
        kernels.build_kernel(cache, kernels.load_recipe("fake", "plain"))
    assert "apt-get install gcc-99" in (caught.value.hint or "")
    assert not (cache.root / "source").exists()


def test_full_disk_is_said_before_anything_is_fetched(
    cache: store.Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "free_mib", lambda path: 100)
    with pytest.raises(StorageError, match="100 MiB free, 4000 MiB needed"):
        kernels.build_kernel(cache, recipe)
    assert not (cache.root / "source").exists()


def test_archive_with_another_checksum_is_not_unpacked(
    images: Path, cache: store.Store, recipe: Recipe
) -> None:
    with (images / "kernels" / "linux.tar.gz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UsageError, match=r"fake\.yaml: sha256: linux\.tar\.gz has [0-9a-f]{64},"):
        kernels.build_kernel(cache, recipe)
    assert list((cache.root / "source").iterdir()) == []


def test_archive_that_is_not_there(images: Path, cache: store.Store, recipe: Recipe) -> None:
    (images / "kernels" / "linux.tar.gz").unlink()
    with pytest.raises(UsageError, match=r"fake\.yaml: url: .*linux\.tar\.gz: no such file"):
        kernels.build_kernel(cache, recipe)


def test_archive_that_is_none(images: Path, cache: store.Store) -> None:
    path = images / "kernels" / "linux.tar.gz"
    path.write_bytes(b"not an archive")
    write_kernel(images, path)
    with pytest.raises(UsageError, match=r"linux\.tar\.gz cannot be unpacked"):
        kernels.build_kernel(cache, kernels.load_recipe("fake", "plain"))


def test_archive_of_something_else(images: Path, cache: store.Store, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "Makefile").write_text("all:\n")
    path = write_tarball(tmp_path / "other", images / "kernels" / "linux.tar.gz")
    write_kernel(images, path)
    with pytest.raises(UsageError, match="does not hold a kernel's source tree"):
        kernels.build_kernel(cache, kernels.load_recipe("fake", "plain"))


@pytest.fixture
def served(images: Path) -> Iterator[str]:
    """The archive's folder over HTTP; yields its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(images / "kernels"))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def served_recipe(images: Path, address: str) -> Recipe:
    path = images / "kernels" / "fake.yaml"
    path.write_text(path.read_text().replace("url: ", f"url: {address}/"))
    return kernels.load_recipe("fake", "plain")


def test_archive_is_fetched_from_an_address(images: Path, cache: store.Store, served: str) -> None:
    recipe = served_recipe(images, served)
    assert kernels.build_kernel(cache, recipe).release == "9.8.7-rc6-fake"
    # It is not asked for again, not even for another profile.
    (images / "kernels" / "linux.tar.gz").unlink()
    (images / "profiles" / "other.yaml").write_text("name: other\nfragments: [plain]\n")
    kernels.build_kernel(cache, kernels.load_recipe("fake", "other"))


def test_address_that_has_nothing(images: Path, cache: store.Store, served: str) -> None:
    recipe = served_recipe(images, f"{served}/nowhere")
    with pytest.raises(
        InfrastructureError, match=r"nowhere/linux\.tar\.gz: cannot be fetched: File not found"
    ):
        kernels.build_kernel(cache, recipe)


def test_address_that_nobody_answers(images: Path, cache: store.Store) -> None:
    recipe = served_recipe(images, "http://127.0.0.1:9")
    with pytest.raises(InfrastructureError, match=r"cannot be fetched: .*refused"):
        kernels.build_kernel(cache, recipe)


def test_built_kernel_needs_no_archive(cache: store.Store, recipe: Recipe, images: Path) -> None:
    built = kernels.build_kernel(cache, recipe)
    (images / "kernels" / "linux.tar.gz").unlink()
    assert kernels.build_kernel(store.Store.open(), recipe) == built


def test_a_changed_input_makes_another_kernel(cache: store.Store, images: Path) -> None:
    first = kernels.build_kernel(cache, kernels.load_recipe("fake", "plain"))
    (images / "fragments" / "plain.config").write_text("CONFIG_A=m\n")
    changed = kernels.load_recipe("fake", "plain")
    assert kernels.find_kernel(cache, changed) is None
    entries = {one.state: one for one in inventory.list_kernels(cache) if one.name == "fake"}
    assert entries[State.STALE].key == first.key
    assert "its options" in entries[State.STALE].why
    assert State.ABSENT in entries


def test_kernels_are_listed(
    cache: store.Store, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels.build_kernel(cache, recipe)
    assert cli.main(["kernels"]) == ExitStatus.OK
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["fake", "plain", "built", "9.8.7-rc6"] in [line[:4] for line in lines]
    assert ["6.1", "kasan", "not", "built"] in [line[:4] for line in lines]


def test_kernels_are_built_by_name_and_those_that_fail_do_not_stop_the_others(
    images: Path, cache: store.Store, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (images / "kernels" / "fake.yaml").read_text()
    gone = text.replace("name: fake", "name: gone").replace("linux.tar.gz", "nothing.tar")
    gone = gone.replace("sha256: ", "sha256: 00")[:-3] + "\n"
    (images / "kernels" / "gone.yaml").write_text(gone)
    argv = ["kernels", "build", "gone", "fake", "--profile", "plain"]
    assert cli.main(argv) == ExitStatus.USAGE
    shown = capsys.readouterr().err
    assert "2 to build: gone-plain, fake-plain" in shown
    assert "nothing.tar: no such file" in shown
    assert "fake-plain: 9.8.7-rc6-fake from 9.8.7-rc6" in shown
    assert cli.main(["kernels", "build", "fake", "--profile", "plain"]) == ExitStatus.OK


def test_build_of_unknown_kernel(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kernels", "build", "2.4"]) == ExitStatus.USAGE
    assert "kernel '2.4': unknown; known: " in capsys.readouterr().err
    assert cli.main(["kernels", "build", "--profile", "none"]) == ExitStatus.USAGE
    assert "profile 'none': unknown" in capsys.readouterr().err
    assert cli.main(["kernels", "prune", "--unused", "-1"]) == ExitStatus.USAGE


def prune(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["kernels", "prune", *words]) == ExitStatus.OK
    return capsys.readouterr().out


def test_prune_removes_what_is_stale_and_keeps_the_rest(
    cache: store.Store, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = kernels.build_kernel(cache, kernels.load_recipe("fake", "plain"))
    (images / "fragments" / "plain.config").write_text("CONFIG_A=m\n")
    kept = kernels.build_kernel(cache, kernels.load_recipe("fake", "plain"))
    for name, kernel in (("old", stale.key), ("new", kept.key), ("unknown", "")):
        (cache.root / "module" / name).mkdir(parents=True)
        store.note_made_from(cache.root / "module" / name, kernel=kernel)
    os.utime(cache.root / "module" / "unknown", (0, 0))
    shown = prune(capsys, "--dry-run")
    assert f"would remove kernel {stale.key}" in shown
    assert stale.path.is_dir()
    shown = prune(capsys)
    assert f"removed kernel {stale.key}" in shown
    assert "removed module old (0 MiB): its kernel is not kept" in shown
    assert "removed module unknown (0 MiB): not used for 7 days" in shown
    assert "3 of 3 folders" in shown
    assert not stale.path.exists()
    assert kernels.find_kernel(cache, kernels.load_recipe("fake", "plain")) == kept
    assert kept.source.is_dir()


def test_prune_keeps_what_is_in_use(
    cache: store.Store, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = kernels.build_kernel(cache, kernels.load_recipe("fake", "plain"))
    (images / "fragments" / "plain.config").write_text("CONFIG_A=m\n")
    cache.use(stale.path)
    shown = prune(capsys)
    assert f"in use, kept: kernel {stale.key}" in shown
    assert stale.path.is_dir()


def test_prune_removes_sources_and_unfinished_builds_when_asked(
    cache: store.Store, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    sources.get_source(cache, recipe, lambda what, done: None, soon())
    tree = next((cache.root / "source").glob("*/linux"))
    (tree / "broken").touch()
    with pytest.raises(KernelBuildError):
        kernels.build_kernel(store.Store.open(), recipe)
    assert "0 of 0 folders" in prune(capsys)
    assert "0 of 0 folders" in prune(capsys, "--sources")
    assert "unfinished" in prune(capsys, "--unfinished")
    assert not list((cache.root / "kernel").glob(".*"))
    assert "removed source" in prune(capsys, "--sources")
    assert list((cache.root / "source").iterdir()) == []


def test_kernel_given_by_path_is_not_stale(
    cache: store.Store, images: Path, tmp_path: Path
) -> None:
    text = (images / "kernels" / "fake.yaml").read_text().replace("name: fake", "name: mine")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("url: ", f"url: {images}/kernels/"))
    kernel = kernels.build_kernel(cache, kernels.load_recipe(str(path), "plain"))
    entry = next(one for one in inventory.list_kernels(cache) if one.key == kernel.key)
    assert (entry.name, entry.state) == ("mine", State.BUILT)
    path.unlink()
    entry = next(one for one in inventory.list_kernels(cache) if one.key == kernel.key)
    assert (entry.state, entry.why) == (State.STALE, f"kernel {path}: no such file")
