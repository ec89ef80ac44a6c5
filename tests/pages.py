"""Run folders of made records, and the pages drawn of them."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from harness import ledger, report
from harness.errors import UserError
from harness.rows import refuse_others
from harness.types import RunRecord

HOSTILE = (
    "</pre></td><script>alert(1)</script><img src=x onerror=alert(2)> \u202etxt.exe\u202c {{ 7*7 }} \x00 \ud83d & \"'"
)


def folder(path: Path, cells: list[RunRecord], rows: dict[str, list[dict[str, Any]]], ids: list[str]) -> Path:
    """A run folder of these cells; where a test gave one other rows, its means are no more called means of rows."""
    ledger.write_cells(path, ids)
    for r in cells:
        try:
            refuse_others(path, r, rows.get(r.id) or [])
        except UserError:
            bare = (replace(m, interval=m.interval and replace(m.interval, method="made up")) for m in r.measurements)
            r = replace(r, measurements=tuple(bare))
        ledger.write_record(path, r)
        if rows.get(r.id) and r.measurements:
            ledger.write_rows(path, r, rows[r.id])
    return path


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
    return report.write(run)[0].read_text(encoding="utf-8")
