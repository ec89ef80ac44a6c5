"""Intervals and tests against values worked out by hand and against scipy and statsmodels."""

from __future__ import annotations

import math
import random

import pytest

from harness import statistics


def test_wilson_by_hand() -> None:
    # 9 of 10, z = 1.96: (0.9 + 0.19207 ± 1.95996·sqrt(0.009 + 0.0096036)) / 1.38415
    found = statistics.wilson(9, 10)
    assert found.low == pytest.approx(0.5958, abs=1e-4)
    assert found.high == pytest.approx(0.9821, abs=1e-4)
    assert found.method == "wilson"


def test_wilson_agrees_with_statsmodels() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for successes, n in ((0, 5), (1, 48), (24, 48), (250, 250), (199, 288)):
        low, high = proportion.proportion_confint(successes, n, method="wilson")
        found = statistics.wilson(successes, n)
        assert [found.low, found.high] == pytest.approx([low, high])


def test_wilson_keeps_width_at_the_ends_and_stays_a_share() -> None:
    none, every = statistics.wilson(0, 20), statistics.wilson(20, 20)
    assert none.low == 0.0
    assert none.high > 0.1
    assert every.high == 1.0
    assert every.low < 0.9
    with pytest.raises(ValueError, match="0 successes of 0"):
        statistics.wilson(0, 0)


@pytest.mark.parametrize(("gained", "lost", "p"), [(10, 3, 0.09228515625), (5, 0, 0.0625), (0, 0, 1.0), (4, 4, 1.0)])
def test_mcnemar_by_hand(gained: int, lost: int, p: float) -> None:
    # 10 against 3: 2·(1 + 13 + 78 + 286) / 2^13; 5 against 0: 2 / 2^5
    assert statistics.mcnemar(gained, lost) == pytest.approx(p, abs=1e-12)
    assert statistics.mcnemar(lost, gained) == pytest.approx(p, abs=1e-12)


def test_mcnemar_agrees_with_scipy_even_for_many_flips() -> None:
    stats = pytest.importorskip("scipy.stats")
    for gained, lost in ((1, 7), (30, 55), (900, 1100), (3000, 3000)):
        assert statistics.mcnemar(gained, lost) == pytest.approx(
            stats.binomtest(gained, gained + lost).pvalue, rel=1e-6
        )


def test_paired_counts_flips_both_ways() -> None:
    found = statistics.paired([1, 1, 1, 0, 0, 1], [0, 0, 1, 1, 0, 1])
    assert (found.gained, found.lost, found.n) == (2, 1, 6)
    assert found.delta == pytest.approx(1 / 6)
    assert found.low < found.delta < found.high
    assert found.disagreement == pytest.approx(0.5)


def test_no_flip_is_not_certainty() -> None:
    found = statistics.paired([1] * 48, [1] * 48)
    assert found.delta == 0
    assert found.p == 1
    assert found.low <= -0.03
    assert found.high >= 0.03


def test_paired_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, hits, runs = random.Random(7), 0, 300
    for run in range(runs):
        kinds = rng.choices(("gained", "lost", "same"), (0.2, 0.1, 0.7), k=120)
        a = [1 if k == "gained" else 0 for k in kinds]
        b = [1 if k == "lost" else 0 for k in kinds]
        found = statistics.paired(a, b, seed=run)
        hits += found.low <= 0.1 <= found.high
    assert 0.92 <= hits / runs <= 0.985


@pytest.mark.parametrize(("a", "b"), [([], []), ([1], [1, 0]), ([0.5], [1])])
def test_paired_refuses_what_it_cannot_compare(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match=r"cannot be paired|only 0/1"):
        statistics.paired(a, b)


def test_holm_by_hand() -> None:
    found = statistics.holm({"a": 0.04, "b": 0.01, "c": 0.03})
    assert found == {"a": pytest.approx(0.06), "b": pytest.approx(0.03), "c": pytest.approx(0.06)}
    assert list(found) == ["a", "b", "c"]
    assert statistics.holm({}) == {}
    assert statistics.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_detectable_difference_turns_rows_needed_round() -> None:
    # Connor: (1.95996·sqrt(0.2) + 0.84162·sqrt(0.2 - 0.0025))² / 0.0025 = 625.2
    assert statistics.rows_needed(0.05, 0.2) == 626
    assert statistics.detectable_difference(626, 0.2) == pytest.approx(0.05, abs=1e-4)
    assert statistics.detectable_difference(48, 0.2) > statistics.detectable_difference(288, 0.2)
    assert statistics.detectable_difference(3, 0.2) == math.inf
    assert statistics.detectable_difference(0, 0.2) == math.inf


def test_bootstrap_holds_the_value_and_repeats() -> None:
    rng = random.Random(1)
    samples = [rng.gauss(100, 10) for _ in range(200)]
    mean, p95 = statistics.bootstrap_mean(samples), statistics.bootstrap_quantile(samples, 0.95)
    assert mean.low < sum(samples) / 200 < mean.high
    # ± 1.96·10/sqrt(200) = ± 1.39
    assert mean.high - mean.low == pytest.approx(2.77, rel=0.15)
    assert p95.low < 116.4 < p95.high
    assert statistics.bootstrap_mean(samples) == mean
    with pytest.raises(ValueError, match="no samples"):
        statistics.bootstrap_mean([])
