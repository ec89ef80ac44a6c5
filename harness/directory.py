"""What a model directory says of its model before it is loaded: its configuration, its files of weights, the dtype that
it is stored and computed in, what its head answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.types import Context, Json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def torch_dtype(name: str) -> Any:
    """`float16` -> `torch.float16`."""
    import torch

    return getattr(torch, name)


def config_of(folder: Path) -> dict[str, Json]:
    """What a model directory says of its model (`config.json`)."""
    config: dict[str, Json] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def quantization_of(folder: Path) -> dict[str, Json]:
    """A model directory's own `quantization_config`; empty for plain weights."""
    return config_of(folder).get("quantization_config") or {}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads of a model directory: `model.safetensors`, else those that its
    index names, be they there or not; none where it has neither. Others beside them hold the same weights once more
    (Mistral's `consolidated.safetensors`).

    Raises `UserError` for an index that names no files.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    try:
        names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(folder / name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / INDEX}: has no `weight_map` from tensors to files; get the files of that model again"
        ) from error


def came_quantized(config: Mapping[str, Json], kept: bool = False) -> str | None:
    """Why a model of this configuration cannot be trained, nor quantized again, or with its weights `kept` as they are
    not run: it came quantized. None if it did not."""
    found = config.get("quantization_config")
    if not found or not isinstance(found, Mapping):
        return None
    told = "adaptation=prompt_rag or as_is with quantization=as_is only"
    if (method := found.get("quant_method")) == "compressed-tensors":  # its layers stay of the class of plain ones
        told, kept = "nothing here runs that; take the model it was made from", False
    return None if kept else f"the checkpoint comes quantized ({method}): {told}"


def text_part(config: Mapping[str, Json]) -> Mapping[str, Json]:
    """The part of a configuration that is of the language model, where the whole also sees or hears."""
    part = config.get("text_config")
    return part if isinstance(part, Mapping) else config


def mixes_experts(config: Mapping[str, Json]) -> bool:
    """Whether a configuration is one of a mixture of experts; families count them by names of their own."""
    told = text_part(config)
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return any(isinstance(told.get(name), int) and told[name] > 1 for name in names)


def stored_dtype(folder: Path) -> str | None:
    """What a model directory says its weights are stored in, of the whole or of its language model; checkpoints of
    transformers 4 name it otherwise."""
    config = config_of(folder)
    for part in (config, text_part(config)):
        if found := part.get("dtype") or part.get("torch_dtype"):
            return str(found)
    return None


def in_range_of(stored: str | None, context: Context) -> Context:
    """The context for weights that were stored, or trained from ones that were, in the dtype `stored`: bfloat16 where
    that was bfloat16 and it says float16, as on a GPU, which is as fast in either. Activations of some models (Gemma 3)
    leave the range of float16."""
    return replace(context, dtype="bfloat16") if (stored, context.dtype) == ("bfloat16", "float16") else context


def computed_in(method: str | None, stored: str | None, context: Context) -> str:
    """The dtype in which the context's device computes a model whose weights are stored in the dtype `stored` and were
    quantized by `method` (None: plain)."""
    if context.device == "cuda" and method in ("torchao", "mxfp4"):
        return "bfloat16"  # see harness.quantize.dynamic; MXFP4 is of models trained in bfloat16
    if context.device == "cuda" and method == "awq":
        return "float16"  # what transformers makes of any other there
    return in_range_of(stored, context).dtype


def attention_of(folder: Path) -> dict[str, str]:
    """The loading option for a model that caps its scores of attention: some releases of transformers 5 take `sdpa` for
    it, which leaves the cap out without a word."""
    capped = text_part(config_of(folder)).get("attn_logit_softcapping")
    return {"attn_implementation": "eager"} if capped else {}


def classifies(config: Mapping[str, Json]) -> bool:
    """Whether a configuration is that of a model with a classification head."""
    return any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def classes_of(folder: Path) -> tuple[str, ...]:
    """What the classification head of a model directory can answer; nothing for a model that generates."""
    config = config_of(folder)
    if not classifies(config):
        return ()
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers' own, which it does not write
    return tuple(names[str(i)] for i in range(len(names)))


def auto_class(folder: Path) -> Any:
    """The class of transformers that loads a model directory with the head it was saved with."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForSequenceClassification if classes_of(folder) else AutoModelForCausalLM
