"""How many rows it takes to see a difference: the power of the exact McNemar test, and what follows from it."""

from __future__ import annotations

import math
from typing import Any

POWER = 0.8


def mcnemar_power(n: int, difference: float, disagreement: float, alpha: float = 0.05) -> float:
    """The chance that exact McNemar shows a true `difference` of shares with `n` rows of which `disagreement` differ:
    summed over how many rows may flip and how many of those each way (Duffy 1984, Biometrics 40:1005)."""
    import numpy as np
    from scipy.special import bdtr, gammaln, xlog1py, xlogy

    psi = max(disagreement, difference)  # a difference of d needs at least d of the rows to differ
    if n < 1 or psi <= 0:
        return 0.0
    spread = 8 * math.sqrt(n * psi * (1 - psi)) + 1
    flips = np.arange(max(1, math.floor(n * psi - spread)), min(n, math.ceil(n * psi + spread)) + 1)
    few = _smaller_side(flips, alpha)
    possible = few >= 0
    toward = (1 + difference / psi) / 2
    shown = np.zeros(len(flips))
    for side in (toward, 1 - toward):
        shown[possible] += bdtr(few[possible], flips[possible], side)
    ways = gammaln(n + 1) - gammaln(flips + 1) - gammaln(n - flips + 1)
    return float((np.exp(ways + xlogy(flips, psi) + xlog1py(n - flips, -psi)) * shown).sum())


def _smaller_side(flips: Any, alpha: float) -> Any:
    """The most flips that may go one way for exact McNemar to show a difference, by how many there are; -1 where no
    split shows one. A normal quantile, corrected until it is exact (scipy's bdtrik takes ten times as long)."""
    import numpy as np
    from scipy.special import bdtr, ndtri

    few = np.maximum(np.floor((flips - 1 - ndtri(1 - alpha / 2) * np.sqrt(flips)) / 2), -1.0)
    while (more := bdtr(few + 1, flips, 0.5) <= alpha / 2).any():
        few = few + more
    while (less := (few >= 0) & (bdtr(np.maximum(few, 0), flips, 0.5) > alpha / 2)).any():
        few = few - less
    return few


def rows_needed(difference: float, disagreement: float) -> int:
    """Rows with which exact McNemar likely (`POWER`) shows a difference of shares, when `disagreement` of the rows
    differ. Power climbs in small teeth with the rows; this is where it is reached to stay, within a row or two."""
    if not 0 < difference <= 1:
        raise ValueError(f"difference {difference} is not a share above 0")
    high = 4
    while mcnemar_power(high, difference, disagreement) < POWER:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        enough = mcnemar_power(middle, difference, disagreement) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def groups_needed(alpha: float = 0.05) -> int:
    """The fewest groups with which a test over whole groups can show anything: with fewer, even all of them changing in
    one direction is likelier than `alpha` by chance."""
    return math.ceil(math.log2(2 / alpha))


def detectable_difference(n: int, disagreement: float, alpha: float = 0.05) -> float:
    """The smallest difference of shares that `n` rows likely show: `rows_needed` turned round. Infinite where no
    difference at all could be shown (too few rows)."""
    if mcnemar_power(n, 1.0, disagreement, alpha) < POWER:
        return math.inf
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        enough = mcnemar_power(n, middle, disagreement, alpha) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high
