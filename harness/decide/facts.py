"""What a choice needs of records and rows, as plain data: small enough to be put into a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.decide.cells import Rows, memory, primary, quality, simple_first, simplicity
from harness.decide.costs import BATCHED, GOODPUT, combined, cost_line, has_goodput
from harness.decide.findings import CostLine
from harness.decide.policy import COST, OBJECTIVES, P95, Policy
from harness.rows import column
from harness.rows import groups as groups_of
from harness.rows import ids as ids_of
from harness.statistics import over_seeds, paired_columns
from harness.types import Json, RunRecord, Status, id_parts, is_side

REACH = 0.2  # cells shown to be worse than the best by more than this (or two margins) can never be good enough
VOLUME = 1_000_000.0  # where records name no volume


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe that could be chosen: one cell, or the cells of several suites and seeds under the id of the first.

    `quality` is the weighted mean over suites; limits hold in each suite by itself, so `lowest_quality`, `p95_ms`,
    `memory_bytes` and `valid` are those of its worst suite. `p95_high_ms` is the upper end of the interval of the p95.
    `rank` sorts the simpler first: prompting, LoRA, full fine-tuning, each unquantized before quantized."""

    id: str
    rank: int
    quality: float
    lowest_quality: float
    p95_ms: float | None
    p95_high_ms: float | None
    memory_bytes: float | None
    valid: float | None
    cost: CostLine | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A candidate's quality minus that of one of highest quality, on the same rows, with its 95% interval."""

    delta: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Facts:
    """The candidates, simplest first, and `pairs[best][other]` for each that can be the one of highest quality under
    some limits. `volume_requests` is the volume that the prices name."""

    candidates: tuple[Candidate, ...]
    pairs: Mapping[str, Mapping[str, Pair]]
    volume_requests: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """The cells of one way to build, by suite in the order of names and then by seed; `id` is that of the first."""

    id: str
    cells: tuple[RunRecord, ...]

    def of(self, suite: str) -> tuple[RunRecord, ...]:
        """Its cells of a suite, by seed."""
        return tuple(r for r in self.cells if r.suite == suite)


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one suite: rows × recipes (the mean over seeds; not a number where a row is missing), the rows'
    groups, and each recipe's scores by seed where it has several."""

    weight: float
    values: Any
    groups: Sequence[Any]
    by_seed: Mapping[str, Mapping[int, Any]]


def recipes(records: Sequence[RunRecord]) -> tuple[Recipe, ...]:
    """Cells that differ in suite and seed alone, together; the simplest first."""
    kinds: dict[tuple[str, ...], list[RunRecord]] = {}
    for r in sorted(records, key=lambda r: (*simplicity(r)[:2], r.suite, r.seed, r.id)):
        if not is_side(r.id):
            kinds.setdefault((r.model, r.adaptation, r.quantization, id_parts(r.id)[5]), []).append(r)
    found = []
    for cells in kinds.values():
        whole = [r for r in cells if r.status is Status.OK] or cells
        found.append(Recipe(whole[0].id, tuple(cells)))
    return tuple(sorted(found, key=lambda k: simplicity(next(r for r in k.cells if r.id == k.id))))


def weights_of(records: Sequence[RunRecord], policy: Policy) -> dict[str, float]:
    """The weight of each suite judged, adding up to 1."""
    suites = sorted({r.suite for r in records if not is_side(r.id)})
    found = {s: float((policy.suites or {}).get(s, 0.0)) if policy.suites else 1.0 for s in suites}
    total = sum(found.values())
    return {s: w / total for s, w in found.items() if w > 0} if total else {}


def lacking(recipe: Recipe, suites: Sequence[str], policy: Policy) -> str:
    """Why a recipe has not the numbers that a choice needs; empty when it has them."""
    for suite in suites:
        cells = recipe.of(suite)
        ok = [r for r in cells if r.status is Status.OK]
        on = f" on {suite}" if len(suites) > 1 else ""
        if not cells:
            return f"It was not run on {suite}, which the policy weighs."
        if not ok:
            return f"{str(cells[0].status).capitalize()}{on}: {cells[0].reason or 'no reason was given'}."
        for r in ok:
            if quality(r, policy) is None:
                why = r.not_measured.get("quality", "no such score in its record")
                return f"Its quality was not measured{on}: {why}."
            if policy.objective == P95 and r.value(P95) is None:
                return f"Its {OBJECTIVES[policy.objective]} was not measured{on}."
            if policy.objective == COST and r.value(COST) is None and cost_line(r, GOODPUT) is None:
                return f"Its {OBJECTIVES[policy.objective]} was not measured{on}."
    return ""


def basis_of(records: Sequence[RunRecord], policy: Policy) -> str:
    """The rate that costs are counted with: the goodput where every cell that ended ok has one, else full batches."""
    ok = [r for r in records if r.status is Status.OK and not is_side(r.id)]
    return GOODPUT if ok and all(has_goodput(r, policy.service_level) for r in ok) else BATCHED


def facts(records: Sequence[RunRecord], rows: Rows, policy: Policy) -> Facts:
    """What `choose` needs: the candidates, and how they compare with each that could be the best."""
    return gathered(records, rows, policy)[0]


def gathered(
    records: Sequence[RunRecord], rows: Rows, policy: Policy
) -> tuple[Facts, tuple[Recipe, ...], dict[str, Scores]]:
    """The facts, and the recipes and tables of scores they follow from, in the order of the candidates."""
    kinds, weights = recipes(records), weights_of(records, policy)
    left = [k for k in kinds if weights and not lacking(k, list(weights), policy)]
    basis = basis_of(records, policy)
    ranks = _ranks(left)
    made = tuple(candidate(k, ranks[k.id], weights, basis, policy) for k in left)
    tables = score_tables(left, rows, weights, policy)
    pairs = _pairs(possible_bests(made), made, tables, policy)
    volumes = [v for r in records if (v := (r.config.get("price") or {}).get("volume_requests"))]
    return Facts(made, pairs, float(volumes[0]) if volumes else VOLUME), tuple(left), tables


def _ranks(left: Sequence[Recipe]) -> dict[str, int]:
    orders = {k.id: simple_first(k.cells[0].adaptation, k.cells[0].quantization) for k in left}
    places = {order: n for n, order in enumerate(sorted(set(orders.values())))}
    return {i: places[order] for i, order in orders.items()}


def candidate(recipe: Recipe, rank: int, weights: Mapping[str, float], basis: str, policy: Policy) -> Candidate:
    """A recipe's numbers, put together over seeds (means) and suites."""
    scores: dict[str, float] = {}
    p95, high, ram, valid, lines = [], [], [], [], []
    for suite, weight in weights.items():
        ok = [r for r in recipe.of(suite) if r.status is Status.OK]
        scores[suite] = math.fsum(m.value for r in ok if (m := quality(r, policy))) / len(ok)
        found = [r.value(P95) for r in ok]
        p95.append(_mean([m.value if m else None for m in found]))
        high.append(_mean([(m.interval.high if m.interval else m.value) if m else None for m in found]))
        ram.append(max((m.value for r in ok if (m := memory(r))), default=None))
        valid.append(_mean([_valid(r, policy) for r in ok]))
        costs = [cost_line(r, basis) for r in ok]
        if all(costs):
            lines.append((weight, combined([(1.0, c) for c in costs if c][:1])))
    return Candidate(
        recipe.id, rank, math.fsum(weights[s] * q for s, q in scores.items()), min(scores.values()),
        _worst(p95, max), _worst(high, max), _worst(ram, max), _worst(valid, min),
        combined(lines) if len(lines) == len(weights) else None,
    )  # fmt: skip


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


def score_tables(left: Sequence[Recipe], rows: Rows, weights: Mapping[str, float], policy: Policy) -> dict[str, Scores]:
    """The scores of each suite as a table, in the order of the recipes."""
    import numpy as np

    made = {}
    for suite, weight in weights.items():
        lists: list[tuple[Any, ...]] = []  # cells mostly hold the same rows in the same order, so few lists are kept
        groups: dict[Json, Any] = {}
        found: dict[str, tuple[int, Any]] = {}
        for r in (r for k in left for r in k.of(suite) if r.status is Status.OK):
            kept = rows.get(r.id, ())
            ids = ids_of(kept)
            at = next((n for n, known in enumerate(lists) if known == ids), len(lists))
            if at == len(lists):
                lists.append(ids)
                groups = dict(zip(ids, groups_of(kept), strict=True)) | groups
            found[r.id] = at, column(kept, primary(r, policy))
        order = sorted(groups, key=str)
        place = {i: n for n, i in enumerate(order)}
        places = [np.array([place[i] for i in ids], dtype=int) for ids in lists]
        values = np.full((len(order), len(left)), np.nan)
        by_seed: dict[str, dict[int, Any]] = {}
        for n, k in enumerate(left):
            columns = {}
            for r in (r for r in k.of(suite) if r.status is Status.OK):
                at, scores = found[r.id]
                columns[r.seed] = np.full(len(order), np.nan)
                columns[r.seed][places[at]] = scores
            if columns:
                values[:, n] = np.mean(list(columns.values()), axis=0)
            if len(columns) > 1:
                by_seed[k.id] = columns
        made[suite] = Scores(weight, values, [groups[i] for i in order], by_seed)
    return made


def possible_bests(candidates: Sequence[Candidate]) -> list[int]:
    """The places of candidates that are of highest quality under some limits: no other of higher quality holds every
    limit that they hold."""
    import numpy as np

    order = sorted(range(len(candidates)), key=lambda n: (-candidates[n].quality, candidates[n].rank, candidates[n].id))
    limits = np.array(
        [
            (
                math.inf if c.p95_ms is None else c.p95_ms,
                math.inf if c.memory_bytes is None else c.memory_bytes,
                -(c.valid or 0.0),
                -c.lowest_quality,
            )
            for c in candidates
        ]
    ).reshape(-1, 4)
    found: list[int] = []
    for n in order:
        if not found or not (limits[found] <= limits[n]).all(axis=1).any():
            found.append(n)
    return found


def _pairs(
    bests: Sequence[int], made: Sequence[Candidate], tables: Mapping[str, Scores], policy: Policy
) -> dict[str, dict[str, Pair]]:
    """Each candidate against those that could be the best, suites put together: differences are weighted, half-widths
    added as squares (Zou & Donner 2008, Stat. Med. 27:1693), as suites have rows of their own."""
    import numpy as np

    ids = [c.id for c in made]
    reach = -max(REACH, 2 * policy.margin)
    delta, below, above = (np.zeros((len(ids), len(bests))) for _ in range(3))
    for table in tables.values():
        d, low, high = _compared(bests, ids, table)
        delta += table.weight * d
        below += (table.weight * (d - low)) ** 2
        above += (table.weight * (high - d)) ** 2
    low, high = delta - np.sqrt(below), delta + np.sqrt(above)
    known = np.isfinite(delta) & (high >= reach)
    return {
        ids[best]: {
            ids[n]: Pair(float(delta[n, b]), float(low[n, b]), float(high[n, b]))
            for n in np.flatnonzero(known[:, b])
            if n != best
        }
        for b, best in enumerate(bests)
    }


def _compared(bests: Sequence[int], ids: Sequence[str], table: Scores) -> tuple[Any, Any, Any]:
    """Difference, low and high of each recipe from each of the `bests` in a suite; not a number where they share no
    rows."""
    import numpy as np

    at = np.array(bests, dtype=int)
    has = ~np.isnan(table.values)
    if has.all() or len(set(table.groups)) == len(table.groups):
        delta, low, high = paired_columns(table.values, table.values[:, at], table.groups if has.all() else None)
    else:  # rows of groups, some of them missing: cells that have the same rows are compared together
        delta, low, high = (np.full((len(ids), len(at)), np.nan) for _ in range(3))
        of = np.unique(np.packbits(has, axis=0), axis=1, return_inverse=True)[1].ravel()
        for mine in np.unique(of):
            for theirs in np.unique(of[at]):
                columns, others = np.flatnonzero(of == mine), np.flatnonzero(of[at] == theirs)
                kept = np.flatnonzero(has[:, columns[0]] & has[:, at[others[0]]])
                if kept.size:
                    part = np.ix_(columns, others)
                    scores = table.values[kept]
                    told = paired_columns(scores[:, columns], scores[:, at[others]], [table.groups[i] for i in kept])
                    delta[part], low[part], high[part] = told
    for b, best in enumerate(bests):
        mine = table.by_seed.get(ids[best], {})
        for n, i in enumerate(ids if mine else ()):
            seeds = sorted(set(mine) & set(table.by_seed.get(i, {})))
            kept = np.flatnonzero(has[:, n] & has[:, best])
            if len(seeds) > 1 and kept.size and n != best:
                apart = [(table.by_seed[i][s] - mine[s])[kept].tolist() for s in seeds]
                mean, around = over_seeds(apart, [table.groups[r] for r in kept], differences=True)
                delta[n, b], low[n, b], high[n, b] = mean, around.low, around.high
    return delta, low, high
