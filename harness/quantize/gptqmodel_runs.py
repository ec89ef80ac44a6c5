"""What GPTQ and AWQ share: running gptqmodel on a model directory, on a GPU or on a CPU.

gptqmodel absorbed auto-gptq and autoawq, which are unmaintained and do not run beside transformers 5.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.anatomy import attention_kinds
from harness.directory import came_quantized, mixes_experts, text_part, torch_dtype, weight_files
from harness.errors import UserError
from harness.quantize.classifier_head import as_language_model, put_back
from harness.quantize.proof import CONV1D, OWN
from harness.types import Context, Json

TESTED = "7.6.0"
WORTH_COMPILING = 2 * 2**30  # bytes of a model, from which on packing it by gptqmodel's extension saves what that took
_BOTH = {
    **dict.fromkeys(
        ("glm", "glm4", "phi3"), "it takes the joined gate and up projection apart, and transformers looks for it whole"
    ),
    **dict.fromkeys(
        ("qwen3_5", "qwen3_5_text"), "it leaves two layers of each linear attention, and transformers looks for all"
    ),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), "transformers looks for plain weights to set up where it put its layers"),
    "openai-gpt": "it does not know the family",
}
GROUPS = {"gptq": (16, 32, 64, 128, 256, 512, 1024), "awq": (16, 32, 64, 128)}  # that gptqmodel has a kernel for
UNABLE: Mapping[str, Mapping[str, str]] = {  # families tried with gptqmodel 7.6 and transformers 5.23, by `model_type`
    "gptq": {
        **_BOTH,
        **dict.fromkeys(("falcon", "mpt"), "optimum, which reads what it saves, does not find its layers"),
    },
    "awq": {
        **_BOTH,
        **dict.fromkeys(
            ("gpt_neox", "gptj", "starcoder2"), "it scales an activation, and transformers does not find the scale"
        ),
        **dict.fromkeys(("falcon", "mpt"), "it passes over layers in its search, and then looks for what it found"),
        "bloom": "its search calls the attention without the residual",
        **dict.fromkeys(("cohere2", "helium", "nemotron", "olmo"), "it does not know which of its layers scale which"),
        "gemma3_text": "its search calls the rotary positions without the kind of the layer",
        "gemma3": "what it saves cannot be loaded beside the part that sees",
    },
}


def check(method: str, group_size: int, calibration_rows: int) -> None:
    """Raises `ValueError` for knobs that no model can be quantized with by a method (`gptq` or `awq`)."""
    if calibration_rows < 0:
        raise ValueError(f"calibration_rows={calibration_rows}: must be 0 or more")
    if group_size < 1 and group_size != -1:
        raise ValueError(f"group_size={group_size}: must be 1 or more, or -1 for one scale an output")
    if group_size not in (-1, *GROUPS[method]):
        told = f"has no kernel for it; set {', '.join(map(str, GROUPS[method]))}, or -1 for one scale an output"
        raise ValueError(f"group_size={group_size}: gptqmodel {told}")


def prepare() -> None:
    """Environment that gptqmodel reads when it is imported: a machine of two cores has fewer CPU workers than
    its pool asks for. Raises `UserError` for another version than the one whose methods are replaced here."""
    found = importlib.metadata.version("gptqmodel")
    if found.partition("+")[0] != TESTED:  # behind it, what it was compiled for
        raise UserError(f"gptqmodel {found}: GPTQ and AWQ are mended for {TESTED}; pip install gptqmodel=={TESTED}")
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")


def pack_in(model: Path) -> None:
    """Has gptqmodel pack a small model's weights in Python: its extension, which it compiles at first use (in half a
    minute on a GPU's host), saves 32 nanoseconds a weight."""
    small = sum(file.stat().st_size for file in weight_files(model)) < WORTH_COMPILING
    os.environ["GPTQMODEL_DISABLE_PACK_EXT"] = "1" if small else "0"


def quantize(
    model: Path, config: Any, calibration: Sequence[str], out: Path, context: Context, backend: Any
) -> dict[str, Json]:
    """Quantizes and saves; the tokenizer goes along. `calibration` are rendered texts, which hold their special tokens.
    Returns how many there are (none: weights are rounded). `backend` names the layers that hold what was found, in
    plain PyTorch: the format is one, and the layers that gptqmodel chooses for AWQ on a GPU take a minute to compile,
    to multiply by what nothing multiplies by here.

    A CPU computes in the context's dtype (float32 without fast 16-bit arithmetic: five times faster there).
    """
    from gptqmodel import GPTQModel
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    rows = [{"input_ids": tokenizer(text, add_special_tokens=False).input_ids} for text in calibration]

    with as_language_model(model) as decoder:
        pack_in(decoder)
        loaded = GPTQModel.load(str(decoder), config, dtype=torch_dtype(context.dtype))
        loaded.prepare_dataset = partial(loaded.prepare_dataset, calibration_data_min_length=0)  # else of 11 tokens up
        _give_each_its_own(loaded, {len(row["input_ids"]) for row in rows})
        context.progress(0.1, f"{len(rows)} calibration rows")
        with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # it writes `logs/` where it stands
            loaded.quantize(rows or None, batch_size=1, backend=backend)
        context.progress(0.95, "saving")
        loaded.save(str(out))
    put_back(model, out)
    return {"calibration_rows": len(rows)}


def _give_each_its_own(loaded: Any, lengths: Collection[int]) -> None:
    """Has gptqmodel call each layer with what the model itself gives it for texts of these lengths. It calls all with
    what the first one was given, which where layers see differently (Gemma 3) are other positions and another window,
    but for families that it looks after (Gemma 4)."""
    import torch
    from gptqmodel.models.base import BaseQModel
    from gptqmodel.utils.model import nested_move_to

    decoder, seam = loaded.model.get_decoder(), "prepare_layer_replay_kwargs"
    alike = len(attention_kinds(decoder.config)) < 2 or not hasattr(decoder, "layers")  # GPT-Neo's know by themselves
    if alike or getattr(type(loaded), seam) is not getattr(BaseQModel, seam):
        return
    given: dict[tuple[Any, int], dict[str, Any]] = {}

    def noted(layer: Any, hidden: Any, *_: Any, **told: Any) -> Any:
        given[layer, hidden.shape[1]] = {k: told[k] for k in ("position_embeddings", "attention_mask") if k in told}
        return hidden

    for layer in decoder.layers:
        layer.forward = partial(noted, layer)
    try:
        with torch.no_grad():
            for length in lengths:
                decoder(torch.zeros(1, length, dtype=torch.long, device=decoder.device), use_cache=False)
    finally:
        for layer in decoder.layers:
            del layer.forward

    def prepare(layer: Any, layer_input: Any, additional_inputs: dict[str, Any], target_device: Any) -> Any:
        return additional_inputs | nested_move_to(given.get((layer, layer_input[0].shape[1]), {}), target_device)

    setattr(loaded, seam, prepare)


def unable(config: Mapping[str, Json], method: str, group_size: int) -> str | None:
    """Why gptqmodel cannot quantize a model of this configuration by a method (`gptq` or `awq`) in groups of this size,
    so that it then loads, or None."""
    kind = str(config.get("model_type"))
    if quantized := came_quantized(config):
        return quantized
    if mixes_experts(config):
        told = f"gptqmodel takes the experts of {kind} apart, and transformers does not put them together again"
        return f"{told}; take quantization=fp16 or bf16"
    if why := UNABLE[method].get(kind):
        others = "fp16 or bf16" if kind in OWN else "int8" if kind in CONV1D else "int8 or dynamic"
        return f"gptqmodel cannot quantize {kind} by {method.upper()}: {why}; take quantization={others}"
    return bad_shape(config, group_size)


def bad_shape(config: Mapping[str, Json], group_size: int) -> str | None:
    """Why this group size cannot serve a model of this configuration, or None."""
    part = text_part(config)
    sizes = {name: part.get(name) for name in ("hidden_size", "intermediate_size")}
    heads, each = part.get("num_attention_heads"), part.get("head_dim")
    if isinstance(heads, int) and isinstance(each, int):  # else they share the hidden size
        sizes["num_attention_heads × head_dim"] = heads * each
    wrong = [f"{n} {s}" for n, s in sizes.items() if isinstance(s, int) and group_size > 0 and s % group_size]
    return (
        f"group size {group_size} does not divide {' and '.join(wrong)}; set quantization.group_size" if wrong else None
    )
