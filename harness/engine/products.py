"""The matrix products of a decoder: linear layers that share an input, together.

Plain layers become one product. So do torchao's dynamic INT8 layers on a GPU, by two kernels of our own
(`harness.engine.ops.dynamic_linear`, the same numbers bit for bit): torchao's own forward pass goes through some
thirty Python calls a layer and asks the host, so that it can be neither fast nor captured. Any other kind of layer
computes as its library does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.packing import packed


def dynamic(linear: Any) -> bool:
    """Whether a layer is torchao's dynamic INT8 as `harness.quantize.dynamic` makes it: a scale a row on both sides,
    symmetric."""
    weight: Any = getattr(linear, "weight", None)
    if type(weight).__name__ != "Int8Tensor" or weight.act_quant_kwargs is None:
        return False
    plain = weight.act_pre_scale is None and weight.act_quant_scale is None and not weight.reduce_range
    by_rows = type(weight.act_quant_kwargs.granularity).__name__ == "PerRow" and weight.scale.numel() == len(weight)
    return plain and by_rows and weight.act_quant_kwargs.mapping_type.name == "SYMMETRIC"


def joined(linears: Sequence[Any]) -> Callable[[Any], list[Any]]:
    """What several linear layers make of one input. Those that become one product then share its weight."""
    import torch

    if all(type(m) is torch.nn.Linear and type(m.weight) is torch.nn.Parameter and not packed(m) for m in linears):
        return _joined_plain(linears)
    if all(dynamic(m) and m.weight.qdata.is_cuda for m in linears):
        return _joined_dynamic(linears)
    return lambda x: [m(x) for m in linears]


def _joined_plain(linears: Sequence[Any]) -> Callable[[Any], list[Any]]:
    import torch

    if len(linears) == 1:
        return lambda x: [linears[0](x)]
    weight = torch.cat([m.weight.data for m in linears])
    bias = None if linears[0].bias is None else torch.cat([m.bias.data for m in linears])
    sizes = [m.weight.shape[0] for m in linears]
    for m, part in zip(linears, weight.split(sizes), strict=True):
        m.weight.data = part
    return lambda x: list(torch.nn.functional.linear(x, weight, bias).split(sizes, dim=-1))


def _joined_dynamic(linears: Sequence[Any]) -> Callable[[Any], list[Any]]:
    import torch

    from harness.engine.ops import dynamic_linear

    weight = torch.cat([m.weight.qdata for m in linears])
    scale = torch.cat([m.weight.scale.flatten() for m in linears])
    bias = None if linears[0].bias is None else torch.cat([m.bias.data for m in linears])
    sizes = [m.weight.shape[0] for m in linears]
    for m, part in zip(linears, weight.split(sizes), strict=True):
        m.weight.qdata = part
    return lambda x: list(dynamic_linear(x, weight, scale, bias).split(sizes, dim=-1))
