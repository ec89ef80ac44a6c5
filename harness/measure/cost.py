"""Dollars: hours of hardware over requests served, plus what was spent on building, spread over a stated volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.types import Measurement


def requests_per_second(measured: Sequence[Measurement], batch_size: int) -> float | None:
    """The rate of full batches of replies of the mean length seen on the suite: `batch / (prefill + (tokens - 1) *
    step)`, with prefill and step as timed for a batch. None where one of them was not measured and is needed: a
    classification head has no step after the first."""
    found = {m.metric: m.value for m in measured}
    if not {"batch_prefill_ms", "output_tokens/mean"} <= found.keys():
        return None
    steps = max(found["output_tokens/mean"] - 1, 0)
    if steps and "batch_step_ms" not in found:
        return None
    return 1e3 * batch_size / (found["batch_prefill_ms"] + steps * found.get("batch_step_ms", 0.0))


def cost_per_1000(rate: float, build_seconds: float, price: Mapping[str, Any]) -> float:
    """US dollars per 1,000 requests at `rate` requests a second and the stated utilization:
    `1000 * usd_per_hour / 3600 / (rate * utilization) + 1000 * build / volume`, where `build` is the price of the
    build seconds on the same hardware."""
    usd_per_second = price["usd_per_hour"] / 3600
    serving = 1000 * usd_per_second / (rate * price["utilization"])
    building = 1000 * build_seconds * usd_per_second / price["volume_requests"]
    return float(serving + building)
