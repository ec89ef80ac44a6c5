"""How a chart is drawn: a Vega-Lite specification becomes static SVG, for a desk and for a phone, with its numbers as a
table behind it. Colours are CSS variables of the page, so a drawing follows light, dark and print.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.escaping import visible
from harness.report.text import visible_json
from harness.types import Json
from harness.wording import number

WIDE, NARROW = 720, 300  # pixels of the plotting area, without its axes
CONFIG = {
    "aria": False, "font": "system-ui, -apple-system, Segoe UI, Roboto, Arial, sans-serif", "background": None,
    "view": {"stroke": None}, "padding": {"left": 12, "right": 14, "top": 6, "bottom": 6},
    "axis": {
        "labelColor": "var(--soft)", "titleColor": "var(--ink)", "gridColor": "var(--line)", "domain": False,
        "tickColor": "var(--line)", "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 500, "labelLimit": 260,
        "titlePadding": 10,
    },
    "legend": {"labelColor": "var(--ink)", "titleColor": "var(--soft)", "labelFontSize": 12, "orient": "top",
               "title": None, "symbolFillColor": "var(--ink)", "symbolStrokeColor": "var(--ink)", "labelLimit": 280},
    "title": {"color": "var(--ink)", "fontSize": 13, "fontWeight": 600, "anchor": "start", "offset": 10},
}  # fmt: skip
Spec = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart as SVG text for a desk and a phone, what it is, and its numbers as a table of text."""

    title: str
    description: str
    wide: str
    narrow: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    legend: tuple[tuple[str, int], ...] = ()


def svg(spec: Spec, title: str, description: str) -> str:
    """A specification as SVG that scales with the page and is one described picture to a screen reader."""
    import vl_convert
    from markupsafe import escape

    whole = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "config": CONFIG, **visible_json(spec)}
    text = str(vl_convert.vegalite_to_svg(whole, vl_version="5.21", allowed_base_urls=[]))
    head, _, rest = text.partition(">")
    box = head[head.index('viewBox="') :].split('"')[1]
    width = box.split(" ")[2]
    label = visible(f"{title}. {description}")
    rest = re.sub(r' (?:role|aria-[a-z]+)="[^"<>]*"', "", rest)  # the drawing is one picture
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" width="{width}" role="img" '
        f'aria-label="{escape(label)}">{rest}'
    )


def drawn(
    make: Any, title: str, description: str, heads: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
) -> Drawing:
    """Both sizes of a chart; `make` takes the width of the plotting area and returns a specification."""
    wide, narrow = (svg(make(width), title, description) for width in (WIDE, NARROW))
    return Drawing(title, description, wide, narrow, tuple(heads), tuple(tuple(r) for r in rows), note)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover a range."""
    span = (high - low) or abs(high) or 1.0
    raw = span / about
    step = next(s for s in (m * 10 ** math.floor(math.log10(raw)) for m in (1, 2, 2.5, 5, 10)) if s >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def axis(values: Sequence[float], unit: str, title: str | None) -> Json:
    """An axis with these ticks, said in the unit's own words."""
    step = values[1] - values[0]
    said = {f"{v:.9g}": tick(v, unit, step) for v in values}
    chain = " : ".join(f"abs(datum.value - {v}) < 1e-9 * {abs(values[-1]) or 1} ? '{t}'" for v, t in said.items())
    return {"values": list(values), "title": title, "labelExpr": f"{chain} : ''"}


def tick(value: float, unit: str, step: float) -> str:
    """A round number on an axis, without the zeros that only measured numbers need; of shares with the decimals of the
    step to the next one."""
    if unit == "share":
        return f"{100 * value:.{len(f'{100 * step:.9g}'.partition('.')[2])}f}%"
    text = number(value, unit)
    digits, _, rest = text.partition(" ")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits} {rest}".strip()
