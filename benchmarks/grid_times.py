"""Where a grid's time went, from its records: `python benchmarks/grid_times.py RUN` prints Markdown tables.

Seconds are those of each step's own work (its process's start is not in them), as its manifest says. "Had each cell
built its own" adds a cell's whole chain for every cell, which is what 15 separate runs would have worked, and since a
chain is one step after another, about what they would have taken.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from harness import ledger


def main(run: Path) -> None:
    """Prints the cells, the seconds by kind of step, and what sharing saved."""
    records = ledger.read_records(run)
    steps: dict[str, tuple[str, str, float]] = {}
    spans: list[tuple[float, float]] = []
    apart = 0.0
    print("| cell | style | facts | p95 ms | tok/s | memory GiB | disk MiB | USD / 1,000, full batches |")
    print("|---|---|---|---|---|---|---|---|")
    for r in records:
        for kind, step in r.steps.items():
            owner = r.quantization if kind in ("quantize", "quality", "latency") else r.adaptation
            steps[step["key"]] = (kind, owner if kind != "base" else r.model, step["seconds"])
            spans.append((step["created_unix"] - step["seconds"], step["created_unix"]))
            apart += step["seconds"]
        memory = r.value("memory_bytes/cuda_peak_reserved") or r.value("memory_bytes/peak_rss")
        shown = [  # what to print of each
            (r.value("quality/style"), lambda v: f"{v:.0%}"), (r.value("quality/facts"), lambda v: f"{v:.0%}"),
            (r.value("e2e_ms/p95"), lambda v: f"{v:,.0f}"),
            (r.value("throughput_tokens_per_s"), lambda v: f"{v:.0f}"),
            (memory, lambda v: f"{v / 2**30:.2f}"), (r.value("disk_bytes"), lambda v: f"{v / 2**20:.0f}"),
            (r.value("cost_usd_per_1000"), lambda v: f"{v:.4f}"),
        ]  # fmt: skip
        numbers = " | ".join(write(m.value) if m else "–" for m, write in shown)
        print(f"| {r.adaptation} · {r.quantization} | {numbers} |")
    by: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kind, owner, seconds in steps.values():
        by[kind, owner].append(seconds)
    print("\n| step | of | times | seconds each | seconds |\n|---|---|---|---|---|")
    for (kind, owner), seconds in by.items():
        print(f"| {kind} | {owner} | {len(seconds)} | {sum(seconds) / len(seconds):.0f} | {sum(seconds):.0f} |")
    once = sum(s for _, _, s in steps.values())
    print(f"\nwork done: {once:,.0f} s; had each cell built its own: {apart:,.0f} s ({apart / once:.2f} times)")
    wall = max(end for _, end in spans) - min(start for start, _ in spans)
    print(f"from the first step's start to the last one's end: {wall:,.0f} s (1/{apart / wall:.2f} of that)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
