"""One sentence for each cell that is not chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.decide.case import MORE_SEEDS, Case, value, within
from harness.decide.facts import Candidate, Facts
from harness.decide.policy import OBJECTIVES, QUALITY, Policy
from harness.decide.recipes import Recipe, lacking
from harness.decide.rule import dominates, score, volume_of
from harness.statistics import Paired
from harness.wording import against, share, told

MOST_ROWS = 20_000  # of which a number is told


def out(kinds: Sequence[Recipe], known: Facts, rule: Policy, suites: Sequence[str], basis: str) -> dict[str, str]:
    """Why recipes cannot be chosen whatever the others are like."""
    by_id = {c.id: c for c in known.candidates}
    found = {}
    for k in kinds:
        why = _broken(by_id[k.id], rule) if k.id in by_id else lacking(k, suites, rule, basis)
        why = why or ("" if suites else "Its suite is not judged.")
        if why:
            found[k.id] = why
    return found


def _broken(c: Candidate, rule: Policy) -> str:
    """The limit that a candidate breaks; empty where it holds all."""
    for limit, found, unit, called, side in (
        (rule.min_quality, c.lowest_quality, "share", "quality", "below the floor"),
        (rule.max_p95_e2e_ms, c.p95_ms, "ms", "p95 response time", "above the limit"),
        (rule.max_memory_bytes, c.memory_bytes, "bytes", "peak memory", "above the limit"),
        (rule.min_valid, c.valid, "share", "share of valid outputs", "below the limit"),
    ):
        if limit is None:
            continue
        if found is None:
            return f"Its {called} was not measured, and the policy limits it."
        if found > limit if side.startswith("above") else found < limit:
            mine, edge = against(found, limit, unit)
            return f"Its {called} of {mine} is {side} of {edge}."
    return ""


def reasons(case: Case, pairs: Mapping[str, Paired | None]) -> dict[str, str]:
    """A sentence for each candidate that holds the limits and is not the one chosen."""
    found, rule, best = case.found, case.rule, case.best
    enough, same = {c.id for c in found.good}, {c.id for c in found.alike}
    top = case.names[best.id]
    said = {}
    for c in found.holding:
        pair = pairs.get(c.id)
        known = pair or case.facts.pairs[best.id].get(c.id)
        if c is case.chosen:
            continue
        if c is best or c.id in enough:
            said[c.id] = _lost(c, case)
        elif c.id in same and _no_worse(c, case):
            said[c.id] = f"{_lost(c, case)[:-1]}; nor is it shown to be {within(rule)} {top}."
        elif known is None:
            said[c.id] = f"It has no scores on the same rows as {top}, so its quality cannot be compared."
        else:
            if known.high < -rule.margin:
                beyond = f"beyond the margin of {100 * rule.margin:g} points" if rule.margin else "below 0"
                said[c.id] = f"Its interval against {top} lies {beyond}: {told(known, -rule.margin)}."
            else:
                said[c.id] = f"Not shown to be {within(rule)} {top}: {told(known, -rule.margin)}{_telling(pair, rule)}."
    return said


def _telling(pair: Paired | None, rule: Policy) -> str:
    """How many rows would tell whether a cell is within the margin, were its difference the one measured."""
    if pair is None:
        return ""
    if pair.seeds > 1:
        return f"; {MORE_SEEDS}"
    need = pair.rows_to_tell(rule.margin)
    rows = f"about {math.ceil(need):,}" if need <= MOST_ROWS else f"only more than {MOST_ROWS:,}"
    return f"; were that the true difference, {rows} rows would tell"


def _no_worse(c: Candidate, case: Case) -> bool:
    """Whether a cell that is not told apart from the best lost to the chosen one by simplicity or the objective, and
    not for want of proof: one that looks better by the objective, and is more complex, has to be shown good enough."""
    volume = volume_of(case.facts, case.rule)
    return score(c, case.rule, volume) >= score(case.chosen, case.rule, volume)


def _lost(c: Candidate, case: Case) -> str:
    """Why a cell that was good enough was not the one."""
    rule, chosen = case.rule, case.chosen
    name, volume = case.names[chosen.id], volume_of(case.facts, rule)
    if c in case.found.passed:
        return f"{name} is no worse in quality, p95, memory and cost, and as simple."
    if rule.objective == QUALITY:
        pair = case.facts.pairs[case.best.id].get(c.id)
        if pair and pair.high < 0:
            return f"Its interval against the best lies below 0: {told(pair, 0.0)}."
        if c.quality < chosen.quality and c.rank == chosen.rank:
            return f"Its quality is lower{_apart(share(c.quality), share(chosen.quality))}."
        other = "the best" if pair else f"that of {name}"
        return f"Its quality cannot be told apart from {other}, and {_instead(c, case)}."
    what, mine, theirs = OBJECTIVES[rule.objective], value(c, case), value(chosen, case)
    a, b = score(c, rule, volume), score(chosen, rule, volume)
    if a == b:
        return f"Its {what} is the same, {mine}, and {_instead(c, case)}."
    if a < b:
        return f"Its {what} ({mine}) cannot be told apart from {theirs}, and {_instead(c, case)}."
    return f"Its {what} is higher{_apart(mine, theirs)}."


def _apart(mine: str, theirs: str) -> str:
    return f": {mine} against {theirs}" if mine != theirs else " by less than this table rounds"


def _instead(c: Candidate, case: Case) -> str:
    """What speaks for the chosen cell against one that the objective does not tell apart from it."""
    chosen, name = case.chosen, case.names[case.chosen.id]
    if c.rank > chosen.rank:
        return f"{name} is simpler"
    if dominates(chosen, c, volume_of(case.facts, case.rule)):
        return f"{name} is no worse in the rest"
    return f"as both are as simple, {name} comes first by name"
