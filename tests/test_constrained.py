"""Answers that keep to a grammar: what is allowed, by both engines, whether they are scored or timed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.engine import constrained
from harness.engine.eager import Eager
from harness.engine.graph import Graph, GraphSession
from harness.errors import UserError
from tests.test_engine import CONTEXT, PROMPTS, tokenizer
from tests.test_graph import MODELS, longer, saved

CHOICES = 'start: "yes" | "no" | "perhaps"'
SCHEMA = (
    '{"type": "object", "properties": {"n": {"enum": [12, 345]}}, "required": ["n"], "additionalProperties": false}'
)
ANYTHING = "start: /(.|\\n)*/"
LETTERS = "start: /[a-z]{3}( [a-z]{3,9})*/"

Made = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of more logits than its tokenizer has tokens."""
    config, model, rest = MODELS["llama"]
    return saved(tmp_path_factory.mktemp("model"), config, model, {**rest, "vocab_size": 100})


def start(engine: Made, folder: Path, output: str, **knobs: Any) -> Any:
    return engine(constrained=True, **knobs).start(folder, CONTEXT, output=output)


@pytest.mark.parametrize(
    ("engine", "knobs"),
    [
        (Eager, {}), (Eager, {"batch_size": 1}), (Eager, {"min_prefix": 0}), (Eager, {"compact_below": 1.01}),
        (Graph, {}), (Graph, {"batch_size": 3}), (Graph, {"min_prefix": 0}),
    ],
)  # fmt: skip
def test_answers_keep_to_their_grammar(folder: Path, engine: Made, knobs: dict[str, Any]) -> None:
    made = start(engine, folder, CHOICES, **knobs).generate(PROMPTS, 24)
    assert all(c.text in ("yes", "no", "perhaps") and c.finished for c in made), made
    assert {c.text for c in start(engine, folder, SCHEMA, **knobs).generate(PROMPTS, 24)} <= {'{"n":12}', '{"n":345}'}


@pytest.mark.parametrize("engine", [Eager, Graph])
def test_the_likeliest_of_what_is_allowed_is_chosen(folder: Path, engine: Made) -> None:
    free = engine().start(folder, CONTEXT, output=CHOICES).generate(longer(), 24)
    assert [c.text for c in start(engine, folder, "").generate(longer(), 24)] == [c.text for c in free]
    known = [c for c in free if c.tokens == len(c.text)]  # those without a token that the tokenizer does not have
    assert len(known) > 3
    held = start(engine, folder, ANYTHING).generate(longer(), 24)
    assert [h for h, c in zip(held, free, strict=True) if c in known] == known


@pytest.mark.parametrize("knobs", [{}, {"temperature": 0.8, "top_p": 0.9}])
def test_both_engines_give_the_same_answers_at_any_batch_size(folder: Path, knobs: dict[str, Any]) -> None:
    told = start(Eager, folder, LETTERS, batch_size=32, **knobs).generate(longer(), 60)
    assert len({c.text for c in told}) > len(told) / 2
    for batch in (1, 3, 32):
        session = start(Graph, folder, LETTERS, batch_size=batch, **knobs)
        assert isinstance(session, GraphSession)
        assert session.generate(longer(), 60) == told
        assert session.generate(longer()[::-1], 60)[::-1] == told or knobs, "slots that held other answers"


@pytest.mark.parametrize("engine", [Eager, Graph])
def test_what_is_timed_goes_on_where_an_answer_ends(
    folder: Path, engine: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its grammar then begins again: each token asks the host what is allowed, as where an answer is long."""
    session = start(engine, folder, 'start: "no"')
    seen: list[int] = []
    allowed = constrained.Grammar.allowed

    def noted(self: Any, answers: Any) -> Any:
        seen.append(sum(answer is not None for answer in answers))
        return allowed(self, answers)

    monkeypatch.setattr(constrained.Grammar, "allowed", noted)
    assert len(session.time_tokens(PROMPTS[0], 8)) == 8
    assert seen.count(1) == 8
    assert len(session.time_tokens(PROMPTS[0], 8, natural=True)) == 3, "n, o and the stop token"
    seen.clear()
    assert len(session.time_batch(PROMPTS[:2], 5)) == 5
    assert seen.count(2) >= 4
    if engine is Graph:
        (served,) = session.serve(PROMPTS[:1], 7, clients=1)
        assert session.tokenizer.decode(served.tokens) == "no<eos>no<eos>n"


@pytest.mark.parametrize("engine", [Eager, Graph])
def test_an_answer_cut_off_is_told_as_unfinished(folder: Path, engine: Made) -> None:
    (made,) = start(engine, folder, 'start: "perhaps"').generate(PROMPTS[:1], 2)
    assert (made.text, made.finished) == ("pe", False)


def test_a_model_that_names_no_end_is_told() -> None:
    with pytest.raises(UserError, match="names no token that ends an answer"):
        constrained.Grammar(tokenizer(), [], 'start: "a"')


def test_a_grammar_too_much_for_its_matcher_is_told() -> None:
    """Each letter may belong to the rest in ever more ways; past its limit a matcher allows the end alone."""
    grammar = constrained.Grammar(tokenizer(), [0], 'start: s\ns: s s | s s s | s s s s s | "a" | "b"')
    answer = grammar.begin()
    (a,) = tokenizer()("a").input_ids
    for _ in range(200):
        grammar.follow(answer, a)
    with pytest.raises(UserError, match=r"^the suite's output grammar: .*max is 2000.*; make it simpler$"):
        grammar.follow(answer, a)


@pytest.mark.parametrize("output", ['{"type": 7}', "start: nothing"])
def test_a_bad_grammar_is_told_without_a_model(output: str) -> None:
    assert len(constrained.mistakes(output)) == 1
    assert constrained.mistakes('start: "yes"') == constrained.mistakes('{"type": "string"}') == []
