"""The evaluated rows of a cell, as columns where ids and scores are enough, and whole where texts are wanted: a grid of
1,000 cells × 5,000 rows has gigabytes of text, and a report shows little of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.files import parse
from harness.statistics import group_of
from harness.types import Json

BLOCK_BYTES = 8 * 2**20  # as much of a file as is parsed at once; a longer line is read by Python
Row = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Rows as they stand in a file: their ids, their groups (None: a row without one) and their scores (not a number
    where a row has none) in its order. Going through it reads the rows whole, once; `picked` and `texts` read as much
    as they are asked for."""

    path: Path
    ids: tuple[str, ...]
    groups: tuple[Json, ...]
    scores: Mapping[str, Any]
    whole: Callable[[], Sequence[Row]]
    _read: list[Sequence[Row]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, row: object) -> bool:
        return row in self.rows()

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows())

    def rows(self) -> Sequence[Row]:
        """The rows whole."""
        if not self._read:
            self._read.append(self.whole())
        return self._read[0]


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
        values = np.array(rows.scores[score] if score in rows.scores else np.full(len(rows), math.nan), dtype=float)
    else:
        found = [row["scores"].get(score) for row in rows]  # type: ignore[union-attr]
        if not set(map(type, found)) <= {int, float, bool}:
            found = [v if isinstance(v, int | float) else math.nan for v in found]
        try:
            values = np.array(found, dtype=float)
        except OverflowError:  # a whole number beyond all floats, which no score is
            values = np.array([v if abs(v) < 1e300 else math.nan for v in found], dtype=float)
    return values


def ids(rows: Collection[Row]) -> tuple[Any, ...]:
    """The ids of rows, in their order."""
    return rows.ids if isinstance(rows, KeptRows) else tuple(row["id"] for row in rows)


def groups(rows: Collection[Row]) -> list[Any]:
    """The group of each row, as `harness.statistics.group_of` has it: a row without one is a group of its own."""
    if isinstance(rows, KeptRows):
        return [g or ("row", i) for g, i in zip(rows.groups, rows.ids, strict=True)]
    return [group_of(row) for row in rows]


def picked(rows: Collection[Row], wanted: Iterable[Json]) -> dict[Json, Row]:
    """The whole rows of these ids, as far as there are such; of a file, only their lines are parsed."""
    places = dict(zip(ids(rows), range(len(rows)), strict=True))
    asked = {i: places[i] for i in wanted if i in places}
    if isinstance(rows, KeptRows) and not rows._read:
        try:
            lines = [line for line in rows.path.read_bytes().split(b"\n") if line.strip()]
            found: dict[Json, Any] = {i: parse(lines[place].decode()) for i, place in asked.items()}
            if len(lines) == len(rows) and all(row["id"] == i for i, row in found.items()):
                return found
        except (OSError, ValueError, TypeError, KeyError, IndexError):
            pass  # what is wrong with the file is told where it is read whole
    return {row["id"]: row for row in rows if row["id"] in asked}


def texts(rows: Collection[Row], name: str) -> list[Json]:
    """A field of each row that is text; None where a row lacks it."""
    if isinstance(rows, KeptRows) and not rows._read:
        import pyarrow as pa

        try:
            found: list[Json] = _arrow(rows.path, {name: pa.string()})[name].to_pylist()
            if len(found) == len(rows):
                return found
        except (OSError, ValueError, pa.ArrowException):
            pass  # of several kinds, or text that Arrow does not hold
    return [row.get(name) for row in rows]


def columns(path: Path, names: Sequence[str], whole: Callable[[], Sequence[Row]]) -> KeptRows | None:
    """A file of rows as columns, by Arrow's JSON reader; None for one that it does not read as `whole` would (values of
    several kinds, a fault that `whole` tells better). Besides `names`, the scores of the first row are read."""
    import pyarrow as pa

    try:
        with path.open("rb") as file:
            first: Any = parse(file.readline().decode())
        own = first["scores"]
        kinds = {n: pa.bool_() if isinstance(own.get(n), bool) else pa.float64() for n in dict.fromkeys([*own, *names])}
        group = pa.int64() if isinstance(first.get("group"), int) else pa.string()
        read = _arrow(path, {"id": pa.string(), "group": group, "scores": pa.struct(list(kinds.items()))})
        if not kinds or read["id"].null_count or read["scores"].null_count:
            return None
        parts = read["scores"].combine_chunks()
        parts = parts.chunk(0) if isinstance(parts, pa.ChunkedArray) else parts
        scores = {n: _numbers(parts.field(n)) for n in kinds}
        return KeptRows(path, tuple(read["id"].to_pylist()), tuple(read["group"].to_pylist()), scores, whole)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, pa.ArrowException):
        return None


def _arrow(path: Path, fields: Mapping[str, Any]) -> Any:
    """These fields of a file of rows, of these Arrow types. Raises what Arrow raises for values of others."""
    import pyarrow as pa
    import pyarrow.json

    return pyarrow.json.read_json(
        path, pyarrow.json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        pyarrow.json.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore"),
    )  # fmt: skip


def _numbers(values: Any) -> Any:
    """An Arrow array as numbers; not a number where it has none."""
    import pyarrow as pa

    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    return values.cast(pa.float64()).to_numpy(zero_copy_only=False)
