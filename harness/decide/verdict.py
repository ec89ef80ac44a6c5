"""Which cell to ship, and how sure that is: a pure function of records, rows and a policy.

    cells that ended ok
      -> that hold the hard limits
      -> the one of highest quality, and those shown to be within the margin of it (paired, row by row)
      -> the best by the objective; what cannot be told apart from it goes to the simplest

This is a test of non-inferiority: a cell stands in for the best one only when its whole 95% interval lies on the good
side of the margin, so having few rows does not speak for a cell. What they leave open is told apart from what is shown
to be worse, with how many rows it would take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from harness.decide.findings import Decision
from harness.errors import UserError
from harness.statistics import Paired, detectable_difference, group_of, interaction, paired, rows_needed
from harness.types import Json, Measurement, RunRecord, Status
from harness.wording import labels, number, share, told

MEMORY = ("memory_bytes/cuda_peak_reserved", "memory_bytes/cuda_peak_allocated", "memory_bytes/peak_rss")
LOW_SCORE = 0.5  # a score that fewer rows than this reach is told beside the recommendation
LOW_SHOWN = 2  # of them, in the suite's order
OBJECTIVES = {
    "cost_usd_per_1000": "cost per 1,000 requests",
    "e2e_ms/p95": "p95 response time",
    "quality": "quality",
}
SIMPLE_ADAPTATIONS = ("prompt_rag", "lora", "lora_head", "full_ft")
UNQUANTIZED = ("fp16", "bf16", "fp32")
Rows = Mapping[str, Sequence[Mapping[str, Json]]]


@dataclass(frozen=True, slots=True)
class Policy:
    """What counts. `metric` is the score judged (None: the suite's own primary score); limits of None do not apply."""

    objective: str
    name: str = "policy"
    metric: str | None = None
    min_quality: float | None = None
    max_p95_e2e_ms: float | None = None
    max_memory_bytes: float | None = None
    margin: float = 0.05


def read_policy(values: Mapping[str, Json]) -> Policy:
    """The policy of a `conf/policy/*.yaml`; raises `UserError` with a line for each unknown key or bad value."""
    known = {f.name for f in fields(Policy)}
    name = values.get("name", "policy")
    mistakes = [
        f"policy {name}: unknown key {key!r}; known are {', '.join(sorted(known))}"
        for key in values
        if key not in known
    ]
    if values.get("objective") not in OBJECTIVES:
        mistakes.append(f"policy {name}: objective {values.get('objective')!r}; choose {', '.join(OBJECTIVES)}")
    for key, top in (
        ("margin", 1.0),
        ("min_quality", 1.0),
        ("max_p95_e2e_ms", math.inf),
        ("max_memory_bytes", math.inf),
    ):
        value = values.get(key, 0.0)
        if value is None and key != "margin":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= top:
            what = "a share from 0 to 1" if top == 1 else "a number of 0 or more"
            mistakes.append(f"policy {name}: {key} {value!r}; give {what}{'' if key == 'margin' else ' or null'}")
    if values.get("metric") is not None and not isinstance(values["metric"], str):
        mistakes.append(f"policy {name}: metric {values['metric']!r}; give a score of the suite or null")
    if mistakes:
        raise UserError(mistakes)
    return Policy(**values)


def primary(record: RunRecord, policy: Policy | None = None) -> str:
    """The name of the score that stands for quality: the policy's, else the suite's."""
    chosen = policy.metric if policy else None
    name = chosen or record.config.get("suite", {}).get("params", {}).get("primary", "good")
    return str(name).removeprefix("quality/")


def quality(record: RunRecord, policy: Policy | None = None) -> Measurement | None:
    """The measurement that stands for quality."""
    return record.value(f"quality/{primary(record, policy)}")


def memory(record: RunRecord) -> Measurement | None:
    """The memory a cell needs to run: what CUDA reserved, or the peak of the process where there is no GPU."""
    return next((m for name in MEMORY if (m := record.value(name))), None)


def simplicity(record: RunRecord) -> tuple[int, int, str]:
    """Sorts the simpler cell first: prompting, then LoRA, then full fine-tuning; unquantized before quantized."""
    return *simple_first(record.adaptation, record.quantization), record.id


def simple_first(adaptation: str, quantization: str) -> tuple[int, int]:
    """The part of that order which the names of a cell's choices decide."""
    order = SIMPLE_ADAPTATIONS.index(adaptation) if adaptation in SIMPLE_ADAPTATIONS else len(SIMPLE_ADAPTATIONS)
    return order, int(quantization not in UNQUANTIZED)


def reference(records: Sequence[RunRecord]) -> RunRecord | None:
    """What the others are compared with: the simplest cell that ended ok, so prompt_rag/fp16 where that did."""
    return min((r for r in records if r.status is Status.OK), key=simplicity, default=None)


def shared_scores(cells: Sequence[RunRecord], rows: Rows, score: str) -> tuple[list[list[float]], list[Json]]:
    """The scores of several cells on the rows that all of them have, a list a cell in the same order of rows, and the
    group of each row: a row without one is a group of its own."""
    found = [{r["id"]: r for r in rows.get(c.id, ()) if _is_score(r["scores"].get(score))} for c in cells]
    shared = sorted(set.intersection(*map(set, found)), key=str) if found else []
    groups = [group_of(found[0][i]) for i in shared]
    return [[float(f[i]["scores"][score]) for i in shared] for f in found], groups


def _is_score(value: Json) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def compare(a: RunRecord, b: RunRecord, rows: Rows, score: str) -> Paired | None:
    """`a` against `b` on the rows that both have; None where there are none with a score from 0 to 1."""
    (left, right), groups = shared_scores([a, b], rows, score)
    return paired(left, right, groups) if left else None


def interact(cells: Sequence[RunRecord], rows: Rows, score: str) -> Paired | None:
    """How quantization changed the gain of an adaptation, on the rows that all of (tuned, base, tuned in 16 bits, base
    in 16 bits) have; None unless there are four cells and such rows."""
    scores, groups = shared_scores(cells, rows, score)
    return interaction(scores[0], scores[1], scores[2], scores[3], groups) if len(scores) == 4 and groups else None


def decide(records: Sequence[RunRecord], rows: Rows, policy: Mapping[str, Json]) -> Decision:
    """The decision of one run. Raises `UserError` for a policy that cannot be read."""
    rule = read_policy(policy)
    ordered = sorted(records, key=simplicity)
    names = labels(r.id for r in ordered)
    against = reference(ordered)
    reasons = {r.id: why for r in ordered if (why := _out(r, rule))}
    left = [r for r in ordered if r.id not in reasons]

    def nothing(first: str, second: str, third: str) -> Decision:
        rest = {r.id: reasons.get(r.id) or "Not judged: there is no decision." for r in ordered}
        return Decision(None, (first, second, third), rest, rule.margin, against.id if against else None)

    if len({r.suite for r in ordered}) > 1:
        return nothing(
            "No recommendation: this run holds several suites, and scores of different suites cannot be pooled.",
            "Each suite's numbers stand on their own below.", "Run one suite alone to get a recommendation.",
        )  # fmt: skip
    ok = [r for r in ordered if r.status is Status.OK]
    if ok and not any(quality(r, rule) for r in ok):
        fastest = _objective_best(ok, "e2e_ms/p95" if rule.objective == "quality" else rule.objective, names)
        return nothing(
            "No recommendation: no cell's quality was measured, and speed and cost alone don't say what to ship.",
            f"For sizing only: {fastest}",
            "What is missing is quality: run the grid on a trained model.",
        )
    if not left:
        return nothing(
            "No recommendation: no cell ended ok within the policy's limits.",
            f"{len(ok)} of {len(ordered)} cells ended ok, and each of them breaks a limit or lacks a number.",
            "The table of cells says for each what stood in its way.",
        )  # fmt: skip
    best = max(left, key=lambda r: (_value(quality(r, rule)), tuple(-x for x in simplicity(r)[:2])))
    if (top := quality(best, rule)) and top.value == 0:
        return nothing(
            f"No recommendation: no cell got a single row of “{primary(best, rule)}” right.",
            f"All {len(left)} cells that could be chosen score 0 on {top.n} rows, so none of them does this task yet.",
            "More training rows or epochs (profile=standard), a larger model, or a score that they do reach "
            "(policy.metric) would tell more.",
        )
    pairs = {r.id: compare(r, best, rows, primary(r, rule)) for r in left if r is not best}
    scored = min([m.n for m in [quality(best, rule)] if m] + [p.n for p in pairs.values() if p])
    return _choose(left, best, pairs, rule, reasons, against, names) or nothing(
        "Not enough evidence: too few rows were scored to tell any two cells apart.",
        f"With {scored} rows even a difference of 100 points could not be shown.",
        f"About {rows_needed(max(rule.margin, 0.01), 0.2):,} rows would show a difference of "
        f"{share(max(rule.margin, 0.01))}, if the cells differ on a fifth of them.",
    )


def _value(measurement: Measurement | None) -> float:
    return measurement.value if measurement else math.nan


def _out(record: RunRecord, rule: Policy) -> str:
    """Why a cell cannot be chosen whatever the others are like; empty when it can."""
    if record.status is not Status.OK:
        return f"{str(record.status).capitalize()}: {record.reason or 'no reason was given'}."
    score = quality(record, rule)
    p95, ram = record.value("e2e_ms/p95"), memory(record)
    if score is None:
        return f"Its quality was not measured: {record.not_measured.get('quality', 'no such score in its record')}."
    if rule.min_quality is not None and score.value < rule.min_quality:
        return f"Its quality of {share(score.value)} is below the floor of {share(rule.min_quality)}."
    for limit, found, what in (
        (rule.max_p95_e2e_ms, p95, "p95 response time"),
        (rule.max_memory_bytes, ram, "peak memory"),
    ):
        if limit is None:
            continue
        if found is None:
            return f"Its {what} was not measured, and the policy limits it."
        if found.value > limit:
            have, allowed = number(found.value, found.unit), number(limit, found.unit)
            return f"Its {what} of {have} is above the limit of {allowed}."
    if rule.objective != "quality" and record.value(rule.objective) is None:
        return f"Its {OBJECTIVES[rule.objective]} was not measured."
    return ""


def _objective_best(records: Sequence[RunRecord], metric: str, names: Mapping[str, str]) -> str:
    found = {r.id: m for r in records if (m := record_value(r, metric))}
    if not found:
        return f"no {OBJECTIVES[metric]} was measured either."
    low = min(found, key=lambda i: (found[i].value, i))
    return f"the lowest {OBJECTIVES[metric]} is that of {names[low]}, {number(found[low].value, found[low].unit)}."


def record_value(record: RunRecord, metric: str, policy: Policy | None = None) -> Measurement | None:
    """A measurement by the name that policies use."""
    return quality(record, policy) if metric == "quality" else record.value(metric)


def _choose(
    left: Sequence[RunRecord],
    best: RunRecord,
    pairs: Mapping[str, Paired | None],
    rule: Policy,
    reasons: dict[str, str],
    against: RunRecord | None,
    names: Mapping[str, str],
) -> Decision | None:
    """The choice among cells that hold the limits; None where too few rows were scored to say anything."""
    fit, unclear = [best], []
    within = f"within {100 * rule.margin:g} points of" if rule.margin else "as good as"
    for r in left:
        pair = pairs.get(r.id)
        if r is best:
            continue
        if pair is None:
            reasons[r.id] = f"It has no scores on the same rows as {names[best.id]}, so its quality cannot be compared."
        elif pair.low > -rule.margin:
            fit.append(r)
        elif pair.high < -rule.margin:
            reasons[r.id] = (
                f"Shown to be worse than {names[best.id]}"
                + (f" by more than the margin of {100 * rule.margin:g} points" if rule.margin else "")
                + f": {told(pair)}."
            )
        else:
            unclear.append(r)
            more = f"; about {need:,} rows would be needed to tell" if (need := _more(pair, rule)) else ""
            reasons[r.id] = f"Not shown to be {within} {names[best.id]}: {told(pair)}{more}."
    score = quality(best, rule)
    assert score is not None
    if detectable_difference(max([p.n for p in pairs.values() if p] or [score.n]), 1.0) == math.inf:
        return None
    chosen = _by_objective(fit, best, pairs, rule)
    rest = [r for r in fit if r is not chosen]
    for r in rest:
        reasons[r.id] = _lost(r, chosen, rule, pairs, names)
    score, pair = quality(chosen, rule), pairs.get(chosen.id)
    assert score is not None
    spread = "" if score.interval is None else f" ({share(score.interval.low)} to {share(score.interval.high)})"
    first = f"Ship {names[chosen.id]}: {share(score.value)}{spread} of {score.n} rows pass “{primary(chosen, rule)}”"
    for metric, words in (("e2e_ms/p95", "p95 response time {}"), ("cost_usd_per_1000", "{} per 1,000 requests")):
        if found := chosen.value(metric):
            first += ", " + words.format(number(found.value, found.unit))
    first += _low_scores(chosen, primary(chosen, rule))
    if len(left) == 1:
        second = "It is the only cell that ended ok within the policy's limits"
    elif not rest:
        second = f"It has the highest quality measured, and no other cell was shown to be {within} it"
    else:
        second = (
            f"It {_why(fit, chosen, rule)} of the {len(fit)} cells shown to be {within} the highest quality measured"
        )
        second += f", that of {names[best.id]}: {told(pair)}" if pair else ", its own"
    second += _open(unclear, chosen, pairs, rule, rows=bool(rest))
    third = "There is no runner-up: each other cell failed, breaks a limit, or could not be shown to be good enough."
    if rest:
        runner = _by_objective(rest, best, pairs, rule)
        third = f"The runner-up is {names[runner.id]}: {_lower(reasons[runner.id])}"
    elif unclear:
        near = _by_objective(unclear, best, pairs, rule)
        value = record_value(near, rule.objective, rule)
        assert value is not None
        third = (
            f"There is no runner-up; of the cells whose quality is open, {names[near.id]} comes first by "
            f"{OBJECTIVES[rule.objective]} ({number(value.value, value.unit)}), but it is {_lower(reasons[near.id])}"
        )
    return Decision(
        chosen.id, (first + ".", second + ".", third), {r: reasons[r] for r in sorted(reasons)}, rule.margin,
        against.id if against else None, best.id, pair,
    )  # fmt: skip


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _more(pair: Paired, rule: Policy) -> int:
    """The rows that would likely show a difference of the margin; 0 where there are as many already, or no margin."""
    need = pair.rows_for(rule.margin) if rule.margin else 0
    return need if need > pair.n else 0


def _open(
    unclear: Sequence[RunRecord], chosen: RunRecord, pairs: Mapping[str, Paired | None], rule: Policy, *, rows: bool
) -> str:
    """How many cells beat the chosen one by the objective but are not shown to be good enough, and how blind the run
    is to that. `rows` adds how many rows it would take."""
    if rule.objective == "quality":
        return ""
    mine = _value(chosen.value(rule.objective))
    found = [p for r in unclear if _value(r.value(rule.objective)) < mine and (p := pairs[r.id])]
    if not found:
        return ""
    what = "cheaper" if rule.objective == "cost_usd_per_1000" else "faster"
    out = f"; for {len(found)} {what} cell{'s' if len(found) > 1 else ''} that is open"
    blind, n, need = max((p.smallest(), p.n, _more(p, rule)) for p in found)
    if rule.margin < blind < math.inf:
        out += f", as {n} rows likely show only differences of {100 * blind:.0f} points or more"
    if rows and need:
        out += f" and about {need:,} would be needed for {100 * rule.margin:g} points"
    return out


def _low_scores(record: RunRecord, judged: str) -> str:
    """What else the suite scores and most rows fail: a headline must not hide it."""
    scores = (m for m in record.measurements if m.metric.startswith("quality/") and m.better == "higher")
    found = {m.metric.removeprefix("quality/"): m.value for m in scores}
    low = [f"{share(v)} pass “{name}”" for name, v in found.items() if name != judged and v < LOW_SCORE]
    more = f" and {len(low) - LOW_SHOWN} other scores are as low" if len(low) > LOW_SHOWN else ""
    return f"; but only {' and '.join(low[:LOW_SHOWN])}{more}, which this policy does not judge" if low else ""


def _tied(r: RunRecord, front: RunRecord, rule: Policy, pairs: Mapping[str, Paired | None]) -> bool:
    """Whether a cell cannot be told apart from the best by the objective."""
    if r is front:
        return True
    if rule.objective == "quality":
        pair = pairs.get(r.id)
        return pair is not None and pair.high >= 0
    mine, best = r.value(rule.objective), front.value(rule.objective)
    return bool(mine and best and mine.value <= (best.interval.high if best.interval else best.value))


def _by_objective(
    fit: Sequence[RunRecord], best: RunRecord, pairs: Mapping[str, Paired | None], rule: Policy
) -> RunRecord:
    front = fit[0]
    if rule.objective == "quality":
        front = best if best in fit else max(fit, key=lambda r: _value(quality(r, rule)))
    else:
        front = min(fit, key=lambda r: (_value(r.value(rule.objective)), simplicity(r)))
    return min((r for r in fit if _tied(r, front, rule, pairs)), key=simplicity)


def _lost(
    r: RunRecord, chosen: RunRecord, rule: Policy, pairs: Mapping[str, Paired | None], names: Mapping[str, str]
) -> str:
    """Why a cell that was good enough was not the one."""
    if rule.objective == "quality":
        pair = pairs.get(r.id)
        if pair and pair.high < 0:
            return f"Shown to be worse in quality than the best ({told(pair)})."
        other = "the best" if pair else f"that of {names[chosen.id]}"
        return f"Its quality cannot be told apart from {other}, and {names[chosen.id]} is simpler."
    mine, best = r.value(rule.objective), chosen.value(rule.objective)
    assert mine is not None
    assert best is not None
    what = OBJECTIVES[rule.objective]
    mine_told, best_told = number(mine.value, mine.unit), number(best.value, best.unit)
    if mine.value == best.value:
        return f"Its {what} is the same, {mine_told}, and {names[chosen.id]} is simpler."
    if mine.value < best.value:
        return f"Its {what} ({mine_told}) cannot be told apart from {best_told}, and {names[chosen.id]} is simpler."
    if mine_told == best_told:
        return f"Its {what} is higher by less than this table rounds."
    return f"Its {what} is higher: {mine_told} against {best_told}."


def _why(fit: Sequence[RunRecord], chosen: RunRecord, rule: Policy) -> str:
    words = {"quality": "the highest quality"}.get(rule.objective, f"the lowest {OBJECTIVES[rule.objective]}")
    values = [m.value for r in fit if (m := record_value(r, rule.objective, rule))]
    mine = _value(record_value(chosen, rule.objective, rule))
    if mine == (max(values) if rule.objective == "quality" else min(values)):
        return f"has {words}"
    return f"is the simplest that cannot be told apart from {words}"
