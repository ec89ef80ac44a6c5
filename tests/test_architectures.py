"""The engine of reference gives what each architecture's own `generate` gives: prefixes shared, rows padded, states
kept in whatever way the architecture keeps them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from harness.anatomy import full_attention, kv_bytes, row_bytes
from harness.engine.eager import Eager, EagerSession
from harness.errors import DoesNotFit, UserError
from harness.loading import Loaded
from tests.test_engine import CONTEXT, PROMPTS, tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 0,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}
MIXED = {"layer_types": ["linear_attention", "full_attention"] * 2}
WINDOWS = {"layer_types": ["sliding_attention"] * 3 + ["full_attention"], "sliding_window": 16, "head_dim": 16}
EYES = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LONG = {  # of PROMPTS one is longer than 70 tokens, and one becomes so while it is answered
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 70, "factor": 2.0,
    "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
}  # fmt: skip
SCALED = {
    "rope_type": "yarn", "rope_theta": 1e4, "original_max_position_embeddings": 32, "factor": 8.0,
    "llama_4_scaling_beta": 0.5,
}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any], bool]] = {  # its configuration, and whether a prefix may be shared
    "positions learnt": ("GPT2", {"vocab_size": 96, "n_embd": 64, "n_layer": 4, "n_head": 4, "eos_token_id": 0}, True),
    "biased by distance": ("Mpt", {"vocab_size": 96, "d_model": 64, "n_layers": 4, "n_heads": 4}, False),
    "windows, all in one": ("Gemma2", {**GROUPED, "head_dim": 16, "sliding_window": 8}, False),
    "windows of a part for text": ("Gemma3", {"text_config": {**GROUPED, **WINDOWS}, "vision_config": EYES}, False),
    "windows called local": (
        "GPTNeo",
        {"vocab_size": 96, "hidden_size": 64, "num_layers": 4, "num_heads": 4, "intermediate_size": 96,
         "attention_types": [[["global", "local"], 2]], "window_size": 8, "pad_token_id": 0, "eos_token_id": 0},
        False,
    ),
    "turned by length": ("Llama", {**GROUPED, "rope_parameters": LONG, "max_position_embeddings": 256}, False),
    "scaled by position": (
        "Ministral3", {**GROUPED, "head_dim": 16, "rope_parameters": SCALED, "max_position_embeddings": 256}, True,
    ),
    "experts": ("Qwen3Moe", {**GROUPED, **EXPERTS, "head_dim": 16}, True),
    "convolutions between": ("Lfm2", {**GROUPED, "layer_types": ["conv", "full_attention"] * 2}, False),
    "linear attention between": (
        "Qwen3Next",
        {**GROUPED, **EXPERTS, **MIXED, "shared_expert_intermediate_size": 32, "head_dim": 16,
         "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
         "linear_value_head_dim": 16},
        False,
    ),
    "latent attention": (
        "DeepseekV3",
        {**SIZES, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1,
         "topk_group": 1, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
         "v_head_dim": 16, "first_k_dense_replace": 1},
        True,
    ),
}  # fmt: skip


def made(name: str, **rest: Any) -> Any:
    """A model of an architecture with random weights, large enough that rows differ."""
    kind, sizes, _ = KINDS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**sizes, **rest)).float().eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.15)
    model.generation_config.eos_token_id = None
    return model


def session(model: Any) -> EagerSession:
    found = Eager(batch_size=3).over(Loaded(model, tokenizer(), {}), CONTEXT)
    assert isinstance(found, EagerSession)
    found.stops = set()
    return found


@pytest.mark.parametrize("name", KINDS)
def test_tokens_are_those_of_generate(name: str) -> None:
    model, own = made(name), tokenizer()
    wanted = []
    for prompt in PROMPTS:
        ids = torch.tensor([own(prompt).input_ids])
        options = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12, "pad_token_id": 0}
        wanted.append(own.decode(model.generate(ids, **options)[0, ids.shape[1] :], skip_special_tokens=True))
    assert len(set(wanted)) > 1, "all say the same, so this test would see nothing"
    assert full_attention(model) is KINDS[name][2]
    ours = session(model)
    assert [c.text for c in ours.generate(PROMPTS, 12)] == wanted
    assert len(ours.time_tokens(PROMPTS[0], 3)) == 3


@pytest.mark.parametrize("name", KINDS)
def test_rows_that_end_leave_the_others_as_they_are(name: str) -> None:
    """A batch goes on without those that have ended, whatever its cache is made of."""
    ours = session(made(name))
    with torch.inference_mode():
        whole = [ours._decode([ids], [0], 12, None, 0)[0][0] for ids in ours.encode(PROMPTS, 12)]
    ours.stops = {max({t for row in whole for t in row}, key=lambda t: sum(t in row[1:-1] for row in whole))}
    ends = [next((at for at, token in enumerate(row) if token in ours.stops), 12) for row in whole]
    assert len(set(ends)) > 1, "all end together, so this test would see nothing"
    wanted = [tokenizer().decode(row[:end], skip_special_tokens=True) for row, end in zip(whole, ends, strict=True)]
    assert [c.text for c in ours.generate(PROMPTS, 12)] == wanted


@pytest.mark.parametrize("name", KINDS)
def test_chances_of_answers_are_those_of_a_row_alone(name: str) -> None:
    model, own = made(name), tokenizer()
    pairs = [(PROMPTS[0], "yes"), (PROMPTS[3], "no"), (PROMPTS[2], "perhaps")]
    for (prompt, answer), (found, _) in zip(pairs, session(model).loglikelihood(pairs), strict=True):
        ids = torch.tensor([own(prompt + answer).input_ids])
        first = len(own(prompt).input_ids)
        with torch.inference_mode():
            chances = model(ids).logits[0].log_softmax(dim=-1)
        wanted = sum(float(chances[at - 1, ids[0, at]]) for at in range(first, ids.shape[1]))
        assert found == pytest.approx(wanted, abs=2e-3)


def test_what_a_token_holds_is_counted_in_the_cache() -> None:
    """Latent attention keeps what its keys and values are made of; convolutions keep the last few tokens, however many
    there are."""
    assert kv_bytes(made("latent attention")) == 4 * 4 * (16 + 8)
    assert kv_bytes(made("convolutions between")) == 4 * 2 * 2 * 2 * 16
    convolved = row_bytes(made("convolutions between"), 10) - 10 * kv_bytes(made("convolutions between"))
    assert convolved == 4 * 2 * 64 * 3, "what a row keeps beside, and a further row needs"
    assert kv_bytes(made("windows, all in one"), 100) == 4 * 2 * 2 * 16 * (2 * 8 + 2 * 100), "two layers keep a window"


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("MambaForCausalLM", {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}),
        ("MiniMaxForCausalLM", {**GROUPED, "num_local_experts": 2, "head_dim": 16}),  # it has one of its own kind
    ],
)
def test_a_model_without_such_a_cache_is_refused(kind: str, sizes: dict[str, Any]) -> None:
    model = getattr(transformers, kind)
    with pytest.raises(UserError, match=f"{kind} keeps what it has read in no cache of keys and values"):
        session(model(model.config_class(**sizes)))


def test_text_beyond_a_models_context_is_refused() -> None:
    """Up to its last token it is answered."""
    longest = max(len(tokenizer()(p).input_ids) for p in PROMPTS)
    ours = session(made("positions learnt", n_positions=longest + 5))
    assert len(ours.generate(PROMPTS, 5)) == len(PROMPTS)
    assert ours.loglikelihood([]) == []
    with pytest.raises(DoesNotFit, match=f"prompts of up to {longest} tokens and 6 new ones, where it holds"):
        ours.generate(PROMPTS, 6)
