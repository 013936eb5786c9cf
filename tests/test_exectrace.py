# SPDX-License-Identifier: GPL-2.0-only
from harness import exectrace
from harness.exectrace import MARK_MAGIC, Visit

MARK = 0x401D10


def block(
    pc: int, cr3: int, fs: int, rdi: int = 0, rsi: int = 0, rdx: int = 0, limit: int = 0
) -> str:
    """One entry as QEMU 7.2 writes it, the lines shortened that nobody reads."""
    return (
        f"Trace 0: 0x7fcf321f1940 [0000000000000000/{pc:016x}/10c0c2b3/ff0202{limit:02x}] \n"
        f"RAX=0000000000000041 RBX=00007ffe98040aa0 RCX=00007f30941fa010 RDX={rdx:016x}\n"
        f"RSI={rsi:016x} RDI={rdi:016x} RBP=0000000000000040 RSP=00007ffe98040978\n"
        f"R8 =00000000ffffffff R9 =0000000000000000 R10=0000000000000022 R11=0000000000000246\n"
        f"RIP={pc:016x} RFL=00000206 [-----P-] CPL=3 II=0 A20=1 SMM=0 HLT=0\n"
        f"DS =0000 0000000000000000 00000000 00000000\n"
        f"FS =0000 {fs:016x} 00000000 00000000\n"
        f"GS =0000 ff11000019a00000 00000000 00000000\n"
        f"CR0=80050033 CR2=00007f30941fa000 CR3={cr3:016x} CR4=007516b0\n"
        f"DR0=ffffffff81107b2c DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000 \n"
    )


def mark(actor: int, cr3: int, fs: int, magic: int = MARK_MAGIC, op: int = 0) -> str:
    return block(MARK, cr3, fs, actor, magic, op)


def visits(*entries: str) -> list[Visit]:
    lines = "".join(entries).splitlines(keepends=True)
    return list(exectrace.visits(exectrace.parse(lines), MARK))


def test_actor_is_known_by_its_mark() -> None:
    text = (mark(3, 0x44AE000, 0xCED7480), block(0xFFFFFFFFA0000929, 0x44AE000, 0xCED7480, limit=1))
    assert visits(*text) == [Visit(0xFFFFFFFFA0000929, 1, 3, 0)]


def test_op_is_the_last_that_was_marked() -> None:
    address = 0xFFFFFFFFA0000929
    seen = visits(
        mark(3, 0x44AE000, 0x7000, op=10), block(address, 0x44AE000, 0x7000),
        mark(3, 0x44AE000, 0x7000, op=11), block(address, 0x44AE000, 0x7000),
    )  # fmt: skip
    assert [visit.op for visit in seen] == [10, 11]


def test_threads_of_one_process_are_told_apart() -> None:
    seen = visits(
        mark(0, 0x1000000, 0x7000), mark(1, 0x1000000, 0x8000),
        block(0xFFFFFFFFA0000000, 0x1000000, 0x8000), block(0xFFFFFFFFA0000005, 0x1000000, 0x7000),
    )  # fmt: skip
    assert [visit.actor for visit in seen] == [1, 0]


def test_both_halves_of_an_isolated_address_space_are_one() -> None:
    seen = visits(mark(5, 0x44AF801, 0x7000), block(0xFFFFFFFFA0000000, 0x44AE001, 0x7000))
    assert [visit.actor for visit in seen] == [5]


def test_thread_of_the_kernel_is_nobody() -> None:
    # It borrows the address space of whoever ran before, but no thread's FS base.
    seen = visits(mark(5, 0x44AE000, 0x7000), block(0xFFFFFFFFA0000000, 0x44AE000, 0))
    assert [visit.actor for visit in seen] == [None]


def test_code_of_another_program_at_the_address_of_the_mark_says_nothing() -> None:
    seen = visits(
        mark(5, 0x44AE000, 0x7000), mark(6, 0x44AE000, 0x7000, magic=1),
        block(0xFFFFFFFFA0000000, 0x44AE000, 0x7000),
    )  # fmt: skip
    assert [visit.actor for visit in seen] == [5]


def test_block_that_was_not_entered_does_not_count() -> None:
    stopped = "Stopped execution of TB chain before 0x7fcf32e8d380 [ffffffffa0000010] \n"
    seen = visits(
        block(0xFFFFFFFFA0000010, 0x1000000, 0), stopped, block(0xFFFFFFFFA0000010, 0x1000000, 0)
    )
    assert len(seen) == 1


def test_entry_that_was_cut_off_is_left_out() -> None:
    whole = block(0xFFFFFFFFA0000000, 0x1000000, 0)
    cut = block(0xFFFFFFFFA0000005, 0x1000000, 0)[:200]
    assert [visit.address for visit in visits(whole, cut)] == [0xFFFFFFFFA0000000]
