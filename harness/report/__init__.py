"""Draws a run folder as one HTML page and one Markdown file, from records and rows alone.

It is drawn again after each cell, so there is always something to read; cells still to come are shown as pending.
Nothing is measured here: `harness.runs` reads, the modules between turn records into plain values, `page` and
`markdown` lay them out with the templates of `reports/`.

    python -m harness.report outputs/<sweep>/<time>
"""

from harness.report.page import write

__all__ = ["write"]
