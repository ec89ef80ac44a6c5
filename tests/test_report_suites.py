"""Reports and the index of runs judged over several suites: their numbers are the decision's, never those of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import index, ledger, report
from harness.report.comparisons import against_best
from harness.report.numbers import COST, TITLES
from harness.report.page import view
from harness.runs import read
from harness.types import Measurement, RunRecord
from harness.wording import points
from tests import records
from tests.pages import folder, page

SLOW = {"e2e_ms/p95": 3.0, "throughput_requests_per_s": 1 / 3, "memory_bytes/peak_rss": 2.0}  # tool_json's, times


def two(
    path: Path, others: bool = False, suites: Mapping[str, float] | None = None, usd: bool = True, at: int = 0
) -> Path:
    """Six cells on two suites: every row of tool_json passes, and costs more. `others`: it has other rows."""
    cells: list[RunRecord] = []
    rows: dict[str, list[dict[str, Any]]] = {}
    for r in records.grid()[0][at : at + 6]:
        asked = records.rows(r.adaptation, r.quantization)
        first = replace(r, config={**r.config, "policy": records.POLICY | {"suites": suites}})
        second = replace(first, id=r.id.replace("support_tone", "tool_json"), suite="tool_json", measurements=tuple(
            replace(m, value=1.0 if m.metric.startswith("quality/") else m.value * SLOW.get(m.metric, 1.0),
                    interval=None, samples=()) for m in r.measurements
            if usd or r.adaptation != "prompt_rag" or not m.metric.startswith(("cost", "throughput"))
        ))  # fmt: skip
        digest = {"rows": ("e" if others else "d") * 16}
        second = replace(second, steps={**r.steps, "quality": {**r.steps["quality"], "preimage": digest}})
        cells += [first, second]
        rows[first.id] = asked
        rows[second.id] = [
            {**row, "scores": dict.fromkeys(row["scores"], 1), **({"id": f"other-{row['id']}"} if others else {})}
            for row in asked
        ]
    return folder(path, cells, rows, [r.id for r in cells])


def test_what_is_shown_of_several_suites_is_what_was_judged(tmp_path: Path) -> None:
    run = two(tmp_path / "sweep/1")
    shown = view(read(run))
    quality, p95, memory, cost = shown["headline"]
    first = shown["sentences"][0]
    assert f"a weighted {quality['text']} over 2 suites" in first
    assert f"p95 response time {p95['text']} for a 32-token answer, {cost['text']} per 1,000 requests" in first
    assert [card["title"] for card in shown["headline"]] == [
        "Quality by “good”, weighted over 2 suites", "p95 response time of a 32-token answer, slowest of 2 suites",
        "Peak memory, highest of 2 suites", "Cost per 1,000 requests, weighted over 2 suites",
    ]  # fmt: skip
    alone = read(run).records[shown["decision"].chosen.replace("support_tone", "tool_json")]
    assert (quality["value"], p95["value"]) == (pytest.approx((83 / 96 + 1) / 2), alone.value("e2e_ms/p95").value)  # type: ignore[union-attr]
    assert memory["value"] == alone.value("memory_bytes/peak_rss").value  # type: ignore[union-attr]
    assert shown["title"] == "support_tone and tool_json on smollm2_135m"
    assert shown["reference"].endswith("prompt_rag/fp16/support_tone and its likes")
    (line,) = index.view(tmp_path)["sweeps"][0]["runs"]
    assert line["values"] == [card["text"] for card in shown["headline"]]
    assert line["chosen"].endswith("/support_tone, weighted over 2 suites")
    dots, bells = shown["scatter"], shown["dumbbells"]
    assert len(dots.rows) == len(bells.rows) == 6, "one for each way to build, and none of one suite"
    assert (shown["names"][shown["decision"].chosen], cost["text"], quality["text"], "yes") in dots.rows
    assert dots.heads[1] == "Cost per 1,000 requests, weighted over 2 suites"
    assert "intervals" not in dots.note
    assert bells.rows[0][1:3] == (quality["text"], quality["base"])
    assert "shown to be good enough" in bells.note, "each has a bar"
    assert bells.note.endswith("Scores are weighted means over the suites judged, under the name of the first cell.")


def test_differences_over_several_suites_are_those_that_decide(tmp_path: Path) -> None:
    run = read(two(tmp_path / "run", at=5))
    found = run.decided()
    assert found
    decision, known = found
    drawing = against_best(run, decision, known, run.ids)
    assert drawing
    told = {row[0]: row[3:] for row in drawing.rows}
    assert told.pop(run.names[decision.best or ""]) == ("", "")
    pairs = known.pairs[decision.best or ""]
    assert told == {
        run.names[i]: (points(p.delta), f"{points(p.low)} to {points(p.high)}") for i, p in pairs.items()
    }  # fmt: skip
    assert len(pairs) == 5
    assert "is shown to be good enough" in drawing.note


@pytest.mark.parametrize(
    ("suites", "panels"),
    [(None, ["support_tone", "tool_json"]), ({"support_tone": 1, "tool_json": 0}, ["support_tone"])],
)
def test_the_recommended_cell_is_outlined_on_each_suite_that_is_judged(
    tmp_path: Path, suites: Mapping[str, float] | None, panels: list[str]
) -> None:
    shown = view(read(two(tmp_path / "run", suites=suites)))
    maps = [m for m in shown["heatmaps"] if m["title"] == "Quality"]
    chosen = {m["panel"]: [c["chosen"] for row in m["rows"] for c in row["cells"]].count(True) for m in maps}
    assert chosen == {f"smollm2_135m · {s}": int(s in panels) for s in ("support_tone", "tool_json")}
    starred = re.findall(r'class="picked"><th scope="row">([^<]+)</th><td class="text slim">', page(tmp_path / "run"))
    assert len(starred) == len(panels)


def test_a_suite_that_is_not_judged_is_neither_named_nor_the_best(tmp_path: Path) -> None:
    for time in "12":
        run = two(tmp_path / "sweep" / time, suites={"support_tone": 1, "tool_json": 0})
    shown = view(read(run))
    assert shown["title"] == "support_tone on smollm2_135m"
    assert (shown["headline"][0]["title"], shown["headline"][0]["text"]) == ("Quality by “good”", "86%")
    assert {row[0].rpartition("/")[2] for row in shown["scatter"].rows} == {"support_tone"}
    quality = index.view(tmp_path)["sweeps"][0]["trends"][0]
    assert [(r["recommended"], r["best"]) for r in quality["rows"]] == [("86%", "86%")] * 2
    beside = [r for r in read(run).ok if r.suite == "tool_json"]
    first = view(read(folder(tmp_path / "first", beside, {}, list(read(run).ids))))["scatter"]
    assert "with 95% intervals" in first.description, "where it has ended alone"


def test_a_run_of_several_suites_that_has_not_ended_has_its_place_in_the_trends(tmp_path: Path) -> None:
    two(tmp_path / "sweep/1")
    ledger.write_cells(run := two(tmp_path / "sweep/2"), [*read(run).ids, "smollm2_135m/full_ft/awq/tool_json"])
    quality, *_ = trends = index.view(tmp_path)["sweeps"][0]["trends"]
    assert [t["title"].partition(" of a")[0] for t in trends] == list(TITLES)
    before, pending = quality["rows"]
    assert (pending["recommended"], pending["best"]) == ("–", before["best"])


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ({"others": True}, ["Quality"]),
        ({"suites": {"support_tone": 1, "tool_json": 3}}, ["Quality", COST]),
        ({"suites": {"support_tone": 2, "tool_json": 2}}, []),
        ({"suites": {"tool_json": 1}}, list(TITLES)),
    ],
)
def test_lines_join_runs_only_where_each_suite_compares(
    tmp_path: Path, changed: dict[str, Any], broken: list[str]
) -> None:
    two(tmp_path / "sweep/1")
    two(tmp_path / "sweep/2", **changed)
    (sweep,) = index.view(tmp_path)["sweeps"]
    assert [t["title"].partition(" of a ")[0] for t in sweep["trends"] if t["breaks"]] == broken


def test_a_number_that_the_reference_lacks_is_not_called_its_own(tmp_path: Path) -> None:
    run = two(tmp_path / "run", usd=False)
    cost = view(read(run))["headline"][-1]
    assert (cost["base"], cost["change"]) == ("", "")
    report.write(run)
    assert "this is the reference cell" not in (run / "report.html").read_text(encoding="utf-8")


def test_seeds_are_one_number_in_the_index_as_in_the_report(tmp_path: Path) -> None:
    cells, rows = [], {}
    for seed, passes in enumerate((60, 88)):
        own = [{**r, "scores": {"good": int(i < passes)}} for i, r in enumerate(records.rows("lora", "fp16"))]
        made = records.record("lora", "fp16", own, seed=seed)
        floored = {**made.config, "policy": records.POLICY | {"min_quality": 0.1}}
        cells.append(replace(made, id=made.id + (f"/seed{seed}" if seed else ""), config=floored))
        rows[cells[-1].id] = own
    cells[1] = records.with_value(cells[1], "memory_bytes/peak_rss", 2e9)
    for time in "12":
        run = folder(tmp_path / "sweep" / time, cells, rows, [c.id for c in cells])
    (sweep,) = index.view(tmp_path)["sweeps"]
    line, cards = sweep["runs"][0], view(read(run))["headline"]
    assert (line["chosen"], line["values"][0], line["values"][2]) == ("lora/fp16, mean of 2 seeds", "77%", "2.00 GB")
    assert line["values"] == [card["text"] for card in cards]
    assert {(r["recommended"], r["best"]) for r in sweep["trends"][0]["rows"]} == {("77%", "77%")}


def test_a_cost_of_another_rate_or_with_other_labels_does_not_compare(tmp_path: Path) -> None:
    """Full batches, then a goodput, then one that had to meet another level, then with labelling paid for."""
    rate = Measurement("goodput_requests_per_s", 0.05, "req/s", "higher", 200)
    long = Measurement("open/tokens/mean", 60.0, "tokens", "lower", 200)
    for time, level, usd in (("1", None, None), ("2", 500, None), ("3", 900, None), ("4", 900, 50.0), ("5", 900, 50.0)):
        cells = []
        for r in records.grid()[0][:3]:
            latency = r.config["measure"]["params"]["latency"] | {"level": {"ttft_ms": level}}
            config = {**r.config, "price": {**r.config["price"], "usd_per_labelled_row": usd},
                      "measure": {**r.config["measure"], "params": {"latency": latency}}}  # fmt: skip
            cells.append(replace(r, config=config, measurements=(*r.measurements, *((rate, long) if level else ()))))
        folder(tmp_path / "sweep" / time, cells, records.grid()[1], [c.id for c in cells])
    (sweep,) = index.view(tmp_path)["sweeps"]
    new = {t["title"]: [r["new"] for r in t["rows"]] for t in sweep["trends"]}
    assert new.pop(COST) == [False, True, True, True, False]
    assert not any(any(rows) for rows in new.values())


def test_the_short_form_says_how_it_was_counted(tmp_path: Path) -> None:
    run = two(tmp_path / "sweep/1")
    for rows in (run / "rows").iterdir():
        rows.unlink()
    for r in ledger.read_records(run):
        ledger.write_record(run, replace(r, steps={}))
    report.write(run)
    told = (run / "report.md").read_text(encoding="utf-8").replace("\\", "")
    assert told.count("## How it was counted") == 1
    for note in view(read(run))["account"]["notes"]:
        assert f"\n- {note}\n" in told
    assert "No rows were kept" in told
    assert "Several suites are judged together (support_tone 50%, tool_json 50%)" in told
