"""A Llama-shaped decoder written out for serving: the modules of a loaded model, called in fewer and larger pieces.

transformers' own forward pass launches some forty kernels a layer, most of them tiny; here it is eleven where weights
are plain. Linear layers are still the loaded model's own, quantized or not (`harness.engine.products`). What comes
out is proved against the model's own forward pass before it is used (`Decoder.differs`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.anatomy import full_attention
from harness.engine.ops import SIZES, add_rms_norm, attend, rotate_and_store, silu_mul
from harness.engine.products import joined, kind
from harness.engine.proved import Proved, share_of


def unfit(model: Any) -> str:
    """Why a model cannot be decoded here, or nothing: its layers must have the parts of Llama's."""
    inner = getattr(model, "model", None)
    layers = getattr(inner, "layers", None)
    if layers is None or not all(hasattr(inner, part) for part in ("embed_tokens", "norm", "rotary_emb")):
        return "its parts are not those of a Llama"
    if not full_attention(model):
        return "its attention sees a window, or the length of the text"
    if (getattr(model.config, "rope_parameters", None) or {}).get("llama_4_scaling_beta"):
        return "its attention is scaled by position"  # from a length on that the proof does not reach
    wanted: tuple[tuple[str, set[str]], ...] = (
        ("", {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}),
        ("self_attn", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("mlp", {"gate_proj", "up_proj", "down_proj"}),
    )
    for layer in layers:
        for name, parts in wanted:
            found = {child for child, _ in layer.get_submodule(name).named_children()}
            if found - {"act_fn", "q_norm", "k_norm"} != parts:
                return f"a layer's parts are {', '.join(sorted(found))}"
        if type(layer.mlp.act_fn).__name__ not in ("SiLU", "SiLUActivation"):
            return f"its activation is {type(layer.mlp.act_fn).__name__}"
        if not hasattr(layer.input_layernorm, "variance_epsilon"):
            return f"its norm is {type(layer.input_layernorm).__name__}"
    size = layers[0].self_attn.head_dim
    return "" if size in SIZES else f"its heads have {size} elements"


class Decoder(Proved):
    """The model with `slots` places of `capacity` tokens for keys and values."""

    def __init__(self, model: Any, slots: int, capacity: int) -> None:
        import torch

        self.model = model
        self.layers = list(model.model.layers)
        self.norms = [*(layer.input_layernorm for layer in self.layers), model.model.norm]  # the last behind them all
        first = self.layers[0].self_attn
        config = model.config.get_text_config(decoder=True)
        self.size = first.head_dim
        self.scale = first.scaling
        shape = (slots, config.num_key_value_heads, capacity, self.size)
        options = {"dtype": model.model.embed_tokens.weight.dtype, "device": model.device}
        self.cache = [(torch.zeros(shape, **options), torch.zeros(shape, **options)) for _ in self.layers]
        with torch.inference_mode():
            turns = model.model.rotary_emb(self.cache[0][0], torch.arange(capacity, device=model.device)[None])
            whole = tuple(t[0].contiguous() for t in turns)
            none = torch.ones_like(whole[0]), torch.zeros_like(whole[1])
        self.turns = [whole if getattr(layer.self_attn, "use_rope", True) else none for layer in self.layers]
        attentions, mlps = [layer.self_attn for layer in self.layers], [layer.mlp for layer in self.layers]
        every = [p for m in attentions for p in (m.q_proj, m.k_proj, m.v_proj, m.o_proj)]
        every += [p for m in mlps for p in (m.gate_proj, m.up_proj, m.down_proj)]
        self.products = sorted({kind(p) for p in every})  # what computes them
        self.heads = [joined([m.q_proj, m.k_proj, m.v_proj]) for m in attentions]
        self.mixes = [joined([m.o_proj]) for m in attentions]
        self.gates = [joined([m.gate_proj, m.up_proj]) for m in mlps]
        self.downs = [joined([m.down_proj]) for m in mlps]

    def __call__(self, ids: Any, slots: Any, positions: Any, last: Any = None) -> Any:
        residual = self.model.model.embed_tokens(ids)
        x = self.norms[0](residual)
        for n in range(len(self.layers) - 1):
            x, residual = self._layer(n, x, residual, slots, positions)
        x, _ = self._layer(len(self.layers) - 1, x, residual, slots, positions, last)
        return self.model.lm_head(x[:, 0])

    def _layer(self, n: int, x: Any, residual: Any, slots: Any, positions: Any, last: Any = None) -> tuple[Any, Any]:
        """What layer `n` makes of its normalised input and the residual stream [rows, tokens, size]: the next layer's.
        With `last` [rows], what is made of that token of each row alone: behind the last layer nobody asks for the
        others."""
        rows, tokens = positions.shape
        layer, norm = self.layers[n], self.norms[n + 1]
        attention, middle = layer.self_attn, layer.post_attention_layernorm
        query, key, value = (t.view(rows, tokens, -1, self.size) for t in self.heads[n](x))
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        query = rotate_and_store((query, key, value), self.turns[n], self.cache[n], slots, positions)
        seen = attend(query, self.cache[n], slots, positions, self.scale).reshape(rows, tokens, -1)
        if last is not None:
            seen, residual = of_each(seen, last), of_each(residual, last)
        (mixed,) = self.mixes[n](seen)
        x, residual = add_rms_norm(mixed, residual, middle.weight, middle.variance_epsilon)
        gate, up = (t.flatten(0, 1) for t in self.gates[n](x))
        (made,) = self.downs[n](silu_mul(gate, up).view(*x.shape[:2], -1))
        return add_rms_norm(made, residual, norm.weight, norm.variance_epsilon)

    def _far(self, ids: Any, places: Any, handed: list[Any], logits: Any) -> Iterator[tuple[str, float]]:
        import torch

        slots = torch.arange(len(ids), device=ids.device)
        normed = [norm(h) for norm, h in zip(self.norms, handed, strict=True)]
        embedded = self.model.model.embed_tokens(ids)
        yield "the embedding", share_of(embedded - handed[0], handed[0])
        for n, (x, residual) in enumerate(zip(normed[:-1], handed[:-1], strict=True)):
            made, _ = self._layer(n, x, residual, slots, places)
            yield f"layer {n}", share_of(made - normed[n + 1], self.norms[n + 1](residual) - normed[n + 1])
        yield "the head", share_of(self.model.lm_head(normed[-1][:, -1]) - logits, logits)


def of_each(x: Any, last: Any) -> Any:
    """Of `x` [rows, tokens, size] each row's token `last` [rows] alone: [rows, 1, size]."""
    return x.gather(1, last.view(-1, 1, 1).expand(-1, 1, x.shape[2]))
