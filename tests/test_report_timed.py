"""What a report tells of timings: how and beside what they were taken, adapters, load, and the cost that follows."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import report
from harness.decide import CostLine, memory
from harness.report import charts, evidence
from harness.report.page import view
from harness.runs import read
from harness.types import Measurement, RunRecord, Status
from tests import records
from tests.pages import HOSTILE, Page, folder, page


def test_steps_that_were_launched_otherwise_are_not_compared_silently(tmp_path: Path) -> None:
    def launched(how: str, cells: list[RunRecord]) -> list[RunRecord]:
        return [replace(r, steps={**r.steps, "latency": {"facts": {"how": how}}}) for r in cells]

    cells, rows = records.grid()
    alike = folder(tmp_path / "alike", launched("CUDA graph", cells), rows, records.ids())
    assert not [c for c in evidence.caveats(read(alike)) if "launched alike" in c]
    mixed = launched("CUDA graph", cells[:-1]) + launched("not captured: it asks the host", cells[-1:])
    (told,) = [
        c for c in evidence.caveats(read(folder(tmp_path / "mixed", mixed, rows, records.ids()))) if "alike" in c
    ]
    assert "not captured: it asks the host (full_ft/dynamic)" in told


def test_a_response_time_says_of_how_long_an_answer(tmp_path: Path) -> None:
    """A p95 of 32 tokens is none of the 68 that a cell's own answers have, whose time stands beside it where taken."""
    cells, rows = records.grid()
    shown = view(read(folder(tmp_path / "fixed", cells, rows, records.ids())))
    said = "p95 response time 3.35 s for a 32-token answer (its own have 68 on average), $"
    assert said in shown["sentences"][0]
    assert "p95 response time of a 32-token answer" in [card["title"] for card in shown["headline"]]
    (note,) = {grid["note"] for grid in shown["heatmaps"] if grid["title"] == "p95 response time"}
    assert note.endswith("to last token of a 32-token answer; cells' own answers have 68 on average")
    assert [c for c in shown["all_cells"]["columns"] if "Whole" in c] == [
        "Whole 32-token answer p50", "Whole 32-token answer p95",
    ]  # fmt: skip
    assert "Throughput, batched, 8 rows" in shown["all_cells"]["columns"]
    assert [f["knob"] for f in shown["account"]["flips"] if "p95" in f["knob"]] == ["p95 limit, 32-token answer"]
    own = Measurement("e2e_natural_ms/p95", 7000.0, "ms", "lower", 4)
    natural = [replace(r, measurements=(*r.measurements, own)) for r in cells]
    first = view(read(folder(tmp_path / "own", natural, rows, records.ids())))["sentences"][0]
    assert "32-token answer (its own have 68 on average, p95 7.00 s), $" in first
    none = [records.with_value(r, "output_tokens/mean", 0.0) for r in cells]
    picked = view(read(folder(tmp_path / "none", none, rows, records.ids())))
    assert "own" not in picked["sentences"][0] + "".join(grid["note"] for grid in picked["heatmaps"])
    silent = [replace(r, config={**r.config, "measure": {"params": {"latency": {}}}}) for r in cells]
    heads = [replace(r, not_measured={"itl_ms": "a classification head answers in one step"}) for r in cells]
    for name, some in (("silent", silent), ("heads", heads)):
        assert view(read(folder(tmp_path / name, some, rows, records.ids())))["timed"] == "", name
    run = read(folder(tmp_path / "mixed", [heads[0], *cells[1:]], rows, records.ids()))
    mixed = view(run)
    at = mixed["all_cells"]["columns"].index("Whole 32-token answer p95")
    assert [", one step" in line["values"][at]["text"] for line in mixed["all_cells"]["rows"][:2]] == [True, False]
    assert "and their own 68.0, which cost counts" in " ".join(evidence.caveats(run))


def test_a_card_says_where_timings_do_not_tell_two_numbers_apart(tmp_path: Path) -> None:
    cells, rows = records.grid()
    for pace, told in ((1.0, True), (100.0, False)):
        config = {"policy": records.POLICY | {"pace": pace}}
        run = folder(
            tmp_path / str(pace), [replace(r, config={**r.config, **config}) for r in cells], rows, records.ids()
        )
        cards = {card["title"].partition(" of a ")[0]: card for card in view(read(run))["headline"]}
        for title, card in cards.items():
            timing = title.startswith(("p95", "Cost"))
            assert (", not told apart," in card["change"]) is (timing and not told and bool(card["change"])), title
        assert any(card["change"] for card in cards.values())


def test_what_loading_takes_beyond_answering_is_told(tmp_path: Path) -> None:
    cells, rows = records.grid()
    for factor in (0.9, 2.0):
        some = [
            replace(
                r,
                measurements=(
                    *r.measurements,
                    replace(m, metric="memory_bytes/peak_rss_loading", value=factor * m.value),
                ),
            )
            for r in cells[:2]
            if (m := memory(r))
        ]
        run = read(folder(tmp_path / str(factor), [*some, *cells[2:]], rows, records.ids()))
        said = [c for c in evidence.caveats(run) if "Loading took more in 2 cells of 2, up to " in c]
        assert bool(said) is (factor > 1)


def test_one_cell_is_no_cells(tmp_path: Path) -> None:
    one = records.record("lora", "fp16")
    drawn = page(folder(tmp_path / "run", [one], {one.id: records.rows("lora", "fp16")}, [one.id]))
    assert "1 of 1 cell ok" in drawn
    assert not re.findall(r"\b1 cells", drawn)


def test_a_machine_that_changed_its_pace_is_told(tmp_path: Path) -> None:
    cells, rows = records.grid()
    drifts = [1.02, 1.31, *[1.0] * 13]
    timed = [
        replace(r, measurements=(*r.measurements, Measurement("round_drift", d, "×", "lower", 2)))
        for r, d in zip(cells, drifts, strict=True)
    ]
    run = folder(tmp_path, timed, rows, records.ids())
    (told,) = [c for c in evidence.caveats(read(run)) if "pace" in c]
    assert "timed: prompt_rag/int8 took over 10% longer" in told


@pytest.mark.parametrize(
    ("few", "many", "said"),
    [
        (24, 24, ["A p95 of fewer than 72 different requests, here as few as 24, has no upper bound"]),
        (5, 200, ["A p95 of fewer than 72 different requests, here as few as 5,", "A p50 of fewer than 6"]),
        (6, 71, ["as few as 6, has no upper"]), (1, 3, ["as few as 1,", "Of one there is no interval."]), (72, 72, []),
    ],
)  # fmt: skip
def test_times_of_few_requests_are_told_to_have_no_bounds(few: int, many: int, said: list[str], tmp_path: Path) -> None:
    cells, rows = records.grid()
    timed = [
        replace(r, measurements=tuple(replace(m, n=n) if m.unit == "ms" else m for m in r.measurements))
        for r, n in zip(cells, [few, *[many] * 14], strict=True)
    ]
    run = read(folder(tmp_path, timed, rows, records.ids()))
    told = evidence.unbounded(run)
    assert bool(told) == bool(said)
    assert all(s in told for s in said)
    assert ("p50" in told) == (few < 6)
    assert (told in evidence.caveats(run)) == bool(said)


def test_a_lora_beside_its_base_is_told(tmp_path: Path) -> None:
    cells, rows = records.grid()
    times = {
        "load_ms": 311.0, "swap_ms": 15.5, "step_ms/beside": 66.0, "step_ms/merged": 47.2, "batch_step_ms/each": 182.0,
        "batch_step_ms/one": 75.8,
    }  # fmt: skip
    made = [Measurement(f"adapter/{k}", v, "ms", "lower", 8) for k, v in times.items()]
    made += [
        Measurement("adapter/bytes", 9.8e6, "bytes", "lower", 1),
        Measurement("adapter/count", 4, "adapters", "higher", 1),
    ]
    tuned = [
        replace(r, measurements=(*r.measurements, *made)) if r.adaptation == "lora" and r.quantization == "fp16" else r
        for r in cells
    ]
    run = folder(tmp_path / "tuned", tuned, rows, records.ids())
    text = page(run)
    for told in (
        "lora/fp16: an adapter takes 10 MB; one more is loaded in 311 ms and another chosen in 15.5 ms.",
        "A token takes 66.0 ms with the adapter beside its base and 47.2 ms merged.",
        "Of 4 rows with an adapter each, a step takes 182 ms, and 75.8 ms where all have one",
    ):
        assert told in text, told
    assert "an adapter takes 10 MB" in (run / "report.md").read_text(encoding="utf-8").replace("\\", "")
    assert "A LoRA beside its base" not in page(folder(tmp_path / "none", cells, rows, records.ids()))


def test_cells_timed_beside_other_work_are_named_with_what_it_was(tmp_path: Path) -> None:
    def noisy(r: RunRecord, flag: float, facts: Any) -> RunRecord:
        measured = {
            "noisy": (flag, "flag"), "other_work/cores": (0.4321, "cores"), "warmup_requests": (7.0, "requests"),
            "clock_mhz/sm": (1410.0, "MHz"), "temperature_c": (61.0, "°C"),
        }  # fmt: skip
        more = (Measurement(name, value, unit, "lower", 1) for name, (value, unit) in measured.items())
        return replace(r, measurements=(*r.measurements, *more), steps={**r.steps, "latency": {"facts": facts}})

    cells, rows = records.grid()
    quiet = [noisy(r, 0.0, {"noise": []}) for r in cells]
    run = folder(tmp_path / "quiet", quiet, rows, records.ids())
    assert not [c for c in evidence.caveats(read(run)) if "other work" in c]
    text = page(run)
    for odd in ("noisy", "other_work", "0.4321", "0.432", "warmup_requests", "1,410", "clock_mhz", "temperature_c"):
        assert odd not in text, odd
    found = [
        noisy(cells[0], 1.0, {"noise": ["other processes kept 0.43 of 2 cores busy", HOSTILE]}),
        noisy(cells[1], 1.0, {"noise": HOSTILE}),
        noisy(cells[2], 1.0, None),
        *quiet[3:],
    ]
    run = folder(tmp_path / "noisy", found, rows, records.ids())
    (told,) = [c for c in evidence.caveats(read(run)) if "other work" in c]
    assert "hold still: prompt_rag/fp16 (other processes kept 0.43 of 2 cores busy, </pre>" in told
    assert "; prompt_rag/int8 (no reason kept); prompt_rag/gptq (no reason kept). These" in told
    assert "prompt_rag/awq" not in told
    text = page(run)
    seen = Page(text)
    assert (seen.open, seen.wrong) == ([], [])
    assert "img" not in seen.tags
    assert text.count("<script") == 2
    assert "kept 0.43 of 2 cores busy, &lt;/pre&gt;" in text
    markdown = (run / "report.md").read_text(encoding="utf-8")
    assert "prompt\\_rag/fp16 (other processes kept 0.43 of 2 cores busy, " in markdown
    assert re.search(r"(?<!\\)<(script|img)", markdown) is None
    assert "\u202e" not in text + markdown


def test_load_is_told_with_its_service_level_and_what_failed(tmp_path: Path) -> None:
    cells, rows = records.grid()
    found = {
        "closed_1/ttft_ms/p95": (12.0, "ms"), "closed_8/tokens_per_s": (812.0, "tok/s"),
        "goodput_requests_per_s": (3.4, "req/s"), "goodput_failed_at": (3.6, "req/s"), "host_bound": (1.0, "flag"),
        "kv_bytes_per_token": (23_040.0, "bytes"), "predicted_rows/8GB": (0.0, "rows"),
        "predicted_rows/80GB": (12_345.0, "rows"), "open/places": (64.0, "rows"), "times_limit": (81.1, "×"),
    }  # fmt: skip
    made = tuple(Measurement(name, value, unit, "higher", 200) for name, (value, unit) in found.items())
    level = {"level": {"ttft_ms": 500, "token_ms": 100, "share": 0.95}, "open_requests": 200}
    config = {**cells[0].config, "measure": {"params": {"latency": {**level, "output_tokens": 32}}}}
    first = replace(cells[0], measurements=(*cells[0].measurements, *made), config=config)
    run = folder(tmp_path / "loaded", [first, *cells[1:]], rows, records.ids())
    text = page(run)
    section = text[text.index('id="load"') : text.index('id="scores"')]
    for told in (
        "1 client: first token p95", "8 clients: throughput", "12.0 ms", "812", "3.40 req/s", "not at 3.60 req/s",
        "95% of the requests have the first token within 500 ms and tokens at most 100 ms apart", "64 at a time",
        "So many clients that each",
    ):  # fmt: skip
        assert told in section, told
    assert section.count("<tr>") == 3 + 1, "two heads, and the one cell that was measured in both"
    assert "<td>23 kB</td><td>does not fit</td><td>12,345</td>" in section
    assert "200 tokens at most" in section
    assert "Host-bound: prompt_rag/fp16. A step takes" in text
    assert "81.1 ×" in text
    assert "| prompt\\_rag/fp16 | 12.0 ms |" in (run / "report.md").read_text(encoding="utf-8")
    assert 'id="load"' not in page(folder(tmp_path / "none", cells, rows, records.ids()))
    alone = replace(first, measurements=tuple(m for m in first.measurements if not m.metric.startswith("closed_")))
    text = page(folder(tmp_path / "alone", [alone, *cells[1:]], rows, records.ids()))
    assert "So many clients that" not in text
    assert "Goodput is the highest rate" in text


def test_every_table_has_the_cost_that_the_choice_was_made_on(tmp_path: Path) -> None:
    """At the goodput where every cell has one: 10 requests a second, half used, $3.60 an hour, is $0.20 per 1,000."""
    cells, rows = records.grid()
    price = {**cells[0].config["price"], "usd_per_hour": 3.6, "utilization": 0.5, "volume_requests": 1e12}
    rate = Measurement("goodput_requests_per_s", 10.0, "req/s", "higher", 200)
    long = Measurement("open/tokens/mean", 70.0, "tokens", "lower", 200)
    loaded = [
        replace(r, measurements=(*r.measurements, long, rate), config={**r.config, "price": price})
        for r in cells
        if r.status is Status.OK
    ]
    run = folder(tmp_path, loaded, rows, [r.id for r in loaded])
    report.write(run)
    assert "$0.200 per 1,000 requests" in (run / "report.md").read_text(encoding="utf-8")
    found = view(read(run))
    assert next(c["text"] for c in found["headline"] if c["title"].startswith("Cost")) == "$0.200"
    column = found["all_cells"]["columns"].index("Cost per 1,000")
    assert {row["values"][column]["text"] for row in found["all_cells"]["rows"]} == {"$0.200"}
    table = csv.DictReader((run / "report.csv").read_text(encoding="utf-8").splitlines())
    assert [float(line["cost_usd_per_1000"]) for line in table] == pytest.approx([0.2] * len(loaded))
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "<code>report.csv</code>; <code>table.csv</code>, " in text, "which has the cost of full batches"
    assert "some rate that holds the service level it was measured at; of the cells within these limits" in text
    without = [loaded[0], *(replace(r, measurements=r.measurements[:-1]) for r in loaded[1:])]
    batched = view(read(folder(tmp_path / "batched", without, rows, [r.id for r in loaded])))
    assert "$0.200" not in {row["values"][column]["text"] for row in batched["all_cells"]["rows"]}


def test_what_a_policy_says_of_volume_is_what_the_caveat_says(tmp_path: Path) -> None:
    for volume, said in ((None, "100,000"), (1000, "1,000")):
        one = records.record("lora", "fp16")
        one = replace(one, config={**one.config, "policy": records.POLICY | {"volume_requests": volume}})
        shown = view(read(folder(tmp_path / said, [one], {one.id: records.rows("lora", "fp16")}, [one.id])))
        (told,) = [c for c in shown["caveats"] if "building spread over" in c]
        assert f"spread over {said} requests;" in told
        assert f"volume of {said}." in shown["costs"].note


def test_peaks_of_other_numbers_of_rows_are_told(tmp_path: Path) -> None:
    """Of slots, and of a batch of cells that no slots can serve."""
    some = [records.record("lora", q) for q in ("fp16", "int8")]
    for held, full, said in (
        (1, {}, "1 row at once."), (1, {"batch_size": 48}, "1 row at once (engine.batch_size is 48)."),
        (65, {}, "1 rows at once in some cells, of 65 in others."),
    ):  # fmt: skip
        as_held = [replace(m, n=held) if m.metric == "memory_bytes/peak_rss" else m for m in some[1].measurements]
        cells = [some[0], replace(some[1], measurements=tuple(as_held))]
        cells = [replace(r, config={**r.config, "engine": {"params": full}}) for r in cells]
        rows = {r.id: records.rows("lora", r.quantization) for r in cells}
        shown = view(read(folder(tmp_path / f"{held}{len(full)}", cells, rows, [r.id for r in cells])))
        assert [c for c in shown["caveats"] if c.startswith("Peak memory is of ")] == [f"Peak memory is of {said}"]


def test_lines_of_cost_look_different_and_their_volumes_stand_apart() -> None:
    looks = {(charts.COLOURS[n % len(charts.COLOURS)], tuple(charts.DASHES[n % len(charts.DASHES)])) for n in range(30)}
    assert len(looks) == 30
    lines = {"lora": CostLine(0.01, 0.1, "batched"), "prompt": CostLine(0.02, 0.0, "batched")}
    powers = ["100", "1 k", "10 k", "100 k", "1 M", "10 M", "100 M"]
    for meet, first, thin in ((2000.0, 1, 1), (100.0, 0, 2)):
        drawing = charts.costs(lines, 2, [], 1e6, [(meet, "prompt")])
        assert drawing is not None
        assert "meets another cell’s." in drawing.note
        assert drawing.heads[3:] == tuple(f"At {v}" for v in powers[first:])
        for svg, every in ((drawing.wide, 1), (drawing.narrow, thin)):
            labels = re.findall(r">([^<]*)</text>", svg)
            assert labels[: labels.index("Requests over which building is spread")] == powers[first::every]


def test_a_crossing_that_is_drawn_has_its_dot_however_few_requests_it_is_at() -> None:
    lines = {"lora": CostLine(0.01, 0.0005, "batched"), "prompt": CostLine(0.02, 0.0, "batched")}
    dots = []
    for meet in (50.0, 2.0):
        drawing = charts.costs(lines, 2, [], 1e3, [(meet, "prompt")])
        assert drawing is not None
        dots.append(">50<" in drawing.wide)
    assert dots == [True, False]


@pytest.mark.parametrize(
    ("floor", "usd", "said", "cut"),
    [(0.999, 1000.0, None, 0.04), (0.0, 1000.0, "the first request", 0.73), (0.0, 0.0001, "never", 0.04),
     (0.0, 0.0, "never", 0.05), (0.0, 2.0, "10 requests", 0.04), (0.0, 1.0, "21 requests", 0.04)],
)  # fmt: skip
def test_never_cheaper_is_said_only_of_a_recommended_cell(
    tmp_path: Path, floor: float, usd: float, said: str, cut: float
) -> None:
    hosted = {"x": {"name": "X", "usd_per_million_input": usd, "usd_per_million_output": usd, "source": "s",
                    "date": "2026-01-01"}}  # fmt: skip
    one, prompt = records.record("prompt_rag", "fp16"), Measurement("prompt_tokens/mean", 200.0, "tokens", "lower", 96)
    config = {**one.config, "policy": records.POLICY | {"min_quality": floor},
              "price": {**one.config["price"], "hosted": hosted}}  # fmt: skip
    one = records.with_value(
        replace(one, measurements=(*one.measurements, prompt), config=config), "truncated_share", cut
    )
    rows = {one.id: records.rows("prompt_rag", "fp16")}
    text = page(folder(tmp_path / "run", [one], rows, [one.id]))
    price = r'<th scope="row">X</th><td>\$(?:268\.00|0\.0000268|0|0\.[25]\d+)</td>'  # with the digits of all prices
    found = re.findall(price + '<td class="text">([^<]*)<', text)
    assert found == [said or "2026-01-01"], "without one the column is left out"
    assert ("is cheaper from" in text) is (said is not None)
    assert "policy’s volume of" in text, "a price of 0 has no line, and leaves the others theirs"
    short = f"; {100 * cut:.0f}% of the answers were cut off at the limit, and another model&#39;s may be shorter"
    assert ("For requests like those of prompt_rag/fp16 (200 tokens in and 68 out on average, by this model&#39;s "
            f"tokenizer{short if cut >= 0.05 else ''}). The quality of the hosted models was not measured. Cells are "
            "priced by batches of 8 rows; a fuller one is cheaper.") in text  # fmt: skip


@pytest.mark.parametrize(("count", "drawn"), [(4, 4), (15, 6)])
def test_where_nothing_is_chosen_as_many_costs_are_drawn_as_have_room(tmp_path: Path, count: int, drawn: int) -> None:
    cells, rows = records.grid()
    few = {i: made[:4] for i, made in rows.items()}
    drawing = view(read(folder(tmp_path / "run", cells[-count:], few, records.ids()[-count:])))["costs"]
    assert f"of {drawn} choices" in drawing.description
    assert ("cells whose numbers stand below, 6 are drawn" in drawing.note) is (count > drawn)
