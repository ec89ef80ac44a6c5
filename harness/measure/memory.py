"""Memory of a process that answers: its peak apart from that of loading, and how many rows a memory would hold."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.anatomy import kv_bytes, row_bytes
from harness.environment import give_memory_back
from harness.types import Measurement, Session

BUDGETS_GB = (8, 16, 24, 40, 80)


def peak_rss_bytes() -> int:
    """The highest resident memory of this process since it started or since `forget_peak`: weights, cache, Python and
    its libraries together."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    high = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return 1024 * (int(high) if high else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def forget_peak() -> bool:
    """Gives back what loading used and freed, and starts the peak of resident memory anew (Linux, `man 5 proc`:
    clear_refs); returns whether the system allows it."""
    import gc

    gc.collect()
    give_memory_back()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def peak_of_loading(device: str) -> int | None:
    """The peak of this process so far, in bytes, after which the peak starts anew; None where the system cannot tell
    the two apart."""
    if device == "cuda":
        import torch

        loading = int(torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        return loading
    loading = peak_rss_bytes()
    return loading if forget_peak() else None


def apart(session: Session, prompts: Sequence[str], tokens: int, device: str) -> list[Measurement]:
    """The peaks, in bytes, of reading the prompts of one batch and of decoding `tokens` - 1 tokens of each after it,
    from a batch that is not timed: of resident memory on a CPU, of what PyTorch allocated on a GPU (what a captured
    step needs beside that lies in its pool and counts as reserved). Nothing where the system does not start peaks anew;
    a classification head does not decode."""
    reading: list[Measurement] = []

    def anew() -> bool:
        return peak_of_loading(device) is not None

    def peak(stage: str) -> Measurement:
        import torch

        high = torch.cuda.max_memory_allocated() if device == "cuda" else peak_rss_bytes()
        return Measurement(f"memory_bytes/peak_{stage}", float(high), "bytes", "lower", len(prompts))

    def read() -> None:
        reading.append(peak("prefill"))
        anew()

    if not anew():
        return []
    steps = session.time_batch(prompts, tokens, read)
    return [*reading, peak("decode")] if len(steps) > 1 else reading


def rows_that_fit(budget: float, peak: float, held: float, row_bytes: float) -> int:
    """How many rows of `row_bytes` each fit into `budget` bytes, by a process that peaked at `peak` bytes, at least
    `held` of which were such rows."""
    return max(0, int((budget - (peak - held)) // row_bytes))


def measure(
    model: Any, device: str, loading: int | None, rows: int, held: Sequence[int], row_tokens: int | None,
    process: float | None = None,
) -> list[Measurement]:  # fmt: skip
    """Peaks while answering up to `rows` rows at once and of loading, keys and values of a token, and from these how
    many rows of `row_tokens` tokens would fit into `BUDGETS_GB` (10**9 bytes): a prediction, rows of at least the
    tokens in `held` having been held at the peak. It counts what the driver holds beside PyTorch (context, modules,
    graphs) where `process`, the bytes of this process now as NVML tells them, is known, and so does the peak of the
    process then. Without `row_tokens` the peaks alone, of what keeps no keys and values."""
    beside = 0.0
    if device == "cuda":
        import torch

        peak = float(torch.cuda.max_memory_reserved())
        used = float(torch.cuda.max_memory_allocated())
        beside = max(0.0, (process or 0.0) - torch.cuda.memory_reserved())
        answering = [
            Measurement("memory_bytes/cuda_peak_allocated", used, "bytes", "lower", rows),
            Measurement("memory_bytes/cuda_peak_reserved", peak, "bytes", "lower", rows),
        ]
        if process:
            answering.append(Measurement("memory_bytes/cuda_peak_process", peak + beside, "bytes", "lower", rows))
    else:
        peak = float(peak_rss_bytes())
        answering = [Measurement("memory_bytes/peak_rss", peak, "bytes", "lower", rows)]
    before = "cuda_peak_loading" if device == "cuda" else "peak_rss_loading"
    if loading:
        answering.append(Measurement(f"memory_bytes/{before}", float(loading), "bytes", "lower", 1))
    if row_tokens is None:
        return answering
    kept, each = sum(row_bytes(model, tokens) for tokens in held), row_bytes(model, row_tokens)
    return [
        *answering,
        Measurement("kv_bytes_per_token", float(kv_bytes(model)), "bytes", "lower", 1),
        *(
            Measurement(
                f"predicted_rows/{budget}GB",
                float(rows_that_fit(1e9 * budget, peak + beside, kept, each)),
                "rows", "higher", row_tokens,
            )
            for budget in BUDGETS_GB
        ),
    ]  # fmt: skip
