# SPDX-License-Identifier: GPL-2.0-only
"""Scenario files: the ones that come with the harness, and every way to get one wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import families
from harness.errors import ScenarioError, UsageError
from harness.scenario import (
    SCENARIOS,
    LoopStep,
    Step,
    find_scenario,
    load_scenario,
    parse_scenario,
)

_HEAD = """\
about: test
surfaces: [module]
lanes:
  det: {bound_us: 1000, cycles: 3}
"""


def scenario_text(steps: str, actor: str = "") -> str:
    """A scenario with one actor; its first step is on line 8."""
    return f"{_HEAD}actors:\n  - name: a\n    do:\n{steps}\n{actor}"


def test_builtin_scenarios_are_found_by_name() -> None:
    names = {path.stem for path in SCENARIOS.glob("*.yaml")}
    assert {"load-unload", "files-vs-rmmod", "mounts-vs-rmmod"} <= names
    for name in names:
        scenario = load_scenario(find_scenario(name))
        assert scenario.name == name
        assert {lane.name for lane in scenario.lanes} == {"det", "smp"}
        assert scenario.lane("det").bound_us > 0


@pytest.mark.parametrize("family", families.all_families(), ids=lambda family: family.name)
def test_family_has_a_value_for_all_that_its_scenarios_name(family: families.Family) -> None:
    known = {"ko", "module", "mnt"} | ({"fstype"} if "filesystem" in family.surfaces else set())
    known |= set(family.surfaces) | {
        f"{w}.{role}" for w in ("ko", "module") for role in family.roles
    }
    variants = [name for variant in family.variants.values() for name in variant.scenarios]
    for name in {*family.scenarios, *variants}:
        assert load_scenario(find_scenario(name)).needs <= known, name


def test_paths_are_taken_as_they_are() -> None:
    assert find_scenario("./x") == Path("x")
    assert find_scenario("mine.yaml") == Path("mine.yaml")


def test_unknown_name_lists_near_ones() -> None:
    with pytest.raises(UsageError, match="'load-unlod'; did you mean load-unload"):
        find_scenario("load-unlod")


def test_unknown_lane_is_refused() -> None:
    scenario = parse_scenario(scenario_text("      - yield"), "t.yaml")
    with pytest.raises(UsageError, match="scenario t has no lane 'smp', only det"):
        scenario.lane("smp")


def test_steps_keep_their_place_and_line() -> None:
    text = scenario_text(
        "      - yield\n"
        "      - loop: ${cycles}\n"
        "        do:\n"
        "          - close: 0\n"
        "            expect: EBADF\n"
        "          - open: {slot: 0, path: /x}\n"
    )
    actor = parse_scenario(text, "dir/t.yaml").actors[0]
    first, loop = actor.body
    assert isinstance(first, Step)
    assert isinstance(loop, LoopStep)
    assert (first.place, first.line) == ("actors[0].do[0]", 8)
    assert (loop.place, loop.line, loop.count) == ("actors[0].do[1]", 9, "${cycles}")
    inner = loop.body[0]
    assert isinstance(inner, Step)
    assert (inner.place, inner.line) == ("actors[0].do[1].do[0]", 11)
    assert (inner.expect, inner.args) == (("EBADF",), (0,))


@pytest.mark.parametrize(
    ("steps", "line", "why"),
    [
        (
            "      - yeld",
            8,
            "actors[0].do[0].yeld: no op or field is called 'yeld'; did you mean y",
        ),
        ("      - opne: {slot: 0}", 8, "did you mean open?"),
        ("      - open: {slot: 0, pth: /x}", 8, "open.pth: open has no 'pth'; did you mean path?"),
        ("      - open: {slot: 0}", 8, "open.path: is missing"),
        ("      - open: 3", 8, "open: open takes a mapping of its parameters"),
        ("      - stat:", 8, "stat.path: is missing"),
        ("      - open:\n          slot: 99\n          path: /x", 9, "slot: 99 is not in 0..15"),
        ("      - open: {slot: x, path: /x}", 8, "slot is a number, not 'x'"),
        ("      - open: {slot: 0, path: /x, flags: [rd]}", 8, "'rd' is none of its flags"),
        ("      - open: {slot: 0, path: /x, mode: 999}", 8, "mode: 999 is not in 0..511"),
        ("      - {yield: , sync: }", 8, "a step has one op, not 2"),
        ("      - expect: ok", 8, "a step has one op, not 0"),
        ("      - 7", 8, "a step is an op's name or a mapping"),
        ("      - yield:\n        expect: EGAIN", 9, "expect: no errno is called 'EGAIN'; did you"),
        ("      - yield:\n        expect: []", 9, "expect: allows no result at all"),
        ("      - yield:\n        expect: 3", 9, "expect: is a list of errno names"),
        ("      - yield:\n        expect: [any, ok]", 9, "'any' stands alone"),
        ("      - yield:\n        retries: many", 9, "retries: is a number"),
        ("      - yield:\n        fail: first", 9, "fail: is a number"),
        ("      - yield:\n        fail: -1", 9, "fail: -1 is not in 0..1000000000"),
        ("      - yield:\n        retries: 2000", 9, "retries: 2000 is not in 0..1000"),
        ("      - loop: 0\n        do: [yield]", 8, "loop: 0 is not in 1..1000000000"),
        ("      - loop: 3\n        doo: [yield]", 9, "doo: unknown field; did you mean do?"),
        ("      - loop: 3", 8, "do: is missing"),
        ("      - loop: yes\n        do: [yield]", 8, "loop: should be a number or ${name}, not T"),
        ("      - choose: []", 8, "choose: list should have at least 1 item"),
        (
            "      - choose:\n          - weight: 0\n            do: []",
            9,
            "weight: input should be",
        ),
        ("      - stat: /$x", 8, "'$' in '/$x' is neither ${name} nor $$"),
        ("      - stat: ${X}", 8, "is neither ${name} nor $$"),
        ("      - close: 1", 8, "slot 1 is used, but nothing fills it (open, socket, open_socket)"),
        ("      - munmap: 1", 8, "map 1 is used, but nothing fills it (mmap)"),
        ("      - stat: a\n        stat: b", 9, "'stat' is there twice"),
        ("      - 3: x", 8, "a field's name is a text, not 3"),
        ("      - stat: 1.5", 8, "'1.5' is no text, number or truth value"),
        ("      - stat: 2020-99-99", 8, "'2020-99-99' has no value"),
        ("      - stat: [", 9, "not YAML:"),
        ("      - stat: !!python/object:os.system x", 8, "has no value"),
        ('      - stat: "\\0"', 8, "NUL"),
        ('      - stat: "\\ud800"', 8, "surrogate"),
    ],
)
def test_wrong_step_is_told_with_file_line_and_field(steps: str, line: int, why: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(scenario_text(steps), "dir/t.yaml")
    assert caught.value.message.startswith(f"dir/t.yaml:{line}: ")
    assert why in caught.value.message


_ONE = "      - yield\n"


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 1, "a scenario is a mapping of fields"),
        ("- a\n", 1, "a scenario is a mapping of fields"),
        ("a: [\n", 2, "not YAML"),
        ("a: \t\x01\n", 1, "not YAML"),
        ("[" * 5000, 1, "nested too deeply"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML"),
        (_HEAD, 1, "actors: is missing"),
        (_HEAD + "actors: []\n", 5, "actors: list should have at least 1 item"),
        (_HEAD + "actrs: []\n", 5, "actrs: unknown field; did you mean actors?"),
        (scenario_text(_ONE).replace("[module]", "[modul]"), 2, "surfaces[0]: input should be"),
        (scenario_text(_ONE).replace("det:", "dte:"), 4, "lanes.dte: input should be 'det' or"),
        (scenario_text(_ONE).replace("bound_us: 1000", "bound_us: 0"), 4, "bound_us: input should"),
        (scenario_text(_ONE).replace("cycles", "Cycles"), 4, "cannot be the name of a binding"),
        (scenario_text(_ONE).replace("cycles", "i"), 4, "cannot be the name of a binding"),
        (scenario_text(_ONE).replace("cycles: 3", "cycles: yes"), 4, "is a number or a text"),
        (scenario_text(_ONE).replace("name: a", "name: A b"), 6, "name: string should match"),
        (scenario_text(_ONE, "  - name: a\n    do: [yield]\n"), 10, "name: 'a' is taken"),
        (scenario_text(_ONE, "    until: b\n"), 10, "until: no actor is called 'b'"),
        (scenario_text(_ONE, "    until: 3\n"), 10, "until: should be a name or a list of names"),
        (scenario_text(_ONE, "    until: a\n"), 10, "until: actors wait for each other in a ring"),
        (
            scenario_text(_ONE, "    until: b\n  - name: b\n    until: [a]\n    do: [yield]\n"),
            10,
            "until: actors wait for each other in a ring",
        ),
        (scenario_text(_ONE, "    kind: thread\n    count: x\n"), 11, "count: should be a number"),
        (scenario_text(_ONE, "    count: ${X}\n"), 10, "count: '$' in '${X}' is neither"),
        (scenario_text("      - chdir: /", "    kind: thread\n"), 8, "chdir is not for threads"),
        (scenario_text(_ONE, "setup: [{barrier: 1}]\n"), 10, "a barrier outside the actors"),
        (
            scenario_text(_ONE, "teardown: [{close: 1}]\n"),
            10,
            "nothing fills it (open, socket, open_socket)",
        ),
    ],
)
def test_wrong_file_is_told_with_file_line_and_field(text: str, line: int, why: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text, "dir/t.yaml")
    assert caught.value.message.startswith(f"dir/t.yaml:{line}: ")
    assert why in caught.value.message


def test_aliases_are_allowed_but_not_as_a_bomb() -> None:
    text = scenario_text("      - &s {stat: /}\n      - *s\n      - loop: 2\n        do: [*s, *s]")
    assert len(parse_scenario(text, "t.yaml").actors[0].body) == 3
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x]\n"
    for i in range(1, 9):
        bomb += f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 8) + "]\n"
    with pytest.raises(ScenarioError, match="more than 20000 values"):
        parse_scenario(bomb, "t.yaml")
    with pytest.raises(ScenarioError, match="nested deeper than 64"):
        parse_scenario("a: &a [*a]\n", "t.yaml")


def test_deeply_nested_steps_are_refused() -> None:
    steps = ""
    for depth in range(17):
        pad = " " * (6 + 2 * depth)
        steps += f"{pad}- loop: 2\n{pad}  do:\n"
    steps += " " * 40 + "- yield\n"
    with pytest.raises(ScenarioError, match="nested deeper than 16"):
        parse_scenario(scenario_text(steps), "t.yaml")


def test_long_file_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"t\.yaml:1: longer than 262144 characters"):
        parse_scenario("#" * 262145, "t.yaml")


def test_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"none\.yaml:1: cannot be read: No such file"):
        load_scenario(tmp_path / "none.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"about: x\nsurfaces: \xe9\n")
    with pytest.raises(ScenarioError, match=r"latin\.yaml:2: is not UTF-8"):
        load_scenario(latin)
