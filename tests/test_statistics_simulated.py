"""Do intervals hold the truth as often as they say, and tests cry wolf no more often? Simulated, with fixed seeds.

Truth is known in each: coverage must lie within 93 to 97% at nominal 95, the whole grid may find a difference where
none is in at most 5% of the grids, and the stated power must be reached within 3 points.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from harness import power, statistics

RUNS = 1_500  # a true coverage of 95% is then seen within 1.1 points in 19 of 20 runs


def clusters(rng: Any, n: int, size: int) -> Any:
    """Group numbers of `n` rows: groups of 1 to 2·size - 1 rows, or each row alone."""
    if size == 1:
        return np.arange(n)
    return np.repeat(np.arange(n), rng.integers(1, 2 * size, n))[:n]


def pass_fail(rng: Any, n: int, size: int, p: float, likeness: float = 0.3) -> tuple[Any, Any]:
    """0/1 rows with mean p; rows of a group are alike (beta-binomial with that intra-class correlation)."""
    groups = clusters(rng, n, size)
    odds = (1 - likeness) / likeness
    own = rng.beta(p * odds, (1 - p) * odds, n)[groups] if size > 1 else p
    return (rng.random(n) < own).astype(int), groups


@pytest.mark.parametrize(
    ("n", "size", "p", "least"),
    [*((n, size, p, 0.93) for n in (50, 200, 1_000) for size in (1, 3) for p in (0.5, 0.8)),
     (6, 1, 0.98, 0.87), (48, 1, 0.98, 0.91), (300, 25, 0.9, 0.88), (300, 50, 0.9, 0.85)],
)  # fmt: skip
def test_the_interval_of_a_share_covers(n: int, size: int, p: float, least: float) -> None:
    """Less for shares near all of few rows, and for few groups."""
    rng, hits = np.random.default_rng([n, size]), 0
    for _ in range(RUNS):
        scores, groups = pass_fail(rng, n, size, p)
        found = statistics.share_interval(scores.tolist(), groups.tolist())
        hits += found.low <= p <= found.high
    assert least <= hits / RUNS <= 0.97


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("n", [50, 200, 1_000])
@pytest.mark.parametrize("skewed", [False, True])
def test_the_interval_of_a_graded_score_covers(n: int, size: int, skewed: bool) -> None:
    rng, hits = np.random.default_rng([n, size, skewed]), 0
    for _ in range(RUNS):
        groups = clusters(rng, n, size)
        shared, own = rng.random(n)[groups], rng.random(n)
        scores = np.where(shared < 0.6, 1.0, own) if skewed else (shared + own) / 2
        found = statistics.share_interval(scores.tolist(), groups.tolist())
        hits += found.low <= (0.8 if skewed else 0.5) <= found.high
    assert 0.93 <= hits / RUNS <= 0.97


def flips(rng: Any, n: int, groups: Any, gain: float, lose: float) -> tuple[Any, Any]:
    """Two cells' 0/1 scores: `gain` of the rows flip one way, `lose` the other; half the rows follow their group."""

    def drawn(k: int) -> Any:
        luck = rng.random(k)
        return np.where(luck < gain, 1, np.where(luck < gain + lose, -1, 0))

    moved = np.where(rng.random(n) < 0.5, drawn(n)[groups], drawn(n))
    b = np.where(moved == 1, 0, np.where(moved == -1, 1, rng.integers(0, 2, n)))
    return b + moved, b


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("n", [50, 200, 500])
def test_the_interval_of_a_paired_difference_covers(n: int, size: int) -> None:
    rng, hits = np.random.default_rng([n, size]), 0
    for _ in range(RUNS):
        groups = clusters(rng, n, size)
        a, b = flips(rng, n, groups, 0.3, 0.1)
        found = statistics.paired(a.tolist(), b.tolist(), groups.tolist())
        hits += found.low <= 0.2 <= found.high
    assert 0.93 <= hits / RUNS <= 0.97


@pytest.mark.parametrize("n", [50, 200, 1_000])
def test_the_interval_of_a_graded_paired_difference_covers(n: int) -> None:
    rng, hits = np.random.default_rng(n), 0
    for _ in range(RUNS // 3):
        groups = clusters(rng, n, 3)
        b = rng.random(n)
        a = np.clip(b + np.where(rng.random(n) < 0.4, 0.1 + 0.1 * rng.normal(size=n)[groups], 0), 0, 1)
        found = statistics.mean_difference((a - b).tolist(), groups.tolist())
        b = rng.random(200_000)
        truth = (
            np.clip(b + np.where(rng.random(200_000) < 0.4, 0.1 + 0.1 * rng.normal(size=200_000), 0), 0, 1) - b
        ).mean()
        hits += found.low <= truth <= found.high
    assert 0.925 <= hits / (RUNS // 3) <= 0.975


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("n", [50, 200])
def test_a_grid_without_differences_shows_none(n: int, size: int) -> None:
    rng, grids, false = np.random.default_rng([n, size]), 400, 0
    for _ in range(grids):
        groups = clusters(rng, n, size)
        reference = (rng.random(n) < 0.7).astype(int)
        found = {}
        for cell in range(14):
            a = reference.copy()
            moved = rng.random(n)[groups] < 0.2  # a fifth of the groups is drawn anew, as likely right as before
            a[moved] = (rng.random(n) < 0.7)[moved].astype(int)
            found[str(cell)] = statistics.paired(a.tolist(), reference.tolist(), groups.tolist()).p
        false += min(statistics.holm(found).values()) < 0.05
    assert false / grids <= 0.05


@pytest.mark.parametrize(("n", "disagreement"), [(48, 0.3), (144, 0.2), (288, 0.1), (1_000, 0.1)])
@pytest.mark.parametrize("comparisons", [1, 14])
def test_the_stated_power_is_reached(n: int, disagreement: float, comparisons: int) -> None:
    alpha = 0.05 / comparisons
    least = power.detectable_difference(n, disagreement, alpha)
    psi, rng, runs = max(disagreement, least), np.random.default_rng(n), 4_000
    changed = rng.binomial(n, psi, runs)
    gained = rng.binomial(changed, (1 + least / psi) / 2)
    shown = sum(statistics.mcnemar(int(g), int(c - g)) <= alpha for g, c in zip(gained, changed, strict=True))
    assert 0.77 <= shown / runs <= 0.83


@pytest.mark.parametrize("comparisons", [1, 14])
def test_the_stated_power_is_reached_for_graded_scores(comparisons: int) -> None:
    rng, n, runs, shown, alpha = np.random.default_rng(9), 200, 1_500, 0, 0.05 / comparisons
    noise = 0.1
    one = statistics.mean_difference((noise * rng.normal(size=n)).tolist())
    least = one.smallest(comparisons) * noise / (one.error * (n + 2) ** 0.5)  # were its spread exactly as drawn
    for _ in range(runs):
        found = statistics.mean_difference((least + noise * rng.normal(size=n)).tolist())
        shown += found.p_not_worse(0.0) <= alpha / 2
    assert 0.77 <= shown / runs <= 0.83


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("noise", [0.0, 0.03, 0.1])
@pytest.mark.parametrize("n", [50, 200])
def test_the_interval_over_seeds_covers(n: int, seeds: int, noise: float) -> None:
    rng, hits = np.random.default_rng([n, seeds, int(100 * noise)]), 0
    for _ in range(RUNS):
        luck, rows = rng.normal(0, noise, seeds), rng.normal(0, 0.3, n)
        apart = luck[:, None] + rows[None] + rng.normal(0, 0.2, (seeds, n))
        found = statistics.paired_over_seeds(apart, np.zeros_like(apart))
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / RUNS <= 0.98  # on the wide side: two half-widths, each with the t of few


@pytest.mark.parametrize(
    ("prompts", "asked", "q", "noise"),
    [(6, 6, 0.5, 0.0), (22, 22, 0.5, 0.0), (72, 72, 0.95, 0.0), (100, 100, 0.95, 0.0), (12, 72, 0.5, 0.01),
     (6, 186, 0.5, 0.05), (72, 216, 0.95, 0.01)],
)  # fmt: skip
def test_the_interval_of_a_quantile_of_times_covers(prompts: int, asked: int, q: float, noise: float) -> None:
    """Never less, and more where ranks of few leave no other choice; also of prompts that are asked again."""
    rng, hits = np.random.default_rng([prompts, asked]), 0
    truth = math.hypot(0.25, noise) * NormalDist().inv_cdf(q)
    for _ in range(RUNS):
        times = np.resize(rng.normal(0, 0.25, prompts), asked) + noise * rng.normal(size=asked)
        found = statistics.quantile_interval(np.exp(times).tolist(), q, prompts)
        assert found
        hits += found.low <= math.exp(truth) <= found.high
    assert hits / RUNS >= 0.94


@pytest.mark.parametrize(("q", "gaps"), [(0.5, 31), (0.5, 1), (0.95, 1)])
@pytest.mark.parametrize("prompts", [3, 6])
def test_the_interval_of_a_ratio_of_two_runs_of_the_same_covers(q: float, gaps: int, prompts: int) -> None:
    """Each run has a pace of its own, so that two of them are within `PACE` in 95% of the cases."""
    rng, hits, runs = np.random.default_rng([prompts, gaps]), 0, 400
    own = math.log(statistics.PACE) / 1.96 / math.sqrt(2)
    for _ in range(runs):
        base = rng.normal(0, 0.15, (prompts, 1))
        a, b = (np.exp(base + own * rng.normal() + 0.03 * rng.normal(size=(prompts, 2 * gaps))) for _ in range(2))
        _, found = statistics.quantile_ratio(a.tolist(), b.tolist(), q)
        assert found
        hits += found.low <= 1 <= found.high
    assert hits / runs >= 0.92
