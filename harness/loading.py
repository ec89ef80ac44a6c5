"""Loads any artifact of the store for inference, and proves what was loaded.

transformers dispatches on the checkpoint's own `quantization_config`: bitsandbytes, torchao, and gptqmodel for
GPTQ and AWQ (checkpoints that auto-gptq and autoawq wrote load the same way).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.anatomy import linear_classes, weight_bytes
from harness.directory import (
    attention_of,
    auto_class,
    classes_of,
    computed_in,
    quantization_of,
    stored_dtype,
    torch_dtype,
)
from harness.errors import BrokenArtifact
from harness.packing import pack
from harness.quantize.int4_kernels import FALLBACK, FASTEST, PLAIN, add_in_order, choose, leave_uncompiled
from harness.quantize.int8_kernels import multiply_unprinted, read_layer_by_layer, use_fast_cpu_kernel
from harness.types import Context, Json

MASKS = (".attn.attention.bias", ".masked_bias")  # which older releases of transformers saved with GPT-Neo and GPT-2
INT4_GROUPS = (32, 64, 128)  # that gptqmodel hands to PyTorch's 4-bit product on a CPU (`_weight_int4pack_mm_for_cpu`)
KERNELS = ("auto", FALLBACK, FASTEST, PLAIN)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready for inference, its tokenizer, the proof (the classes that do the linear algebra), and what its
    classification head can answer (none: it generates)."""

    model: Any
    tokenizer: Any
    proof: dict[str, Json]
    classes: tuple[str, ...] = ()


def context_tokens(config: Any) -> int | None:
    """The longest text that a model was made for, where its configuration tells: behind it some models fail and others
    go on with nonsense."""
    limit: int | None = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return limit


def _kernel(folder: Path, name: str) -> Any:
    """The loading options that choose the 4-bit kernel of a GPTQ or AWQ checkpoint."""
    from transformers import AwqConfig, GPTQConfig

    found = quantization_of(folder)
    if found.get("quant_method") == "gptq":
        return GPTQConfig(bits=found["bits"], backend=f"gptq_{name}")
    named = {"triton": "gemm_triton", PLAIN: "torch_awq"}
    return AwqConfig(bits=found["bits"], backend=named.get(name, name))


def _chosen(wanted: str, folder: Path, device: str, dtype: str) -> tuple[str, str]:
    """The 4-bit kernel of a model directory on a device, and why it is not the fastest; empty where its layers are not
    of 4 bits, or PyTorch's own on a CPU."""
    found = quantization_of(folder)
    method, group = found.get("quant_method"), found.get("group_size", 128)
    if method not in ("gptq", "awq"):
        return "", ""
    if device == "cuda":
        return choose(wanted, folder, method, found["bits"], group, dtype)
    if found.get("bits") == 4 and group not in INT4_GROUPS:
        return PLAIN, f"PyTorch's own takes groups of {', '.join(map(str, INT4_GROUPS))}, not of {group}"
    return "", ""


def demand_fit(info: Mapping[str, Any]) -> None:
    """Raises `BrokenArtifact` for keys that a checkpoint and its model do not have in common, by what transformers says
    of loading it."""
    faults = {
        kind: sorted(str(k) for k in info.get(kind, ()) if not str(k).endswith(MASKS))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    }
    if any(faults.values()):
        told = "; ".join(f"{kind}: {', '.join(keys[:3])} ({len(keys)})" for kind, keys in faults.items() if keys)
        raise BrokenArtifact(f"the checkpoint does not fit its model: {told}")


def load(
    folder: Path, context: Context, int4_kernel: str = "auto", packs: bool = True, unpacks: bool = False
) -> Loaded:
    """Loads a model directory on the context's device, in the dtype it computes in. `int4_kernel` is gptqmodel's
    kernel for GPTQ and AWQ on a GPU, one of `KERNELS`; see `harness.quantize.int4_kernels.choose` for `auto`,
    which falls back to Triton's for a model that the fastest kernel refuses. A CPU has one kernel, which is taken, and
    gptqmodel's plainest for groups that it does not take. With `packs` its plain layers compute from packed weights
    (`harness.packing`) and give up those they had; with `unpacks` its 4-bit layers become plain ones first
    (`harness.unpacking`). The proof counts layers and bytes as they came, and tells the dtype that the model has
    (see `computed_in`). Weights that transformers has no kernel for here become plain ones as it reads them
    (`dequantized` in the proof).

    Raises `BrokenArtifact` for missing, unexpected or mismatched keys.
    """
    from transformers import AutoTokenizer

    if context.device == "cpu":
        use_fast_cpu_kernel()
    options: dict[str, Any] = {**attention_of(folder), **({"device_map": {"": 0}} if context.device == "cuda" else {})}
    method = quantization_of(folder).get("quant_method")
    if method == "torchao" and context.device == "cuda":
        multiply_unprinted()
    dtype = computed_in(method, stored_dtype(folder), context)

    def read(kernel: str) -> Any:
        chosen = {"quantization_config": _kernel(folder, kernel)} if kernel else {}
        with read_layer_by_layer() if method == "torchao" else contextlib.nullcontext():
            return auto_class(folder).from_pretrained(
                str(folder), dtype=torch_dtype(dtype), output_loading_info=True, **options, **chosen
            )

    kernel, why = _chosen(int4_kernel, folder, context.device, dtype)
    try:
        model, info = read(kernel)
    except (NotImplementedError, ValueError) as error:
        if kernel in ("", PLAIN, FALLBACK) or int4_kernel != "auto":
            raise
        kernel, why = FALLBACK, f"{kernel} refused this model: {str(error).strip().splitlines()[0][:200]}"
        model, info = read(kernel)
    demand_fit(info)
    model.eval()
    text = model.config.get_text_config(decoder=True)
    if getattr(text, "output_router_logits", False):
        text.output_router_logits = False  # a loss of training alone, which asks a mask of transformers' own
    classes = linear_classes(model)
    dequantized = bool(method) and not hasattr(model.config, "quantization_config")  # transformers takes it away then
    if method and method != "mxfp4" and set(classes) == {"Linear"} and not dequantized:  # MXFP4 is of experts alone
        raise BrokenArtifact(f"the checkpoint says {method}, but every layer loaded is a plain Linear: {classes}")
    if kernel == PLAIN and context.device == "cpu":
        leave_uncompiled(model)
    proof = {
        "linear_classes": classes,
        "weights_bytes": weight_bytes(model),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    if dequantized:
        proof["dequantized"] = f"{method}: transformers has no kernel for it here, and made its weights plain ones"
    if context.device == "cpu" and unpacks and method in ("gptq", "awq"):
        from harness.unpacking import unpack

        proof["unpacked"] = unpack(model)
    if context.device == "cpu" and packs:
        proof["packed_layers"] = pack(model)
    if kernel == FALLBACK and method == "awq":
        add_in_order(model)
    if kernel:
        proof["int4_kernel"] = f"{kernel} ({why})" if why else kernel
    return Loaded(model, AutoTokenizer.from_pretrained(str(folder)), proof, classes_of(folder))
