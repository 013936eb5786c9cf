# SPDX-License-Identifier: GPL-2.0-only
"""The protocol of kmods/include/two_stage.h: each outcome of an unload, in a guest.

Programs are strict: another answer than the one that is written here is a finding.
"While the packet is in the hook" is a matter of events: the first handler, which takes
no time, counts the packet, the others take 36 ms over it, and who asks for the unload
looks for that count every 10 ms and need not wait for a processor.
"""

import pytest

from harness import scenario, trial
from harness.lab import Lab
from harness.machine import Lane
from harness.verdict import Finding

pytestmark = pytest.mark.vm

_HEAD = """\
about: one outcome of the protocol
surfaces: [module, proc, hook]
lanes:
  det: {bound_us: 20000000}
setup:
  - exec: {program: /bin/ip, args: [link, set, lo, up]}
  - finit_module: "${ko}"
"""

#: One actor, who sends a packet that nobody has read when the unload is asked for.
_UNREAD = """\
  - write_file: {path: "${proc}", data: "${hook_all}"}
actors:
  - name: one
    do:
      - socket: {slot: 0, number: 4000}
      - send: {slot: 0, port: 4000, count: 100}
"""

#: Two actors, of whom one is in the hook when the other asks for the unload.
_IN_THE_HOOK = """\
  - write_file: {path: "${proc}", data: "${hook_all}"}
  - write_file: {path: "${proc}", data: add first 17 9000}
  - write_file: {path: "${proc}", data: add second 17 9000}
  - write_file: {path: "${proc}", data: add third 17 9000}
  - write_file: {path: "${proc}", data: add fourth 17 9000}
actors:
  - name: sender
    do:
      - socket: {slot: 0, number: 4000}
      - barrier: 0
      - send: {slot: 0, port: 4000, count: 100}
      - barrier: 1
      - recv: {slot: 0, count: 100, min: 100, check: 0}
  - name: unloader
    fifo: 10
    do:
      - barrier: 0
      - await_line: {path: "${proc}", line: handler all protocol 0 delay_us 0 packets 1}
        retries: 100
"""


def findings(made: Lab, text: str, variant: str = "good") -> tuple[Finding, ...]:
    subject = made.subject("hooknet", variant, "6.1", "kasan", Lane.DET)
    plan = scenario.parse_scenario(_HEAD + text, "outcome.yaml")
    return trial.run_trial(made.trial(subject, plan, 1)).findings


UNLOADED = (
    _UNREAD
    + """\
      - recv: {slot: 0, count: 100, min: 100, check: 0}
      - delete_module: "${module}"
        expect: [EAGAIN]
      - read_file: {path: "${unload}", equals: serving 0}
      - write_file: {path: "${unload}", data: now}
      - read_file: {path: "${unload}", equals: ready 0}
      - write_file: {path: "${unload}", data: now}
        expect: [EALREADY]
      - stat: "${proc}"
        expect: [ENOENT]
      - delete_module: "${module}"
"""
)

BUSY = (
    _UNREAD
    + """\
      - write_file: {path: "${unload}", data: now}
        expect: [EBUSY]
      - read_file: {path: "${unload}", equals: serving 1}
      - stat: "${proc}"
      - delete_module: "${module}"
        expect: [EAGAIN]
      - close: 0
      - write_file: {path: "${unload}", data: now}
        retries: 50
      - delete_module: "${module}"
"""
)

BACK_IN_SERVICE = (
    _IN_THE_HOOK
    + """\
      - write_file: {path: "${unload}", data: now}
        expect: [EAGAIN]
      - read_file: {path: "${unload}", equals: serving 1}
      - stat: "${proc}"
      - delete_module: "${module}"
        expect: [EAGAIN]
      - barrier: 1
      - write_file: {path: "${unload}", data: now}
        retries: 50
      - delete_module: "${module}"
"""
)

DELAYED = (
    _IN_THE_HOOK
    + """\
      - write_file: {path: "${unload}", data: delay}
        expect: [EINPROGRESS]
      - read_file: {path: "${unload}", equals: delayed 1}
      - stat: "${proc}"
        expect: [ENOENT]
      - write_file: {path: "${unload}", data: now}
        expect: [EINPROGRESS]
      - delete_module: "${module}"
        expect: [EAGAIN]
      - barrier: 1
      - await_line: {path: "${unload}", line: ready 0}
        retries: 100
      - delete_module: "${module}"
"""
)

RESUMED = (
    _UNREAD
    + """\
      - write_file: {path: "${unload}", data: resume}
        expect: [EINVAL]
      - write_file: {path: "${unload}", data: delay}
        expect: [EINPROGRESS]
      - write_file: {path: "${unload}", data: resume}
      - read_file: {path: "${unload}", equals: serving 1}
      - recv: {slot: 0, count: 100, min: 100, check: 0}
      # The last one has left, and nothing follows from it.
      - delete_module: "${module}"
        expect: [EAGAIN]
      - write_file: {path: "${unload}", data: now}
      - write_file: {path: "${unload}", data: resume}
      - delete_module: "${module}"
        expect: [EAGAIN]
      - write_file: {path: "${unload}", data: nonsense}
        expect: [EINVAL]
      - write_file: {path: "${unload}", data: now}
      - delete_module: "${module}"
"""
)

ASKED_TOO_EARLY = """\
actors:
  - name: one
    do:
      - delete_module: "${module}"
        expect: [EAGAIN]
      - write_file: {path: "${unload}", data: now}
      - delete_module: "${module}"
      # A parameter is set before init: there is nothing to unload yet.
      - finit_module: {path: "${ko}", params: unload=now}
        expect: [ENODEV]
      - finit_module: "${ko}"
      - write_file: {path: "${unload}", data: now}
      - delete_module: "${module}"
"""

OUTCOMES = {
    "unloaded": UNLOADED,
    "busy": BUSY,
    "back-in-service": BACK_IN_SERVICE,
    "delayed": DELAYED,
    "resumed": RESUMED,
    "asked-too-early": ASKED_TOO_EARLY,
}


@pytest.mark.parametrize("text", OUTCOMES.values(), ids=OUTCOMES)
def test_outcome(harness_lab: Lab, text: str) -> None:
    assert findings(harness_lab, text) == ()


def test_without_the_second_check_nobody_comes_back_in_service(harness_lab: Lab) -> None:
    """What the program above shows is not there by itself."""
    titles = [str(finding) for finding in findings(harness_lab, BACK_IN_SERVICE, "checked-once")]
    assert "errno: write_file returned ok" in titles
