"""AWQ (Lin et al., arXiv 2306.00978) by gptqmodel: 4-bit weights, scaled so that salient channels lose least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.errors import UserError
from harness.quantize import gptqmodel_runs
from harness.types import Context, Json


@dataclass(frozen=True, slots=True)
class Awq:
    """As GPTQ's knobs; AWQ searches a scale a channel and a clipping range a group instead of solving."""

    bits: int = 4
    group_size: int = 64
    calibration_rows: int = 8

    VERSION: ClassVar[int] = 1
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "transformers", "gptqmodel")
    REQUIRES: ClassVar[tuple[str, ...]] = ("gptqmodel",)

    def __post_init__(self) -> None:
        if self.bits not in (4,):
            raise ValueError(f"bits={self.bits}: must be one of {(4,)}")
        if self.calibration_rows < 1:
            raise ValueError(f"calibration_rows={self.calibration_rows}: must be 1 or more")

    def __call__(self, model: Path, calibration: Sequence[str], out: Path, context: Context) -> Mapping[str, Json]:
        if fault := gptqmodel_runs.bad_shape(model, self.group_size):
            raise UserError(fault)
        gptqmodel_runs.prepare()
        from gptqmodel import BACKEND
        from gptqmodel.quantization.config import AWQConfig

        from harness.quantize.awq_search import speed_up

        options: dict[str, Any] = {}
        if context.device == "cpu":
            options["backend"] = BACKEND.AWQ_TORCH
        search = speed_up(float32=context.device == "cpu" and context.dtype == "float32")
        config = AWQConfig(
            bits=self.bits, group_size=self.group_size, offload_to_disk=False,
            device="cuda:0" if context.device == "cuda" else "cpu",
        )  # fmt: skip
        rows = calibration[: self.calibration_rows]
        facts = {"bits": self.bits, "group_size": self.group_size, "search": search}
        return facts | gptqmodel_runs.quantize(model, config, rows, out, context, **options)
