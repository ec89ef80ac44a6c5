"""What a choice needs of records and rows, as plain data: small enough to be put into a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist, fmean
from typing import Any

from harness.decide.cells import Rows, memory, quality, simplicity
from harness.decide.costs import BATCHED, NORMAL_95, combined, cost_line, over_seeds
from harness.decide.findings import CostLine
from harness.decide.policy import P95, QUALITY, Policy
from harness.decide.recipes import Recipe, basis_of, lacking, recipes, weights_of
from harness.decide.tables import Scores, compared, score_tables
from harness.decide.twins import Twins, twins_of
from harness.statistics import CONFIDENCE, share_of_mean
from harness.types import Pair, RunRecord, Status

VOLUME = 1_000_000.0  # where records name no volume


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe that could be chosen: one cell, or the cells of several suites and seeds under the id of the first.

    `quality` is the weighted mean over suites; limits hold in each suite by itself, so `lowest_quality`, `p95_ms`,
    `memory_bytes` and `valid` are those of its worst suite. `p95_spread` is how far several seeds are apart, as half
    the width of an interval in logs; which prompts were asked is luck that all cells share. `rank` sorts the simpler
    first: prompting, LoRA, full fine-tuning, each unquantized before quantized."""

    id: str
    rank: int
    quality: float
    lowest_quality: float
    p95_ms: float | None
    p95_spread: float
    memory_bytes: float | None
    valid: float | None
    cost: CostLine | None


@dataclass(frozen=True, slots=True)
class Facts:
    """The candidates, simplest first, and `pairs[best][other]` for each that can be the one of highest quality under
    some limits. `volume_requests` is the volume that the prices name. `apart` is how many half-widths of 95% intervals,
    added as squares, tell one to be ahead of another by the objective. `twins` stand under an objective where they
    refute the policy's pace, and theirs is taken."""

    candidates: tuple[Candidate, ...]
    pairs: Mapping[str, Mapping[str, Pair]]
    volume_requests: float
    apart: float
    twins: Mapping[str, Twins] = field(default_factory=dict)


def gathered(
    records: Sequence[RunRecord], rows: Rows, policy: Policy
) -> tuple[Facts, tuple[Recipe, ...], dict[str, Scores]]:
    """What `choose` needs, the candidates and how they compare with each that could be the best; and the recipes and
    tables of scores that this follows from, in the order of the candidates."""
    weights = weights_of(records, policy)
    kinds = recipes(records, weights)
    basis = basis_of(records, policy)
    left = [k for k in kinds if weights and not lacking(k, list(weights), policy, basis)]
    orders = [simplicity(k.cells[0])[:2] for k in left]
    ranks = {order: n for n, order in enumerate(sorted(set(orders)))}
    made = tuple(candidate(k, ranks[o], weights, basis, policy) for k, o in zip(left, orders, strict=True))
    tables = score_tables(left, rows, weights, policy)
    pairs = _pairs(possible_bests(made), made, tables)
    volumes = [v for r in records if (v := (r.config.get("price") or {}).get("volume_requests"))]
    volume = float(volumes[0]) if volumes else VOLUME
    seen = twins_of([r for k in left for r in k.cells], policy.pace)
    return Facts(made, pairs, volume, apart(len(made)), seen), tuple(left), tables


def apart(candidates: int) -> float:
    """That many half-widths: the first is the best of all candidates by luck as well, so the others are compared with
    the best (Hsu 1984, Ann. Stat. 12:1136), one-sided at 5% for all of them together, by Bonferroni; and no less than
    the one that tells two timings apart."""
    return max(1.0, NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / max(candidates - 1, 1)) / NORMAL_95)


def candidate(recipe: Recipe, rank: int, weights: Mapping[str, float], basis: str, policy: Policy) -> Candidate:
    """A recipe's numbers, put together over seeds (means) and suites."""
    scores: dict[str, float] = {}
    p95, ram, valid, lines = [], [], [], []
    for suite, weight in weights.items():
        ok = [r for r in recipe.of(suite) if r.status is Status.OK]
        scores[suite] = math.fsum(m.value for r in ok if (m := quality(r, policy))) / len(ok)
        found = [m for r in ok if (m := r.value(P95))]
        if len(found) == len(ok):
            values = [m.value for m in found]
            p95.append((fmean(values), math.log1p(share_of_mean(values))))
        ram.append(max((m.value for r in ok if (m := memory(r))), default=None))
        valid.append(_mean([_valid(r, policy) for r in ok]))
        costs = [c for r in ok if (c := cost_line(r, basis))]
        if len(costs) == len(ok):
            lines.append((weight, over_seeds(costs)))
    slowest, spread = max(p95) if len(p95) == len(weights) else (None, 0.0)
    return Candidate(
        recipe.id, rank, math.fsum(weights[s] * q for s, q in scores.items()), min(scores.values()),
        slowest, spread, _worst(ram, max), _worst(valid, min),
        combined(lines) if len(lines) == len(weights) else None,
    )  # fmt: skip


def measured(records: Sequence[RunRecord], policy: Policy) -> list[Candidate]:
    """Each recipe whose quality was measured on every suite judged, whatever else it lacks or breaks."""
    weights, alone = weights_of(records, policy), replace(policy, objective=QUALITY, service_level=None)
    kinds = [k for k in recipes(records, weights) if weights and not lacking(k, list(weights), alone, BATCHED)]
    return [candidate(k, 0, weights, BATCHED, policy) for k in kinds]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _worst(values: Sequence[float | None], pick: Any) -> float | None:
    known = [v for v in values if v is not None]
    return pick(known) if len(known) == len(values) else None


def _valid(record: RunRecord, policy: Policy) -> float | None:
    """The share of valid outputs."""
    if policy.valid_metric and (m := record.value(f"quality/{policy.valid_metric.removeprefix('quality/')}")):
        return m.value
    cut = record.value("truncated_share")
    return 1 - cut.value if cut else None


def or_inf(value: float | None) -> float:
    """A number of which less is better; infinite where it was not measured."""
    return math.inf if value is None else value


def possible_bests(candidates: Sequence[Candidate]) -> list[int]:
    """The places of candidates that are of highest quality under some limits: no other of higher quality holds every
    limit that they hold."""
    import numpy as np

    order = sorted(range(len(candidates)), key=lambda n: (-candidates[n].quality, candidates[n].rank, candidates[n].id))
    held = [(or_inf(c.p95_ms), or_inf(c.memory_bytes), -(c.valid or 0.0), -c.lowest_quality) for c in candidates]
    limits = np.array(held).reshape(-1, 4)
    found: list[int] = []
    for n in order:
        if not found or not (limits[found] <= limits[n]).all(axis=1).any():
            found.append(n)
    return found


def _pairs(bests: Sequence[int], made: Sequence[Candidate], tables: Mapping[str, Scores]) -> dict[str, dict[str, Pair]]:
    """Each candidate against those that could be the best, suites put together: differences are weighted, and
    half-widths added as squares (Zou & Donner 2008, Stat. Med. 27:1693), as suites have rows of their own."""
    import numpy as np

    ids = [c.id for c in made]
    delta, below, above = (np.zeros((len(ids), len(bests))) for _ in range(3))
    for table in tables.values():
        d, low, high = compared(bests, ids, table)
        delta += table.weight * d
        below += (table.weight * (d - low)) ** 2
        above += (table.weight * (high - d)) ** 2
    low, high = delta - np.sqrt(below), delta + np.sqrt(above)
    known = np.isfinite(delta)
    return {
        ids[best]: {
            ids[n]: Pair(float(delta[n, b]), float(low[n, b]), float(high[n, b]))
            for n in np.flatnonzero(known[:, b])
            if n != best
        }
        for b, best in enumerate(bests)
    }
