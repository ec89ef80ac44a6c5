"""Numbers, differences and names of cells as people read them: one wording for decisions, reports and terminals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches

from harness.statistics import Paired
from harness.types import Pair, id_parts

MOST_DIGITS = 7  # that rounding an edge adds
POINTS_ALIKE = 1e-6  # shares that no digits tell apart
HAIR = 1e-9  # what sums of shares may lack of all, or have above none
SCALES = {"%": 0.01, " ms": 1.0, " s": 1e3, " B": 1.0, " kB": 1e3, " MB": 1e6, " GB": 1e9}


def labels(ids: Iterable[str]) -> dict[str, str]:
    """What people call the cells of one run: `adaptation/quantization`, with the seed and the swept knobs where there
    are some, if that tells them apart; else the id."""
    short = {i: " ".join(filter(None, ["/".join(p[1:3]), *p[4:]])) if (p := id_parts(i))[0] else i for i in ids}
    return short if len(set(short.values())) == len(short) else {i: i for i in short}


def number(value: float, unit: str, more: int = 0) -> str:
    """A value with its unit, rounded to what can be read, or to some `more` digits; all and none are said of no other
    shares."""
    if math.isnan(value):
        return "–"
    if unit == "share":
        text = f"{100 * value:.0f}%"
        return {"0%": "<1%", "100%": ">99%"}.get(text, text) if HAIR < value < 1 - HAIR else text
    if unit == "bytes":
        return size(value, more)
    if unit == "s":
        return duration(value)
    if unit == "USD":
        return f"${value:,.2f}" if value >= 10 and not more else f"${significant(value, more)}"
    if unit == "ratio":
        return f"{value:.3f}×"
    if unit == "ms" and abs(value) >= 1000:
        return f"{significant(value / 1000, more)} s"
    return f"{significant(value, more)} {unit}"


def apart(value: float, digits: int, *edges: float) -> str:
    """A value with so many decimals, or as many more as keep it on its side of each edge."""
    tries = (f"{value:,.{n}f}" for n in range(digits, 17))
    return next(
        (t for t in tries if all((float(t.replace(",", "")) - e) * (value - e) > 0 for e in edges)), repr(value)
    )


def against(value: float, limit: float, unit: str) -> tuple[str, str]:
    """A value and the limit that it breaks: the limit as it was set, the value rounded no further than it still breaks
    it, and a share to neither all nor none."""
    text = number(value, unit)
    name, limit_name = (t.lstrip("<>0123456789,.") for t in (text, number(limit, unit)))
    edge, decimals = float(f"{limit / SCALES[name]:.12g}"), len(text.removesuffix(name).partition(".")[2])
    ends = (0.0, 100.0) if unit == "share" and HAIR < value < 1 - HAIR else ()
    told = apart(value / SCALES[name], decimals, edge, *ends)
    return told + name, f"{limit / SCALES[limit_name]:,.12g}{limit_name}"


def edge(value: float, unit: str, side: str, holds: Callable[[float], bool] = lambda _: True) -> str:
    """A value with its unit, `side` (above or below) of which something `holds`, rounded no further than that it still
    holds there: three significant digits, or a decimal of percents and points, and more where it takes them."""
    percent = unit in ("share", "points")
    step = 0.001 if percent else 10.0 ** (math.floor(math.log10(abs(value) or 1.0)) - 2)
    if unit == "bytes" and 1e3 <= value < 1e9:
        step = max(step, 1e6 if value >= 1e6 else 1e3)  # `size` says these whole
    for more in range(MOST_DIGITS):
        fine = step / 10**more
        whole = (math.floor if side == "below" else math.ceil)(round(value / fine, 6)) * fine
        if holds(whole + fine * (-1e-6 if side == "below" else 1e-6)):
            break
    if percent:
        return f"{100 * whole:.{1 + more}f}{'%' if unit == 'share' else ' points'}"
    return number(whole, unit, more)


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean NAME?` where one is near, else `; there is ...` with all of them."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there is {', '.join(sorted(known)) or 'none'}"


def plural(count: int, noun: str) -> str:
    """So many of something."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def share(value: float) -> str:
    """A share as a percentage."""
    return number(value, "share")


def points(difference: float, *edges: float) -> str:
    """A difference of shares in percentage points with its sign: people read +12 points, not 0.12. It is rounded no
    further than it stays on its side of each edge."""
    if not math.isfinite(difference):
        return "–"
    text = apart(100 * difference, 0, *(100 * e for e in edges if abs(difference - e) > POINTS_ALIKE))
    return "0" if not text.strip("-0") else text.replace("-", "−") if difference < 0 else f"+{text}"


def in_points(delta: float, low: float, high: float, *edges: float) -> tuple[str, str, str]:
    """A difference and its interval in points: ends on their side of each edge, the difference beside both of them."""
    beyond = [e for e in edges if not low <= e <= high]
    return points(delta, *beyond), points(low, *edges), points(high, *edges)


def told(pair: Paired | Pair, *edges: float) -> str:
    """A paired difference and its interval in words, each on its side of each edge that a verdict asks for."""
    delta, low, high = in_points(pair.delta, pair.low, pair.high, *edges)
    return f"{delta} points, 95% interval {low} to {high}"


def size(value: float, more: int = 0) -> str:
    """Bytes with a decimal unit, and with so many `more` digits."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:,.{more + 2 * (unit == 'GB')}f} {unit}"
    return f"{value:,.0f} B"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def significant(value: float, more: int = 0) -> str:
    """Three significant digits, and so many `more`, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 + more - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def first(most: int, lines: Sequence[str], what: str = "") -> list[str]:
    """The first of some lines, and how many more there are of what."""
    left = len(lines) - most
    return [*lines[:most], *([f"... and {left:,} more{what}"] if left > 0 else [])]
