"""The decision of one run: a pure function of records, rows and a policy.

`facts` gathers what counts, `judge` applies the rule, and this module says in sentences what came of it, how sure that
is, what it costs and what would change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.decide.case import Case, near, pace_by, paced
from harness.decide.cells import Rows, quality
from harness.decide.costs import GOODPUT, goodput, hosted_lines
from harness.decide.evidence import alone, commonest, no_choice, no_skill, not_carried, not_shares, too_few_rows
from harness.decide.facts import Facts, gathered, measured
from harness.decide.findings import CostLine, Decision, Odds
from harness.decide.flips import flips
from harness.decide.ladder import TRY, ladder
from harness.decide.odds import odds
from harness.decide.policy import COST, OBJECTIVES, QUALITY, Policy, read_policy
from harness.decide.reasons import out
from harness.decide.reasons import reasons as reasons_of
from harness.decide.recipes import NO_RATE, Recipe, basis_of, beside, called, recipes, reference, weights_of
from harness.decide.rule import judge, pace_of
from harness.decide.sentences import batched, fullest, runner_up, sure, timed, what
from harness.decide.sentences import why as why_of
from harness.decide.tables import Scores
from harness.types import Json, RunRecord, Status, is_side
from harness.wording import labels, share

NAMED = 10  # cells of a note
COMMON = 0.1  # share of rows from which on their commonest reply is told


def decide(records: Sequence[RunRecord], rows: Rows, policy: Mapping[str, Json]) -> Decision:
    """The decision of one run. `records` may hold cells that stand beside the grid (learning curves), which are never
    chosen. Raises `UserError` for a policy that cannot be read."""
    return argued(records, rows, read_policy(policy))[0]


def argued(records: Sequence[RunRecord], rows: Rows, rule: Policy) -> tuple[Decision, Facts]:
    """The decision, and the facts that it rests on: who lets a reader choose again needs both."""
    grid = sorted((r for r in records if not is_side(r.id)), key=lambda r: r.id)
    refused = not_shares(grid, rows, rule, weights_of(grid, rule), labels(r.id for r in grid))
    evidence = gathered(() if refused else grid, rows, rule)
    return _decision(records, grid, rows, rule, evidence, refused), evidence[0]


def _decision(
    records: Sequence[RunRecord], grid: Sequence[RunRecord], rows: Rows, rule: Policy,
    evidence: tuple[Facts, tuple[Recipe, ...], Mapping[str, Scores]], refused: tuple[str, str, str] | None,
) -> Decision:  # fmt: skip
    known, judged, tables = evidence
    weights, basis = weights_of(grid, rule), basis_of(grid, rule)
    cells, each, kinds = {r.id: r for r in grid}, labels(r.id for r in grid), recipes(grid, weights)
    names = called(grid, rule, each)
    found = judge(known, rule)
    against = reference(grid, rule)
    costs = {c.id: c.cost for c in known.candidates if c.cost}
    asked = next((i for i in costs if cells[i].adaptation == "prompt_rag"), None)
    base = Decision(
        None, ("", "", ""), {}, rule.margin, against.id if against else None, costs=costs,
        hosted=hosted_lines([r for r in grid if r.suite in weights], costs.get(asked or ""), costs), asked=asked,
        judged={k.id: tuple(r.id for r in k.cells) for k in kinds},
        notes=_cost_notes(grid, rule, weights, basis, known, costs, asked, each)
        + _notes(grid, rule, weights, rows, each),
    )  # fmt: skip
    reasons, able = out(kinds, known, rule, list(weights), basis), measured(grid, rule)
    case = Case(rule, known, found, cells, names, tables, able)
    none = refused or no_choice(grid, case)
    if said := none or too_few_rows(case):
        why = {k.id: reasons.get(k.id) or "Not judged: there is no decision." for k in kinds}
        rungs = ladder(records, rows, rule, None, names, able) if none and not refused else ()
        return replace(base, sentences=said, reasons=_for_all(why, kinds, names), odds=_zero(kinds), ladder=rungs)
    chosen, best = case.chosen, case.best
    chances, draws = odds(known, judged, tables, rule)
    group = tuple(c.id for c in found.group)
    confidence = sum(chances[i].best for i in group)
    pairs = {c.id: case.pair(c) for c in near(case)}
    reasons |= reasons_of(case, pairs)
    kind = next(k for k in kinds if k.id == chosen.id)
    suites = {s: [r for r in kind.of(s) if r.status is Status.OK] for s in weights}
    skilled = True
    if said := alone(case):
        why_not = "there is nothing to compare it with"
    elif said := no_skill(case, suites, rows):
        why_not, skilled = "it shows no skill", False
    elif said := not_carried(case, draws):
        why_not = "the rows do not carry a choice"
    if said:
        reasons[chosen.id] = f"The first to try, but {why_not}."
        return replace(
            base, sentences=said, reasons=_for_all(reasons, kinds, names), best=best.id, try_first=chosen.id,
            odds=_zero(kinds) | chances, group=group, confidence=confidence,
            ladder=ladder(records, rows, rule, cells[chosen.id] if skilled else None, names, able, TRY, skilled),
        )  # fmt: skip
    price = (cells[chosen.id].config.get("price") or {}).get("usd_per_hour")
    return replace(
        base,
        chosen=chosen.id,
        sentences=(
            what(case, suites, rows), why_of(case, pairs) + sure(chances, case, confidence),
            runner_up(case, reasons, pairs),
        ),
        reasons=_for_all({i: t for i, t in reasons.items() if i != chosen.id}, kinds, names, chosen.id),
        best=best.id,
        against_best=case.pair(chosen) if chosen is not best else None,
        odds=_zero(kinds) | chances,
        group=group,
        confidence=confidence,
        flips=flips(known, rule, names, price, timed(grid)),
        ladder=ladder(records, rows, rule, cells[chosen.id], names, able),
    )  # fmt: skip


def _zero(kinds: Sequence[Recipe]) -> dict[str, Odds]:
    return {k.id: Odds(0.0, 0.0, 0.0) for k in kinds}


def _for_all(
    reasons: Mapping[str, str], kinds: Sequence[Recipe], names: Mapping[str, str], chosen: str = ""
) -> dict[str, str]:
    """A sentence for each cell, also for those judged together with another."""
    out = dict(reasons)
    for k in kinds:
        for r in (r for r in k.cells if r.id != k.id):
            lost = f"Not counted: of seed {r.seed} another way to build has no numbers."
            out[r.id] = lost if r.id in k.beside else f"Judged together with {names[k.id]}."
        for r in k.cells:
            if r.status is not Status.OK:
                out[r.id] = f"{str(r.status).capitalize()}: {r.reason or 'no reason was given'}."
    out.pop(chosen, None)
    return {i: out[i] for i in sorted(out)}


def _cost_notes(
    grid: Sequence[RunRecord], rule: Policy, weights: Mapping[str, float], basis: str, known: Facts,
    costs: Mapping[str, CostLine], asked: str | None, names: Mapping[str, str],
) -> tuple[str, ...]:  # fmt: skip
    """How costs were counted and told apart, and what of them was not."""
    found, judged = [], [r for r in grid if r.status is Status.OK and r.suite in weights]
    prices: Mapping[str, Json] = next((p for r in grid if (p := r.config.get("price"))), {})
    rates = {r.id: goodput(r, rule.service_level) for r in judged}
    unmet = [names[i] for i, held in rates.items() if held == 0]
    untried = [names[i] for i, held in rates.items() if held is None] if rule.service_level and basis == GOODPUT else []
    if untried:
        found.append(f"What was not measured at the service level cannot be chosen: {_listed(untried)}.")
    suites = {r.suite: [rates[k.id] for k in judged if k.suite == r.suite] for r in judged}
    bare = [suite for suite, held in suites.items() if set(held) == {None}]
    if bare and (level := rule.service_level):
        words = ", ".join(f"{key} {value:g}" for key, value in level.items())
        on = f" on {', '.join(bare)}" if len(bare) < len(suites) else ""
        then = "it prices nothing, and bars nothing there" if on else "it bars and prices nothing"
        found.append(f"Nothing was measured at the policy's service level ({words}){on}: {then}.")
    barred = rule.service_level is not None or (basis == GOODPUT and rule.objective == COST)
    if unmet and (barred or costs):
        priced = "has no cost" if basis == GOODPUT else "is priced by full batches all the same"
        found.append(f"What {NO_RATE} {'cannot be chosen' if barred else priced}: {_listed(unmet)}.")
    if costs:
        rate = "that meets the service level (goodput)"
        if basis != GOODPUT:
            knobs = "; ".join(filter(None, ["measure.latency.batch_size", fullest(judged)]))
            rate = f"of batches of {rows} ({knobs})" if (rows := batched(judged)) else "of full batches"
        on_cpu = any(r.environment.get("device") == "cpu" for r in judged)
        cores = "; a build on a CPU pays for its share of the machine's cores" if on_cpu else ""
        found.append(
            f"Cost counts the measured rate {rate}, with machines used {100 * prices.get('utilization', 1.0):.0f}% of "
            f"the time; what is done once is spread over the volume{cores}."
        )
        if prices.get("usd_per_labelled_row") is None:
            found.append("Labelling is not counted: no price of a labelled row is set (price.usd_per_labelled_row).")
    if rule.objective != QUALITY and (pace := pace_of(known, rule, rule.objective)) > 1 and len(known.candidates) > 1:
        found.append(
            f"Cells near each other in {OBJECTIVES[rule.objective]} are not told apart by it: whole timings differ by "
            f"up to {pace:.3g} times with nothing changed ({pace_by(known, rule)}), so {paced(known, rule)}."
        )
    if prices.get("hosted") and (asked is None or costs[asked].prompt_tokens is None):
        lack = "the tokens of the prompts were not counted in this run" if asked else "no prompted cell could be priced"
        found.append(f"Hosted prices are not compared: {lack}.")
    return tuple(found)


def _notes(
    grid: Sequence[RunRecord], rule: Policy, weights: Mapping[str, float], rows: Rows, names: Mapping[str, str]
) -> tuple[str, ...]:
    """How quality was put together, and what was not compared."""
    found = []
    if len(weights) > 1:
        shares = ", ".join(f"{s} {100 * w:.0f}%" for s, w in weights.items())
        found.append(
            f"Several suites are judged together ({shares}): quality and cost are weighted means, and limits must hold "
            "in each suite."
        )
    judged = [r for r in grid if r.status is Status.OK and r.suite in weights and quality(r, rule)]
    for r in {r.suite: r for r in reversed(judged)}.values():
        common, reply = commonest(r, rows, rule)
        if common >= COMMON:
            found.append(f"Always answering “{reply}” would be right on {share(common)} of the rows of {r.suite}.")
    bare = [names[r.id] for r in judged if not rows.get(r.id)]
    if bare and len(bare) == len(judged):
        found.append(
            "No rows were kept, so cells could not be compared row by row, and odds follow from intervals alone."
        )
    elif bare:
        found.append(
            "Not compared row by row, and with odds that follow from intervals alone, as no rows were kept: "
            f"{_listed(bare)}."
        )
    if left_out := sorted({r.suite for r in grid} - set(weights)):
        found.append(f"Not judged, for want of a weight in the policy: {', '.join(left_out)}.")
    if len({r.seed for r in grid}) > 1:
        uncounted = beside(grid)
        lost = sorted({r.seed for r in grid if r.id in uncounted and r.suite in weights})
        less = f", without seed {', '.join(map(str, lost))}, of which some ended without numbers" if lost else ""
        found.append(
            f"Cells that differ in seed alone are one candidate: its quality, p95 and cost are their means{less}."
        )
    return tuple(found)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
