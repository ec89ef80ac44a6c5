"""The pieces that stand in for a library's own: exact, and still needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.loading import stored_dtype
from harness.quantize.awq_faster import TESTED, _Stashed, best_clip, pack
from harness.quantize.int4_kernels import choose
from harness.quantize.int8_kernels import EXACT, int_mm
from tests.test_engine import CONTEXT, PROMPTS, tokenizer
from tests.test_graph import MODELS, saved


@pytest.mark.parametrize(("m", "k", "n"), [(1, 8, 8), (5, 576, 32), (3, EXACT, 16), (4, 3 * EXACT + 8, 24)])
def test_int_mm_is_exact(m: int, k: int, n: int) -> None:
    generator = torch.Generator().manual_seed(k)
    a = torch.randint(-127, 128, (m, k), dtype=torch.int8, generator=generator)
    b = torch.randint(-127, 128, (k, n), dtype=torch.int8, generator=generator)
    assert torch.equal(int_mm(a, b), a.to(torch.int64).mm(b.to(torch.int64)).to(torch.int32))


def test_int_mm_is_exact_at_the_extreme() -> None:
    a = torch.full((1, 2 * EXACT + 1), 127, dtype=torch.int8)
    assert int(int_mm(a, a.t())) == 127 * 127 * (2 * EXACT + 1)


@pytest.fixture(scope="module")
def processor() -> Any:
    """gptqmodel's AWQ processor, enough of it to search: its methods with a group size and nothing else."""
    processor_module = pytest.importorskip("gptqmodel.looper.awq_processor")
    import importlib.metadata

    assert importlib.metadata.version("gptqmodel") == TESTED
    made = object.__new__(processor_module.AWQProcessor)

    class Config:
        group_size, bits, sym = 16, 4, False

    made.qcfg = Config()
    return made


@pytest.mark.parametrize("tokens", [7, 40, 1100])
def test_clipping_by_gram_matrix_is_gptqmodels_own(processor: Any, tokens: int) -> None:
    """The same bound for every group, from the method it replaces and from this one."""
    generator = torch.Generator().manual_seed(tokens)
    weight = torch.randn(64, 48, generator=generator) * torch.logspace(-1, 1, 48)
    inputs = torch.randn(1, tokens, 48, generator=generator) * torch.logspace(1, -1, 48)
    original = type(processor)._compute_best_clip
    assert original is not best_clip, "another test put the replacement in place"
    theirs = original(processor, weight.clone(), inputs.clone())
    ours = best_clip(processor, weight.clone(), inputs.clone())
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, rtol=1e-5)
    assert ours.unique().numel() > 50, "all bounds alike: this data does not tell the methods apart"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["torch_awq.AwqTorchLinear", "gemm_awq.AwqGEMMLinear"])
def test_weights_are_packed_as_gptqmodel_packs_them(name: str, bias: bool, dtype: torch.dtype) -> None:
    """Bit for bit, of weights that are rounded already, as they are when AWQ packs them; others are cut."""
    module, kind = name.split(".")
    theirs = getattr(pytest.importorskip(f"gptqmodel.nn_modules.qlinear.{module}"), kind)
    assert theirs.pack is not pack, "another test put the replacement in place"
    generator = torch.Generator().manual_seed(1)
    scales = torch.rand(64, 6, generator=generator) / 9 + 0.01
    zeros = torch.randint(0, 16, (64, 6), generator=generator)
    codes = torch.randint(0, 16, (64, 6, 16), generator=generator)
    linear = torch.nn.Linear(96, 64, bias=bias, dtype=dtype)
    linear.weight.data = ((codes - zeros[..., None]) * scales.to(dtype).float()[..., None]).flatten(1).to(dtype)

    def packed(packing: Any) -> dict[str, torch.Tensor]:
        layer: Any = torch.nn.Module()
        layer.group_size, layer.bits, layer.in_features = 16, 4, 96
        packing(layer, linear, scales.to(dtype), zeros.to(dtype))
        return dict(layer.named_buffers())

    told, made = packed(theirs.pack), packed(pack)
    assert told.keys() == made.keys()
    for buffer, kept in told.items():
        assert kept.dtype == made[buffer].dtype
        assert torch.equal(kept, made[buffer]), buffer
    assert len(told["qweight"].unique()) > 500
    linear.weight.data[:8, 0] = 1e3
    assert int(packed(pack)["qweight"][0, 0]) == -1, "eight columns at the end of their range"


def test_the_stash_is_a_copy_and_still_needed() -> None:
    """`.to(float32).cpu().contiguous()` of a float32 CPU weight is the weight itself; through `_Stashed` it is not."""
    layer = torch.nn.Linear(4, 4)

    def stash(of: Any) -> torch.Tensor:
        return of.weight.detach().to(torch.float32).cpu().contiguous()

    assert stash(layer).data_ptr() == layer.weight.data_ptr()
    stashed = _Stashed(layer)
    assert stash(stashed).data_ptr() != layer.weight.data_ptr()
    assert stashed.weight is layer.weight


@pytest.mark.usefixtures("gptqmodel_as_it_came")
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_without_calibration_weights_are_rounded(tmp_path: Path, method: str) -> None:
    """What is saved loads as what it says it is, and its answers are the parent's but for 4 bits of rounding."""
    from harness.loading import load
    from harness.quantize.awq import Awq
    from harness.quantize.gptq import Gptq

    parent = saved(tmp_path / "parent", *MODELS["llama"])
    quantizer = {"gptq": Gptq, "awq": Awq}[method](group_size=32, calibration_rows=0)
    facts = quantizer(parent, ("never seen",), tmp_path / "child", CONTEXT)
    assert facts["calibration_rows"] == 0
    tokenizer().save_pretrained(tmp_path / "child")
    made = load(tmp_path / "child", CONTEXT)
    assert any(method[:3] in name.lower() or "torchaten" in name.lower() for name in made.proof["linear_classes"])
    ids = torch.arange(1, 20)[None]
    with torch.inference_mode():
        told, found = (m.model(ids).logits.float() for m in (load(parent, CONTEXT), made))
    assert 0.001 < float((found - told).norm() / told.norm()) < 0.6


@pytest.mark.usefixtures("gptqmodel_as_it_came")
@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("group_size", [-1, 16])
def test_groups_that_pytorchs_own_product_does_not_take_are_answered_with(
    tmp_path: Path, method: str, group_size: int
) -> None:
    from harness.engine.eager import Eager
    from harness.loading import load
    from harness.quantize.awq import Awq
    from harness.quantize.gptq import Gptq
    from harness.unpacking import plain

    parent = saved(tmp_path / "parent", *MODELS["llama"])
    quantizer = {"gptq": Gptq, "awq": Awq}[method](group_size=group_size, calibration_rows=0)
    quantizer(parent, (), tmp_path / "child", CONTEXT)
    tokenizer().save_pretrained(tmp_path / "child")
    session = Eager().start(tmp_path / "child", CONTEXT)
    assert str(session.loaded.proof["int4_kernel"]).startswith("torch (PyTorch's own takes groups of 32, 64, 128, 256,")
    assert [made.tokens for made in session.generate(PROMPTS, 3)]
    layer = "model.layers.0.mlp.down_proj"
    told = load(parent, CONTEXT).model.get_submodule(layer).weight.detach()
    found = plain(session.model.get_submodule(layer), torch.float32).weight.detach()
    assert 0.01 < float((found - told).norm() / told.norm()) < 0.2, "what 4 bits cost a weight"


def test_torchaos_layers_are_each_read_alone_and_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchao.prototype.safetensors import safetensors_support
    from transformers import AutoModelForCausalLM
    from transformers.integrations import torchao

    from harness.loading import load
    from harness.quantize.dynamic import Dynamic

    Dynamic()(saved(tmp_path / "parent", *MODELS["qwen2, with biases"]), (), tmp_path / "child", CONTEXT)
    tokenizer().save_pretrained(tmp_path / "child")
    theirs = AutoModelForCausalLM.from_pretrained(str(tmp_path / "child"), dtype=torch.float32)
    searched: list[int] = []

    def unflatten(tensors: Any, metadata: Any) -> Any:
        searched.append(len(metadata))
        return safetensors_support.unflatten_tensor_state_dict(tensors, metadata)

    monkeypatch.setattr(torchao, "unflatten_tensor_state_dict", unflatten)
    ours = load(tmp_path / "child", CONTEXT).model
    assert searched
    assert max(searched) <= 3, "a layer's weight, its bias and the list of both"
    assert torchao.unflatten_tensor_state_dict is unflatten, "theirs again"
    ids = torch.arange(1, 20)[None]
    with torch.inference_mode():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_weights_that_are_16_bits_already_cost_no_disk(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from harness.quantize.fp16 import Sixteen

    wide = saved(tmp_path / "wide", *MODELS["llama"])
    half, again = tmp_path / "half", tmp_path / "again"
    for parent, out in ((wide, half), (half, again)):
        out.mkdir()
        Sixteen()(parent, [], out, CONTEXT)
    files = [folder / "model.safetensors" for folder in (wide, half, again)]
    assert {t.dtype for t in load_file(files[1]).values()} == {torch.float16}
    assert files[1].stat().st_ino == files[2].stat().st_ino != files[0].stat().st_ino
    assert (again / "config.json").read_bytes() == (half / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("hidden", "inner", "heads", "pads"),
    [
        (2048, 5632, (32, 4), ""),
        (576, 1536, (9, 3), "layers.0.self_attn.q_proj (576 to 576)"),
        (512, 1376, (8, 1), "layers.0.mlp.gate_proj (512 to 1376)"),
    ],
)
def test_marlin_is_taken_where_it_pads_no_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: int, inner: int, heads: tuple[int, int], pads: str
) -> None:
    """As gptqmodel itself chooses; which is known before anything is compiled."""
    from transformers import LlamaConfig

    extension = pytest.importorskip("gptqmodel.extension")
    compiled: list[str] = []
    monkeypatch.setattr(extension, "load", lambda name: compiled.append(name))
    many, few = heads
    LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_attention_heads=many, num_key_value_heads=few,
        num_hidden_layers=2, vocab_size=99, architectures=["LlamaForCausalLM"],
        quantization_config={"quant_method": "gptq", "bits": 4},
    ).save_pretrained(tmp_path)  # fmt: skip
    chosen = choose("auto", tmp_path, "float16")
    assert chosen == (("triton", f"marlin would pad {pads} at every step") if pads else ("marlin", ""))
    assert compiled == ([] if pads else ["marlin_fp16"])
    assert choose("marlin", tmp_path, "float16") == ("marlin", "")


@pytest.mark.parametrize(("key", "found"), [("dtype", "bfloat16"), ("torch_dtype", "bfloat16"), ("other", None)])
def test_what_weights_are_stored_in_is_read_by_either_name(tmp_path: Path, key: str, found: str | None) -> None:
    """A GPU computes in it."""
    (tmp_path / "config.json").write_text(json.dumps({key: "bfloat16"}))
    assert stored_dtype(tmp_path) == found
