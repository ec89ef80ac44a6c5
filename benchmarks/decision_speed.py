"""How long a decision takes on a large grid: made-up records and rows, held in memory. Reading files is not timed.

python benchmarks/decision_speed.py --cells 1000 --rows 5000 [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness.decide import decide
from harness.statistics import wilson
from harness.types import Interval, Measurement, RunRecord, Status

ADAPTATIONS, QUANTIZATIONS = ("prompt_rag", "lora", "full_ft"), ("fp16", "int8", "gptq", "awq", "dynamic")
POLICY = {"name": "balanced", "objective": "cost_usd_per_1000", "margin": 0.05}


def large_grid(cells: int, rows: int, seed: int = 0) -> tuple[list[RunRecord], dict[str, list[dict[str, Any]]]]:
    """Cells of many variants whose rows are as hard for all of them, with pass/fail scores. Equal rows are one object,
    so that memory holds what files would."""
    rng = np.random.default_rng(seed)
    made = [[{"id": f"row-{n:05}", "group": None, "scores": {"good": s}} for s in (0, 1)] for n in range(rows)]
    luck = rng.random(rows)
    records, kept = [], {}
    for n in range(cells):
        adaptation, quantization = ADAPTATIONS[n % 3], QUANTIZATIONS[n // 3 % 5]
        skill = 0.75 + 0.06 * (n % 3) - 0.01 * (n // 3 % 5) + rng.normal(0, 0.02)
        passes = (0.8 * luck + 0.2 * rng.random(rows) < skill).astype(int)
        name = f"m/{adaptation}/{quantization}/support_tone/rank={n // 15}"
        cost, good = float(rng.uniform(0.5, 2)), int(passes.sum())
        samples = tuple(rng.lognormal(7, 0.1, 50).tolist())
        numbers = (
            Measurement("quality/good", good / rows, "share", "higher", rows, wilson(good, rows)),
            Measurement("e2e_ms/p50", float(np.quantile(samples, 0.5)), "ms", "lower", 50, None, samples),
            Measurement("e2e_ms/p95", float(np.quantile(samples, 0.95)), "ms", "lower", 50),
            Measurement("memory_bytes/peak_rss", float(rng.uniform(1e9, 3e9)), "bytes", "lower", 1),
            Measurement(
                "cost_usd_per_1000", cost, "USD", "lower", 9, Interval(0.97 * cost, 1.03 * cost, "bootstrap")
            ),
            Measurement("throughput_requests_per_s", 1000 / (3600 * 0.5 * cost), "req/s", "higher", 9),
        )  # fmt: skip
        config = {"price": {"usd_per_hour": 1.0, "utilization": 0.5, "volume_requests": 1e6}}
        steps = {"adapt": {"seconds": float(rng.uniform(0, 600))}}
        records.append(
            RunRecord(
                1, name, Status.OK, "", "m", adaptation, quantization, "support_tone", 0, "standard", numbers, {},
                steps, {}, config,
            )
        )  # fmt: skip
        kept[name] = [pair[s] for pair, s in zip(made, passes.tolist(), strict=True)]
    return records, kept


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--cells", type=int, default=1000)
    asked.add_argument("--rows", type=int, default=5000)
    asked.add_argument("--profile", action="store_true", help="tell where the time goes")
    args = asked.parse_args()
    records, rows = large_grid(args.cells, args.rows)
    profile = cProfile.Profile()
    start = time.perf_counter()
    found = profile.runcall(decide, records, rows, POLICY) if args.profile else decide(records, rows, POLICY)
    seconds = time.perf_counter() - start
    assert found.costs, "a decision without costs is not what a grid pays for"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {"cells": args.cells, "rows": args.rows, "seconds": round(seconds, 2), "peak_mib": round(peak)}
    print(json.dumps({**told, "chosen": found.chosen, "confidence": found.confidence, "flips": len(found.flips)}))
    if args.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(35)


if __name__ == "__main__":
    main()
