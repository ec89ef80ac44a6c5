"""Refuses work that memory, or a model's context, cannot hold, before it starts: on a GPU it would fail in the middle,
and on a CPU take the machine with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.anatomy import row_bytes
from harness.environment import free_bytes
from harness.errors import DoesNotFit
from harness.loading import context_tokens

LOWER = (
    "what prompts carry (adaptation.few_shot, adaptation.top_k) or the new tokens (of answers suite.max_new_tokens, of "
    "timings measure.latency.output_tokens and batch_tokens)"
)


def holds(model: Any, device: str, rows: int, tokens: int) -> bool:
    """Whether the memory that is free holds keys and values of `rows` rows of `tokens` tokens."""
    return rows * row_bytes(model, tokens) <= free_bytes(device)


def require(model: Any, device: str, rows: int, tokens: int) -> None:
    """Raises `DoesNotFit` where keys and values of `rows` rows of `tokens` tokens exceed the memory that is free."""
    needed, free = rows * row_bytes(model, tokens), free_bytes(device)
    if needed > free:
        raise DoesNotFit(
            f"out of memory before the start: {rows} rows of {tokens:,} tokens need {needed / 2**30:.1f} GiB for keys "
            f"and values, and {free / 2**30:.1f} GiB are free; lower engine.batch_size (of timings "
            f"measure.latency.batch_size and clients), {LOWER}"
        )


def within_context(model: Any, encoded: Sequence[Sequence[int]], new: int) -> None:
    """Raises `DoesNotFit` where one of these texts and an answer of so many `new` tokens are longer together than the
    text that a model was made for."""
    limit = context_tokens(model.config)
    if limit and (long := [len(ids) for ids in encoded if len(ids) + new > limit]):
        raise DoesNotFit(
            f"longer than the model's context: prompts of up to {max(long):,} tokens and {new:,} new ones, where it "
            f"holds {limit:,} ({len(long):,} of {len(encoded):,} too long); shorten such rows or leave them out, or "
            f"lower {LOWER}"
        )
