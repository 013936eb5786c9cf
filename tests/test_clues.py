# SPDX-License-Identifier: GPL-2.0-only
"""Which scenarios are tried first for a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import bugreport, clues, families, ops, reproducecommand, scenario
from harness.scenario import Scenario

REPORTS = Path(__file__).parents[1] / "examples" / "reports"


def frames(*names: str) -> str:
    return "".join(f" {name}+0x10/0x20\n" for name in names)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("__x64_sys_pwrite64", {"write", "pwrite", "write_file"}),
        ("__ia32_compat_sys_ioctl", {"ioctl", "ifup", "ifdown"}),
        ("__do_sys_delete_module", {"delete_module"}),
        ("__sys_sendto", {"send"}),
        ("ksys_umount", {"umount", "umount_all"}),
        ("vfs_rmdir", {"rmdir"}),
        ("do_init_module", {"finit_module"}),
        ("____fput", {"close"}),
        ("kernfs_fop_write_iter", {"write", "pwrite", "write_file"}),
        ("udp_sendmsg", {"send"}),
        ("__dev_open.constprop.0", {"ifup"}),
        ("kmem_cache_destroy", set()),
        ("__x64_sys_getpid", set()),
    ],
)
def test_function_of_the_kernel_says_which_ops_lead_to_it(name: str, wanted: set[str]) -> None:
    assert clues.read_clues("", frames(name)).ops == wanted
    # What was left on the stack by others is no frame.
    assert clues.read_clues("", frames(f"? {name}")).ops == set()


def test_all_that_is_said_to_lead_anywhere_is_an_op() -> None:
    tables = (*clues._CALLS.values(), *clues._MEANT.values(), *(to for _, to in clues._INSIDE))
    assert {op for one in tables for op in one} <= set(ops.OPS)


def test_names_of_the_modules_functions_are_clues() -> None:
    found = clues.read_clues("", " knob_gain_show.isra.0+0x10/0x20 [knobs]\n")
    assert found.words == {"knob", "gain", "show"}
    assert "read_file" in found.ops
    # The kernel's own are named after what is its own.
    assert clues.read_clues("", frames("knob_gain_show")).words == set()


def test_title_is_a_clue_where_there_is_no_more() -> None:
    title = "KASAN: use-after-free Read in m_evict_ticket"
    assert clues.read_clues(title, "").words == {"evict", "ticket"}
    # It has a frame, and that is the kernel's.
    assert clues.read_clues(title, frames("m_evict_ticket")).words == set()
    assert clues.read_clues("hang", "") == clues.Clues(frozenset(), frozenset())


def test_only_the_first_report_counts() -> None:
    def report(name: str) -> str:
        return (
            f"BUG: KASAN: use-after-free in m_{name}+0xf9/0x2d1 [m]\n"
            f"Read of size 8 at addr ffff888004712238 by task x/46\n\n"
            f"CPU: 0 PID: 46 Comm: x Tainted: G O 6.3.1 #1\nCall Trace:\n"
            f" m_{name}+0xf9/0x2d1 [m]\n vfs_{name}+0x1/0x2\n" + 80 * "=" + "\n"
        )

    found = clues.read_clues("", report("read") + report("unlink"))
    assert "read" in found.ops
    assert "unlink" not in found.ops


def workload(name: str, *steps: str) -> Scenario:
    lines = "".join(f"      - {step}\n" for step in steps)
    return scenario.parse_scenario(
        "about: x\nsurfaces: [module]\nlanes:\n  det: {bound_us: 1000}\n"
        f"actors:\n  - name: user\n    do:\n      - yield\n{lines}",
        f"{name}.yaml",
    )


def order(found: tuple[clues.Likely, ...]) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.workload.name, one.because) for one in found]


def test_rarest_clue_says_most() -> None:
    several = (
        workload("a", "mkdir: /x", "rmdir: /x"),
        workload("b", "mkdir: /x"),
        workload("c", "mkdir: /x", "choose: [{do: [{loop: 2, do: [{unlink: /x}]}]}]"),
        workload("d", "mkdir: /x", "rmdir: /x"),
    )
    known = clues.Clues(frozenset({"mkdir", "rmdir", "unlink"}), frozenset())
    assert order(clues.sort_workloads(several, known)) == [
        ("c", ("unlink",)), ("a", ("rmdir",)), ("d", ("rmdir",)), ("b", ()),
    ]  # fmt: skip
    # One alone has nothing that others have not.
    assert order(clues.sort_workloads(several[:1], known)) == [("a", ())]
    assert clues.sort_workloads((), known) == ()


def test_without_clues_the_order_stays() -> None:
    several = (workload("b"), workload("a"))
    assert order(clues.sort_workloads(several, clues.read_clues("hang", ""))) == [
        ("b", ()),
        ("a", ()),
    ]


@pytest.mark.parametrize(
    ("word", "where", "alike"),
    [
        ("packet", "packets", True),
        ("events", "event", True),
        ("dkkeeper", "keeper", True),
        ("load", "unload", False),
        ("put", "puts", False),
        ("mount", "count", False),
    ],
)
def test_words_are_alike_but_for_one_end(word: str, where: str, alike: bool) -> None:
    assert clues._is_like(word, where) is alike


@pytest.mark.parametrize(
    ("report", "first"),
    [
        ("packets.yaml", "packets-vs-unload"),
        ("gadget.yaml", "kept-device-vs-rmmod"),
        ("interface-down.yaml", "events-at-each-step"),
    ],
)
def test_examples_begin_with_the_scenario_that_shows_them(report: str, first: str) -> None:
    """Each with all scenarios of its family, as if nobody knew which one its mistake needs."""
    found = bugreport.read(REPORTS / report)
    family = families.find_family(found.module or reproducecommand._guess(found))
    several = [scenario.load_scenario(scenario.find_scenario(one)) for one in family.scenarios]
    assert first in family.variants[found.variant].scenarios
    likely = clues.sort_workloads(several, clues.read_clues(found.title, found.text))
    assert likely[0].workload.name == first
    assert likely[0].because
