# SPDX-License-Identifier: GPL-2.0-only
import os
import re
from pathlib import Path

import pytest

from harness import elf, proc
from harness.deadline import Deadline
from harness.errors import DeadlineExceeded, UsageError
from harness.symbolise import ModuleLife, decode, name_address

BASE = 0xFFFFFFFFA0001000

MODULE = """\
extern volatile int sink;
static inline __attribute__((always_inline)) void touch(int x)
{
        sink = x;
        sink = x + 1;
}

int pool_get(int x)
{
        touch(x);
        return x * 2;
}

__attribute__((section(".exit.text"))) int pool_exit(int x)
{
        sink = x;
        return pool_get(x) + 1;
}
"""
KERNEL = """\
volatile int sink;
static __attribute__((noinline)) int leaf(int x) { sink = x; return x; }
int start_kernel(int x) { return leaf(x) + 1; }
int main(void) { return start_kernel(2); }
"""


@pytest.fixture(scope="module")
def ko(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    (folder / "pool.c").write_text(MODULE)
    path = folder / "pool.ko"
    argv = ["gcc", "-g", "-O1", "-fno-pie", "-ffunction-sections", "-c", "pool.c", "-o", str(path)]
    argv.remove("-ffunction-sections")
    proc.run(argv, deadline=Deadline.after(60), cwd=folder)
    return path


@pytest.fixture(scope="module")
def vmlinux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linux")
    (folder / "init").mkdir()
    (folder / "init/main.c").write_text(KERNEL)
    path = folder / "vmlinux"
    argv = ["gcc", "-g", "-O1", "-no-pie", "-fno-pie", "-o", str(path), "init/main.c"]
    proc.run(argv, deadline=Deadline.after(60), cwd=folder)
    return path


def life(ko: Path, load: int = 1, unloaded_us: int | None = None, base: int = BASE) -> ModuleLife:
    return ModuleLife("pool", ko, base, 0x4000, load, unloaded_us)


def frame(path: Path, function: str, at: int = 0) -> str:
    """``function+0xat/0xsize`` as the kernel would print it."""
    (symbol,) = elf.load(path).by_name[function]
    return f"{function}+{at:#x}/{symbol.span:#x}"


def place_of(ko: Path, function: str) -> int:
    """Address of a function of a module that lies at BASE."""
    file = elf.load(ko)
    (symbol,) = file.by_name[function]
    before = 0
    for section in file.sections[1 : symbol.section]:
        if section.executable:
            before += section.size
    align = file.sections[symbol.section].align
    return BASE + -(-before // align) * align + symbol.value


def line_of(source: str, text: str) -> int:
    return 1 + next(n for n, line in enumerate(source.splitlines()) if text in line)


def test_frame_of_a_module_gets_its_place(ko: Path) -> None:
    text = f"[    1.000000]  {frame(ko, 'pool_exit', 0x5)} [pool]"
    assert re.fullmatch(
        re.escape(text) + r" pool\.c:1[4-7]", decode(text, vmlinux=None, modules=[life(ko)])
    )


def test_inlined_functions_get_lines_of_their_own(ko: Path) -> None:
    text = f"[    1.000000] RIP: 0010:{frame(ko, 'pool_get', 0)} [pool]"
    decoded = decode(text, vmlinux=None, modules=[life(ko)]).splitlines()
    assert len(decoded) == 2
    assert re.fullmatch(r"\[    1\.000000\] RIP: 0010:touch pool\.c:[45] \[inline\]", decoded[0])
    assert decoded[1].startswith(text)
    assert decoded[1].endswith(f" pool.c:{line_of(MODULE, 'touch(x);')}")


def test_return_address_belongs_to_the_call_before_it(vmlinux: Path) -> None:
    size = elf.load(vmlinux).by_name["start_kernel"][0].span
    source_line = line_of(KERNEL, "int start_kernel")
    for offset in range(1, min(size, 16)):
        text = f" start_kernel+{offset:#x}/{size:#x}"
        assert decode(text, vmlinux=vmlinux, modules=()) == f"{text} init/main.c:{source_line}"


def test_frame_in_the_middle_of_a_line_gets_its_place_there(vmlinux: Path) -> None:
    text = f"BUG: KCSAN: data-race in {frame(vmlinux, 'leaf', 1)} / {frame(vmlinux, 'main', 1)}"
    decoded = decode(text, vmlinux=vmlinux, modules=())
    assert re.search(r"leaf\+\S+ init/main\.c:2 / main\+\S+ init/main\.c:4$", decoded)


@pytest.mark.parametrize(
    "text",
    [
        " absent+0x1/0x2",
        " pool_get+0x1/0x10 [other]",
        "RAX: ffffffffa0001000 RBX: 0000000000000000",
        "Code: 8b 0b 49 81 c6 f8 03 00 00 48",
        "nothing at all",
        "",
    ],
)
def test_what_is_not_known_stays_as_it_is(ko: Path, vmlinux: Path, text: str) -> None:
    assert decode(text, vmlinux=vmlinux, modules=[life(ko)]) == text


def test_kernel_frames_stay_without_a_kernel() -> None:
    assert decode(" vfs_read+0x1/0x2", vmlinux=None, modules=()) == " vfs_read+0x1/0x2"


def test_size_tells_functions_of_one_name_apart(tmp_path: Path) -> None:
    for name, body in (("one", "return 1;"), ("two", "for (int i = 0; i < 9; i++) sink++;")):
        (tmp_path / f"{name}.c").write_text(
            "extern volatile int sink;\n"
            f"__attribute__((noinline, used)) static int same(void) {{ {body} return 0; }}\n"
        )
    (tmp_path / "main.c").write_text("volatile int sink; int main(void) { return 0; }")
    path = tmp_path / "vmlinux"
    argv = ["gcc", "-g", "-O1", "-no-pie", "-o", str(path), "one.c", "two.c", "main.c"]
    proc.run(argv, deadline=Deadline.after(60), cwd=tmp_path)
    spans = {symbol.span for symbol in elf.load(path).by_name["same"]}
    assert len(spans) == 2
    shown = {
        re.findall(r"(\w+)\.c:2", decode(f" same+0x1/{s:#x}", vmlinux=path, modules=()))[0]
        for s in spans
    }
    assert shown == {"one", "two"}
    # No size fits, so it could be either.
    assert decode(" same+0x0/0x999", vmlinux=path, modules=()) == " same+0x0/0x999"


# ---- code that is gone --------------------------------------------------------------------------


def test_bare_address_is_named_after_the_module_that_lay_there(ko: Path) -> None:
    at = place_of(ko, "pool_exit") + 4
    expected = frame(ko, "pool_exit", 4)
    assert name_address(at, [life(ko, 3, 1)]) == f"{expected} [pool, 3rd load, unloaded]"
    assert name_address(at, [life(ko, 3)]) == f"{expected} [pool, 3rd load, loaded]"


def test_address_outside_all_lives_has_no_name(ko: Path) -> None:
    assert name_address(BASE - 1, [life(ko)]) is None
    assert name_address(BASE + 0x4000, [life(ko)]) is None


def test_address_outside_the_code_is_named_by_offset(ko: Path) -> None:
    assert name_address(BASE + 0x3F00, [life(ko)]) == "pool+0x3f00/0x4000 [pool, 1st load, loaded]"


@pytest.mark.parametrize(
    "line",
    [
        "RIP: 0010:{}",
        " {}",
        "  ? {}",
        "[    5.000000]  {}",
        "[    5.000000][ T12]  ? {}",
        "    [<(____ptrval____)>] {}",
    ],
)
def test_bare_frames_of_a_report_are_named(ko: Path, line: str) -> None:
    at = place_of(ko, "pool_get") + 1
    decoded = decode(line.format(f"{at:#x}"), vmlinux=None, modules=[life(ko, 2, 4_000_000)])
    assert f"{frame(ko, 'pool_get', 1)} [pool, 2nd load, unloaded" in decoded


def test_faulting_address_is_explained(ko: Path) -> None:
    at = place_of(ko, "pool_get")
    text = f"BUG: unable to handle page fault for address: {at:x}"
    decoded = decode(text, vmlinux=None, modules=[life(ko, 1, 1)])
    assert decoded.startswith(f"{text} ({frame(ko, 'pool_get')} [pool, 1st load, unloaded] pool.c:")


def test_life_is_the_last_that_was_over_when_the_line_was_printed(ko: Path) -> None:
    lives = [life(ko, 1, 1_000_000), life(ko, 2, 2_000_000), life(ko, 3, 9_000_000)]
    text = f"[    3.000000] RIP: 0010:{place_of(ko, 'pool_get'):#x}"
    assert "[pool, 2nd load, unloaded 1000 ms before]" in decode(text, vmlinux=None, modules=lives)


def test_lives_at_different_places_are_told_apart(ko: Path) -> None:
    lives = [life(ko, 1, 1), life(ko, 2, 2, base=BASE + 0x8000)]
    assert "2nd load" in str(name_address(place_of(ko, "pool_get") + 0x8000, lives))
    assert "1st load" in str(name_address(place_of(ko, "pool_get"), lives))


def test_time_since_the_unload_is_told(ko: Path) -> None:
    text = f"[    3.000000] RIP: 0010:{place_of(ko, 'pool_get'):#x}"
    decoded = decode(text, vmlinux=None, modules=[life(ko, 1, 2_962_500)])
    assert "[pool, 1st load, unloaded 38 ms before]" in decoded
    assert re.search(r" pool\.c:\d+$", decoded)


def test_leftovers_are_not_spread_over_inlined_functions(ko: Path) -> None:
    text = f"  ? {frame(ko, 'pool_get', 1)} [pool]"
    assert len(decode(text, vmlinux=None, modules=[life(ko)]).splitlines()) == 1


def test_kernel_text_address_is_named_and_shifted_back(vmlinux: Path) -> None:
    (leaf,) = elf.load(vmlinux).by_name["leaf"]
    at = leaf.value + 1
    assert f" {frame(vmlinux, 'leaf', 1)} init/main.c:2" in decode(
        f" {at:#018x}", vmlinux=vmlinux, modules=()
    )
    shifted = f" {at + 0x1000000:#018x}\nKernel Offset: 0x1000000 from 0xffffffff81000000"
    assert f" {frame(vmlinux, 'leaf', 1)} init/main.c:2" in decode(
        shifted, vmlinux=vmlinux, modules=()
    )


# ---- trouble ------------------------------------------------------------------------------------


def test_file_that_is_no_elf_is_refused(tmp_path: Path, ko: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_text("not a kernel")
    with pytest.raises(UsageError, match="not an ELF file"):
        decode(" vfs_read+0x1/0x2", vmlinux=path, modules=())
    with pytest.raises(UsageError, match="cannot be read"):
        decode(f" {BASE:#x}", vmlinux=None, modules=[life(tmp_path / "absent.ko")])


def test_deadline_is_kept(ko: Path) -> None:
    with pytest.raises(DeadlineExceeded):
        decode(
            f" {frame(ko, 'pool_get')} [pool]",
            vmlinux=None, modules=[life(ko)], deadline=Deadline.after(0),
        )  # fmt: skip


@pytest.mark.skipif("KMOD_HARNESS_VMLINUX" not in os.environ, reason="no vmlinux was named")
def test_real_kernel_is_decoded() -> None:
    path = Path(os.environ["KMOD_HARNESS_VMLINUX"])
    decoded = decode(f" {frame(path, 'vfs_read', 0x20)}", vmlinux=path, modules=())
    assert re.search(r" fs/read_write\.c:\d+$", decoded)
