# SPDX-License-Identifier: GPL-2.0-only
from harness import cpio

ENTRIES = {
    "bin/tool": cpio.Entry(b"#!/bin/sh\n", 0o755),
    "etc/deep/er/file": cpio.Entry(b"odd"),
    "empty": cpio.Entry(b""),
}


def test_archive_holds_what_went_in() -> None:
    data = cpio.archive(ENTRIES)
    listed = []
    position = 0
    # The format's own header, field by field (buffer-format.rst).
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + 6 + 8 * n : position + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[position + 110 : position + 110 + name_size - 1].decode()
        position += -(-(110 + name_size) // 4) * 4
        if name == "TRAILER!!!":
            break
        listed.append((name, mode, data[position : position + size]))
        position += -(-size // 4) * 4
    assert listed == [
        ("bin", 0o40755, b""),
        ("bin/tool", 0o100755, b"#!/bin/sh\n"),
        ("empty", 0o100644, b""),
        ("etc", 0o40755, b""),
        ("etc/deep", 0o40755, b""),
        ("etc/deep/er", 0o40755, b""),
        ("etc/deep/er/file", 0o100644, b"odd"),
    ]


def test_same_content_is_the_same_bytes() -> None:
    assert cpio.archive(ENTRIES) == cpio.archive(dict(reversed(ENTRIES.items())))
