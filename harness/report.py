"""Draws a run folder as one HTML page and one Markdown file, from records and rows alone.

It is drawn again after each cell, so there is always something to read; cells still to come are shown as pending.
This module turns records into the plain values that `reports/decision.html.j2` lays out; nothing is measured here.

    python -m harness.report outputs/<sweep>/<time>
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import ledger
from harness.decide import (
    UNQUANTIZED,
    Decision,
    compare,
    decide,
    interact,
    memory,
    primary,
    quality,
    read_policy,
    reference,
    shared_scores,
)
from harness.errors import UserError
from harness.resources import resource
from harness.statistics import Paired, holm, over_seeds
from harness.types import Interval, Json, Measurement, RunRecord, Status, StepKind, id_parts, is_side
from harness.wording import duration, labels, number, points, significant, size

Row = Mapping[str, Json]
NONE = "–"
EXAMPLES = 4
DRIFTED = 1.1  # times as long in one round as in another
LISTED = 20  # overlapping pairs, the rest stands in leakage.json
SHOWN_CHARACTERS = 1_500
# What neither HTML nor Markdown escaping touches, and what can still turn text round or hide it.
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
COLUMNS = (
    ("ttft_ms/p50", "First token p50"), ("ttft_ms/p95", "First token p95"), ("itl_ms/p50", "Between tokens p50"),
    ("itl_ms/p95", "Between tokens p95"), ("e2e_ms/p50", "Whole answer p50"), ("e2e_ms/p95", "Whole answer p95"),
    ("e2e_natural_ms/p50", "To its own end p50"), ("e2e_natural_ms/p95", "To its own end p95"),
    ("times_limit", "Step over its limit"), ("throughput_tokens_per_s", "Throughput, batched"),
    ("memory_bytes/peak_rss", "Peak memory, process"),
    ("memory_bytes/cuda_peak_allocated", "Peak memory, GPU allocated"),
    ("memory_bytes/cuda_peak_reserved", "Peak memory, GPU reserved"), ("weights_bytes", "Weights in memory"),
    ("disk_bytes", "On disk"), ("build_seconds", "Build"), ("cost_usd_per_1000", "Cost per 1,000"),
    ("output_tokens/mean", "Answer length"), ("truncated_share", "Cut off"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder as read. `ids` are all cells of the grid in order, ended or not; `side` are the cells that stand
    beside the grid and are not candidates: parts of a learning curve, and the A/A control."""

    folder: Path
    ids: tuple[str, ...]
    records: Mapping[str, RunRecord]
    rows: Mapping[str, Sequence[Row]]
    names: Mapping[str, str]
    policy: Mapping[str, Json]
    leakage: Mapping[str, Json]
    side: tuple[RunRecord, ...] = ()

    @property
    def pending(self) -> list[str]:
        """Cells that left no record yet."""
        return [i for i in self.ids if i not in self.records]

    @property
    def ok(self) -> list[RunRecord]:
        """Cells with numbers, in the grid's order."""
        return [r for r in self.records.values() if r.status is Status.OK]


def read(folder: Path) -> Run:
    """Everything that a report needs. Raises `UserError` for a folder or file that cannot be read."""
    every = {r.id: r for r in ledger.read_records(folder)}
    beside = tuple(r for r in every.values() if is_side(r.id))
    records = {i: r for i, r in every.items() if not is_side(i)}
    ids = tuple(dict.fromkeys([*(i for i in ledger.read_cells(folder) if not is_side(i)), *records]))
    rows = {r.id: ledger.read_rows(folder, r) for r in every.values()}
    policy = next((r.config["policy"] for r in records.values() if r.config.get("policy")), {"objective": "quality"})
    return Run(folder, ids, records, rows, labels(ids), policy, ledger.read_leakage(folder), beside)


# ---------------------------------------------------------------------------------------------------- numbers as text


def visible(text: Any) -> str:
    """Text as it can be shown: control characters and marks that turn the writing direction become `⟨U+202E⟩`."""
    return INVISIBLE.sub(lambda m: f"⟨U+{ord(m[0]):04X}⟩", str(text))


def shorten(text: Any, keep_end: bool = False) -> str:
    """At most `SHOWN_CHARACTERS`, saying how many were left out."""
    whole = str(text)
    if (over := len(whole) - SHOWN_CHARACTERS) <= 0:
        return whole
    note = f"[{over:,} more characters in rows/]"
    return f"{note} … {whole[-SHOWN_CHARACTERS:]}" if keep_end else f"{whole[:SHOWN_CHARACTERS]} … {note}"


def interval(m: Measurement | None) -> str:
    """The 95% interval, without a unit where the value beside it has the same."""
    if m is None or m.interval is None:
        return ""
    low, high = number(m.interval.low, m.unit), number(m.interval.high, m.unit)
    if low.rpartition(" ")[2] == high.rpartition(" ")[2] and " " in low:
        low = low.rpartition(" ")[0]
    return f"{low.removesuffix('%')} to {high.removeprefix('$')}"


def told(m: Measurement | None) -> dict[str, str]:
    """A measurement as a table cell shows it."""
    return {"text": number(m.value, m.unit) if m else NONE, "interval": interval(m)}


def told_points(delta: float, around: Paired | Interval) -> dict[str, str]:
    """A difference and its interval as a table shows them, in points."""
    return {"delta": points(delta), "low": points(around.low), "high": points(around.high)}


def facts_text(facts: Mapping[str, Json], skip: Iterable[str] = ()) -> str:
    """Small facts of a step as `name: value`, without the ones shown elsewhere."""
    flat = {k: v for k, v in facts.items() if k not in skip and v is not None}
    nested = {f"{k} {j}": w for k, v in flat.items() if isinstance(v, Mapping) for j, w in v.items()}
    plain = {k: v for k, v in {**flat, **nested}.items() if isinstance(v, str | int | float)}

    def text(v: Any) -> str:
        return significant(v) if isinstance(v, float) else str(v) if isinstance(v, str | bool) else f"{v:,}"

    return ", ".join(f"{k.replace('_', ' ')}: {text(v)}" for k, v in plain.items())


# ----------------------------------------------------------------------------------------------------------- sections


def parts(cell_id: str) -> tuple[str, str, str]:
    """Panel (model, suite, seed and swept knobs), adaptation and quantization of a cell that may have no record yet."""
    model, adaptation, quantization, suite, seed, knobs = id_parts(cell_id)
    return " · ".join(p for p in (model, suite, seed, knobs) if p), adaptation, quantization


def level(value: float, best: float, worst: float, better: str) -> int:
    """A shade from 0 to 5, darker is better. Shares are shaded by themselves; other numbers by how many times worse
    than the best they are, at least fourfold from end to end, so that small differences look small."""
    if better == "higher":
        return round(5 * min(1.0, max(0.0, value)))
    if best <= 0 or value <= 0:
        return 5 if value <= best else 2
    return round(5 * (1 - math.log(value / best) / math.log(max(4.0, worst / best))))


def heatmaps(run: Run, decision: Decision | None) -> list[dict[str, Any]]:
    """The grid as small tables: one a measure for each model, suite and seed."""
    made = []
    for panel in dict.fromkeys(parts(i)[0] for i in run.ids):
        inside = {parts(i)[1:]: i for i in run.ids if parts(i)[0] == panel}
        rows = list(dict.fromkeys(a for a, _ in inside))
        columns = list(dict.fromkeys(q for _, q in inside))
        for title, note, find in (
            ("Quality", "share of rows that pass, with its 95% interval", quality),
            ("p95 response time", "one request at a time, from request to last token", lambda r: r.value("e2e_ms/p95")),
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
                        cell["interval"] = re.sub(r"[$%]| [A-Za-z]+$", "", cell["interval"])  # the unit stands above it
                        cell["level"] = level(m.value, min(values), max(values), m.better)
                        best = max(values) if m.better == "higher" else min(values)
                        cell["note"] = "best" if m.value == best else ""
                        cell["chosen"] = decision is not None and decision.chosen == i
                    elif i:
                        cell["text"] = state(run, i) if state(run, i) != "ok" else "not measured"
                    cells.append(cell)
                lines.append({"name": a, "cells": cells})
            made.append({"panel": panel, "title": title, "note": note, "columns": columns, "rows": lines})
    return made


def state(run: Run, cell_id: str) -> str:
    """How far a cell is."""
    return str(run.records[cell_id].status) if cell_id in run.records else "pending"


def all_cells(run: Run) -> dict[str, Any]:
    """The full table: every cell, every number but the scores of single rules."""
    columns = [(m, t) for m, t in COLUMNS if any(r.value(m) for r in run.ok)]
    lines = []
    for i in run.ids:
        r = run.records.get(i)
        values = [told(quality(r) if r else None)] + [told(r.value(m) if r else None) for m, _ in columns]
        lines.append({"id": i, "name": run.names[i], "state": state(run, i), "values": values})
    heads = ["Quality", *(title for _, title in columns)]
    return {"columns": heads, "rows": lines}


def under_load(run: Run) -> dict[str, Any]:
    """Closed loops of so many clients, and the highest rate of an open loop that held the service level."""
    loops = sorted(
        {int(m.metric.split("/")[0][7:]) for r in run.ok for m in r.measurements if m.metric[:7] == "closed_"}
    )
    parts = (("ttft_ms/p95", "first token p95"), ("itl_ms/p95", "between tokens p95"), ("tokens_per_s", "throughput"))
    columns = [
        (f"closed_{n}/{part}", f"{n} client{'s' if n > 1 else ''}: {what}") for n in loops for part, what in parts
    ]
    if any(r.value("goodput_requests_per_s") for r in run.ok):
        columns.append(("goodput_requests_per_s", "Goodput"))
    lines = []
    for r in run.ok:
        if any(r.value(metric) for metric, _ in columns):
            values = [told(r.value(metric)) for metric, _ in columns]
            if (failed := r.value("goodput_failed_at")) and columns[-1][0] == "goodput_requests_per_s":
                values[-1] = {**values[-1], "interval": f"not at {number(failed.value, failed.unit)}"}
            lines.append({"name": run.names[r.id], "values": values})
    latency: Mapping[str, Json] = next((r.config["measure"]["params"]["latency"] for r in run.ok), {})
    level = latency.get("level")
    return {
        "columns": [c for _, c in columns], "rows": lines,
        "level": f"{100 * level['share']:g}% of the requests with the first token within {level['ttft_ms']:g} ms and "
        f"tokens at most {level['token_ms']:g} ms apart on average" if level else "",
        "requests": latency.get("open_requests", 0),
    }  # fmt: skip


def adapters(run: Run) -> list[str]:
    """What serving a LoRA beside its base costs, a sentence or three a cell."""
    found = []
    for r in run.ok:
        names = ("bytes", "load_ms", "swap_ms", "step_ms/beside", "step_ms/merged", "batch_step_ms/each")
        values = [r.value(f"adapter/{n}") for n in (*names, "batch_step_ms/one")]
        if None in values:
            continue
        one, load, swap, beside, merged, each, same = (number(m.value, m.unit) for m in values if m)
        count = r.value("adapter/count")
        found.append(
            f"{run.names[r.id]}: an adapter takes {one}; one more is loaded in {load} and another chosen in {swap}. "
            f"A token takes {beside} with the adapter beside its base and {merged} merged. Of "
            f"{count.value if count else 0:.0f} rows with an adapter each, a step takes {each}, and {same} where all "
            "have one (transformers with PEFT)."
        )
    return found


def rooms(run: Run) -> dict[str, Any]:
    """How many rows are predicted to fit into memories of different sizes, of so many tokens each."""
    sizes = sorted(
        {int(m.metric[15:-2]) for r in run.ok for m in r.measurements if m.metric.startswith("predicted_rows/")}
    )
    lines, tokens = [], 0
    for r in run.ok:
        found = [r.value(f"predicted_rows/{size}GB") for size in sizes]
        kv = r.value("kv_bytes_per_token")
        if kv and (first := next((m for m in found if m), None)):
            tokens = max(tokens, first.n)
            counts = [NONE if m is None else f"{m.value:,.0f}" if m.value else "does not fit" for m in found]
            lines.append({"name": run.names[r.id], "kv": number(kv.value, "bytes"), "counts": counts})
    return {"sizes": sizes, "rows": lines, "tokens": tokens}


def scores(run: Run) -> dict[str, Any]:
    """Each score of the suite by cell."""
    names = list(dict.fromkeys(m.metric for r in run.ok for m in r.measurements if m.metric.startswith("quality/")))
    lines = []
    for r in run.ok:
        found = [r.value(n) for n in names]
        values = [
            told(m) | {"level": level(m.value if m.better == "higher" else 1 - m.value, 0, 1, "higher") if m else None}
            for m in found
        ]
        lines.append({"name": run.names[r.id], "n": max((m.n for m in found if m), default=0), "values": values})
    main = {primary(r) for r in run.ok}
    return {
        "columns": [{"name": n.partition("/")[2], "primary": n.partition("/")[2] in main} for n in names],
        "rows": [line for line in lines if line["n"]],
    }


def differences(run: Run, margin: float) -> dict[str, Any]:
    """Each cell against the reference on the same rows, with a common axis for the drawn intervals."""
    against = reference(list(run.records.values()))
    others = [r for r in run.ok if against and r.id != against.id and r.suite == against.suite]
    pairs = {r.id: pair for r in others if against and (pair := compare(r, against, run.rows, primary(against)))}
    adjusted = holm({i: pair.p for i, pair in pairs.items()})
    reach = max([margin, 0.1, *(abs(v) for pair in pairs.values() for v in (pair.low, pair.high))]) * 1.06
    lines = []
    for i, pair in pairs.items():
        smallest = pair.smallest(len(pairs))
        lines.append(
            {
                "name": run.names[i], **told_points(pair.delta, pair),
                "p": p_text(pair.p), "holm": p_text(adjusted[i]), "significant": adjusted[i] < 0.05,
                "gained": pair.gained, "lost": pair.lost, "n": pair.n,
                "smallest": f"{100 * smallest:.0f}" if math.isfinite(smallest) else "none",
                "x": {k: 100 + 95 * getattr(pair, k) / reach for k in ("delta", "low", "high")},
            }
        )  # fmt: skip
    return {
        "reference": run.names[against.id] if against else "", "score": primary(against) if against else "",
        "rows": lines, "margin_x": 100 - 95 * margin / reach, "margin": f"{100 * margin:g}",
        "reach": f"{100 * reach / 1.06:.0f}",
    }  # fmt: skip


def quantized(run: Run, margin: float) -> dict[str, Any]:
    """Each quantized cell against its own adaptation unquantized: is it shown to be no worse by the margin, what share
    of the outputs stayed the same, and how much of the adaptation's gain is gone."""
    ok = {(*_kin(r), r.adaptation, r.quantization): r for r in run.ok}
    against = reference(run.ok)
    pairs: dict[str, Paired] = {}
    taken: dict[str, Paired] = {}
    lines = []
    for r in run.ok:
        parent = _parent(run, r)
        pair = compare(r, parent, run.rows, primary(r)) if parent else None
        if pair is None or parent is None:
            continue
        pairs[r.id] = pair
        line: dict[str, Any] = {
            "id": r.id, "name": run.names[r.id], **told_points(pair.delta, pair),
            "gained": pair.gained, "lost": pair.lost, "n": pair.n,
            "same": same_outputs(run, r, parent), "tokens": _tokens(r, parent), "taken": None,
        }  # fmt: skip
        if against and r.adaptation != against.adaptation:
            four = [
                ok.get((*_kin(r), a, q))
                for q in (r.quantization, parent.quantization)
                for a in (r.adaptation, against.adaptation)
            ]
            found = interact([c for c in four if c], run.rows, primary(r))
            if found:
                taken[r.id] = found
                line["taken"] = told_points(found.delta, found)
        lines.append(line)
    adjusted = holm({i: pair.p_not_worse(margin) for i, pair in pairs.items()})
    worse = holm({i: 1 - pair.p_not_worse(margin) for i, pair in pairs.items()})
    clear = holm({i: found.p for i, found in taken.items()})
    for line in lines:
        i = line["id"]
        line["holm"] = p_text(adjusted[i])
        line["verdict"] = "shown" if adjusted[i] <= 0.025 else "shown to be worse" if worse[i] <= 0.025 else "open"
        if line["taken"]:
            line["taken"]["shown"] = clear[i] < 0.05
    base = against.adaptation if against else ""
    return {"rows": lines, "margin": f"{100 * margin:g}", "base": base, "taken": any(line["taken"] for line in lines)}


def seeds(run: Run) -> dict[str, Any]:
    """Cells that differ in their training seed alone, together: mean and difference from the reference of the same
    seed, with intervals for the luck of training and of rows at once."""
    kinds: dict[tuple[str, ...], list[RunRecord]] = {}
    for r in run.ok:
        kinds.setdefault((r.model, r.suite, r.adaptation, r.quantization, variant(r)), []).append(r)
    against = reference(run.ok)
    base = next((cells for cells in kinds.values() if against in cells), None)
    lines = []
    for kind, cells in kinds.items():
        name = primary(cells[0])
        own, groups = shared_scores(cells, run.rows, name)
        if len(cells) < 2 or not groups:
            continue
        mean, spread = over_seeds(own, groups)
        line = {
            "name": "/".join(filter(None, kind[2:])), "mean": number(mean, "share"), "n": len(groups),
            "interval": f"{number(spread.low, 'share')} to {number(spread.high, 'share')}",
            "each": ", ".join(f"{r.seed}: {number(sum(v) / len(v), 'share')}" for r, v in zip(cells, own, strict=True)),
            "delta": "", "low": "", "high": "",
        }  # fmt: skip
        pairs = [(r, b) for r in cells for b in base or () if r.seed == b.seed and cells is not base]
        both, groups = shared_scores([c for pair in pairs for c in pair], run.rows, name)
        if len(pairs) > 1 and groups:
            apart = [[x - y for x, y in zip(a, b, strict=True)] for a, b in zip(both[::2], both[1::2], strict=True)]
            delta, around = over_seeds(apart, groups, differences=True)
            line |= told_points(delta, around)
        lines.append(line)
    return {"rows": lines, "reference": "/".join((against.adaptation, against.quantization)) if against else ""}


def control(run: Run) -> list[dict[str, str]]:
    """The A/A control: a cell evaluated twice, with the rows batched otherwise. Its difference should be nothing."""
    lines = []
    for r in run.side:
        twin = run.records.get(r.id.rpartition("/")[0])
        pair = compare(r, twin, run.rows, primary(r)) if twin and r.id.endswith("/again") else None
        if pair and twin:
            lines.append(
                {
                    "name": run.names[twin.id], **told_points(pair.delta, pair),
                    "p": p_text(pair.p), "same": same_outputs(run, r, twin),
                    "verdict": "nothing, as it should be" if pair.p >= 0.05 else "a difference: distrust this run",
                }
            )  # fmt: skip
    return lines


def learning(run: Run, margin: float) -> list[dict[str, Any]]:
    """Learning curves: each trained adaptation on parts of its rows, and what the last part added."""
    made = []
    for r in run.ok:
        parts_of = [s for s in run.side if s.status is Status.OK and s.id.startswith(f"{r.id}/curve=")]
        if not parts_of:
            continue
        lines = []
        before: RunRecord | None = None
        for cell in sorted([*parts_of, r], key=share_of):
            m = quality(cell)
            pair = compare(cell, before, run.rows, primary(r)) if before else None
            trained = (cell.steps.get("adapt", {}).get("facts") or {}).get("rows")
            lines.append(
                {
                    "share": number(share_of(cell), "share"), **told(m),
                    "rows": NONE if trained is None else f"{trained:,}",
                    **(told_points(pair.delta, pair) if pair else {"delta": "", "low": "", "high": ""}),
                }
            )  # fmt: skip
            last, before = pair, cell
        if last is None:
            continue
        last_part = f"the rows from {lines[-2]['share']} to {lines[-1]['share']}"
        if last.low > 0:
            answer = f"More data would likely still help: {last_part} added a difference that was shown."
        elif last.high < margin:
            next_step = "better rows" if r.adaptation == "full_ft" else "full fine-tuning, or better rows,"
            answer = (
                f"It has levelled off: {last_part} added less than the policy's margin. More of the same will not help "
                f"much; {next_step} may."
            )
        else:
            need = last.rows_for(margin) if margin else 0
            answer = f"Open: with {last.n} evaluation rows neither can be shown" + (
                f"; about {need:,} would." if need > last.n else "."
            )
        made.append({"name": run.names[r.id], "lines": lines, "answer": answer, "score": primary(r)})
    return made


def share_of(r: RunRecord) -> float:
    """The share of the training rows that a cell was trained on."""
    return float(r.config.get("suite", {}).get("params", {}).get("train_share", 1.0))


def _parent(run: Run, r: RunRecord) -> RunRecord | None:
    """The same adaptation unquantized."""
    same = (
        p for p in run.ok
        if (*_kin(p), p.adaptation) == (*_kin(r), r.adaptation) and p.quantization in UNQUANTIZED
    )  # fmt: skip
    return None if r.quantization in UNQUANTIZED else next(same, None)


def variant(r: RunRecord) -> str:
    """The knobs that were swept singly, as the cell's id ends with them."""
    return str(r.config.get("variant") or "")


def _kin(r: RunRecord) -> tuple[Any, ...]:
    """What cells have in common that differ in adaptation and quantization alone."""
    others = [knob for knob in variant(r).split(",") if not knob.startswith("quantization.")]
    return r.model, r.suite, r.seed, ",".join(others)


def same_outputs(run: Run, a: RunRecord, b: RunRecord) -> str:
    """The share of shared rows to which two cells gave the very same answer."""
    left, right = ({row["id"]: row.get("output") for row in run.rows.get(r.id, ())} for r in (a, b))
    shared = [i for i in left if i in right]
    return number(sum(left[i] == right[i] for i in shared) / len(shared), "share") if shared else NONE


def _tokens(r: RunRecord, parent: RunRecord) -> str:
    """Mean answer length against the parent's, since a shorter answer looks faster."""
    mine, whole = r.value("output_tokens/mean"), parent.value("output_tokens/mean")
    return f"{points(mine.value / whole.value - 1)}%" if mine and whole and whole.value else NONE


def leakage(run: Run) -> list[dict[str, Any]]:
    """Overlaps of evaluation rows with what builds saw, by suite; where rows are flagged, scores without them."""
    made = []
    for suite, found in run.leakage.items():
        flagged = {o["row"] for o in found["overlaps"]}
        kinds = Counter((o["source"], o["kind"]) for o in found["overlaps"])
        cells = []
        for r in run.ok:
            name, rows = primary(r), run.rows.get(r.id, ())
            scored = [(row["id"], row["scores"].get(name)) for row in rows if r.suite == suite]
            all_, rest = (
                [v for i, v in scored if isinstance(v, int | float) and (i not in out)] for out in ((), flagged)
            )
            if flagged and rest:
                cells.append(
                    {"name": run.names[r.id], "all": number(sum(all_) / len(all_), "share"),
                     "without": number(sum(rest) / len(rest), "share"), "n": len(all_), "left": len(rest)}
                )  # fmt: skip
        made.append(
            {
                "suite": suite, "rows": found["rows"], "mode": found["mode"], "cells": cells, "flagged": len(flagged),
                "counts": [
                    {"source": source, **{k: kinds[source, k] for k in ("exact", "group", "near")}}
                    for source in ("training", "knowledge base")
                ],
                "pairs": found["overlaps"][:LISTED], "more": max(0, len(found["overlaps"]) - LISTED),
            }
        )  # fmt: skip
    return made


def p_text(p: float) -> str:
    """A p-value as papers write it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def proofs(run: Run) -> list[dict[str, str]]:
    """What shows that each quantization took: what runs, and its size against the unquantized parent."""
    lines = []
    for r in run.ok:
        facts = r.steps.get("quantize", {}).get("facts", {})
        classes: Mapping[str, int] = facts.get("linear_classes") or next(
            (f["linear_classes"] for s in r.steps.values() if (f := s.get("facts") or {}).get("linear_classes")), {}
        )
        parent = r if r.quantization in UNQUANTIZED else _parent(run, r)
        replaced, whole = facts.get("replaced_modules"), sum(classes.values())
        lines.append(
            {
                "name": run.names[r.id],
                "classes": ", ".join(f"{n} × {kind}" for kind, n in classes.items()) or NONE,
                "replaced": NONE if replaced is None else f"{replaced:,}" + (f" of {whole:,}" if whole else ""),
                "disk": against_parent(r, parent, "disk_bytes"), "weights": against_parent(r, parent, "weights_bytes"),
                "perplexity": told(r.value("fidelity/perplexity_ratio"))["text"],
                "agreement": told(r.value("fidelity/token_agreement"))["text"],
                "facts": facts_text(
                    {**facts, **_decoding(r)}, ("linear_classes", "replaced_modules", "left_modules")
                ),
            }
        )  # fmt: skip
    return lines


def _decoding(r: RunRecord) -> dict[str, str]:
    """How the steps of a timed cell were launched, where its engine says so."""
    how = (r.steps.get("latency", {}).get("facts") or {}).get("how")
    return {"decoded": how} if how else {}


def _noise(run: Run, r: RunRecord) -> str:
    """A noisy cell, with what its latency steps say of why."""
    facts = [(step.get("facts") or {}).get("noise") for kind, step in r.steps.items() if kind.startswith("latency")]
    reasons = ", ".join(str(line) for why in facts if isinstance(why, list) for line in why)
    return f"{run.names[r.id]} ({reasons or 'no reason kept'})"


def against_parent(r: RunRecord, parent: RunRecord | None, metric: str) -> str:
    """A size, and what share of the unquantized parent's it is."""
    mine, whole = r.value(metric), parent.value(metric) if parent else None
    if mine is None:
        return NONE
    if r is parent or whole is None or not whole.value:
        return size(mine.value)
    return f"{size(mine.value)} ({100 * mine.value / whole.value:.0f}%)"


def examples(run: Run, decision: Decision | None) -> list[dict[str, Any]]:
    """The rows on which the cells differ most, one of each case first; four cells side by side, the rest below."""
    ok = [r for r in run.ok if run.rows.get(r.id)]
    if not ok:
        return []
    by_cell = {r.id: {row["id"]: row for row in run.rows[r.id]} for r in ok}
    order = list(dict.fromkeys(i for found in by_cell.values() for i in found))

    def split(row_id: str) -> float:
        marks = [found[row_id]["scores"].get(primary(ok[0]), 0) for found in by_cell.values() if row_id in found]
        marks = [m for m in marks if isinstance(m, int | float)]
        return abs(sum(marks) / len(marks) - 0.5) if len(marks) > 1 else 1.0

    order.sort(key=lambda i: (split(i), str(i)))
    case = {i: str(next(f[i] for f in by_cell.values() if i in f).get("case")) for i in order}
    first = {case[i]: i for i in reversed(order)}
    picked = ([i for i in order if first[case[i]] == i] + [i for i in order if first[case[i]] != i])[:EXAMPLES]
    against = reference(ok)
    wanted = [
        against.id if against else None,
        decision.chosen if decision else None,
        decision.best if decision else None,
    ]
    seen = {r.adaptation for r in ok if r.id in wanted}
    wanted += [
        next(r.id for r in ok if r.adaptation == a) for a in dict.fromkeys(r.adaptation for r in ok) if a not in seen
    ]
    front = list(dict.fromkeys(i for i in wanted if i in by_cell))[:4]
    roles = {wanted[0]: "reference", wanted[2]: "highest quality", wanted[1]: "chosen"}
    low = {m.metric.partition("/")[2] for r in ok for m in r.measurements if m.better == "lower"}
    made = []
    for row_id in picked:
        shown = [
            outcome(run.names[i], roles.get(i, ""), by_cell[i][row_id], low) for i in front if row_id in by_cell[i]
        ]
        rest = [outcome(run.names[i], "", f[row_id], low) for i, f in by_cell.items() if i not in front and row_id in f]
        row = next(f[row_id] for f in by_cell.values() if row_id in f)
        prompt = row.get("message") or row.get("prompt", "")
        made.append(
            {"id": row_id, "case": row.get("case") or "", "prompt": shorten(prompt, True), "front": shown, "rest": rest}
        )
    return made


def outcome(name: str, role: str, row: Row, low: Iterable[str] = ()) -> dict[str, Any]:
    """One cell's answer to a row, and the scores it missed; of those in `low`, less is better."""
    missed = [k for k, v in row["scores"].items() if (v not in (0, False) if k in low else v in (0, False))]
    return {
        "name": name, "role": role, "text": shorten(row.get("output", "")), "missed": missed,
        "tokens": row.get("tokens"), "cut": row.get("finished") is False,
    }  # fmt: skip


def not_measured(run: Run) -> list[dict[str, str]]:
    """What has no number and why, cells of the same reason together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for r in run.ok:
        for metric, why in r.not_measured.items():
            groups.setdefault((metric, why), []).append(run.names[r.id])
    return [
        {
            "metric": m,
            "why": why,
            "cells": f"all {len(c)} cells that ended ok" if len(c) == len(run.ok) else ", ".join(c),
        }
        for (m, why), c in groups.items()
    ]


def steps(run: Run) -> list[dict[str, Any]]:
    """Every step once with its key: what was built, how long it took, how many cells share it."""
    found: dict[str, dict[str, Any]] = {}
    for r in run.records.values():
        for kind, step in r.steps.items():
            what = {
                "kernels": "4-bit products", "base": r.model, "adapt": r.adaptation,
            }.get(kind, f"{run.names[r.id]}")  # fmt: skip
            entry = {
                "kind": kind, "what": what, "key": step.get("key", NONE), "seconds": duration(step.get("seconds") or 0),
                "bytes": size(step["bytes"]) if step.get("bytes") else NONE, "shared": step.get("shared_by", 1),
            }  # fmt: skip
            found.setdefault(f"{kind} {step.get('key')}", entry)
    order = [str(k) for k in StepKind]
    return sorted(found.values(), key=lambda s: order.index(s["kind"].split(" ")[0]))


def caveats(run: Run) -> list[str]:
    """What a reader must know before taking a number elsewhere; each only where it holds for this run."""
    found: list[str] = []
    every = list(run.records.values())
    for r in every:
        env, config = r.environment, r.config
        if env.get("device") == "cpu":
            found.append(
                f"Computed in {env.get('dtype', 'an unknown dtype')} on a CPU ({env.get('hardware', 'unknown')}). "
                "Ratios between cells can be different, even reversed, on a GPU."
            )
        suite = config.get("suite", {}).get("params", {})
        if "eval_file" in suite and suite["eval_file"] is None:
            found.append(
                f"Evaluation rows are those of lm-eval's task {suite.get('task')}: whether training saw them was not "
                "looked for."
            )
        if note := config.get("model", {}).get("params", {}).get("note"):
            found.append(f"About {r.model}: {note}")
        if price := config.get("price"):
            found.append(
                f"Cost is priced at ${price.get('usd_per_hour')} an hour for {price.get('hardware')} "
                f"({price.get('source')}, {price.get('date')}), with building spread over "
                f"{price.get('volume_requests', 0):,} requests; times are from {env.get('hardware', 'other hardware')}."
            )
        if r.value("memory_bytes/peak_rss"):
            found.append("Peak memory is that of the whole process: weights, Python and its libraries.")
    one_step = [r for r in run.ok if "itl_ms" in r.not_measured]
    if one_step and len(one_step) < len(run.ok):
        generating = [r for r in run.ok if r not in one_step]
        timed = sorted({r.config["measure"]["params"]["latency"]["output_tokens"] for r in generating})
        own = [m.value for r in generating if (m := r.value("output_tokens/mean"))]
        ends = any(r.value("e2e_natural_ms/p50") for r in generating)
        found.append(
            "A classification head answers in one step. The timed answers of the cells that generate have "
            f"{', '.join(map(str, timed))} tokens whatever they would say"
            + (f", and their own {min(own):.1f} to {max(own):.1f}, which cost counts" if own else "")
            + (": “to its own end” times those." if ends else ": compare response times with that in mind.")
        )
    hows: dict[str, list[str]] = {}
    for r in run.ok:
        if how := _decoding(r).get("decoded"):
            hows.setdefault(how, []).append(run.names[r.id])
    if len(hows) > 1:
        kinds = "; ".join(f"{how} ({', '.join(names)})" for how, names in hows.items())
        found.append(f"Steps were not launched alike, so these cells' speeds do not compare: {kinds}.")
    if bound := [run.names[r.id] for r in run.ok if (m := r.value("host_bound")) and m.value]:
        found.append(
            f"Host-bound: {', '.join(bound)}. A step takes about as long for a batch as for one row and over three "
            "times what reading the weights takes, so it waits for work to be launched: its speed says nothing of the "
            "method."
        )
    if drifted := [run.names[r.id] for r in run.ok if (m := r.value("round_drift")) and m.value > DRIFTED]:
        found.append(
            f"The machine changed its pace while cells were timed: {', '.join(drifted)} took over {DRIFTED - 1:.0%} "
            "longer in one round than in another. All rounds are pooled."
        )
    if noisy := [_noise(run, r) for r in run.ok if (m := r.value("noisy")) and m.value]:
        found.append(
            f"Timed beside other work, or on a machine that did not hold still: {'; '.join(noisy)}. These cells' times "
            "are not the method's alone: time them again on a quiet machine before comparing them."
        )
    if len({r.seed for r in every}) == 1 and any(r.adaptation not in ("prompt_rag",) for r in run.ok):
        found.append("One seed a cell: the luck of training is not in the intervals, which cover the choice of rows.")
    found += [
        f"Cells were measured with different {field}: differences between them may come from that."
        for field in ("hardware", "dtype", "versions")
        if len({str(r.environment.get(field)) for r in every}) > 1
    ]
    if len({str(r.config.get("policy")) for r in every}) > 1:
        found.append("Records name different policies; the first one's was applied.")
    return list(dict.fromkeys(found))


# ------------------------------------------------------------------------------------------------------------- charts


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


# ------------------------------------------------------------------------------------------------------------ writing


def verdict(run: Run) -> tuple[Decision | None, list[str]]:
    """The decision and its three sentences; before the last cell has ended, how far the run is."""
    if not run.pending:
        decision = decide(list(run.records.values()), run.rows, run.policy)
        return decision, list(decision.sentences)
    ended, bad = len(run.records), len(run.records) - len(run.ok)
    first = f"So far: {ended} of {len(run.ids)} cells have ended" + (
        f", {bad} of them without numbers." if bad else "."
    )
    scored = [(m, r) for r in run.ok if (m := quality(r))]
    second = "No quality has been measured yet."
    if scored:
        m, r = max(scored, key=lambda pair: pair[0].value)
        second = (
            f"Highest quality so far: {run.names[r.id]} with {number(m.value, 'share')} ({interval(m)}) of {m.n} rows."
        )
    return None, [first, second, "A recommendation is made when all cells have ended."]


def headline(run: Run, decision: Decision | None) -> list[dict[str, str]]:
    """The four numbers of the chosen cell beside those of the reference."""
    if decision is None or decision.chosen is None or decision.reference is None:
        return []
    mine, base = run.records[decision.chosen], run.records[decision.reference]
    cards = []
    for title, find in (
        ("Quality", quality), ("p95 response time", lambda r: r.value("e2e_ms/p95")),
        ("Peak memory", memory), ("Cost per 1,000 requests", lambda r: r.value("cost_usd_per_1000")),
    ):  # fmt: skip
        a, b = find(mine), find(base)
        if a is None:
            continue
        change = ""
        if b is not None and mine is not base:
            ratio = f"{100 * (a.value / b.value - 1):+.0f}%".replace("-", "−") if b.value else NONE
            change = f"{points(a.value - b.value)} points" if a.unit == "share" else ratio
        cards.append({"title": title, **told(a), "base": told(b)["text"], "change": change})
    return cards


def view(run: Run) -> dict[str, Any]:
    """Everything that the page shows, as plain values."""
    decision, sentences = verdict(run)
    first = next(iter(run.records.values()), None)
    rule = read_policy(run.policy)
    return {
        "title": f"{first.suite} on {first.model}" if first else run.folder.name,
        "run": f"{run.folder.parent.name}/{run.folder.name}", "sentences": sentences, "pending": len(run.pending),
        "counts": {str(k): v for k, v in ledger.done(list(run.records.values())).items()}, "total": len(run.ids),
        "profile": first.profile if first else "", "decision": decision, "names": run.names,
        "headline": headline(run, decision), "policy": rule,
        "reference": run.names[decision.reference] if decision and decision.reference else "",
        "heatmaps": heatmaps(run, decision), "scatter": scatter(run, decision), "all_cells": all_cells(run),
        "load": under_load(run), "rooms": rooms(run), "adapters": adapters(run),
        "scores": scores(run), "differences": differences(run, rule.margin), "proofs": proofs(run),
        "quantized": quantized(run, rule.margin), "leakage": leakage(run), "seeds": seeds(run),
        "control": control(run), "learning": learning(run, rule.margin),
        "curves": curves(run), "examples": examples(run, decision), "not_measured": not_measured(run),
        "ended_badly": [r for r in run.records.values() if r.status is not Status.OK], "steps": steps(run),
        "caveats": caveats(run), "environment": dict(first.environment) if first else {},
        "config": configs(run), "primary": primary(first) if first else "",
    }  # fmt: skip


def configs(run: Run) -> list[tuple[str, str]]:
    """The settings of the run, each different one once."""
    found: dict[tuple[str, str], str] = {}
    for r in run.records.values():
        for group, value in r.config.items():
            name = str(value.get("name", "")) if isinstance(value, Mapping) else str(value)
            inner = value.get("params", value) if isinstance(value, Mapping) else {}
            settings = {k: v for k, v in inner.items() if k != "name"} if isinstance(inner, Mapping) else {}
            text = ", ".join(f"{k}: {v}" for k, v in settings.items())
            found.setdefault((f"{group} = {name}", text), group)
    order = {group: n for n, group in enumerate(dict.fromkeys(found.values()))}
    return sorted(found, key=lambda key: order[found[key]])


def markdown(page: Mapping[str, Any]) -> str:
    """The short form, for a pull request or a terminal: decision, cells, differences, what went wrong."""

    def line(values: Iterable[Any]) -> str:
        return "| " + " | ".join(plain_markdown(v) for v in values) + " |"

    def grid(heads: Sequence[str], rows: Iterable[Iterable[Any]]) -> list[str]:
        return [line(heads), line("---" for _ in heads), *(line(row) for row in rows), ""]

    def cell(value: Mapping[str, str]) -> str:
        return f"{value['text']} ({value['interval']})" if value["interval"] else value["text"]

    out = [f"# {plain_markdown(page['title'])}", "", *(plain_markdown(s) + "\n" for s in page["sentences"])]
    table, heads = page["all_cells"], ("Quality", "Whole answer p95", "Cost per 1,000")
    keep = [n for n, c in enumerate(table["columns"]) if c in heads or c.startswith("Peak memory")]
    out += ["## Cells", ""]
    out += grid(
        ["Cell", "State", *(table["columns"][n] for n in keep)],
        ([r["name"], r["state"], *(cell(r["values"][n]) for n in keep)] for r in table["rows"]),
    )
    if page["load"]["rows"]:
        out += ["## Under load", ""]
        out += grid(
            ["Cell", *page["load"]["columns"]],
            ([r["name"], *(cell(v) for v in r["values"])] for r in page["load"]["rows"]),
        )
    if page["adapters"]:
        out += ["## A LoRA beside its base", "", *(plain_markdown(line) + "\n" for line in page["adapters"])]
    if page["differences"]["rows"]:
        against = f"{page['differences']['score']} against {page['differences']['reference']}, on the same rows"
        out += [f"## {plain_markdown(against)}", ""]
        out += grid(
            ["Cell", "Points", "95% interval", "p", "p (Holm)", "Gained", "Lost", "Rows"],
            (
                [r["name"], r["delta"], f"{r['low']} to {r['high']}", r["p"], r["holm"], r["gained"], r["lost"], r["n"]]
                for r in page["differences"]["rows"]
            ),
        )
    if page["quantized"]["rows"]:
        out += ["## What quantization changed, against the same adaptation unquantized", ""]
        out += grid(
            [
                "Cell",
                "Points",
                "95% interval",
                f"No worse by {page['quantized']['margin']} points",
                "p (Holm)",
                "Same answer",
            ],
            (
                [r["name"], r["delta"], f"{r['low']} to {r['high']}", r["verdict"], r["holm"], r["same"]]
                for r in page["quantized"]["rows"]
            ),
        )
    out += _evidence(page, grid)
    if page["decision"] and page["decision"].reasons:
        out += ["## Why not the others", ""]
        out += grid(["Cell", "Reason"], ([page["names"][i], why] for i, why in page["decision"].reasons.items()))
    elif page["ended_badly"]:
        out += ["## Cells without numbers", ""]
        out += grid(
            ["Cell", "State", "Reason"], ([page["names"][r.id], r.status, r.reason] for r in page["ended_badly"])
        )
    if page["not_measured"]:
        out += ["## Not measured", ""]
        out += grid(["Measure", "Why", "Cells"], ([m["metric"], m["why"], m["cells"]] for m in page["not_measured"]))
    out += ["## Limits", "", *(f"- {plain_markdown(c)}" for c in page["caveats"]), ""]
    return "\n".join(out)


def _evidence(page: Mapping[str, Any], grid: Any) -> list[str]:
    """What a run measured beside its grid, as far as it did: seeds, learning curves, the A/A control, leakage."""
    out: list[str] = []

    def around(row: Mapping[str, str]) -> str:
        return f"{row['low']} to {row['high']}" if row["low"] else ""

    if rows := page["seeds"]["rows"]:
        out += ["## Seeds: the luck of training and of rows together", ""]
        out += grid(
            ["Cell", "Mean", "95% interval", "Each seed", f"Against {page['seeds']['reference']}", "95% interval"],
            ([r["name"], r["mean"], r["interval"], r["each"], r["delta"], around(r)] for r in rows),
        )
    for curve in page["learning"]:
        out += [f"## Learning curve: {plain_markdown(curve['name'])}", "", plain_markdown(curve["answer"]), ""]
        out += grid(
            ["Share", "Rows", curve["score"], "95% interval", "Against the share before", "95% interval"],
            ([r["share"], r["rows"], r["text"], r["interval"], r["delta"], around(r)] for r in curve["lines"]),
        )
    if page["control"]:
        out += ["## A/A control: the same cell evaluated twice", ""]
        out += grid(
            ["Cell", "Points", "95% interval", "p", "Same answer", "Called"],
            ([r["name"], r["delta"], around(r), r["p"], r["same"], r["verdict"]] for r in page["control"]),
        )
    for suite in page["leakage"]:
        counted = ([c["source"], c["exact"], c["group"], c["near"]] for c in suite["counts"])
        out += [f"## Leakage: {plain_markdown(suite['suite'])}", ""]
        flagged = f"{suite['flagged']} of {suite['rows']['evaluation']} evaluation rows"
        out += [f"{flagged} overlap with what builds saw (leakage={suite['mode']}).", ""]
        out += (
            grid(["Evaluation rows against", "Same text", "Same group", "Alike"], counted) if suite["flagged"] else []
        )
        if suite["cells"]:
            out += grid(
                ["Cell", "All rows", "Without the flagged", "Rows", "Rows left"],
                ([c["name"], c["all"], c["without"], c["n"], c["left"]] for c in suite["cells"]),
            )
    return out


def plain_markdown(value: Any) -> str:
    """Text that stays text inside a Markdown table."""
    flat = " ".join(visible(value).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", flat) if flat != "---" else flat


def write(run: Path) -> Path:
    """Draws `report.html` and `report.md` in the run folder; returns the path of the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(resource("reports")), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda v: visible(v) if type(v) is str else v,
    )  # fmt: skip
    page = view(read(run))
    target = run / "report.html"
    ledger.write_text(target, templates.get_template("decision.html.j2").render(page))
    ledger.write_text(run / "report.md", markdown(page))
    return target


def three_lines(run: Path) -> list[str]:
    """The decision for a terminal."""
    return [visible(s) for s in verdict(read(run))[1]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.report",
        description="Draw a run's report again from its records; nothing is measured.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as outputs/support_tone/2025-11-23")
    run = parser.parse_args(arguments).run
    try:
        page = write(run)
        print("\n".join([*three_lines(run), str(page)]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
