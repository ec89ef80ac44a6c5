"""AWQ (Lin et al., arXiv 2306.00978) by gptqmodel: 4-bit weights, scaled so that salient channels lose least."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.quantize import gptqmodel_runs
from harness.types import Context, Json


@dataclass(frozen=True, slots=True)
class Awq:
    """`group_size` weights share a scale (-1: all of one output). Instead of solving, AWQ searches a scale a channel
    and a clipping range a group, by `calibration_rows` training rows. With none, weights are rounded to the nearest."""

    bits: int = 4
    group_size: int = 64
    calibration_rows: int = 8

    VERSION: ClassVar[int] = 5
    INT4: ClassVar[str] = "awq"  # whose products run on kernels that a GPU compiles
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "transformers", "gptqmodel")

    def __post_init__(self) -> None:
        if self.bits not in (4,):
            raise ValueError(f"bits={self.bits}: must be one of {(4,)}")
        gptqmodel_runs.check("awq", self.group_size, self.calibration_rows)

    def unable(self, config: Mapping[str, Json]) -> str | None:
        """Why a model of this configuration cannot be quantized so, or None."""
        return gptqmodel_runs.unable(config, "awq", self.group_size)

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Json]:
        gptqmodel_runs.prepare()
        from gptqmodel import BACKEND
        from gptqmodel.quantization import FORMAT
        from gptqmodel.quantization.config import AWQConfig, RTNConfig

        from harness.quantize.awq_faster import speed_up

        search = speed_up(float32=context.device == "cpu" and context.dtype == "float32")
        shape: dict[str, Any] = {"bits": self.bits, "group_size": self.group_size, "offload_to_disk": False}
        shape["device"] = "cuda:0" if context.device == "cuda" else "cpu"
        if self.calibration_rows:
            config = AWQConfig(**shape)
        else:
            search = "none"
            config = RTNConfig(**shape, format=FORMAT.GEMM, sym=False)
        rows = calibration[: self.calibration_rows]
        facts = {"bits": self.bits, "group_size": self.group_size, "search": search}
        facts |= gptqmodel_runs.quantize(model, config, rows, out, context, BACKEND.AWQ_TORCH)
        if not self.calibration_rows:
            _call_it_awq(out)
        return facts


def _call_it_awq(folder: Path) -> None:
    """gptqmodel 7.6 saves weights that it rounded into AWQ's format as GPTQ's, which then do not load."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["quantization_config"] |= {"quant_method": "awq", "method": "awq", "zero_point": True}
    file.write_text(json.dumps(config, indent=2), encoding="utf-8")
