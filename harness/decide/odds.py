"""How sure a choice is: rows, seeds and latency samples are drawn again together, and the policy's rule is asked what
is best as if each draw were the truth.

Rows are drawn by the Bayesian bootstrap (Rubin 1981, Ann. Stat. 9:130): each group of rows gets a weight from a flat
Dirichlet distribution, the same for all cells, so that cells that answered the same rows stay paired and no draw lacks
a group. Each cell also gets half of a made-up flip each way, as intervals of differences have it
(`harness.statistics.paired`), and each draw is widened as a t interval is, as groups may be few. Training luck is drawn
where a recipe has several seeds; p95s by the exact distribution of the order statistics of a bootstrap sample, of the
same prompts for all cells, costs by their `spread`, and both by the pace of a whole timing (`rule.pace_of`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.decide.cells import quality as recorded
from harness.decide.costs import NORMAL_95
from harness.decide.facts import Candidate, Facts, or_inf
from harness.decide.findings import Odds
from harness.decide.policy import COST, P95, Policy
from harness.decide.recipes import Recipe
from harness.decide.rule import own_pace, volume_of
from harness.decide.tables import Scores
from harness.statistics import luck_of_training
from harness.types import Status

DRAWS = 2_000
FAMILY = 3  # cells of a family, at least, to tell how much families vary
SPREAD = 0.05  # the prior's scale: quantizations of an adaptation are about as likely as not to be this far apart
FRONT_WORK = 200_000  # cells × draws whose fronts are sought; beyond, a part of the draws is enough


@dataclass(frozen=True, slots=True)
class Draws:
    """The joint draws, each draws × candidates: the quality, and which candidates hold the limits."""

    quality: Any
    feasible: Any

    def within(self, at: int, points: float) -> float:
        """The share of draws in which a candidate holds the limits and none that does is better by more than this."""
        import numpy as np

        top = np.where(self.feasible, self.quality, -math.inf).max(axis=1)
        return float((self.feasible[:, at] & (self.quality[:, at] >= top - points)).mean())

    def ahead(self, at: int, points: float) -> int:
        """The candidate that is most often better than another by more than this."""
        shares = (self.feasible & (self.quality > self.quality[:, [at]] + points)).mean(axis=0)
        shares[at] = -1.0
        return int(shares.argmax())


def odds(
    facts: Facts, kinds: Sequence[Recipe], tables: Mapping[str, Scores], policy: Policy, draws: int = DRAWS
) -> tuple[dict[str, Odds], Draws]:
    """The odds of each candidate, and the draws that they were counted in. `kinds` and the columns of `tables` stand in
    the order of the candidates."""
    import numpy as np

    rng = np.random.default_rng(0)
    them = facts.candidates
    families = [(k.cells[0].model, k.cells[0].adaptation) for k in kinds]
    by_suite = {}
    for suite, table in tables.items():
        drawn, measured = _quality_draws(rng, table, draws), _measured(table)
        for n in np.flatnonzero(np.isnan(table.values).all(axis=0) if len(table.groups) else np.ones(len(them))):
            measured[n], drawn[:, n] = _without_rows(rng, kinds[n], suite, policy, draws)
        by_suite[suite] = pulled(rng, drawn, measured, families) + _luck(rng, table, [c.id for c in them], draws)
    quality = sum(t.weight * by_suite[s] for s, t in tables.items())
    lowest = np.min(list(by_suite.values()), axis=0)
    p95 = _p95_draws(rng, them, kinds, own_pace(facts, policy, P95), draws)
    cost = _cost_draws(rng, them, volume_of(facts, policy), own_pace(facts, policy, COST), draws)
    ram = np.array([or_inf(c.memory_bytes) for c in them])
    feasible = _feasible(them, lowest, p95, ram, policy)
    best = best_by_rule(quality, p95, cost, feasible, policy)
    some = min(draws, max(50, FRONT_WORK // max(len(them), 1)))
    front = np.zeros(len(them))
    for d in range(some):
        inside = np.flatnonzero(feasible[d])
        values = np.stack([-quality[d], p95[d], ram, cost[d]], axis=1)[inside]
        front[inside[pareto(values)]] += 1
    wins = np.bincount(best[best >= 0], minlength=len(them)) / draws
    share = feasible.mean(axis=0)
    chances = {c.id: Odds(float(share[n]), float(front[n] / some), float(wins[n])) for n, c in enumerate(them)}
    return chances, Draws(quality, feasible)


def best_by_rule(quality: Any, p95: Any, cost: Any, feasible: Any, policy: Policy) -> Any:
    """The best of each draw (rows) were its numbers the truth: among the cells that hold the limits and are within the
    margin of the highest quality, the first by the objective; of equals, the first in order."""
    import numpy as np

    top = np.where(feasible, quality, -math.inf).max(axis=1, keepdims=True)
    good = feasible & (quality >= top - (policy.margin if policy.objective in (COST, P95) else 0.0))
    score = cost if policy.objective == COST else p95 if policy.objective == P95 else -quality
    return np.where(feasible.any(axis=1), np.where(good, score, math.inf).argmin(axis=1), -1)


def pareto(values: Any) -> Any:
    """Which rows no other row dominates, where less is better in every column."""
    import numpy as np

    values = np.asarray(values)
    left = np.lexsort(values.T[::-1])  # what dominates a row stands before it
    kept = []
    while left.size:
        first = values[left[0]]
        same = (values[left] == first).all(axis=1)
        kept.append(left[same])
        left = left[(values[left] < first).any(axis=1) & ~same]
    return np.sort(np.concatenate(kept)) if kept else left


def _without_rows(rng: Any, kind: Recipe, suite: str, policy: Policy, draws: int) -> tuple[float, Any]:
    """The score of a recipe whose rows were not kept, and draws of it by its interval, apart from those of others."""
    found = [m for r in kind.of(suite) if r.status is Status.OK and (m := recorded(r, policy))]
    middle = math.fsum(m.value for m in found) / len(found)
    spread = max(((m.interval.high - m.interval.low) / (2 * NORMAL_95) for m in found if m.interval), default=0.0)
    return middle, middle + rng.standard_normal(draws) * spread


def _measured(table: Scores) -> Any:
    import numpy as np

    has = ~np.isnan(table.values)
    return np.where(has, table.values, 0.0).sum(axis=0) / np.maximum(has.sum(axis=0), 1)


def _quality_draws(rng: Any, table: Scores, draws: int) -> Any:
    """Draws × cells of the mean score of a suite, without the luck of training. What a flat Dirichlet of `g` groups has
    as its variance, times g + 1 and over a chi-square of g - 1, is that of Student's t."""
    import numpy as np

    has = ~np.isnan(table.values)
    scores = np.where(has, table.values, 0.0)
    places = {g: n for n, g in enumerate(dict.fromkeys(table.groups))}
    order = [places[g] for g in table.groups]
    groups = len(places)
    if not groups:
        return np.zeros((draws, scores.shape[1]))
    if groups < len(order):
        place = np.argsort(order, kind="stable")
        starts = np.searchsorted(np.asarray(order)[place], np.arange(groups))
        sums, sizes = (np.add.reduceat(x[place].astype(float), starts, axis=0) for x in (scores, has))
    else:
        sums, sizes = scores, has.astype(float)
    weights = rng.standard_exponential((draws, groups), dtype=np.float32)
    alike = bool((sizes == sizes[:, :1]).all())
    under = weights @ (sizes[:, :1] if alike else sizes).astype(np.float32)
    means = (weights @ sums.astype(np.float32)) / np.maximum(under, 1e-9)
    rows = np.maximum(has.sum(axis=0), 1)
    whole = (scores % 1 == 0).all(axis=0)
    typical = np.where(whole, 1.0, scores.std(axis=0))
    drawn = means + rng.standard_normal(means.shape, dtype=np.float32) * typical / rows
    wider = np.sqrt((groups + 1) / rng.chisquare(groups - 1, (draws, 1))) if groups > 1 else 1.0
    middle = _measured(table)
    return middle + (drawn - middle) * wider


def pulled(rng: Any, drawn: Any, measured: Any, families: Sequence[Any]) -> Any:
    """Draws with the cells of a family (those that differ in quantization and knobs alone) pulled toward their mean, as
    far as their differences may be chance: the highest of several is else believed too much. How much a family varies
    is drawn from its posterior, with a half-Cauchy prior on that standard deviation.

    The normal hierarchical model (Efron & Morris 1975, JASA 70:311; the prior: Gelman 2006, Bayesian Analysis 1:515;
    for many comparisons Gelman, Hill & Yajima 2012, J. Res. Educ. Eff. 5:189), on the differences from the family's
    mean, in which the luck of rows that all cells share is gone: k such differences have k-1 degrees of freedom.
    """
    import numpy as np

    out = np.array(drawn, dtype=float)
    spreads = np.geomspace(SPREAD / 100, SPREAD * 10, 80)
    prior = spreads / (1 + (spreads / SPREAD) ** 2)  # a half-Cauchy's density, times the width of a step
    for family in dict.fromkeys(families):
        at = np.array([n for n, f in enumerate(families) if f == family])
        if len(at) < FAMILY:
            continue
        middle = out[:, at].mean(axis=1, keepdims=True)
        apart, seen = out[:, at] - middle, measured[at] - measured[at].mean()
        freedom = (len(at) - 1) / len(at)
        chance = np.maximum(apart.var(axis=0) / freedom, 1e-12)
        total = spreads[:, None] ** 2 + chance
        fit = -(freedom * np.log(total) + seen**2 / total).sum(axis=1) / 2
        density = prior * np.exp(fit - fit.max())
        between = rng.choice(spreads, len(out), p=density / density.sum())[:, None] ** 2
        keep = between / (between + chance)
        out[:, at] = middle + keep * seen + np.sqrt(keep) * (apart - seen)
    return out


def _luck(rng: Any, table: Scores, ids: Sequence[str], draws: int) -> Any:
    """The luck of training, for recipes with several seeds: t with as many degrees of freedom as they tell, drawn once
    for all that have the same seeds, by what each seed made of each of them."""
    import numpy as np

    luck, drawn = np.zeros((draws, len(ids))), {}
    for n, i in enumerate(ids):
        if columns := table.by_seed.get(i):
            each = np.array(list(columns.values()))
            rows = (~np.isnan(each).any(axis=0)).nonzero()[0]
            if len(rows) > 1:
                error = luck_of_training(each[:, rows], [table.groups[r] for r in rows])
                df, seeds = len(each) - 1, tuple(columns)
                if seeds not in drawn:
                    drawn[seeds] = rng.standard_normal((draws, df + 1)) / np.sqrt(rng.chisquare(df, (draws, 1)) / df)
                off = each[:, rows].mean(axis=1) - each[:, rows].mean()
                luck[:, n] = drawn[seeds] @ off * (error / max(float(np.linalg.norm(off)), 1e-9))
    return luck


def _p95_draws(rng: Any, them: Sequence[Candidate], kinds: Sequence[Recipe], pace: float, draws: int) -> Any:
    """Draws × recipes of the p95 of a recipe's slowest suite: bootstrap quantiles of its samples, of the same prompts
    for all, each at a pace of its own and as far off as its seeds are apart."""
    import numpy as np

    found, ranks = np.full((draws, len(them)), math.inf), {}
    for n, (c, kind) in enumerate(zip(them, kinds, strict=True)):
        if (mean := c.p95_ms) is None:
            continue
        found[:, n] = mean * np.exp(rng.standard_normal(draws) * math.hypot(c.p95_spread, pace) / NORMAL_95)
        timed = [
            (m.value, base) for r in kind.cells if r.status is Status.OK and (m := r.value(P95)) and m.value > 0
            and (base := r.value("e2e_ms/p50")) and len(base.samples) > 1
        ]  # fmt: skip
        if timed:
            p95, base = min(timed, key=lambda t: abs(t[0] - mean))
            if base.n not in ranks:
                ranks[base.n] = p95_ranks(rng, draws, base.n)
            found[:, n] *= at_ranks(base.samples, ranks[base.n]) / p95
    return found


def p95_ranks(rng: Any, draws: int, n: int) -> tuple[Any, Any, float]:
    """Where the p95s of so many bootstrap samples of `n` lie, without drawing them: the shares of the samples up to the
    two that each is between, and how far it is from the first. The k-th of n uniform numbers has a Beta(k, n - k + 1)
    distribution, and the next one lies a Beta(1, n - k) share of the rest above it."""
    at = 0.95 * (n - 1)
    k = int(at) + 1
    first = rng.beta(k, n - k + 1, draws)
    return first, first + (1 - first) * rng.beta(1, n - k, draws) if k < n else first, at - int(at)


def at_ranks(samples: Sequence[float], ranks: tuple[Any, Any, float]) -> Any:
    """The p95s there of these samples, which are more than `n` where some are of one event."""
    import numpy as np

    values = np.sort(np.asarray(samples, dtype=float))
    low, high = (values[np.minimum((u * len(values)).astype(int), len(values) - 1)] for u in ranks[:2])
    return low + ranks[2] * (high - low)


def _cost_draws(rng: Any, them: Sequence[Candidate], volume: float, pace: float, draws: int) -> Any:
    import numpy as np

    serving = np.array([c.cost.serving_usd_per_1000 if c.cost else math.inf for c in them])
    once = np.array([1000 * c.cost.once_usd / volume if c.cost else 0.0 for c in them])
    spread = np.hypot(np.log1p([c.cost.spread if c.cost else 0.0 for c in them]), pace) / NORMAL_95
    return serving * np.exp(rng.standard_normal((draws, len(them))) * spread) + once


def _feasible(them: Sequence[Candidate], lowest: Any, p95: Any, ram: Any, policy: Policy) -> Any:
    import numpy as np

    ok = np.ones(lowest.shape, dtype=bool)
    if policy.min_quality is not None:
        ok &= lowest >= policy.min_quality
    if policy.max_p95_e2e_ms is not None:
        ok &= p95 <= policy.max_p95_e2e_ms
    if policy.max_memory_bytes is not None:
        ok &= ram <= policy.max_memory_bytes
    if policy.min_valid is not None:
        ok &= np.array([c.valid is not None and c.valid >= policy.min_valid for c in them])
    return ok
