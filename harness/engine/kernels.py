"""Triton kernels for the operations of `harness.engine.ops`, where a step waits for launches and not for arithmetic.

They compile in about a second each at first use and are kept in Triton's own cache on disk. A CPU runs them under
`TRITON_INTERPRET=1`, which the tests do where Triton is installed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

BLOCK_KEYS = 64
PROGRAMS = 264  # to keep the 132 processors of an H100 busy, twice


@triton.jit
def _add_rms_norm(x, residual, weight, out, total, size, epsilon, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    there = at < size
    place = row * size + at
    s = tl.load(x + place, there, 0.0).to(tl.float32) + tl.load(residual + place, there, 0.0).to(tl.float32)
    s = s.to(total.dtype.element_ty)  # what the residual stream keeps
    tl.store(total + place, s, there)
    wide = s.to(tl.float32)
    scaled = wide * tl.rsqrt(tl.sum(wide * wide, 0) / size + epsilon)
    w = tl.load(weight + at, there, 0.0)
    tl.store(out + place, w * scaled.to(out.dtype.element_ty), there)


def add_rms_norm(x: Any, residual: Any, weight: Any, epsilon: float) -> tuple[Any, Any]:
    """See `harness.engine.ops.add_rms_norm`."""
    size = x.shape[-1]
    out, total = torch.empty_like(x), torch.empty_like(x)
    block = triton.next_power_of_2(size)
    _add_rms_norm[(x.numel() // size,)](
        x, residual, weight, out, total, size, epsilon, BLOCK=block, num_warps=min(16, max(4, block // 512))
    )
    return out, total


@triton.jit
def _silu_mul(gate, up, out, size, gate_stride, up_stride, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < size
    g = tl.load(gate + row * gate_stride + at, there, 0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + at, there, 0.0)
    tl.store(out + row * size + at, (g * tl.sigmoid(g)).to(u.dtype) * u, there)


def silu_mul(gate: Any, up: Any) -> Any:
    """See `harness.engine.ops.silu_mul`; both may be halves of one product."""
    rows, size = gate.shape
    out = torch.empty((rows, size), dtype=gate.dtype, device=gate.device)
    _silu_mul[(rows, triton.cdiv(size, 1024))](gate, up, out, size, gate.stride(0), up.stride(0), BLOCK=1024)
    return out


@triton.jit
def _rotate_and_store(
    query, key, value, cos, sin, keys, values, slots, positions,
    tokens, query_token, key_token, value_token, slot_stride, head_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots + token // tokens)
    position = tl.load(positions + token)
    half = tl.arange(0, SIZE // 2)
    if head < HEADS + KV_HEADS:
        if head < HEADS:
            base = query + token * query_token + head * SIZE
        else:
            base = key + token * key_token + (head - HEADS) * SIZE
        a = tl.load(base + half).to(tl.float32)
        b = tl.load(base + SIZE // 2 + half).to(tl.float32)
        c = tl.load(cos + position * SIZE + half).to(tl.float32)
        s = tl.load(sin + position * SIZE + half).to(tl.float32)
        kind = base.dtype.element_ty
        first, second = (a * c - b * s).to(kind), (b * c + a * s).to(kind)
        tl.store(base + half, first)
        tl.store(base + SIZE // 2 + half, second)
        if head >= HEADS:
            place = keys + slot * slot_stride + (head - HEADS) * head_stride + position * SIZE
            tl.store(place + half, first)
            tl.store(place + SIZE // 2 + half, second)
    else:
        whole = tl.arange(0, SIZE)
        v = tl.load(value + token * value_token + (head - HEADS - KV_HEADS) * SIZE + whole)
        place = values + slot * slot_stride + (head - HEADS - KV_HEADS) * head_stride + position * SIZE
        tl.store(place + whole, v)


def rotate_and_store(
    query: Any, key: Any, value: Any, turns: tuple[Any, Any], cache: tuple[Any, Any], slots: Any, positions: Any
) -> tuple[Any, Any]:
    """See `harness.engine.ops.rotate_and_store`. Queries and keys are turned in place; heads of a token stand side by
    side, tokens at any distance (the three may be parts of one product)."""
    rows, tokens, heads, size = query.shape
    kv_heads = key.shape[2]
    _rotate_and_store[(rows * tokens, heads + 2 * kv_heads)](
        query, key, value, *turns, *cache, slots, positions.contiguous(),
        tokens, query.stride(1), key.stride(1), value.stride(1), cache[0].stride(0), cache[0].stride(1),
        HEADS=heads, KV_HEADS=kv_heads, SIZE=size, num_warps=1,
    )  # fmt: skip
    return query, key


@triton.jit
def _attend_part(
    query, keys, values, slots, positions, sums, peaks, parts, scale, query_row, slot_stride, head_stride,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    row, kv, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(positions + row) + 1
    share = tl.cdiv(tl.cdiv(length, SPLITS), KEYS) * KEYS
    start, stop = split * share, tl.minimum(split * share + share, length)
    g, d, n = tl.arange(0, ROWS), tl.arange(0, SIZE), tl.arange(0, KEYS)
    heads = kv * GROUP + g
    q = tl.load(query + row * query_row + heads[:, None] * SIZE + d[None, :], (g < GROUP)[:, None], 0.0)
    base = tl.load(slots + row) * slot_stride + kv * head_stride
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    found = tl.zeros((ROWS, SIZE), tl.float32)
    for at in range(start, stop, KEYS):
        there = at + n < stop
        k = tl.load(keys + base + (at + n)[None, :] * SIZE + d[:, None], there[None, :], 0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        scores = tl.where(there[None, :], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        shrink, weights = tl.exp(peak - higher), tl.exp(scores - higher[:, None])
        v = tl.load(values + base + (at + n)[:, None] * SIZE + d[None, :], there[:, None], 0.0)
        found = found * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        peak = higher
    place = (row * KV_HEADS * GROUP + heads) * SPLITS + split
    tl.store(peaks + place, peak, g < GROUP)
    tl.store(sums + place, total, g < GROUP)
    tl.store(parts + place[:, None] * SIZE + d[None, :], found, (g < GROUP)[:, None])


@triton.jit
def _merge_parts(sums, peaks, parts, out, SIZE: tl.constexpr, SPLITS: tl.constexpr):
    head = tl.program_id(0).to(tl.int64)
    n, d = tl.arange(0, SPLITS), tl.arange(0, SIZE)
    peak = tl.load(peaks + head * SPLITS + n)
    weight = tl.exp(peak - tl.max(peak, 0))
    total = tl.sum(tl.load(sums + head * SPLITS + n) * weight, 0)
    part = tl.load(parts + (head * SPLITS + n)[:, None] * SIZE + d[None, :])
    merged = tl.sum(part * weight[:, None], 0) / total
    tl.store(out + head * SIZE + d, merged.to(out.dtype.element_ty))


def attend_slots(query: Any, cache: tuple[Any, Any], slots: Any, positions: Any, scale: float) -> Any:
    """See `harness.engine.ops.attend_slots`. A row's keys are split among programs and the parts merged by their peaks
    (Dao et al., "Flash-Decoding", 2023); only the keys that a row has are read."""
    rows, heads, size = query.shape
    kv_heads = cache[0].shape[1]
    most = triton.next_power_of_2(triton.cdiv(cache[0].shape[2], BLOCK_KEYS))
    splits = min(most, 16, triton.next_power_of_2(triton.cdiv(PROGRAMS, rows * kv_heads)))
    sums, peaks = torch.empty((2, rows, heads, splits), dtype=torch.float32, device=query.device)
    parts = torch.empty((rows, heads, splits, size), dtype=torch.float32, device=query.device)
    out = torch.empty((rows, heads, size), dtype=query.dtype, device=query.device)
    group = heads // kv_heads
    _attend_part[(rows, kv_heads, splits)](
        query, *cache, slots, positions, sums, peaks, parts, scale,
        query.stride(0), cache[0].stride(0), cache[0].stride(1),
        KV_HEADS=kv_heads, GROUP=group, SIZE=size, SPLITS=splits,
        ROWS=max(16, triton.next_power_of_2(group)), KEYS=BLOCK_KEYS, num_warps=4,
    )  # fmt: skip
    _merge_parts[(rows * heads,)](sums, peaks, parts, out, SIZE=size, SPLITS=splits, num_warps=1)
    return out
