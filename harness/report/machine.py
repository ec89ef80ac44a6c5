"""The same record for programs: one JSON document, and a CSV with a line a cell."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from harness.report.cells import COLUMNS
from harness.runs import Run, state
from harness.types import Json, finite, plain

FORMAT = 1


def table(run: Run) -> list[dict[str, Json]]:
    """A line a cell: its numbers with the ends of their intervals, raw."""
    lines = []
    for i in run.ids:
        r = run.records.get(i)
        line: dict[str, Json] = {"cell": i, "name": run.names[i], "state": state(run, i)}
        found = {"quality": run.quality(r), **{c: r.value(c) for c, _ in COLUMNS}} if r else {}
        for name in ("quality", *(c for c, _ in COLUMNS)):
            m = found.get(name)
            line |= {
                name: m.value if m else None, f"{name}/low": m.interval.low if m and m.interval else None,
                f"{name}/high": m.interval.high if m and m.interval else None,
            }  # fmt: skip
        lines.append(line)
    return lines


def as_json(page: Mapping[str, Any]) -> str:
    """Decision, facts, policy and table as one document."""
    document = {
        "format": FORMAT, "run": page["run"], "sentences": page["sentences"], "pending": page["pending"],
        "decision": plain(page["decision"]), **(page["choosing"] or {"facts": None, "policy": plain(page["policy"])}),
        "cells": page["table"], "caveats": page["caveats"], "not_measured": page["not_measured"],
    }  # fmt: skip
    return json.dumps(finite(document), indent=1, ensure_ascii=False) + "\n"


def as_csv(page: Mapping[str, Any]) -> str:
    """A line a cell, with the decision's odds and its reason against the cell. Text that a spreadsheet would take for
    a formula gets an apostrophe."""
    decision, out = page["decision"], io.StringIO()
    lines = []
    for line in page["table"]:
        odds = decision.odds.get(line["cell"]) if decision else None
        lines.append(
            line | {
                "chosen": bool(decision and decision.chosen == line["cell"]), "odds_best": odds.best if odds else None,
                "reason": decision.reasons.get(line["cell"], "") if decision else "",
            }
        )  # fmt: skip
    writer = csv.DictWriter(out, list(lines[0]) if lines else ["cell"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _inert(v) for k, v in line.items()} for line in lines)
    return out.getvalue()


def _inert(value: Json) -> Json:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
