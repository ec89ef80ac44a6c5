"""The rule of choice, small enough to be written twice: here, and in the script of the page.

    candidates that hold the limits
      -> the one of highest quality
      -> those good enough: shown to be within the margin of it (the whole 95% interval), or simpler than it and not
         told apart from it (the interval reaches 0, the measured difference stays within the margin)
      -> the simplest of those that the objective tells none of them to be ahead of, by the errors of both and the pace
         of whole timings
      -> never one that another beats in all that counts

Complexity has to be shown to pay: a simpler cell that cannot be told apart from the best needs no proof, while one that
is more complex has to be shown to be as good. The measured difference must stay within the margin in both cases, so
that having few rows does not speak for a cell that looks worse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.decide.facts import Candidate, Facts, or_inf
from harness.decide.policy import COST, P95, Policy
from harness.types import Pair


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a choice came about. `holding` hold the limits; `shown` are shown to be within the margin of `best`, `alike`
    cannot be told apart from it; `good` are those good enough, `front` the best of them by the objective, and `bars`
    those by which others are told to be behind; `group` are those that neither quality nor the objective tells apart
    from the chosen, simplest first. `passed` were the choice until one that dominates them was found."""

    holding: tuple[Candidate, ...] = ()
    best: Candidate | None = None
    shown: tuple[Candidate, ...] = ()
    alike: tuple[Candidate, ...] = ()
    good: tuple[Candidate, ...] = ()
    front: Candidate | None = None
    bars: tuple[Candidate, ...] = ()
    group: tuple[Candidate, ...] = ()
    passed: tuple[Candidate, ...] = ()
    chosen: Candidate | None = None

    @property
    def chosen_id(self) -> str | None:
        return self.chosen.id if self.chosen else None


def simple(c: Candidate) -> tuple[int, str]:
    """Sorts the simpler first; names settle the rest."""
    return c.rank, c.id


def holds(c: Candidate, policy: Policy) -> bool:
    """Whether a candidate breaks no limit; what was not measured breaks a limit that is set."""
    return (
        (policy.min_quality is None or c.lowest_quality >= policy.min_quality)
        and (policy.max_p95_e2e_ms is None or (c.p95_ms is not None and c.p95_ms <= policy.max_p95_e2e_ms))
        and (policy.max_memory_bytes is None or (c.memory_bytes or math.inf) <= policy.max_memory_bytes)
        and (policy.min_valid is None or (c.valid is not None and c.valid >= policy.min_valid))
    )


def volume_of(facts: Facts, policy: Policy) -> float:
    """The requests that pay for what is done once."""
    return policy.volume_requests or facts.volume_requests


def score(c: Candidate, policy: Policy, volume: float, hourly: float = 1.0) -> float:
    """What the objective makes small."""
    if policy.objective == COST:
        return c.cost.usd_per_1000(volume, hourly) if c.cost else math.inf
    if policy.objective == P95:
        return or_inf(c.p95_ms)
    return -c.quality


def pace_of(facts: Facts, policy: Policy, objective: str) -> float:
    """How many times as slow a whole timing may be with nothing changed: the policy's, or what twins show."""
    return facts.twins[objective].pace if objective in facts.twins else policy.pace


def own_pace(facts: Facts, policy: Policy, objective: str) -> float:
    """How far one timing lies from what it would be on average, in logs: two of them differ by the pace."""
    return math.log(pace_of(facts, policy, objective)) / math.sqrt(2)


def timed(c: Candidate, policy: Policy, hourly: float = 1.0) -> float:
    """What of the objective's number is in proportion to a timing."""
    if policy.objective == COST and c.cost:
        return hourly * c.cost.serving_usd_per_1000
    return c.p95_ms or 0.0 if policy.objective == P95 else 0.0


def wide(c: Candidate, facts: Facts, policy: Policy) -> float:
    """Half the width of its interval, in logs: what a cost's samples and a p95's seeds show, and the pace of a whole
    timing."""
    spread = math.log1p(c.cost.spread) if policy.objective == COST and c.cost else c.p95_spread
    return math.hypot(spread, own_pace(facts, policy, policy.objective))


def gap(a: Candidate, b: Candidate, facts: Facts, policy: Policy, hourly: float = 1.0) -> float:
    """By how much `b` may lie above `a` in the objective and not be told apart from it: as far as timings may be off
    the one that weighs more, be it `b`'s, where most of what `a` costs is done once."""
    far = facts.apart * math.hypot(wide(a, facts, policy), wide(b, facts, policy))
    return max(timed(a, policy, hourly), timed(b, policy, hourly) * math.exp(-far)) * math.expm1(far)


def ahead(a: Candidate, b: Candidate, facts: Facts, policy: Policy, hourly: float = 1.0) -> bool:
    """Whether the objective tells that `a` is better than `b`."""
    volume = volume_of(facts, policy)
    return score(a, policy, volume, hourly) + gap(a, b, facts, policy, hourly) < score(b, policy, volume, hourly)


def _bars(good: Sequence[Candidate], facts: Facts, policy: Policy, hourly: float) -> tuple[Candidate, ...]:
    """Of those good enough, each that no other is both as good as by the objective and known as well as: what any of
    them is ahead of, one of these is."""
    volume = volume_of(facts, policy)
    found: list[tuple[Candidate, float, float]] = []
    for c in sorted(good, key=lambda c: score(c, policy, volume, hourly)):
        time, error = timed(c, policy, hourly), wide(c, facts, policy)
        if not any(t <= time and e <= error for _, t, e in found):
            found.append((c, time, error))
    return tuple(c for c, _, _ in found)


def dominates(a: Candidate, b: Candidate, volume: float, hourly: float = 1.0) -> bool:
    """Whether `a` is no worse than `b` in quality, p95, memory, cost and simplicity, and better in one of them. Among
    equally simple cells this is the usual Pareto dominance."""
    left, right = _all_that_counts(a, volume, hourly), _all_that_counts(b, volume, hourly)
    return left != right and all(x <= y for x, y in zip(left, right, strict=True))


def _all_that_counts(c: Candidate, volume: float, hourly: float) -> tuple[float, ...]:
    usd = c.cost.usd_per_1000(volume, hourly) if c.cost else math.inf
    return -c.quality, or_inf(c.p95_ms), or_inf(c.memory_bytes), usd, c.rank


def alike(pair: Pair, margin: float) -> bool:
    """Whether a cell cannot be told apart from the best, and looks no worse than the margin allows."""
    return pair.high >= 0 and pair.delta >= -margin


def judge(facts: Facts, policy: Policy, hourly: float = 1.0) -> Judgement:
    """The choice and how it came about; `hourly` times the price of an hour of hardware."""
    volume, by_number = volume_of(facts, policy), policy.objective in (COST, P95)
    holding = tuple(c for c in facts.candidates if holds(c, policy))
    if not holding:
        return Judgement()
    best = min(holding, key=lambda c: (-c.quality, *simple(c)))
    pairs = facts.pairs.get(best.id, {})
    paired = [(c, p) for c in holding if c is not best and (p := pairs.get(c.id))]
    shown = (best, *(c for c, p in paired if p.low > -policy.margin))
    same = (best, *(c for c, p in paired if alike(p, policy.margin)))
    proven = {c.id for c in shown}
    good = (*shown, *(c for c in same if c.rank < best.rank and c.id not in proven))
    enough = {c.id for c in good}
    front = best
    bars: tuple[Candidate, ...] = ()
    tied = same
    if by_number:
        front = min(good, key=lambda c: (score(c, policy, volume, hourly), *simple(c)))
        bars = _bars(good, facts, policy, hourly)
        some = {c.id: c for c in (*good, *same)}.values()
        tied = tuple(c for c in some if not any(ahead(b, c, facts, policy, hourly) for b in bars))
    able = [c for c in tied if not by_number or c.id in enough or c.rank < front.rank]
    chosen = min(able, key=lambda c: (c.rank, score(c, policy, volume, hourly), c.id))
    rivals = [best, *(c for c, _ in paired)]
    passed = []
    while better := [
        c for c in rivals
        if c.rank <= chosen.rank and c.quality >= chosen.quality and dominates(c, chosen, volume, hourly)
    ]:  # fmt: skip
        passed.append(chosen)
        chosen = min(better, key=lambda c: (score(c, policy, volume, hourly), *simple(c)))

    def apart(a: Candidate, b: Candidate) -> bool:
        return by_number and (ahead(a, b, facts, policy, hourly) or ahead(b, a, facts, policy, hourly))

    group = [c for c in tied if c is not chosen and c not in passed and not apart(c, chosen)]
    return Judgement(
        holding, best, shown, same, good, front, bars, (chosen, *sorted(group, key=simple)), tuple(passed), chosen
    )


def choose(facts: Facts, policy: Policy) -> str | None:
    """The cell that the rule chooses; None where none holds the limits."""
    return judge(facts, policy).chosen_id
