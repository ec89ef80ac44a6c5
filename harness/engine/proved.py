"""Proof that a model decoded in another way computes what the model's own forward pass does, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from harness.anatomy import exact, has_experts

PROOF_ROWS, PROOF_TOKENS = 8, 12
SAME, ALIKE = 1e-3, 0.2  # of what a layer does: in float32, and where something rounds more
EXPERTS = 0.75  # of the rows


class Proved:
    """A way to decode a model on slots, which is proved against the model's own forward pass before it is used."""

    model: Any
    layers: list[Any]
    cache: list[tuple[Any, Any]]  # keys and values [slots, heads, capacity, size] of each layer
    products: list[str]  # what computes them

    def __init__(self, model: Any, slots: int, capacity: int) -> None:
        raise NotImplementedError

    def __call__(self, ids: Any, slots: Any, positions: Any, last: Any = None) -> Any:
        """Logits [rows, vocabulary] after one more token a row, or after prompts, or what follows on their beginnings.

        `ids` and `positions` [rows, tokens], `slots` [rows]; `last` [rows] is where each prompt ends, and what stands
        behind it is padding, None where every row has one token.
        """
        raise NotImplementedError

    @staticmethod
    def longest(model: Any) -> int | None:
        """How many tokens a slot may hold, where that is less than the model's context."""
        return None

    def asks_host(self) -> str:
        """What of it waits for the host, so that it cannot be captured, or nothing. On a GPU alone."""
        return ""

    def differs(self) -> str:
        """Which part of the model computes otherwise here than in the model itself, and by how much, or nothing.

        Prompts of random tokens, and then one more token of each, go through the model's own forward pass. Each layer
        is given what the model gave that layer, so that no rounding is handed on from layer to layer: through thirty
        layers, 16 bits and quantized activations drive random tokens so far apart that a right model cannot be told
        from a wrong one. What a layer makes may be away from what the model made by so much of what the layer did: 0
        is the same, 1 as far as if it had done nothing. The embedding and the head are measured by their own length.
        Needs `PROOF_ROWS` slots. What was seen of right models and planted bugs stands in DECISIONS.md."""
        import torch

        made = torch.Generator().manual_seed(0)
        shape = (PROOF_ROWS, PROOF_TOKENS + 1)
        words = self.model.config.get_text_config(decoder=True).vocab_size
        ids = torch.randint(words, shape, generator=made).to(self.model.device)
        places = torch.arange(PROOF_TOKENS + 1, device=ids.device).expand(shape)
        prompts, following = slice(None, -1), slice(-1, None)
        limit, past = SAME if exact(self.model) else ALIKE, None
        with torch.inference_mode():
            for part in (prompts, following):
                with watched(self.layers) as (came, left):
                    read = self.model(ids[:, part], past_key_values=past, use_cache=True)
                past, handed = read.past_key_values, [*came, left[-1]]
                for name, far in self._far(ids[:, part], places[:, part], handed, read.logits[:, -1]):
                    if not far <= limit:
                        return f"{name} is {far:.2g} away, limit {limit}"
        return ""

    def _far(self, ids: Any, places: Any, handed: list[Any], logits: Any) -> Iterator[tuple[str, float]]:
        """How far the worst row of each part is away, the layers' by what the model `handed` to each of them, and by
        what it made of the last."""
        raise NotImplementedError


def share_of(off: Any, of: Any, part: float = 1.0) -> float:
    """The longest row of the one by the length of that row of the other, of a `part` of the rows: those where that is
    least."""
    import torch

    off, of = (t.float().flatten(1).norm(dim=1) for t in (off, of))
    return float(torch.quantile(off / of.clamp(min=torch.finfo(of.dtype).tiny), part, interpolation="lower"))


def part_alike(model: Any) -> float:
    """What part of the rows must come out alike: where something rounds more, it may send a row or two to another
    expert."""
    return EXPERTS if has_experts(model) and not exact(model) else 1.0


@contextmanager
def watched(layers: Sequence[Any], instead: Sequence[Any] = ()) -> Iterator[tuple[list[Any], list[Any]]]:
    """What comes to each layer and what leaves it, in the order in which they are called. With `instead`, each computes
    with that in place of what comes."""
    came: list[Any] = []
    left: list[Any] = []

    def before(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        came.append(given[0] if given else named["hidden_states"])
        if not instead:
            return None
        x = instead[len(came) - 1]
        return ((x, *given[1:]), named) if given else (given, {**named, "hidden_states": x})

    def after(module: Any, given: tuple[Any, ...], made: Any) -> None:
        left.append(made[0] if isinstance(made, tuple) else made)

    hooks = [m.register_forward_pre_hook(before, with_kwargs=True) for m in layers]
    hooks += [m.register_forward_hook(after) for m in layers]
    try:
        yield came, left
    finally:
        for hook in hooks:
            hook.remove()
