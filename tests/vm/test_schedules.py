# SPDX-License-Identifier: GPL-2.0-only
"""Schedules, in guests."""

import dataclasses
from pathlib import Path

import pytest

from harness import bundle, families, lab, trial, verdict
from harness.lab import Lab
from harness.machine import Lane
from harness.program import Program
from harness.schedules import Starvation
from harness.trial import Trial

pytestmark = pytest.mark.vm

HOOKNET = families.find_family("hooknet")


def scheduled(made: Lab, seed: int) -> Trial:
    subject = made.subject(str(HOOKNET.folder), families.GOOD, "6.1", "kasan", Lane.DET)
    return made.trial(subject, lab.family_scenarios(HOOKNET, families.GOOD)[0], seed, 3)


def changed(ready: Trial, **fields: object) -> Trial:
    """The trial with another schedule."""
    whole = Program.parse(ready.program)
    assert whole.schedule is not None
    schedule = dataclasses.replace(whole.schedule, **fields)  # type: ignore[arg-type]
    return dataclasses.replace(
        ready, program=dataclasses.replace(whole, schedule=schedule).serialise()
    )


def test_schedule_decides_and_replays(harness_lab: Lab, tmp_path: Path) -> None:
    ready = scheduled(harness_lab, 3)
    first = trial.run_trial(ready)
    assert first.findings == ()
    payload = harness_lab.subject(
        str(HOOKNET.folder), families.GOOD, "6.1", "kasan", Lane.DET
    ).archive
    path = bundle.write_bundle(tmp_path, ready, first, payload, "")
    assert "Who runs first: " in (path / "README.md").read_text()
    read, differences = harness_lab.replay_trial(bundle.load_bundle(path))
    assert differences == ()
    again = trial.run_trial(read)
    assert first.evidence.report == again.evidence.report
    assert first.evidence.console == again.evidence.console
    schedule = Program.parse(ready.program).schedule
    assert schedule is not None
    other = trial.run_trial(changed(ready, ranks=schedule.ranks[::-1]))
    assert other.findings == ()
    assert other.evidence.report != first.evidence.report


def test_starved_actor_makes_no_progress(harness_lab: Lab) -> None:
    """All actors but the first get nothing for 30 ms; then everything goes on as ever."""
    ready = scheduled(harness_lab, 3)
    names = [actor.name for actor in Program.parse(ready.program).actors]
    steps = tuple(Starvation(0, name, 30_000) for name in names)
    result = trial.run_trial(changed(ready, ranks=tuple(names), steps=steps, end_us=60_000))
    assert result.findings == ()
    events = verdict.parse_report(result.evidence.report)
    fed = [event["us"] for event in events if event.get("what") == "feed"]
    assert len(fed) == len(names)
    begun = next(event["us"] for event in events if event["ev"] == "start")
    # Whoever loads or unloads comes after all of that.
    unloads = [event["unloaded_us"] for event in events if "unloaded_us" in event]
    assert unloads
    assert all(us - begun > min(fed) for us in unloads)
