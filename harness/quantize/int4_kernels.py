"""Which kernel multiplies by 4-bit weights on a GPU, compiled before anything waits for it."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.quantize.gptqmodel_runs import prepare
from harness.types import Context, Json

FASTEST, FALLBACK = "marlin", "triton"


def choose(wanted: str, dtype: str) -> tuple[str, str]:
    """gptqmodel's kernel for GPTQ and AWQ, and why it is not the fastest, where it is not. For `auto` that is Marlin
    (Frantar et al., arXiv 2408.11743), which gptqmodel compiles with nvcc at its first use, in minutes, and keeps in
    the user's cache; where that fails, Triton's."""
    if wanted != "auto":
        return wanted, ""
    prepare()
    from gptqmodel import extension

    name = f"marlin_{'bf16' if dtype == 'bfloat16' else 'fp16'}"
    try:
        with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
            extension.load(name=name)
    except (RuntimeError, ValueError, ImportError, OSError) as error:
        said = [line for line in str(error).splitlines() if line.strip()]
        return FALLBACK, f"{FASTEST} could not be compiled: {said[-1][:200] if said else type(error).__name__}"
    return FASTEST, ""


@dataclass(frozen=True, slots=True)
class Compile:
    """The step that compiles it, beside the first builds."""

    kernel: str = "auto"

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "gptqmodel")

    def __call__(self, out: Path, context: Context) -> Mapping[str, Json]:
        start = time.monotonic()
        kernel, why = choose(self.kernel, context.dtype)
        return {"kernel": kernel, "why": why, "compile_seconds": round(time.monotonic() - start, 1)}
