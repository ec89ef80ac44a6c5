"""Outputs of several cells to one row, side by side: the rows on which they differ most, those that changed between
two cells, and all of them packed for the page's script."""

from __future__ import annotations

import base64
import difflib
import math
import re
import zlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from harness.decide import Decision
from harness.escaping import visible
from harness.report.text import SHOWN_CHARACTERS, shorten
from harness.rows import column, ids, picked, texts
from harness.runs import Row, Run
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
    marks: dict[Json, list[float]] = {}
    case: dict[Json, str] = {}
    for r in ok:
        rows = run.rows[r.id]
        for i, mark in zip(ids(rows), column(rows, run.score(r)).tolist(), strict=True):
            marks.setdefault(i, []).append(mark)
        if len(case) < len(marks):
            case = dict(zip(ids(rows), map(str, texts(rows, "case")), strict=True)) | case

    def split(row_id: Json) -> float:
        known = [m for m in marks[row_id] if m == m]  # a score that is a number
        return abs(sum(known) / len(known) - 0.5) if len(known) > 1 else 1.0

    order = sorted(marks, key=lambda i: (split(i), str(i)))
    first = {case[i]: i for i in reversed(order)}
    chosen = ([i for i in order if first[case[i]] == i] + [i for i in order if first[case[i]] != i])[:EXAMPLES]
    by_cell = {r.id: picked(run.rows[r.id], chosen) for r in ok}
    against = run.reference
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
    roles = {wanted[0]: "compared with", wanted[2]: "highest quality to choose from", wanted[1]: "chosen"}
    low = _lower(run)
    made = []
    for row_id in chosen:
        shown = [
            outcome(run.names[i], roles.get(i, ""), by_cell[i][row_id], low) for i in front if row_id in by_cell[i]
        ]
        rest = [outcome(run.names[i], "", f[row_id], low) for i, f in by_cell.items() if i not in front and row_id in f]
        row = next(f[row_id] for f in by_cell.values() if row_id in f)
        made.append({"id": row_id, **asked(row), "front": shown, "rest": rest})
    return made


def asked(row: Row, most: int = SHOWN_CHARACTERS) -> dict[str, Any]:
    """The case of a row, what was asked, and the suite's own reply; empty where none was kept."""
    prompt, reply = row.get("message") or row.get("prompt", ""), row.get("reference") or ""
    return {
        "case": row.get("case") or "", "prompt": shorten(prompt, True, most), "expected": shorten(reply, most=most),
    }  # fmt: skip


def _lower(run: Run) -> set[str]:
    """The scores of which less is better."""
    every = (m for r in run.ok for m in r.measurements if m.better == "lower")
    return {m.metric.removeprefix("quality/") for m in every if m.metric.startswith("quality/")}


def outcome(name: str, role: str, row: Row, low: Collection[str]) -> dict[str, Any]:
    """One cell's answer to a row, and the scores it has not in full; of those in `low`, less is better. What is no
    number a row says something of all rows alone."""
    scores = {k: v for k, v in row["scores"].items() if isinstance(v, int | float)}
    missed = [k for k, v in scores.items() if (v > 0 if k in low else v < 1)]
    return {
        "name": name, "role": role, "text": shorten(row.get("output", "")), "missed": missed,
        "tokens": row.get("tokens"), "cut": row.get("finished") is False,
    }  # fmt: skip


def changed(run: Run, decision: Decision | None) -> dict[str, Any] | None:
    """Rows that score higher with one of (baseline, chosen) than with the other, the outputs' differences marked; None
    where there are no such two cells. Where the baseline is chosen, the cell of highest quality stands for it."""
    if decision is None or decision.reference is None:
        return None
    other = decision.chosen if decision.chosen != decision.reference else decision.best
    if other is None or other == decision.reference:
        return None
    score, low = run.score(run.records[other]), _lower(run)
    kept = [run.rows.get(i, ()) for i in (decision.reference, other)]
    was, now = (dict(zip(ids(rows), column(rows, score).tolist(), strict=True)) for rows in kept)
    known = [(was[i], now[i], i) for i in was if i in now and was[i] == was[i] and now[i] == now[i]]  # both are numbers
    gained, lost = [i for a, b, i in known if b > a], [i for a, b, i in known if b < a]
    shown = []
    before, after = (picked(rows, [*lost[:CHANGED], *gained[:CHANGED]]) for rows in kept)
    for kind, found in (("lost", lost), ("gained", gained)):
        for i in found[:CHANGED]:
            left, right = (outcome("", "", rows[i], low) for rows in (before, after))
            marks = differing(left["text"], right["text"])
            shown.append({"id": i, **asked(after[i]), "kind": kind, "left": left, "right": right, "marks": marks})
    return {
        "before": run.names[decision.reference], "after": run.names[other], "gained": len(gained), "lost": len(lost),
        "rows": shown, "n": len(known), "score": score,
        "passing": run.passing([run.records[decision.reference], run.records[other]]),
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


def packed(
    run: Run, cells: Sequence[str], first: Sequence[str] = (), most: int = PACKED_BYTES
) -> dict[str, Any] | None:
    """The outputs of these cells to each row, a JSON line a row, compressed until `most` bytes are full or
    `PACKED_OUTPUTS` are kept: rows in `first` before others. `left_out` says how many rows the page does not hold; all
    stand in `rows/`."""
    kept = {i: run.rows[i] for i in cells if run.rows.get(i)}
    order = list(dict.fromkeys([*first, *(row for rows in kept.values() for row in ids(rows))]))
    if not order:
        return None
    held = order[: PACKED_OUTPUTS // len(kept)]
    by_cell = {i: picked(rows, held) for i, rows in kept.items()}
    names = list(dict.fromkeys(s for found in by_cell.values() for row in found.values() for s in row["scores"]))
    low = _lower(run)
    lines = (
        canonical(_packed_row([found.get(row_id) for found in by_cell.values()], row_id, names, low)) for row_id in held
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


def _packed_row(rows: Sequence[Row | None], row_id: Json, names: Sequence[str], low: Collection[str]) -> Json:
    """A row: equal outputs once, and for each cell which of them is its own (-1: none) and what scores it missed."""
    texts: dict[str, int] = {}
    own, missed, cut = [], [], []
    for row in rows:
        found = outcome("", "", row, low) if row else None
        text = visible(shorten(row.get("output", ""), most=KEPT_CHARACTERS)) if row else ""
        own.append(texts.setdefault(text, len(texts)) if row else -1)
        missed.append([names.index(s) for s in found["missed"]] if found else [])
        cut.append(int(bool(found and found["cut"])))
    told = {"id": row_id, **asked(next(row for row in rows if row), KEPT_CHARACTERS)}
    return {k: visible(v) for k, v in told.items()} | {"texts": list(texts), "of": own, "missed": missed, "cut": cut}
