"""The scores of a suite as one table, and all cells compared on it at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.decide.cells import Rows, primary
from harness.decide.policy import Policy
from harness.decide.recipes import Recipe
from harness.rows import column
from harness.rows import groups as groups_of
from harness.rows import ids as ids_of
from harness.statistics import mean_difference, paired_over_seeds
from harness.types import Json, Status


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one suite: rows × recipes (the mean over seeds; not a number where a row is missing), the rows'
    groups, and each recipe's scores by seed where it has several."""

    weight: float
    values: Any
    groups: Sequence[Any]
    by_seed: Mapping[str, Mapping[int, Any]]


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


def compared(bests: Sequence[int], ids: Sequence[str], table: Scores) -> tuple[Any, Any, Any]:
    """Difference, low and high of each recipe from each of the `bests` in a suite; not a number where they share no
    rows."""
    import numpy as np

    columns = np.ascontiguousarray(table.values.T)
    has = ~np.isnan(columns)
    whole = ((columns % 1 == 0) | ~has).all(axis=1)
    names = table.groups if len(set(table.groups)) < len(table.groups) else None
    delta, low, high = (np.full((len(ids), len(bests)), np.nan) for _ in range(3))
    for b, best in enumerate(bests):
        for n, i in enumerate(ids):
            kept = np.flatnonzero(has[n] & has[best])
            if n == best or not kept.size:
                continue
            groups = names and [names[r] for r in kept]
            mine, theirs = (table.by_seed.get(k, {}) for k in (i, ids[best]))
            seeds = sorted(mine.keys() & theirs.keys())
            if len(seeds) > 1:
                pair = paired_over_seeds([mine[s][kept] for s in seeds], [theirs[s][kept] for s in seeds], groups)
            else:
                binary = bool(whole[n] and whole[best])
                pair = mean_difference((columns[n] - columns[best])[kept], groups, binary, reach=1.0)
            delta[n, b], low[n, b], high[n, b] = pair.delta, pair.low, pair.high
    return delta, low, high
