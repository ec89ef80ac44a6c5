"""Counts what a quantizer replaced, so that a method that silently did nothing, or little, fails the cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.directory import came_quantized, mixes_experts
from harness.errors import BrokenArtifact
from harness.types import Json

OWN = ("falcon",)  # families whose linear layers are a class of their own, which bitsandbytes and torchao pass over
CONV1D = ("gpt2", "openai-gpt")  # families whose layers are transformers' own Conv1D, weights the other way round
LEAST = 0.5  # of the decoder's weights: with less, a cell would bear the name of what most of it is not


def replaced(model: Any, name: str) -> dict[str, Json]:
    """How many linear modules are now of a class whose name contains `name`, and how many were left.

    Raises `BrokenArtifact` where none is, or they hold less than `LEAST` of the decoder's weights.
    """
    from harness.anatomy import decoder_weights, linear_classes

    counts = linear_classes(model)
    done = sum(n for kind, n in counts.items() if name in kind)
    if not done:
        raise BrokenArtifact(f"no linear layer became {name}: {counts}")
    share = decoder_weights(model, name) / decoder_weights(model)
    if share < LEAST:
        raise BrokenArtifact(f"{name} holds {share:.0%} of the decoder's weights, the others stayed as they were")
    return {"replaced_modules": done, "left_modules": sum(counts.values()) - done, "linear_classes": counts}


def of_linear_layers(config: Mapping[str, Json]) -> str | None:
    """Why a method that replaces linear layers one by one cannot quantize a model of this configuration, or None."""
    if quantized := came_quantized(config):
        return quantized
    if mixes_experts(config):
        told = f"the experts of {config.get('model_type')} are no linear layers, so most weights would stay as they are"
        return f"{told}; take quantization=fp16 or bf16"
    if (kind := config.get("model_type")) in OWN:
        return f"the layers of {kind} are of a class of its own and would stay so; take quantization=fp16 or bf16"
    return None
