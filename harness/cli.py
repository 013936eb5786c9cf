# SPDX-License-Identifier: GPL-2.0-only
"""The ``harness`` command: a thin front over :mod:`harness.lab`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from harness import (
    __version__,
    bisectcommand,
    checkcommand,
    commands,
    failcommand,
    kernelscommand,
    matrixcommand,
    minimisecommand,
    ownarguments,
    replaycommand,
    reportcommand,
    reproducecommand,
    sweepcommand,
    verifycommand,
)
from harness.battery import SEEDS
from harness.bench import CYCLES
from harness.errors import ExitStatus, HarnessError, UsageError
from harness.failsweep import BATCH
from harness.kernels import DEFAULT_KERNEL, DEFAULT_PROFILE
from harness.machine import Lane
from harness.minimise import SEEDS as MINIMISE_SEEDS
from harness.plan import Action


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status (see :class:`ExitStatus`)."""
    # A harness that is told to go takes its guests with it: as an exception, so
    # that every `with` block ends.
    signal.signal(signal.SIGTERM, _terminated)
    errors = Console(stderr=True, highlight=False)
    try:
        arguments = _parser().parse_args(argv)
        level = logging.DEBUG if arguments.verbose else logging.WARNING
        logging.basicConfig(level=level, format="%(name)s: %(message)s")
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)
        status: ExitStatus = arguments.run(arguments)
    except HarnessError as error:
        errors.print(f"harness: {error}", markup=False, soft_wrap=True)
        status = error.exit_status
    except KeyboardInterrupt:
        errors.print("harness: interrupted", markup=False)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return int(status)


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong the way the rest of the harness does."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message, hint=f"`{self.prog} --help` lists what there is")


def _parser() -> _Parser:
    parser = _Parser(prog="harness", description="Unload kernel modules under everything.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say each command that is run")
    calls = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    call = _call(calls, "setup", commands.setup, "build kernel, image and templates")
    _add_kernel(call)

    call = _call(calls, "doctor", commands.doctor, "say what works on this machine and what not")
    _add_kernel(call)

    _add_check(calls)

    call = _call(calls, "run", commands.run, "run trials of one module")
    call.add_argument("module", help="a folder with a Kbuild file, or a name under kmods/")
    call.add_argument("--variant", default="good", help="which variant (default: good)")
    call.add_argument("--lane", default="det", choices=[lane.value for lane in Lane])
    call.add_argument("--scenario", help="file or name (default: the module's own, in turn)")
    call.add_argument("--seeds", default="0:8", help="N or A:B, B not included (default: 0:8)")
    call.add_argument("--schedule", metavar="pct[:DEPTH]",
                      help="priorities from the seed, in the det lane (default: none)")  # fmt: skip
    call.add_argument("--scan-memory", action="store_true",
                      help="look for pointers to where modules were")  # fmt: skip
    call.add_argument("--seconds", type=_positive_float, help="go on with further seeds so long")
    call.add_argument("--until-finding", action="store_true", help="stop at the first finding")
    call.add_argument("--json", type=Path, metavar="OUT", help="write a document; - for stdout")
    _add_kernel(call)
    _add_running(call)

    call = _call(calls, "stress", commands.stress, "put the module catalogue to the test")
    _add_catalogue(call, good_trials=200, good_seconds=60.0)

    call = _call(calls, "catalogue", commands.show_catalogue,
                 "which mistake is caught, where and after how many trials")  # fmt: skip
    call.add_argument("--lane", default="det", choices=[lane.value for lane in Lane],
                      help="lane of variants that need no other (default: det)")  # fmt: skip
    _add_catalogue(call, good_trials=300, good_seconds=120.0)

    call = _call(calls, "sweep", sweepcommand.sweep, "stop a task at every instruction of a module")
    call.add_argument("module", help="a folder with a Kbuild file, or a name under kmods/")
    call.add_argument("--variant", default="good", help="which variant (default: good)")
    call.add_argument("--of", metavar="MODULE",
                      help="of several modules: name or role (default: the main one)")  # fmt: skip
    call.add_argument("--scenario", action="append", metavar="NAME",
                      help="file or name; may be repeated (default: the module's own)")  # fmt: skip
    call.add_argument("--action", action="append", choices=[action.value for action in Action],
                      help="what is done then; may be repeated (default: what fits)")  # fmt: skip
    call.add_argument("--hits", type=_positive_int, default=1, metavar="N",
                      help="stop at the first N times that it is reached (default: 1)")  # fmt: skip
    call.add_argument("--plan", action="append", metavar="PLAN",
                      help="run this plan and no sweep; may be repeated")  # fmt: skip
    call.add_argument("--from-report", type=Path, metavar="FILE",
                      help="run plans for the module's frames in a kernel's report")  # fmt: skip
    call.add_argument("--until-finding", action="store_true",
                      help="stop at the first plan that shows anything")  # fmt: skip
    call.add_argument("--html", type=Path, metavar="OUT", help="write the listing as a page")
    call.add_argument("--function", action="append", metavar="PATTERN",
                      help="only points of such functions; may be repeated")  # fmt: skip
    call.add_argument("--seed", type=int, default=1, help="of the scenarios (default: 1)")
    call.add_argument("--cycles", type=_positive_int, default=1, metavar="N",
                      help="how often scenarios go round (default: 1)")  # fmt: skip
    call.add_argument("--json", type=Path, metavar="OUT", help="write a document; - for stdout")
    _add_kernel(call)
    _add_running(call)

    call = _call(calls, "failsweep", failcommand.sweep,
                 "make each allocation of a module's steps fail")  # fmt: skip
    call.add_argument("module", help="a folder with a Kbuild file, or a name under kmods/")
    call.add_argument("--variant", default="good", help="which variant (default: good)")
    call.add_argument("--scenario", action="append", metavar="NAME",
                      help="with one actor; may be repeated (default: its own)")  # fmt: skip
    call.add_argument("--op", action="append", metavar="OP",
                      help="only steps of this operation; may be repeated")  # fmt: skip
    call.add_argument("--batch", type=_positive_int, default=BATCH, metavar="N",
                      help=f"failures of one trial (default: {BATCH})")  # fmt: skip
    call.add_argument("--skip-loader", action="store_true",
                      help="not what the kernel does of a load before init")  # fmt: skip
    call.add_argument("--seconds", type=_positive_float, help="start no trial after so long")
    call.add_argument("--json", type=Path, metavar="OUT", help="write a document; - for stdout")
    _add_kernel(call)
    _add_running(call)

    call = _call(calls, "matrix", matrixcommand.matrix,
                 "run kernels x modules from a file, or merge such results")  # fmt: skip
    call.add_argument("file", metavar="FILE",
                      help="the matrix; or `merge OUT.json SHARD.json...`")  # fmt: skip
    call.add_argument("inputs", nargs="*", metavar="JSON", help="what merge reads and writes")
    call.add_argument("--kernel", metavar="NAME[,NAME]", help="run only its cells on these")
    call.add_argument("--shard", metavar="I/N", help="run only the I-th of N parts of it")
    call.add_argument("--until", metavar="CLAIM",
                      help="run each cell until it holds or is refuted: 'p<1%%@95%%'")  # fmt: skip
    call.add_argument("--json", type=Path, metavar="OUT", help="write a document; - for stdout")
    call.add_argument("--journal", type=Path, metavar="FILE",
                      help="where trials are noted (default: beside the bundles)")  # fmt: skip
    call.add_argument("--fresh", action="store_true",
                      help="begin anew, not where the journal's run was ended")  # fmt: skip
    call.add_argument("--dask", metavar="ADDRESS",
                      help="run the cells on a Dask cluster: tcp://HOST:8786")  # fmt: skip
    call.add_argument("--dry-run", action="store_true",
                      help="list the cells, say how long they take, and run none")  # fmt: skip
    _add_running(call)

    call = _call(calls, "replay", replaycommand.replay, "run the trial of a bundle again")
    call.add_argument("bundle", type=Path, help="folder that a failing trial left")
    call.add_argument("--times", type=_positive_int, default=1, metavar="N")
    call.add_argument("--gdb", action="store_true",
                      help="have the guest wait for gdb, which stops at the plan's point, or where"
                           " the kernel says that something is wrong")  # fmt: skip
    call.add_argument("--stop", action="append", metavar="PLACE",
                      help="where gdb stops instead: a function, or *(function+0x26)")  # fmt: skip
    call.add_argument("--before", metavar="AMOUNT",
                      help="with --gdb: stop so much earlier, too: 5000 instructions, 200us, 3ms",
                      )  # fmt: skip
    call.add_argument("--core", type=Path, metavar="FILE",
                      help="dump the memory of a guest that panics, for drgn")  # fmt: skip
    call.add_argument("--workers", type=_positive_int, default=os.cpu_count() or 1, metavar="N")

    call = _call(calls, "reproduce", reproducecommand.run,
                 "look for the bug of a report, a mail or a log")  # fmt: skip
    call.add_argument("report", type=Path, help="YAML (docs/bug-reports.md), or a log")
    call.add_argument("--module", metavar="FOLDER", help="its source, if the report says nothing")
    call.add_argument("--variant", help="which of its variants (default: as the report says)")
    call.add_argument("--kernel", help="default: the nearest to the report's")
    call.add_argument(
        "--profile", help=f"default: {DEFAULT_PROFILE}, or what a module of the kernel's needs"
    )
    call.add_argument("--seconds", type=_positive_float, default=1800.0, metavar="N",
                      help="for each search, building not counted (default: 1800)")  # fmt: skip
    call.add_argument("--no-minimise", action="store_true",
                      help="leave the program that shows it as it is")  # fmt: skip
    call.add_argument("--json", type=Path, metavar="OUT", help="write a document; - for stdout")
    _add_running(call)

    call = _call(calls, "minimise", minimisecommand.run,
                 "look for the smallest program that shows a bundle's finding")  # fmt: skip
    call.add_argument("bundle", type=Path, help="folder that a failing trial left")
    call.add_argument("--as", dest="form", choices=sorted(minimisecommand.FORMS),
                      help="write it as a C file, or as a test for the module's own repository",
                      )  # fmt: skip
    call.add_argument("--out", type=Path, metavar="FILE",
                      help="of --as (default: reproducer.c, test_regression.py)")  # fmt: skip
    call.add_argument("--force", action="store_true", help="replace the file that is there")
    call.add_argument("--as-it-is", action="store_true",
                      help="write the bundle's own program, without a search")  # fmt: skip
    call.add_argument("--seeds", type=_positive_int, default=MINIMISE_SEEDS, metavar="N",
                      help=f"of each smaller program (default: {MINIMISE_SEEDS})")  # fmt: skip
    call.add_argument("--seconds", type=_positive_float, help="start no trial after so long")
    call.add_argument("--workers", type=_positive_int, default=os.cpu_count() or 1, metavar="N")

    call = _call(calls, "verify", verifycommand.run,
                 "whether a changed module still shows a bundle's finding")  # fmt: skip
    call.add_argument("bundle", type=Path, help="folder that a failing trial left")
    call.add_argument("--module", required=True, metavar="FOLDER", help="the same module, changed")
    call.add_argument("--variant", default="good")
    call.add_argument("--confidence", type=_confidence, default=95.0, metavar="PERCENT",
                      help="with which it is to be said (default: 95)")  # fmt: skip
    call.add_argument("--trials", type=_positive_int, default=300, metavar="N",
                      help="of the changed module, at most (default: 300)")  # fmt: skip
    call.add_argument("--json", type=Path, metavar="OUT", help="write a document; - for stdout")
    _add_running(call)

    call = _call(calls, "bisect", bisectcommand.run,
                 "since when, or with what, a bundle's finding shows")  # fmt: skip
    call.add_argument("bundle", type=Path, help="folder that a failing trial left")
    call.add_argument("--module", required=True, metavar="FOLDER", help="the module's source")
    call.add_argument("--variant", default="good")
    call.add_argument("--kernels", metavar="NAME,...", help="which of these show it, or all")
    call.add_argument("--git", metavar="GOOD..BAD", help="the first commit that shows it")
    call.add_argument("--options", metavar="NAME,...",
                      help="which of these options of the kernel it needs")  # fmt: skip
    call.add_argument("--json", type=Path, metavar="OUT", help="write a document; - for stdout")
    _add_running(call)

    call = _call(calls, "shell", commands.shell, "a shell in a prepared guest")
    call.add_argument("--lane", default="smp", choices=[lane.value for lane in Lane])
    call.add_argument("--module", help="put this module into the guest, as /payload/NAME.ko")
    call.add_argument("--variant", default="good")
    call.add_argument("command", nargs="*", help="run this instead of a shell")
    _add_kernel(call)

    _add_kernels(calls)
    _add_report(calls)

    call = _call(calls, "klog", commands.klog, "find the reports in kernel logs")
    call.add_argument("files", nargs="*", metavar="FILE",
                      help="logs; - or none for standard input")  # fmt: skip
    call.add_argument("--json", action="store_true", help="write one document to stdout")
    call.add_argument("--vmlinux", type=Path, metavar="V",
                      help="the kernel that printed the logs, with debug information")  # fmt: skip
    call.add_argument("--modules", type=Path, metavar="DIR",
                      help="its modules with debug information, or a bundle's folder")  # fmt: skip
    return parser


def _add_check(calls: argparse._SubParsersAction[_Parser]) -> None:
    call = _call(calls, "check", checkcommand.check,
                 "learn what a module exposes, and put it through every test")  # fmt: skip
    ownarguments.add_arguments(call)
    call.add_argument("--variant", default="good", help="which variant (default: good)")
    call.add_argument("--lane", default="both", choices=["det", "smp", "both"],
                      help="where users race with unload (default: both)")  # fmt: skip
    call.add_argument("--seeds", type=_positive_int, default=SEEDS, metavar="N",
                      help=f"of each race (default: {SEEDS})")  # fmt: skip
    call.add_argument("--only", action="append", metavar="TEST",
                      help="name or pattern; may be repeated (default: all)")  # fmt: skip
    call.add_argument("--sweep", action="store_true",
                      help="also unload under every instruction that users reach")  # fmt: skip
    call.add_argument("--cycles", type=_positive_int, default=CYCLES, metavar="N",
                      help=f"lives of the test of that name (default: {CYCLES})")  # fmt: skip
    call.add_argument("--fail-seconds", type=_positive_float, metavar="N",
                      help="start no further failure after so long (default: try all)")  # fmt: skip
    call.add_argument("--settings", type=Path, metavar="FILE",
                      help="a harness.yaml for what has no folder of its own"
                           " (default: the one beside the module)")  # fmt: skip
    call.add_argument("--list", action="store_true", help="say which tests there are")
    call.add_argument("--json", type=Path, metavar="OUT", help="write a document; - for stdout")
    _add_running(call)

    call = _call(calls, "init", checkcommand.init,
                 "load a module once and write a harness.yaml beside it")  # fmt: skip
    ownarguments.add_arguments(call)
    call.add_argument("--force", action="store_true", help="replace the file that is there")
    _add_running(call)


def _add_kernels(calls: argparse._SubParsersAction[_Parser]) -> None:
    call = _call(calls, "kernels", kernelscommand.list_kernels,
                 "list kernels; build them; remove what is not needed")  # fmt: skip
    call.add_argument("--json", type=Path, metavar="OUT", help="write a document; - for stdout")
    below = call.add_subparsers(metavar="COMMAND", parser_class=_Parser)

    call = _call(below, "build", kernelscommand.build, "build kernels that are not built yet")
    call.add_argument("name", nargs="*", help="kernel or file (default: all of the profile)")
    call.add_argument("--profile", default=DEFAULT_PROFILE, help=f"default: {DEFAULT_PROFILE}")
    call.add_argument("--update", action="store_true",
                      help="ask Debian's archive for newer versions first")  # fmt: skip

    call = _call(below, "prune", kernelscommand.prune, "remove what is stale or not needed")
    call.add_argument("--sources", action="store_true",
                      help="also source trees of which no kernel is left")  # fmt: skip
    call.add_argument("--unfinished", action="store_true",
                      help="also builds that were interrupted and could go on")  # fmt: skip
    call.add_argument("--unused", type=float, default=7.0, metavar="DAYS",
                      help="also modules and saved guests unused so long (default: 7)")  # fmt: skip
    call.add_argument("--dry-run", action="store_true", help="say it and remove nothing")


def _call(
    calls: argparse._SubParsersAction[_Parser],
    name: str,
    run: Callable[[argparse.Namespace], ExitStatus],
    what: str,
) -> _Parser:
    call = calls.add_parser(name, help=what, description=what)
    call.set_defaults(run=run)
    return call


def _add_report(calls: argparse._SubParsersAction[_Parser]) -> None:
    what = "show the document of a matrix to people, or to a CI server"
    forms = calls.add_parser("report", help=what, description=what).add_subparsers(
        metavar="FORM", required=True, parser_class=_Parser
    )
    call = _call(forms, "html", reportcommand.html, "one page that needs nothing else")
    call.add_argument("document", type=Path, metavar="DOC.json", help="what `matrix` wrote")
    call.add_argument("--out", type=Path, required=True, metavar="PAGE.html",
                      help="- for stdout")  # fmt: skip
    call.add_argument("--previous", type=Path, metavar="OLD.json",
                      help="say what is new, gone and still there since then")  # fmt: skip
    call.add_argument("--source", type=Path, action="append", default=[], metavar="DIR",
                      help="modules' folders lie in it; may be repeated (and kmods/)")  # fmt: skip
    call = _call(forms, "junit", reportcommand.junit_xml, "JUnit XML, a test case for each cell")
    call.add_argument("document", type=Path, metavar="DOC.json", help="what `matrix` wrote")
    call.add_argument("--out", type=Path, required=True, metavar="FILE.xml", help="- for stdout")


def _add_catalogue(call: _Parser, *, good_trials: int, good_seconds: float) -> None:
    call.add_argument("family", nargs="*", help="only these (default: all under kmods/)")
    call.add_argument("--good-trials", type=_positive_int, default=good_trials, metavar="N",
                      help=f"det trials of each good variant (default: {good_trials})")  # fmt: skip
    call.add_argument("--good-seconds", type=_positive_float, default=good_seconds, metavar="S",
                      help=f"smp time of each (default: {good_seconds:.0f})")  # fmt: skip
    call.add_argument("--bad-trials", type=_positive_int, default=64, metavar="N",
                      help="give up on a bad variant after so many (default: 64)")  # fmt: skip
    call.add_argument("--json", type=Path, metavar="OUT", help="write a document; - for stdout")
    _add_kernel(call)
    _add_running(call)


def _add_kernel(call: _Parser) -> None:
    call.add_argument("--kernel", default=DEFAULT_KERNEL, help=f"default: {DEFAULT_KERNEL}")
    call.add_argument("--profile", default=DEFAULT_PROFILE, help=f"default: {DEFAULT_PROFILE}")


def _add_running(call: _Parser) -> None:
    call.add_argument("--workers", type=_positive_int, default=os.cpu_count() or 1, metavar="N",
                      help="guests side by side (default: one a processor)")  # fmt: skip
    call.add_argument("--bundles", type=Path, default=Path("runs"), metavar="DIR",
                      help="where bundles of findings go (default: runs)")  # fmt: skip


def _positive_int(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: not a positive number")
    return value


def _confidence(text: str) -> float:
    number = _positive_float(text)
    if not 50 <= number < 100:
        raise argparse.ArgumentTypeError(f"{text}: is at least 50 and less than 100")
    return number


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e7:
        raise argparse.ArgumentTypeError(f"{text!r}: not a positive number of seconds")
    return value


if __name__ == "__main__":
    sys.exit(main())
