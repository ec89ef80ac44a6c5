"""Attention of one token a row on a CPU, by a C function (`attention.c`) that gcc compiles for a model's heads.

PyTorch's attention for CPUs is made for prompts: of one token a row, where few heads share keys, it takes up to twice
as long as this, which reads each key and value once for all of them, and computes in float32 where products of PyTorch
round to 16 bits. Where it can't be compiled, or computes otherwise than PyTorch, PyTorch's attention goes on, and
`attends_by` says why.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from harness.engine.compiled import library

OURS = "the harness's, compiled"
MOST = 8  # heads that share their keys: for more of them PyTorch's products are faster
CHECKED, BESIDE = 300, 100  # keys, and those of them that are handed over beside the rest
CLOSE = 2e-2, 1e-4  # to exact results, by norm: in bfloat16, which rounds once by 2**-9, and in float32


def attend_one(
    query: Any, keys: Any, values: Any, begins: Any, ends: Any, scale: float, slots: Any = None,
    beside: tuple[Any, Any] | None = None,
) -> Any:  # fmt: skip
    """One query a row and head against the keys and values of its row's slot from `begins` [rows] on, before `ends`
    [rows], both of int64 and at least one token apart; `slots` [rows] are 0, 1, ... unless given.

    `query` [rows, heads, size]; `keys` and `values` [slots, kv heads, tokens, size], may be windows on larger ones.
    `beside` is what each query sees besides: what it made of that [1, kv heads, rows * heads / kv heads, size], as the
    query is, and the logs of the sums of exponentials of its scores, without the size, in float32. Returns what is
    attended to, as the query is; None where nothing compiled takes these: PyTorch's attention does. Raises `ValueError`
    or `IndexError` for slots or bounds of another make, or outside of the keys.
    """
    import torch

    rows, heads, size = query.shape
    given, kv_heads = (query, keys, values, *(beside or ())[:1]), keys.shape[1]
    alike = keys.shape == values.shape and keys.stride() == values.stride() and heads % kv_heads == 0
    plain = alike and keys.shape[3] == size and keys.stride()[2:] == (size, 1)
    if not plain or any(t.device.type != "cpu" or t.dtype != query.dtype or t.requires_grad for t in given):
        return None
    run, _ = _compiled(query.dtype, size, heads // kv_heads)
    if run is None:
        return None
    query = query.contiguous()
    made = torch.empty_like(query)
    own = [torch.arange(rows) if slots is None else slots.contiguous(), begins.contiguous(), ends.contiguous()]
    if any(t.shape != (rows,) or t.dtype != torch.int64 for t in own):
        raise ValueError(f"slots and bounds are of another make than [{rows}] of int64")
    aside = [t[0].transpose(0, 1).contiguous() for t in beside or ()]  # as PyTorch has them in memory
    addresses = [t.data_ptr() for t in (query, made, *aside, keys, values, *own)]
    addresses[2:2] = [] if beside else [None, None]
    sizes = rows, kv_heads, keys.shape[0], keys.shape[2], *keys.stride()[:2]
    if wrong := run(*addresses, *sizes, scale, torch.get_num_threads()):
        raise IndexError(f"row {wrong} of {rows} asks for keys that are not in {keys.shape[0]} x {keys.shape[2]}")
    return made


def attends_by(keys: Any, config: Any) -> str:
    """What attends for one token a row of a model to its keys [rows, kv heads, tokens, size], and if it is PyTorch,
    why."""
    heads = getattr(config.get_text_config(decoder=True), "num_attention_heads", None)
    if not isinstance(heads, int):  # where each layer has its own number, or none has one
        return "not known"
    _, why = _compiled(keys.dtype, keys.shape[3], heads // keys.shape[1])
    return f"PyTorch's ({why})" if why else OURS


@cache
def _compiled(dtype: Any, size: int, group: int) -> tuple[Callable[..., int] | None, str]:
    """`attend` of `attention.c` for heads of `size` elements, `group` of which share keys; or why there is none."""
    import torch

    if group > MOST:
        return None, f"{group} heads share their keys"
    found, why = library("attention.c", dtype, [f"-DSIZE={size}", f"-DGROUP={group}"])
    if why:
        return None, why
    run = found.attend
    run.argtypes = [ctypes.c_void_p] * 9 + [ctypes.c_int64] * 6 + [ctypes.c_float, ctypes.c_int]
    far = _far(run, dtype, size, group)
    return (run, "") if far <= CLOSE[dtype == torch.float32] else (None, f"its results are {far:.1g} away")


def _far(run: Any, dtype: Any, size: int, group: int) -> float:
    """How far what is compiled is from exact attention of random keys, of the length of that."""
    import torch

    made = torch.Generator().manual_seed(0)
    query = torch.randn(1, group, size, generator=made).to(dtype)
    keys, values = (torch.randn(1, 1, CHECKED, size, generator=made).to(dtype) for _ in range(2))
    scores = query[0].double() @ keys[0, 0].double().T * size**-0.5
    exact = scores.softmax(dim=-1) @ values[0, 0].double()
    beside = (scores[:, :BESIDE].softmax(dim=-1) @ values[0, 0, :BESIDE].double()).to(dtype)
    lse = scores[:, :BESIDE].logsumexp(-1).float()
    bounds, found = torch.tensor([0, BESIDE, CHECKED]), torch.empty_like(query)
    addresses = [t.data_ptr() for t in (query, found, beside, lse, keys, values, bounds, bounds[1:], bounds[2:])]
    run(*addresses, 1, 1, 1, CHECKED, 0, 0, size**-0.5, 1)
    return float((found[0] - exact).norm() / exact.norm())
