"""Rows kept without their texts say what rows read whole say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import ledger
from harness.decide import decide
from harness.errors import UserError
from harness.rows import KeptRows, column, groups, ids, outside, picked, texts
from tests import records

ONE = '{"id": "a", "group": "g", "output": "x", "scores": {"good": 1, "late": null}}\n'


def opened(path: Path, text: str) -> Any:
    one = records.record("lora", "fp16")
    target = path / "rows" / f"{ledger.slug(one.id)}.jsonl"
    target.parent.mkdir()
    target.write_text(text, encoding="utf-8")
    return ledger.open_rows(path, one), lambda: ledger.read_rows(path, one)


@pytest.mark.parametrize(
    "second",
    [
        '{"id": "b", "group": null, "scores": {"good": 0, "late": 0.5}}\n',
        '\n{"id": "é\u2028", "scores": {"good": 2}}\n',  # a blank line, a line separator, no score that can be paired
        '{"id": "b", "scores": {"good": NaN, "style": 1}}',  # a score that the first row lacks; no last newline
        '{"id": "b", "scores": {"good": true}}\n',
        '{"id": "b", "scores": {"good": "yes"}}\n',
        '{"id": "b", "group": 7, "scores": {"good": 1}}\n',
        '{"id": "b", "scores": {"good": 1' + "0" * 400 + "}}\n",  # beyond all floats, and so no score
        '{"id": "\\ud800", "scores": {"good": 1}}\n',
    ],
)
def test_kept_rows_say_what_whole_rows_say(tmp_path: Path, second: str) -> None:
    rows, read = opened(tmp_path, ONE + second)
    whole = read()
    assert isinstance(rows, KeptRows)
    assert ids(rows) == ids(whole)
    assert groups(rows) == groups(whole)
    assert texts(rows, "output") == texts(whole, "output") == ["x", None]
    if "NaN" not in second:
        for wanted in ([], ["a"], [ids(rows)[1], "no such row"], ids(rows)):
            assert picked(rows, wanted) == {row["id"]: row for row in whole if row["id"] in wanted}
    assert list(rows) == whole or "NaN" in second
    for score in ("good", "late", "style", "no such score"):
        assert np.array_equal(column(rows, score), column(whole, score), equal_nan=True)
        out = 2 if score == "good" and '"good": 2' in second else None
        assert outside(rows, score) == outside(whole, score) == out


@pytest.mark.parametrize(
    "second", ["nope\n", '{"id": 7, "scores": {"good": 1}}\n', '{"id": "b"}\n', '{"scores": {"good": 1}}\n']
)
def test_a_broken_row_is_told_with_its_number(tmp_path: Path, second: str) -> None:
    with pytest.raises(UserError, match="row 2"):
        opened(tmp_path, ONE + second)


def test_an_empty_file_and_none_hold_no_rows(tmp_path: Path) -> None:
    assert len(ledger.open_rows(tmp_path, records.record("lora", "fp16"))) == 0
    assert list(opened(tmp_path, "")[0]) == []


def test_a_decision_from_kept_rows_is_that_from_whole_rows(tmp_path: Path) -> None:
    cells, rows = records.grid()
    for r in cells:
        ledger.write_rows(tmp_path, r, rows[r.id])
    rows_kept = {r.id: ledger.open_rows(tmp_path, r) for r in cells}
    assert decide(cells, rows_kept, records.POLICY) == decide(cells, rows, records.POLICY)


def test_lines_are_picked_without_the_others(tmp_path: Path) -> None:
    """A line that is not asked for is not parsed; of a file that changed since, all is read."""
    rows, _ = opened(tmp_path, ONE + ONE.replace('"a"', '"b"'))
    rows.path.write_text(ONE + "nope\n", encoding="utf-8")
    assert picked(rows, ["a"]) == {"a": json.loads(ONE)}
    rows.path.write_text('{"id": "0", "scores": {}}\n' + ONE + ONE.replace('"a"', '"b"'), encoding="utf-8")
    assert picked(rows, ["b"]) == {"b": {**json.loads(ONE), "id": "b"}}


def test_texts_are_read_only_when_asked_for(tmp_path: Path) -> None:
    rows, _ = opened(tmp_path, ONE)
    (tmp_path / "rows").rename(tmp_path / "away")
    assert len(rows) == 1
    assert ids(rows) == ("a",)
    (tmp_path / "away").rename(tmp_path / "rows")
    assert json.loads(ONE) in rows
    assert list(rows) == [json.loads(ONE)]
