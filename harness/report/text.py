"""Values and foreign text as a page and a Markdown file can show them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from harness.escaping import visible
from harness.statistics import Paired
from harness.types import Json, Measurement
from harness.wording import in_points, number, significant

NONE = "–"
SHOWN_CHARACTERS = 1_500


def visible_json(value: Json) -> Json:
    """Plain data as a script may read it: `visible` text, and numbers that JSON holds (an infinite one becomes the
    largest there is, which compares alike)."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else math.copysign(sys.float_info.max, value)
    if isinstance(value, Mapping):
        return {visible(k): visible_json(v) for k, v in value.items()}
    return [visible_json(v) for v in value] if isinstance(value, list | tuple) else value


def shorten(text: Any, keep_end: bool = False, most: int = SHOWN_CHARACTERS) -> str:
    """At most so many characters, saying how many were left out."""
    whole = str(text)
    if (over := len(whole) - most) <= 0:
        return whole
    note = f"[{over:,} more characters in rows/]"
    return f"{note} … {whole[-most:]}" if keep_end else f"{whole[:most]} … {note}"


def interval(m: Measurement | None) -> str:
    """The 95% interval, without a unit where the value beside it has the same."""
    if m is None or m.interval is None:
        return ""
    low, high = number(m.interval.low, m.unit), number(m.interval.high, m.unit)
    if low.rpartition(" ")[2] == high.rpartition(" ")[2] and " " in low:
        low = low.rpartition(" ")[0]
    return f"{low.removesuffix('%')} to {high.removeprefix('$')}"


def told(m: Measurement | None) -> dict[str, Any]:
    """A measurement as a table cell shows it, and the bare number to sort by (None where there is none)."""
    value = m.value if m and math.isfinite(m.value) else None
    return {"text": number(m.value, m.unit) if m else NONE, "interval": interval(m), "value": value}


def told_points(pair: Paired, *edges: float) -> dict[str, str]:
    """A difference and its interval as a table shows them, in points, on their side of each edge that a verdict beside
    them asks for."""
    return dict(zip(("delta", "low", "high"), in_points(pair.delta, pair.low, pair.high, *edges), strict=True))


def facts_text(facts: Mapping[str, Json], skip: Iterable[str] = ()) -> str:
    """Small facts of a step as `name: value`, without the ones shown elsewhere."""
    flat = {k: v for k, v in facts.items() if k not in skip and v is not None}
    nested = {f"{k} {j}": w for k, v in flat.items() if isinstance(v, Mapping) for j, w in v.items()}
    plain = {k: v for k, v in {**flat, **nested}.items() if isinstance(v, str | int | float)}

    def text(v: Any) -> str:
        return significant(v) if isinstance(v, float) else str(v) if isinstance(v, str | bool) else f"{v:,}"

    return ", ".join(f"{k.replace('_', ' ')}: {text(v)}" for k, v in plain.items())


def p_text(p: float) -> str:
    """A p-value as papers write it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
