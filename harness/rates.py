# SPDX-License-Identifier: GPL-2.0-only
"""What k findings in n trials say about the rate behind them.

Intervals are Clopper and Pearson's (Biometrika 26, 1934): exact, never narrower
than they claim. They also hold when trials ended at the first finding: that a
number of trials was needed is rarer than that this number shows so few.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from harness.errors import UsageError

METHOD: Final = "Clopper-Pearson"
CONFIDENCE: Final = 0.95

#: Trials that a claim may need in each cell; more is a week's work, or a slip of the pen.
MAX_CLAIM_TRIALS: Final = 100_000

_HALVINGS = 80
_TERMS = 10_000
_TINY = 1e-300

_CLAIM = re.compile(r"\s*p\s*<\s*(\d{1,3}(?:\.\d{1,9})?)\s*%\s*@\s*(\d{1,3}(?:\.\d{1,9})?)\s*%\s*")


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a rate lies."""

    low: float
    high: float
    confidence: float = CONFIDENCE
    method: str = METHOD


@dataclass(frozen=True, slots=True)
class Claim:
    """That a trial has a finding with less than some probability."""

    #: The probability, between 0 and 1.
    below: float
    #: How sure that must be, between 0 and 1.
    confidence: float

    @property
    def trials(self) -> int:
        """Trials without a finding after which it holds: ``(1-p)^n <= 1-confidence``."""
        return math.ceil(math.log1p(-self.confidence) / math.log1p(-self.below) - 1e-9)

    def __str__(self) -> str:
        return f"p<{100 * self.below:.10g}%@{100 * self.confidence:.10g}%"


def percent(rate: float) -> str:
    """Return a rate in words: whole percent from 10 on, two digits below."""
    shown = 100 * rate
    return f"{shown:.0f} %" if shown >= 10 or shown == 0 else f"{shown:.2g} %"


def parse_claim(text: str) -> Claim:
    """Return the claim of ``p<1%@95%``.

    Raises:
        UsageError: it is none, or needs too many trials.
    """
    match = _CLAIM.fullmatch(text)
    if match is None:
        raise UsageError(f"claim {text!r}: not understood", hint="write 'p<1%@95%'")
    claim = Claim(float(match[1]) / 100, float(match[2]) / 100)
    if not 0 < claim.below < 1:
        raise UsageError(f"claim {text!r}: the rate lies between 0 % and 100 %, both excluded")
    if not 0.5 <= claim.confidence < 1:
        raise UsageError(f"claim {text!r}: the confidence is at least 50 % and less than 100 %")
    if claim.trials > MAX_CLAIM_TRIALS:
        raise UsageError(
            f"claim {text!r}: needs {claim.trials} trials of each cell, "
            f"the limit is {MAX_CLAIM_TRIALS}"
        )
    return claim


def interval(hits: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Return where the rate lies behind some findings: both sides, an equal chance beyond each.

    Raises:
        ValueError: there are no trials, or more findings than trials.
    """
    if not 0 <= hits <= trials or trials == 0:
        raise ValueError(f"{hits} of {trials}: no rate")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _quantile(tail, hits, trials - hits + 1)
    high = 1.0 if hits == trials else _quantile(1 - tail, hits + 1, trials - hits)
    return Interval(low, high, confidence)


def silence(trials: int, confidence: float = CONFIDENCE) -> float:
    """Return the rate that trials without any finding exclude: the rule of three, exactly."""
    return float(1 - (1 - confidence) ** (1 / trials))


def _quantile(probability: float, a: int, b: int) -> float:
    """Return where the beta distribution function has a value, by halving."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    # The continued fraction converges fast on one side of the mean only.
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_cdf(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    return front * _continued_fraction(x, a, b) / a


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Return the fraction of DLMF 8.17.22 by Lentz's method."""
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _nonzero(1 + term * d)
            c = _nonzero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
