"""The drawings, static SVG made when the report is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.decide import Decision, primary, quality
from harness.report.run import Run, parts
from harness.report.text import facts_text, told
from harness.wording import duration, number


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover a range."""
    span = (high - low) or abs(high) or 1.0
    raw = span / about
    step = next(s for s in (m * 10 ** math.floor(math.log10(raw)) for m in (1, 2, 2.5, 5, 10)) if s >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def tick(value: float, unit: str) -> str:
    """A round number on an axis, without the zeros that only measured numbers need."""
    text = number(value, unit)
    digits, _, rest = text.partition(" ")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits} {rest}".strip()


def scatter(run: Run, decision: Decision | None) -> dict[str, Any] | None:
    """Quality over cost, or over p95 where no cost was measured: places on a 720 × 442 drawing."""
    metric = next(
        (m for m in ("cost_usd_per_1000", "e2e_ms/p95") if any(r.value(m) and quality(r) for r in run.ok)), None
    )
    if metric is None:
        return None
    drawn = [(r, x, y) for r in run.ok if (x := r.value(metric)) and (y := quality(r))]
    ends = [v for _, x, _ in drawn for v in (x.value, *((x.interval.low, x.interval.high) if x.interval else ()))]
    across = ticks(0, max(ends))
    heights = [v for _, _, y in drawn for v in (y.value, *((y.interval.low, y.interval.high) if y.interval else ()))]
    up = [v for v in ticks(max(0.0, min(heights) - 0.02), min(1.0, max(heights))) if v < 1.001]
    left, right, top, bottom = 56.0, 690.0, 14.0, 396.0
    up = up if len(up) > 1 else [0.0, 1.0]

    def at_x(v: float) -> float:
        return left + (right - left) * (v - across[0]) / (across[-1] - across[0])

    def at_y(v: float) -> float:
        return bottom - (bottom - top) * (v - up[0]) / (up[-1] - up[0])

    shapes = {a: n % 4 for n, a in enumerate(dict.fromkeys(parts(i)[1] for i in run.ids))}
    marks = []
    for r, x, y in drawn:
        mark: dict[str, Any] = {
            "name": run.names[r.id], "label": r.quantization, "shape": shapes[r.adaptation],
            "x": at_x(x.value), "y": at_y(y.value), "x_text": told(x), "y_text": told(y),
            "chosen": decision is not None and decision.chosen == r.id, "bars": [],
        }  # fmt: skip
        if y.interval:
            mark["bars"].append((mark["x"], at_y(y.interval.low), mark["x"], at_y(y.interval.high)))
        if x.interval:
            mark["bars"].append((at_x(x.interval.low), mark["y"], at_x(x.interval.high), mark["y"]))
        marks.append(mark)
    place_labels(marks, (left, top, right, bottom))
    unit = drawn[0][1].unit
    return {
        "marks": marks, "title": "Quality against " + ("cost" if unit == "USD" else "p95 response time"),
        "x_title": "Cost per 1,000 requests" if unit == "USD" else "p95 response time",
        "x_ticks": [(at_x(v), tick(v, unit)) for v in across], "y_ticks": [(at_y(v), number(v, "share")) for v in up],
        "legend": list(shapes.items()), "score": primary(drawn[0][0]), "box": (left, top, right, bottom),
    }  # fmt: skip


def place_labels(marks: Sequence[dict[str, Any]], box: tuple[float, float, float, float]) -> None:
    """Gives each mark the nearest place for its label that covers no mark and no other label."""
    taken = [(m["x"] - 7, m["y"] - 7, m["x"] + 7, m["y"] + 7) for m in marks]
    for mark in sorted(marks, key=lambda m: (m["y"], m["x"])):
        wide = 6.4 * len(mark["label"]) + 4
        options = [
            (mark["x"] + side * (10 + 5 * mark["chosen"] + out) - (wide if side < 0 else 0), mark["y"] + up - 7)
            for out in (0, 14, 30, 50)
            for up in (0, -11, 11, -22, 22, -33, 33)
            for side in (1, -1)
        ]

        def cover(place: tuple[float, float], wide: float = wide) -> float:
            x, y = place
            over = sum(
                max(0.0, min(x + wide, c) - max(x, a)) * max(0.0, min(y + 14, d) - max(y, b)) for a, b, c, d in taken
            )
            outside = x < box[0] or x + wide > box[2] + 12 or y < box[1] - 10 or y + 14 > box[3]
            return float(over) + (1e6 if outside else 0.0)

        x, y = min(options, key=cover)
        taken.append((x, y, x + wide, y + 14))
        middle, apart = x + wide / 2, x - mark["x"] if x > mark["x"] else mark["x"] - x - wide
        mark["text_x"], mark["text_y"] = middle, y + 11
        edge = x if x > mark["x"] else x + wide
        mark["leader"] = (mark["x"], mark["y"], edge, y + 7) if apart > 14 or abs(y + 7 - mark["y"]) > 14 else None


def curves(run: Run) -> list[dict[str, Any]]:
    """The loss of each training, once however many cells share it, on a 320 × 150 drawing."""
    made: dict[str, dict[str, Any]] = {}
    for r in run.records.values():
        step = r.steps.get("adapt", {})
        facts = step.get("facts") or {}
        noted = [p for p in facts.get("loss_curve") or [] if isinstance(p.get("step"), int | float)]
        series = {
            k: [(float(p["step"]), float(p[k])) for p in noted if p.get(k) is not None] for k in ("loss", "eval_loss")
        }
        series = {k: [p for p in line if math.isfinite(p[1])] for k, line in series.items()}
        every = series["loss"] + series["eval_loss"]
        if not every or step.get("key") in made:
            continue
        last = max(x for x, _ in every) or 1.0
        grid = ticks(0, max(y for _, y in every), 4)
        scaled = {
            k: [(round(36 + 276 * x / last, 1), round(126 - 116 * y / grid[-1], 1)) for x, y in line]
            for k, line in series.items()
        }
        made[str(step.get("key"))] = {
            "name": f"{r.adaptation} · {r.model}", **scaled, "last": f"{last:g}",
            "ticks": [(round(126 - 116 * v / grid[-1], 1), f"{v:g}") for v in grid],
            "start": f"{every[0][1]:.2f}", "values": [(f"{x:g}", f"{y:.3f}") for x, y in series["eval_loss"]],
            "facts": facts_text(facts, ("loss_curve",)), "seconds": duration(step.get("seconds") or 0),
            "shared": step.get("shared_by", 1),
        }  # fmt: skip
    return list(made.values())
