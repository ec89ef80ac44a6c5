"""What a record's cell is compared by: machines, inputs, rows. The run itself is in test_grid."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness import ledger
from harness.errors import BrokenArtifact, UserError
from harness.plan import plan
from harness.reproduce import _compared, cell_of, differences, is_input, main, of_machines, of_rows, of_steps
from harness.types import RunRecord, Status, plain
from tests import gates, records
from tests.cells import MACHINE, cell, data_of, suite_data


@pytest.fixture
def record() -> RunRecord:
    """A record as the plan of its cell would leave it on this machine."""
    one = cell("adaptation=lora", "quantization=int8")
    made = plan([one], data_of([one]), MACHINE)
    steps = {str(r): {"key": k, "preimage": plain(made.steps[k].preimage)} for r, k in made.chains[one.id].items()}
    ended = records.ended("lora", "int8", Status.OK, "")
    return replace(ended, config=plain(one), environment=plain(MACHINE), steps=steps)


def changed(record: RunRecord, data: Any = None, machine: Any = MACHINE) -> list[str]:
    one = cell_of(record, Path("x"))
    return [place for place, _, _ in of_steps(record, one, data or suite_data(), machine)]


def test_the_cell_of_a_record_is_the_cell_that_left_it(record: RunRecord) -> None:
    assert cell_of(record, Path("x")) == cell("adaptation=lora", "quantization=int8")
    assert changed(record) == []
    assert of_machines(record, MACHINE) == []


def test_other_data_are_other_inputs_and_another_machine_is_not(record: RunRecord) -> None:
    rows = changed(record, suite_data(evaluation_digest="x", evaluation=({"message": "Hello"},)))
    assert rows == ["quality.rows", "latency.rows"]
    training = changed(record, suite_data(training_digest="x"))
    assert training == ["adapt.data", "quantize.data"]
    assert all(is_input(p) for p in [*rows, *training])
    other = replace(MACHINE, hardware="Other CPU", dtype="bfloat16", versions={"torch": "2.10.0"})
    places = changed(record, machine=other)
    assert {"adapt.dtype", "quality.dtype", "latency.hardware"} <= {*places}
    assert not any(is_input(p) for p in places)
    assert {p for p, _, _ in of_machines(record, other)} == {"hardware", "dtype", "versions.torch"}


def test_another_library_or_code_is_named_and_no_input(record: RunRecord) -> None:
    steps = {k: dict(v) for k, v in record.steps.items()}
    was = steps["adapt"]["preimage"]
    identity = {**was["component"], "version": 0, "libraries": {**was["component"]["libraries"], "peft": "0.1"}}
    steps["adapt"] = {"key": "other", "preimage": {**was, "component": identity}}
    places = changed(replace(record, steps=steps))
    assert sorted(places) == ["adapt.component.libraries.peft", "adapt.component.version"]
    assert not any(is_input(p) for p in places)


def test_rows_are_compared_one_by_one() -> None:
    one = records.rows("lora", "int8", 3)
    assert of_rows(one, one[::-1]) == []
    words = [{**one[0], "output": "In other words."}, *one[1:]]
    assert of_rows(one, words) == []
    asked = [{**one[0], "prompt_hash": "x"}, *one[1:]]
    assert [(row, what) for row, what, _, _ in of_rows(one, asked)] == [("row-000", "prompt")]
    assert of_rows(one, one[:2]) == [("row-002", "row", "there", "none")]
    assert of_rows(one[:2], one) == [("row-002", "row", "none", "there")]


def test_a_score_that_is_no_number_is_the_same_again() -> None:
    def scored(value: Any) -> list[dict[str, Any]]:
        return [{**records.rows("lora", "int8", 1)[0], "scores": {"f1": value}}]

    for value in (float("nan"), [1, float("nan")]):
        assert of_rows(scored(value), scored(json.loads(json.dumps(value)))) == []
    assert of_rows(scored(1), scored(1.0)) == []
    ((_, what, before, now),) = of_rows(scored(float("nan")), scored(0.5))
    assert (what, str(before), now) == ("f1", "nan", 0.5)


def test_differences_name_their_place() -> None:
    assert list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})) == [
        ("a.c", 2, 3),
        ("d", None, 4),
    ]
    assert list(differences({"a": [1, 2]}, {"a": (1, 2)})) == []


def test_what_cannot_be_reproduced_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = records.ended("lora", "awq", Status.FAILED, "killed")
    alone = records.record("lora", "int8", records.rows("lora", "int8", 2))
    sized = replace(records.record("lora", "fp16"), steps={k: v for k, v in alone.steps.items() if k != "quality"})
    for one in (failed, alone, sized):
        ledger.write_record(tmp_path, one)
    (tmp_path / "bad.json").write_text("{")
    told = []
    for path in (tmp_path / "none.json", tmp_path / "bad.json", *sorted((tmp_path / "records").iterdir())):
        assert main([str(path), "--out", str(tmp_path / "out")]) == 2
        told.append(capsys.readouterr().err)
    assert all(line.startswith("harness: ") and line.count("\n") == 1 for line in told)
    mend = "give a file of outputs/<sweep>/<time>/records/"
    assert told[0] == f"harness: {tmp_path / 'none.json'}: no such record; {mend}\n"
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"harness: {tmp_path}: a folder, no record; {mend}\n"
    assert "only an ok one can be reproduced" in told[2]
    assert "nothing was scored in that cell" in told[3]
    assert "its rows are not beside it" in told[4]
    assert main([]) == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError):
        cell_of(replace(alone, config={}), Path("x"))


def test_a_record_is_run_again_into_a_new_folder_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = gates.rows(n=20)
    run = gates.run(tmp_path / "run", (gates.cell(made), made))
    (tmp_path / "link").symlink_to(run)
    (record,) = (run / "records").iterdir()
    (other := tmp_path / "other/store").mkdir(parents=True)  # of an earlier attempt, whose builds would be taken
    for out in (run, tmp_path / "link", run / "records/..", other.parent):
        assert main([str(record), "--out", str(out), "--dry-run"]) == 2
        assert "give a new one" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told_by_its_own_option(
    tmp_path: Path, record: RunRecord, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = gates.run(tmp_path / "run", (record, gates.rows(n=20)))
    faults: list[str] = []
    monkeypatch.setattr("harness.reproduce.faults_of_task", lambda *_: faults)
    monkeypatch.setattr("harness.reproduce._told_inputs", lambda *_: None)
    (tmp_path / "file").write_text("")
    (there,) = (run / "records").iterdir()
    there.rename(tmp_path / "kept.json")
    there.symlink_to(tmp_path / "kept.json")  # as stores of large files do
    assert main([str(there), "--out", str(tmp_path / "file/out")]) == 2
    assert capsys.readouterr().err.endswith(
        f"/file/out: cannot be written ({tmp_path}/file is a file); give --out DIR\n"
    )
    monkeypatch.setattr("harness.reproduce.detect", lambda: MACHINE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / (100 * "t")))
    (tmp_path / (100 * "t")).mkdir()
    assert main([str(there), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith("(AF_UNIX path too long); set TMPDIR to a shorter path\n")
    faults.append("task.yaml: lm-eval cannot read it; mend it")
    there.unlink()
    (tmp_path / "kept.json").rename(there)
    (tmp_path / "kept.json").symlink_to(there)
    assert main([str(tmp_path / "kept.json"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "harness: task.yaml: lm-eval cannot read it; mend it\n"
    assert not (tmp_path / "out").exists()


def test_stopping_it_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.reproduce.reproduce", stopped)
    assert main(["record.json"]) == 130


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (BrokenArtifact("a build changed"), 2, "harness: record.json: a build changed\n"),
        (RuntimeError("a fault of ours"), 70, "RuntimeError: a fault of ours\n"),
    ],
)
def test_what_ends_it_is_no_difference_either(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int, told: str
) -> None:
    """Exit code 1, which is Python's own for an exception, says that rows came out otherwise."""

    def ended(*_: Any) -> int:
        raise error

    monkeypatch.setattr("harness.reproduce.reproduce", ended)
    assert main(["record.json"]) == code
    err = capsys.readouterr().err
    assert err.endswith(told)
    assert ("Traceback" in err) == (code == 70)


def test_the_record_made_anew_is_found_beside_others(tmp_path: Path) -> None:
    made = gates.rows(n=20)
    one, other = gates.cell(made), gates.cell(made, "full_ft")
    out = gates.run(tmp_path / "out", (other, gates.worse(made, 0.5)), (one, made))
    console = Console(file=io.StringIO(), width=200)
    assert _compared(one, out, out, console) == 0
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count(" GB ") == 2
    assert "20 rows: 20 with the same prompt and scores, 20 answered in the same words; reproduced" in said
    with pytest.raises(UserError, match="left no record"):
        _compared(gates.cell(made, "prompt_rag"), out, out, Console(quiet=True))


def test_rows_are_counted_by_their_ids_and_shown_as_they_are(tmp_path: Path) -> None:
    """Of five rows the first is gone, the last is said in other words, and one is new."""
    made = [{**row, "id": f"{row['id']}\x1b[31m"} for row in gates.rows(n=6)]
    one = gates.cell(made)
    before, after = made[:5], [*made[1:4], {**made[4], "output": "In other words."}, made[5]]
    first, second = (gates.run(tmp_path / name, (one, rows)) for name, rows in (("before", before), ("after", after)))
    console = Console(file=io.StringIO(), width=200)
    assert _compared(one, first, second, console) == 1
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "5 rows: 4 with the same prompt and scores, 3 answered in the same words; not reproduced" in said
    assert "row-000⟨U+001B⟩[31m" in said
    assert "\x1b" not in said
