# SPDX-License-Identifier: GPL-2.0-only
"""Points against a second disassembler: binutils' own."""

import re
from pathlib import Path

import pytest

from harness import points, proc
from harness.deadline import Deadline
from harness.errors import UsageError

SOURCE = """
int outer(int x);
static inline __attribute__((always_inline)) int twice(int x)
{
	return outer(x) + outer(x + 1);
}
int first(int x)
{
	return twice(x) * 3;
}
__attribute__((section(".init.text"))) int begin(int x)
{
	return first(x) - 1;
}
__attribute__((section(".exit.text"))) int leave(int x)
{
	return x - 1;
}
__attribute__((section(".text.startup"))) int constructor(int x)
{
	return x;
}
__attribute__((aligned(64))) int second(int x)
{
	return outer(x) ? x * 7 : 2;
}
"""


def compile_object(folder: Path, *options: str, source: str = SOURCE) -> Path:
    (folder / "a.c").write_text(source)
    argv = ["gcc", "-g", "-O2", "-c", *options, "-o", str(folder / "a.o"), str(folder / "a.c")]
    proc.run(argv, deadline=Deadline.after(60))
    return folder / "a.o"


def boundaries(ko: Path, section: str) -> set[int]:
    """Where objdump begins an instruction, padding left out."""
    shown = proc.run(
        ["objdump", "-d", "-j", section, "--no-show-raw-insn", str(ko)], deadline=Deadline.after(60)
    ).stdout.decode()
    found = re.findall(r"^ +([0-9a-f]+):\t(\S+)(.*)$", shown, re.MULTILINE)
    return {
        int(address, 16)
        for address, name, rest in found
        if not name.startswith(("nop", "int3")) and "nop" not in rest and name != "xchg"
    }


@pytest.mark.parametrize("section", [".text", ".init.text", ".exit.text"])
def test_boundaries_are_those_of_another_disassembler(tmp_path: Path, section: str) -> None:
    ko = compile_object(tmp_path)
    mine = {point.value for point in points.find_points(ko) if point.section == section}
    assert mine == boundaries(ko, section)
    assert mine


def test_points_have_a_function_and_an_offset_in_it(tmp_path: Path) -> None:
    ko = compile_object(tmp_path)
    found = points.find_points(ko)
    second = [point for point in found if point.function == "second"]
    assert second[0].offset == 0
    assert second[0].value % 64 == 0
    assert [point.offset for point in second] == sorted(point.offset for point in second)
    assert second[-1].text in ("ret", "pop rbx") or second[-1].text.startswith("j")
    assert second[0].name == "second+0x0"


def test_what_the_compiler_made_for_itself_is_left_out(tmp_path: Path) -> None:
    found = points.find_points(compile_object(tmp_path))
    assert {point.function for point in found} == {"first", "begin", "leave", "second"}


def test_call_of_the_tracer_is_told_from_other_calls(tmp_path: Path) -> None:
    ko = compile_object(tmp_path, "-pg", "-mfentry", "-mrecord-mcount", "-fno-pie")
    found = points.find_points(ko)
    calls = [point for point in found if point.text.startswith("call") and "second" in point.name]
    assert [point.text for point in calls if point.offset == 0] == [points.TRACER_CALL]
    assert any(point.text != points.TRACER_CALL for point in calls)


def test_point_is_found_by_its_name(tmp_path: Path) -> None:
    found = points.find_points(compile_object(tmp_path))
    one = next(point for point in found if point.function == "second" and point.offset > 0)
    assert points.find_point(found, "second", one.offset) == one


def test_what_is_no_point_is_refused_with_the_nearest(tmp_path: Path) -> None:
    found = points.find_points(compile_object(tmp_path, "-fcf-protection=full"))
    # The second byte of an endbr64.
    with pytest.raises(UsageError, match=r"second\+0x1: no instruction begins there") as caught:
        points.find_point(found, "second", 1)
    assert caught.value.hint == "the nearest one is second+0x0"
    with pytest.raises(UsageError, match="the module has no function third"):
        points.find_point(found, "third", 0)


def test_name_that_two_functions_share_is_refused(tmp_path: Path) -> None:
    found = points.find_points(compile_object(tmp_path))
    twins = [*found, *found]
    with pytest.raises(UsageError, match="2 functions called leave"):
        points.find_point(twins, "leave", 0)


def test_lines_and_inlined_functions_come_from_debug_information(tmp_path: Path) -> None:
    ko = compile_object(tmp_path)
    found = points.find_points(ko)
    places = points.read_places(ko, found, roots=[tmp_path])
    of_first = [places[point] for point in found if point.function == "first"]
    inlined = [place for place in of_first if place.inlined]
    assert {place.inlined for place in inlined} == {("twice",)}
    assert {place.line for place in inlined} == {"a.c:5"}
    assert {"a.c:8", "a.c:9"} <= {place.line for place in of_first if not place.inlined}


def test_line_of_what_was_compiled_in_a_folder_that_is_called_a_dot(tmp_path: Path) -> None:
    """As the kernel's own modules are."""
    maps = [f"-ffile-prefix-map={folder}=." for folder in (Path.cwd(), tmp_path)]
    ko = compile_object(tmp_path, *maps)
    found = points.find_points(ko)
    lines = {place.line for place in points.read_places(ko, found).values()}
    assert {"a.c:8", "a.c:9"} <= lines


def test_line_is_unknown_without_debug_information(tmp_path: Path) -> None:
    ko = compile_object(tmp_path, "-g0")
    found = points.find_points(ko)
    assert {place.line for place in points.read_places(ko, found).values()} == {""}


def test_other_machines_are_refused(tmp_path: Path) -> None:
    ko = compile_object(tmp_path)
    content = bytearray(ko.read_bytes())
    content[18:20] = (183).to_bytes(2, "little")
    ko.write_bytes(content)
    with pytest.raises(UsageError, match="code for aarch64; what is understood is x86-64"):
        points.find_points(ko)


def listing(*texts: str, size: int = 4) -> list[points.Point]:
    """Points of one function, its instructions of the same size."""
    return [points.Point(".text", 64 + at * size, "f", at * size, text)
            for at, text in enumerate(texts)]  # fmt: skip


BEFORE = listing("push rbp", "mov rax, rdi", "call 0x70", "je 0x80", "dec eax", "ret")


@pytest.mark.parametrize(
    ("after", "offset", "moved"),
    [
        # Nothing has changed but where a call leads.
        (listing("push rbp", "mov rax, rdi", "call 0x90", "je 0xa0", "dec eax", "ret"), 8, 8),
        # A lock is taken first, and all the rest has moved.
        (listing("push rbp", "call 0x10", "mov rax, rdi", "call 0x90", "je 0x99", "dec eax", "ret"),
         16, 20),
        (listing("push rbp", "call 0x10", "mov rax, rdi", "call 0x90", "je 0x99", "dec eax", "ret"),
         0, 0),
        # It is no more; what stands there now may be what is meant.
        (listing("push rbp", "mov rax, rdi", "call 0x70", "je 0x80", "inc eax", "ret"), 16, 16),
    ],
    ids=["same", "moved", "stayed", "replaced"],
)  # fmt: skip
def test_plan_moves_with_its_instruction(
    after: list[points.Point], offset: int, moved: int
) -> None:
    assert points.find_counterpart(BEFORE, after, "f", offset).offset == moved


def test_instruction_that_has_gone_is_said() -> None:
    with pytest.raises(UsageError, match=r"f\+0x10: no instruction begins there"):
        points.find_counterpart(BEFORE, listing("push rbp", "ret"), "f", 16)
    with pytest.raises(UsageError, match="the module has no function f"):
        points.find_counterpart(BEFORE, [], "f", 16)
    with pytest.raises(UsageError, match=r"f\+0x3: no instruction begins there"):
        points.find_counterpart(BEFORE, BEFORE, "f", 3)
