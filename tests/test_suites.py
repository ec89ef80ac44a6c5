"""`python -m harness.suites`: a table becomes a suite that the grid finds, and what is wrong is told at once."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness.suite import hashed, load
from harness.suites.__main__ import main as command
from harness.suites.check import config_of
from harness.suites.new import _moved, in_order
from harness.suites.shape import are_free
from tests.grids import TINY, harness, run_folder
from tests.own_tables import LABELS, NAMES, lines, main, rows_of, table
from tests.suites.loading import scorers_of

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_a_csv_becomes_a_suite_that_the_grid_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES, "--system", "You answer for ${company}: kindly."]) == 0
    made = capsys.readouterr().out
    counts = re.search(
        r"\d+ training rows \((\d+) groups\) and \d+ evaluation rows \((\d+) groups\) from rows.csv", made
    )
    assert counts
    assert sum(map(int, counts.groups())) == 40, "each side has its own"
    assert counts[0] in Path("suites/mine/card.md").read_text()
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
    card = Path("suites/mine/card.md")
    card.write_text("# mine\n\n## How the rows were made\n\nBy three agents, in\nMay. Checked once.\n")
    assert main(["check", "mine"]) == 0
    assert "card.md: states no licence of the rows; write one under a heading 'Licence'" in capsys.readouterr().err
    card.write_text(card.read_text() + "\n## License\n\nOurs alone.\n")
    assert main(["check", "mine"]) == 0
    assert "card.md" not in capsys.readouterr().err
    assert "likely show only differences of" in told.err
    Path("suites/mine/answer.lark").write_text('start: "Answer " /[0-9]+/ ": do that."')
    scorers = Path("suites/mine/scorers.py")
    scorers.rename("suites/mine/ours.py")
    scorers.write_text("from ours import evaluation, process_results\n")
    own = ("engine.constrained=true", "suite.output_file=answer.lark")
    done = harness(tmp_path, "+sweep=mine", "adaptation=prompt_rag", "quantization=fp16", *own, *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    text = next((run_folder(done) / "rows").glob("*.jsonl")).read_text()
    assert "You answer for ${company}: kindly." in text
    assert all(re.match("Answer [0-9]", json.loads(line)["output"]) for line in text.splitlines())
    page = (run_folder(done) / "report.html").read_text(encoding="utf-8")
    assert "mine on dummy_tiny" in page
    assert "word_f1" in page
    assert "No message, group or near copy is shared." in page
    assert '<td class="text">By three agents, in May.</td><td class="text">Ours alone.</td>' in page


@pytest.mark.parametrize(
    "system", ["a ${b}", r"\${b}", r"\\${b}", r"${${b}\\}\\", "$ {b} $${c}", r"C:\a", "'\"\n: #", "\x7f \x85 🙂"]
)
def test_a_system_message_is_read_as_it_was_given(system: str) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES, "--system", system]) == 0
    assert OmegaConf.load("conf/suite/mine.yaml").system == system


def test_few_different_replies_are_labels(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"message": f"Ticket number {i}{LABELS[i % 3] * 5}", "reply": LABELS[i % 3].title()} for i in range(90)]
    Path("rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")
    assert main(["new", "route", "--from", "rows.jsonl"]) == 0
    assert "- Billing\n- Help\n- Sales" in Path("suites/route/instructions.md").read_text()
    assert main(["check", "route"]) == 0
    assert "deciding score accuracy" in capsys.readouterr().out
    before = load(config_of("route"))
    more = [{"message": f"Another {i}{'xyz'[i % 3] * 9}", "reply": "Sales" if i < 5 else "Refund"} for i in range(30)]
    for rows, unnamed in ((lines + more[:5], False), (lines + more, True)):
        Path("rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows), encoding="utf-8")
        assert main(["new", "route", "--from", "rows.jsonl", "--rows-only"]) == 0
        told = "warning: suites/route/instructions.md: does not name the label 'Refund'; add it there\n"
        assert (told in capsys.readouterr().out) == unnamed
        after = load(config_of("route"))
        assert after.training_digest != before.training_digest
        assert (after.scoring_digest != before.scoring_digest) == unnamed, "the labels alone are in how it is scored"
    labels, known = Path("suites/route/labels.json"), ["Billing", "Help", "Refund", "Sales"]
    assert json.loads(labels.read_text()) == known
    long = {"message": "At last", "reply": "no label" * 9}
    for hand, added, lost in (({"Help": 1}, [], False), ([*known, "Law"], [long], True), (["a", "b"], [long], False),
                              ([*known, "Law"], [], True)):  # fmt: skip
        labels.write_text(json.dumps(hand))
        Path("rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines + more + added), encoding="utf-8")
        assert main(["new", "route", "--from", "rows.jsonl", "--rows-only"]) == 0
        told = "warning: suites/route/labels.json: no longer holds 'Law', which no training row has; add such rows to "
        assert (told in capsys.readouterr().out) == lost
        assert (json.loads(labels.read_text()) != hand) == lost, "what is of labels is written, and nothing else"
    assert json.loads(labels.read_text()) == known
    held = Path("suites/route/eval.jsonl")
    first, _, rest = held.read_text().partition("\n")
    held.write_text(json.dumps({**json.loads(first), "reply": "Legal"}) + "\n" + rest)
    assert main(["check", "route"]) == 2
    assert "label 'Legal' is none of labels.json; mend it" in capsys.readouterr().err


def test_every_bad_row_is_told_at_once_and_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("rows.csv")
    path.write_text(
        "id,message,reply,group\na,Hello?,Yes,g1\na,Why?,,g2\nc,,No,g3\nd, Hello?,Maybe,g4\ne,So?,Yes,\nf,x,y,g,h\n"
        "d ,x,z,g\n,,,\n , ,\n"
    )
    assert main(["new", "mine", "--from", "rows.csv"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "harness: rows.csv, row 3: reply is empty; fill it in or delete the row",
        "harness: rows.csv, row 3: id 'a' stands in row 2 too; make ids unique",
        "harness: rows.csv, row 4: message is empty; fill it in or delete the row",
        "harness: rows.csv, row 5: the message of row 2 with another reply; keep the one that is right",
        "harness: rows.csv, row 6: group is empty; fill it in, or leave the column out",
        "harness: rows.csv, row 7: more cells than the header has columns; quote cells that hold commas",
        "harness: rows.csv, row 8: id 'd' stands in row 5 too; make ids unique",
        "harness: rows.csv, row 8: the message of row 7 with another reply; keep the one that is right",
    ]
    assert [p.name for p in Path().iterdir()] == ["rows.csv"]


def test_a_reply_that_is_not_there_or_no_json_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, object]] = [{"message": f"Ticket {i * 7919}", "reply": {"n": i}} for i in range(60)]
    lines([*rows, {"message": "Another", "reply": math.nan}])
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 2
    assert "row 61: reply is empty; fill it in" in capsys.readouterr().err
    lines([*({**row, "group": i} for i, row in enumerate(rows)), {"message": "More", "reply": {}, "group": math.nan}])
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 2
    assert "row 61: group is empty; fill it in, or leave the column out" in capsys.readouterr().err
    lines([*rows, {"message": "Another", "replies": {}}])
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 2
    assert capsys.readouterr().err == "harness: rows.jsonl, row 61: has no 'reply'; fill it in or delete the row\n"
    lines([*rows, {"message": "Another", "reply": {"n": math.nan, "m": -math.inf}}])
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 2
    told = "harness: rows.jsonl, row 61: reply holds NaN, which is no JSON; write null or a number\n"
    assert capsys.readouterr().err == told
    lines([*rows, {"message": "Another", "reply": '{"n": [{"a": 1, "b": 2, "a": 2}]}'}])
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 2
    told = "harness: rows.jsonl, row 61: key 'a' stands twice in an object of reply; keep one\n"
    assert capsys.readouterr().err == told
    assert main(["new", "mine", "--from", "rows.jsonl", "--message", "reply"]) == 2
    assert "--message and --reply both name the column 'reply'; give each its own" in capsys.readouterr().err


def test_columns_named_twice_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Though not those without a name, which tables of spreadsheets end in."""
    Path("rows.csv").write_text("message,reply,reply,note,note,,\nHello?,Yes,No,a,b,,\n")
    assert main(["new", "mine", "--from", "rows.csv"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "harness: rows.csv, row 1: column 'reply' stands twice; rename or delete one",
        "harness: rows.csv, row 1: column 'note' stands twice; rename or delete one",
    ]
    Path("rows.csv").write_text("message,reply,,\n" + "".join(f"Ticket {i * 7919},Reply {i},,\n" for i in range(60)))
    assert main(["new", "mine", "--from", "rows.csv"]) == 0
    assert "left out" not in capsys.readouterr().out


def test_a_cell_is_as_long_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 140_000
    Path("rows.csv").write_text(f"message,reply\n{long},Yes\n" + "".join(f"{i * 7919},Reply {i}\n" for i in range(60)))
    assert main(["new", "mine", "--from", "rows.csv"]) == 0
    assert any(long in p.read_text() for p in Path("suites/mine").glob("*.jsonl"))
    Path("rows.csv").write_text(f'message,reply\nWhy?,"{long}\n{long}\n')
    assert main(["new", "other", "--from", "rows.csv"]) == 2
    assert "rows.csv, line 2: unexpected end of data; close the quotes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["new", "null", "--from", "rows.csv"], "suite name 'null': is None to configurations, not a text;"),
        (["new", "on", "--from", "rows.csv"], "'on': is True to configurations, not a text; choose another, as my_on"),
        (["new", "inf", "--from", "rows.csv"], "suite name 'inf': is inf to configurations, not a text;"),
        (["new", "Mine", "--from", "rows.csv"], "suite name 'Mine': use lower-case letters"),
        (["new", "m" * 101, "--from", "rows.csv"], "digits and _, starting with a letter, 100 at most"),
        (["new", "mine", "--from", "gone.csv"], "gone.csv: cannot be read (No such file or directory); give a"),
        (["new", "mine", "--from", "."], ".: cannot be read (Is a directory); give a file that can be"),
        (["new", "mine", "--from", "rows.csv"], "no column 'message'; name the one that holds the message "
         "with --message (there is 'ticket', 'answer', 'customer')"),
        (["new", "mine", "--from", "rows.csv", *NAMES, "--case", "kind"], "no column 'kind'; name the one that holds"),
        (["new", "mine", "--from", "rows.csv", *NAMES, "--eval-share", "2"], "--eval-share 2.0: give a share between"),
        (["check", "nothing"], "no conf/suite/nothing.yaml here or packaged; there is domain_vocabulary"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_command_is_told(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    table()
    assert main(arguments) == 2
    assert told in capsys.readouterr().err


def test_rows_are_mixed_and_a_message_asked_by_many_is_kept_once(capsys: pytest.CaptureFixture[str]) -> None:
    own = [
        {"message": f"Ticket {i} {'xyz'[i // 40] * 20}", "reply": "abc"[i // 40], "group": f"g{i}"} for i in range(120)
    ]
    same = [{"message": "Where is my parcel?", "reply": "a", "group": f"g{i}"} for i in range(60)]
    lines(own + same)
    assert main(["new", "route", "--from", "rows.jsonl"]) == 0
    assert "59 that repeat a message were left out." in capsys.readouterr().out
    texts = [Path(f"suites/route/{side}.jsonl").read_text().splitlines() for side in ("train", "eval")]
    train, held = ([json.loads(text) for text in side] for side in texts)
    assert len({r["reply"] for r in train[:12]}) == 3
    assert sum(r["message"].startswith("Where") for r in train + held) == 1
    assert main(["check", "route"]) == 0


def test_replies_that_are_objects_become_json_and_bad_quotes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines([{"message": f"Ticket {i * 7919}", "reply": {"tool": "t", "ok": True, "n": i}} for i in range(60)])
    assert main(["new", "calls", "--from", "rows.jsonl"]) == 0
    first = json.loads(Path("suites/calls/train.jsonl").read_text().split("\n")[0])
    assert first["reply"].startswith('{"tool":"t","ok":true')
    Path("bad.csv").write_text('message,reply\nHello,"Yes\nWhy,Because\n')
    assert main(["new", "bad", "--from", "bad.csv"]) == 2
    assert "bad.csv, line 2: unexpected end of data; close the quotes" in capsys.readouterr().err


def test_numbers_are_groups_and_ids_too() -> None:
    lines([{"id": i, "message": f"Ticket {i * 7919}", "reply": f"Answer {i}.", "group": i // 3} for i in range(60)])
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    texts = [Path(f"suites/mine/{side}.jsonl").read_text().splitlines() for side in ("train", "eval")]
    made = [json.loads(text) for side in texts for text in side]
    assert {(r["id"], r["group"]) for r in made} == {(str(i), str(i // 3)) for i in range(60)}


def test_blanks_around_cells_are_no_part_of_them() -> None:
    """A group with a blank after it would stand on both sides."""
    own = [
        {"id": f" r{i}", "message": f"Ticket {i * 7919}", "reply": f"Answer {i}.", "case": "odd "} for i in range(60)
    ]
    lines({**r, "group": f"g{i % 15}" + " " * (i % 2)} for i, r in enumerate(own))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    texts = [Path(f"suites/mine/{side}.jsonl").read_text().splitlines() for side in ("train", "eval")]
    train, held = ([json.loads(text) for text in side] for side in texts)
    assert not {r["group"].strip() for r in train} & {r["group"].strip() for r in held}
    assert {(r["id"], r["case"]) for r in train + held} == {(f"r{i}", "odd") for i in range(60)}


def test_half_a_character_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines(
        {"message": f"Ticket {i * 7919}", "reply": "Hello \ud83d" if i == 3 else "Hello \U0001f44d"} for i in range(60)
    )
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "harness: rows.jsonl, row 4: holds half a character (a lone surrogate); mend that text"
    ]


@pytest.mark.parametrize(
    "reply", ["{i:0200}", "추가로 궁금한 점이 있으시면 언제든지 연락해 주세요 {i}", "naïve: {i} €"]
)
def test_an_answer_may_be_as_long_as_its_reference(reply: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A token of digits or of Korean holds little more than one byte."""
    lines({"message": f"Ticket {i * 7919}", "reply": reply.format(i=i)} for i in range(60))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    limit = OmegaConf.load("conf/suite/mine.yaml").max_new_tokens
    told = f"max_new_tokens: {limit} in conf/suite/mine.yaml: a token a byte of the longest reply (row 'row-"
    assert told in capsys.readouterr().out
    assert len(reply.format(i=59).encode()) < limit < 1024
    assert f"max_gen_toks: {limit}" in Path("suites/mine/task.yaml").read_text()


def test_a_reply_beyond_the_limit_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines({"message": f"Ticket {i * 7919}", "reply": f"{i:02000}"} for i in range(60))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    told = "max_new_tokens: 1024 in conf/suite/mine.yaml: the most that is set; the longest reply (row 'row-"
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith(told))
    assert line.endswith("') may need 2016: raise it if so")


def test_a_suite_is_never_written_over_but_for_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """Of which more move none."""
    make = ["new", "mine", "--from", str(table()), *NAMES]
    assert command([*make, "--rows-only"]) == 2
    assert "suites/mine: is not there; make the suite first, without --rows-only" in capsys.readouterr().err
    assert command([*make, "--eval-from", "rows.csv", "--eval-share", "0.6"]) == 2
    assert "--eval-share: the evaluation rows are those of --eval-from; leave one" in capsys.readouterr().err
    assert main(make) == 0
    files = (*Path("suites/mine").glob("*"), *Path("conf").rglob("*.yaml"))
    sides, held = rows_of("mine"), Path("suites/mine/eval.jsonl")
    ids = {row["message"]: row["id"] for row in chain(*sides)}
    held.write_text(held.read_text().replace(sides[1][0]["id"], "row-00007"))  # as older checkouts named rows
    sides = rows_of("mine")
    held.write_text(held.read_text() + json.dumps({**sides[1][0], "id": "hand", "message": "A hard one"}) + "\n")
    before = {path: path.read_bytes() for path in files}
    header, _, rest = table(180).read_text().partition("\n")
    loud = '"{message}",{reply},{group}'.format(**{**sides[1][0], "message": sides[1][0]["message"].upper()})
    Path("rows.csv").write_text("\n".join([header, loud, *(f"New {i},Do {i}.,CUSTOMER {i}" for i in range(40)), rest]))
    assert main(make) == 2
    told = "suites/mine, conf/suite/mine.yaml, conf/sweep/mine.yaml: are there already; choose another name, delete "
    assert f"{told}them, or have --rows-only write the rows alone" in capsys.readouterr().err
    assert command([*make, "--rows-only", "--eval-share", "0.6"]) == 2
    line = capsys.readouterr().err
    assert "harness: suites/mine/train.jsonl, row 'row-" in line
    assert " such); give --group, --eval-share and --eval-from as before, or delete the file" in line
    assert {path: path.read_bytes() for path in files} == before
    assert command([*make, "--rows-only"]) == 0
    told = capsys.readouterr().out
    assert "from rows.csv, split by group. 1 that repeat a message were left out.\nthe longest reply (row 'row-" in told
    mended = "gone or changed of what stood there: 1 row (row 'hand'); what was mended by hand belongs into the table"
    told = told.partition(" tokens: see max_new_tokens in conf/suite/mine.yaml\n")[2]
    assert told.startswith(f"warning: suites/mine: {mended}\nnext:\n  python -m harness.suites check mine\n")
    assert {path.name for path in files if path.read_bytes() != before[path]} == {"train.jsonl", "eval.jsonl"}
    for was, now in zip(sides, rows_of("mine"), strict=True):
        assert len(now) > len(was)
        assert [row for row in now if row in was] == in_order(was), (
            "though new rows stand first, and write the groups otherwise"
        )
    Path("rows.csv").write_text(Path("rows.csv").read_text().replace(f"{loud}\n", ""))
    assert main(["new", "other", *make[2:]]) == 0
    assert ids.items() < {row["message"]: row["id"] for row in chain(*rows_of("other"))}.items()


def test_groups_that_an_older_checkout_took_for_two_are_told() -> None:
    train, held = [
        [{"id": said, "message": said, "group": f"O{mark}Neil"}] for said, mark in (("Hi", "'"), ("Yes", "’"))
    ]
    (told,) = _moved(Path("mine"), (train, held), ([], train + held))
    assert told.startswith(
        "mine/train.jsonl, row 'Hi': would change sides (1 such); groups \"O'Neil\" and 'O’Neil' are "
    )
    (told,) = _moved(Path("mine"), (train, []), ([], train))
    assert told.endswith(" as before, or delete the file")


def test_rows_that_are_parted_already_stay_so(capsys: pytest.CaptureFixture[str]) -> None:
    made = [{"id": f"c{i // 3}", "message": f"Ticket {i * 7919}", "reply": LABELS[i % 3]} for i in range(180)]
    lines(made[90:-1])
    held = Path("rows.jsonl").rename("held.jsonl")
    lines([*made[:89], {**made[100], "id": "d"}, {**made[101], "id": "e", "message": "New", "reply": "help"},
           {**made[100], "id": "d"}])  # fmt: skip
    parted = ["--from", "rows.jsonl", "--eval-from", str(held)]
    assert main(["new", "mine", *parted, "--group", "id"]) == 0, "a column of groups is none of ids"
    told = capsys.readouterr().out
    assert "91 training rows (32 groups) from rows.jsonl and 89 evaluation rows (30 groups) from held.jsonl. 1 " in told
    twin = "held.jsonl, row 11 (rows.jsonl, row 90): the message or the group of a training row (1 such); remove one "
    assert f"warning: {twin}of the two, or set leakage=drop\n" in told
    train, evaluation = rows_of("mine")
    assert {row["message"] for row in evaluation} == {row["message"] for row in made[90:-1]}
    assert {row["id"][:4] for row in evaluation} == {"eval"}
    assert len(train) == 91
    assert command(["new", "mine", *parted, "--group", "id", "--rows-only"]) == 0, "the twin has not moved"
    lines(made[:3])
    assert main(["new", "few", *parted, "--group", "id"]) == 2
    assert "rows.jsonl: 1 group leaves no " in capsys.readouterr().err


def test_where_a_part_cannot_be_written_no_part_is(capsys: pytest.CaptureFixture[str]) -> None:
    Path("conf").write_text("of something else")
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 2
    assert "conf/suite/mine.yaml: cannot be written (conf is a file); move that away" in capsys.readouterr().err
    assert sorted(p.name for p in Path().iterdir()) == ["conf", "rows.csv"]
    Path("conf").unlink()
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0


@pytest.mark.parametrize("column", ["reply", "references"])
def test_a_list_of_texts_is_one_answer_or_several_by_the_name_of_its_column(
    column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"message": f"Ticket {i * 7919}", column: [f"In {i % 9} days.", f"{i % 9} days"][: 1 + i % 3]}
            for i in range(60)]  # fmt: skip
    again = [{"message": "Ticket 0", column: ["In 0 days.", said]} for said in ("Today.", "At once.")]
    lines(rows + again if column == "references" else rows)
    assert main(["new", "mine", "--from", "rows.jsonl", "--reply", column]) == 0
    told = "row 1: reply is a list of texts, as all are, and taken as one answer, in JSON; alternatives belong into a "
    assert (told in (out := capsys.readouterr().out)) == (column == "reply")
    assert ("(text; 9 different replies)" in out) == (column == "references"), "labels have no alternatives"
    assert main(["check", "mine"]) == 0
    if column == "references":
        (first,) = (r for r in chain(*rows_of("mine")) if r["message"] == "Ticket 0")
        assert first["references"] == ["In 0 days.", "Today.", "At once."], "what repeats a row may know more"
        scorers = scorers_of(Path("suites/mine"))
        row = next(r for r in rows_of("mine")[1] if "references" in r)
        alone = next(r for r in rows_of("mine")[1] if "references" not in r)
        assert row["reply"] == row["references"][0] != row["references"][1]
        for reply in row["references"]:
            assert scorers.process_results(row, [reply]) == {"exact": 1, "word_f1": 1}
        assert scorers.process_results(alone, [alone["reply"][3:]])["exact"] == 0


def test_words_that_stand_for_an_empty_cell_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [(f"Ticket {i * 7919}", "NaN" if i in (3, 5) else LABELS[i % 3], "#N/A" if i < 2 else i) for i in range(90)]
    with Path("rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["message", "reply", "group"], *cells])
    assert main(["new", "mine", "--from", "rows.csv"]) == 0
    told = capsys.readouterr().out
    for line in ("row 5: reply 'NaN' (2 rows: row 5, row 7)", "row 2: group '#N/A' (2 rows: row 2, row 3)"):
        assert f"warning: rows.csv, {line} is how an empty cell is written; if it is one, fill" in told


@pytest.mark.parametrize("mark", [";", "\t", ",", "|"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_a_table_is_read_by_the_mark_that_parts_its_header(mark: str, name: str) -> None:
    """Or that a first line names."""
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        file.write("sep=|\r\n" if mark == "|" else "")
        csv.writer(file, delimiter=mark).writerows(
            [["message", "reply"], *([f"Is it {i},5; or {i}?", f"It is {i * 7919}."] for i in range(60))]
        )
    assert main(["new", "mine", "--from", name]) == 0
    train, held = rows_of("mine")
    assert {r["reply"] for r in train + held} == {f"It is {i * 7919}." for i in range(60)}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("rows.xlsx", b"PK\x03\x04\x14\x00\xff\xfe", "is a spreadsheet or an archive, not text; unpack it, or save"),
        ("rows.csv.gz", b"\x1f\x8b\x08\x00abc", "is compressed, not text; unpack it, or save its table as .csv"),
        ("rows.parquet", b"PAR1\x15\x04\xff", "is a Parquet file, not text; unpack it, or save its table as"),
        ("rows.xls", b"\xd0\xcf\x11\xe0\xa1", "is a spreadsheet, not text; unpack it, or save its table as .csv"),
        ("rows.txt", b"message,reply\nWhy?,So.\nWho?,Me.\n", "no line of it is a JSON object (row 1: not JSON ("),
        ("rows.json", b'[\n {\n  "message": "Why?"\n },\n {}\n]\n', "no line of it is a JSON object (row 1: not JSON"),
        ("rows.json", b'[{"message": "Why?"}]\n', "no line of it is a JSON object (row 1: a list, not an object); a"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_told_in_a_line(
    name: str, content: bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_bytes(content)
    assert main(["new", "mine", "--from", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"harness: {name}: {told}")
    assert ".csv" in line


def test_rows_are_numbered_as_a_spreadsheet_does(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.csv").write_text('message,reply\n"Why?\nHow?",\n\nWho?,\n"Which?\n\nOne?",Yes\nWhat?,\n')
    assert main(["new", "mine", "--from", "rows.csv"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"harness: rows.csv, row {row}: reply is empty; fill it in or delete the row"
        for row in ("2", "4 (line 5)", "6 (line 9)")
    ]
    Path("rows.csv").write_text('sep=;\n;\nmessage;reply\n"Why?\nHow?";\n')
    assert main(["new", "mine", "--from", "rows.csv"]) == 2
    assert "rows.csv, row 3 (line 4): reply is empty; fill it in" in capsys.readouterr().err
    Path("rows.csv").write_text('message,reply\n"Why?\nHow?",So\nmy,"own "VAT" period"\nWho?,Me\n')
    assert main(["new", "mine", "--from", "rows.csv"]) == 2
    assert "harness: rows.csv, line 4: ',' expected after '\"'; close the quotes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("groups", "share", "told"),
    [
        (300, "0.001", "--eval-share 0.001 of 300 groups leaves no evaluation rows; raise it, or give 20 groups"),
        (300, "0.999", "--eval-share 0.999 of 300 groups leaves no training rows; lower it, or give 20 groups or more"),
        (300, "0.99", "--eval-share 0.99 of 300 groups leaves no validation rows; lower it, or give 20 groups or more"),
        (1, "0.3", "--eval-share 0.3 of 1 group leaves no "),
        (2, "0.3", "--eval-share 0.3 of 2 groups leaves no "),
    ],
)
def test_a_side_without_rows_is_told_before_anything_is_written(
    groups: int, share: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines({"message": f"Ticket {i * 7919}", "reply": f"Answer {i}.", "group": f"g{i % groups}"} for i in range(300))
    assert main(["new", "mine", "--from", "rows.jsonl", "--eval-share", share]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert [p.name for p in Path().iterdir()] == ["rows.jsonl"]


def test_what_is_no_text_is_written_as_json() -> None:
    replies = (True, False, 7, 2.5)
    lines({"message": f"Ticket {i * 7919}", "reply": replies[i % 4]} for i in range(80))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    written = {json.loads(line)["reply"] for line in Path("suites/mine/train.jsonl").read_text().splitlines()}
    assert written == {"true", "false", "7", "2.5"}


def sharegpt(chat: Mapping[str, Any]) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    turns = [{"from": names.get(t["role"], t["role"]), "value": t["content"]} for t in chat["messages"]]
    return {"conversations": turns}


def chat(i: int, *before: str) -> dict[str, Any]:
    turns = [*before, "user", "assistant"]
    return {"messages": [{"role": r, "content": "Be kind." if r == "system" else f"{r} {i * 7919}"} for r in turns]}


@pytest.mark.parametrize("form", [dict, sharegpt])
def test_chats_of_one_turn_are_read(
    form: Callable[[Mapping[str, Any]], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    lines(form(chat(i, "system")) for i in range(60))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    assert OmegaConf.load("conf/suite/mine.yaml").system == "Be kind."
    row = json.loads(Path("suites/mine/train.jsonl").read_text().splitlines()[0])
    assert (row["message"].split()[0], row["reply"].split()[0]) == ("user", "assistant")
    assert "left out" not in capsys.readouterr().out
    assert main(["new", "other", "--from", "rows.jsonl", "--system", "Be brief."]) == 0
    assert OmegaConf.load("conf/suite/other.yaml").system == "Be brief."
    assert "rows.jsonl: its chats' system turns are left out; models are told --system" in capsys.readouterr().out
    lines([chat(0, "system"), *(chat(i) for i in range(1, 60))])
    assert main(["new", "few", "--from", "rows.jsonl"]) == 0
    assert OmegaConf.load("conf/suite/few.yaml").system != "Be kind.", "one chat's system turn is not that of all"
    assert "system turns are left out; models are told 'You" in capsys.readouterr().out
    lines([form(chat(1, "user", "assistant")), {"messages": ["hello"]}, *(form(chat(i)) for i in range(60))])
    assert main(["new", "long", "--from", "rows.jsonl"]) == 2
    told = capsys.readouterr().err
    assert "row 1: a chat of the turns user, assistant, user, assistant; a suite asks one message: keep" in told
    assert "row 2: a chat of the turns None; a suite asks" in told


def test_chats_of_parts_of_text_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    def parted(i: int, kind: str) -> dict[str, Any]:
        turns = chat(i, "system")["messages"]
        return {"messages": [{**t, "content": [{"type": kind, kind: t["content"]}] * 2} for t in turns]}

    lines(parted(i, "text") for i in range(60))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    assert OmegaConf.load("conf/suite/mine.yaml").system == "Be kind.\nBe kind."
    row = json.loads(Path("suites/mine/train.jsonl").read_text().splitlines()[0])
    assert row["message"].splitlines() == [f"user {row['message'].split()[-1]}"] * 2
    capsys.readouterr()
    lines([chat(1), *(parted(i, "image_url") for i in range(60)), chat(2, "user"), chat(3, "user")])
    assert main(["new", "seen", "--from", "rows.jsonl"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "harness: rows.jsonl, row 2: a chat of more than text; leave out what is none in its `content` (such rows: 60)",
        "harness: rows.jsonl, row 62: a chat of the turns user, user, assistant; a suite asks one message: keep a user "
        "turn and the assistant's reply to it, with what came before written into the message (such rows: 2)",
    ]


def test_columns_that_nothing_was_asked_of_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": f"Add {i}.", "input": f"{i * 7919}", "output": f"{i}", "split": "test"} for i in range(60)]
    lines(rows)
    named = ["--message", "instruction", "--reply", "output"]
    assert main(["new", "mine", "--from", "rows.jsonl", *named]) == 0
    told = capsys.readouterr().out
    assert "\ncolumns left out: 'input', 'split'; write into the message what an answer needs\n" in told
    assert main(["new", "other", "--from", "rows.jsonl", *named, "--group", "input", "--case", "split"]) == 0
    assert "left out" not in capsys.readouterr().out
    lines([*rows, {**rows[0], "output": "7"}, {**rows[1], "input": "2", "output": "9"}])
    assert main(["new", "third", "--from", "rows.jsonl", *named]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "harness: rows.jsonl, row 61: the message of row 1 with another reply; keep the one that is right",
        "harness: rows.jsonl, row 62: the message of row 2 with another reply; keep the one that is right; where "
        "'input' tells them apart, write it into the message",
    ]


def test_columns_are_told_by_repr_and_bytes_that_are_no_text_by_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.csv").write_text("ticket , answer\na,b\n")
    assert main(["new", "mine", "--from", "rows.csv"]) == 2
    assert "(there is 'ticket', 'answer')" in capsys.readouterr().err
    Path("rows.csv").write_bytes(b"message,reply\na,b\nc,caf\xe9\n")
    assert main(["new", "mine", "--from", "rows.csv"]) == 2
    assert "rows.csv, line 3: cannot be read as UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("alphabet", "length", "free"), [("的一是在不了有和", 26, True), ("абвгдежз", 26, False), ("абвгдежз", 41, True)]
)
def test_what_is_free_text_goes_by_how_wide_it_is_written(alphabet: str, length: int, free: bool) -> None:
    texts = ("".join(alphabet[int(d)] for d in f"{n:0{length}o}") for n in range(150))
    assert are_free(Counter(texts)) == free


def test_the_example_of_new_is_one_to_train_on() -> None:
    """Of all replies, the shortest was one to be evaluated with."""
    held = [f"h{n}" for n in range(99) if hashed(f"evaluation h{n}") < 0.3][:9]
    rows = [{"message": f"Ticket {i * 7919}", "reply": {"number": i, "of": "t" * 30}, "group": f"g{i}"}
            for i in range(90)]  # fmt: skip
    rows += [{"message": f"Odd {g}", "reply": {"number": g, "of": "short"}, "group": g} for g in held]
    lines(rows)
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    train, held_rows = rows_of("mine")
    given = Path("suites/mine/instructions.md").read_text().splitlines()[-1]
    assert given in {r["reply"] for r in train}
    assert given not in {r["reply"] for r in held_rows}
    assert main(["check", "mine"]) == 0
