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
from harness.statistics import over_seeds, paired_columns
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
