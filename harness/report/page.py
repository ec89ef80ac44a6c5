"""Everything that the page shows, as plain values, and the page itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import ledger
from harness.decide import Decision, decide, memory, primary, quality, read_policy
from harness.report.answers import examples
from harness.report.cells import all_cells, heatmaps, scores
from harness.report.charts import curves, scatter
from harness.report.comparisons import control, differences, learning, quantized, seeds
from harness.report.evidence import caveats, configs, leakage, not_measured, proofs, steps
from harness.report.markdown import markdown
from harness.report.run import Run, read
from harness.report.serving import adapters, rooms, under_load
from harness.report.text import NONE, interval, told, visible
from harness.resources import resource
from harness.types import Status
from harness.wording import number, points


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
