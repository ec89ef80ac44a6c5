"""Latencies in rounds: pooled exactly, and in an order in which drift hits all cells alike."""

from __future__ import annotations

from itertools import pairwise

import numpy
import pytest

from harness.measure.load import quantiles
from harness.measure.rounds import pooled
from harness.plan import plan
from harness.statistics import quantile_interval
from harness.types import Measurement, StepKind
from tests.cells import MACHINE, data_of, grid


def taken(times: list[float], memory: float, rate: float) -> list[Measurement]:
    return [
        *quantiles("e2e_ms", times),
        Measurement("memory_bytes/peak_rss", memory, "bytes", "lower", 1),
        Measurement("throughput_tokens_per_s", rate, "tok/s", "higher", 4, None, (rate,)),
    ]


def test_samples_are_pooled_and_peaks_kept() -> None:
    only = Measurement("goodput_requests_per_s", 7.0, "req/s", "higher", 50)
    rounds = [[*taken([10.0, 20.0, 30.0], 5e9, 100.0), only], taken([40.0, 50.0], 7e9, 60.0)]
    found = {m.metric: m for m in pooled(rounds)}
    every = [10.0, 20.0, 30.0, 40.0, 50.0]
    assert found["e2e_ms/p50"].samples == tuple(every)
    assert found["e2e_ms/p50"].value == 30.0
    assert found["e2e_ms/p95"].value == pytest.approx(numpy.quantile(every, 0.95))
    assert found["e2e_ms/p95"].n == 3, "the same prompts in each round"
    assert found["e2e_ms/p95"].interval == quantile_interval(every, 0.95, 3)
    assert found["memory_bytes/peak_rss"].value == 7e9
    assert found["throughput_tokens_per_s"].value == 80.0
    assert found["throughput_tokens_per_s"].samples == (100.0, 60.0)
    assert found["goodput_requests_per_s"] == only
    assert found["round_drift"].value == 45 / 20
    assert len(found) == len(pooled(rounds)) == 6


def test_prompts_that_a_round_repeats_stay_one_event_each() -> None:
    rounds = [quantiles("itl_ms", [1.0, 2.0, 3.0, 4.0, 5.0, n], events=2) for n in (6.0, 7.0)]
    assert [m.n for m in pooled(rounds)] == [2, 2]


def test_what_only_a_later_round_took_is_kept() -> None:
    """The first round may have failed, or had nothing to count."""
    rest = [Measurement("adapter/count", 3.0, "adapters", "higher", 1), *quantiles("e2e_natural_ms", [5.0, 7.0])]
    found = {m.metric: m for m in pooled([taken([10.0], 5e9, 100.0), [*taken([20.0], 5e9, 100.0), *rest]])}
    assert found["adapter/count"] == rest[0]
    assert found["e2e_natural_ms/p50"].samples == (5.0, 7.0)
    assert found["e2e_natural_ms/p95"].value == pytest.approx(6.9)
    assert found["round_drift"].value == 2.0
    assert len([m for m in pooled([taken([10.0], 5e9, 1.0), [*rest]]) if m.metric == "e2e_natural_ms/p95"]) == 1


def test_one_round_is_as_it_was() -> None:
    one = taken([10.0, 20.0], 5e9, 100.0)
    assert pooled([one]) == one
    assert pooled([]) == []


def test_rounds_go_there_and_back() -> None:
    """All cells are timed once before any is timed again, and then the other way round."""
    cells = grid("measure.latency.rounds=3")
    made = plan(cells, data_of(cells), MACHINE)
    timed = [s for s in made.steps.values() if s.kind is StepKind.LATENCY]
    names = [s.title.split(" · ")[1] for s in timed]
    first, second, third = names[:15], names[15:30], names[30:]
    assert second == first[::-1]
    assert third == first
    assert [s.preimage.get("round", 1) for s in timed] == [1] * 15 + [2] * 15 + [3] * 15
    assert list(made.chains[cells[0].id]) == [
        "base",
        "adapt",
        "quantize",
        "quality",
        "latency",
        "latency 2",
        "latency 3",
    ]


def test_more_rounds_keep_those_there_are() -> None:
    one, three = grid(), grid("measure.latency.rounds=3")
    before, after = (set(plan(c, data_of(c), MACHINE).steps) for c in (one, three))
    assert before < after
    assert len(after - before) == 30


def test_steps_still_come_after_their_parents() -> None:
    cells = grid("measure.latency.rounds=2")
    order = list(plan(cells, data_of(cells), MACHINE).steps.values())
    place = {s.key: n for n, s in enumerate(order)}
    assert all(place[p] < place[s.key] for s in order for p in s.parents)
    kinds = [s.preimage.get("round", 1) for s in order]
    assert all(a <= b for a, b in pairwise(kinds))
