"""The four numbers that stand for a recipe, counted as its decision counts them: seeds together, suites by their
weights, and what limits are checked against of the worst suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from harness.decide import Facts, Policy, Rows, memory, quality_over_seeds
from harness.decide.recipes import Recipe, recipes, weights_of
from harness.runs import Run
from harness.types import Measurement, RunRecord, Status

QUALITY, P95, MEMORY, COST = TITLES = ("Quality", "p95 response time", "Peak memory", "Cost per 1,000 requests")
Numbers = Mapping[str, Measurement | None]


def seeds_of(recipe: Recipe, weights: Mapping[str, float]) -> list[RunRecord]:
    """Its cells that ended ok on the suites judged: where that is one, they differ in their seed alone."""
    return [r for s in weights for r in recipe.of(s) if r.status is Status.OK]


def numbers(recipe: Recipe, weights: Mapping[str, float], rows: Rows, rule: Policy, known: Facts | None) -> Numbers:
    """The numbers of a recipe by their titles, of records `as_counted`. Over several suites they are those that were
    judged, so they have no intervals, and a recipe that could not be judged has none."""
    if len(weights) > 1:
        c = next((c for c in (known.candidates if known else ()) if c.id == recipe.id), None)
        if known is None or c is None:
            return dict.fromkeys(TITLES)
        usd = c.cost.usd_per_1000(rule.volume_requests or known.volume_requests) if c.cost else None
        found = ((c.quality, "share", "higher"), (c.p95_ms, "ms", "lower"), (c.memory_bytes, "bytes", "lower"),
                 (usd, "USD", "lower"))  # fmt: skip
        return {
            title: None if value is None else Measurement(title, value, unit, better, len(weights))
            for title, (value, unit, better) in zip(TITLES, found, strict=True)
        }
    seeds = seeds_of(recipe, weights)
    return {
        QUALITY: quality_over_seeds(seeds, rows, rule), P95: _mean(seeds, "e2e_ms/p95"),
        MEMORY: max((m for r in seeds if (m := memory(r))), key=lambda m: m.value, default=None),
        COST: _mean(seeds, "cost_usd_per_1000"),
    }  # fmt: skip


def as_judged(run: Run, known: Facts | None) -> Run:
    """The cells of the suite that is judged; of several, the first cell of each recipe with the recipe's own numbers,
    for drawings."""
    weights = weights_of(list(run.records.values()), run.policy)
    if len(weights) < 2:
        return replace(run, records={i: r for i, r in run.records.items() if r.suite in weights or not weights})
    found = {}
    for kind in recipes(list(run.records.values()), weights):
        r = run.records[kind.id]
        names = {QUALITY: f"quality/{run.score(r)}", P95: "e2e_ms/p95", COST: "cost_usd_per_1000"}
        own = numbers(kind, weights, run.rows, run.policy, known)
        found[r.id] = replace(
            r, measurements=tuple(replace(m, metric=name) for title, name in names.items() if (m := own[title]))
        )
    return replace(run, records=found)


def _mean(seeds: Sequence[RunRecord], metric: str) -> Measurement | None:
    found = [m for r in seeds if (m := r.value(metric))]
    mean = replace(found[0], value=fmean(m.value for m in found), interval=None) if len(found) > 1 else None
    return mean or next(iter(found), None)


def counted(recipe: Recipe, weights: Mapping[str, float]) -> dict[str, str]:
    """What the title of each number adds where it is not that of a single cell."""
    if (n := len(weights)) > 1:
        weighted = f", weighted over {n} suites"
        return {QUALITY: weighted, P95: f", slowest of {n} suites", MEMORY: f", highest of {n} suites", COST: weighted}
    if (n := len(seeds_of(recipe, weights))) > 1:
        mean = f", mean of {n} seeds"
        return {QUALITY: mean, P95: mean, MEMORY: f", highest of {n} seeds", COST: mean}
    return {}
