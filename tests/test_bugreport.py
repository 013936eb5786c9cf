# SPDX-License-Identifier: GPL-2.0-only
"""Bug reports: what can be made out of what people send."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from harness import bugreport, cli, families, reproducecommand, revision
from harness.bugreport import BugReport
from harness.errors import ExitStatus, ScenarioError, UsageError
from harness.patched import Patch

LOG = """\
Hi, this happened when I unloaded it:

[  812.135214] BUG: KASAN: use-after-free in mine_packet+0xf9/0x2d1 [mine]
[  812.135499] Write of size 8 at addr ffff888004712238 by task sender/46
[  812.135684] CPU: 0 PID: 46 Comm: sender 2.5 Tainted: G           O       6.8.12-3-pve #1
[  812.135821] Call Trace:
[  812.135898]  <TASK>
[  812.135974]  dump_stack_lvl+0x4c/0x5f
[  812.136115]  print_report+0x160/0x47a
[  812.136247]  kasan_report+0x9c/0xbb
[  812.136387]  mine_packet+0xf9/0x2d1 [mine]
[  812.136543]  nf_hook_slow+0x5b/0xcb
[  812.136827]  </TASK>
"""
REPORTS = Path(__file__).parents[1] / "examples" / "reports"
EXAMPLES = sorted(path for path in REPORTS.iterdir() if path.suffix != ".patch")


def test_mail_says_title_kernel_and_module(tmp_path: Path) -> None:
    (tmp_path / "mail.txt").write_text(LOG)
    found = bugreport.read(tmp_path / "mail.txt")
    assert found.title == "KASAN: use-after-free Write in mine_packet"
    assert found.version == "6.8"
    assert found.names == ("mine",)
    assert (found.module, found.revision) == ("", "")


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org) (gcc 12)", "6.1"),
        ("CPU: 3 PID: 1 Comm: rmmod Not tainted 5.10.0 #1", "5.10"),
        ("CPU: 3 UID: 0 PID: 1 Comm: rmmod Not tainted 6.12.9 #1 PREEMPT", "6.12"),
        ("something about version 6.1", ""),
    ],
)
def test_kernel_of_a_log(line: str, version: str) -> None:
    assert bugreport._from_log(line).version == version


def test_module_of_the_kernels_own_source_may_have_a_patch(tmp_path: Path) -> None:
    form = tmp_path / "report.yaml"
    text = "title: hang\nkernel: 6.12.1\nmodule: {in_tree: fs/minix, %s: fix.patch}\n"
    for word, reverse in (("patch", False), ("revert", True)):
        form.write_text(text % word)
        found = bugreport.read(form)
        assert (found.in_tree, found.module) == ("fs/minix", "")
        assert found.patch == Patch(tmp_path / "fix.patch", reverse)
    form.write_text("title: hang\nkernel: 6.12.1\nmodule: {in_tree: fs/minix}\n")
    assert bugreport.read(form).patch is None


#: Values of `in_tree` and what is said of each.
PLACES = [
    ("../../etc", "leads out of it by '..'"),
    ("fs/../../../etc", "leads out of it by '..'"),
    ("fs/..", "leads out of it by '..'"),
    ("/etc", "begins with '/'"),
    ("/", "begins with '/'"),
    ("fs//fat", "a part of it is empty"),
    ("fs/fat//", "a part of it is empty"),
    ("./fs/fat", "'.' is no name"),
    ("fs/.git", "'.git' is no name"),
    ("-C/fat", "'-C' is no name"),
    ("fs/$(SHELL)", r"'$(SHELL)' is no name"),
    ("fs/fa t", "'fa t' is no name"),
    ("fs\\fat", "is no name"),
    ("fs/fät", "'fät' is no name"),
    ("f/" * 120 + "f", "longer than 200 characters"),
    ("fs/fat\0", r"it has '\x00' in it"),
    ("fs/fat\n", r"it has '\n' in it"),
    ("fs/\x1b[2Jfat", r"it has '\x1b' in it"),
    ("f" * 501, "longer than 500 characters"),
    ("", "at least 1 character"),
]


@pytest.mark.parametrize(("place", "why"), PLACES)
def test_place_outside_of_the_kernels_source_is_refused(place: str, why: str) -> None:
    text = f"title: oops\nkernel: 6.12.1\nmodule:\n  in_tree: {json.dumps(place)}\n"
    with pytest.raises(ScenarioError) as caught:
        bugreport.from_form(text, "report.yaml")
    assert caught.value.message.startswith("report.yaml:4: module.in_tree: ")
    assert why in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("place", ["fs/fat", "fs/fat/", "fs/9p", "drivers/net/dummy.c", "net/802"])
def test_place_in_the_kernels_source(place: str) -> None:
    text = f"title: oops\nkernel: 6.12.1\nmodule: {{in_tree: {place}}}\n"
    assert bugreport.from_form(text, "report.yaml").in_tree == place.rstrip("/")


@pytest.mark.parametrize("field", ["patch", "revert"])
@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("../fix.patch", "leads out of the report's folder"),
        ("below/../../fix.patch", "leads out of the report's folder"),
        ("/etc/passwd", "leads out of the report's folder"),
        ("away.patch", "is a link to nothing in the report's folder"),
        ("away/fix.patch", "is a link to nothing in the report's folder"),
        ("loop.patch", "is a link to nothing in the report's folder"),
        ("fix\0.patch", r"it has '\x00' in it"),
        ("fix.patch\n", r"it has '\n' in it"),
        ("", "at least 1 character"),
    ],
)
def test_patch_that_did_not_come_with_the_report_is_refused(
    tmp_path: Path, field: str, file: str, why: str
) -> None:
    home = tmp_path / "report"
    home.mkdir()
    (tmp_path / "fix.patch").write_text("")
    (home / "away.patch").symlink_to(tmp_path / "fix.patch")
    (home / "away").symlink_to(tmp_path)
    (home / "loop.patch").symlink_to("loop.patch")
    form = home / "report.yaml"
    form.write_text(
        f"title: oops\nkernel: 6.12.1\nmodule:\n  in_tree: fs/fat\n  {field}: {json.dumps(file)}\n"
    )
    with pytest.raises(ScenarioError) as caught:
        bugreport.read(form)
    assert caught.value.message.startswith(f"{form}:5: module.{field}: ")
    assert why in caught.value.message


def test_patch_may_lie_below_the_report_or_be_a_link_there(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "fix.patch").write_text("")
    (tmp_path / "link.patch").symlink_to("below/fix.patch")
    form = tmp_path / "report.yaml"
    for file in ("below/fix.patch", "./below/fix.patch", "link.patch"):
        form.write_text(
            f"title: oops\nkernel: 6.12.1\nmodule: {{in_tree: fs/fat, patch: {file}}}\n"
        )
        found = bugreport.read(form)
        assert found.patch is not None
        assert found.patch.path.is_file()


@pytest.mark.parametrize(
    "line",
    [
        r'module: {folder: "mine\0"}',
        r'module: {folder: "mi\nne"}',
        r'module: {folder: mine, variant: "go\nod"}',
        r'module: {folder: mine, revision: "v1\0"}',
        r'title: "\e[2Jhang"',
    ],
)
def test_what_is_no_line_of_text_is_refused(line: str) -> None:
    text = f"kernel: 6.12.1\n{line}\n" + ("" if "title" in line else "title: oops\n")
    with pytest.raises(ScenarioError, match=r"report\.yaml:2: .* is no line of text: it has '"):
        bugreport.from_form(text, "report.yaml")


def test_modules_of_a_log() -> None:
    text = "Modules linked in: a(O) b c(OE+) [last unloaded: gone(O)]\n"
    assert bugreport._from_log(text).names == ("gone", "a", "b", "c")


def test_form_comes_before_the_log() -> None:
    log = LOG.replace("\n", "\n  ")
    form = (
        "title: hang\nkernel: 6.12.1-test\nmodule: {folder: ./here, revision: v1}\n"
        f"story: x\nlog: |\n  {log}\n"
    )
    found = bugreport.from_form(form, "report.yaml")
    assert (found.title, found.version, found.module) == ("hang", "6.12", "./here")
    assert (found.variant, found.revision) == ("good", "v1")
    assert found.names == ("mine",)


def test_series_and_revision_are_texts_without_quotes() -> None:
    """To YAML they are numbers, and 6.10 is 6.1."""
    form = "title: hang\nkernel: 6.10\nmodule: {folder: ./here, revision: 1.20}\n"
    found = bugreport.from_form(form, "report.yaml")
    assert (found.version, found.revision) == ("6.10", "1.20")


@pytest.mark.parametrize(
    ("text", "error", "why"),
    [
        ("kernel: 6.1\n", UsageError, "nothing in it says what happened"),
        ("title: oops\n", UsageError, "nothing in it says which kernel"),
        ("title: oops\nkernel: latest\n", ScenarioError, ":2: kernel: 'latest' is no version"),
        ("titel: oops\n", ScenarioError, "unknown field"),
        ("title: oops\nmodule: {folder: ''}\n", ScenarioError, "module.folder"),
        ("title: oops\nmodule: {variant: x}\n", ScenarioError, ":2: module: one of `folder` and"),
        (
            "title: oops\nmodule: {folder: x, in_tree: fs/fat}\n",
            ScenarioError,
            ":2: module: one of `folder` and `in_tree` is needed",
        ),
        (
            "title: oops\nmodule: {folder: x, patch: y}\n",
            ScenarioError,
            ":2: module.patch: one of `patch` and `revert` goes with `in_tree`",
        ),
        (
            "title: oops\nmodule: {in_tree: x, patch: y, revert: z}\n",
            ScenarioError,
            ":2: module.revert: one of",
        ),
        ("a: &a [*a]\n", ScenarioError, "report.yaml:1"),
    ],
)
def test_what_is_wrong_with_a_form_is_said(text: str, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        bugreport.from_form(text, "report.yaml")


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        bugreport.read(tmp_path / "none.txt")
    (tmp_path / "huge.txt").write_bytes(bytes((4 << 20) + 1))
    with pytest.raises(UsageError, match="4096 KiB, more than 4096"):
        bugreport.read(tmp_path / "huge.txt")


@pytest.mark.parametrize(
    ("version", "kernel"),
    [("6.1", "6.1"), ("6.2", "6.1"), ("6.8", "6.12"), ("7.9", "7.2"), ("5.19", "6.1"),
     ("2.6", "5.10"), ("5.11", "5.10")],
)  # fmt: skip
def test_nearest_kernel(version: str, kernel: str) -> None:
    known = ("5.10", "6.1", "6.12", "7.2", "my-tree")
    assert bugreport.nearest_kernel(version, known) == kernel


def test_no_kernel_with_a_version() -> None:
    with pytest.raises(UsageError, match="no kernel is known by its version"):
        bugreport.nearest_kernel("6.1", ("my-tree",))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_complete(path: Path) -> None:
    found = bugreport.read(path)
    assert found.version == "6.1"
    if found.in_tree:
        assert found.patch is not None
        assert found.patch.path.is_file()
    else:
        family = families.find_family(module_of(found))
        assert found.variant in family.variants


def test_every_family_has_an_example_and_so_has_the_kernels_own_source() -> None:
    known = {family.name for family in families.all_families()}
    found = [bugreport.read(path) for path in EXAMPLES]
    assert {one.in_tree or module_of(one) for one in found} == known | {"fs/minix"}


def module_of(found: BugReport) -> str:
    return found.module or reproducecommand._guess(found)


def git(folder: Path, *words: str) -> None:
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *names, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "module").mkdir(parents=True)
    git(root, "init", "-q")
    for text in ("old", "new"):
        (root / "module" / "m.c").write_text(text)
        git(root, "add", ".")
        git(root, "commit", "-q", "-m", text)
    git(root, "tag", "old", "HEAD~1")
    return root / "module"


def test_revision_is_unpacked_and_goes_away(repository: Path) -> None:
    with revision.unpacked(str(repository), "old") as place:
        assert (Path(place) / "m.c").read_text() == "old"
    assert not Path(place).exists()
    with revision.unpacked(str(repository)) as place:
        assert place == str(repository)


def test_commits_of_a_folder(repository: Path) -> None:
    (repository.parent / "other").write_text("x")
    git(repository.parent, "add", ".")
    git(repository.parent, "commit", "-q", "-m", "elsewhere")
    (one,) = revision.commits(repository, "old", "HEAD")
    assert revision.describe(repository, one) == f"{one} new"
    with pytest.raises(UsageError, match="no commit between HEAD~1 and HEAD touches it"):
        revision.commits(repository, "HEAD~1", "HEAD")
    with pytest.raises(UsageError, match="git revision 'none' cannot be had"):
        revision.commits(repository, "none", "HEAD")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none", "there is no such commit"),
        ("--output=x", "there is no such commit"),
        ("old^{tree}", "expected commit type"),
    ],
)
def test_revision_that_is_none(repository: Path, name: str, why: str) -> None:
    with (
        pytest.raises(UsageError, match=rf"git revision .* cannot be had: .*{why}"),
        revision.unpacked(str(repository), name),
    ):
        pass


def test_tarball_that_would_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.c").write_text("x" * 1000)
    with tarfile.open(tmp_path / "m.tar", "w") as tar:
        for number in range(3):
            tar.add(tmp_path / "m.c", f"m/{number}.c")
    for limit, value in (("_MAX_BYTES", 2999), ("_MAX_FILES", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(revision, limit, value)
            with (
                pytest.raises(UsageError, match=r"m\.tar: holds more than"),
                revision.unpacked(str(tmp_path / "m.tar")),
            ):
                pass
    with revision.unpacked(str(tmp_path / "m.tar")) as place:
        assert len([*Path(place).iterdir()]) == 3


#: Nine levels of nine: each is small, and all of them together are 400 million words.
BOMB = "\n".join(
    ['a0: &a0 "x"', *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("title: oops\n", "nothing in it says which kernel"),
        (BOMB, "more than 20000 values"),
        ("title: " + "[" * 5000, "report.yaml:1"),
        ("title: !!python/object/apply:os.system [id]\nkernel: '6.1'\n", "report.yaml:1"),
        ("title: oops\nkernel: '6.1'\nmodule: {folder: HERE, revision: v9}\n", "no such commit"),
        ("title: oops\nkernel: '6.1'\nmodule: {folder: HERE/none}\n", "no such folder"),
        ("title: oops\nkernel: '6.1'\nmodule: {folder: HERE, variant: none}\n", "'none'"),
        (
            "title: oops\nkernel: '6.1'\nmodule: {in_tree: fs/fat, patch: none}\n",
            "none: no such file",
        ),
        ("title: oops\nkernel: '6.1'\nmodule: {in_tree: ../../etc}\n", "by '..'"),
        ("title: oops\nkernel: '6.1'\nmodule: {in_tree: \"fs\\nfat\"}\n", "no line of text"),
        ("title: oops\nkernel: '6.1'\nmodule: {in_tree: fs/fat, patch: /etc/x}\n", "leads out"),
        ("title: oops\nkernel: '6.1'\nmodule: {in_tree: fs/fat, revert: ../x}\n", "leads out"),
        ("title: oops\nkernel: '6.1'\nmodule: {folder: \"HERE\\0\"}\n", "no line of text"),
        ("title: oops\nkernel: '6.1'\nmodule: {folder: HERE/empty}\n", "no Kbuild"),
        ("title: oops\nkernel: '6.1'\nmodule: {folder: HERE/loop}\n", "loop"),
    ],
    ids=[
        "kernel",
        "bomb",
        "deep",
        "tag",
        "revision",
        "folder",
        "variant",
        "patch",
        "place outside",
        "place of two lines",
        "patch of the machine",
        "patch outside",
        "folder with a NUL",
        "folder without a module",
        "folder that is a loop",
    ],
)
def test_report_that_is_refused_runs_nothing(
    text: str, why: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def never(*rest: object, **named: object) -> None:
        raise AssertionError("something was built or run")

    monkeypatch.setenv("KMOD_HARNESS_CACHE", str(tmp_path / "cache"))
    for name in ("kernel", "build", "subject", "booted"):
        monkeypatch.setattr(f"harness.lab.Lab.{name}", never)
    (repository / "Kbuild").write_text("obj-m := m.o\n")
    (repository / "loop").symlink_to("loop")
    (repository / "empty").mkdir()
    form = tmp_path / "report.yaml"
    form.write_text(text.replace("HERE", str(repository)))
    assert cli.main(["reproduce", str(form)]) == ExitStatus.USAGE
    said = capsys.readouterr().err
    assert why in said
    assert "Traceback" not in said


def test_revision_needs_a_repository(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with (
        pytest.raises(UsageError, match="cannot be had"),
        revision.unpacked(str(tmp_path / "plain"), "v1"),
    ):
        pass
    with (
        pytest.raises(UsageError, match="no such folder"),
        revision.unpacked(str(tmp_path / "none"), "v1"),
    ):
        pass


def test_tarball_is_unpacked_but_not_outside(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "m.c").write_text("x")
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "m", "m-1.0")
    with revision.unpacked(str(tmp_path / "m.tar.gz")) as place:
        assert (Path(place) / "m.c").read_text() == "x"
        assert Path(place).name == "m-1.0"
    assert not Path(place).exists()
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        tar.add(tmp_path / "m" / "m.c", "../../outside.c")
    with (
        pytest.raises(UsageError, match="cannot be unpacked"),
        revision.unpacked(str(tmp_path / "bad.tar")),
    ):
        pass
