# SPDX-License-Identifier: GPL-2.0-only
"""Programs as C files, as scenarios and as tests."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness import ascode, aspytest, asscenario, asshell, families, ops, scenario
from harness.errors import UsageError
from harness.ops import OPS, Kind, Param, Value
from harness.program import Actor, Branch, Choose, Loop, Node, Op, Park, Program
from harness.scenario_compile import compile_program
from harness.schedules import Schedule

FAMILIES = families.all_families()


def value(param: Param) -> Value:
    """Some value of a parameter that every op may have."""
    match param.kind:
        case Kind.FLAGS:
            return ops.TABLES[param.table]
        case Kind.CHOICE:
            return ops.TABLES[param.table][0]
        case Kind.REST:
            return ("-c", 'say "what?" \\ \n')
        case Kind.ACTOR:
            return "first"
        case Kind.TEXT | Kind.PATH:
            return "/payload/it-is.ko"
        case Kind.KEY if param.default is None:
            return None
        case _:
            return 3


def with_body(*body: Node, **fields: object) -> Program:
    actors = (
        Actor("first", "a", body),
        Actor("second.0", "b", (Op("b", "sync", (), ("any",)),), repeat=0, until=("first",)),
    )
    return dataclasses.replace(Program("all-of-it", 7, 1_000_000, actors), **fields)  # type: ignore[arg-type]


def everything() -> Program:
    body: list[Node] = [
        Op("a", spec.name, tuple(value(param) for param in spec.params), ("ok", "EAGAIN"),
           ("ENOENT", "SHORT"), retries=index % 2)
        for index, spec in enumerate(OPS.values())
    ]  # fmt: skip
    choice = Choose((Branch(1, (body[0],)), Branch(3, ()), Branch(2, (Loop(2, (body[1],)),))))
    return with_body(*body, Loop(3, (choice,)), setup=(body[0],), teardown=(body[1],))


def compile_c(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "r.c").write_text(text)
    command = ["cc", "-Wall", "-Wextra", "-Werror", "-O1", "-o", str(folder / "r"),
               str(folder / "r.c")]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_operation_has_a_form_in_c(tmp_path: Path) -> None:
    done = compile_c(ascode.write(everything(), "what it shows\n\nwhere", ["it.ko"]), tmp_path)
    assert done.stderr == ""
    assert done.returncode == 0


def test_c_has_no_more_than_it_needs(tmp_path: Path) -> None:
    small = with_body(Op("a", "mkdir", ("/tmp", 0o755), ("any",)))
    text = ascode.write(small, "x")
    assert compile_c(text, tmp_path).stderr == ""
    assert "do_rmdir" not in text
    assert 'do_mkdir("/tmp", 0o755)' not in text
    assert 'do_mkdir("/tmp", 0755)' in text


def test_c_does_what_its_actors_do(tmp_path: Path) -> None:
    """Of this program no operation needs a module: it runs here."""
    made, gone = tmp_path / "made", tmp_path / "gone"
    first = (
        Op("a", "mkdir", (str(made), 0o755)),
        Op("a", "barrier", (0,), ("any",)),
        Loop(2, (Op("a", "rmdir", (str(gone),), ("ENOENT",), ("ENOENT",)),
                 Op("a", "mkdir", (str(gone), 0o755)))),
        Op("a", "rmdir", (str(tmp_path / "never"),)),
    )  # fmt: skip
    second = (Op("b", "barrier", (0,), ("any",)), Op("b", "rmdir", (str(made),)))
    actors = (Actor("first", "a", first), Actor("second", "b", second))
    text = ascode.write(Program("p", 1, 1_000_000, actors), "x")
    assert compile_c(text, tmp_path).stderr == ""
    done = subprocess.run([tmp_path / "r"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "unexpected: rmdir: No such file or directory\n"
    assert not made.exists()
    assert not gone.exists()


def for_shell(op: Op) -> Op:
    """The same with flags that a shell has words for."""
    some = ("rdonly",) if op.name == "open" else ()
    args = [
        some if param.kind is Kind.FLAGS else value
        for param, value in zip(OPS[op.name].params, op.args, strict=True)
    ]
    return dataclasses.replace(op, args=tuple(args))


#: What takes a system call that no program makes for a shell.
NOT_IN_SHELL = ("lseek", "ftruncate", "ioctl", "mmap", "munmap", "touch", "poll", "pin", "barrier",
                "socket", "send", "recv", "open_socket", "socket_call")  # fmt: skip


def run_shell(text: str, folder: Path, shell: str = "bash") -> subprocess.CompletedProcess[str]:
    (folder / "r.sh").write_text(text)
    return subprocess.run([shell, folder / "r.sh", folder], capture_output=True, text=True,
                          check=False, timeout=60)  # fmt: skip


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_every_operation_of_a_shell_has_a_form(tmp_path: Path, shell: str) -> None:
    body = [for_shell(node) for node in everything().actors[0].body
            if isinstance(node, Op) and node.name not in NOT_IN_SHELL]  # fmt: skip
    choice = Choose((Branch(1, (body[0],)), Branch(3, ()), Branch(2, (Loop(2, (body[1],)),))))
    whole = with_body(*body, Loop(3, (choice,)), setup=(body[0],))
    text = asshell.write(whole, "what\n\nwhere", ["it.ko"])
    (tmp_path / "r.sh").write_text(text)
    done = subprocess.run([shell, "-n", tmp_path / "r.sh"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("name", NOT_IN_SHELL)
def test_what_no_shell_can_do_is_refused(name: str) -> None:
    op = next(node for node in everything().actors[0].body
              if isinstance(node, Op) and node.name == name)  # fmt: skip
    with pytest.raises(UsageError, match=rf"is {name}, and no shell can do that"):
        asshell.write(with_body(op), "x")


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (Op("a", "open", (9, "/x", ("rdonly",), 0o644)), "is open of slot 9: a shell has 7"),
        (Op("a", "open", (0, "/x", ("path",), 0o644)), "is open with path, and"),
        (Op("a", "umount", ("/x", ("expire",))), "is umount with expire"),
        (Op("a", "finit_module", ("/x.ko", "", ("ignore_vermagic",))), "with ignore_vermagic"),
    ],
)
def test_what_a_shell_can_do_in_part_is_refused_where_it_cannot(op: Op, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        asshell.write(with_body(op), "x")


@pytest.mark.parametrize(
    ("fields", "why"), [({"fifo": 5}, "is a real-time priority"), ({"kind": "thread"}, "a thread")]
)
def test_actors_of_a_shell_are_processes(fields: dict[str, Any], why: str) -> None:
    actor = dataclasses.replace(with_body().actors[0], **fields)
    with pytest.raises(UsageError, match=why):
        asshell.write(Program("p", 1, 1_000_000, (actor,)), "x")


def test_script_has_no_more_than_it_needs() -> None:
    text = asshell.write(with_body(Op("a", "mkdir", ("/x", 0o755), ("any",))), "x")
    assert "done_with() {" in text
    assert "again() {" not in text
    assert "unmount_all() {" not in text


def test_script_does_what_its_actors_do(tmp_path: Path) -> None:
    """Of this program no operation needs a module: it runs here."""
    made, gone, told = tmp_path / "made", tmp_path / "gone", tmp_path / "it's told"
    first = (
        Loop(2, (Op("a", "rmdir", (str(tmp_path / "never"),), ("any",), ("ENOENT",)),
                 Op("a", "mkdir", (str(tmp_path / "after"), 0o755)))),
        Op("a", "mkdir", (str(gone), 0o755)),
        Op("a", "write_file", (str(told), "50% of \\ 'this'\n")),
        Op("a", "open", (0, str(tmp_path / "file"), ("rdwr", "creat"), 0o644)),
        Op("a", "pwrite", (0, 8192, 4096, 1)),
        Op("a", "close", (0,)),
        Op("a", "open", (1, str(tmp_path / "nothing/here"), ("rdonly",), 0o644)),
        Op("a", "mkdir", (str(made), 0o700)),
    )  # fmt: skip
    second = (Op("b", "rmdir", (str(gone),), ("ok",), (), 500),)
    third = (Op("c", "sleep", (1000, 1000), ("any",)),)
    actors = (Actor("first", "a", first), Actor("second", "b", second),
              Actor("third", "c", third, repeat=0, until=("first", "second")))  # fmt: skip
    done = run_shell(asshell.write(Program("p", 1, 1_000_000, actors), "x"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "after").exists()
    assert not gone.exists()
    assert made.stat().st_mode & 0o777 == 0o700
    assert told.read_text() == "50% of \\ 'this'\n"
    assert (tmp_path / "file").stat().st_size == 12288


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"park": Park("u f+0x1 #1 then users", "u", "m", ".text", 1, 1, "users")}, "stopped at"),
        ({"schedule": Schedule("pct:3", 500, 0, ())}, "have a schedule"),
        ({"setup": (Op("a", "sync", (), fail=1),)}, "made to fail"),
    ],
)
def test_what_no_program_can_do_is_refused(fields: dict[str, object], why: str) -> None:
    for write in (ascode.write, asshell.write):
        with pytest.raises(UsageError, match=why):
            write(with_body(**fields), "x")


def plain(program: Program) -> Program:
    """A program without what only its text knows: its name, and the places of its operations."""

    def bare(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        return tuple(
            dataclasses.replace(node, place="") if isinstance(node, Op)
            else Loop(node.count, bare(node.body)) if isinstance(node, Loop)
            else Choose(tuple(Branch(one.weight, bare(one.body)) for one in node.branches))
            for node in nodes
        )  # fmt: skip

    names = {actor.name: actor.name.replace(".", "-") for actor in program.actors}
    actors = tuple(
        dataclasses.replace(actor, place="", name=names[actor.name], body=bare(actor.body),
                            until=tuple(names[name] for name in actor.until))
        for actor in program.actors
    )  # fmt: skip
    return dataclasses.replace(
        program, name="", actors=actors, setup=bare(program.setup), teardown=bare(program.teardown)
    )


SCENARIOS = [(family, name) for family in FAMILIES for name in family.scenarios]


@pytest.mark.parametrize(
    ("family", "name"), SCENARIOS, ids=[f"{family.name}-{name}" for family, name in SCENARIOS]
)
@pytest.mark.parametrize("lane", ["det", "smp"])
def test_scenario_made_of_a_program_is_the_program(
    family: families.Family, name: str, lane: str
) -> None:
    bindings = {
        "mnt": "/mnt", "module": family.name, "ko": f"/payload/{family.name}.ko",
        **{f"module.{role}": role for role in ("core", "backend", "keeper")},
        **{f"ko.{role}": f"/payload/{role}.ko" for role in ("core", "backend", "keeper")},
        **family.surfaces, "fstype": family.surfaces.get("filesystem", ""),
    }  # fmt: skip
    plan = scenario.load_scenario(scenario.find_scenario(name))
    program = compile_program(plan, seed=3, bindings=bindings, lane=lane)
    names = {family.name: "module", "core": "module.core", "backend": "module.backend"}
    text = asscenario.text(asscenario.document(program, "again", lane, names))
    again = compile_program(
        scenario.parse_scenario(text, "again.yaml"), seed=3, bindings=bindings, lane=lane
    )
    assert plain(again) == plain(program)
    assert f"/payload/{family.name}.ko" not in text


def test_scenario_keeps_what_looks_like_a_reference() -> None:
    program = with_body(Op("a", "write_file", ("/tmp/f", "${HOME} and $1")))
    text = asscenario.text(asscenario.document(program, "x", "det", {}))
    again = compile_program(scenario.parse_scenario(text, "a.yaml"), seed=7, bindings={},
                            lane="det")  # fmt: skip
    assert again.actors[0].body[0].args == ("/tmp/f", "${HOME} and $1")  # type: ignore[union-attr]


def test_test_file_is_python_with_the_scenario_in_it() -> None:
    program = with_body(
        Op("needs[0]", "finit_module", ("/payload/core.ko", "", ())),
        Op("a", "finit_module", ("/payload/m.ko", "", ())),
        Op("a", "write_file", ("/tmp/f", 'a """ b')),
    )
    text = aspytest.write(program, 'KASAN: bad "thing" in m_exit', lane="det", variant="good",
                          kernel="6.1", modules={"m": "module"})  # fmt: skip
    tree = ast.parse(text)
    (source,) = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "SCENARIO"
        and isinstance(node.value, ast.Constant)
    ]
    made = scenario.parse_scenario(source, "all-of-it.yaml")
    program = compile_program(made, seed=7, bindings={"ko": "/payload/m.ko"}, lane="det")
    # What the module needs is loaded by whoever runs it.
    assert [node.name for node in program.actors[0].body] == ["finit_module", "write_file"]  # type: ignore[union-attr]
    (test,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert test.name == "test_kasan_bad_thing_in_m_exit"


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"park": Park("u f+0x1 #1 then users", "u", "m", ".text", 1, 1, "users")}, "a plan"),
        ({"schedule": Schedule("pct:3", 500, 0, ())}, "a schedule"),
    ],
)
def test_what_no_scenario_says_is_refused(fields: dict[str, object], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        asscenario.document(with_body(**fields), "x", "det", {})
