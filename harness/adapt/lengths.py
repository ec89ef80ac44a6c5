"""Refuses rows that are longer than a model's context, before anything is trained or compressed for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import DoesNotFit
from harness.loading import context_tokens
from harness.prompt import Prompter, render
from harness.types import SuiteData


def demand_context(model: Any, rows: Sequence[Mapping[str, Any]], lengths: Sequence[int], answer: int = 0) -> None:
    """Raises `DoesNotFit` where a row, `lengths` tokens with its prompt and the `answer`, is longer than the model's
    context."""
    tokens, row = max(zip(lengths, (str(r.get("id")) for r in rows), strict=True), default=(0, ""))
    if (limit := context_tokens(model)) and tokens > limit:
        such = sum(n > limit for n in lengths)
        new, limited = (f" and an answer of up to {answer:,}", " or suite.max_new_tokens") if answer else ("", "")
        raise DoesNotFit(
            f"longer than the model's context: row {row} has {tokens:,} tokens with its prompt{new}, where it holds "
            f"{limit:,}{f' (such rows: {such:,})' if such > 1 else ''}; shorten such rows or leave them out, or lower "
            f"what prompts carry (adaptation.few_shot, adaptation.top_k){limited}"
        )


def demand_room(model: Any, tokenizer: Any, prompter: Prompter, data: SuiteData, new: int) -> None:
    """The same of the rows that are asked, each with its prompt and an answer of so many `new` tokens."""
    texts = [render(tokenizer, prompter(row[data.message_field])) for row in data.evaluation]
    asked = tokenizer(texts, add_special_tokens=False).input_ids if texts else []
    demand_context(model, data.evaluation, [len(ids) + new for ids in asked], new)
