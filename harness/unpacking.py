"""Weights of 4 bits laid out as plain ones on a CPU, for quality alone.

GPTQ and AWQ quantize weights and nothing else: their product is 'dequantize, then multiply', and a kernel for 4 bits
does both at once to read less memory. Prompts and batches it multiplies slower than oneDNN multiplies plain weights.
What a model answers is the same but for rounding (weights to the dtype computed in), what it takes is not, so latencies
and memory are measured of the 4-bit kernel.
"""

from __future__ import annotations

from typing import Any

from harness.environment import free_memory

PIECE_ROWS = 1024  # of the identity that a kernel multiplies at once


def unpack(model: Any) -> str:
    """Replaces each of gptqmodel's 4-bit layers by a plain `Linear` of the same weights in the dtype that the model
    computes in, one layer after the other, and says for the record what was done: nothing where the plain weights would
    take more than half of the memory that is free."""
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    found = [(name, m) for name, m in model.named_modules() if isinstance(m, BaseQuantLinear)]
    needed = sum(m.in_features * m.out_features for _, m in found) * model.dtype.itemsize
    if needed > (free := free_memory()) / 2:
        return f"no: plain weights need {needed / 2**30:.1f} GiB, and half of {free / 2**30:.1f} GiB free is less"
    for name, layer in found:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, plain(layer, model.dtype))
    return f"4-bit weights of {len(found)} layers unpacked to {str(model.dtype).removeprefix('torch.')} for quality"


def plain(layer: Any, dtype: Any) -> Any:
    """The plain layer of the same weights. They are read off the layer's own product with the identity, in which each
    sum has one summand that is not 0: so they are the kernel's, whatever its layout, groups and zero points."""
    import torch

    size, columns = layer.in_features, layer.out_features
    bias, layer.bias = layer.bias, None
    with torch.inference_mode():
        weight = torch.empty(columns, size, dtype=dtype)
        for start in range(0, size, PIECE_ROWS):
            rows = torch.zeros(min(PIECE_ROWS, size - start), size, dtype=dtype)
            rows[:, start:].fill_diagonal_(1.0)
            weight[:, start : start + len(rows)] = layer(rows).t()
    with torch.device("meta"):
        made = torch.nn.Linear(size, columns, bias=bias is not None, dtype=dtype)
    made.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        made.bias = torch.nn.Parameter(bias.detach().to(dtype), requires_grad=False)
    return made.eval()
