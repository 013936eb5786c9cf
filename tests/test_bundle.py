# SPDX-License-Identifier: GPL-2.0-only
"""Bundles are written by a trial and read by anybody; a hostile one stops at the door."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import bundle, cli, store
from harness.errors import ExitStatus, UsageError
from harness.machine import Lane
from harness.program import Op, Program

PROGRAM = Program("load-unload", 7, 5_000_000, (), setup=(Op("setup[0]", "sync"),)).serialise()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"program.txt": PROGRAM, "payload.cpio": b"070701", "console.log": b"boom\n"}
    (tmp_path / "modules").mkdir()
    files["modules/foo.ko"] = b"\x7fELF"
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    write_record(
        tmp_path,
        {
            "format": 1,
            "harness": "0.1.0",
            "trial": {
                "module": "foo", "variant": "good", "kernel": "6.1", "profile": "kasan",
                "lane": "det", "scenario": "load-unload", "seed": 7,
            },
            "bound_s": 5.0,
            "made_of": {"kernel": "abc"},
            "findings": [{"kind": "splat", "title": "boom"}],
            "sha256": {name: store.digest_bytes(content) for name, content in files.items()},
        },
    )  # fmt: skip
    return tmp_path


def write_record(folder: Path, record: object) -> None:
    (folder / "bundle.json").write_text(json.dumps(record))


def change(folder: Path, **fields: object) -> None:
    write_record(folder, json.loads((folder / "bundle.json").read_text()) | fields)


def test_bundle_is_read_back(folder: Path) -> None:
    read = bundle.load_bundle(folder)
    assert read.spec.seed == 7
    assert read.spec.lane is Lane.DET
    assert read.program == PROGRAM
    assert read.titles == ("boom",)
    assert dict(read.symbols) == {"foo": folder / "modules/foo.ko"}


def test_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a bundle \(no bundle\.json in it\)"):
        bundle.load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "not JSON"), ("[]", "not an object"), ("[" * 500_000, "nested too deeply")],
    ids=["no-json", "list", "deep"],
)
def test_record_that_is_none(folder: Path, text: str, why: str) -> None:
    (folder / "bundle.json").write_text(text)
    with pytest.raises(UsageError, match=why):
        bundle.load_bundle(folder)


def test_record_that_is_too_large(folder: Path) -> None:
    (folder / "bundle.json").write_text(" " * (1 << 21))
    with pytest.raises(UsageError, match="larger than 1024 KiB"):
        bundle.load_bundle(folder)


def test_other_format(folder: Path) -> None:
    change(folder, format=9)
    with pytest.raises(UsageError, match="bundle format 9, this harness reads 1"):
        bundle.load_bundle(folder)


@pytest.mark.parametrize("field", ["trial", "sha256", "findings", "bound_s", "made_of"])
def test_field_of_the_wrong_kind(folder: Path, field: str) -> None:
    change(folder, **{field: None})
    with pytest.raises(UsageError, match="malformed"):
        bundle.load_bundle(folder)


def test_changed_file(folder: Path) -> None:
    (folder / "program.txt").write_bytes(b"something else")
    with pytest.raises(UsageError, match="changed since the bundle was written"):
        bundle.load_bundle(folder)


def test_missing_file(folder: Path) -> None:
    (folder / "payload.cpio").unlink()
    with pytest.raises(UsageError, match=r"payload\.cpio is missing"):
        bundle.load_bundle(folder)


def test_file_that_is_too_large(folder: Path) -> None:
    with (folder / "program.txt").open("wb") as file:
        file.truncate(2 << 20)
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        bundle.load_bundle(folder)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("modules/../../secret", "names a file outside of itself"),
        ("modules/link.ko", "names a file outside of itself"),
        ("modules/loop.ko", "names a file outside of itself"),
        ("/etc/hostname", "names a file outside of itself"),
        ("modules/foo", "names a file that no bundle has"),
        ("modules/deep/foo.ko", "names a file that no bundle has"),
        ("modules/a\nshell rm.ko", "names a file that no bundle has"),
        ("else", "names a file that no bundle has"),
    ],
)
def test_file_that_is_none_of_a_bundle(folder: Path, name: str, why: str) -> None:
    (folder.parent / "secret").write_text("s")
    (folder / "modules" / "link.ko").symlink_to(folder.parent / "secret")
    (folder / "modules" / "loop.ko").symlink_to(folder / "modules" / "loop.ko")
    record = json.loads((folder / "bundle.json").read_text())
    record["sha256"][name] = store.digest_bytes(b"s")
    write_record(folder, record)
    with pytest.raises(UsageError, match=why):
        bundle.load_bundle(folder)


@pytest.mark.parametrize("name", ["program.txt", "payload.cpio", "console.log", "bundle.json"])
def test_file_that_is_a_link_to_elsewhere(folder: Path, name: str) -> None:
    # Its content is what it has to be: only where it lies is wrong.
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    with pytest.raises(UsageError, match="names a file outside of itself"):
        bundle.load_bundle(folder)


def test_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "console.log").unlink()
    os.mkfifo(folder / "console.log")
    with pytest.raises(UsageError, match=r"console\.log is missing"):
        bundle.load_bundle(folder)


@pytest.mark.parametrize("name", ["program.txt", "payload.cpio", "console.log"])
def test_file_without_a_digest(folder: Path, name: str) -> None:
    record = json.loads((folder / "bundle.json").read_text())
    del record["sha256"][name]
    write_record(folder, record)
    with pytest.raises(UsageError, match=f"has no digest of {name}"):
        bundle.load_bundle(folder)


def with_program(folder: Path, text: bytes) -> None:
    (folder / "program.txt").write_bytes(text)
    record = json.loads((folder / "bundle.json").read_text())
    record["sha256"]["program.txt"] = store.digest_bytes(text)
    write_record(folder, record)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"5000000", b"99999999999999999999", "program.txt: program text, line 4"),
        (b"setup\n", b"setup\nloop 99999999999\n", "program.txt: program text, line 7"),
        (b"setup\n", b"setup\n" + b"loop 9\n" * 60, "nested deeper than 16"),
        (b"setup\n", b"setup\n" + b"op setup[0] ok - 0 sync\n" * 5000, "5001 ops and blocks, more"),
        (b"seed 7", b"seed 8", "says seed 7, and its program has 8"),
        (b"5000000", b"6000000", "says 5.0 s, and its program may take 6"),
        (b"kmod-program 1", b"kmod-program 2", "unknown version"),
        (b"teardown\n", b"park then%20what * foo .text 1 1 hold\nend\nteardown\n", "is no plan"),
        (b"\n", b"\r\n", "program text"),
    ],
)
def test_program_that_no_executor_takes(folder: Path, old: bytes, new: bytes, why: str) -> None:
    with_program(folder, PROGRAM.replace(old, new))
    with pytest.raises(UsageError, match=why):
        bundle.load_bundle(folder)


def test_payload_that_is_no_archive(folder: Path) -> None:
    (folder / "payload.cpio").write_bytes(b"PK")
    record = json.loads((folder / "bundle.json").read_text())
    record["sha256"]["payload.cpio"] = store.digest_bytes(b"PK")
    write_record(folder, record)
    with pytest.raises(UsageError, match="no archive for the guest"):
        bundle.load_bundle(folder)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        # What it names would be downloaded and compiled.
        ("kernel", "/tmp/evil.yaml", "is no name of one"),
        ("kernel", "evil.yaml", "is no name of one"),
        ("kernel", "../6.1", "is no name of one"),
        ("kernel", 6.1, "no line of text"),
        ("module", "a\x1b]0;b\x07", "no line of text"),
        ("variant", "x" * 10_000, "no line of text"),
        ("lane", "fast", "malformed"),
        ("seed", "7", "malformed"),
        ("seed", 7.5, "malformed"),
        ("more", "x", "malformed"),
    ],
)
def test_trial_that_is_none(folder: Path, name: str, value: object, why: str) -> None:
    trial = json.loads((folder / "bundle.json").read_text())["trial"]
    change(folder, trial=trial | {name: value})
    with pytest.raises(UsageError, match=why):
        bundle.load_bundle(folder)


@pytest.mark.parametrize("bound", ["NaN", "Infinity", "-5.0", "1e400", "5" + "0" * 400, '"5.0"'])
def test_bound_that_is_not_the_programs(folder: Path, bound: str) -> None:
    text = (folder / "bundle.json").read_text().replace('"bound_s": 5.0', f'"bound_s": {bound}')
    (folder / "bundle.json").write_text(text)
    if bound == '"5.0"':
        # Python reads a number from it, and it is the right one.
        assert bundle.load_bundle(folder).bound_s == 5.0
        return
    with pytest.raises(UsageError, match=r"its program may take 5|malformed"):
        bundle.load_bundle(folder)


@pytest.mark.parametrize("title", ["a\nb", "\x1b[2J", 7, None, "x" * 501])
def test_title_that_is_no_line(folder: Path, title: object) -> None:
    change(folder, findings=[{"kind": "splat", "title": title}])
    with pytest.raises(UsageError, match="no line of text"):
        bundle.load_bundle(folder)


def test_title_of_a_kernel_that_says_anything_is_kept_as_a_line() -> None:
    assert bundle._printable("oops \x1b[2J\n") == "oops \\x1b[2J\\n"


@pytest.mark.parametrize(
    "command",
    [["replay"], ["replay", "--gdb"], ["minimise"], ["verify", "--module", "poolfs"],
     ["bisect", "--module", "poolfs", "--kernels", "6.1"]],
    ids=lambda words: " ".join(words[:2]),
)  # fmt: skip
def test_nothing_runs_of_a_bundle_that_is_refused(
    folder: Path, command: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def never(self: object, *rest: object) -> None:
        raise AssertionError("something was built or run")

    monkeypatch.setattr("harness.lab.Lab.__init__", never)
    monkeypatch.setattr("harness.proc.run", never)
    with_program(folder, PROGRAM.replace(b"5000000", b"6000000"))
    assert cli.main([command[0], str(folder), *command[1:]]) == ExitStatus.USAGE
    said = capsys.readouterr().err
    assert "says 5.0 s, and its program may take 6" in said
    assert "Traceback" not in said


def test_kernel_is_named_and_not_placed() -> None:
    trial = bundle.Trial(
        bundle.TrialSpec("m", "good", "/home/me/mine.yaml", "kasan", Lane.DET, "s", 1),
        SimpleNamespace(), b"", 1.0, {},
    )  # type: ignore[arg-type]  # fmt: skip
    assert bundle._movable(trial).spec.kernel == "mine"


def test_kernel_that_was_compiled_elsewhere_is_said_to_be_another(tmp_path: Path) -> None:
    def made_of(content: str) -> dict[str, str]:
        (tmp_path / "bzImage").write_text(content)
        kernel = SimpleNamespace(
            key="k", version="6.1.1-1", release="6.1.1", config_sha256="c", compiler="gcc 12",
            bzimage=tmp_path / "bzImage",
        )  # fmt: skip
        base = SimpleNamespace(
            kernel=kernel, image=SimpleNamespace(key="i"), accelerator=SimpleNamespace(value="tcg"),
            qemu_version=lambda: "7.2", qemu_arguments=lambda: "-x",
        )  # fmt: skip
        trial = SimpleNamespace(template=SimpleNamespace(base=base), sources="")
        return bundle.made_of(trial)  # type: ignore[arg-type]

    then = made_of("a")
    assert bundle.differences(then, made_of("a")) == ()
    (said,) = bundle.differences(then, made_of("b"))
    assert re.fullmatch(r"kernel image: was \w{64}, is \w{64}", said)
    # A bundle of before says nothing of it.
    del then["kernel image"]
    assert bundle.differences(then, made_of("b")) == ()


def test_differences_in_words() -> None:
    then = {"compiler": "gcc 12", "qemu": "7.2", "qemu arguments": " ".join(["-x"] * 50 + ["-a 1"])}
    now = {"compiler": "gcc 13", "qemu": "7.2", "qemu arguments": " ".join(["-x"] * 50 + ["-b 1"])}
    assert bundle.differences(then, now) == (
        "compiler: was gcc 12, is gcc 13", "qemu arguments: was -a, is -b",
    )  # fmt: skip
    assert bundle.differences({"image": "x"}, {}) == ("image: was x, is nothing",)


@pytest.mark.parametrize(
    ("then", "now", "where"),
    [
        (b"a\nb\n", b"a\nb\n", ""),
        (b"a\nb\n", b"a\nc\n", "line 2: was 'b', is 'c'"),
        (b"a\nb", b"a", "line 2: was 'b', is its end"),
        (b"a", b"a\n\xff", r"line 2: was its end, is '\xff'"),
        (b"\x1b", b"x", r"line 1: was '\x1b', is 'x'"),
    ],
)
def test_consoles_part_somewhere(then: bytes, now: bytes, where: str) -> None:
    assert bundle.first_difference(then, now) == where
