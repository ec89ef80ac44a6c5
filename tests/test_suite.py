"""Every kind of bad suite is told in one line that names the file, the row and the mend; the split is stable."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.resources import resource
from harness.suite import load
from harness.types import Component, SuiteData

ROWS = 40


def params(folder: Any, **changes: Any) -> dict[str, Any]:
    """A suite's configuration."""
    return {
        "folder": str(folder) if isinstance(folder, Path) else folder, "task": "small", "task_file": "task.yaml",
        "train_file": "train.jsonl", "eval_file": "eval.jsonl", "knowledge_file": "kb.jsonl",
        "instructions_file": "guide.md", "system": "Be kind.", "message_field": "message", "reply_field": "reply",
        "primary": "style", "max_new_tokens": 16, "train_rows": None, "eval_rows": None, **changes,
    }  # fmt: skip


def read(folder: Any, **changes: Any) -> SuiteData:
    return load(Component("small", "", params(folder, **changes)))


def told(folder: Any, **changes: Any) -> list[str]:
    """The mistakes that a suite is refused for."""
    with pytest.raises(UserError) as refused:
        read(folder, **changes)
    return list(refused.value.mistakes)


def row(number: int, side: str = "t", **changes: Any) -> dict[str, Any]:
    made = {"id": f"{side}{number}", "group": f"{side}-group{number // 2}", "message": f"{side} asks {number}?"}
    return {**made, "reply": f"Answer {number}.", **changes}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small suite without a mistake."""
    write(tmp_path / "train.jsonl", [row(n) for n in range(ROWS)])
    write(tmp_path / "eval.jsonl", [row(n, "e") for n in range(8)])
    write(tmp_path / "kb.jsonl", [{"id": "a1", "title": "Returns", "text": "45 days."}])
    (tmp_path / "guide.md").write_text("Greet first.", encoding="utf-8")
    (tmp_path / "task.yaml").write_text("task: small", encoding="utf-8")
    return tmp_path


def line_two(text: str) -> Callable[[Path], None]:
    """Puts a text in the place of the second row of the training file."""

    def spoil(folder: Path) -> None:
        lines = (folder / "train.jsonl").read_text(encoding="utf-8").split("\n")
        lines[1] = text
        (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")

    return spoil


def held(**changes: Any) -> Callable[[Path], None]:
    """Changes the third evaluation row."""
    return lambda folder: write(folder / "eval.jsonl", [row(n, "e", **(changes if n == 2 else {})) for n in range(8)])


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda f: (f / "train.jsonl").unlink(), "{f}/train.jsonl: missing; a suite needs this file"),
        (lambda f: (f / "kb.jsonl").unlink(), "{f}/kb.jsonl: missing; a suite needs this file"),
        (lambda f: (f / "guide.md").unlink(), "{f}/guide.md: missing; a suite needs this file"),
        (lambda f: (f / "task.yaml").unlink(), "{f}/task.yaml: missing; a suite needs this file"),
        (lambda f: (f / "eval.jsonl").write_text("\n \n"), "{f}/eval.jsonl: empty; at least one row is needed"),
        (line_two("{not json"), "{f}/train.jsonl, row 2: not JSON (Expecting property name enclosed in double quotes "
         "at column 2); write one object a line"),
        (line_two('["a", "list"]'), "{f}/train.jsonl, row 2: a list, not an object; write {{...}}"),
        (line_two('{"id": "t1", "message": "Hm?"}'),
         "{f}/train.jsonl, row 2: reply missing, empty or not text; fill in each row"),
        (line_two('{"id": "t1", "message": " ", "reply": 7}'),
         "{f}/train.jsonl, row 2: message, reply missing, empty or not text; fill in each row"),
        (line_two(json.dumps(row(1, id="t0"))), "{f}/train.jsonl, row 2: id 't0' stands in row 1 too; make ids unique"),
        (line_two(json.dumps(row(1, message="Hm \ud83d"))),
         "{f}/train.jsonl, row 2: holds half a character (a lone surrogate); mend that text"),
        (held(message="  T ASKS,  5! "),
         "{f}/eval.jsonl, row 'e2': its message is that of training row 't5'; remove one, or set leakage=drop"),
        (held(group="t-group3"),
         "{f}/eval.jsonl, row 'e2': its group is also that of training row 't6'; keep a group on one side, "
         "or set leakage=drop"),
        (held(group="t-group3 "),
         "{f}/eval.jsonl, row 'e2': its group is also that of training row 't6'; keep a group on one side, "
         "or set leakage=drop"),
        (held(reply="Returns: 45 days"),
         "{f}/eval.jsonl, row 'e2': article 'a1' of kb.jsonl is its text; remove one"),
        *((lambda f, name=name: (f / name).write_text("include: [../shared.yaml]"),
           "{f}/../shared.yaml: stands outside the suite's folder; copy it into {f}")
          for name in ("task.yaml", "_base_yaml")),
        (held(group=" "), "{f}/eval.jsonl, row 3: group is empty or no text; fill it in, or leave it out"),
    ],
)  # fmt: skip
def test_a_bad_file_is_told_in_one_line(folder: Path, spoil: Callable[[Path], None], line: str) -> None:
    spoil(folder)
    assert told(folder) == [line.format(f=folder)]


@pytest.mark.parametrize("name", ["train.jsonl", "guide.md", "task.yaml", "scorers.py"])
def test_a_file_that_is_not_utf8_is_told(folder: Path, name: str) -> None:
    (folder / name).write_bytes("Grüße".encode("latin-1"))
    (line,) = told(folder)
    assert line.startswith(f"{folder / name}: cannot be read as UTF-8 text (")
    assert line.endswith("); save it as UTF-8")


def test_an_id_may_be_a_number(folder: Path) -> None:
    write(folder / "train.jsonl", [row(n, id=n) for n in range(ROWS)])
    write(folder / "eval.jsonl", [row(n, "e", id=n) for n in range(8)])
    write(folder / "kb.jsonl", [{"id": 1, "title": "Returns", "text": "45 days."}])
    data = read(folder)
    assert {r["id"] for r in (*data.train, *data.validation)} == {str(n) for n in range(ROWS)}
    assert ([r["id"] for r in data.evaluation], data.knowledge[0].id) == ([str(n) for n in range(8)], "1")
    line_two(json.dumps(row(1, id=True)))(folder)
    assert told(folder) == [f"{folder}/train.jsonl, row 2: id missing, empty or not text; fill in each row"]


@pytest.mark.parametrize(("trained", "asked"), [(7, "7"), ("7", 7), (0, 0), (0, "0")])
def test_a_group_is_its_text(folder: Path, trained: Any, asked: Any) -> None:
    """A customer's number is written with quotes in one file and without in the other."""
    write(folder / "train.jsonl", [row(n, **({"group": trained} if n < 30 else {})) for n in range(2 * ROWS)])
    held(group=asked)(folder)
    (line,) = told(folder)
    assert line.startswith(f"{folder}/eval.jsonl, row 'e2': its group is also that of training row 't0'; keep a group")
    data = read(folder, leakage="warn")
    assert len({r["id"] for r in data.train if r["group"] == str(trained)}) in (0, 30), "a group is on one side"
    assert not {r["group"] for r in read(folder, leakage="drop").train} & {str(trained)}


def test_a_byte_order_mark_is_no_text(folder: Path) -> None:
    before = read(folder)
    for name in ("train.jsonl", "eval.jsonl", "kb.jsonl", "guide.md", "task.yaml"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert read(folder) == before


def test_a_folder_in_a_files_place_is_told_as_one(folder: Path) -> None:
    (folder / "train.jsonl").unlink()
    (folder / "train.jsonl").mkdir()
    assert told(folder) == [f"{folder}/train.jsonl: cannot be read (Is a directory); give a file that can be"]


def test_several_mistakes_are_told_at_once(folder: Path) -> None:
    line_two("{")(folder)
    held(group="t-group3")(folder)
    (folder / "kb.jsonl").write_text("")
    (folder / "guide.md").unlink()
    assert [line.partition(":")[0].removeprefix(f"{folder}/") for line in told(folder)] == [
        "train.jsonl, row 2", "kb.jsonl", "guide.md", "eval.jsonl, row 'e2'",
    ]  # fmt: skip


def test_leaks_can_be_dropped_or_only_warned_of(folder: Path) -> None:
    rows = [row(n, "e") for n in range(8)]
    rows[2]["message"], rows[3]["group"], rows[4]["reply"] = "T asks 5", "t-group3", "45 days"
    write(folder / "eval.jsonl", rows)
    dropped, warned = read(folder, leakage="drop"), read(folder, leakage="warn")
    assert [(o.kind, o.row, o.source, o.other) for o in dropped.overlaps] == [
        ("exact", "e2", "training", "t5"), ("group", "e3", "training", "t6"), ("exact", "e4", "knowledge base", "a1"),
    ]  # fmt: skip
    assert warned.overlaps == dropped.overlaps
    ids = [{r["id"] for r in (*data.train, *data.validation)} for data in (dropped, warned)]
    assert ids[1] - ids[0] == {"t5", "t6", "t7"}
    assert (dropped.knowledge, len(warned.knowledge)) == ((), 1)
    assert len(dropped.evaluation) == len(warned.evaluation) == 8
    assert dropped.training_digest != warned.training_digest
    assert told(folder, leakage="perhaps") == ["leakage='perhaps': choose one of fail, drop, warn"]


@pytest.mark.parametrize(("file", "where"), [("guide.md", "guide.md"), (None, "suite.system")])
def test_what_models_are_told_of_an_evaluation_row_can_only_be_warned_of(
    folder: Path, file: str | None, where: str
) -> None:
    asked = "E asks where parcel 2 is"
    held(message=asked)(folder)
    said = f"Examples: “{asked}” is answered so."
    system = {} if file else {"system": said}
    if file:
        (folder / file).write_text(said)
    line = f"{folder}/eval.jsonl, row 'e2': its message or reply stands in {where}; write another example there, or set"
    for mode in ("fail", "drop"):
        assert told(folder, leakage=mode, **system) == [f"{line} leakage=warn"]
    (found,) = read(folder, leakage="warn", **system).overlaps
    assert (found.kind, found.row, found.source, found.other) == ("exact", "e2", "instructions", where)


def test_every_article_that_is_a_rows_text_is_dropped(folder: Path) -> None:
    """An overlap names one article a row; a row may be several."""
    told = (("a1", "45 days."), ("a2", "45 Days"), ("a3", "May I?"), ("a4", "45 days, or less"))
    write(folder / "kb.jsonl", [{"id": name, "title": "Returns", "text": text} for name, text in told])
    held(message="May I", reply="Returns: 45 days")(folder)
    assert [o.other for o in read(folder, leakage="warn").overlaps] == ["a3"]
    assert [a.id for a in read(folder, leakage="drop").knowledge] == ["a4"]


def test_a_missing_folder_is_told_with_where_it_was_sought() -> None:
    (line,) = told("nowhere")
    assert line == f"suite small: no folder 'nowhere' here or in {resource('suites')}"


def test_a_folder_of_data_of_a_suites_name_hides_no_suite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    (mine := Path("suites/mine").absolute()).parent.mkdir()
    folder.rename(mine)
    (data := Path("mine").absolute()).mkdir()
    (data / "eval.jsonl").write_text("{}")
    assert [read(name).folder for name in ("mine", "./suites/mine", str(mine))] == [mine] * 3
    Path("ticket_routing").mkdir()
    shipped = {"knowledge_file": None, "instructions_file": "instructions.md"}
    assert read("ticket_routing", **shipped).folder == resource("suites") / "ticket_routing"
    (data / "train.jsonl").write_bytes((mine / "train.jsonl").read_bytes())
    assert read("mine").folder == mine
    assert told("./mine")[0].startswith(f"{data}/eval.jsonl, row 1: id, message missing")
    mine.rename("suites/yours")
    assert told("mine") == told("./mine")


def test_a_suite_without_knowledge_needs_no_file(folder: Path) -> None:
    (folder / "kb.jsonl").unlink()
    assert read(folder, knowledge_file=None).knowledge == ()


def test_too_few_rows_to_hold_some_out_are_told(folder: Path) -> None:
    (line,) = told(folder, train_rows=1)
    assert line.startswith(f"{folder}/train.jsonl: 1 row of too few groups to set a fifth of them apart")
    assert line.endswith("; give 20 groups or more, or raise suite.train_rows")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"folder": 123}, "suite.folder=123: must be text"),
        ({"folder": ""}, "suite.folder='': must be text"),
        ({"task": None}, "suite.task=None: must be text"),
        ({"primary": ["a"]}, "suite.primary=['a']: must be text"),
        ({"message_field": None}, "suite.message_field=None: must be text"),
        ({"system": None}, "suite.system=None: must be text"),
        ({"asked": [1]}, "suite.asked=[1]: must be text"),
        ({"train_file": None}, "suite.train_file=None: must be the name of a file"),
        ({"eval_file": 5}, "suite.eval_file=5: must be the name of a file, or null"),
    ],
)
def test_a_key_that_is_no_text_is_told(folder: Path, change: dict[str, Any], line: str) -> None:
    assert told(**{"folder": folder, **change}) == [line]


def test_a_system_text_may_be_empty(folder: Path) -> None:
    assert read(folder, system="").system == ""


@pytest.mark.parametrize("limit", ["train_rows", "eval_rows"])
@pytest.mark.parametrize("value", [0, -1, "many", 1.5, True])
def test_a_limit_that_is_no_number_of_rows_is_told(folder: Path, limit: str, value: Any) -> None:
    (line,) = told(folder, **{limit: value})
    assert line == (
        f"suite.{limit}={value!r}: must be a whole number above 0, or null for all rows; profile.{limit} sets it too"
    )


@pytest.mark.parametrize("value", [0, -5, "x", None, 1.5, True])
def test_a_limit_of_tokens_that_is_none_is_told(folder: Path, value: Any) -> None:
    assert told(folder, max_new_tokens=value) == [f"suite.max_new_tokens={value!r}: must be a whole number, 1 or more"]


@pytest.mark.parametrize("value", [0, -0.5, 1.5, "abc", None, True, float("nan")])
def test_a_share_of_the_training_rows_that_is_none_is_told(folder: Path, value: Any) -> None:
    assert told(folder, train_share=value) == [f"suite.train_share={value!r}: must be a number above 0 and up to 1"]


def test_limits_take_the_first_rows(folder: Path) -> None:
    data = read(folder, train_rows=36, eval_rows=3)
    assert {r["id"] for r in (*data.train, *data.validation)} == {f"t{n}" for n in range(36)}
    assert [r["id"] for r in data.evaluation] == ["e0", "e1", "e2"]
    assert len(read(folder).evaluation) == 8


def test_the_split_is_by_group_and_does_not_follow_other_rows(folder: Path) -> None:
    """A row that changes sides when rows are added would have been trained on before it is validated with."""
    data = read(folder)
    sides = [{r["group"] for r in split} for split in (data.train, data.validation)]
    assert not sides[0] & sides[1]
    write(folder / "train.jsonl", [row(n) for n in reversed(range(2 * ROWS))])
    more = read(folder)
    for before, after in ((data.train, more.train), (data.validation, more.validation)):
        assert {r["id"] for r in before} <= {r["id"] for r in after}


def test_rows_without_a_group_are_split_by_their_id(folder: Path) -> None:
    write(folder / "train.jsonl", [row(n, group=None) for n in range(400)])
    data = read(folder)
    assert len(data.validation) / 400 == pytest.approx(0.2, abs=0.06)  # three standard deviations


def test_a_fifth_of_the_shipped_suite_is_held_out() -> None:
    shipped = {"train_rows": None, "instructions_file": "style_guide.md"}
    data = read("support_tone", **shipped)
    share = len(data.validation) / (len(data.train) + len(data.validation))
    assert share == pytest.approx(0.2, abs=0.04)
    assert not {r["group"] for r in data.train} & {r["group"] for r in data.validation}
    assert len(data.knowledge) >= 30


def test_scores_follow_instructions_that_scorers_read(folder: Path) -> None:
    (folder / "scorers.py").write_text("TEXT = open('guide.md').read()")
    before = read(folder)
    (folder / "guide.md").write_text("Greet last.")
    after = read(folder)
    assert before.evaluation_digest != after.evaluation_digest
    assert before.training_digest == after.training_digest


@pytest.mark.parametrize(
    ("change", "training", "evaluation", "scoring"),
    [
        (lambda f: write(f / "eval.jsonl", [row(n, "e") for n in range(9)]), False, True, False),
        (lambda f: write(f / "train.jsonl", [row(n) for n in range(ROWS + 2)]), True, False, False),
        (lambda f: write(f / "train.jsonl", [row(n, case="odd") for n in range(ROWS)]), False, False, False),
        (lambda f: write(f / "train.jsonl", [row(n, reply="No.") for n in range(ROWS)]), True, False, False),
        (lambda f: (f / "guide.md").write_text("Greet last."), False, False, False),
        (lambda f: (f / "scorers.py").write_text("def style(): ..."), False, True, True),
        (lambda f: (f / "task.yaml").write_text("task: other"), False, True, True),
        (lambda f: write(f / "kb.jsonl", [{"id": "a1", "title": "Returns", "text": "30 days."}]), True, True, False),
        (lambda f: (f / "_common.yaml").write_text("max_gen_toks: 7"), False, True, True),  # which the task may include
        (lambda f: (f / "words.txt").write_text("kind"), False, True, True),
        (lambda f: [(f / "lists").mkdir(), (f / "lists/words.bin").write_bytes(b"\xff")], False, True, True),
        (lambda f: (f / "card.md").write_text("Ours."), False, False, False),
        (lambda f: write(f / "hard.jsonl", [row(n, "h") for n in range(9)]), False, False, False),
        (lambda f: [(f / "__pycache__").mkdir(), (f / "__pycache__/x.pyc").write_bytes(b"\xff")], False, False, False),
    ],
)
def test_digests_follow_what_builds_and_scores_see(
    folder: Path, change: Callable[[Path], None], training: bool, evaluation: bool, scoring: bool
) -> None:
    before = read(folder)
    change(folder)
    after = read(folder)
    assert (before.training_digest != after.training_digest) is training
    assert (before.evaluation_digest != after.evaluation_digest) is evaluation
    assert (before.scoring_digest != after.scoring_digest) is scoring


def test_the_name_of_the_task_is_in_how_it_is_scored(folder: Path) -> None:
    one, other = read(folder), read(folder, task="other")
    assert one.training_digest == other.training_digest
    assert one.evaluation_digest != other.evaluation_digest
    assert one.scoring_digest != other.scoring_digest


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("train", 'open("train.jsonl")'),
        ("hard", 'open("hard.jsonl")'),
        ("hard", 'open(f"{it}.jsonl")'),
        ("de_words", 'open("%s_words.jsonl" % it)'),
        ("hard", 'open("train.jsonl"), HERE.glob("*.json*")'),
    ],
)
def test_training_rows_that_scorers_read_are_in_how_they_score(folder: Path, file: str, code: str) -> None:
    """Those beyond `train_rows` too: a label that stands in one of them is one that an answer may be. So are rows of
    another suite."""
    (folder / "scorers.py").write_text(f"LABELS = {code}")
    before = read(folder, train_rows=ROWS)
    write(folder / f"{file}.jsonl", [row(n) for n in range(ROWS + 1)])
    after = read(folder, train_rows=ROWS)
    assert before.training_digest == after.training_digest
    assert before.evaluation_digest != after.evaluation_digest
    assert before.scoring_digest != after.scoring_digest


def test_the_same_files_elsewhere_are_the_same_suite(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("elsewhere")
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    assert replace(read(other), folder=folder) == read(folder)


def test_every_key_that_a_suite_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        load(Component("small", "", {"folder": str(tmp_path), "task": "small", "primary": "style"}))
    assert len(refused.value.mistakes) == 11
    assert "suite small: train_file is missing; see conf/suite/ticket_routing.yaml" in refused.value.mistakes
