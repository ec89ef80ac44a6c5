"""Packed weights multiply as plain ones do, bit for bit, and whatever still asks for a plain one fails loudly."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import JambaConfig, JambaForCausalLM, MambaConfig, MambaForCausalLM

from harness import packing
from harness.engine.eager import Eager
from harness.execute import _unpacked
from harness.loading import load
from harness.packing import pack, packed
from tests.test_engine import CONTEXT, PROMPTS
from tests.test_graph import MODELS, saved

BFLOAT16 = replace(CONTEXT, dtype="bfloat16")
pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no oneDNN for bfloat16"
)


@pytest.mark.parametrize("name", ["llama", "qwen2, with biases"])
def test_logits_are_the_same_bit_for_bit(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path, *MODELS[name])
    plain, fast = load(folder, BFLOAT16, packs=False), load(folder, BFLOAT16)
    assert fast.proof["packed_layers"] == 3 * 7 + 1
    assert fast.proof["weights_bytes"] == plain.proof["weights_bytes"]
    assert fast.proof["linear_classes"] == plain.proof["linear_classes"]
    for rows, tokens in ((1, 1), (5, 1), (3, 40)):
        ids = torch.arange(rows * tokens).view(rows, tokens) % 90
        with torch.inference_mode():
            assert torch.equal(plain.model(ids).logits, fast.model(ids).logits)


def test_weights_are_held_once(tmp_path: Path) -> None:
    model = load(saved(tmp_path, *MODELS["llama"]), BFLOAT16).model
    assert packed(model.lm_head)
    assert not packed(model.model.norm)
    assert [m.weight for m in model.modules() if type(m) is torch.nn.Linear] == [None] * 22


def test_a_head_that_is_the_table_keeps_it(tmp_path: Path) -> None:
    config, model, rest = MODELS["llama"]
    made = load(saved(tmp_path, config, model, {**rest, "tie_word_embeddings": True}), BFLOAT16).model
    assert packed(made.lm_head)
    assert made.lm_head.weight.data_ptr() == made.model.embed_tokens.weight.data_ptr()


def made(name: str) -> Any:
    """A tiny model whose modules read weights of linear layers themselves, or call not all of their layers."""
    torch.manual_seed(3)
    shared: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 96, "eos_token_id": None}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    if name == "mamba":
        return MambaForCausalLM(MambaConfig(state_size=8, **shared))
    kernels: dict[str, Any] = {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}
    return JambaForCausalLM(JambaConfig(num_experts=4, num_experts_per_tok=1, **kernels, **shared, **heads))


@pytest.mark.parametrize("name", ["mamba", "jamba"])
def test_a_model_that_reads_weights_itself_is_left_as_it_is(name: str) -> None:
    model = made(name).to(torch.bfloat16).eval()
    ids = torch.arange(1, 30).view(1, -1)
    with torch.inference_mode():
        told = model(ids).logits
        assert pack(model) == 0
        assert torch.equal(model(ids).logits, told)
    assert all(m.weight is not None for m in model.modules() if type(m) is torch.nn.Linear)
    assert not any(map(packed, model.modules()))


def test_a_layer_that_is_not_called_keeps_its_weight(tmp_path: Path) -> None:
    """Nothing was seen of what reads it."""
    model = load(saved(tmp_path, *MODELS["llama"]), BFLOAT16, packs=False).model
    model.spare = torch.nn.Linear(8, 8, dtype=torch.bfloat16)
    assert pack(model) == 3 * 7 + 1
    assert model.spare.weight is not None
    assert not packed(model.spare)


def test_a_merged_adapter_is_timed_as_plain_as_one_beside_its_base(tmp_path: Path) -> None:
    folder, engine = saved(tmp_path, *MODELS["llama"]), Eager()
    session = engine.start(folder, BFLOAT16)
    assert any(map(packed, session.model.modules()))
    merged = _unpacked(session, folder, partial(engine.over, context=BFLOAT16), BFLOAT16)
    assert not any(map(packed, merged.model.modules()))
    assert _unpacked(merged, folder, partial(engine.over, context=BFLOAT16), BFLOAT16) is merged


def test_float32_is_left_alone(tmp_path: Path) -> None:
    made = load(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    assert made.proof["packed_layers"] == 0
    assert not packed(made.model.lm_head)


def test_a_build_that_multiplies_otherwise_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = packing.product
    monkeypatch.setattr(packing, "product", lambda weight, bias, x: 1.1 * told(weight, bias, x))
    folder = saved(tmp_path, *MODELS["llama"])
    assert load(folder, BFLOAT16).proof["packed_layers"] == 0
    assert len(Eager().start(folder, BFLOAT16).generate(PROMPTS, 3)) == len(PROMPTS)
