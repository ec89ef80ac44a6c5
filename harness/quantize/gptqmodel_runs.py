"""What GPTQ and AWQ share: running gptqmodel on a model directory, on a GPU or on a CPU.

gptqmodel absorbed auto-gptq and autoawq, which are unmaintained and do not run beside transformers 5.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.quantize.classifier_head import as_language_model, put_back
from harness.types import Context, Json


def check(group_size: int, calibration_rows: int) -> None:
    """Raises `ValueError` for knobs that no model can be quantized with."""
    if calibration_rows < 0:
        raise ValueError(f"calibration_rows={calibration_rows}: must be 0 or more")
    if group_size < 1 and group_size != -1:
        raise ValueError(f"group_size={group_size}: must be 1 or more, or -1 for one scale an output")


def prepare() -> None:
    """Environment that gptqmodel reads when it is imported: a machine of two cores has fewer CPU workers than
    its pool asks for."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")


def quantize(
    model: Path, config: Any, calibration: Sequence[str], out: Path, context: Context, **options: Any
) -> dict[str, Json]:
    """Quantizes and saves; the tokenizer goes along. `calibration` are rendered texts, which hold their special tokens.
    Returns how many there are (none: weights are rounded).

    A CPU computes in the context's dtype (float32 without fast 16-bit arithmetic: five times faster there).
    """
    from gptqmodel import GPTQModel
    from transformers import AutoTokenizer

    from harness.loading import torch_dtype

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    rows = [{"input_ids": tokenizer(text, add_special_tokens=False).input_ids} for text in calibration]

    with as_language_model(model) as decoder:
        loaded = GPTQModel.load(str(decoder), config, dtype=torch_dtype(context.dtype))
        context.progress(0.1, f"{len(rows)} calibration rows")
        with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # it writes `logs/` where it stands
            loaded.quantize(rows or None, batch_size=1, **options)
        context.progress(0.95, "saving")
        loaded.save(str(out))
    put_back(model, out)
    return {"calibration_rows": len(rows)}


def bad_shape(model: Path, group_size: int) -> str | None:
    """Why this group size cannot serve this model, or None."""
    import json

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    sizes = {name: config[name] for name in ("hidden_size", "intermediate_size") if name in config}
    wrong = [f"{name} {size}" for name, size in sizes.items() if group_size > 0 and size % group_size]
    return (
        f"group size {group_size} does not divide {' and '.join(wrong)}; set quantization.group_size" if wrong else None
    )
