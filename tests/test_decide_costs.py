"""What cells cost, against sums done by hand: hosted prices, break-even, labelling, and the rate that is priced."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import pytest

from harness.decide import CostLine, as_counted, decide, read_policy
from harness.decide.costs import break_even, combined, cost_line, hosted_lines
from harness.decide.policy import COST
from harness.decide.recipes import recipes
from harness.records import STOP_TEXTS
from harness.report.numbers import counted, numbers
from harness.types import Measurement, RunRecord
from tests import records
from tests.test_decide import cell, on, run
from tests.test_decide_parts import seeded

HOSTED = {
    "x": {"name": "X", "usd_per_million_input": 0.1, "usd_per_million_output": 0.5, "date": "2026-01-02", "source": "s"}
}
MANY = [1] * 90 + [0] * 10
LEVEL = {"ttft_ms": 500, "token_ms": 50, "share": 0.9}


def priced(one: RunRecord, **changes: Any) -> RunRecord:
    return replace(one, config={**one.config, "price": {**one.config["price"], **changes}})


def told(one: RunRecord, **numbers: float) -> RunRecord:
    """A record with these numbers more (`__` stands for a slash)."""
    made = tuple(Measurement(k.replace("__", "/"), v, "", "lower", 1) for k, v in numbers.items())
    names = {m.metric for m in made}
    return replace(one, measurements=(*(m for m in one.measurements if m.metric not in names), *made))


def test_break_even_is_where_the_lines_cross() -> None:
    line = CostLine(0.10, 5.0, "batched")
    hosted = CostLine(0.15, 0.0, "hosted")
    assert break_even(line, hosted) == pytest.approx(100_000)
    assert line.usd_per_1000(100_000) == pytest.approx(0.15)
    assert break_even(line, replace(hosted, serving_usd_per_1000=0.10)) is None
    assert break_even(line, replace(hosted, serving_usd_per_1000=0.05)) is None
    assert break_even(replace(line, once_usd=0.0), replace(hosted, serving_usd_per_1000=0.10)) == 0.0
    other = CostLine(0.15, 2.0, "batched")
    assert break_even(line, other) == pytest.approx(60_000)
    assert break_even(other, line) is None
    assert break_even(replace(line, once_usd=1.0), other) == 0.0, "cheaper in both"


def test_hosted_prices_are_those_of_the_prompted_cells_tokens() -> None:
    """1,000 tokens in at $0.10 a million and 100 out at $0.50: $0.00015 a request."""
    prompt, rows = cell("prompt_rag", "fp16", MANY, 0.1)
    tuned, more = cell("lora", "fp16", MANY, 0.05)
    prompt = told(priced(prompt, hosted=HOSTED), prompt_tokens__mean=1000, output_tokens__mean=100)
    tuned = told(priced(tuned, hosted=HOSTED), prompt_tokens__mean=50, output_tokens__mean=100)
    found = decide([prompt, tuned], {prompt.id: rows, tuned.id: more}, records.POLICY)
    (line,) = found.hosted
    assert (line.name, line.date, line.source) == ("X", "2026-01-02", "s")
    assert line.usd_per_1000 == pytest.approx(0.15)
    for i, volume in line.break_even.items():
        assert volume is not None
        assert found.costs[i].usd_per_1000(volume) == pytest.approx(0.15)
    assert found.costs[prompt.id].prompt_tokens == 1000
    theirs = replace(prompt, config={**prompt.config, "suite": {"params": {"eval_file": None}}})
    beside, judged = on("gsm", (theirs, rows)), records.POLICY | {"suites": {"support_tone": 1}}
    assert decide(*run((prompt, rows), (tuned, more), *beside), judged).hosted, "a suite that is not judged has no say"
    assert hosted_lines([theirs], found.costs[prompt.id], {}) == (), "costs are of other prompts than those counted"


def test_prompts_that_were_not_counted_are_told_as_lacking_and_not_as_free() -> None:
    prompt, rows = cell("prompt_rag", "fp16", MANY, 0.1)
    found = decide([priced(prompt, hosted=HOSTED)], {prompt.id: rows}, records.POLICY)
    assert found.hosted == ()
    assert found.costs[prompt.id].prompt_tokens is None
    assert found.costs[prompt.id].output_tokens == 68
    assert "Hosted prices are not compared: the tokens of the prompts were not counted in this run." in found.notes
    one, none = CostLine(1.0, 0.0, "batched", 10.0, 5.0), CostLine(1.0, 0.0, "batched", None, 5.0)
    assert combined([(1.0, one), (1.0, none)]).prompt_tokens is None, "half known is not known"
    assert hosted_lines([priced(prompt, hosted=HOSTED)], none, {}) == ()


def test_hosted_prices_without_a_prompted_cell_say_so() -> None:
    one, rows = cell("lora", "fp16", MANY, 0.1)
    one = told(priced(one, hosted=HOSTED), prompt_tokens__mean=100, output_tokens__mean=60)
    found = decide([one], {one.id: rows}, records.POLICY)
    assert "Hosted prices are not compared: no prompted cell could be priced." in found.notes


def test_that_builds_on_a_cpu_pay_for_their_cores_and_how_full_batches_were_is_told() -> None:
    one, rows_of_one = cell("lora", "fp16", MANY, 0.1)
    for device in ("cpu", "cuda"):
        there = replace(one, environment={**one.environment, "device": device})
        first = decide([there], {one.id: rows_of_one}, records.POLICY).notes[0]
        rate, rows = "Cost counts the measured rate of batches of 8 rows (", "measure.latency.batch_size"
        assert first.startswith(f"{rate}{rows}), with")
        config = {**one.config, "engine": {"name": "eager", "params": {"batch_size": 48}}}
        full = decide([replace(there, config=config)], {one.id: rows_of_one}, records.POLICY).notes[0]
        assert full.startswith(f"{rate}{rows}; engine.batch_size is 48), with")
        assert ("a build on a CPU pays for its share of the machine's cores" in first) == (device == "cpu")


def test_labelling_is_paid_once_and_does_not_follow_the_price_of_hardware() -> None:
    """160 rows trained on and 40 held out of it to validate, at $0.50, are $100: $1 per 1,000 of 100,000 requests,
    whatever an hour of hardware costs."""
    base, _ = cell("lora", "fp16", MANY, 1.0)
    steps = {**base.steps, "adapt": {**base.steps["adapt"], "facts": {"rows": 160, "validation_rows": 40}}}
    free, paid = (
        cost_line(base, "batched"),
        cost_line(priced(replace(base, steps=steps), usd_per_labelled_row=0.5), "batched"),
    )
    assert free
    assert paid
    assert (free.labelling_usd, paid.labelling_usd) == (0.0, 100.0)
    assert paid.once_usd - free.once_usd == pytest.approx(100)
    for hourly in (1.0, 3.0):
        assert paid.usd_per_1000(100_000, hourly) - free.usd_per_1000(100_000, hourly) == pytest.approx(1.0)
    shown = cost_line(priced(cell("prompt_rag", "fp16", MANY, 1.0)[0], usd_per_labelled_row=0.5), "batched")
    assert shown
    assert shown.labelling_usd == 1.0, "the two examples of the prompt"
    notes = decide(*run((base, [])), records.POLICY).notes
    assert any(n.startswith("Labelling is not counted") for n in notes)


def test_the_goodput_is_priced_only_where_all_cells_have_one_at_the_level() -> None:
    """10 requests a second, half used, at $3.60 an hour: 200 s for 1,000, $0.20."""
    level = {"ttft_ms": 500, "token_ms": 50, "share": 0.9}
    made = []
    for adaptation in ("prompt_rag", "lora"):
        one, kept = cell(adaptation, "fp16", MANY, 1.0)
        one = told(
            priced(one, usd_per_hour=3.6, utilization=0.5), **{"goodput_requests_per_s": 10, "open/tokens/mean": 70}
        )
        params = {**one.config["measure"]["params"], "latency": {"level": level}}
        made.append((replace(one, config={**one.config, "measure": {**one.config["measure"], "params": params}}), kept))
    cells, rows = run(*made)
    for asked, basis in ((None, "goodput"), (level, "goodput"), ({**level, "share": 0.99}, "batched")):
        found = decide(cells, rows, records.POLICY | {"service_level": asked})
        assert {c.basis for c in found.costs.values()} == {basis}
        assert any(("goodput" in n) == (basis == "goodput") for n in found.notes if "measured rate" in n)
        if basis == "goodput":
            assert found.costs[cells[0].id].serving_usd_per_1000 == pytest.approx(0.2)
    apart = [told(c, goodput_failed_at=10.6) for c in cells]
    assert {round(c.spread, 6) for c in decide(apart, rows, records.POLICY).costs.values()} == {0.06}
    cut = replace(cells[1], measurements=tuple(m for m in cells[1].measurements if m.metric != "open/tokens/mean"))
    meaningless = replace(cells[1], not_measured={"cost_usd_per_1000": "needs the length of real replies"})
    shorter = replace(cells[1], not_measured={"own ends": STOP_TEXTS})
    unreal = told(replace(cells[1], not_measured={"own ends": STOP_TEXTS}), goodput_requests_per_s=0)
    for other in (cut, meaningless, shorter, unreal):
        assert {c.basis for c in decide([cells[0], other], rows, records.POLICY).costs.values()} == {"batched"}


@pytest.mark.parametrize("objective", ["cost_usd_per_1000", "e2e_ms/p95", "quality"])
def test_a_cell_that_holds_the_service_level_at_no_rate_is_not_priced_as_if_it_did(objective: str) -> None:
    level = {"ttft_ms": 500, "token_ms": 50, "share": 0.9}
    made = []
    for name, cost, rate in (("fp16", 3.0, 10.0), ("awq", 1.0, 0.0)):
        one, kept = cell("lora", name, MANY, cost)
        one = told(one, goodput_requests_per_s=rate, **({"open/tokens/mean": 70} if rate else {}))
        params = {**one.config["measure"]["params"], "latency": {"level": level}}
        made.append((replace(one, config={**one.config, "measure": {**one.config["measure"], "params": params}}), kept))
    (whole, awq), rows = run(*made)
    policy = records.POLICY | {"objective": objective}
    for asked in (None, level):
        found = decide([whole, awq], rows, policy | {"service_level": asked})
        barred = asked is not None or objective == COST
        said = found.reasons.get(awq.id) == "It holds the service level at no rate tried."
        assert said == barred
        assert found.costs.keys() == {whole.id}
        assert {c.basis for c in found.costs.values()} == {"goodput"}
        what = "cannot be chosen" if barred else "has no cost"
        assert f"What holds the service level at no rate tried {what}: lora/awq." in found.notes
        if barred:
            assert found.chosen == whole.id
            assert "breaks a limit, holds the service level at no rate tried, or could not" in found.sentences[2]
    shown = as_counted({r.id: r for r in (whole, awq)}, read_policy(policy))
    assert shown[awq.id].value(COST) is None
    assert shown[awq.id].not_measured[COST] == "holds the service level at no rate tried"
    never = told(whole, goodput_requests_per_s=0)
    alone = decide([never, awq], rows, policy)
    assert alone.chosen is not None
    assert {c.basis for c in alone.costs.values()} == {"batched"}
    assert any("is priced by full batches all the same: lora/" in n for n in alone.notes)
    none = decide([never, awq], rows, policy | {"service_level": level})
    assert none.chosen is None
    assert "each breaks a limit, holds the service level at no rate tried or lacks a number" in none.sentences[1]


def levelled(one: RunRecord, rate: float | None) -> RunRecord:
    """A record with this goodput at a service level."""
    asked = one.config["measure"]
    params = {**asked["params"], "latency": {**asked["params"]["latency"], "level": LEVEL}}
    one = replace(one, config={**one.config, "measure": {**asked, "params": params}})
    return one if rate is None else told(one, goodput_requests_per_s=rate, **{"open/tokens/mean": 70})


def test_a_service_level_that_was_not_measured_is_told_to_bar_and_price_nothing() -> None:
    cells, rows = run(*(cell(a, "fp16", MANY, 1.0) for a in ("prompt_rag", "lora")))
    note = "Nothing was measured at the policy's service level (ttft_ms 500, token_ms 50, share 0.9): it bars and "
    for rates, share, said in (
        ((None, None), 0.9, True), ((10.0, 9.0), 0.95, True), ((10.0, 9.0), 0.9, False), ((10.0, None), 0.9, False),
    ):  # fmt: skip
        made = [levelled(r, rate) for r, rate in zip(cells, rates, strict=True)]
        found = decide(made, rows, records.POLICY | {"service_level": {**LEVEL, "share": share}})
        assert any(n.startswith(note.replace("0.9)", f"{share})")) for n in found.notes) == said
        assert not any("it bars and" in n for n in decide(made, rows, records.POLICY).notes)


def test_a_suite_without_a_rate_lets_no_other_be_priced_by_its_own() -> None:
    """As that of a task whose answers end where its own do not: a rate is known of one suite alone."""
    both = [c for s in "ab" for c in on(s, *(cell(a, "fp16", MANY, 1.0) for a in ("prompt_rag", "lora")))]
    cells, rows = run(*((levelled(r, 10.0), kept) for r, kept in both))
    ends = [replace(r, not_measured={"own ends": STOP_TEXTS}) for r in cells]
    note = "service level (ttft_ms 500, token_ms 50, share 0.9) on b: it prices nothing, and bars nothing there."
    for asked in (None, LEVEL):
        found = decide([*cells[:2], *ends[2:]], rows, records.POLICY | {"service_level": asked})
        assert found.chosen == cells[0].id
        assert {c.basis for c in found.costs.values()} == {"batched"}
        assert any(n.endswith(note) for n in found.notes) == bool(asked)
    found = decide([*cells[:3], ends[3]], rows, records.POLICY | {"service_level": LEVEL})
    assert {c.basis for c in found.costs.values()} == {"goodput"}
    assert found.reasons[cells[1].id] == f"Its service level was not measured on b: {STOP_TEXTS}."


@pytest.mark.parametrize("objective", [COST, "quality"])
def test_a_cell_that_was_not_measured_at_the_service_level_is_barred_where_another_was(objective: str) -> None:
    cells, rows = run(*(cell(a, "fp16", MANY, 1.0) for a in ("prompt_rag", "lora", "full_ft")))
    asked = records.POLICY | {"objective": objective, "service_level": LEVEL}
    for rates in ((10.0, 9.0), (10.0, 0.0), (0.0, 0.0)):
        made = [levelled(r, rate) for r, rate in zip(cells, (*rates, None), strict=True)]
        made[2] = replace(made[2], not_measured={"load": "one batch at a time"})
        found = decide(made, rows, asked)
        assert found.chosen == (cells[0].id if any(rates) else None)
        assert found.reasons[cells[2].id] == "Its service level was not measured: one batch at a time."
        assert "What was not measured at the service level cannot be chosen: full_ft/fp16." in found.notes
        assert {c.basis for c in found.costs.values()} <= {"goodput"}
    free = decide(made, rows, records.POLICY)
    assert cells[2].id in free.costs, "without a level it is priced by full batches, as the others are"


def test_a_suite_that_is_not_judged_has_no_say_in_the_rate_that_is_priced() -> None:
    judged = [(levelled(r, rate), k) for (r, k), rate in zip(
        (cell(a, "fp16", MANY, 1.0) for a in ("prompt_rag", "lora")), (10.0, 20.0), strict=True)]  # fmt: skip
    for rate, why in ((0.0, "holds the service level at no rate tried"), (None, "no goodput was measured, by which")):
        (beside,) = on("another", cell("lora", "fp16", MANY, 1.0))
        cells, rows = run(*judged, (levelled(beside[0], rate), beside[1]))
        policy = records.POLICY | {"suites": {"support_tone": 1}}
        found = decide(cells, rows, policy)
        assert {c.basis for c in found.costs.values()} == {"goodput"}
        assert not any("at no rate tried" in n for n in found.notes)
        counted = as_counted({r.id: r for r in cells}, read_policy(policy))[cells[2].id]
        assert counted.value(COST) is None
        assert counted.not_measured[COST].startswith(why)


def test_the_cost_of_several_seeds_is_their_mean_and_known_no_better_than_they_agree() -> None:
    made = [seeded(cell("lora", "fp16", MANY, usd), n) for n, usd in enumerate((0.02, 0.08, 0.08))]
    for n, (one, kept) in enumerate(made):
        one = priced(told(one, prompt_tokens__mean=10.0 * n), usd_per_labelled_row=0.5)
        steps = {**one.steps, "adapt": {**one.steps["adapt"], "facts": {"rows": 2 * n}}}
        made[n] = replace(one, steps=steps), kept
    cells, rows = run(*made)
    (line,) = decide(cells, rows, records.POLICY).costs.values()
    assert line.labelling_usd == pytest.approx(1.0)
    assert line.usd_per_1000(100_000) == pytest.approx(0.06 + 0.01)
    built = 211 * 0.085 / 3600
    assert line.once_usd == pytest.approx(built + 1.0)
    assert line.prompt_tokens == 10.0
    serving = [usd - 1000 * built / 100_000 for usd in (0.02, 0.08, 0.08)]
    assert line.spread == pytest.approx(4.3027 * stdev(serving) / 3**0.5 / fmean(serving), rel=1e-4)
    (kind,) = recipes(cells, {cells[0].suite: 1.0})
    shown = numbers(kind, {cells[0].suite: 1.0}, rows, read_policy(records.POLICY), None)["Cost per 1,000 requests"]
    assert shown is not None
    assert shown.value == pytest.approx(0.06)
    assert shown.interval is None
    assert counted(kind, {cells[0].suite: 1.0})["Cost per 1,000 requests"] == ", mean of 3 seeds"


def test_the_volume_of_the_policy_pays_for_what_is_done_once() -> None:
    one, rows = cell("lora", "fp16", MANY, 1.0)
    line = decide([one], {one.id: rows}, records.POLICY).costs[one.id]
    assert line.once_usd == pytest.approx(211 * 0.085 / 3600), "base, training and quantization"
    assert line.usd_per_1000(100_000) == pytest.approx(1.0)
    assert cost_line(records.with_value(one, COST, 99.0), "batched") == line, "by its rate, whatever was recorded"
    few = decide([one], {one.id: rows}, records.POLICY | {"volume_requests": 10.0, "min_quality": 0.1})
    assert f"${line.usd_per_1000(10.0):.2f} per 1,000" in few.sentences[0]
