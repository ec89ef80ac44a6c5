"""Rows read as columns say what rows read whole say, and a file that columns cannot hold is read whole."""

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


def kept(path: Path, text: str) -> Any:
    one = records.record("lora", "fp16")
    target = path / "rows" / f"{ledger.slug(one.id)}.jsonl"
    target.parent.mkdir()
    target.write_text(text, encoding="utf-8")
    return ledger.open_rows(path, one), lambda: ledger.read_rows(path, one)


@pytest.mark.parametrize(
    ("second", "columnar"),
    [
        ('{"id": "b", "group": null, "scores": {"good": 0, "late": 0.5}}\n', True),
        ('\n{"id": "é\u2028", "scores": {"good": 2}}\n', True),  # a blank line, a line separator, no pairable score
        ('{"id": "b", "scores": {"good": NaN, "style": 1}}', True),  # a score that the first row lacks; no last newline
        ('{"id": "b", "scores": {"good": true}}\n', False),
        ('{"id": "b", "scores": {"good": "yes"}}\n', False),
        ('{"id": "b", "group": 7, "scores": {"good": 1}}\n', False),
        ('{"id": "b", "scores": {"good": 1' + "0" * 400 + "}}\n", True),  # beyond all floats, and so no score
        ('{"id": "\\ud800", "scores": {"good": 1}}\n', False),
    ],
)
def test_columns_say_what_whole_rows_say(tmp_path: Path, second: str, columnar: bool) -> None:
    rows, read = kept(tmp_path, ONE + second)
    whole = read()
    assert isinstance(rows, KeptRows) == columnar
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
        kept(tmp_path, ONE + second)


def test_an_empty_file_and_none_hold_no_rows(tmp_path: Path) -> None:
    assert len(ledger.open_rows(tmp_path, records.record("lora", "fp16"))) == 0
    assert list(kept(tmp_path, "")[0]) == []


def test_a_decision_from_columns_is_that_from_whole_rows(tmp_path: Path) -> None:
    cells, rows = records.grid()
    for r in cells:
        ledger.write_rows(tmp_path, r, rows[r.id])
    opened = {r.id: ledger.open_rows(tmp_path, r) for r in cells}
    assert all(isinstance(o, KeptRows) for o in opened.values())
    assert decide(cells, opened, records.POLICY) == decide(cells, rows, records.POLICY)


def test_lines_are_picked_without_the_others(tmp_path: Path) -> None:
    """A line that columns let pass and Python does not is not looked at; of a file that changed since, all is read."""
    rows, _ = kept(tmp_path, ONE + '{"id": "b", "scores": {"good": 1}, "output": ["x"]}\n')
    assert picked(rows, ["a"]) == {"a": json.loads(ONE)}
    assert texts(rows, "output") == ["x", ["x"]]  # of several kinds, so read whole
    more = tmp_path / "more"
    more.mkdir()
    rows, _ = kept(more, ONE + ONE.replace('"a"', '"b"'))
    rows.path.write_text('{"id": "0", "scores": {}}\n' + ONE + ONE.replace('"a"', '"b"'), encoding="utf-8")
    assert picked(rows, ["b"]) == {"b": {**json.loads(ONE), "id": "b"}}


def test_texts_are_read_once_and_only_when_asked_for(tmp_path: Path) -> None:
    rows, _ = kept(tmp_path, ONE)
    (tmp_path / "rows").rename(tmp_path / "away")
    assert len(rows) == 1
    assert ids(rows) == ("a",)
    (tmp_path / "away").rename(tmp_path / "rows")
    assert json.loads(ONE) in rows
    (tmp_path / "rows").rename(tmp_path / "away")
    assert list(rows) == [json.loads(ONE)]
