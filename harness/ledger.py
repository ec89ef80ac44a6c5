"""The run folder: what cells leave behind, written so that a crash loses nothing and a report needs nothing else.

    outputs/<sweep>/<time>/
        cells.json             the ids of all cells in the grid's order, written before the first cell runs
        records/<slug>.json    one RunRecord a cell
        rows/<slug>.jsonl      one evaluated row a line: id, group, case, prompt_hash, prompt, output, tokens,
                               finished, scores
        leakage.json           overlaps between evaluation rows and what builds saw, by suite
        table.csv, .parquet    one tidy table: a row a cell a metric

Records are the truth; the tables are drawn from them when the grid ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.files import locked, parse, write_whole
from harness.rows import KeptRows, kept
from harness.types import Json, Overlap, RunRecord, Status, digest, is_side, plain, record_from_json

if TYPE_CHECKING:
    import pandas as pd

CELLS = "cells.json"
LEAKAGE = "leakage.json"
VERDICT = ("check.html", "check.md", "junit.xml", "check.json")  # what the release gate writes into check/
DRAWN = ("report.html", "report.md", "report.json", "report.csv", "table.csv", "table.parquet")  # from records and rows
COLUMNS = {
    "cell": "string", "model": "string", "adaptation": "string", "quantization": "string", "suite": "string",
    "seed": "int64", "status": "string", "reason": "string", "metric": "string", "value": "float64",
    "unit": "string", "better": "string", "n": "Int64", "low": "float64", "high": "float64",
}  # fmt: skip


def run_folder(run: Path, fresh: bool, mend: str = "set outputs=DIR") -> Path:
    """Makes a run's folder and returns it: where one is there already and it must be `fresh`, as that of another grid
    started in the same second, one beside it. Raises `UserError` where it cannot be made, with how to `mend` that."""
    path, number = run, 1
    while True:
        try:
            path.mkdir(parents=True, exist_ok=not fresh)
            return path
        except OSError as error:
            if not (fresh and path.is_dir()):
                raise UserError(f"output folder {run}: cannot be written ({error.strerror}); {mend}") from error
        number += 1
        path = run.with_name(f"{run.name}-{number}")


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keeps a run folder for one grid, by a lock on the folder itself, which leaves nothing in it. Raises `UserError`
    where another writes there."""
    held = None
    try:
        held = locked(run)
    except BlockingIOError as error:
        raise UserError(f"{run}: another grid writes there; wait until it has ended, or give another folder") from error
    except OSError:
        pass  # a file system that locks no folders
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def slug(cell_id: str) -> str:
    """A file name for a cell: readable, and different for different ids whatever characters they hold."""
    name = cell_id.replace("/", "__")
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", name)[:150]
    if safe == name and "__" not in cell_id and not safe.startswith("."):
        return safe
    return f"{safe.lstrip('.')}-{hashlib.sha256(cell_id.encode()).hexdigest()[:8]}"


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another output folder"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 through a temporary file beside it, so nobody reads half of it and what stood there survives a
    full disk. What UTF-8 cannot hold (half of a surrogate pair) is written as its escape, which JSON reads back."""
    _write(path, text.encode("utf-8", errors="backslashreplace"))


def _read_json(path: Path, mend: str, absent: str | None = None) -> Any:
    """A JSON file. Raises `UserError` where it cannot be read; `absent` says what is missing where there is no file."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        if absent and isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            what = "a folder, no" if isinstance(error, IsADirectoryError) else "no such"
            raise UserError(f"{path}: {what} {absent}") from error
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {mend}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {mend}") from error


def write_cells(run: Path, ids: Sequence[str]) -> None:
    """Keeps the grid's order, so that a report can show the cells that are still to come."""
    write_text(run / CELLS, json.dumps(list(ids), indent=1, ensure_ascii=False))


def read_cells(run: Path) -> list[str]:
    """The ids of all cells in the grid's order; empty when the run keeps none."""
    path = run / CELLS
    if not path.exists():
        return []
    mend = "delete it; the report then shows only the cells that ended"
    ids = _read_json(path, mend)
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
        raise UserError(f"{path}: not a list of cell ids; {mend}")
    return list(dict.fromkeys(ids))


def write_leakage(run: Path, found: Mapping[str, Json]) -> None:
    """Overlaps between evaluation rows and what builds saw, by suite."""
    write_text(run / LEAKAGE, json.dumps(found, indent=1, ensure_ascii=False))


def read_leakage(run: Path) -> dict[str, Any]:
    """What `write_leakage` wrote; nothing for a run that did not look."""
    path = run / LEAKAGE
    found = _read_json(path, "delete it; the report then says that nobody looked") if path.exists() else {}
    if not isinstance(found, dict) or not all(map(_is_found, found.values())):
        raise UserError(f"{path}: not overlaps by suite; delete it, the report then says that nobody looked")
    return found


def _is_found(of_suite: Json) -> bool:
    """Whether a value is what is told of a suite; source and licence of its rows came with a later version."""
    try:
        pairs = [Overlap(**pair) for pair in of_suite["overlaps"]]
        texts = (of_suite["mode"], *(text for o in pairs for text in (o.kind, o.row, o.source, o.other)))
        alike = all(isinstance(o.similarity, int | float) for o in pairs)
        return alike and all(isinstance(t, str) for t in texts) and type(of_suite["rows"]["evaluation"]) is int
    except (KeyError, TypeError):
        return False


def sealed_record(record: RunRecord) -> dict[str, Json]:
    """A record as its file holds it, with a digest of what it says."""
    data = json.loads(json.dumps(plain(record)))
    return {**data, "digest": sealed(data)}


def write_record(run: Path, record: RunRecord) -> None:
    """One file a cell, replaced whole when the cell is measured again."""
    text = json.dumps(sealed_record(record), indent=1, ensure_ascii=False)
    write_text(run / "records" / f"{slug(record.id)}.json", text)


def forget(run: Path) -> None:
    """Drops what an earlier run into this folder recorded, which is not of the run that begins: what of it still stands
    in the store is recorded anew at once. Files of other names are somebody's own."""
    for path in (run / "records").glob("[!.]*.json"):
        try:
            data = parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # told when all records are read
        if isinstance(data, dict) and path.stem == slug(str(data.get("id"))):
            path.unlink()
            (run / "rows" / f"{path.stem}.jsonl").unlink(missing_ok=True)
    forget_verdict(run / "check")
    _forget_files(run, DRAWN)


def forget_verdict(folder: Path) -> None:
    """Drops what the release gate said of an earlier run or baseline, which a new one that comes to no verdict must not
    leave standing."""
    _forget_files(folder, VERDICT)


def _forget_files(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        with suppress(OSError):  # the next one cannot be written there either, and that is told
            (folder / name).unlink()


def sealed(data: Mapping[str, Json]) -> str:
    """A digest over all of a record or a baseline but the digest itself; half a surrogate pair is its escape."""
    return digest(json.dumps({k: v for k, v in data.items() if k != "digest"}, sort_keys=True))


def read_record(path: Path) -> RunRecord:
    """One record. Raises `UserError` where it is no JSON, of another schema, lacks a field, or is not as it was
    written."""
    mend = "move it away and run again to measure that cell anew"
    data = _read_json(path, mend, "record; give a file of outputs/<sweep>/<time>/records/")
    try:
        record = record_from_json(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: not a record that this version reads ({what}); {mend}") from error
    if data.get("digest") != sealed(data):
        bare = "keeps no digest, so an earlier version wrote it"
        why = "its bytes have changed since it was written" if "digest" in data else bare
        raise UserError(f"{path}: {why}; {mend}")
    return record


def read_records(run: Path) -> list[RunRecord]:
    """All records of a run in the grid's order; all unreadable ones are told at once."""
    if not (run / "records").is_dir() and not (run / CELLS).exists():
        raise UserError(f"{run}: not a run folder (no records/ in it); give one such as outputs/<sweep>/<time>")
    found: dict[str, RunRecord] = {}
    mistakes: list[str] = []
    for path in sorted((run / "records").glob("[!.]*.json")):
        try:
            record = read_record(path)
        except UserError as error:
            mistakes += error.mistakes
            continue
        if record.id in found:
            mistakes.append(f"{path}: a second record of cell {record.id}; move one of the two away")
        found[record.id] = record
    if mistakes:
        raise UserError(mistakes)
    place = {cell: at for at, cell in enumerate(read_cells(run))}
    return sorted(found.values(), key=lambda r: (place.get(r.id, len(place)), r.id))


def read_grid(run: Path) -> tuple[dict[str, RunRecord], list[str]]:
    """The records of a run by id, and the cells that left none yet, both in the grid's order and without those that
    stand beside it."""
    records = {r.id: r for r in read_records(run) if not is_side(r.id)}
    return records, [i for i in read_cells(run) if not is_side(i) and i not in records]


def write_rows(run: Path, record: RunRecord, rows: Iterable[Mapping[str, Json]]) -> None:
    """The evaluated rows of a cell, one JSON object a line."""
    lines = [json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows]
    write_text(run / "rows" / f"{slug(record.id)}.jsonl", "".join(lines))


def read_rows(run: Path, record: RunRecord) -> list[dict[str, Any]]:
    """The evaluated rows of a cell; none where its quality was not measured."""
    path = run / "rows" / f"{slug(record.id)}.jsonl"
    return list(_rows(path)) if path.exists() else []


def open_rows(run: Path, record: RunRecord) -> KeptRows | list[dict[str, Any]]:
    """The evaluated rows of a cell with ids, groups and scores at hand, and their texts when they are asked for."""
    path = run / "rows" / f"{slug(record.id)}.jsonl"
    return kept(path, partial(_rows, path)) if path.exists() else []


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, one after the other. Raises `UserError` for one that is none."""
    mend = "move it and the record of the same name away and run again"
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:  # outputs may hold other ends of lines
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _row(line, f"{path}, row {number}", mend)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {mend}") from error


def _row(line: str, where: str, mend: str) -> dict[str, Any]:
    try:
        row = parse(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); {mend}") from error
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not isinstance(row.get("scores"), dict):
        raise UserError(f"{where}: not a row with id and scores; {mend}")
    return row


def table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """A row a cell a metric. A measure that was not taken has a row with its reason and no value, and a cell that
    left no number at all still has one, so that counting cells in the table gives the size of the grid."""
    import pandas as pd

    lines: list[dict[str, Any]] = []
    for r in records:
        cell = {
            "cell": r.id, "model": r.model, "adaptation": r.adaptation, "quantization": r.quantization,
            "suite": r.suite, "seed": r.seed, "status": str(r.status), "reason": r.reason,
        }  # fmt: skip
        for m in r.measurements:
            low, high = (m.interval.low, m.interval.high) if m.interval else (None, None)
            lines.append(
                cell | {"metric": m.metric, "value": m.value, "unit": m.unit, "better": m.better, "n": m.n,
                        "low": low, "high": high}
            )  # fmt: skip
        lines += [cell | {"metric": name, "reason": why} for name, why in r.not_measured.items()]
        if not r.measurements and not r.not_measured:
            lines.append(cell)
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype(COLUMNS)


def export(run: Path, records: Sequence[RunRecord]) -> None:
    """Writes `table.csv` and `table.parquet`."""
    frame = table(records)
    _write(run / "table.csv", frame.to_csv(index=False).encode("utf-8", errors="replace"))
    _write(run / "table.parquet", frame.to_parquet(index=False))


def done(records: Sequence[RunRecord]) -> dict[Status, int]:
    """How many cells ended in each way."""
    return {status: sum(r.status is status for r in records) for status in Status}
