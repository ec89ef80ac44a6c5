"""Which kernel multiplies by 4-bit weights on a GPU, compiled before anything waits for it."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.directory import computed_in, stored_dtype
from harness.quantize.gptqmodel_runs import prepare
from harness.types import Context, Json

FASTEST, FALLBACK, PLAIN = "marlin", "triton", "torch"  # the last is plain PyTorch, for any group


def takes(kernel: str, method: str, bits: int, group_size: int) -> bool:
    """Whether gptqmodel's kernel multiplies by weights that `method` made, of so many bits in groups of this size."""
    from gptqmodel.nn_modules.qlinear import gemm_awq_triton, marlin, marlin_awq, tritonv2

    layer = {
        (FASTEST, "gptq"): marlin.MarlinLinear, (FASTEST, "awq"): marlin_awq.AwqMarlinLinear,
        (FALLBACK, "gptq"): tritonv2.TritonV2Linear, (FALLBACK, "awq"): gemm_awq_triton.AwqGEMMTritonLinear,
    }[kernel, method]  # fmt: skip
    return bits in layer.SUPPORTS_BITS and group_size in layer.SUPPORTS_GROUP_SIZE


def choose(wanted: str, model: Path, method: str, bits: int, group_size: int, dtype: str) -> tuple[str, str]:
    """gptqmodel's kernel for the weights of a model directory that `method` (`gptq` or `awq`) made, or is to make, of
    so many bits in groups of this size, and why it is not the fastest, where it is not. For `auto` that is Marlin
    (Frantar et al., arXiv 2408.11743), which gptqmodel compiles for a dtype with nvcc at its first use, in minutes, and
    keeps in the user's cache; Triton's where Marlin does not take such weights, would pad a layer, or cannot be
    compiled; in its place the one in plain PyTorch, where Triton's does not take them either."""
    if wanted != "auto":
        return wanted, ""
    prepare()
    other = FALLBACK if takes(FALLBACK, method, bits, group_size) else PLAIN
    if not takes(FASTEST, method, bits, group_size):
        refused = FASTEST if other == FALLBACK else f"{FASTEST} or {FALLBACK}"
        return other, f"{bits} bits in groups of {group_size} are nothing for {refused}"
    if why := padded(model):
        return other, why
    from gptqmodel import extension

    name = f"marlin_{'bf16' if dtype == 'bfloat16' else 'fp16'}"
    try:
        with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
            extension.load(name=name)
    except (RuntimeError, ValueError, ImportError, OSError) as error:
        said = [line for line in str(error).splitlines() if line.strip()]
        return other, f"{FASTEST} could not be compiled: {said[-1][:200] if said else type(error).__name__}"
    return FASTEST, ""


def add_in_order(model: Any) -> None:
    """Has gptqmodel's Triton layers for AWQ unpack their weights before they multiply, as they do from 129 rows on. At
    fewer rows eight blocks add their parts of a sum as they come, by atomics: the same answer came out otherwise in 9
    of 48 rows. Unpacking is as fast or faster at most shapes (see DECISIONS.md)."""
    from gptqmodel.nn_modules.qlinear.gemm_awq_triton import AwqGEMMTritonLinear, AwqTritonPlan

    for module in model.modules():
        if isinstance(module, AwqGEMMTritonLinear):
            module.awq_triton_schedule = AwqTritonPlan("dense")


def leave_uncompiled(model: Any) -> None:
    """Has gptqmodel's plainest layers unpack their weights as they stand. It hands that to `torch.compile`, which takes
    18 seconds and a C++ compiler in each process that loads such a model."""
    for module in model.modules():
        vars(module).pop("dequantize_weight", None)  # what it put before its class's own


def padded(model: Path) -> str:
    """Which layer of a model directory's decoder Marlin would pad at every step, or nothing: its tiles are 64 by 128.
    gptqmodel pads where Marlin is asked for by name, which takes longer than Triton's kernel (see DECISIONS.md)."""
    import torch
    from gptqmodel.utils.marlin import marlin_is_tile_aligned
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        layers = AutoModel.from_config(AutoConfig.from_pretrained(str(model))).get_decoder().named_modules()
    for name, layer in layers:
        if isinstance(layer, torch.nn.Linear) and not marlin_is_tile_aligned(layer.out_features, layer.in_features):
            return f"{FASTEST} would pad {name} ({layer.in_features} to {layer.out_features}) at every step"
    return ""


@dataclass(frozen=True, slots=True)
class Compile:
    """The step that compiles it for a base model, whose weights `method` will make of so many `bits` in groups of
    `group_size`, beside the first builds."""

    kernel: str = "auto"
    method: str = "gptq"
    bits: int = 4
    group_size: int = 64

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "gptqmodel")

    def __call__(self, base: Path, out: Path, context: Context) -> Mapping[str, Json]:
        start = time.monotonic()
        dtype = computed_in(self.method, stored_dtype(base), context)
        kernel, why = choose(self.kernel, base, self.method, self.bits, self.group_size, dtype)
        return {"kernel": kernel, "why": why, "compile_seconds": round(time.monotonic() - start, 1)}
