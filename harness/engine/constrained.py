"""Constrained decoding: only tokens that keep an answer within a suite's JSON Schema or grammar may be chosen.

The masks come from llguidance (Microsoft, MIT), which follows a grammar token by token. An answer that reaches its
limit of tokens is still cut off in the middle: constraining makes an answer well-formed, not short, and not right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import UserError

BITS = 32  # of a word of a mask


def mistakes(output: str) -> list[str]:
    """What is wrong with a grammar, seen without a model. JSON Schema where the text is JSON, else Lark."""
    from llguidance import LLMatcher

    try:
        found = LLMatcher.validate_grammar(compiled(output))
    except ValueError as error:
        found = str(error)
    return [str(found).split("\n")[0]] if found else []


def compiled(output: str) -> str:
    """A JSON Schema or a Lark grammar in llguidance's own form. JSON is written without white space, as references."""
    from llguidance import LLMatcher

    if output.lstrip().startswith("{"):
        return str(LLMatcher.grammar_from_json_schema(output, {"whitespace_flexible": False}))
    return str(LLMatcher.grammar_from_lark(output))


class Grammar:
    """An output grammar over the vocabulary of a tokenizer, both compiled once; `begin` starts an answer."""

    def __init__(self, tokenizer: Any, stops: Sequence[int], output: str) -> None:
        import llguidance.hf
        from llguidance import LLExecutor, LLMatcher

        if not stops:
            raise UserError(
                "engine.constrained: this model names no token that ends an answer, and a grammar says when one has "
                "ended; give its tokenizer an eos_token, or set engine.constrained=false"
            )
        self._stops = frozenset(stops)
        vocabulary = llguidance.hf.from_tokenizer(tokenizer, eos_token=list(stops))
        self._words = -(-vocabulary.vocab_size // BITS)
        self._executor = LLExecutor()
        self._first = LLMatcher(vocabulary, compiled(output))
        if self._first.is_error():
            raise ValueError(f"the suite's output grammar: {self._first.get_error()}")

    def begin(self) -> Any:
        """A matcher at the start of an answer, for `follow` and `allowed`."""
        return self._first.deep_copy()

    def allowed(self, answers: Sequence[Any]) -> Any:
        """Which tokens may come next in each answer, as bits [answers, words] in int32 on the host, those of the first
        tokens lowest; any where there is no matcher (None). Of a complete answer only the stop tokens are left."""
        import torch
        from llguidance.numpy import fill_next_token_bitmask_par

        bits = torch.full((len(answers), self._words), -1, dtype=torch.int32, pin_memory=torch.cuda.is_available())
        asked = [(answer, at) for at, answer in enumerate(answers) if answer is not None]
        if asked:
            fill_next_token_bitmask_par(self._executor, asked, bits.numpy())
        return bits

    def follow(self, answer: Any, token: int) -> None:
        """Takes an answer's matcher past a token. Past a stop token it is at the start again: what is timed goes on.
        Raises `UserError` where the grammar is too much for it: from then on it would allow the answer's end alone."""
        if not answer.consume_token(token):
            why = answer.get_error().splitlines()[0]  # then comes its whole state
            raise UserError(f"the suite's output grammar: {why}; make it simpler")
        if token in self._stops:
            answer.reset()


def forbid(logits: Any, bits: Any) -> Any:
    """Logits [rows, vocabulary] with -inf, in place, at the tokens that `Grammar.allowed` leaves out, and at those that
    its tokenizer does not have."""
    import torch

    places = torch.arange(BITS, dtype=torch.int32, device=logits.device)
    apart = (bits.to(logits.device, non_blocking=True)[:, :, None] >> places) & 1
    known = logits[:, : bits.shape[1] * BITS]
    known.masked_fill_(apart.flatten(1)[:, : known.shape[1]] == 0, float("-inf"))
    logits[:, known.shape[1] :] = float("-inf")
    return logits
