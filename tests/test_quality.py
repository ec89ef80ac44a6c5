"""What stands beside a score is what was scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.measure.quality import _language_model
from harness.prompt import Recipe
from harness.types import Completion
from tests.cells import suite_data
from tests.test_engine import CONTEXT, tokenizer


class Answers:
    """A session that answers each row in its own way, whatever is asked, and finds choices as likely as it is told."""

    tokenizer = tokenizer()

    def __init__(self, *chances: float) -> None:
        self.chances = chances

    def generate(self, prompts: Sequence[str], limit: int, progress: Callable[[int], None]) -> list[Completion]:
        return [Completion(f"answer {n}!and more", 40, False) for n in range(len(prompts))]

    def loglikelihood(
        self, pairs: Sequence[tuple[str, str]], progress: Callable[[int], None]
    ) -> list[tuple[float, bool]]:
        return [(chance, False) for chance in self.chances]


def asked(tmp_path: Path, session: Any) -> tuple[Any, dict[int, tuple[str, Completion]]]:
    Recipe("Be kind.", (), (), "none", 1).save(tmp_path)
    kept: dict[int, tuple[str, Completion]] = {}
    return _language_model(session, tmp_path, suite_data(), CONTEXT, kept), kept


def request(row: int, message: str, other: Any) -> Any:
    return SimpleNamespace(doc_id=row, args=(message, other))


@pytest.mark.parametrize(("until", "text", "tokens"), [("!", "answer {}", 8), ("?", "answer {}!and more", 40)])
def test_rows_that_ask_the_same_keep_their_own_answers(tmp_path: Path, until: str, text: str, tokens: int) -> None:
    """Cut where the task says, they are as long as what is left of them."""
    model, kept = asked(tmp_path, Answers())
    told = model.generate_until([request(row, "Why?", {"until": [until]}) for row in (4, 2)])
    assert told == [text.format(n) for n in range(2)]
    assert [kept[row][1] for row in (4, 2)] == [Completion(t, tokens, until == "!") for t in told]


def test_the_likeliest_choice_of_each_row_is_kept(tmp_path: Path) -> None:
    """Of choices that cannot be answered, the first."""
    model, kept = asked(tmp_path, Answers(-3.0, -2.0, -1.0, -4.0, -math.inf, -math.inf))
    model.loglikelihood([request(n // 2, "Why?", f" {n}") for n in range(6)])
    assert {row: made.text for row, (_, made) in kept.items()} == {0: "1", 1: "2", 2: "4"}
