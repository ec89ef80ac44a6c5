"""When the evidence carries no choice: nothing was measured that could, too few rows, or one answer to all of them.

A choice is not carried when it is likelier wrong than right in a way that matters: in fewer than 45% of the joint
draws the chosen cell holds the limits and is within the margin (at least 5 points) of the highest quality. A cell that
only might be cheaper is no reason to choose nothing, as the chosen one then loses no quality that counts. More rows
make this rarer on average: proof gets easier, and cells that only look alike fall away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

from harness.decide.case import COMPARED, MORE_SEEDS, Case
from harness.decide.cells import Rows, primary, quality
from harness.decide.costs import goodput
from harness.decide.facts import Candidate
from harness.decide.odds import Draws
from harness.decide.policy import COST, OBJECTIVES, P95, QUALITY, Policy
from harness.decide.recipes import NO_RATE, recipes, weights_of
from harness.power import groups_needed, rows_needed
from harness.rows import column, outside, rights, texts
from harness.types import RunRecord, Status
from harness.wording import apart, number, plural, share, told

LEAST = 0.45  # share of the draws in which a choice must be good enough
SHOWN_REPLY = 80  # characters
PRACTICAL = 0.05  # differences in quality up to this do not count, nor up to the policy's margin


def not_shares(
    grid: Sequence[RunRecord], rows: Rows, rule: Policy, suites: Collection[str], names: Mapping[str, str]
) -> tuple[str, str, str] | None:
    """The sentences where the score that decides, of a cell or of one of its rows, is not from 0 to 1."""
    for r in grid:
        m = quality(r, rule) if r.status is Status.OK and r.suite in suites else None
        if m is None or m.better == "lower":
            continue
        name, own = primary(r, rule), m.value < 0 or m.value > 1
        found = m.value if own else outside(rows.get(r.id, ()), name)
        if found is not None:
            return (
                f"No recommendation: cells are judged by “{name}”, whose scores are not all from 0 to 1.",
                f"{names[r.id]} has {apart(found, 2, float(found > 1))}{'' if own else ' on a row'}; what decides must "
                "be from 0 to 1, since margins and floors are shares.",
                "Name another score of the suite (policy.metric), such as this one as a share of the most it can be.",
            )
    return None


def no_choice(grid: Sequence[RunRecord], case: Case) -> tuple[str, str, str] | None:
    """The sentences where nothing can be recommended whatever the rows say."""
    found, rule = case.found, case.rule
    ok = [r for r in grid if r.status is Status.OK]
    if ok and not any(quality(r, rule) for r in ok):
        fastest = _objective_best(ok, P95 if rule.objective == QUALITY else rule.objective, case.names)
        return (
            "No recommendation: no cell's quality was measured, and speed and cost alone don't say what to ship.",
            f"For sizing only: {fastest}",
            "What is missing is quality: run the grid on a trained model.",
        )
    if ok and not any(m.better == "higher" for r in ok if (m := quality(r, rule))):
        return (
            f"No recommendation: cells are judged by “{primary(ok[0], rule)}”, and less of that is better.",
            "What decides must be a score of which more is better, since margins and floors are of rows that pass.",
            "Name another score of the suite (policy.metric), such as 1 minus this one.",
        )
    if found.best is None and (names_lacked := lacked(good_enough(case.measured, rule), rule)):
        of = " of enough quality" if rule.min_quality else ""
        return (
            f"No recommendation: no cell{of} has a measured {names_lacked}, which the policy asks for.",
            f"{len(ok)} of {plural(len(grid), 'cell')} ended ok; the report says of each what it lacks.",
            "Measure or price that, or let the policy ask for something else.",
        )
    if found.best is None:
        judged = weights_of(grid, rule)
        or_rate = f", {NO_RATE}" if any(goodput(r, rule.service_level) == 0 for r in ok if r.suite in judged) else ""
        stood = f"{len(ok)} of {plural(len(grid), 'cell')} ended ok; each breaks a limit{or_rate} or lacks a number."
        return (
            "No recommendation: no cell ended ok" + (" within the policy's limits." if ok else "."),
            stood if ok else f"{len(grid)} of {plural(len(grid), 'cell')} failed, or cannot run here.",
            "The report says of each what stood in its way.",
        )
    if found.best.quality == 0:
        top = case.cells[found.best.id]
        m = quality(top, rule)
        where = " within the policy's limits" if any(c.quality for c in case.facts.candidates) else ""
        return (
            f"No recommendation: no cell{where} got a single row of “{primary(top, rule)}” right.",
            f"Of {plural(len(found.holding), 'cell')} that could be chosen, none scores above 0 on "
            f"{plural(m.n if m else 0, 'row')}, so none does this task yet.",
            "More training rows or epochs (profile=standard), a larger model, or a score that they do reach "
            "(policy.metric) would tell more.",
        )
    return None


def good_enough(measured: Sequence[Candidate], rule: Policy) -> list[Candidate]:
    """Those that get something right and hold the floor."""
    return [c for c in measured if c.quality > 0 and c.lowest_quality >= (rule.min_quality or 0.0)]


def lacked(them: Sequence[Candidate], rule: Policy) -> str:
    """The numbers that the policy asks for and each of them lacks one of; empty where one lacks none, or none is."""

    def one(c: Candidate) -> str:
        for asked, value, name in (
            (rule.objective == COST, c.cost, OBJECTIVES[COST]),
            (rule.objective == P95 or rule.max_p95_e2e_ms is not None, c.p95_ms, OBJECTIVES[P95]),
            (rule.max_memory_bytes is not None, c.memory_bytes, "peak memory"),
            (rule.min_valid is not None, c.valid, "share of valid outputs"),
        ):
            if asked and value is None:
                return name
        return ""

    names = dict.fromkeys(map(one, them))
    return "" if "" in names else " and a measured ".join(names)


def _objective_best(records: Sequence[RunRecord], metric: str, names: Mapping[str, str]) -> str:
    found = {r.id: m for r in records if (m := r.value(metric))}
    if not found:
        return f"no {OBJECTIVES[metric]} was measured either."
    low = min(found, key=lambda i: (found[i].value, i))
    return f"the lowest {OBJECTIVES[metric]} is that of {names[low]}, {number(found[low].value, found[low].unit)}."


def too_few_rows(case: Case) -> tuple[str, str, str] | None:
    """The sentences where on some suite not even a difference of 100 points could be shown. What counts is how many
    groups the rows are of: odds, which draw groups again, would come of too few as well."""
    best = case.best
    m = quality(case.cells[best.id], case.rule)
    at = [case.place(c) for c in case.found.holding[:COMPARED] if c is not best]
    for suite, table in case.tables.items():
        kept = table.values >= 0
        both = (kept[:, at] & kept[:, [case.place(best)]]).T
        shared = [[table.groups[n] for n in some.nonzero()[0]] for some in both if some.any()]
        groups, rows = max(((len(set(s)), len(s)) for s in shared), default=(m.n, m.n) if m else (0, 0))
        if groups < groups_needed():
            return _too_few(groups, rows, f" on {suite}" if case.several else "", max(case.rule.margin, 0.01))
    return None


def _too_few(groups: int, rows: int, on: str, margin: float) -> tuple[str, str, str]:
    grouped = groups < rows
    return (
        f"Not enough evidence: too few {'groups of ' if grouped else ''}rows were scored{on} to tell any two cells "
        "apart.",
        f"With {plural(groups, 'group') + ' of rows' if grouped else plural(rows, 'row')} even a difference of 100 "
        "points could not be shown.",
        f"About {rows_needed(margin, 0.2):,} rows{', each a group of its own,' if grouped else ''} would likely show "
        f"a difference of {100 * margin:g} points, if the cells differ on a fifth of them.",
    )


def no_skill(case: Case, suites: Mapping[str, Sequence[RunRecord]], rows: Rows) -> tuple[str, str, str] | None:
    """The sentences where the chosen cell, whose records, one a seed, stand by the suite judged, answers all rows of a
    suite alike and is not always right with it, or is no better than one that always gives the commonest reply; None
    where it is, or where answers were not kept."""
    name = case.names[case.chosen.id]
    for suite, seeds in suites.items():
        found = [m for r in seeds if (m := quality(r, case.rule))]
        value = fmean(m.value for m in found) if found else 1.0
        if value == 1 or found[0].n < 2:
            continue
        said = [set(texts(rows.get(r.id, ()), "output")) for r in seeds]
        same = all(len(answers) == 1 and None not in answers for answers in said)
        common, reply = commonest(seeds[0], rows, case.rule)
        on, score = f" of {suite}" if case.several else "", primary(seeds[0], case.rule)
        if same:
            does = f"gives the same answer to all {found[0].n} rows{on}"
            shows = f"With it “{score}” is {share(value)}, which shows how common such a reply is, and no skill."
        elif value <= common:
            does = f"is no better than one that gives the same answer to all {found[0].n} rows{on}"
            shows = f"Its “{score}” is {share(value)}; always answering “{reply}” would be right on {share(common)}."
        else:
            continue
        return (
            f"No recommendation: the cell that the policy would choose, {name}, {does}.",
            shows,
            "More training rows or epochs (profile=standard), a larger model, or instructions that say when which "
            "answer is right would tell more.",
        )
    return None


def commonest(record: RunRecord, rows: Rows, rule: Policy) -> tuple[float, str]:
    """The share of a cell's rows to which the commonest of the right replies is right, and that reply; 0 where none is
    right to two rows, where that was not kept, or where what decides is not the suite's own score, and of all rows."""
    kept, name = rows.get(record.id, ()), primary(record, rule)
    scores = column(kept, name)
    if name != primary(record, None) or (scores != scores).any():
        return 0.0, ""
    wanted = [rights(row, "reference") for row in kept]
    reply, count = next(iter(Counter(right for row in wanted for right in row).most_common(1)), ("", 0))
    if count < 2 or [] in wanted:
        return 0.0, ""
    return count / len(wanted), reply if len(reply) <= SHOWN_REPLY else f"{reply[:SHOWN_REPLY]} …"


def alone(case: Case) -> tuple[str, str, str] | None:
    """The sentences where a run measured the quality of one way to build alone, and no floor says whether it is good
    enough."""
    if len(case.measured) > 1 or case.rule.min_quality is not None:
        return None
    best = case.best
    record = case.cells[best.id]
    m = quality(record, case.rule)
    reached = f"“{primary(record, case.rule)}” {share(best.quality)} on {plural(m.n, 'row')}" if m else ""
    everywhere = " on all suites judged" if case.several else ""
    reached = f"a weighted {share(best.quality)} over {len(case.tables)} suites" if case.several else reached
    others = len(recipes(list(case.cells.values()), case.tables)) > 1
    stands = "stands below" + (", and what each other cell lacks" if others else "")
    return (
        f"No recommendation: {case.names[best.id]} is the only way to build that was measured{everywhere}: {reached}.",
        f"What was measured {stands}; whether another would be better, or this one is good enough, is open.",
        "Run it beside others (adaptation=prompt_rag,lora), or set the least that is good enough (policy.min_quality).",
    )


def not_carried(case: Case, draws: Draws) -> tuple[str, str, str] | None:
    """The sentences where the chosen cell is likelier wrong than right in a way that matters; None where it is
    not, or where no rows were kept that could tell."""
    rule, chosen = case.rule, case.chosen
    if len(case.found.holding) < 2 or not all(t.groups for t in case.tables.values()):
        return None
    practical = max(rule.margin, PRACTICAL)
    enough = draws.within(case.place(chosen), practical)
    if enough >= LEAST:
        return None
    rival = case.facts.candidates[draws.ahead(case.place(chosen), practical)]
    name, other, gap = case.names[chosen.id], case.names[rival.id], f"{100 * practical:g} points"
    pair = case.pair(chosen, rival)
    rows = max(len(t.groups) for t in case.tables.values())
    need = max(pair.rows_for(practical) if pair else 0, 2 * rows)
    against = f": {name} against it has {told(pair)}" if pair else ""
    more = f"About {need:,} rows like these would likely show a difference of {gap}"
    more = MORE_SEEDS.capitalize() if pair and pair.seeds > 1 else more
    return (
        f"Not enough evidence: with these {rows} rows drawn again as chance might have it, the cell that the policy "
        f"would choose, {name}, holds the limits and is within {gap} of the highest quality in only {share(enough)}.",
        f"{other} is the one most often better by more than that{against}.",
        f"{more}; until then, {name} is the one to try first.",
    )
