# SPDX-License-Identifier: GPL-2.0-only
"""Bundles are written by a trial and read by anybody; a hostile one stops at the door."""

import json
from pathlib import Path

import pytest

from harness import bundle, store
from harness.errors import UsageError
from harness.machine import Lane

PROGRAM = b"kmod-program 1\n"


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


@pytest.mark.parametrize("name", ["modules/../../secret", "modules/link"])
def test_file_outside_of_the_bundle(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("s")
    (folder / "modules" / "link").symlink_to(folder.parent / "secret")
    record = json.loads((folder / "bundle.json").read_text())
    record["sha256"][name] = store.digest_bytes(b"s")
    write_record(folder, record)
    with pytest.raises(UsageError, match="names a file outside of itself"):
        bundle.load_bundle(folder)
