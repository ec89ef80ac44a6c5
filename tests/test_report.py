"""The page and the Markdown hold what the records say, at every state of a run, and hostile text stays text."""

from __future__ import annotations

import base64
import html
import json
import math
import random
import re
import zlib
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from harness import ledger, report
from harness.decide import Decision
from harness.decide.policy import COST, P95
from harness.decide.twins import Twins
from harness.report import account, answers, cells, charts, comparisons, evidence
from harness.report.__main__ import main
from harness.report.answers import outcome
from harness.report.doubts import doubts
from harness.report.drawing import tick, ticks
from harness.report.page import policy_hash, verdict, view
from harness.runs import read
from harness.types import Interval, Measurement, RunRecord, Status
from harness.wording import edge, number
from tests import records
from tests.pages import HOSTILE, Page, folder, page
from tests.test_decide_costs import LEVEL, levelled


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = folder(tmp_path_factory.mktemp("support_tone") / "run", *records.grid(), records.ids())
    report.write(run)
    return run


def test_the_page_is_whole_and_asks_for_nothing(whole: Path) -> None:
    text = (whole / "report.html").read_text(encoding="utf-8")
    seen = Page(text)
    assert (seen.open, seen.wrong) == ([], [])
    assert not {"link", "img", "iframe", "object"} & seen.tags
    assert text.count("<script") == 2
    assert not {a for a in seen.attributes if a.startswith("on")} | ({"src"} & seen.attributes)
    assert "default-src 'none'" in text
    data, script = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert f"script-src {policy_hash(script)};" in text
    assert f"style-src {policy_hash(style)};" in text
    packed = base64.b64decode(json.loads(data)["deflate"])
    assert json.loads(zlib.decompress(packed, -15))["choosing"]["policy"]["objective"] == "cost_usd_per_1000"
    assert "style" not in seen.attributes, "the policy of the page lets no inline style take effect"
    assert "url(" not in text
    assert "@import" not in text
    assert len(text) < 2_000_000


def test_every_drawing_is_well_formed_and_described(whole: Path) -> None:
    drawings = re.findall(r"<svg.*?</svg>", (whole / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    assert len(drawings) > 10
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("aria-hidden") or root.get("aria-label") or root.get("aria-labelledby")
        assert "nan" not in drawing
        assert "inf" not in drawing
    points = [ElementTree.fromstring(d) for d in drawings if 'aria-label="Quality against cost' in d]
    assert len(points) == 2, "one for a desk, one for a phone"
    for root in points:
        marks = [g for g in root.iter() if "layer_3_marks" in g.get("class", "")]
        assert [len(list(g)) for g in marks] == [15]


def test_the_numbers_of_the_records_are_on_the_page(whole: Path) -> None:
    text = (whole / "report.html").read_text(encoding="utf-8")
    for r in ledger.read_records(whole):
        quality, p95 = r.value("quality/good"), r.value("e2e_ms/p95")
        assert quality is not None
        assert p95 is not None
        assert f"{100 * quality.value:.0f}%" in text
        assert f"{p95.value / 1000:.2f} s" in text
    for needle in (
        "Ship lora/fp16", "210 × Linear8bitLt", "The fp16 parent is itself dequantized from Q4_1.", "Example CPU",
        "Computed in float32 on a CPU", "torch 2.9.0", "no CUDA device", "https://example.com/prices", "McNemar",
        "trained parameters: 4,884,480", "One seed a cell",
    ):  # fmt: skip
        assert needle in text, needle


@pytest.mark.parametrize("lines", [0, 10, 95])
def test_rows_that_are_not_those_of_their_record_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: int
) -> None:
    """A decision would go by the few that a file has left."""
    cells, rows = records.grid()
    run = folder(tmp_path / "run", cells[:2], rows, [r.id for r in cells[:2]])
    path = run / "rows" / f"{ledger.slug(cells[1].id)}.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    assert main([str(run)]) == 2
    why = f"{path}: the rows of {cells[1].id} are not those of its record (greeting is "
    assert capsys.readouterr().err.startswith(f"harness: {why}")


def test_pending_failed_and_unsupported_cells_are_shown(tmp_path: Path) -> None:
    cells, rows = records.grid()
    some = cells[:3]
    some.append(records.ended("prompt_rag", "awq", Status.FAILED, "killed by the kernel: out of memory"))
    some.append(records.ended("prompt_rag", "dynamic", Status.UNSUPPORTED, "torchao is not installed"))
    run = folder(tmp_path / "run", some, rows, records.ids())
    text = page(run)
    assert Page(text).wrong == []
    assert "So far: 5 of 15 cells have ended, 2 of them without numbers." in text
    assert "Ship " not in text
    assert text.count(">pending<") >= 10
    assert "killed by the kernel: out of memory" in text
    assert "torchao is not installed" in text
    assert report.write(run)[1][0] == "So far: 5 of 15 cells have ended, 2 of them without numbers."
    markdown = (run / "report.md").read_text(encoding="utf-8")
    assert "torchao is not installed" in markdown
    assert markdown.count("| pending |") == 10


def test_a_run_without_any_record_can_be_drawn(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", [], {}, records.ids())
    assert "So far: 0 of 15 cells have ended." in page(run)


@pytest.mark.parametrize("status", [Status.FAILED, Status.UNSUPPORTED])
def test_a_run_where_nothing_worked_can_be_drawn(tmp_path: Path, status: Status) -> None:
    cells = [records.ended(a, q, status, "why not") for a in records.ADAPTATIONS for q in records.QUANTIZATIONS]
    text = page(folder(tmp_path / "run", cells, {}, records.ids()))
    assert "No recommendation" in text
    assert "why not" in text


def test_a_model_of_random_weights_has_no_quality_and_no_advice(tmp_path: Path) -> None:
    cells, _ = records.grid()
    dummies = [
        replace(
            r,
            measurements=tuple(m for m in r.measurements if not m.metric.startswith("quality/")),
            not_measured={"quality": "random weights"},
        )
        for r in cells
    ]
    text = page(folder(tmp_path / "run", dummies, {}, records.ids()))
    assert "No recommendation" in text
    assert "random weights" in text
    assert "not measured" in text


def test_hostile_text_is_shown_and_not_run(tmp_path: Path) -> None:
    cells, rows = records.grid()
    for made in rows.values():
        for row in made:
            row |= {"output": HOSTILE, "prompt": HOSTILE, "case": HOSTILE, "id": row["id"] + HOSTILE}
    cells[1] = records.ended("prompt_rag", "int8", Status.FAILED, HOSTILE)
    cells[2] = replace(
        cells[2], not_measured={HOSTILE: HOSTILE}, environment=dict(cells[2].environment) | {"os": HOSTILE}
    )
    model = {"name": HOSTILE, "target": "x", "params": {"note": HOSTILE, HOSTILE: HOSTILE}}
    cells = [replace(r, config=dict(r.config) | {"model": model}, model=HOSTILE) for r in cells]
    run = folder(tmp_path / "run", cells, rows, records.ids())
    text = page(run)
    seen = Page(text)
    assert (seen.open, seen.wrong) == ([], [])
    assert "img" not in seen.tags
    assert text.count("<script") == 2
    assert "&lt;script&gt;" in text
    assert "49" not in re.findall(r"txt\.exe.{0,30}", text)[0]
    for mark in "\u202e\u202c\x00":
        assert mark not in text
    assert "⟨U+202E⟩" in text
    markdown = (run / "report.md").read_text(encoding="utf-8")
    assert "\u202e" not in markdown
    assert re.search(r"(?<!\\)<(script|img)", markdown) is None
    assert "\u202e" not in "".join(report.write(run)[1])


def test_the_suites_own_reply_stands_beside_the_answers(tmp_path: Path) -> None:
    cells, rows = records.grid()
    rows = {i: [{**r, "reference": f"own {r['id']}"} for r in made] for i, made in rows.items()}
    found = view(read(folder(tmp_path / "run", cells, rows, records.ids())))
    shown = [*found["examples"], *found["flips"]["rows"]]
    assert [e["expected"] for e in shown] == [f"own {e['id']}" for e in shown]
    roles = [a["role"] for a in found["examples"][0]["front"]]
    assert (roles[0], "reference" in roles) == ("compared with", False)


def test_a_megabyte_of_output_is_cut_and_says_so(tmp_path: Path) -> None:
    cells, rows = records.grid()
    for row in rows[cells[0].id]:
        row["output"] = "x" * 1_000_000 if row["id"] == "row-000" else "y" * 50_000
    text = page(folder(tmp_path / "run", cells, rows, records.ids()))
    assert len(text) < 1_000_000
    assert "more characters in rows/]" in text


def test_the_order_of_files_changes_nothing(tmp_path: Path, whole: Path) -> None:
    cells, rows = records.grid()
    run = folder(tmp_path / whole.parent.name / whole.name, cells[::-1], rows, records.ids())
    text, expected = page(run), (whole / "report.html").read_text(encoding="utf-8")
    assert text.replace(f"{run.parent.name}/", "") == expected.replace(f"{whole.parent.name}/", "")


def test_two_models_are_told_apart(tmp_path: Path) -> None:
    cells, rows = records.grid()
    more = [replace(r, model="other", id=r.id.replace("smollm2_135m", "other")) for r in cells]
    rows |= {r.id: rows[r.id.replace("other", "smollm2_135m")] for r in more}
    run = folder(tmp_path / "run", cells + more, rows, records.ids() + [r.id for r in more])
    text = page(run)
    assert text.count("<h3>Quality</h3>") == 2
    assert "Ship smollm2_135m/lora/fp16/support_tone" in text or "Ship other/lora/fp16/support_tone" in text


def test_the_command_draws_and_tells_mistakes(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(whole)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Ship lora/fp16")
    assert len(out) == 4
    assert out[3].endswith("report.html")
    assert main([str(tmp_path)]) == 2
    for unread in ("--anyway", "--to=page.html"):
        assert main([str(whole), unread]) == 2
    assert "not a run folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (287 / 288, "share", ">99%"), (1 / 288, "share", "<1%"), (0.0, "share", "0%"), (1.0, "share", "100%"),
        (1 - 2**-53, "share", "100%"), (0.1 + 0.2 - 0.3, "share", "0%"), (0.0051, "share", "1%"),
        (0.8646, "share", "86%"), (2346.2, "ms", "2.35 s"), (38.04, "ms", "38.0 ms"), (1.05e9, "bytes", "1.05 GB"),
        (269e6, "bytes", "269 MB"), (188, "s", "3.1 min"), (0.0158, "USD", "$0.0158"), (12.5, "USD", "$12.50"),
        (1.0361, "ratio", "1.036×"), (0.0, "USD", "$0"), (float("nan"), "ms", "–"),
    ],
)  # fmt: skip
def test_numbers_read_well(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


@pytest.mark.parametrize(
    ("low", "high", "unit", "said"),
    [
        (0, 0.02, "share", "0.0% 0.5% 1.0% 1.5% 2.0%"), (0.9973, 1, "share", "99.7% 99.8% 99.9% 100.0%"),
        (0.988, 1, "share", "98.75% 99.00% 99.25% 99.50% 99.75% 100.00%"),
        (0, 0.98, "share", "0% 20% 40% 60% 80% 100%"), (0, 3.9, "USD", "$0 $1 $2 $3 $4"),
    ],
)  # fmt: skip
def test_the_labels_of_an_axis_differ(low: float, high: float, unit: str, said: str) -> None:
    places = ticks(low, high)
    assert " ".join(tick(v, unit, places[1] - places[0]) for v in places) == said


def test_half_points_are_labelled_as_such() -> None:
    lines = [{"name": "a", "score": 0.5, "base": 0.5, "delta": 0.0, "low": -0.07, "high": 0.07}]
    drawing = charts.dumbbells(lines, "a", "b", 0.05)
    assert drawing
    assert re.findall(r">([+−][\d.]+|0)<", drawing.wide) == ["−7.5", "−5", "−2.5", "0", "+2.5", "+5", "+7.5"]


def test_panels_are_named_as_they_are_titled_wherever_they_stand() -> None:
    lines = [{"name": n, "score": 0.5, "base": 0.4, "delta": 0.0, "low": -0.07, "high": 0.07} for n in "ab"]
    drawing = charts.dumbbells(lines, "a", "b", 0.05)
    assert drawing
    for name in re.findall("“(.+?)”", drawing.note):
        assert name in drawing.wide
        assert name in drawing.narrow
    assert not re.search(r"\b(Left|Right):", drawing.note)
    shares = [re.findall(r">(\d+%)<", side) for side in (drawing.wide, drawing.narrow)]
    assert shares == [["0%", "25%", "50%", "75%", "100%"], ["0%", "50%", "100%"]]


def test_a_dot_has_its_own_label_or_none() -> None:
    """Beside it, over no other dot or label, and no other dot nearly as near."""
    luck = random.Random(3)
    for _ in range(200):
        marks: list[dict[str, Any]] = [
            {
                "x": luck.uniform(0, 300),
                "y": luck.uniform(0, 320),
                "label": luck.choice(records.QUANTIZATIONS),
                "chosen": n == 0,
            }
            for n in range(luck.randint(1, 15))
        ]
        places = charts.label_places(marks, (0, 0, 300, 320))
        assert places[0] or len(marks) > 1
        boxes = [(x - w, y - 7, x + w, y + 7) for m, p in zip(marks, places, strict=True) if p
                 for (x, y), w in [(p, 3.4 * len(m["label"]))]]  # fmt: skip
        assert not any(a < g and e < c and b < h and f < d
                       for (a, b, c, d), (e, f, g, h) in combinations(boxes, 2))  # fmt: skip
        for (a, b, c, d), at in zip(boxes, (n for n, p in enumerate(places) if p), strict=True):
            away = [math.hypot(max(a - m["x"], 0, m["x"] - c), max(b - m["y"], 0, m["y"] - d)) for m in marks]
            assert away[at] == min(away) < 30
    crowd = [{"x": 150 + n % 4, "y": 150 + n // 4, "label": "dynamic", "chosen": n == 9} for n in range(12)]
    assert [bool(p) for p in charts.label_places(crowd, (0, 0, 300, 320))].count(True) <= 1


@pytest.mark.parametrize(
    ("low", "high", "text"), [(950, 1020, "950 ms to 1.02 s"), (950, 990, "950 to 990"), (1100, 1220, "1.10 to 1.22")]
)
def test_an_interval_keeps_units_that_differ(tmp_path: Path, low: float, high: float, text: str) -> None:
    one = records.with_value(records.record("lora", "fp16"), "e2e_ms/p95", (low + high) / 2, Interval(low, high, "b"))
    (p95,) = [
        h for h in cells.heatmaps(read(folder(tmp_path / "run", [one], {}, [one.id])), None) if "p95" in h["title"]
    ]
    assert p95["rows"][0]["cells"][0]["interval"] == text


def test_what_quantization_took_is_shown_against_the_same_adaptation(whole: Path) -> None:
    shown = view(read(whole))
    lines = {line["name"]: line for line in shown["quantized"]["rows"]}
    assert set(lines) == {f"{a}/{q}" for a in records.ADAPTATIONS for q in records.QUANTIZATIONS if q != "fp16"}
    assert {line["verdict"] for line in lines.values()} <= {"shown", "open", "shown to be worse"}
    assert lines["prompt_rag/gptq"]["taken"] is None
    assert lines["lora/gptq"]["taken"]["delta"]
    text = page(whole)
    assert "What quantization changed" in text
    assert (
        "| lora/gptq |" in (whole / "report.md").read_text(encoding="utf-8").partition("What quantization changed")[2]
    )
    assert "Gain over prompt_rag that quantization added or took" in text
    bold = re.findall(r'<span( class="clear")?>[+−0-9.]+</span> \([+−0-9.]+ to', text)
    assert [bool(b) for b in bold] == [line["taken"]["shown"] for line in shown["quantized"]["rows"] if line["taken"]]


def test_what_a_library_replaced_is_counted_by_the_classes_that_run(tmp_path: Path) -> None:
    one, parent = records.record("lora", "gptq"), records.record("lora", "fp16")
    facts = {"bits": 4, "weights_disk_bytes": 171315624}
    ran = {"linear_classes": {"TorchAtenLinear": 210, "Linear": 1}}
    steps = {**one.steps, "quantize": {"facts": facts}, "latency": {"facts": ran}}
    made = [replace(one, steps=steps), parent]
    run = read(folder(tmp_path / "run", made, {}, [r.id for r in made]))
    lines = {line["name"]: line for line in evidence.proofs(run)}
    assert lines["lora/gptq"]["replaced"] == "210 of 211"
    assert lines["lora/gptq"]["facts"] == "bits: 4", "its size stands under “On disk”"
    assert lines["lora/fp16"]["replaced"] == "0 of 211"
    alone = read(folder(tmp_path / "alone", made[:1], {}, [one.id]))
    assert evidence.proofs(alone)[0]["replaced"] == "–", "what it had before is not known"


@pytest.mark.parametrize(("cells", "told"), [(1, "lora/fp16"), (2, "both cells"), (3, "all 3 cells")])
def test_cells_that_lack_a_number_are_counted_in_words(tmp_path: Path, cells: int, told: str) -> None:
    made = [records.record("lora", q) for q in ("fp16", "int8", "gptq")[:cells]]
    run = read(folder(tmp_path / "run", made, {}, [r.id for r in made]))
    assert {m["cells"] for m in evidence.not_measured(run)} == {told + " that ended ok" * (cells > 1)}


def test_times_of_few_requests_are_told_beside_them(whole: Path) -> None:
    said = evidence.unbounded(read(whole))
    assert said.startswith("A p95 of fewer than 72 ")
    text = page(whole).partition('id="cells"')[2].partition("</p>")[0]
    assert html.escape(said) in text


def test_the_chosen_cell_of_a_large_grid_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(folder(tmp_path / "run", *records.grid(), records.ids()))
    monkeypatch.setattr(charts, "DRAWN", 1)
    for chosen in (found.ids[2], found.ids[-1]):
        drawing = charts.scatter(found, Decision(chosen, ("", "", ""), {}, 0.05, None))
        assert drawing is not None
        assert chosen.split("/")[2] in drawing.wide


@pytest.mark.parametrize("ended", [15, 6])
@pytest.mark.parametrize(("value", "better"), [(32.84, "higher"), (10.5, "lower"), (0.2, "lower")])
def test_a_score_that_no_chart_can_hold_is_not_drawn(tmp_path: Path, ended: int, value: float, better: Any) -> None:
    made, rows = records.grid()
    score = Measurement("quality/other", value, "points", better, 96, Interval(0.9 * value, 1.1 * value, "bootstrap"))
    policy = {**records.POLICY, "metric": "other"}
    made = [replace(r, measurements=(*r.measurements, score), config={**r.config, "policy": policy}) for r in made]
    run = folder(tmp_path / "run", made[:ended], rows, records.ids())
    assert charts.scatter(read(run), None) is None
    text = page(run)
    assert "Up and to the left is better" not in text
    assert "Ship " not in text


def test_a_limit_that_any_value_of_changes_the_choice_is_told(tmp_path: Path) -> None:
    made, rows = records.grid()
    made = [
        replace(r, measurements=tuple(m for m in r.measurements if not m.metric.startswith("e2e_ms")))
        if r.id == records.cell_id("lora", "fp16") else r
        for r in made[:6]
    ]  # fmt: skip
    text = page(folder(tmp_path / "run", made, rows, [r.id for r in made]))
    assert "at any limit" in text
    limit = "any limit on the p95 response time of a 32-token answer"
    assert f"The choice first changes with {limit}: to prompt_rag/fp16." in text


def test_an_answer_passes_a_score_that_it_has_in_full() -> None:
    row = {"scores": {"style": 1, "rouge": 0.1, "errors": 0.0, "ter": [1, 2]}, "output": "x"}
    assert outcome("", "", row, {"errors", "ter"})["missed"] == ["rouge"]
    assert outcome("", "", {"scores": {"style": True, "errors": 2}}, {"errors"})["missed"] == ["errors"]


def test_scores_that_are_better_when_lower_are_told_so(tmp_path: Path) -> None:
    whole = [{**r, "scores": {**r["scores"], "good": 1}} for r in records.rows("lora", "fp16")]
    rows = [{**r, "scores": {"good": 1, "invented": int(i % 50 == 0)}} for i, r in enumerate(whole)]
    one = records.record("lora", "fp16", whole)
    share = next(m for m in one.measurements if m.metric == "quality/good")
    worse = replace(share, metric="quality/invented", better="lower", value=0.02)
    one = replace(
        one, measurements=(share, worse, *(m for m in one.measurements if not m.metric.startswith("quality/")))
    )
    found = read(folder(tmp_path / "run", [one], {one.id: rows}, [one.id]))
    decision, _, sentences = verdict(found)
    assert "invented" not in " ".join(sentences)
    (line,) = cells.scores(found)["rows"]
    assert [v["level"] for v in line["values"]] == [5, 5]
    missed = [e["front"][0]["missed"] for e in answers.examples(found, decision)]
    assert [] in missed
    assert all(m in ([], ["invented"]) for m in missed)


def test_answers_that_changed_miss_no_score_of_which_less_is_better(whole: Path, tmp_path: Path) -> None:
    cells, rows = records.grid()
    less = Measurement("quality/invented", 0.0, "share", "lower", 96)
    cells = [replace(r, measurements=(*r.measurements, less)) for r in cells]
    rows = {i: [{**r, "scores": {**r["scores"], "invented": 0}} for r in made] for i, made in rows.items()}
    shown = view(read(folder(tmp_path / "run", cells, rows, records.ids())))["flips"]["rows"]
    before = view(read(whole))["flips"]["rows"]
    assert [r[side]["missed"] for r in shown for side in ("left", "right")] == [
        r[side]["missed"] for r in before for side in ("left", "right")
    ]


def test_labels_as_a_row_score_break_no_report(tmp_path: Path) -> None:
    cells, rows = [], {}
    for q in ("fp16", "gptq"):
        cells.append(records.record("lora", q))
        rows[cells[-1].id] = [{**r, "scores": {"good": ["a", "b"]}} for r in records.rows("lora", q)]
    run = folder(tmp_path / "run", cells, rows, [c.id for c in cells])
    assert "It has no scores on the same rows" in page(run)


def test_side_cells_are_no_candidates_but_answer_their_questions(tmp_path: Path) -> None:
    def cell(variant: str, passes: int, share: float) -> tuple[RunRecord, list[dict[str, Any]]]:
        rows = [
            {**r, "scores": {**r["scores"], "good": int(i < passes)}}
            for i, r in enumerate(records.rows("lora", "fp16"))
        ]
        made = records.record("lora", "fp16", rows)
        config = {**made.config, "suite": {**made.config["suite"], "params": {"primary": "good", "train_share": share}}}
        return replace(made, id=made.id + variant, config=config), rows

    cells = [cell("", 80, 1.0), cell("/curve=0.5", 50, 0.5), cell("/curve=0.25", 20, 0.25), cell("/again", 80, 1.0)]
    run = folder(tmp_path / "run", [c for c, _ in cells], {c.id: r for c, r in cells}, [c.id for c, _ in cells])
    found = read(run)
    assert list(found.records) == list(found.ids) == [cells[0][0].id]
    (curve,) = comparisons.learning(found, 0.05)
    assert [line["share"] for line in curve["lines"]] == ["25%", "50%", "100%"]
    assert curve["answer"].startswith("More data would likely still help")
    (control,) = comparisons.control(found)
    assert (control["delta"], control["verdict"]) == ("0", "nothing, as it should be")
    report.write(run)
    text = page(run)
    assert "Would more training rows help?" in text
    assert "A/A control" in text
    (decision, *_), small = verdict(found), records.record("lora", "gptq", cells[0][1])
    assert decision
    assert decision.try_first == cells[0][0].id
    both = {c.id: r for c, r in [*cells, (small, cells[0][1])]}
    run = folder(tmp_path / "both", [*(c for c, _ in cells), small], both, [cells[0][0].id, small.id])
    (decision, *_) = verdict(read(run))
    assert decision
    assert decision.ladder[-1].name == "More training rows", "the curve is asked for the ladder's last rung"


@pytest.mark.parametrize(
    ("also", "then"), [(None, "full fine-tuning, or better rows, may"), ("full_ft", "better rows")]
)
def test_a_level_curve_names_full_fine_tuning_only_where_it_was_not_tried(
    tmp_path: Path, also: str | None, then: str
) -> None:
    made, rows = [], {}
    for n, share in enumerate((1.0, 0.5)):
        own = [{**r, "scores": {"good": 1}} for r in records.rows("lora", "fp16")]
        one = records.record("lora", "fp16", own)
        suite = {**one.config["suite"], "params": {"primary": "good", "train_share": share}}
        made.append(replace(one, id=one.id + "/curve=0.5" * n, config={**one.config, "suite": suite}))
        rows[made[-1].id] = own
    made += [records.record(also, "fp16")] if also else []
    (curve,) = comparisons.learning(read(folder(tmp_path / "run", made, rows, [c.id for c in made])), 0.05)
    assert f"More of the same will not help much; {then}" in curve["answer"]


def test_the_data_card_tells_source_licence_rows_and_digest(tmp_path: Path) -> None:
    def told(one: RunRecord, **stated: str) -> list[tuple[str, ...]]:
        run = folder(tmp_path / f"run{len(stated)}", [one], {}, [one.id])
        counts = {"training": 1090, "validation": 20, "articles": 3, "evaluation": 48}
        ledger.write_leakage(run, {"support_tone": {"rows": counts, "overlaps": [], "mode": "fail", **stated}})
        (found,) = evidence.leakage(read(run))
        if stated.get("source"):
            report.write(run)
        for line in found["card"] if stated.get("source") else ():
            row = f'<td class="text">{line["source"]}</td><td class="text">{line["licence"]}</td>'
            assert row in (run / "report.html").read_text()
            assert f"| {line['source']} | {line['licence']} |".replace("_", "\\_") in (run / "report.md").read_text()
        return [tuple(line.values()) for line in found["card"]]

    one = records.record("lora", "fp16")
    steps = {**one.steps, "adapt": {**one.steps["adapt"], "preimage": {"data": "d" * 16}}}
    steps["quality"] = {**one.steps["quality"], "preimage": {"rows": "e" * 16}}
    base = one.steps["base"]["key"]
    seen = "1,090 training rows, 20 validation rows, 3 articles"
    assert told(replace(one, steps=steps), source="Written by hand.", licence="MIT") == [
        ("What builds see", seen, "Written by hand.", "MIT", "d" * 16),
        ("Evaluation rows, with their scorers", "48 rows", "Written by hand.", "MIT", "e" * 16),
        (f"Base model {one.model}", "–", "example.gguf", "apache-2.0", base),
    ]
    assert [line[2:4] for line in told(one, licence="")] == [("not stated",) * 2] * 2 + [("example.gguf", "apache-2.0")]
    bare = replace(one, steps={k: {**v, "facts": {}} for k, v in one.steps.items()})
    assert [line[2:4] for line in told(bare)] == [("not stated",) * 2] * 3
    base_step = {**one.steps["base"], "facts": {"source": "org/name", "licence": ""}}
    unstated = replace(one, steps={**one.steps, "base": base_step})
    assert told(unstated, source="", licence="")[2][2:4] == ("org/name", "not stated")


def test_each_base_model_of_a_sweep_has_its_own_line_and_name(tmp_path: Path) -> None:
    made = []
    for name, licence in (("org/alpha", "apache-2.0"), ("org/beta", "cc-by-nc-4.0")):
        knobs = f"model.id={name.partition('/')[2]},quantization.bits=4"
        one = records.record("lora", "gptq", id=f"hf/lora/gptq/support_tone/{knobs}")
        base = {**one.steps["base"], "key": name[-4:] * 4, "facts": {"source": name, "licence": licence}}
        train = {**one.steps["adapt"], "key": name[-4:] * 3}
        made.append(
            replace(one, model="hf", steps={**one.steps, "base": base, "adapt": train},
                    config={**one.config, "variant": knobs, "model": {"name": "hf", "params": {"id": name}}})
        )  # fmt: skip
    run = folder(tmp_path / "run", made, {}, [r.id for r in made])
    counts = {"training": 1090, "validation": 20, "articles": 3, "evaluation": 48}
    ledger.write_leakage(run, {"support_tone": {"rows": counts, "overlaps": [], "mode": "fail"}})
    found = view(read(run))
    assert [tuple(line.values()) for line in found["leakage"][0]["card"][2:]] == [
        ("Base model org/alpha", "–", "org/alpha", "apache-2.0", "lpha" * 4),
        ("Base model org/beta", "–", "org/beta", "cc-by-nc-4.0", "beta" * 4),
    ]
    assert found["title"] == "support_tone on org/alpha and org/beta"
    assert [c["name"] for c in found["curves"]] == ["lora model.id=alpha", "lora model.id=beta"]


def test_leaks_are_listed_with_scores_without_them(tmp_path: Path) -> None:
    one = records.record("prompt_rag", "fp16")
    rows = records.rows("prompt_rag", "fp16")
    run = folder(tmp_path / "run", [one], {one.id: rows}, [one.id])
    flagged = [r["id"] for r in rows if r["scores"]["good"]][:10]
    near = [{"kind": "near", "row": i, "source": "training", "other": "t1", "similarity": 0.7} for i in flagged]
    counts = {"training": 90, "validation": 20, "articles": 3, "evaluation": len(rows)}
    ledger.write_leakage(run, {"support_tone": {"rows": counts, "overlaps": near, "mode": "warn"}})
    (found,) = evidence.leakage(read(run))
    assert found["counts"][0] == {"source": "training", "exact": 0, "group": 0, "near": 10}
    (line,) = found["cells"]
    good = sum(r["scores"]["good"] for r in rows)
    assert (line["n"], line["left"]) == (len(rows), len(rows) - 10)
    assert line["all"] == f"{100 * good / len(rows):.0f}%"
    assert line["without"] == f"{100 * (good - 10) / (len(rows) - 10):.0f}%"
    report.write(run)
    told = (
        "10 of 96 evaluation rows overlap with what builds saw (leakage=warn): 0 by the same message or group, 10 only"
    )
    assert told in page(run)
    assert told in (run / "report.md").read_text(encoding="utf-8")
    same = [{**one, "kind": "exact", "similarity": 1.0} for one in near[:6]]
    ledger.write_leakage(run, {"support_tone": {"rows": counts, "overlaps": near[5:7] + same, "mode": "drop"}})
    report.write(run)
    told = (
        "6 of 96 evaluation rows had the message or group of training rows, or the text of articles, which were all "
        "left out of what builds saw (leakage=drop). Near copies of what was left: 2, which are told and stop nothing."
    )
    assert told in page(run)
    assert "were compared with all training rows and articles, of which builds saw 90 training rows (" in page(run)
    assert told in (run / "report.md").read_text(encoding="utf-8").replace("\\", "")


def test_what_speaks_against_a_run_stands_beside_its_decision(tmp_path: Path) -> None:
    """Rows that builds saw, which the chosen cell passes better than the rest, and an A/A control that differs."""
    cells, rows = [], {}
    for adaptation, again, seen, most in (("prompt_rag", "", 0, 6), ("lora", "", 48, 4), ("lora", "/again", 0, 4)):
        own = [
            {**r, "scores": {"good": int(i < seen or i % 10 < most)}}
            for i, r in enumerate(records.rows("lora", "fp16"))
        ]
        cells.append(records.record(adaptation, "fp16", own, id=records.cell_id(adaptation, "fp16") + again))
        rows[cells[-1].id] = own
    run = folder(tmp_path / "run", cells, rows, [c.id for c in cells])

    def leaking(kind: str, mode: str) -> None:
        found = [{"kind": kind, "row": f"row-{i:03}", "source": "training", "other": "t", "similarity": 1.0}
                 for i in range(48)]  # fmt: skip
        counts = {"training": 500, "validation": 20, "articles": 3, "evaluation": 96}
        ledger.write_leakage(run, {"support_tone": {"rows": counts, "overlaps": found, "mode": mode}})

    leaking("exact", "warn")
    _, said = report.write(run)
    leak = (
        "Leakage: 48 of 96 evaluation rows of support_tone stand in what builds saw, by the same message or group; "
        "without them lora/fp16 has 42%, prompt_rag/fp16 62%."
    )
    assert said[0].startswith("Ship lora/fp16: 71%")
    assert said[3] == leak
    assert said[4].startswith("The A/A control, lora/fp16 evaluated twice, differs where nothing should: −29 points, ")
    text = (run / "report.html").read_text(encoding="utf-8").partition("<details>")[0]
    markdown = (run / "report.md").read_text(encoding="utf-8").partition("##")[0].replace("\\", "")
    for line in said[3:5]:
        assert html.escape(line) in text
        assert line in markdown
    for kind, mode in (("group", "drop"), ("near", "warn")):
        leaking(kind, mode)
        found = read(run)
        decision, known, _ = verdict(found)
        beside = doubts(found, decision, known, comparisons.control(found))
        assert beside == said[4:5], "builds did not see them, or they are no leaks"
        assert known
        pair = cells[0].id, cells[1].id
        apart = replace(known, twins={P95: Twins(1.5, pair, 1.4), COST: Twins(1.32, pair, 1.3)})
        *_, times, costs = doubts(found, decision, apart, ())
        assert times.startswith("Response times of this run are coarse: ")
        assert costs.startswith("Costs and batched rates of this run are coarse: ")
        assert f"{found.names[cells[1].id]} do the same work and were 1.30 times apart. Differences in them be" in costs
    others: list[tuple[dict[str, Any], int]] = [({"unit": "points"}, 0), ({"better": "lower"}, 2)]
    for changed, listed in others:
        of = [[replace(m, **changed) if m.metric == "quality/good" else m for m in c.measurements] for c in cells]
        other = [replace(c, measurements=tuple(made)) for c, made in zip(cells, of, strict=True)]
        run = folder(tmp_path / str(listed), other, rows, [c.id for c in cells])
        leaking("exact", "warn")
        found = read(run)
        assert doubts(found, *verdict(found)[:2], ())[0] == leak.partition(";")[0] + "."
        assert len(evidence.leakage(found)[0]["cells"]) == listed, "as shares, where it is one"


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({}, ""), ({"min_quality": 0.905, "min_valid": 0.0}, "quality at least 90.5%; valid outputs at least 0%"),
        ({"max_p95_e2e_ms": 2.5, "max_memory_bytes": 1.25e9},
         "p95 response time of a 32-token answer at most 2.5 ms; peak memory at most 1.25 GB"),
        ({"max_p95_e2e_ms": math.inf}, ""),
        ({"objective": "quality", "service_level": LEVEL},
         "some rate at which 90% of the requests have the first token within 500 ms and tokens at most 50 ms apart on "
         "average"),
        ({"objective": "quality", "service_level": {**LEVEL, "share": 0.95}}, ""),
    ],
)  # fmt: skip
def test_the_limits_of_a_policy_are_told_as_they_were_set(tmp_path: Path, policy: dict[str, Any], told: str) -> None:
    one = records.record("lora", "fp16")
    one = levelled(one, 10.0) if "service_level" in policy else one
    one = replace(one, config={**one.config, "policy": records.POLICY | policy})
    assert account.limits(read(folder(tmp_path / "run", [one], {}, [one.id]))) == told


def test_a_score_is_a_share_only_if_it_is_one_in_all_cells() -> None:
    made = {q: records.with_value(records.record("lora", q), "quality/style", 0.395) for q in ("fp16", "int8")}
    bleu = replace(made["int8"].measurements[0], metric="quality/bleu", value=56.5, unit="points")
    made["int8"] = replace(made["int8"], measurements=(*made["int8"].measurements, bleu))
    made["fp16"] = replace(
        made["fp16"],
        measurements=(*made["fp16"].measurements, replace(bleu, value=0.395, unit="share")),
    )
    told = {q: (r.value("quality/bleu"), r.value("quality/style")) for q, r in cells.one_unit(made).items()}
    assert {q: [m.unit for m in some if m] for q, some in told.items()} == {
        "fp16": ["points", "share"], "int8": ["points", "share"],
    }  # fmt: skip
    assert [cells.level(v, 0.395, 56.5, "higher") for v in (56.5, 28.0, 0.395)] == [5, 2, 0]


def test_a_report_shows_the_score_that_its_policy_decides_by(tmp_path: Path) -> None:
    cells, rows = records.grid()
    judged = [replace(r, config={**r.config, "policy": records.POLICY | {"metric": "style"}}) for r in cells]
    run = folder(tmp_path / "run", judged, rows, records.ids())
    style = {r.id: m.value for r in judged if (m := r.value("quality/style"))}
    shown, best = view(read(run)), max(judged, key=lambda r: style[r.id])
    said = re.match(r"Ship lora/fp16: (\d+%) .* pass “style”", shown["sentences"][0])
    assert said
    assert (shown["headline"][0]["title"], shown["headline"][0]["text"]) == ("Quality by “style”", said[1])
    assert (shown["primary"], shown["differences"]["score"], shown["flips"]["score"]) == ("style",) * 3
    assert [c["name"] for c in shown["scores"]["columns"] if c["primary"]] == ["style"]
    own = {r.id: number(style[r.id], "share") for r in judged}
    assert {row["id"]: row["values"][0]["text"] for row in shown["all_cells"]["rows"]} == own
    assert {line["cell"]: number(line["quality"], "share") for line in shown["table"]} == own
    assert [c["text"] for row in shown["heatmaps"][0]["rows"] for c in row["cells"]] == [own[i] for i in records.ids()]
    assert shown["dumbbells"].rows[0][:2] == (shown["names"][best.id], own[best.id])
    assert {row[0]: row[2].partition(" (")[0] for row in shown["scatter"].rows} == {
        shown["names"][i]: text for i, text in own.items()
    }
    partial = view(read(folder(tmp_path / "partial", judged[:9], rows, records.ids())))
    assert own[max(judged[:9], key=lambda r: style[r.id]).id] in partial["sentences"][1]


@pytest.mark.parametrize(
    ("value", "unit", "side", "told"),
    [
        (1.0947e9, "bytes", "below", "1.09 GB"), (1.0947e9, "bytes", "above", "1.10 GB"),
        (893.4e6, "bytes", "below", "893 MB"),
        (87.6e6, "bytes", "below", "87 MB"), (29.4286, "ms", "below", "29.4 ms"), (29.4286, "ms", "above", "29.5 ms"),
        (5139.0, "ms", "below", "5.13 s"), (0.9305, "share", "above", "93.1%"),
        (0.0348, "points", "below", "3.4 points"),
        (0.035, "points", "below", "3.5 points"), (0.0, "share", "above", "0.0%"),
        (12_345.0, "requests", "above", "12,400 requests"),
        (0.0123456, "USD", "above", "$0.0124"),
    ],
)  # fmt: skip
def test_an_edge_is_rounded_to_the_side_that_holds(value: float, unit: str, side: str, told: str) -> None:
    assert edge(value, unit, side) == told
