"""Said 90%, right 87 to 93%: the probability that a cell is the best, on simulated grids whose truth is known.

Families of cells (an adaptation each) have a true mean, and cells vary around it as the hierarchical model has it; rows
are as hard for all cells alike. How far this holds where the model is wrong is told in DECISIONS.md.
"""

from __future__ import annotations

import os

import numpy as np
from scipy.special import ndtr

from harness.decide.odds import _quality_draws, best_by_rule, pulled
from harness.decide.policy import COST, QUALITY, Policy
from harness.decide.tables import Scores

GRIDS = int(os.environ.get("HARNESS_SIMULATED_GRIDS", "4000"))
CELLS, DRAWS = 15, 200


def test_cells_said_to_be_best_with_90_percent_are_so_in_87_to_93() -> None:
    rng = np.random.default_rng(20_261_125)
    families = [n // 5 for n in range(CELLS)]
    said, right, gains = [], [], []
    for _ in range(GRIDS):
        rows = int(rng.choice((100, 200, 300)))
        spread = rng.uniform(0.02, 0.08)
        truth = np.clip(np.repeat(rng.uniform(0.35, 0.75, 3), 5) + rng.normal(0, spread, CELLS), 0.02, 0.98)
        luck = rng.uniform(0.5, 0.9)
        hard, own = rng.standard_normal((rows, 1)), rng.standard_normal((rows, CELLS))
        scores = (ndtr(np.sqrt(luck) * hard + np.sqrt(1 - luck) * own) < truth).astype(float)
        policy = Policy((COST, QUALITY)[rng.integers(2)], margin=float(rng.choice((0.0, 0.02, 0.05))))
        cost = rng.uniform(1, 3, CELLS)
        table = Scores(1.0, scores, list(range(rows)), {})
        alone = _quality_draws(rng, table, [str(n) for n in range(CELLS)], DRAWS)
        drawn = pulled(rng, alone, scores.mean(0), families)
        able = np.ones(drawn.shape, dtype=bool)
        priced = np.broadcast_to(cost, drawn.shape)
        best = best_by_rule(drawn, drawn, priced, able, policy)
        (true,) = best_by_rule(truth[None], truth[None], cost[None], able[:1], policy)
        chance = np.bincount(best, minlength=CELLS) / DRAWS
        unpulled = np.bincount(best_by_rule(alone, alone, priced, able, policy), minlength=CELLS) / DRAWS
        is_best = np.arange(CELLS) == true
        gains.append(((unpulled - is_best) ** 2).sum() - ((chance - is_best) ** 2).sum())
        around = np.flatnonzero((chance > 0.85) & (chance < 0.95))
        said += chance[around].tolist()
        right += (around == true).tolist()
    assert len(said) > 0.05 * GRIDS
    assert 0.89 < np.mean(said) < 0.91
    assert 0.87 <= np.mean(right) <= 0.93, f"{np.mean(right):.3f} of {len(right)}"
    gain, error = np.mean(gains), np.std(gains) / len(gains) ** 0.5
    assert gain > 3 * error, f"pulling cells together lowers Brier's score by {gain:.4f} ± {error:.4f} only"
