"""Cells against each other in the report: quantizations against their parents, seeds together, suites apart."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness import report
from harness.decide import argued, read_policy
from harness.report import comparisons
from harness.report import page as page_module
from harness.report.markdown import markdown
from harness.report.page import embedded, view
from harness.runs import Run, parts, read
from harness.types import Interval, Measurement, RunRecord, Status
from harness.wording import points
from tests import records
from tests.pages import folder, page
from tests.test_decide import cell, run
from tests.test_decide_parts import seeded as by_seed


def test_a_quantization_that_erases_the_fine_tuning_is_called_so(tmp_path: Path) -> None:
    made = {("prompt_rag", "fp16"): [0] * 60, ("prompt_rag", "gptq"): [0] * 60, ("lora", "fp16"): [1] * 60,
            ("lora", "gptq"): [1] * 20 + [0] * 40}  # fmt: skip
    rows, cells = {}, []
    for (a, q), passes in made.items():
        own = [
            {**row, "scores": {**row["scores"], "good": p}}
            for row, p in zip(records.rows(a, q, 60), passes, strict=True)
        ]
        rows[records.cell_id(a, q)] = own
        cells.append(records.record(a, q, own))
    run = folder(tmp_path / "run", cells, rows, [c.id for c in cells])
    lines = {line["name"]: line for line in quantized(read(run))}
    assert lines["lora/gptq"]["taken"]["delta"] == "−67"
    assert lines["lora/gptq"]["taken"]["shown"]
    assert lines["lora/gptq"]["verdict"] == "shown to be worse"
    assert lines["prompt_rag/gptq"]["verdict"] == "open"  # 60 rows without a flip do not show 5 points
    assert lines["lora/gptq"]["lost"] == 40


def test_what_a_quantization_took_is_told_of_its_own_knobs(tmp_path: Path) -> None:
    cells, rows = [], {}
    for adaptation, bits, passes in (
        ("prompt_rag", 0, 30), ("lora", 0, 80), ("prompt_rag", 4, 30), ("lora", 4, 40), ("prompt_rag", 8, 30),
        ("lora", 8, 80),
    ):  # fmt: skip
        own = [
            {**r, "scores": {"good": int(i < passes)}}
            for i, r in enumerate(records.rows(adaptation, "gptq" if bits else "fp16"))
        ]
        made = records.record(adaptation, "gptq" if bits else "fp16", own)
        if bits:
            variant = f"quantization.bits={bits}"
            made = replace(made, id=f"{made.id}/{variant}", config={**made.config, "variant": variant})
        cells.append(made)
        rows[made.id] = own
    run = read(folder(tmp_path / "run", cells, rows, [c.id for c in cells]))
    taken = {line["name"]: line["taken"] for line in quantized(run) if line["taken"]}
    assert {name: t["delta"] for name, t in taken.items()} == {
        "lora/gptq quantization.bits=4": "−42", "lora/gptq quantization.bits=8": "0",
    }  # fmt: skip


def quantized(found: Run) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = comparisons.quantized(found, 0.05, found.ids)["rows"]
    return lines


def test_what_is_shown_of_a_grid_is_corrected_for_all_of_it(tmp_path: Path) -> None:
    """Which cells are shown follows from their quality, so the others count."""
    found = read(folder(tmp_path / "run", *records.grid(), records.ids()))
    some = [records.cell_id("lora", "int8"), records.cell_id("lora", "awq")]
    for compared, others in ((comparisons.differences, 14), (partial(comparisons.quantized, margin=0.05), 12)):
        whole, part = compared(found, shown=found.ids), compared(found, shown=some)
        assert (whole["comparisons"], part["comparisons"]) == (others, others)
        assert [line["name"] for line in part["rows"]] == ["lora/int8", "lora/awq"]
        told = {line["name"]: line["holm"] for line in whole["rows"]}
        assert all(line["holm"] >= told[line["name"]] for line in part["rows"])


def seeded(number: int, passes: list[int]) -> tuple[RunRecord, list[dict[str, Any]]]:
    rows = [
        {**r, "scores": {**r["scores"], "good": p}}
        for r, p in zip(records.rows("lora", "fp16", 40), passes, strict=True)
    ]
    return records.record("lora", "fp16", rows, seed=number, id=f"m/lora/fp16/support_tone/seed{number}"), rows


def test_seeds_are_told_together_with_both_kinds_of_luck(tmp_path: Path) -> None:
    cells = [seeded(n, [1] * (20 + 4 * n) + [0] * (20 - 4 * n)) for n in (1, 2, 3)]
    run = folder(tmp_path / "run", [c for c, _ in cells], {c.id: r for c, r in cells}, [c.id for c, _ in cells])
    (line,) = comparisons.seeds(read(run))["rows"]
    assert line["mean"] == "70%"
    assert line["each"] == "1: 60%, 2: 70%, 3: 80%"
    low, high = (int(v.rstrip("%")) for v in line["interval"].split(" to "))
    assert high - low > 40  # three seeds ten points apart are little to go by
    report.write(run)
    assert "Over training seeds" in page(run)


def test_seeds_are_compared_within_their_suite(tmp_path: Path) -> None:
    cells, rows = [], {}
    for suite, adaptation, passes in (
        ("a", "prompt_rag", 10),
        ("a", "lora", 60),
        ("b", "prompt_rag", 50),
        ("b", "lora", 60),
    ):
        for seed in (1, 2):  # both suites name their rows alike
            own = [{**r, "scores": {"good": int(i < passes)}} for i, r in enumerate(records.rows(adaptation, "fp16"))]
            made = records.record(adaptation, "fp16", own, suite=suite, seed=seed)
            cells.append(replace(made, id=f"{made.id.replace('support_tone', suite)}/seed{seed}"))
            rows[cells[-1].id] = own
    run = folder(tmp_path / "run", cells, rows, [c.id for c in cells])
    lines = {line["name"]: line["delta"] for line in comparisons.seeds(read(run))["rows"]}
    told = {"a/prompt_rag/fp16": "", "a/lora/fp16": "+52", "b/prompt_rag/fp16": "", "b/lora/fp16": "+10"}
    assert lines == told


def test_seeds_of_several_models_are_told_apart(tmp_path: Path) -> None:
    cells, rows = [], {}
    for model, adaptation, passes in (
        ("m1", "prompt_rag", 10), ("m1", "lora", 60), ("m2", "prompt_rag", 20), ("m2", "lora", 50)
    ):  # fmt: skip
        for seed in (1, 2):
            own = [{**r, "scores": {"good": int(i < passes)}} for i, r in enumerate(records.rows(adaptation, "fp16"))]
            made = records.record(adaptation, "fp16", own, model=model, seed=seed)
            cells.append(replace(made, id=f"{model}/{adaptation}/fp16/support_tone/seed{seed}"))
            rows[cells[-1].id] = own
    run = folder(tmp_path / "run", cells, rows, [c.id for c in cells])
    found = comparisons.seeds(read(run))
    assert found["reference"] == "m1/prompt_rag/fp16"
    assert {line["name"]: line["delta"] for line in found["rows"]} == {
        "m1/support_tone/prompt_rag/fp16": "", "m1/support_tone/lora/fp16": "+52",
        "m2/support_tone/prompt_rag/fp16": "+10", "m2/support_tone/lora/fp16": "+42",
    }  # fmt: skip
    report.write(run)
    assert "Against m1/prompt\\_rag/fp16" in (run / "report.md").read_text(encoding="utf-8")


def test_a_single_other_answer_is_neither_all_nor_none(tmp_path: Path) -> None:
    told = []
    for other in ({0}, set(range(399)), set(), set(range(400))):
        cells, rows = [], {}
        for q in ("fp16", "int8"):
            own = records.rows("lora", "fp16", 400)
            if q == "int8":
                own = [{**r, "output": f"No: {i}"} if i in other else r for i, r in enumerate(own)]
            cells.append(records.record("lora", q, own))
            rows[cells[-1].id] = own
        run = folder(tmp_path / str(len(other)), cells, rows, [c.id for c in cells])
        told += [line["same"] for line in quantized(read(run))]
    assert told == [">99%", "<1%", "100%", "0%"]


def test_two_tables_do_not_give_two_verdicts_of_one_pair(tmp_path: Path) -> None:
    """One interval alone lies beyond the margin; after correcting for all comparisons nothing is shown, nor of the
    cells without a flip: the exact binomial test of 84 rows rules nothing out for all twelve."""
    cells, rows = run(
        cell("lora", "fp16", [1] * 84, 1.0), cell("lora", "int8", [1] * 69 + [0] * 15, 2.0),
        *(cell(a, q, [1] * 84, 2.0) for a in records.ADAPTATIONS for q in records.QUANTIZATIONS
          if (a, q) not in (("lora", "fp16"), ("lora", "int8"))),
    )  # fmt: skip
    page = view(read(folder(tmp_path / "run", cells, rows, [r.id for r in cells])))
    lines = {q["name"]: q for q in page["quantized"]["rows"]}
    line, still = lines["lora/int8"], lines["lora/awq"]
    assert (still["delta"], still["verdict"], still["holm"]) == ("0", "open", "0.161")
    why = page["decision"].reasons[cells[1].id]
    assert line["verdict"] == "open"
    assert why.startswith("Its interval against prompt_rag/fp16 lies beyond the margin of 5 points: −18 points")
    assert "No worse by 5 points | p of “no worse” (Holm) | Same answer" in markdown(page)


def test_an_interval_in_a_table_does_not_round_to_what_the_verdict_beside_it_denies(tmp_path: Path) -> None:
    """Six rows gained of 96 are shown, and so is that nine lost and eight gained of 200 are within 5."""
    half, kept = cell("lora", "fp16", [1] * 80 + [0] * 16, 1.0)
    whole = cell("lora", "fp16", [1] * 86 + [0] * 10, 1.0)
    cells, rows = run(whole, (replace(half, id=f"{half.id}/curve=0.5"), kept))
    (curve,) = comparisons.learning(read(folder(tmp_path / "curve", cells, rows, [r.id for r in cells])), 0.05)
    assert curve["answer"].startswith("More data would likely still help")
    assert curve["lines"][-1]["low"] == "+0.5"
    whole = cell("lora", "fp16", [0] * 8 + [1] * 172 + [0] * 20, 1.0)
    cells, rows = run(whole, cell("lora", "int8", [1] * 8 + [0] * 9 + [1] * 163 + [0] * 20, 1.0))
    (line,) = quantized(read(folder(tmp_path / "small", cells, rows, [r.id for r in cells])))
    assert (line["verdict"], line["low"]) == ("shown", "−4.8")


def test_nothing_is_called_the_best_where_less_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, made = records.grid()
    scored, rows = [], {}
    for n, r in enumerate(cells[:6]):
        rows[r.id] = [{**row, "scores": {"brier": (0.1 + 0.05 * n)}} for row in made[r.id]]
        m = Measurement("quality/brier", 0.1 + 0.05 * n, "share", "lower", 96, Interval(0.1, 0.5, "bootstrap"))
        config = {**r.config, "policy": records.POLICY | {"metric": "brier"}}
        scored.append(replace(r, config=config, measurements=(*r.measurements, m)))
    part = {**scored[-1].config, "suite": {"params": {"train_share": 0.5}}}
    scored.append(replace(scored[-1], id=f"{scored[-1].id}/curve=0.5", config=part))
    rows[scored[-1].id] = [{**row, "scores": {"brier": 0.1}} for row in rows[scored[-2].id]]
    ids = [r.id for r in scored]
    half = view(read(folder(tmp_path / "half", scored[:5], rows, ids)))
    assert half["sentences"][1] == "No cell is named as the best so far: less of “brier” is better."
    monkeypatch.setattr(page_module, "SHOWN_CELLS", 2)
    assert page_module.thinned(read(tmp_path / "half"), None).ids == tuple(ids[:2])
    monkeypatch.undo()
    whole = view(read(folder(tmp_path / "whole", scored, rows, ids)))
    for shown in (half, whole):
        assert shown["dumbbells"] is None
        assert not shown["quantized"]["rows"]
    (curve,) = whole["learning"]
    assert curve["lines"][-1]["delta"] == "+25"
    assert curve["answer"] == "Nothing is said of what more data would do: less of “brier” is better."


def test_graded_scores_are_not_told_as_rows_that_pass(tmp_path: Path) -> None:
    cells, rows = [], {}
    for a in records.ADAPTATIONS:
        made = records.rows(a, "fp16")
        graded = [{**r, "scores": {**r["scores"], "good": 0.25 + r["scores"]["good"] / 2}} for r in made]
        cells.append(records.record(a, "fp16", graded))
        rows[cells[-1].id] = graded
    text = page(folder(tmp_path / "graded", cells, rows, [c.id for c in cells]))
    for told in (
        "score “good” of the rows, with its 95%",
        ">Score “good” of the rows<",
        "Gained rows score higher here",
    ):
        assert told in text, told
    assert "score higher with full_ft/fp16 than with" in text or "score higher with lora/fp16 than with" in text
    assert "that pass" not in text.partition('id="scores"')[0]
    half = view(read(folder(tmp_path / "half", cells, rows, [*(c.id for c in cells), "one more"])))
    assert ") on 96 rows." in half["sentences"][1]
    passing = page(folder(tmp_path / "passing", *records.grid(), records.ids()))
    for told in (
        "share of rows that pass “good”, with its 95%",
        ">Share of rows that pass “good”<",
        "Gained rows pass",
    ):
        assert told in passing, told
    assert "pass with lora/fp16 and not with prompt_rag/fp16" in passing


def test_the_margin_is_told_with_what_a_simpler_cell_must_measure(tmp_path: Path) -> None:
    drawing = view(read(folder(tmp_path / "run", *records.grid(), records.ids())))["dumbbells"]
    assert "where its bar reaches 0 and its dot lies no further left than that line." in drawing.note


def test_cells_are_called_what_they_are_where_a_limit_bars_the_best(tmp_path: Path) -> None:
    """Without a prompted cell the reference is no baseline of today."""
    cells, rows = records.grid()
    cells = [r for r in cells if r.adaptation != "prompt_rag"]
    most = max(m.value for r in cells if r.quantization == "int8" and (m := r.value("memory_bytes/peak_rss"))) - 1
    cells = [replace(r, config={**r.config, "policy": records.POLICY | {"max_memory_bytes": most}}) for r in cells]
    shown = view(read(folder(tmp_path / "run", cells, rows, [r.id for r in cells])))
    best, note = shown["names"][shown["decision"].best], shown["dumbbells"].note
    assert f"the difference from {best}, the highest quality of those that could be chosen, with" in note
    assert f"that of {shown['reference']}, the reference (hollow)" in note
    assert "highest quality to choose from" in {a["role"] for e in shown["examples"] for a in e["front"]}


def test_the_report_compares_within_the_suite_that_is_judged(tmp_path: Path) -> None:
    cells, rows = [], {}
    for suite in ("a", "b"):
        for made in records.grid()[0][:3]:
            policy = {**records.POLICY, "suites": {"b": 1}}
            cells.append(replace(made, suite=suite, id=made.id.replace("support_tone", suite),
                                 config={**made.config, "policy": policy}))  # fmt: skip
            rows[cells[-1].id] = records.grid()[1][made.id]
    run = folder(tmp_path / "run", cells, rows, [c.id for c in cells])
    shown = view(read(run))
    assert shown["decision"].reference == cells[3].id
    assert all("/b" in line["name"] for line in shown["differences"]["rows"])
    assert "/b" in shown["differences"]["reference"]
    assert shown["dumbbells"] is not None
    ahead = [records.with_value(cells[0], "quality/good", 1.0), *cells[1:-1]]
    half = view(read(folder(tmp_path / "half", ahead, rows, [c.id for c in cells])))
    assert "Highest quality so far: smollm2_135m/prompt_rag/fp16/b with" in half["sentences"][1]
    beyond = [*cells[:-2], records.with_value(cells[-2], "quality/good", 1.5)]
    half = view(read(folder(tmp_path / "beyond", beyond, rows, [c.id for c in cells])))
    assert "as the best so far: smollm2_135m/prompt_rag/int8/b has 1.50; what decides must" in half["sentences"][1]


def test_the_headline_of_several_seeds_is_their_mean_with_the_luck_of_training(tmp_path: Path) -> None:
    def cell(adaptation: str, seed: int, passes: int) -> tuple[RunRecord, list[dict[str, Any]]]:
        rows = [{**r, "scores": {"good": int(i < passes)}} for i, r in enumerate(records.rows(adaptation, "fp16"))]
        made = records.record(adaptation, "fp16", rows)
        return replace(made, seed=seed, id=made.id + (f"/seed{seed}" if seed else "")), rows

    cells = [cell("prompt_rag", 0, 20), *(cell("lora", n, k) for n, k in enumerate((60, 88, 90)))]
    cells[2] = records.with_value(cells[2][0], "e2e_ms/p95", 9000), cells[2][1]
    run = read(folder(tmp_path / "run", [c for c, _ in cells], {c.id: r for c, r in cells}, [c.id for c, _ in cells]))
    shown = view(run)
    (line,) = shown["seeds"]["rows"]
    quality, p95 = shown["headline"][:2]
    low, high = line["interval"].split(" to ")
    assert (line["mean"], int(low) < 45, high) == ("83%", True, "100%")
    assert shown["sentences"][0].startswith(f"Ship lora/fp16: 83% ({low}% to {high}) of 96 rows over 3 seeds pass")
    assert (quality["title"], quality["text"], quality["interval"], quality["change"]) == (
        "Quality by “good”, mean of 3 seeds", "83%", line["interval"], "+62 points",
    )  # fmt: skip
    assert f"p95 response time {p95['text']} for a 32-token answer (its own have 68 on" in shown["sentences"][0]


def test_seeds_are_drawn_together_as_they_are_judged(tmp_path: Path) -> None:
    many, few = [1] * 180 + [0] * 20, [1] * 140 + [0] * 60
    made = [by_seed(cell("lora", "fp16", many, 2.0), n) for n in range(3)]
    made += [by_seed(cell("full_ft", "fp16", p, 1.0), n) for n, p in enumerate((many, few, many))]
    cells, rows = run(*made)
    shown = view(read(folder(tmp_path / "run", cells, rows, [c.id for c in cells])))
    top, other = shown["dumbbells"].rows
    assert top == ("lora/fp16", "90%", "90%", "", "")
    known = argued(cells, rows, read_policy(records.POLICY))[1].pairs[cells[0].id][cells[3].id]
    assert other == ("full_ft/fp16", "83%", "90%", "−7", f"{points(known.low)} to {points(known.high)}")
    assert shown["dumbbells"].note.endswith("Cells that differ in their seed alone are drawn together.")
    alone = view(read(folder(tmp_path / "alone", *records.grid(), records.ids())))
    assert "seed" not in alone["dumbbells"].note
    assert shown["decision"].reasons[cells[3].id].endswith("; more seeds, and then more rows, would tell.")
    assert {o["name"] for o in shown["account"]["odds"]} == {"lora/fp16", "full_ft/fp16"}
    assert embedded(shown)["called"] == {cells[0].id: "lora/fp16", cells[3].id: "full_ft/fp16"}
    lost = [cells[0], replace(cells[1], status=Status.FAILED, measurements=()), *cells[2:]]
    less = view(read(folder(tmp_path / "less", lost, rows, [c.id for c in cells])))
    assert [(name, own) for name, own, *_ in less["dumbbells"].rows] == [("lora/fp16", "90%"), ("full_ft/fp16", "90%")]
    assert less["headline"][0]["title"] == "Quality by “good”, mean of 2 seeds"


def test_swept_knobs_are_no_seeds_and_have_their_own_parents(tmp_path: Path) -> None:
    cells, rows = [], {}
    for rank, passes in ((8, 10), (16, 50)):
        for q in ("fp16", "gptq"):
            own = [
                {**r, "scores": {**r["scores"], "good": int(i < passes)}}
                for i, r in enumerate(records.rows("lora", q, 60))
            ]
            made = records.record("lora", q, own)
            variant = f"adaptation.rank={rank}"
            cells.append(replace(made, id=f"{made.id}/{variant}", config={**made.config, "variant": variant}))
            rows[cells[-1].id] = own
    run = folder(tmp_path / "run", cells, rows, [c.id for c in cells])
    found = read(run)
    report.write(run)
    assert "lora/gptq adaptation.rank=16" in page(run)
    assert parts(cells[0].id) == ("smollm2_135m · support_tone · adaptation.rank=8", "lora", "fp16")
    assert comparisons.seeds(found)["rows"] == []
    assert [line["delta"] for line in quantized(found)] == ["0", "0"]
