# SPDX-License-Identifier: GPL-2.0-only
"""hooknet is a module that works: it counts, and it holds back, and it says so."""

import pytest

from harness import scenario, trial
from harness.deadline import Deadline
from harness.guest import Guest
from harness.lab import Lab
from harness.machine import Lane
from harness.plugin import Build

pytestmark = pytest.mark.vm


def test_every_packet_is_counted(guest: Guest, build: Build) -> None:
    deadline = Deadline.after(120)
    with guest.loaded(build("hooknet")):
        guest.run("ip link set lo up; echo add all 0 0 > /proc/hooknet", deadline=deadline)
        guest.run("ping -c 3 -i 0.1 127.0.0.1", deadline=deadline)
        lines = guest.run("cat /proc/hooknet", deadline=deadline).text.splitlines()
        # Requests and answers.
        assert "handler all protocol 0 delay_us 0 packets 6" in lines
        assert "protocol 1 packets 6" in lines
        guest.run("echo now > /sys/module/hooknet/parameters/unload", deadline=deadline)


def test_unload_that_is_forced_sends_on_what_is_held(guest: Guest, build: Build) -> None:
    """Exit cannot refuse, so it does all that the first stage would have done."""
    module = build("hooknet")
    deadline = Deadline.after(120)
    guest.put(module.stripped.read_bytes(), "/tmp/hooknet.ko", deadline=deadline)
    done = guest.run(
        "insmod /tmp/hooknet.ko && ip link set lo up && echo add held 1 5000000 > /proc/hooknet &&"
        "{ ping -c 1 -W 60 127.0.0.1 & until grep 'held 1' /proc/hooknet; do :; done;"
        "rmmod -f hooknet; wait; }",
        deadline=deadline,
    )
    assert "held 1" in done.text.splitlines()
    # What was held went on when the module went.
    assert "1 packets received" in done.text
    assert "hooknet" not in guest.run("cat /proc/modules", deadline=deadline).text


@pytest.mark.parametrize("bad", ["add", "add x", "add x 256 0", "add x 1 20000000", "add x 1 2 3",
                                 "del y", "nonsense", "add 0123456789abcdef 0 0"])  # fmt: skip
def test_commands_that_make_no_sense_are_refused(harness_lab: Lab, bad: str) -> None:
    errno = {"add x 256 0": "ERANGE", "add x 1 20000000": "ERANGE", "del y": "ENOENT"}
    errno["add 0123456789abcdef 0 0"] = "ENAMETOOLONG"
    text = f"""\
about: a command
surfaces: [proc]
lanes:
  det: {{bound_us: 5000000}}
actors:
  - name: one
    do:
      - finit_module: "${{ko}}"
      - write_file: {{path: "${{proc}}", data: {bad}}}
        expect: [{errno.get(bad, "EINVAL")}]
      - write_file: {{path: "${{proc}}", data: add x 1 0}}
      - write_file: {{path: "${{proc}}", data: add x 1 0}}
        expect: [EEXIST]
      - write_file: {{path: "${{unload}}", data: now}}
      - delete_module: "${{module}}"
"""
    subject = harness_lab.subject("hooknet", "good", "6.1", "kasan", Lane.DET)
    plan = scenario.parse_scenario(text, "command.yaml")
    assert trial.run_trial(harness_lab.trial(subject, plan, 1)).findings == ()


def test_packets_are_held_for_their_time(harness_lab: Lab) -> None:
    text = """\
about: a packet that is held is not there yet, and arrives
surfaces: [proc, hook]
lanes:
  det: {bound_us: 5000000}
setup:
  - exec: {program: /bin/ip, args: [link, set, lo, up]}
  - finit_module: "${ko}"
  - write_file: {path: "${proc}", data: "${hook_held}"}
actors:
  - name: one
    do:
      - socket: {slot: 0, number: 4000}
      - send: {slot: 0, port: 4000, count: 500, key: 1}
      - send: {slot: 0, port: 4000, count: 600, key: 2}
      - await_line: {path: "${proc}", line: held 2}
      - recv: {slot: 0, count: 1000}
        expect: [EAGAIN]
      - recv: {slot: 0, count: 1000, check: 1, min: 500, timeout_ms: 1000}
      - recv: {slot: 0, count: 1000, check: 2, min: 600, timeout_ms: 1000}
      - await_line: {path: "${proc}", line: held 0}
      # Those that wait when the module goes are not lost.
      - send: {slot: 0, port: 4000, count: 700, key: 3}
      - write_file: {path: "${unload}", data: delay}
        expect: [EINPROGRESS]
      - recv: {slot: 0, count: 1000, check: 3, min: 700}
      - delete_module: "${module}"
        retries: 100
"""
    subject = harness_lab.subject("hooknet", "good", "6.1", "kasan", Lane.DET)
    plan = scenario.parse_scenario(text, "held.yaml")
    assert trial.run_trial(harness_lab.trial(subject, plan, 1)).findings == ()
