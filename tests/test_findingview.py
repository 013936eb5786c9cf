# SPDX-License-Identifier: GPL-2.0-only
"""What a bundle says about a finding, and that a strange or missing one is only said to be."""

import json
import os
from pathlib import Path

import pytest

from harness import bundle, findingview
from harness.errors import UsageError

DECODED = """\
BUG in f

[    7.1] ? early+0x1/0x2 [m] m/early.c:1
[    7.1]  outer lib/out.c:91 [inline]
[    7.1]  fn_a+0x4c/0x57 [m] /home/x/kernel/6d10e0782277bde0/build/m/a.c:7
[    7.1]  fn_b+0x1/0x2 [m] m/b.c:1

residue: slab cache m

errno: x

actor: holder
"""
TITLES = ("BUG in f", "residue: slab cache m", "errno: x")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    record = {"format": bundle.FORMAT, "findings": [{"kind": "x", "title": t} for t in TITLES]}
    (path / "bundle.json").write_text(json.dumps(record))
    (path / "findings.txt").write_text(DECODED)
    (path / "program.txt").write_text("actor holder process 0 actors[0] 2 -\n")
    (path / "console.log").write_text("")
    (path / "report.jsonl").write_text('{"ev":"start","us":1}\n')
    source = tmp_path / "src" / "m"
    source.mkdir(parents=True)
    (source / "a.c").write_text("".join(f"line {n}\n" for n in range(1, 10)))
    (source / "early.c").write_text("early\n")
    return path


def view(folder: Path, title: str = "BUG in f") -> findingview.FindingView:
    root = folder.parent
    return findingview.view(title, str(folder), root, [root / "nowhere", root / "src"])


def test_a_finding_has_its_own_part_of_the_text_without_the_builders_folders(folder: Path) -> None:
    seen = view(folder)
    assert seen.decoded.endswith("fn_a+0x4c/0x57 [m] m/a.c:7\n[    7.1]  fn_b+0x1/0x2 [m] m/b.c:1")
    assert seen.decoded.startswith("[    7.1] ? early")
    assert seen.lacks == ()
    assert seen.timeline is not None
    assert view(folder, "residue: slab cache m").decoded == "residue: slab cache m"
    assert view(folder, "errno: x").decoded == "actor: holder"


def test_what_was_seen_beside_it_follows(folder: Path) -> None:
    also = ("residue: slab cache m", "errno: x", "of another trial")
    seen = findingview.view("BUG in f", str(folder), folder, [], also)
    assert seen.decoded.endswith(
        "m/b.c:1\n\nresidue: slab cache m\n\n\nerrno: x\n\nactor: holder\n"
    )


def test_the_excerpt_is_of_the_innermost_frame_that_is_known_here(folder: Path) -> None:
    found = view(folder).excerpt
    assert found is not None
    assert (found.path, found.line, found.function) == ("m/a.c", 7, "fn_a")
    assert found.lines == tuple((n, f"line {n}") for n in range(2, 10))


@pytest.mark.parametrize(
    "frame",
    [
        "RIP: 0010:fn_a+0x0/0x8d [m, 1st load, unloaded 7 ms before] m/a.c:3",
        "[    7.1]  fn_a m/a.c:3 [inline]",
        "[<0>] fn_a+0x1/0x2 [m] m/a.c:3",
    ],
)
def test_frames_look_in_several_ways(folder: Path, frame: str) -> None:
    found = findingview.excerpt(frame, [folder.parent / "src"])
    assert found is not None
    assert (found.function, found.path, found.line) == ("fn_a", "m/a.c", 3)


def test_the_excerpt_is_never_of_what_was_seen_beside_it(folder: Path) -> None:
    root = folder.parent
    seen = findingview.view("errno: x", str(folder), root, [root / "src"], ("BUG in f",))
    assert "m/a.c:7" in seen.decoded
    assert seen.excerpt is None


@pytest.mark.parametrize(
    "frame", ["m/../../secret.c:1", "/etc/secret.c:1", "m/link.c:1", "m/a.c:99", "m/a.c:0"]
)
def test_no_frame_leads_out_of_the_sources(folder: Path, frame: str) -> None:
    root = folder.parent
    (root / "secret.c").write_text("secret\n")
    (root / "src" / "m" / "link.c").symlink_to(root / "secret.c")
    assert findingview.excerpt(f" f+0x1/0x2 [m] {frame}", [root / "src"]) is None


def test_a_bundle_is_found_beside_the_document(folder: Path) -> None:
    seen = findingview.view("BUG in f", "run", folder.parent, [])
    assert seen.decoded
    assert seen.excerpt is None


def test_what_is_missing_is_said(folder: Path) -> None:
    assert findingview.view("t", None, folder, []).lacks == ("No bundle was kept.",)
    assert findingview.view("t", "gone", folder, []).lacks == ("The bundle is not here: gone",)
    (told,) = findingview.view("t", "x" * 5000, folder, []).lacks
    assert told.startswith("The bundle cannot be read: ")
    assert view(folder, "other").lacks == ("The bundle's findings.txt does not have this title.",)
    (folder / "report.jsonl").write_text("junk\n")
    (told,) = view(folder).lacks
    assert told.startswith("The bundle's report.jsonl cannot be read: the executor's report")
    (folder / "report.jsonl").unlink()
    assert view(folder).lacks == ("The bundle's report.jsonl says nothing of times.",)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ("{}", "malformed"),
        ('{"format": 99}', "bundle format 99"),
        ('{"format": 1, "findings": [5]}', "malformed"),
    ],
)
def test_a_folder_that_is_no_bundle_is_said(folder: Path, record: str, why: str) -> None:
    (folder / "bundle.json").write_text(record)
    (told,) = view(folder).lacks
    assert why in told


def test_texts_come_from_the_bundle_and_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = folder.parent / "secret"
    secret.write_text("secret")
    (folder / "findings.txt").unlink()
    (folder / "findings.txt").symlink_to(secret)
    with pytest.raises(UsageError, match="leads outside"):
        bundle.read_texts(folder)
    (folder / "findings.txt").unlink()
    os.mkfifo(folder / "findings.txt")
    assert bundle.read_texts(folder).findings == ""
    monkeypatch.setattr(bundle, "_MAX_TEXT", 4)
    with pytest.raises(UsageError, match="larger than"):
        bundle.read_texts(folder)
