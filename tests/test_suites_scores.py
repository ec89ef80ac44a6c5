"""What the task and the scorers of a suite say of answers: words, labels, JSON, choices, any task of lm-eval."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import UserError
from harness.measure import quality
from harness.resources import resource
from harness.suite import load
from harness.suites.check import check, config_of
from harness.suites.faults import faults_of_score, faults_of_task, forbidden
from harness.suites.shape import folded, misspelt
from harness.types import Completion, Context, SuiteData
from tests.grids import TINY, harness, run_folder
from tests.own_tables import LABELS, NAMES, lines, main, rows_of, table
from tests.suites.loading import scorers_of

pytestmark = pytest.mark.usefixtures("elsewhere")


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


def test_canned_replies_are_labels_that_pass_their_own_check() -> None:
    canned = ('"Refund sent."', "Please call us.", "`See the manual`")
    lines([{"message": f"Ticket {i * 7919}", "reply": canned[i % 3]} for i in range(90)])
    assert main(["new", "canned", "--from", "rows.jsonl"]) == 0
    assert main(["check", "canned"]) == 0


def test_a_task_that_cannot_be_asked_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    task, rows = Path("suites/mine/task.yaml"), Path("suites/mine/eval.jsonl")
    whole, held = task.read_text(), rows.read_text()
    first = json.loads(held.split("\n")[0])["id"]
    timed = [json.dumps({**json.loads(x), "seen": n or "late"}) + "\n" for n, x in enumerate(held.splitlines())]
    for text, held_out, override, told in (
        (whole.replace("metric_list:", "metric_list: ["), held, "", "task.yaml: lm-eval cannot read it (ParserError: "),
        (whole.replace("_text: message", '_text: "{{question}}"'), held, "", "'question' is undefined); mend it"),
        (whole, held, "suite.task=nope", "task.yaml: has no task 'nope'; its first key is `task: nope`, or set suite."),
        (whole, "".join(timed), "", f" seen is 1, and of another type in row {first!r}; write it alike in all rows"),
    ):
        task.write_text(text)
        rows.write_text(held_out)
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
    assert "mistake: suite.primary=exact: is 2 for the reference reply of row 'row-" in told
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
    by_place = whole.replace("target: reply", f'target: "{{{{ {sorted(LABELS)}.index(reply) }}}}"')
    head = whole.partition("metric_list")[0]
    listed = f"def listed(rows):\n    return rows.map(lambda row: {{**row, 'choices': {list(LABELS)}}})\n"
    scorers.write_text(scorers.read_text().replace("def process_results", "def other") + listed)
    config.write_text(config.read_text().replace("primary: accuracy", "primary: acc"))
    for text, told in (
        (whole, ""),
        (whole.replace("target: reply", "target: id"), "task.yaml: no choice is right for row 'row-"),
        (by_place, "task.yaml: the choice "),
        (whole.replace("acc_norm, aggregation: mean", "f1, aggregation: f1"), "the aggregation of f1 fails on what "),
        (re.sub("choice: .*", "choice: choices\nprocess_docs: !function scorers.listed", whole), ""),
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
    held = Path("suites/mine/eval.jsonl")
    first = json.loads(held.read_text().partition("\n")[0])
    held.write_text(held.read_text().replace(json.dumps(first["message"]), '"0042"'))
    told = (
        f"task.yaml: lm-eval reads the message of row {first['id']!r} (1 such), of digits alone, as the place of a "
        "choice; name the field alone, `doc_to_text: message`"
    )
    for text, code in ((whole, 2), (whole.replace('"{{message}}"', "message"), 0)):
        task.write_text(text)
        capsys.readouterr()
        assert main(["check", "mine"]) == code
        assert (told in capsys.readouterr().err) == (code == 2)


@pytest.mark.parametrize(
    ("added", "code", "told"),
    [
        (
            "  until: [' do']",
            2,
            ["its own reference reply, which the task ends at ' do' (its generation_kwargs: until)"],
        ),
        (
            "  until: []\n  do_sample: true\n  max_gen_toks: 7\nfilter_list:\n"
            "  - {name: strict, filter: [{function: regex, regex_pattern: 'er ([0-9]+)'}, {function: take_first}]}\n"
            "  - {name: loose, filter: [{function: take_first}]}",
            0,
            [
                "task.yaml: do_sample and temperature are passed over: a grid draws tokens as engine.temperature says",
                "task.yaml: max_gen_toks is passed over: answers end at suite.max_new_tokens=",
                "task.yaml: of its filters the first alone is scored by, not loose; put the right one first",
            ],
        ),
        (
            "  until: []\n  max_gen_toks: '7'\nrepeats: 8\nfilter_list:\n  - name: vote\n    filter: "
            "[{function: take_first_k, k: 8}, {function: majority_vote}, {function: take_first}]",
            0,
            [],
        ),
    ],
)
def test_a_reply_is_ended_and_filtered_before_it_is_scored(
    added: str, code: int, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    task, scorers = Path("suites/mine/task.yaml"), Path("suites/mine/scorers.py")
    task.write_text(re.sub("(?m)^  (until|do_sample|max_gen_toks): .*\n", "", task.read_text()).replace(
        "generation_kwargs:", f"generation_kwargs:\n{added}"))  # fmt: skip
    if "regex" in added:
        scorers.write_text(scorers.read_text().replace("words(said) == words(wanted)", "f'{said}:' in wanted.split()"))
    assert main(["check", "mine"]) == code
    err = capsys.readouterr().err
    assert all(line in err for line in told), err


def test_the_scores_of_a_suite_are_those_of_its_own_task() -> None:
    """Not those of another file in its folder. One that is no number a row is told of lm-eval's own too."""
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    Path("suites/mine/choices.yaml").write_text(CHOICES)
    told = "policy.metric=acc: no score of mine; it has exact, word_f1"
    data, task = load(config_of("mine")), Path("suites/mine/task.yaml")
    assert faults_of_score(data, "acc", "policy.metric") == [told]
    head = re.sub("process_results.*\n", "", task.read_text()).partition("metric_list")[0]
    task.write_text(f"{head}metric_list:\n  - {{metric: bleu, aggregation: bleu, higher_is_better: true}}\n")
    (told,) = faults_of_score(data, "bleu", "policy.metric")
    assert told.startswith("policy.metric=bleu: is no number a row, so cells cannot be paired; have ")


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
    Path("suites/mine/answer.lark").write_text('start: "Answer 8: do that."')
    done = harness(tmp_path, *arguments, "suite.output_file=answer.lark", "--dry-run")
    assert done.returncode == 0
    assert "answer.lark: does not allow the reply 'Answer " in done.stdout


OBJECT = {
    "type": "object", "properties": {"n": {"type": "integer", "maximum": 58}, "on": {"format": "date"}},
    "required": ["n"], "additionalProperties": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("output", "replies", "row"),
    [
        ('start: /[0-9]+/ " days"', ["3 days", " 12 days\n"], None),
        ('start: /[0-9]+/ " days"', ["3 days", "three days"], 1),
        ('start: "3 days" <|im_end|>', ["three days"], None),  # what no tokenizer of bytes alone can follow
        (json.dumps(OBJECT), ['{"n":7,"on":"2026-01-02"}', '{"on": "2026-01-02", "n": 7}'], None),
        (json.dumps(OBJECT), ['{"n":7}', '{"n":59}'], 1),
        (json.dumps(OBJECT), ['{"n":7}', '{"n":7,"m":0}'], 1),
        (json.dumps(OBJECT), ['{"n":7}', '{"n":7,"on":"May"}'], 1),
        (json.dumps(OBJECT), ["seven"], 0),
        (json.dumps({**OBJECT, "x-guidance": {"whitespace_flexible": True}}), ['{ "n" : 7 }'], None),
    ],
)
def test_a_reply_that_the_grammar_forbids_is_told(output: str, replies: list[str], row: int | None) -> None:
    assert main(["new", "mine", "--from", str(table()), *NAMES]) == 0
    data, suite = replace(load(config_of("mine")), output=output), config_of("mine")
    suite = replace(suite, params={**suite.params, "output_file": "answer"})
    made = [{**one, "id": f"r{n}", "reply": replies[n % len(replies)]} for n, one in enumerate(data.evaluation)]
    told = forbidden(replace(data, train=(), validation=(), evaluation=tuple(made)), suite)
    assert len(told) == int(row is not None)
    if row is not None:
        n = len(made[row :: len(replies)])
        assert f"suites/mine/answer: does not allow the reply {replies[row]!r} of row 'r{row}' ({n} such); w" in told[0]
        right = [{**one, "references": [one["reply"], replies[0]]} for one in made[1:]]
        assert bool(forbidden(replace(data, train=(), validation=(), evaluation=tuple(right)), suite)) == (row == 0)
        assert forbidden(replace(data, train=tuple(made), validation=(), evaluation=tuple(right)), suite)


@pytest.mark.parametrize("name", ["tool_json", "ticket_routing"])
def test_the_grammars_of_suites_allow_their_replies(name: str) -> None:
    suite = config_of(name)
    data = load(suite)
    assert data.output
    assert forbidden(data, suite) == []


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
    assert not any("references" in row for row in rows)
    first, *others = data.evaluation
    several = {**first, "references": [first["reply"], "Do that."]}
    row, *_ = scored(replace(data, evaluation=(several, *others)), tmp_path, monkeypatch)
    assert (row["reference"], row["references"]) == (first["reply"], [first["reply"], "Do that."])
    path, last = Path("suites/mine/scorers.py"), data.evaluation[-1]["id"]
    path.write_text(path.read_text().replace("int(words(said)", f"1 / (doc['id'] != {last!r}) * int(words(said)"))
    told = f"raise ZeroDivisionError: division by zero on row {last!r}, answered 'Answer 7: do that.'; mend them"
    with pytest.raises(UserError, match=re.escape(told)):
        scored(data, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("exact", "told"),
    [
        ("1 / bool(said)", "scorers.py: raises ZeroDivisionError: division by zero on an empty reply to row 'row-"),
        (
            "int(said == wanted) if said != 'x' else 1 / 0",
            "scorers.py: raises ZeroDivisionError: division by zero on the reply 'x' to",
        ),
        ("1.0 if said == wanted else float('nan')", "scorers.py: exact is nan on another row's reply to row 'row-"),
        ("1 if said == wanted else None", "scorers.py: exact is None on an empty reply to row 'row-"),
        ("1 if said == wanted else -1", "scorers.py: exact is -1 on an empty reply to row 'row-"),
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


@pytest.mark.parametrize(("one", "other", "same"), [("1", "1.0", True), ("01", "1", False), ("1.1", "1.10", False)])
def test_numbers_are_one_label_where_they_are_one_whole_number(one: str, other: str, same: bool) -> None:
    """Though 1.10 is a version of its own, and 01 a code."""
    assert (folded(one) == folded(other)) == same
    assert len(misspelt([("row 2", one), ("row 3", other)])) == int(same)


@pytest.mark.parametrize(
    ("was", "becomes", "n"),
    [
        ("_text: message", '_text: "Ticket: {{message}}\\nWhich label?"', 30),
        ("test_split: test", "test_split: test\ndescription: 'Answer tersely.\n\n  '", 30),
        ("test_split: test", "test_split: test\nnum_fewshot: 2", 30),
        ("test_split: test", 'test_split: test\ngen_prefix: "Answer:"', 30),
        ("_text: message", "_text: \"{{message | replace('  ', ' ')}}\"", 1),
        ("_text: message", '_text: "{{message}}"', 0),
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
