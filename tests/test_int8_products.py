"""INT8 layers on a CPU give what their libraries' own forward passes give, and the record says what computed them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engine import ops
from harness.engine.at_once import norms_at_once
from harness.engine.eager import Eager, EagerSession
from harness.engine.graph import Graph, GraphSession
from harness.engine.products import joined
from harness.loading import Loaded, load
from harness.quantize.dynamic import Dynamic
from harness.quantize.int8 import Int8
from tests.test_engine import CONTEXT, tokenizer
from tests.test_graph import MODELS, saved

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 64, 40), (7, 96, 64), (2 * ops.PIECE_ROWS + 3, 64, 48)]


def activations(rows: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Of unlike sizes, one row of zeros, and elements of 6 and more in some rows and columns. All are numbers of
    float16 too, which bitsandbytes quantizes from."""
    made = torch.Generator().manual_seed(rows + size)
    x = torch.randn(rows, size, generator=made) * torch.logspace(-2, 0, rows).flip(0)[:, None]
    x[0, 5], x[0, 11], x[rows // 2, 3] = 9.0, -40.0, 6.0
    if rows > 1:
        x[-1] = 0
    return x.half().to(dtype)


def layer_of_torchao(size: int, columns: int, bias: bool, dtype: torch.dtype) -> Any:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    torch.manual_seed(size)
    holder = torch.nn.Sequential(torch.nn.Linear(size, columns, bias=bias, dtype=dtype)).requires_grad_(False)
    quantize_(holder, Int8DynamicActivationInt8WeightConfig())
    return holder[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size", "columns"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_dynamic_is_torchaos_bit_for_bit(rows: int, size: int, columns: int, bias: bool, dtype: torch.dtype) -> None:
    layer, x = layer_of_torchao(size, columns, bias, dtype), activations(rows, size, dtype)
    with torch.inference_mode():
        told = layer(x)
        found = ops.dynamic_linear(x, layer.weight.qdata, layer.weight.scale.flatten(), layer.bias)
    assert torch.equal(found, told)


def layer_of_bitsandbytes(size: int, columns: int, bias: bool, threshold: float) -> Any:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    torch.manual_seed(size)
    made = Linear8bitLt(size, columns, bias=bias, has_fp16_weights=False, threshold=threshold)
    made.weight = Int8Params(torch.randn(columns, size), requires_grad=False, has_fp16_weights=False)
    return made.to("cpu").eval().requires_grad_(False)


def exact(x: torch.Tensor, layer: Any, threshold: float, columns: bool) -> torch.Tensor:
    """LLM.int8, in float64 but for what rounds to integers. With `columns` outliers take their whole column along, as
    bitsandbytes has it."""
    wide = x.float()
    apart = wide.abs() >= threshold if threshold else torch.zeros_like(wide, dtype=torch.bool)
    own = wide.masked_fill(apart, 0).abs().amax(dim=-1, keepdim=True)
    left = apart.any(dim=0).expand_as(apart) if columns else apart
    small = (wide.masked_fill(left, 0) * (127 / own.clamp(min=1e-30))).round().double()
    weight = layer.state.CB.double() * (layer.state.SCB.double() / 127)[:, None]
    made = small * (own / 127) @ weight.t() + wide.masked_fill(~left, 0).double() @ weight.t()
    return made if layer.bias is None else made + layer.bias.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size", "columns"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_llm_int8_is_bitsandbytes_own(
    rows: int, size: int, columns: int, bias: bool, threshold: float, dtype: torch.dtype
) -> None:
    """To rounding where there are no outliers or one token; with more tokens each is as it would be alone. bitsandbytes
    0.50 takes 6.200124e-05 for 1 / 127**2, which is 1.8e-05 of it too much."""
    layer, x = layer_of_bitsandbytes(size, columns, bias, threshold), activations(rows, size, dtype)
    with torch.inference_mode():
        theirs = layer(x.clone())
        alone = torch.cat([layer(row[None].clone()) for row in x])
        state = layer.state
        found = ops.llm_int8_linear(x, state.CB, state.SCB.flatten().float(), layer.bias, threshold)
    limit = {torch.float32: 4e-5, torch.bfloat16: 2e-2}[dtype] * theirs.double().norm(dim=-1) + 1e-6
    assert bool(((found - alone).double().norm(dim=-1) <= limit).all())
    assert bool(((found - exact(x, layer, threshold, columns=False)).norm(dim=-1) <= limit).all())
    assert bool(((theirs - exact(x, layer, threshold, columns=True)).norm(dim=-1) <= limit).all())
    if rows == 1 or not threshold:
        assert bool(((found - theirs).double().norm(dim=-1) <= limit).all())


def quantized(folder: Path, quantizer: Any, context: Any) -> Path:
    quantizer(saved(folder / "parent", *MODELS["qwen2, with biases"]), (), folder / "child", context)
    tokenizer().save_pretrained(folder / "child")
    return folder / "child"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantizer", [Dynamic(), Int8(), Int8(threshold=0.0)])
def test_a_model_answers_the_same_by_ours(tmp_path: Path, quantizer: Any, dtype: str) -> None:
    context = replace(CONTEXT, dtype=dtype)
    folder = quantized(tmp_path, quantizer, context)
    ids = torch.arange(1, 30)[None]
    plain = load(folder, context)
    norms_at_once(plain.model)  # as a session has them, which add in an order of their own
    with torch.inference_mode():
        told = plain.model(ids).logits.float()
        session = Eager().start(folder, context)
        found = session.model(ids).logits.float()
    if isinstance(quantizer, Dynamic):
        assert torch.equal(found, told)
    else:  # bitsandbytes rounds to float16 first, and another integer here and there is what such a model makes much of
        assert float((found - told).norm() / told.norm()) < 0.1
        assert float((found[:, :-1] - told[:, 1:]).norm() / told.norm()) > 0.5, "this limit tells other logits apart"
    name = "torchao's dynamic INT8" if isinstance(quantizer, Dynamic) else "LLM.int8"
    (kind,) = session.loaded.proof["products"]
    assert kind.startswith(f"{name} by torch._int_mm")
    assert ("outliers of 6" in kind) is (isinstance(quantizer, Int8) and quantizer.threshold == 6.0)
    assert session.loaded.proof["linear_classes"] == plain.proof["linear_classes"]
    assert "products" not in plain.proof


@pytest.mark.parametrize("quantizer", [Dynamic(), Int8()])
def test_layers_joined_give_what_they_give_apart(tmp_path: Path, quantizer: Any) -> None:
    folder = quantized(tmp_path, quantizer, CONTEXT)
    eager, graph = Eager().start(folder, CONTEXT), Graph().start(folder, CONTEXT)
    assert isinstance(graph, GraphSession)
    assert graph.loaded.proof["products"] == eager.loaded.proof["products"]
    attention, x = eager.model.model.layers[1].self_attn, activations(6, 64, torch.float32)[None]
    heads = [attention.q_proj, attention.k_proj, attention.v_proj]
    with torch.inference_mode():
        told = [head(x) for head in heads]
        for found in (joined(heads)(x), [head(x) for head in heads]):  # together, and apart once they share a weight
            assert all(torch.equal(a, b) for a, b in zip(told, found, strict=True))


def test_a_layer_that_was_joined_keeps_one_weight(tmp_path: Path) -> None:
    loaded: Loaded = load(quantized(tmp_path, Int8(), CONTEXT), CONTEXT)
    session = Graph().over(loaded, CONTEXT)
    assert isinstance(session, GraphSession)
    first = session.model.model.layers[0].self_attn
    assert first.q_proj.state.CB.untyped_storage().data_ptr() == first.k_proj.weight.untyped_storage().data_ptr()
    assert isinstance(session.eager, EagerSession)
