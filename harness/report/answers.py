"""Outputs of several cells to one row, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.decide import Decision, primary, reference
from harness.report.run import Row, Run
from harness.report.text import shorten

EXAMPLES = 4


def examples(run: Run, decision: Decision | None) -> list[dict[str, Any]]:
    """The rows on which the cells differ most, one of each case first; four cells side by side, the rest below."""
    ok = [r for r in run.ok if run.rows.get(r.id)]
    if not ok:
        return []
    by_cell = {r.id: {row["id"]: row for row in run.rows[r.id]} for r in ok}
    order = list(dict.fromkeys(i for found in by_cell.values() for i in found))

    def split(row_id: str) -> float:
        marks = [found[row_id]["scores"].get(primary(ok[0]), 0) for found in by_cell.values() if row_id in found]
        marks = [m for m in marks if isinstance(m, int | float)]
        return abs(sum(marks) / len(marks) - 0.5) if len(marks) > 1 else 1.0

    order.sort(key=lambda i: (split(i), str(i)))
    case = {i: str(next(f[i] for f in by_cell.values() if i in f).get("case")) for i in order}
    first = {case[i]: i for i in reversed(order)}
    picked = ([i for i in order if first[case[i]] == i] + [i for i in order if first[case[i]] != i])[:EXAMPLES]
    against = reference(ok)
    wanted = [
        against.id if against else None,
        decision.chosen if decision else None,
        decision.best if decision else None,
    ]
    seen = {r.adaptation for r in ok if r.id in wanted}
    wanted += [
        next(r.id for r in ok if r.adaptation == a) for a in dict.fromkeys(r.adaptation for r in ok) if a not in seen
    ]
    front = list(dict.fromkeys(i for i in wanted if i in by_cell))[:4]
    roles = {wanted[0]: "reference", wanted[2]: "highest quality", wanted[1]: "chosen"}
    low = {m.metric.partition("/")[2] for r in ok for m in r.measurements if m.better == "lower"}
    made = []
    for row_id in picked:
        shown = [
            outcome(run.names[i], roles.get(i, ""), by_cell[i][row_id], low) for i in front if row_id in by_cell[i]
        ]
        rest = [outcome(run.names[i], "", f[row_id], low) for i, f in by_cell.items() if i not in front and row_id in f]
        row = next(f[row_id] for f in by_cell.values() if row_id in f)
        prompt = row.get("message") or row.get("prompt", "")
        made.append(
            {"id": row_id, "case": row.get("case") or "", "prompt": shorten(prompt, True), "front": shown, "rest": rest}
        )
    return made


def outcome(name: str, role: str, row: Row, low: Iterable[str] = ()) -> dict[str, Any]:
    """One cell's answer to a row, and the scores it missed; of those in `low`, less is better."""
    missed = [k for k, v in row["scores"].items() if (v not in (0, False) if k in low else v in (0, False))]
    return {
        "name": name, "role": role, "text": shorten(row.get("output", "")), "missed": missed,
        "tokens": row.get("tokens"), "cut": row.get("finished") is False,
    }  # fmt: skip
