"""How near a decode step comes to what the device allows (Williams et al., "Roofline", CACM 2009).

The least that a step can take is the time to read its weights and the keys and values of its rows, or the time of its
products, whichever is longer: bytes over the bandwidth that a copy reaches, operations over the rate that one large
product reaches, on the same device in the same process. At a small batch it is the bytes. A step far from its limit
that takes as long for many rows as for one spends its time on something else, mostly on launching work, by the host or,
in a captured step, kernel by kernel on the device: it is called host-bound, and says nothing of its method.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from harness.anatomy import dynamic, full_attention, has_experts, kv_bytes, llm_int8, weight_bytes, written_by
from harness.environment import free_bytes, settle
from harness.types import Measurement

REPEATS = 7
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
PRODUCT_SIZE = {"cpu": 1024, "cuda": 8192}
FAR = 3.0  # times the limit
FLAT = 1.25  # a step of many rows over a step of one


@dataclass(frozen=True, slots=True)
class Step:
    """Decode steps as they were timed: of so many `rows`, with so many `tokens` in their caches, those that rows share
    counted once, in `ms` milliseconds."""

    rows: int
    tokens: float
    ms: float


def bandwidth(device: str) -> float:
    """Bytes a second that a copy within a device's memory reads and writes: the median of `REPEATS`."""
    import torch

    source = torch.ones(min(COPY_BYTES[device], max(1, free_bytes(device) // 4)), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * int(source.numel()) / _seconds(lambda: target.copy_(source), device)


def rate(device: str, dtype: Any, integers: bool) -> float:
    """Operations a second, a multiplication and an addition for each weight, of a large square linear layer of `dtype`,
    or of 8-bit integers where that is faster and the model's layers multiply such: the median of `REPEATS`."""
    import torch

    size = PRODUCT_SIZE[device]
    one = torch.ones(size, size, dtype=dtype, device=device)
    took = _seconds(lambda: one @ one.t(), device)
    if integers:
        whole = one.to(torch.int8)
        took = min(took, _seconds(lambda: torch._int_mm(whole, whole.t()), device))
    return 2 * size**3 / took


def _seconds(work: Callable[[], object], device: str) -> float:
    """The median of `REPEATS` after one that is not counted."""
    took: list[float] = []
    for _ in range(REPEATS + 1):
        settle(device)
        start = time.perf_counter()
        work()
        settle(device)
        took.append(time.perf_counter() - start)
    return median(took[1:])


def step_bytes(model: Any, weights: int) -> int:
    """Bytes that a step reads of a model's `weights` bytes: all but those of parts that see or hear, and of tables of
    embeddings, of masks and of positions, of which it looks up a row a token. One that makes the logits too is read
    whole, as are the buffers that layers hold their weights in."""
    from torch.nn import Embedding

    parts = written_by(model)
    modules = [m for part in parts for m in part.modules()]
    tables = [m.weight for m in modules if isinstance(m, Embedding)]
    tables += [b for m in modules if not hasattr(m, "in_features") for b in m.buffers(recurse=False)]
    looked_up: dict[int, int] = {table.data_ptr(): table.nbytes for table in tables}
    head = getattr(model.get_output_embeddings(), "weight", None)  # None: packed, and no table
    if head is not None:
        looked_up.pop(head.data_ptr(), None)
    return weights - (weight_bytes(model) - weight_bytes(*parts)) - sum(looked_up.values())


def row_operations(model: Any) -> int:
    """Operations of a step's products with weights for one row, two for each weight. Those of attention are left out,
    so that what is made of it is a lower bound."""
    parts = dict.fromkeys(m for part in written_by(model) for m in part.modules())
    leaves = [m for m in parts if not any(m.children())]  # an adapter's layer stands around one
    sizes = (("in_features", "out_features"), ("nx", "nf"))  # the latter of a GPT-2's layers
    return sum(2 * getattr(m, a, 0) * getattr(m, b, 0) for m in leaves for a, b in sizes)


def measure(model: Any, weights: int, device: str, alone: Step, batch: Step) -> list[Measurement]:
    """The bandwidth and the rate found, the least that a step of one row and one of a batch can take, and how many
    times that they take. The latter are left out for a mixture of experts, whose steps read those weights alone that a
    token is sent to; keys and values where layers see a window of them."""
    copied = bandwidth(device)
    found = [Measurement("bandwidth_bytes_per_s", copied, "B/s", "higher", REPEATS)]
    if has_experts(model):
        return found
    computed = rate(device, model.dtype, any(dynamic(m) or llm_int8(m) for m in model.modules()))
    found.append(Measurement("operations_per_s", computed, "op/s", "higher", REPEATS))
    read, held = step_bytes(model, weights), kv_bytes(model) if full_attention(model) else 0
    for name, step in (("", alone), ("batch_", batch)):
        moved, done = read + held * step.tokens, row_operations(model) * step.rows
        limit = 1e3 * max(moved / copied, done / computed)
        found += [
            Measurement(f"{name}step_limit_ms", limit, "ms", "lower", 1),
            Measurement(f"{name}times_limit", step.ms / limit, "×", "lower", 1),
        ]
    return found


def host_bound(times_limit: float, step_ms: float, batch_step_ms: float) -> bool:
    """Whether steps spend their time on something that neither weights nor rows explain."""
    return times_limit > FAR and batch_step_ms < FLAT * step_ms
