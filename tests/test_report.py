"""The page and the Markdown hold what the records say, at every state of a run, and hostile text stays text."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from harness import ledger, report
from harness.decide import number
from harness.types import RunRecord, Status
from tests import records

HOSTILE = (
    "</pre></td><script>alert(1)</script><img src=x onerror=alert(2)> \u202etxt.exe\u202c {{ 7*7 }} \x00 \ud83d & \"'"
)


def folder(path: Path, cells: list[RunRecord], rows: dict[str, list[dict[str, Any]]], ids: list[str]) -> Path:
    ledger.write_cells(path, ids)
    for r in cells:
        ledger.write_record(path, r)
        if rows.get(r.id) and r.measurements:
            ledger.write_rows(path, r, rows[r.id])
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = folder(tmp_path_factory.mktemp("support_tone") / "run", *records.grid(), records.ids())
    report.write(run)
    return run


class Page(HTMLParser):
    """Tags that are left open, and every tag and attribute that was seen."""

    VOID = ("meta", "line", "circle", "rect", "path", "polyline", "i", "br", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {k for k, _ in attrs}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def page(run: Path) -> str:
    return report.write(run).read_text(encoding="utf-8")


def test_the_page_is_whole_and_asks_for_nothing(whole: Path) -> None:
    text = (whole / "report.html").read_text(encoding="utf-8")
    seen = Page(text)
    assert (seen.open, seen.wrong) == ([], [])
    assert not {"script", "link", "img", "iframe", "object"} & seen.tags
    assert not {a for a in seen.attributes if a.startswith("on")} | ({"src"} & seen.attributes)
    assert "default-src 'none'" in text
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
    points = [ElementTree.fromstring(d) for d in drawings if 'id="chart-title"' in d]
    assert len(points) == 1
    assert len([g for g in points[0].iter("g") if g.get("transform")]) == 15


def test_the_numbers_of_the_records_are_on_the_page(whole: Path) -> None:
    text = (whole / "report.html").read_text(encoding="utf-8")
    for r in ledger.read_records(whole):
        quality, p95 = r.value("quality/good"), r.value("e2e_ms/p95")
        assert quality is not None
        assert p95 is not None
        assert f"{100 * quality.value:.0f}%" in text
        assert f"{p95.value / 1000:.2f} s" in text
    for needle in (
        "Ship lora/int8", "210 × Linear8bitLt", "The fp16 parent is itself dequantized from Q4_1.", "Example CPU",
        "Computed in float32 on a CPU", "torch 2.9.0", "no CUDA device", "https://example.com/prices", "McNemar",
        "trained parameters: 4,884,480", "One seed a cell",
    ):  # fmt: skip
        assert needle in text, needle


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
    assert report.three_lines(run)[0] == "So far: 5 of 15 cells have ended, 2 of them without numbers."
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
    assert not {"script", "img"} & seen.tags
    assert "&lt;script&gt;" in text
    assert "49" not in re.findall(r"txt\.exe.{0,30}", text)[0]
    for mark in "\u202e\u202c\x00":
        assert mark not in text
    assert "⟨U+202E⟩" in text
    markdown = (run / "report.md").read_text(encoding="utf-8")
    assert "\u202e" not in markdown
    assert re.search(r"(?<!\\)<(script|img)", markdown) is None
    assert "\u202e" not in "".join(report.three_lines(run))


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
    assert "Ship smollm2_135m/lora/int8/support_tone" in text or "Ship other/lora/int8/support_tone" in text


def test_the_command_draws_and_tells_mistakes(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(whole)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Ship lora/int8")
    assert len(out) == 4
    assert out[3].endswith("report.html")
    assert report.main([str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_drawing_is_quick_enough_to_do_after_each_cell(whole: Path) -> None:
    report.write(whole)
    start = time.perf_counter()
    report.write(whole)
    assert time.perf_counter() - start < 3, "a generous bound; it takes a third of a second"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.8646, "share", "86%"), (2346.2, "ms", "2.35 s"), (38.04, "ms", "38.0 ms"), (1.05e9, "bytes", "1.05 GB"),
        (269e6, "bytes", "269 MB"), (188, "s", "3.1 min"), (0.0158, "USD", "$0.0158"), (12.5, "USD", "$12.50"),
        (1.0361, "ratio", "1.036×"), (0.0, "USD", "$0"), (float("nan"), "ms", "–"),
    ],
)  # fmt: skip
def test_numbers_read_well(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text
