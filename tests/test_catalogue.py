# SPDX-License-Identifier: GPL-2.0-only
"""The detection matrix: what is run, what agrees, what stands in the document. No guest."""

import pytest

from harness import catalogue, families, report
from harness.catalogue import Limits, Outcome
from harness.machine import Lane
from harness.report import Row

LIMITS = Limits(good_trials=300, good_seconds=120.0, bad_trials=64)


def row(variant: str, title: str | None, *expect: str, findings: int = 0) -> Row:
    return Row(
        module="m", variant=variant, kernel="6.1", lane="det", trials=5, findings=findings,
        caught_after=None if title is None else 2, title=title, expect=expect, bundle=None,
    )  # fmt: skip


@pytest.mark.parametrize("family", families.all_families(), ids=lambda family: family.name)
def test_each_bad_variant_is_run_once_and_the_good_one_in_both_lanes(
    family: families.Family,
) -> None:
    stints = list(catalogue.stints(family, LIMITS, Lane.DET))
    # Last, because it takes longest.
    good = [(stint.variant, stint.lane) for stint in stints[-2:]]
    assert good == [(families.GOOD, Lane.DET), (families.GOOD, Lane.SMP)]
    bad = [stint for stint in stints if stint.variant != families.GOOD]
    assert [stint.variant for stint in bad] == [name for name in family.variants if name != "good"]
    assert len(stints) == len(bad) + 2
    assert all(stint.expect for stint in bad)


def test_whole_catalogue_has_31_mistakes_and_at_most_three_need_two_processors() -> None:
    lanes = [
        variant.lane
        for family in families.all_families()
        for name, variant in family.variants.items()
        if name != families.GOOD
    ]
    assert len(lanes) == 31
    assert sum(lane == "smp" for lane in lanes) <= 3


def test_lane_is_taken_unless_a_variant_needs_another() -> None:
    family = families.Family(
        name="m",
        variants={
            "any": families.Variant(expect=("x",)),
            "two": families.Variant(expect=("x",), lane="smp"),
        },
    )
    lanes = [[s.lane for s in catalogue.stints(family, LIMITS, lane)] for lane in Lane]
    assert lanes == [[Lane.DET, Lane.SMP], [Lane.SMP, Lane.SMP]]


def test_leak_is_looked_for_first() -> None:
    family = families.Family(
        name="m", variants={"v": families.Variant(expect=(r"memory leak in \w+",))}
    )
    (stint,) = catalogue.stints(family, LIMITS, Lane.DET)
    assert stint.seeds == range(64)


@pytest.mark.parametrize(
    ("title", "expect", "agrees", "promised"),
    [
        ("BUG in f()", (r"BUG in f\(\)",), True, "BUG in f()"),
        ("other", (r"BUG in f\(\)",), False, "BUG in f()"),
        (None, (r"BUG in f\(\)",), False, "BUG in f()"),
        ("b", ("a", "b"), True, "b"),
        ("BUG in g", (r"BUG in \w+",), True, r"BUG in \w+"),
        ("BUG in g now", (r"BUG in \w+",), False, r"BUG in \w+"),
        (None, (), True, None),
        ("BUG in g", (), False, None),
    ],
)
def test_what_agrees(
    title: str | None, expect: tuple[str, ...], agrees: bool, promised: str | None
) -> None:
    made = row("v", title, *expect)
    assert (made.agrees, made.promised) == (agrees, promised)


def test_document_counts_the_good_and_lists_the_bad() -> None:
    outcomes = [
        Outcome(row("good", None), ()),
        Outcome(row("good", "BUG", findings=3), ()),
        Outcome(row("bad", "a", "a"), ()),
    ]
    document = catalogue.document(outcomes)
    assert [(v["variant"], v["agrees"], v["trials_to_first"]) for v in document["variants"]] == [
        ("bad", True, 2)
    ]
    (good,) = document["good"]
    assert (good["family"], good["trials"], good["findings"]) == ("m", 10, 3)


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (row("good", None), "m good, det lane, 5 trials: no finding"),
        (row("bad", "BUG", "BUG"), "m bad, det lane, 5 trials: BUG"),
        (row("bad", None, "BUG"), "m bad, det lane, 5 trials: NOT CAUGHT (NOT AS PROMISED)"),
        (row("good", "BUG"), "m good, det lane, 5 trials: BUG (NOT AS PROMISED)"),
    ],
)
def test_verdict_is_said_in_a_line_before_the_table(made: Row, line: str) -> None:
    assert report.row_line(made) == line
