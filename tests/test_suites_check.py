"""`python -m harness.suites check`: all that is wrong with a suite is told at once, with its file and row."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.suite import hashed
from harness.suites.__main__ import main as command
from harness.suites.shape import uneven, unlike
from tests.grids import TINY, harness
from tests.own_tables import LABELS, NAMES, lines, main, rows_of, table
from tests.suites.loading import scorers_of

pytestmark = pytest.mark.usefixtures("elsewhere")


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
    assert [scorers.predicted(said) for said in ("**sent**", '"Se\u200bnt"', "", '"A"', "**")] == [
        "Sent.", "Sent.", *3 * ["unparseable"],
    ]  # fmt: skip


def test_a_card_that_is_not_utf8_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    Path("suites/mine/card.md").write_bytes("# Über mine\n".encode("latin-1"))
    assert main(["check", "mine"]) == 0
    assert "card.md: states no licence of the rows" in capsys.readouterr().err


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
        (f"{settings}knowlege_file: kb.jsonl\n", "suite.knowlege_file of suite=mine: no such knob"),
    ):
        config.write_text(text)
        assert main(["check", "mine"]) == 2
        assert told in capsys.readouterr().err


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
    assert f"row 'y': its group is also that of training row '{train['id']}'" in err
    assert "warning: " in err
    assert "row 'x': " in err


def test_check_names_the_files_that_the_configuration_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    folder, config = Path("suites/mine"), Path("conf/suite/mine.yaml")
    train = json.loads((folder / "train.jsonl").read_text().split("\n")[0])
    Path(folder / "hard.jsonl").write_text(json.dumps({**train, "id": "x"}))
    own = ("mine_hard", "defaults: [mine, _self_]\neval_file: hard.jsonl\n")
    for name, text in (own, ("mine", config.read_text().replace("eval.jsonl", "hard.jsonl"))):
        Path(f"conf/suite/{name}.yaml").write_text(text)
        assert main(["check", name]) == 2
        assert "suites/mine/hard.jsonl, row 'x': its message is that of training row" in capsys.readouterr().err


@pytest.mark.parametrize("stray", ["Billing", "bil ling", "bil\u200bling", "billing"])
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
    assert "label 'Help' (1 row: row 'row-" in (told := capsys.readouterr().err)
    assert told.startswith("mistake: ")


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
    assert f"row 'x': its message is that of training row {train[0]['id']!r}" in capsys.readouterr().err


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
    assert "label 'legal' (2 rows: row 'row-" in capsys.readouterr().err


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


def test_a_label_that_is_one_of_several_right_answers_passes_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    of = (["delivery", "billing"], ["technical", "billing"], ["billing"])
    lines({"message": f"Ticket {i * 7919}", "references": of[i % 3]} for i in range(200))
    assert main(["new", "mine", "--from", "rows.jsonl", "--reply", "references"]) == 0
    assert main(["check", "mine"]) == 0
    out, err = capsys.readouterr()
    assert "always answering 'billing' would be right for 100% of the evaluation rows" in out
    n = len(rows_of("mine")[1])
    assert f"{n} of {n} evaluation rows have the reply 'billing', which passes them whatever is asked" in err


def test_a_row_many_times_as_long_as_others_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines(
        {"message": f"Ticket {i * 7919} " + "very " * (500 if i == 7 else 1), "reply": f"{i}: so."} for i in range(60)
    )
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    held = Path("suites/mine/eval.jsonl")
    first, *rest = held.read_text().splitlines()
    held.write_text("\n".join([json.dumps({**json.loads(first), "reply": 7}), *rest]))
    articles = [{"id": f"a{n}", "title": f"On {n}", "text": f"{n} " * (900 if n == 3 else 9)} for n in range(5)]
    Path("suites/mine/kb.jsonl").write_text("".join(json.dumps(article) + "\n" for article in articles))
    config = Path("conf/suite/mine.yaml")
    config.write_text(config.read_text().replace("knowledge_file: null", "knowledge_file: kb.jsonl"))
    assert main(["check", "mine"]) == 2, "a reply that is no text is told by what it scores, and is no obstacle here"
    told, article = [line for line in capsys.readouterr().err.splitlines() if "characters" in line]
    assert "kb.jsonl, row 'a3': its text has 1,800 characters, usual are 18; such rows set memory and time" in article
    assert "': its message has 2,512 characters, usual are 18; such rows set memory and time" in told


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


def test_a_label_that_the_first_rows_lack_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Few enough to be chance; one that no training row has is told once."""
    lines({"message": f"Ticket {i * 7919}", "reply": LABELS[i % 3], "group": f"g{i}"} for i in range(400))
    assert main(["new", "mine", "--from", "rows.jsonl"]) == 0
    labels, (train, held) = Path("suites/mine/labels.json"), rows_of("mine")
    labels.write_text(json.dumps([*LABELS, "legal", "odd"]))
    train[-1]["reply"] = held[0]["reply"] = "legal"
    held[1]["reply"] = "odd"
    for side, rows in (("train", train), ("eval", held)):
        Path(f"suites/mine/{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["check", "mine"]) == 0
    (told,) = (line for line in capsys.readouterr().err.splitlines() if "=quick" in line)
    assert "train.jsonl: its first " in told
    assert "have none of 1 label that it asks, such as 'legal'; shuffle the file, or put some first" in told


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
    assert (
        f"eval.jsonl, row {held[0]['id']!r}: its message or reply stands in instructions.md; write another" in told.err
    )
    guide.write_text(own)
    system = OmegaConf.load(config).system
    config.write_text(settings.replace(system, f"{system} As to {held[3]['message']}: {held[3]['reply']}"))
    assert main(["check", "mine"]) == 2
    assert f"row {held[3]['id']!r}: its message or reply stands in suite.system; write" in capsys.readouterr().err


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


SPELT = (
    ("Acme {}", "ACME {}"),
    ("Acme {}", "Ac\ufeffme {}"),
    ("Müller {}", "Mu\u0308ller {}"),
    ("Acme {} Ltd", "acme  {}  Ltd"),
)


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
