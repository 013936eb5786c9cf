# SPDX-License-Identifier: GPL-2.0-only
"""User mistakes: a clear message, exit status 2, nothing left behind, no guest started."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli, commands
from harness.errors import ExitStatus, QemuError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(tmp_path / "cache"))
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "cache"
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ("run nothing", "module 'nothing': no such folder"),
        ("run poolfs --variant nothing", "variant 'nothing' of poolfs: unknown"),
        ("run poolfs --kernel 2.4", "kernel '2.4': unknown; known: 5.10, 6.1, "),
        ("run poolfs --profile none", "profile 'none': unknown; known: check, distro, kasan"),
        ("run poolfs --lane fast", "invalid choice: 'fast'"),
        ("run poolfs --seeds x", "seeds 'x': not a range"),
        ("run poolfs --seeds 4:4", "an empty range"),
        ("run poolfs --scenario nothing", "no scenario is called 'nothing'"),
        ("run poolfs --workers 0", "not a positive number"),
        ("run poolfs --seconds -1", "not a positive number of seconds"),
        ("run poolfs --schedule random", "'random' is no schedule"),
        ("run poolfs --schedule pct --lane smp", "--schedule in the smp lane"),
        ("sweep nothing", "module 'nothing': no such folder"),
        ("sweep poolfs --variant nothing", "variant 'nothing' of poolfs: unknown"),
        ("sweep poolfs --scenario nothing", "no scenario is called 'nothing'"),
        ("sweep poolfs --action nothing", "invalid choice: 'nothing'"),
        ("sweep poolfs --plan nothing", "'nothing' is no plan"),
        ("sweep poolfs --from-report /nowhere", "/nowhere: cannot be read"),
        ("check", "which module?"),
        ("check nothing", "module 'nothing': no such folder"),
        ("check poolfs --variant nothing", "variant 'nothing' of poolfs: unknown"),
        ("check poolfs --kernel 2.4", "kernel '2.4': unknown"),
        ("check poolfs --only nothing", "no test is called 'nothing'; there are: load, "),
        ("check poolfs --lane fast", "invalid choice: 'fast'"),
        ("check poolfs --seeds 0", "not a positive number"),
        ("init nothing", "module 'nothing': no such folder"),
        ("failsweep nothing", "module 'nothing': no such folder"),
        ("failsweep poolfs --variant nothing", "variant 'nothing' of poolfs: unknown"),
        ("failsweep poolfs --scenario nothing", "no scenario is called 'nothing'"),
        ("failsweep poolfs --op nothing", "--op nothing: no operation is called so"),
        ("failsweep poolfs --batch 0", "not a positive number"),
        ("failsweep poolfs --kernel 2.4", "kernel '2.4': unknown"),
        ("catalogue nothing", "module 'nothing': no such folder"),
        ("catalogue --lane fast", "invalid choice: 'fast'"),
        ("catalogue --kernel 2.4", "kernel '2.4': unknown"),
        ("run", "the following arguments are required: module"),
        ("nothing", "invalid choice: 'nothing'"),
        ("", "the following arguments are required: COMMAND"),
        ("replay /nowhere", "/nowhere: not a bundle"),
        ("doctor --kernel 2.4", "kernel '2.4': unknown"),
    ],
)
def test_mistake_is_said_and_exits_2(
    argv: str, why: str, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    assert cli.main(argv.split()) == ExitStatus.USAGE
    shown = capsys.readouterr().err
    assert why in shown.replace("\n", " ")
    assert "Traceback" not in shown
    assert not cache.exists()


def test_malformed_scenario_names_file_line_and_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("about: x\nactors:\n  - name: a\n    doo: []\n")
    assert cli.main(["run", "poolfs", "--scenario", str(path)]) == ExitStatus.USAGE
    assert f"{path}:" in capsys.readouterr().err


def test_cache_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(tmp_path / "file"))
    assert cli.main(["run", "poolfs"]) == ExitStatus.USAGE
    assert "not a folder" in capsys.readouterr().err


def test_trouble_of_the_harness_exits_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(arguments: object) -> ExitStatus:
        raise QemuError("QEMU did not start", evidence="no such device")

    monkeypatch.setattr(commands, "doctor", fails)
    assert cli.main(["doctor"]) == ExitStatus.HARNESS
    shown = capsys.readouterr().err
    assert "QEMU did not start" in shown
    assert "no such device" in shown


def test_interrupt_exits_as_shells_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: object) -> ExitStatus:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "doctor", interrupted)
    assert cli.main(["doctor"]) == 130


def test_reader_that_went_away_is_no_crash() -> None:
    script = "from harness import cli; import sys; sys.exit(cli.main(['--help']))"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.close()
        assert child.stderr is not None
        assert b"Traceback" not in child.stderr.read()
