"""Dollars: hours of hardware over requests served, plus what was spent on building, spread over a stated volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.pricing import serving_usd
from harness.types import Measurement


def requests_per_second(measured: Sequence[Measurement], batch_size: int) -> float | None:
    """The rate of full batches of replies of the mean length seen on the suite: `batch / (prefill + steps * step)`,
    with prefill and step as timed for a batch. The prefill makes the first token and each step one more, up to the stop
    token where a reply ends by itself, which is not counted in its length. A classification head has no step. None
    where something was not measured and is needed."""
    found = {m.metric: m.value for m in measured}
    if not {"batch_prefill_ms", "output_tokens/mean"} <= found.keys():
        return None
    tokens, prefill = found["output_tokens/mean"], found["batch_prefill_ms"]
    if "batch_step_ms" not in found:
        return 1e3 * batch_size / prefill if tokens <= 1 else None
    ended = 1 - found.get("truncated_share", 0.0)
    return 1e3 * batch_size / (prefill + max(tokens + ended - 1, 0) * found["batch_step_ms"])


def cost_per_1000(rate: float, build_seconds: float, price: Mapping[str, Any]) -> float:
    """US dollars per 1,000 requests at `rate` requests a second and the stated utilization: serving them, and
    `1000 * build / volume`, where `build` is the price of the build seconds on the same hardware."""
    building = 1000 * build_seconds * price["usd_per_hour"] / 3600 / price["volume_requests"]
    return float(serving_usd(rate, price["usd_per_hour"], price["utilization"]) + building)
