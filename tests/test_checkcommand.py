# SPDX-License-Identifier: GPL-2.0-only
"""What ``harness check`` and ``harness init`` say, write and exit with: no guest."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import battery, checkcommand, checkfile, cli
from harness.battery import Checked
from harness.bench import Bench, Found, Learned, Outcome, Result
from harness.errors import ExitStatus
from harness.surfaces import Kind, Surface
from harness.verdict import Finding
from harness.verdict import Kind as Sort

DEVICE = Surface(Kind.CHARACTER, "/dev/m", 0o020600, "10:55")
FILE = Surface(Kind.SYSFS, "/sys/m: odd [name]", 0o100644)
PASSED = Result("load", "about", Outcome.PASS, trials=1)
FOUND = Result(
    "cycles", "about", Outcome.FINDING, trials=2, why="not tried: depth",
    found=(Found(Finding(Sort.RESIDUE, "residue: misc [red]device"), Path("/b/one")),
           Found(Finding(Sort.SPLAT, "WARNING in m_exit"))),
)  # fmt: skip
ERROR = Result("use", "about", Outcome.ERROR, why="QEMU did not start")
SKIPPED = Result("parameters", "about", Outcome.SKIPPED, why="it has no parameters")


class FakeLab:
    def __init__(self, *rest: object) -> None:
        pass


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checkcommand, "Lab", FakeLab)
    monkeypatch.setattr(checkcommand, "announce", lambda *rest: None)
    module = tmp_path / "module"
    module.mkdir()
    (module / "Kbuild").write_text("obj-m := m.o\n")
    handler = signal.getsignal(signal.SIGTERM)
    yield module
    signal.signal(signal.SIGTERM, handler)


def results(monkeypatch: pytest.MonkeyPatch, *several: Result) -> None:
    def run(bench: Bench, tests: object, each: object) -> Checked:
        return Checked("m", bench.options.kernel, "kasan", "6.1.0", several, (DEVICE, FILE))

    monkeypatch.setattr(battery, "run_battery", run)


@pytest.mark.parametrize(
    ("several", "status"),
    [
        ((PASSED, SKIPPED), ExitStatus.OK),
        ((PASSED, ERROR), ExitStatus.HARNESS),
        ((PASSED, FOUND), ExitStatus.FINDINGS),
        # What was found is found, whatever happened later.
        ((FOUND, ERROR), ExitStatus.FINDINGS),
    ],
)
def test_status_says_what_became_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, several: tuple[Result, ...], status: ExitStatus
) -> None:
    results(monkeypatch, *several)
    assert cli.main(["check", str(folder)]) == status


def test_table_has_each_finding_and_its_replay_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results(monkeypatch, PASSED, FOUND, ERROR, SKIPPED)
    cli.main(["check", str(folder), "--json", str(folder / "out.json")])
    shown = capsys.readouterr().out
    for text in (
        "residue: misc [red]device",
        "harness replay /b/one",
        "WARNING in m_exit",
        "QEMU did not start",
        "it has no parameters",
        "/dev/m",
        "/sys/m: odd [name]",
    ):
        assert text in shown  # fmt: skip
    document = json.loads((folder / "out.json").read_text())
    assert [test["verdict"] for test in document["tests"]] == ["pass", "finding", "error",
                                                               "skipped"]  # fmt: skip


def test_document_on_stdout_is_alone_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results(monkeypatch, PASSED)
    cli.main(["check", str(folder), "--json", "-"])
    assert json.loads(capsys.readouterr().out)["schema"] == battery.SCHEMA


def test_tests_are_listed_without_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--list", "--only", "use*"]) == ExitStatus.OK
    shown = capsys.readouterr().out
    assert "users" in shown
    assert "cycles" not in shown


def test_mistake_in_harness_yaml_is_the_users(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "harness.yaml").write_text("known: 3\n")
    assert cli.main(["check", str(folder)]) == ExitStatus.USAGE
    assert "harness.yaml:1: known: input should be a valid list" in capsys.readouterr().err


def test_settings_of_what_has_no_folder_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "harness.yaml").write_text("parameters: of-the-folder=1\n")
    elsewhere = folder.parent / "other.yaml"
    elsewhere.write_text("parameters: a=1\n")
    seen = []

    def run(bench: Bench, tests: object, each: object) -> Checked:
        seen.append(bench.around.parameters)
        return Checked("m", "6.1", "kasan", "6.1.0", (PASSED,), ())

    monkeypatch.setattr(battery, "run_battery", run)
    assert cli.main(["check", str(folder), "--settings", str(elsewhere)]) == ExitStatus.OK
    assert cli.main(["check", str(folder)]) == ExitStatus.OK
    assert seen == ["a=1", "of-the-folder=1"]
    missing = folder / "absent.yaml"
    assert cli.main(["check", str(folder), "--settings", str(missing)]) == ExitStatus.USAGE
    assert "absent.yaml:1: cannot be read: No such file" in capsys.readouterr().err


def test_failing_sites_come_with_what_went_wrong_and_their_stack(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def site(
        *findings: str, stack: tuple[str, ...] = (), verdict: str = "finding"
    ) -> dict[str, Any]:
        return {"op": "finit_module", "scenario": "order-m", "nth": [7, 9], "kind": "slab",
                "errno": ["ENOMEM"], "stack": list(stack), "verdict": verdict,
                "findings": list(findings)}  # fmt: skip

    sites = (
        site("residue: misc device m", stack=("kmalloc_trace", "m_init m.c:65")),
        site(stack=("m_open m.c:12",), verdict="failed"),
        site("WARNING in m_exit"),
        site("BUG: x in grow_dev_page", stack=("grow_dev_page",), verdict="kernel"),
    )
    done = Checked("m", "6.1", "kasan", "6.1.0", (FOUND,), (), sites)
    monkeypatch.setattr(battery, "run_battery", lambda *rest: done)
    assert cli.main(["check", str(folder)]) == ExitStatus.FINDINGS
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    start = "failing site: allocation 7, 9 of finit_module in order-m (slab), which said ENOMEM"
    first = lines.index(start)
    assert lines[first:] == [
        start, "  residue: misc device m", "    kmalloc_trace", "    m_init m.c:65",
        start, "  WARNING in m_exit", "    the kernel did not say where",
        f"{start}; the kernel's own, and no finding", "  BUG: x in grow_dev_page",
        "    grow_dev_page",
    ]  # fmt: skip


def learned(monkeypatch: pytest.MonkeyPatch, *found: Found) -> None:
    monkeypatch.setattr(Bench, "learned", Learned((DEVICE, FILE), found))
    fields = (("parmtype", "size:uint"), ("license", "GPL"))
    monkeypatch.setattr(Bench, "modinfo", fields)


def test_init_writes_what_check_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learned(monkeypatch)
    assert cli.main(["init", str(folder)]) == ExitStatus.OK
    assert "wrote " in capsys.readouterr().out
    text = (folder / "harness.yaml").read_text()
    assert "#   size: uint" in text
    assert '"name": "/dev/m"' in text or "name: /dev/m" in text
    assert checkfile.load(folder, battery.NAMES) == checkfile.CheckFile()


def test_init_does_not_overwrite(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learned(monkeypatch)
    path = folder / "harness.yaml"
    path.write_text("parameters: a=1\n")
    assert cli.main(["init", str(folder)]) == ExitStatus.USAGE
    assert "is there already" in capsys.readouterr().err
    assert path.read_text() == "parameters: a=1\n"
    assert cli.main(["init", str(folder), "--force"]) == ExitStatus.OK
    assert "surfaces:" in path.read_text()


def test_init_says_what_the_first_load_has_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learned(monkeypatch, *FOUND.found)
    assert cli.main(["init", str(folder)]) == ExitStatus.FINDINGS
    shown = capsys.readouterr().out
    assert "found: residue: misc [red]device" in shown
    assert "harness replay /b/one" in shown
