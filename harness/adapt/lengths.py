"""Refuses rows that are longer than a model's context, before anything is trained or compressed for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import DoesNotFit
from harness.loading import context_tokens
from harness.prompt import Prompter, render
from harness.types import SuiteData


def demand_context(
    model: Any, rows: Sequence[Mapping[str, Any]], lengths: Sequence[int], carried: str = "its prompt"
) -> None:
    """Raises `DoesNotFit` where a row, `lengths` tokens with what is `carried`, is longer than the model's context."""
    tokens, row = max(zip(lengths, (str(r.get("id")) for r in rows), strict=True), default=(0, ""))
    if (limit := context_tokens(model)) and tokens > limit:
        such = sum(n > limit for n in lengths)
        raise DoesNotFit(
            f"longer than the model's context: row {row} has {tokens:,} tokens with {carried}, where it holds "
            f"{limit:,}{f' (such rows: {such:,})' if such > 1 else ''}; shorten such rows or leave them out, or lower "
            "what prompts carry (adaptation.few_shot, adaptation.top_k)"
        )


def demand_room(model: Any, tokenizer: Any, prompter: Prompter, data: SuiteData, new: int) -> None:
    """The same of the rows that are asked, each with its prompt and an answer of so many `new` tokens."""
    texts = [render(tokenizer, prompter(row[data.message_field])) for row in data.evaluation]
    asked = tokenizer(texts, add_special_tokens=False).input_ids if texts else []
    answer = f" and an answer of up to {new:,} (suite.max_new_tokens)" if new else ""
    demand_context(model, data.evaluation, [len(ids) + new for ids in asked], f"its prompt{answer}")
