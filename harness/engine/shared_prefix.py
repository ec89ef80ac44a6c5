"""Attention over one prefix that all rows share and the tokens that each row has of its own (CPU).

A prompt with instructions and worked examples is long, and the same for every row. Repeating its keys and values
for each row costs memory and, at every step, the reading of it all. Here they exist once: each query attends to the
prefix (all rows in one product) and to its own tokens, and the two results are merged by their log-sum-exps, which
is exact (Juravsky et al., "Hydragen", arXiv 2402.05099). Own keys and values are written into room set aside once.
"""

from __future__ import annotations

from typing import Any

from harness.anatomy import exact, full_attention
from harness.engine.one_token import attend_one

NAME = "harness_shared_prefix"


class RowsCache:
    """Keys and values of a batch: what `model(past_key_values=...)` needs of a cache, and nothing more.

    `prefix` holds a layer's (keys, values) [1, heads, length, size]; `capacity` is the most tokens a row will have, of
    which those before `begins` [rows] are padding.
    """

    def __init__(self, prefix: list[tuple[Any, Any]], begins: Any, capacity: int) -> None:
        rows = len(begins)
        self.prefix, self.begins = prefix, begins
        self._own = [tuple(t.new_zeros(rows, t.shape[1], capacity, t.shape[3]) for t in layer) for layer in prefix]
        self._filled = [0] * len(prefix)

    def piece(self, rows: slice, columns: slice) -> RowsCache:
        """A window on some rows and own tokens; what is written through it stands in the whole."""
        window = RowsCache(self.prefix, self.begins[rows] - columns.start, 0)
        window._own = [tuple(t[rows, :, columns] for t in layer) for layer in self._own]
        return window

    def fill(self, tokens: int) -> None:
        """Says that each row has this many own tokens, which were written through pieces."""
        self._filled = [tokens] * len(self._filled)

    def update(self, keys: Any, values: Any, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Takes the new tokens in; returns all own keys and values, the keys tagged with the prefix."""
        start, end = self._filled[layer_idx], self._filled[layer_idx] + keys.shape[2]
        own_keys, own_values = self._own[layer_idx]
        own_keys[:, :, start:end] = keys
        own_values[:, :, start:end] = values
        self._filled[layer_idx] = end
        seen = own_keys[:, :, :end]
        seen.shared_prefix, seen.begins = self.prefix[layer_idx], self.begins
        return seen, own_values[:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen so far, the prefix included."""
        return int(self.prefix[layer_idx][0].shape[2] + self._filled[layer_idx])

    def reorder_cache(self, keep: Any) -> None:
        """Keeps these rows only."""
        self._own, self.begins = [(k[keep], v[keep]) for k, v in self._own], self.begins[keep]


def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> tuple[Any, None]:
    """transformers' attention interface; without a shared prefix it is its `sdpa`, but of one token.

    `query` is [rows, heads, tokens, size], `attention_mask` [rows, 1, tokens, own tokens], to be added to scores.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if options.get("softcap") or options.get("s_aux") is not None:
        raise NotImplementedError("attention with capped scores or sinks is not computed here")
    prefix, scale = getattr(key, "shared_prefix", None), options.get("scaling") or query.shape[3] ** -0.5
    if prefix is None:
        if query.shape[2] == 1 and attention_mask is None:  # it sees all there is
            ends = torch.full((len(query),), key.shape[2])
            if made := attend_one(query[:, :, 0], key, value, torch.zeros_like(ends), ends, scale):
                return made[0][:, None], None
        result: tuple[Any, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    rows, heads, tokens, size = query.shape
    kv_heads, group = key.shape[1], heads // key.shape[1]
    packed = query.reshape(rows, kv_heads, group * tokens, size)
    ends = torch.full_like(key.begins, key.shape[2])
    if tokens == 1 and (made := attend_one(query[:, :, 0], key, value, key.begins, ends, scale)):
        own, own_lse = made[0].view_as(packed), made[1].view(packed.shape[:3])
    else:
        mask = attention_mask.expand(rows, 1, tokens, key.shape[2]).repeat(1, 1, group, 1)
        own, own_lse = flash(packed, key, value, attn_mask=mask, scale=scale)
    if not prefix[0].shape[2]:
        return own.reshape(rows, heads, tokens, size).transpose(1, 2).contiguous(), None
    across = packed.transpose(0, 1).reshape(1, kv_heads, rows * group * tokens, size)
    shared, shared_lse = flash(across, *prefix, scale=scale)
    shared = shared.view(kv_heads, rows, group * tokens, size).transpose(0, 1)
    shared_lse = shared_lse.view(kv_heads, rows, group * tokens).transpose(0, 1)
    weight = torch.sigmoid(own_lse - shared_lse).unsqueeze(-1)  # float32, so that 16 bits round but once more
    merged = torch.lerp(shared.float(), own.float(), weight).to(query.dtype)
    return merged.reshape(rows, heads, tokens, size).transpose(1, 2).contiguous(), None


def switch_on(model: Any) -> list[tuple[Any, Any]]:
    """Makes a model attend this way where it can: plain full attention through transformers' interface, on a CPU.
    Proved on a short prompt against the model's own attention; returns the prefix of rows that share none, by layer,
    or nothing where it does not hold."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
    from transformers.masking_utils import sdpa_mask

    config = model.config
    if model.device.type != "cpu" or not full_attention(model):
        return []
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    before = config._attn_implementation
    model.set_attn_implementation(NAME)
    if config._attn_implementation != NAME:
        return []
    ids = torch.arange(1, 13, device=model.device)[None]
    try:
        with torch.inference_mode():
            whole = model(ids, use_cache=False, logits_to_keep=1).logits
            first = DynamicCache()
            model(ids[:, :8], past_key_values=first, logits_to_keep=1)
            cache = RowsCache(layers(first), torch.zeros(1, dtype=torch.long), 4)
            for start, end in ((8, 11), (11, 12)):  # as prompts are read, and as a step goes
                mask = torch.full((end - start, end - 8), float("-inf"), dtype=whole.dtype).triu(start - 7)[None, None]
                place = torch.arange(start, end)[None]
                parted = model(
                    ids[:, start:end], attention_mask=mask, position_ids=place, past_key_values=cache, logits_to_keep=1
                ).logits
            place = torch.arange(8, 12)[None]
            lost = model(ids[:, 8:], position_ids=place, use_cache=False, logits_to_keep=1).logits
        # where they differ by rounding they must still be far nearer than a model that has lost its prefix
        limit = 1e-2 if exact(model) else float((lost - whole).norm() / whole.norm()) / 4
        holds = float((parted - whole).norm() / whole.norm()) <= limit
    except (AttributeError, TypeError, ValueError, LookupError, RuntimeError):
        holds = False
    if holds:
        return [(keys[:, :, :0].clone(), values[:, :, :0].clone()) for keys, values in layers(first)]
    model.set_attn_implementation(before)
    return []


def layers(cache: Any) -> list[tuple[Any, Any]]:
    """A `DynamicCache`'s keys and values by layer."""
    return [(layer.keys, layer.values) for layer in cache.layers]
