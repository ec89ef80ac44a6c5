"""Reports of fixed records stay as they are, until someone renews them and reads the difference.

    python -m tests.test_golden        # draws tests/golden/ anew; read `git diff tests/golden`

Markdown, JSON and CSV are kept whole, the page by its structure: its tags in order with their ids, and what headings
say. Nothing in them tells of a time, a path or this machine.
"""

from __future__ import annotations

import json
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness import ledger, report
from harness.types import Status
from tests import records
from tests.pages import folder

GOLDEN = Path(__file__).parent / "golden"
CASES = ("whole", "partial")
OUTLINED = ("section", "h1", "h2", "h3", "table", "thead", "figure", "figcaption", "details", "form", "svg", "nav")


class Outline(HTMLParser):
    """The page's tags that give it structure, indented, with the text of its headings and heads of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.depth = 0
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in OUTLINED:
            name = dict(attrs).get("id")
            self.lines.append("  " * self.depth + tag + (f"#{name}" if name else ""))
            self.depth += 1
            self.said = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in OUTLINED:
            self.depth -= 1
            if tag in ("h1", "h2", "h3", "thead"):
                self.lines[-1] += ": " + " ".join(self.said.split())

    def handle_data(self, data: str) -> None:
        self.said += f" {data}"


def rounded(value: Any) -> Any:
    """Numbers to nine digits: the last few may differ between processors."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


def drawn(case: str, path: Path) -> dict[str, str]:
    """The files of a case by their names in `tests/golden/`."""
    cells, rows = records.grid()
    if case == "partial":
        failed = records.ended("lora", "gptq", Status.FAILED, "OutOfMemoryError: 2 GiB asked for")
        cells = [failed if r.id == failed.id else r for r in cells[:12]]
    run = folder(path / "support_tone" / "run", cells, rows, records.ids())
    overlaps = [{"row": "row-003", "source": "training", "kind": "near", "other": "t-7", "similarity": 0.71}]
    counts = {"training": 300, "validation": 40, "articles": 12, "evaluation": 96}
    found = {"support_tone": {"rows": counts, "overlaps": overlaps, "mode": "warn"}}
    if case == "whole":  # the other is of a version that kept neither
        found["support_tone"] |= {"source": "Every message was written for this test.", "licence": "Apache-2.0."}
    ledger.write_leakage(run, found)
    report.write(run)
    made = {f"{case}.{kind}": (run / f"report.{kind}").read_text("utf-8") for kind in ("md", "json", "csv")}
    made[f"{case}.json"] = json.dumps(rounded(json.loads(made[f"{case}.json"])), indent=1, ensure_ascii=False) + "\n"
    return made | {f"{case}.outline": "\n".join(Outline((run / "report.html").read_text("utf-8")).lines) + "\n"}


@pytest.mark.parametrize("case", CASES)
def test_reports_of_fixed_records_stay_as_they_are(case: str, tmp_path: Path) -> None:
    for name, text in drawn(case, tmp_path).items():
        kept = GOLDEN / name
        assert text == kept.read_text("utf-8"), f"{name}: python -m tests.test_golden, then read the difference"


if __name__ == "__main__":
    for one in CASES:
        with tempfile.TemporaryDirectory() as scratch:
            for file, content in drawn(one, Path(scratch)).items():
                ledger.write_text(GOLDEN / file, content)
