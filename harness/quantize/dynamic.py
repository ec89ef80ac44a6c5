"""Dynamic INT8 by torchao: int8 weights, activations quantized to int8 a token at a time, at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.directory import auto_class, torch_dtype
from harness.quantize.proof import CONV1D, of_linear_layers, replaced
from harness.types import Context, Json


@dataclass(frozen=True, slots=True)
class Dynamic:
    """Per-channel weights and per-token activations, symmetric. No calibration. Computed in bfloat16 on a GPU, where
    products in float16 overflow to NaN. (torch's older `quantize_dynamic` scales activations a tensor at a time, which
    wrecks small models: see DECISIONS.md.)"""

    VERSION: ClassVar[int] = 2
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "transformers", "torchao")

    def unable(self, config: Mapping[str, Json]) -> str | None:
        """Why a model of this configuration cannot be quantized so, or None."""
        if why := of_linear_layers(config):
            return why
        if (kind := config.get("model_type")) in CONV1D:
            return f"the layers of {kind} are no linear layers to torchao (Conv1D); take quantization=int8"
        return None

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Json]:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig
        from transformers import TorchAoConfig

        loaded = auto_class(model).from_pretrained(
            str(model),
            dtype=torch_dtype("bfloat16" if context.device == "cuda" else context.dtype),
            quantization_config=TorchAoConfig(Int8DynamicActivationInt8WeightConfig()),
            device_map={"": 0} if context.device == "cuda" else None,
        )
        loaded.save_pretrained(str(out))
        return replaced(loaded, "Linear[")
