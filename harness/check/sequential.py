"""Looking at a verdict before all rows are in, without more false ones: alpha spending.

Each look may use up so much of the whole error, by O'Brien and Fleming's spending function as Lan & DeMets (1983,
Biometrika 70:659) made it for any number of looks at any times. The levels come from the joint distribution of the
statistics at the looks (Armitage, McPherson & Rowe 1969, J. R. Stat. Soc. A 132:235): normal, independent increments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

GRID = 1_200  # points of the density that is carried from look to look
WIDE = 9.0  # standard deviations below which nothing happens


def spent(alpha: float, share: float) -> float:
    """How much of a one-sided error may be used up once this share of the rows is in: next to nothing early, all of it
    at the end."""
    from scipy.special import ndtr, ndtri

    return float(2 * ndtr(ndtri(alpha / 2) / min(share, 1.0) ** 0.5)) if share > 0 else 0.0


@cache
def levels(alpha: float, shares: tuple[float, ...]) -> tuple[float, ...]:
    """The one-sided p-value to be reached at each look, for looks when these rising `shares` of the rows are in."""
    import numpy as np
    from scipy.special import ndtr

    found: list[float] = []
    density: Any = None  # of the statistic's sum where no look has stopped yet, at `points`
    points: Any = None
    before = used = 0.0
    for share in shares:
        step = (share - before) ** 0.5
        wanted = max(spent(alpha, share) - used, 0.0)

        def past(bound: float, step: float = step, at: Any = points, mass: Any = density) -> float:
            """The chance to get beyond a bound at this look and at none before."""
            return float(ndtr(-bound / step)) if mass is None else float(mass @ ndtr((at - bound) / step))

        low, high = -WIDE, WIDE
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if past(middle * share**0.5) > wanted else (low, middle)
        bound = high * share**0.5
        used += past(bound)
        found.append(float(ndtr(-high)))
        grid = np.linspace(-WIDE * share**0.5, bound, GRID)
        width = np.full(GRID, grid[1] - grid[0])
        width[[0, -1]] /= 2  # trapezoids
        if density is None:
            chance = np.exp(-0.5 * (grid / step) ** 2)
        else:
            chance = np.exp(-0.5 * ((grid[:, None] - points[None]) / step) ** 2) @ density
        density, points, before = chance * width / (step * (2 * np.pi) ** 0.5), grid, share
    return tuple(found)


def level(alpha: float, shares: Sequence[float]) -> float:
    """The p-value to be reached at the last of these looks; `alpha` itself where there is one, with all rows."""
    return alpha if tuple(shares) == (1.0,) else levels(alpha, tuple(shares))[-1]
