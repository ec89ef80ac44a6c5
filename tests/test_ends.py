"""An answer goes no further than a text that ends it, in every engine and every way to ask."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harness.engine.eager import Eager, EagerSession
from harness.engine.ends import Ends
from harness.engine.graph import Graph, GraphSession
from harness.measure.latency import measure
from harness.types import Completion
from tests.test_engine import CONTEXT, PROMPTS
from tests.test_graph import MODELS, saved

TOKENS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"), *MODELS["llama"])


@pytest.mark.parametrize("engine", [Eager, Graph])
@pytest.mark.parametrize("batch", [1, 4])
def test_an_answer_goes_no_further_than_the_text_that_ends_it(folder: Path, engine: Any, batch: int) -> None:
    """A character is a token here. Other answers, and what is timed at a fixed length, go on."""
    session = engine(batch_size=batch).start(folder, CONTEXT)
    whole = session.generate(PROMPTS, TOKENS)
    end = whole[1].text[7:10]
    at = [c.text.find(end) for c in whole]
    assert at[1] >= 0
    assert min(at) < 0, "one answer must not hold it"
    cut = [
        Completion(c.text[: n + 3], n + 3, True) if n >= 0 else c for c, n in zip(whole, at, strict=True)
    ]  # fmt: skip
    assert session.generate(PROMPTS, TOKENS, ends=["never", end]) == cut
    assert session.generate(PROMPTS, TOKENS, ends=["", "never"]) == whole
    assert len(session.time_tokens(PROMPTS[1], TOKENS, True, [end])) == at[1] + 3
    assert len(session.time_tokens(PROMPTS[1], TOKENS, False, [end])) == TOKENS
    assert isinstance(session, GraphSession if engine is Graph else EagerSession)
    if isinstance(session, GraphSession):
        served = session.serve(PROMPTS, TOKENS, 4, natural=True, ends=[end])
        assert [len(s.tokens) for s in served] == [c.tokens for c in cut]
        assert [s.finished for s in served] == [c.finished for c in cut]
        assert {len(s.tokens) for s in session.serve(PROMPTS, TOKENS, 4, ends=[end])} == {TOKENS}


@pytest.mark.parametrize("engine", [Eager, Graph])
def test_a_text_that_is_a_special_token_ends_an_answer_too(folder: Path, tmp_path: Path, engine: Any) -> None:
    """As a stop token does, which no text holds. What a tokenizer does not know is none of its tokens."""
    session = engine(batch_size=4).start(folder, CONTEXT)
    whole = session.generate(PROMPTS, TOKENS)
    end = next(c for c in whole[1].text[5:] if any(c not in other.text for other in whole))
    session.tokenizer.add_special_tokens({"additional_special_tokens": [end]})
    session.tokenizer.unk_token = end
    at = [c.text.find(end) for c in whole]
    assert max(at) > 0 > min(at)
    held = [Completion(c.text.replace(end, ""), c.tokens, c.finished) for c in whole]
    cut = [Completion(h.text[:n], n, True) if n >= 0 else h for h, n in zip(held, at, strict=True)]
    assert session.generate(PROMPTS, TOKENS, ends=["never"]) == held
    assert session.generate(PROMPTS, TOKENS, ends=["never", end]) == cut
    assert len(session.time_tokens(PROMPTS[1], TOKENS, True, [end])) == at[1] + 1
    assert len(session.time_tokens(PROMPTS[1], TOKENS, False, [end])) == TOKENS
    if isinstance(session, GraphSession):
        served = session.serve(PROMPTS, TOKENS, 4, natural=True, ends=[end])
        assert [(len(s.tokens), s.finished) for s in served] == [(c.tokens, c.finished) for c in cut]


def test_what_is_timed_to_its_own_end_is_as_long_as_what_is_scored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.measure.latency.prompts_of", lambda *_: PROMPTS)
    session = Graph(batch_size=4).start(folder, CONTEXT)
    assert isinstance(session, GraphSession)
    end = session.generate(PROMPTS, TOKENS)[1].text[7:10]
    scored = session.generate(PROMPTS, TOKENS, ends=[end])
    asked: list[int] = []
    alone = session.time_tokens

    def noted(*arguments: Any, **rest: Any) -> list[float]:
        times = alone(*arguments, **rest)
        asked.extend([len(times)] if rest.get("natural") else [])
        return times

    monkeypatch.setattr(session, "time_tokens", noted)
    knobs = {
        "requests": 1, "warmup": 1, "warmup_most": 1, "output_tokens": 3, "natural_requests": 4, "batch_size": 4,
        "batch_tokens": 2, "clients": [4], "requests_per_client": 1, "precision": 1.0, "open_requests": 4,
        "own_ends": True, "ends": [end], "level": {"ttft_ms": 1e3, "token_ms": 9000.0, "share": 0.01},
    }  # fmt: skip
    found, _ = measure(session, tmp_path, SimpleNamespace(max_new_tokens=TOKENS), knobs, CONTEXT)  # type: ignore[arg-type]
    lengths = [c.tokens + (c.finished and end not in c.text) for c in scored]  # a stop token takes its time too
    assert asked == lengths
    rate = {m.metric: m.value for m in found if m.metric.startswith("natural_4/")}
    mean = rate["natural_4/tokens_per_s"] / rate["natural_4/requests_per_s"]
    assert mean == pytest.approx(sum(lengths) / len(lengths))


def bytewise() -> PreTrainedTokenizerFast:
    """A token a byte."""
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def spaced() -> PreTrainedTokenizerFast:
    """Words that hold the space before them, which the first of a text loses."""
    made = Tokenizer(models.WordLevel({"▁So": 0, "▁it": 1, "▁is": 2, "▁": 3, "?": 4}, unk_token="?"))
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize(
    ("made", "tokens", "end"),
    [
        (bytewise(), bytewise()("Zoë, wait").input_ids, "ë"),
        (bytewise(), bytewise()("one\n\ntwo").input_ids, "\n\n"),
        (spaced(), [0, 1, 2, 4], " is"),
        (spaced(), [0, 1, 3, 4], "it "),
    ],
)
def test_the_token_that_completes_a_text_is_told(made: PreTrainedTokenizerFast, tokens: list[int], end: str) -> None:
    """Also where several make one of its characters, or it ends in a space that a token alone would lose."""
    ends = Ends(made, [end])
    told = [ends.reached(tokens[:n]) for n in range(1, len(tokens) + 1)]
    holds = [end in made.decode(tokens[:n]) for n in range(1, len(tokens) + 1)]
    assert any(holds)
    assert told.index(True) == holds.index(True)
