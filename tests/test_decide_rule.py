"""Properties of the rule on made-up facts, and flips against a dense search."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.decide.facts import Candidate, Facts, possible_bests
from harness.decide.findings import CostLine
from harness.decide.flips import flips
from harness.decide.policy import COST, P95, QUALITY, Policy
from harness.decide.rule import choose, dominates, holds, judge, volume_of
from harness.decide.tables import Scores, compared
from harness.statistics import paired
from harness.types import Pair

SHARES = st.integers(0, 20).map(lambda n: n / 20)


@st.composite
def grids(draw: st.DrawFn) -> Facts:
    """Up to seven candidates with coarse numbers, so that ties and domination are common."""
    made = []
    for n in range(draw(st.integers(1, 7))):
        p95 = float(draw(st.integers(1, 9)) * 100)
        once = draw(st.integers(0, 50))
        cost = CostLine(
            draw(st.integers(1, 20)) / 10, float(once), "batched", None, None, float(draw(st.integers(0, once))),
            draw(st.sampled_from((0.0, 0.1))),
        )  # fmt: skip
        quality = draw(SHARES)
        made.append(
            Candidate(
                f"c{n}", draw(st.integers(0, 5)), quality, quality, p95, draw(st.sampled_from((0.0, 0.2))),
                float(draw(st.integers(1, 6)) * 10**9), draw(st.sampled_from((0.9, 1.0))), cost,
            )
        )  # fmt: skip
    made.sort(key=lambda c: (c.rank, c.id))
    pairs: dict[str, dict[str, Pair]] = {}
    for at in possible_bests(made):
        pairs[made[at].id] = {}
        for c in made:
            if c is not made[at]:
                delta = c.quality - made[at].quality
                half = draw(st.integers(0, 6)) / 40
                pairs[made[at].id][c.id] = Pair(delta, delta - half, delta + half)
    return Facts(tuple(made), pairs, 10_000.0, draw(st.sampled_from((0.8, 1.4))))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    return Policy(
        draw(st.sampled_from((COST, P95, QUALITY))),
        min_quality=draw(st.none() | SHARES),
        max_p95_e2e_ms=draw(st.none() | st.integers(1, 9).map(lambda n: 100.0 * n)),
        max_memory_bytes=draw(st.none() | st.integers(1, 6).map(lambda n: 1e9 * n)),
        margin=draw(st.sampled_from((0.0, 0.05, 0.1))),
        pace=draw(st.sampled_from((1.0, 1.1))),
    )


@given(grids(), policies())
def test_a_dominated_cell_is_never_chosen(facts: Facts, policy: Policy) -> None:
    found = judge(facts, policy)
    if found.chosen is not None:
        volume = volume_of(facts, policy)
        assert not any(dominates(c, found.chosen, volume) for c in found.holding)
        assert found.chosen in found.holding
        assert found.group[0] is found.chosen
        best = found.best
        assert best is not None
        pair = facts.pairs[best.id].get(found.chosen.id)
        assert found.chosen is best or pair
        if pair and not found.passed:
            assert pair.low > -policy.margin or (pair.high >= 0 and pair.delta >= -policy.margin)


@given(grids(), policies(), st.integers(0, 30))
def test_tightening_a_limit_lets_no_cell_in(facts: Facts, policy: Policy, by: int) -> None:
    tighter = (
        replace(policy, min_quality=(policy.min_quality or 0.0) + by / 100),
        replace(policy, max_p95_e2e_ms=(policy.max_p95_e2e_ms or 1000.0) - 10 * by),
        replace(policy, max_memory_bytes=(policy.max_memory_bytes or 7e9) - 1e8 * by),
        replace(policy, min_valid=by / 30),
    )
    for other in tighter:
        assert {c.id for c in facts.candidates if holds(c, other)} <= {
            c.id for c in facts.candidates if holds(c, policy)
        }


@given(grids(), policies(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_changes_nothing(facts: Facts, policy: Policy, rng: object) -> None:
    mixed = list(facts.candidates)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    assert choose(replace(facts, candidates=tuple(mixed)), policy) == choose(facts, policy)


def test_a_tie_at_the_policys_own_volume_is_a_flip() -> None:
    """Above 10,000 requests one cell is the cheaper, below it the other."""
    costs = {"a": CostLine(0.6, 46.0, "batched"), "b": CostLine(2.0, 32.0, "batched")}
    made = [Candidate(i, 0, 0.2, 0.2, 100.0, 0.0, 1e9, 0.9, cost) for i, cost in costs.items()]
    same = Pair(0.0, 0.0, 0.0)
    facts = Facts(tuple(made), {"a": {"b": same}, "b": {"a": same}}, 10_000.0, 1.0)
    policy = Policy(COST, margin=0.0, pace=1.0)
    chosen = choose(facts, policy)
    found = {(f.knob, f.side): (f.at, f.to) for f in flips(facts, policy, {"a": "a", "b": "b"}, 2.0)}
    assert chosen == "a"
    at, to = found["volume_requests", "below"]
    assert at == pytest.approx(10_000.0)
    assert to == "b"


@settings(max_examples=60, deadline=None)
@given(grids(), policies())
def test_exact_flips_are_those_of_a_dense_search(facts: Facts, policy: Policy) -> None:
    """Between the policy's value and an exact flip nothing else is chosen; just beyond it, the cell that it names.
    Where none is named, no value of the search chooses another cell."""
    now = choose(facts, policy)
    if now is None:
        assert flips(facts, policy, {}, 2.0) == ()
        return
    names = {c.id: c.id for c in facts.candidates}
    exact = {(f.knob, f.side): f for f in flips(facts, policy, names, 2.0)}

    def at(knob: str, value: float) -> str | None:
        if knob == "usd_per_hour":
            found = judge(facts, policy, value / 2.0).chosen
            return found.id if found else None
        changed: Any = {knob: value}
        return choose(facts, replace(policy, **changed))

    knobs = {
        "min_quality": (policy.min_quality or 0.0, np.linspace(0.0005, 0.9995, 400)),
        "max_p95_e2e_ms": (policy.max_p95_e2e_ms or math.inf, np.linspace(3, 1203, 400)),
        "max_memory_bytes": (policy.max_memory_bytes or math.inf, np.linspace(1.1e7, 7.01e9, 400)),
        "margin": (policy.margin, np.linspace(0.0003, 0.9993, 400)),
        "volume_requests": (facts.volume_requests, np.geomspace(100.3, 1e8, 500)),
        "usd_per_hour": (2.0, np.geomspace(1.0007e-3, 1e3, 500)),
    }
    for knob, (start, values) in knobs.items():
        for side in ("above", "below"):
            beyond = [v for v in values if (v > start if side == "above" else v < start)]
            found = exact.get((knob, side))
            for v in beyond if side == "above" else reversed(beyond):
                inside = found is None or (v < found.at if side == "above" else v > found.at)
                if inside:
                    assert at(knob, float(v)) == now, (knob, side, v, found)
            if found is not None and found.at > 0:
                step = 1 + (1e-6 if side == "above" else -1e-6)
                assert at(knob, found.at * step) == found.to != now, found


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_table_is_compared_as_its_pairs_are_one_by_one(graded: bool, grouped: bool) -> None:
    rng = np.random.default_rng(3)
    scores = rng.random((60, 5)) if graded else (rng.random((60, 5)) < 0.7).astype(float)
    scores[:, 4] = scores[:, 0]
    scores[:7, 3] = scores[5:9, 0] = np.nan
    groups = [int(n**0.7) if grouped else n for n in range(60)]
    delta, low, high = compared([0, 1], list("abcde"), Scores(1.0, scores, groups, {}))
    for n in range(5):
        for b in {0, 1} - {n}:
            kept = np.flatnonzero(~np.isnan(scores[:, n] + scores[:, b]))
            one = paired(scores[kept, n].tolist(), scores[kept, b].tolist(), [groups[r] for r in kept])
            assert (delta[n, b], low[n, b], high[n, b]) == pytest.approx((one.delta, one.low, one.high))
