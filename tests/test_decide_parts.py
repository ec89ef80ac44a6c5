"""Seeds, valid outputs, suites' intervals, the ladder and each knob's flip, each by itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.decide import Candidate, CostLine, Facts, Pair, Policy, choose, decide, read_policy, simple_first
from harness.decide.case import Case, more
from harness.decide.evidence import not_carried
from harness.decide.facts import gathered
from harness.decide.flips import flips
from harness.decide.odds import Draws, _luck, at_ranks, p95_ranks
from harness.decide.policy import COST
from harness.decide.rule import judge
from harness.decide.tables import Scores
from harness.statistics import luck_of_training, paired, paired_over_seeds
from harness.types import RunRecord, Status
from harness.wording import edge, told
from tests import records
from tests.test_decide import cell, on, run

BALANCED = read_policy(records.POLICY)


def seeded(one: tuple[RunRecord, list[dict[str, Any]]], seed: int) -> tuple[RunRecord, list[dict[str, Any]]]:
    return replace(one[0], seed=seed, id=f"{one[0].id}/seed{seed}"), one[1]


def test_seeds_are_one_candidate_with_the_luck_of_training() -> None:
    passes = [[1] * 80 + [0] * 20, [0] * 10 + [1] * 80 + [0] * 10, [1] * 65 + [0] * 35]
    tuned = [seeded(cell("lora", "fp16", p, 1.0), n) for n, p in enumerate(passes)]
    other = [seeded(cell("full_ft", "fp16", [1] * 85 + [0] * 15, 2.0), n) for n in range(3)]
    cells, rows = run(*tuned, *other)
    known = gathered(cells, rows, BALANCED)[0]
    assert [c.id for c in known.candidates] == [tuned[0][0].id, other[0][0].id]
    assert known.candidates[0].quality == pytest.approx(0.75)
    pair = known.pairs[other[0][0].id][tuned[0][0].id]
    around = paired_over_seeds(passes, [[1] * 85 + [0] * 15] * 3, [f"group-{n}" for n in range(100)])
    assert (pair.delta, pair.low, pair.high) == pytest.approx((around.delta, around.low, around.high))
    found = decide(cells, rows, records.POLICY)
    assert found.judged[tuned[0][0].id] == tuple(r.id for r, _ in tuned)
    assert found.reasons[tuned[1][0].id] == "Judged together with lora/fp16."
    assert any("differ in seed alone are one candidate: its quality, p95 and cost" in n for n in found.notes)


def test_what_is_said_of_several_seeds_is_of_all_of_them() -> None:
    """One of three seeds fails 40 rows more: no row of a single seed tells that, nor would more rows."""
    many, few = [1] * 180 + [0] * 20, [1] * 140 + [0] * 60
    best = [seeded(cell("lora", "fp16", many, 2.0), n) for n in range(3)]
    other = [seeded(cell("full_ft", "fp16", p, 1.0), n) for n, p in enumerate((many, few, many))]
    cells, rows = run(*best, *other)
    found = decide(cells, rows, records.POLICY)
    assert found.chosen == cells[0].id
    assert "without a difference" not in found.sentences[1]
    assert "as 3 seeds of 200 rows likely show only differences of" in found.sentences[1]
    assert found.reasons[cells[3].id].endswith("; more seeds, and then more rows, would tell.")
    (pair,) = gathered(cells, rows, BALANCED)[0].pairs[cells[0].id].values()
    known, _, tables = gathered(cells, rows, BALANCED)
    top, less = known.candidates
    case = Case(BALANCED, known, judge(known, BALANCED), {r.id: r for r in cells}, {r.id: r.id for r in cells}, tables)
    told = case.pair(less, top)
    assert told is not None
    assert (told.delta, told.low, told.high) == pytest.approx((pair.delta, pair.low, pair.high))
    assert (told.gained, told.lost, told.n, told.seeds) == (0, 40, 200, 3)
    back = case.pair(top, less)
    assert back is not None
    assert (back.delta, back.gained, back.seeds) == pytest.approx((-told.delta, 40, 3))
    assert more(told, BALANCED) == 0


def test_where_seeds_do_not_carry_a_choice_more_of_them_are_asked_for() -> None:
    passes = [[int((7 * n + 31 * s) % 20 < k) for n in range(40)] for s, k in enumerate((18, 4, 10))]
    dear = [seeded(cell("lora", "fp16", p, 3.0), n) for n, p in enumerate(passes)]
    cheap = [seeded(cell("prompt_rag", "fp16", p, 1.0), n) for n, p in enumerate(reversed(passes))]
    cells, rows = run(*dear, *cheap)
    known, _, tables = gathered(cells, rows, BALANCED)
    case = Case(BALANCED, known, judge(known, BALANCED), {r.id: r for r in cells}, {r.id: r.id for r in cells}, tables)
    apart = Draws(np.tile([0.2, 0.8], (10, 1)), np.ones((10, 2), dtype=bool))
    said = not_carried(case, apart)
    assert said is not None
    assert said[2].startswith("More seeds, and then more rows, would tell; until then, ")


def test_the_luck_of_training_is_drawn_where_seeds_tell_it() -> None:
    rng = np.random.default_rng(0)
    far = {n: np.array([float(at < 20 * (n + 1)) for at in range(100)]) for n in range(3)}
    near = {n: np.array([float(at < 40) for at in range(100)]) for n in range(3)}
    back, apart = ({n: far[2 - n] for n in range(3)}, {n + 3: far[n] for n in range(3)})
    table = Scores(1.0, np.zeros((100, 4)), list(range(100)), {"far": far, "near": near, "back": back, "apart": apart})
    luck = _luck(rng, table, ["far", "near", "one", "far", "back", "apart"], 4000)
    assert np.quantile(np.abs(luck[:, 0]), 0.5) > 0.05  # means of 20, 40 and 60%
    assert np.abs(luck[:, 1:3]).max() < 1e-12
    assert luck[:, 3] == pytest.approx(luck[:, 0]) == -luck[:, 4], "of the same seeds"
    assert abs(np.corrcoef(np.sign(luck[:, [0, 5]]).T)[0, 1]) < 0.1
    groups = [n // 20 for n in range(100)]
    (drawn,) = _luck(rng, replace(table, groups=groups), ["far"], 4000).T
    seeds = np.array(list(far.values()))
    error = luck_of_training(seeds, groups)
    assert np.quantile(np.abs(drawn), 0.5) == pytest.approx(0.8165 * error, rel=0.05), "of whole groups, as t with 2"
    assert error < 0.9 * luck_of_training(seeds)


def test_facts_choose_by_any_margin_as_a_decision_anew_does() -> None:
    cells, rows = run(*(cell(a, "fp16", [1] * n + [0] * (200 - n), usd) for a, n, usd in
                        (("prompt_rag", 90, 1.0), ("lora", 150, 2.0), ("full_ft", 152, 3.0))))  # fmt: skip
    known = gathered(cells, rows, BALANCED)[0]
    chosen = [choose(known, replace(BALANCED, margin=margin)) for margin in (0.05, 0.34, 0.42)]
    assert chosen == [decide(cells, rows, records.POLICY | {"margin": m}).chosen for m in (0.05, 0.34, 0.42)]
    assert chosen == [cells[n].id for n in (1, 1, 0)]
    (found,) = (
        f for f in flips(known, BALANCED, {r.id: r.id for r in cells}, None) if (f.knob, f.side) == ("margin", "above")
    )
    assert (found.to, round(found.at, 2)) == (cells[0].id, 0.37)


def test_two_seeds_make_a_far_worse_cell_none_of_the_best() -> None:
    """A t of two seeds has no variance, by which cells of a family would be pulled together."""
    rng, made = np.random.default_rng(4), []
    hard, luck = rng.random(144), rng.normal(0, 0.03, 2)
    for q, share in zip(records.QUANTIZATIONS, (0.9, 0.9, 0.88, 0.6, 0.89), strict=True):
        for seed, own in enumerate(share + luck + rng.normal(0, 0.02, 2)):
            passes = (0.8 * hard + 0.2 * rng.random(144) < own).astype(int).tolist()
            made.append(seeded(cell("lora", q, passes, 1.0), seed))
    cells, rows = run(*made)
    found = decide(cells, rows, records.POLICY | {"objective": "quality", "margin": 0.0})
    assert found.odds[f"{records.cell_id('lora', 'awq')}/seed0"].best < 0.1


def test_invalid_outputs_break_a_limit() -> None:
    many = [1] * 90 + [0] * 10
    (cut, a), (whole, b) = cell("lora", "fp16", many, 1.0), cell("full_ft", "fp16", many, 2.0)
    rows = {cut.id: a, whole.id: b}
    cut = records.with_value(cut, "truncated_share", 0.2)
    assert decide([cut, whole], rows, records.POLICY).chosen == cut.id
    found = decide([cut, whole], rows, records.POLICY | {"min_valid": 0.9})
    assert found.chosen == whole.id
    assert found.reasons[cut.id] == "Its share of valid outputs of 80% is below the limit of 90%."
    by_score = records.with_value(whole, "quality/greeting", 0.5)
    found = decide([cut, by_score], rows, records.POLICY | {"min_valid": 0.6, "valid_metric": "greeting"})
    assert found.chosen == cut.id
    assert "50% is below the limit of 60%" in found.reasons[whole.id]
    lacking = replace(cut, measurements=tuple(m for m in cut.measurements if m.metric != "truncated_share"))
    found = decide([lacking, whole], rows, records.POLICY | {"min_valid": 0.1})
    assert found.reasons[cut.id] == "Its share of valid outputs was not measured, and the policy limits it."


def test_the_interval_of_weighted_suites_adds_half_widths_as_squares() -> None:
    a, b = [1] * 150 + [0] * 50, [0] * 9 + [1] * 151 + [0] * 40
    first = on("a", cell("prompt_rag", "fp16", a, 1.0), cell("lora", "fp16", b, 2.0))
    second = on("b", cell("prompt_rag", "fp16", a, 1.0), cell("lora", "fp16", [1] * 190 + [0] * 10, 2.0))
    known = gathered(*run(*first, *second), replace(BALANCED, suites={"a": 3, "b": 1}))[0]
    (top,) = (c for c in known.candidates if "lora" in c.id)
    (other,) = (c for c in known.candidates if c is not top)
    assert top.quality == pytest.approx(0.75 * 0.755 + 0.25 * 0.95)
    assert top.lowest_quality == pytest.approx(0.755)
    pair = known.pairs[top.id][other.id]
    each = [paired(a, b), paired(a, [1] * 190 + [0] * 10)]
    assert pair.delta == pytest.approx(0.75 * each[0].delta + 0.25 * each[1].delta)
    below = math.hypot(0.75 * (each[0].delta - each[0].low), 0.25 * (each[1].delta - each[1].low))
    assert pair.low == pytest.approx(pair.delta - below)


def states(*cells: tuple[RunRecord, list[dict[str, Any]]], **policy: Any) -> dict[str, str]:
    return {r.name: r.state for r in decide(*run(*cells), records.POLICY | policy).ladder}


def test_the_ladder_ships_nothing_that_the_decision_does_not() -> None:
    none = run(cell("prompt_rag", "fp16", [0] * 40, 1.0), cell("lora", "fp16", [0] * 40, 1.0))
    some = run(cell("lora", "fp16", [1] * 20 + [0] * 20, 1.0), cell("lora", "gptq", [1] * 21 + [0] * 19, 1.0))
    for cells, floor in ((none, None), (some, 0.9)):
        found = decide(*cells, records.POLICY | {"min_quality": floor})
        assert found.chosen is None
        said = " ".join(rung.sentence for rung in found.ladder)
        assert "that is enough" not in said
        assert "the one to ship" not in said
    assert "The quantized cell is the one of highest quality measured" in said


def test_the_ladder_knows_a_model_that_is_taken_as_it_is() -> None:
    taken, kept = cell("prompt_rag", "fp16", [1] * 190 + [0] * 10, 1.0)
    taken = replace(taken, adaptation="as_is", id=taken.id.replace("prompt_rag", "as_is"))
    cells = run((taken, kept), cell("lora", "fp16", [1] * 100 + [0] * 100, 2.0))
    found = decide(*cells, records.POLICY)
    assert found.chosen == cells[0][0].id
    prompt, lora, *_ = found.ladder
    assert prompt.sentence == "The model as it came reaches 95% (as_is/fp16)."
    enough = decide(*cells, records.POLICY | {"min_quality": 0.5}).ladder[0]
    assert enough.sentence.endswith("(as_is/fp16), and that is enough."), "by a floor that it holds"
    assert lora.state == "not needed"
    three = [*cells[0], records.record("prompt_rag", "fp16")]
    assert decide(three, cells[1], records.POLICY).reference == three[-1].id, "of two as simple, the one prompted"


def test_a_model_that_is_taken_as_it_is_is_as_simple_as_one_that_is_prompted() -> None:
    assert simple_first("as_is", "fp16") == simple_first("prompt_rag", "fp16") < simple_first("lora", "fp16")
    assert simple_first("lora", "gptq") < simple_first("full_ft", "fp16") < simple_first("another", "fp16")


def test_the_ladder_says_what_was_taken_and_what_comes_next() -> None:
    few, many = [1] * 100 + [0] * 100, [1] * 180 + [0] * 20
    prompt, tuned, small = (
        cell("prompt_rag", "fp16", few, 1.0), cell("lora", "fp16", many, 1.0), cell("lora", "int8", many, 0.5)
    )  # fmt: skip
    full = cell("full_ft", "fp16", many, 2.0)
    rungs = ("Prompt and retrieval", "LoRA", "Quantization or a smaller model", "Full fine-tuning")
    for cells, policy, expected in (
        ((prompt,), {}, ("taken", "next", "not measured", "not measured")),
        ((prompt,), {"min_quality": 0.4}, ("taken", "not measured", "next", "not measured")),
        ((prompt, tuned), {}, ("taken", "taken", "next", "not measured")),
        ((prompt, tuned, small), {}, ("taken", "taken", "taken", "not measured")),
        ((prompt, tuned, small, full), {}, ("taken", "taken", "taken", "not needed")),
        ((prompt, tuned, small), {"min_quality": 0.95}, ("taken", "taken", "not needed", "next")),
        ((tuned,), {}, ("not measured", "taken", "next", "not measured")),
        ((prompt, full), {}, ("taken", "next", "not measured", "taken")),
    ):
        found = {r.name: r for r in decide(*run(*cells), records.POLICY | policy).ladder}
        assert tuple(found[r].state for r in rungs) == expected, [r.id for r, _ in cells]
    assert found["LoRA"].sentence.endswith("it may add as much as full fine-tuning, for less.")
    lost = decide(*run(cell("prompt_rag", "fp16", many, 1.0), cell("full_ft", "fp16", few, 2.0)), records.POLICY).ladder
    assert lost[3].sentence.startswith("It is shown to lose quality")
    assert (lost[1].state, lost[1].sentence[-41:]) == ("next", "cheapest way to learn what training adds.")


def test_the_ladder_leaves_open_what_few_rows_do() -> None:
    """Where nothing is right no step is above another, and the simplest is as good as any."""
    nothing = [cell(a, q, [0] * 8, 1.0) for a in ("full_ft", "lora", "prompt_rag") for q in ("fp16", "int8")]
    found = decide(*run(*nothing), records.POLICY)
    assert [r.state for r in found.ladder] == ["taken", "open", "open", "open", "next"]
    assert found.ladder[1].sentence.startswith(
        "These rows leave open whether it adds quality: lora/fp16 against prompt_"
    )
    assert "Measured, and the unquantized cell is as good as any other measured (" in found.ladder[2].sentence
    many = [cell(a, "fp16", [1] * 180 + [0] * 20, c) for a, c in (("prompt_rag", 1.0), ("lora", 2.0))]
    assert states(*many)["LoRA"] == "not needed"


def test_the_ladder_leaves_open_what_the_decision_does_of_a_quantized_cell() -> None:
    whole = cell("lora", "fp16", [1] * 180 + [0] * 20, 3.0)
    for lost, gained, state in ((7, 3, "open"), (0, 0, "not needed"), (60, 0, "not needed")):
        passes = [0] * lost + [1] * (180 - lost + gained) + [0] * (20 - gained)
        small = cell("lora", "int8", passes, 1.0 if lost else 4.0)
        found = decide(*run(whole, small), records.POLICY)
        assert found.chosen == whole[0].id
        assert ("would tell" in found.reasons[small[0].id], found.ladder[2].state) == (state == "open", state)


@pytest.mark.parametrize(("knob", "other"), [("adaptation.rank", False), ("model.id", True)])
def test_the_ladder_compares_a_quantized_cell_with_its_own_variant(knob: str, other: bool) -> None:
    """And cells of one model alone, by whatever knob it was named."""
    made = []
    for at, passes in (("4", 100), ("64", 180)):
        for a, q in (("lora", "fp16"), ("lora", "int8"), ("prompt_rag", "fp16")):
            good = passes if a == "lora" else 90 if at == "4" else 50
            one, kept = cell(a, q, [1] * good + [0] * (200 - good), 0.5 if q == "int8" else 1.0)
            variant = f"{knob}={at}"
            made.append((replace(one, id=f"{one.id}/{variant}", config={**one.config, "variant": variant}), kept))
    _, lora, small, _ = decide(*run(*made), records.POLICY).ladder
    assert f"(lora/int8 {knob}=64 against lora/fp16 {knob}=64: 0 points" in small.sentence
    assert f"against prompt_rag/fp16 {knob}={'64' if other else '4'}: " in lora.sentence
    left = [(r, k) for r, k in made if r.quantization == "fp16" or r.id.endswith("=4")]
    assert decide(*run(*left), records.POLICY).ladder[2].sentence == (
        f"Quantization of lora/fp16 {knob}=64 is the next step worth trying: it was not measured here."
    )


@pytest.mark.parametrize(
    ("gone", "asks", "said"),
    [
        ("cost_usd_per_1000 throughput_requests_per_s", {}, "no cell has a measured cost per 1,000 requests, which"),
        ("cost_usd_per_1000 throughput_requests_per_s", {"min_quality": 0.5}, "no cell of enough quality has a"),
        ("e2e_ms/p95", {"objective": "e2e_ms/p95"}, "no cell has a measured p95 response time, which"),
        ("truncated_share", {"min_valid": 0.9}, "no cell has a measured share of valid outputs, which"),
        ("memory_bytes/peak_rss", {"max_memory_bytes": 1e12}, "no cell has a measured peak memory, which"),
        (
            "cost_usd_per_1000 throughput_requests_per_s|memory_bytes/peak_rss",
            {"max_memory_bytes": 1e12},
            "no cell has a measured cost per 1,000 requests and a measured peak memory, which",
        ),
    ],
)
def test_a_number_that_was_not_measured_is_no_broken_limit(gone: str, asks: dict[str, Any], said: str) -> None:
    """A cell of too low quality may have it, or each lack another; nothing is to be tried next but to measure it."""
    made = [cell(a, q, [1] * 90 + [0] * 10, 1.0) for a in ("prompt_rag", "lora", "full_ft") for q in ("fp16", "int8")]
    lacks = [kind.split() for kind in gone.split("|")]
    bare = [(replace(r, measurements=tuple(m for m in r.measurements if m.metric not in lacks[n % len(lacks)])), k)
            for n, (r, k) in enumerate(made)]  # fmt: skip
    low = [cell("lora", "awq", [1] * 30 + [0] * 70, 1.0)] if "min_quality" in asks else []
    found = decide(*run(*bare, *low), records.POLICY | asks)
    assert said in found.sentences[0]
    assert "next" not in [r.state for r in found.ladder]


def test_the_best_of_many_cells_is_not_said_to_add_quality_for_its_luck() -> None:
    """10 rows gained and 1 lost is shown (p 0.012) of one pair of cells and of four, and not of five."""
    prompt = cell("prompt_rag", "fp16", [1] * 100 + [0] * 100, 1.0)
    lucky, others = [0] + [1] * 109 + [0] * 90, [1] * 90 + [0] * 110
    said = {}
    for n in (1, 4, 5):
        tuned = [cell("lora", q, lucky if not k else others, 2.0) for k, q in enumerate(records.QUANTIZATIONS[:n])]
        large = [(records.with_value(r, "memory_bytes/peak_rss", 9e9), kept) for r, kept in tuned]
        said[n] = decide(*run(prompt, *large), records.POLICY | {"max_memory_bytes": 5e9}).ladder[1]
    assert [said[n].sentence.partition(":")[0] for n in said] == [
        "It is shown to add quality", "It is shown to add quality", "These rows leave open whether it adds quality"
    ]  # fmt: skip
    assert said[5].sentence.endswith(", the best of 5 such pairs.")
    assert [said[n].state for n in said] == ["not needed", "not needed", "open"]


@pytest.mark.parametrize(
    ("gained", "lost", "state", "says"),
    [(40, 5, "next", "would likely still help"), (30, 18, "open", "leaves open whether more"),
     (1, 1, "not needed", "less than the margin, so more of the same rows would not help much")],
)  # fmt: skip
def test_the_ladder_says_of_more_rows_what_their_curve_shows(gained: int, lost: int, state: str, says: str) -> None:
    passes = [0] * lost + [1] * 150 + [0] * (50 - lost)
    every = [cell(a, q, passes, 1.0) for a in ("prompt_rag", "full_ft", "lora") for q in ("fp16", "int8")]
    half, kept = cell("prompt_rag", "fp16", [1] * (lost + 150 - gained) + [0] * (50 - lost + gained), 1.0)
    last = decide(*run(*every, (replace(half, id=f"{half.id}/curve=0.5"), kept)), records.POLICY).ladder[-1]
    assert (last.name, last.state) == ("More training rows", state)
    assert says in last.sentence


def test_the_ladder_says_which_steps_were_tried_in_vain() -> None:
    prompt = cell("prompt_rag", "fp16", [1] * 100 + [0] * 100, 1.0)
    bad = records.ended("lora", "fp16", Status.FAILED, "out of memory")
    _, lora, small, full = decide([prompt[0], bad], {prompt[0].id: prompt[1]}, records.POLICY).ladder
    assert (lora.state, lora.sentence) == ("failed", "Tried as lora/fp16, which failed: out of memory.")
    assert (small.state, full.sentence) == ("next", "No cell that ended ok is trained so.")
    none = records.ended("prompt_rag", "awq", Status.UNSUPPORTED, "no kernel")
    _, lora, small, _ = decide([prompt[0], none], {prompt[0].id: prompt[1]}, records.POLICY).ladder
    assert (lora.state, small.state) == ("next", "unsupported")
    assert small.sentence == "Tried as prompt_rag/awq, which cannot run here: no kernel."


def test_the_ladder_names_the_model_that_lacks_a_step() -> None:
    (small, a), (tuned, b) = cell("prompt_rag", "fp16", [0] * 40, 1.0), cell("full_ft", "fp16", [1, 0] * 20, 1.0)
    other = replace(small, id=small.id.replace(small.model, "qwen"), model="qwen")
    other = records.with_value(other, "quality/good", 1.0)
    rows = {small.id: a, tuned.id: b, other.id: [{**r, "scores": {**r["scores"], "good": 1}} for r in a]}
    found = decide([small, tuned, other], rows, records.POLICY)
    assert found.chosen == other.id
    assert found.ladder[3].sentence == "No cell of qwen that ended ok is trained so."


def two(**changes: Any) -> Facts:
    """A simple, cheap cell 10 points below another."""
    a = Candidate("a", 0, 0.8, 0.8, 300.0, 0.0, 3e9, 1.0, CostLine(1.0, 0.0, "batched"))
    b = Candidate("b", 2, 0.9, 0.9, 200.0, 0.0, 2e9, 1.0, CostLine(0.5, 50.0, "batched"))
    return Facts((replace(a, **changes), b), {"b": {"a": Pair(-0.1, -0.14, -0.06)}}, 50_000.0, 1.0)


@pytest.mark.parametrize(
    ("knob", "side", "at"),
    [
        ("min_quality", "above", 0.8), ("max_p95_e2e_ms", "below", 300.0), ("max_memory_bytes", "below", 3e9),
        ("margin", "below", 0.14), ("volume_requests", "above", 100_000.0),
    ],
)  # fmt: skip
def test_each_knob_flips_where_it_should(knob: str, side: str, at: float) -> None:
    known, policy = two(), Policy(COST, pace=1.0, margin=0.15)
    assert choose(known, policy) == "a"
    (found,) = (f for f in flips(known, policy, {"a": "A", "b": "B"}, 2.0) if f.knob == knob)
    assert (found.side, found.to) == (side, "b")
    assert found.at == pytest.approx(at)
    assert found.sentence.startswith("The choice first changes with ")
    assert found.sentence.endswith(": to B.")
    beyond: Any = {
        knob: math.nextafter(found.at, math.inf if side == "above" else 0) * (1.000001 if side == "above" else 0.999999)
    }
    within: Any = {knob: found.at * (0.999999 if side == "above" else 1.000001)}
    assert choose(known, replace(policy, **beyond)) == "b"
    assert choose(known, replace(policy, **within)) == "a"


def test_any_limit_on_what_was_not_measured_is_told_as_such() -> None:
    policy, names = Policy(COST, pace=1.0, margin=0.15), {"a": "A", "b": "B", "c": "C"}
    for knob, field, words in (
        ("max_p95_e2e_ms", "p95_ms", "limit on the p95 response time"),
        ("max_memory_bytes", "memory_bytes", "limit on peak memory"),
    ):  # fmt: skip
        gone: Any = {field: None}
        known = two(**gone)
        assert choose(known, policy) == "a"
        first, *rest = (f for f in flips(known, policy, names, None) if f.knob == knob)
        assert (first.to, first.at, first.now) == ("b", math.inf, None)
        assert first.sentence == f"The choice first changes with any {words}: to B."
        assert [f.to for f in rest] == [None], "b is the only one left"
        assert rest[0].sentence.startswith(f"With a {words} below ")
        assert rest[0].sentence.endswith(", no cell is left.")
        slower = replace(known.candidates[1], id="c", quality=0.85, p95_ms=100.0, memory_bytes=1e9, rank=3)
        more = replace(known, candidates=(*known.candidates, slower), pairs={**known.pairs, "c": {}})
        limit = getattr(known.candidates[1], field)
        _, then = (f for f in flips(more, policy, names, None) if f.knob == knob)
        assert (then.side, then.at, then.to) == ("below", limit, "c"), "and on from there"
        assert then.sentence.startswith(f"The choice next changes with a {words} below ")
        for value, chosen in ((1e12, "b"), (limit, "b"), (0.99 * limit, "c")):
            asked: Any = {knob: value}
            assert choose(more, replace(policy, **asked)) == chosen


@pytest.mark.parametrize(("once_usd", "at"), [(50.0, 100_000), (0.051, 102), (0.049, None)])
def test_fewer_requests_flip_to_what_costs_less_to_build(once_usd: float, at: float | None) -> None:
    """But for so few that nobody builds for them."""
    policy = Policy(COST, pace=1.0, margin=0.15, volume_requests=200_000.0)
    a, b = two().candidates
    known = replace(two(), candidates=(a, replace(b, cost=CostLine(0.5, once_usd, "batched"))))
    assert choose(known, policy) == "b"
    found = [f for f in flips(known, policy, {"a": "A", "b": "B"}, None) if f.knob == "volume_requests"]
    assert [(f.side, f.to, f.now) for f in found] == [("below", "a", 200_000.0)] * bool(at)
    assert [f.at for f in found] == pytest.approx([at] if at else [])


def test_volume_and_price_flip_where_the_simpler_cell_is_no_longer_told_apart() -> None:
    """`b` costs $1 and, once, $0.50 of labelling, `a` $1.20: told apart where the cheaper side of `a` is above that."""
    known = two(cost=CostLine(1.2, 0.0, "batched"))
    a, b = known.candidates
    known = replace(known, candidates=(a, replace(b, cost=CostLine(1.0, 0.5, "batched", labelling_usd=0.5))))
    policy = Policy(COST, margin=0.15, pace=1.05)
    assert choose(known, policy) == "b"
    found = {f.knob: f for f in flips(known, policy, {"a": "A", "b": "B"}, 2.0) if f.to == "a"}
    unsure = 0.05 * 1.2 / 1.05
    assert found["volume_requests"].at == pytest.approx(500 / (0.2 - unsure))
    assert found["usd_per_hour"].at == pytest.approx(2.0 * 0.01 / (0.2 - unsure))


def test_the_price_of_hardware_flips_where_labelling_weighs_less() -> None:
    """`a` costs $0.50 of labelling and $0.60 of hardware per 1,000, `b` $1.50 of hardware: alike at 0.5/0.9 of the
    price."""
    known = two(cost=CostLine(0.6, 25.0, "batched", labelling_usd=25.0))
    (found,) = (
        f
        for f in flips(known, Policy(COST, pace=1.0, margin=0.15), {"a": "A", "b": "B"}, 1.8)
        if f.knob == "usd_per_hour"
    )
    assert (found.side, found.to, found.now) == ("below", "b", 1.8)
    assert found.at == pytest.approx(1.0)


def test_a_limit_that_holds_a_cell_back_flips_where_it_lets_it_in() -> None:
    known = two()
    for knob, value, at, side in (
        ("min_quality", 0.85, 0.8, "below"), ("max_p95_e2e_ms", 250.0, 300.0, "above"),
        ("max_memory_bytes", 2.5e9, 3e9, "above"), ("margin", 0.1, 0.14, "above"),
    ):  # fmt: skip
        changed: Any = {"margin": 0.15, "pace": 1.0, knob: value}
        policy = Policy(COST, **changed)
        assert choose(known, policy) == "b"
        found = [f for f in flips(known, policy, {"a": "A", "b": "B"}, None) if f.knob == knob and f.to == "a"]
        assert [(f.side, f.now) for f in found] == [(side, value)]
        assert found[0].at == pytest.approx(at)


@pytest.mark.parametrize(
    ("knob", "scale", "told"),
    [("max_p95_e2e_ms", 1.0, "above 1.453 s: to B"), ("max_memory_bytes", 1e6, "above 1.453 GB: to B"),
     ("max_memory_bytes", 1e3, "above 1.453 MB: to B")],
)  # fmt: skip
def test_a_flip_is_not_rounded_beyond_the_next(knob: str, scale: float, told: str) -> None:
    a, b = two().candidates
    sizes = zip((a, b, replace(b, id="c", rank=3, quality=0.95)), (1000.0, 1452.7, 1457.2), strict=True)
    made = tuple(replace(c, p95_ms=scale * at, memory_bytes=scale * at) for c, at in sizes)
    known = Facts(made, {c.id: {} for c in made}, 50_000.0, 1.0)
    (found,) = (
        f for f in flips(known, Policy(COST, **{knob: 1200 * scale}), {"a": "A", "b": "B", "c": "C"}, None)  # type: ignore[arg-type]
        if f.knob == knob and f.side == "above"
    )  # fmt: skip
    assert f"{told}." in found.sentence


@pytest.mark.parametrize(
    ("value", "unit", "side", "least", "told"),
    [
        (12_341.0, "requests", "above", 12_350, "12,350 requests"), (0.12341, "USD", "above", 0.1235, "$0.1235"),
        (123.41, "USD", "above", 123.5, "$123.5"), (0.70052, "share", "above", 0.7006, "70.06%"),
        (0.03488, "points", "below", 0.0348, "3.48 points"), (3.0, "ms", "above", 3.0, "3.00 ms"),
    ],
)  # fmt: skip
def test_an_edge_has_as_many_digits_as_it_takes(value: float, unit: str, side: str, least: float, told: str) -> None:
    def holds(at: float) -> bool:
        return (value < at <= 1.000001 * least) if side == "above" else (0.999999 * least <= at < value)

    assert edge(value, unit, side, holds) == told


@pytest.mark.parametrize(
    ("ends", "edges", "words"),
    [
        ((-0.43, -0.0534), (-0.05,), "−43 to −5.3"), ((-0.16, -0.003), (0.0,), "−16 to −0.3"),
        ((-0.0497, 0.31), (-0.05, 0.0), "−4.97 to +31"), ((-0.05, 0.002), (-0.05,), "−5 to 0"),
        ((0.0001, 0.16), (), "0 to +16"),
    ],
)  # fmt: skip
def test_an_interval_is_rounded_to_its_side_of_what_was_asked(ends: Any, edges: Any, words: str) -> None:
    assert told(Pair(-0.1, *ends), *edges) == f"−10 points, 95% interval {words}"
    assert told(Pair(-0.004, -0.01, -0.001), 0.0) == "−0.4 points, 95% interval −1 to −0.1"


@pytest.mark.parametrize(
    ("gained", "lost", "asks", "says"),
    [(1, 14, {}, "lies beyond the margin of 5 points: −13 points, 95% interval −20 to −5.1."),
     (0, 6, {"objective": "quality", "margin": 0.2}, "lies below 0: −6 points, 95% interval −11 to −0.5.")],
)  # fmt: skip
def test_the_interval_beside_a_verdict_does_not_round_to_what_it_denies(
    gained: int, lost: int, asks: dict[str, Any], says: str
) -> None:
    passes = [0] * gained + [1] * (80 - gained) + [0] * 20
    best = cell("lora", "fp16", passes, 1.0)
    other = cell("full_ft", "fp16", [1] * gained + [0] * lost + [1] * (80 - gained - lost) + [0] * 20, 1.0)
    found = decide(*run(best, other), records.POLICY | asks)
    assert says in found.reasons[other[0].id]
    assert (says[-6:-1] in found.ladder[3].sentence) == bool(asks), "where the ladder says that it is shown to lose"


@pytest.mark.parametrize("events", [20, 60])
def test_quantiles_of_bootstrap_samples_are_those_of_drawing_them(events: int) -> None:
    """Of as many events as there are samples, or of fewer, as where rounds time the same prompts again."""
    rng = np.random.default_rng(0)
    samples = np.exp(rng.standard_normal(60))
    found = at_ranks(samples.tolist(), p95_ranks(rng, 20_000, events))
    drawn = np.quantile(rng.choice(samples, (20_000, events)), 0.95, axis=1)
    assert np.quantile(found, (0.1, 0.5, 0.9)) == pytest.approx(np.quantile(drawn, (0.1, 0.5, 0.9)), rel=0.02)
