"""Outputs of several cells to one row, side by side: the rows on which they differ most, those that changed between
two cells, and all of them packed for the page's script."""

from __future__ import annotations

import base64
import difflib
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from harness.decide import Decision, primary, reference
from harness.report.run import Row, Run
from harness.report.text import shorten, visible
from harness.types import Json, canonical

EXAMPLES = 4
CHANGED = 3  # rows shown of each direction
KEPT_CHARACTERS = 4_000  # of an output, for the page's script
PACKED_BYTES = 620_000  # of compressed outputs in a page
PACKED_OUTPUTS = 60_000  # in a page: 1,000 rows of the 60 cells that are shown of a large grid


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


def changed(run: Run, decision: Decision | None) -> dict[str, Any] | None:
    """Rows that pass with one of (baseline, chosen) and not with the other, with the outputs' differences marked; None
    where there are no such two cells. Where the baseline is chosen, the cell of highest quality stands for it."""
    if decision is None or decision.reference is None:
        return None
    other = decision.chosen if decision.chosen != decision.reference else decision.best
    if other is None or other == decision.reference:
        return None
    score = primary(run.records[other])
    before, after = ({row["id"]: row for row in run.rows.get(i, ())} for i in (decision.reference, other))
    both = [(before[i]["scores"].get(score), after[i]["scores"].get(score), i) for i in before if i in after]
    known = [(a, b, i) for a, b, i in both if isinstance(a, int | float) and isinstance(b, int | float)]
    gained, lost = [i for a, b, i in known if b > a], [i for a, b, i in known if b < a]
    shown = []
    for kind, ids in (("lost", lost), ("gained", gained)):
        for i in ids[:CHANGED]:
            left, right = (outcome("", "", rows[i]) for rows in (before, after))
            marks = differing(left["text"], right["text"])
            row = after[i]
            shown.append(
                {"id": i, "case": row.get("case") or "", "kind": kind, "left": left, "right": right,
                 "prompt": shorten(row.get("message") or row.get("prompt", ""), True), "marks": marks}
            )  # fmt: skip
    return {
        "before": run.names[decision.reference], "after": run.names[other], "gained": len(gained), "lost": len(lost),
        "rows": shown, "n": len(known), "score": score,
    }  # fmt: skip


def differing(left: str, right: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Two texts in pieces of whole words, each with whether the other text lacks it."""
    a, b = (re.findall(r"\s+|[^\s]+", text) for text in (left, right))
    parts: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    for kind, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for side, piece in zip(parts, ("".join(a[i:j]), "".join(b[k:m])), strict=True):
            if piece:
                side.append((piece, kind != "equal" and bool(piece.strip())))
    return parts


def packed(run: Run, ids: Sequence[str], first: Sequence[str] = (), most: int = PACKED_BYTES) -> dict[str, Any] | None:
    """The outputs of these cells to each row, a JSON line a row, compressed until `most` bytes are full or
    `PACKED_OUTPUTS` are kept: rows in `first` before others. `left_out` says how many rows the page does not hold; all
    stand in `rows/`."""
    by_cell = {i: {row["id"]: row for row in run.rows[i]} for i in ids if run.rows.get(i)}
    order = list(dict.fromkeys([*first, *(row for found in by_cell.values() for row in found)]))
    if not order:
        return None
    names = list(dict.fromkeys(s for found in by_cell.values() for row in found.values() for s in row["scores"]))
    low = {m.metric.partition("/")[2] for r in run.ok for m in r.measurements if m.better == "lower"}
    lines = (
        canonical(_packed_row([found.get(row_id) for found in by_cell.values()], row_id, names, low))
        for row_id in order[: PACKED_OUTPUTS // len(by_cell)]
    )
    text, count = deflated((line.encode("utf-8", errors="backslashreplace") + b"\n" for line in lines), most)
    return {
        "cells": list(by_cell), "scores": names, "rows": count, "left_out": len(order) - count, "deflate": text,
    }  # fmt: skip


def deflated(pieces: Iterable[bytes], most: float = math.inf) -> tuple[str, int]:
    """Pieces as one raw deflate stream in base64 (for the browser's DecompressionStream) until `most` compressed bytes
    are full, and how many pieces it holds."""
    squeeze, kept, count, size = zlib.compressobj(9, wbits=-15), [], 0, 0
    for piece in pieces:
        kept.append(squeeze.compress(piece))
        if count % 8 == 7 and most < math.inf:
            kept.append(squeeze.flush(zlib.Z_SYNC_FLUSH))
            size = sum(map(len, kept))
        count += 1
        if size > most:
            break
    return base64.b64encode(b"".join([*kept, squeeze.flush()])).decode(), count


def _packed_row(rows: Sequence[Row | None], row_id: Json, names: Sequence[str], low: Iterable[str]) -> Json:
    """A row: equal outputs once, and for each cell which of them is its own (-1: none) and what scores it missed."""
    texts: dict[str, int] = {}
    own, missed, cut = [], [], []
    for row in rows:
        found = outcome("", "", row, low) if row else None
        text = visible(shorten(row.get("output", ""), most=KEPT_CHARACTERS)) if row else ""
        own.append(texts.setdefault(text, len(texts)) if row else -1)
        missed.append([names.index(s) for s in found["missed"]] if found else [])
        cut.append(int(bool(found and found["cut"])))
    some = next(row for row in rows if row)
    prompt = some.get("message") or some.get("prompt", "")
    return {
        "id": visible(row_id), "case": visible(some.get("case") or ""), "texts": list(texts), "of": own,
        "prompt": visible(shorten(prompt, True, KEPT_CHARACTERS)), "missed": missed, "cut": cut,
    }  # fmt: skip
