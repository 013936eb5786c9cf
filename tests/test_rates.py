# SPDX-License-Identifier: GPL-2.0-only
"""Rates and their bounds, against published values and the definition."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import rates
from harness.errors import UsageError


# Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 5.
@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_interval_is_the_published_one(hits: int, trials: int, low: float, high: float) -> None:
    found = rates.interval(hits, trials)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def tail(hits: int, trials: int, p: float) -> float:
    """P(X >= hits), added up."""
    return sum(
        math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(hits, trials + 1)
    )


@settings(deadline=None)
@given(st.data(), st.integers(1, 120), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_bounds_are_where_the_tails_have_their_share(
    data: st.DataObject, trials: int, confidence: float
) -> None:
    hits = data.draw(st.integers(0, trials))
    found = rates.interval(hits, trials, confidence)
    share = (1 - confidence) / 2
    assert found.low <= hits / trials <= found.high
    if hits > 0:
        assert tail(hits, trials, found.low) == pytest.approx(share, rel=1e-6)
    if hits < trials:
        assert 1 - tail(hits + 1, trials, found.high) == pytest.approx(share, rel=1e-6)


def test_ends_are_closed() -> None:
    assert rates.interval(0, 10).low == 0
    assert rates.interval(10, 10).high == 1


def test_many_trials_are_no_trouble() -> None:
    found = rates.interval(10, 1_000_000)
    # With so many trials it is Poisson's: 4.795 to 18.39 (Garwood 1936).
    assert found.low * 1e6 == pytest.approx(4.795, abs=0.001)
    assert found.high * 1e6 == pytest.approx(18.39, abs=0.01)


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_no_rate(hits: int, trials: int) -> None:
    with pytest.raises(ValueError, match="no rate"):
        rates.interval(hits, trials)


@pytest.mark.parametrize(
    ("text", "trials"),
    [("p<1%@95%", 299), ("p < 5% @ 95%", 59), ("p<0.1%@95%", 2995), ("p<50%@50%", 1)],
)
def test_claim_holds_after_so_many_trials(text: str, trials: int) -> None:
    claim = rates.parse_claim(text)
    assert claim.trials == trials
    assert (1 - claim.below) ** trials <= 1 - claim.confidence + 1e-9
    assert trials == 1 or (1 - claim.below) ** (trials - 1) > 1 - claim.confidence
    assert rates.parse_claim(str(claim)) == claim


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("p<1%", "not understood"),
        ("p>1%@95%", "not understood"),
        ("p<0%@95%", "between 0 % and 100 %"),
        ("p<100%@95%", "between 0 % and 100 %"),
        ("p<1%@100%", "less than 100 %"),
        ("p<1%@20%", "at least 50 %"),
        ("p<0.0001%@95%", "needs 2995731 trials of each cell, the limit is 100000"),
    ],
)
def test_claim_that_is_none(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        rates.parse_claim(text)


@given(st.integers(1, 10**6))
def test_silence_is_the_upper_bound_of_no_finding(trials: int) -> None:
    claim = rates.silence(trials)
    assert (1 - claim) ** trials == pytest.approx(1 - rates.CONFIDENCE)


def test_silence_is_the_rule_of_three() -> None:
    assert rates.silence(300) == pytest.approx(3 / 300, rel=0.01)
