"""`python -m harness.suites`: a table becomes a suite that the grid finds, and what is wrong is told at once."""

from __future__ import annotations

import csv
import json
import random
import string
from pathlib import Path

import pytest

from harness.suites import main
from tests.grids import TINY, harness, run_folder

LABELS = ("billing", "sales", "help")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table(n: int = 120) -> Path:
    """A CSV of questions and answers in columns of the team's own names."""
    path = Path("rows.csv")
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["ticket", "answer", "customer"])
        for i in range(n):
            words = random.Random(i).choices(string.ascii_lowercase, k=40)
            writer.writerow([f"{''.join(words)}, what of it?", f"Answer {i}: do that.", f"customer {i // 3}"])
    return path


NAMES = ("--message", "ticket", "--reply", "answer", "--group", "customer")


def test_a_csv_becomes_a_suite_that_the_grid_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES, "--system", "You answer for us: kindly."]) == 0
    assert "training and" in capsys.readouterr().out
    rows = {
        s: [json.loads(x) for x in Path(f"suites/mine/{s}.jsonl").read_text().splitlines()] for s in ("train", "eval")
    }
    assert len(rows["train"]) + len(rows["eval"]) == 120
    assert 0.15 < len(rows["eval"]) / 120 < 0.45
    assert not {r["group"] for r in rows["train"]} & {r["group"] for r in rows["eval"]}
    assert main(["check", "mine"]) == 0
    told = capsys.readouterr()
    assert "0 mistakes" in told.out
    assert "card.md: not filled in" in told.err
    assert "likely show only differences of" in told.err
    done = harness(tmp_path, "+sweep=mine", "adaptation=prompt_rag", "quantization=fp16", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (run_folder(done) / "report.html").read_text(encoding="utf-8")
    assert "mine on dummy_tiny" in page
    assert "word_f1" in page
    assert "No message, group or near copy is shared." in page


def test_few_different_replies_are_labels(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"message": f"Ticket number {i}{LABELS[i % 3] * 5}", "reply": LABELS[i % 3].title()} for i in range(90)]
    Path("rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")
    assert main(["new", "route", "--from", "rows.jsonl"]) == 0
    assert "- Billing\n- Help\n- Sales" in Path("suites/route/instructions.md").read_text()
    assert main(["check", "route"]) == 0
    assert "deciding score accuracy" in capsys.readouterr().out
    held = Path("suites/route/eval.jsonl")
    first, _, rest = held.read_text().partition("\n")
    held.write_text(json.dumps({**json.loads(first), "reply": "Legal"}) + "\n" + rest)
    assert main(["check", "route"]) == 2
    assert "label 'Legal' stands in no training row; mend it" in capsys.readouterr().err


def test_every_bad_row_is_told_at_once_and_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("rows.csv")
    path.write_text(
        "id,message,reply,group\na,Hello?,Yes,g1\na,Why?,,g2\nc,,No,g3\nd,hello,Maybe,g4\ne,So?,Yes,\nf,x,y,g,h\n"
    )
    assert main(["new", "mine", "--from", "rows.csv"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "harness: rows.csv, row 3: reply is empty; fill it in or delete the row",
        "harness: rows.csv, row 3: id 'a' stands in row 2 too; make ids unique",
        "harness: rows.csv, row 4: message is empty; fill it in or delete the row",
        "harness: rows.csv, row 5: the message of row 2 with another reply; keep the one that is right",
        "harness: rows.csv, row 6: group is empty; fill it in, or leave the column out",
        "harness: rows.csv, row 7: more cells than the header has columns; quote cells that hold commas",
    ]
    assert [p.name for p in Path().iterdir()] == ["rows.csv"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["new", "Mine", "--from", "rows.csv"], "suite name 'Mine': use lower-case letters"),
        (["new", "mine", "--from", "gone.csv"], "gone.csv: cannot be read"),
        (["new", "mine", "--from", "rows.csv"], "no column 'message'; name the one that holds the message "
         "with --message (there is ticket, answer, customer)"),
        (["new", "mine", "--from", "rows.csv", *NAMES, "--case", "kind"], "no column 'kind'; name the one that holds"),
        (["new", "mine", "--from", "rows.csv", *NAMES, "--eval-share", "2"], "--eval-share 2.0: give a share between"),
        (["check", "nothing"], "no conf/suite/nothing.yaml here or packaged; there is domain_vocabulary"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_command_is_told(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    table()
    assert main(arguments) == 2
    assert told in capsys.readouterr().err


def test_a_suite_is_never_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    before = Path("suites/mine/train.jsonl").read_bytes()
    assert main(["new", "mine", "--from", str(table(60)), *NAMES]) == 2
    assert "is there already" in capsys.readouterr().err
    assert Path("suites/mine/train.jsonl").read_bytes() == before


def test_check_tells_what_scorers_and_rows_disagree_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    scorers = Path("suites/mine/scorers.py")
    text = scorers.read_text()
    scorers.write_text(text.replace("int(words(said) == words(wanted))", "int('7' not in wanted)"))
    assert main(["check", "mine"]) == 2
    assert "its own reference reply scores 0 on exact; mend one of the two" in capsys.readouterr().err
    scorers.write_text(text.replace("def process_results", "def other"))
    assert main(["check", "mine"]) == 2
    assert "has no process_results(doc, results)" in capsys.readouterr().err
    scorers.write_text("import nothing_like_it\n")
    assert main(["check", "mine"]) == 2
    assert "cannot be run (ModuleNotFoundError" in capsys.readouterr().err
    scorers.write_text(text)
    rows = Path("suites/mine/eval.jsonl")
    train = json.loads(Path("suites/mine/train.jsonl").read_text().split("\n")[0])
    near = {**train, "id": "x", "group": "new", "message": train["message"].replace("what of", "what about")}
    rows.write_text(
        rows.read_text() + json.dumps(near) + "\n" + json.dumps({**train, "id": "y", "message": "New"}) + "\n"
    )
    assert main(["check", "mine"]) == 2
    err = capsys.readouterr().err
    assert f"row 'y': same group as training row '{train['id']}'" in err
    assert "warning: " in err
    assert "row 'x': " in err
