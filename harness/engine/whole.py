"""transformers' own forward pass on slots, for models whose layers are not those of a Llama.

Keys and values go to their slots through transformers' cache interface, and its attention interface finds them there:
each row at its own positions and within the layer's window, by the kernel of `harness.engine.ops.attend`. All else is
the model's own code, which launches more and smaller kernels than `harness.engine.decoder`, but is captured as that is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from harness.anatomy import attention_kinds, keys_of, linear_class, takes, turns_alike_to, turns_by_length
from harness.engine.at_once import norms_at_once, turns_at_once
from harness.engine.decoder import of_each
from harness.engine.ops import LARGEST, attend, store
from harness.engine.products import kind
from harness.engine.proved import PROOF_ROWS, Proved, part_alike, share_of, watched

NAME = "harness_slots"
KINDS = {"full_attention", "sliding_attention", "global", "local"}  # of layers


def unfit(model: Any) -> str:
    """Why a model's own forward pass cannot run on slots, as far as its configuration tells, or nothing."""
    config = model.config.get_text_config(decoder=True)
    kinds = attention_kinds(config)
    if not (takes(model, "position_ids") and takes(model, "past_key_values")) or getattr(config, "alibi", False):
        return "it is told no positions"
    if turns_by_length(config) and not turns_alike_to(config):
        return "its positions turn by the length of the text"
    if not kinds <= KINDS:
        return f"its layers are {', '.join(sorted(kinds - KINDS))}"
    if getattr(config, "attention_chunk_size", None):
        return "its attention sees chunks"
    if not hasattr(model.get_decoder(), "layers"):
        return "its layers stand in no list"
    return ""


class Whole(Proved):
    """A model with `slots` places of `capacity` tokens for keys and values; a cache, as its forward pass sees it."""

    @staticmethod
    def longest(model: Any) -> int | None:
        return turns_alike_to(model.config.get_text_config(decoder=True))

    def __init__(self, model: Any, slots: int, capacity: int) -> None:
        import torch
        from transformers import AttentionInterface, AttentionMaskInterface

        own = model.config._attn_implementation
        if not own.startswith(NAME):
            AttentionInterface.register(f"{NAME}_{own}", partial(_attention, own))
            AttentionMaskInterface.register(f"{NAME}_{own}", AttentionMaskInterface()[own])
            model.set_attn_implementation(f"{NAME}_{own}")
        self.model = model
        self.layers = list(model.get_decoder().layers)
        if model.device.type == "cuda":
            norms_at_once(model)
            turns_at_once(model)
        self.products = sorted({kind(m) for m in model.get_decoder().modules() if linear_class(m)})

        def room(new: Any) -> Any:
            return new.new_zeros(slots, new.shape[1], capacity, new.shape[3])

        self.cache, self.windows = [], []  # windows of the configuration: what a mask alone would say is not known here
        for keys, values, window in keys_of(model):
            self.cache.append((room(keys), room(values)))
            self.windows.append(window)
        # a mask of four dimensions is taken as it is; this one says nothing, and attention does not ask it
        self._unmasked = torch.zeros(1, 1, 1, 1, device=model.device)
        self._where: tuple[Any, Any] = (None, None)

    def __call__(self, ids: Any, slots: Any, positions: Any, last: Any = None) -> Any:
        def ends(head: Any, given: tuple[Any, ...]) -> Any:
            return given if last is None else (of_each(given[0], last),)

        self._where = slots, positions
        hook = self.model.get_output_embeddings().register_forward_pre_hook(ends)
        try:
            read = self.model(
                ids, attention_mask=self._unmasked, position_ids=positions, past_key_values=self, use_cache=True
            )
        finally:
            hook.remove()
        return read.logits[:, 0]

    def update(self, keys: Any, values: Any, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Takes new keys and values [rows, heads, tokens, size] into their slots; what attention is to find there goes
        with the keys."""
        (slots, positions), cache = self._where, self.cache[layer_idx]
        store(keys, values, cache, slots, positions)
        keys.in_slots = (cache, slots, positions, self.windows[layer_idx])
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that rows have in common, by which some models would count their positions: none."""
        return 0

    def asks_host(self) -> str:
        """What of the forward pass waits for the host, so that it cannot be captured, or nothing."""
        import torch

        slots = torch.arange(2, device=self.model.device)
        ids = torch.ones(2, 4, dtype=torch.long, device=slots.device)
        places = torch.arange(4, device=slots.device).expand(2, 4)
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.inference_mode():
                self(ids, slots, places, slots)
                self(ids[:, :1], slots, places[:, :1])
        except RuntimeError as error:
            return str(error).partition("\n")[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return ""

    def _far(self, ids: Any, places: Any, handed: list[Any], logits: Any) -> Iterator[tuple[str, float]]:
        import torch

        slots, part = torch.arange(PROOF_ROWS, device=ids.device), part_alike(self.model)
        with watched(self.layers, handed) as (came, left):
            made = self(ids, slots, places, torch.full_like(slots, ids.shape[1] - 1))
        yield "the embedding", share_of(came[0] - handed[0], handed[0])
        for n, out in enumerate(left):
            yield f"layer {n}", share_of(out - handed[n + 1], handed[n + 1] - handed[n], part)
        yield "the head", share_of(made - logits, logits)


def _attention(
    own: str, module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any
) -> tuple[Any, Any]:  # fmt: skip
    """transformers' attention interface: of keys in slots what stands there, of others what it would have been, by the
    model's `own` attention."""
    from transformers import AttentionInterface

    found = getattr(key, "in_slots", None)
    if found is None:
        written = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        elsewhere: Any = AttentionInterface().get_interface(own, written)
        made: tuple[Any, Any] = elsewhere(module, query, key, value, attention_mask, **options)
        return made
    (cache, slots, positions, window), size = found, query.shape[3]
    if window != (options.get("sliding_window") or 0) or (attention_mask is not None and attention_mask.numel() > 1):
        raise NotImplementedError("its attention sees what its mask says")
    if (query.is_cuda and size > LARGEST) or value.shape[3] != size:
        raise NotImplementedError(f"its heads have {size} elements")
    scale = options.get("scaling") or size**-0.5
    cap, sinks = options.get("softcap") or 0.0, options.get("s_aux")
    return attend(query.transpose(1, 2), cache, slots, positions, scale, window, cap, sinks).contiguous(), None
