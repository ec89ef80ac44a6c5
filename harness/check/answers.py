"""Quality, validity and length: the same rows answered by candidate and baseline, compared pair by pair.

A metric passes where non-inferiority is shown: "worse by the margin or more" is rejected at `alpha`, one-sided. It has
regressed where that is not shown and "not worse at all" is rejected, corrected by Holm. Between the two it is
inconclusive. These are the cases of Piaggio et al. (2012, JAMA 308:2594, fig. 1), but that their "worse, and
non-inferiority open" is called a regression here: a release is held to what is known, and it is known to be worse.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from harness.check.rules import Length, Scores
from harness.check.subject import Row, Subject, is_number
from harness.check.trial import Flip, Trial, Verdict
from harness.errors import UserError
from harness.power import POWER, detectable_difference
from harness.statistics import Paired, mean_difference, paired
from harness.types import Json

ENDED, PRIMARY, ALL = "ended", "primary", "all"
Pairs = Sequence[tuple[Row, Row]]
Wanted = Sequence[tuple[str, Scores, bool]]


def pairs(candidate: Subject, baseline: Subject) -> tuple[Pairs, list[str]]:
    """The rows of both, candidate first, in one order, and the ids of baseline rows that the candidate lacks."""
    found = {row.id: row for row in candidate.rows}
    order = sorted(baseline.rows, key=lambda row: row.id)
    return [(found[b.id], b) for b in order if b.id in found], [b.id for b in order if b.id not in found]


def scores_of_rows(candidate: Subject, baseline: Subject) -> tuple[list[str], list[str]]:
    """The names of scores that are numbers of the baseline's rows, and of those of all rows together, such as a
    macro-F1, for which a row holds what the sum is made of."""
    there = {name for row in baseline.rows for name, score in row.scores.items() if is_number(score)}
    together = {
        name
        for row in (*baseline.rows, *candidate.rows)
        for name, score in row.scores.items()
        if score is not None and not is_number(score)
    }
    return sorted(there), sorted(together - there)


def of_suites(cells: Iterable[Subject]) -> dict[str, set[str]]:
    """The scores that rows of each suite have."""
    found: dict[str, set[str]] = {}
    for c in cells:
        found.setdefault(c.suite, set()).update(scores_of_rows(c, c)[0])
    return found


def elsewhere(names: Mapping[str, set[str]], cell: Subject) -> set[str]:
    """The scores, as of `of_suites`, that rows of other suites than a cell's have."""
    return {name for suite, own in names.items() if suite != cell.suite for name in own}


def chosen(
    candidate: Subject, baseline: Subject, quality: Scores, validity: Scores, others: Collection[str] = ()
) -> Wanted:
    """The scores that are asked for, each once, with the section whose margin holds for it, and whether by `all` alone;
    not those that this cell lacks and `others`, cells of other suites, have. Raises `UserError` where one is named that
    is no score of rows."""
    there, together = scores_of_rows(candidate, baseline)
    primary = baseline.primary or candidate.primary
    named = [primary if name == PRIMARY else name for name in (*quality.scores, *validity.scores)]
    if wrong := [n for n in named if n in together]:
        raise UserError(
            [
                f"{candidate.id}: {n} is one number of all rows together, so it cannot be compared row by row; name "
                f"scores of rows by --set quality.scores=[...]: {', '.join(there) or 'there are none'}"
                for n in dict.fromkeys(wrong)
            ]
        )
    found: dict[str, Scores] = {}
    for name in quality.scores:
        known = name in there or name not in others
        wanted = there if name == ALL else [primary] if name == PRIMARY else [name] if known else []
        found |= {n: quality for n in wanted if n not in found}
    found |= {n: validity for n in validity.scores if n not in found and (n == ENDED or n in there)}
    return [(name, section, name not in (primary, *named)) for name, section in found.items()]


def told_trials(candidate: Subject, baseline: Subject, quality: Scores, whole: bool) -> list[Trial]:
    """Where every score is asked for, a line for each that is one number of all rows together: it has no rows to be
    judged by. `whole` says that both numbers are of all rows."""
    names = scores_of_rows(candidate, baseline)[1] if ALL in quality.scores else []
    note = "one number of all rows together, which cannot be compared row by row: not judged"
    found = []
    for name in names:
        metric = f"quality/{name}"
        trial = Trial(candidate.id, metric, False, "points", sure=Verdict.NOT_MEASURED, note=note)
        before, after = baseline.values.get(metric), candidate.values.get(metric)
        if whole and before is not None and after is not None:
            share = min(before, after) >= 0 and max(before, after) <= 1
            known = {"change": after - before} if share else {"unit": ""}
            trial = replace(trial, before=before, after=after, **known)
        found.append(trial)
    return found


def score_trial(name: str, section: Scores, cell: str, rows: Pairs, lower: bool, unnamed: bool = False) -> Trial:
    """One score on paired rows; `lower` says that less of it is better: `pair` is then turned round, so that below 0 is
    worse, while `change` is what the score did. `unnamed`: asked for by `all` alone."""
    trial = Trial(cell, name if name == ENDED else f"quality/{name}", section.blocks, "points", by_rows=True)
    sign = -1 if lower else 1
    tolerated = f"{-100 * sign * section.margin + 0.0:+.1f} points".replace("-", "−").replace("+0.0", "0.0")
    trial = replace(trial, tolerated=tolerated, margin=section.margin)
    scored = (
        rows
        if name == ENDED
        else [(a, b) for a, b in rows if a.scores.get(name) is not None or b.scores.get(name) is not None]
    )
    if not scored:
        return replace(trial, sure=Verdict.NOT_MEASURED, note=f"no row has a score {name!r}")
    after, before = [], []
    for a, b in scored:
        now, then = _score(a, name), _score(b, name)
        if now is None or then is None:
            return replace(
                trial, sure=Verdict.NOT_MEASURED, note=f"row {a.id}: {name} is no number from 0 to 1 in both"
            )
        after.append(now)
        before.append(then)
    pair = paired(before, after, _groups(scored)) if lower else paired(after, before, _groups(scored))
    low, high = sorted((sign * bound(pair, -1), sign * bound(pair, 1)))
    same = after == before and all(a.answer == b.answer for a, b in scored)
    n = len(scored)
    return replace(
        trial, pair=pair, before=sum(before) / n, after=sum(after) / n,
        change=sign * pair.delta + 0.0,  # a change of nothing has no sign
        low=low, high=high, p_worse=p_worse(pair),
        p_within=pair.p_not_worse(section.margin), same=same, spared=unnamed and n < len(rows),
        note=f"all {n} answers are the same, letter for letter, and score the same" if same else "",
    )  # fmt: skip


def _score(row: Row, name: str) -> float | None:
    score: Json = float(row.finished) if name == ENDED else row.scores.get(name)
    return float(score) if is_number(score) and 0 <= score <= 1 else None


def _groups(rows: Pairs) -> list[tuple[str, str]]:
    return [("group", b.group) if b.group else ("row", b.id) for _, b in rows]


def p_worse(pair: Paired) -> float:
    """One-sided p of "not worse": flips of sign are symmetric, so half of the two-sided one is exact."""
    return pair.p / 2 if pair.delta < 0 else 1 - pair.p / 2 if pair.delta > 0 else 1.0


def counted(pair: Paired) -> int:
    """As how many rows these can count at most: where none flips, or scores are graded, a group is one."""
    return pair.n if pair.binary and pair.lost + pair.gained else pair.groups


def rows_to_pass(margin: float, alpha: float) -> int:
    """The rows it takes to rule out a drop of `margin` at `alpha` where none is lost: (1 - margin)^rows is at most
    `alpha`. 0 with a margin of nothing or of everything, where it does not depend on their number."""
    return math.ceil(math.log(alpha) / math.log1p(-margin) - 1e-9) if 0 < margin < 1 else 0


def bound(pair: Paired, side: int) -> float:
    """An end of the 90% interval of a difference: where the one-sided 5% tests turn."""
    from scipy.special import stdtrit

    if not math.isfinite(pair.error):
        return side * math.inf
    return pair.middle + side * float(stdtrit(pair.df, 0.95)) * pair.error


def detectable(pair: Paired, margin: float, alpha: float, comparisons: int) -> float:
    """The smallest true drop that this comparison would likely (`POWER`) have called a regression: one that is both
    shown and too large for non-inferiority to be shown beside it."""
    from scipy.special import ndtri, stdtrit

    level = alpha / max(comparisons, 1)
    if not math.isfinite(pair.error):
        return math.inf
    if pair.binary:
        shown = detectable_difference(int(pair.n / pair.design_effect), pair.disagreement, 2 * level)
    else:
        shown = float(stdtrit(pair.df, 1 - level) + ndtri(POWER)) * pair.error
    return max(shown, margin + float(ndtri(POWER) - stdtrit(pair.df, 1 - alpha)) * pair.error)


def length_trial(cell: str, rows: Pairs, rules: Length, limit: Json = 0) -> Trial | None:
    """The mean length in tokens as a multiple of the baseline's; None where nothing is generated (choices, a head).

    It passes where both bounds are ruled out (Schuirmann's two one-sided tests, 1987, J. Pharmacokinet. Biopharm.
    15:657), and has regressed where it is shown to lie beyond one. A bound is tested by what each row's answer has
    more than so many times the baseline's (Fieller 1954, J. R. Stat. Soc. B 16:175): the baseline's mean is no more
    known than the candidate's. Answers that run to the limit of tokens, or long ones that become short, are few and
    each weighs much: growth as a share of what there is room for, and shrinking as one of the longest answer, are held
    to the same test as the loss of a graded score (`Paired.p_not_worse`).
    """
    before = sum(b.tokens for _, b in rows) / max(len(rows), 1)
    trial = Trial(cell, "output_tokens/mean", rules.blocks, "×", by_rows=True)
    trial = replace(trial, tolerated=f"{rules.low:g} to {rules.high:g} ×")
    after = sum(a.tokens for a, _ in rows) / max(len(rows), 1)
    if not math.isfinite(before) or not math.isfinite(after) or not rows:
        return replace(trial, sure=Verdict.NOT_MEASURED, note="no numbers of tokens")
    if before == 0:
        return None
    groups = _groups(rows)
    most = min(limit, 1e9) if is_number(limit) else 0
    room = max(most, *(row.tokens for both in rows for row in both)) - before
    longest = max(b.tokens for _, b in rows)
    grown = mean_difference([(b.tokens - a.tokens) / max(room, 1) for a, b in rows], groups)
    shrunk = mean_difference([(a.tokens - b.tokens) / longest for a, b in rows], groups)
    up = min(1.0, (rules.high - 1) * before / room) if room else 1.0
    down = (1 - rules.low) * before / longest if rules.low else 1.0
    low, high = (mean_difference([(a.tokens - r * b.tokens) / before for a, b in rows], groups)
        for r in (rules.low, rules.high))  # fmt: skip
    short, long = low.p_not_worse(0.0), high.p_not_worse(0.0)  # of a mean that is at most 0
    same = all(a.answer == b.answer and a.tokens == b.tokens for a, b in rows)
    return replace(
        trial, before=before, after=after, change=after / before,
        low=max(0.0, rules.low + bound(low, -1)), high=rules.high + bound(high, 1),
        p_worse=min(1.0, 2 * min(1 - short, long)),
        p_within=max(short, 1 - long, grown.p_not_worse(up), shrunk.p_not_worse(down)),
        same=same, margin=min(up, down), note="the answers are the same" if same else "",
    )  # fmt: skip


def flips(cell: str, rows: Pairs, scores: Sequence[str], lower: Sequence[str]) -> list[Flip]:
    """The rows whose scores changed, those that lost first."""
    found = []
    for a, b in rows:
        lost: list[str] = []
        gained: list[str] = []
        for name in scores:
            after, before = _score(a, name), _score(b, name)
            if after is None or before is None or after == before:
                continue
            (lost if (after < before) != (name in lower) else gained).append(name)
        if lost or gained:
            found.append(
                Flip(cell, a.id, _text(a, b, "case") or "", tuple(lost), tuple(gained), _text(a, b, "message"),
                     _text(b, b, "output"), _text(a, a, "output"))
            )  # fmt: skip
    return sorted(found, key=lambda f: (not f.lost, f.row))


def _text(first: Row, other: Row, name: str) -> str | None:
    value = next((v for row in (first, other) if (v := row.shown.get(name)) is not None), None)
    return None if value is None else str(value)


def differing(candidate: Subject, baseline: Subject) -> tuple[list[str], list[str]]:
    """Ids of rows in both whose evaluation row changed, and of rows that only the candidate has."""
    before: Mapping[str, Row] = {row.id: row for row in baseline.rows}
    changed = [r.id for r in candidate.rows if r.id in before and before[r.id].example != r.example]
    return changed, [r.id for r in candidate.rows if r.id not in before]
