"""4-bit weights laid out plainly answer as their kernel does, for quality alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import execute, unpacking
from harness.engine.eager import Eager
from harness.engine.graph import Graph
from harness.loading import load
from harness.packing import packed
from harness.types import Component, Step, StepKind
from tests.cells import suite_data
from tests.conftest import keep_gptqmodel
from tests.test_engine import CONTEXT, PROMPTS, tokenizer
from tests.test_graph import MODELS, saved

BFLOAT16 = replace(CONTEXT, dtype="bfloat16")


@pytest.fixture(scope="module", params=["gptq", "gptq, columns ordered", "awq"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from harness.quantize.awq import Awq
    from harness.quantize.gptq import Gptq

    quantizer: Any = Awq(group_size=32, calibration_rows=0)
    if request.param != "awq":
        ordered = "ordered" in request.param
        quantizer = Gptq(group_size=32, desc_act=ordered, calibration_rows=4 if ordered else 0)
    out = tmp_path_factory.mktemp("model")
    parent = saved(out / "parent", *MODELS["qwen2, with biases"])
    with pytest.MonkeyPatch.context() as patch:
        keep_gptqmodel(patch)
        quantizer(parent, ["a text to calibrate with, long enough to be taken " * 8] * 4, out / "child", CONTEXT)
    tokenizer().save_pretrained(out / "child")
    return out / "child"


@pytest.mark.parametrize("context", [CONTEXT, BFLOAT16], ids=["float32", "bfloat16"])
def test_logits_are_the_kernels(folder: Path, context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "PIECE_ROWS", 24)  # of 64 and 96
    kernel, plain = load(folder, context), load(folder, context, unpacks=True)
    ids = torch.arange(1, 40).view(3, 13)
    with torch.inference_mode():
        told, found = kernel.model(ids).logits.float(), plain.model(ids).logits.float()
    assert float((found - told).norm() / told.norm()) < 0.06, "what 16 bits cost this model, by either"
    assert float((found[0] - told[1]).norm() / told[1].norm()) > 0.5, "this limit tells other logits apart"
    assert plain.proof["linear_classes"] == kernel.proof["linear_classes"]
    assert plain.proof["weights_bytes"] == kernel.proof["weights_bytes"]
    assert plain.proof["unpacked"] == f"4-bit weights of 21 layers unpacked to {context.dtype} for quality"
    assert "unpacked" not in kernel.proof
    linears = [m for m in plain.model.modules() if "Linear" in type(m).__name__]
    assert {type(m) for m in linears} == {torch.nn.Linear}
    assert len(linears) == 22
    if context.dtype == "bfloat16" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert all(map(packed, linears))


def test_each_layer_is_the_kernels_own(folder: Path) -> None:
    """A row that asks for one column gives that column bit for bit, any other the same product but for rounding."""
    model = load(folder, BFLOAT16).model
    kernels = [m for m in model.modules() if type(m).__name__.startswith("TorchAten")]
    assert len(kernels) == 21
    for layer in kernels:
        bias = layer.bias
        made = unpacking.plain(layer, torch.bfloat16)
        assert (made.bias is None) == (bias is None)
        one = torch.zeros(1, layer.in_features, dtype=torch.bfloat16)
        one[0, 17] = 1.0
        many = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
        with torch.inference_mode():
            assert torch.equal(made.weight[:, 17], layer(one)[0]), "without its bias"
            layer.bias = bias
            told, found = layer(many).float(), made(many).float()
        assert float((found - told).norm() / told.norm()) < 5e-3


@pytest.mark.parametrize("engine", [Eager, Graph])
def test_quality_alone_unpacks_unless_told_not_to(folder: Path, engine: Any) -> None:
    assert "unpacked" in engine().start(folder, CONTEXT, quality=True).loaded.proof
    assert "unpacked" not in engine().start(folder, CONTEXT).loaded.proof
    assert "unpacked" not in engine(unpack_int4=False).start(folder, CONTEXT, quality=True).loaded.proof


@pytest.mark.parametrize("kind", [StepKind.QUALITY, StepKind.LATENCY])
def test_a_quality_step_asks_for_it(folder: Path, kind: StepKind) -> None:
    engine = Component("eager", "harness.engine.eager.Eager", {})
    step = Step(kind, "k", "t", Component("m", "", {}), (), {}, 0, engine=engine)
    session = execute._session(step, folder, suite_data(), CONTEXT)
    assert ("unpacked" in session.loaded.proof) is (kind is StepKind.QUALITY)
    assert len(session.generate(PROMPTS, 3)) == len(PROMPTS)


def test_it_is_left_where_memory_is_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "free_memory", lambda: 2**17)
    made = load(folder, CONTEXT, unpacks=True)
    assert made.proof["unpacked"].startswith("no: plain weights need ")
    assert "Linear" not in {type(m).__name__ for m in made.model.model.layers[0].modules()}
