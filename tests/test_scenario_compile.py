# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios to programs: bindings, instances, limits."""

from __future__ import annotations

import pytest

from harness.errors import ScenarioError, UsageError
from harness.program import Loop, Op, Program
from harness.scenario import SCENARIOS, load_scenario, parse_scenario
from harness.scenario_compile import compile_program

_BINDINGS = {
    "ko": "/m/poolfs.ko",
    "module": "poolfs",
    "fstype": "poolfs",
    "mnt": "/mnt",
    "refused_options": "max_bytes=1",
}

_TEXT = """\
about: test
surfaces: [module, filesystem]
lanes:
  det: {bound_us: 1000, cycles: 3, users: 2}
  smp: {bound_us: 2000, cycles: 30, users: 1, kmemleak: true}
setup:
  - mkdir: ${mnt}/$$x
actors:
  - name: user
    count: ${users}
    repeat: ${cycles}
    do:
      - open: {slot: 0, path: "${mnt}/f${i}"}
      - write: {slot: 0, count: "${cycles}", key: "${i}"}
  - name: other
    kind: thread
    fifo: 5
    until: user
    do:
      - loop: ${cycles}
        do: [yield]
teardown:
  - delete_module: ${module}
"""


def test_bindings_and_instances_are_put_in() -> None:
    prog = compile_program(parse_scenario(_TEXT, "t.yaml"), seed=9, bindings=_BINDINGS)
    assert (prog.name, prog.seed, prog.bound_us, prog.kmemleak) == ("t", 9, 1000, False)
    assert [actor.name for actor in prog.actors] == ["user.0", "user.1", "other"]
    opened, written = prog.actors[1].body
    assert isinstance(opened, Op)
    assert isinstance(written, Op)
    assert opened.args[:2] == (0, "/mnt/f1")
    assert opened.place == "actors[0].do[0]"
    assert written.args == (0, 3, 1)
    other = prog.actors[2]
    assert (other.until, other.kind, other.fifo) == (("user.0", "user.1"), "thread", 5)
    assert (other.repeat, prog.actors[0].repeat) == (0, 3)
    assert isinstance(other.body[0], Loop)
    assert other.body[0].count == 3
    assert prog.setup[0] == Op("setup[0]", "mkdir", ("/mnt/$x", 0o755))
    assert prog.teardown[0] == Op("teardown[0]", "delete_module", ("poolfs", ("nonblock",)))


def test_lanes_have_their_own_defaults_and_bindings_win() -> None:
    scenario = parse_scenario(_TEXT, "t.yaml")
    prog = compile_program(scenario, seed=1, bindings=_BINDINGS | {"cycles": "7"}, lane="smp")
    assert [actor.name for actor in prog.actors] == ["user", "other"]
    assert (prog.actors[0].repeat, prog.bound_us, prog.kmemleak) == (7, 2000, True)
    assert prog.actors[1].until == ("user",)


def test_kmemleak_can_be_asked_for_by_the_caller() -> None:
    scenario = parse_scenario(_TEXT, "t.yaml")
    assert compile_program(scenario, seed=1, bindings=_BINDINGS, kmemleak=True).kmemleak


def test_missing_bindings_are_named() -> None:
    scenario = parse_scenario(_TEXT, "t.yaml")
    with pytest.raises(UsageError, match=r"scenario t needs \$\{mnt\}, \$\{module\}"):
        compile_program(scenario, seed=1, bindings={})
    assert scenario.needs == {"mnt", "module"}


@pytest.mark.parametrize(
    ("bindings", "why"),
    [
        ({"cycles": "many"}, "t.yaml:9: actors[0]: ${cycles}: 'many' is not a whole number"),
        ({"cycles": "0"}, "t.yaml:9: actors[0]: ${cycles}: 0 is not in 1..1000000000"),
        ({"users": "65"}, "t.yaml:9: actors[0]: ${users}: 65 is not in 1..64"),
        ({"cycles": "70000"}, "t.yaml:14: actors[0].do[1].write.count: 70000 is not in 1..65536"),
        ({"module": ""}, "t.yaml:23: teardown[0].delete_module.name: name is empty"),
        ({"module": "a\0"}, "text with a NUL in it"),
    ],
)
def test_bindings_that_do_not_fit_are_told(bindings: dict[str, str], why: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        compile_program(parse_scenario(_TEXT, "t.yaml"), seed=1, bindings={**_BINDINGS, **bindings})
    assert why in caught.value.message


def test_scenario_that_would_not_end_in_time_is_refused() -> None:
    text = _TEXT.replace("loop: ${cycles}", "loop: 1000000000")
    with pytest.raises(ScenarioError, match=r"actors\[1\]: 1000000000 op runs, more than"):
        compile_program(parse_scenario(text, "t.yaml"), seed=1, bindings=_BINDINGS)


def test_program_that_is_too_large_is_refused() -> None:
    scenario = parse_scenario(_TEXT, "t.yaml")
    with pytest.raises(UsageError, match="65 actors, more than 64"):
        compile_program(scenario, seed=1, bindings=_BINDINGS | {"users": "64"})


@pytest.mark.parametrize("lane", ["det", "smp"])
@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.stem)
def test_builtin_scenarios_compile(path: str, lane: str) -> None:
    scenario = load_scenario(SCENARIOS / path)
    bindings = {name: f"/a/{name}" for name in scenario.needs}
    prog = compile_program(scenario, seed=5, bindings=bindings, lane=lane)
    assert Program.parse(prog.serialise()) == prog
    assert b"$" not in prog.serialise()


def test_only_the_seed_differs_between_seeds() -> None:
    scenario = parse_scenario(_TEXT, "t.yaml")
    one, two = (
        compile_program(scenario, seed=seed, bindings=_BINDINGS).serialise() for seed in (1, 2)
    )
    assert one.replace(b"seed 1\n", b"seed 2\n") == two


def test_failing_allocation_goes_into_the_program() -> None:
    text = _TEXT.replace("- delete_module: ", "- fail: 3\n    delete_module: ", 1)
    assert text != _TEXT
    prog = compile_program(parse_scenario(text, "t.yaml"), seed=1, bindings=_BINDINGS)
    assert [op.fail for op in prog.teardown if isinstance(op, Op) and op.fail] == [3]
    assert prog.serialise().count(b"\nfail 3\nop ") == 1
