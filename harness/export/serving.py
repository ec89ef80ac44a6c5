"""How a model directory can be served, by what its own `quantization_config` says.

What vLLM reads is taken from its documentation (features/quantization, read in November 2026) and merged changes; the
harness has not run vLLM, and the model card says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.types import Json

MARLIN = "Kernels for NVIDIA GPUs (Marlin from Turing on), Intel GPUs and x86 CPUs."


@dataclass(frozen=True, slots=True)
class Serving:
    """`command` serves the folder with vLLM (empty: it is not known to be able to); `note` says what to know."""

    command: str
    note: str


def libraries(quantization: Mapping[str, Json]) -> tuple[str, ...]:
    """The distributions that transformers needs to load such a checkpoint, beside torch, accelerate and itself."""
    found = {
        "gptq": ("gptqmodel", "optimum"), "awq": ("gptqmodel",), "bitsandbytes": ("bitsandbytes",),
        "torchao": ("torchao",), "compressed-tensors": ("compressed-tensors",),
    }  # fmt: skip
    return found.get(str(quantization.get("quant_method", "")), ())


def vllm(quantization: Mapping[str, Json], classes: Sequence[str], name: str, stored_dtype: str) -> Serving:
    """How vLLM serves such a checkpoint under a name."""
    start = f"vllm serve . --served-model-name {name}"
    if classes:
        return Serving(
            "",
            "This is a classifier, no chat model: `example.py` answers with it. vLLM has pooling models for "
            "classification; whether it reads this one was not looked into.",
        )
    method = str(quantization.get("quant_method", ""))
    if method == "gptq":
        return Serving(start, f"vLLM reads GPTQ checkpoints as they are. {MARLIN}")
    if method == "awq":
        return Serving(start, f"vLLM reads AWQ checkpoints as they are. {MARLIN}")
    if method == "compressed-tensors":
        return Serving(start, "vLLM reads compressed-tensors checkpoints as they are.")
    if method == "bitsandbytes":
        eight = " (8 bits since vllm-project/vllm#7445, which its documentation does not tell)"
        told = eight if quantization.get("load_in_8bit") else ""
        return Serving(
            start,
            f"vLLM reads bitsandbytes checkpoints{told} on NVIDIA GPUs, with `pip install bitsandbytes`; not on CPUs.",
        )
    if method == "torchao":
        return Serving(
            f"{start} --quantization torchao --safetensors-load-strategy torchao",
            "vLLM reads torchao's safetensors since vllm-project/vllm#25969, with torchao 0.15 or newer, through an "
            "interface that torchao calls a prototype. If it refuses this checkpoint, serve it with transformers.",
        )
    if method:
        return Serving("", f"Whether vLLM reads checkpoints of {method} was not looked into.")
    dtype = stored_dtype if stored_dtype in ("float16", "bfloat16") else "auto"
    return Serving(f"{start} --dtype {dtype}", "Plain weights, which vLLM reads on every device that it supports.")
