"""INT8 by bitsandbytes: LLM.int8 (Dettmers et al., arXiv 2208.07339)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.directory import auto_class, torch_dtype
from harness.quantize.proof import of_linear_layers, replaced
from harness.types import Context, Json


@dataclass(frozen=True, slots=True)
class Int8:
    """Activation columns with a value of `threshold` or more stay in 16 bits; 0 puts all in int8, which is
    faster on a GPU (no question to the host in each layer) and may cost quality on models over 6B."""

    threshold: float = 6.0

    VERSION: ClassVar[int] = 1
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "transformers", "bitsandbytes")

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise ValueError(f"threshold={self.threshold}: must be 0 or more")

    def unable(self, config: Mapping[str, Json]) -> str | None:
        """Why a model of this configuration cannot be quantized so, or None."""
        return of_linear_layers(config)

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Json]:
        from transformers import BitsAndBytesConfig

        loaded = auto_class(model).from_pretrained(
            str(model),
            dtype=torch_dtype(context.dtype),
            quantization_config=BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=float(self.threshold)),
            device_map={"": 0} if context.device == "cuda" else None,
        )
        loaded.save_pretrained(str(out))
        return {"threshold": self.threshold, **replaced(loaded, "Linear8bitLt")}
