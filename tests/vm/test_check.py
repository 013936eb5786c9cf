# SPDX-License-Identifier: GPL-2.0-only
"""`harness check` on modules that are right, and on those that make its work hard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import battery, bundle, checkfile, cli, families, trial
from harness.bench import Bench, Options, Outcome, Result
from harness.errors import ExitStatus
from harness.lab import Lab
from harness.machine import Lane
from harness.surfaces import MADE_FOLDER, Kind

pytestmark = pytest.mark.vm

MISBEHAVE = Path(__file__).parents[1] / "data" / "kmods" / "misbehave"
PARLEY = MISBEHAVE.with_name("parley")


def bench(made: Lab, folder: str, variant: str, bundles: Path) -> Bench:
    family = families.find_family(folder)
    options = Options("6.1", "kasan", (Lane.DET,), 1, 2, bundles, variant)
    settings = checkfile.load(family.folder, battery.NAMES)
    return Bench(made, family, settings, options, lambda what, done: None)


def check(
    made: Lab, variant: str, bundles: Path, *only: str, folder: Path = MISBEHAVE
) -> battery.Checked:
    tests = battery.choose(only, sweep_too=False)
    return battery.run_battery(bench(made, str(folder), variant, bundles), tests)


def titles(result: Result) -> list[str]:
    return [found.finding.title for found in result.found]


def test_module_that_is_right_passes_and_its_surfaces_are_known(
    harness_lab: Lab, tmp_path: Path
) -> None:
    only = ("load", "unload-absent", "load-twice", "cycles", "parameters", "signals", "contract",
            "files", "use")  # fmt: skip
    done = check(harness_lab, "good", tmp_path, *only)
    wrong = [(one.name, one.outcome, one.why, titles(one)) for one in done.results
             if one.outcome is not Outcome.PASS]  # fmt: skip
    assert wrong == []
    names = {one.name for one in done.surfaces}
    assert {"/dev/misbehave", "/sys/module/misbehave/parameters/level"} <= names
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variant", "title", "why"),
    [
        ("panics-on-load", "kernel panic: misbehave: as it was told", "see load: kernel panic"),
        ("init-waits", "hang: finit_module did not return", "see load: hang: finit_module"),
        ("init-refuses", "errno: finit_module returned ENODEV", "it does not load: finit_module"),
        ("exit-waits", "hang: delete_module did not return", "see load: hang: delete_module"),
        ("no-exit", "cannot be unloaded: misbehave has no exit function", "cannot be unloaded"),
    ],
)
def test_module_that_goes_nowhere_has_a_clear_verdict(
    harness_lab: Lab, tmp_path: Path, variant: str, title: str, why: str
) -> None:
    load, use = check(harness_lab, variant, tmp_path, "load", "use").results
    assert load.outcome is Outcome.FINDING
    assert titles(load)[0] == title
    assert use.outcome is Outcome.SKIPPED
    assert use.why.startswith(why)
    # What it is called is what its bundle replays.
    path = load.found[0].bundle
    assert path is not None
    again, differences = harness_lab.replay_trial(bundle.load_bundle(path))
    assert differences == ()
    assert trial.run_trial(again).findings


@pytest.mark.parametrize(
    ("variant", "test", "title"),
    [
        ("no-owner", "contract",
         "missing owner: /dev/misbehave can be open while its module is unloaded"),
        ("folders-no-owner", "contract",
         "missing owner: a folder in /sys/kernel/config/misbehave can be there while its module is"
         " unloaded"),
        ("leaves-memory", "load", "residue: vmalloc area of misbehave_keep"),
        ("leaves-proc", "load", "residue: proc entry misbehave"),
        ("leaves-handler", "load", "residue: packet handler 88b5 misbehave_receive"),
        ("leaves-event", "load", "residue: trace event kprobes:misbehave"),
        ("quiet-warning", "load", "tainted: warning that the console does not show"),
    ],
)  # fmt: skip
def test_mistake_is_named(
    harness_lab: Lab, tmp_path: Path, variant: str, test: str, title: str
) -> None:
    (result,) = check(harness_lab, variant, tmp_path, test).results
    assert title in titles(result)


def test_folders_that_a_user_makes_are_used_and_keep_the_module(
    harness_lab: Lab, tmp_path: Path
) -> None:
    done = check(harness_lab, "folders", tmp_path, "use", "contract", "files")
    wrong = [(one.name, one.outcome, one.why, titles(one)) for one in done.results
             if one.outcome is not Outcome.PASS]  # fmt: skip
    assert wrong == []
    tree = "/sys/kernel/config/misbehave"
    kinds = {one.name: one.kind for one in done.surfaces}
    assert kinds[tree] is Kind.CONFIGFS
    assert kinds[f"{tree}/{MADE_FOLDER}/depth"] is Kind.CONFIGFS_FILE


def test_sockets_are_found_and_used_and_keep_the_module(harness_lab: Lab, tmp_path: Path) -> None:
    done = check(harness_lab, "good", tmp_path, "load", "use", "contract", "users", folder=PARLEY)
    wrong = [(one.name, one.outcome, one.why, titles(one)) for one in done.results
             if one.outcome is not Outcome.PASS]  # fmt: skip
    assert wrong == []
    # PF_ASH, include/linux/socket.h.
    assert [one.name for one in done.surfaces if one.kind is Kind.SOCKET] == ["family 18 dgram 0"]


def test_sockets_without_an_owner_are_named(harness_lab: Lab, tmp_path: Path) -> None:
    load, contract = check(
        harness_lab, "no-owner", tmp_path, "load", "contract", folder=PARLEY
    ).results
    assert load.outcome is Outcome.PASS
    assert titles(contract)[0] == (
        "missing owner: a socket of family 18 dgram 0 can be open while its module is unloaded"
    )


def test_command_ends_with_a_table_a_document_and_a_status(
    harness_lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["check", str(MISBEHAVE), "--variant", "leaves-proc", "--lane", "det", "--only", "load",
            "--bundles", str(tmp_path / "runs"), "--json", str(tmp_path / "out.json")]  # fmt: skip
    assert cli.main(argv) == ExitStatus.FINDINGS
    out = capsys.readouterr().out
    assert "residue: proc entry misbehave" in out
    document = json.loads((tmp_path / "out.json").read_text())
    (load,) = document["tests"]
    replay = load["findings"][0]["replay"].split()
    assert cli.main(replay[1:]) == ExitStatus.FINDINGS
    assert "same title: 1 of 1" in capsys.readouterr().out
