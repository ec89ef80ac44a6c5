"""Cells that do the same work show how far apart timings of a run are with nothing changed, and the rule counts so."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.decide import argued, read_policy
from harness.decide.facts import apart
from harness.decide.policy import COST, P95, Policy
from harness.decide.rule import ahead
from harness.decide.twins import TIMED, Twins, twins_of
from harness.statistics import PACE
from harness.types import Measurement, RunRecord
from tests import records
from tests.test_decide_ties import grid

PAIR = ("lora", "full_ft")


def timed(adaptation: str, quantization: str, times: float, **facts: Any) -> RunRecord:
    """A cell whose answers take this many times as long, of which the work is known."""
    whole = records.record(adaptation, quantization)
    steps = {k: dict(v) for k, v in whole.steps.items()}
    knobs = {"requests": 6, **({"adapters": 4} if adaptation == "lora" else {})}
    steps["latency"] |= {
        "preimage": {"model": whole.id, "rows": "1", "knobs": knobs},
        "facts": {"weights_bytes": 5e8, **facts},
    }
    prompts = Measurement("prompt_tokens/mean", 131.0, "tokens", "lower", 96)
    one = replace(whole, steps=steps, measurements=(*whole.measurements, prompts))
    for metric, value in zip(TIMED.values(), (100 * times, 48 / times), strict=True):
        one = records.with_value(one, metric, value)
    return one


def test_twins_far_apart_refute_the_pace_and_cells_as_far_apart_are_not_told_apart() -> None:
    cells = [timed("lora", "fp16", 1.0), timed("full_ft", "fp16", 1.4)]
    found = twins_of(cells, PACE)
    seen = found[P95]
    assert found[COST].pace == pytest.approx(seen.pace), "both kinds of time say the same"
    assert seen.cells == tuple(sorted(r.id for r in cells))
    assert seen.ratio == pytest.approx(1.4)
    assert seen.pace == pytest.approx(1.4**1.96), "the deviation that one difference shows, at 95%"
    assert not twins_of([cells[0], timed("full_ft", "fp16", 1.05)], PACE)
    assert not twins_of(cells, 1.0), "timings are taken as they are"
    rule = read_policy(records.POLICY | {"objective": P95, "margin": 1.0})
    rows = {r.id: records.rows(r.adaptation, "fp16") for r in cells}
    faster = [timed("lora", "gptq", 0.7), *cells]
    rows |= {faster[0].id: rows[cells[0].id]}
    decision, facts = argued(faster, rows, rule)
    assert facts.twins == found
    assert decision.chosen == cells[0].id, "the simplest: 1.4 times as fast is within what twins differ by"
    assert any("1.93 times with nothing changed (as cells that do the same work did)" in n for n in decision.notes)
    assert argued([faster[0], cells[0]], rows, rule)[0].chosen == faster[0].id, "without a twin it is ahead"


@pytest.mark.parametrize("objective", [COST, P95])
@pytest.mark.parametrize("cells", [2, 15])
@pytest.mark.parametrize("pace", [PACE, 2.8, 8.0])
def test_a_cell_is_ahead_from_where_the_report_says(objective: str, cells: int, pace: float) -> None:
    """However far apart twins are."""
    shown = {objective: Twins(pace, ("a", "b"), pace)}
    for factor, ahead_of in ((0.99, False), (1.01, True)):
        known = grid([100.0, 100.0 * factor * pace ** apart(cells)], 0.0)
        known = replace(known, apart=apart(cells), twins=shown)
        first, second = known.candidates
        assert ahead(first, second, known, Policy(objective)) == ahead_of


def test_one_stalled_request_says_nothing_of_costs() -> None:
    pair = [timed("lora", "fp16", 1.0), records.with_value(timed("full_ft", "fp16", 1.0), P95, 160.0)]
    assert list(twins_of(pair, PACE)) == [P95]


@pytest.mark.parametrize(
    "other",
    [
        timed("full_ft", "gptq", 1.4), timed("full_ft", "fp16", 1.4, weights_bytes=6e8),
        records.with_value(timed("full_ft", "fp16", 1.4), "prompt_tokens/mean", 900.0),
        replace(timed("full_ft", "fp16", 1.4), steps=timed("lora", "fp16", 1.0).steps),
    ],
    ids=["another quantization", "other layers", "other prompts", "one timing"],
)  # fmt: skip
def test_cells_of_other_work_are_no_twins(other: RunRecord) -> None:
    assert not twins_of([timed("lora", "fp16", 1.0), other], PACE)


def test_work_that_hangs_on_the_weights_makes_no_twins() -> None:
    """LLM.int8 multiplies as many outliers apart as there are."""
    pair = [timed(a, "int8", t) for a, t in zip(PAIR, (1.0, 1.4), strict=True)]
    assert twins_of(pair, PACE)
    params = {"name": "int8", "target": "", "params": {"threshold": 6.0}}
    assert twins_of([replace(r, config={**r.config, "quantization": params}) for r in pair], PACE) == {}


def test_a_pace_that_is_true_is_refuted_in_5_percent_at_most() -> None:
    rng, own = np.random.default_rng(1), math.log(PACE) / math.sqrt(2) / 1.96
    made = [timed(a, q, 1.0) for a in PAIR for q in ("fp16", "gptq", "awq")]
    refuted = []
    for drawn in np.exp(rng.normal(0, own, (400, len(made), 2))):
        cells = [
            records.with_value(records.with_value(r, TIMED[P95], 100 * p), TIMED[COST], t)
            for r, (p, t) in zip(made, drawn, strict=True)
        ]
        refuted.append(bool(twins_of(cells, PACE)))
    assert 0.01 < np.mean(refuted) < 0.08
