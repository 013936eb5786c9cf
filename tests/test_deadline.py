# SPDX-License-Identifier: GPL-2.0-only
from harness.deadline import Deadline
from harness.errors import DeadlineExceeded


def test_remaining_is_never_negative() -> None:
    assert Deadline.after(-1).remaining_s == 0.0
    assert Deadline.after(-1).expired


def test_at_most_is_the_earlier_one() -> None:
    assert Deadline.after(1000).at_most(1).allowed_s == 1
    assert Deadline.after(1).at_most(1000).allowed_s == 1


def test_exceeded_says_what_and_how_long() -> None:
    error = Deadline.after(2.5).exceeded("the guest did not answer", hint="look")
    assert isinstance(error, DeadlineExceeded)
    assert str(error) == "the guest did not answer within 2.5 s\nhint: look"
