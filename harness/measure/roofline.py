"""How near a decode step comes to what the device allows (Williams et al., "Roofline", CACM 2009).

At a small batch a step does little with each weight, so the least it can take is the time to read them all: the limit
is bytes over the bandwidth that a copy reaches on the same device in the same process. A step far from its limit that
takes as long for many rows as for one spends its time on something else, mostly on launching work: it is host-bound,
and says nothing of the method that it runs.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from harness.types import Measurement

COPIES = 15
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
FAR = 3.0  # times the limit
FLAT = 1.25  # a step of many rows over a step of one


def bandwidth(device: str) -> float:
    """Bytes a second that a copy within a device's memory reads and writes: the median of `COPIES`."""
    import torch

    source = torch.ones(COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took: list[float] = []
    for _ in range(COPIES):
        settle(device)
        start = time.perf_counter()
        target.copy_(source)
        settle(device)
        took.append(time.perf_counter() - start)
    return 2 * int(source.numel()) / median(took)


def settle(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def step_bytes(model: Any, weights: int) -> int:
    """Bytes that a step reads of a model's `weights` bytes: all but a table of embeddings of which it looks up a row a
    token. One that makes the logits too is read whole."""
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    own = getattr(head, "weight", None)  # None: packed, and not the table
    shared = own is not None and own.data_ptr() == table.data_ptr()
    return weights - (0 if shared else table.numel() * table.element_size())


def measure(model: Any, weights: int, device: str, step_ms: float) -> list[Measurement]:
    """The bandwidth found, the limit of a step of one row, and how many times that limit a step takes. The latter two
    are left out for a mixture of experts, whose steps read those weights alone that a token is sent to."""
    rate = bandwidth(device)
    found = Measurement("bandwidth_bytes_per_s", rate, "B/s", "higher", COPIES)
    if getattr(model.config.get_text_config(decoder=True), "num_experts_per_tok", None):
        return [found]
    limit = 1e3 * step_bytes(model, weights) / rate
    return [
        found,
        Measurement("step_limit_ms", limit, "ms", "lower", 1),
        Measurement("times_limit", step_ms / limit, "×", "lower", 1),
    ]


def host_bound(times_limit: float, step_ms: float, batch_step_ms: float) -> bool:
    """Whether steps spend their time on something that neither weights nor rows explain."""
    return times_limit > FAR and batch_step_ms < FLAT * step_ms
