"""Norms, and queries and keys turned by their positions, on a CPU: each in one pass, by C functions (`rowwise.c`) that
gcc compiles. As written in PyTorch they are seven and ten, and take a tenth of a decode step. Results are PyTorch's but
for the order in which a norm adds squares."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from harness.engine.compiled import library


def norm(x: Any, weight: Any, epsilon: float, style: int = 0, residual: Any = None) -> tuple[Any, Any] | None:
    """What `harness.engine.ops.rms_norm` makes of `x` [..., size], and `x`; or of `x + residual`, and that. None where
    nothing compiled takes these."""
    import torch

    found = _found(x, weight, *([] if residual is None else [residual]))
    if found is None or weight.shape != x.shape[-1:] or (residual is not None and residual.shape != x.shape):
        return None
    x, weight = x.contiguous(), weight.contiguous()
    made, size = torch.empty_like(x), x.shape[-1]
    total = x if residual is None else torch.empty_like(x)
    added = (None, None) if residual is None else ((residual := residual.contiguous()).data_ptr(), total.data_ptr())
    found.norm(
        x.data_ptr(), *added, weight.data_ptr(), made.data_ptr(), x.numel() // size, size, epsilon, style,
        torch.get_num_threads(),
    )  # fmt: skip
    return made, total


def turn(query: Any, key: Any, cos: Any, sin: Any, elements: int) -> tuple[Any, Any] | None:
    """See `harness.engine.ops.turn`; None where nothing compiled takes these."""
    import torch

    found = _found(query, key, cos, sin)
    rows, tokens = len(query), query.shape[2]
    alike = (len(key), key.shape[2]) == (rows, tokens) and cos.shape == sin.shape
    if found is None or not alike or cos.shape[1] != tokens or len(cos) not in (1, rows):
        return None
    cos, sin = cos.contiguous(), sin.contiguous()
    of_angles = cos.shape[1] * cos.shape[2] if len(cos) > 1 else 0

    def turned(x: Any) -> Any:
        rows, heads, tokens, size = x.shape
        x = x if x.stride(3) == 1 else x.contiguous()
        made = torch.empty_like(x)  # laid out as it is
        strides = (ctypes.c_int64 * 6)(*x.stride()[:3], *made.stride()[:3])
        found.turn(
            *(t.data_ptr() for t in (x, cos, sin, made)), rows, heads, tokens, size, elements, cos.shape[2],
            of_angles, strides, torch.get_num_threads(),
        )  # fmt: skip
        return made

    return turned(query), turned(key)


def _found(*tensors: Any) -> Any:
    """What is compiled for tensors on a CPU, all of one kind, of which none is learnt; or None."""
    import torch

    dtype = tensors[0].dtype
    if torch.is_grad_enabled() or any(t.device.type != "cpu" or t.dtype != dtype for t in tensors):
        return None
    return _compiled(dtype)


@cache
def _compiled(dtype: Any) -> Any:
    found, _ = library("rowwise.c", dtype, ["-ffp-contract=off"])
    if found is not None:
        address, number = ctypes.c_void_p, ctypes.c_int64
        found.norm.argtypes = [address] * 5 + [number] * 2 + [ctypes.c_float, ctypes.c_int, ctypes.c_int]
        found.turn.argtypes = [address] * 4 + [number] * 7 + [address, ctypes.c_int]
        found.norm.restype = found.turn.restype = None
    return found
