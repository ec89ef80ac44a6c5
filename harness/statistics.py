"""How sure a number is: intervals and paired tests.

Two-sided at 95% unless said otherwise. Rows of one `group` (a customer, a document, a template) are not independent,
so everything here is clustered by group: what counts is how group totals vary, and groups of one row give the usual
formulas. Rows without groups are groups of their own. Nothing assumes many rows: shares get Wilson's interval,
differences a t interval with made-up flips, pass/fail tests are exact. Resampling is seeded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.power import POWER, detectable_difference, groups_needed, rows_needed
from harness.types import Interval

CONFIDENCE = 0.95
RESAMPLES = 2_000
FLIPS = 10_000
PACE = 1.10
"""How many times as slow as another a whole timing may be with nothing changed, at 95%: no run's own samples show that.
"""
EXACT = "order statistics"
SEEN = "order statistics, ending at an extreme that was seen"
Groups = Sequence[Hashable] | None


def _t(df: float, q: float = (1 + CONFIDENCE) / 2) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, q))


def _z(q: float = (1 + CONFIDENCE) / 2) -> float:
    from scipy.special import ndtri

    return float(ndtri(q))


def group_of(row: Mapping[str, Any]) -> Hashable:
    """The group of a suite's row: a row without one is a group of its own."""
    group: Hashable = row.get("group") or ("row", row["id"])
    return group


def place(row: Mapping[str, Any]) -> float:
    """Where a suite's row stands in a fixed random order, from 0 to 1: by the hash of its group, so that groups stay
    whole, and the same on every machine. Parts of a suite are intervals of it."""
    name = f"order {group_of(row)}".encode("utf-8", "backslashreplace")
    return int(hashlib.sha256(name).hexdigest()[:12], 16) / 16**12


def _sums(values: Sequence[float], groups: Groups) -> tuple[Any, Any]:
    """Total and number of rows of each group, as arrays in the order in which groups appear."""
    import numpy as np

    if groups is None:
        return np.asarray(values, dtype=float), np.ones(len(values))
    if len(groups) != len(values):
        raise ValueError(f"{len(values)} values and {len(groups)} groups")
    place = {g: i for i, g in enumerate(dict.fromkeys(groups))}
    index = np.array([place[g] for g in groups])
    return np.bincount(index, weights=np.asarray(values, dtype=float)), np.bincount(index).astype(float)


def _variance(sums: Any, sizes: Any) -> tuple[float, float]:
    """A mean over rows and the variance of that mean when groups are drawn, by leaving each group out in turn: the
    jackknife (Tukey 1958; called CV3 by MacKinnon, Nielsen & Webb 2023, J. Econometrics 232:272), which holds up best
    with few groups of unequal size, and is s²/n for groups of one row. Infinite for a single group."""
    n, g, total = sizes.sum(), len(sizes), sums.sum()
    mean = float(total / n)
    if g < 2:
        return mean, math.inf
    without = (total - sums) / (n - sizes)
    return mean, float((g - 1) / g * ((without - mean) ** 2).sum())


# ------------------------------------------------------------------------------------------------ one number, one cell


def wilson(successes: float, n: float) -> Interval:
    """The score interval of a share (Wilson 1927, JASA 22:209): keeps its coverage near 0 and 1 and with few rows,
    where the usual `p ± z·sqrt(p(1-p)/n)` gives an interval of no width. `n` may be an effective number of rows.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    z = _z()
    p, spread = successes / n, 1 + z**2 / n
    middle = (p + z**2 / (2 * n)) / spread
    half = z / spread * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low = 0.0 if successes == 0 else middle - half  # exactly, where rounding would leave a hair
    return Interval(low, 1.0 if successes == n else middle + half, "wilson")


def share_interval(scores: Sequence[float], groups: Groups = None) -> Interval:
    """The interval of the mean of scores from 0 to 1, pass/fail or graded: Wilson's with the effective number of rows.

    That number is the one whose binomial variance is the variance seen between groups, with a t quantile in place of
    the normal one for having estimated it (Korn & Graubard 1998, Survey Methodology 24:193, who do the same with
    Clopper-Pearson's interval). Groups never make pass/fail rows worth more than independent ones, nor any rows worth
    less than one a group. Graded scores that hardly vary are worth at most the square of the number of groups: the mean
    is then known to about as much as one group of another score would have moved it.
    """
    if not len(scores):
        raise ValueError("no scores")
    sums, sizes = _sums(scores, groups)
    n, g = float(sizes.sum()), len(sizes)
    binary = set(scores) <= {0, 1}
    if binary and g == n:
        return wilson(float(sums.sum()), n)
    mean, variance = _variance(sums, sizes)
    if mean in (0.0, 1.0) or g < 2:
        effective = float(g)  # nothing was seen of how rows of a group hang together
    else:
        effective = mean * (1 - mean) / variance if variance > 0 else math.inf
        effective = min(effective * (_z() / _t(g - 1)) ** 2, n if binary else g**2)
        effective = max(effective, min(float(g), 2.0))
    found = wilson(mean * effective, effective)
    return Interval(found.low, found.high, "wilson" if g == n else "wilson, clustered")


def share_of_mean(values: Sequence[float]) -> float:
    """Half the width of the interval of a mean, as a share of it: a t interval, and 0 for a single value."""
    import numpy as np

    if len(values) < 2 or not (middle := float(np.mean(values))):
        return 0.0
    return _t(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values)) / middle


def quantile_interval(samples: Sequence[float], q: float, events: int | None = None) -> Interval | None:
    """The interval of a quantile, such as 0.95 for a p95, between two of the samples in order (David & Nagaraja 2003,
    Order Statistics, sec. 7.1): exact, as how many of n samples lie below the quantile is Binomial(n, q) whatever they
    are drawn from. An end that so few do not have (a p50 of fewer than 6 has none, a p95 of fewer than 72 no upper
    one) is the extreme that was seen, and `method` is then `SEEN`; of one there is no interval. Where samples are
    copies of fewer `events`, the ranks are those of so many, each in the middle of its share of the samples."""
    import numpy as np
    from scipy.special import bdtr, bdtrc

    ordered = sorted(map(float, samples))
    size = len(ordered)
    if not size:
        raise ValueError("no samples")
    n = min(events or size, size)
    if n < 2:
        return None
    tail, below = (1 - CONFIDENCE) / 2, np.arange(n)
    low = int((bdtr(below, n, q) <= tail).sum())  # the last rank that is rarely above the quantile; 0: none
    high = n + 1 - int((bdtrc(below, n, q) <= tail).sum())  # the first that is rarely below it; n + 1: none
    start = ordered[-(-(2 * low - 1) * size // (2 * n)) - 1] if low else ordered[0]
    end = ordered[(2 * high - 1) * size // (2 * n)] if high <= n else ordered[-1]
    return Interval(start, end, EXACT if low and high <= n else SEEN)


def quantile_ratio(
    a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], q: float, pace: float = PACE
) -> tuple[float, Interval | None]:
    """How many times as large a quantile of all samples of `a` is as that of `b`, both given prompt by prompt. The
    bootstrap draws prompts with all their samples, the same of both where they are as many, and so the same prompts;
    its half-widths in logarithms are widened for few prompts as a t interval is (Hesterberg 2015, Am. Stat. 69:371),
    and added to the `pace` of whole runs as squares. No interval of one prompt. Samples must be above 0."""
    import numpy as np

    over, under = ([np.asarray(v, dtype=float) for v in of] for of in (a, b))
    whole = [np.concatenate(of) if of else np.empty(0) for of in (over, under)]
    if not all(v.size and v.min() > 0 for v in whole):
        raise ValueError("a ratio takes samples above 0 of both")
    ratio = float(np.quantile(whole[0], q) / np.quantile(whole[1], q))
    if (few := min(len(over), len(under))) < 2:
        return ratio, None
    rng = np.random.default_rng(0)
    top, bottom = (rng.integers(n, size=(RESAMPLES // 4, n)) for n in (len(over), len(under)))
    if len(over) == len(under):
        bottom = top
    drawn = _percentiles(np.log(_drawn(over, top, q) / _drawn(under, bottom, q)).tolist())
    wider = math.sqrt(few / (few - 1)) * _t(few - 1) / _z()
    middle = math.log(ratio)
    low, high = (math.hypot(wider * max(0.0, h), math.log(pace)) for h in (middle - drawn.low, drawn.high - middle))
    return ratio, Interval(ratio * math.exp(-low), ratio * math.exp(high), "bootstrap of prompts, and pace")


def _drawn(samples: Sequence[Any], draws: Any, q: float) -> Any:
    """A quantile of what each row of `draws` names, all samples of a prompt as often as it is named."""
    import numpy as np

    values, of = np.concatenate(samples), np.repeat(np.arange(len(samples)), [v.size for v in samples])
    order = np.argsort(values)
    often = np.stack([(draws == n).sum(axis=1) for n in range(len(samples))], axis=1)
    upto = often[:, of[order]].cumsum(axis=1, dtype=np.int32)
    at = q * (upto[:, -1] - 1)
    low, high = (values[order[(upto <= k[:, None]).sum(axis=1)]] for k in (np.floor(at), np.ceil(at)))
    return low + (at % 1) * (high - low)


def bootstrap(items: Sequence[Any], statistic: Callable[[list[Any]], float], groups: Groups = None) -> Interval:
    """Percentile bootstrap of any statistic of a suite's rows, such as a macro-F1; whole groups are drawn (Davison &
    Hinkley 1997, sec. 3.8). Draws in which it is not a number are left out."""
    import numpy as np

    if not items:
        raise ValueError("no rows")
    members: dict[Hashable, list[Any]] = {}
    for at, item in enumerate(items):
        members.setdefault(groups[at] if groups is not None else at, []).append(item)
    parts = list(members.values())
    if len(parts) < 2:
        return Interval(-math.inf, math.inf, "bootstrap")  # one group says nothing of others
    drawn = np.random.default_rng(0).integers(len(parts), size=(RESAMPLES // 4, len(parts)))
    return _percentiles([statistic([item for i in some for item in parts[i]]) for some in drawn])


def _percentiles(values: Sequence[float]) -> Interval:
    import numpy as np

    tail = (1 - CONFIDENCE) / 2
    low, high = (float(np.nanquantile(values, q)) for q in (tail, 1 - tail))
    return Interval(low, high, "bootstrap")


# ------------------------------------------------------------------------------------------------ two cells, same rows


@dataclass(frozen=True, slots=True)
class Paired:
    """Cell `a` against cell `b` on the same rows: `delta` is a's mean score minus b's. `gained` rows score higher with
    a, `lost` rows lower. `p` tests that there is no difference. `error` is the standard error and `df` its degrees of
    freedom, both with the made-up flips (see `paired`); `binary` says that scores were pass/fail. `design_effect` is
    how many times fewer independent rows would have said as much. Of several `seeds` the error is of training as well.
    """

    delta: float
    low: float
    high: float
    p: float
    gained: int
    lost: int
    n: int
    middle: float = 0.0
    error: float = math.inf
    df: float = 1.0
    binary: bool = True
    design_effect: float = 1.0
    seeds: int = 1

    @property
    def disagreement(self) -> float:
        """The share of rows on which the two differ."""
        return (self.gained + self.lost) / self.n

    @property
    def groups(self) -> int:
        """The groups that the rows are of."""
        return round(self.df) - 1

    def p_not_worse(self, margin: float) -> float:
        """One-sided p of the hypothesis that `a` is worse than `b` by `margin` or more: small where non-inferiority is
        shown. Never below that of the exact binomial test for a cell that only loses, and loses whole rows: the t
        interval lets 48 rows without a flip rule out 5% more often than is true. Of that at most a half, as losing no
        row shows of no cell that it is worse.

        That holds for graded scores too: a mean drop of `margin` may be `margin` of the rows losing all, and rows that
        hardly vary show nothing of it until one does. It is the drop that is hardest to see: of all losses from 0 to 1
        with one mean, those of 0 or 1 vary the most, and tails of others exceed theirs by the factor e at most
        (Hoeffding 1963, JASA 58:13; Bentkus 2004, Ann. Probab. 32:1650). Nor do small changes show how rows of a group
        would be lost together: where scores are graded, or none flips, a group counts as one row."""
        from scipy.special import bdtr, stdtr

        if not math.isfinite(self.error):
            return 1.0
        p = float(stdtr(self.df, -(self.middle + margin) / self.error))
        if margin <= 0:
            return p
        rows = self.n / self.design_effect if self.binary else self.groups
        lost = math.ceil(max(0.0, -self.delta) * rows - 1e-9)
        return max(p, min(0.5, float(bdtr(lost, math.floor(rows), margin))))

    def smallest(self, comparisons: int = 1) -> float:
        """The smallest difference that these rows likely (`POWER`) show when the test is one of so many (Bonferroni,
        which is Holm's first step): exact for pass/fail rows, by the standard error for graded ones. Infinite where
        that would be more than all, or so few groups show nothing."""
        alpha = (1 - CONFIDENCE) / max(comparisons, 1)
        if self.groups < groups_needed(alpha):
            return math.inf
        if self.binary:
            return detectable_difference(int(self.n / self.design_effect), self.disagreement, alpha)
        found = (_t(self.df, 1 - alpha / 2) + _z(POWER)) * self.error
        return found if found <= 1 else math.inf

    def rows_to_tell(self, margin: float) -> float:
        """How many rows like these would likely (`POWER`) show on which side of `-margin` the difference lies, were it
        what was measured; infinite where it lies on it."""
        apart = abs(self.delta + margin)
        return self.n * ((_z() + _z(POWER)) * self.error / apart) ** 2 if apart else math.inf

    def rows_for(self, difference: float) -> int:
        """How many rows would likely show this difference, were they like these."""
        if self.binary:
            return math.ceil(rows_needed(difference, self.disagreement) * self.design_effect)
        return math.ceil(self.n * ((_t(self.df) + _z(POWER)) * self.error / difference) ** 2)


def paired(a_scores: Sequence[float], b_scores: Sequence[float], groups: Groups = None) -> Paired:
    """Compares scores (0 to 1) of the same rows in the same order.

    p: a sign-flip test over groups (Fisher 1935; Winkler et al. 2015, NeuroImage 123:253 for whole blocks): if the
    cells are alike, each group's difference could as well have the other sign. Exact for pass/fail scores, where with
    groups of one row it is exact McNemar (1947, Psychometrika 12:153); by 10,000 random flips for graded ones.

    Interval: t over groups, with one made-up flip each way as Bonett & Price (2012, J. Educ. Behav. Stat. 37:479) add
    for pass/fail rows: without it, 48 rows and no flip would give an interval of no width, as if the cells were known
    to be equal. For graded scores a made-up flip is as large as the typical difference seen. Where no row differs
    nothing was seen of how rows of a group hang together: the made-up flips are then those of whole groups.
    """
    if len(a_scores) != len(b_scores) or not len(a_scores):
        raise ValueError(f"{len(a_scores)} and {len(b_scores)} scores cannot be paired")
    if not all(0 <= s <= 1 for s in (*a_scores, *b_scores)):
        raise ValueError("scores must lie between 0 and 1 to be compared")
    binary = {*a_scores, *b_scores} <= {0, 1}
    differences = [a - b for a, b in zip(a_scores, b_scores, strict=True)]
    return _tested(differences, groups, binary)


def _tested(differences: Sequence[float], groups: Groups, binary: bool, reach: float = 1.0) -> Paired:
    sums, _ = _sums(differences, groups)
    p = _exact_flips(sums) if binary else _random_flips(sums)
    return mean_difference(differences, groups, binary, p, reach)


def mean_difference(
    differences: Sequence[float], groups: Groups = None, binary: bool = False, p: float = 1.0, reach: float = math.inf
) -> Paired:
    """The mean of paired differences of any unit, such as tokens, that can be as far from 0 as `reach`: what `paired`
    says but for its test."""
    import numpy as np

    n = len(differences)
    values = np.asarray(differences, dtype=float)
    moved = values[values != 0]
    flip = 1.0 if binary or not moved.size else float(np.sqrt((moved**2).mean()))
    sums, sizes = _sums(differences, groups)
    delta = float(values.mean())
    made_up = 1.0 if moved.size else n / len(sums)  # rows of each made-up flip
    middle, variance = _variance(np.append(sums, [flip * made_up, -flip * made_up]), np.append(sizes, [made_up] * 2))
    alone = _variance(np.append(values, [flip, -flip]), np.ones(n + 2))[1]
    effect = made_up if not moved.size else max(1.0, variance / alone) if alone > 0 else 1.0
    if binary:
        variance = max(variance, alone)  # chance likeness of groups does not make pass/fail rows worth more
    error, df = math.sqrt(variance), len(sums) + 1.0
    half = _t(df) * error
    return Paired(
        delta, max(-reach, min(middle - half, delta)), min(reach, max(middle + half, delta)), p,
        int((values > 0).sum()), int((values < 0).sum()), n, middle, error, df, binary, effect,
    )  # fmt: skip


def _exact_flips(sums: Any) -> float:
    """Two-sided p over all sign flips of whole-numbered group sums."""
    import numpy as np

    sizes = np.abs(sums[sums != 0]).astype(int)
    seen = abs(int(sums.sum()))
    if not sizes.size:
        return 1.0
    if (sizes == sizes[0]).all():
        flips = len(sizes)
        return mcnemar((flips + seen // int(sizes[0])) // 2, (flips - seen // int(sizes[0])) // 2)
    chance = np.zeros(2 * sizes.sum() + 1)
    chance[middle := int(sizes.sum())] = 1.0
    for size in sizes:
        chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2  # the ends are empty until the last flip
    return float(min(1.0, chance[: middle - seen + 1].sum() + chance[middle + seen :].sum()) if seen else 1.0)


def _random_flips(sums: Any) -> float:
    """Two-sided Monte Carlo p over sign flips, the flip seen counted in (Phipson & Smyth 2010, SAGMB 9:39)."""
    import numpy as np

    moved = sums[sums != 0]
    if not moved.size:
        return 1.0
    signs = np.random.default_rng(0).integers(0, 2, (FLIPS, len(moved)), dtype=np.int8) * 2 - 1
    drawn = np.abs(signs @ moved.astype(np.float32))
    return float((1 + (drawn >= abs(moved.sum()) * (1 - 1e-6)).sum()) / (FLIPS + 1))


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p of `gained` against `lost` flips if each way is as likely: twice the smaller tail."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def interaction(
    tuned: Sequence[float], base: Sequence[float], tuned_16: Sequence[float], base_16: Sequence[float],
    groups: Groups = None,
) -> Paired:  # fmt: skip
    """What quantization does to the gain of an adaptation: (tuned - base) quantized minus (tuned - base) in 16 bits, on
    the same rows. Below 0, quantization erased some of the fine-tuning."""
    rows = zip(tuned, base, tuned_16, base_16, strict=True)
    differences = [(a - b) - (c - d) for a, b, c, d in rows]
    if not differences:
        raise ValueError("no rows")
    return _tested(differences, groups, all(float(d).is_integer() for d in differences), reach=2.0)


def over_seeds(by_seed: Sequence[Sequence[float]], groups: Groups = None) -> tuple[float, Interval]:
    """The mean of scores (0 to 1) over training seeds (outer) and rows (inner, the same for each seed), with an
    interval for both kinds of luck at once. Half-widths are added as squares: that of rows is the one that a single
    seed's scores would have, that of seeds has a t quantile of its own (Burdick & Graybill 1992, Confidence Intervals
    on Variance Components; MOVER of Zou & Donner 2008, Stat. Med. 27:1693). With two or three seeds it is wide, as it
    should be: resampling three numbers, or one t quantile for the sum, would pretend to know more (in simulations 85 to
    92% instead of 95).
    """
    import numpy as np

    scores = np.asarray(by_seed, dtype=float)
    luck, rows = _luck(scores, groups), scores.mean(axis=0).tolist()
    mean, around = float(np.mean(rows)), share_interval(rows, groups)
    low, high = mean - math.hypot(mean - around.low, luck), mean + math.hypot(around.high - mean, luck)
    return mean, Interval(max(low, 0.0), min(high, 1.0), "seeds and rows")


def _luck(scores: Any, groups: Groups) -> float:
    """Half the width that the luck of training adds to the interval of a mean over seeds (outer) and rows."""
    return _t(len(scores) - 1) * luck_of_training(scores, groups)


def luck_of_training(scores: Any, groups: Groups = None) -> float:
    """The standard error that the luck of training gives a mean over seeds (outer) and rows: the variance between seeds
    less what rows bring into it."""
    seeds = len(scores)
    if seeds < 2:
        raise ValueError("training noise takes two seeds or more")
    each = [_variance(*_sums((s - scores.mean(axis=0)).tolist(), groups))[1] for s in scores]
    both = math.fsum(each) / (seeds * (seeds - 1))  # the chance part of their variance, already in that of rows
    own = float(scores.mean(axis=1).var(ddof=1) / seeds) - (both if math.isfinite(both) else 0.0)
    return math.sqrt(max(own, 0.0))


def paired_over_seeds(
    a_by_seed: Sequence[Sequence[float]], b_by_seed: Sequence[Sequence[float]], groups: Groups = None
) -> Paired:
    """Compares two cells that were trained with the same seeds (outer): the mean of their scores, with an interval for
    both kinds of luck as in `over_seeds`, and the error and p that it stands for. Made-up flips of pass/fail
    scores are of a row with all seeds, as of one seed they would be the smaller the more there are."""
    import numpy as np
    from scipy.special import stdtr

    scores = np.asarray([a_by_seed, b_by_seed], dtype=float)
    apart = scores[0] - scores[1]
    rows = mean_difference(apart.mean(axis=0), groups, bool(np.isin(scores, (0, 1)).all()))
    half = math.hypot(_t(rows.df) * rows.error, _luck(apart, groups))
    return replace(
        rows, low=max(-1.0, min(rows.middle - half, rows.delta)), high=min(1.0, max(rows.middle + half, rows.delta)),
        p=float(2 * stdtr(rows.df, -abs(rows.middle) * _t(rows.df) / half)), error=half / _t(rows.df), binary=False,
        seeds=len(apart),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------- many comparisons


def holm(pvalues: Mapping[str, float], made: int = 0) -> dict[str, float]:
    """p-values adjusted for having made all these comparisons (Holm 1979, Scand. J. Stat. 6:65), by the same keys. Of
    more that were `made` these are a part, which is then safe whatever the part was chosen by."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(pvalues.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (max(made, len(pvalues)) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in pvalues}
