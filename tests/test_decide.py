"""The decision follows its rule, says no more than the rows carry, and does not depend on the order of records."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from harness.decide import argued, decide, parent_of, read_policy
from harness.decide.reasons import _telling
from harness.errors import UserError
from harness.rows import rights
from harness.statistics import paired, wilson
from harness.types import Interval, Measurement, RunRecord, Status
from harness.wording import labels
from tests import records
from tests.cells import POLICIES, policy

Rows = dict[str, list[dict[str, Any]]]


whole = cache(records.record)


def cell(adaptation: str, quantization: str, passes: list[int], cost: float) -> tuple[RunRecord, list[dict[str, Any]]]:
    """A cell whose rows pass as given and that costs this much, without an interval."""
    rows = records.rows(adaptation, quantization, len(passes))
    for row, score in zip(rows, passes, strict=True):
        row["scores"]["good"] = score
    one = records.costing(whole(adaptation, quantization), cost)
    good = sum(passes)
    return records.with_value(one, "quality/good", good / len(passes), wilson(good, len(passes)), len(passes)), rows


def run(*cells: tuple[RunRecord, list[dict[str, Any]]]) -> tuple[list[RunRecord], Rows]:
    return [r for r, _ in cells], {r.id: rows for r, rows in cells}


LOGIN = ("Login & SSO", "Search")

FLOORED = records.POLICY | {"min_quality": 0.1}


def test_the_cheapest_cell_shown_to_be_good_enough_is_chosen() -> None:
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
    assert (
        "interval against lora/fp16 lies beyond the margin of 5 points: −60 points, 95% interval −66 to −52."
        in (found.reasons[records.cell_id("prompt_rag", "fp16")])
    )
    assert "higher: $4.00 against $2.00" in found.reasons[records.cell_id("full_ft", "fp16")]
    assert found.sentences[0].startswith("Ship lora/gptq: 90% (")
    assert (
        "of the 3 cells shown to be within 5 points of the highest quality measured, that of lora/fp16: "
        in (found.sentences[1])
    )
    assert "open" not in found.sentences[1]
    assert found.sentences[2].startswith("The runner-up is lora/fp16: its cost")
    assert len(found.sentences) == 3


def test_a_dearer_cell_that_is_open_is_told_to_be_dearer() -> None:
    best, dearer = (
        cell("lora", "fp16", [1] * 37 + [0] * 11, 0.1),
        cell("lora", "gptq", [0] * 10 + [1] * 36 + [0] * 2, 0.2),
    )
    found = decide(*run(best, dearer), records.POLICY)
    assert found.chosen == best[0].id
    assert "($0.200), but its cost per 1,000 requests is higher: $0.200 against $0.100; nor is it" in found.sentences[2]


@pytest.mark.parametrize(
    ("waiting", "objective", "told"),
    [
        ((), "cost_usd_per_1000", ""),
        (("gptq",), "cost_usd_per_1000", "lora/gptq is host-bound"),
        (("fp16", "gptq"), "cost_usd_per_1000", "Both are host-bound"),
        (("fp16", "gptq"), "quality", ""),
    ],
)
def test_a_choice_by_the_cost_of_steps_that_wait_says_so(waiting: tuple[str, ...], objective: str, told: str) -> None:
    both, rows = run(cell("lora", "fp16", [1] * 80, 0.1), cell("lora", "gptq", [1] * 80, 0.2))
    flag = {r.id: Measurement("host_bound", float(r.quantization in waiting), "flag", "lower", 1) for r in both}
    both = [replace(r, measurements=(*r.measurements, flag[r.id])) for r in both]
    said = decide(both, rows, records.POLICY | {"objective": objective}).sentences[2]
    assert said.startswith("The runner-up is lora/gptq")
    assert ("host-bound" in said, told in said) == (bool(told), True)


def test_a_cheaper_cell_is_not_chosen_for_being_measured_on_few_rows() -> None:
    best, open_, worse = (
        cell("full_ft", "fp16", [1] * 37 + [0] * 11, 0.121),
        cell("full_ft", "gptq", [0] * 14 + [1] * 23 + [1] * 4 + [0] * 7, 0.09),  # 21 points lower, interval to -2
        cell("prompt_rag", "fp16", [0] * 48, 0.1),
    )
    found = decide(*run(best, open_, worse), records.POLICY)
    assert found.chosen == best[0].id
    assert found.sentences[0].startswith("Ship full_ft/fp16: 77% (63% to 87%) of 48 rows pass")
    assert "highest quality measured, and no other cell was shown to be within 5 points of it" in found.sentences[1]
    assert (
        "cheaper by more than timings can tell that is open, as 48 rows likely show only differences of 25 points"
        in (found.sentences[1])
    )
    assert "full_ft/gptq comes first by cost per 1,000 requests ($0.0900), but it is not shown" in found.sentences[2]
    assert found.reasons[open_[0].id].endswith("to −3; were that the true difference, about 111 rows would tell.")
    assert found.reasons[worse[0].id].startswith("Its interval against full_ft/fp16 lies beyond the margin of 5")


def test_open_cells_are_told_beside_a_runner_up() -> None:
    many = [1] * 180 + [0] * 20
    top, sure, noisy = (
        cell("lora", "fp16", many, 3.0),
        cell("lora", "gptq", many, 2.0),
        cell("lora", "awq", [0] * 20 + [1] * 178 + [0] * 2, 1.0),
    )
    found = decide(*run(top, sure, noisy), records.POLICY)
    assert found.chosen == sure[0].id
    assert (
        "for 1 cell cheaper by more than timings can tell that is open, as 200 rows likely show only"
        in found.sentences[1]
    )
    assert "would be needed for 5 points" in found.sentences[1]
    assert found.sentences[2].startswith("The runner-up is lora/fp16")


def test_a_cell_whose_cost_cannot_be_told_apart_is_not_called_cheaper() -> None:
    best, near = (
        cell("lora", "fp16", [1] * 180 + [0] * 20, 1.0),
        cell("full_ft", "fp16", [0] * 20 + [1] * 178 + [0] * 2, 0.99),
    )
    for spread, told in ((0.0, True), (0.05, False)):
        cells = run(best, (records.with_spread(near[0], spread), near[1]))
        found = decide(*cells, records.POLICY | {"pace": 1.0})
        assert found.chosen == best[0].id
        assert ("that is open" in found.sentences[1]) == told


@pytest.mark.parametrize(
    ("gained", "lost", "rows", "groups", "need"),
    [
        (7, 12, 48, 48, "about 1,075"), (0, 1, 6, 6, "about 178"), (0, 0, 48, 7, "about 4,187"),
        (5, 15, 200, 200, "only more than 20,000"), (6, 15, 200, 200, "only more than 20,000"),
    ],
)  # fmt: skip
def test_it_is_told_how_many_rows_would_tell(gained: int, lost: int, rows: int, groups: int, need: str) -> None:
    same = [1] * (rows - gained - lost)
    pair = paired([1] * gained + [0] * lost + same, [0] * gained + [1] * lost + same, [n % groups for n in range(rows)])
    assert _telling(pair, read_policy(records.POLICY)) == f"; were that the true difference, {need} rows would tell"


@pytest.mark.parametrize(
    ("passes", "told"),
    [
        (40, "It has the highest quality{}, and no other cell was shown to be within 5 points of it"),
        (80, "It has the lowest cost per 1,000 requests of the 2 cells shown to be within 5 points of the highest "
         "quality{}, that of lora/fp16: 0 points"),
        (None, "It is the only cell that could be chosen (full_ft/fp16, which could not, has 90%)"),
    ],
)  # fmt: skip
def test_a_better_cell_that_could_not_be_chosen_stands_beside_the_highest_quality(
    passes: int | None, told: str
) -> None:
    top, kept = cell("full_ft", "fp16", [1] * 90 + [0] * 10, 1.0)
    rest = [cell("lora", "fp16", [1] * 80 + [0] * 20, 2.0)]
    rest += [] if passes is None else [cell("lora", "int8", [1] * passes + [0] * (100 - passes), 1.0)]

    def without(metric: str) -> RunRecord:
        return replace(top, measurements=tuple(m for m in top.measurements if m.metric != metric))

    for out, limits in (
        (records.with_value(records.with_value(top, "e2e_ms/p50", 9e3), "e2e_ms/p95", 9e3), {"max_p95_e2e_ms": 7000}),
        (without("cost_usd_per_1000"), {}),
        (without("e2e_ms/p95"), {"objective": "e2e_ms/p95"} if passes != 80 else {"max_p95_e2e_ms": 7000}),
        (without("memory_bytes/peak_rss"), {"max_memory_bytes": 1e12}),
    ):
        found = decide(*run((out, kept), *rest), records.POLICY | limits)
        beside = " of the 2 cells that could be chosen (full_ft/fp16, which could not, has 90%)"
        assert found.sentences[1].startswith(told.format(beside)), limits


def test_without_a_margin_the_highest_quality_is_chosen() -> None:
    top, same = cell("lora", "fp16", [1] * 90 + [0] * 10, 3.0), cell("lora", "gptq", [1] * 90 + [0] * 10, 1.0)
    for objective in ("cost_usd_per_1000", "quality"):
        found = decide(*run(top, same), records.POLICY | {"margin": 0.0, "objective": objective})
        assert found.chosen == top[0].id
        assert found.reasons[same[0].id].startswith(
            "Its quality cannot be told apart from the best" if objective == "quality"
            else "Not shown to be as good as lora/fp16: 0 points"
        )  # fmt: skip
        assert "rows would be needed" not in found.reasons[same[0].id]
        assert "no other cell was shown to be as good as it" in found.sentences[1]


def test_by_quality_the_simplest_that_is_shown_within_the_margin_and_not_shown_worse_is_chosen() -> None:
    top = cell("full_ft", "fp16", [1] * 900 + [0] * 100, 3.0)
    near = cell("lora", "fp16", [1] * 897 + [0] * 103, 2.0)
    less = cell("prompt_rag", "fp16", [1] * 888 + [0] * 112, 1.0)
    unsure = cell("prompt_rag", "int8", [0] * 90 + [1] * 870 + [0] * 40, 1.0)
    found = decide(*run(top, near, less, unsure), records.POLICY | {"objective": "quality", "margin": 0.025})
    assert found.chosen == near[0].id
    assert found.reasons[less[0].id].startswith("Its interval against the best lies below 0: −1 points")
    assert (
        found.reasons[top[0].id] == "Its quality cannot be told apart from that of lora/fp16, and lora/fp16 is simpler."
    )
    assert found.reasons[unsure[0].id].startswith("Not shown to be within 2.5 points of full_ft/fp16")


def test_ties_go_to_the_simpler_cell() -> None:
    many = [1] * 90 + [0] * 10
    (full, a), (lora, b) = cell("full_ft", "gptq", many, 1.0), cell("lora", "fp16", many, 1.04)
    rows = {full.id: a, lora.id: b}
    wide, narrow, unsure = (records.with_spread(r, by) for r, by in ((full, 0.1), (full, 0.005), (lora, 0.1)))
    same_pace = records.POLICY | {"pace": 1.0}
    for cells, chosen in (([wide, lora], lora), ([narrow, lora], full), ([narrow, unsure], lora)):
        assert decide(cells, rows, same_pace).chosen == chosen.id
    paced = decide([narrow, lora], rows, records.POLICY)
    assert paced.chosen == lora.id
    said = "of 2 cells one counts as ahead of another from about 1.10 times on"
    first = f"It is the simplest that none is ahead of by cost per 1,000 requests ({said}, policy.pace), of the 2 cells"
    assert paced.sentences[1].startswith(first)
    pace = "whole timings differ by up to 1.1 times with nothing changed (policy.pace)"
    told = f"Cells near each other in cost per 1,000 requests are not told apart by it: {pace}, so {said}."
    assert told in paced.notes
    assert not any("policy.pace" in s for s in decide([lora], rows, records.POLICY).notes), "one is near no other"
    steady = decide([narrow, lora], rows, same_pace)
    assert not any("policy.pace" in s for s in (*steady.notes, *steady.sentences))
    (awq, c), (plain, d) = cell("lora", "awq", many, 1.0), cell("lora", "fp16", many, 1.0)
    assert decide([awq, plain], {awq.id: c, plain.id: d}, records.POLICY).chosen == plain.id


def test_the_runner_up_is_none_that_another_of_the_rest_is_ahead_of() -> None:
    made = []
    for a, q, cost, spread in (
        ("prompt_rag", "fp16", 1.0, 0.0), ("lora", "fp16", 2.6, 0.0), ("lora", "int8", 1.6, 0.0),
        ("full_ft", "fp16", 1.5, 0.5),
    ):  # fmt: skip
        one, kept = cell(a, q, [1] * 90 + [0] * 10, cost)
        made.append((records.with_spread(one, spread), kept))
    found = decide(*run(*made), records.POLICY)
    assert found.chosen == made[0][0].id
    assert found.sentences[2].startswith("The runner-up is lora/int8: ")


def test_how_often_a_cell_is_the_best_is_not_called_a_choice() -> None:
    """A draw is taken for the truth: nothing is shown in it, and a simpler cell that is alike does not win."""
    found = decide(*records.grid(), records.POLICY)
    assert found.chosen is not None
    assert f"it is the best by the policy in {100 * found.odds[found.chosen].best:.0f}% of the" in found.sentences[1]
    assert "choose" not in found.sentences[1].partition("With rows and timings drawn again")[2]


@pytest.mark.parametrize("objective", ["cost_usd_per_1000", "e2e_ms/p95", "quality"])
def test_the_order_of_records_and_rows_changes_nothing(objective: str) -> None:
    cells, rows = records.grid()
    policy = records.POLICY | {"objective": objective}
    first = decide(cells, rows, policy)
    for seed in range(5):
        rng = random.Random(seed)
        mixed = {i: rng.sample(rows[i], len(rows[i])) for i in rng.sample(sorted(rows), len(rows))}
        assert decide(rng.sample(cells, len(cells)), mixed, policy) == first


def test_no_cell_beats_the_chosen_one_by_quality_and_cost_unless_that_is_open() -> None:
    names = [(a, q) for a in records.ADAPTATIONS for q in records.QUANTIZATIONS]
    for seed in range(30):
        rng = random.Random(seed)
        luck = [rng.random() for _ in range(40)]
        made = []
        for a, q in names[: rng.randint(2, 15)]:
            skill, noise = rng.uniform(0.3, 0.95), rng.choice((0.05, 0.6))
            made.append(
                cell(a, q, [int((1 - noise) * u + noise * rng.random() < skill) for u in luck], rng.uniform(1, 9))
            )
        cells, rows = run(*made)
        found = decide(cells, rows, records.POLICY | {"margin": rng.choice((0.0, 0.05, 0.1)), "pace": 1.0})
        value = {r.id: (r.value("quality/good"), r.value("cost_usd_per_1000")) for r in cells}
        chosen = found.chosen or found.try_first
        assert chosen is not None
        quality, cost = value[chosen]
        assert quality is not None
        assert cost is not None
        for i, (other_quality, other_cost) in value.items():
            assert other_quality is not None
            assert other_cost is not None
            better = other_quality.value >= quality.value and other_cost.value < cost.value
            unclear = found.reasons.get(i, "").startswith("Not shown to be")
            assert not better or unclear, f"seed {seed}: {i} beats {chosen}"
        pair = found.against_best
        assert pair is None or pair.low > -found.margin or (pair.high >= 0 and pair.delta >= -found.margin)


def test_hard_limits_hold_and_name_what_they_broke() -> None:
    cells, rows = records.grid()
    found = decide(cells, rows, records.POLICY | {"max_p95_e2e_ms": 2400, "min_quality": 0.5})
    assert found.chosen == records.cell_id("lora", "dynamic")
    assert "above the limit of 2.4 s" in found.reasons[records.cell_id("full_ft", "dynamic")]
    assert "below the floor of 50%" in found.reasons[records.cell_id("prompt_rag", "fp16")]
    none = decide(cells, rows, records.POLICY | {"max_memory_bytes": 1000})
    assert none.chosen is None
    assert "no cell ended ok within the policy's limits" in none.sentences[0]
    assert set(none.reasons) == {r.id for r in cells}


def test_a_number_that_breaks_a_limit_is_told_apart_from_it() -> None:
    one, rows = cell("lora", "fp16", [1] * 5 + [0] * 11, 1.0)
    for limits, value, said in (
        ({"min_quality": 0.3145}, ("quality/good", 0.3125), "quality of 31% is below the floor of 31.45%."),
        ({"min_quality": 0.31}, ("quality/good", 0.3099), "quality of 30.99% is below the floor of 31%."),
        ({"min_valid": 0.995}, ("truncated_share", 0.0052), "outputs of 99% is below the limit of 99.5%."),
        ({"min_quality": 0.5}, ("quality/good", 1 / 288), "quality of 0.3% is below the floor of 50%."),
        ({"min_quality": 0.0005}, ("quality/good", 0.00031), "quality of 0.03% is below the floor of 0.05%."),
        ({"min_quality": 1.0}, ("quality/good", 287 / 288), "quality of 99.7% is below the floor of 100%."),
        ({"min_quality": 0.5}, ("quality/good", 0.0), "quality of 0% is below the floor of 50%."),
        ({"max_p95_e2e_ms": 5070}, ("e2e_ms/p95", 5071.2), "time of 5.071 s is above the limit of 5.07 s."),
        ({"max_p95_e2e_ms": 900}, ("e2e_ms/p95", 2500.0), "time of 2.50 s is above the limit of 900 ms."),
        ({"max_memory_bytes": 6e9}, ("memory_bytes/peak_rss", 6.001e9), "6.001 GB is above the limit of 6 GB."),
    ):  # fmt: skip
        found = decide([records.with_value(one, *value)], {one.id: rows}, records.POLICY | limits)
        assert found.reasons[one.id].endswith(said)


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
    assert found.chosen == records.cell_id("lora", "fp16")
    assert found.reasons[cells[9].id] == "Failed: out of memory."
    assert found.reasons[cells[8].id] == "Unsupported: no kernel."
    assert decide([], {}, records.POLICY).chosen is None
    assert decide(cells[8:9], {}, records.POLICY).sentences[1] == "1 of 1 cell failed, or cannot run here."
    alone = decide(cells[:1], rows, records.POLICY | {"max_memory_bytes": 1000})
    assert alone.sentences[1] == "1 of 1 cell ended ok; each breaks a limit or lacks a number."


def test_without_quality_nothing_is_recommended() -> None:
    cells, _ = records.grid()
    dummies = [
        replace(r, measurements=tuple(m for m in r.measurements if not m.metric.startswith("quality/"))) for r in cells
    ]
    found = decide(dummies, {}, records.POLICY)
    assert found.chosen is None
    assert "no cell's quality was measured" in found.sentences[0]
    assert "For sizing only" in found.sentences[1]


def test_cells_that_get_nothing_right_are_not_recommended() -> None:
    cells, rows = run(cell("prompt_rag", "fp16", [0] * 40, 2.0), cell("lora", "fp16", [0] * 40, 1.0))
    found = decide(cells, rows, records.POLICY)
    assert found.chosen is None
    assert found.sentences[0] == "No recommendation: no cell got a single row of “good” right."
    assert found.sentences[1] == (
        "Of 2 cells that could be chosen, none scores above 0 on 40 rows, so none does this task yet."
    )
    one, scored = run(cell("prompt_rag", "fp16", [0] * 40, 2.0), cell("lora", "fp16", [1] + [0] * 39, 1.0))
    assert decide(one, scored, records.POLICY).chosen


@pytest.mark.parametrize(("passes", "answers", "ships"), [(48, 1, False), (48, 2, True), (60, 1, True)])
def test_one_answer_to_all_rows_is_not_shipped(passes: int, answers: int, ships: bool) -> None:
    """Unless it is right for all of them."""
    cells, rows = run(
        cell("prompt_rag", "fp16", [1] * passes + [0] * (60 - passes), 1.0),
        cell("lora", "fp16", [1] * 3 + [0] * 57, 2.0),
    )
    rows = {**rows, cells[0].id: [{**r, "output": LOGIN[n % answers]} for n, r in enumerate(rows[cells[0].id])]}
    found = decide(cells, rows, records.POLICY)
    if ships:
        assert found.sentences[0].startswith("Ship prompt_rag/fp16")
        return
    assert (found.chosen, found.try_first) == (None, cells[0].id)
    assert found.sentences[0] == (
        "No recommendation: the cell that the policy would choose, prompt_rag/fp16, gives the same answer to all 60 "
        "rows."
    )
    assert found.sentences[1].startswith("With it “good” is 80%")
    assert found.reasons[cells[0].id] == "The first to try, but it shows no skill."
    assert [r.name for r in found.ladder if r.state == "next"] == ["Full fine-tuning"]  # not quantization


@pytest.mark.parametrize(("passes", "ships"), [(24, False), (25, True)])
def test_a_cell_must_be_better_than_one_that_always_gives_the_commonest_reply(passes: int, ships: bool) -> None:
    cells, rows = run(
        cell("prompt_rag", "fp16", [1] * passes + [0] * (60 - passes), 1.0),
        cell("lora", "fp16", [1] * 3 + [0] * 57, 2.0),
    )
    wanted = [{"reference": "billing" if n < 24 else f"other {n}", "output": f"said {n}"} for n in range(60)]
    rows = {i: [{**r, **w} for r, w in zip(kept, wanted, strict=True)] for i, kept in rows.items()}
    found = decide(cells, rows, records.POLICY)
    assert "Always answering “billing” would be right on 40% of the rows of support_tone." in found.notes
    if ships:
        assert found.sentences[0].startswith("Ship prompt_rag/fp16")
        return
    assert (found.chosen, found.try_first) == (None, cells[0].id)
    assert found.sentences[0].endswith("is no better than one that gives the same answer to all 60 rows.")
    assert found.sentences[1] == "Its “good” is 40%; always answering “billing” would be right on 40%."


def test_every_right_answer_of_a_row_counts_to_the_commonest_reply() -> None:
    """Of 60 rows “billing” is the first right answer of 20, and one of those of all."""
    cells, rows = run(*(cell(a, "fp16", [1] * 50 + [0] * 10, 1.0) for a in ("prompt_rag", "lora")))
    of = (["delivery", "billing"], ["technical", "billing"], ["billing"])
    wanted = [{"reference": of[n % 3][0], "references": of[n % 3], "output": f"said {n}"} for n in range(60)]
    for several, told in ((True, "“billing” would be right on 100%"), (False, "“delivery” would be right on 33%")):
        kept = [{k: v for k, v in w.items() if several or k != "references"} for w in wanted]
        found = decide(cells, {i: [{**r, **w} for r, w in zip(k, kept, strict=True)] for i, k in rows.items()},
                       records.POLICY)  # fmt: skip
        assert f"Always answering {told} of the rows of support_tone." in found.notes
        assert (found.chosen is None) == several
    assert rights({"reply": "a", "references": [7, 8]}, "reply") == ["a"], "no texts"
    assert rights({"reply": "a", "references": ["b"]}, "reply") == ["a"], "something else"
    assert rights({"references": ["b", "c", "b"]}, "reply") == ["b", "c"]
    assert rights({"reply": None}, "reply") == []


def test_the_commonest_reply_says_nothing_of_a_score_that_is_not_the_suites_own_or_not_of_all_rows() -> None:
    """Always answering “other” has a recall of 0 for another label, and not the share of “other”."""
    few, more = [1] * 5 + [0] * 55, [1] * 20 + [0] * 40
    wanted = ["other"] * 70 + ["security"] * 60
    for metric, whole_rows in (("good", False), ("recall", False), ("recall", True), ("good", True)):
        made, own = [], (metric, whole_rows) == ("good", True)
        for adaptation, passes in (("prompt_rag", few), ("lora", more)):
            one, rows = cell(adaptation, "fp16", [0] * 70 + passes, 1.0)
            for n, row in enumerate(rows):
                row |= {"reference": wanted[n] if n < 70 else "security " * 20, "output": f"said {n}"}
                row["scores"] |= {"recall": row["scores"]["good"]}
                if n < 70 and not whole_rows:
                    del row["scores"][metric]
            passed, count = sum(passes), 130 if whole_rows else 60
            m = Measurement(f"quality/{metric}", passed / count, "share", "higher", count, wilson(passed, count))
            made.append((replace(one, measurements=(*(x for x in one.measurements if x.metric != m.metric), m)), rows))
        found = decide(*run(*made), records.POLICY | {"metric": metric})
        assert (found.chosen is None) == own
        always = [n for n in found.notes if n.startswith("Always answering")]
        assert [a.partition(" would")[0] for a in always] == (["Always answering “other”"] if own else [])


def test_a_long_reply_is_cut_where_it_is_told() -> None:
    cells, rows = run(*(cell(a, "fp16", [1] * 50 + [0] * 10, 1.0) for a in ("prompt_rag", "lora")))
    rows = {i: [{**r, "reference": "x" * 900, "output": f"said {n}"} for n, r in enumerate(k)] for i, k in rows.items()}
    found = decide(cells, rows, records.POLICY)
    assert f"Always answering “{'x' * 80} …” would be right on 100% of the rows of support_tone." in found.notes
    assert found.sentences[1].endswith(f"always answering “{'x' * 80} …” would be right on 100%.")


def test_a_run_of_one_cell_recommends_it_only_above_a_floor() -> None:
    one, rows = cell("lora", "fp16", [1] * 90 + [0] * 10, 1.0)
    found = decide([one], {one.id: rows}, records.POLICY)
    assert (found.chosen, found.try_first) == (None, one.id)
    assert (
        found.sentences[0]
        == "No recommendation: lora/fp16 is the only way to build that was measured: “good” 90% on 100 rows."
    )
    assert decide([one], {one.id: rows}, FLOORED).sentences[0].startswith("Ship lora/fp16")


def test_one_way_to_build_is_not_recommended_for_its_seeds_suites_or_failed_others() -> None:
    many = [1] * 90 + [0] * 10
    one, kept = cell("lora", "fp16", many, 1.0)
    seeds = [(replace(one, seed=n, id=f"{one.id}/seed{n}"), kept) for n in range(3)]
    suites = on("a", (one, kept)) + on("b", cell("lora", "fp16", many[10:] + [0] * 10, 1.0))
    bad = records.ended("full_ft", "fp16", Status.FAILED, "out of memory")
    half = on("a", cell("prompt_rag", "fp16", many, 1.0)) + on("b", (replace(bad, adaptation="prompt_rag"), []))
    way = "is the only way to build that was measured"
    for cells, told, others in (
        (seeds, f"lora/fp16 {way}: “good” 90% on 100 rows.", False),
        (suites, f"/a {way} on all suites judged: a weighted 85% over 2 suites.", False),
        ([*suites, *half], f"/a {way} on all suites judged: a weighted 85% over 2 suites.", True),
        ([(one, kept), (bad, [])], f"lora/fp16 {way}: “good” 90% on 100 rows.", True),
    ):
        found = decide(*run(*cells), records.POLICY)
        assert (found.chosen, found.try_first) == (None, min(r.id for r, _ in cells if r.status is Status.OK))
        assert found.sentences[0].endswith(told)
        assert ("stands below, and what each other cell lacks" in found.sentences[1]) == others
        assert decide(*run(*cells), FLOORED).chosen
    large = records.with_value(cell("full_ft", "fp16", many, 1.0)[0], "memory_bytes/peak_rss", 9e9)
    assert decide([one, large], {one.id: kept}, records.POLICY | {"max_memory_bytes": 5e9}).chosen == one.id


def test_a_choice_says_that_its_times_are_of_a_noisy_machine() -> None:
    one, rows = cell("lora", "fp16", [1] * 90 + [0] * 10, 1.0)
    for value in (0.0, 1.0):
        noisy = Measurement("noisy", value, "flag", "lower", 1)
        made = replace(one, measurements=(*one.measurements, noisy))
        said = decide([made], {one.id: rows}, FLOORED).sentences[0]
        assert ("timed on a machine that did other work" in said) == bool(value)


def test_too_few_rows_are_not_enough_evidence() -> None:
    cells, rows = run(cell("lora", "fp16", [1, 1], 2.0), cell("lora", "gptq", [1, 0], 1.0))
    found = decide(cells, rows, records.POLICY)
    assert found.chosen is None
    assert found.sentences[0].startswith("Not enough evidence")
    assert "With 2 rows" in found.sentences[1]
    cells, rows = records.grid()
    few = decide(cells, {i: made[:2] for i, made in rows.items()}, records.POLICY)
    assert few.chosen is None, "what counts is how many rows could be paired"


@pytest.mark.parametrize(("groups", "told"), [(1, "1 group of rows"), (5, "5 groups of rows"), (6, "")])
@pytest.mark.parametrize("suites", [("a",), ("a", "b")])
def test_rows_of_few_groups_are_not_enough_evidence(groups: int, told: str, suites: tuple[str, ...]) -> None:
    """By chance alone 5 groups all change in one direction in 6 of 100 runs, however many rows they have."""
    made = [cell("prompt_rag", "fp16", [1] * 20 + [0] * 40, 1.0), cell("lora", "fp16", [1] * 48 + [0] * 12, 2.0)]
    cells, rows = run(*(c for s in suites for c in on(s, *made)))
    for r in cells:
        few = groups if r.suite == suites[-1] else 60
        rows[r.id] = [{**row, "group": f"g{n % few}"} for n, row in enumerate(rows[r.id])]
    found = decide(cells, rows, records.POLICY)
    if not told:
        assert found.chosen or found.try_first
        return
    assert (found.chosen, found.try_first, {o.best for o in found.odds.values()}) == (None, None, {0.0})
    where = " on b" if len(suites) > 1 else ""
    assert found.sentences[0] == (
        f"Not enough evidence: too few groups of rows were scored{where} to tell any two cells apart."
    )
    assert found.sentences[1] == f"With {told} even a difference of 100 points could not be shown."
    assert "rows, each a group of its own, would likely show a difference of 5 points" in found.sentences[2]


def test_a_cell_without_shared_rows_is_not_judged() -> None:
    cells, rows = run(cell("lora", "fp16", [1] * 50, 2.0), cell("lora", "gptq", [1] * 49 + [0], 1.0))
    del rows[cells[1].id]
    found = decide(cells, rows, records.POLICY)
    assert found.chosen == cells[0].id
    assert "cannot be compared" in found.reasons[cells[1].id]
    assert "but it could not be compared with any other cell, as none has scores on the same" in found.sentences[1]
    assert "no other cell was shown" not in found.sentences[1]
    assert found.notes[-1].endswith("as no rows were kept: lora/gptq.")
    assert decide(cells, {}, records.POLICY).notes[-1].startswith("No rows were kept")


def test_rows_that_one_suite_lacks_are_not_called_a_shown_difference() -> None:
    made = [cell("prompt_rag", "fp16", [1] * 50, 1.0), cell("lora", "fp16", [1] * 49 + [0], 2.0)]
    cells, rows = run(*on("a", *made), *on("b", *made))
    del rows[cells[3].id]
    assert "cannot be compared" in decide(cells, rows, records.POLICY).reasons[cells[1].id]


def on(suite: str, *cells: tuple[RunRecord, list[dict[str, Any]]]) -> list[tuple[RunRecord, list[dict[str, Any]]]]:
    """The same cells on another suite."""
    return [(replace(r, suite=suite, id=r.id.replace("support_tone", suite)), rows) for r, rows in cells]


def test_several_suites_are_judged_together_by_their_weights() -> None:
    many, few = [1] * 180 + [0] * 20, [1] * 100 + [0] * 100
    first = on("a", cell("prompt_rag", "fp16", many, 1.0), cell("lora", "fp16", few, 2.0))
    second = on("b", cell("prompt_rag", "fp16", few, 3.0), cell("lora", "fp16", many, 4.0))
    cells, rows = run(*first, *second)
    for weights, adaptation in (({"a": 3, "b": 1}, "prompt_rag"), ({"a": 1, "b": 3}, "lora"), ({"b": 1}, "lora")):
        found = decide(cells, rows, records.POLICY | {"suites": weights})
        assert found.chosen
        assert f"/{adaptation}/" in found.chosen
    even = decide(cells, rows, records.POLICY)
    assert even.chosen == first[0][0].id, "equally good, the simpler is chosen"
    assert even.costs[first[0][0].id].usd_per_1000(100_000) == pytest.approx(2.0, rel=1e-3)
    assert even.judged[first[0][0].id] == (first[0][0].id, second[0][0].id)
    assert even.reasons[second[0][0].id].startswith("Judged together with")
    floor = decide(cells, rows, records.POLICY | {"min_quality": 0.6})
    assert floor.chosen is None, "a limit holds in each suite by itself"
    alone, more = decide(cells[:3], rows, records.POLICY), cells[1].id
    assert alone.reasons[more] == "It was not run on b, which the policy weighs."


def test_over_several_suites_the_best_is_named_where_another_is_chosen() -> None:
    cheap, best = cell("prompt_rag", "fp16", [1] * 168 + [0] * 32, 1.0), cell("lora", "fp16", [1] * 180 + [0] * 20, 2.0)
    found = decide(*run(*on("a", cheap, best), *on("b", cheap, best)), records.POLICY | {"margin": 0.2})
    assert found.chosen == cheap[0].id.replace("support_tone", "a")
    assert ", that of lora/fp16/a: −6 points, 95% interval " in found.sentences[1].replace("smollm2_135m/", "")
    assert "its own" not in found.sentences[1]


def test_over_several_suites_open_and_cheaper_cells_are_told() -> None:
    best, cheap = (
        cell("lora", "fp16", [1] * 37 + [0] * 11, 0.12),
        cell("lora", "gptq", [0] * 10 + [1] * 32 + [0] * 6, 0.09),
    )
    found = decide(*run(*on("a", best, cheap), *on("b", best, cheap)), records.POLICY)
    assert found.chosen == best[0].id.replace("support_tone", "a")
    assert "; for 1 cell cheaper by more than timings can tell that is open. With" in found.sentences[1]
    assert "of the cells whose quality is open, smollm2_135m/lora/gptq/a comes first by cost" in found.sentences[2]


def test_a_limit_that_no_cell_holds_asks_for_no_more_training_rows() -> None:
    cells, rows = records.grid()
    for limit in ({"max_p95_e2e_ms": 1.0}, {"max_memory_bytes": 1e6}):
        last = decide(cells, rows, records.POLICY | limit).ladder[-1]
        assert (last.name, last.state) == ("Another model, machine or limit", "next")
    assert decide(cells, rows, records.POLICY | {"min_quality": 1.0}).ladder[-1].name == "More training rows"


def test_what_is_good_enough_and_breaks_another_limit_asks_for_no_more_training_rows() -> None:
    """The share of valid outputs, which has words of its own, or a service level; and not where a suite is too low."""
    every = [cell(a, q, [1] * 90 + [0] * 10, 1.0) for a in records.ADAPTATIONS for q in ("fp16", "int8")]
    level = {"ttft_ms": 500, "token_ms": 50, "share": 0.95}
    unmet = Measurement("goodput_requests_per_s", 0.0, "req/s", "higher", 8)
    asked = records.record("lora", "fp16").config["measure"]
    params = {**asked["params"], "latency": {**asked["params"]["latency"], "level": level}}
    config = {**every[0][0].config, "measure": {**asked, "params": params}}
    loaded = [(replace(r, measurements=(*r.measurements, unmet), config=config), k) for r, k in every]
    last = decide(*run(*every), records.POLICY | {"min_valid": 0.995}).ladder[-1]
    assert last.name == "Another model, machine or limit"
    assert "too few outputs are valid: more room for answers (suite.max_new_tokens)" in last.sentence
    for cells, asks in ((loaded, {"service_level": level}), (every, {"max_p95_e2e_ms": 1.0, "min_valid": 0.9})):
        last = decide(*run(*cells), records.POLICY | asks).ladder[-1]
        assert last.sentence.startswith("Quality is enough, and something else that the policy asks for leaves no cell")
    unknown = [(replace(r, measurements=tuple(m for m in r.measurements if m.metric != "truncated_share")), k)
               for r, k in every[1:]]  # fmt: skip
    slow = records.with_value(records.with_value(every[0][0], "e2e_ms/p50", 9e3), "e2e_ms/p95", 9e3)
    asks = {"max_p95_e2e_ms": 8e3, "min_valid": 0.5}
    last = decide(*run((slow, every[0][1]), *unknown), records.POLICY | asks).ladder[-1]
    assert last.name == "Another model, machine or limit"
    assert "too few outputs are valid" not in last.sentence, "of those whose validity is known, none"
    prompts = decide(*run(*every[:1]), records.POLICY | {"min_valid": 0.995}).ladder
    assert [r.state for r in prompts] == ["taken", "not measured", "not measured", "not measured", "next"]
    low = [(replace(r, suite="b", id=r.id.replace("support_tone", "b")), k)
           for r, k in (cell(r.adaptation, r.quantization, [1] * 40 + [0] * 60, 1.0) for r, _ in every)]  # fmt: skip
    for suites, name in ((None, "More training rows"), ({"support_tone": 1}, "Another model, machine or limit")):
        limits = {"min_quality": 0.8, "max_memory_bytes": 1e12 if suites is None else 1e3, "suites": suites}
        assert decide(*run(*every, *low), records.POLICY | limits).ladder[-1].name == name


def test_the_ladder_names_the_seed_that_it_compares() -> None:
    seeds = [cell("lora", "fp16", [1] * 80 + [0] * 20, 1.0), cell("full_ft", "fp16", [1] * 70 + [0] * 30, 1.0)]
    more = [(replace(r, seed=1, id=f"{r.id}/seed=1"), rows) for r, rows in seeds]
    steps = decide(*run(*seeds, *more, cell("prompt_rag", "fp16", [0] * 100, 1.0)), records.POLICY).ladder
    assert "lora/fp16 (seed 0 alone) against prompt_rag/fp16: " in steps[1].sentence
    assert "full_ft/fp16 (seed 0 alone) against lora/fp16 (seed 0 alone): " in steps[3].sentence


@pytest.mark.parametrize("lost", ["", "int8 0", "gptq 0, int8 1, int8 2"])
def test_a_seed_that_failed_makes_its_recipe_no_better(lost: str) -> None:
    """The seed that fails is the hardest, and the cell is 3 points worse on each, so its mean of the rest is higher."""
    made = []
    for seed, rate in enumerate((0.62, 0.70, 0.72)):
        luck = [random.Random(f"{seed} {n}").random() for n in range(288)]
        for name, less in (("gptq", 0.0), ("int8", 0.03)):
            one, kept = cell("lora", name, [int(u < rate - less) for u in luck], 1.0)
            one = replace(one, seed=seed, id=one.id + (f"/seed{seed}" if seed else ""))
            failed = f"{name} {seed}" in lost
            made.append((replace(one, status=Status.FAILED, measurements=()) if failed else one, kept))
    found = decide(*run(*made), FLOORED | {"objective": "quality", "margin": 0.0})
    first, told = made[0][0].id, "without seed 0, of which some ended without numbers."
    if "," in lost:
        assert "Not counted" not in "".join(found.reasons.values()), "with no seed that all have, all count"
        return
    assert found.chosen == (f"{first}/seed1" if lost else first)
    assert found.sentences[0].startswith("Ship lora/gptq (2 seeds): " if lost else "Ship lora/gptq: ")
    assert found.reference == found.chosen, "not the seed that does not count"
    assert f"of 288 rows over {2 if lost else 3} seeds pass" in found.sentences[0]
    assert ("of seed 0 another way to build has no numbers" in found.reasons.get(first, "")) == bool(lost)
    assert found.notes[-1].endswith(told) == bool(lost)


def test_the_ladder_asks_for_no_gain_over_the_best_of_several() -> None:
    """Which luck helped: 3 points more than the unquantized cell leave 5 open, and 1 point less than the best not."""
    below = cell("lora", "fp16", [0] * 10 + [1] * 100 + [0] * 90, 1.0)
    lucky = cell("lora", "int8", [1] * 8 + [0] * 2 + [1] * 100 + [0] * 90, 1.0)
    for more, state in ((2, "open"), (60, "taken")):
        above = cell("full_ft", "fp16", [1] * 4 + [0] * 6 + [1] * (100 + more) + [0] * (90 - more), 2.0)
        full = decide(*run(below, lucky, above), records.POLICY).ladder[3]
        assert "full_ft/fp16 against lora/int8: " in full.sentence, "the pair that was tested"
        assert full.state == state


@pytest.mark.parametrize(("replaced", "quantized"), [(0, False), (None, True)])
def test_a_checkpoint_that_is_stored_as_it_came_is_quantized_where_it_came_so(
    replaced: int | None, quantized: bool
) -> None:
    taken, kept = cell("prompt_rag", "fp16", [1] * 190 + [0] * 10, 1.0)
    facts = {"replaced_modules": replaced}
    taken = replace(
        taken, adaptation="as_is", quantization="as_is", id=taken.id.replace("prompt_rag/fp16", "as_is/as_is"),
        steps={**taken.steps, "quantize": {**taken.steps["quantize"], "facts": facts}},
    )  # fmt: skip
    small, rows = cell("prompt_rag", "int8", [1] * 190 + [0] * 10, 1.0)
    small = replace(small, adaptation="as_is", id=small.id.replace("prompt_rag", "as_is"))
    cells = [taken, small]
    found, known = argued(cells, {taken.id: kept, small.id: rows}, read_policy(records.POLICY))
    assert found.chosen == taken.id
    assert [c.rank for c in known.candidates] == ([0, 0] if quantized else [0, 1])
    assert ("The quantized cell is the one to ship" in found.ladder[2].sentence) == quantized
    assert parent_of(small, cells) is (None if quantized else taken)
    assert parent_of(taken, cells) is None


def test_a_score_of_which_less_is_better_decides_nothing() -> None:
    cells, rows = run(cell("lora", "fp16", [1] * 9, 1.0), cell("lora", "gptq", [1] * 9, 2.0))
    worse = [replace(r, measurements=tuple(replace(m, better="lower") for m in r.measurements)) for r in cells]
    found = decide(worse, rows, records.POLICY)
    assert found.chosen is None
    assert "judged by “good”, and less of that is better" in found.reasons[cells[0].id]
    assert found.sentences[0] == "No recommendation: cells are judged by “good”, and less of that is better."
    assert "policy.metric" in found.sentences[2]
    assert found.ladder == ()


@pytest.mark.parametrize("by_row", [True, False])
def test_a_score_that_is_not_from_0_to_1_decides_nothing(by_row: bool) -> None:
    """Neither as a mean, nor where it is above 1 on some rows alone, which could not be paired."""
    cells, rows = run(cell("lora", "fp16", [1] * 40, 1.0), cell("lora", "gptq", [1] * 40, 2.0))
    if by_row:
        rows[cells[1].id][7]["scores"]["good"] = 1.1
    else:
        cells[1] = records.with_value(cells[1], "quality/good", 32.84)
    found = decide(cells, rows, records.POLICY)
    assert found.chosen is None
    assert found.sentences[0] == (
        "No recommendation: cells are judged by “good”, whose scores are not all from 0 to 1."
    )
    assert found.sentences[1].startswith(f"lora/gptq has {'1.10 on a row' if by_row else '32.84'}; what decides must")
    assert found.ladder == ()
    assert set(found.reasons.values()) == {"Not judged: there is no decision."}
    assert not argued(cells, rows, read_policy(records.POLICY))[1].candidates, "nor does the page's script choose"
    weights = records.POLICY | {"suites": {"another": 1.0}}
    other, more = run(*on("another", cell("lora", "fp16", [1] * 40, 1.0), cell("lora", "awq", [1] * 40, 3.0)))
    assert decide([*cells, *other], rows | more, weights).chosen, "what is not judged may have any scores"


def test_a_suite_that_is_not_judged_names_and_compares_nothing() -> None:
    many, few = [1] * 180 + [0] * 20, [1] * 100 + [0] * 100
    first = on("a", cell("prompt_rag", "fp16", few, 1.0), cell("lora", "fp16", few, 2.0))
    second = on("b", cell("prompt_rag", "fp16", few, 3.0), cell("lora", "fp16", many, 4.0))
    cells, rows = run(*first, *second)
    found = decide(cells, rows, records.POLICY | {"suites": {"b": 1}})
    assert (found.chosen, found.reference) == (second[1][0].id, second[0][0].id), "cells of the suite that decides"
    assert found.sentences[0].startswith(f"Ship {second[1][0].id}: 90% (")
    other = [replace(r, seed=1, id=f"{r.id}/seed=1") for r in cells]
    seeds = {**rows, **{o.id: rows[r.id] for r, o in zip(cells, other, strict=True)}}
    whole = [replace(cells[3], status=Status.FAILED, reason="it broke", measurements=()), *cells[:3], *other]
    left = decide(whole, seeds, records.POLICY | {"suites": {"b": 1}})
    assert left.chosen == other[3].id, "a seed that ended ok stands for the recipe"
    gone = [replace(r, status=Status.FAILED, reason="it broke", measurements=()) if r is cells[0] else r for r in cells]
    assert decide(gone, rows, records.POLICY | {"suites": {"a": 1}}).reference == cells[1].id, "never another suite's"


def test_a_bad_policy_is_told_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        read_policy({"name": "p", "objective": "speed", "margin": 5, "min_qualty": 0.5, "max_p95_e2e_ms": "fast"})
    assert len(caught.value.mistakes) == 4
    assert any("'min_qualty'" in m for m in caught.value.mistakes)


@pytest.mark.parametrize("name", POLICIES)
def test_the_ready_policies_can_be_read_and_decide(name: str) -> None:
    assert read_policy(policy(name)).name == name
    cells, rows = records.grid()
    assert decide(cells, rows, policy(name)).chosen is not None


def test_labels_are_short_only_where_they_tell_cells_apart() -> None:
    assert labels(["m/lora/int8/s", "m/lora/awq/s"]) == {"m/lora/int8/s": "lora/int8", "m/lora/awq/s": "lora/awq"}
    two = ["m/lora/int8/s", "n/lora/int8/s"]
    assert labels(two) == {i: i for i in two}


def test_the_headline_tells_what_most_rows_fail() -> None:
    """A cell is chosen by one score; another that is low stands in the same sentence."""
    best, rows = cell("lora", "fp16", [1] * 90 + [0] * 10, 1.0)
    high = decide([best], {best.id: rows}, FLOORED)
    low_facts = records.with_value(best, "quality/facts", 0.06, wilson(6, 100), 100)
    low = decide([low_facts], {best.id: rows}, FLOORED)
    assert "facts" not in high.sentences[0]
    assert low.sentences[0].endswith("; but only 6% pass “facts”, which this policy does not judge.")
    facts = best.value("quality/facts")
    assert facts
    many = [replace(facts, metric=f"quality/recall_{n}", value=0.1) for n in range(5)]
    crowd = decide([replace(low_facts, measurements=(*low_facts.measurements, *many))], {best.id: rows}, FLOORED)
    assert (
        "; but “facts” is only 6% and “recall_0” is only 10% (of 96 rows) and 4 other scores are below 50%, "
        "which" in crowd.sentences[0]
    ), "a score of some of the rows is no share of all"
    three = decide([replace(low_facts, measurements=(*low_facts.measurements, *many[:2]))], {best.id: rows}, FLOORED)
    assert "(of 96 rows) and 1 other score is below 50%, which" in three.sentences[0]
    worse, others = cell("full_ft", "int8", [0] * 100, 1.0)
    of_100 = records.with_value(worse, "quality/facts", 39.5)
    scale = decide([low_facts, of_100], {best.id: rows, worse.id: others}, FLOORED)
    assert scale.sentences[0].startswith("Ship lora/fp16")
    assert "facts" not in scale.sentences[0], "no share, as it is of 100 in another cell"
    seeds = [replace(records.with_value(best, "quality/facts", value), seed=n, id=f"{best.id}/seed{n}")
             for n, value in enumerate((0.6, 0.05, 0.04))]  # fmt: skip
    mean = decide(seeds, {r.id: rows for r in seeds}, FLOORED)
    assert "“facts” is only 23%" in mean.sentences[0]


def test_the_headline_tells_low_scores_of_each_suite() -> None:
    made = on("a", cell("lora", "fp16", [1] * 90 + [0] * 10, 1.0)) + on("b", cell("lora", "fp16", [1] * 100, 1.0))
    (a, b), rows = run(*made)
    low = [records.with_value(a, "quality/facts", 0.06, wilson(6, 100), 100),
           records.with_value(b, "quality/style", 0.02, wilson(2, 100), 100)]  # fmt: skip
    for cells, told in (
        ([a, low[1]], "only 2% pass “style” on b"),
        (low, "only 6% pass “facts” on a and 2% pass “style” on b"),
    ):
        found = decide(cells, rows, FLOORED)
        assert found.sentences[0].endswith(f"; but {told}, which this policy does not judge.")


def test_a_choice_among_cells_that_measure_the_same_says_how_ties_were_broken() -> None:
    every = [cell(a, q, [1] * 48, 1.0) for a in records.ADAPTATIONS for q in records.QUANTIZATIONS]
    found = decide(*run(*every), records.POLICY)
    assert found.chosen == records.cell_id("prompt_rag", "fp16")
    assert found.sentences[1].startswith(
        "It is the simplest of 15 cells with the highest quality measured, and no other cell was shown to be within 5 "
        "points of it: even 48 rows without a difference do not show that. With rows"
    )
    low = cell("prompt_rag", "int8", [1] * 24 + [0] * 24, 1.0)
    same = (timed(q, [1] * 48, 0.03, 3000, 2e9) for q in ("int8", "gptq", "awq"))
    found = decide(*run(low, *same), records.POLICY)
    assert found.chosen == records.cell_id("lora", "awq")
    assert "It is by simplicity, and then by name, the first of 3 cells with the highest" in found.sentences[1]


def test_a_graded_score_is_no_share_of_rows_that_pass() -> None:
    best, rows = cell("lora", "fp16", [1] * 90 + [0] * 10, 1.0)
    for row in rows:
        row["scores"]["good"] = 0.5 + 0.4 * row["scores"]["good"]
    graded = decide([records.with_value(best, "quality/good", 0.86)], {best.id: rows}, FLOORED)
    assert "“good” 86% on 100 rows, p95" in graded.sentences[0]
    assert graded.sentences[2] == "It was the only cell of this run."


def timed(
    quantization: str, passes: list[int], cost: float, p95: float, size: float
) -> tuple[RunRecord, list[dict[str, Any]]]:
    """A LoRA of some cost, p95 and memory."""
    one, rows = cell("lora", quantization, passes, cost)
    one = records.with_value(one, "e2e_ms/p95", p95, Interval(0.98 * p95, 1.02 * p95, "bootstrap"))
    return replace(records.with_value(one, "memory_bytes/peak_rss", size), steps={}), rows


def test_a_cell_that_dominates_the_first_is_not_called_simpler_than_it() -> None:
    best = timed("int8", [1] * 260 + [0] * 28, 0.03, 3000, 2e9)
    shown = timed("gptq", [1] * 256 + [0] * 32, 0.02, 2500, 1.5e9)
    alike = timed("awq", [0] * 20 + [1] * 257 + [0] * 11, 0.015, 2400, 1.4e9)
    found = decide(*run(best, shown, alike), records.POLICY)
    assert found.chosen == alike[0].id
    assert found.sentences[1].startswith(
        "The rule comes to lora/gptq first, and this one is no worse in quality, p95, memory and cost, and as simple; "
        "against the highest quality measured, that of lora/int8: −1 points, 95% interval "
    )


def test_what_a_cell_is_simpler_than_is_said() -> None:
    best = cell("lora", "fp16", [1] * 260 + [0] * 28, 10.0)
    front, rows = cell("full_ft", "int8", [1] * 260 + [0] * 28, 1.0)
    front = records.with_spread(front, 0.1)
    alike = cell("lora", "int8", [0] * 20 + [1] * 257 + [0] * 11, 1.05)
    found = decide(*run(best, (front, rows), alike), records.POLICY)
    assert found.chosen == alike[0].id
    assert ", and it is simpler than full_ft/int8, which has the lowest cost per 1,000 requests" in found.sentences[1]


@pytest.mark.parametrize(
    ("passes", "slower", "why"),
    [
        (256, 1.0, "Its quality is lower: 89% against 90%."),
        (260, 1.2, "Its quality cannot be told apart from the best, and lora/awq is no worse in the rest."),
        (260, 0.8, "Its quality cannot be told apart from the best, and as both are as simple, lora/awq comes first by "
         "name."),
    ],
)  # fmt: skip
def test_by_quality_an_equally_complex_cell_is_not_called_simpler(passes: int, slower: float, why: str) -> None:
    top = timed("awq", [1] * 260 + [0] * 28, 0.03, 3000, 2e9)
    other = timed("int8", [1] * passes + [0] * (288 - passes), 0.04, slower * 3000, 2e9)
    found = decide(*run(top, other), records.POLICY | {"objective": "quality"})
    assert (found.chosen, found.reasons[other[0].id]) == (top[0].id, why)
    assert "it is the simplest" not in found.sentences[1]
    assert "none of them is simpler" in found.sentences[1]


def test_a_cell_that_breaks_a_limit_may_have_got_rows_right() -> None:
    none, large = timed("int8", [0] * 96, 0.02, 2500, 2e9), timed("fp16", [1] * 80 + [0] * 16, 0.02, 2500, 9e9)
    found = decide(*run(none, large), records.POLICY | {"max_memory_bytes": 6e9})
    assert found.sentences[0] == (
        "No recommendation: no cell within the policy's limits got a single row of “good” right."
    )
