"""Attention over one prefix that all rows share and the tokens that each row has of its own (CPU).

A prompt with instructions and worked examples is long, and the same for every row. Repeating its keys and values
for each row costs memory and, at every step, the reading of it all. Here they exist once: each query attends to the
prefix (all rows in one product) and to its own tokens, and the two results are merged by their log-sum-exps, which
is exact (Juravsky et al., "Hydragen", arXiv 2402.05099). Own keys and values are written into room set aside once.
"""

from __future__ import annotations

from typing import Any

from harness.anatomy import blocks_of, exact, full_attention
from harness.engine.one_token import attend_one
from harness.engine.proved import ALIKE, SAME, part_alike, share_of, watched

NAME = "harness_shared_prefix"
ROWS, SHARED, TOKENS = 8, 8, 12  # of the proof: so many tokens a row, of which all rows share the first


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
            made = attend_one(query[:, :, 0], key, value, torch.zeros_like(ends), ends, scale)
            if made is not None:
                return made[:, None], None
        result: tuple[Any, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    rows, heads, tokens, size = query.shape
    kv_heads, group = key.shape[1], heads // key.shape[1]
    packed, shared = query.reshape(rows, kv_heads, group * tokens, size), None
    if prefix[0].shape[2]:
        across = packed.transpose(0, 1).reshape(1, kv_heads, rows * group * tokens, size)
        shared = flash(across, *prefix, scale=scale)
    if tokens == 1:
        ends = torch.full_like(key.begins, key.shape[2])
        made = attend_one(query[:, :, 0], key, value, key.begins, ends, scale, beside=shared)
        if made is not None:
            return made[:, None], None
    mask = attention_mask.expand(rows, 1, tokens, key.shape[2]).repeat(1, 1, group, 1)
    own, own_lse = flash(packed, key, value, attn_mask=mask, scale=scale)
    if not shared:
        return own.reshape(rows, heads, tokens, size).transpose(1, 2).contiguous(), None
    of_shared = shared[0].view(kv_heads, rows, group * tokens, size).transpose(0, 1)
    shared_lse = shared[1].view(kv_heads, rows, group * tokens).transpose(0, 1)
    weight = torch.sigmoid(own_lse - shared_lse).unsqueeze(-1)  # float32, so that 16 bits round but once more
    merged = torch.lerp(of_shared.float(), own.float(), weight).to(query.dtype)
    return merged.reshape(rows, heads, tokens, size).transpose(1, 2).contiguous(), None


def switch_on(model: Any) -> tuple[list[tuple[Any, Any]], str]:
    """Makes a model attend this way where it can: plain full attention through transformers' interface, on a CPU, that
    `_proves` it. Returns the prefix of rows that share none, by layer; or nothing, and why."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.device.type != "cpu":
        return [], ""
    if not full_attention(model):
        return [], "its layers do not all see every token, at the positions they are told"
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    before = model.config._attn_implementation
    try:
        with torch.inference_mode():
            none, why = _proves(model)
    except (AttributeError, TypeError, ValueError, LookupError, RuntimeError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
    if not why:
        return none, ""
    model.set_attn_implementation(before)
    return [], why


def _proves(model: Any) -> tuple[list[tuple[Any, Any]], str]:
    """Switches the model over, and compares it to its own attention: rows of random tokens that begin alike are read in
    three parts, each layer given what the model gave it (`harness.engine.proved`). Returns as `switch_on` does."""
    import torch
    from transformers import DynamicCache

    limit, part, blocks = SAME if exact(model) else ALIKE, part_alike(model), blocks_of(model)
    made = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.get_text_config(decoder=True).vocab_size, (ROWS, TOKENS), generator=made)
    ids[:, :SHARED] = ids[0, :SHARED]
    with watched(blocks) as (came, left):
        model(ids, use_cache=False, logits_to_keep=1)
    whole = [*came, *left[-1:]]
    if not blocks or len(left) != len(blocks):
        return [], "its layers stand in no list, or are not called one after the other"
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        return [], "it takes no attention but its own"
    first = DynamicCache()
    with watched(blocks, [x[:1, :SHARED] for x in whole]):
        model(ids[:1, :SHARED], past_key_values=first, logits_to_keep=1)
    cache = RowsCache(layers(first), torch.zeros(ROWS, dtype=torch.long), TOKENS - SHARED)
    for start, end in ((SHARED, TOKENS - 1), (TOKENS - 1, TOKENS)):  # as prompts are read, and as a step goes
        mask = torch.full((end - start, end - SHARED), float("-inf"), dtype=model.dtype).triu(start - SHARED + 1)
        given = [x[:, start:end] for x in whole]
        with watched(blocks, given) as (_, left):
            model(
                ids[:, start:end], attention_mask=mask.expand(ROWS, 1, -1, -1), past_key_values=cache, logits_to_keep=1,
                position_ids=torch.arange(start, end).expand(ROWS, -1),
            )  # fmt: skip
        for n, out in enumerate(left):
            far = share_of(out - given[n + 1], given[n + 1] - given[n], part)
            if not far <= limit:
                return [], f"layer {n} is {far:.2g} away, limit {limit}"
    return [(keys[:, :, :0].clone(), values[:, :, :0].clone()) for keys, values in layers(first)], ""


def layers(cache: Any) -> list[tuple[Any, Any]]:
    """A `DynamicCache`'s keys and values by layer."""
    return [(layer.keys, layer.values) for layer in cache.layers]
