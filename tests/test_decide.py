"""The decision follows its rule, says no more than the rows carry, and does not depend on the order of records."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness.decide import decide, labels, read_policy
from harness.errors import UserError
from harness.resources import resource
from harness.statistics import wilson
from harness.types import Interval, RunRecord, Status
from tests import records

Rows = dict[str, list[dict[str, Any]]]


whole = cache(records.record)


def cell(adaptation: str, quantization: str, passes: list[int], cost: float) -> tuple[RunRecord, list[dict[str, Any]]]:
    """A cell whose rows pass as given and that costs this much, without an interval."""
    rows = records.rows(adaptation, quantization, len(passes))
    for row, score in zip(rows, passes, strict=True):
        row["scores"]["good"] = score
    one = records.with_value(whole(adaptation, quantization), "cost_usd_per_1000", cost)
    good = sum(passes)
    return records.with_value(one, "quality/good", good / len(passes), wilson(good, len(passes)), len(passes)), rows


def run(*cells: tuple[RunRecord, list[dict[str, Any]]]) -> tuple[list[RunRecord], Rows]:
    return [r for r, _ in cells], {r.id: rows for r, rows in cells}


def test_the_cheapest_cell_not_shown_to_be_worse_is_chosen() -> None:
    many = [1] * 180 + [0] * 20
    cells, rows = run(
        cell("prompt_rag", "fp16", [1] * 60 + [0] * 140, 1.0),
        cell("lora", "fp16", many, 3.0),
        cell("lora", "gptq", [*many[1:], 0], 2.0),
        cell("full_ft", "fp16", many, 4.0),
    )
    found = decide(cells, rows, records.POLICY)
    assert found.chosen == records.cell_id("lora", "gptq")
    assert found.best == records.cell_id("lora", "fp16"), "of equals, the simpler is the best"
    assert found.reference == records.cell_id("prompt_rag", "fp16")
    assert set(found.reasons) == {r.id for r in cells} - {found.chosen}
    assert "Shown to be worse than lora/fp16" in found.reasons[records.cell_id("prompt_rag", "fp16")]
    assert "higher: $4.00 against $2.00" in found.reasons[records.cell_id("full_ft", "fp16")]
    assert "shown not to be more than 5 points below the highest, lora/fp16" in found.sentences[1]
    assert "provisionally" not in found.sentences[0]
    assert len(found.sentences) == 3


def test_not_excluded_is_not_called_shown() -> None:
    cells, rows = run(
        cell("lora", "fp16", [1] * 24 + [0] * 8, 3.0), cell("lora", "gptq", [0] * 2 + [1] * 21 + [0] * 9, 1.0)
    )
    found = decide(cells, rows, records.POLICY)
    assert found.chosen == records.cell_id("lora", "gptq")
    assert "provisionally" in found.sentences[0]
    assert "open whether it loses more than 5 points" in found.sentences[1]
    assert "32 rows likely show differences of" in found.sentences[1]
    assert "shown not to be" not in found.sentences[1]


def test_ties_go_to_the_simpler_cell() -> None:
    many = [1] * 90 + [0] * 10
    (full, a), (lora, b) = cell("full_ft", "gptq", many, 1.0), cell("lora", "fp16", many, 1.04)
    rows = {full.id: a, lora.id: b}
    wide = records.with_value(full, "cost_usd_per_1000", 1.0, Interval(0.9, 1.1, "bootstrap"))
    assert decide([wide, lora], rows, records.POLICY).chosen == lora.id
    narrow = records.with_value(full, "cost_usd_per_1000", 1.0, Interval(0.99, 1.01, "bootstrap"))
    assert decide([narrow, lora], rows, records.POLICY).chosen == full.id
    (awq, c), (plain, d) = cell("lora", "awq", many, 1.0), cell("lora", "fp16", many, 1.0)
    assert decide([awq, plain], {awq.id: c, plain.id: d}, records.POLICY).chosen == plain.id


@pytest.mark.parametrize("objective", ["cost_usd_per_1000", "e2e_ms/p95", "quality"])
def test_the_order_of_records_and_rows_changes_nothing(objective: str) -> None:
    cells, rows = records.grid()
    policy = records.POLICY | {"objective": objective}
    first = decide(cells, rows, policy)
    for seed in range(5):
        rng = random.Random(seed)
        mixed = {i: rng.sample(rows[i], len(rows[i])) for i in rng.sample(sorted(rows), len(rows))}
        assert decide(rng.sample(cells, len(cells)), mixed, policy) == first


def test_a_dominated_cell_is_never_chosen() -> None:
    names = [(a, q) for a in records.ADAPTATIONS for q in records.QUANTIZATIONS]
    for seed in range(60):
        rng = random.Random(seed)
        luck = [rng.random() for _ in range(40)]
        made = []
        for a, q in names[: rng.randint(2, 15)]:
            skill, noise = rng.uniform(0.3, 0.95), rng.choice((0.05, 0.6))
            made.append(
                cell(a, q, [int((1 - noise) * u + noise * rng.random() < skill) for u in luck], rng.uniform(1, 9))
            )
        cells, rows = run(*made)
        found = decide(cells, rows, records.POLICY | {"margin": rng.choice((0.0, 0.05, 0.1))})
        value = {r.id: (r.value("quality/good"), r.value("cost_usd_per_1000")) for r in cells}
        assert found.chosen is not None
        quality, cost = value[found.chosen]
        assert quality is not None
        assert cost is not None
        for i, (other_quality, other_cost) in value.items():
            assert other_quality is not None
            assert other_cost is not None
            better = other_quality.value >= quality.value and other_cost.value < cost.value
            assert not better, f"seed {seed}: {i} beats {found.chosen}"


def test_a_noisy_cell_does_not_get_past_a_better_one_that_was_excluded() -> None:
    best = [1] * 320 + [0] * 80
    sure = [0] * 40 + [1] * 280 + [0] * 80  # 10 points lower without a single row gained
    noisy = [0] * 101 + [1] * 219 + [1] * 60 + [0] * 20  # 10.25 points lower with many flips both ways
    top, steady, loud = (
        cell("full_ft", "fp16", best, 9.0),
        cell("lora", "fp16", sure, 2.0),
        cell("lora", "gptq", noisy, 1.0),
    )
    assert decide(*run(top, loud), records.POLICY).chosen == loud[0].id
    found = decide(*run(top, steady, loud), records.POLICY)
    assert found.chosen == top[0].id
    assert "not above that of lora/fp16" in found.reasons[loud[0].id]


def test_hard_limits_hold_and_name_what_they_broke() -> None:
    cells, rows = records.grid()
    found = decide(cells, rows, records.POLICY | {"max_p95_e2e_ms": 2400, "min_quality": 0.5})
    assert found.chosen == records.cell_id("lora", "dynamic")
    assert "above the limit of 2.40 s" in found.reasons[records.cell_id("full_ft", "dynamic")]
    assert "below the floor of 50%" in found.reasons[records.cell_id("prompt_rag", "fp16")]
    none = decide(cells, rows, records.POLICY | {"max_memory_bytes": 1000})
    assert none.chosen is None
    assert "no cell ended ok within the policy's limits" in none.sentences[0]
    assert set(none.reasons) == {r.id for r in cells}


def test_tightening_a_limit_never_lets_a_cell_in() -> None:
    cells, rows = records.grid()
    out: set[str] = set()
    for limit in (9000, 5000, 4000, 3000, 2400, 100):
        found = decide(cells, rows, records.POLICY | {"max_p95_e2e_ms": limit})
        now = {i for i, why in found.reasons.items() if "above the limit" in why}
        assert out <= now
        out = now


def test_failed_and_unsupported_cells_keep_their_reason() -> None:
    cells, rows = records.grid()
    cells[9] = records.ended("lora", "dynamic", Status.FAILED, "out of memory")
    cells[8] = records.ended("lora", "awq", Status.UNSUPPORTED, "no kernel")
    found = decide(cells, rows, records.POLICY)
    assert found.chosen == records.cell_id("full_ft", "dynamic")
    assert found.reasons[cells[9].id] == "Failed: out of memory."
    assert found.reasons[cells[8].id] == "Unsupported: no kernel."
    assert decide([], {}, records.POLICY).chosen is None


def test_without_quality_nothing_is_recommended() -> None:
    cells, _ = records.grid()
    dummies = [
        replace(r, measurements=tuple(m for m in r.measurements if not m.metric.startswith("quality/"))) for r in cells
    ]
    found = decide(dummies, {}, records.POLICY)
    assert found.chosen is None
    assert "no cell's quality was measured" in found.sentences[0]
    assert "For sizing only" in found.sentences[1]


def test_too_few_rows_are_not_enough_evidence() -> None:
    cells, rows = run(cell("lora", "fp16", [1, 1], 2.0), cell("lora", "gptq", [1, 0], 1.0))
    found = decide(cells, rows, records.POLICY)
    assert found.chosen is None
    assert found.sentences[0].startswith("Not enough evidence")
    assert "With 2 rows" in found.sentences[1]
    cells, rows = records.grid()
    few = decide(cells, {i: made[:2] for i, made in rows.items()}, records.POLICY)
    assert few.chosen is None, "what counts is how many rows could be paired"


def test_a_cell_without_shared_rows_is_not_judged() -> None:
    cells, rows = run(cell("lora", "fp16", [1] * 50, 2.0), cell("lora", "gptq", [1] * 49 + [0], 1.0))
    del rows[cells[1].id]
    found = decide(cells, rows, records.POLICY)
    assert found.chosen == cells[0].id
    assert "cannot be compared" in found.reasons[cells[1].id]


def test_several_suites_are_not_pooled() -> None:
    cells, rows = records.grid()
    cells[0] = replace(cells[0], suite="other", id="smollm2_135m/prompt_rag/fp16/other")
    found = decide(cells, rows, records.POLICY)
    assert found.chosen is None
    assert "several suites" in found.sentences[0]


def test_a_bad_policy_is_told_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        read_policy({"name": "p", "objective": "speed", "margin": 5, "min_qualty": 0.5, "max_p95_e2e_ms": "fast"})
    assert len(caught.value.mistakes) == 4
    assert any("'min_qualty'" in m for m in caught.value.mistakes)


@pytest.mark.parametrize("path", sorted((resource("conf") / "policy").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_ready_policies_can_be_read_and_decide(path: Path) -> None:
    policy: Any = OmegaConf.to_container(OmegaConf.load(path))
    assert read_policy(policy).name == path.stem
    cells, rows = records.grid()
    assert decide(cells, rows, policy).chosen is not None


def test_labels_are_short_only_where_they_tell_cells_apart() -> None:
    assert labels(["m/lora/int8/s", "m/lora/awq/s"]) == {"m/lora/int8/s": "lora/int8", "m/lora/awq/s": "lora/awq"}
    two = ["m/lora/int8/s", "n/lora/int8/s"]
    assert labels(two) == {i: i for i in two}
