"""The three sentences of a choice: what to ship, why and how sure, and the runner-up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from harness.decide.case import Case, more, pace_by, paced, value, within
from harness.decide.cells import Rows, passes, primary, quality, quality_over_seeds
from harness.decide.facts import Candidate
from harness.decide.findings import Odds
from harness.decide.policy import COST, OBJECTIVES, P95, QUALITY
from harness.decide.recipes import NO_RATE
from harness.decide.rule import ahead, pace_of, score, simple, volume_of
from harness.statistics import Paired
from harness.types import Pair, RunRecord
from harness.wording import number, plural, share, told

TOKENS, NATURAL_P95 = "output_tokens/mean", "e2e_natural_ms/p95"
LOW_SCORE = 0.5  # a score that fewer rows than this reach is told beside the recommendation
LOW_SHOWN = 2  # of them, in the suite's order


def timed(records: Iterable[RunRecord]) -> str:
    """Of what answers the p95 of cells is: “16-token answer”, whatever they would say themselves. Empty where records
    do not tell, and for classification heads, which answer in one step."""
    lengths = sorted({n for r in records if r.value(P95) and "itl_ms" not in r.not_measured and (n := _length(r))})
    return f"{' to '.join(dict.fromkeys(map(str, (lengths[0], lengths[-1]))))}-token answer" if lengths else ""


def _length(record: RunRecord) -> int | None:
    tokens = (record.params("measure").get("latency") or {}).get("output_tokens")
    return tokens if isinstance(tokens, int) else None


def batched(records: Iterable[RunRecord]) -> str:
    """Of how many rows the batches are that throughput is of: “8 rows”; empty where records do not tell."""
    sizes = sorted({n for r in records if (n := (r.params("measure").get("latency") or {}).get("batch_size"))})
    return f"{' to '.join(dict.fromkeys(map(str, (sizes[0], sizes[-1]))))} row{'s' * (sizes != [1])}" if sizes else ""


def fullest(records: Iterable[RunRecord]) -> str:
    """How many rows the engines would decode together: “engine.batch_size is 48”; empty where records do not tell."""
    sizes = sorted({n for r in records if (n := r.params("engine").get("batch_size"))})
    return f"engine.batch_size is {' or '.join(map(str, sizes))}" if sizes else ""


def _own(seeds: Sequence[RunRecord]) -> str:
    """How long a cell's own answers are beside those, and how long they take where that was timed."""
    found = {name: [m.value for r in seeds if (m := r.value(name))] for name in (TOKENS, NATURAL_P95)}
    if not any(found[TOKENS]):
        return ""
    took = f", p95 {number(fmean(found[NATURAL_P95]), 'ms')}" if found[NATURAL_P95] else ""
    return f" (its own have {fmean(found[TOKENS]):.0f} on average{took})"


def what(case: Case, suites: Mapping[str, Sequence[RunRecord]], rows: Rows) -> str:
    """What to ship: the chosen cell, whose records, one a seed, stand by the suite judged."""
    c, rule, seeds = case.chosen, case.rule, next(iter(suites.values()))
    if case.several:
        first = f"Ship {case.names[c.id]} and its likes: a weighted {share(c.quality)} over {len(suites)} suites"
    else:
        record, m = seeds[0], quality_over_seeds(seeds, rows, rule)
        assert m is not None
        spread = "" if m.interval is None else f" ({share(m.interval.low)} to {share(m.interval.high)})"
        of, name = plural(m.n, "row") + (f" over {len(seeds)} seeds" if len(seeds) > 1 else ""), primary(record, rule)
        own = quality(record, rule)
        reached = f"{share(m.value)}{spread}"
        graded = own is not None and not passes(own, rows.get(record.id, ()))
        first = f"Ship {case.names[c.id]}: " + (
            f"“{name}” {reached} on {of}" if graded else f"{reached} of {of} pass “{name}”"
        )
    if c.p95_ms is not None:
        first += f", p95 response time {number(c.p95_ms, 'ms')}"
        if answer := timed(r for some in suites.values() for r in some):
            first += f" for a {answer}" + ("" if case.several else _own(seeds))
    if c.cost is not None:
        first += f", {number(c.cost.usd_per_1000(volume_of(case.facts, rule)), 'USD')} per 1,000 requests"
    if any(m.value for some in suites.values() for r in some if (m := r.value("noisy"))):
        first += ", timed on a machine that did other work or did not hold still"
    return first + _low_scores(case, suites, rows) + "."


def _low_scores(case: Case, suites: Mapping[str, Sequence[RunRecord]], rows: Rows) -> str:
    """What else the suites score and is low: a headline must not hide it."""
    low = []
    for suite, seeds in suites.items():
        judged = quality_over_seeds(seeds, rows, case.rule)
        assert judged is not None
        scores = [m for m in seeds[0].measurements if m.metric.startswith("quality/") and m.better == "higher"]
        for first in (m for m in scores if m.metric != judged.metric and _is_share(m.metric, case)):
            by = {r.id: m for r in seeds if (m := r.value(first.metric))}
            m = replace(first, value=fmean(m.value for m in by.values()))
            name = f"“{m.metric.removeprefix('quality/')}”" + (f" on {suite}" if case.several else "")
            if m.value < LOW_SCORE:
                low.append((m, name, m.n == judged.n, all(passes(own, rows.get(i, ())) for i, own in by.items())))
    named, rest = low[:LOW_SHOWN], len(low) - LOW_SHOWN
    if all(whole and passing for *_, whole, passing in named):
        words = "only " + " and ".join(f"{share(m.value)} pass {name}" for m, name, *_ in named)
    else:
        words = " and ".join(
            f"{name} is only {share(m.value)}" + ("" if whole else f" (of {plural(m.n, 'row')})")
            for m, name, whole, _ in named
        )
    more = f" and {plural(rest, 'other score')} {'is' if rest == 1 else 'are'} below {share(LOW_SCORE)}"
    return f"; but {words}{more if rest > 0 else ''}, which this policy does not judge" if low else ""


def _is_share(metric: str, case: Case) -> bool:
    return all(0 <= m.value <= 1 for r in case.cells.values() if (m := r.value(metric)))


def why(case: Case, pairs: Mapping[str, Paired | None]) -> str:
    """Why that one, beside the cell of highest quality, and what stays open."""
    found, rule, chosen, best = case.found, case.rule, case.chosen, case.best
    known = _known(chosen, case, pairs)
    gap = told(known, -rule.margin, 0.0) if known else ""
    better = _better(case)
    top = f"of the {len(found.holding)} cells that could be chosen{better}" if better else "measured"
    words = {QUALITY: "the highest quality"}.get(rule.objective, f"the lowest {OBJECTIVES[rule.objective]}")
    if len(found.holding) == 1:
        text = f"It is the only cell that could be chosen{better}"
    elif found.passed:
        text = f"The rule comes to {case.names[found.passed[0].id]} first, and this one is no worse in quality, p95, "
        text += "memory and cost, and as simple"
        text += f"; against the highest quality {top}, that of {case.names[best.id]}: {gap}" if gap else ""
    elif chosen not in found.shown:
        text = (
            f"Its quality cannot be told apart from the highest {top}, that of {case.names[best.id]}"
            + (f": {gap}" if gap else "") + ", and it is simpler"
        )  # fmt: skip
        if found.front and chosen.rank >= best.rank:
            text += f" than {case.names[found.front.id]}, which has {words} of those good enough"
    elif len(found.shown) == 1:
        compared = any(c.id in case.facts.pairs[best.id] for c in found.holding)
        text = f"{_highest(case)} {top}" + (
            f", and no other cell was shown to be {within(rule)} it" if compared
            else ", but it could not be compared with any other cell, as none has scores on the same rows"
        )  # fmt: skip
        if same := [p.n for p in pairs.values() if p and not p.gained + p.lost]:
            text += f": even {plural(max(same), 'row')} without a difference do not show that"
    else:
        first = f"has {words}"
        if chosen is not found.front:
            pace = pace_of(case.facts, rule, rule.objective)
            from_where = f" ({paced(case.facts, rule)}, {pace_by(case.facts, rule)})" if pace > 1 else ""
            first = f"is the simplest that none is ahead of by {OBJECTIVES[rule.objective]}{from_where},"
        text = f"It {first} of the {len(found.shown)} cells shown to be {within(rule)} the highest quality "
        text += f"{top}, that of {case.names[best.id]}: {gap}" if chosen is not best else f"{top}, its own"
    return text + _open(case, pairs) + "."


def _highest(case: Case) -> str:
    """What the cell of highest quality is to others that measure the same."""
    best = case.best
    same = [c for c in case.found.holding if c.quality == best.quality]
    if len(same) == 1:
        return "It has the highest quality"
    alone = sum(c.rank == best.rank for c in same) == 1
    first = "the simplest of" if alone else "by simplicity, and then by name, the first of"
    return f"It is {first} {plural(len(same), 'cell')} with the highest quality"


def _better(case: Case) -> str:
    """The cell of highest quality measured where it could not be chosen, as it breaks a limit or lacks a number."""
    top, best = max(case.measured, key=lambda c: c.quality), case.best
    return f" ({case.names[top.id]}, which could not, has {share(top.quality)})" if top.quality > best.quality else ""


def _known(c: Candidate, case: Case, pairs: Mapping[str, Paired | None]) -> Paired | Pair | None:
    """A candidate against the best: in full, or where that was not compared, as of several suites, its interval."""
    return pairs.get(c.id) or case.facts.pairs.get(case.best.id, {}).get(c.id)


def _unclear(case: Case, pairs: Mapping[str, Paired | None]) -> list[Candidate]:
    """Cells that beat the chosen one by the objective, by more than timing tells apart, and are neither shown to be
    good enough nor to be worse."""
    found, rule = case.found, case.rule
    if rule.objective == QUALITY:
        return []
    enough = {c.id for c in found.good}
    return [
        c for c in found.holding
        if c.id not in enough and c is not case.chosen and ahead(c, case.chosen, case.facts, rule)
        and (p := _known(c, case, pairs)) and p.high >= -rule.margin
    ]  # fmt: skip


def _open(case: Case, pairs: Mapping[str, Paired | None]) -> str:
    """How many cells beat the chosen one by the objective but are not shown to be good enough, and how blind the run
    is to that."""
    rule, unclear = case.rule, _unclear(case, pairs)
    if not unclear:
        return ""
    what = "cheaper" if rule.objective == COST else "faster"
    out = f"; for {plural(len(unclear), 'cell')} {what} by more than timings can tell that is open"
    found = [p for c in unclear if (p := pairs.get(c.id))]
    if not found:
        return out
    widest = max(found, key=lambda p: p.high - p.low)
    blind, n, need = widest.smallest(), widest.n, more(widest, rule)
    if rule.margin < blind < math.inf:
        seeds = f"{widest.seeds} seeds of " if widest.seeds > 1 else ""
        out += f", as {seeds}{n} rows likely show only differences of {100 * blind:.0f} points or more"
    if need and len(case.found.good) > 1:
        out += f" and about {need:,} would be needed for {100 * rule.margin:g} points"
    return out


def sure(chances: Mapping[str, Odds], case: Case, confidence: float) -> str:
    """How sure that is, as a sentence of its own."""
    chosen, group = case.chosen, case.found.group
    own = chances[chosen.id].best
    if len(case.facts.candidates) == 1:
        return ""
    text = " With rows and timings drawn again as chance might have it, "
    text += f"it is the best by the policy in {share(own)} of the draws"
    if len(group) > 1:
        others = ", ".join(case.names[c.id] for c in group[1:4]) + (" and others" if len(group) > 4 else "")
        text += f", and it or one it cannot be told apart from ({others}) in {share(confidence)}"
        text += "; it is the simplest" if chosen.rank < min(c.rank for c in group[1:]) else "; none of them is simpler"
    likely = max(case.facts.candidates, key=lambda c: chances[c.id].best)
    if likely not in group and chances[likely.id].best > confidence:
        text += f". {case.names[likely.id]} is the best in {share(chances[likely.id].best)}"
        if likely not in case.found.good:
            text += ", but it is not shown to be good enough"
            text += ", and more complex" if likely.rank > chosen.rank else ""
    return text + "."


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def runner_up(case: Case, reasons: Mapping[str, str], pairs: Mapping[str, Paired | None]) -> str:
    """The runner-up and what it lacks."""
    found, rule = case.found, case.rule
    volume = volume_of(case.facts, rule)

    def place(c: Candidate) -> tuple[float, int, str]:
        return score(c, rule, volume), *simple(c)

    rest = [c for c in (*found.good, *found.group) if c is not case.chosen]
    if rest:
        runner = min((c for c in rest if not any(ahead(r, c, case.facts, rule) for r in rest)), key=simple)
        return f"The runner-up is {case.names[runner.id]}: {_lower(reasons[runner.id])}{_bound(case, runner)}"
    if unclear := [c for c in found.holding if (p := _known(c, case, pairs)) and p.high >= -rule.margin]:
        near = min((c for c in unclear if c is not case.chosen), key=place)
        lost = _lower(reasons[near.id])
        lost = f"it is {lost}" if lost.startswith("not shown") else lost
        return (
            f"There is no runner-up; of the cells whose quality is open, {case.names[near.id]} comes first by "
            f"{OBJECTIVES[rule.objective]} ({value(near, case)}), but {lost}{_bound(case, near)}"
        )
    if len(case.cells) == 1:
        return "It was the only cell of this run."
    no_rate = f" {NO_RATE}," if any(NO_RATE in said for said in reasons.values()) else ""
    ways = f"failed, lacks a number, breaks a limit,{no_rate} or could not be shown to be good enough"
    return f"There is no runner-up: each other cell {ways}."


def _bound(case: Case, beside: Candidate) -> str:
    """What is to be said of a choice by speed, or by a cost that follows from it, where steps wait for the host."""
    waiting = [c for c in (case.chosen, beside) if (m := case.cells[c.id].value("host_bound")) and m.value]
    if case.rule.objective == QUALITY or not waiting:
        return ""
    who = "Both are" if len(waiting) > 1 else f"{case.names[waiting[0].id]} is"
    return f" {who} host-bound: such a speed, and a cost by it, are this model's on this machine, not the method's."
