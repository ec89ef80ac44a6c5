"""16-bit weights: the reference of the grid, and what most teams serve today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.directory import auto_class, came_quantized, config_of, torch_dtype, weight_files
from harness.models.hub import link_tree
from harness.types import Context, Json

SAFETENSORS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


@dataclass(frozen=True, slots=True)
class Sixteen:
    """Stores the weights in `dtype` (`float16` or `bfloat16`, or `float32` to change nothing). A CPU without fast
    16-bit arithmetic loads them into float32 to compute; the record names both. Weights that are so already are passed
    on as they are, and with `keep_quantized` all that come, also of a checkpoint that came quantized (by auto-gptq or
    autoawq, say), whatever `dtype` says."""

    dtype: str = "float16"
    keep_quantized: bool = False

    VERSION: ClassVar[int] = 2
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "transformers")

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "bfloat16", "float32"):
            raise ValueError(f"dtype {self.dtype!r}: choose float16, bfloat16 or float32")

    def unable(self, config: Mapping[str, Json]) -> str | None:
        """Why a model of this configuration cannot be stored so, or None."""
        return came_quantized(config, self.keep_quantized)

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Json]:
        config = config_of(model)
        if config.get("quantization_config"):
            link_tree(model, out)
            method = config["quantization_config"].get("quant_method")
            return {"stored_dtype": f"as it came ({method})", "replaced_modules": None}
        stored = _stored(model)
        if self.keep_quantized or stored == {self.dtype}:
            link_tree(model, out)
        else:
            loaded = auto_class(model).from_pretrained(str(model), dtype=torch_dtype(self.dtype))
            loaded.save_pretrained(str(out))
        told = ", ".join(sorted(stored)) if self.keep_quantized else self.dtype
        return {"stored_dtype": told, "replaced_modules": 0}


def _stored(model: Path) -> set[str]:
    """The dtypes in which a model directory keeps its weights; those of no floats by their names in safetensors."""
    from safetensors import safe_open

    found = set()
    for path in weight_files(model):
        with safe_open(path, framework="pt") as file:
            found |= {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return {SAFETENSORS.get(kind, kind) for kind in found}
