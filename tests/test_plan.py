# SPDX-License-Identifier: GPL-2.0-only
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import plan
from harness.errors import UsageError
from harness.plan import Action, Plan
from harness.program import Actor, Op, Program

BINDINGS = {
    "module": "foo",
    "ko": "/payload/foo.ko",
    "mnt": "/mnt",
    "unload": "/sys/u",
    "driver": "/sys/d",
    "bound": "b",
}
LOAD = Op("actors[0].do[0]", "finit_module", ("/payload/foo.ko", "", ()))
OTHER = Op("actors[0].do[1]", "delete_module", ("bar", ("nonblock",)))
UNLOAD = Op("actors[1].do[0]", "delete_module", ("foo", ("nonblock",)))
PROGRAM = Program(
    "p", 1, 1000,
    (Actor("loader", "actors[0]", (LOAD, OTHER)), Actor("remover", "actors[1]", (UNLOAD,))),
)  # fmt: skip


def test_plan_is_a_line_that_a_person_can_read() -> None:
    assert plan.parse("user.* foo_write+0x26 #3 then delete_module") == Plan(
        "user.*", "foo_write", 0x26, 3, Action.DELETE
    )


def test_offset_may_be_decimal_and_spaces_many() -> None:
    assert plan.parse(" init  foo.isra.0+38  #1  then  users \n") == Plan(
        "init", "foo.isra.0", 38, 1, Action.USERS
    )


@given(
    st.builds(
        Plan,
        st.from_regex(r"[a-z*?\[\]._0-9-]+", fullmatch=True),
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]*", fullmatch=True),
        st.integers(0, 2**31),
        st.integers(1, 10**17),
        st.sampled_from(Action),
    )
)
def test_plans_round_trip(one: Plan) -> None:
    assert plan.parse(str(one)) == one


@pytest.mark.parametrize(
    "text",
    [
        "", "user", "user foo #1 then users", "user foo+0x1 then users", "u foo+0x1 #0 then users",
        "user foo+0x1 #1", "user foo+-1 #1 then users", "user foo+0x1 #1 then users;", "a b foo+1",
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no plan"):
        plan.parse(text)


def test_unknown_action_lists_those_there_are() -> None:
    with pytest.raises(
        UsageError, match=r"no action is called 'unload'; there are 'delete_module'"
    ):
        plan.parse("user foo+0x1 #1 then unload")


def test_roles_of_load_and_unload_are_whoever_does_it() -> None:
    assert plan.role_pattern("init", PROGRAM, "foo") == "loader"
    # The loader unloads another module, and that is not what is meant.
    assert plan.role_pattern("unloader", PROGRAM, "foo") == "remover"
    assert plan.role_pattern("user.*", PROGRAM, "foo") == "user.*"
    with pytest.raises(UsageError, match="nobody in it does delete_module to baz"):
        plan.role_pattern("unloader", PROGRAM, "baz")


def test_module_that_the_setup_loads_is_loaded_by_the_setup() -> None:
    program = Program("p", 1, 1000, PROGRAM.actors[1:], setup=(LOAD,))
    assert plan.role_pattern("init", program, "foo") == "setup"


@pytest.mark.parametrize(
    ("action", "names"),
    [
        (Action.TWO_STAGE, 3 * ["write_file", "delete_module", "sleep"]),
        (Action.RELOAD, ["delete_module", "finit_module"]),
        (Action.UNBIND, ["write_file", "delete_module"]),
        (Action.UMOUNT, ["umount_all", "delete_module"]),
        (Action.CLOSE, ["kill", "kill", "sleep", "delete_module"]),
        (Action.USERS, []),
    ],
)
def test_actions_are_ops_that_may_answer_what_they_like(action: Action, names: list[str]) -> None:
    body = plan.action_body(action, PROGRAM, BINDINGS)
    ops = [node for node in body if isinstance(node, Op)]
    assert [op.name for op in ops] == names
    assert all(op.expect == ("any",) for op in ops)
    assert len({op.place for op in ops}) == len(ops)


def test_module_without_two_stages_has_no_first_one() -> None:
    with pytest.raises(UsageError, match="action 'two-stage': the module has no 'unload' surface"):
        plan.action_body(Action.TWO_STAGE, PROGRAM, {"module": "foo"})


def test_module_without_a_driver_is_not_unbound() -> None:
    with pytest.raises(UsageError, match="action 'unbind': the module has no 'driver' surface"):
        plan.action_body(Action.UNBIND, PROGRAM, {"module": "foo"})


def test_unbinding_names_the_device() -> None:
    write, _ = plan.action_body(Action.UNBIND, PROGRAM, BINDINGS)
    assert isinstance(write, Op)
    assert write.args[:2] == (f"{BINDINGS['driver']}/unbind", BINDINGS["bound"])


def test_unload_is_tried_again_as_long_as_it_may_be_somebody_elses_doing() -> None:
    for action in (Action.DELETE, Action.DELETE_BLOCKING):
        ops = [op for op in plan.action_body(action, PROGRAM, BINDINGS) if isinstance(op, Op)]
        assert [(op.name, op.stop_on) for op in ops] == [
            ("delete_module", ("ok",)),
            ("sleep", ()),
            # Only while another unload is on its way.
            ("delete_module", ("ok", "EAGAIN")),
            ("sleep", ()),
            ("delete_module", ("ok", "EAGAIN")),
            ("sleep", ()),
        ]
        assert [op.place.startswith(plan.REST) for op in ops] == 3 * [False, True]


def test_blocking_unload_differs_in_its_flags() -> None:
    fast, *_ = plan.action_body(Action.DELETE, PROGRAM, BINDINGS)
    slow, *_ = plan.action_body(Action.DELETE_BLOCKING, PROGRAM, BINDINGS)
    assert isinstance(fast, Op)
    assert isinstance(slow, Op)
    assert (fast.args, slow.args) == (("foo", ("nonblock",)), ("foo", ()))
