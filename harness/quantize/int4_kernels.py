"""Which kernel multiplies by 4-bit weights on a GPU, compiled before anything waits for it."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.loading import in_range_of, stored_dtype
from harness.quantize.gptqmodel_runs import prepare
from harness.types import Context, Json

FASTEST, FALLBACK = "marlin", "triton"


def choose(wanted: str, model: Path, dtype: str) -> tuple[str, str]:
    """gptqmodel's kernel for the GPTQ or AWQ weights of a model directory, and why it is not the fastest, where it is
    not. For `auto` that is Marlin (Frantar et al., arXiv 2408.11743), which gptqmodel compiles with nvcc at its first
    use, in minutes, and keeps in the user's cache; Triton's where Marlin would pad a layer, or cannot be compiled."""
    if wanted != "auto":
        return wanted, ""
    prepare()
    if why := padded(model):
        return FALLBACK, why
    from gptqmodel import extension

    name = f"marlin_{'bf16' if dtype == 'bfloat16' else 'fp16'}"
    try:
        with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
            extension.load(name=name)
    except (RuntimeError, ValueError, ImportError, OSError) as error:
        said = [line for line in str(error).splitlines() if line.strip()]
        return FALLBACK, f"{FASTEST} could not be compiled: {said[-1][:200] if said else type(error).__name__}"
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
    """Which layer of a model directory Marlin would pad at every step, or nothing: its tiles are 64 by 128. gptqmodel
    pads where Marlin is asked for by name, which takes longer than Triton's kernel (see DECISIONS.md)."""
    import torch
    from gptqmodel.utils.marlin import marlin_is_tile_aligned
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        layers = AutoModel.from_config(AutoConfig.from_pretrained(str(model))).named_modules()
    for name, layer in layers:
        if isinstance(layer, torch.nn.Linear) and not marlin_is_tile_aligned(layer.out_features, layer.in_features):
            return f"{FASTEST} would pad {name} ({layer.in_features} to {layer.out_features}) at every step"
    return ""


@dataclass(frozen=True, slots=True)
class Compile:
    """The step that compiles it for a base model, beside the first builds."""

    kernel: str = "auto"

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "gptqmodel")

    def __call__(self, base: Path, out: Path, context: Context) -> Mapping[str, Json]:
        start = time.monotonic()
        kernel, why = choose(self.kernel, base, in_range_of(stored_dtype(base), context).dtype)
        return {"kernel": kernel, "why": why, "compile_seconds": round(time.monotonic() - start, 1)}
