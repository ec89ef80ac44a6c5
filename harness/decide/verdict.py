"""The decision of one run: a pure function of records, rows and a policy.

`facts` gathers what counts, `judge` applies the rule, and this module says in sentences what came of it, how sure that
is, what it costs and what would change it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.decide.cells import Rows, compare, primary, quality, record_value, reference
from harness.decide.costs import GOODPUT, hosted_lines
from harness.decide.facts import Candidate, Facts, Recipe, basis_of, gathered, lacking, recipes, weights_of
from harness.decide.findings import CostLine, Decision, Odds
from harness.decide.flips import flips
from harness.decide.ladder import ladder
from harness.decide.odds import odds
from harness.decide.policy import COST, OBJECTIVES, P95, QUALITY, Policy, read_policy
from harness.decide.rule import Judgement, judge, score, simple, upper, volume_of
from harness.rows import ids
from harness.statistics import Paired, detectable_difference, rows_needed
from harness.types import Json, RunRecord, Status, is_side
from harness.wording import labels, number, points, share, told

LOW_SCORE = 0.5  # a score that fewer rows than this reach is told beside the recommendation
LOW_SHOWN = 2  # of them, in the suite's order
COMPARED = 40  # cells of a large grid that are compared in full for their sentences


@dataclass(frozen=True, slots=True)
class _Case:
    """All that the sentences speak of."""

    rule: Policy
    facts: Facts
    found: Judgement
    cells: Mapping[str, RunRecord]
    rows: Rows
    names: Mapping[str, str]
    several: bool

    def pair(self, c: Candidate) -> Paired | None:
        """A candidate against the best, in full where a single suite lets it be compared row by row."""
        assert self.found.best is not None
        known = self.facts.pairs[self.found.best.id].get(c.id)
        full = None
        if not self.several and c.id in self.cells:
            best = self.cells[self.found.best.id]
            full = compare(self.cells[c.id], best, self.rows, primary(best, self.rule))
        if known is None or full is None:
            return full
        return replace(full, delta=known.delta, low=known.low, high=known.high)


def decide(records: Sequence[RunRecord], rows: Rows, policy: Mapping[str, Json]) -> Decision:
    """The decision of one run. `records` may hold cells that stand beside the grid (learning curves), which are never
    chosen. Raises `UserError` for a policy that cannot be read."""
    rule = read_policy(policy)
    grid = sorted((r for r in records if not is_side(r.id)), key=lambda r: r.id)
    cells, names, kinds = {r.id: r for r in grid}, labels(r.id for r in grid), recipes(grid)
    weights = weights_of(grid, rule)
    known, judged, tables = gathered(grid, rows, rule)
    found = judge(known, rule)
    against = reference(grid)
    costs = {c.id: c.cost for c in known.candidates if c.cost}
    asked = next((c.cost for c in known.candidates if c.cost and cells[c.id].adaptation == "prompt_rag"), None)
    base = Decision(
        None, ("", "", ""), {}, rule.margin, against.id if against else None, costs=costs,
        hosted=hosted_lines(grid, asked, costs), judged={k.id: tuple(r.id for r in k.cells) for k in kinds},
        notes=_notes(grid, rule, weights, costs, asked, any(rows.get(r.id) for r in grid)),
    )  # fmt: skip
    reasons = _out(kinds, known, rule, list(weights))
    if said := _no_choice(grid, known, found, rule, names, cells):
        why = {k.id: reasons.get(k.id) or "Not judged: there is no decision." for k in kinds}
        nothing = replace(base, sentences=said, reasons=_for_all(why, kinds, names))
        return replace(nothing, ladder=ladder(records, rows, rule, None, names), odds=_zero(kinds))
    assert found.chosen is not None
    assert found.best is not None
    case = _Case(rule, known, found, cells, rows, names, len(weights) > 1)
    if said := _too_few_rows(case):
        why = {k.id: reasons.get(k.id) or "Not judged: there is no decision." for k in kinds}
        return replace(base, sentences=said, reasons=_for_all(why, kinds, names), odds=_zero(kinds))
    chances, _ = odds(known, judged, tables, rule)
    group = tuple(c.id for c in found.group)
    confidence = sum(chances[i].best for i in group)
    pairs = {c.id: case.pair(c) for c in _near(case)}
    reasons |= _reasons(case, pairs)
    chosen = found.chosen
    price = (cells[chosen.id].config.get("price") or {}).get("usd_per_hour")
    return replace(
        base,
        chosen=chosen.id,
        sentences=(
            _what(case, weights), _why(case, pairs) + _sure(chances, case, confidence), _runner_up(case, reasons, pairs)
        ),
        reasons=_for_all({i: t for i, t in reasons.items() if i != chosen.id}, kinds, names, chosen.id),
        best=found.best.id,
        against_best=case.pair(chosen) if chosen is not found.best else None,
        odds=_zero(kinds) | chances,
        group=group,
        confidence=confidence,
        flips=flips(known, rule, names, price),
        ladder=ladder(records, rows, rule, cells[chosen.id], names),
    )  # fmt: skip


def _zero(kinds: Sequence[Recipe]) -> dict[str, Odds]:
    return {k.id: Odds(0.0, 0.0, 0.0) for k in kinds}


def _for_all(
    reasons: Mapping[str, str], kinds: Sequence[Recipe], names: Mapping[str, str], chosen: str = ""
) -> dict[str, str]:
    """A sentence for each cell, also for those judged together with another."""
    out = dict(reasons)
    for k in kinds:
        out.update({r.id: f"Judged together with {names[k.id]}." for r in k.cells if r.id != k.id})
        for r in k.cells:
            if r.status is not Status.OK:
                out[r.id] = f"{str(r.status).capitalize()}: {r.reason or 'no reason was given'}."
    out.pop(chosen, None)
    return {i: out[i] for i in sorted(out)}


def _notes(
    grid: Sequence[RunRecord], rule: Policy, weights: Mapping[str, float], costs: Mapping[str, CostLine],
    asked: CostLine | None, rows_kept: bool,
) -> tuple[str, ...]:  # fmt: skip
    """What was not counted, and how numbers were put together."""
    found = []
    prices: Mapping[str, Json] = next((p for r in grid if (p := r.config.get("price"))), {})
    if costs:
        rate = "that meets the service level (goodput)" if basis_of(grid, rule) == GOODPUT else "of full batches"
        found.append(
            f"Cost counts the measured rate {rate}, with machines used {100 * prices.get('utilization', 1.0):.0f}% of "
            "the time; what is done once is spread over the volume."
        )
        if prices.get("usd_per_labelled_row") is None:
            found.append("Labelling is not counted: no price of a labelled row is set (price.usd_per_labelled_row).")
    if prices.get("hosted") and (asked is None or asked.prompt_tokens is None):
        found.append("Hosted prices are not compared: the tokens of the prompts were not counted in this run.")
    if len(weights) > 1:
        shares = ", ".join(f"{s} {100 * w:.0f}%" for s, w in weights.items())
        found.append(
            f"Several suites are judged together ({shares}): quality and cost are weighted means, and limits must hold "
            "in each suite."
        )
    if costs and not rows_kept:
        found.append(
            "No rows were kept, so cells could not be compared row by row, and odds follow from intervals alone."
        )
    if left_out := sorted({r.suite for r in grid} - set(weights)):
        found.append(f"Not judged, for want of a weight in the policy: {', '.join(left_out)}.")
    if len({r.seed for r in grid}) > 1:
        found.append("Cells that differ in their seed alone are one candidate, and its quality is their mean.")
    return tuple(found)


# ------------------------------------------------------------------------------------------------------ no choice


def _out(kinds: Sequence[Recipe], known: Facts, rule: Policy, suites: Sequence[str]) -> dict[str, str]:
    """Why recipes cannot be chosen whatever the others are like."""
    by_id = {c.id: c for c in known.candidates}
    found = {}
    for k in kinds:
        why = _broken(by_id[k.id], rule) if k.id in by_id else lacking(k, suites, rule) or "Its suite is not judged."
        if why:
            found[k.id] = why
    return found


def _broken(c: Candidate, rule: Policy) -> str:
    """The limit that a candidate breaks; empty where it holds all."""
    if rule.min_quality is not None and c.lowest_quality < rule.min_quality:
        return f"Its quality of {share(c.lowest_quality)} is below the floor of {share(rule.min_quality)}."
    for limit, value, unit, what in (
        (rule.max_p95_e2e_ms, c.p95_ms, "ms", "p95 response time"),
        (rule.max_memory_bytes, c.memory_bytes, "bytes", "peak memory"),
    ):
        if limit is None:
            continue
        if value is None:
            return f"Its {what} was not measured, and the policy limits it."
        if value > limit:
            return f"Its {what} of {number(value, unit)} is above the limit of {number(limit, unit)}."
    if rule.min_valid is not None and c.valid is None:
        return "Its share of valid outputs was not measured, and the policy limits it."
    if rule.min_valid is not None and c.valid is not None and c.valid < rule.min_valid:
        return f"Its share of valid outputs of {share(c.valid)} is below the limit of {share(rule.min_valid)}."
    return ""


def _no_choice(
    grid: Sequence[RunRecord], known: Facts, found: Judgement, rule: Policy, names: Mapping[str, str],
    cells: Mapping[str, RunRecord],
) -> tuple[str, str, str] | None:  # fmt: skip
    """The sentences where nothing can be recommended whatever the rows say."""
    ok = [r for r in grid if r.status is Status.OK]
    if ok and not any(quality(r, rule) for r in ok):
        fastest = _objective_best(ok, P95 if rule.objective == QUALITY else rule.objective, names)
        return (
            "No recommendation: no cell's quality was measured, and speed and cost alone don't say what to ship.",
            f"For sizing only: {fastest}",
            "What is missing is quality: run the grid on a trained model.",
        )
    if found.best is None:
        return (
            "No recommendation: no cell ended ok within the policy's limits.",
            f"{len(ok)} of {len(grid)} cells ended ok, and each of them breaks a limit or lacks a number.",
            "The table of cells says for each what stood in its way.",
        )
    if found.best.quality == 0:
        top = cells[found.best.id]
        m = quality(top, rule)
        return (
            f"No recommendation: no cell got a single row of “{primary(top, rule)}” right.",
            f"All {len(found.holding)} cells that could be chosen score 0 on {m.n if m else 0} rows, so none of them "
            "does this task yet.",
            "More training rows or epochs (profile=standard), a larger model, or a score that they do reach "
            "(policy.metric) would tell more.",
        )
    return None


def _objective_best(records: Sequence[RunRecord], metric: str, names: Mapping[str, str]) -> str:
    found = {r.id: m for r in records if (m := record_value(r, metric))}
    if not found:
        return f"no {OBJECTIVES[metric]} was measured either."
    low = min(found, key=lambda i: (found[i].value, i))
    return f"the lowest {OBJECTIVES[metric]} is that of {names[low]}, {number(found[low].value, found[low].unit)}."


def _too_few_rows(case: _Case) -> tuple[str, str, str] | None:
    """The sentences where not even a difference of 100 points could be shown."""
    best = case.found.best
    assert best is not None
    m = quality(case.cells[best.id], case.rule)
    rows = [p.n for c in case.found.holding[:COMPARED] if c is not best and (p := case.pair(c))]
    scored = max(rows, default=m.n if m else 0)
    if case.several or detectable_difference(scored, 1.0) < math.inf:
        return None
    margin = max(case.rule.margin, 0.01)
    return (
        "Not enough evidence: too few rows were scored to tell any two cells apart.",
        f"With {scored} rows even a difference of 100 points could not be shown.",
        f"About {rows_needed(margin, 0.2):,} rows would show a difference of {share(margin)}, if the cells differ on a "
        "fifth of them.",
    )


# ------------------------------------------------------------------------------------------------------ the choice


def _near(case: _Case) -> list[Candidate]:
    """The candidates whose comparison with the best the sentences tell: in a large grid, those of highest quality."""
    best = case.found.best
    them = sorted((c for c in case.found.holding if c is not best), key=lambda c: (-c.quality, *simple(c)))
    beside = [c for c in them if c in case.found.good or c in case.found.alike]
    return list(dict.fromkeys([*beside[:COMPARED], *them[: max(0, COMPARED - len(beside))]]))


def _within(rule: Policy) -> str:
    return f"within {100 * rule.margin:g} points of" if rule.margin else "as good as"


def _more(pair: Paired, rule: Policy) -> int:
    """The rows that would likely show a difference of the margin; 0 where there are as many already, or no margin."""
    need = pair.rows_for(rule.margin) if rule.margin else 0
    return need if need > pair.n else 0


def _value(c: Candidate, case: _Case) -> str:
    """What a candidate has of the objective, in words."""
    rule = case.rule
    unit = {COST: "USD", P95: "ms", QUALITY: "share"}[rule.objective]
    return number(abs(score(c, rule, volume_of(case.facts, rule))), unit)


def _reasons(case: _Case, pairs: Mapping[str, Paired | None]) -> dict[str, str]:
    """A sentence for each candidate that holds the limits and is not the one chosen."""
    found, rule, best = case.found, case.rule, case.found.best
    assert best is not None
    assert found.chosen is not None
    known, top = case.facts.pairs[best.id], case.names[best.id]
    said = {}
    for c in found.holding:
        pair, brief = pairs.get(c.id), known.get(c.id)
        if c is found.chosen:
            continue
        if c is best or c in found.good or (c in found.alike and _no_worse(c, case)):
            said[c.id] = _lost(c, case)
        elif pair is None and brief is None:
            shared = _shares_rows(c, case) if case.several else c.id not in pairs
            said[c.id] = (
                f"Shown to be worse than {top} by far more than the margin." if shared
                else f"It has no scores on the same rows as {top}, so its quality cannot be compared."
            )  # fmt: skip
        else:
            low, high = (pair.low, pair.high) if pair else (brief.low, brief.high) if brief else (0.0, 0.0)
            words = told(pair) if pair else f"95% interval {points(low)} to {points(high)} points"
            if high < -rule.margin:
                by = f" by more than the margin of {100 * rule.margin:g} points" if rule.margin else ""
                said[c.id] = f"Shown to be worse than {top}{by}: {words}."
            else:
                more = f"; about {need:,} rows would be needed to tell" if pair and (need := _more(pair, rule)) else ""
                said[c.id] = f"Not shown to be {_within(rule)} {top}: {words}{more}."
    return said


def _no_worse(c: Candidate, case: _Case) -> bool:
    """Whether a cell that is not told apart from the best lost to the chosen one by simplicity or the objective, and
    not for want of proof: one that looks better by the objective, and is more complex, has to be shown good enough."""
    chosen = case.found.chosen
    assert chosen is not None
    volume = volume_of(case.facts, case.rule)
    return score(c, case.rule, volume) >= score(chosen, case.rule, volume)


def _shares_rows(c: Candidate, case: _Case) -> bool:
    best = case.found.best
    assert best is not None
    mine, other = (set(ids(case.rows.get(i, ()))) for i in (c.id, best.id))
    return bool(mine & other)


def _lost(c: Candidate, case: _Case) -> str:
    """Why a cell that was good enough was not the one."""
    found, rule, chosen = case.found, case.rule, case.found.chosen
    assert chosen is not None
    name, volume = case.names[chosen.id], volume_of(case.facts, rule)
    if c in found.passed:
        return f"{name} is no worse in quality, p95, memory and cost, and as simple."
    if rule.objective == QUALITY:
        best = found.best
        assert best is not None
        pair = case.facts.pairs[best.id].get(c.id)
        if pair and pair.high < 0:
            worse = f"{points(pair.delta)} points, 95% interval {points(pair.low)} to {points(pair.high)}"
            return f"Shown to be worse in quality than the best ({worse})."
        other = "the best" if pair else f"that of {name}"
        return f"Its quality cannot be told apart from {other}, and {name} is simpler."
    what, mine, theirs = OBJECTIVES[rule.objective], _value(c, case), _value(chosen, case)
    a, b = score(c, rule, volume), score(chosen, rule, volume)
    simpler = f"{name} is simpler" if c.rank > chosen.rank else f"{name} is no worse in the rest"
    if a == b:
        return f"Its {what} is the same, {mine}, and {simpler}."
    if a < b:
        return f"Its {what} ({mine}) cannot be told apart from {theirs}, and {simpler}."
    if mine == theirs:
        return f"Its {what} is higher by less than this table rounds."
    return f"Its {what} is higher: {mine} against {theirs}."


def _what(case: _Case, weights: Mapping[str, float]) -> str:
    """What to ship."""
    c, rule = case.found.chosen, case.rule
    assert c is not None
    record = case.cells[c.id]
    m = quality(record, rule)
    assert m is not None
    if case.several:
        first = f"Ship {case.names[c.id]} and its likes: a weighted {share(c.quality)} over {len(weights)} suites"
    else:
        spread = "" if m.interval is None else f" ({share(m.interval.low)} to {share(m.interval.high)})"
        first = f"Ship {case.names[c.id]}: {share(c.quality)}{spread} of {m.n} rows pass “{primary(record, rule)}”"
    if c.p95_ms is not None:
        first += f", p95 response time {number(c.p95_ms, 'ms')}"
    if c.cost is not None:
        first += f", {number(c.cost.usd_per_1000(volume_of(case.facts, rule)), 'USD')} per 1,000 requests"
    return first + _low_scores(record, primary(record, rule)) + "."


def _low_scores(record: RunRecord, judged: str) -> str:
    """What else the suite scores and most rows fail: a headline must not hide it."""
    scores = (m for m in record.measurements if m.metric.startswith("quality/") and m.better == "higher")
    found = {m.metric.removeprefix("quality/"): m.value for m in scores}
    low = [f"{share(v)} pass “{name}”" for name, v in found.items() if name != judged and v < LOW_SCORE]
    more = f" and {len(low) - LOW_SHOWN} other scores are as low" if len(low) > LOW_SHOWN else ""
    return f"; but only {' and '.join(low[:LOW_SHOWN])}{more}, which this policy does not judge" if low else ""


def _why(case: _Case, pairs: Mapping[str, Paired | None]) -> str:
    """Why that one, beside the cell of highest quality, and what stays open."""
    found, rule = case.found, case.rule
    chosen, best = found.chosen, found.best
    assert chosen is not None
    assert best is not None
    pair = pairs.get(chosen.id)
    words = {QUALITY: "the highest quality"}.get(rule.objective, f"the lowest {OBJECTIVES[rule.objective]}")
    if len(found.holding) == 1:
        text = "It is the only cell that ended ok within the policy's limits"
    elif chosen not in found.shown:
        text = (
            f"Its quality cannot be told apart from the highest measured, that of {case.names[best.id]}"
            + (f": {told(pair)}" if pair else "") + ", and it is simpler"
        )  # fmt: skip
    elif len(found.shown) == 1:
        text = f"It has the highest quality measured, and no other cell was shown to be {_within(rule)} it"
    else:
        first = "has" if chosen is found.front else "is the simplest that cannot be told apart from"
        text = f"It {first} {words} of the {len(found.shown)} cells shown to be {_within(rule)} the highest quality "
        text += f"measured, that of {case.names[best.id]}: {told(pair)}" if pair else "measured, its own"
    return text + _open(case, pairs) + "."


def _unclear(case: _Case, pairs: Mapping[str, Paired | None]) -> list[Candidate]:
    """Cells that beat the chosen one by the objective, and are neither shown to be good enough nor to be worse."""
    found, rule = case.found, case.rule
    if rule.objective == QUALITY or found.chosen is None:
        return []
    volume = volume_of(case.facts, rule)
    mine = score(found.chosen, rule, volume)
    return [
        c for c in found.holding
        if c not in found.good and c is not found.chosen and score(c, rule, volume) < mine
        and (p := pairs.get(c.id)) and p.high >= -rule.margin
    ]  # fmt: skip


def _open(case: _Case, pairs: Mapping[str, Paired | None]) -> str:
    """How many cells beat the chosen one by the objective but are not shown to be good enough, and how blind the run
    is to that."""
    rule, unclear = case.rule, _unclear(case, pairs)
    found = [p for c in unclear if (p := pairs[c.id])]
    if not found:
        return ""
    what = "cheaper" if rule.objective == COST else "faster"
    out = f"; for {len(found)} {what} cell{'s' if len(found) > 1 else ''} that is open"
    blind, n, need = max((p.smallest(), p.n, _more(p, rule)) for p in found)
    if rule.margin < blind < math.inf:
        out += f", as {n} rows likely show only differences of {100 * blind:.0f} points or more"
    if need and len(case.found.good) > 1:
        out += f" and about {need:,} would be needed for {100 * rule.margin:g} points"
    return out


def _sure(chances: Mapping[str, Odds], case: _Case, confidence: float) -> str:
    """How sure that is, as a sentence of its own."""
    chosen, group = case.found.chosen, case.found.group
    assert chosen is not None
    own = chances[chosen.id].best
    if len(case.facts.candidates) == 1:
        return ""
    text = f" Were each joint draw of the rows the truth, it would be the policy's choice in {share(own)} of them"
    if len(group) > 1:
        others = ", ".join(case.names[c.id] for c in group[1:4]) + (" and others" if len(group) > 4 else "")
        text += f", and it or one it cannot be told apart from ({others}) in {share(confidence)}; it is the simplest"
    likely = max(case.facts.candidates, key=lambda c: chances[c.id].best)
    if likely not in group and chances[likely.id].best > confidence:
        proof = "" if likely in case.found.good else ", but it is not shown to be good enough, and more complex"
        text += f". {case.names[likely.id]} would be in {share(chances[likely.id].best)}{proof}"
    return text + "."


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _runner_up(case: _Case, reasons: Mapping[str, str], pairs: Mapping[str, Paired | None]) -> str:
    """The runner-up and what it lacks."""
    found, rule = case.found, case.rule
    volume = volume_of(case.facts, rule)

    def place(c: Candidate) -> tuple[float, int, str]:
        return score(c, rule, volume), *simple(c)

    rest = [c for c in (*found.good, *found.group) if c is not found.chosen]
    if rest:
        front = min(rest, key=place)
        tied = [c for c in rest if score(c, rule, volume) <= upper(front, rule, volume)]
        runner = min(tied, key=simple)
        return f"The runner-up is {case.names[runner.id]}: {_lower(reasons[runner.id])}"
    if unclear := [c for c in found.holding if (p := pairs.get(c.id)) and p.high >= -rule.margin]:
        near = min((c for c in unclear if c is not found.chosen), key=place)
        return (
            f"There is no runner-up; of the cells whose quality is open, {case.names[near.id]} comes first by "
            f"{OBJECTIVES[rule.objective]} ({_value(near, case)}), but it is {_lower(reasons[near.id])}"
        )
    return "There is no runner-up: each other cell failed, breaks a limit, or could not be shown to be good enough."
