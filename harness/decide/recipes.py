"""Cells that differ in suite and seed alone are one recipe: one way to build, judged as one candidate."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.decide.cells import primary, quality, simplicity
from harness.decide.costs import BATCHED, GOODPUT, cost_line, goodput
from harness.decide.policy import COST, OBJECTIVES, P95, Policy
from harness.types import Measurement, RunRecord, Status, id_parts

NO_RATE = "holds the service level at no rate tried"
NO_GOODPUT = "no goodput was measured, by which costs are counted here"


@dataclass(frozen=True, slots=True)
class Recipe:
    """The cells of one way to build, by suite in the order of names and then by seed; `id` is that of the first that
    ended ok on a suite that is judged, and counts. `beside` do not count."""

    id: str
    cells: tuple[RunRecord, ...]
    beside: frozenset[str] = frozenset()

    def of(self, suite: str) -> tuple[RunRecord, ...]:
        """Its cells of a suite that count, by seed."""
        return tuple(r for r in self.cells if r.suite == suite and r.id not in self.beside)


def recipes(records: Sequence[RunRecord], judged: Collection[str]) -> tuple[Recipe, ...]:
    """Cells that differ in suite and seed alone, together; the simplest first. `judged` are the suites that count."""
    kinds: dict[tuple[str, ...], list[RunRecord]] = {}
    for r in sorted(records, key=lambda r: (*simplicity(r)[:2], r.suite, r.seed, r.id)):
        kinds.setdefault(_kind(r), []).append(r)
    found, out = [], beside(records)
    for cells in kinds.values():
        first = min(cells, key=lambda r: (r.status is not Status.OK, r.id in out, r.suite not in judged))
        found.append(Recipe(first.id, tuple(cells), out))
    return tuple(sorted(found, key=lambda k: simplicity(next(r for r in k.cells if r.id == k.id))))


def _kind(r: RunRecord) -> tuple[str, ...]:
    return r.model, r.adaptation, r.quantization, id_parts(r.id)[5]


def beside(records: Sequence[RunRecord]) -> frozenset[str]:
    """The cells of seeds that another way to build lost on the same suite, where others of its seeds ended ok: its mean
    is of those, and a seed that failed by bad luck would make it better than the rest. None of a suite where some way
    would have no seed left."""
    ended: dict[tuple[str, ...], list[RunRecord]] = {}
    for r in records:
        ended.setdefault((r.suite, *_kind(r)), []).append(r)
    ways = [(cells, ok) for cells in ended.values() if (ok := [r for r in cells if r.status is Status.OK])]
    lost = {(r.suite, r.seed) for cells, _ in ways for r in cells if r.status is not Status.OK}
    bare = {ok[0].suite for _, ok in ways if all((r.suite, r.seed) in lost for r in ok)}
    return frozenset(r.id for _, ok in ways for r in ok if (r.suite, r.seed) in lost and r.suite not in bare)


def called(records: Sequence[RunRecord], policy: Policy, names: Mapping[str, str]) -> dict[str, str]:
    """The names of cells, that of a recipe of several seeds without the seed of its first cell."""
    weights, found = weights_of(records, policy), dict(names)
    for k in recipes(records, weights):
        seeds = {r.seed for s in weights for r in k.of(s) if r.status is Status.OK}
        if len(seeds) > 1 and (seed := id_parts(k.id)[4]):
            bare = re.sub(rf"[ /]{seed}\b", "", names[k.id], count=1)
            found[k.id] = f"{bare} ({len(seeds)} seeds)" if bare in names.values() else bare
    return found


def reference(records: Sequence[RunRecord], policy: Policy) -> RunRecord | None:
    """What the others are compared with: the simplest cell that ended ok on the first suite judged, so prompt_rag/fp16
    where that did."""
    out = beside(records)
    ok = [r for r in records if r.status is Status.OK and r.id not in out]
    judged = next((s for s in weights_of(records, policy) if any(r.suite == s for r in ok)), None)
    some = [r for r in ok if r.suite == judged] or ok
    return min(some, key=lambda r: (*simplicity(r)[:2], r.adaptation != "prompt_rag", r.id), default=None)


def weights_of(records: Sequence[RunRecord], policy: Policy) -> dict[str, float]:
    """The weight of each suite judged, adding up to 1."""
    suites = sorted({r.suite for r in records})
    found = {s: float((policy.suites or {}).get(s, 0.0)) if policy.suites else 1.0 for s in suites}
    total = sum(found.values())
    return {s: w / total for s, w in found.items() if w > 0} if total else {}


def lacking(recipe: Recipe, suites: Sequence[str], policy: Policy, basis: str) -> str:
    """Why a recipe has not the numbers that a choice needs; empty when it has them. `basis` is the rate priced."""
    priced = policy.objective == COST and basis == GOODPUT
    for suite in suites:
        cells = recipe.of(suite)
        ok = [r for r in cells if r.status is Status.OK]
        on = f" on {suite}" if len(suites) > 1 else ""
        if not cells:
            return f"It was not run on {suite}, which the policy weighs."
        if not ok:
            return f"{str(cells[0].status).capitalize()}{on}: {cells[0].reason or 'no reason was given'}."
        for r in ok:
            if (judged := quality(r, policy)) is None:
                why = r.not_measured.get("quality", "no such score in its record")
                return f"Its quality was not measured{on}: {why}."
            if judged.better == "lower":
                return f"It is judged by “{primary(r, policy)}”{on}, and less of that is better: name another score."
            if policy.objective == P95 and r.value(P95) is None:
                return f"Its {OBJECTIVES[policy.objective]} was not measured{on}."
            rate = goodput(r, policy.service_level)
            if rate is None and policy.service_level and basis == GOODPUT:
                why = r.not_measured.get("load") or r.not_measured.get("own ends", "no load of such answers")
                return f"Its service level was not measured{on}: {why}."
            if rate == 0 and (policy.service_level or priced):
                return f"It {NO_RATE}{on}."
            if policy.objective == COST and r.value(COST) is None and not rate:
                return f"Its {OBJECTIVES[policy.objective]} was not measured{on}."
    return ""


def basis_of(records: Sequence[RunRecord], policy: Policy) -> str:
    """The rate that costs are counted with: the goodput where every cell of the suites judged that ended ok has one
    measured, and not all of them 0, else full batches. With a service level, the goodput where any cell of each suite
    was measured at it: those that were not cannot be chosen."""
    judged = weights_of(records, policy)
    ok = [r for r in records if r.status is Status.OK and r.suite in judged]
    rates = [goodput(r, policy.service_level) for r in ok]
    if policy.service_level:
        known = {r.suite for r, rate in zip(ok, rates, strict=True) if rate is not None}
        return GOODPUT if known and known == judged.keys() else BATCHED
    return GOODPUT if any(rates) and None not in rates else BATCHED


def as_counted(records: Mapping[str, RunRecord], policy: Policy) -> dict[str, RunRecord]:
    """The records with `cost_usd_per_1000` as a decision counts it, for tables that stand beside one: at the goodput
    where every cell has one, with labelling, over the policy's volume. A record itself holds the price of full batches,
    since a goodput counts only where all have it. Not to be decided on again."""
    basis = basis_of(list(records.values()), policy)
    return {i: _with_cost(r, basis, policy) for i, r in records.items()}


def _with_cost(record: RunRecord, basis: str, policy: Policy) -> RunRecord:
    rate, held = goodput(record, policy.service_level), record.value(COST)
    line = cost_line(record, basis) if basis == BATCHED or rate else None
    paying = policy.volume_requests or (record.config.get("price") or {}).get("volume_requests")
    rest = tuple(m for m in record.measurements if m.metric != COST)
    if held and line is None and basis == GOODPUT:
        why = NO_RATE if rate == 0 else NO_GOODPUT
        return replace(record, measurements=rest, not_measured={**record.not_measured, COST: why})
    if line is None or not paying:
        return record
    usd = line.usd_per_1000(paying)
    if held and math.isclose(held.value, usd):
        return record
    priced = record.value("goodput_requests_per_s") if basis == GOODPUT else held
    return replace(record, measurements=(*rest, Measurement(COST, usd, "USD", "lower", priced.n if priced else 1)))
