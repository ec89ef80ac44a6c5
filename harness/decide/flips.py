"""What would change the choice: for each knob, where the next other cell is chosen on either side, found exactly.

The choice is constant between few points: measured values for limits, ends of intervals for the margin, and where two
cost lines cross for volume and price. So it is enough to walk over these from where the policy stands, and to ask the
rule between two of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from harness.decide.facts import Candidate, Facts
from harness.decide.findings import Flip
from harness.decide.policy import Policy
from harness.decide.rule import Judgement, choose, judge, volume_of
from harness.wording import number, significant

NEXT_TO = 1e-9  # how far beside a crossing the rule is asked, as a share of it
LIMITS = (
    ("min_quality", "share", "lowest_quality", "quality floor"),
    ("max_p95_e2e_ms", "ms", "p95_ms", "limit on the p95 response time"),
    ("max_memory_bytes", "bytes", "memory_bytes", "limit on peak memory"),
)


def flips(facts: Facts, policy: Policy, names: Mapping[str, str], hourly_usd: float | None) -> tuple[Flip, ...]:
    """The nearest flips of every knob; nothing where nothing is chosen. `hourly_usd` is the price of the hardware."""
    now = choose(facts, policy)
    if now is None:
        return ()
    found: list[Flip] = []
    for knob, unit, field, words in LIMITS:
        points = sorted({v for c in facts.candidates if (v := getattr(c, field)) is not None})
        found += _limit_flips(facts, policy, knob, unit, words, points, now, names)
    found += _margin_flips(facts, policy, now, names)
    found += _line_flips(facts, policy, now, names, hourly_usd)
    return tuple(found)


def _told(to: str | None, names: Mapping[str, str]) -> str:
    return f"{names[to]} is chosen" if to else "no cell is left"


def outward(
    points: Sequence[float], start: float, ask: Callable[[float], str | None], now: str | None, lowest: float,
    highest: float,
) -> list[tuple[float, str, str | None]]:  # fmt: skip
    """The first point on each side of `start` beyond which another cell is chosen: the point, its side, that cell."""
    found = []
    above = [p for p in points if p >= start and p < highest]
    for at, after in pairwise([*above, highest]):
        middle = (at + after) / 2 if math.isfinite(after) else 2 * abs(at) + 1
        if (to := ask(middle)) != now:
            found.append((at, "above", to))
            break
    below = [p for p in reversed(points) if p <= start and p > lowest]
    for at, after in pairwise([*below, lowest]):
        if (to := ask((at + after) / 2)) != now:
            found.append((at, "below", to))
            break
    return found


def _limit_flips(
    facts: Facts, policy: Policy, knob: str, unit: str, words: str, points: Sequence[float], now: str,
    names: Mapping[str, str],
) -> list[Flip]:  # fmt: skip
    is_floor = knob.startswith("min_")
    set_to = getattr(policy, knob)
    start = set_to if set_to is not None else 0.0 if is_floor else math.inf
    highest = 1.0 + 1e-9 if is_floor else math.inf
    lowest = -1e-9 if is_floor else 0.0

    def ask(value: float) -> str | None:
        changed: Any = {knob: value}
        return choose(facts, replace(policy, **changed))

    return [
        Flip(
            knob, unit, set_to, at, side, to,
            f"With a {words} {'above' if side == 'above' else 'below'} {_precise(at, unit)}, {_told(to, names)}.",
        )
        for at, side, to in outward(points, start, ask, now, lowest, highest)
    ]  # fmt: skip


def _precise(value: float, unit: str) -> str:
    """A flip point, in shares with a decimal."""
    return f"{100 * value:.1f}%" if unit == "share" else number(value, unit)


def _margin_flips(facts: Facts, policy: Policy, now: str, names: Mapping[str, str]) -> list[Flip]:
    found = judge(facts, policy)
    assert found.best is not None
    pairs = facts.pairs.get(found.best.id, {})
    points = sorted({v for p in pairs.values() for v in (-p.low, -p.delta) if 0 <= v <= 1})

    def ask(value: float) -> str | None:
        return choose(facts, replace(policy, margin=value))

    return [
        Flip(
            "margin", "share", policy.margin, at, side, to,
            f"With a margin {side} {100 * at:.1f} points, {_told(to, names)}.",
        )
        for at, side, to in outward(points, policy.margin, ask, now, -1e-9, 1.0)
    ]  # fmt: skip


def _line_flips(
    facts: Facts, policy: Policy, now: str, names: Mapping[str, str], hourly_usd: float | None
) -> list[Flip]:
    """Flips of volume and hourly price. Costs are lines in 1 / volume, and in the price of an hour."""
    volume = volume_of(facts, policy)

    def by_volume(z: float) -> Judgement:
        return judge(facts, replace(policy, volume_requests=1 / z))

    def by_price(z: float) -> Judgement:
        return judge(facts, policy, z)

    def volume_line(c: Candidate, high: bool) -> tuple[float, float]:
        assert c.cost is not None
        return c.cost.serving_usd_per_1000 * (1 + high * c.cost.spread), 1000 * c.cost.once_usd

    def price_line(c: Candidate, high: bool) -> tuple[float, float]:
        assert c.cost is not None
        built = 1000 * (c.cost.once_usd - c.cost.labelling_usd) / volume
        return 1000 * c.cost.labelling_usd / volume, c.cost.serving_usd_per_1000 * (1 + high * c.cost.spread) + built

    found = []
    for step in (1, -1):
        if hit := walk(by_volume, volume_line, 1 / volume, step, now):
            at, side = 1 / hit[0], "below" if step > 0 else "above"
            text = f"With a volume {side} {significant(at)} requests, {_told(hit[1], names)}."
            found.append(Flip("volume_requests", "requests", volume, at, side, hit[1], text))
    for step in (-1, 1):
        if hourly_usd and (hit := walk(by_price, price_line, 1.0, step, now)):
            at, side = hit[0] * hourly_usd, "above" if step > 0 else "below"
            text = f"With hardware at a price {side} {number(at, 'USD')} an hour, {_told(hit[1], names)}."
            found.append(Flip("usd_per_hour", "USD", hourly_usd, at, side, hit[1], text))
    return found


def walk(
    ask: Callable[[float], Judgement], line: Callable[[Candidate, bool], tuple[float, float]], start: float, step: int,
    now: str,
) -> tuple[float, str | None] | None:  # fmt: skip
    """The first z beyond `start` in the direction of `step` where another cell is chosen, and that cell. Costs are
    `a + b * z`; the choice can change only where the line of the leading cell, its upper end, or that of a cell that
    stood to be chosen crosses another's, so each step goes to the nearest such crossing."""
    z, found = start, ask(start)
    while True:
        priced = [c for c in found.holding if c.cost is not None]
        leading = [c for c in (found.front, *found.passed, found.chosen) if c is not None and c.cost is not None]
        ends = [line(c, False) for c in leading] + ([line(found.front, True)] if found.front in leading else [])
        lines = [line(c, False) for c in priced]
        crossings = [
            (a - c) / (d - b) for a, b in ends for c, d in lines if b != d and math.isfinite(at := (a - c) / (d - b))
            and at > 0 and (at - z) * step > abs(z) * NEXT_TO
        ]  # fmt: skip
        if not crossings:
            return None
        at = min(crossings) if step > 0 else max(crossings)
        z = at * (1 + step * 2 * NEXT_TO)
        found = ask(z)
        if found.chosen is None or found.chosen.id != now:
            return at, found.chosen.id if found.chosen else None
