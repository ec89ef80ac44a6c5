"""The evaluated rows of a cell, as columns where ids and scores are enough, and whole where texts are wanted: a grid of
1,000 cells × 5,000 rows has gigabytes of text, and a report shows little of it."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.files import parse
from harness.statistics import group_of
from harness.types import Json, RunRecord

Row = Mapping[str, Any]
REFERENCES = "references"  # the field of a row with several right answers


def example_hash(row: Row) -> str:
    """A digest of an evaluation row itself, whatever prompt it is put in."""
    return hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Rows as they stand in a file: their ids, their groups (as `harness.statistics.group_of` has them) and their
    scores (not a number where a row has none) in its order. Going through it reads the file again, a row at a time."""

    path: Path
    ids: tuple[str, ...]
    groups: tuple[Any, ...]
    scores: Mapping[str, Any]
    read: Callable[[], Iterator[Row]]

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, row: object) -> bool:
        return any(row == r for r in self)

    def __iter__(self) -> Iterator[Row]:
        return self.read()


def kept(path: Path, read: Callable[[], Iterator[Row]]) -> KeptRows:
    """A file of rows that `read` goes through, without its texts."""
    found: list[str] = []
    at: list[Any] = []
    scores: dict[str, array[float]] = {}
    for place, row in enumerate(read()):
        found.append(str(row["id"]))
        at.append(group_of(row))
        for name, value in row["scores"].items():
            one = scores.setdefault(name, array("d"))
            one.extend([math.nan] * (place - len(one)))
            one.append(_number(value))
    for one in scores.values():
        one.extend([math.nan] * (len(found) - len(one)))
    return KeptRows(path, tuple(found), tuple(at), scores, read)


def _number(value: Json) -> float:
    """A score as a number; not a number where it is none, or beyond all floats."""
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def column(rows: Collection[Row], score: str) -> Any:
    """A score of each row as an array; not a number where a row lacks it or has one outside 0 to 1, which cannot be
    paired."""
    values = _column(rows, score)
    values[~((values >= 0) & (values <= 1))] = math.nan
    return values


def outside(rows: Collection[Row], score: str) -> float | None:
    """A score of a row that is a finite number outside 0 to 1; None where there is none."""
    values = _column(rows, score)
    found = values[(abs(values) < math.inf) & ((values < 0) | (values > 1))]
    return float(found[0]) if found.size else None


def _column(rows: Collection[Row], score: str) -> Any:
    import numpy as np

    if isinstance(rows, KeptRows):
        return np.array(rows.scores[score] if score in rows.scores else np.full(len(rows), math.nan))
    return np.array([_number(row["scores"].get(score)) for row in rows], dtype=float)


def refuse_others(where: Path, record: RunRecord, rows: Collection[Row]) -> None:
    """Raises `UserError` where rows are not those that the means of their record were taken of. A mean is what has an
    interval of shares; rows that lack a number, or stand there twice, are told when they are judged or kept."""
    places = list(dict(zip(ids(rows), range(len(rows)), strict=True)).values())
    for m in record.measurements:
        name = m.metric.removeprefix("quality/")
        if name == m.metric or not m.interval or not m.interval.method.startswith("wilson"):
            continue
        found = column(rows, name)
        found = found if (found == found).sum() == m.n else found[places]
        found = found[found == found]
        lacking = 0 < len(found) < m.n <= len(places)
        if not lacking and (len(found) != m.n or not math.isclose(found.mean(), m.value, rel_tol=1e-6)):
            raise UserError(
                f"{where}: the rows of {record.id} are not those of its record ({name} is {m.value:.1%} of {m.n} rows "
                "there); keep run folders as they were written, or run the grid again"
            )


def ids(rows: Collection[Row]) -> tuple[Any, ...]:
    """The ids of rows, in their order."""
    return rows.ids if isinstance(rows, KeptRows) else tuple(row["id"] for row in rows)


def groups(rows: Collection[Row]) -> list[Any]:
    """The group of each row, as `harness.statistics.group_of` has it: a row without one is a group of its own."""
    return list(rows.groups) if isinstance(rows, KeptRows) else [group_of(row) for row in rows]


def picked(rows: Collection[Row], wanted: Iterable[Json]) -> dict[Json, Row]:
    """The whole rows of these ids, as far as there are such; of a file, only their lines are parsed."""
    places = dict(zip(ids(rows), range(len(rows)), strict=True))
    asked = {i: places[i] for i in wanted if i in places}
    if isinstance(rows, KeptRows):
        try:
            lines = [line for line in rows.path.read_bytes().split(b"\n") if line.strip()]
            found: dict[Json, Any] = {i: parse(lines[place].decode()) for i, place in asked.items()}
            if len(lines) == len(rows) and all(row["id"] == i for i, row in found.items()):
                return found
        except (OSError, ValueError, TypeError, KeyError, IndexError):
            pass  # what is wrong with the file is told where it is read whole
    return {row["id"]: row for row in rows if row["id"] in asked}


def rights(row: Row, field: str) -> list[str]:
    """The right answers of a row: its `references`, where these are texts and what stands in the field is one of them
    or nothing stands there, else that alone; none where a row has neither."""
    reply, found = row.get(field), row.get(REFERENCES)
    if isinstance(found, list) and found and {*map(type, found)} == {str} and reply in (None, *found):
        return list(dict.fromkeys(found))
    return [reply] if isinstance(reply, str) else []


def texts(rows: Collection[Row], name: str) -> list[Json]:
    """A field of each row; None where a row lacks it."""
    return [row.get(name) for row in rows]
