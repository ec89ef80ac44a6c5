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
PROMPT_ROWS = 64  # queries of a prompt in one program: its tokens by the heads that share their keys
NARROW = 256  # elements of heads up to which so many keys and queries fit a processor's registers and shared memory
EXACT = {"enable_fp_fusion": False}  # round where PyTorch does
FEW_ROWS = 32  # up to which a product is a matter of reading its weight
PROGRAMS = 264  # to keep the 132 processors of an H100 busy, twice
AXIS = 65_535  # programs on a grid's third axis
CHUNK = 256  # columns of activations of which is noted whether an outlier is among them


@triton.jit
def _add_rms_norm(x, residual, weight, out, total, size, epsilon, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
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
def _rms_norm(x, weight, out, size, epsilon, STYLE: tl.constexpr, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    there = at < size
    wide = tl.load(x + row * size + at, there, 0.0).to(tl.float32)
    scaled = wide * tl.rsqrt(tl.sum(wide * wide, 0) / size + epsilon)
    w = tl.load(weight + at, there, 0.0)
    if STYLE == 0:
        made = w * scaled.to(out.dtype.element_ty)
    else:
        made = (scaled * (w.to(tl.float32) + (STYLE == 2))).to(out.dtype.element_ty)
    tl.store(out + row * size + at, made, there)


def rms_norm(x: Any, weight: Any, epsilon: float, style: int) -> Any:
    """See `harness.engine.ops.rms_norm`."""
    x = x.contiguous()
    out, size = torch.empty_like(x), x.shape[-1]
    block = triton.next_power_of_2(size)
    _rms_norm[(x.numel() // size,)](
        x, weight, out, size, epsilon, STYLE=style, BLOCK=block, num_warps=min(16, max(1, block // 512))
    )
    return out


@triton.jit
def _store(
    keys, values, to_keys, to_values, slots, positions, tokens, key_row, key_head, key_token, value_row, value_head,
    value_token, slot_stride, head_stride, HEADS: tl.constexpr, SIZE: tl.constexpr, MOST: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64)
    row, token = at // tokens, at % tokens
    h, d = tl.arange(0, MOST)[:, None], tl.arange(0, WIDE)[None, :]
    there = (h < HEADS) & (d < SIZE)
    place = tl.load(slots + row) * slot_stride + h * head_stride + tl.load(positions + at) * SIZE + d
    k = tl.load(keys + row * key_row + h * key_head + token * key_token + d, there)
    v = tl.load(values + row * value_row + h * value_head + token * value_token + d, there)
    tl.store(to_keys + place, k, there)
    tl.store(to_values + place, v, there)


def store(keys: Any, values: Any, cache: tuple[Any, Any], slots: Any, positions: Any) -> None:
    """See `harness.engine.ops.store`: a program a token. The elements of a head lie side by side."""
    rows, heads, tokens, size = keys.shape
    keys, values = (t if t.stride(3) == 1 else t.contiguous() for t in (keys, values))
    _store[(rows * tokens,)](
        keys, values, *cache, slots, positions.contiguous(), tokens, *keys.stride()[:3], *values.stride()[:3],
        cache[0].stride(0), cache[0].stride(1), HEADS=heads, SIZE=size, MOST=triton.next_power_of_2(heads),
        WIDE=triton.next_power_of_2(size), num_warps=4,
    )  # fmt: skip


@triton.jit
def _silu_mul(gate, up, out, size, gate_stride, up_stride, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
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
def _turned(given, there, c, s, SIZE: tl.constexpr):
    a = tl.load(given, there, 0.0).to(tl.float32)
    b = tl.load(given + SIZE // 2, there, 0.0).to(tl.float32)
    kind = given.dtype.element_ty
    return (a * c - b * s).to(kind), (b * c + a * s).to(kind)


@triton.jit
def _rotate_and_store(
    query, key, value, turned, cos, sin, keys, values, slots, positions,
    tokens, query_token, key_token, value_token, slot_stride, head_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr, MOST: tl.constexpr, KV_MOST: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + token)
    half, whole = tl.arange(0, SIZE // 2)[None, :], tl.arange(0, SIZE)[None, :]
    c = tl.load(cos + position * SIZE + half).to(tl.float32)
    s = tl.load(sin + position * SIZE + half).to(tl.float32)
    if tl.program_id(1) == 0:  # its queries, else its keys and values
        h = tl.arange(0, MOST)[:, None]
        first, second = _turned(query + token * query_token + h * SIZE + half, h < HEADS, c, s, SIZE)
        place = turned + token * HEADS * SIZE + h * SIZE + half  # not in place: lanes with the same elements would race
        tl.store(place, first, h < HEADS)
        tl.store(place + SIZE // 2, second, h < HEADS)
    else:
        kv = tl.arange(0, KV_MOST)[:, None]
        there = kv < KV_HEADS
        slot = tl.load(slots + token // tokens) * slot_stride + position * SIZE + kv * head_stride
        left, right = _turned(key + token * key_token + kv * SIZE + half, there, c, s, SIZE)
        tl.store(keys + slot + half, left, there)
        tl.store(keys + slot + SIZE // 2 + half, right, there)
        v = tl.load(value + token * value_token + kv * SIZE + whole, there, 0.0)
        tl.store(values + slot + whole, v, there)


def rotate_and_store(
    query: Any, key: Any, value: Any, turns: tuple[Any, Any], cache: tuple[Any, Any], slots: Any, positions: Any
) -> Any:
    """See `harness.engine.ops.rotate_and_store`: two programs a token. Heads of a token stand side by side, tokens at
    any distance (the three may be parts of one product)."""
    rows, tokens, heads, size = query.shape
    kv_heads = key.shape[2]
    turned = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    distances = (t.stride(1 if tokens > 1 else 0) for t in (query, key, value))  # one token alone may have any
    _rotate_and_store[(rows * tokens, 2)](
        query, key, value, turned, *turns, *cache, slots, positions.contiguous(),
        tokens, *distances, cache[0].stride(0), cache[0].stride(1), HEADS=heads, KV_HEADS=kv_heads, SIZE=size,
        MOST=triton.next_power_of_2(heads), KV_MOST=triton.next_power_of_2(kv_heads), num_warps=4,
    )  # fmt: skip
    return turned


@triton.jit
def _turn(
    query, key, turned_query, turned_key, cos, sin, tokens, query_row, query_head, query_token, key_row, key_head,
    key_token, turns_row, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr, TURNED: tl.constexpr,
    ANGLES: tl.constexpr, MOST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64)
    row, token = at // tokens, at % tokens
    h, d = tl.arange(0, MOST)[:, None], tl.arange(0, WIDE)[None, :]
    turns = row * turns_row + token * ANGLES + d % ANGLES
    c, s = tl.load(cos + turns).to(tl.float32), tl.load(sin + turns).to(tl.float32)
    other = tl.where(d < TURNED // 2, d + TURNED // 2, d - TURNED // 2)
    s = tl.where(d < TURNED // 2, -s, s)
    if tl.program_id(1) == 0:
        there, given, out = (h < HEADS) & (d < SIZE), query + row * query_row + token * query_token, turned_query
        given, out = given + h * query_head, out + (at * HEADS + h) * SIZE + d
    else:
        there, given, out = (h < KV_HEADS) & (d < SIZE), key + row * key_row + token * key_token, turned_key
        given, out = given + h * key_head, out + (at * KV_HEADS + h) * SIZE + d
    kind = query.dtype.element_ty
    x, y = tl.load(given + d, there, 0.0), tl.load(given + other, there & (d < TURNED), 0.0)
    first, second = (x.to(tl.float32) * c).to(kind), (y.to(tl.float32) * s).to(kind)
    made = (first.to(tl.float32) + second.to(tl.float32)).to(kind)
    tl.store(out, tl.where(d < TURNED, made, x), there)


def turn(query: Any, key: Any, cos: Any, sin: Any, elements: int) -> tuple[Any, Any]:
    """See `harness.engine.ops.turn`."""
    rows, heads, tokens, size = query.shape
    kv_heads, angles = key.shape[1], cos.shape[-1]
    query, key = (t if t.stride(3) == 1 else t.contiguous() for t in (query, key))
    made = [t.new_empty(rows, tokens, t.shape[1], size).transpose(1, 2) for t in (query, key)]
    _turn[(rows * tokens, 2)](
        query, key, *made, cos.contiguous(), sin.contiguous(), tokens, *query.stride()[:3], *key.stride()[:3],
        tokens * angles if len(cos) > 1 else 0, HEADS=heads, KV_HEADS=kv_heads, SIZE=size,
        TURNED=elements, ANGLES=angles,
        MOST=triton.next_power_of_2(max(heads, kv_heads)), WIDE=triton.next_power_of_2(size), num_warps=4, **EXACT,
    )  # fmt: skip
    return made[0], made[1]


@triton.jit
def _attend_part(
    query, keys, values, slots, positions, sinks, sums, peaks, parts, out, scale, window, cap, tokens,
    slot_stride, head_stride,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr, SPLITS: tl.constexpr,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, KEYS: tl.constexpr, WINDOWED: tl.constexpr, WIDE: tl.constexpr,
    CAPPED: tl.constexpr, SUNK: tl.constexpr,
):  # fmt: skip
    row, kv = tl.program_id(0).to(tl.int64), tl.program_id(1)
    split, block = tl.program_id(2) % SPLITS, tl.program_id(2) // SPLITS
    r, d, n = tl.arange(0, TOKENS * HEADS), tl.arange(0, WIDE), tl.arange(0, KEYS)
    whole = d < SIZE  # where that is no power of two
    token, g = block * TOKENS + r // HEADS, r % HEADS
    there = (token < tokens) & (g < GROUP)
    position = tl.load(positions + row * tokens + token, there, 0)
    length, begin = tl.max(position, 0) + 1, 0
    if WINDOWED:
        begin = tl.maximum(tl.min(tl.where(there, position, length), 0) - window + 1, 0)
    share = tl.cdiv(tl.cdiv(length - begin, SPLITS), KEYS) * KEYS
    start, stop = begin + split * share, tl.minimum(begin + split * share + share, length)
    head = (row * tokens + token) * KV_HEADS * GROUP + kv * GROUP + g
    q = tl.load(query + head[:, None] * SIZE + d[None, :], there[:, None] & whole[None, :], 0.0)
    base = tl.load(slots + row) * slot_stride + kv * head_stride
    peak = tl.full((TOKENS * HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((TOKENS * HEADS,), tl.float32)
    if SUNK:  # as one more key, of the first part
        peak = tl.where(split == 0, tl.load(sinks + kv * GROUP + g, g < GROUP, 0.0).to(tl.float32), peak)
        total += tl.where(split == 0, 1.0, 0.0)
    found = tl.zeros((TOKENS * HEADS, WIDE), tl.float32)
    for at in range(start, stop, KEYS):
        k = tl.load(keys + base + (at + n)[None, :] * SIZE + d[:, None], (at + n < stop)[None, :] & whole[:, None], 0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        if CAPPED:  # tanh, as 1 - 2 / (exp(2x) + 1)
            scores = cap - 2 * cap / (tl.exp(scores * (2 / cap)) + 1)
        scores = tl.where((at + n)[None, :] <= position[:, None], scores, float("-inf"))
        if WINDOWED:
            scores = tl.where((at + n)[None, :] > position[:, None] - window, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        if WINDOWED:  # a row may see none of the first keys: exp(-inf - 0), not of their difference
            higher = tl.where(higher == float("-inf"), 0.0, higher)
        shrink, weights = tl.exp(peak - higher), tl.exp(scores - higher[:, None])
        v = tl.load(
            values + base + (at + n)[:, None] * SIZE + d[None, :], (at + n < stop)[:, None] & whole[None, :], 0.0
        )
        found = found * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        peak = higher
    place = head * SPLITS + split
    if SPLITS == 1:  # nothing to merge
        made = (found / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + place[:, None] * SIZE + d[None, :], made, there[:, None] & whole[None, :])
    else:
        tl.store(peaks + place, peak, there)
        tl.store(sums + place, total, there)
        tl.store(parts + place[:, None] * SIZE + d[None, :], found, there[:, None] & whole[None, :])


@triton.jit
def _merge_parts(sums, peaks, parts, out, SIZE: tl.constexpr, SPLITS: tl.constexpr, WIDE: tl.constexpr):
    head = tl.program_id(0).to(tl.int64)
    n, d = tl.arange(0, SPLITS), tl.arange(0, WIDE)
    peak = tl.load(peaks + head * SPLITS + n)
    weight = tl.exp(peak - tl.max(peak, 0))
    total = tl.sum(tl.load(sums + head * SPLITS + n) * weight, 0)
    part = tl.load(parts + (head * SPLITS + n)[:, None] * SIZE + d[None, :], (d < SIZE)[None, :], 0.0)
    merged = tl.sum(part * weight[:, None], 0) / total
    tl.store(out + head * SIZE + d, merged.to(out.dtype.element_ty), d < SIZE)


def attend(
    query: Any, cache: tuple[Any, Any], slots: Any, positions: Any, scale: float, window: int = 0, cap: float = 0.0,
    sinks: Any = None,
) -> Any:  # fmt: skip
    """See `harness.engine.ops.attend`. A program takes some tokens of a row with all heads that share their keys. Of a
    row with one token the keys are split among programs and the parts merged by their peaks (Dao et al.,
    "Flash-Decoding", 2023). Only the keys that a row has, and sees, are read."""
    query = query.contiguous()
    rows, tokens, heads, size = query.shape
    kv_heads = cache[0].shape[1]
    group = heads // kv_heads
    beside, wide = triton.next_power_of_2(group), max(16, triton.next_power_of_2(size))
    if tokens == 1:
        most = triton.next_power_of_2(triton.cdiv(cache[0].shape[2], BLOCK_KEYS))
        splits = min(most, 16, triton.next_power_of_2(triton.cdiv(PROGRAMS, rows * kv_heads)))
        together, beside = 1, max(16, beside)
    else:  # float32 has no tensor cores: more than 16 take a minute to compile
        most = 16 if query.dtype == torch.float32 or wide > NARROW else PROMPT_ROWS
        splits, together = 1, max(1, most // beside)
    if tokens > together * AXIS:
        halves = zip(query.chunk(2, 1), positions.chunk(2, 1), strict=True)
        return torch.cat([attend(q, cache, slots, p, scale, window, cap, sinks) for q, p in halves], 1)
    many = tokens == 1 and splits == 1
    keys = BLOCK_KEYS // 4 if wide > NARROW else BLOCK_KEYS // 2 if many else BLOCK_KEYS
    sums, peaks = torch.empty((2, rows, heads, splits), dtype=torch.float32, device=query.device)
    parts = torch.empty((rows, heads, splits, size) if splits > 1 else 0, dtype=torch.float32, device=query.device)
    out = torch.empty_like(query)
    _attend_part[(rows, kv_heads, splits * triton.cdiv(tokens, together))](
        query, *cache, slots, positions.contiguous(), sinks, sums, peaks, parts, out, scale, window, cap,
        tokens, cache[0].stride(0), cache[0].stride(1),
        KV_HEADS=kv_heads, GROUP=group, SIZE=size, SPLITS=splits, TOKENS=together, HEADS=beside,
        WINDOWED=window > 0, WIDE=wide, CAPPED=cap > 0, SUNK=sinks is not None,
        KEYS=keys, num_warps=2 if many else 4, num_stages=1 if wide > NARROW else 2 if many else 3,
    )  # fmt: skip
    if splits > 1:
        _merge_parts[(rows * heads,)](sums, peaks, parts, out, SIZE=size, SPLITS=splits, WIDE=wide, num_warps=1)
    return out


@triton.jit
def _quantize_rows(x, out, scales, size, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    there = at < size
    v = tl.load(x + row * size + at, there, 0.0)
    scale = tl.div_rn(tl.max(tl.abs(v.to(tl.float32)), 0), 127.5).to(v.dtype).to(tl.float32)
    scale = tl.maximum(scale, 1.1920928955078125e-07)
    exact = v.to(tl.float32) * tl.div_rn(1.0, scale)
    whole = (exact + 12582912.0) - 12582912.0  # 1.5 * 2^23: rounds to the nearest, halves to even
    tl.store(out + row * size + at, tl.minimum(tl.maximum(whole, -128.0), 127.0).to(tl.int8), there)
    tl.store(scales + row, scale)


@triton.jit
def _int8_sums(
    a, w, m, n, rows, columns, size, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr
):  # fmt: skip
    total = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, size, DEPTH):
        k = start + tl.arange(0, DEPTH)
        left = tl.load(a + m[:, None] * size + k[None, :], (m < rows)[:, None] & (k < size)[None, :], 0)
        place = n[None, :].to(tl.int64) * size + k[:, None]
        right = tl.load(w + place, (n < columns)[None, :] & (k < size)[:, None], 0)
        total += tl.dot(left, right)
    return total


@triton.jit
def _int8_product(
    a, a_scales, w, w_scales, bias, out, rows, columns, size,
    BIASED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = _int8_sums(a, w, m, n, rows, columns, size, ROWS, COLUMNS, DEPTH)
    kind = out.dtype.element_ty
    made = (total.to(tl.float32) * tl.load(a_scales + m, m < rows, 0.0)[:, None]).to(kind)
    scaled = made.to(tl.float32) * tl.load(w_scales + n, n < columns, 0.0)[None, :]
    if BIASED:
        scaled += tl.load(bias + n, n < columns, 0.0).to(tl.float32)[None, :]
    tl.store(out + m[:, None] * columns + n[None, :], scaled.to(kind), (m < rows)[:, None] & (n < columns)[None, :])


def dynamic_linear(x: Any, weight: Any, scale: Any, bias: Any) -> Any:
    """See `harness.engine.ops.dynamic_linear`."""
    flat = x.reshape(-1, x.shape[-1])
    rows, size = flat.shape
    columns = weight.shape[0]
    small = torch.empty((rows, size), dtype=torch.int8, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(size)
    _quantize_rows[(rows,)](
        flat, small, scales, size, BLOCK=block, num_warps=min(16, max(4, block // 512)), **EXACT
    )  # fmt: skip
    if rows > FEW_ROWS and size % 8 == 0 and columns % 8 == 0 and x.is_cuda:
        made = (torch._int_mm(small, weight.t()) * scales[:, None]).to(x.dtype) * scale
        out = (made if bias is None else made + bias).to(x.dtype)
    else:
        out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
        high, wide = (16 if rows <= 16 else 32), (16 if columns <= 4096 else 32)
        _int8_product[(triton.cdiv(columns, wide), triton.cdiv(rows, high))](
            small, scales, weight, scale, bias, out, rows, columns, size,
            BIASED=bias is not None, ROWS=high, COLUMNS=wide, DEPTH=256, num_warps=4, num_stages=4, **EXACT,
        )  # fmt: skip
    return out.view(*x.shape[:-1], columns)


@triton.jit
def _quantize_inliers(
    x, out, peaks, noted, size, threshold, BLOCK: tl.constexpr, CHUNKS: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    there = at < size
    v = tl.load(x + row * size + at, there, 0.0).to(tl.float32)
    apart = tl.abs(v) >= threshold
    v = tl.where(apart, 0.0, v)
    peak = tl.max(tl.abs(v), 0)
    exact = v * tl.div_rn(127.0, tl.maximum(peak, 1e-30))
    whole = (exact + 12582912.0) - 12582912.0  # 1.5 * 2^23: rounds to the nearest, halves to even
    tl.store(out + row * size + at, whole.to(tl.int8), there)
    tl.store(peaks + row, peak)
    some = tl.max(tl.reshape(apart.to(tl.int32), (CHUNKS, CHUNK)), 1)
    tl.store(noted + row * CHUNKS + tl.arange(0, CHUNKS), some)


@triton.jit
def _llm_int8_product(
    x, a, a_peaks, noted, w, w_peaks, bias, out, rows, columns, size, threshold,
    BIASED: tl.constexpr, APART: tl.constexpr, CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = _int8_sums(a, w, m, n, rows, columns, size, ROWS, COLUMNS, DEPTH).to(tl.float32)
    right = tl.load(w_peaks + n, n < columns, 0.0)
    made = total * (tl.load(a_peaks + m, m < rows, 0.0)[:, None] * right[None, :] * (1.0 / 16129.0))
    if APART:
        c = tl.arange(0, CHUNKS)
        some = tl.max(tl.load(noted + m[:, None] * CHUNKS + c[None, :], (m < rows)[:, None], 0), 0)
        exact = tl.zeros((ROWS, COLUMNS), tl.float32)
        for chunk in tl.range(0, tl.cdiv(size, CHUNK), num_stages=1):  # rarely anything to do: no buffers for it
            if tl.sum(tl.where(c == chunk, some, 0), 0) > 0:
                for start in tl.range(chunk * CHUNK, chunk * CHUNK + CHUNK, DEPTH, num_stages=1):
                    k = start + tl.arange(0, DEPTH)
                    v = tl.load(x + m[:, None] * size + k[None, :], (m < rows)[:, None] & (k < size)[None, :], 0.0)
                    v = tl.where(tl.abs(v.to(tl.float32)) >= threshold, v, 0.0).to(x.dtype.element_ty)
                    place = n[None, :].to(tl.int64) * size + k[:, None]
                    part = tl.load(w + place, (n < columns)[None, :] & (k < size)[:, None], 0)
                    exact += tl.dot(v, part.to(v.dtype), input_precision="ieee")
        made += exact * (right[None, :] * (1.0 / 127.0))
    if BIASED:
        made += tl.load(bias + n, n < columns, 0.0).to(tl.float32)[None, :]
    there = (m < rows)[:, None] & (n < columns)[None, :]
    tl.store(out + m[:, None] * columns + n[None, :], made.to(out.dtype.element_ty), there)


def llm_int8_linear(x: Any, weight: Any, peaks: Any, bias: Any, threshold: float) -> Any:
    """See `harness.engine.ops.llm_int8_linear`: two launches, whatever the outliers are."""
    flat = x.reshape(-1, x.shape[-1])
    rows, size = flat.shape
    columns = weight.shape[0]
    block = max(CHUNK, triton.next_power_of_2(size))
    small = torch.empty((rows, size), dtype=torch.int8, device=x.device)
    own = torch.empty(rows, dtype=torch.float32, device=x.device)
    noted = torch.empty((rows, block // CHUNK), dtype=torch.int32, device=x.device)
    limit = threshold or float("inf")
    _quantize_inliers[(rows,)](
        flat, small, own, noted, size, limit, BLOCK=block, CHUNKS=block // CHUNK, CHUNK=CHUNK,
        num_warps=min(16, max(4, block // 512)), **EXACT,
    )  # fmt: skip
    out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    if rows <= FEW_ROWS:
        high, wide, deep, stages = 16 if rows <= 16 else 32, 16 if columns <= 4096 else 32, 256, 4
    else:
        high, wide, deep, stages = 64 if rows <= 64 else 128, 64, 128, 3
    _llm_int8_product[(triton.cdiv(columns, wide), triton.cdiv(rows, high))](
        flat, small, own, noted, weight, peaks, bias, out, rows, columns, size, limit,
        BIASED=bias is not None, APART=threshold > 0, CHUNKS=block // CHUNK, CHUNK=CHUNK,
        ROWS=high, COLUMNS=wide, DEPTH=deep, num_warps=8 if high == 128 else 4, num_stages=stages,
    )  # fmt: skip
    return out.view(*x.shape[:-1], columns)
