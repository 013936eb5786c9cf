# SPDX-License-Identifier: GPL-2.0-only
"""``harness klog``: what it prints, what it refuses, and its exit status."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cli, elf, klog, klogview, proc
from harness.deadline import Deadline
from harness.errors import ExitStatus

DATA = Path(__file__).parent / "data/klog"
FIELDS = {
    "title", "alt", "type", "frame", "task", "cpu", "corrupted", "reason", "start", "end",
    "signature",
}  # fmt: skip
BASE = 0xFFFFFFFFA0001000
MODULE = """\
int pool_alloc(int x)
{
        return x * 2;
}
"""
# Functions whose sizes differ, so that a kernel can be told from another.
KERNEL = "volatile int sink;\n" + "".join(
    f"int work_{n}(int x) {{ {'sink = x; ' * n}return x; }}\n" for n in range(1, 6)
)


@pytest.fixture(autouse=True)
def _restore_signals() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def compile_c(path: Path, source: str, *flags: str) -> Path:
    (path.parent / f"{path.stem}.c").write_text(source)
    argv = ["gcc", "-g", "-O1", "-fno-pie", *flags, "-o", str(path), f"{path.stem}.c"]
    proc.run(argv, deadline=Deadline.after(60), cwd=path.parent)
    return path


@pytest.fixture(scope="module")
def vmlinux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("linux") / "vmlinux"
    return compile_c(path, KERNEL + "int main(void) { return 0; }\n", "-no-pie")


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "kernel").mkdir()
    compile_c(folder / "kernel/my-pool.ko", MODULE, "-c")
    return folder


def run(*argv: object, stdin: bytes | None = None, monkeypatch: pytest.MonkeyPatch) -> int:
    if stdin is None:
        return cli.main(["klog", *map(str, argv)])
    with tempfile.TemporaryFile() as file:
        file.write(stdin)
        file.seek(0)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        return cli.main(["klog", *map(str, argv)])


def test_pipe_is_read_to_its_end() -> None:
    log = (DATA / "several.log").read_bytes()
    argv = [sys.executable, "-m", "harness.cli", "klog", "--json"]
    done = subprocess.run(argv, input=log, capture_output=True, timeout=60, check=False)
    assert done.returncode == ExitStatus.FINDINGS, done.stderr
    assert len(json.loads(done.stdout)["-"]) == 4


def frames(vmlinux: Path) -> str:
    by_name = elf.load(vmlinux).by_name
    return "".join(f" work_{n}+0x1/{by_name[f'work_{n}'][0].span:#x}\n" for n in range(1, 6))


def warning(stack: str) -> bytes:
    return (
        "WARNING: CPU: 0 PID: 1 at a.c:1 other+0x1/0x2\n"
        f"CPU: 0 PID: 1 Comm: insmod Not tainted 6.1.0 #1\nCall Trace:\n{stack}"
    ).encode()


# ---- what is found ------------------------------------------------------------------------------


def test_report_is_shown_and_the_status_is_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = DATA / "kasan_oob_read.log"
    assert run(path, monkeypatch=monkeypatch) == ExitStatus.FINDINGS
    shown = capsys.readouterr().out
    (report,) = klog.parse(path.read_bytes())
    assert f"{path}: 1 report\n" in shown
    assert f"1. {report.title}\n" in shown
    assert f"also bad-access in {report.frame}\n" in shown
    assert f"in {report.frame}, task insmod, CPU {report.cpu}\n" in shown
    first = path.read_bytes().count(b"\n", 0, report.start) + 1
    assert f"lines {first}-" in shown
    assert f"bytes {report.start}-{report.end}\n" in shown


def test_log_without_a_report_gives_status_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = DATA / "harmless.log"
    assert run(path, monkeypatch=monkeypatch) == ExitStatus.OK
    assert capsys.readouterr().out == f"{path}: no report\n"


def test_json_has_one_key_for_each_file_and_the_fields_of_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(DATA / f"{name}.log") for name in ("several", "harmless", "warn")]
    assert run("--json", *names, names[0], monkeypatch=monkeypatch) == ExitStatus.FINDINGS
    found = json.loads(capsys.readouterr().out)
    assert list(found) == names
    assert found[names[1]] == []
    assert len(found[names[0]]) == 4
    for name in names:
        parsed = klog.parse(Path(name).read_bytes())
        for record, report in zip(found[name], parsed, strict=True):
            assert set(record) == FIELDS
            assert record == {f: getattr(report, f) for f in FIELDS} | {"alt": list(report.alt)}


@pytest.mark.parametrize("argv", [(), ("-",), ("-", "-")])
def test_standard_input_is_read(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = (DATA / "warn.log").read_bytes()
    assert run("--json", *argv, stdin=log, monkeypatch=monkeypatch) == ExitStatus.FINDINGS
    found = json.loads(capsys.readouterr().out)
    assert [report["title"] for report in found["-"]] == ["WARNING in warn"]
    assert run(*argv, stdin=b"", monkeypatch=monkeypatch) == ExitStatus.OK
    assert capsys.readouterr().out == "standard input: no report\n"


def test_torn_report_is_said_to_be_corrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(stdin=b"BUG: KASAN: use-after-free in a+0x1/0x2\n", monkeypatch=monkeypatch) == 1
    assert re.search(r"\n   corrupted: .+\n", capsys.readouterr().out)


def test_escapes_of_a_log_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = b"Kernel panic - not syncing: \x9b31mred \x07bell \xff\xe2\x80\xaegnorw\n"
    assert run(stdin=log, monkeypatch=monkeypatch) == ExitStatus.FINDINGS
    shown = capsys.readouterr().out
    assert "kernel panic: " in shown
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown) is None


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ("/nowhere/x.log", "/nowhere/x.log: cannot be read: No such file or directory"),
        ("{tmp}", "{tmp}: cannot be read: Is a directory"),
        ("{log} --vmlinux /nowhere/vmlinux", "/nowhere/vmlinux: cannot be read"),
        ("{log} --vmlinux {tmp}", "{tmp}: cannot be read"),
        ("{log} --vmlinux {log}", "{log}: not an ELF file"),
        ("{log} --vmlinux {stripped}", "{stripped}: has no symbol table"),
        ("{log} --vmlinux {bare}", "{bare}: has no debug information"),
        ("{log} --vmlinux {object}", "a module or object file, not a kernel"),
        ("{log} --modules /nowhere", "/nowhere: no such folder"),
        ("{log} --modules {log}", "{log}: no such folder"),
        ("{log} --modules {tmp}/empty", "holds no module"),
        ("{log} --modules {tmp}/broken", "report.jsonl: not a record of a trial"),
        ("--nothing", "unrecognized arguments: --nothing"),
    ],
)
def test_mistake_is_said_and_exits_2(
    argv: str, why: str, tmp_path: Path, vmlinux: Path, modules: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("stripped", "bare"):
        flag = "--strip-all" if name == "stripped" else "--strip-debug"
        program = [str(proc.require_program("strip", "binutils")), flag, "-o"]
        proc.run([*program, str(tmp_path / name), str(vmlinux)], deadline=Deadline.after(60))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/x.ko").touch()
    (tmp_path / "broken/report.jsonl").write_text("no record\n")
    places = {
        "tmp": tmp_path, "log": DATA / "warn.log", "stripped": tmp_path / "stripped",
        "bare": tmp_path / "bare", "object": modules / "kernel/my-pool.ko",
    }  # fmt: skip
    words = argv.format(**places).split()
    assert run(*words, monkeypatch=monkeypatch) == ExitStatus.USAGE
    shown = capsys.readouterr()
    assert why.format(**places) in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_log_that_is_too_long_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(klogview, "MAX_LOG_BYTES", 1 << 20)
    with (tmp_path / "x.log").open("wb") as file:
        file.truncate((1 << 20) + 1)
    for name in ("/dev/zero", tmp_path / "x.log"):
        assert run(name, monkeypatch=monkeypatch) == ExitStatus.USAGE
        assert f"{name}: longer than 1 MiB" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_log_that_may_not_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"")
    path.chmod(0)
    assert run(path, monkeypatch=monkeypatch) == ExitStatus.USAGE
    assert "Permission denied" in capsys.readouterr().err


# ---- functions, files and lines -----------------------------------------------------------------


def test_frames_of_the_kernel_get_their_lines(
    vmlinux: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = warning(frames(vmlinux))
    assert run("--vmlinux", vmlinux, stdin=log, monkeypatch=monkeypatch) == ExitStatus.FINDINGS
    shown = capsys.readouterr()
    assert re.search(r"(?m)^   \|  work_3\+0x1/0x[0-9a-f]+ .*vmlinux\.c:4$", shown.out)
    assert shown.err == ""


def test_kernel_that_did_not_print_the_log_is_not_believed(
    vmlinux: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = warning(re.sub(r"/0x", "/0x9", frames(vmlinux)))
    assert run("--vmlinux", vmlinux, stdin=log, monkeypatch=monkeypatch) == ExitStatus.FINDINGS
    shown = capsys.readouterr()
    assert "vmlinux.c:" not in shown.out
    assert "only 0 of 5 frames fit" in shown.err


def test_frames_of_modules_get_their_lines(
    modules: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (symbol,) = elf.load(modules / "kernel/my-pool.ko").by_name["pool_alloc"]
    log = warning(f" pool_alloc+0x1/{symbol.span:#x} [my_pool]\n absent+0x1/0x2 [other]\n")
    assert run("--modules", modules, stdin=log, monkeypatch=monkeypatch) == ExitStatus.FINDINGS
    shown = capsys.readouterr().out
    assert re.search(r"pool_alloc\+\S+ \[my_pool\] my-pool\.c:[123]\n", shown)
    assert "   |  absent+0x1/0x2 [other]\n" in shown


def test_module_without_debug_information_is_named(
    tmp_path: Path, modules: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bare = tmp_path / "my_pool.ko"
    strip = str(proc.require_program("strip", "binutils"))
    source = modules / "kernel/my-pool.ko"
    proc.run([strip, "-g", "-o", str(bare), str(source)], deadline=Deadline.after(60))
    log = warning(" pool_alloc+0x1/0x4 [my_pool]\n")
    assert run("--modules", tmp_path, stdin=log, monkeypatch=monkeypatch) == ExitStatus.FINDINGS
    assert f"{bare}: has no debug information" in capsys.readouterr().err


def test_bundle_says_where_its_modules_lay(
    tmp_path: Path, modules: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    file = elf.load(modules / "kernel/my-pool.ko")
    (symbol,) = file.by_name["pool_alloc"]
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/my_pool.ko").write_bytes(file.path.read_bytes())
    life = {
        "ev": "life", "module": "my_pool", "base": f"{BASE:#x}", "size": 0x1000, "number": 3,
        "unloaded_us": 4_963_000,
    }  # fmt: skip
    (tmp_path / "report.jsonl").write_text(json.dumps(life) + "\n")
    at = f"{BASE + symbol.value + 1:#018x}"
    leak = (
        'unreferenced object 0xff110000040d09b0 (size 1112):\n  comm "a", pid 42, jiffies 42\n'
        f"  backtrace:\n    [<(____ptrval____)>] kmalloc_trace+0x1/0x2\n"
        f"    [<(____ptrval____)>] {at}\n    [<(____ptrval____)>] do_one_initcall+0x1/0x2\n"
    )
    log = f"[    5.000000] BUG: unable to handle page fault for address: {at[2:]}\n"
    log += f"[    5.000000] RIP: 0010:{at}\n[    5.000000] Call Trace:\n"
    log += f"[    5.000000]  work_1+0x1/0x2\n{leak}"
    where = f"pool_alloc+0x1/{symbol.span:#x} [my_pool, 3rd load, unloaded"
    argv = ("--modules", tmp_path)
    assert run(*argv, stdin=log.encode(), monkeypatch=monkeypatch) == ExitStatus.FINDINGS
    shown = capsys.readouterr().out
    assert re.search(rf"RIP: 0010:{re.escape(where)} 37 ms before\] \S+my-pool\.c:3\n", shown)
    assert "memory leak in pool_alloc\n" in shown
    assert re.search(rf"{re.escape(where)}\] \S+my-pool\.c:3\n", shown)
    assert run("--json", *argv, stdin=log.encode(), monkeypatch=monkeypatch) == ExitStatus.FINDINGS
    found = json.loads(capsys.readouterr().out)["-"]
    assert found[-1]["title"] == "memory leak in pool_alloc"
    assert log[found[-1]["start"] : found[-1]["end"]] == leak
