"""The run folder: what is written comes back, in the grid's order, and what is broken is told with its mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness import grid, ledger
from harness.configured import Grid
from harness.errors import UserError
from harness.store import Store
from harness.types import Status
from tests import records


def test_a_record_and_its_rows_come_back_as_written(tmp_path: Path) -> None:
    made = records.rows("lora", "gptq", 5)
    made[0]["output"] = "two\u2028lines\u0085, a null \x00 and half a pair \ud83d"
    one = records.record("lora", "gptq", made)
    ledger.write_record(tmp_path, one)
    ledger.write_rows(tmp_path, one, made)
    assert ledger.read_records(tmp_path) == [one]
    assert ledger.read_rows(tmp_path, one) == made
    assert not list(tmp_path.rglob(".*")), "no temporary file is left"


def test_records_come_in_the_order_of_the_grid(tmp_path: Path) -> None:
    ledger.write_cells(tmp_path, records.ids())
    for a, q in (("full_ft", "fp16"), ("prompt_rag", "dynamic"), ("lora", "awq"), ("prompt_rag", "fp16")):
        ledger.write_record(tmp_path, records.record(a, q, records.rows(a, q, 2)))
    found = [(r.adaptation, r.quantization) for r in ledger.read_records(tmp_path)]
    assert found == [("prompt_rag", "fp16"), ("prompt_rag", "dynamic"), ("lora", "awq"), ("full_ft", "fp16")]


def test_a_cell_measured_again_replaces_its_record(tmp_path: Path) -> None:
    ledger.write_record(tmp_path, records.ended("lora", "int8", Status.FAILED, "out of memory"))
    ledger.write_record(tmp_path, records.record("lora", "int8", records.rows("lora", "int8", 2)))
    assert [r.status for r in ledger.read_records(tmp_path)] == [Status.OK]


def test_a_run_into_a_folder_drops_what_an_earlier_one_recorded_there(tmp_path: Path) -> None:
    """Of any version and whatever its cells, and nothing of a user's own."""
    made = records.rows("lora", "int8", 2)
    for quantization in ("int8", "gptq"):
        ledger.write_record(tmp_path, records.record("lora", quantization, made))
        ledger.write_rows(tmp_path, records.record("lora", quantization, made), made)
    earlier = tmp_path / "records" / f"{ledger.slug(records.cell_id('lora', 'gptq'))}.json"
    earlier.write_text(json.dumps({**json.loads(earlier.read_text()), "schema": 0}))
    own = ["records/best.json", "records/half.json", "records/list.json", "records/notes.txt", "rows/mine.jsonl"]
    for name, text in zip(own, (earlier.read_text(), "{", "[]", "mine", "{}"), strict=True):
        (tmp_path / name).write_text(text)
    (tmp_path / "notes.md").write_text("mine")
    for name in ("check/check.md", "check/junit.xml", "report.html", "report.json", "table.csv", "table.parquet"):
        ledger.write_text(tmp_path / name, "Pass")
    ledger.forget(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == ["notes.md", *own]
    ledger.forget(tmp_path / "new")


def test_it_does_so_before_it_writes_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed must not leave earlier records under its own configuration."""
    ledger.write_record(tmp_path, records.record("lora", "int8", records.rows("lora", "int8", 2)))
    there: list[str] = []
    made = Grid((), {}, {}, Store(tmp_path / "store"), tmp_path, 1, False)
    monkeypatch.setattr(grid, "check", lambda *_: made)
    write = ledger.write_text

    def seen(path: Path, text: str) -> None:
        there.append(f"{path.name} beside {len(list((tmp_path / 'records').iterdir()))}")
        write(path, text)

    monkeypatch.setattr(ledger, "write_text", seen)
    monkeypatch.setattr(grid, "carry_out", lambda *_: 0)
    assert grid.main([OmegaConf.create()], [[]], tmp_path) == 0
    assert there == ["config.yaml beside 0", "leakage.json beside 0"]


@pytest.mark.parametrize(
    ("anew", "told"), [(False, ""), (True, "; with runner.time_again=true it takes all times anew")]
)
def test_a_stopped_grid_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], anew: bool, told: str
) -> None:
    def stopped(*_: Any) -> int:
        raise KeyboardInterrupt

    made = Grid((), {}, {}, Store(tmp_path / "store"), tmp_path, 1, False, time_again=anew)
    monkeypatch.setattr(grid, "check", lambda *_: made)
    monkeypatch.setattr(grid, "carry_out", stopped)
    assert grid.main([OmegaConf.create()], [[]], tmp_path) == 130
    assert " ".join(capsys.readouterr().out.split()).endswith(f"Run the same command again to go on{told}.")


def test_slugs_are_safe_and_differ() -> None:
    ids = ["m/lora/int8/s", "m/lora/int8/s/seed1", "m/lora__int8/s", "m__lora/int8/s", "m/lora:int8/s", "m/lora int8/s",
           "../../etc/passwd", "é/a/b/c", "a" * 400, "a" * 401]  # fmt: skip
    slugs = [ledger.slug(i) for i in ids]
    assert len(set(slugs)) == len(ids)
    for s in slugs:
        assert "/" not in s
        assert not s.startswith(".")
        assert len(s) < 200
    assert slugs[0] == "m__lora__int8__s"


@pytest.mark.parametrize("text", ['{"schema": 1', "[]", '{"schema": 99}', '{"schema": 1, "id": "x"}', "\xff"])
def test_a_broken_record_is_named_with_its_mend(tmp_path: Path, text: str) -> None:
    ledger.write_record(tmp_path, records.record("lora", "int8", records.rows("lora", "int8", 2)))
    (tmp_path / "records" / "broken.json").write_bytes(text.encode("latin-1"))
    (tmp_path / "records" / "second.json").write_text("no")
    with pytest.raises(UserError) as caught:
        ledger.read_records(tmp_path)
    assert len(caught.value.mistakes) == 2, "all mistakes at once"
    assert "broken.json" in caught.value.mistakes[0]
    assert "run again" in caught.value.mistakes[0]


@pytest.mark.parametrize(
    "found",
    [
        [], {"x": {}}, {"x": None}, {"x": {"rows": {}, "overlaps": [], "mode": "fail"}},
        {"x": {"rows": {"evaluation": 1}, "overlaps": [{"row": "a"}], "mode": "fail"}},
        {"x": {"rows": {"evaluation": 1}, "overlaps": [["exact", 1, "training", "b"]], "mode": "fail"}},
        {"x": {"rows": {"evaluation": 1}, "overlaps": [], "mode": 1}},
    ],
)  # fmt: skip
def test_overlaps_of_another_shape_are_told(tmp_path: Path, found: Any) -> None:
    pair = {"kind": "near", "row": "a", "source": "training", "other": "b", "similarity": 0.9}
    kept = {"x": {"rows": {"evaluation": 1}, "overlaps": [pair], "mode": "warn"}}
    ledger.write_leakage(tmp_path, kept)
    assert ledger.read_leakage(tmp_path) == kept
    ledger.write_leakage(tmp_path, found)
    with pytest.raises(UserError, match=r"leakage\.json: not overlaps by suite; delete it, the report then says that"):
        ledger.read_leakage(tmp_path)


def test_a_broken_row_is_named_by_its_number(tmp_path: Path) -> None:
    one = records.record("lora", "int8", records.rows("lora", "int8", 2))
    ledger.write_rows(tmp_path, one, records.rows("lora", "int8", 2))
    path = tmp_path / "rows" / f"{ledger.slug(one.id)}.jsonl"
    path.write_text(path.read_text() + "{half\n")
    with pytest.raises(UserError, match=r"row 3: not JSON"):
        ledger.read_rows(tmp_path, one)
    path.write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match=r"row 1: not a row"):
        ledger.read_rows(tmp_path, one)


def test_other_folders_and_unwritable_ones_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        ledger.read_records(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        ledger.write_cells(tmp_path / "file", ["a"])
    (tmp_path / "cells.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="not a list of cell ids"):
        ledger.read_records(tmp_path)


def test_a_changed_bit_in_a_record_is_found(tmp_path: Path) -> None:
    """In any place: what still reads as a record of its kind must not be taken for the one that was written."""
    made = records.record("lora", "int8", records.rows("lora", "int8", 2), reason="half a pair \ud83d")
    ledger.write_record(tmp_path, made)
    (path,) = (tmp_path / "records").iterdir()
    assert ledger.read_record(path).value("disk_bytes") == made.value("disk_bytes")
    whole = path.read_bytes()
    at_digest = whole.rindex(b'"digest"')
    for at in (*range(0, len(whole), 97), *range(at_digest, len(whole))):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            read = ledger.read_record(path)
        except UserError:
            continue
        assert read == ledger.read_record(path)
        assert json.loads(path.read_bytes()) == json.loads(whole), f"a changed byte {at} was not seen"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not JSON"):
        ledger.read_record(path)


def test_a_record_without_a_digest_is_told_as_such(tmp_path: Path) -> None:
    ledger.write_record(tmp_path, records.record("lora", "int8", records.rows("lora", "int8", 2)))
    (path,) = (tmp_path / "records").iterdir()
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "digest"}))
    with pytest.raises(UserError, match="keeps no digest, so an earlier version wrote it; move it away and run again"):
        ledger.read_record(path)


def test_the_table_has_every_cell_and_every_number(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    ok = records.record("lora", "int8", records.rows("lora", "int8", 4))
    failed = records.ended("lora", "awq", Status.FAILED, "killed, out of memory")
    ledger.export(tmp_path, [ok, failed])
    from_csv = pandas.read_csv(tmp_path / "table.csv")
    from_parquet = pandas.read_parquet(tmp_path / "table.parquet")
    assert list(from_csv.columns) == list(from_parquet.columns) == list(ledger.COLUMNS)
    assert len(from_csv) == len(from_parquet) == len(ok.measurements) + len(ok.not_measured) + 1
    good = from_parquet[(from_parquet.metric == "quality/good") & (from_parquet.cell == ok.id)].iloc[0]
    m = ok.value("quality/good")
    assert m is not None
    assert m.interval is not None
    assert (good.value, good.n, good.low, good.high) == (m.value, 4, m.interval.low, m.interval.high)
    assert set(from_csv[from_csv.cell == failed.id].reason) == {"killed, out of memory"}
    missing = from_csv[from_csv.metric == "memory_bytes/cuda_peak_allocated"].iloc[0]
    assert missing.reason == "no CUDA device"
    assert pandas.isna(missing.value)
    assert ledger.table([]).empty


def test_records_are_plain_json(tmp_path: Path) -> None:
    one = records.record("lora", "int8", records.rows("lora", "int8", 2))
    ledger.write_record(tmp_path, one)
    data = json.loads((tmp_path / "records" / f"{ledger.slug(one.id)}.json").read_text())
    assert data["status"] == "ok"
    assert data["schema"] == 1
