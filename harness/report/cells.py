"""The cells side by side: heatmaps, the full table, and the scores of single rules."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.decide import Decision, batched, memory, timed
from harness.report.text import told
from harness.runs import Run, parts, state
from harness.types import RunRecord

COLUMNS = (
    ("ttft_ms/p50", "First token p50"), ("ttft_ms/p95", "First token p95"), ("itl_ms/p50", "Between tokens p50"),
    ("itl_ms/p95", "Between tokens p95"), ("e2e_ms/p50", "Whole answer p50"), ("e2e_ms/p95", "Whole answer p95"),
    ("e2e_natural_ms/p50", "To its own end p50"), ("e2e_natural_ms/p95", "To its own end p95"),
    ("times_limit", "Step over its limit"), ("batch_times_limit", "Batched step over its limit"),
    ("throughput_tokens_per_s", "Throughput, batched"),
    ("memory_bytes/peak_rss", "Peak memory, process"),
    ("memory_bytes/cuda_peak_process", "Peak memory, GPU"),
    ("memory_bytes/cuda_peak_allocated", "Peak memory, GPU allocated"),
    ("memory_bytes/cuda_peak_reserved", "Peak memory, GPU reserved"), ("weights_bytes", "Weights in memory"),
    ("disk_bytes", "On disk"), ("build_seconds", "Build"), ("cost_usd_per_1000", "Cost per 1,000"),
    ("output_tokens/mean", "Answer length"), ("truncated_share", "Cut off"),
)  # fmt: skip


def level(value: float, best: float, worst: float, better: str) -> int:
    """A shade from 0 to 5, darker is better. Shares are shaded by themselves, scores above 1 as shares of the highest;
    other numbers by how many times worse than the best they are, at least fourfold from end to end, so that small
    differences look small."""
    if better == "higher":
        return round(5 * min(1.0, max(0.0, value / max(1.0, worst))))
    if best <= 0 or value <= 0:
        return 5 if value <= best else 2
    return round(5 * (1 - math.log(value / best) / math.log(max(4.0, worst / best))))


def one_unit(records: Mapping[str, RunRecord]) -> dict[str, RunRecord]:
    """Records whose scores are told alike in all cells: as shares only where each of them is from 0 to 1."""
    graded = {m.metric for r in records.values() for m in r.measurements if m.unit == "points"}
    return {
        i: replace(
            r, measurements=tuple(replace(m, unit="points") if m.metric in graded else m for m in r.measurements)
        )
        for i, r in records.items()
    }


def bare(interval: str) -> str:
    """An interval without its unit, which stands above it, unless its ends have different ones."""
    return re.sub(r"^([^A-Za-z]+ to [^A-Za-z]+) [A-Za-z]+$", r"\1", re.sub("[$%]", "", interval))


def whole_answer(cells: Sequence[RunRecord]) -> str:
    """Of what the p95 of cells is, beside how long their own answers are."""
    own = [m.value for r in cells if (m := r.value("output_tokens/mean")) and m.value]
    ends = " to ".join(dict.fromkeys(f"{n:.0f}" for n in (min(own), max(own)))) if own else ""
    beside = f"; cells' own answers have {ends} on average" if own else ""
    one = "one request at a time, from request to last token"
    return f"{one} of a {answer}{beside}" if (answer := timed(cells)) else one


def heatmaps(run: Run, decision: Decision | None) -> list[dict[str, Any]]:
    """The grid as small tables: one a measure for each model, suite and seed."""
    made = []
    recommended = run.recommended(decision)
    for panel in dict.fromkeys(parts(i)[0] for i in run.ids):
        inside = {parts(i)[1:]: i for i in run.ids if parts(i)[0] == panel}
        rows = list(dict.fromkeys(a for a, _ in inside))
        columns = list(dict.fromkeys(q for _, q in inside))
        there = [r for i in inside.values() if (r := run.records.get(i))]
        judged = run.judged(there)
        for title, note, find in (
            ("Quality", f"{judged}, with its 95% interval", run.quality),
            ("p95 response time", whole_answer(there), lambda r: r.value("e2e_ms/p95")),
            ("Peak memory", "while answering", memory),
            ("Cost per 1,000 requests", "machine time and amortised build", lambda r: r.value("cost_usd_per_1000")),
        ):
            found = {i: m for i in inside.values() if i in run.records and (m := find(run.records[i]))}
            values = [m.value for m in found.values()]
            lines = []
            for a in rows:
                cells = []
                for q in columns:
                    i = inside.get((a, q))
                    m = found.get(i or "")
                    cell: dict[str, Any] = told(m) | {"level": None, "note": "", "chosen": False}
                    if m:
                        cell["interval"] = bare(cell["interval"])
                        cell["level"] = level(m.value, min(values), max(values), m.better)
                        best = max(values) if m.better == "higher" else min(values)
                        cell["note"] = "best" if m.value == best else ""
                        cell["chosen"] = i in recommended
                    elif i:
                        cell["text"] = state(run, i) if state(run, i) != "ok" else "not measured"
                    cells.append(cell)
                lines.append({"name": a, "cells": cells})
            made.append({"panel": panel, "title": title, "note": note, "columns": columns, "rows": lines})
    return made


def _timed(r: RunRecord | None, metric: str) -> dict[str, Any]:
    """A number of a cell; of a whole answer that a classification head gave, that it took one step."""
    shown = told(r.value(metric) if r else None)
    heads = r and metric.startswith("e2e_ms/") and "itl_ms" in r.not_measured and shown["value"] is not None
    return {**shown, "text": f"{shown['text']}, one step"} if heads else shown


def all_cells(run: Run) -> dict[str, Any]:
    """The full table: every cell, every number but the scores of single rules."""
    columns = [(m, t) for m, t in COLUMNS if any(r.value(m) for r in run.ok)]
    lines = []
    for i in run.ids:
        r = run.records.get(i)
        values = [told(run.quality(r) if r else None)] + [_timed(r, m) for m, _ in columns]
        lines.append({"id": i, "name": run.names[i], "state": state(run, i), "values": values})
    answer, rows = timed(run.ok) or "answer", batched(run.ok)
    heads = [
        "Quality",
        *(
            title.replace("answer", answer) if m.startswith("e2e_ms/")
            else f"{title}, {rows}" if rows and "atched" in title else title
            for m, title in columns
        ),
    ]  # fmt: skip
    return {"columns": heads, "rows": lines}


def scores(run: Run) -> dict[str, Any]:
    """Each score of the suite by cell."""
    names = list(dict.fromkeys(m.metric for r in run.ok for m in r.measurements if m.metric.startswith("quality/")))
    lines = []
    for r in run.ok:
        found = [r.value(n) for n in names]
        values = [
            told(m)
            | {
                "level": level(m.value if m.better == "higher" else 1 - m.value, 0, 1, "higher")
                if m and m.unit == "share"
                else None
            }
            for m in found
        ]
        lines.append({"name": run.names[r.id], "n": max((m.n for m in found if m), default=0), "values": values})
    main = {run.score(r) for r in run.ok}
    return {
        "columns": [{"name": n.partition("/")[2], "primary": n.partition("/")[2] in main} for n in names],
        "rows": [line for line in lines if line["n"]],
    }
