# SPDX-License-Identifier: GPL-2.0-only
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import store
from harness.deadline import Deadline
from harness.errors import DeadlineExceeded, StorageError, UsageError


@pytest.fixture
def cache(tmp_path: Path) -> store.Store:
    return store.Store.open(tmp_path / "cache")


def soon() -> Deadline:
    return Deadline.after(60)


def test_build_makes_once(cache: store.Store) -> None:
    made: list[Path] = []

    def make(into: Path) -> None:
        made.append(into)
        (into / "file").write_text("content")

    first = cache.build("thing", "k", make, deadline=soon())
    assert cache.build("thing", "k", make, deadline=soon()) == first
    assert (first / "file").read_text() == "content"
    assert len(made) == 1


def test_failed_build_leaves_nothing(cache: store.Store) -> None:
    def make(into: Path) -> None:
        (into / "half").write_text("x")
        raise RuntimeError("broke")

    with pytest.raises(RuntimeError):
        cache.build("thing", "k", make, deadline=soon())
    assert list((cache.root / "thing").iterdir()) == []
    assert cache.find("thing", "k") is None


def test_full_disk_is_said_with_place_and_space(cache: store.Store) -> None:
    def make(into: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match=r"no space left on the disk \(\d+ MiB free\)") as caught:
        cache.build("thing", "k", make, deadline=soon())
    assert caught.value.exit_status == 2
    assert list((cache.root / "thing").iterdir()) == []


def test_other_errors_pass_through(cache: store.Store) -> None:
    def make(into: Path) -> None:
        raise OSError(errno.EIO, "broken disk")

    with pytest.raises(OSError, match="broken disk"):
        cache.build("thing", "k", make, deadline=soon())


def test_cache_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        store.Store.open(tmp_path / "file")
    with pytest.raises(UsageError, match="a parent of it is not a folder"):
        store.Store.open(tmp_path / "file" / "below")


def test_cache_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so the refusal itself is made.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match="cannot be written: Permission denied"):
        store.Store.open(tmp_path / "cache")


def test_environment_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(tmp_path / "named"))
    assert store.Store.open().root == tmp_path / "named"
    monkeypatch.delenv("KMOD_HARNESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert store.Store.open().root == tmp_path / "xdg" / "kmod-harness"


def test_two_processes_build_once(cache: store.Store) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from harness import store\n"
        "from harness.deadline import Deadline\n"
        f"cache = store.Store.open(Path({str(cache.root)!r}))\n"
        "def make(into):\n"
        "    print('making', flush=True)\n"
        "    sys.stdin.readline()\n"
        "print(cache.build('thing', 'k', make, deadline=Deadline.after(60),\n"
        "    on_wait=lambda text: print(text, flush=True)), flush=True)\n"
    )
    argv = [sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, **pipes) as first:
        assert first.stdout.readline() == "making\n"
        with subprocess.Popen(argv, **pipes) as second:
            assert "waiting for another harness that is making thing-k" in second.stdout.readline()
            first.communicate("go\n", timeout=60)
            out, _ = second.communicate(timeout=60)
    assert "making" not in out


def test_lock_that_is_not_let_go(cache: store.Store) -> None:
    with (
        cache.lock("name", soon()),
        pytest.raises(DeadlineExceeded, match="did not let go of this lock within"),
        store.Store(cache.root).lock("name", Deadline.after(0.1)),
    ):
        pass


def test_leftovers_of_a_killed_maker_are_swept(cache: store.Store) -> None:
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from harness import store\n"
        "from harness.deadline import Deadline\n"
        f"cache = store.Store.open(Path({str(cache.root)!r}))\n"
        "def make(into):\n"
        "    (into / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache.build('thing', 'k', make, deadline=Deadline.after(60))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert [path.name for path in (cache.root / "thing").iterdir()] == [".staging-k"]
    assert cache.find("thing", "k") is None
    store.Store.open(cache.root)
    assert list((cache.root / "thing").iterdir()) == []


def test_staging_of_a_living_maker_is_left_alone(cache: store.Store) -> None:
    def make(into: Path) -> None:
        store.Store.open(cache.root)
        assert into.is_dir()

    cache.build("thing", "k", make, deadline=soon())


def test_digest_depends_on_names_and_values() -> None:
    one = store.digest({"a": "1", "b": "2"})
    assert one == store.digest({"b": "2", "a": "1"})
    assert len({one, store.digest({"a": "2", "b": "1"}), store.digest({"a": "1"})}) == 3


def test_tree_digest_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = store.digest_tree(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = store.digest_tree(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, store.digest_tree(tmp_path)}) == 3


def test_write_atomically_leaves_no_temporary_file(tmp_path: Path) -> None:
    store.write_atomically(tmp_path / "x" / "file", b"content")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["file"]
