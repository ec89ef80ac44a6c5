"""What speaks against the numbers of a whole run, told beside its decision: leaked rows, an A/A control that differs,
and cells that do the same work and were timed far apart."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from statistics import fmean

from harness.decide import COST, P95, Decision, Facts
from harness.report.comparisons import DIFFERS
from harness.rows import column, ids
from harness.runs import Run
from harness.types import RunRecord
from harness.wording import number, plural

COARSE = {P95: "Response times", COST: "Costs and batched rates"}  # what twins show of an objective


def doubts(
    run: Run, decision: Decision | None, known: Facts | None, controls: Sequence[Mapping[str, str]]
) -> list[str]:
    """A sentence for each suite of which builds saw rows that are scored, and for each control that differs; and one
    where timings differ further than the policy has it."""
    differing = [
        f"The A/A control, {c['name']} evaluated twice, differs where nothing should: {c['delta']} points, p-value "
        f"{c['p']}. Distrust this run."
        for c in controls
        if c["verdict"] == DIFFERS
    ]
    return [*_leaked(run, decision), *differing, *_unsteady(run, known)]


def _unsteady(run: Run, known: Facts | None) -> list[str]:
    if known is None:
        return []
    return [
        f"{COARSE[objective]} of this run are coarse: {' and '.join(run.names[i] for i in seen.cells)} do the same "
        f"work and were {seen.ratio:.2f} times apart. Differences in them below {seen.pace**known.apart:.2f} times "
        "mean nothing here; time the cells again on a quiet machine (runner.time_again=true)."
        for objective, seen in known.twins.items()
    ]


def _leaked(run: Run, decision: Decision | None) -> list[str]:
    """Of each suite whose leaks were left in, what the chosen cell, the reference and the best cell are without them.
    With `leakage=drop` builds did not see them, and near copies are no leaks. Of a score that is no share, or of which
    less is better, nothing more is told."""
    said = []
    named = (decision.chosen or decision.try_first, decision.reference) if decision else ()
    for suite, found in run.leakage.items():
        seen = {o["row"] for o in found["overlaps"] if o["kind"] != "near"}
        if not seen or "warn" not in found["mode"]:
            continue
        scored = ((r, m) for r in run.ok if r.suite == suite and (m := run.quality(r)))
        some = (r for r, m in scored if (m.unit, m.better) == ("share", "higher"))
        left = {r.id: fmean(rest) for r in some if (rest := scores_without(run, r, seen)[1])}
        first = [next((i for i in decision.judged.get(n or "", ()) if i in left), "") for n in named if decision]
        told = ", ".join(
            f"{run.names[i]}{'' if n else ' has'} {number(left[i], 'share')}"
            for n, i in enumerate(dict.fromkeys(i for i in (*first, max(left, key=left.__getitem__)) if i))
        ) if any(first) else ""  # fmt: skip
        rows = f"{plural(found['rows']['evaluation'], 'evaluation row')} of {suite}"
        said.append(
            f"Leakage: {len(seen)} of {rows} {'stands' if len(seen) == 1 else 'stand'} in what builds saw, by the same "
            "message or group" + (f"; without them {told}." if told else ".")
        )
    return said


def scores_without(run: Run, r: RunRecord, out: Container[object]) -> tuple[list[float], list[float]]:
    """What decides of each row of a cell that has it, and of those rows that are not in `out`."""
    rows = run.rows.get(r.id, ())
    scored = [(i, v) for i, v in zip(ids(rows), column(rows, run.score(r)).tolist(), strict=True) if v == v]
    return [v for _, v in scored], [v for i, v in scored if i not in out]
