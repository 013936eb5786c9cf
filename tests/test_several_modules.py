# SPDX-License-Identifier: GPL-2.0-only
"""Families of several modules: their data file, what needs what, and what a trial gets of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import (
    cpio,
    families,
    kofile,
    lab,
    modules,
    proc,
    program,
    scenario,
    scenario_compile,
    store,
)
from harness.errors import BuildError, UsageError
from harness.families import Family
from harness.kernels import Kernel
from harness.lab import Subject
from harness.machine import Lane
from harness.modules import Module
from harness.program import Actor, Op, Program

KBUILD = "obj-m := base.o user.o\nobj-m += \\\n\tother-one.o\n"
DATA = """\
name: three
modules: {main: user, core: base, backend: other-one}
surfaces: {filesystem: x}
"""


def family(folder: Path, data: str | None = DATA, kbuild: str = KBUILD) -> Family:
    folder.mkdir(exist_ok=True)
    (folder / "Kbuild").write_text(kbuild)
    if data is not None:
        (folder / "module.yaml").write_text(data)
    return families.find_family(str(folder))


def test_roles_are_what_the_kernel_calls_the_modules(tmp_path: Path) -> None:
    three = family(tmp_path)
    assert dict(three.roles) == {"main": "user", "core": "base", "backend": "other_one"}
    assert three.offers == {"module", "filesystem", "core", "backend"}


def test_family_of_one_has_only_the_main_role(tmp_path: Path) -> None:
    one = family(tmp_path, "name: foo-bar\n", "obj-m := foo-bar.o\n")
    assert dict(one.roles) == {"main": "foo_bar"}
    assert one.offers == {"module"}


def test_several_modules_without_a_data_file(tmp_path: Path) -> None:
    (tmp_path / "base.c").write_text("EXPORT_SYMBOL_GPL(base_call);\n")
    three = family(tmp_path, None)
    # What offers something to others is loaded with them, and the last of the rest stands for all.
    assert dict(three.roles) == {"main": "other_one", "base": "base", "user": "user"}
    assert three.folder == three.home == tmp_path


def test_module_of_several_is_chosen_as_obj_m_calls_it(tmp_path: Path) -> None:
    family(tmp_path, None)
    chosen = families.find_family(f"{tmp_path}/user.o")
    assert chosen.roles["main"] == chosen.name == "user"
    assert chosen.home == tmp_path
    assert families.find_family(str(chosen.folder)) == chosen
    with pytest.raises(UsageError, match=r"makes no module nothing; .* base, user, other_one"):
        families.find_family(f"{tmp_path}/nothing.o")


def test_module_other_than_the_data_file_says(tmp_path: Path) -> None:
    family(tmp_path)
    assert families.find_family(f"{tmp_path}/user.o").roles["core"] == "base"
    with pytest.raises(UsageError, match=r"module\.yaml: its main module is user, not base"):
        families.find_family(f"{tmp_path}/base.o")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("{name: a, modules: {core: b}}", r"modules: Value error, one of them has the role 'main'"),
        ("{name: a, modules: {main: b, core: b}}", "a module has two roles"),
        ("{name: a, modules: {main: b, Core: c}}", r"modules\.Core\..*should match pattern"),
        ("{name: a, modules: {}}", "at least 1 item"),
    ],
)
def test_malformed_roles(tmp_path: Path, data: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        family(tmp_path, data)


@pytest.mark.parametrize("name", ["nowhere", "../beside", "."])
def test_sources_that_are_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "beside").mkdir()
    three = family(tmp_path / "three", DATA + f"sources: ['{name}']\n")
    kernel = make_kernel(tmp_path)
    with pytest.raises(UsageError, match=f"sources: no folder '{name}' beside it"):
        modules.build_module(store.Store(tmp_path / "cache"), three, "good", kernel)


# ---- compiled modules, with their modinfo and strip(1) made up ----------------------------------


def make_kernel(folder: Path) -> Kernel:
    return Kernel("6.1", "kasan", "6.1.1-kasan", "1", "gcc", "0", "k", folder, folder)


def fake_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up module's file holds its name and what it needs."""

    def modinfo(path: Path) -> dict[str, str]:
        name, depends = path.read_text().split(":")[:2]
        if path.stem == "torn":
            raise BuildError(f"{path}: not a kernel module")
        return {"name": name, "depends": depends, "vermagic": "6.1.1-kasan SMP "}

    def run(argv: Sequence[str], **rest: object) -> None:
        assert argv[0] == "strip"
        shutil.copyfile(argv[-1], argv[-2])

    monkeypatch.setattr(kofile, "modinfo", modinfo)
    monkeypatch.setattr(proc, "run", run)


def build(folder: Path, name: str) -> Module:
    taken = families.find_family(str(folder / name))
    return modules.build_module(store.Store(folder / "cache"), taken, "good", make_kernel(folder))


def put(folder: Path, **needs: str) -> None:
    for name, needed in needs.items():
        (folder / f"{name}.ko").write_text(f"{name}:{needed}")


def names(found: Sequence[Module]) -> list[str]:
    return [module.name for module in found]


def test_what_a_module_needs_lies_beside_it_and_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools(monkeypatch)
    put(tmp_path, top="left,right", left="base", right="base", base="", stranger="")
    (tmp_path / "right.ko").rename(tmp_path / "right-.ko")
    (tmp_path / "right-.ko").write_text("right-:base")
    (tmp_path / "top.ko").write_text("top:left,right-")
    made = build(tmp_path, "top.ko")
    assert names(made.needs) == ["base", "left", "right_"]
    assert names(made.everything) == ["base", "left", "right_", "top"]
    payload = dict(made.payload())
    assert sorted(payload) == [f"payload/{name}.ko" for name in ("base", "left", "right_", "top")]
    assert payload["payload/base.ko"].content == b"base:"
    assert cpio.archive(payload)


def test_module_that_is_needed_and_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools(monkeypatch)
    put(tmp_path, top="base")
    with pytest.raises(BuildError, match=r"top\.ko: needs the module base") as caught:
        build(tmp_path, "top.ko")
    assert f"put base.ko into {tmp_path}" in str(caught.value.hint)


def test_another_version_of_what_is_needed_is_another_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools(monkeypatch)
    put(tmp_path, top="base", base="")
    first = build(tmp_path, "top.ko")
    (tmp_path / "base.ko").write_text("base::newer")
    assert build(tmp_path, "top.ko").needs[0].sha256 != first.needs[0].sha256


def with_dependents(
    folder: Path, name: str, most: int, kernel: Kernel
) -> tuple[Module, tuple[str, ...]]:
    family = families.find_family(str(folder / f"{name}.ko"))
    cache = store.Store(kernel.path / "cache")
    found = modules.build_module(cache, family, "good", kernel)
    return modules.build_with_dependents(cache, found, family, kernel, most)


def make_tree(folder: Path, **needs: str) -> Path:
    """A folder in which a kernel was built, with some modules."""
    tree = make_kernel(folder).build
    tree.mkdir()
    put(tree, **needs)
    return tree


def test_modules_of_the_kernel_that_need_one_of_them_come_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools(monkeypatch)
    tree = make_tree(
        tmp_path, track="defrag", defrag="", nat="track", filter="tables,track", tables="",
        above_nat="nat", broken="track,gone", far="",
    )  # fmt: skip
    made, left = with_dependents(tree, "track", 8, make_kernel(tmp_path))
    assert made.name == "track"
    # What needs a dependent is none of its own, and one that needs what is not there cannot be had.
    assert [(role, other.name) for role, other in made.others] == [
        ("filter", "filter"), ("nat", "nat"),
    ]  # fmt: skip
    assert left == ("broken",)
    assert names(made.everything) == ["defrag", "track", "tables", "filter", "nat"]
    needs = {one.name: names(one.needs) for one in made.everything}
    assert needs["filter"] == ["tables", "defrag", "track"]
    assert needs["track"] == ["defrag"]
    assert len(made.payload()) == 5


def test_no_more_dependents_come_than_a_program_can_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools(monkeypatch)
    tree = make_tree(tmp_path, core="", a="core", b="core,b1", b1="b2", b2="", c="core")
    made, left = with_dependents(tree, "core", 3, make_kernel(tmp_path))
    assert [other.name for _, other in made.others] == ["a", "c"]
    assert left == ("b",)
    made, left = with_dependents(tree, "core", 1, make_kernel(tmp_path))
    assert (made.others, left) == ((), ("a", "b", "c"))


def test_dependents_are_looked_for_in_the_kernel_s_own_tree_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools(monkeypatch)
    put(tmp_path, core="", user="core")
    made, left = with_dependents(tmp_path, "core", 8, make_kernel(tmp_path / "kernel"))
    assert (made.others, left) == ((), ())


def test_dependent_of_another_build_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools(monkeypatch)
    tree = make_tree(tmp_path, core="", old="core", new="core", torn="core")
    plain = kofile.modinfo

    def modinfo(path: Path) -> dict[str, str]:
        found = plain(path)
        return {**found, "vermagic": "6.0.9 SMP "} if path.stem == "old" else found

    monkeypatch.setattr(kofile, "modinfo", modinfo)
    made, left = with_dependents(tree, "core", 8, make_kernel(tmp_path))
    assert [other.name for _, other in made.others] == ["new"]
    assert left == ("old",)


# ---- what a trial gets of them ------------------------------------------------------------------


def made_up(name: str, *needs: Module, **others: Module) -> Module:
    ko = Path(f"/nowhere/{name}.ko")
    return Module(name, "good", ko, "0", "v", needs, tuple(others.items()))


BASE = made_up("base")
BACK = made_up("back", BASE)
USER = made_up("user", BASE, core=BASE, backend=BACK)


def test_scenarios_know_modules_by_their_roles() -> None:
    assert lab.module_bindings(USER) == {
        "module": "user", "ko": "/payload/user.ko",
        "module.core": "base", "ko.core": "/payload/base.ko",
        "module.backend": "back", "ko.backend": "/payload/back.ko",
    }  # fmt: skip
    assert names(USER.everything) == ["base", "user", "back"]


TEXT = """\
about: test
surfaces: [module, backend]
lanes: {det: {bound_us: 1000}}
actors:
  - name: a
    do: [{finit_module: "${ko.backend}"}, {delete_module: "${module.backend}"}]
"""


def test_role_in_a_scenario() -> None:
    plan = scenario.parse_scenario(TEXT, "t.yaml")
    assert plan.needs == {"ko.backend", "module.backend"}
    made = scenario_compile.compile_program(plan, seed=0, bindings=lab.module_bindings(USER))
    assert [node.args[0] for node in made.actors[0].body if isinstance(node, Op)] == [
        "/payload/back.ko", "back",
    ]  # fmt: skip


def test_role_that_a_family_does_not_have() -> None:
    plan = scenario.parse_scenario(TEXT, "t.yaml")
    with pytest.raises(UsageError, match=r"needs \$\{ko\.backend\}, \$\{module\.backend\}"):
        scenario_compile.compile_program(plan, seed=0, bindings=lab.module_bindings(BASE))


def loads(*paths: str) -> tuple[Op, ...]:
    return tuple(Op("p", "finit_module", (path, "", ())) for path in paths)


def shown(nodes: Sequence[program.Node]) -> list[tuple[str, object]]:
    return [(node.name, node.args[0]) for node in nodes if isinstance(node, Op)]


NEEDS = {"/b/user.ko": ["/b/base.ko", "/b/mid.ko"], "/b/mid.ko": ["/b/base.ko"]}


def test_what_is_needed_is_loaded_first_and_unloaded_last() -> None:
    own = Op("p", "sync")
    before = Program("n", 1, 1000, (Actor("a", "a", loads("/b/user.ko")),), setup=(own,),
                     teardown=(own,))  # fmt: skip
    after = program.load_first(before, NEEDS)
    assert shown(after.setup[:2]) == [("finit_module", "/b/base.ko"), ("finit_module", "/b/mid.ko")]
    assert shown(after.teardown[1:]) == [("delete_module", "mid"), ("delete_module", "base")]
    assert after.setup[2:] == after.teardown[:1] == (own,)
    assert Program.parse(after.serialise()) == after


def test_scenario_that_loads_what_is_needed_is_left_alone() -> None:
    actor = Actor("a", "a", loads("/b/base.ko", "/b/mid.ko", "/b/user.ko"))
    before = Program("n", 1, 1000, (actor,))
    assert program.load_first(before, NEEDS) == before
    assert program.load_first(Program("n", 1, 1000, ()), NEEDS) == Program("n", 1, 1000, ())


def test_any_of_several_modules_can_be_the_target_of_a_sweep(tmp_path: Path) -> None:
    core = Module("core", "good", tmp_path / "core.ko", "", "")
    backend = Module("zback", "good", tmp_path / "zback.ko", "", "", needs=(core,))
    main = Module("fs", "good", tmp_path / "fs.ko", "", "", (core,), (("backend", backend),))
    subject = Subject(Family(name="fs"), main, (), "6.1", "kasan", Lane.DET)
    assert subject.target is main
    assert subject.aimed_at("backend").target is backend
    assert subject.aimed_at("core").target is core
    assert subject.aimed_at("fs").target is main
    # Trials are those of all of them, whichever is the target.
    assert subject.aimed_at("zback").module is main
    with pytest.raises(UsageError, match="no module 'none'; there are: backend, core, fs, zback"):
        subject.aimed_at("none")
