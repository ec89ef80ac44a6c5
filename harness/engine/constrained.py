"""Constrained decoding: only tokens that keep an answer within a suite's JSON Schema or grammar may be chosen.

The masks come from llguidance (Microsoft, MIT), which follows a grammar token by token. An answer that reaches its
limit of tokens is still cut off in the middle: constraining makes an answer well-formed, not short, and not right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import UserError


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


def matcher(tokenizer: Any, stops: Sequence[int], output: str) -> Any:
    """A matcher at the start of an answer; each row gets a copy. Tokenizer and grammar are compiled here, once."""
    import llguidance.hf
    from llguidance import LLMatcher

    vocabulary = llguidance.hf.from_tokenizer(tokenizer, eos_token=list(stops))
    first = LLMatcher(vocabulary, compiled(output))
    if first.is_error():
        raise ValueError(f"the suite's output grammar: {first.get_error()}")
    return first


def follow(row: Any, token: int) -> None:
    """Takes a row's matcher past a token. Raises `UserError` where the grammar is too much for it: from then on it
    would allow the end of the answer alone."""
    if not row.consume_token(token):
        why = row.get_error().splitlines()[0]  # then comes its whole state
        raise UserError(f"the suite's output grammar: {why}; make it simpler")


def forbid(logits: Any, rows: Sequence[Any]) -> None:
    """Puts -inf, in place, at the tokens that each row's matcher rules out; logits are [rows, vocabulary]. Of a
    complete answer only the stop tokens are left."""
    import numpy as np
    import torch

    for at, row in enumerate(rows):
        bits = np.unpackbits(np.frombuffer(row.compute_bitmask(), dtype=np.uint8), bitorder="little")
        allowed = torch.zeros(logits.shape[1], dtype=torch.bool)
        size = min(len(bits), logits.shape[1])
        allowed[:size] = torch.from_numpy(bits[:size].astype(bool))
        logits[at].masked_fill_(~allowed.to(logits.device), float("-inf"))
