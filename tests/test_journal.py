# SPDX-License-Identifier: GPL-2.0-only
"""The journal: whole lines only, of one run only, written by one only."""

import json
from pathlib import Path

import pytest

from harness import journal
from harness.errors import StorageError, UsageError

HEADER = {"digest": "d", "file": "m.yaml", "began": "then"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "m.journal.jsonl"


def written(path: Path, *entries: dict[str, int], fresh: bool = False) -> list[journal.Entry]:
    """What was there before some entries were added."""
    with journal.open_journal(path, HEADER, fresh=fresh) as opened:
        for entry in entries:
            opened.append(entry)
        return opened.entries


def test_what_was_written_is_there_the_next_time(path: Path) -> None:
    assert written(path, {"a": 1}, {"b": 2}) == []
    assert written(path, {"c": 3}) == [{"a": 1}, {"b": 2}]
    assert written(path) == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert json.loads(path.read_text().splitlines()[0]) == {"format": journal.FORMAT, **HEADER}


def test_entry_is_in_the_file_before_append_returns(path: Path) -> None:
    with journal.open_journal(path, HEADER, fresh=False) as opened:
        opened.append({"a": 1})
        assert path.read_text().splitlines()[-1] == '{"a": 1}'


def test_header_of_the_first_stays(path: Path) -> None:
    written(path)
    with journal.open_journal(path, {**HEADER, "began": "now"}, fresh=False) as opened:
        assert opened.header["began"] == "then"


@pytest.mark.parametrize("cut", range(1, 12))
def test_half_a_line_at_the_end_is_cut_off(path: Path, cut: int) -> None:
    written(path, {"a": 1}, {"b": 2222})
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    assert written(path, {"c": 3}) == [{"a": 1}]
    assert written(path) == [{"a": 1}, {"c": 3}]


def test_fresh_begins_anew_and_keeps_what_was(path: Path) -> None:
    written(path, {"a": 1})
    assert written(path, {"b": 2}, fresh=True) == []
    assert written(path) == [{"b": 2}]
    assert '{"a": 1}' in path.with_suffix(".previous.jsonl").read_text()


def test_journal_of_another_run(path: Path) -> None:
    written(path, {"a": 1})
    with (
        pytest.raises(UsageError, match=r"is of another run: of m.yaml, began then") as caught,
        journal.open_journal(path, {**HEADER, "digest": "e"}, fresh=False),
    ):
        pass
    assert "--fresh" in str(caught.value)
    assert '{"a": 1}' in path.read_text()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("hello\n", "jsonl:1: not an entry"),
        ("[]\n", "jsonl:1: not an entry"),
        ("no newline", "jsonl:1: not an entry"),
        ("{}\n", "jsonl:1: no journal of format"),
        ('{"format": "kmod-harness/journal/1", "digest": "d"}\n{"a"\n{}\n', "jsonl:2: not an"),
        ("[" * 100000 + "\n", "jsonl:1: not an entry"),
    ],
)
def test_what_is_no_journal_is_left_alone(path: Path, content: str, why: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(UsageError, match=why):
        written(path)
    assert path.read_text() == content


def test_two_at_once(path: Path) -> None:
    with (
        journal.open_journal(path, HEADER, fresh=False),
        pytest.raises(UsageError, match="another harness is writing this journal"),
    ):
        written(path)


def test_too_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(path)
    monkeypatch.setattr(journal, "MAX_BYTES", 10)
    with pytest.raises(UsageError, match="larger than"):
        written(path)


def test_disk_that_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with journal.open_journal(path, HEADER, fresh=False) as opened:
        monkeypatch.setattr(journal.os, "write", full)
        with pytest.raises(StorageError, match="no space left"):
            opened.append({"a": 1})
