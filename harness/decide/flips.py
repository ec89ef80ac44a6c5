"""What would change the choice: for each knob, where the next other cell is chosen on either side, found exactly.

A stricter limit or margin only takes cells away, and a choice stays as it is until a cell that it rests on goes: the
best, the first by the objective, those that tell others to be behind, the chosen, and those passed on the way. So each
such knob is walked from loose to strict, from one of these cells' values to the next. For volume and price the choice
can change only where two cost lines cross.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.decide.facts import Candidate, Facts, or_inf
from harness.decide.findings import Flip
from harness.decide.policy import COST, P95, Policy
from harness.decide.rule import Judgement, choose, gap, judge, volume_of
from harness.wording import edge

NEXT_TO = 1e-9  # how far beside a crossing the rule is asked, as a share of it
FEWEST = 100.0  # requests, where the slider of the page begins: nobody builds for fewer
LIMITS = (
    ("min_quality", "share", "lowest_quality", "quality floor"),
    ("max_p95_e2e_ms", "ms", "p95_ms", "limit on the p95 response time"),
    ("max_memory_bytes", "bytes", "memory_bytes", "limit on peak memory"),
)


def flips(
    facts: Facts, policy: Policy, names: Mapping[str, str], hourly_usd: float | None, answer: str = ""
) -> tuple[Flip, ...]:
    """The nearest flips of every knob; nothing where nothing is chosen. `hourly_usd` is the price of the hardware,
    `answer` that whose p95 was measured."""
    now = choose(facts, policy)
    if now is None:
        return ()
    found: list[Flip] = []
    for knob, unit, field, words in LIMITS:
        words += f" of a {answer}" if answer and field == "p95_ms" else ""
        points = sorted({v for c in facts.candidates if (v := getattr(c, field)) is not None})
        found += _limit_flips(facts, policy, knob, unit, field, words, points, now, names)
    found += _margin_flips(facts, policy, now, names)
    found += _line_flips(facts, policy, now, names, hourly_usd)
    return tuple(found)


def _sentence(where: str, to: str | None, names: Mapping[str, str], nth: str = "first") -> str:
    """What comes first beyond an edge: from there on, others may be chosen, but where no cell is left none is."""
    return f"The choice {nth} changes with {where}: to {names[to]}." if to else f"With {where}, no cell is left."


def _flip(
    knob: str, unit: str, words: str, now: float | None, at: float, side: str, to: str | None, names: Mapping[str, str],
    ask: Callable[[float], Judgement], nth: str = "first",
) -> Flip:  # fmt: skip
    told = edge(at, "points" if knob == "margin" else unit, side, lambda v: ask(v).chosen_id == to)
    where = f"{words} {side} {told}{' an hour' if knob == 'usd_per_hour' else ''}"
    return Flip(knob, unit, now, at, side, to, told, _sentence(where, to, names, nth))


def nearest(
    ask: Callable[[float], Judgement], rests: Callable[[Judgement], float], start: float, loosest: float,
    strictest: float, now: str,
) -> list[tuple[float, bool, str | None]]:  # fmt: skip
    """The first value on each side of `start` beyond which another cell is chosen: the value, whether that side is the
    stricter one, that cell. A choice found at one value stands up to the value that it `rests` on, toward `strictest`.
    """
    toward = strictest - loosest
    found: list[tuple[float, bool, str | None]] = []

    def walk(value: float, end: float) -> Iterator[tuple[float, Judgement]]:
        while (end - value) * toward > 0:
            judged = ask(value)
            if judged.chosen is None:
                yield end, judged
                return
            until = rests(judged)
            assert (until - value) * toward >= 0, "a choice rests on cells that it does not have"
            yield until, judged
            value = math.nextafter(until, strictest)

    for until, judged in walk(loosest, start):
        if judged.chosen_id != now:
            found = [(until, False, judged.chosen_id)]
    found = [f for f in found if (start - f[0]) * toward >= 0]
    at = start
    for until, judged in walk(start, strictest):
        if judged.chosen_id != now:
            return [*found, (at, True, judged.chosen_id)]
        at = until
    return found


def _keys(found: Judgement) -> list[Candidate]:
    """The cells that a choice rests on."""
    return [c for c in (found.best, found.front, *found.bars, *found.passed, found.chosen) if c is not None]


def _limit_flips(
    facts: Facts, policy: Policy, knob: str, unit: str, field: str, words: str, points: Sequence[float], now: str,
    names: Mapping[str, str],
) -> list[Flip]:  # fmt: skip
    if not points:
        return []
    is_floor = knob.startswith("min_")
    set_to = getattr(policy, knob)
    loosest, strictest = (0.0, 1.0) if is_floor else (points[-1], 0.0)
    start = loosest if set_to is None else set_to if is_floor else min(set_to, loosest)

    def ask(value: float) -> Judgement:
        changed: Any = {knob: value}
        return judge(facts, replace(policy, **changed))

    def rests(found: Judgement) -> float:
        values = [getattr(c, field) for c in _keys(found)]
        return float(min(values) if is_floor else max(values))

    told, nth = [], "first"
    first = ask(start).chosen_id
    if set_to is None and first != now:  # what was not measured breaks every limit
        text = _sentence(f"any {words}", first, names)
        told.append(Flip(knob, unit, None, math.inf, "at", first, "any limit", text))
        if first is None:
            return told
        now, nth = first, "next"
    for at, stricter, to in nearest(ask, rests, start, loosest, strictest, now):
        side = "above" if is_floor == stricter else "below"
        told.append(_flip(knob, unit, f"a {words}", set_to, at, side, to, names, ask, nth))
    return told


def _margin_flips(facts: Facts, policy: Policy, now: str, names: Mapping[str, str]) -> list[Flip]:
    def ask(value: float) -> Judgement:
        return judge(facts, replace(policy, margin=value))

    def rests(found: Judgement) -> float:
        """The margin below which the first by the objective, or one that tells others to be behind, is no longer good
        enough, or what is chosen before dominance counts no longer may be."""
        best, front, chosen = found.best, found.front, (*found.passed, found.chosen)[0]
        assert best is not None
        assert front is not None
        assert chosen is not None
        pairs = facts.pairs.get(best.id, {})
        by_quality = policy.objective not in (COST, P95)

        def least(c: Candidate, may_be_alike: bool) -> float:
            if c is best:
                return 0.0
            p = pairs[c.id]
            alike = -p.delta if p.high >= 0 and may_be_alike else math.inf
            return alike if by_quality else min(-p.low, alike)

        simpler = chosen.rank < best.rank or chosen.rank < front.rank
        ahead = (least(c, c.rank < best.rank) for c in (front, *found.bars))
        return max(*ahead, least(chosen, by_quality or simpler), 0.0)

    told = []
    for at, stricter, to in nearest(ask, rests, policy.margin, 1.0, 0.0, now):
        side = "below" if stricter else "above"
        told.append(_flip("margin", "share", "a margin", policy.margin, at, side, to, names, ask))
    return told


def _line_flips(
    facts: Facts, policy: Policy, now: str, names: Mapping[str, str], hourly_usd: float | None
) -> list[Flip]:
    """Flips of volume and hourly price. Costs are lines in 1 / volume, and in the price of an hour."""
    volume = volume_of(facts, policy)

    def of_volume(requests: float) -> Judgement:
        return judge(facts, replace(policy, volume_requests=requests))

    def of_price(usd: float) -> Judgement:
        return judge(facts, policy, usd / (hourly_usd or 1.0))

    def served(c: Candidate, rival: Candidate | None) -> float:
        assert c.cost is not None
        return c.cost.serving_usd_per_1000 + (gap(c, rival, facts, policy) if rival else 0.0)

    def volume_line(c: Candidate, rival: Candidate | None = None) -> tuple[float, float]:
        assert c.cost is not None
        return served(c, rival), 1000 * c.cost.once_usd

    def price_line(c: Candidate, rival: Candidate | None = None) -> tuple[float, float]:
        assert c.cost is not None
        built = 1000 * (c.cost.once_usd - c.cost.labelling_usd) / volume
        return 1000 * c.cost.labelling_usd / volume, served(c, rival) + built

    found = []
    for step in (1, -1):
        hit = walk(lambda z: of_volume(1 / z), volume_line, 1 / volume, step, now)
        if hit and 1 / hit[0] >= FEWEST:
            at, side = 1 / hit[0], "below" if step > 0 else "above"
            found.append(_flip("volume_requests", "requests", "a volume", volume, at, side, hit[1], names, of_volume))
    for step in (-1, 1):
        if hourly_usd and (hit := walk(lambda z: judge(facts, policy, z), price_line, 1.0, step, now)):
            at, side, words = hit[0] * hourly_usd, "above" if step > 0 else "below", "hardware at a price"
            found.append(_flip("usd_per_hour", "USD", words, hourly_usd, at, side, hit[1], names, of_price))
    return found


def walk(
    ask: Callable[[float], Judgement], line: Callable[..., tuple[float, float]], start: float, step: int, now: str
) -> tuple[float, str | None] | None:  # fmt: skip
    """The first z from `start` on, in the direction of `step`, beyond which another cell is chosen, and that cell.
    Costs are `a + b * z`; the choice can change only where the line of a cell that others are behind, the one up to
    which a rival is not told apart from it, or that of a cell that stood to be chosen crosses that of a rival, so each
    step goes to the nearest such crossing."""
    at, z = start, start * (1 + step * 2 * NEXT_TO)  # two cells may cost the same at the start itself
    while True:
        found = ask(z)
        if found.chosen_id != now:
            return at, found.chosen_id
        bars = [c for c in found.bars if c.cost is not None]
        leading = {c.id: c for c in (found.front, *bars, *found.passed, found.chosen) if c and c.cost}.values()
        rivals = [c for c in _rivals(found) if c.cost is not None]
        lines = [(line(c), line(r)) for c in leading for r in rivals]
        lines += [(line(b, r), line(r)) for b in bars for r in rivals]
        crossings = [
            x for (a, b), (c, d) in lines if b != d and math.isfinite(x := (a - c) / (d - b))
            and x > 0 and (x - z) * step > abs(z) * NEXT_TO
        ]  # fmt: skip
        if not crossings:
            return None
        at = min(crossings) if step > 0 else max(crossings)
        z = at * (1 + step * 2 * NEXT_TO)


def _rivals(found: Judgement) -> list[Candidate]:
    """The cells that costs alone can bring to be chosen: those good enough or alike, and those that are no worse than a
    cell the choice rests on in all but cost."""
    near = {c.id for c in (*found.good, *found.alike)}
    keys = _keys(found)
    return [c for c in found.holding if c.id in near or any(_no_worse(c, k) for k in keys)]


def _no_worse(c: Candidate, key: Candidate) -> bool:
    return (
        c.quality >= key.quality and c.rank <= key.rank and or_inf(c.p95_ms) <= or_inf(key.p95_ms)
        and (c.memory_bytes or math.inf) <= (key.memory_bytes or math.inf)
    )  # fmt: skip
