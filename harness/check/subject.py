"""What is compared: the cells of a run folder or of a baseline file, with row scores to pair and raw samples.

A baseline file is JSON with sorted keys and a line a row, so that a change of it reads well in a review:

    cells     by id: where and how it was measured, single numbers, raw latency samples, and by row id
              [hash of the answer, tokens, ended by itself, scores in the order of `scores`]
    digest    of all the rest: a file that was edited, or merged from two, is refused
    examples  by suite and row id: [hash of the evaluation row, hash of its group's name]
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.files import parse
from harness.ledger import read_grid, read_rows, sealed, write_text
from harness.rows import refuse_others
from harness.statistics import place
from harness.types import Json, RunRecord, Status, knobs
from harness.wording import labels

KIND, SCHEMA = "harness baseline", 2
SAMPLED = ("ttft_ms", "e2e_ms", "e2e_natural_ms")  # one sample a request
TIMED_ALIKE = ("requests", "output_tokens")  # knobs that make samples comparable
CONFIG = ("adaptation", "quantization", "suite", "engine", "measure", "seed", "profile")
SAVE = "save it again with --save-baseline"


@dataclass(frozen=True, slots=True)
class Row:
    """One evaluated row. `example` is the hash of the evaluation row whatever prompt it was put in, `answer` that of
    what came out, `group` one of its group's name (12 hex digits). `shown` holds message, case and output where they
    are kept."""

    id: str
    example: str
    group: str | None
    answer: str
    tokens: float
    finished: bool
    scores: Mapping[str, Json]
    shown: Mapping[str, Json] = field(default_factory=dict)

    @property
    def place(self) -> float:
        """Where it stands in the fixed random order of `statistics.place`, from 0 to 1."""
        return int(self.group, 16) / 16**12 if self.group else place({"id": self.id})


@dataclass(frozen=True, slots=True)
class Subject:
    """One cell as the gate sees it. `values` are single numbers by metric, `lower` the scores where less is better,
    `samples` raw times by metric. `machine` is what must be alike for times to be compared, and versions of libraries,
    `timed` the knobs of the timing and its version; `noise` says what else the machine did. `drift` is how many times
    as long its slowest round took. `content` is a digest of the model's files, which a baseline file does not keep."""

    id: str
    suite: str
    primary: str
    scoring: str
    rows: tuple[Row, ...]
    values: Mapping[str, float]
    lower: tuple[str, ...]
    samples: Mapping[str, tuple[float, ...]]
    machine: Mapping[str, Json]
    timed: Mapping[str, Json]
    noise: tuple[str, ...]
    drift: float
    config: Mapping[str, Json]
    failed: str = ""
    content: str = field(default="", compare=False)

    @property
    def supported(self) -> bool:
        """Whether it can be run at all."""
        return not self.failed.startswith(f"{Status.UNSUPPORTED}: ")

    @property
    def knobs(self) -> dict[str, Json]:
        """Its configuration by the names of overrides, and the versions of libraries."""
        whole = {**self.config, "versions": self.machine.get("versions")}
        return {name[1:].replace(".params.", "."): value for name, value in knobs(whole, "")}


@dataclass(frozen=True, slots=True)
class Side:
    """Candidate or baseline: where it was read from, its cells, the cells of its grid that left no record, and the
    digest of a file."""

    source: str
    cells: tuple[Subject, ...]
    missing: tuple[str, ...] = ()
    digest: str = ""

    def supported(self) -> Side:
        """Without the cells that cannot be run, which no candidate is held to."""
        return replace(self, cells=tuple(c for c in self.cells if c.supported))

    def only(self, cell: str, flag: str) -> Side:
        """The one cell of that name, be it its id or the short name of reports, or that it is missing. Raises
        `UserError` for none."""
        short = labels([*(c.id for c in self.cells), *self.missing])
        found = [i for i, name in short.items() if cell in (i, name)]
        if not found:
            known = ", ".join(short.values()) or "none"
            raise UserError(f"{flag} {cell}: not in {self.source}; there is {known}")
        cells = tuple(c for c in self.cells if c.id in found)
        return replace(self, cells=cells, missing=tuple(i for i in self.missing if i in found))


def read(path: Path, baseline: bool = False) -> Side:
    """A run folder, or a baseline file. Raises `UserError` where it is neither or cannot be read, with the mend of a
    candidate, or of a `baseline`."""
    if path.is_dir():
        return _read_run(path)
    if path.is_file():
        return _read_file(path)
    into = path if path.suffix == ".json" else "baselines/NAME.json"
    write = f"write one with `python -m harness.check RUN --save-baseline {into}`"
    mend = write if baseline else "give a run folder such as outputs/<sweep>/<time>"
    raise UserError(f"{path}: no such run folder or baseline; {mend}")


# ------------------------------------------------------------------------------------------------------- a run folder


def _read_run(run: Path) -> Side:
    records, missing = read_grid(run)
    return Side(str(run), tuple(_subject(run, r) for r in records.values()), tuple(missing))


def _subject(run: Path, record: RunRecord) -> Subject:
    rows = read_rows(run, record)
    if rows:
        refuse_others(run, record, rows)
    latency = record.params("measure").get("latency", {})
    timings = [step["facts"] for kind, step in record.steps.items() if kind.startswith("latency")]
    drift = record.value("round_drift")
    return Subject(
        id=record.id,
        suite=record.suite,
        primary=str(record.params("suite").get("primary", "")),
        scoring=str(record.steps.get("quality", {}).get("facts", {}).get("scoring_digest", "")),
        rows=_rows(run, record.id, rows),
        values={m.metric: m.value for m in record.measurements if not m.metric.startswith("predicted_")},
        lower=tuple(
            m.metric.removeprefix("quality/")
            for m in record.measurements
            if m.metric.startswith("quality/") and m.better == "lower"
        ),
        samples={name: m.samples for name in SAMPLED if (m := record.value(f"{name}/p50")) and m.samples},
        machine={k: record.environment.get(k) for k in ("device", "hardware", "dtype", "versions")},
        timed={**{k: latency.get(k) for k in TIMED_ALIKE}, "version": record.digest_of("latency", "latency") or None},
        noise=tuple(dict.fromkeys(str(line) for facts in timings for line in facts.get("noise", ()))),
        drift=drift.value if drift else 1.0,
        config={k: record.config.get(k) for k in CONFIG},
        failed="" if record.status is Status.OK else f"{record.status}: {record.reason}",
        content=record.digest_of("base", "content"),
    )


def _rows(run: Path, cell: str, rows: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    try:
        return tuple(map(_row, rows))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run}: a row of {cell} holds what is none ({error}); run the grid again") from error


def _row(row: Mapping[str, Any]) -> Row:
    answer = hashlib.sha256(str(row.get("output", "")).encode("utf-8", "backslashreplace")).hexdigest()[:16]
    blank = not str(row.get("output", "")).strip()
    return Row(
        str(row["id"]), str(row["example_hash"]), _group(row["group"]) if row.get("group") else None,
        answer, float(row.get("tokens", 0)), bool(row.get("finished")) and not blank, row["scores"],
        {k: row.get(k) for k in ("message", "case", "output")},
    )  # fmt: skip


def _group(name: Json) -> str:
    """The hash of a group's name, which is its place in the fixed random order too."""
    return f"{round(place({'group': name}) * 16**12):012x}"


def joined(parts: Sequence[Subject]) -> Subject:
    """One cell from runs of parts of its rows: the rows of all, what was measured once from the first that has it."""
    first = parts[0]
    failed = next((p.failed for p in parts if p.failed), "")
    return replace(first, rows=tuple(row for p in parts for row in p.rows), failed=failed)


# ---------------------------------------------------------------------------------------------------- a baseline file


def save(side: Side, path: Path) -> None:
    """Writes a baseline of the cells that can be run, where a link leads to. Raises `UserError` as `content` does."""
    write_text(Path(os.path.realpath(path)), content(side))


def content(side: Side) -> str:
    """The text of a baseline. Raises `UserError` where a cell is missing, failed, or holds what is no number: what
    later candidates are held to must be whole."""
    side = side.supported()
    mistakes = [f"{side.source}: cell {i} left no record; let the grid end first" for i in side.missing]
    mistakes += [f"{side.source}: cell {c.id} {c.failed}; a baseline must be whole" for c in side.cells if c.failed]
    mistakes += [f"{side.source}: cell {c.id}: {bad} is no number" for c in side.cells for bad in _not_numbers(c)]
    for c in side.cells:
        if not c.failed and not c.rows:
            mistakes.append(f"{side.source}: cell {c.id} has no evaluated rows; a baseline needs them")
        if twice := [i for i, n in Counter(row.id for row in c.rows).items() if n > 1]:
            mistakes.append(f"{side.source}: cell {c.id}: row {twice[0]} stands there twice; run the grid again")
        if (c.config.get("measure") or {}).get("params", {}).get("quality", {}).get("part"):
            mistakes.append(f"{side.source}: cell {c.id} holds a part of its rows; run it whole")
    if not side.cells:
        mistakes.append(f"{side.source}: no cells to keep")
    examples: dict[str, dict[str, Json]] = {}
    for c in side.cells:
        seen = examples.setdefault(c.suite, {})
        for row in c.rows:
            if seen.setdefault(row.id, [row.example, row.group]) != [row.example, row.group]:
                mistakes.append(
                    f"{side.source}: row {row.id} of {c.suite} is not the same in all cells; keep them apart"
                )
    if mistakes:
        raise UserError(list(dict.fromkeys(mistakes)))
    cells = {c.id: _cell_json(c) for c in side.cells}
    whole = {"kind": KIND, "schema": SCHEMA, "cells": cells, "examples": examples}
    return _lines({**whole, "digest": sealed(whole)}) + "\n"


def _not_numbers(cell: Subject) -> list[str]:
    found = [name for name, value in cell.values.items() if not math.isfinite(value)]
    found += [name for name, values in cell.samples.items() if not all(map(math.isfinite, values))]
    found += [f"the number of tokens of row {row.id}" for row in cell.rows if not math.isfinite(row.tokens)]
    return found + [
        f"{name} of row {row.id}"
        for row in cell.rows
        for name, score in row.scores.items()
        if isinstance(score, float) and not math.isfinite(score)
    ]


def _cell_json(cell: Subject) -> Json:
    scores = sorted({name for row in cell.rows for name in row.scores if is_number(row.scores[name])})
    return {
        "suite": cell.suite, "primary": cell.primary, "scoring": cell.scoring, "lower": sorted(cell.lower),
        "machine": dict(cell.machine), "timed": dict(cell.timed), "noise": list(cell.noise),
        "drift": round(cell.drift, 4), "scores": scores,
        "config": dict(cell.config),
        "values": dict(cell.values),
        "samples": {k: [round(s, 3) for s in v] for k, v in cell.samples.items()},
        "rows": {
            row.id: [row.answer, int(row.tokens), int(row.finished), [_plain(row.scores.get(s)) for s in scores]]
            for row in cell.rows
        },
    }  # fmt: skip


def _plain(score: Json) -> Json:
    return int(score) if isinstance(score, bool) else score


def is_number(score: Json) -> bool:
    """Whether a score is one number or pass/fail, as those that are compared row by row are."""
    return isinstance(score, int | float)


def _lines(value: Json, depth: int = 0, most: int = 4) -> str:
    """JSON with sorted keys, indented to `most` levels of objects and a line each below."""
    if not isinstance(value, Mapping) or depth == most or not value:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    inner = ",\n".join(
        f"{' ' * (depth + 1)}{json.dumps(str(k), ensure_ascii=False)}: {_lines(v, depth + 1, most)}"
        for k, v in sorted(value.items())
    )
    return f"{{\n{inner}\n{' ' * depth}}}"


def _read_file(path: Path) -> Side:
    try:
        data = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a baseline ({error}); {SAVE}") from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UserError(f"{path}: not a baseline of the harness; {SAVE}")
    if data.get("schema") != SCHEMA:
        raise UserError(f"{path}: baseline schema {data.get('schema')!r}, this version reads {SCHEMA}; {SAVE}")
    if data.get("digest") != sealed(data):
        raise UserError(f"{path}: edited or merged since it was written; {SAVE}")
    try:
        cells = tuple(_cell(i, c, data["examples"][c["suite"]]) for i, c in sorted(data["cells"].items()))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a whole baseline ({what}); {SAVE}") from error
    if not cells:
        raise UserError(f"{path}: holds no cells; {SAVE}")
    return Side(str(path), cells, digest=data["digest"])


def _cell(name: str, c: Mapping[str, Any], examples: Mapping[str, Any]) -> Subject:
    """A cell from its part of a file. Raises what a malformed part raises."""
    names = [str(s) for s in c["scores"]]
    rows = []
    for row, (answer, tokens, finished, scores) in c["rows"].items():
        example, group = examples[row]
        if group is not None:
            int(group, 16)
        having = {k: v for k, v in zip(names, scores, strict=True) if v is not None}
        rows.append(
            Row(
                row,
                str(example),
                None if group is None else str(group),
                str(answer),
                float(tokens),
                bool(finished),
                having,
            )
        )
    return Subject(
        id=str(name), suite=str(c["suite"]), primary=str(c["primary"]), scoring=str(c["scoring"]), rows=tuple(rows),
        values={str(k): float(v) for k, v in c["values"].items()}, lower=tuple(map(str, c["lower"])),
        samples={str(k): tuple(float(s) for s in v) for k, v in c["samples"].items()},
        machine=dict(c["machine"]), timed=dict(c["timed"]), noise=tuple(map(str, c["noise"])),
        drift=float(c["drift"]), config=dict(c["config"]),
    )  # fmt: skip
