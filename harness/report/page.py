"""Everything that the page shows, as plain values, and the page itself."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import decide, escaping, ledger
from harness.decide import Decision, Facts, Policy, ahead, as_counted, not_shares, timed
from harness.decide.recipes import called, recipes, weights_of
from harness.report import account, charts, machine
from harness.report.answers import PACKED_BYTES, changed, deflated, examples, packed
from harness.report.cells import all_cells, heatmaps, one_unit, scores
from harness.report.comparisons import against_best, control, differences, learning, quantized, seeds
from harness.report.doubts import doubts
from harness.report.evidence import caveats, configs, leakage, not_measured, proofs, steps, unbounded
from harness.report.markdown import markdown
from harness.report.numbers import COST, P95, QUALITY, TITLES, as_judged, counted, numbers, seeds_of
from harness.report.serving import adapters, rooms, under_load
from harness.report.text import NONE, interval, told, visible_json
from harness.resources import resource
from harness.runs import Run, model_name, read
from harness.types import Json, RunRecord, Status, plain
from harness.wording import number, points

SHOWN_CELLS = 60  # in the page's tables and drawings; of a larger grid the rest stands in the filtered table
SCRIPTS = ("choose.js", "wording.js", "page.js")


def verdict(run: Run) -> tuple[Decision | None, Facts | None, list[str]]:
    """The decision, the facts it rests on and its three sentences; before the last cell has ended, how far the run
    is."""
    if decided := run.decided():
        return *decided, list(decided[0].sentences)
    ended, bad = len(run.records), len(run.records) - len(run.ok)
    first = f"So far: {ended} of {len(run.ids)} cells have ended" + (
        f", {bad} of them without numbers." if bad else "."
    )
    weights = weights_of(list(run.records.values()), run.policy)
    scored = [(m, r) for r in run.ok if r.suite in weights and (m := run.quality(r))]
    second = "No quality has been measured yet."
    if less := [r for m, r in scored if m.better == "lower"]:  # which the decision will refuse
        second = f"No cell is named as the best so far: less of “{run.score(less[0])}” is better."
    elif refused := not_shares(run.ok, run.rows, run.policy, weights, run.names):
        second = f"No cell is named as the best so far: {refused[1]}"
    elif scored:
        m, r = max(scored, key=lambda pair: pair[0].value)
        second = (
            f"Highest quality so far: {run.names[r.id]} with {number(m.value, 'share')} ({interval(m)}) "
            f"{'of' if run.passing([r for _, r in scored]) else 'on'} {m.n} rows."
        )
    return None, None, [first, second, "A recommendation is made when all cells have ended."]


def headline(run: Run, decision: Decision | None, known: Facts | None) -> list[dict[str, str]]:
    """The four numbers of the chosen recipe beside those of the reference, as the decision counts them."""
    if decision is None or decision.chosen is None or decision.reference is None:
        return []
    grid = list(run.records.values())
    weights = weights_of(grid, run.policy)
    of = {r.id: kind for kind in recipes(grid, weights) for r in kind.cells}
    mine, base = of[decision.chosen], of[decision.reference]
    own, others = (numbers(kind, weights, run.rows, run.policy, known) for kind in (mine, base))
    judged = _joined(f"“{run.score(r)}”" for r in seeds_of(mine, weights))
    added, answer, cards = counted(mine, weights), timed(seeds_of(mine, weights)), []
    for title in TITLES:
        a, b = own[title], others[title]
        if a is None:
            continue
        change = ""
        if b is not None and base is not mine:
            ratio = f"{100 * (a.value / b.value - 1):+.0f}%".replace("-", "−") if b.value else NONE
            change = f"{points(a.value - b.value)} points" if a.unit == "share" else ratio
            if known and not _told_apart(mine.id, base.id, title, known, run.policy):
                change += ", not told apart,"
        name = f"{title} by {judged}" if title == QUALITY else title
        name += f" of a {answer}" if title == P95 and answer else ""
        cards.append(
            {"title": name + added.get(title, ""), **told(a), "base": told(b)["text"] if b else "", "change": change}
        )
    return cards


def _told_apart(a: str, b: str, title: str, known: Facts, rule: Policy) -> bool:
    """Whether timings tell the numbers of two recipes under a title apart, as the decision would by that objective. Of
    others, and of recipes that were not judged, there is nothing to say."""
    objective = {P95: decide.P95, COST: decide.COST}.get(title)
    judged = {c.id: c for c in known.candidates}
    if objective is None or a not in judged or b not in judged:
        return True
    by_it, x, y = replace(rule, objective=objective), judged[a], judged[b]
    return ahead(x, y, known, by_it) or ahead(y, x, known, by_it)


def thinned(run: Run, decision: Decision | None) -> Run:
    """The cells that tables and drawings show of a large grid: what the decision names, then the cells of highest
    quality, in the grid's order. A grid of up to `SHOWN_CELLS` stays whole."""
    if len(run.ids) <= SHOWN_CELLS:
        return run
    named = [decision.chosen, decision.best, decision.reference, *decision.group] if decision else []

    def rank(r: RunRecord) -> float:
        m = run.quality(r)
        return math.inf if m is None else m.value if m.better == "lower" else -m.value

    ranked = sorted(run.ok, key=rank)
    first = dict.fromkeys([*(i for i in named if i), *(r.id for r in ranked), *run.ids])
    kept = set(list(first)[:SHOWN_CELLS])
    ids = tuple(i for i in run.ids if i in kept)
    return replace(run, ids=ids, records={i: run.records[i] for i in ids if i in run.records})


def view(run: Run) -> dict[str, Any]:
    """Everything that the page shows, as plain values."""
    decision, known, sentences = verdict(run)
    rule, limits = run.policy, account.limits(run)
    run = replace(run, records=one_unit(as_counted(run.records, rule)))  # what is shown, and nothing is decided on
    first, grid = next(iter(run.records.values()), None), list(run.records.values())
    judged = list(weights_of(grid, rule))
    title = f"{_joined(judged or [first.suite])} on {_joined(map(model_name, grid))}" if first else run.folder.name
    some, ways = thinned(run, decision), replace(run, names=called(grid, rule, run.names))
    table, flips, controls = all_cells(run), changed(run, decision), control(run)
    return {
        "title": title, "run": f"{run.folder.parent.name}/{run.folder.name}",
        "sentences": [*sentences, *doubts(run, decision, known, controls)],
        "pending": len(run.pending), "counts": {str(k): v for k, v in ledger.done(list(run.records.values())).items()},
        "total": len(run.ids), "shown": len(some.ids), "profile": first.profile if first else "", "decision": decision,
        "recommended": run.recommended(decision), "policy": rule, "timed": timed(run.ok), "limits": limits,
        "names": run.names, "called": ways.names, "headline": headline(run, decision, known),
        "reference": ways.names[decision.reference] + (" and its likes" if len(judged) > 1 else "")
        if decision and decision.reference else "",
        "heatmaps": heatmaps(some, decision), "scatter": charts.scatter(as_judged(run, known), decision, len(judged)),
        "dumbbells": against_best(ways, decision, known, some.ids), "costs": account.cost_chart(ways, decision),
        "account": account.account(ways, decision), "all_cells": table, "unbounded": unbounded(run),
        "first_cells": [row for row in table["rows"] if row["id"] in some.ids],
        "load": under_load(some), "rooms": rooms(some), "adapters": adapters(some),
        "scores": scores(some), "differences": differences(run, some.ids), "proofs": proofs(some),
        "quantized": quantized(run, rule.margin, some.ids), "leakage": leakage(some), "seeds": seeds(run),
        "control": controls, "learning": learning(run, rule.margin),
        "curves": charts.losses(some), "flips": flips, "examples": examples(some, decision),
        "not_measured": not_measured(run),
        "ended_badly": [r for r in grid if r.status is not Status.OK], "steps": steps(some),
        "table": machine.table(run), "caveats": caveats(run), "environment": dict(first.environment) if first else {},
        "config": configs(run), "primary": run.score(first) if first else "",
        "choosing": choosing(run, rule, known), "tried": bool(known and any(c.quality for c in known.candidates)),
        "packed": packed(
            some, [r.id for r in some.ok], [row["id"] for row in flips["rows"]] if flips else (),
            PACKED_BYTES if some is run else PACKED_BYTES // 4,  # facts and tables of a large grid need the room
        ),
    }  # fmt: skip


def choosing(run: Run, rule: Policy, found: Facts | None) -> Mapping[str, Any] | None:
    """What the page's script chooses with, as plain data: the facts and the policy that `harness.decide.choose` gets,
    and the price of an hour; None before a decision, and where no cell has the numbers that a choice needs.
    `reports/choose.js` writes that rule a second time; a browser test holds the two equal."""
    if found is None or not found.candidates:
        return None
    prices = [r.config.get("price") or {} for r in run.records.values()]
    hourly = next((p["usd_per_hour"] for p in prices if p.get("usd_per_hour")), None)
    return {"facts": plain(found), "policy": plain(rule), "usd_per_hour": hourly}


def _joined(names: Iterable[str]) -> str:
    """Names in a row of words, each once."""
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last}" if others else last


def embedded(page: Mapping[str, Any]) -> dict[str, Json]:
    """What the page's script reads: facts to choose with, cells that no table shows, and packed outputs."""
    ids = {row["id"] for row in page["first_cells"]}
    rest = [
        [row["name"], row["state"], [[v["text"], v["interval"], v["value"]] for v in row["values"]]]
        for row in page["all_cells"]["rows"]
        if row["id"] not in ids
    ]
    return {
        "called": {i: name for i, name in page["called"].items() if name != page["names"][i]},
        "choosing": page["choosing"], "carried": bool(page["decision"] and page["decision"].chosen),
        "names": page["names"], "more_cells": rest, "packed": page["packed"],
    }  # fmt: skip


def script_json(value: Json) -> str:
    """JSON for a script element, deflated (1,000 cells: 1.7 MB to 0.2) and in base64: it stays text whatever it
    holds."""
    text = json.dumps(visible_json(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return json.dumps({"deflate": deflated([text.encode()])[0]})


def policy_hash(text: str) -> str:
    """The source of a Content Security Policy that lets exactly this inline text take effect."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def html(page: Mapping[str, Any]) -> str:
    """The page. Styles and script stand in it as they are in `reports/`, and nothing else may run or load."""
    from markupsafe import Markup

    folder = resource("reports")
    style = (folder / "style.css").read_text(encoding="utf-8")
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    inline = {
        "style": Markup(style), "script": Markup(script), "style_hash": policy_hash(style),
        "script_hash": policy_hash(script), "data": Markup(script_json(embedded(page))), "svg": Markup,
        "number": number,
    }  # fmt: skip
    return escaping.page("decision.html.j2", {**page, **inline})


def write(run: Path) -> tuple[Path, list[str]]:
    """Draws `report.html`, `report.md`, `report.json` and `report.csv` in the run folder; returns the page's path, and
    its sentences for a terminal."""
    page = view(read(run))
    target = run / "report.html"
    ledger.write_text(target, html(page))
    ledger.write_text(run / "report.md", markdown(page))
    ledger.write_text(run / "report.json", machine.as_json(page))
    ledger.write_text(run / "report.csv", machine.as_csv(page))
    return target, [escaping.visible(s) for s in page["sentences"]]
