"""The charts of a report: Vega-Lite specifications of what the page shows (`harness.report.drawing` draws them)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.decide import CostLine, Decision, kin, pareto, timed, variant
from harness.report.drawing import WIDE, Drawing, Spec, axis, drawn, svg, ticks
from harness.report.text import facts_text, told
from harness.runs import Run, parts
from harness.types import Measurement, RunRecord
from harness.wording import duration, number, plural, points

LEFT, RIGHT = "Score, and the reference’s", "Points from the best"  # panels of paired differences
DRAWN = 40  # rows of a chart of cells, the rest stands in the tables
LINES = 6  # of the chart of costs
SHAPES = ("circle", "square", "triangle-up", "diamond")
COLOURS = ("var(--s0)", "var(--s1)", "var(--s2)", "var(--s3)", "var(--s4)", "var(--s5)")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4])  # no divisor in common with the colours: 30 looks


# ------------------------------------------------------------------------------------------------ quality against cost


def scatter(run: Run, decision: Decision | None, suites: int = 1) -> Drawing | None:
    """Quality over cost, or over p95 where no cost was measured, with both intervals and the Pareto front; None where
    neither was measured, and for scores that are not from 0 to 1 or of which less is better. Of several `suites` the
    run is `as_judged`: where the policy asks for a cost and no cell has one, nothing is left to draw."""
    scored = [(r, y) for r in run.ok if (y := run.quality(r)) and y.better == "higher"]
    metric = next((m for m in ("cost_usd_per_1000", "e2e_ms/p95") if any(r.value(m) for r, _ in scored)), None)
    if metric is None or not all(0 <= y.value <= 1 for _, y in scored):
        return None
    every = [(r, x, y) for r, y in scored if (x := r.value(metric))]
    best = sorted({(every[n][1].value, every[n][2].value) for n in pareto([(x.value, -y.value) for _, x, y in every])})
    named = {decision.chosen, decision.best, decision.reference} if decision else set()
    first = sorted(every, key=lambda e: (e[0].id not in named, (e[1].value, e[2].value) not in best))
    kept = {r.id for r, *_ in first[:DRAWN]}
    found = [e for e in every if e[0].id in kept]
    unit = found[0][1].unit
    across = ticks(0, max(_ends(x)[1] for _, x, _ in found))
    low, high = min(_ends(y)[0] for *_, y in found), max(_ends(y)[1] for *_, y in found)
    up = [v for v in ticks(max(0.0, low - 0.02), min(1.0, high)) if v < 1.001]
    up = up if len(up) > 1 else [0.0, 1.0]
    kinds = list(dict.fromkeys(parts(r.id)[1] for r, *_ in found))
    chosen = run.recommended(decision)
    answer = timed([r for r, *_ in found])
    what = "Cost per 1,000 requests" if unit == "USD" else "p95 response time" + (f" of a {answer}" if answer else "")
    judged = run.judged([r for r, *_ in found])
    if suites > 1:
        judged = f"quality, weighted over {suites} suites"
        what += f", {'weighted over' if unit == 'USD' else 'slowest of'} {suites} suites"

    def make(width: int) -> Spec:
        height = 400 if width == WIDE else 320
        data: list[dict[str, Any]] = [
            {"x": x.value, "y": y.value, "x0": _ends(x)[0], "x1": _ends(x)[1], "y0": _ends(y)[0], "y1": _ends(y)[1],
             "kind": parts(r.id)[1], "label": r.quantization, "chosen": r.id in chosen}
            for r, x, y in found
        ]  # fmt: skip
        marks = [
            {"x": (d["x"] - across[0]) / (across[-1] - across[0]) * width,
             "y": height - (d["y"] - up[0]) / (up[-1] - up[0]) * height, "label": d["label"], "chosen": d["chosen"]}
            for d in data
        ]  # fmt: skip
        for d, place in zip(data, label_places(marks, (0, 0, width, height)), strict=True):
            if place:  # a text without one is not drawn
                d["tx"] = across[0] + place[0] / width * (across[-1] - across[0])
                d["ty"] = up[0] + (height - place[1]) / height * (up[-1] - up[0])
        x = {"field": "x", "type": "quantitative", "scale": {"domain": [across[0], across[-1]], "nice": False}}
        y = {"field": "y", "type": "quantitative", "scale": {"domain": [up[0], up[-1]], "nice": False, "zero": False}}
        thin = across if width == WIDE else across[:: 1 + len(across) // 5]
        x["axis"], y["axis"] = axis(thin, unit, what), axis(up, "share", judged[0].upper() + judged[1:])
        colour = {"field": "kind", "scale": {"domain": kinds, "range": list(COLOURS[: len(kinds)])}, "legend": None}
        shape = {"field": "kind", "scale": {"domain": kinds, "range": [SHAPES[n % 4] for n in range(len(kinds))]}}
        line = [{"x": a, "y": b} for a, b in best]
        return {
            "width": width, "height": height, "data": {"values": data},
            "layer": [
                {"data": {"values": line}, "encoding": {"x": x, "y": y},
                 "mark": {"type": "line", "interpolate": "step-after", "color": "var(--soft)", "strokeDash": [4, 3],
                          "strokeWidth": 1}},
                {"mark": {"type": "rule", "opacity": 0.45, "strokeWidth": 1.5},
                 "encoding": {"x": x, "y": {**y, "field": "y0"}, "y2": {"field": "y1"}, "color": colour}},
                {"mark": {"type": "rule", "opacity": 0.45, "strokeWidth": 1.5},
                 "encoding": {"x": {**x, "field": "x0"}, "x2": {"field": "x1"}, "y": y, "color": colour}},
                {"mark": {"type": "point", "filled": True, "size": 120, "opacity": 1, "stroke": "var(--card)"},
                 "encoding": {"x": x, "y": y, "color": colour, "shape": shape}},
                {"transform": [{"filter": "datum.chosen"}],
                 "mark": {"type": "point", "size": 420, "color": "var(--ink)", "strokeWidth": 2},
                 "encoding": {"x": x, "y": y}},
                {"mark": {"type": "text", "fontSize": 12, "fontWeight": 600, "baseline": "middle",
                          "stroke": "var(--card)", "strokeWidth": 4, "strokeJoin": "round"},
                 "encoding": {"x": {**x, "field": "tx"}, "y": {**y, "field": "ty"}, "text": {"field": "label"}}},
                {"mark": {"type": "text", "fontSize": 12, "fontWeight": 600, "baseline": "middle"},
                 "encoding": {"x": {**x, "field": "tx"}, "y": {**y, "field": "ty"}, "text": {"field": "label"},
                              "color": colour}},
            ],
        }  # fmt: skip

    rows = [(run.names[r.id], _whole(x), _whole(y), "yes" if (x.value, y.value) in best else "") for r, x, y in every]
    left = f" {len(found)} of {len(every)} cells are drawn." if len(found) < len(every) else ""
    made = drawn(
        make, "Quality against " + ("cost" if unit == "USD" else "p95 response time"),
        f"{plural(len(found), 'cell')} by {what} and by the {judged}{', with 95% intervals' if suites < 2 else ''}."
        f"{left}", ("Cell", what, "Quality", "On the front"), rows,
        "Up and to the left is better. "
        + ("Bars are 95% intervals: cells whose bars overlap widely may not differ." if suites < 2 else
           "A dot stands for the cells of all suites, under the name of the first.")
        + " The dashed line joins the cells that no other beats in both (the Pareto front)"
        + ("; the recommended cell is ringed." if chosen else ".")
        + " Where dots lie close, some have no label: the numbers below name all." + left,
    )  # fmt: skip
    return replace(made, legend=tuple((k, n) for n, k in enumerate(kinds)))


def _ends(m: Measurement) -> tuple[float, float]:
    return (m.interval.low, m.interval.high) if m.interval else (m.value, m.value)


def _whole(m: Measurement) -> str:
    text = told(m)
    return f"{text['text']} ({text['interval']})" if text["interval"] else text["text"]


def label_places(
    marks: Sequence[Mapping[str, Any]], box: tuple[float, float, float, float]
) -> list[tuple[float, float] | None]:
    """The middle in pixels of each mark's label, beside it, where it covers no mark and no other label and no other
    mark is nearly as near; None where there is no such place. The chosen cell's is placed first."""
    radii = [12 if m["chosen"] else 7 for m in marks]
    taken = [(m["x"] - r, m["y"] - r, m["x"] + r, m["y"] + r) for m, r in zip(marks, radii, strict=True)]
    found: dict[int, tuple[float, float]] = {}
    for at in sorted(range(len(marks)), key=lambda n: (not marks[n]["chosen"], marks[n]["y"], marks[n]["x"])):
        mark = marks[at]
        wide = 6.8 * len(mark["label"]) + 4

        def away(m: Mapping[str, Any], x: float, y: float, wide: float = wide) -> float:
            return math.hypot(max(x - m["x"], 0, m["x"] - x - wide), max(y - m["y"], 0, m["y"] - y - 14))

        for up, side in ((up, side) for up in (0, -11, 11, -22, 22) for side in (1, -1)):
            x = mark["x"] + side * (10 + 5 * mark["chosen"]) - (wide if side < 0 else 0)
            y = mark["y"] + up - 7
            inside = box[0] <= x and x + wide <= box[2] + 12 and box[1] - 10 <= y and y + 14 <= box[3]
            free = not any(x < c and a < x + wide and y < d and b < y + 14 for a, b, c, d in taken)
            if inside and free and all(1.5 * away(mark, x, y) < away(m, x, y) for m in marks if m is not mark):
                taken.append((x, y, x + wide, y + 14))
                found[at] = x + wide / 2, y + 7
                break
    return [found.get(n) for n in range(len(marks))]


# ------------------------------------------------------------------------------------------------ paired differences


def dumbbells(
    lines: Sequence[Mapping[str, Any]], base: str, best: str, margin: float, what: str = "the highest quality measured"
) -> Drawing | None:
    """Each cell's score beside the reference's on the same rows, and its paired difference from the cell that is
    `what` with the policy's margin. A line has `name`, `score`, `base`, and `delta`, `low`, `high` or None."""
    shown = sorted(lines, key=lambda d: -d["score"])[:DRAWN]
    if not shown:
        return None
    order = [d["name"] for d in shown]
    against = [d for d in shown if d["delta"] is not None]
    reach = max([margin, 0.05, *(abs(v) for d in against for v in (d["low"], d["high"]) if math.isfinite(v))])
    steps = ticks(-reach, reach, 6)

    def make(width: int) -> Spec:
        each = (width - 110) // 2 if width == WIDE else 190
        y = {
            "field": "name", "type": "nominal", "scale": {"domain": order}, "title": None,
            "axis": {"grid": True, "ticks": False, "labelPadding": 10},
        }  # fmt: skip
        shares = [0, 0.25, 0.5, 0.75, 1] if width == WIDE else [0, 0.5, 1]
        x = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": axis(shares, "share", None)}
        left: Spec = {
            "width": each, "height": {"step": 24}, "data": {"values": shown}, "title": LEFT,
            "encoding": {"y": y},
            "layer": [
                {"mark": {"type": "rule", "strokeWidth": 3, "color": "var(--line)"},
                 "encoding": {"x": {**x, "field": "base"}, "x2": {"field": "score"}}},
                {"mark": {"type": "point", "size": 70, "color": "var(--soft)", "fill": "var(--card)", "opacity": 1},
                 "encoding": {"x": {**x, "field": "base"}}},
                {"mark": {"type": "point", "filled": True, "size": 80, "color": "var(--accent)", "opacity": 1},
                 "encoding": {"x": {**x, "field": "score"}}},
            ],
        }  # fmt: skip
        if not against:
            return left
        x = {
            "type": "quantitative", "scale": {"domain": [steps[0], steps[-1]], "nice": False, "clamp": True},
            "axis": {"values": steps if width == WIDE else steps[:: 1 + len(steps) // 5], "title": None,
                     "labelExpr": "datum.value == 0 ? '0' : replace(format(100 * datum.value, '+.1~f'), '-', '−')"},
        }  # fmt: skip
        bare = {**y, "axis": {"labels": False, "ticks": False, "grid": True}} if width == WIDE else y
        right: Spec = {
            "width": each, "height": {"step": 24}, "data": {"values": against}, "title": RIGHT,
            "layer": [
                {"data": {"values": [{"v": 0}]}, "mark": {"type": "rule", "color": "var(--soft)"},
                 "encoding": {"x": {**x, "field": "v"}}},
                {"data": {"values": [{"v": -margin}]}, "encoding": {"x": {**x, "field": "v"}},
                 "mark": {"type": "rule", "color": "var(--warn)", "strokeDash": [4, 3], "strokeWidth": 1.5}},
                {"mark": {"type": "rule", "strokeWidth": 2, "color": "var(--ink)"},
                 "encoding": {"y": bare, "x": {**x, "field": "low"}, "x2": {"field": "high"}}},
                {"mark": {"type": "point", "filled": True, "size": 70, "color": "var(--accent)", "opacity": 1},
                 "encoding": {"y": bare, "x": {**x, "field": "delta"}}},
            ],
        }  # fmt: skip
        return {"hconcat" if width == WIDE else "vconcat": [left, right], "spacing": 28}

    def told_row(d: Mapping[str, Any]) -> tuple[str, ...]:
        from_best = (points(d["delta"]), f"{points(d['low'])} to {points(d['high'])}") if d["delta"] is not None else ()
        return (d["name"], number(d["score"], "share"), number(d["base"], "share"), *(from_best or ("", "")))

    left_out = f" {len(shown)} of {len(lines)} cells are drawn." if len(shown) < len(lines) else ""
    return drawn(
        make, "Paired differences",
        f"Scores of {plural(len(shown), 'cell')} beside {base} on the same rows, and their differences from {best} "
        "with 95% intervals.", ("Cell", "Score", base, f"Points from {best}", "95% interval"),
        [told_row(d) for d in shown],
        f"“{LEFT}”: each cell’s (filled) and that of {base}, the reference (hollow), on the same rows."
        + (
            f" “{RIGHT}”: the difference from {best}, {what}, with its 95% interval; the dashed line is the margin of "
            f"{100 * margin:g} points. A cell whose whole bar lies right of it is shown to be good enough; a simpler "
            "one needs no such proof where its bar reaches 0 and its dot lies no further left than that line."
            if against
            else ""
        )
        + left_out,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ cost against volume


def costs(
    lines: Mapping[str, CostLine],
    drawn_lines: int,
    hosted: Sequence[tuple[str, float]],
    volume: float,
    even: Sequence[tuple[float, str]],
) -> Drawing | None:
    """Dollars per 1,000 requests over the volume, a line for the first cells (by name) and for each hosted price;
    `even` are the volumes at which the first line meets another one that is drawn."""
    if not lines or volume <= 0:
        return None
    ends = [v for v, _ in even if 1e2 <= v <= 1e10]
    knees = [
        1000 * c.once_usd / c.serving_usd_per_1000 for c in lines.values() if c.once_usd and c.serving_usd_per_1000
    ]
    first = math.floor(math.log10(max(10.0, min([volume / 30, *knees, *ends]))))
    last = math.ceil(math.log10(max([volume * 30, *ends])))
    volumes = [10 ** (first + (last - first) * n / 40) for n in range(41)]
    powers = [10.0**n for n in range(first, last + 1)]
    shown = dict(list(lines.items())[:drawn_lines])
    data: list[dict[str, Any]] = [
        {"name": n, "v": v, "usd": c.usd_per_1000(v)} for n, c in shown.items() for v in volumes
    ]
    priced = [(n, usd) for n, usd in hosted if usd > 0]  # the axis is logarithmic
    data += [{"name": n, "v": v, "usd": usd} for n, usd in priced for v in (volumes[0], volumes[-1])]
    names = [*shown, *(n for n, _ in priced)]
    lead = next(iter(shown.values()))
    dots = [
        {"v": v, "usd": lead.usd_per_1000(v), "label": _short(v)} for v, _ in even if 10.0**first <= v <= 10.0**last
    ]
    bottom, top = min(d["usd"] for d in data), max(d["usd"] for d in data)
    if bottom <= 0:
        return None
    tens = range(math.floor(math.log10(bottom)), math.ceil(math.log10(top)) + 1)
    rounds = [m * 10.0**n for n in tens for m in ((1, 2, 5) if len(tens) < 4 else (1,))]

    def make(width: int) -> Spec:
        x = {
            "field": "v", "type": "quantitative",
            "scale": {"type": "log", "domain": [10.0**first, 10.0**last], "nice": False},
            "axis": {"title": "Requests over which building is spread",
                     "values": powers if width == WIDE or len(powers) < 7 else powers[::2], "grid": False,
                     "labelExpr": "datum.value >= 1e9 ? datum.value/1e9 + ' bn' : datum.value >= 1e6 ? "
                     "datum.value/1e6 + ' M' : datum.value >= 1e3 ? datum.value/1e3 + ' k' : datum.value"},
        }  # fmt: skip
        y = {
            "field": "usd", "type": "quantitative",
            "scale": {"type": "log", "domain": [0.8 * bottom, 1.25 * top], "nice": False},
            "axis": {"title": "US dollars per 1,000 requests", "labelExpr": "'$' + format(datum.value, '~r')",
                     "values": rounds},
        }  # fmt: skip
        legend = {"columns": 3 if width == WIDE else 1, "columnPadding": 28, "symbolSize": 500, "symbolStrokeWidth": 2}
        kinds = [COLOURS[n % len(COLOURS)] for n in range(len(names))]
        return {
            "width": width, "height": 280,
            "layer": [
                {"data": {"values": [{"v": volume}]}, "encoding": {"x": x},
                 "mark": {"type": "rule", "color": "var(--soft)", "strokeDash": [2, 3]}},
                {"data": {"values": data}, "mark": {"type": "line", "strokeWidth": 2},
                 "encoding": {
                     "x": x, "y": y,
                     "color": {"field": "name", "scale": {"domain": names, "range": kinds},
                               "legend": {**legend, "symbolFillColor": None, "symbolStrokeColor": None}},
                     "strokeDash": {"field": "name", "scale": {
                         "domain": names, "range": [DASHES[n % len(DASHES)] for n in range(len(names))]}}}},
                {"data": {"values": dots}, "encoding": {"x": x, "y": y},
                 "mark": {"type": "point", "filled": True, "size": 70, "color": "var(--ink)", "opacity": 1}},
                {"data": {"values": dots}, "encoding": {"x": x, "y": y, "text": {"field": "label"}},
                 "mark": {"type": "text", "dy": -12, "color": "var(--ink)", "fontSize": 12}},
            ],
        }  # fmt: skip

    heads = ("Cell", "Serving", "Once", *(f"At {_short(v)}" for v in powers))
    rows = [
        (n, number(c.serving_usd_per_1000, "USD"), number(c.once_usd, "USD"),
         *(number(c.usd_per_1000(v), "USD") for v in powers))
        for n, c in lines.items()
    ]  # fmt: skip
    rows += [(n, number(usd, "USD"), "–", *(number(usd, "USD") for _ in powers)) for n, usd in hosted]
    return drawn(
        make, "Cost against volume",
        f"Dollars per 1,000 requests of {len(names)} choices over the number of requests that pay for building them.",
        heads, rows,
        f"What is done once (training, quantization, labelling) is spread over all requests; the dotted line is the "
        f"policy’s volume of {volume:,.0f}. Both axes are logarithmic."
        + (" Dots are where the recommended cell’s line meets another cell’s." if dots else "")
        + (
            f" Of the {len(lines)} cells whose numbers stand below, {len(shown)} are drawn, so that lines can be told "
            "apart."
            if len(shown) < len(lines)
            else ""
        ),
    )  # fmt: skip


def _short(volume: float) -> str:
    """A volume as an axis says it."""
    for unit, scale in (("bn", 1e9), ("M", 1e6), ("k", 1e3)):
        if volume >= scale:
            return f"{volume / scale:.3g} {unit}"
    return f"{volume:.3g}"


# ------------------------------------------------------------------------------------------------ training


def loss(record: RunRecord, name: str) -> tuple[str, dict[str, Any]] | None:
    """The loss of a cell's training, called `name`, with the key of its step; None where there is none."""
    step = record.steps.get("adapt", {})
    facts = step.get("facts") or {}
    noted = [p for p in facts.get("loss_curve") or [] if isinstance(p.get("step"), int | float)]
    data: list[dict[str, Any]] = [
        {"step": float(p["step"]), "loss": float(p[k]), "rows": rows}
        for k, rows in (("loss", "training"), ("eval_loss", "validation"))
        for p in noted
        if isinstance(p.get(k), int | float) and math.isfinite(p[k])
    ]
    if not data:
        return None
    held = [d for d in data if d["rows"] == "validation"]
    last = max(float(d["step"]) for d in data) or 1.0
    kinds = ["training", "validation"]
    colour = {
        "field": "rows", "scale": {"domain": kinds, "range": ["var(--soft)", "var(--accent)"]},
        "legend": {"symbolFillColor": None, "symbolStrokeColor": None},
    }  # fmt: skip
    x = {
        "field": "step", "type": "quantitative", "scale": {"domain": [0, last], "nice": False},
        "axis": {"title": "Step", "grid": False, "tickCount": 4},
    }  # fmt: skip
    y = {"field": "loss", "type": "quantitative", "axis": {"title": "Loss", "tickCount": 4}}
    thick = {"field": "rows", "scale": {"domain": kinds, "range": [1.25, 2.5]}, "legend": None}
    encoding = {"x": x, "y": y, "color": colour, "size": thick}
    spec: Spec = {
        "width": 300, "height": 130,
        "layer": [
            {"data": {"values": data}, "mark": "trail", "encoding": encoding},
            {"data": {"values": held}, "mark": {"type": "point", "filled": True, "size": 40, "opacity": 1,
                                                "color": "var(--accent)"}, "encoding": {"x": x, "y": y}},
        ],
    }  # fmt: skip
    ends = [
        f"{of[0]['loss']:.2f} to {of[-1]['loss']:.2f} on {kind} rows"
        if len(of) > 1
        else f"{of[0]['loss']:.2f} on {kind} rows"
        for kind in kinds
        if (of := [d for d in data if d["rows"] == kind])
    ]
    return str(step.get("key")), {
        "name": name, "svg": svg(spec, f"Loss of {name}", f"In {last:g} steps: {', '.join(ends)}."),
        "values": [(f"{d['step']:g}", f"{d['loss']:.3f}") for d in held], "facts": facts_text(facts, ("loss_curve",)),
        "seconds": duration(step.get("seconds") or 0), "shared": step.get("shared_by", 1),
    }  # fmt: skip


def losses(run: Run) -> list[dict[str, Any]]:
    """The loss of each training, once however many cells share it."""
    made: dict[str, dict[str, Any]] = {}
    for r in run.records.values():
        name = run.names[r.id].replace(f"{r.adaptation}/{r.quantization}", r.adaptation, 1)
        name = name.replace(variant(r), kin(r)[3]).strip(" /")
        if str(r.steps.get("adapt", {}).get("key")) not in made and (found := loss(r, name)):
            made[found[0]] = found[1]
    return list(made.values())
