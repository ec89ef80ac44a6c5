"""The pieces that stand in for a library's own: exact, and still needed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from harness import execute
from harness.components import instantiate
from harness.directory import in_range_of, stored_dtype
from harness.errors import BrokenArtifact, UserError
from harness.loading import load
from harness.measure.fidelity import fidelity
from harness.models.hub import link_tree
from harness.quantize import int8_kernels
from harness.quantize.awq import Awq
from harness.quantize.awq_faster import _Stashed, best_clip, pack
from harness.quantize.gptq import Gptq
from harness.quantize.gptqmodel_runs import GROUPS, TESTED, _give_each_its_own, prepare
from harness.quantize.int4_kernels import Compile, choose, padded
from harness.quantize.int8_kernels import EXACT, int_mm, multiply_unprinted
from harness.quantize.proof import CONV1D, replaced
from harness.store import Store
from harness.types import Component, Context, Step, StepKind, digest
from tests.cells import MACHINE, cell, suite_data
from tests.test_architectures import EYES
from tests.test_engine import CONTEXT, PROMPTS, tokenizer
from tests.test_graph import MODELS, SHAPE, WHOLE, saved


@pytest.mark.parametrize(("m", "k", "n"), [(1, 8, 8), (5, 576, 32), (3, EXACT, 16), (4, 3 * EXACT + 8, 24)])
def test_int_mm_is_exact(m: int, k: int, n: int) -> None:
    generator = torch.Generator().manual_seed(k)
    a = torch.randint(-127, 128, (m, k), dtype=torch.int8, generator=generator)
    b = torch.randint(-127, 128, (k, n), dtype=torch.int8, generator=generator)
    assert torch.equal(int_mm(a, b), a.to(torch.int64).mm(b.to(torch.int64)).to(torch.int32))


@pytest.mark.parametrize("rows", [0, 1, 16, 17, 32])
def test_torchao_multiplies_on_a_gpu_without_printing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchao.kernel import intmm

    product = torch._int_mm

    def printed(tensor: torch.Tensor) -> str:
        raise AssertionError("printed")

    def as_cublas(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert len(a) > 16, f"self.size(0) needs to be greater than 16, but got {len(a)}"
        return product(a, b)

    made = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-128, 128, size, generator=made, dtype=torch.int8) for size in ((rows, 64), (24, 64)))
    wanted = a.to(torch.int32) @ b.t().to(torch.int32)
    monkeypatch.setattr(intmm, "safe_int_mm", intmm.safe_int_mm)  # to be put back
    monkeypatch.setattr(int8_kernels, "whole_on_gpu", lambda a, b: True)
    monkeypatch.setattr(torch, "_int_mm", as_cublas)
    multiply_unprinted.__wrapped__()
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "__repr__", printed)
        found = intmm.safe_int_mm(a, b.t())
    assert found.dtype == torch.int32
    assert torch.equal(found, wanted)
    monkeypatch.undo()
    assert not int8_kernels.whole_on_gpu(a, b.t()), "on a CPU all stays as it is"


def test_int_mm_is_exact_at_the_extreme() -> None:
    a = torch.full((1, 2 * EXACT + 1), 127, dtype=torch.int8)
    assert int(int_mm(a, a.t())) == 127 * 127 * (2 * EXACT + 1)


@pytest.fixture(scope="module")
def processor() -> Any:
    """gptqmodel's AWQ processor, enough of it to search: its methods with a group size and nothing else."""
    processor_module = pytest.importorskip("gptqmodel.looper.awq_processor")
    prepare()
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
def test_each_layer_is_calibrated_with_the_positions_and_the_window_that_the_model_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third layer of this model turns by other angles and sees past the window of the others."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention

    config, model, rest = WHOLE["windows in some layers"]
    base = saved(tmp_path / "base", config, model, {**rest, "hidden_size": 64, "intermediate_size": 128})
    seen: dict[int, set[tuple[float, bool]]] = {}
    own = Gemma3Attention.forward

    def told(self: Any, **given: Any) -> Any:
        mask = given["attention_mask"]
        first = None if mask is None else mask[0, 0, -1, 0]  # of the keys, for the last token
        windowed = first is not None and not bool(first if first.dtype == torch.bool else first == 0)
        angles = round(float(given["position_embeddings"][0][0, 30].sum()), 3)
        seen.setdefault(self.layer_idx, set()).add((angles, windowed))
        return own(self, **given)

    monkeypatch.setattr(Gemma3Attention, "forward", told)
    texts = ["abcde some words of calibration " * 2, "and some others, of another length " * 2]
    with torch.no_grad():
        model.from_pretrained(base)(torch.tensor([tokenizer()(texts[0]).input_ids]))
    right, seen = seen, {}
    (tmp_path / "gptq").mkdir()
    Gptq(group_size=32)(base, texts, tmp_path / "gptq", CONTEXT)
    assert seen == right
    assert right[0] != right[2]
    assert [windowed for ((_, windowed),) in right.values()] == [True, True, False]


@pytest.mark.parametrize("made", [Gptq(), Awq()])
def test_another_gptqmodel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Gptq | Awq) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{TESTED}+cu130torch2.13")
    prepare()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "7.6.1")
    with pytest.raises(UserError, match=rf"^gptqmodel 7\.6\.1: .* for {TESTED}; pip install gptqmodel=={TESTED}$"):
        made(tmp_path, (), tmp_path, CONTEXT)


def test_layers_that_know_by_themselves_what_they_see_are_called_as_ever() -> None:
    """Those of GPT-Neo, which stand in no `layers`."""
    pytest.importorskip("gptqmodel")
    decoder = SimpleNamespace(config=SimpleNamespace(attention_layers=["global", "local"]))
    loaded = SimpleNamespace(model=SimpleNamespace(get_decoder=lambda: decoder))
    _give_each_its_own(loaded, {5})
    assert not hasattr(loaded, "prepare_layer_replay_kwargs")


@pytest.mark.usefixtures("gptqmodel_as_it_came")
@pytest.mark.parametrize(
    ("method", "group_size"), [("gptq", -1), ("gptq", 16), ("gptq", 256), ("awq", -1), ("awq", 16)]
)
def test_groups_that_pytorchs_own_product_does_not_take_are_answered_with(
    tmp_path: Path, method: str, group_size: int
) -> None:
    from harness.engine.eager import Eager
    from harness.loading import load
    from harness.unpacking import plain

    config, model, _ = MODELS["llama"]
    parent = saved(
        tmp_path / "parent", config, model, {"intermediate_size": 256, "hidden_size": 256} if group_size == 256 else {}
    )
    quantizer = {"gptq": Gptq, "awq": Awq}[method](group_size=group_size, calibration_rows=0)
    quantizer(parent, (), tmp_path / "child", CONTEXT)
    tokenizer().save_pretrained(tmp_path / "child")
    session = Eager().start(tmp_path / "child", CONTEXT)
    assert str(session.loaded.proof["int4_kernel"]).startswith(
        "torch (PyTorch's own takes groups of 32, 64, 128, not of"
    )
    assert [made.tokens for made in session.generate(PROMPTS, 3)]
    layer = "model.layers.0.mlp.down_proj"
    assert "dequantize_weight" not in vars(session.model.get_submodule(layer)), "to be compiled, in each process"
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


@pytest.mark.parametrize("dtypes", [("bfloat16",), ("bfloat16", "float32")])
def test_a_checkpoint_kept_as_it_is_changes_nothing(tmp_path: Path, dtypes: tuple[str, ...]) -> None:
    """Not only where it came quantized."""
    parent, out = saved(tmp_path / "parent", *MODELS["llama"]), tmp_path / "out"
    out.mkdir()
    tensors = load_file(parent / "model.safetensors")
    kinds = {name: getattr(torch, dtypes[-1] if "norm" in name else dtypes[0]) for name in tensors}
    save_file({n: t.to(kinds[n]) for n, t in tensors.items()}, parent / "model.safetensors", {"format": "pt"})
    facts = instantiate(cell("quantization=as_is").quantization)(parent, [], out, CONTEXT)
    assert facts == {"stored_dtype": ", ".join(dtypes), "replaced_modules": 0}
    assert (out / "model.safetensors").samefile(parent / "model.safetensors")


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
    chosen = choose("auto", tmp_path, "gptq", 4, 64, "float16")
    assert chosen == (("triton", f"marlin would pad {pads} at every step") if pads else ("marlin", ""))
    assert compiled == ([] if pads else ["marlin_fp16"])
    assert choose("marlin", tmp_path, "gptq", 4, 64, "float16") == ("marlin", "")


@pytest.mark.parametrize(
    ("method", "bits", "group_size", "kernel", "why"),
    [
        ("gptq", 8, 128, "marlin", ""), ("awq", 4, -1, "marlin", ""),
        ("gptq", 4, 16, "triton", "4 bits in groups of 16 are nothing for marlin"),
        ("gptq", 2, 64, "triton", "2 bits in groups of 64 are nothing for marlin"),
        ("gptq", 3, 64, "torch", "3 bits in groups of 64 are nothing for marlin or triton"),
        ("awq", 4, 16, "torch", "4 bits in groups of 16 are nothing for marlin or triton"),
    ],
)  # fmt: skip
def test_a_kernel_is_chosen_and_compiled_for_weights_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, bits: int, group_size: int, kernel: str, why: str
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(pytest.importorskip("gptqmodel.extension"), "load", lambda name: compiled.append(name))
    monkeypatch.setattr("harness.quantize.int4_kernels.padded", lambda model: "")
    assert choose("auto", tmp_path, method, bits, group_size, "float16") == (kernel, why)
    assert compiled == (["marlin_fp16"] if kernel == "marlin" else [])


def test_what_is_never_quantized_is_never_padded(tmp_path: Path) -> None:
    """Layers of the part that sees."""
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 96}
    text = {**sizes, "hidden_size": 256, "intermediate_size": 512, "num_key_value_heads": 4, "head_dim": 64}
    eyes = {**EYES, "hidden_size": 36}
    Gemma3Config(
        text_config=text, vision_config=eyes, architectures=["Gemma3ForConditionalGeneration"]
    ).save_pretrained(tmp_path)
    assert padded(tmp_path) == ""
    text["intermediate_size"] = 96
    Gemma3Config(text_config=text, vision_config=eyes).save_pretrained(tmp_path)
    assert padded(tmp_path) == "marlin would pad layers.0.mlp.gate_proj (256 to 96) at every step"


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"), ({"torch_dtype": "bfloat16"}, "bfloat16"), ({"other": "bfloat16"}, None),
        ({"text_config": {"dtype": "bfloat16"}}, "bfloat16"), ({"text_config": {"torch_dtype": "float32"}}, "float32"),
        ({"dtype": "float16", "text_config": {"dtype": "bfloat16"}}, "float16"), ({"text_config": {}}, None),
    ],
)  # fmt: skip
def test_what_weights_are_stored_in_is_read_wherever_it_stands(
    tmp_path: Path, config: dict[str, Any], found: str | None
) -> None:
    """A GPU computes in it."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert stored_dtype(tmp_path) == found


def test_weights_that_transformers_makes_plain_are_told_and_answer(tmp_path: Path) -> None:
    """MXFP4 as gpt-oss is published in, which needs kernels that are not everywhere."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
    folder = saved(tmp_path, GptOssConfig, GptOssForCausalLM, experts)
    tensors = load_file(folder / "model.safetensors")
    for name in [n for n in tensors if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        count, inputs, outputs = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (count, outputs, inputs // 32, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.full((count, outputs, inputs // 32), 122, dtype=torch.uint8)  # 2 ** -5
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
    made = load(folder, CONTEXT)
    assert str(made.proof["dequantized"]).startswith("mxfp4: transformers has no kernel for it here")
    assert made.model.model.layers[0].mlp.experts.down_proj.abs().max() == 6 * 2**-5
    with torch.inference_mode():
        assert made.model(torch.arange(1, 20)[None]).logits.isfinite().all()


def test_a_checkpoint_of_eight_bits_is_read_where_there_is_no_kernel(tmp_path: Path) -> None:
    """Every layer is then a plain one, on purpose."""
    folder = saved(tmp_path, *MODELS["llama"])
    tensors = load_file(folder / "model.safetensors")
    layer = "model.layers.0.mlp.up_proj.weight"
    for name in [n for n in tensors if n.endswith("proj.weight")]:
        rows, columns = tensors[name].shape
        tensors[f"{name}_scale_inv"] = torch.full((-(-rows // 128), -(-columns // 128)), 2.0)
        tensors[name] = (tensors[name] / 2).to(torch.float8_e4m3fn)
    told = tensors[layer].float() * 2
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(config))
    made = load(folder, CONTEXT)
    assert str(made.proof["dequantized"]).startswith("fp8: ")
    assert torch.equal(made.model.get_parameter(layer), told)


@pytest.mark.parametrize("method", ["mine", "mxfp4"])
def test_a_checkpoint_that_lost_its_quantization_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """One whose linear layers were quantized, which MXFP4 leaves as they are."""
    folder = saved(tmp_path, *MODELS["llama"])
    monkeypatch.setattr("harness.loading.quantization_of", lambda folder: {"quant_method": method})
    monkeypatch.setattr(LlamaConfig, "quantization_config", {"quant_method": method}, raising=False)
    if method == "mxfp4":
        assert "dequantized" not in load(folder, CONTEXT).proof
    else:
        with pytest.raises(BrokenArtifact, match="says mine, but every layer loaded is a plain Linear"):
            load(folder, CONTEXT)


QUANTIZED = {"model_type": "llama", "quantization_config": {"quant_method": "awq", "bits": 4}}
EXPERTS = {"model_type": "qwen3_moe", "num_experts": 128, "hidden_size": 64}
UNABLE: list[tuple[str, Mapping[str, Any], str]] = [
    *((q, QUANTIZED, "the checkpoint comes quantized (awq): adaptation=prompt_rag or as_is with quantization=as_is")
      for q in ("fp16", "bf16", "int8", "dynamic", "gptq", "awq")),
    *((q, {"quantization_config": {"quant_method": "compressed-tensors"}},
       "the checkpoint comes quantized (compressed-tensors): nothing here runs that; take the model it was made from")
      for q in ("fp16", "as_is", "int8")),
    *((q, EXPERTS, "the experts of qwen3_moe are no linear layers") for q in ("int8", "dynamic")),
    *((q, EXPERTS, "gptqmodel takes the experts of qwen3_moe apart") for q in ("gptq", "awq")),
    *(("gptq", {"model_type": kind}, f"gptqmodel cannot quantize {kind} by GPTQ: ") for kind in ("phi3", "glm4")),
    *(("awq", {"model_type": kind}, f"gptqmodel cannot quantize {kind} by AWQ: ")
      for kind in ("phi3", "gemma3", "gemma3_text", "olmo", "starcoder2", "gptj", "bloom")),
    *((q, {"model_type": kind}, f"gptqmodel cannot quantize {kind} by {q.upper()}: ") for q in ("gptq", "awq")
      for kind in ("qwen3_5_text", "gpt2", "falcon", "mpt")),
    *((q, {"model_type": "falcon"}, "the layers of falcon are of a class of its own") for q in ("int8", "dynamic")),
    ("dynamic", {"model_type": "gpt2"}, "the layers of gpt2 are no linear layers to torchao (Conv1D); take quantiz"),
    ("gptq", {"model_type": "gemma3", "text_config": {"hidden_size": 640, "intermediate_size": 96}},
     "group size 64 does not divide intermediate_size 96; set quantization.group_size"),
    ("awq", {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 24},
     "group size 64 does not divide num_attention_heads × head_dim 96; set quantization.group_size"),
]  # fmt: skip


@pytest.mark.parametrize(("quantization", "config", "told"), UNABLE)
def test_what_cannot_be_quantized_is_known_from_its_configuration(
    tmp_path: Path, quantization: str, config: Mapping[str, Any], told: str
) -> None:
    """Before anything trains, and where nobody asked before, before anything is loaded."""
    chosen = cell(f"quantization={quantization}").quantization
    made = instantiate(chosen)
    assert str(made.unable(config)).startswith(told)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as refused:
        execute.able(chosen, tmp_path)
    assert str(refused.value) == made.unable(config)


@pytest.mark.parametrize(
    ("quantization", "config"),
    [
        *((q, {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128})
          for q in ("fp16", "bf16", "as_is", "int8", "dynamic", "gptq", "awq")),
        *((q, {"model_type": "gpt2"}) for q in ("fp16", "bf16", "int8")), ("gptq", {"model_type": "bloom"}),
        ("as_is", QUANTIZED), ("fp16", EXPERTS), ("bf16", EXPERTS), ("gptq", {"model_type": "gemma3_text"}),
        ("int8", {"model_type": "phi3", "num_experts": None, "quantization_config": {}, "text_config": None}),
        ("dynamic", {"model_type": "jamba", "num_experts": 1}),
        ("gptq", {"model_type": "gemma3n", "text_config": {"hidden_size": 64, "intermediate_size": [96, 128]}}),
    ],
)  # fmt: skip
def test_what_can_be_quantized_is(quantization: str, config: Mapping[str, Any]) -> None:
    assert instantiate(cell(f"quantization={quantization}").quantization).unable(config) is None


@pytest.mark.parametrize("kind", CONV1D)
def test_a_family_of_convolutions_has_no_linear_layer(kind: str) -> None:
    """But for its head, which no method quantizes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind))
    assert not [layer for layer in model.get_decoder().modules() if isinstance(layer, torch.nn.Linear)]


@pytest.mark.parametrize(("quantizer", "method"), [(Gptq, "gptq"), (Awq, "awq")])
def test_groups_are_those_of_a_kernel(quantizer: Any, method: str) -> None:
    """The plainest takes most: what it does not take fails after training."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear

    plainest = {"gptq": TorchLinear, "awq": AwqTorchLinear}[method]
    assert sorted((-1, *GROUPS[method])) == plainest.SUPPORTS_GROUP_SIZE
    for size in GROUPS[method]:
        assert quantizer(group_size=size).group_size == size
    for size in (1, 24, 48, 2048, *({*GROUPS["gptq"]} - {*GROUPS[method]})):
        with pytest.raises(ValueError, match=rf"^group_size={size}: gptqmodel has no kernel for it; set 16, 32, 64, 1"):
            quantizer(group_size=size)


def test_most_weights_must_have_become_what_a_cell_is_called() -> None:
    """Counted by weights, as one tensor may hold all experts of a layer. Embeddings and heads count for nothing."""
    sizes = {**SHAPE, "num_experts_per_tok": 2, "head_dim": 16, "vocab_size": 4096}
    for experts, intermediate in ((8, 64), (2, 16)):
        config = Qwen3MoeConfig(**sizes, num_experts=experts, moe_intermediate_size=intermediate)
        model = Qwen3MoeForCausalLM(config)
        attention, gate = 64 * 16 * 12, experts * 64
        share = attention / (attention + gate + experts * 3 * 64 * intermediate)
        assert (share > 0.5) is (experts == 2)
        if experts == 2:
            assert replaced(model, "Linear")["left_modules"] == 0
        else:
            with pytest.raises(BrokenArtifact, match=f"^Linear holds {share:.0%} of the decoder's weights, the others"):
                replaced(model, "Linear")
    with pytest.raises(BrokenArtifact, match="no linear layer became Linear8bitLt"):
        replaced(model, "Linear8bitLt")


@pytest.mark.parametrize(
    ("stored", "dtype", "found"),
    [
        ("bfloat16", "float16", "bfloat16"), ("bfloat16", "float32", "float32"), ("float32", "float16", "float16"),
        (None, "float16", "float16"), ("float16", "bfloat16", "bfloat16"),
    ],
)  # fmt: skip
def test_what_was_stored_in_bfloat16_is_computed_in_its_range(stored: str | None, dtype: str, found: str) -> None:
    assert in_range_of(stored, Context("cuda", dtype, 0, lambda share, note: None)).dtype == found


@pytest.mark.parametrize(
    ("method", "kernel", "stored", "found"),
    [
        ("gptq", "marlin", "bfloat16", torch.bfloat16), ("gptq", "triton", "bfloat16", torch.bfloat16),
        ("awq", "marlin", "bfloat16", torch.float16), ("awq", "triton", "bfloat16", torch.float16),
        ("awq", "marlin", "float16", torch.float16), ("bitsandbytes", "", "bfloat16", torch.bfloat16),
        ("torchao", "", "float16", torch.bfloat16), ("mxfp4", "", None, torch.bfloat16),
    ],
)  # fmt: skip
def test_a_gpu_computes_in_what_a_kernel_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, kernel: str, stored: str | None, found: torch.dtype
) -> None:
    """transformers makes float16 of AWQ's bfloat16, whatever is asked for."""
    asked: list[torch.dtype] = []

    def read(folder: str, dtype: torch.dtype, **rest: Any) -> None:
        asked.append(dtype)
        raise KeyError

    quantized = {"quant_method": method, "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps({"dtype": stored, "quantization_config": quantized}))
    monkeypatch.setattr("harness.loading.auto_class", lambda folder: SimpleNamespace(from_pretrained=read))
    monkeypatch.setattr("harness.loading.choose", lambda *_: (kernel, ""))
    with pytest.raises(KeyError):
        load(tmp_path, Context("cuda", "float16", 0, lambda share, note: None))
    assert asked == [found]


def test_the_proof_tells_the_dtype_that_a_model_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that was asked for: transformers changes some."""
    from transformers import AutoModelForCausalLM

    def read(folder: str, dtype: torch.dtype, **rest: Any) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, **rest)

    folder = saved(tmp_path, *MODELS["llama"])
    monkeypatch.setattr("harness.loading.auto_class", lambda folder: SimpleNamespace(from_pretrained=read))
    assert load(folder, replace(CONTEXT, dtype="bfloat16"), packs=False).proof["dtype"] == "float16"


@pytest.mark.parametrize(
    ("method", "stored", "compiled"),
    [("gptq", "bfloat16", "marlin_bf16"), ("gptq", "float32", "marlin_fp16"), ("awq", "bfloat16", "marlin_fp16")],
)
def test_the_kernel_is_compiled_for_what_will_be_computed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, stored: str, compiled: str
) -> None:
    extension = pytest.importorskip("gptqmodel.extension")
    seen: list[str] = []
    monkeypatch.setattr(extension, "load", lambda name: seen.append(name))
    monkeypatch.setattr("harness.quantize.int4_kernels.padded", lambda model: "")
    (tmp_path / "config.json").write_text(json.dumps({"dtype": stored}))
    facts = Compile(method=method)(tmp_path, tmp_path / "out", Context("cuda", "float16", 0, lambda share, note: None))
    assert (seen, facts["kernel"]) == ([compiled], "marlin")


Chain = Callable[..., Path]


@pytest.fixture
def chained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """Carries out the steps from a folder to a cell's quantization as a machine does that computes in float16."""
    rows = tuple({"id": f"r{i}", "message": f"question {i}", "reply": f"answer {i}"} for i in range(6))
    monkeypatch.setattr(execute, "detect", lambda: replace(MACHINE, dtype="float16"))
    monkeypatch.setattr(execute, "_data", lambda step: suite_data(train=rows, validation=rows[:4]))
    store = Store(tmp_path / "store")
    store.prepare()

    def run(folder: Path, *components: Component) -> Path:
        base = Component("hf", "harness.models.hub.HubModel", {"id": str(folder)})
        before: list[Step] = []
        for kind, made in zip((StepKind.BASE, StepKind.ADAPT, StepKind.QUANTIZE), (base, *components), strict=False):
            name = digest([made.name, str(folder), *(s.key for s in before)])
            step = Step(kind, name, made.name, made, tuple(s.key for s in before), {}, 0)
            execute.carry_out(step, before, store, lambda share, note: None, 1)
            before = [step]
        return store.folder(before[-1])

    return run


def wide(folder: Path, dtype: torch.dtype) -> Path:
    """A Gemma 3 whose residual stream leaves the range of float16, as that of the published ones does."""
    torch.manual_seed(0)
    sizes = {
        **SHAPE,
        "head_dim": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
    }
    model = Gemma3ForCausalLM(Gemma3TextConfig(**sizes))
    with torch.no_grad():
        model.model.layers[0].post_feedforward_layernorm.weight.fill_(70000.0)
    model.to(dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


TRAINED = Component("full_ft", "harness.adapt.full_ft.FullFt", {"epochs": 1, "retrieval": "none"})
KEPT = Component("as_is", "harness.adapt.as_is.AsIs", {"retrieval": "none"})


@pytest.mark.parametrize("adaptation", [TRAINED, KEPT], ids=lambda a: a.name)
@pytest.mark.parametrize("quantization", ["bf16", "int8"])
def test_quantizations_are_compared_and_computed_in_the_range_of_their_base(
    tmp_path: Path, chained: Chain, adaptation: Component, quantization: str
) -> None:
    base = wide(tmp_path / "base", torch.bfloat16)
    (base / "NOTICE").write_text("By us.")
    parent = chained(base, adaptation)
    made = chained(base, adaptation, cell(f"quantization={quantization}").quantization)
    assert math.isfinite(json.loads((parent / "reference.json").read_text())["loss"])
    assert (made / "NOTICE").read_text() == "By us.", "a licence asks that it goes along"
    loaded = load(made, Context("cpu", "float16", 0, lambda share, note: None), packs=False)
    assert loaded.proof["dtype"] == "bfloat16"
    assert fidelity(loaded.model, parent)[0].value == pytest.approx(1.0, abs=0.2)


@dataclass(frozen=True)
class Asked:
    """Writes down the calibration texts that it is given, beside a copy of the model."""

    calibration_rows: int = 2

    VERSION: ClassVar[int] = 1
    LIBRARIES: ClassVar[tuple[str, ...]] = ()

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Any]:
        link_tree(model, out)
        (out / "preprocessor_config.json").unlink()
        return {"given": len(calibration)}


def test_no_more_rows_are_rendered_than_calibrate(
    tmp_path: Path, chained: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What feeds pictures or sound to a model goes along, though neither training nor a quantizer writes it."""
    base = saved(tmp_path / "base", *MODELS["llama"])
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (base / name).write_text("{}")
    shown: list[str] = []

    def rendered(*_: Any, reply: str) -> str:
        shown.append(reply)
        return reply

    monkeypatch.setattr(execute, "render", rendered)
    for adaptation, made, rows in (
        (TRAINED, Component("asked", "tests.test_quantize.Asked", {}), 2),
        (TRAINED, cell("quantization=fp16").quantization, 0),
    ):
        shown.clear()
        out = chained(base, adaptation, made)
        assert len(shown) == rows
        assert sorted(p.name for p in out.glob("*processor*")) == [
            "preprocessor_config.json", "video_preprocessor_config.json",
        ]  # fmt: skip


@pytest.mark.usefixtures("gptqmodel_as_it_came")
@pytest.mark.parametrize("quantizer", [Gptq(group_size=32), Awq(group_size=32)])
def test_short_texts_calibrate_too(tmp_path: Path, quantizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """gptqmodel leaves out those of ten tokens or fewer by itself."""
    from gptqmodel.looper.loop_processor import LoopProcessor

    given = []
    own = LoopProcessor.__init__

    def told(self: Any, *arguments: Any, **named: Any) -> None:
        own(self, *arguments, **named)
        given.append(sum(len(batch["input_ids"]) for batch in self.calibration_dataset))

    monkeypatch.setattr(LoopProcessor, "__init__", told)
    base = saved(tmp_path / "base", *MODELS["llama"])
    facts = quantizer(base, ["yes <eos>", "no"] * 3, tmp_path / "out", CONTEXT)
    assert facts["calibration_rows"] == 6
    assert given == [6]


def test_a_reference_that_is_no_number_is_refused(tmp_path: Path, chained: Chain) -> None:
    """Every quantization would be told broken against it."""
    with pytest.raises(BrokenArtifact, match=r"^the adapted model's own answers are no numbers in float16, so nothing"):
        chained(wide(tmp_path / "base", torch.float32), TRAINED)


def test_a_base_stored_otherwise_is_quantized_as_before(tmp_path: Path, chained: Chain) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    made = chained(tmp_path / "base", KEPT, cell("quantization=int8").quantization)
    assert stored_dtype(made) == "float16"


def test_steps_refuse_what_the_plan_could_not_know(tmp_path: Path, chained: Chain) -> None:
    """A model that tells only when it is built what it is."""
    base = tmp_path / "base"
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(base)
    tokenizer().save_pretrained(base)
    with pytest.raises(UserError, match="group size 64 does not divide intermediate_size 96"):
        chained(base, KEPT, cell("quantization=gptq").quantization)
    came = base.rename(tmp_path / "came")
    config = json.loads((came / "config.json").read_text())
    (came / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UserError, match=r"^the checkpoint comes quantized \(gptq\)"):
        chained(came, TRAINED)
