"""What the objective tells apart, against simulations with known truth: cells that are equal go to the simplest."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import zip_longest
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from harness.decide import decide
from harness.decide.facts import Candidate, Facts, apart, gathered
from harness.decide.findings import CostLine
from harness.decide.flips import flips
from harness.decide.odds import _cost_draws, _p95_draws
from harness.decide.policy import COST, P95, Policy, read_policy
from harness.decide.recipes import recipes
from harness.decide.rule import ahead, choose, judge
from harness.errors import UserError
from harness.measure.load import quantiles
from harness.statistics import PACE, share_of_mean
from harness.types import Interval, Pair
from tests import records
from tests.cells import POLICIES, policy
from tests.test_decide import cell, run
from tests.test_decide_parts import seeded

SAME = Pair(0.0, -0.01, 0.01)
RUNS = 1_000


def grid(values: Any, *spreads: float) -> Facts:
    """Cells of one quality, the simplest first, each with this p95 and cost, and with its spread or the last one."""
    made = tuple(
        Candidate(f"{n:02}", n, 0.9, 0.9, v, s, 1e9, 1.0, CostLine(v / 1e6, 0.0, "batched", spread=math.expm1(s)))
        for n, (v, s) in enumerate(zip_longest(values, spreads[: len(values)], fillvalue=spreads[-1]))
    )
    pairs = {a.id: {b.id: SAME for b in made if b is not a} for a in made}
    return Facts(made, pairs, 1e6, apart(len(made)))


@pytest.mark.parametrize("serving", [1.0, 0.7, 0.2, 0.05])
def test_a_cell_that_is_mostly_paid_once_is_known_no_better_than_its_rival(serving: float) -> None:
    """Of two that cost the same, one of them mostly for what is done once, such as labelling: the simpler one."""
    rng, own = np.random.default_rng(3), math.log(PACE) / math.sqrt(2) / 1.96
    known, wrong, found = grid([1.0, 1.0], 0.0), 0.0, 0.0
    for a, b in np.exp(rng.normal(0, own, (2 * RUNS, 2))).tolist():
        for better in (1.0, 0.75):
            lines = CostLine(a, 0.0, "batched"), CostLine(serving * b * better, 1e3 * (1 - serving) * better, "batched")
            made = tuple(replace(c, cost=line) for c, line in zip(known.candidates, lines, strict=True))
            other = choose(replace(known, candidates=made), Policy(COST)) == "01"
            wrong, found = wrong + other * (better == 1), found + other * (better < 1)
    assert wrong / (2 * RUNS) < 0.04
    assert found / (2 * RUNS) > 0.9


@pytest.mark.parametrize("objective", [COST, P95])
@pytest.mark.parametrize("cells", [2, 15])
@pytest.mark.parametrize("pace", [1.0, PACE])
def test_of_equal_cells_the_simplest_is_chosen(objective: str, cells: int, pace: float) -> None:
    """In at least 95% of the runs, where the errors are as large as they are said to be; and not in far more, or what
    differs would not be told apart."""
    rng, own = np.random.default_rng(4), 0.03
    half = math.hypot(own, math.log(pace) / math.sqrt(2))
    drawn = 1000 * np.exp(rng.normal(0, half / 1.96, (RUNS, cells)))
    policy = Policy(objective, pace=pace)
    wrong = [judge(grid(v, own), policy).chosen_id != "00" for v in drawn.tolist()]
    assert 0.015 < np.mean(wrong) < 0.065
    drawn[:, 1] /= math.exp(2 * half * apart(cells) * math.sqrt(2))  # one that is better by far is found
    assert np.mean([judge(grid(v, own), policy).chosen_id == "01" for v in drawn.tolist()]) > 0.9


@pytest.mark.parametrize("objective", [COST, P95])
def test_a_front_that_is_hardly_known_lets_no_cell_by_that_another_is_ahead_of(objective: str) -> None:
    known = grid((1350.0, 1050.0, 1000.0), 0.01, 0.01, 0.4)
    found = judge(known, Policy(objective))
    assert (found.front, found.chosen) == (known.candidates[2], known.candidates[1])
    assert [c.id for c in found.group] == ["01", "02"]
    assert found.bars == (known.candidates[2], known.candidates[1])


def test_of_equal_cells_that_are_known_unlike_well_the_simplest_is_chosen() -> None:
    rng, spreads = np.random.default_rng(6), [0.03, *np.geomspace(0.01, 0.15, 14).tolist()]
    drawn = 1000 * np.exp(rng.normal(0, np.array(spreads) / 1.96, (RUNS, 15)))
    policy = Policy(P95, pace=1.0)
    assert np.mean([judge(grid(v, *spreads), policy).chosen_id != "00" for v in drawn.tolist()]) < 0.065
    drawn[:, 0] *= 1.2  # by which 01 alone, the best known of them, is told to be ahead
    assert np.mean([judge(grid(v, *spreads), policy).chosen_id == "00" for v in drawn.tolist()]) < 0.1


def test_what_told_the_simplest_to_be_behind_is_what_the_choice_rests_on() -> None:
    """`02` alone is ahead of `00`: `03`, the front, and `01`, which is chosen, are hardly known."""
    lines = [(1.35, 0.0, 0.1), (1.05, 0.0, 0.5), (1.04, 10.0, 0.0), (1.0, 0.0, 0.7)]
    made = tuple(
        Candidate(f"{n:02}", n, 0.9, 0.9, 100.0, 0.0, ram, 1.0, CostLine(usd, once, "batched", spread=spread))
        for n, ((usd, once, spread), ram) in enumerate(zip(lines, (1e9, 2e9, 3e9, 1e9), strict=True))
    )
    pairs = {"00": {"01": SAME, "02": Pair(0.0, -0.04, 0.04), "03": SAME}}
    known, policy = Facts(made, pairs, 1e6, 1.0), Policy(COST, pace=1.0)
    assert judge(known, policy).chosen_id == "01"
    found = {f.knob: f for f in flips(known, policy, {c.id: c.id for c in made}, None) if f.side == "below"}
    unsure = 0.1 * 1.35 / 1.1
    for knob, at in (("max_memory_bytes", 3e9), ("margin", 0.04), ("volume_requests", 1e4 / (0.31 - unsure))):
        assert found[knob].to == "00"
        assert found[knob].at == pytest.approx(at), knob


def test_two_timings_that_are_apart_by_the_pace_differ_at_95_percent() -> None:
    """The pace is that of a difference of two, in ties and in draws: each has a part of it."""
    both = [cell("lora", q, [1] * 200, usd) for q, usd in (("fp16", 110.0), ("int8", 100.0))]
    timed = [records.with_spread(r, 0.0) for r, _ in both]
    chances = decide(timed, {r.id: kept for r, kept in both}, records.POLICY).odds
    assert chances[timed[1].id].best == pytest.approx(0.975, abs=0.012)
    for slower, told in ((1.095, False), (1.105, True)):
        known = replace(grid((100.0, 100.0 * slower), 0.0), apart=1.0)
        a, b = known.candidates
        assert ahead(a, b, known, Policy(P95, pace=1.1)) == told
    assert judge(grid([117.0, *[100.0] * 14], 0.0), Policy(P95)).chosen_id == "01", "of 15 cells from 1.14 times on"
    assert judge(grid([113.0, *[100.0] * 14], 0.0), Policy(P95)).chosen_id == "00"


def test_a_p95_is_known_no_better_than_its_seeds_agree() -> None:
    made = [seeded(cell("lora", "fp16", [1] * 20, 1.0), n) for n in range(2)]
    around = {v: Interval(0.99 * v, 1.01 * v, "") for v in (100.0, 200.0)}
    timed = [records.with_value(r, P95, *at) for (r, _), at in zip(made, around.items(), strict=True)]
    (c,) = gathered(timed, {r.id: kept for r, kept in made}, Policy(COST))[0].candidates
    assert c.p95_ms == 150.0
    assert c.p95_spread == pytest.approx(math.log1p(12.706 * 50 / 150), rel=1e-4)


@pytest.mark.parametrize("seeds", [2, 3])
def test_of_equal_recipes_whose_seeds_are_far_apart_the_simplest_is_chosen(seeds: int) -> None:
    rng, policy = np.random.default_rng(7), Policy(P95, pace=1.0)
    drawn = 1000 * np.exp(rng.normal(0, 0.15, (RUNS, 15, seeds)))
    grids = [grid([v.mean() for v in run], *[math.log1p(share_of_mean(v)) for v in run]) for run in drawn]
    assert np.mean([judge(g, policy).chosen_id != "00" for g in grids]) < 0.05


def test_two_cells_are_apart_as_two_timings_are_and_many_take_one_bound_for_all() -> None:
    assert [apart(k) for k in (1, 2, 3, 15)] == pytest.approx([1, 1, 1, NormalDist().inv_cdf(1 - 0.05 / 14) / 1.96])
    four = [cell("lora", q, [1] * 20, 1.0) for q in ("fp16", "int8", "awq", "gptq")]
    assert gathered(*run(*four), Policy(COST))[0].apart == apart(4) > 1


def test_a_group_holds_what_is_told_apart_on_neither_side() -> None:
    a, b, c = grid((100.0, 108.0, 116.0), 0.0).candidates
    known = replace(grid((100.0, 108.0, 116.0), 0.0), apart=1.0)
    policy = Policy(P95, pace=1.06 ** math.sqrt(2))
    assert not ahead(a, b, known, policy)
    assert ahead(a, c, known, policy)
    assert not ahead(b, c, known, policy)
    wide = replace(known, candidates=(replace(b, rank=0), replace(a, rank=1, p95_spread=0.2), replace(c, rank=2)))
    assert judge(wide, policy).chosen == wide.candidates[0]
    assert [x.id for x in judge(wide, policy).group] == ["01", "00", "02"]
    far = replace(wide, candidates=(*wide.candidates[:2], replace(c, p95_ms=118.0, rank=2)))
    assert [x.id for x in judge(far, policy).group] == ["01", "00"], "told apart from the chosen, not from the first"


def test_of_cells_timed_on_the_same_prompts_one_that_is_faster_on_each_is_chosen() -> None:
    """However far apart the prompts are: which were asked is luck that all cells share."""
    rng, many = np.random.default_rng(5), [1] * 190 + [0] * 10
    kinds = (("prompt_rag", "fp16", 1.3), ("lora", "fp16", 1.3), ("lora", "int8", 1.0))
    cells, rows = run(*(cell(a, q, many, 1.0) for a, q, _ in kinds))
    for _ in range(3):
        prompts, timed = 1000 * np.exp(rng.normal(0, 0.3, 6)), []
        for r, (*_, slower) in zip(cells, kinds, strict=True):
            samples = slower * prompts * np.exp(rng.normal(0, 0.01, (2, 6)))
            rest = tuple(m for m in r.measurements if not m.metric.startswith("e2e_ms"))
            timed.append(replace(r, measurements=(*rest, *quantiles("e2e_ms", samples.ravel().tolist(), events=6))))
        found = decide(timed, rows, records.POLICY | {"objective": P95})
        assert found.chosen == cells[2].id
        assert found.odds[found.chosen].best > 0.99


def test_draws_of_timings_have_the_pace_of_a_whole_timing() -> None:
    rng = np.random.default_rng(0)
    one, _ = cell("lora", "fp16", [1] * 20, 1.0)
    (kind,) = recipes([one], {one.suite: 1.0})
    (bare,) = recipes([records.with_value(one, "e2e_ms/p50", 90.0)], {one.suite: 1.0})
    (c, _) = grid((100.0, 100.0), 0.1).candidates
    for pace in (1.0, 1.2):
        half = math.hypot(0.1, math.log(pace)) / 1.96
        cost = _cost_draws(rng, [c], 1e6, math.log(pace), 20_000)
        for drawn in (_p95_draws(rng, [c], [bare], math.log(pace), 20_000), cost):
            assert np.log(drawn).std() == pytest.approx(half, rel=0.03)
    known = replace(c, p95_spread=0.0)
    own, wide = (_p95_draws(rng, [known], [kind], math.log(p), 20_000) for p in (1.0, 1.5))
    seen = math.hypot(np.log(own).std(), math.log(1.5) / 1.96)
    assert np.log(own).std() > 0.01
    assert np.log(wide).std() == pytest.approx(seen, rel=0.03)
    both = np.log(_p95_draws(rng, [known, replace(known, p95_ms=130.0)], [kind, kind], 0.0, 1_000))
    assert np.ptp(both[:, 1] - both[:, 0]) < 1e-9 < np.ptp(both), "the same prompts are drawn of both"


def test_policies_name_the_pace_and_refuse_what_is_none() -> None:
    for name in POLICIES:
        assert read_policy(policy(name)).pace == PACE, name
    assert read_policy(records.POLICY).pace == PACE
    for bad in (0.99, math.inf, math.nan, None, "1.1", True):
        with pytest.raises(UserError, match=r"pace .*; give a number of 1 or more"):
            read_policy(records.POLICY | {"pace": bad})
    with pytest.raises(UserError, match=r"suites .*; give suite names with weights of 0 or more"):
        read_policy(records.POLICY | {"suites": {"a": math.inf}})
    with pytest.raises(UserError, match=r"service_level .*; give ttft_ms, token_ms, share, each above 0"):
        read_policy(records.POLICY | {"service_level": {"ttft_ms": math.inf, "token_ms": 50, "share": 1}})
