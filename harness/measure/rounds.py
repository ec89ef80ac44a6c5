"""Puts the rounds of a cell's latencies together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from statistics import median

from harness.measure.load import quantiles
from harness.types import Measurement


def pooled(rounds: Sequence[Sequence[Measurement]]) -> list[Measurement]:
    """The measurements of all rounds as one: quantiles of all samples together, which are as many events as one round
    has, since each times the same prompts and what these take differs more than what rounds do; of other numbers the
    highest where it is a peak of memory or a flag, else the median; what only one round took as it is. `round_drift` is
    how many times as long the slowest round's median request took as the fastest's."""
    if len(rounds) < 2:
        return [m for measured in rounds for m in measured]
    taken: dict[str, list[Measurement]] = {}
    for m in chain.from_iterable(rounds):
        taken.setdefault(m.metric, []).append(m)
    found: list[Measurement] = []
    for metric, same in taken.items():
        first = same[0]
        base, _, quantile = metric.rpartition("/")
        samples = tuple(s for m in same for s in m.samples)
        if quantile == "p50" and samples:
            found += quantiles(base, samples, events=max(m.n for m in same))
        elif not (quantile == "p95" and any(m.samples for m in taken.get(f"{base}/p50", ()))):
            values = [m.value for m in same]
            value = max(values) if first.unit in ("bytes", "flag") else median(values)
            found.append(
                Measurement(
                    metric, value, first.unit, first.better, sum(m.n for m in same),
                    first.interval if len(same) == 1 else None, samples,
                )
            )  # fmt: skip
    medians = [m.value for m in taken.get("e2e_ms/p50", ())]
    if len(medians) > 1:
        found.append(Measurement("round_drift", max(medians) / min(medians), "×", "lower", len(medians)))
    return found
