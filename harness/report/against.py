"""Runs against each other in words: the page and the short form of a comparison (`harness.compare`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import escaping, ledger
from harness.compare import COST, QUALITY, SPEED, TOLD, Change, Row, Run, changes, comparable, recommendation
from harness.decide import primary, timed
from harness.escaping import markdown_text
from harness.report.evidence import noisy
from harness.report.markdown import table
from harness.report.text import p_text, shorten
from harness.wording import labels, number, plural, points, significant

SHOWN_FLIPS = 5  # of each cell; the rest stands in rows/
LEFT_OUT = {
    SPEED: "response times, throughput, memory and cost are left out", COST: "cost is left out",
    QUALITY: "quality and answer length are left out",
}  # fmt: skip


def _state(run: Run, cell: str) -> str:
    return str(run.records[cell].status) if cell in run.records else "pending" if cell in run.pending else "absent"


def summary(made: Sequence[Change], scores: str) -> str:
    """What was found by these scores, in a sentence or two."""
    told = [c for c in made if c.pair]
    if not told:
        return "No cell has scored rows in both runs, so quality was not compared."
    count = {v: sum(c.verdict == v for c in told) for v in ("worse", "better", "not told apart")}
    blind = [c.pair.smallest(len(told)) for c in told if c.pair]
    seen = [b for b in blind if b < 1]
    least = f"would likely show differences of {points(max(seen)).lstrip('+')} points or more" if seen else ""
    if len(seen) == len(blind):
        last = f"These rows {least}."
    elif seen:
        last = f"The rows of {len(blind) - len(seen)} are too few to show any difference; those of the others {least}."
    else:
        last = "These rows are too few to show any difference."
    return (
        f"Of {plural(len(told), 'comparison')} of {scores}, {count['worse']} shown to be worse, {count['better']} "
        f"better, {count['not told apart']} not told apart. {last}"
    )


def view(runs: Sequence[Run], anyway: bool = False) -> dict[str, Any]:
    """Everything that the page shows, as plain values. Raises `UserError` for runs that cannot be compared."""
    found = comparable(runs, anyway)
    made = changes(runs, found)
    ids = list(dict.fromkeys(i for run in runs for i in run.records))
    names = labels(ids)
    first = runs[0]
    scores = " and ".join(dict.fromkeys(f"“{primary(first.ok[c.cell], first.policy)}”" for c in made))
    states = [{"name": names[i], "states": [_state(run, i) for run in runs]} for i in ids]
    told = [recommendation(r.records, r.rows, r.pending) for r in runs]
    return {
        "runs": [
            {"name": r.name, "folder": str(r.folder), "recommends": names[chosen] if chosen else why}
            for r, (chosen, why) in zip(runs, told, strict=True)
        ],
        "first": first.name, "scores": scores, "summary": summary(made, scores),
        "changes": [_told(c, names, timed(first.ok.values()) or "answer") for c in made],
        "left_out": sorted({f"{d.told}: {LEFT_OUT[d.effect]}" for d in found if d.effect in LEFT_OUT}),
        "told": [*_disturbed(runs, made, names), *(d.told for d in found if d.effect == TOLD)],
        "states": [s for s in states if len(set(s["states"])) > 1], "cells": len(ids),
        "shown_flips": SHOWN_FLIPS,
    }  # fmt: skip


def _disturbed(runs: Sequence[Run], made: Sequence[Change], names: Mapping[str, str]) -> list[str]:
    """A line for each run whose times are compared though it was disturbed."""
    first, *others = runs
    timed = {run.name: [c.cell for c in made if c.run == run.name and c.ratios] for run in others}
    timed[first.name] = [i for cells in timed.values() for i in cells]
    return [
        f"times of {run.name} were taken beside other work, or on a machine that did not hold still, so their ratios "
        f"are not the method's alone: {'; '.join(told)}"
        for run in runs
        if (told := noisy((r for i, r in run.ok.items() if i in timed[run.name]), names))
    ]


def _told(c: Change, names: Mapping[str, str], answer: str) -> dict[str, Any]:
    """A change as tables show it; times are of such an answer."""
    pair = c.pair
    return {
        "name": names[c.cell], "run": c.run, "verdict": c.verdict, "prompts": c.prompts,
        "delta": points(pair.delta) if pair else "–", "low": points(pair.low) if pair else "–",
        "high": points(pair.high) if pair else "–", "p": p_text(pair.p) if pair else "–",
        "holm": p_text(c.p_holm) if pair else "–",
        "gained": pair.gained if pair else 0, "lost": pair.lost if pair else 0,
        "n": pair.n if pair else 0, "flips": [_flip(*f) for f in c.flips[:SHOWN_FLIPS]],
        "more": max(0, len(c.flips) - SHOWN_FLIPS),
        "ratios": [
            {"title": title.replace("Whole answer", f"Whole {answer}"), "ratio": f"{significant(ratio)}×",
             "was": number(was.value, was.unit), "now": number(now.value, now.unit),
             "interval": f"{significant(i.low)} to {significant(i.high)}" if i else "–"}
            for title, was, now, ratio, i in c.ratios
        ],
    }  # fmt: skip


def _flip(was: Row, now: Row, gained: float) -> dict[str, Any]:
    """A row whose score changed."""
    return {
        "id": str(was["id"]), "what": "lost" if gained < 0 else "gained", "was": shorten(was["output"]),
        "now": shorten(now["output"]), "message": shorten(was.get("message") or was["prompt"], True),
    }  # fmt: skip


def markdown(page: Mapping[str, Any]) -> str:
    """The short form, for a terminal or a pull request."""
    out = [f"# {' against '.join(markdown_text(r['name']) for r in reversed(page['runs']))}", ""]
    out += [markdown_text(page["summary"]), ""]
    out += [f"- {markdown_text(r['name'])} recommends: {markdown_text(r['recommends'])}" for r in page["runs"]]
    out += ["", *(f"- {markdown_text(d)}" for d in page["left_out"])]
    out += [*(f"- differs: {markdown_text(d)}" for d in page["told"]), ""]
    if any(c["n"] for c in page["changes"]):
        out += table(
            ["Cell", "Run", page["scores"], "95% interval", "p (Holm)", "Gained", "Lost", "Rows", "Verdict"],
            ([c["name"], c["run"], c["delta"], f"{c['low']} to {c['high']}", c["holm"], c["gained"], c["lost"], c["n"],
              c["verdict"]] for c in page["changes"]),
        )  # fmt: skip
    if any(c["ratios"] for c in page["changes"]):
        out += table(
            ["Cell", "Run", "Measure", "Then", "Now", "Ratio", "95% interval"],
            ([c["name"], c["run"], r["title"], r["was"], r["now"], r["ratio"], r["interval"]]
             for c in page["changes"] for r in c["ratios"]),
        )  # fmt: skip
    if page["states"]:
        out += table(["Cell", *(r["name"] for r in page["runs"])], ([s["name"], *s["states"]] for s in page["states"]))
    return "\n".join(out)


def write(page: Mapping[str, Any], target: Path) -> None:
    """Draws the page."""
    ledger.write_text(target, escaping.page("compare.html.j2", page))
