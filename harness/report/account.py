"""What the choice costs, how sure it is and what would change it, for those who argue with it."""

from __future__ import annotations

from math import isfinite
from typing import Any

from harness.decide import COST, GOODPUT, Decision, basis_of, batched, break_even, goodput, timed, weights_of
from harness.report import charts
from harness.report.drawing import Drawing
from harness.report.serving import level_text
from harness.report.text import NONE
from harness.runs import Run
from harness.wording import against, number, share

KNOBS = {
    "volume_requests": "Volume", "usd_per_hour": "Price of an hour", "min_quality": "Quality floor",
    "max_p95_e2e_ms": "p95 limit", "max_memory_bytes": "Memory limit", "margin": "Margin",
}  # fmt: skip
CUT = 0.05  # share of answers cut off from which on their length is not taken for another model's


def account(run: Run, decision: Decision | None) -> dict[str, Any]:
    """Odds by cell, what would change the choice, the ladder, and what hosted prices are for, as text; empty before a
    decision."""
    if decision is None:
        return {"odds": [], "flips": [], "ladder": [], "notes": [], "asked": ""}
    knobs = KNOBS | ({"max_p95_e2e_ms": f"p95 limit, {answer}"} if (answer := timed(run.ok)) else {})
    order = sorted(decision.odds.items(), key=lambda kv: (-kv[1].best, -kv[1].feasible, run.names.get(kv[0], kv[0])))
    return {
        "odds": [
            {"name": run.names[i], "feasible": share(o.feasible), "front": share(o.front), "best": share(o.best),
             "chosen": i == decision.chosen}
            for i, o in order[:charts.DRAWN]
        ],
        "flips": [
            {"knob": knobs.get(f.knob, f.knob), "now": NONE if f.now is None else _now(f.now, unit),
             "at": f.told, "side": f.side,
             "to": run.names.get(f.to, f.to) if f.to else "no cell", "sentence": f.sentence}
            for f in decision.flips for unit in ["points" if f.knob == "margin" else f.unit]
        ],
        "ladder": list(decision.ladder), "notes": list(decision.notes), "asked": _asked(run, decision),
    }  # fmt: skip


def limits(run: Run) -> str:
    """The limits that the policy sets, in words, each as it was set; no service level that nothing was measured at."""
    rule = run.policy
    answer = f" of a {answer}" if (answer := timed(run.ok)) else ""
    found = [
        f"{what} {against(value, value, unit)[1]}"
        for what, value, unit in (
            ("quality at least", rule.min_quality, "share"),
            (f"p95 response time{answer} at most", rule.max_p95_e2e_ms, "ms"),
            ("peak memory at most", rule.max_memory_bytes, "bytes"),
            ("valid outputs at least", rule.min_valid, "share"),
        )
        if value is not None and isfinite(value)
    ]
    judged = weights_of(grid := list(run.records.values()), rule)
    rates = {goodput(r, rule.service_level) for r in run.ok if r.suite in judged}
    if rule.service_level and (run.pending or rates - {None}):
        found.append(f"some rate at which {level_text(rule.service_level)}")
    elif rule.objective == COST and basis_of(grid, rule) == GOODPUT:
        found.append("some rate that holds the service level it was measured at")
    return "; ".join(found)


def _asked(run: Run, decision: Decision) -> str:
    """Which requests hosted prices are for."""
    line = decision.costs.get(decision.asked or "")
    if not decision.hosted or line is None or line.prompt_tokens is None or line.output_tokens is None:
        return ""
    cut, rows = run.records[decision.asked or ""].value("truncated_share"), batched(run.ok)
    limit = "of the answers were cut off at the limit, and another model's may be shorter"
    short = f"; {share(cut.value)} {limit}" if cut and cut.value >= CUT else ""
    ours = f" Cells are priced by batches of {rows}; a fuller one is cheaper."
    return (
        f"For requests like those of {run.names[decision.asked or '']} ({line.prompt_tokens:,.0f} tokens in and "
        f"{line.output_tokens:,.0f} out on average, by this model's tokenizer"
        f"{short}). The quality of the hosted models was not measured.{ours if rows and line.basis != GOODPUT else ''}"
    )


def _now(value: float, unit: str) -> str:
    if unit == "points":
        return f"{100 * value:g} points"
    return f"{value:,.0f} {unit}".strip() if unit in ("requests", "") else number(value, unit)


def cost_chart(run: Run, decision: Decision | None) -> Drawing | None:
    """Cost over volume of the chosen cell, those named beside it, and the cheapest of each adaptation; of as many as
    have room where none is chosen."""
    if decision is None or not decision.costs:
        return None
    volume = run.policy.volume_requests or next(
        (v for r in run.records.values() if (v := (r.config.get("price") or {}).get("volume_requests"))), 0
    )
    adaptations = dict.fromkeys(r.adaptation for r in run.ok)
    cheapest = [
        min((i for i in decision.costs if run.records[i].adaptation == a),
            key=lambda i: decision.costs[i].usd_per_1000(float(volume or 1)), default=None)
        for a in adaptations
    ]  # fmt: skip
    first = [i for i in (decision.chosen, decision.best, decision.reference, *cheapest) if i in decision.costs]
    rest = sorted(decision.costs, key=lambda i: -(m.value if (m := run.quality(run.records[i])) else 0.0))
    ids = list(dict.fromkeys([*[i for i in first if i], *rest]))[: charts.DRAWN]
    drawn = (list(dict.fromkeys(i for i in first if i)) if decision.chosen else ids)[: charts.LINES]
    mine = decision.costs.get(decision.chosen or "")
    even = [(v, i) for i in drawn if mine and (v := break_even(mine, c := decision.costs[i]) or break_even(c, mine))]
    return charts.costs(
        {run.names[i]: decision.costs[i] for i in ids}, len(drawn),
        [(h.name, h.usd_per_1000) for h in decision.hosted], float(volume), sorted(even),
    )  # fmt: skip
