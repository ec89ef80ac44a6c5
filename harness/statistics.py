"""How sure a number is: intervals, paired tests, and the smallest difference that a run could have shown.

All are two-sided at 95% unless said otherwise. Resampling is seeded, so equal inputs give equal intervals. Wilson
and McNemar are written out (a few lines each) because scipy and statsmodels take a second to import in every
process that measures; the tests hold them to both libraries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from harness.types import Interval

CONFIDENCE = 0.95
RESAMPLES = 2_000
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def wilson(successes: int, n: int) -> Interval:
    """The score interval of a share (Wilson 1927, JASA 22:209): keeps its coverage near 0 and 1 and with few rows,
    where the usual `p ± z·sqrt(p(1-p)/n)` gives an interval of no width.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    p, spread = successes / n, 1 + Z**2 / n
    middle = (p + Z**2 / (2 * n)) / spread
    half = Z / spread * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low = 0.0 if successes == 0 else middle - half  # exactly, where rounding would leave a hair
    return Interval(low, 1.0 if successes == n else middle + half, "wilson")


def bootstrap_quantile(samples: Sequence[float], q: float, seed: int = 0) -> Interval:
    """Percentile bootstrap (Efron & Tibshirani 1993, ch. 13) of a quantile, such as 0.95 for a p95. With few samples
    it is bounded by the largest seen, so the upper end of a p95 is then optimistic.
    """
    import numpy as np

    values = np.asarray(samples, dtype=float)
    if not values.size:
        raise ValueError("no samples")
    drawn = np.random.default_rng(seed).choice(values, (RESAMPLES, values.size))
    return _percentiles(np.quantile(drawn, q, axis=1).tolist())


def bootstrap_mean(samples: Sequence[float], seed: int = 0) -> Interval:
    """Percentile bootstrap of a mean."""
    import numpy as np

    values = np.asarray(samples, dtype=float)
    if not values.size:
        raise ValueError("no samples")
    return _percentiles(np.random.default_rng(seed).choice(values, (RESAMPLES, values.size)).mean(axis=1).tolist())


def _percentiles(values: Sequence[float]) -> Interval:
    import numpy as np

    tail = (1 - CONFIDENCE) / 2
    low, high = (float(np.quantile(values, q)) for q in (tail, 1 - tail))
    return Interval(low, high, "bootstrap")


@dataclass(frozen=True, slots=True)
class Paired:
    """Cell `a` against cell `b` on the same rows: `delta` is a's share minus b's. `gained` rows pass with a and fail
    with b, `lost` rows the other way; `p` is McNemar's."""

    delta: float
    low: float
    high: float
    p: float
    gained: int
    lost: int
    n: int

    @property
    def disagreement(self) -> float:
        """The share of rows on which the two differ."""
        return (self.gained + self.lost) / self.n


def paired(a_scores: Sequence[float], b_scores: Sequence[float], seed: int = 0) -> Paired:
    """Compares 0/1 scores of the same rows in the same order.

    p: exact McNemar (1947, Psychometrika 12:153), the binomial test of `gained` among the rows that flipped.
    Interval: percentile bootstrap over rows. Only the counts of the three outcomes gained, lost and same matter
    to a difference of shares, so a resample of rows is one multinomial draw. One made-up flip each way is added
    first, as Bonett & Price (2012, J. Educ. Behav. Stat. 37:479) do: without it, 48 rows and no flip would give
    an interval of no width, as if the cells were known to be equal.
    """
    import numpy as np

    if len(a_scores) != len(b_scores) or not a_scores:
        raise ValueError(f"{len(a_scores)} and {len(b_scores)} scores cannot be paired")
    if not {*a_scores, *b_scores} <= {0, 1}:
        raise ValueError("only 0/1 scores can be compared by McNemar's test")
    n = len(a_scores)
    gained = sum(a > b for a, b in zip(a_scores, b_scores, strict=True))
    lost = sum(a < b for a, b in zip(a_scores, b_scores, strict=True))
    shares = np.array([gained + 1, lost + 1, n - gained - lost]) / (n + 2)
    drawn = np.random.default_rng(seed).multinomial(n + 2, shares, RESAMPLES)
    interval = _percentiles(((drawn[:, 0] - drawn[:, 1]) / (n + 2)).tolist())
    delta = (gained - lost) / n
    return Paired(delta, min(interval.low, delta), max(interval.high, delta), mcnemar(gained, lost), gained, lost, n)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p of `gained` against `lost` flips if each way is as likely: twice the smaller tail."""
    flips, few = gained + lost, min(gained, lost)
    term = tail = 1
    for k in range(1, few + 1):
        term = term * (flips - k + 1) // k
        tail += term
    return float(min(1.0, 2 * tail / 2**flips))


def holm(pvalues: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for having made all these comparisons (Holm 1979, Scand. J. Stat. 6:65), by the same keys."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(pvalues.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(pvalues) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in pvalues}


def rows_needed(difference: float, disagreement: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Rows with which McNemar's test shows a difference of shares with this power, when `disagreement` of the rows
    differ (Connor 1987, Biometrics 43:207): n = (z_a/2·√ψ + z_b·√(ψ - d²))² / d².
    """
    if not 0 < difference <= 1:
        raise ValueError(f"difference {difference} is not a share above 0")
    psi = max(disagreement, difference)  # a difference of d needs at least d of the rows to differ
    normal = NormalDist()
    sides = normal.inv_cdf(1 - alpha / 2) * math.sqrt(psi) + normal.inv_cdf(power) * math.sqrt(psi - difference**2)
    return math.ceil((sides / difference) ** 2 - 1e-9)


def detectable_difference(n: int, disagreement: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference of shares that `n` rows show with this power: `rows_needed` turned round. Infinite when
    no difference at all could be shown (fewer than four rows)."""
    if n < 1 or rows_needed(1.0, disagreement, alpha, power) > n:
        return math.inf
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if rows_needed(middle, disagreement, alpha, power) <= n else (middle, high)
    return high
