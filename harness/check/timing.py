"""Latency by raw samples, memory and size by thresholds.

Times are compared on one class of hardware only, and worse takes both a factor and a statistical difference, which is
asv's rule. A run's own samples do not show how far the whole run drifted, so "slower" means beyond `noise`, and
passing means that `limit` is ruled out. Tests are Welch's t of logarithms, a fifth of the samples trimmed at each end
(Yuen 1974, Biometrika 61:165), so that a hiccup in one request decides nothing. What that trims away is looked at by
itself: both sides time the same prompts in one order, and in an unchanged model chance alone slows down either. What
slows down one request may slow down those that follow, so the worst round counts as no worse than the next.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.check.rules import Latency, Limit
from harness.check.subject import Subject
from harness.check.trial import Trial, Verdict
from harness.types import Json

TRIM = 0.2
TAIL = 0.05  # the one-sided p from which some slow requests are more than chance: five of them, if none is as fast
HELD_ALIKE = ("batch_size", "batch_tokens", "natural_requests", "clients", "open_requests")  # for memory


def slower(times: Sequence[float], others: Sequence[float], ratio: float) -> tuple[float, float]:
    """The one-sided p of times that are at most `ratio` times as long as others, two samples or more each, and the
    lower end of the 90% interval of how many times as long they are."""
    import numpy as np
    from scipy.stats import ttest_ind

    a, b = np.log(times) - math.log(ratio), np.log(others)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of times that hardly differ
        found = ttest_ind(a, b, equal_var=False, trim=TRIM, alternative="greater")
        low = found.confidence_interval(0.95).low
    if math.isnan(found.pvalue):  # of times that do not differ at all
        exact = typical(times) / typical(others)
        return float(exact <= ratio), exact
    return float(found.pvalue), ratio * math.exp(low)


def typical(times: Sequence[float]) -> float:
    """The trimmed geometric mean."""
    import numpy as np
    from scipy.stats import trim_mean

    return math.exp(trim_mean(np.log(times), TRIM))


def latency_trials(candidate: Subject, baseline: Subject, cell: str, rules: Latency) -> list[Trial]:
    """A trial for each latency metric."""
    return [_latency(candidate, baseline, Trial(cell, name, rules.blocks, "×"), rules) for name in rules.metrics]


def _latency(candidate: Subject, baseline: Subject, trial: Trial, rules: Latency) -> Trial:
    name = trial.metric
    trial = replace(trial, tolerated=f"below {rules.limit:g} ×")
    if reason := _incomparable(candidate, baseline, name):
        return replace(trial, sure=Verdict.NOT_MEASURED, note=reason)
    after, before = candidate.samples[name], baseline.samples[name]
    drift = max(candidate.drift, baseline.drift)
    noise = max(rules.noise, drift)
    wider = noise / rules.noise
    now, then = typical(after), typical(before)
    ratio = now / then
    p_worse, low = slower(after, before, noise)
    p_within, high = slower(before, after, wider / rules.limit)
    near = ratio >= rules.factor
    asked, whole = candidate.timed.get("requests"), candidate.samples.get("e2e_ms", after)
    rounds = max(1, len(whole) // asked) if isinstance(asked, int) and asked > 0 else 1
    paired, slow, fast, p_tail = tail(after, before, wider * rules.limit, len(after) // rounds or 1)
    disturbed = bool(candidate.noise or baseline.noise)
    notes = [f"rounds of one run took up to {drift:.2f} times as long as others"] if wider > 1 else []
    if p_tail <= TAIL:
        far = f"{wider * rules.limit:.3g} times as"
        notes.append(f"{slow} of {paired} requests took over {far} long as the others did, {fast} {far} short")
    if [round(t, 3) for t in after] == [round(t, 3) for t in before]:  # as a baseline file keeps them
        notes.append("the candidate's times are the baseline's own measurement, taken from the store")
    for line in dict.fromkeys((*candidate.noise, *baseline.noise)):
        sides = [s for s, of in (("candidate", candidate.noise), ("baseline", baseline.noise)) if line in of]
        who = f"the {sides[0]} was" if len(sides) == 1 else "both were"
        notes.append(f"{who} timed unsteadily: {line}")
    return replace(
        trial, before=then, after=now, change=ratio, low=low, high=1 / high,
        note="; ".join(notes),
        # beside other work either side may be slower, or (a core kept awake) faster: that decides nothing
        p_worse=1.0 if disturbed else min(1.0, 2 * min(p_worse if near else 1.0, p_tail)),
        p_within=p_within if not near and not disturbed and p_tail > TAIL else 1.0,
    )  # fmt: skip


def tail(times: Sequence[float], others: Sequence[float], limit: float, asked: int) -> tuple[int, int, int, float]:
    """How many requests there are, paired as they were asked, a round of the one run with each of the other where that
    has but one; how many of them took more than `limit` times as long as others, beyond what typical ones did, how many
    so much less, and the one-sided exact p of as many by chance. `asked` are those of a round of `times`; where there
    is but one, each is taken to be slow by itself. A round of others that stands for several is counted once: of so
    many requests beside one, each is as likely to be the slow one."""
    from scipy.special import bdtrc

    pace = typical(times) / typical(others)
    rounds = len(times) // asked if len(others) == asked else 1
    both = list(zip(times, [*others] * rounds, strict=False))  # by rounds, of which one run may have more
    slow = [a > limit * max(1.0, pace) * b for a, b in both]
    fast = [limit * a < pace * b for a, b in both]
    beyond = sorted(sum(slow[i : i + asked]) - sum(fast[i : i + asked]) for i in range(0, len(both), asked))
    counted = sum(slow) - (beyond[-1] - beyond[-2] if len(beyond) > 1 else 0)
    few = -(-sum(fast) // rounds)
    p = float(bdtrc(counted - 1, counted + few, rounds / (rounds + 1))) if counted > 0 else 1.0
    return len(both), sum(slow), sum(fast), p


def _incomparable(candidate: Subject, baseline: Subject, name: str) -> str | None:
    """Why two lists of times say nothing about each other, or None."""
    if other := _other_machine(candidate, baseline):
        return other
    for side, subject in (("candidate", candidate), ("baseline", baseline)):
        times = subject.samples.get(name, ())
        if len(times) < 2:
            return f"the {side} has {len(times)} raw samples of it; two are the least"
        if not all(math.isfinite(t) and t > 0 for t in times):
            return f"the {side} has a time that is no number above 0"
    return _timed_otherwise(candidate, baseline)


def otherwise(now: Mapping[str, Json], then: Mapping[str, Json]) -> str:
    """What is not now as it was then, in a line."""
    changed = [k for k in then if now.get(k) != then[k]]
    return ", ".join(f"{k} {then[k]!s:.40} before and {now.get(k)!s:.40} now" for k in changed)


def _timed_otherwise(candidate: Subject, baseline: Subject, more: Sequence[str] = ()) -> str | None:
    now, then = ({**{k: s.knobs.get(f"measure.latency.{k}") for k in more}, **s.timed} for s in (candidate, baseline))
    return f"timed otherwise: {told}" if (told := otherwise(now, then)) else None


def _other_machine(candidate: Subject, baseline: Subject) -> str | None:
    for key in ("device", "hardware"):
        if candidate.machine.get(key) != baseline.machine.get(key):
            return f"other hardware: {baseline.machine.get(key)} before, {candidate.machine.get(key)} now"
    return computing(candidate, baseline)


def computing(candidate: Subject, baseline: Subject) -> str | None:
    """That one machine computes in other numbers than the other, as hosted ones do from day to day; or None."""
    now, then = candidate.machine.get("dtype"), baseline.machine.get("dtype")
    return f"computes in {now} now, {then} before" if now != then else None


def limit_trials(candidate: Subject, baseline: Subject, cell: str, rules: Limit, same_machine: bool) -> list[Trial]:
    """A trial for each single number that either side has; `same_machine` says that it depends on the hardware. One
    that does not is told only where the two compute in different numbers, which the size of weights goes by."""
    found, told = [], computing(candidate, baseline)
    unlike = _other_machine(candidate, baseline) or _timed_otherwise(candidate, baseline, HELD_ALIKE)
    for name in rules.metrics:
        if name not in baseline.values and name not in candidate.values:
            continue
        trial = Trial(cell, name, rules.blocks, "×", tolerated=f"up to {rules.limit:g} ×")
        before, after = baseline.values.get(name), candidate.values.get(name)
        other = unlike if same_machine else None
        if other or before is None or after is None:
            side = "baseline" if before is None else "candidate"
            found.append(replace(trial, sure=Verdict.NOT_MEASURED, note=other or f"the {side} has no such number"))
        elif not (math.isfinite(before) and math.isfinite(after) and before > 0):
            found.append(replace(trial, sure=Verdict.NOT_MEASURED, note="no numbers to compare"))
        else:
            ratio = after / before
            sure = Verdict.PASS if ratio <= rules.limit else Verdict.REGRESSED
            trial = replace(trial, blocks=rules.blocks and not told, note=told or "")
            found.append(replace(trial, before=before, after=after, change=ratio, low=ratio, high=ratio, sure=sure))
    if rules.metrics and not found:
        note = "neither side has any of " + ", ".join(rules.metrics)
        found = [Trial(cell, rules.metrics[0], rules.blocks, "×", sure=Verdict.NOT_MEASURED, note=note)]
    return found
