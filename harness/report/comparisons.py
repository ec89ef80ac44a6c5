"""Cells against each other on the same rows: what was gained, what quantization took, seeds, learning curves."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from harness.decide import (
    Decision,
    Facts,
    compare,
    compare_seeds,
    compression,
    curve_of,
    interact,
    kin,
    parent_of,
    share_of,
    shared_scores,
    variant,
    weights_of,
)
from harness.report import charts
from harness.report.drawing import Drawing
from harness.report.text import NONE, p_text, told, told_points
from harness.rows import ids, texts
from harness.runs import Run
from harness.statistics import Paired, holm, over_seeds, paired_over_seeds
from harness.types import Measurement, RunRecord
from harness.wording import number, points

DIFFERS = "a difference: distrust this run"  # of an A/A control


def differences(run: Run, shown: Collection[str]) -> dict[str, Any]:
    """Each of the cells shown against the reference on the same rows, corrected for all cells of the run: which are
    shown follows from their quality."""
    against = run.reference
    others = [r for r in run.ok if against and r.id != against.id and r.suite == against.suite and run.quality(r)]
    some = [r for r in others if r.id in shown]
    pairs = {r.id: pair for r in some if against and (pair := compare(r, against, run.rows, run.score(against)))}
    adjusted = holm({i: pair.p for i, pair in pairs.items()}, len(others))
    lines = []
    for i, pair in pairs.items():
        smallest = pair.smallest(len(others))
        lines.append(
            {
                "name": run.names[i], **told_points(pair),
                "p": p_text(pair.p), "holm": p_text(adjusted[i]), "significant": adjusted[i] < 0.05,
                "gained": pair.gained, "lost": pair.lost, "n": pair.n,
                "smallest": f"{100 * smallest:.0f}" if math.isfinite(smallest) else "none",
            }
        )  # fmt: skip
    return {
        "reference": run.names[against.id] if against else "", "score": run.score(against) if against else "",
        "passing": run.passing([against, *some]) if against else True, "rows": lines, "comparisons": len(others),
    }  # fmt: skip


def against_best(run: Run, decision: Decision | None, known: Facts | None, shown: Collection[str]) -> Drawing | None:
    """Each cell shown beside the reference, and its paired difference from the cell of highest quality, seeds together;
    None where no two cells answered the same rows, or less of what is judged is better. Of several suites judged the
    numbers are the decision's."""
    base, margin = run.reference, run.policy.margin
    top = run.records.get((decision.best if decision else None) or "")
    what = "the highest quality of those that could be chosen" if top else "the highest quality measured"
    if len(weights_of(list(run.records.values()), run.policy)) > 1:
        return _weighted(run, decision, known, what)
    if top is None:
        scored = [(m.value, r) for r in run.ok if (m := run.quality(r)) and m.better == "higher"]
        top = max(scored, key=lambda pair: pair[0], default=(0.0, None))[1]
    if base is None or top is None or base.suite != top.suite:
        return None
    name, lines = run.score(top), []
    kinds = _kinds(r for r in run.counted if r.suite == base.suite and run.quality(r))
    some = [cells for cells in kinds.values() if any(c.id in shown for c in cells)]
    home, best = (kinds.get(_kind(r), [r]) for r in (base, top))
    for cells in some:
        own = compare_seeds(cells, home, run.rows, name)
        from_best = compare_seeds(cells, best, run.rows, name) if own and cells is not best else None
        if own is None:
            continue
        pair = from_best[2] if from_best else None
        lines.append(
            {"name": run.names[cells[0].id], "score": own[0], "base": own[1], "delta": pair.delta if pair else None,
             "low": pair.low if pair else None, "high": pair.high if pair else None}
        )  # fmt: skip
    first, other = (run.names[cells[0].id] for cells in (home, best))
    drawing = charts.dumbbells(lines, first, other, margin, what) if len(lines) > 1 else None
    together = " Cells that differ in their seed alone are drawn together."
    return replace(drawing, note=drawing.note + together) if drawing and any(len(c) > 1 for c in some) else drawing


def _weighted(run: Run, decision: Decision | None, known: Facts | None, what: str) -> Drawing | None:
    """The same of several suites."""
    if decision is None or known is None or decision.best is None:
        return None
    pairs, names = known.pairs.get(decision.best, {}), run.names
    base = next((c for c in known.candidates if decision.reference in decision.judged[c.id]), None)
    if base is None or len(known.candidates) < 2:
        return None
    lines = [
        {"name": names[c.id], "score": c.quality, "base": base.quality,
         **{end: getattr(pairs.get(c.id), end, None) for end in ("delta", "low", "high")}}
        for c in known.candidates
    ]  # fmt: skip
    drawing = charts.dumbbells(lines, names[base.id], names[decision.best], run.policy.margin, what)
    told = " Scores are weighted means over the suites judged, under the name of the first cell."
    return replace(drawing, note=drawing.note + told) if drawing else None


def _kind(r: RunRecord) -> tuple[str, ...]:
    """All of a cell but its seed."""
    return r.model, r.suite, r.adaptation, r.quantization, variant(r)


def _kinds(cells: Iterable[RunRecord]) -> dict[tuple[str, ...], list[RunRecord]]:
    kinds: dict[tuple[str, ...], list[RunRecord]] = {}
    for r in cells:
        kinds.setdefault(_kind(r), []).append(r)
    return kinds


def quantized(run: Run, margin: float, shown: Collection[str]) -> dict[str, Any]:
    """Each quantized cell of those shown against its own adaptation unquantized: is it shown to be no worse by the
    margin (corrected for all of the run), what share of the outputs stayed the same, and how much of the adaptation's
    gain is gone. Nothing of cells judged by a score of which less is better, as no margin is of those."""
    ok = {(*kin(r), r.adaptation, *compression(r)): r for r in run.ok}
    against = run.reference
    pairs: dict[str, Paired] = {}
    taken: dict[str, Paired] = {}
    lines = []
    good = (r for r in run.ok if (m := run.quality(r)) and m.better == "higher")
    beside = [(r, parent) for r in good if (parent := parent_of(r, run.ok))]
    for r, parent in beside:
        if r.id not in shown:
            continue
        pair = compare(r, parent, run.rows, run.score(r))
        if pair is None:
            continue
        pairs[r.id] = pair
        line: dict[str, Any] = {
            "id": r.id, "name": run.names[r.id], **told_points(pair, -margin),
            "gained": pair.gained, "lost": pair.lost, "n": pair.n,
            "same": same_outputs(run, r, parent), "tokens": _tokens(r, parent), "taken": None,
        }  # fmt: skip
        if against and r.adaptation != against.adaptation:
            four = [
                ok.get((*kin(c), a, *compression(c))) for c in (r, parent) for a in (r.adaptation, against.adaptation)
            ]
            found = interact([c for c in four if c], run.rows, run.score(r))
            if found:
                taken[r.id] = found
                line["taken"] = told_points(found, 0.0)
        lines.append(line)
    adjusted = holm({i: pair.p_not_worse(margin) for i, pair in pairs.items()}, len(beside))
    worse = holm({i: 1 - pair.p_not_worse(margin) for i, pair in pairs.items()}, len(beside))
    clear = holm({i: found.p for i, found in taken.items()}, len(beside))
    for line in lines:
        i = line["id"]
        line["holm"] = p_text(adjusted[i])
        line["verdict"] = "shown" if adjusted[i] <= 0.025 else "shown to be worse" if worse[i] <= 0.025 else "open"
        if line["taken"]:
            line["taken"]["shown"] = clear[i] < 0.05
    base = against.adaptation if against else ""
    return {
        "rows": lines, "margin": f"{100 * margin:g}", "base": base, "taken": any(line["taken"] for line in lines),
        "comparisons": len(beside),
    }  # fmt: skip


def seeds(run: Run) -> dict[str, Any]:
    """Cells that differ in their training seed alone, together: mean and difference from the reference of the same
    suite and seed, with intervals for the luck of training and of rows at once."""
    kinds = _kinds(run.counted)
    against = run.reference
    base = (against.adaptation, against.quantization, variant(against)) if against else ()
    models, suites = (len(set(names)) > 1 for names in ([r.model for r in run.ok], [r.suite for r in run.ok]))
    first = 0 if models else 1 if suites else 2  # of a kind, what tells it from the others
    lines = []
    for kind, cells in kinds.items():
        if len(cells) < 2:
            continue
        name = run.score(cells[0])
        own, groups = shared_scores(cells, run.rows, name)
        if not groups:
            continue
        mean, around = over_seeds(own, groups)
        together = told(Measurement(name, mean, "share", "higher", len(groups), around))
        line = {
            "name": "/".join(filter(None, kind[first:])), "mean": together["text"], "n": len(groups),
            "interval": together["interval"],
            "each": ", ".join(f"{r.seed}: {number(sum(v) / len(v), 'share')}" for r, v in zip(cells, own, strict=True)),
            "delta": "", "low": "", "high": "",
        }  # fmt: skip
        home = (against.model, kind[1], *base) if against else kind
        others = kinds.get(home, []) if kind != home else []
        pairs = [(r, b) for r in cells for b in others if r.seed == b.seed]
        both, groups = shared_scores([c for pair in pairs for c in pair], run.rows, name)
        if len(pairs) > 1 and groups:
            pair = paired_over_seeds(both[::2], both[1::2], groups)
            line |= told_points(pair)
        lines.append(line)
    named = (against.model if models else "", *base) if against else ()
    return {"rows": lines, "reference": "/".join(filter(None, named))}


def control(run: Run) -> list[dict[str, str]]:
    """The A/A control: a cell evaluated twice, with the rows batched otherwise. Its difference should be nothing."""
    lines = []
    for r in run.side:
        twin = run.records.get(r.id.rpartition("/")[0])
        pair = compare(r, twin, run.rows, run.score(r)) if twin and r.id.endswith("/again") else None
        if pair and twin:
            lines.append(
                {
                    "name": run.names[twin.id], **told_points(pair),
                    "p": p_text(pair.p), "same": same_outputs(run, r, twin),
                    "verdict": "nothing, as it should be" if pair.p >= 0.05 else DIFFERS,
                }
            )  # fmt: skip
    return lines


def learning(run: Run, margin: float) -> list[dict[str, Any]]:
    """Learning curves: each trained adaptation on parts of its rows, and what the last part added."""
    made = []
    for r in run.ok:
        parts = curve_of(r, run.side)
        if not parts:
            continue
        lines = []
        before: RunRecord | None = None
        for cell in (*parts, r):
            m = run.quality(cell)
            pair = compare(cell, before, run.rows, run.score(r)) if before else None
            trained = (cell.steps.get("adapt", {}).get("facts") or {}).get("rows")
            lines.append(
                {
                    "share": number(share_of(cell), "share"), **told(m),
                    "rows": NONE if trained is None else f"{trained:,}",
                    **(told_points(pair, 0.0, margin) if pair else {"delta": "", "low": "", "high": ""}),
                }
            )  # fmt: skip
            last, before = pair, cell
        if last is None:
            continue
        last_part = f"the rows from {lines[-2]['share']} to {lines[-1]['share']}"
        if (judged := run.quality(r)) and judged.better == "lower":
            answer = f"Nothing is said of what more data would do: less of “{run.score(r)}” is better."
        elif last.low > 0:
            answer = f"More data would likely still help: {last_part} added a difference that was shown."
        elif last.high < margin:
            tried = any((c.model, c.suite, c.adaptation) == (r.model, r.suite, "full_ft") for c in run.ok)
            next_step = "better rows" if tried else "full fine-tuning, or better rows,"
            answer = (
                f"It has levelled off: {last_part} added less than the policy's margin. More of the same will not help "
                f"much; {next_step} may."
            )
        else:
            need = last.rows_for(margin) if margin else 0
            answer = f"Open: with {last.n} evaluation rows neither can be shown" + (
                f"; about {need:,} would." if need > last.n else "."
            )
        made.append({"name": run.names[r.id], "lines": lines, "answer": answer, "score": run.score(r)})
    return made


def same_outputs(run: Run, a: RunRecord, b: RunRecord) -> str:
    """The share of shared rows to which two cells gave the very same answer."""
    kept = [run.rows.get(r.id, ()) for r in (a, b)]
    left, right = (dict(zip(ids(rows), texts(rows, "output"), strict=True)) for rows in kept)
    shared = [i for i in left if i in right]
    if not shared:
        return NONE
    return number(sum(left[i] == right[i] for i in shared) / len(shared), "share")


def _tokens(r: RunRecord, parent: RunRecord) -> str:
    """Mean answer length against the parent's, since a shorter answer looks faster."""
    mine, whole = r.value("output_tokens/mean"), parent.value("output_tokens/mean")
    return f"{points(mine.value / whole.value - 1)}%" if mine and whole and whole.value else NONE
