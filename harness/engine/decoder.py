"""A Llama-shaped decoder written out for serving: the modules of a loaded model, called in fewer and larger pieces.

transformers' own forward pass launches some forty kernels a layer, most of them tiny; here it is eleven where weights
are plain. Linear layers are still the loaded model's own, quantized or not (`harness.engine.products`). What comes
out is proved against the model's own forward pass before it is used (`Decoder.differs`).
"""

from __future__ import annotations

from typing import Any

from harness.engine.ops import add_rms_norm, attend_prompt, attend_slots, rotate_and_store, silu_mul
from harness.engine.products import joined, kind
from harness.engine.shared_prefix import full_attention

PROOF_ROWS, PROOF_TOKENS = 8, 12
MIDDLE_ROW, SECOND_WORST_ROW = 0.125, 0.25  # of the way to a row that has lost its context


def unfit(model: Any) -> str:
    """Why a model cannot be decoded here, or nothing: its layers must have the parts of Llama's."""
    inner = getattr(model, "model", None)
    layers = getattr(inner, "layers", None)
    if layers is None or not all(hasattr(inner, part) for part in ("embed_tokens", "norm", "rotary_emb")):
        return "its parts are not those of a Llama"
    if not full_attention(model.config):
        return "its attention sees a window"
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
    return "" if size in (16, 32, 64, 128, 256) else f"its heads have {size} elements"


class Decoder:
    """The model with `slots` places of `capacity` tokens for keys and values."""

    def __init__(self, model: Any, slots: int, capacity: int) -> None:
        import torch

        self.model = model
        self.layers = list(model.model.layers)
        first = self.layers[0].self_attn
        config = model.config.get_text_config(decoder=True)
        self.size = first.head_dim
        self.scale = first.scaling
        shape = (slots, config.num_key_value_heads, capacity, self.size)
        options = {"dtype": model.model.embed_tokens.weight.dtype, "device": model.device}
        self.cache = [(torch.zeros(shape, **options), torch.zeros(shape, **options)) for _ in self.layers]
        with torch.inference_mode():
            turns = model.model.rotary_emb(self.cache[0][0], torch.arange(capacity, device=model.device)[None])
            self.turns = tuple(t[0].contiguous() for t in turns)
        attentions, mlps = [layer.self_attn for layer in self.layers], [layer.mlp for layer in self.layers]
        every = [p for m in attentions for p in (m.q_proj, m.k_proj, m.v_proj, m.o_proj)]
        every += [p for m in mlps for p in (m.gate_proj, m.up_proj, m.down_proj)]
        self.products = sorted({kind(p) for p in every})  # what computes them
        self.heads = [joined([m.q_proj, m.k_proj, m.v_proj]) for m in attentions]
        self.mixes = [joined([m.o_proj]) for m in attentions]
        self.gates = [joined([m.gate_proj, m.up_proj]) for m in mlps]
        self.downs = [joined([m.down_proj]) for m in mlps]

    def __call__(self, ids: Any, slots: Any, positions: Any, last: Any = None) -> Any:
        """Logits [rows, vocabulary] after one more token a row, or after prompts that begin at position 0.

        `ids` and `positions` [rows, tokens], `slots` [rows]; `last` [rows] is where each prompt ends, and what stands
        behind it is padding, None where every row has one token.
        """
        rows, tokens = ids.shape
        norms = [layer.input_layernorm for layer in self.layers[1:]] + [self.model.model.norm]
        residual = self.model.model.embed_tokens(ids)
        x = self.layers[0].input_layernorm(residual)
        for n, (layer, norm) in enumerate(zip(self.layers, norms, strict=True)):
            attention, middle = layer.self_attn, layer.post_attention_layernorm
            query, key, value = (t.view(rows, tokens, -1, self.size) for t in self.heads[n](x))
            if hasattr(attention, "q_norm"):
                query, key = attention.q_norm(query), attention.k_norm(key)
            query, key = rotate_and_store((query, key, value), self.turns, self.cache[n], slots, positions)
            if last is None:
                seen = attend_slots(query[:, 0], self.cache[n], slots, positions[:, 0], self.scale)
            else:
                seen = attend_prompt(query, key, value, self.scale)
            (mixed,) = self.mixes[n](seen.reshape(rows, tokens, -1))
            x, residual = add_rms_norm(mixed, residual, middle.weight, middle.variance_epsilon)
            gate, up = (t.view(rows * tokens, -1) for t in self.gates[n](x))
            (made,) = self.downs[n](silu_mul(gate, up).view(rows, tokens, -1))
            x, residual = add_rms_norm(made, residual, norm.weight, norm.variance_epsilon)
        if last is not None:
            x = x.gather(1, last.view(-1, 1, 1).expand(-1, 1, x.shape[2]))
        return self.model.lm_head(x[:, 0])

    def differs(self) -> str:
        """How prompts of random tokens, and one more token of each, give other logits than the model's own forward
        pass of the same prompts and then of the same token (LLM.int8 treats columns by what else is in the batch), or
        nothing where they are the same. In float32 all rows must be. 16 bits and quantized activations round, which
        random tokens amplify: a row of a right model may be lost whole, so the middle of eight rows must be eight
        times nearer than a row that has lost its context, and the second worst four times. What was seen of right
        models and planted bugs stands in DECISIONS.md. Needs `PROOF_ROWS` slots."""
        import torch

        device, rows = self.model.device, PROOF_ROWS
        made = torch.Generator().manual_seed(0)
        ids = torch.randint(self.model.config.vocab_size, (rows, PROOF_TOKENS + 1), generator=made).to(device)
        with torch.inference_mode():
            read = self.model(ids[:, :-1], use_cache=True)
            stepped = self.model(ids[:, -1:], past_key_values=read.past_key_values, use_cache=True)
            told = torch.stack([read.logits[:, -1], stepped.logits[:, -1]], dim=1).float()
            lost = self.model(ids[:, -1:], use_cache=False).logits[:, 0].float()
            slots = torch.arange(rows, device=device)
            places = torch.arange(PROOF_TOKENS + 1, device=device).expand(rows, -1)
            first = self(ids[:, :-1], slots, places[:, :-1], torch.full_like(slots, PROOF_TOKENS - 1))
            second = self(ids[:, -1:], slots, places[:, -1:])
            far = (torch.stack([first, second], dim=1).float() - told).norm(dim=-1)
        if self.model.dtype == torch.float32 and not getattr(self.model.config, "quantization_config", None):
            worst = float((far / told.norm(dim=-1)).max())
            return "" if worst <= 1e-3 else f"a row of float32 is {worst:.2g} of its length away"
        ranked = far.sort(dim=0).values / (lost - told[:, 1]).norm(dim=-1).median()
        middle, second_worst = float(ranked[rows // 2].max()), float(ranked[-2].max())
        if middle <= MIDDLE_ROW and second_worst <= SECOND_WORST_ROW:
            return ""
        return (
            f"of the way to rows without context, the middle row goes {middle:.3f} (limit {MIDDLE_ROW}), "
            f"the second worst {second_worst:.3f} (limit {SECOND_WORST_ROW})"
        )
