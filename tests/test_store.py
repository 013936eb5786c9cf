# SPDX-License-Identifier: GPL-2.0-only
import errno
import os
import subprocess
import sys
from collections.abc import Callable
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


def of_size(mib: int) -> Callable[[Path], None]:
    def make(into: Path) -> None:
        (into / "data").write_bytes(bytes(mib << 20))

    return make


def keys(cache: store.Store) -> set[str]:
    return {path.name for path in (cache.root / "thing").iterdir()}


def filled(cache: store.Store, *names: str) -> dict[str, store.Held]:
    """Artefacts of 2 MiB, held, each used a minute after the one before it."""
    held = {}
    for minute, name in enumerate(names):
        held[name] = cache.hold("thing", name, of_size(2), deadline=soon())
        os.utime(held[name].path, (60 * minute, 60 * minute))
    return held


def test_room_is_made_by_removing_what_was_used_longest_ago(cache: store.Store) -> None:
    filled(cache, "a", "b", "c", "d").clear()
    cache.hold("thing", "a", of_size(2), deadline=soon())  # a use
    cache.make_room("thing", limit_mib=6, needed_mib=2, deadline=soon())
    assert keys(cache) == {"a", "d"}
    cache.make_room("thing", limit_mib=6, needed_mib=2, deadline=soon())
    assert keys(cache) == {"a", "d"}


def test_what_is_held_stays(cache: store.Store) -> None:
    held = filled(cache, "a", "b", "c")
    del held["b"]
    cache.make_room("thing", limit_mib=2, needed_mib=2, deadline=soon())
    assert keys(cache) == {"a", "c"}


def test_what_another_process_holds_stays_until_it_dies(cache: store.Store) -> None:
    filled(cache, "a")
    program = (
        "import sys, pathlib; from harness import store;"
        "held = store.Held.claim(pathlib.Path(sys.argv[1])); print(flush=True); input()"
    )
    argv = [sys.executable, "-c", program, str(cache.root / "thing" / "a")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        cache.make_room("thing", limit_mib=1, needed_mib=1, deadline=soon())
        assert keys(cache) == {"a"}
        other.kill()
    cache.make_room("thing", limit_mib=1, needed_mib=1, deadline=soon())
    assert keys(cache) == set()


def test_room_is_made_when_the_disk_is_nearly_full(
    cache: store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(cache, "a", "b", "c").clear()
    monkeypatch.setattr(store, "free_mib", lambda path: 9 - 2 * len(keys(cache)))
    cache.make_room("thing", limit_mib=1000, needed_mib=6, deadline=soon())
    assert keys(cache) == {"c"}
    with pytest.raises(StorageError, match="9 MiB free, 10 MiB needed"):
        cache.make_room("thing", limit_mib=1000, needed_mib=10, deadline=soon())


def test_what_is_being_made_is_not_counted_or_removed(cache: store.Store) -> None:
    def make(into: Path) -> None:
        (into / "data").write_bytes(bytes(8 << 20))
        cache.make_room("thing", limit_mib=2, needed_mib=2, deadline=soon())

    assert (cache.hold("thing", "k", make, deadline=soon()).path / "data").exists()


def test_an_artefact_removed_before_it_was_held_is_made_again(
    cache: store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    claim = store.Held.claim

    def late(path: Path) -> store.Held | None:
        if len(made) == 1:
            path.rename(path.with_name("elsewhere"))
        return claim(path)

    monkeypatch.setattr(store.Held, "claim", late)
    held = cache.hold("thing", "k", made.append, deadline=soon())
    assert len(made) == 2
    assert held.path == cache.root / "thing" / "k"
