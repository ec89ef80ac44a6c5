"""Intervals and tests against values worked out by hand and against scipy and statsmodels."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from statistics import fmean
from typing import Any

import numpy
import pytest

from harness import power, statistics
from harness.types import Interval


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


def test_groups_without_a_flip_show_no_more_than_a_row_each() -> None:
    groups = [i // 8 for i in range(192)]
    scores = [float(i % 3 > 0) for i in range(192)]
    found, apart = statistics.paired(scores, scores, groups), statistics.paired([1] * 24, [1] * 24)
    assert (found.low, found.high, found.error) == pytest.approx((apart.low, apart.high, apart.error))
    assert found.smallest() == apart.smallest()
    assert statistics.paired(scores, scores, ["x"] * 192).high > 0.9


@pytest.mark.parametrize(("a", "b"), [([], []), ([1], [1, 0]), ([1.5], [1])])
def test_paired_refuses_what_it_cannot_compare(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match=r"cannot be paired|between 0 and 1"):
        statistics.paired(a, b)


def test_holm_by_hand() -> None:
    found = statistics.holm({"a": 0.04, "b": 0.01, "c": 0.03})
    assert found == {"a": pytest.approx(0.06), "b": pytest.approx(0.03), "c": pytest.approx(0.06)}
    assert list(found) == ["a", "b", "c"]
    assert statistics.holm({}) == {}
    assert statistics.holm({"a": 0.01, "b": 0.02}, 10) == pytest.approx({"a": 0.1, "b": 0.18}), "two of ten"
    assert statistics.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_power_by_hand() -> None:
    # 6 rows that all differ: shown only when all six go one way, 2 / 2^6 = 0.031; five of six would be 0.22
    assert power.mcnemar_power(6, 0.8, 1.0) == pytest.approx(0.9**6 + 0.1**6)
    assert power.mcnemar_power(6, 0.8, 1.0, alpha=1 / 32) == pytest.approx(0.9**6 + 0.1**6)  # just enough
    assert power.mcnemar_power(6, 0.8, 1.0, alpha=0.99 / 32) == 0
    assert power.mcnemar_power(5, 1.0, 1.0) == 0
    assert power.mcnemar_power(0, 0.5, 0.5) == 0


def test_detectable_difference_turns_rows_needed_round() -> None:
    # the usual approximation (Connor 1987) says (1.95996·sqrt(0.2) + 0.84162·sqrt(0.2 - 0.0025))² / 0.0025 = 626
    assert power.rows_needed(0.05, 0.2) == pytest.approx(650, abs=15)
    assert power.detectable_difference(650, 0.2) == pytest.approx(0.05, abs=1e-3)
    assert power.detectable_difference(48, 0.2) > power.detectable_difference(288, 0.2)
    assert power.detectable_difference(288, 0.2, 0.05 / 14) > power.detectable_difference(288, 0.2)
    assert power.detectable_difference(3, 0.2) == math.inf
    assert power.detectable_difference(0, 0.2) == math.inf
    with pytest.raises(ValueError, match="not a share above 0"):
        power.rows_needed(0, 0.2)


def test_sign_flips_over_groups_by_hand() -> None:
    # group totals +2, +1, -1: of the 8 sign choices the sums are ±4, ±2, ±2, 0, 0; |2| or more in 6 of 8
    groups = ["x", "x", "y", "z"]
    assert statistics.paired([1, 1, 1, 0], [0, 0, 0, 1], groups).p == pytest.approx(0.75)
    assert statistics.paired([1, 1, 1, 0], [0, 0, 0, 1]).p == pytest.approx(statistics.mcnemar(3, 1))
    # two totals of 2: (2, 2) is one of four, and so is (-2, -2)
    assert statistics.paired([1] * 4, [0] * 4, ["x", "x", "y", "y"]).p == pytest.approx(0.5)


def test_sign_flips_agree_with_scipy() -> None:
    stats, np = pytest.importorskip("scipy.stats"), pytest.importorskip("numpy")
    rng = np.random.default_rng(5)
    a, b = rng.beta(3, 2, 60), rng.beta(2.6, 2, 60)
    theirs = stats.permutation_test(
        (a, b), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=20_000, rng=1
    )
    assert statistics.paired(a.tolist(), b.tolist()).p == pytest.approx(theirs.pvalue, abs=0.015)
    d = rng.integers(-2, 3, 12)
    exact = stats.permutation_test((d, 0 * d), lambda x, y: (x - y).sum(), permutation_type="samples", n_resamples=9999)
    assert statistics._exact_flips(d.astype(float)) == pytest.approx(exact.pvalue)


def test_clustered_variance_is_that_of_statsmodels_jackknife() -> None:
    np = pytest.importorskip("numpy")
    x, groups = [0.2, 0.4, 0.9, 0.1, 0.5, 0.7], ["a", "a", "b", "c", "c", "c"]
    without = [np.mean([v for v, g in zip(x, groups, strict=True) if g != out]) for out in "abc"]
    sums, sizes = statistics._sums(x, groups)
    mean, variance = statistics._variance(sums, sizes)
    assert mean == pytest.approx(np.mean(x))
    assert variance == pytest.approx(2 / 3 * sum((w - np.mean(x)) ** 2 for w in without))
    alone = statistics._variance(*statistics._sums(x, None))[1]
    assert alone == pytest.approx(np.var(x, ddof=1) / 6)


def test_the_effective_number_of_rows_by_hand() -> None:
    # group means 1, 0.5, 0, 0.5 of two rows each: s² is 1/6, /4; 0.25 over that is 6 rows, less for t with 3 degrees
    found = statistics.share_interval([1, 1, 1, 0, 0, 0, 0, 1], list("aabbccdd"))
    rows = 0.25 / (1 / 6 / 4) * (1.959964 / 3.182446) ** 2
    assert (found.low, found.high) == pytest.approx(
        (statistics.wilson(rows / 2, rows).low, statistics.wilson(rows / 2, rows).high), rel=1e-5
    )


@pytest.mark.parametrize(("rows", "half"), [(2, 0.3499), (100, 0.0098)])
def test_graded_scores_without_variance_are_not_known_exactly(rows: int, half: float) -> None:
    for scores in ([0.5] * rows, [0.5 + 1e-9 * (i % 2) for i in range(rows)]):
        found = statistics.share_interval(scores)
        assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-4)
    varied = [0.1, 0.5, 0.7, 0.9] * 25
    found = statistics.share_interval(varied)
    assert (found.low, found.high) == pytest.approx((0.491, 0.608), abs=1e-3), "others are as they were"


def test_groups_widen_what_rows_alone_make_narrow() -> None:
    scores, groups = [1, 1, 1, 1, 0, 0, 0, 0] * 10, [i // 4 for i in range(80)]
    apart, together = statistics.share_interval(scores), statistics.share_interval(scores, groups)
    assert together.high - together.low > 1.8 * (apart.high - apart.low)
    assert (apart.method, together.method) == ("wilson", "wilson, clustered")
    assert statistics.share_interval([1] * 80, groups).low < statistics.share_interval([1] * 80).low
    a, b = statistics.paired(scores, [0] * 80), statistics.paired(scores, [0] * 80, groups)
    assert b.high - b.low > 1.8 * (a.high - a.low)
    assert b.design_effect == pytest.approx(4, rel=0.2)
    assert b.smallest() > a.smallest()
    assert b.rows_for(0.05) > 3 * a.rows_for(0.05)
    # and never worth more than rows of their own, though here each group has one pass and one failure
    even = statistics.share_interval([1, 0] * 40, [i // 2 for i in range(80)])
    assert even.high - even.low >= statistics.share_interval([1, 0] * 40).high - 0.5


@pytest.mark.parametrize("score", [1.0, 0.75])
@pytest.mark.parametrize(("groups", "comparisons"), [(6, 1), (10, 14)])
def test_too_few_groups_show_no_difference_however_many_rows(groups: int, comparisons: int, score: float) -> None:
    for few, shown in ((groups - 1, False), (groups, True)):
        names = [n % few for n in range(10 * few)]
        alike = statistics.paired([score] * len(names), [0.0] * len(names), names)
        assert (alike.p < 0.05 / comparisons) == shown, "every group changes in one direction, by as much as can be"
        assert math.isfinite(alike.smallest(comparisons)) == shown
        assert alike.rows_for(0.05) > 0


def test_not_worse_is_the_other_side_of_the_interval() -> None:
    found = statistics.paired([1] * 87 + [0] * 10 + [1] * 3, [1] * 92 + [0] * 8)
    assert found.p_not_worse(-found.low) == pytest.approx(0.025, abs=1e-6)
    assert found.p_not_worse(0.5) < 0.001 < found.p_not_worse(0.0)


def test_graded_differences_have_a_width_of_their_own_size() -> None:
    a, b = [0.50, 0.52, 0.47, 0.55] * 12, [0.49, 0.53, 0.46, 0.53] * 12
    found = statistics.paired(a, b)
    assert not found.binary
    assert found.delta == pytest.approx(0.0075)
    assert found.high - found.low < 0.02
    assert found.smallest() < 0.02
    assert found.smallest(14) > found.smallest()


def test_interaction_is_the_gain_that_quantization_took() -> None:
    base, tuned, rough = [0] * 40, [1] * 40, [1] * 20 + [0] * 20
    found = statistics.interaction(rough, base, tuned, base)
    assert found.delta == -0.5
    assert found.high < 0
    assert found.p < 1e-5
    assert statistics.interaction(tuned, base, tuned, base).p == 1


def test_an_interval_reaches_as_far_as_its_differences_can() -> None:
    gained, lost = [0] * 60, [1] * 6 + [0] * 54
    taken = statistics.interaction(gained, lost, [1] * 60, gained)  # 1 or 2 less on each row
    assert taken.delta == pytest.approx(-1.1)
    assert taken.low == pytest.approx(-1.166, abs=1e-3)
    assert statistics.interaction([0], [1], [1], [0]).low == -2
    tokens = statistics.mean_difference([-12, -11, -13, -12, -10])
    assert tokens.low < tokens.delta == pytest.approx(-11.6)
    assert tokens.low < -16
    assert statistics.paired([0, 0], [1, 1]).low == -1


def test_over_seeds_by_hand() -> None:
    # rows agree within a seed: means 0.4, 0.5, 0.6 have variance 0.01, /3; t with 2 degrees of freedom is 4.3027
    mean, found = statistics.over_seeds([[0.4] * 500, [0.5] * 500, [0.6] * 500])
    rows = statistics.share_interval([0.5] * 500).high - 0.5
    assert mean == pytest.approx(0.5)
    assert found.high - 0.5 == pytest.approx(math.hypot(4.3027 * math.sqrt(0.01 / 3), rows), rel=1e-4)
    # seeds agree: then it is the interval of one of them
    _, same = statistics.over_seeds([[0, 0, 1, 1]] * 3)
    assert (same.low, same.high) == pytest.approx((statistics.wilson(2, 4).low, statistics.wilson(2, 4).high))
    _, none = statistics.over_seeds([[0] * 48] * 3)
    assert (none.low, none.high) == pytest.approx((0, statistics.wilson(0, 48).high))
    apart = statistics.paired_over_seeds([[0] * 48] * 3, [[0] * 48] * 3)
    assert apart.low < -0.02 < 0.02 < apart.high
    _, one = statistics.over_seeds([[0.4] * 4, [0.5] * 4, [0.6] * 4], ["g"] * 4)
    assert (one.low, one.high) == (0, 1), "a group alone says nothing of rows, and hides no luck of seeds"
    with pytest.raises(ValueError, match="two seeds"):
        statistics.over_seeds([[0, 1]])


def test_bootstrap_holds_the_value_and_repeats() -> None:
    rng = random.Random(1)
    samples = [rng.gauss(100, 10) for _ in range(200)]
    mean, p95 = statistics.bootstrap(samples, fmean), statistics.quantile_interval(samples, 0.95)
    assert mean.low < sum(samples) / 200 < mean.high
    # ± 1.96·10/sqrt(200) = ± 1.39
    assert mean.high - mean.low == pytest.approx(2.77, rel=0.15)
    assert p95
    assert p95.low < 116.4 < p95.high
    assert statistics.bootstrap(samples, fmean) == mean
    grouped = statistics.bootstrap([0.0] * 50 + [1.0] * 50, fmean, [i // 25 for i in range(100)])
    assert grouped.high - grouped.low == pytest.approx(1.0, abs=0.3)
    empties: list[Callable[[], object]] = [
        lambda: statistics.bootstrap([], fmean),
        lambda: statistics.quantile_interval([], 0.5),
    ]
    for empty in empties:
        with pytest.raises(ValueError, match="no "):
            empty()


@pytest.mark.parametrize(
    ("n", "q", "ends", "method"),
    [
        (2, 0.5, (0, 1), statistics.SEEN), (5, 0.5, (0, 4), statistics.SEEN), (6, 0.5, (0, 5), statistics.EXACT),
        (20, 0.5, (5, 14), statistics.EXACT), (100, 0.5, (39, 60), statistics.EXACT),
        (3, 0.95, (1, 2), statistics.SEEN), (71, 0.95, (62, 70), statistics.SEEN),
        (72, 0.95, (63, 71), statistics.EXACT),
    ],
)  # fmt: skip
def test_the_interval_of_a_quantile_is_between_samples_in_order(
    n: int, q: float, ends: tuple[int, int], method: str
) -> None:
    """Ranks as in tables of the sign test, and a p95's from the binomial by itself."""
    values = [float(v) for v in range(n)]
    found = statistics.quantile_interval(random.Random(n).sample(values, n), q)
    low, high = ends
    assert found == Interval(values[low], values[high], method)
    assert comb_tail(n, q, low) <= 0.025 or method == statistics.SEEN
    assert comb_tail(n, q, low + 1) > 0.025
    assert 1 - comb_tail(n, q, high) <= 0.025 or method == statistics.SEEN
    assert 1 - comb_tail(n, q, high - 1) > 0.025


def comb_tail(n: int, q: float, most: int) -> float:
    """The chance that at most so many of n samples lie below the quantile."""
    return sum(math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(most + 1))


def test_copies_of_a_sample_make_no_quantile_surer() -> None:
    values = numpy.random.default_rng(0).lognormal(size=12).tolist()
    for q in (0.5, 0.95):
        alone = statistics.quantile_interval(values, q)
        assert statistics.quantile_interval(values * 6, q, 12) == alone
        assert statistics.quantile_interval(values, q, 72) == alone
    assert statistics.quantile_interval([3.0], 0.5) is None
    assert statistics.quantile_interval([3.0, 3.1, 3.2], 0.5, events=1) is None


@pytest.mark.parametrize("events", range(2, 90))
@pytest.mark.parametrize("q", [0.5, 0.95])
def test_a_quantile_lies_in_its_interval(q: float, events: int) -> None:
    values = numpy.random.default_rng(events).lognormal(size=3 * events + events % 7)
    for some in (values[:events], values):
        found = statistics.quantile_interval(some.tolist(), q, events)
        assert found
        assert found.low <= numpy.quantile(some, q) <= found.high


def by_prompt(base: Any, rng: Any, pace: float, of: int = 1) -> list[list[float]]:
    return [(b * pace * rng.lognormal(0, 0.02, of)).tolist() for b in base]


def test_the_interval_of_a_mean_as_a_share_of_it_is_a_t_interval() -> None:
    assert statistics.share_of_mean([90.0, 110.0]) == pytest.approx(12.706 * 0.1, rel=1e-4)
    assert statistics.share_of_mean([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / 3**0.5 / 2, rel=1e-4)
    assert (statistics.share_of_mean([5.0]), statistics.share_of_mean([0.0, 0.0])) == (0.0, 0.0)


def test_pairs_of_several_seeds_have_the_error_of_their_interval() -> None:
    a = [[1.0] * 80 + [0.0] * 20, [1.0] * 90 + [0.0] * 10]
    b = [[1.0] * 60 + [0.0] * 40, [1.0] * 75 + [0.0] * 25]
    found = statistics.paired_over_seeds(a, b)
    assert (found.gained, found.lost, found.n, found.seeds) == (30, 0, 100, 2)
    near = (found.low + found.high) / 2
    for side, p in ((-found.low, 0.025), (-found.high, 0.975), (-near, 0.5)):
        assert found.p_not_worse(side) == pytest.approx(p), "shown at 2.5% where the interval lies above"
    assert found.p == pytest.approx(2 * found.p_not_worse(0.0))
    few = statistics.paired_over_seeds([[1.0] * 48] * 2, [[0.0] * 48, [0.0] * 40 + [1.0] * 8])
    assert few.low < 0 < 0.05 < few.p, "both are of the half-width before it is cut at 100 points"
    assert few.smallest() == math.inf
    whole = [[1.0] * 48] * 3
    once = statistics.paired_over_seeds([*whole[1:], [0.0] + [1.0] * 47], whole)
    assert once.low < -0.05 < once.delta, "one seed's row makes no made-up flip smaller than a whole row"
    assert not once.binary
    same = statistics.paired_over_seeds(a, a)
    assert (same.delta, same.p) == (0.0, 1.0)


def test_a_ratio_of_quantiles_is_of_the_same_prompts_and_counts_the_pace() -> None:
    rng = numpy.random.default_rng(1)
    base = rng.lognormal(0, 0.5, 30)
    slow, fast = by_prompt(base, rng, 2.0, 4), by_prompt(base, rng, 1.0, 4)
    ratio, around = statistics.quantile_ratio(slow, fast, 0.5)
    assert ratio == numpy.quantile(numpy.concatenate(slow), 0.5) / numpy.quantile(numpy.concatenate(fast), 0.5)
    assert around
    assert around.low < ratio / 1.0999 < 1.0999 * ratio < around.high, "no less than the pace"
    assert around.high < 1.2 * ratio, "what prompts differ by is in both"
    apart = statistics.quantile_ratio(slow, fast[:-1], 0.5)[1]
    assert apart
    assert apart.high > 1.3 * ratio, "other prompts are drawn apart"
    drifted = statistics.quantile_ratio(slow, fast, 0.5, pace=1.5)[1]
    assert drifted
    assert drifted.high > 1.49 * ratio
    assert statistics.quantile_ratio(fast, fast, 0.95)[0] == 1.0
    assert statistics.quantile_ratio(slow[:1], fast[:1], 0.5)[1] is None


def test_a_ratio_draws_what_resampling_by_hand_gives() -> None:
    rng = numpy.random.default_rng(2)
    some = [rng.lognormal(size=n) for n in (3, 1, 4, 2)]
    draws = rng.integers(4, size=(50, 4))
    by_hand = [numpy.quantile(numpy.concatenate([some[i] for i in at]), 0.7) for at in draws]
    assert statistics._drawn(some, draws, 0.7) == pytest.approx(by_hand)


@pytest.mark.parametrize("bad", [[], [[0.0, 1.0]], [[]]])
def test_a_ratio_takes_samples_above_0(bad: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="samples above 0"):
        statistics.quantile_ratio([[1.0]], bad, 0.5)
