"""GPTQ (Frantar et al., arXiv 2210.17323) by gptqmodel: weights of 4 bits, error-corrected column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.quantize import gptqmodel_runs
from harness.types import Context, Json


@dataclass(frozen=True, slots=True)
class Gptq:
    """`group_size` weights share a scale (-1: all of one output); `desc_act` orders columns by activation size (slower
    to serve); `calibration_rows` training rows show the layers what they will see. With none, weights are rounded to
    the nearest and nothing is solved: enough to time the same kernels on random weights."""

    bits: int = 4
    group_size: int = 64
    desc_act: bool = False
    calibration_rows: int = 16

    VERSION: ClassVar[int] = 5
    INT4: ClassVar[str] = "gptq"  # whose products run on kernels that a GPU compiles
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "transformers", "gptqmodel")

    def __post_init__(self) -> None:
        if self.bits not in (2, 3, 4, 8):
            raise ValueError(f"bits={self.bits}: must be one of {(2, 3, 4, 8)}")
        gptqmodel_runs.check("gptq", self.group_size, self.calibration_rows)
        if self.group_size == -1 and self.calibration_rows and not self.desc_act:
            raise ValueError("group_size=-1: is solved with desc_act=true alone; set that, or calibration_rows=0")

    def unable(self, config: Mapping[str, Json]) -> str | None:
        """Why a model of this configuration cannot be quantized so, or None."""
        return gptqmodel_runs.unable(config, "gptq", self.group_size)

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Json]:
        gptqmodel_runs.prepare()
        from gptqmodel import BACKEND
        from gptqmodel.quantization.config import QuantizeConfig, RTNConfig

        config = (QuantizeConfig if self.calibration_rows else RTNConfig)(
            bits=self.bits, group_size=self.group_size, desc_act=self.desc_act, sym=True, offload_to_disk=False,
            device="cuda:0" if context.device == "cuda" else "cpu",
        )  # fmt: skip
        rows = calibration[: self.calibration_rows]
        return {"bits": self.bits, "group_size": self.group_size} | gptqmodel_runs.quantize(
            model, config, rows, out, context, BACKEND.GPTQ_TORCH
        )
