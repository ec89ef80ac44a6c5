"""Each kernel against the plain PyTorch it stands for, on a CPU (`TRITON_INTERPRET=1`) or a GPU: run as a program."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import torch

from harness.engine import at_once, kernels, ops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMIT = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def near(name: str, a: torch.Tensor, b: torch.Tensor) -> None:
    """Raises where two results are further apart than rounding."""
    a = a.cpu()
    far = float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp(min=1e-6))
    assert far <= LIMIT[a.dtype], f"{name} {a.dtype}: {far}"


def on_cpu(value: Any) -> Any:
    """A tensor, or tensors in a tuple, copied to the CPU."""
    if isinstance(value, tuple):
        return tuple(on_cpu(v) for v in value)
    return value.cpu().clone() if isinstance(value, torch.Tensor) else value


def both(name: str, *arguments: Any) -> tuple[Any, Any]:
    """What the kernel and plain PyTorch make of the same arguments."""
    told = getattr(ops, name)(*(on_cpu(a) for a in arguments))
    found = getattr(kernels, name)(*arguments)
    return found, told


def check(dtype: torch.dtype, heads: int, kv_heads: int, size: int, capacity: int) -> None:
    """Those of a decode step, at one shape."""
    made = torch.Generator().manual_seed(heads * size)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made).to(dtype).to(DEVICE)

    for a, b in zip(*both("add_rms_norm", normal(3, 5, 200), normal(3, 5, 200), normal(200), 1e-5), strict=True):
        near("add_rms_norm", a, b)

    for style in ops.NORMS:
        near("rms_norm", *both("rms_norm", normal(3, 5, 200).transpose(0, 1), normal(200), 1e-5, style))

    gate, up = normal(4, 2 * 1500).chunk(2, dim=-1)
    near("silu_mul", *both("silu_mul", gate, up))

    rows, slots = 3, 6
    sizes = [heads * size, kv_heads * size, kv_heads * size]
    turns = tuple(normal(capacity, size // 2).repeat(1, 2) for _ in "cs")
    cache = normal(slots, kv_heads, capacity, size), normal(slots, kv_heads, capacity, size)
    where = torch.tensor([4, 0, 2], device=DEVICE)
    starts = torch.tensor([0, 3, capacity - 4], device=DEVICE)
    for positions in (
        torch.arange(4, device=DEVICE)[None] + starts[:, None],
        torch.arange(4, device=DEVICE).expand(rows, 4),  # which lie in memory but once
        starts[:, None],  # a step: of a dimension of one token PyTorch gives any stride
    ):
        product = normal(rows, positions.shape[1], sum(sizes))
        parts = tuple(t.view(*t.shape[:2], -1, size) for t in product.split(sizes, dim=-1))
        kept = on_cpu(cache)
        told = ops.rotate_and_store(on_cpu(parts), on_cpu(turns), kept, where.cpu(), positions.cpu())
        found = kernels.rotate_and_store(parts[0], parts[1], parts[2], turns, cache, where, positions)
        for a, b in zip((found, *cache), (told, *kept), strict=True):
            near("rotate_and_store", a, b)


def check_far() -> None:
    """Rows that begin beyond 2^31 elements, in memory that is mostly never touched; and, where there is a processor to
    run them, more programs of one row than 65,535."""
    made = torch.Generator().manual_seed(0)
    wide = torch.empty(2**31 + 3000, dtype=torch.float16, device=DEVICE).as_strided((3, 3000), (2**30, 1))
    wide.copy_(torch.randn(3, 3000, generator=made))
    near("silu_mul", *both("silu_mul", *wide.chunk(2, dim=-1)))
    if DEVICE == "cuda":
        tokens, where = 65_537, torch.zeros(1, dtype=torch.long, device=DEVICE)
        query = torch.randn(1, tokens, 16, 16, generator=made).to(DEVICE)
        cache = tuple(torch.randn(1, 1, tokens, 16, generator=made).to(DEVICE) for _ in "kv")
        at = torch.arange(tokens, device=DEVICE)[None]
        told = ops.attend(query[:, -1:].cpu(), on_cpu(cache), where.cpu(), at[:, -1:].cpu(), 0.25, 20)
        near("attend", kernels.attend(query, cache, where, at, 0.25, 20)[:, -1:], told)


def check_turn(dtype: torch.dtype, heads: int, kv_heads: int, size: int) -> None:
    """Queries and keys turned as transformers' models do, by the very same numbers: all elements, some, by half as many
    angles; interleaved ones are left to the model."""
    made = torch.Generator().manual_seed(heads * size)
    kinds = {"llama": (size, size), "phi3": (size // 2, size // 2), "gpt_oss": (size // 2, size), "cohere": (size, 0)}
    vars(at_once)["turn"] = kernels.turn  # on a CPU too
    for family, (angles, elements) in kinds.items():
        own = importlib.import_module(f"transformers.models.{family}.modeling_{family}").apply_rotary_pos_emb
        for rows, tokens in ((3, 5), (3, 1), (1, 4)):
            heads_of = (torch.randn(rows, tokens, n, size, generator=made) for n in (heads, kv_heads))
            turns = (torch.randn(rows if tokens > 1 else 1, tokens, angles, generator=made) for _ in "cs")
            given = [t.to(dtype).to(DEVICE) for t in (*(h.transpose(1, 2) for h in heads_of), *turns)]
            turn = at_once.Turn(own)
            for found, told in zip(turn(*given), own(*given), strict=True):
                assert torch.equal(found, told), f"turn {family} {dtype}"
            assert list(turn.elements.values()) == [elements], f"turn {family} {dtype}: {turn.elements}"


def check_attend(dtype: torch.dtype, heads: int, kv_heads: int, size: int, capacity: int) -> None:
    """Attention on slots, with windows and without, with scores that are capped, with sinks."""
    made = torch.Generator().manual_seed(heads * size)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made).to(dtype).to(DEVICE)

    rows, slots = 3, 6
    where = torch.tensor([4, 0, 2], device=DEVICE)
    for positions in (torch.tensor([[3], [0], [9]], device=DEVICE), torch.arange(2, 7, device=DEVICE).expand(rows, 5)):
        keys = normal(rows, positions.shape[1], kv_heads, size).transpose(1, 2)
        values = normal(rows, kv_heads, positions.shape[1], size)
        cache = normal(slots, kv_heads, capacity, size), normal(slots, kv_heads, capacity, size)
        kept = on_cpu(cache)
        ops.store(keys.cpu(), values.cpu(), kept, where.cpu(), positions.cpu())
        kernels.store(keys, values, cache, where, positions)
        for a, b in zip(cache, kept, strict=True):
            near("store", a, b)
    for starts, tokens in (
        ([0, 1, capacity - 1], 1), ([capacity // 2, 63, 64], 1),
        ([0, 1, capacity - 37], 37), ([capacity // 2, 0, 5], min(150, capacity // 2)),
    ):  # fmt: skip
        first = torch.tensor(starts, device=DEVICE).clamp(max=capacity - tokens)
        at = first[:, None] + torch.arange(tokens, device=DEVICE)
        query = normal(rows, tokens, heads, size)
        cache = normal(slots, kv_heads, capacity, size), normal(slots, kv_heads, capacity, size)
        sinks = normal(heads) + 2
        rare = ((0, 0.7, None), (20, 0.0, sinks)) if size == 16 else ()  # each is compiled anew
        for window, cap, aside in ((0, 0.0, None), (20, 0.0, None), *rare):
            rest = size**-0.5, window, cap
            told = ops.attend(query.cpu(), on_cpu(cache), where.cpu(), at.cpu(), *rest, on_cpu(aside))
            beyond = [t.clone() for t in cache]
            for t in beyond:  # what lies beyond a row's position must not reach it, nor what lies before its window
                t[where[0], :, int(at[0, -1]) + 1 :] = float("nan")
                t[where[0], :, : max(0, int(at[0, 0]) - window + 1) if window else 0] = float("nan")
            for places in (at, torch.stack([at, at + capacity], dim=2)[:, :, 0]):  # the latter do not lie side by side
                near("attend", kernels.attend(query, tuple(beyond), where, places, *rest, aside), told)


def check_dynamic(dtype: torch.dtype, rows: int, size: int, columns: int, biased: bool) -> None:
    """The dynamic INT8 product is the same number for number."""
    made = torch.Generator().manual_seed(rows * size)
    x = (torch.randn(2, rows, size, generator=made) * torch.logspace(-2, 2, rows)[:, None]).to(dtype).to(DEVICE)
    x[0, 0] = 0
    weight = torch.randint(-128, 128, (columns, size), generator=made, dtype=torch.int8).to(DEVICE)
    scale = torch.rand(columns, generator=made).to(DEVICE) / 100
    bias = torch.randn(columns, generator=made).to(dtype).to(DEVICE) if biased else None
    found, told = both("dynamic_linear", x, weight, scale, bias)
    assert torch.equal(found.cpu(), told), f"dynamic_linear {dtype} {rows} x {size} x {columns}"


def check_llm_int8(dtype: torch.dtype, rows: int, size: int, columns: int, biased: bool, threshold: float) -> None:
    """The LLM.int8 product, with outliers in some rows, in other columns each, and in the last column."""
    made = torch.Generator().manual_seed(rows * size)
    x = torch.randn(2, rows, size, generator=made)
    x[0, 0] = 0
    x[1, :, -1] = 9.0
    for row in range(rows):
        x[0, row, 7 * row % size :: 300] = -6.0 - row
    x = x.to(dtype).to(DEVICE)
    weight = torch.randint(-127, 128, (columns, size), generator=made, dtype=torch.int8).to(DEVICE)
    peaks = torch.rand(columns, generator=made).to(DEVICE) / 10
    bias = torch.randn(columns, generator=made).to(dtype).to(DEVICE) if biased else None
    near("llm_int8_linear", *both("llm_int8_linear", x, weight, peaks, bias, threshold))


if __name__ == "__main__":
    check_far()
    kinds = (torch.float32, torch.float16) if DEVICE == "cpu" else tuple(LIMIT)
    shapes = ((4, 4, 16, 70), (6, 2, 32, 300), (9, 3, 64, 1030), (5, 1, 32, 40))  # the last of one part a row
    for dtype, shape in itertools.product(kinds, shapes):
        check(dtype, *shape)
        check_attend(dtype, *shape)
        check_turn(dtype, *shape[:3])
    for dtype, shape in itertools.product(kinds, ((4, 2, 24, 70), (8, 1, 96, 150), (4, 1, 512, 70))):  # odd, wide
        check_attend(dtype, *shape)
        check_turn(dtype, *shape[:3])
    for dtype, shape in itertools.product(kinds, ((1, 576, 40, True), (9, 264, 5000, False), (40, 1536, 576, True))):
        check_dynamic(dtype, *shape)
        for threshold in (0.0, 6.0):
            check_llm_int8(dtype, *shape, threshold)
    print("kernels agree")
