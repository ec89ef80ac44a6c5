"""Not enough evidence: said where a choice is likelier wrong than right in a way that matters, rarer with more rows."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from harness.decide import Policy, decide
from harness.decide.case import Case
from harness.decide.evidence import not_carried
from harness.decide.facts import Candidate, Facts, _pairs, possible_bests
from harness.decide.findings import CostLine
from harness.decide.odds import odds
from harness.decide.policy import COST
from harness.decide.recipes import Recipe
from harness.decide.rule import judge
from harness.decide.tables import Scores
from tests import records
from tests.cells import POLICIES, policy
from tests.test_decide import cell, run, whole

CELLS, GRIDS = 15, 80


def is_carried(rng: Any, truth: Any, rows: int) -> bool:
    """Whether so many rows of a made-up grid (three adaptations, five builds each) carry a choice."""
    policy = Policy(COST, margin=0.05)
    hard, own = rng.standard_normal((rows, 1)), rng.standard_normal((rows, CELLS))
    scores = (ndtr(np.sqrt(0.7) * hard + np.sqrt(0.3) * own) < truth).astype(float)
    tables = {"s": Scores(1.0, scores, list(range(rows)), {})}
    cost = rng.uniform(1, 3, CELLS)
    made = [
        Candidate(f"{n:02}", 2 * (n // 5) + (n % 5 > 0), q, q, None, 0.0, None, None, CostLine(cost[n], 0.0, "batched"))
        for n, q in enumerate(scores.mean(0).tolist())
    ]
    facts = Facts(tuple(made), _pairs(possible_bests(made), made, tables), 1e6, 1.0)
    kinds = [Recipe(c.id, (replace(whole(records.ADAPTATIONS[n // 5], "fp16"), id=c.id),)) for n, c in enumerate(made)]
    _, draws = odds(facts, kinds, tables, policy, 200)
    case = Case(policy, facts, judge(facts, policy), {}, {c.id: c.id for c in made}, tables)
    return not_carried(case, draws) is None


def test_more_rows_make_a_lack_of_evidence_rarer() -> None:
    rng = np.random.default_rng(7)
    sizes = (24, 96, 384, 1536)
    lacks = dict.fromkeys(sizes, 0)
    for _ in range(GRIDS):
        truth = np.clip(np.repeat(rng.uniform(0.5, 0.75, 3), 5) + rng.normal(0, 0.03, CELLS), 0, 1)
        for rows in sizes:
            lacks[rows] += not is_carried(rng, truth, rows)
    shares = [lacks[n] / GRIDS for n in sizes]
    assert 0 < shares[0] < 0.6, shares
    assert shares[-1] == 0, shares
    for few, more in pairwise(shares):
        assert more <= few + 0.08, shares  # 1.5 standard errors of a difference


def test_the_cell_to_try_and_the_rows_that_would_settle_it_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.decide.evidence.LEAST", 0.5)  # a small grid that comes near to the level
    base = [1] * 15 + [0] * 5
    made = [cell("prompt_rag", "fp16", base, 1.0)]
    for n, quantization in enumerate(records.QUANTIZATIONS):
        for step, adaptation in ((3, "lora"), (7, "full_ft")):  # 16 of 20 each, on other rows
            made.append(cell(adaptation, quantization, [int((at * step + 4 * n) % 20 < 16) for at in range(20)], 2.0))
    found = decide(*run(*made), records.POLICY)
    assert found.chosen is None
    assert found.try_first == made[0][0].id
    assert found.sentences[0].startswith("Not enough evidence: with these 20 rows drawn again")
    assert "prompt_rag/fp16, holds the limits and is within 5 points" in found.sentences[0]
    assert "prompt_rag/fp16 against it has −5 points" in found.sentences[1]
    need = re.match(r"About ([\d,]+) rows like these", found.sentences[2])
    assert need
    assert 400 < int(need[1].replace(",", "")) < 4000, "enough for 5 points where a third of the rows differ"
    assert "likely show a difference of 5 points; until then, prompt_rag/fp16" in found.sentences[2]
    assert found.group[0] == found.try_first
    assert found.confidence is not None
    assert set(found.reasons) == {r.id for r, _ in made}
    assert found.flips == ()


@pytest.mark.parametrize("name", POLICIES)
def test_a_quick_run_of_48_rows_names_a_group(name: str) -> None:
    names = [(a, q) for a in records.ADAPTATIONS for q in records.QUANTIZATIONS]
    made = {records.cell_id(a, q): records.rows(a, q, 48) for a, q in names}
    cells = [records.record(a, q, made[records.cell_id(a, q)]) for a, q in names]
    found = decide(cells, made, policy(name))
    assert found.chosen is not None
    assert found.try_first is None
    if len(found.group) > 1:
        assert "it cannot be told apart from (" in found.sentences[1]
