# SPDX-License-Identifier: GPL-2.0-only
"""harness.yaml: what it says, and how its mistakes are said."""

from pathlib import Path

import pytest

from harness import checkfile
from harness.errors import ScenarioError

TESTS = ("load", "signals")


def test_nothing_is_needed(tmp_path: Path) -> None:
    assert checkfile.load(tmp_path, TESTS) == checkfile.CheckFile()
    assert checkfile.parse("{}", "f", TESTS) == checkfile.CheckFile()


def test_everything_is_read(tmp_path: Path) -> None:
    (tmp_path / "harness.yaml").write_text(
        """
        parameters: a=1 b=2
        load_first: [core]
        setup: [{mkdir: /x}]
        use: [{stat: /x}]
        holds: [{stat: /x, expect: ENOENT}]
        before_unload: [{stat: /y}]
        teardown: [{rmdir: /x}]
        fine: {finit_module: [ENODEV]}
        known: ["residue: .*"]
        skip: {signals: it takes its time}
        surfaces: [{kind: sysfs file, name: /sys/x}]
        """
    )
    # A compiled module lies beside its file.
    (tmp_path / "m.ko").touch()
    for path in (tmp_path, tmp_path / "m.ko"):
        read = checkfile.load(path, TESTS)
        assert read.around.parameters == "a=1 b=2"
        assert read.around.load_first == ("core",)
        assert read.around.setup == ({"mkdir": "/x"},)
        assert read.around.use == ({"stat": "/x"},)
        assert read.around.holds == ({"stat": "/x", "expect": "ENOENT"},)
        assert read.around.teardown == ({"rmdir": "/x"},)
        assert read.around.before_unload == ({"stat": "/y"},)
        assert read.around.fine == (("finit_module", ("ENODEV",)),)
        assert read.known == ("residue: .*",)
        assert read.skip == {"signals": "it takes its time"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("parameter: a=1", "f:1: parameter: unknown field; did you mean parameters?"),
        ("parameters: 3", "f:1: parameters: input should be a valid string"),
        ("load_first: ['a b']", "f:1: load_first[0]: string should match pattern"),
        ("setup:\n- mkdri: /x", "f:2: setup[0].mkdri: no op or field is called 'mkdri'"),
        ("use:\n- open: {slot: 99, path: /x}", "f:2: use[0].open.slot: 99 is not in 0..15"),
        ("fine: {finit: [ok]}", "f:1: fine.finit: no op is called 'finit'"),
        ("fine:\n  open: [ENOTHING]", "f:2: fine.open[0]: no errno is called 'ENOTHING'"),
        ("known: ['(']", "f:1: known[0]: not a regular expression"),
        ("skip: {signal: why}", "f:1: skip.signal: no test is called 'signal'; did you mean sign"),
        ("skip: {signals: ''}", "f:1: skip.signals: string should have at least 1 character"),
        ("- 1", "f:1: a harness.yaml is a mapping of fields"),
    ],
)  # fmt: skip
def test_mistakes_are_said_with_file_line_and_field(text: str, why: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        checkfile.parse(text, "f", TESTS)
    assert str(caught.value).startswith(why)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "harness.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ScenarioError, match="is not UTF-8"):
        checkfile.load(tmp_path, TESTS)
