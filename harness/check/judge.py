"""From two subjects and rules to a judgement. Pure: the same input gives the same verdict, to the letter.

All that could block is one family, corrected by Holm, over all cells and metrics: where nothing changed, the whole gate
fails with a chance of at most `alpha`. What is only told is a family of its own. To pass, every blocking metric must be
shown to be good enough at `alpha` by itself, which needs no correction (Berger's intersection-union test, 1982,
Technometrics 24:295): the gate passes a metric at the edge of its margin with a chance of at most `alpha`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.check.answers import (
    PRIMARY,
    Pairs,
    Wanted,
    chosen,
    counted,
    detectable,
    differing,
    elsewhere,
    flips,
    length_trial,
    of_suites,
    pairs,
    rows_to_pass,
    score_trial,
    told_trials,
)
from harness.check.rules import Rules
from harness.check.sequential import level
from harness.check.subject import Side, Subject
from harness.check.timing import computing, latency_trials, limit_trials, otherwise
from harness.check.trial import Finding, Flip, Judgement, Trial, Verdict
from harness.errors import UserError
from harness.statistics import Paired
from harness.wording import plural

SHOWN = 3  # ids told in one line
Settled = Mapping[tuple[str, str], Verdict]


@dataclass(frozen=True, slots=True)
class Looks:
    """The looks taken so far, as rising shares of the rows that may be looked at, this one last; what earlier ones have
    settled; and what share of all rows may be looked at. With the share 1.0 alone they are in at once."""

    shares: tuple[float, ...] = (1.0,)
    settled: Settled | None = None
    end: float = 1.0

    @property
    def last(self) -> bool:
        """Whether no more rows come."""
        return self.shares[-1] >= 1.0

    @property
    def share(self) -> float:
        """How many of all rows are in."""
        return self.shares[-1] * self.end


def matched(candidate: Side, baseline: Side) -> list[tuple[Subject | None, Subject]]:
    """Each cell of the baseline with the candidate's: by id, or the one with the other where each side has one."""
    if len(candidate.cells) == len(baseline.cells) == 1 and not candidate.missing:
        return [(candidate.cells[0], baseline.cells[0])]
    there = {c.id: c for c in candidate.cells}
    return [(there.get(b.id), b) for b in baseline.cells]


def refuse_other_suites(both: Sequence[tuple[Subject | None, Subject]], decides: bool = False) -> None:
    """Raises `UserError` where a candidate answered other rows, was scored otherwise, or is decided by another score
    than its baseline, where it `decides`."""
    mistakes = []
    for a, b in both:
        if a is None or a.failed or b.failed:
            continue
        again = "take a new baseline with --save-baseline"
        if a.suite != b.suite:
            mistakes.append(f"{a.id}: its suite is {a.suite}, that of the baseline {b.suite}; {again}")
            continue
        if a.rows and a.scoring != b.scoring:
            mistakes.append(
                f"{a.id}: suite {a.suite} is scored otherwise now (task, scorers, what they read, token limit); {again}"
            )
        if decides and a.primary and b.primary not in ("", a.primary):
            mistakes.append(
                f"{a.id}: the deciding score of {a.suite} is {a.primary} now, {b.primary} in the baseline; {again}, or "
                f"name what is judged by --set quality.scores=[{b.primary}]"
            )
        changed, new = differing(a, b)
        now, then = a.config.get("profile"), b.config.get("profile")
        if new and not changed and then and now != then:
            mistakes.append(
                f"{a.id}: {len(new)} evaluation rows more than the baseline has, by profile={now}; run it with "
                f"profile={then}, as the baseline was"
            )
            continue
        for ids, what in ((changed, "evaluation rows changed"), (new, "evaluation rows are new")):
            if ids:
                mistakes.append(f"{a.id}: {len(ids)} {what} since the baseline ({_few(ids)}); {again}")
    if mistakes:
        raise UserError(mistakes)


def judge(candidate: Side, baseline: Side, rules: Rules, looks: Looks | None = None) -> Judgement:
    """The verdict on every metric of every cell of the baseline. Raises `UserError` for another suite, or where nothing
    can be matched."""
    looks, baseline = looks or Looks(), baseline.supported()
    both = matched(candidate, baseline)
    refuse_other_suites(both, decides=PRIMARY in (*rules.quality.scores, *rules.validity.scores))
    to_come = candidate.missing and (not candidate.cells or {b.id for _, b in both} & {*candidate.missing})
    if not (any(a for a, _ in both) or to_come or baseline.missing):
        known = ", ".join(b.id for _, b in both)
        raise UserError(
            f"{candidate.source}: has none of the baseline's cells ({known}); see --cell and --baseline-cell"
        )
    lost = "no record of this cell in the baseline; let that run end"
    trials: list[Trial] = [_not_measured(i, "cell", lost) for i in baseline.missing]
    flipped: list[Flip] = []
    names_of = of_suites(b for _, b in both)
    for a, b in both:
        if a is None or a.failed or b.failed:
            reason = "no record of this cell; the run is partial" if a is None else a.failed
            trials.append(_not_measured(b.id, "cell", reason or f"the baseline's own cell {b.failed}"))
            continue
        rows, lacking = pairs(a, b)
        if not rows or lacking:
            told = f"{len(lacking)} of {len(b.rows)} evaluation rows were not answered ({_few(lacking)})"
            trials.append(_not_measured(a.id, "rows", told if b.rows else "the baseline has no rows"))
        if twice := [i for i, n in Counter(r.id for r in (*a.rows, *b.rows)).items() if n > 2]:
            trials.append(_not_measured(a.id, "rows", f"rows stand there twice ({_few(twice)})"))
        if rows:
            wanted = chosen(a, b, rules.quality, rules.validity, elsewhere(names_of, b))
            trials += _answers(a, b, rows, wanted, rules, looks)
            names = [n for n, *_ in wanted]
            flipped += flips(a.id, rows, names, b.lower)
        trials += latency_trials(a, b, a.id, rules.latency)
        trials += limit_trials(a, b, a.id, rules.memory, same_machine=True)
        trials += limit_trials(a, b, a.id, rules.size, same_machine=False)
    findings = [f for blocks in (True, False) for f in _judged([t for t in trials if t.blocks is blocks], rules, looks)]
    place = {(t.cell, t.metric): at for at, t in enumerate(trials)}
    findings.sort(key=lambda f: place[f.trial.cell, f.trial.metric])
    judged = {b.id for _, b in both} | {a.id for a, _ in both if a}
    notes = [f"{a.id} {line}, so that some answers may differ without a change of yours"
        for a, b in both if a and not a.failed and (line := computing(a, b))]  # fmt: skip
    notes += [f"{c.id} is not in the baseline, and was not judged" for c in candidate.cells if c.id not in judged]
    beside: dict[str, list[str]] = {}
    for a, b in both:
        if a and (line := _beside_the_model(a, b)):
            beside.setdefault(line, []).append(a.id)
    notes += [f"{_few(ids)}: {line}" for line, ids in beside.items()]
    against = next((b.id for a, b in both if a and a.id != b.id), "")
    return Judgement(
        candidate.source, baseline.source, rules, tuple(findings), tuple(flipped), tuple(notes),
        exit_code(findings, rules), looks.share, against, baseline.digest,
    )  # fmt: skip


def _beside_the_model(a: Subject, b: Subject) -> str:
    """Versions that differ and, where ids are equal, knobs: what both sides say, but for how it was measured."""
    now, same = a.knobs, a.id == b.id
    then = {k: v for k, v in b.knobs.items() if k in now and k.startswith("versions." if not same else "")}
    return otherwise(now, {k: v for k, v in then.items() if not (k.startswith("measure.") or k.endswith(".target"))})


def _not_measured(cell: str, what: str, why: str) -> Trial:
    return Trial(cell, what, True, "", sure=Verdict.NOT_MEASURED, note=why)


def _answers(a: Subject, b: Subject, rows: Pairs, wanted: Wanted, rules: Rules, looks: Looks) -> list[Trial]:
    lower = {*a.lower, *b.lower}
    found = [score_trial(name, section, a.id, rows, name in lower, unnamed) for name, section, unnamed in wanted]
    found += told_trials(a, b, rules.quality, whole=len(looks.shares) == 1 and looks.share >= 1)
    length = length_trial(a.id, rows, rules.length, b.knobs.get("suite.max_new_tokens"))
    if length and len({b.group or b.id for _, b in rows}) < (least := rows_to_pass(length.margin, rules.alpha)):
        few = (
            "a few answers that run on to the limit of tokens, or long ones that become short, are seen in "
            f"{least} groups of rows or more"
        )
        length = replace(length, note=length.note or few)
    return [*found, *([length] if length else [])]


def _judged(trials: Sequence[Trial], rules: Rules, looks: Looks) -> list[Finding]:
    """Holm's steps down over the trials that were tested, each at the level that this look has for it. What was spared,
    and could not have passed on so few rows, blocks nothing where it is open once all rows are in."""
    tested = sorted((t for t in trials if t.sure is None), key=lambda t: t.p_worse)
    rejected, adjusted = set(), {}
    largest, going = 0.0, True
    for rank, t in enumerate(tested):
        left = len(tested) - rank
        shares = looks.shares if t.by_rows else (1.0,)
        going = going and t.p_worse <= level(rules.alpha / left, shares) * (1 + 1e-9)
        if going:
            rejected.add(id(t))
        adjusted[id(t)] = largest = max(largest, min(1.0, left * t.p_worse))
    found = []
    for t in trials:
        shares = looks.shares if t.by_rows else (1.0,)
        needed = level(rules.alpha, shares)
        within = t.p_within <= needed * (1 + 1e-9) or (t.same and looks.share >= 1)
        before = (looks.settled or {}).get((t.cell, t.metric))
        if t.sure is not None:
            verdict = t.sure
        elif before in (Verdict.PASS, Verdict.REGRESSED):
            verdict = before
        else:
            worse = Verdict.REGRESSED if id(t) in rejected else Verdict.INCONCLUSIVE
            verdict = Verdict.PASS if within else worse
        p, least = adjusted.get(id(t), float("nan")), rows_to_pass(t.margin, needed) if looks.last else 0
        sentence = _sentence(t, verdict, rules, len(tested), least)
        if verdict is Verdict.INCONCLUSIVE and t.spared and t.pair and counted(t.pair) < least:
            t = replace(t, blocks=False)
        found.append(Finding(t, verdict, p, sentence))
    return found


def exit_code(findings: Sequence[Finding], rules: Rules) -> int:
    """0 pass, 1 regressed, 3 inconclusive or could not measure; only what blocks counts."""
    seen = {f.verdict for f in findings if f.trial.blocks}
    if Verdict.REGRESSED in seen:
        return 1
    open_ = Verdict.INCONCLUSIVE in seen and rules.inconclusive == "block"
    judged = seen - {Verdict.NOT_MEASURED}
    return 3 if open_ or Verdict.NOT_MEASURED in seen or not judged else 0


def certain(found: Judgement) -> bool:
    """Whether more rows could not change the exit code: a regression stands, or nothing that blocks is left open."""
    blocking = [f for f in found.findings if f.trial.blocks]
    return found.exit_code == 1 or not any(f.verdict is Verdict.INCONCLUSIVE and f.trial.by_rows for f in blocking)


def settled(found: Judgement) -> Settled:
    """What a later look need not ask again."""
    return {
        (f.trial.cell, f.trial.metric): f.verdict
        for f in found.findings
        if f.verdict in (Verdict.PASS, Verdict.REGRESSED)
    }


def _few(ids: Sequence[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (", …" if len(ids) > SHOWN else "")


def _flipped(pair: Paired) -> str:
    return f"{plural(pair.lost, 'row')} lost, {pair.gained:,} gained of {pair.n:,}"


def _sentence(t: Trial, verdict: Verdict, rules: Rules, comparisons: int, least: int) -> str:
    """Why this verdict, and what would settle an open one; `least`: as of `rows_to_pass`."""
    beside = verdict is Verdict.REGRESSED and t.by_rows and t.pair is None  # why a length could not have passed
    parts = [t.note] if t.note and not beside else []
    if verdict is Verdict.INCONCLUSIVE and t.pair is not None:
        drop = detectable(t.pair, t.margin, rules.alpha, comparisons)
        parts.append(
            f"{_flipped(t.pair)}: neither shown to be worse nor to be within the margin; only a drop of "
            f"{100 * drop:.0f} points would likely have been shown"
            if drop <= 1
            else f"{plural(t.pair.n, 'row')} {'are' if t.pair.n > 1 else 'is'} too few to show anything"
        )
        few, units = counted(t.pair) < least, "rows" if counted(t.pair) == t.pair.n else "groups of rows"
        parts.append(f"to pass it takes {least} {units}, even if none is lost" if few else "give more rows")
    elif verdict is Verdict.INCONCLUSIVE and t.by_rows:
        parts.append("shown to be neither within the bounds nor beyond them; give more rows")
    elif verdict is Verdict.INCONCLUSIVE:
        parts.append(
            f"neither shown to be beyond {rules.latency.noise:g} times nor to be below {rules.latency.limit:g} times; "
            "time both again (runner.time_again=true), with more requests (profile.requests, profile.rounds)"
        )
    elif t.pair is not None and not t.note:
        parts.append(_flipped(t.pair))
    return "; ".join(parts)
