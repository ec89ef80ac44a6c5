"""Runs against each other in words: the page, its short form, and what a terminal is told (`harness.compare`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import escaping, ledger
from harness.compare import (
    COST,
    RATE,
    SAME,
    SPEED,
    TIMES,
    TOLD,
    Change,
    changes,
    comparable,
    pace_of,
)
from harness.decide import primary, timed
from harness.errors import UserError
from harness.escaping import markdown_table, markdown_text, visible
from harness.report.evidence import noisy
from harness.report.text import NONE, p_text, shorten
from harness.runs import Row, Run, state
from harness.types import StepKind
from harness.wording import first, in_points, labels, number, plural, points, significant

SHOWN_FLIPS = 5  # of each cell; the rest stands in rows/
TOLD_LINES = 10  # differences, and cells, that a terminal is told of; the page has all
LEFT_OUT = {
    SPEED: "response times, throughput, memory and cost are left out", COST: "cost is left out",
    RATE: "goodput is left out",
}  # fmt: skip


def about_ratios(pace: float) -> str:
    """What the intervals of times count."""
    return (
        "Intervals of times are of 95%, by the bootstrap of prompts, the same of both runs where both asked as many. "
        f"They count that with nothing changed a whole run may take {pace:.3g} times as long as another "
        "(policy.pace, or as cells that do the same work did), or as much as rounds of one run were apart; where a "
        "machine moves further between runs, they are too narrow."
    )


def _recommends(run: Run, names: Mapping[str, str]) -> str:
    if not (decided := run.decided()):
        return "not all cells have ended."
    decision, _ = decided
    why = decision.sentences[0]
    return f"recommends {names[decision.chosen]}" if decision.chosen else why[:1].lower() + why[1:]


def _twice(made: Sequence[Change]) -> list[Change]:
    """The changes whose rows were measured twice, which are corrected for one another."""
    return [c for c in made if c.pair and c.verdict != SAME]


def summary(made: Sequence[Change], scores: str) -> str:
    """What was found by these scores, in a sentence or two."""
    once = sum(c.verdict == SAME for c in made)
    told = _twice(made)
    taken = f"In {plural(once, 'cell')} quality is the same measurement in both runs, taken from the store."
    if not told:
        return taken if once else "No cell has scored rows in both runs, so quality was not compared."
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
        f"better, {count['not told apart']} not told apart. {last}" + (f" {taken}" if once else "")
    )


def view(runs: Sequence[Run], anyway: bool = False) -> dict[str, Any]:
    """Everything that the page shows, as plain values. Raises `UserError` for runs that cannot be compared."""
    found = comparable(runs, anyway)
    made = changes(runs, found)
    ids = list(dict.fromkeys(i for run in runs for i in run.records))
    names = labels(ids)
    first = runs[0]
    scores = " and ".join(dict.fromkeys(f"“{primary(first.records[c.first], first.policy)}”" for c in made))
    paired = {i for c in made if c.cell != c.first for i in (c.cell, c.first)}
    others = (i for i in ids if i not in paired)
    states = [{"name": names[i], "states": [state(r, i) if i in r.ids else "absent" for r in runs]} for i in others]
    return {
        "runs": [{"name": r.name, "folder": str(r.folder), "told": _recommends(r, names)} for r in runs],
        "first": first.name, "scores": scores, "summary": summary(made, scores),
        "changes": [_shown(c, names, timed(first.ok) or "answer") for c in made],
        "left_out": sorted({f"{d.text}: {LEFT_OUT[d.effect]}" for d in found if d.effect in LEFT_OUT}),
        "told": [d.text for d in found if d.effect == TOLD], "disturbed": _disturbed(runs, made, names),
        "states": [s for s in states if len(set(s["states"])) > 1], "cells": plural(len(ids), "cell"),
        "one": any(c.cell != c.first for c in made), "compared": len(_twice(made)),
        "about_ratios": about_ratios(pace_of(runs)),
    }  # fmt: skip


def _disturbed(runs: Sequence[Run], made: Sequence[Change], names: Mapping[str, str]) -> list[str]:
    """A line for each run whose times are compared though it was disturbed."""
    first, *others = runs
    taken = [c for c in made if c.ratios and StepKind.LATENCY not in c.same]
    timed = {run.name: [c.cell for c in taken if c.run == run.name] for run in others}
    timed[first.name] = [c.first for c in taken]
    return [
        f"times of {run.name} were taken beside other work, or on a machine that did not hold still, so their ratios "
        f"are not the method's alone: {'; '.join(told)}"
        for run in runs
        if (told := noisy((r for r in run.ok if r.id in timed[run.name]), names))
    ]


def _shown(c: Change, names: Mapping[str, str], answer: str) -> dict[str, Any]:
    """A change as tables show it; times are of such an answer."""
    pair, known = c.pair, c.pair if c.verdict != SAME else None
    delta, low, high = in_points(pair.delta, pair.low, pair.high, 0.0) if pair else (NONE, NONE, NONE)
    return {
        "name": names[c.cell] + (f" against {names[c.first]}" if c.cell != c.first else ""), "run": c.run,
        "verdict": c.verdict, "prompts": c.prompts,
        "delta": delta, "interval": f"{low} to {high}" if known else NONE,
        "p": p_text(known.p) if known else NONE, "holm": p_text(c.p_holm) if known else NONE,
        "gained": pair.gained if pair else 0, "lost": pair.lost if pair else 0,
        "n": pair.n if pair else 0, "flips": [_flip(*f) for f in c.flips[:SHOWN_FLIPS]],
        "more": max(0, len(c.flips) - SHOWN_FLIPS),
        "ratios": [
            {"title": title.replace("Whole answer", f"Whole {answer}"), "ratio": f"{significant(ratio)}×",
             "was": number(was.value, was.unit), "now": number(now.value, now.unit),
             "interval": SAME if title in TIMES and StepKind.LATENCY in c.same
             else f"{significant(i.low)} to {significant(i.high)}" if i else NONE}
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
    """The short form, for a pull request."""
    out = [f"# {' against '.join(markdown_text(r['name']) for r in reversed(page['runs']))}", ""]
    out += [markdown_text(page["summary"]), ""]
    out += [f"- {markdown_text(r['name'])}: {markdown_text(r['told'])}" for r in page["runs"]]
    out += ["", *(f"- {markdown_text(d)}" for d in [*page["left_out"], *page["disturbed"]])]
    out += [*(f"- differs: {markdown_text(d)}" for d in page["told"]), ""]
    if any(c["n"] for c in page["changes"]):
        out += markdown_table(
            ["Cell", "Run", page["scores"], "95% interval", "p (Holm)", "Gained", "Lost", "Rows", "Verdict"],
            ([c["name"], c["run"], c["delta"], c["interval"], c["holm"], c["gained"], c["lost"], c["n"], c["verdict"]]
             for c in page["changes"]),
        )  # fmt: skip
    if any(c["ratios"] for c in page["changes"]):
        out += markdown_table(
            ["Cell", "Run", "Measure", "Then", "Now", "Ratio", "95% interval"],
            ([c["name"], c["run"], r["title"], r["was"], r["now"], r["ratio"], r["interval"]]
             for c in page["changes"] for r in c["ratios"]),
        )  # fmt: skip
        out += [page["about_ratios"], ""]
    if page["states"]:
        out += markdown_table(
            ["Cell", *(r["name"] for r in page["runs"])], ([s["name"], *s["states"]] for s in page["states"])
        )
    return "\n".join(out)


def lines(page: Mapping[str, Any]) -> list[str]:
    """What a terminal is told: what was found, what each run recommends, what differs, and each cell that is shown to
    be better or worse, or the one that there is. Safe to print."""
    out = [page["summary"], *(f"{r['name']}: {r['told']}" for r in page["runs"])]
    differ = [f"differs: {d}" for d in page["told"]]
    out += page["left_out"] + page["disturbed"] + first(TOLD_LINES, differ, " differences, in the page")
    shown = [
        c for c in page["changes"]
        if c["verdict"] in ("better", "worse") or (len(page["changes"]) == 1 and c["verdict"] != SAME)
    ]  # fmt: skip
    out += first(
        TOLD_LINES,
        [f"{c['name']} in {c['run']}: {c['verdict']}, {c['delta']} points, 95% interval {c['interval']}"
         for c in shown if c["n"]], " cells, in the page",
    )  # fmt: skip
    return [visible(line) for line in out]


def write(page: Mapping[str, Any], target: Path) -> None:
    """Draws the page, and beside it the short form. Raises `UserError` where a short form stands there without a page:
    it is of somebody else's making."""
    short = target.with_suffix(".md")
    if os.path.exists(short) and not os.path.exists(target):
        raise UserError(f"{short}: would be overwritten, and {target} is not there; give another --to, or move it away")
    ledger.write_text(target, escaping.page("compare.html.j2", page))
    ledger.write_text(short, markdown(page))
