# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios made from surfaces."""

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import disks, surfaces, uses, workloads
from harness.errors import ScenarioError
from harness.ops import TABLES
from harness.program import Actor, Choose, Op, Program, walk
from harness.scenario import Scenario
from harness.scenario_compile import compile_program
from harness.surfaces import MADE_FOLDER, Kind, Surface
from harness.workloads import NOTHING, Around

DEVICE = Surface(Kind.CHARACTER, "/dev/dk0", 0o020600, "240:0")
DISK = Surface(Kind.BLOCK, "/dev/brd0", 0o060600, "1:0")
FILESYSTEM = Surface(Kind.FILESYSTEM, "poolfs")
MINIX = Surface(Kind.DISK_FILESYSTEM, "minix")
INTERFACE = Surface(Kind.INTERFACE, "dummy0")
FILES = tuple(Surface(Kind.SYSFS, f"/sys/m/a{i}", 0o100644) for i in range(15))
SECRET = Surface(Kind.DEBUGFS, "/sys/kernel/debug/m", 0o100200)
TREE = Surface(Kind.CONFIGFS, "/sys/kernel/config/m", 0o040755)
ATTRIBUTE = Surface(Kind.CONFIGFS_FILE, f"{TREE.name}/{MADE_FOLDER}/size", 0o100644)
LINK = Surface(Kind.LINK, "dummy")
ABOVE = Surface(Kind.DEPENDENT, "m_user")
SOCKETS = tuple(Surface(Kind.SOCKET, f"family 27 {how}") for how in ("stream 0", "dgram 7"))
NETLINK = Surface(Kind.SOCKET, "family 16 raw 31")
THREAD = Surface(Kind.THREAD, "kpool")
ALL = (DEVICE, DISK, FILESYSTEM, MINIX, INTERFACE, LINK, *SOCKETS, NETLINK, *FILES, SECRET, TREE,
       ATTRIBUTE, ABOVE, THREAD)  # fmt: skip


def compiled(plan: Scenario, seed: int = 1, lane: str = "det") -> Program:
    bindings = {"ko": "/payload/m.ko", "module": "m"}
    return compile_program(plan, seed=seed, bindings=bindings, lane=lane)


def bodies(program: Program) -> Iterator[Actor]:
    yield from program.actors
    yield Actor("teardown", "teardown", program.teardown)


def ops_of(program: Program) -> list[Op]:
    return [node for body in bodies(program) for _, node in walk(body.body)
            if isinstance(node, Op)]  # fmt: skip


def test_groups_are_what_one_user_takes() -> None:
    found = {group.name: len(group.surfaces) for group in uses.groups(ALL)}
    assert found == {
        "dk0": 1, "brd0": 1, "poolfs": 1, "minix": 1, "dummy0": 1, "dummy": 1,
        "sys-kernel-config-m": 1, "m_user": 1, "sockets-27": 2, "sockets-16": 1,
        "sysfs-files": uses.MAX_FILES, "debugfs-files": 1, "configfs-files": 1,
    }  # fmt: skip


def test_what_nobody_uses_has_a_reason() -> None:
    disk = Surface(Kind.DISK_FILESYSTEM, "xfs")
    number = Surface(Kind.NUMBER, "240 bare")
    left = dict(uses.not_used((disk, number, *FILES)))
    assert "needs a block device" in left[disk]
    assert "no node" in left[number]
    assert sum("beyond the first" in why for why in left.values()) == 3
    assert number not in dict(uses.not_used((DEVICE, number)))


GROUPS = uses.groups(ALL)


@pytest.mark.parametrize(
    "plan",
    [
        workloads.survey(NOTHING),
        workloads.survey_inside(NOTHING, FILESYSTEM),
        workloads.cycles(NOTHING, 3),
        workloads.load_twice(NOTHING),
        workloads.unload_absent(NOTHING),
        workloads.forced(NOTHING),
        workloads.dependents(NOTHING, ["core"]),
        workloads.parameter(NOTHING, "p", "array of int"),
        workloads.parameter(NOTHING, "p", "array of int", huge=True),
        workloads.signals(NOTHING, "KILL"),
        workloads.signals(NOTHING, "USR1"),
        workloads.survey_sockets(NOTHING, (2, 10)),
        *(workloads.held(NOTHING, one) for one in (DEVICE, DISK, FILESYSTEM, MINIX, TREE, NETLINK)),
        *(workloads.survey_inside(NOTHING, one) for one in (MINIX, TREE)),
        workloads.needed_by(NOTHING, ABOVE),
        *(workloads.held_files(NOTHING, one) for one in GROUPS[-3:]),
        workloads.use(NOTHING, GROUPS, 1),
        workloads.users(NOTHING, "crowd", GROUPS, 1, 3),
        *(workloads.users(NOTHING, one.name, [one], 1, 3) for one in GROUPS),
        *workloads.in_order(NOTHING, GROUPS),
    ],
    ids=lambda plan: plan.name,
)
@pytest.mark.parametrize("lane", ["det", "smp"])
def test_every_scenario_becomes_a_program_that_loads_and_unloads(plan: Scenario, lane: str) -> None:
    program = compiled(plan, lane=lane)
    assert Program.parse(program.serialise()) == program
    setup = [node.name for _, node in walk(program.setup) if isinstance(node, Op)]
    names = [op.name for op in ops_of(program)]
    assert "finit_module" in (*setup, *names)
    # Whatever happened before, the last thing is an unload that may take its time; only
    # disks are taken away after it.
    last = [op for op in ops_of(program) if op.name != "exec"][-1]
    assert last.name == "delete_module"
    assert last.retries > 0


def test_filesystem_that_wants_a_disk_has_one_while_it_is_loaded() -> None:
    program = compiled(workloads.use(NOTHING, uses.groups([MINIX]), 1))
    (make,) = [node for _, node in walk(program.setup) if isinstance(node, Op)]
    take = program.teardown[-1]
    assert isinstance(take, Op)
    device = disks.device("minix")
    assert f"losetup {device} /tmp/disk-minix" in str(make.args)
    assert f"losetup -d {device}" in str(take.args)
    (mount,) = [op for op in ops_of(program) if op.name == "mount"]
    assert mount.args[0] == device
    assert mount.args[2] == "minix"


def test_folder_in_configfs_is_there_while_its_files_are_used() -> None:
    (group,) = uses.groups([ATTRIBUTE])
    folder = ATTRIBUTE.name.rpartition("/")[0]
    held = workloads.held_files(NOTHING, group)
    for plan in (workloads.use(NOTHING, [group], 1), *workloads.in_order(NOTHING, [group]), held):
        ops = [(op.name, op.args[0]) for op in ops_of(compiled(plan))]
        opened = [op.args[1] for op in ops_of(compiled(plan)) if op.name == "open"]
        assert set(opened) == {ATTRIBUTE.name}
        made, gone = ops.index(("mkdir", folder)), ops.index(("rmdir", folder))
        first, *_, last = (number for number, op in enumerate(ops) if op[0] in ("open", "close"))
        assert made < first < last < gone
    assert not [op for op in ops_of(compiled(workloads.held_files(NOTHING, GROUPS[-3])))
                if op.name == "mkdir"]  # fmt: skip


def test_user_of_a_kind_of_interface_sends_through_one_of_his_own() -> None:
    program = compiled(workloads.users(NOTHING, "x", uses.groups([LINK]), 1, 2))
    users = [actor for actor in program.actors if actor.name.startswith("user")]
    names = []
    for user in users:
        ops = [node for _, node in walk(user.body) if isinstance(node, Op)]
        (name,) = {op.args[0] for op in ops if op.name in ("ifup", "ifdown")}
        made, sent, gone = [str(op.args[1][1]) for op in ops if op.name == "exec"]
        assert made == f"ip link add name {name} type dummy"
        assert gone == f"ip link del {name}"
        assert f"ping -c 1 -W 1 -I {name} " in sent
        # IFNAMSIZ, include/uapi/linux/if.h.
        assert len(str(name)) < 16
        names.append(name)
    assert len(set(names)) == len(users) == 2


def test_what_depends_on_the_module_goes_before_it_in_the_end() -> None:
    (group,) = uses.groups([ABOVE])
    for plan in (workloads.users(NOTHING, "x", [group], 1, 2), workloads.use(NOTHING, [group], 1),
                 workloads.needed_by(NOTHING, ABOVE)):  # fmt: skip
        last = [op.args[0] for op in compiled(plan).teardown if isinstance(op, Op)]
        assert last == ["m_user", "m"]
    steps = [(op.name, op.expect) for op in ops_of(compiled(plan))][1:4]
    assert steps == [("finit_module", ("ok",)), ("delete_module", ("EAGAIN",)),
                     ("delete_module", ("ok",))]  # fmt: skip


def test_every_disk_has_a_device_of_its_own() -> None:
    assert len({disks.device(name) for name in disks.KNOWN}) == len(disks.KNOWN)
    for name in disks.KNOWN:
        surface = Surface(Kind.DISK_FILESYSTEM, name)
        assert compiled(workloads.use(NOTHING, uses.groups([surface]), 1)).setup


@pytest.mark.skipif(shutil.which("mkfs.minix") is None, reason="nothing to compare with")
def test_empty_minix_is_what_its_own_tool_makes(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    step = disks.setup("minix")
    command = step["exec"]["args"][1].replace("/tmp/disk-minix", str(ours))
    subprocess.run(["sh", "-c", command.rpartition(" && ")[0]], check=True)
    theirs.write_bytes(bytes(ours.stat().st_size))
    tool = ["mkfs.minix", "-1", "-n", "14", "-i", "32", str(theirs)]
    subprocess.run(tool, check=True, capture_output=True)
    assert ours.stat().st_size == theirs.stat().st_size
    for start, length, what in [(1024, 20, "superblock"), (5 * 1024, 32, "root folder")]:
        assert read(ours, start, length) == read(theirs, start, length), what


def read(path: Path, start: int, length: int) -> bytes:
    return path.read_bytes()[start : start + length]


def test_steps_in_one_order_have_one_user_and_no_choice() -> None:
    own = Around(use=({"read_file": "/proc/m"},))
    for plan in (*workloads.in_order(own, GROUPS), *workloads.in_order(NOTHING, [])):
        program = compiled(plan)
        assert len(program.actors) == 1, plan.name
        assert not [node for _, node in walk(program.actors[0].body) if isinstance(node, Choose)]
    names = [plan.name for plan in workloads.in_order(own, GROUPS)]
    assert names == [*(f"order-{group.name}" for group in GROUPS), "order-own-use"]
    assert [plan.name for plan in workloads.in_order(NOTHING, [])] == ["order-alone"]


def test_a_seed_makes_the_same_users_again_and_another_makes_others() -> None:
    one, again, other = (workloads.users(NOTHING, "x", GROUPS, seed, 2) for seed in (1, 1, 2))
    assert compiled(one).serialise() == compiled(again).serialise()
    assert compiled(one).actors != compiled(other, seed=1).actors


def test_sockets_are_tried_before_and_after_the_load() -> None:
    ops = ops_of(compiled(workloads.survey_sockets(NOTHING, (10,))))
    assert [(op.name, op.args) for op in ops if op.name in ("survey_sockets", "finit_module")] == [
        ("survey_sockets", ("before", 0, 32)),
        ("survey_sockets", ("before", 10, 256)),
        ("finit_module", ("/payload/m.ko", "", ())),
        ("survey_sockets", ("sockets", 0, 32)),
        ("survey_sockets", ("sockets", 10, 256)),
    ]


def test_each_socket_is_opened_used_and_closed() -> None:
    (group,) = uses.groups(SOCKETS)
    for plan in (workloads.use(NOTHING, [group], 3), *workloads.in_order(NOTHING, [group])):
        ops = ops_of(compiled(plan))
        opened = [op.args for op in ops if op.name == "open_socket"]
        assert opened == [(0, 27, "stream", 0), (0, 27, "dgram", 7)]
        assert len([op for op in ops if op.name == "close"]) == 2
        assert {op.args[1] for op in ops if op.name == "socket_call"} == {*TABLES["call_choice"]}
        assert {"read", "poll", "mmap", "ioctl"} <= {op.name for op in ops}
        # A signal would end whoever writes to nobody.
        assert "write" not in {op.name for op in ops}
        # Of addresses there are only zeros.
        assert {op.args[4] for op in ops if op.name == "socket_call"
                and op.args[1] in ("bind", "connect", "sendto")} == {""}  # fmt: skip


def test_a_held_socket_refuses_unload() -> None:
    program = compiled(workloads.held(NOTHING, NETLINK))
    assert [op.args for op in ops_of(program) if op.name == "open_socket"] == [(0, 16, "raw", 31)]
    unloads = [op for op in ops_of(program) if op.name == "delete_module"]
    assert unloads[0].expect == ("EAGAIN", "EBUSY")


def test_protocol_without_a_socket_has_a_reason() -> None:
    protocol = Surface(Kind.PROTOCOL, "M")
    assert dict(uses.not_used((protocol,)))[protocol].startswith("no socket can be opened")
    assert protocol not in dict(uses.not_used((protocol, NETLINK)))


def test_a_held_device_refuses_unload_and_lets_go_after_the_last_release() -> None:
    program = compiled(workloads.held(NOTHING, DEVICE))
    unloads = [op for op in ops_of(program) if op.name == "delete_module"]
    assert unloads[0].expect == ("EAGAIN", "EBUSY")
    assert unloads[0].retries == 0
    assert unloads[1].expect == ("ok", "ENOENT")
    assert unloads[1].retries > 0


def test_attributes_do_not_pin_and_debugfs_may() -> None:
    by_name = {group.name: group for group in GROUPS}
    for name, expect in (("sysfs-files", ("ok",)), ("debugfs-files", ("ok", "EAGAIN", "EBUSY"))):
        program = compiled(workloads.held_files(NOTHING, by_name[name]))
        unloads = [op for op in ops_of(program) if op.name == "delete_module"]
        assert unloads[0].expect == expect
    opened = [op for op in ops_of(program) if op.name == "open"]
    assert [op.args[2] for op in opened] == [("wronly", "nonblock")]


@pytest.mark.parametrize(
    ("kind", "some"),
    [
        ("int", ("-2147483648", "2147483647", "2147483648", "none")),
        ("ushort", ("-1", "65535", "65536")),
        ("ullong", ("18446744073709551615", "18446744073709551616")),
        ("bool", ("y", "2")),
        ("charp", ("", "x" * 1024)),
        ("array of uint", ("4294967295", ",", "0,1")),
        ("unheard-of", ("", "x")),
    ],
)
def test_boundaries_of_a_type(kind: str, some: tuple[str, ...]) -> None:
    values = workloads.boundary_values(kind)
    assert set(some) <= set(values)
    assert len(set(values)) == len(values)


def test_text_that_names_a_folder_may_be_refused_as_one() -> None:
    """As by a module that writes to the file it is told."""
    program = compiled(workloads.parameter(NOTHING, "path", "charp"))
    loads = [op for op in ops_of(program) if op.name == "finit_module"]
    assert all({"EISDIR", "ENOTDIR"} <= set(op.expect) for op in loads[1:])


def test_parameters_come_after_those_of_every_load() -> None:
    program = compiled(workloads.parameter(Around(parameters="a=1"), "p", "bool"))
    params = [op.args[1] for op in ops_of(program) if op.name == "finit_module"]
    assert params == ["a=1", "a=1 p=y", "a=1 p=n", "a=1 p=2", "a=1 p="]


def test_huge_values_have_a_scenario_of_their_own() -> None:
    several = [
        op.args[1]
        for huge in (False, True)
        for op in ops_of(compiled(workloads.parameter(NOTHING, "p", "int", huge=huge)))
        if op.name == "finit_module"
    ]
    assert several == [
        "", "p=0", "p=1", "p=", "p=none",
        "", "p=-2147483648", "p=2147483647", "p=-2147483649", "p=2147483648",
    ]  # fmt: skip
    assert [kind for kind in ("bool", "charp", "byte", "short", "ushort", "int", "array of int")
            if workloads.has_huge_values(kind)] == ["int", "array of int"]  # fmt: skip


def test_what_goes_around_is_in_every_scenario() -> None:
    own: dict[str, Any] = {"stat": "/own", "expect": "any"}
    around = Around(
        parameters="a=1", load_first=("core", "more"), setup=({"mkdir": "/before"},),
        use=(own,), holds=({"stat": "/held"},),
        teardown=({"rmdir": "/before"},), fine=(("finit_module", ("ENODEV",)),),
    )  # fmt: skip
    program = compiled(workloads.survey(around))
    assert [node.args[0] for _, node in walk(program.setup) if isinstance(node, Op)] == [
        "/payload/core.ko", "/payload/more.ko", "/before",
    ]  # fmt: skip
    names = [(op.name, op.args[0]) for op in ops_of(program)]
    assert ("stat", "/held") in names
    assert names[-3:] == [
        ("rmdir", "/before"), ("delete_module", "more"), ("delete_module", "core"),
    ]  # fmt: skip
    (loaded,) = (op for op in ops_of(program) if op.name == "finit_module")
    assert loaded.expect == ("ok", "ENODEV")
    crowd = compiled(workloads.users(around, "crowd", GROUPS, 1, 3))
    assert "own-use" in {actor.name for actor in crowd.actors}


def test_each_unload_comes_after_its_first_stage() -> None:
    stage: dict[str, Any] = {"write_file": {"path": "/unload", "data": "now"}, "retries": 9}
    around = Around(before_unload=(stage,))
    for plan in (workloads.held(around, DEVICE), workloads.cycles(around, 2),
                 workloads.forced(around),
                 workloads.users(around, "x", GROUPS, 1, 2)):  # fmt: skip
        ops = ops_of(compiled(plan))
        for before, op in itertools.pairwise(ops):
            if (op.name, op.args[0]) == ("delete_module", "m"):
                refused = {"EAGAIN", "EBUSY"} & set(op.expect)
                assert before.name == "write_file"
                # Where unload may be refused, so may its first stage.
                assert before.expect == (("any",) if refused else ("ok",))
    group = GROUPS[-2]
    held = compiled(workloads.held_files(around, group))
    first = next(op for op in ops_of(held) if op.name == "delete_module")
    assert first.place == workloads.first_unload(around)


def test_wrong_steps_are_said() -> None:
    with pytest.raises(ScenarioError, match="no op or field is called 'mkdirs'"):
        workloads.survey(Around(setup=({"mkdirs": "/x"},)))


def test_who_only_uses_a_device_leaves_nothing_out() -> None:
    acts = {"read", "write", "pread", "pwrite", "lseek", "poll", "fsync", "mmap", "touch", "ioctl"}
    orders = set()
    for seed in range(1, 6):
        plan = workloads.use(NOTHING, uses.groups([DEVICE]), seed)
        names = [op.name for op in ops_of(compiled(plan))]
        assert acts <= set(names)
        # With the device open for both: what cannot be opened otherwise is tried before.
        last = [op for op in ops_of(compiled(plan)) if op.name == "open"][-1]
        assert last.args[2] == ("rdwr", "nonblock")
        assert names.index("read") > max(i for i, name in enumerate(names) if name == "open")
        orders.add(tuple(names))
    assert len(orders) > 1


def test_device_is_asked_what_its_module_knows() -> None:
    (device,) = surfaces.with_requests([DEVICE], (0x6B01, 0xC0086B02))
    groups = uses.groups([device])
    for plan in (workloads.use(NOTHING, groups, 1), *workloads.in_order(NOTHING, groups),
                 workloads.users(NOTHING, "x", groups, 1, 2)):  # fmt: skip
        asked = {op.args[1] for op in ops_of(compiled(plan)) if op.name == "ioctl"}
        assert {0x6B01, 0xC0086B02} < asked


def test_who_only_uses_files_takes_each() -> None:
    (group,) = uses.groups(FILES)
    ops = ops_of(compiled(workloads.use(NOTHING, [group], 1)))
    read = {op.args[1] for op in ops if op.name == "open"}
    written = {op.args[0] for op in ops if op.name == "write_file"}
    assert read == written == {one.name for one in group.surfaces}
