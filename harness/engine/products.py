"""The matrix products of a decoder: linear layers that share an input, together.

Plain layers become one product. So do torchao's dynamic INT8 layers and bitsandbytes' LLM.int8, each by operations of
our own (`harness.engine.ops.dynamic_linear`, `llm_int8_linear`; two kernels on a GPU): their own forward passes go
through dozens of Python calls a layer and ask the host, so that they can be neither fast nor captured. 4-bit layers of
the Marlin kernel become one layer of it. Any other kind of layer computes as its library does.

On a CPU the same operations take the place of these layers' forward passes, whatever engine calls them, and so does
`linear` that of float32 layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from harness.anatomy import dynamic, llm_int8
from harness.loading import Loaded
from harness.packing import packed

MARLIN_TILE = 64  # columns that Marlin's layout keeps together
FEW_ROWS = range(8, 57)  # of a float32 product that MKL is slow at
LEAST = 128  # inputs and outputs of a layer whose products are worth turning round


def marlin(linear: Any) -> bool:
    """Whether a layer is gptqmodel's Marlin, of whole tiles and with its groups in order."""
    if type(linear).__name__ not in ("MarlinLinear", "AwqMarlinLinear") or linear.adapter or linear.bias is not None:
        return False
    return linear._marlin_tile_padding is None and not linear.g_idx.numel() and linear.out_features % MARLIN_TILE == 0


def kind(linear: Any) -> str:
    """What computes a layer's product, for the record."""
    if not dynamic(linear) and not llm_int8(linear):
        return type(linear).__name__
    how = "the harness's kernels" if linear.weight.is_cuda else "torch._int_mm"
    if dynamic(linear):
        return f"torchao's dynamic INT8 by {how}, the same roundings"
    at = f", outliers of {linear.state.threshold:g} or more a token" if linear.state.threshold else ""
    return f"LLM.int8 by {how}{at}"


def replace_products(loaded: Loaded, device: str) -> None:
    """On a CPU has INT8 layers compute by the operations of ours, each where it stands, and tells the proof which; and
    float32 ones by `linear`, where it was seen to be faster."""
    if device != "cpu":
        return
    if kinds := computed_here(loaded.model):
        loaded.proof["products"] = sorted(kinds)
    if _mkl_is_slow_at_few_rows():
        for module in filter(_turned, loaded.model.modules()):
            module.forward = _linear_forward(module)


def computed_here(model: Any) -> set[str]:
    """Has INT8 layers compute by the operations of ours, each where it stands; returns what computes them."""
    kinds = set()
    for module in model.modules():
        if dynamic(module):
            kinds.add(kind(module))
            module.forward = _dynamic_forward(module)
        elif llm_int8(module):
            kinds.add(kind(module))
            _settle(module)
            module.forward = _llm_int8_forward(module)
    return kinds


def _mkl_is_slow_at_few_rows() -> bool:
    import torch

    return bool(torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512")


def linear(x: Any, weight: Any, bias: Any) -> Any:
    """`torch.nn.functional.linear`. A float32 product of few rows on a CPU is computed as (W xᵀ)ᵀ: for x Wᵀ MKL takes
    a kernel there that needs up to twice the time (measured in DECISIONS.md)."""
    import torch

    rows = x.numel() // x.shape[-1]
    if rows not in FEW_ROWS or x.dtype != torch.float32 or x.is_cuda:
        return torch.nn.functional.linear(x, weight, bias)
    made = (weight @ x.reshape(rows, -1).t()).t().contiguous().view(*x.shape[:-1], len(weight))
    return made if bias is None else made.add_(bias)


def _turned(module: Any) -> bool:
    import torch

    return _plain([module]) and module.weight.dtype == torch.float32 and min(module.weight.shape) >= LEAST


def _linear_forward(layer: Any) -> Callable[[Any], Any]:
    return lambda x: linear(x, layer.weight, layer.bias)


def _dynamic_forward(layer: Any) -> Callable[[Any], Any]:
    """The layer's product with the weight that it has when it is called: one that was joined is not kept twice."""
    from harness.engine.ops import dynamic_linear

    scale = layer.weight.scale.flatten()
    return lambda x: dynamic_linear(x, layer.weight.qdata, scale, layer.bias)


def _llm_int8_forward(layer: Any) -> Callable[[Any], Any]:
    from harness.engine.ops import llm_int8_linear

    state, peaks = layer.state, layer.state.SCB.flatten().float()
    return lambda x: llm_int8_linear(x, state.CB, peaks, layer.bias, state.threshold)


def _settle(layer: Any) -> None:
    """Has a layer of bitsandbytes keep its quantized weight where its first call would put it."""
    if layer.weight.CB is not None:
        layer.init_8bit_state()


def joined(linears: Sequence[Any]) -> Callable[[Any], list[Any]]:
    """What several linear layers make of one input. Those that become one product then share its weight."""
    if _plain(linears):
        return _joined_plain(linears)
    if all(map(dynamic, linears)):
        return _joined_dynamic(linears)
    if all(map(llm_int8, linears)) and len({m.state.threshold for m in linears}) == 1:
        return _joined_llm_int8(linears)
    if len(linears) > 1 and all(map(marlin, linears)):
        return _joined_marlin(linears)
    return lambda x: [m(x) for m in linears]


def _plain(linears: Sequence[Any]) -> bool:
    """Whether layers multiply by plain weights of their own."""
    import torch

    return all(type(m) is torch.nn.Linear and type(m.weight) is torch.nn.Parameter and not packed(m) for m in linears)


def _biases(linears: Sequence[Any]) -> Any:
    """The biases of layers, all of which have one or none, in one tensor."""
    import torch

    return None if linears[0].bias is None else torch.cat([m.bias.data for m in linears])


def _joined_plain(linears: Sequence[Any]) -> Callable[[Any], list[Any]]:
    import torch

    if len(linears) == 1:
        return lambda x: [linears[0](x)]
    weight = torch.cat([m.weight.data for m in linears])
    bias = _biases(linears)
    sizes = [m.weight.shape[0] for m in linears]
    for m, part in zip(linears, weight.split(sizes), strict=True):
        m.weight.data = part
    multiply = linear if _mkl_is_slow_at_few_rows() else torch.nn.functional.linear
    return lambda x: list(multiply(x, weight, bias).split(sizes, dim=-1))


def _joined_dynamic(linears: Sequence[Any]) -> Callable[[Any], list[Any]]:
    import torch

    from harness.engine.ops import dynamic_linear

    weight = torch.cat([m.weight.qdata for m in linears])
    scale = torch.cat([m.weight.scale.flatten() for m in linears])
    bias = _biases(linears)
    sizes = [m.weight.shape[0] for m in linears]
    for m, part in zip(linears, weight.split(sizes), strict=True):
        m.weight.qdata = part
    return lambda x: list(dynamic_linear(x, weight, scale, bias).split(sizes, dim=-1))


def _joined_llm_int8(linears: Sequence[Any]) -> Callable[[Any], list[Any]]:
    import torch

    from harness.engine.ops import llm_int8_linear

    for m in linears:
        _settle(m)
    weight = torch.cat([m.weight.data for m in linears])
    peaks = torch.cat([m.state.SCB.flatten() for m in linears]).float()
    bias = _biases(linears)
    sizes, threshold = [m.weight.shape[0] for m in linears], linears[0].state.threshold
    for m, part in zip(linears, weight.split(sizes), strict=True):
        m.weight.data = m.state.CB = part
    return lambda x: list(llm_int8_linear(x, weight, peaks, bias, threshold).split(sizes, dim=-1))


def _joined_marlin(linears: Sequence[Any]) -> Callable[[Any], list[Any]]:
    """Marlin's weights lie in tiles of 64 columns and its scales are permuted within them, so layers side by side are
    one layer. The layers themselves then take their part of its product."""
    import torch

    if run_before := vars(linears[0]).get("joined"):
        return run_before  # type: ignore[no-any-return]
    one = copy.copy(linears[0])
    one._parameters, one._buffers = dict(one._parameters), dict(one._buffers)
    sizes = [m.out_features for m in linears]
    one.out_features = sum(sizes)
    for name in ("qweight", "scales", "qzeros"):
        parts = [getattr(m, name) for m in linears]
        if parts[0].numel():
            setattr(one, name, torch.nn.Parameter(torch.cat([p.data for p in parts], dim=1), requires_grad=False))

    def run(x: Any) -> list[Any]:
        return list(one(x).split(sizes, dim=-1))

    x = torch.randn(3, one.in_features, generator=torch.Generator().manual_seed(0)).to(one.scales)
    with torch.inference_mode():
        apart, together = [m(x) for m in linears], run(x)
    if not all(
        torch.allclose(a, b, rtol=1e-2, atol=1e-2 * float(a.abs().max())) for a, b in zip(apart, together, strict=True)
    ):
        return lambda x: [m(x) for m in linears]
    for n, m in enumerate(linears):
        m.qweight, m.scales, m.qzeros = one.qweight, one.scales, one.qzeros
        m.joined, m.forward = run, lambda x, n=n: run(x)[n]
    return run
