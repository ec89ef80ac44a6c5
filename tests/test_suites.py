"""`python -m harness.suites`: a table becomes a suite that the grid finds, and what is wrong is told at once."""

from __future__ import annotations

import csv
import json
import math
import random
import re
import string
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness.errors import UserError
from harness.measure import quality
from harness.resources import resource
from harness.suite import hashed, load
from harness.suites.__main__ import main as command
from harness.suites.check import check, config_of
from harness.suites.faults import faults_of_score, faults_of_task
from harness.suites.shape import folded, misspelt, uneven, unlike
from harness.types import Completion, Context, SuiteData
from tests.grids import TINY, harness, run_folder
from tests.suites.loading import scorers_of

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


def main(arguments: Sequence[str]) -> int:
    """The command line; after `new`, the instructions are written, as a user is told to."""
    code = command(arguments)
    if arguments[0] == "new" and code == 0:
        guide = Path("suites") / arguments[1] / "instructions.md"
        guide.write_text(guide.read_text(encoding="utf-8").replace("TO FILL: say", "Say"), encoding="utf-8")
    return code


NAMES = ("--message", "ticket", "--reply", "answer", "--group", "customer")


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
    Path("suites/mine/answer.lark").write_text('start: "yes" | "no"')
    scorers = Path("suites/mine/scorers.py")
    scorers.rename("suites/mine/ours.py")
    scorers.write_text("from ours import evaluation, process_results\n")
    own = ("engine.constrained=true", "suite.output_file=answer.lark")
    done = harness(tmp_path, "+sweep=mine", "adaptation=prompt_rag", "quantization=fp16", *own, *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    text = next((run_folder(done) / "rows").glob("*.jsonl")).read_text()
    assert "You answer for ${company}: kindly." in text
    assert {json.loads(line)["output"] for line in text.splitlines()} <= {"yes", "no"}
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
    held = Path("suites/route/eval.jsonl")
    first, _, rest = held.read_text().partition("\n")
    held.write_text(json.dumps({**json.loads(first), "reply": "Legal"}) + "\n" + rest)
    assert main(["check", "route"]) == 2
    assert "label 'Legal' stands in no training row; mend it" in capsys.readouterr().err


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


def lines(rows: Iterable[Mapping[str, object]]) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


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
    told = f"max_new_tokens: {limit} in conf/suite/mine.yaml: a token a byte of the longest reply (row 'row-00"
    assert told in capsys.readouterr().out
    assert len(reply.format(i=59).encode()) < limit < 1024
    assert f"max_gen_toks: {limit}" in Path("suites/mine/task.yaml").read_text()


def test_a_reply_beyond_the_limit_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines({"message": f"Ticket {i * 7919}", "reply": f"{i:02000}"} for i in range(60))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    told = "max_new_tokens: 1024 in conf/suite/mine.yaml: the most that is set; the longest reply (row 'row-00001') "
    assert f"{told}may need 2016: raise it if so" in capsys.readouterr().out.splitlines()


def test_labels_that_differ_in_marks_alone_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """What is forgiven of a label, case, quotes and a full stop, is so where it leaves one label."""
    names = ("*", "***", "A", "A*", "Sent.")
    lines({"message": f"Ticket {i * 7919}", "reply": names[i % 5]} for i in range(150))
    assert main(["new", "stars", "--from", "rows.jsonl"]) == 0
    assert main(["check", "stars"]) == 0
    scorers = scorers_of(Path("suites/stars"))
    for wanted in names:
        right = [said for said in names if scorers.process_results({"reply": wanted}, [said])["accuracy"]]
        assert right == [wanted]
        assert scorers.process_results({"reply": wanted}, [f" {wanted}\nSince it is."])["accuracy"] == 1
    assert [scorers.predicted(said) for said in ("**sent**", '"Sent"', "", '"A"', "**")] == [
        "Sent.", "Sent.", *3 * ["unparseable"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "said", "same"),
    [
        ("Don't worry.", "don’t worry", True), ('Say "yes"', "Say “yes”", True), ("退款。", "退款", True),
        ("¿Qué?", "Qué", True), ("«oui»", "oui", True), ("Yes…", "Yes", True), ("café", "cafe\u0301", True),
        ("STRASSE", "straße", True), ("(see below)", "see below!", True), ("(.5)", ".5", True), ("?", "?", True),
        (".5", "5", False), (".env", "env", False), ("5\" long", "5' long", False), ('"5"', "5", True),
        ("arr[0]", "arr[0", False), ("It is f(x).", "it is f(x)", True), ("?", "", False), ("50%", "50", False),
        ("-5", "5", False), ("7 - 2", "7 + 2", False), ("30 天内退款。", "30天内退款", True),
        ("f(x)です", "f(x です", False),
    ],
)  # fmt: skip
def test_words_are_the_same_whatever_stands_around_them(wanted: str, said: str, same: bool) -> None:
    Path("scorers.py").write_bytes((resource("suites") / "_template/text.py").read_bytes())
    scores = scorers_of(Path()).process_results({"reply": wanted}, [said])
    assert (scores["exact"], scores["word_f1"] == 1) == (int(same), same)


@pytest.mark.parametrize(
    ("wanted", "said", "f1"),
    [
        ("我们在三天内退款。", "三天内退款", 10 / 13), ("返金します", "返金しました。", 8 / 11),
        ("คืนเงิน", "เงิน", 8 / 11), ("환불해 드립니다.", "환불해 드려요", 1 / 2), ("USB线", "USB 线", 1.0),
    ],
)  # fmt: skip
def test_a_text_without_spaces_shares_what_it_shares(wanted: str, said: str, f1: float) -> None:
    Path("scorers.py").write_bytes((resource("suites") / "_template/text.py").read_bytes())
    assert scorers_of(Path()).process_results({"reply": wanted}, [said])["word_f1"] == pytest.approx(f1)


def test_a_label_is_read_within_any_punctuation() -> None:
    lines({"message": f"Ticket {i * 7919}", "reply": ("账单", "故障")[i % 2]} for i in range(60))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    scorers = scorers_of(Path("suites/mine"))
    found = [scorers.predicted(said) for said in ("账单。", "“账单”", "《故障》！", "账单故障")]
    assert found == ["账单", "账单", "故障", "unparseable"]


def test_a_card_that_is_not_utf8_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    Path("suites/mine/card.md").write_bytes("# Über mine\n".encode("latin-1"))
    assert main(["check", "mine"]) == 0
    assert "card.md: states no licence of the rows" in capsys.readouterr().err


def test_canned_replies_are_labels_that_pass_their_own_check() -> None:
    canned = ('"Refund sent."', "Please call us.", "`See the manual`")
    lines([{"message": f"Ticket {i * 7919}", "reply": canned[i % 3]} for i in range(90)])
    assert main(["new", "canned", "--from", "rows.jsonl"]) == 0
    assert main(["check", "canned"]) == 0


def test_a_broken_task_grammar_or_configuration_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    task, config = Path("suites/mine/task.yaml"), Path("conf/suite/mine.yaml")
    whole, settings = task.read_text(), config.read_text()
    for text, told in (
        (whole.replace("task: mine", "task: other"), "has no task 'mine'"),
        (whole.replace("{metric: word_f1", "{metric: other"), "score word_f1 is not in metric_list"),
    ):
        task.write_text(text)
        assert main(["check", "mine"]) == 2
        assert told in capsys.readouterr().err
    task.write_text(whole)
    Path("suites/mine/answer.json").write_text('{"type": 7}')
    for text, told in (
        (settings.replace("primary: exact", "primary: exact: yes"), "cannot be read"),
        (settings.replace("message_field: message\n", ""), "suite mine: message_field is missing"),
        (settings.replace("primary: exact", "primary: nothing"), "no score of mine; it has exact, word_f1"),
        (settings.replace("output_file: null", "output_file: answer.json"), "answer.json: "),
    ):
        config.write_text(text)
        assert main(["check", "mine"]) == 2
        assert told in capsys.readouterr().err


def test_a_task_that_cannot_be_asked_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    task, rows = Path("suites/mine/task.yaml"), Path("suites/mine/eval.jsonl")
    whole, held = task.read_text(), rows.read_text()
    first = json.loads(held.split("\n")[0])["id"]
    timed = [json.dumps({**json.loads(x), "seen": n or "late"}) + "\n" for n, x in enumerate(held.splitlines())]
    for text, lines, override, told in (
        (whole.replace("metric_list:", "metric_list: ["), held, "", "task.yaml: lm-eval cannot read it (ParserError: "),
        (whole.replace("{{message}}", "{{question}}"), held, "", "(UndefinedError: 'question' is undefined); mend it"),
        (whole, held, "suite.task=nope", "task.yaml: has no task 'nope'; its first key is `task: nope`, or set suite."),
        (whole, "".join(timed), "", f" seen is 1, and of another type in row {first!r}; write it alike in all rows"),
    ):
        task.write_text(text)
        rows.write_text(lines)
        done = harness(tmp_path, "suite=mine", *TINY, *([override] if override else []))
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        assert told in line


def test_a_score_that_is_no_number_a_row_cannot_decide(tmp_path: Path) -> None:
    done = harness(tmp_path, "+sweep=ticket_routing", "adaptation=prompt_rag", "suite.primary=macro_f1", *TINY)
    assert done.returncode == 2
    assert "suite.primary=macro_f1: is no number a row, so cells cannot be paired; take accuracy, " in done.stderr
    done = harness(tmp_path, "+sweep=ticket_routing", "adaptation=lora", "+curve=0.5,1.0", *TINY)
    assert done.returncode == 2
    assert "give all shares in brackets, '+curve=[0.25,0.5,1.0]'" in done.stderr


def test_a_score_of_which_less_is_better_or_that_is_no_share_cannot_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = ("suite.primary=invented_codes", "policy.metric=quality/invented_codes")
    done = harness(tmp_path, "suite=domain_vocabulary", *scores, *TINY)
    assert done.returncode == 2
    for line, key in zip(done.stderr.splitlines(), ("suite.primary", "policy.metric"), strict=True):
        assert f"{key}=invented_codes: less of it is better, as " in line
        assert (
            "domain_vocabulary/task.yaml has it (higher_is_better: false); the score that decides must be from" in line
        )
        assert "complement (1 - value)" in line
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    scorers, task = Path("suites/mine/scorers.py"), Path("suites/mine/task.yaml")
    whole, last = scorers.read_text(), json.loads(Path("suites/mine/eval.jsonl").read_text().splitlines()[-1])["id"]
    scorers.write_text(whole.replace("int(words(said) == words(wanted))", "1 + ('7' in wanted)"))
    assert main(["check", "mine"]) == 2
    told = capsys.readouterr().err
    assert "mistake: suite.primary=exact: is 2 for the reference reply of row 'row-0" in told
    assert "its own reference reply" not in told
    scorers.write_text(whole.replace("int(words(said) == words(wanted))", f"1 / (doc['id'] != {last!r})"))
    assert main(["check", "mine"]) == 2
    assert (
        f"row {last!r}: scorers.py raises ZeroDivisionError: division by zero; mend the row or"
        in capsys.readouterr().err
    )
    scorers.write_text(whole)
    task.write_text(task.read_text().replace("higher_is_better: true", "higher_is_better: no"))
    Path("suites/mine/other.yaml").write_text("metric_list: {exact")
    assert main(["check", "mine"]) == 2
    assert "mistake: suite.primary=exact: less of it is better, as " in capsys.readouterr().err


def test_a_suite_is_never_written_over_but_for_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """Of which more move none."""
    make = ["new", "mine", "--from", str(table()), *NAMES]
    assert command([*make, "--rows-only"]) == 2
    assert "suites/mine: is not there; make the suite first, without --rows-only" in capsys.readouterr().err
    assert command([*make, "--eval-from", "rows.csv", "--eval-share", "0.6"]) == 2
    assert "--eval-share: the evaluation rows are those of --eval-from; leave one" in capsys.readouterr().err
    assert main(make) == 0
    files = (*Path("suites/mine").glob("*"), *Path("conf").rglob("*.yaml"))
    before, sides = {path: path.read_bytes() for path in files}, rows_of("mine")
    table(180)
    assert main(make) == 2
    told = "suites/mine, conf/suite/mine.yaml, conf/sweep/mine.yaml: are there already; choose another name, delete "
    assert f"{told}them, or have --rows-only write the rows alone" in capsys.readouterr().err
    assert command([*make, "--rows-only", "--eval-share", "0.6"]) == 2
    line = capsys.readouterr().err
    assert "harness: suites/mine/train.jsonl, row 'row-00" in line
    assert " such); give --group, --eval-share and --eval-from as before, or delete the file" in line
    assert {path: path.read_bytes() for path in files} == before
    assert command([*make, "--rows-only"]) == 0
    told = capsys.readouterr().out
    assert "from rows.csv, split by group.\nthe longest reply (row 'row-" in told
    assert " tokens: see max_new_tokens in conf/suite/mine.yaml\nnext:\n  python -m harness.suites check mine\n" in told
    assert {path.name for path in files if path.read_bytes() != before[path]} == {"train.jsonl", "eval.jsonl"}
    for was, now in zip(sides, rows_of("mine"), strict=True):
        assert len(now) > len(was)
        assert all(row in now for row in was)


def test_rows_that_are_parted_already_stay_so(capsys: pytest.CaptureFixture[str]) -> None:
    made = [{"id": f"c{i // 3}", "message": f"Ticket {i * 7919}", "reply": LABELS[i % 3]} for i in range(180)]
    lines(made[90:-1])
    held = Path("rows.jsonl").rename("held.jsonl")
    lines([*made[:89], {**made[100], "id": "d"}, {**made[101], "id": "e", "message": "New", "reply": "help"}])
    parted = ["--from", "rows.jsonl", "--eval-from", str(held)]
    assert main(["new", "mine", *parted, "--group", "id"]) == 0, "a column of groups is none of ids"
    told = capsys.readouterr().out
    assert "91 training rows (32 groups) from rows.jsonl and 89 evaluation rows (30 groups) from held.jsonl.\n" in told
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


@pytest.mark.parametrize("replies", ["Answer {i}: do that.", "same"])
def test_rows_that_begin_with_a_byte_order_mark_are_read(replies: str) -> None:
    """By the scorers of both templates too."""
    lines([{"message": f"Ticket {i * 7919}", "reply": replies.format(i=i)} for i in range(60)])
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    for path in Path("suites/mine").glob("*.jsonl"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert main(["check", "mine"]) == 0


def test_check_tells_what_scorers_and_rows_disagree_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    scorers = Path("suites/mine/scorers.py")
    text = scorers.read_text()
    scorers.write_text(text.replace("int(words(said) == words(wanted))", "int('7' not in wanted)"))
    assert main(["check", "mine"]) == 2
    assert "its own reference reply scores 0 on exact; mend one of the two" in capsys.readouterr().err
    scorers.write_text(text.replace("def process_results", "def other"))
    assert main(["check", "mine"]) == 2
    assert "scorers.py' has no function 'process_results' (from YAML in " in capsys.readouterr().err
    scorers.write_text("import nothing_like_it\n")
    assert main(["check", "mine"]) == 2
    assert (
        "task.yaml: lm-eval cannot read it (ModuleNotFoundError: No module named 'nothing_like"
        in capsys.readouterr().err
    )
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


CHOICES = """\
task: choices
custom_dataset: !function scorers.evaluation
test_split: test
output_type: multiple_choice
doc_to_text: "{{message}}"
doc_to_choice: ["Yes.", "No.", "Who knows?"]
doc_to_target: 1
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""


def test_any_task_of_lm_eval_stands_in_by_name(tmp_path: Path) -> None:
    """Here one of choices that stands in the suite's folder; the rows are lm-eval's to find."""
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    Path("suites/mine/choices.yaml").write_text(CHOICES)
    done = harness(
        tmp_path, "+sweep=mine", "adaptation=prompt_rag", "quantization=fp16", "suite.task=choices",
        "suite.task_file=null", "suite.eval_file=null", "suite.primary=acc", *TINY,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = run_folder(done)
    rows = [json.loads(line) for line in next((run / "rows").glob("*.jsonl")).read_text().splitlines()]
    assert len(rows) == 6
    assert {row["output"] for row in rows} <= {"Yes.", "No.", "Who knows?"}
    assert all(row["scores"]["acc"] == int(row["output"] == "No.") for row in rows)
    assert "rows are those of lm-eval's task choices" in (run / "report.md").read_text()


def test_choices_of_ones_own_rows_are_scored_by_lm_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines({"message": f"Ticket {i * 7919}", "reply": LABELS[i % 3]} for i in range(40))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    task, config, scorers = (
        Path(p) for p in ("suites/mine/task.yaml", "conf/suite/mine.yaml", "suites/mine/scorers.py")
    )
    whole = CHOICES.replace("choices\n", "mine\n", 1).replace('"Yes.", "No.", "Who knows?"', ", ".join(LABELS))
    whole = whole.replace("target: 1", "target: reply")
    head = whole.partition("metric_list")[0]
    scorers.write_text(scorers.read_text().replace("def process_results", "def other"))
    config.write_text(config.read_text().replace("primary: accuracy", "primary: acc"))
    for text, told in (
        (whole, ""),
        (whole.replace("target: reply", "target: id"), "task.yaml: no choice is right for row 'row-000"),
        (whole.replace("{metric: acc,", "{metric: exact_match,"), "suite.primary=acc: no score of mine; "),
        (whole + "process_results: !function scorers.predicted\n", "lm-eval cannot read it (AttributeError: 'dict' "),
        (whole.replace("_is_better: true", "_is_better: No"), "suite.primary=acc: less of it is better, as "),
        (head + "include: [_more_yaml]\n", ""),  # which includes another
        (head, ""),  # with the scores that lm-eval gives choices
    ):
        task.write_text(text)
        Path("suites/mine/_more_yaml").write_text("include: ./_list_yaml\n")
        Path("suites/mine/_list_yaml").write_text("metric_list" + whole.partition("metric_list")[2])
        capsys.readouterr()
        assert main(["check", "mine"]) == (2 if told else 0), told
        assert told in (err := capsys.readouterr().err)
        assert "has no process_results" not in err


def test_the_scores_of_a_suite_are_those_of_its_own_task() -> None:
    """Not those of another file in its folder."""
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    Path("suites/mine/choices.yaml").write_text(CHOICES)
    told = "policy.metric=acc: no score of mine; it has exact, word_f1"
    assert faults_of_score(load(config_of("mine")), "acc", "policy.metric") == [told]


def test_scorers_import_what_stands_beside_them_and_nothing_else() -> None:
    """Each suite its own; of what stands elsewhere, as in the working directory, no change would be seen."""

    def faults(name: str) -> list[str]:
        suite = config_of(name)
        data = load(suite)
        return faults_of_score(data, "exact", "suite.primary") or faults_of_task(data, suite)

    for name, luck in (("mine", "0.5"), ("yours", "2")):
        assert main(["new", name, "--from", str(table()), *NAMES]) == 0
        scorers, helper = (Path(f"suites/{name}/{file}.py") for file in ("scorers", "ourscores"))
        helper.write_text(f"def luck():\n    return {luck}\n")
        text = scorers.read_text().replace("int(words(said) == words(wanted))", "luck() if said == wanted else 0")
        scorers.write_text(f"from ourscores import luck\n{text}")
    assert faults("mine") == []
    assert "suite.primary=exact: is 2 for the reference reply" in faults("yours")[0]
    assert faults("mine") == []
    mine, task = Path("suites/mine/scorers.py"), Path("suites/mine/task.yaml")
    mine.write_text(f"{mine.read_text()}\ndef best(found):\n    from ourscores import luck\n    return luck()\n")
    task.write_text(task.read_text().replace("aggregation: mean", "aggregation: !function scorers.best", 1))
    assert quality.task_of(load(config_of("mine")), "mine")[0].aggregation()["exact"]([1]) == 0.5
    mine.write_text(f"{mine.read_text()}\nfrom functools import partial\nprocess_results = partial(process_results)\n")
    assert any("its own reference reply scores 0.5 on exact" in line for line in check("mine")[0])
    digest = load(config_of("yours")).evaluation_digest
    helper.write_text(helper.read_text().replace("2", "0.25"))
    assert load(config_of("yours")).evaluation_digest != digest
    assert faults("yours") == []
    elsewhere = helper.rename("ourscores.py").absolute()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path().absolute()))
        for _ in "twice":
            assert faults("yours") == [
                f"{elsewhere}: code of the suite in {helper.parent.absolute()} imports it, and its changes would not "
                "be seen; move it into that folder"
            ]
        scorers.write_text(text.replace("    said =", "    from ourscores import luck\n    said ="))
        assert f"raises UserError: {elsewhere}: code of the suite in " in faults("yours")[0]
    assert "ourscores" not in sys.modules


def test_a_task_that_lm_eval_brings_along_needs_no_scorers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    config, text = Path("conf/suite/mine.yaml"), Path("conf/suite/mine.yaml").read_text()
    text = text.replace("task: mine", "task: arc_easy").replace("primary: exact", "primary: acc")
    config.write_text(text.replace("task.yaml", "null").replace("eval.jsonl", "null"))
    for name in ("scorers.py", "task.yaml", "eval.jsonl"):
        Path("suites/mine", name).unlink()
    assert main(["check", "mine"]) == 0
    told = capsys.readouterr()
    assert "groups) and the evaluation rows of lm-eval's task arc_easy, 0 articles; deciding score acc" in told.out
    assert "mine: 0 mistakes, 1 warning" in told.out  # of its card


def test_no_part_is_taken_of_rows_that_lm_eval_alone_knows(tmp_path: Path) -> None:
    lines([{"message": f"Ticket {i * 7919}", "reply": f"Answer {i}."} for i in range(60)])
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    own = ["suite.task=arc_easy", "suite.task_file=null", "suite.eval_file=null"]
    done = harness(tmp_path, "+sweep=mine", "quantization=fp16", "measure.quality.part=[0.0,0.5]", *own, *TINY)
    assert done.returncode == 2
    assert "measure.quality.part: the rows of suite mine are known to lm-eval alone; leave it out" in done.stderr


def test_a_grammar_is_asked_for_where_answers_are_to_be_constrained(tmp_path: Path) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    arguments = ["+sweep=mine", "adaptation=prompt_rag", "quantization=fp16", "engine.constrained=true", *TINY]
    done = harness(tmp_path, *arguments)
    assert done.returncode == 2
    assert "engine.constrained: suite mine has no output_file" in done.stderr
    Path("suites/mine/answer.lark").write_text('start: "yes" | nothing')
    done = harness(tmp_path, *arguments, "suite.output_file=answer.lark")
    assert done.returncode == 2
    assert "answer.lark: " in done.stderr


class Parrot:
    """A session that answers every prompt with the same words."""

    model: Any = None
    loaded: Any = None

    @staticmethod
    def tokenizer(text: str, add_special_tokens: bool = True) -> Any:
        return SimpleNamespace(input_ids=text.split())

    def generate(self, prompts: Sequence[str], *_: Any, **__: Any) -> list[Completion]:
        return [Completion("Answer 7: do that.", 4, True) for _ in prompts]


def scored(data: SuiteData, out: Path, patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The rows that a quality step of the suite `mine` leaves."""
    patch.setattr(quality, "fidelity", lambda *_: [])
    patch.setattr(quality, "load_prompter", lambda _: lambda message: [{"role": "user", "content": message}])
    context = Context("cpu", "float32", 0, lambda *_: None)
    parrot: Any = Parrot()
    quality.measure(parrot, out, out, data, "mine", context, out)
    return [json.loads(line) for line in (out / quality.ROWS_FILE).read_text().splitlines()]


def test_the_evaluation_file_is_what_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the suite's task, alone, reads `eval.jsonl`."""
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    folder, suite = Path("suites/mine"), config_of("mine")
    hard = (folder / "eval.jsonl").read_text().splitlines()[3:9]
    (folder / "hard.jsonl").write_text("\n".join(hard[::-1]))
    data = load(replace(suite, params={**suite.params, "eval_file": "hard.jsonl", "eval_rows": 5}))
    rows = scored(data, tmp_path, monkeypatch)
    assert [r["id"] for r in rows] == [json.loads(line)["id"] for line in hard[:0:-1]]
    assert [r["message"] for r in rows] == [row["message"] for row in data.evaluation]


def test_rows_keep_their_reference_and_a_scorer_that_raises_names_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    data = load(config_of("mine"))
    rows = scored(data, tmp_path, monkeypatch)
    assert [r["reference"] for r in rows] == [row["reply"] for row in data.evaluation]
    path, last = Path("suites/mine/scorers.py"), data.evaluation[-1]["id"]
    path.write_text(path.read_text().replace("int(words(said)", f"1 / (doc['id'] != {last!r}) * int(words(said)"))
    told = f"raise ZeroDivisionError: division by zero on row {last!r}, answered 'Answer 7: do that.'; mend them"
    with pytest.raises(UserError, match=re.escape(told)):
        scored(data, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("exact", "told"),
    [
        ("1 / bool(said)", "scorers.py: raises ZeroDivisionError: division by zero on an empty reply to row 'row-0"),
        (
            "int(said == wanted) if said != 'x' else 1 / 0",
            "scorers.py: raises ZeroDivisionError: division by zero on the reply 'x' to",
        ),
        ("1.0 if said == wanted else float('nan')", "scorers.py: exact is nan on another row's reply to row 'row-0"),
        ("1 if said == wanted else None", "scorers.py: exact is None on an empty reply to row 'row-0"),
        ("1 if said == wanted else -1", "scorers.py: exact is -1 on an empty reply to row 'row-0"),
    ],
)
def test_a_scorer_that_wrong_replies_break_is_told_before_anything_is_trained(
    exact: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    path = Path("suites/mine/scorers.py")
    path.write_text(path.read_text().replace("int(words(said) == words(wanted))", exact))
    assert main(["check", "mine"]) == 2
    assert told in capsys.readouterr().err
    done = harness(tmp_path, "suite=mine", *TINY)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_a_score_that_some_rows_have_may_decide() -> None:
    data = load(config_of("ticket_routing"))
    assert faults_of_score(data, "recall_billing", "policy.metric") == []


@pytest.mark.parametrize(
    ("exact", "told"),
    [
        ("1", "an empty reply passes exact on 100% of "),
        ("int(len(said) > 3)", "another row's reply passes exact on 100% of "),
        ("__import__('numpy').float32(said == wanted)", ""),
    ],
)  # fmt: skip
def test_a_score_that_wrong_replies_pass_is_warned_of(
    exact: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And numbers of numpy are numbers."""
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    path = Path("suites/mine/scorers.py")
    path.write_text(path.read_text().replace("int(words(said) == words(wanted))", exact))
    assert main(["check", "mine"]) == 0
    err = capsys.readouterr().err
    assert (told in err) if told else "passes exact" not in err


def test_check_names_the_files_that_the_configuration_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    folder, config = Path("suites/mine"), Path("conf/suite/mine.yaml")
    train = json.loads((folder / "train.jsonl").read_text().split("\n")[0])
    Path(folder / "hard.jsonl").write_text(json.dumps({**train, "id": "x"}))
    own = ("mine_hard", "defaults: [mine, _self_]\neval_file: hard.jsonl\n")
    for name, text in (own, ("mine", config.read_text().replace("eval.jsonl", "hard.jsonl"))):
        Path(f"conf/suite/{name}.yaml").write_text(text)
        assert main(["check", name]) == 2
        assert "suites/mine/hard.jsonl, row 'x': same text as training row" in capsys.readouterr().err


def rows_of(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The training and the evaluation rows of a suite that `new` made."""
    texts = (Path(f"suites/{name}/{side}.jsonl").read_text(encoding="utf-8") for side in ("train", "eval"))
    train, held = ([json.loads(line) for line in text.splitlines()] for text in texts)
    return train, held


@pytest.mark.parametrize("stray", ["Billing", "bil ling", "billing"])
def test_a_label_written_in_two_ways_is_told(stray: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be a class of its own, and no case be forgiven of either."""
    lines({"message": f"Ticket {i * 7919}", "reply": LABELS[i % 3]} for i in range(90))
    assert main(["new", "route", "--from", "rows.jsonl"]) == 0
    replies = [stray if i in (3, 9) and stray != "billing" else LABELS[i % 3] for i in range(90)]
    if stray == "billing":  # ü as one character and as two, which look alike
        replies = ["Rückgabe" if r == "billing" else r for r in replies]
        replies[3] = replies[9] = "Ru\u0308ckgabe"
    lines({"message": f"Ticket {i * 7919}", "reply": reply} for i, reply in enumerate(replies))
    assert main(["new", "other", "--from", "rows.jsonl"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    shown = (repr(stray), "'billing'") if stray != "billing" else (r"'Ru\u0308ckgabe'", "'Rückgabe'")
    assert line == (
        f"harness: rows.jsonl, row 4: label {shown[0]} (2 rows: row 4, row 10) is {shown[1]} (28 rows: row 1, row 7, "
        "row 13, row 16, row 19, ...) but for case, spaces, Unicode form or a .0; write them alike, or rename one that "
        "is a class of its own"
    )
    assert not Path("suites/other").exists()
    held = Path("suites/route/train.jsonl")
    held.write_text(held.read_text().replace('"reply": "help"', '"reply": "Help"', 1), encoding="utf-8")
    assert main(["check", "route"]) == 2
    assert "label 'Help' (1 row: row 'row-0" in (told := capsys.readouterr().err)
    assert told.startswith("mistake: ")


def test_a_label_is_read_in_any_unicode_form() -> None:
    replies = ("Ru\u0308ckgabe", "Größe", "Zoll")
    lines({"message": f"Ticket {i * 7919}", "reply": replies[i % 3]} for i in range(90))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    scorers = scorers_of(Path("suites/mine"))
    for said in ("Rückgabe", "ru\u0308ckgabe.", "**Rückgabe**"):
        assert scorers.process_results({"reply": "Ru\u0308ckgabe"}, [said])["accuracy"] == 1


def test_replies_that_are_json_are_compared_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    replies = [{"department": LABELS[i % 3], "urgent": i % 2 == 0, "n": i, "tags": []} for i in range(90)]
    with Path("rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["message", "reply"], *([f"Ticket {i * 7919}", json.dumps(r, indent=1)]
                                                            for i, r in enumerate(replies))])  # fmt: skip
    assert main(["new", "mine", "--from", "rows.csv"]) == 0
    assert "scores: exact, value_f1, parses (structured; 90 different replies)" in capsys.readouterr().out
    assert "Answer with JSON alone, such as:" in Path("suites/mine/instructions.md").read_text()
    assert main(["check", "mine"]) == 0
    assert "deciding score exact" in capsys.readouterr().out
    scorers = scorers_of(Path("suites/mine"))

    def scores(said: str, wanted: str) -> list[float]:
        return list(scorers.process_results({"reply": wanted}, [said]).values())

    wanted = '{"a":[1,{"b":true}],"c":"x"}'
    assert scores(' {"c": "x", "a": [1.0, {"b": true}]}\n', wanted) == [1, 1, 1]
    assert scores('{"c": "x", "a": [1, {"b": 1}]}', wanted) == [0, pytest.approx(2 / 3), 1]
    assert scores('["b", "c"]', '["a", "b", "c"]') == [0, pytest.approx(4 / 5), 1]
    assert scores('{"c":"x","a":[{"b":true},1]}', wanted) == [0, 1, 1], "but for the order of a list"
    assert scores('[{"t":1,"v":2},{"t":3,"v":4}]', '[{"t":3,"v":2},{"t":1,"v":4}]') == [0, 0.5, 1]
    assert scores("[[1, 2], [1, 2], [3]]", "[[3], [2, 1]]") == [0, pytest.approx(3 / 4), 1]
    assert scores('{"a.b": 1, "d": 1}', '{"a": {"b": 1}, "d": 1}') == [0, 0.5, 1]
    assert scores("[]", "{}") == [0, 0, 1]
    assert scores("[]", "[]") == scores("{}", "{ }") == [1, 1, 1]
    for said in (f"```json\n{wanted}\n```", f"Sure: {wanted}", '{"a": 1, "a": 1}', '{"a": NaN}', "7", "", "[" * 99_999):
        assert scores(said, wanted) == [0, 0, 0]
    held = Path("suites/mine/eval.jsonl")
    held.write_text(held.read_text() + json.dumps({"id": "x", "group": "x", "message": "New", "reply": "{"}) + "\n")
    assert main(["check", "mine"]) == 2
    assert "row 'x': reply is no JSON object or list; mend it" in capsys.readouterr().err


SENTENCE = "Thank you for asking; we will look into order {} and write to you today."


@pytest.mark.parametrize(
    ("reply", "decides"),
    [
        (SENTENCE, "word_f1"),
        ("ご注文{}番のお問い合わせをありがとうございます。本日中に担当者が確認し、必ずご連絡いたします。", "word_f1"),
        ("Answer {}.", "exact"),
        ('{{"n": {}, "why": "because it was asked for in so many words"}}', "exact"),
    ],
)
def test_free_text_need_not_be_met_word_for_word(reply: str, decides: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines({"message": f"Ticket {i * 7919}", "reply": reply.format(i)} for i in range(120))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    told = capsys.readouterr().out
    assert f"primary: {decides} in conf/suite/mine.yaml: the score that decides" in told
    assert ("; replies are free text, of which hardly any is met word for word\n" in told) == (decides == "word_f1")
    config = Path("conf/suite/mine.yaml")
    assert f"primary: {decides}\n" in config.read_text()
    warning = "warning: suite.primary=exact: the replies are free text"
    assert main(["check", "mine"]) == 0
    assert warning not in capsys.readouterr().err
    config.write_text(config.read_text().replace("primary: word_f1", "primary: exact"))
    assert main(["check", "mine"]) == 0
    assert (warning in capsys.readouterr().err) == (decides == "word_f1")


def test_replies_that_many_rows_share_may_be_met_word_for_word(capsys: pytest.CaptureFixture[str]) -> None:
    lines({"message": f"Ticket {i * 7919}", "reply": SENTENCE.format(i % 50)} for i in range(120))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    assert "primary: exact in" in capsys.readouterr().out


@pytest.mark.parametrize("reply", ["none", '{"n": 7,}'])
def test_one_reply_that_is_no_json_leaves_words_or_is_to_be_mended(
    reply: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines({"message": f"Ticket {i * 7919}", "reply": reply if i == 7 else {"n": i}} for i in range(60))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == (2 if "{" in reply else 0)
    told, as_others = capsys.readouterr(), "no JSON, as those of 59 other rows are"
    if "{" in reply:
        assert told.err == f"harness: rows.jsonl, row 8: reply begins as JSON and is {as_others}; mend it\n"
    else:
        assert "(text; 60 different replies)" in told.out
        assert f"warning: rows.jsonl, row 8: reply is {as_others}, so all are compared as text\n" in told.out
    lines({"message": f"Ticket {i * 7919}", "reply": reply if i % 2 else {"n": i}} for i in range(59))
    assert main(["new", "half", "--from", "rows.jsonl"]) == (2 if "{" in reply else 0)
    assert ("(such rows: 29)" in capsys.readouterr().out) == (reply == "none")
    lines({"message": f"Ticket {i * 7919}", "reply": reply if i % 5 else {"n": i}} for i in range(60))
    assert main(["new", "few", "--from", "rows.jsonl"]) == 0
    assert "no JSON" not in capsys.readouterr().out


def test_json_is_compared_with_each_of_the_right_answers(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"message": f"Ticket {i * 7919}", "references": [{"tool": "a", "n": i}, {"tool": "b", "why": "x" * 50, "n": i}]}
        for i in range(60)
    ]
    lines(rows)
    assert main(["new", "mine", "--from", "rows.jsonl", "--reply", "references"]) == 0
    longest = json.dumps(rows[-1]["references"][1], separators=(",", ":"))
    assert f"max_new_tokens: {len(longest) + 16} in " in capsys.readouterr().out
    assert main(["check", "mine"]) == 0
    scorers, row = scorers_of(Path("suites/mine")), rows_of("mine")[1][0]
    for reply in row["references"]:
        assert scorers.process_results(row, [reply]) == {"exact": 1, "value_f1": 1, "parses": 1}
    path = Path("suites/mine/eval.jsonl")
    path.write_text(path.read_text().replace(json.dumps(row["references"][1]), '"b"', 1))
    assert main(["check", "mine"]) == 2
    assert f"row {row['id']!r}: reply is no JSON object or list; mend it" in capsys.readouterr().err
    lines([*rows, {"message": "More", "references": [{"tool": "a"}, "none"]}])
    assert main(["new", "other", "--from", "rows.jsonl", "--reply", "references"]) == 0
    assert "row 61: reply is no JSON, as those of 60 other rows are, so all are" in capsys.readouterr().out


@pytest.mark.parametrize("column", ["reply", "references"])
def test_a_list_of_texts_is_one_answer_or_several_by_the_name_of_its_column(
    column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines({"message": f"Ticket {i * 7919}", column: [f"In {i % 9} days.", f"{i % 9} days"][: 1 + i % 3]}
          for i in range(60))  # fmt: skip
    assert main(["new", "mine", "--from", "rows.jsonl", "--reply", column]) == 0
    told = "row 1: reply is a list of texts, as all are, and taken as one answer, in JSON; alternatives belong into a "
    assert (told in (out := capsys.readouterr().out)) == (column == "reply")
    assert ("(text; 9 different replies)" in out) == (column == "references"), "labels have no alternatives"
    assert main(["check", "mine"]) == 0
    if column == "references":
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


def test_messages_that_differ_in_marks_alone_may_have_different_replies(capsys: pytest.CaptureFixture[str]) -> None:
    """They are one to the leakage guard, and so stand on one side."""
    own = [{"message": f"Ticket {i * 7919}", "reply": LABELS[i % 3], "group": f"g{i}"} for i in range(80)]
    twins = [
        row
        for i in range(10)
        for row in (
            {"message": f"You come {i}?", "reply": "help", "group": f"a{i}"},
            {"message": f"you come {i}.", "reply": "sales", "group": f"b{i}"},
            {"message": f"You come {i}", "reply": "sales", "group": f"c{i}"},
        )
    ]
    lines(own + twins)
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "10 that repeat a message were left out." in out
    assert "warning: rows.jsonl, row 82 (row 81), rows.jsonl, row 83 (row 81), " in out
    train, held = rows_of("mine")
    assert not {r["group"] for r in train} & {r["group"] for r in held}
    for i in range(10):
        told = {r["reply"]: r["group"] for r in train + held if r["message"].lower().startswith(f"you come {i}")}
        assert told == {"help": f"a{i}", "sales": f"a{i}"}
    assert main(["check", "mine"]) == 0


def test_parts_made_uneven_by_a_large_group_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["big" if i > 60 else f"g{i}" for i in range(300)]
    lines({"message": f"Ticket {i * 7919}", "reply": f"Answer {i}.", "group": g} for i, g in enumerate(names))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("warning: "))
    assert line.startswith("warning: whole groups make uneven parts: ")
    assert "training (56% due), " in line
    assert line.endswith("group 'big' alone has 239 of 300 rows: part it, or group by something finer")
    train, held = rows_of("mine")
    if len(held) > len(train):
        train, held = held, train
    for rows, side in ((train, "train"), (held, "eval")):
        Path(f"suites/mine/{side}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(["check", "mine"]) == 0
    assert "uneven parts" in capsys.readouterr().err
    for rows, side in ((held, "train"), (train, "eval")):
        Path(f"suites/mine/{side}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(["check", "mine"]) == 0
    assert f"rows to train on are fewer than the {len(train)} to evaluate with; add" in capsys.readouterr().err


def test_even_parts_are_no_matter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    assert "warning" not in capsys.readouterr().out
    by_chance = {"training": [{"id": str(i)} for i in range(40)], "validation": [{"id": "v"}]}
    assert uneven(by_chance, {"training": 0.8, "validation": 0.2}) == []


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


@pytest.mark.parametrize("rare", [0, 2, 30])
def test_one_reply_to_nearly_all_rows_is_told(rare: int, capsys: pytest.CaptureFixture[str]) -> None:
    lines(
        {"message": f"Ticket {i * 7919}", "reply": "sales" if i < rare else "help", "group": f"g{i}"}
        for i in range(300)
    )
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    assert main(["check", "mine"]) == 0
    told = "evaluation rows have the reply 'help', which passes them whatever is asked; add rows with others"
    assert (told in capsys.readouterr().err) == (rare < 30)


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("max_new_tokens: 36", "max_new_tokens: x", "suite.max_new_tokens='x': must be a whole number, 1 or more"),
        ("leakage: $", "train_share: abc\nleakage: $", "suite.train_share='abc': must be a number above 0 and up to 1"),
        ("leakage: ${leakage}", "leakage: maybe", "leakage='maybe': choose one of fail, drop, warn"),
    ],
)
def test_check_refuses_the_keys_that_a_grid_refuses(
    was: str, becomes: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    config = Path("conf/suite/mine.yaml")
    text = config.read_text()
    assert was in text
    config.write_text(text.replace(was, becomes))
    capsys.readouterr()
    assert main(["check", "mine"]) == 2
    assert capsys.readouterr().err.splitlines() == [f"harness: {told}"]
    done = harness(tmp_path, "suite=mine", *(knob for knob in TINY if "max_new_tokens" not in knob))
    assert (done.returncode, done.stderr.splitlines()) == (2, [f"harness: {told}"])


@pytest.mark.parametrize("mode", ["fail", "drop", "warn"])
def test_check_tells_leaks_whatever_a_suite_does_with_them(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    config, held = Path("conf/suite/mine.yaml"), Path("suites/mine/eval.jsonl")
    config.write_text(config.read_text().replace("leakage: ${leakage}", f"leakage: {mode}"))
    train, _ = rows_of("mine")
    held.write_text(held.read_text() + json.dumps({**train[0], "id": "x"}) + "\n")
    assert main(["check", "mine"]) == 2
    assert f"row 'x': same text as training row {train[0]['id']!r}" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["at once", "of a row"])
def test_scorers_that_exit_are_told(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    scorers = Path("suites/mine/scorers.py")
    text = scorers.read_text()
    exits = "    raise SystemExit(0)\n" if where == "of a row" else ""
    scorers.write_text(text + "\nraise SystemExit(0)\n" if where == "at once" else text.replace(
        '    said = results[0]', exits + '    said = results[0]'))  # fmt: skip
    assert main(["check", "mine"]) == 2
    assert "SystemExit: 0" in capsys.readouterr().err


def test_rows_copied_into_the_knowledge_base_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    config = Path("conf/suite/mine.yaml")
    config.write_text(config.read_text().replace("knowledge_file: null", "knowledge_file: kb.jsonl"))
    _, held = rows_of("mine")
    pairs = [("FAQ", f"Q: {r['message']}\nA: {r['reply']}") for r in held[:5]]
    pairs += [(r["message"], f"{r['reply']} Ask us if it fails.") for r in held[5:]]
    articles = ({"id": f"faq{i}", "title": title, "text": text} for i, (title, text) in enumerate(pairs))
    Path("suites/mine/kb.jsonl").write_text("".join(json.dumps(a) + "\n" for a in articles))
    assert main(["check", "mine"]) == 0
    told = capsys.readouterr()
    assert f"mine: 0 mistakes, {len(held) + 3} warnings" in told.out  # with those of size, groups and card
    assert told.err.count("like knowledge base row 'faq") == 3
    assert told.err.endswith(f"warning: ... and {len(held) - 3} more such\n")


def test_instructions_that_nobody_wrote_are_never_prompted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["new", "mine", "--from", str(table()), *NAMES]) == 0
    said = "suites/mine/instructions.md, line 1: still “TO FILL:”; write there what a good answer looks like"
    assert command(["check", "mine"]) == 2
    assert said in capsys.readouterr().err
    only = ("suite=mine", "quantization=fp16", *TINY, "price.use=nowhere")  # which stops the second too
    prompted = harness(tmp_path, "adaptation=prompt_rag", *only)
    assert prompted.returncode == 2
    assert said in prompted.stderr
    assert "TO FILL" not in harness(tmp_path, "adaptation=lora", *only).stderr, "what is trained is told none of it"


def test_what_is_no_text_is_written_as_json() -> None:
    replies = (True, False, 7, 2.5)
    lines({"message": f"Ticket {i * 7919}", "reply": replies[i % 4]} for i in range(80))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    written = {json.loads(line)["reply"] for line in Path("suites/mine/train.jsonl").read_text().splitlines()}
    assert written == {"true", "false", "7", "2.5"}


def test_a_label_that_nothing_is_trained_on_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"message": f"Ticket {i * 7919}", "reply": LABELS[i % 3], "group": f"g{i}"} for i in range(120)]
    held = next(f"h{n}" for n in range(99) if hashed(f"evaluation h{n}") < 0.3)
    rows += [{"message": f"A rare one, {i}", "reply": "legal", "group": held} for i in range(2)]
    lines(rows)
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    told = "warning: rows.jsonl, row 121: label 'legal' (2 rows: row 121, row 122) stands in no training row; add rows"
    assert told in capsys.readouterr().out
    assert main(["check", "mine"]) == 2
    scorers = Path("suites/mine/scorers.py")
    own = (
        scorers.read_text().replace("def check(", "def other(").replace("guess == true)", "results[0] == doc['reply'])")
    )
    scorers.write_text(own)
    assert main(["check", "mine"]) == 0
    assert "label 'legal' (2 rows: row 'row-00" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (5, "evaluation rows of 5 groups: no difference at all can be shown; at least 6 groups are needed to compare"),
        (7, "evaluation rows of 7 groups: two cells can be compared, all of a grid cannot; at least 6 groups are"),
        (10, "evaluation rows have only 10 groups; intervals will be wide"),
    ],
)
def test_groups_too_few_to_show_anything_are_told_first(
    groups: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """However many rows they have."""
    held = [g for n in range(999) if hashed(f"evaluation {(g := f'h{n}')}") < 0.3][:groups]
    fit = [g for n in range(99) if hashed(f"evaluation {(g := f'g{n}')}") >= 0.3]
    lines(
        {"message": f"Ticket {n * 7919}", "reply": f"Answer {n}.", "group": g} for n, g in enumerate([*held, *fit] * 9)
    )
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    made = capsys.readouterr().out
    assert f"{9 * groups} evaluation rows ({groups} groups) from rows.jsonl" in made
    assert (told in made) == (groups < 10)
    assert main(["check", "mine"]) == 0
    assert told in capsys.readouterr().err.splitlines()[int(groups == 10)]


@pytest.mark.parametrize("often", [1, 2, 3])
def test_the_label_that_would_pass_most_rows_is_told(often: int, capsys: pytest.CaptureFixture[str]) -> None:
    lines({"message": f"Ticket {i * 7919}", "reply": LABELS[max(0, i % (2 + often) - often)]} for i in range(240))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    assert main(["check", "mine"]) == 0
    _, held = rows_of("mine")
    right = sum(r["reply"] == "billing" for r in held) / len(held)
    assert f"always answering 'billing' would be right for {right:.0%} of the evaluation" in capsys.readouterr().out


@pytest.mark.parametrize(("one", "other", "same"), [("1", "1.0", True), ("01", "1", False), ("1.1", "1.10", False)])
def test_numbers_are_one_label_where_they_are_one_whole_number(one: str, other: str, same: bool) -> None:
    """Though 1.10 is a version of its own, and 01 a code."""
    assert (folded(one) == folded(other)) == same
    assert len(misspelt([("row 2", one), ("row 3", other)])) == int(same)


def test_a_row_many_times_as_long_as_others_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines(
        {"message": f"Ticket {i * 7919} " + "very " * (500 if i == 7 else 1), "reply": f"{i}: so."} for i in range(60)
    )
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    held = Path("suites/mine/eval.jsonl")
    first, *rest = held.read_text().splitlines()
    held.write_text("\n".join([json.dumps({**json.loads(first), "reply": 7}), *rest]))
    assert main(["check", "mine"]) == 2, "a reply that is no text is told by what it scores, and is no obstacle here"
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "characters" in line]
    assert "row 'row-00008': its message has 2,512 characters, usual are 18; such rows set memory and time" in told


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
    ("was", "becomes", "n"),
    [
        ('"{{message}}"', '"Ticket: {{message}}\\nWhich label?"', 30),
        ("test_split: test", "test_split: test\ndescription: 'Answer tersely.\n\n  '", 30),
        ("test_split: test", "test_split: test\nnum_fewshot: 2", 30),
        ("test_split: test", 'test_split: test\ngen_prefix: "Answer:"', 30),
        ('"{{message}}"', "\"{{message | replace('  ', ' ')}}\"", 1),
        ('"{{message}}"', "message", 0),
    ],
)
def test_what_a_task_asks_is_what_is_trained_and_timed(
    was: str, becomes: str, n: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the letter; or training and latency, export and the leakage guard would see other text than the scores."""
    odd = ("  Two  spaces\tand a line.\n", "{{ braces }} {% if %}", "7")
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    task, held = Path("suites/mine/task.yaml"), Path("suites/mine/eval.jsonl")
    rows = rows_of("mine")[1][:30]
    rows = [{**row, "message": odd[i] if i < len(odd) else row["message"]} for i, row in enumerate(rows)]
    held.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["check", "mine"]) == 0
    assert was in task.read_text()
    task.write_text(task.read_text().replace(was, becomes))
    capsys.readouterr()
    assert main(["check", "mine"]) == (2 if n else 0)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mistake: ")]
    line = (
        "suites/mine/task.yaml: its doc_to_text, description, num_fewshot, gen_prefix or process_docs changes the "
        f"message of row {rows[0]['id']!r} ({n} such), which is trained on, timed and exported as it stands in the "
        "row; write it into the rows, or into suite.system"
    )
    assert [found.partition(f"{tmp_path}/")[2] for found in told] == ([line] if n else [])
    if n == 30 and "Ticket" in becomes:
        done = harness(tmp_path, "suite=mine", *TINY)
        assert done.returncode == 2
        assert f"task.yaml: {line.partition(': ')[2].partition(' (')[0]}" in done.stderr


def test_first_rows_unlike_the_others_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """`quick` takes the first rows of each file: of one sorted by label, none but one."""
    names = ("billing", "sales", "help", "legal")
    lines(
        {"message": f"Ticket {i * 7919}", "reply": names[i % 4], "group": f"g{i}", "case": "ab"[i // 4 % 2]}
        for i in range(900)
    )
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    assert main(["check", "mine"]) == 0
    assert "profile=quick" not in capsys.readouterr().err
    for side, rows in zip(("train", "eval"), rows_of("mine"), strict=True):
        by = "case" if side == "train" else "reply"
        Path(f"suites/mine/{side}.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in sorted(rows, key=lambda r: r[by]))
        )
    assert main(["check", "mine"]) == 0
    told = [line.rpartition("suites/mine/")[2] for line in capsys.readouterr().err.splitlines() if "=quick" in line]
    train, held = rows_of("mine")
    a, billing = sum(r["case"] == "a" for r in train[128:]), sum(r["reply"] == "billing" for r in held[48:])
    assert told == [
        "train.jsonl: its first 128 rows, which profile=quick takes, are of 1 of 2 values of `case` ('a': 100% of "
        f"them, {a / len(train[128:]):.0%} of the others); shuffle the file",
        "eval.jsonl: its first 48 rows, which profile=quick takes, are of 1 of 4 values of `reply` ('billing': 100% of "
        f"them, {billing / len(held[48:]):.0%} of the others); shuffle the file",
    ]

    Path("conf/profile").mkdir()
    Path("conf/profile/quick.yaml").write_text("defaults: [standard, _self_]\ntrain_rows: null\neval_rows: 20\n")
    assert main(["check", "mine"]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "=quick" in line)
    assert "eval.jsonl: its first 20 rows, which profile=quick takes, are" in line


def test_first_rows_of_too_few_groups_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table(600)), *NAMES]) == 0
    train, _ = rows_of("mine")
    path = Path("suites/mine/train.jsonl")
    path.write_text("".join(json.dumps({**r, "group": r["group"] if i >= 200 else "one"}) + "\n"
                            for i, r in enumerate(train)))  # fmt: skip
    capsys.readouterr()
    main(["check", "mine"])
    assert "warning: profile=quick: " in (told := capsys.readouterr().err)
    assert "train.jsonl: 128 rows of too few groups to set a fifth of them apart for validation" in told


def test_what_a_field_is_of_few_values_is_told_by_its_size_and_no_more() -> None:
    """Neither texts nor numbers, nor what differs by chance."""
    rng = random.Random(0)
    for values in (2, 5, 20):
        first, others = ([{"case": f"v{rng.randrange(values)}"} for _ in range(n)] for n in (48, 240))
        assert unlike(first, others, "reply") == []
    for field, rest, told in (("case", "b", 1), ("reply", "b", 1), ("case", None, 0), ("case", 7, 0), ("case", "a", 0)):
        assert len(unlike([{field: "a"}] * 48, [{field: rest}] * 240, "reply")) == told, (field, rest)
    first, others = ([{"case": f"{side}{i % 11}"} for i in range(200)] for side in "ab")
    assert unlike(first, others, "reply") == []
    assert unlike([{"reply": "a"}] * 48, [], "reply") == []


def test_evaluation_rows_pasted_into_the_instructions_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines({"message": f"Where do I find the form number {i * 7919}?", "reply": LABELS[i % 3]} for i in range(200))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    _, held = rows_of("mine")
    guide, config = Path("suites/mine/instructions.md"), Path("conf/suite/mine.yaml")
    own, settings = guide.read_text(), config.read_text()
    assert main(["check", "mine"]) == 0
    capsys.readouterr()
    pasted = "".join(f"- **{r['message']}** is {r['reply']}\n" for r in held[:40])
    guide.write_text(f"{own}\nExamples:\n{pasted}")
    assert main(["check", "mine"]) == 2
    told = capsys.readouterr()
    assert "mine: 40 mistakes, " in told.out
    assert "mistake: ... and 20 more\n" in told.err
    assert f"eval.jsonl, row {held[0]['id']!r}: its text stands in instructions.md; write another example" in told.err
    guide.write_text(own)
    system = OmegaConf.load(config).system
    config.write_text(settings.replace(system, f"{system} As to {held[3]['message']}: {held[3]['reply']}"))
    assert main(["check", "mine"]) == 2
    assert f"row {held[3]['id']!r}: its text stands in suite.system; write" in capsys.readouterr().err


AROUND = "Say what to do and by when, in two sentences, and end with the name of the team that answers."


def test_an_evaluation_row_told_with_a_word_changed_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    _, held = rows_of("mine")
    guide = Path("suites/mine/instructions.md")
    guide.write_text(f"{guide.read_text()}\nSo: {held[0]['message'].replace('what of', 'what about')}\n{AROUND}")
    assert main(["check", "mine"]) == 0
    told = capsys.readouterr().err
    assert f"warning: {Path('suites/mine/eval.jsonl').absolute()}, row {held[0]['id']!r}: " in told
    assert "% like instructions.md, or a part of it; remove one where it gives the other away" in told


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


SPELT = (("Acme {}", "ACME {}"), ("Müller {}", "Mu\u0308ller {}"), ("Acme {} Ltd", "acme  {}  Ltd"))


@pytest.mark.parametrize("ways", SPELT)
def test_a_group_written_in_two_ways_is_one(ways: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    lines(
        {"message": f"Ticket {i * 7919}", "reply": f"Answer {i}.", "group": ways[i % 2].format(i // 4)}
        for i in range(200)
    )
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    train, held = rows_of("mine")
    assert {r["group"] for r in train + held} == {ways[0].format(n) for n in range(50)}
    assert not {r["group"] for r in train} & {r["group"] for r in held}
    assert main(["check", "mine"]) == 0
    number = next(n for n in range(50) if ways[0].format(n) == train[0]["group"])
    stray = ways[1].format(number)
    path = Path("suites/mine/eval.jsonl")
    path.write_text(path.read_text() + json.dumps({**held[0], "id": "x", "message": "New", "group": stray}) + "\n")
    capsys.readouterr()
    assert main(["check", "mine"]) == 2
    (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("mistake: "))
    shown = repr(stray) if stray.isascii() else ascii(stray)
    assert f"eval.jsonl, row 'x': group {shown} (1 row: row 'x') is {train[0]['group']!r} (4 rows: row '" in line
    assert line.endswith(
        "for case, spaces, Unicode form or a .0; write them alike, or rename one that is a group of its own"
    )


def test_groups_written_in_two_ways_on_one_side_are_no_matter() -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    _, held = rows_of("mine")
    group = held[0]["group"]
    rows = [{**r, "group": group.upper() if i else group} if r["group"] == group else r for i, r in enumerate(held)]
    Path("suites/mine/eval.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert len({r["group"] for r in rows}) > len({r["group"] for r in held})
    assert main(["check", "mine"]) == 0


@pytest.mark.parametrize("side", ["train", "eval"])
def test_a_message_that_stands_twice_without_a_group_is_told(side: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    rows = rows_of("mine")[side == "eval"]
    again = [{**rows[n], "id": f"again {n}", "message": rows[n]["message"].upper()} for n in (3, 5)]
    path = Path(f"suites/mine/{side}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in (*rows, *again)))
    assert main(["check", "mine"]) == 0
    assert "such); give them" not in capsys.readouterr().err, "rows of a group are no independent ones"
    alone = [{k: v for k, v in row.items() if k != "group"} for row in (*rows, *again)]
    path.write_text("".join(json.dumps(row) + "\n" for row in alone))
    assert main(["check", "mine"]) == 0
    (line,) = (x for x in capsys.readouterr().err.splitlines() if " asks what row " in x)
    pairs = [(f"again {n}", rows[n]["id"]) for n in (3, 5)]
    pairs += [pair[::-1] for pair in pairs]  # validation rows are read apart
    assert any(line.endswith(
        f"{side}.jsonl, row {a!r}: asks what row {b!r} asks (2 such); give them one group, or leave one out"
    ) for a, b in pairs)  # fmt: skip
    assert line.startswith("warning: ")
