"""Refuses rows that a model cannot read, before anything is trained or compressed for them: longer than its context, or
with tokens that it has no embedding of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import DoesNotFit, UserError
from harness.loading import context_tokens
from harness.prompt import Prompter, render
from harness.types import SuiteData


def demand_context(
    config: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], encoded: Sequence[Sequence[int]], answer: int = 0,
    bare: str = "",
) -> None:  # fmt: skip
    """Raises `DoesNotFit` where a row, `encoded` with its prompt, and the `answer` are longer than the context of a
    model of this configuration, and `UserError` where it has a token beyond those that the model embeds. `bare` is what
    rows are for whose prompts carry neither examples nor articles."""
    known = config.get_text_config(decoder=True).vocab_size
    if (last := max((number for ids in encoded for number in ids), default=0)) >= known:
        raise UserError(
            f"the tokenizer makes {tokenizer.convert_ids_to_tokens(last)!r} the token {last:,}, and the model embeds "
            f"{known:,} (the first is 0); take the tokenizer that it was trained with, or train it on after "
            "model.resize_token_embeddings(len(tokenizer))"
        )
    lengths = [len(ids) + answer for ids in encoded]
    tokens, row = max(zip(lengths, (str(r.get("id")) for r in rows), strict=True), default=(0, ""))
    if (limit := context_tokens(config)) and tokens > limit:
        such = sum(n > limit for n in lengths)
        new, limited = (f" and an answer of up to {answer:,}", " or suite.max_new_tokens") if answer else ("", "")
        lower = f", or lower what prompts carry (adaptation.few_shot, adaptation.top_k){limited}"
        raise DoesNotFit(
            f"longer than the model's context: {bare and f'{bare} '}row {row} has {tokens:,} tokens with its prompt"
            f"{new}, where it holds {limit:,}{f' (such rows: {such:,})' if such > 1 else ''}; shorten such rows or "
            f"leave them out{'' if bare else lower}"
        )


def demand_room(model: Any, tokenizer: Any, prompter: Prompter, data: SuiteData, new: int) -> None:
    """The same of the rows that are asked, each with its prompt and an answer of so many `new` tokens."""
    texts = [render(tokenizer, prompter(row[data.message_field])) for row in data.evaluation]
    asked = tokenizer(texts, add_special_tokens=False).input_ids if texts else []
    demand_context(model.config, tokenizer, data.evaluation, asked, new)
