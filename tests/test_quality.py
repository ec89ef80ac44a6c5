"""What stands beside a score is what was scored."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api import metrics

from harness.errors import BrokenArtifact
from harness.measure.fidelity import REFERENCE, fidelity
from harness.measure.quality import _language_model, _row, keys_of, summarize, task_of
from harness.prompt import Recipe
from harness.types import Completion
from tests.cells import suite_data
from tests.test_engine import CONTEXT, tokenizer


class Answers:
    """A session that answers each row in its own way, whatever is asked, and finds choices as likely as it is told."""

    tokenizer = tokenizer()

    def __init__(self, *chances: float) -> None:
        self.chances = chances

    def generate(
        self, prompts: Sequence[str], limit: int, progress: Callable[[int], None], ends: Sequence[str],
        keys: Sequence[int],
    ) -> list[Completion]:  # fmt: skip
        self.keys = keys
        return [Completion(f"answer {n}!and more", 40, False) for n in range(len(prompts))]

    def loglikelihood(
        self, pairs: Sequence[tuple[str, str]], progress: Callable[[int], None]
    ) -> list[tuple[float, bool]]:
        self.asked = [continuation for _, continuation in pairs]
        return [(chance, False) for chance in self.chances]


def asked(tmp_path: Path, session: Any) -> tuple[Any, dict[int, tuple[str, Completion]]]:
    Recipe("Be kind.", (), (), "none", 1).save(tmp_path)
    kept: dict[int, tuple[str, Completion]] = {}
    return _language_model(session, tmp_path, suite_data(), CONTEXT, kept), kept


def request(row: int, message: str, other: Any) -> Any:
    return SimpleNamespace(doc_id=row, doc={"id": f"row {row}"}, args=(message, other))


@pytest.mark.parametrize(
    ("until", "text", "tokens"),
    [(["!", "!"], "answer {}", 39), (["!", "!a"], "answer {}", 8), (["?", "?"], "answer {}!and more", 40)],
)
def test_rows_that_ask_the_same_keep_their_own_answers(
    tmp_path: Path, until: list[str], text: str, tokens: int
) -> None:
    """Ended where the task says, they are as long as what was made of them, the last token not counted; cut where each
    row says for itself, as long as what is left of them."""
    model, kept = asked(tmp_path, Answers())
    told = model.generate_until(
        [request(row, "Why?", {"until": [end]}) for row, end in zip((4, 2), until, strict=True)]
    )
    assert told == [text.format(n) for n in range(2)]
    assert model.cut == (2 if until[0] == "!" else 0)
    assert [kept[row][1] for row in (4, 2)] == [Completion(t, tokens, until[0] == "!") for t in told]


def test_a_row_is_drawn_by_its_name_whatever_stands_beside_it(tmp_path: Path) -> None:
    session = Answers()
    model, kept = asked(tmp_path, session)

    def keys(*rows: int) -> list[int]:
        model.generate_until([request(row, "Why?", {"until": "!"}) for row in rows])
        return list(session.keys)

    first, other, again = keys(4, 2, 4)
    assert {row: made.text for row, (_, made) in kept.items()} == {4: "answer 0", 2: "answer 1"}, "of draws the first"
    assert model.cut == 2
    assert keys(2, 7, 4)[::2] == [other, first]
    assert len({first, other, again, *keys_of(["doc-4"])}) == 4
    assert all(0 <= key < 2**63 for key in (first, other, again))


def test_the_likeliest_choice_of_each_row_is_kept(tmp_path: Path) -> None:
    """Of choices that cannot be answered, the first. A model without a template too is asked for what it was trained to
    say, which has no space before it."""
    session = Answers(-3.0, -2.0, -1.0, -4.0, -math.inf, -math.inf)
    model, kept = asked(tmp_path, session)
    model.loglikelihood([request(n // 2, "Why?", f" {n}") for n in range(6)])
    assert session.asked == list("012345")
    assert {row: made.text for row, (_, made) in kept.items()} == {0: "1", 1: "2", 2: "4"}


def test_a_scorer_gets_each_row_as_it_stands() -> None:
    """Without what other rows have beside it; objects and lists within rows keep what they hold."""
    rows = (
        {"id": "a", "message": "Which?", "reply": "1", "wanted": {"city": "Oslo", "class": "first"}, "all": [1, 2]},
        {"id": "b", "message": "What?", "reply": "2", "wanted": {"city": "Rome", "seats": 1}, "all": [0.5], "odd": "x"},
    )
    task, _ = task_of(suite_data(folder=Path("suites/tool_json"), evaluation=rows), "tool_json")
    given = list(task.eval_docs)
    assert given == list(rows)
    assert [type(n) for n in given[0]["all"]] == [int, int]
    given[1]["wanted"].clear()
    assert rows[1]["wanted"], "what a scorer does to its row stays there"


@pytest.mark.parametrize(
    ("items", "aggregation", "value", "method", "unit"),
    [
        ([1.0, 0.0, 1.0, 1.0], metrics.mean, 0.75, "wilson", "share"),
        ([True, False, True, True], metrics.mean, 0.75, "wilson", "share"),
        ([-0.5, -6.0], metrics.perplexity, math.exp(3.25), "bootstrap", "points"),
        ([0.2, math.nan, 0.4], metrics.nanmean, 0.3, "bootstrap", "share"),
        ([0.1, 0.1, 0.7], median, 0.1, "bootstrap", "share"),
        ([20.0, 30.0], metrics.mean, 25.0, "bootstrap", "points"),
        ([0, 2, 0, 0], metrics.mean, 0.5, "bootstrap", "points"),
        ([(-3.0, 10), (-2.0, 10)], metrics.bits_per_byte, 0.25 / math.log(2), "bootstrap", "points"),
        ([[1, 1], [0, 1], [1, 1]], lambda pairs: fmean(a == b for a, b in pairs), 2 / 3, "bootstrap", "share"),
    ],
)
def test_a_score_is_what_its_own_aggregation_says(
    items: list[Any], aggregation: Callable[[list[Any]], float], value: float, method: str, unit: str
) -> None:
    rows = [{"id": str(n), "group": None, "scores": {"x": item}} for n, item in enumerate(items)]
    (found,) = summarize(rows, {"x": aggregation}, {})
    assert found.value == pytest.approx(value)
    assert found.unit == unit
    assert found.interval is not None
    assert found.interval.method == method
    assert found.interval.low <= value <= found.interval.high


def test_what_no_draw_of_rows_changes_has_no_interval() -> None:
    """The accuracy of such rows has one of 0 to some 40%, and so it would be of their macro-F1."""
    rows = [{"id": str(n), "group": None, "scores": {"macro_f1": [f"class {n}", "none"]}} for n in range(5)]
    (found,) = summarize(rows, {"macro_f1": lambda pairs: sum(true == guess for true, guess in pairs)}, {})
    assert (found.value, found.interval) == (0, None)


def test_rows_of_one_group_say_nothing_of_a_score_that_is_no_mean() -> None:
    rows = [{"id": str(n), "group": "a", "scores": {"f1": n**2 / 81}} for n in range(9)]
    (found,) = summarize(rows, {"f1": median}, {})
    assert found.value == pytest.approx(16 / 81)
    assert found.interval is None


def test_numbers_of_numpy_are_numbers() -> None:
    scores = {"bool": np.array([True]).all(), "float": np.float32(0.5), "int": np.int64(3), "pair": (1, np.zeros(2))}
    sample = {"doc": {"id": "a"}, "doc_id": 0, "arguments": [("Why?", {})], "metrics": list(scores), **scores}
    row = _row(sample, "prompt", Completion("yes", 1, True), {}, "reply")
    assert json.loads(json.dumps(row))["scores"] == {"bool": True, "float": 0.5, "int": 3, "pair": [1, [0.0, 0.0]]}


@pytest.mark.parametrize(("dtype", "logit"), [("float16", math.nan), ("float16", 0.0), ("float32", math.nan)])
def test_what_leaves_the_range_of_float16_is_told_so(tmp_path: Path, dtype: str, logit: float) -> None:
    reference = {"rows": [{"input_ids": [1, 2], "labels": [-100, 2]}], "loss": 0.1, "best": [[2]]}
    (tmp_path / REFERENCE).write_text(json.dumps(reference))

    class Model:
        device = "cpu"

        def __init__(self) -> None:
            self.dtype = getattr(torch, dtype)

        def __call__(self, **_: Any) -> Any:
            return SimpleNamespace(logits=torch.full((1, 2, 9), logit))

    with pytest.raises(BrokenArtifact, match=r"^broken against its parent: ") as told:
        fidelity(Model(), tmp_path)
    assert ("range of float16: take quantization=bf16" in str(told.value)) == (dtype == "float16" and logit != 0)
