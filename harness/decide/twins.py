"""Cells that do the same work: how far apart their timings are is how far apart any of this run may be by chance.

A merged LoRA and a fully fine-tuned model of one base, quantized alike, are the same layers with other numbers in them,
and so are trainings that differ in seed. Asked the same prompts for as many tokens, they take the same time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from harness.decide.costs import NORMAL_95
from harness.decide.policy import COST, P95
from harness.types import RunRecord, Status

TIMED = {P95: P95, COST: "throughput_tokens_per_s"}  # what decides each objective, of answers of one length
WORK = ("decoded", "dtype", "linear_classes", "packed_layers", "products", "weights_bytes")  # facts of a timing
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Twins:
    """What cells that do the same work show of one kind of timing: two of them differ by up to `pace` times, 19 times
    in 20. `cells` are the two furthest apart, by `ratio`."""

    pace: float
    cells: tuple[str, str]
    ratio: float


def twins_of(records: Sequence[RunRecord], pace: float) -> dict[str, Twins]:
    """What such cells show, by objective, where they refute that two timings differ by no more than `pace` times in 95%
    of the cases: a chi-square test of the variance of log times within sets of cells that do the same work, at 5% for
    both kinds of time together (Bonferroni). Nothing where they agree with it, there are none, or the pace is 1, by
    which timings are taken as they are."""
    from scipy.stats import chi2

    sets: dict[str, dict[str, RunRecord]] = {}
    for r in records:
        if work := _work(r):
            sets.setdefault(work, {}).setdefault(r.steps["latency"]["key"], r)  # cells that share a timing have one
    found, expected = {}, (math.log(pace) / math.sqrt(2) / NORMAL_95) ** 2
    for objective, metric in TIMED.items():
        squares, df, furthest = 0.0, 0, (0.0, ("", ""))
        for cells in sets.values():
            logs = {r.id: math.log(m.value) for r in cells.values() if (m := r.value(metric)) and m.value > 0}
            if len(logs) < 2:
                continue
            middle = math.fsum(logs.values()) / len(logs)
            squares += math.fsum((x - middle) ** 2 for x in logs.values())
            df += len(logs) - 1
            furthest = max(furthest, *((abs(logs[a] - logs[b]), (a, b)) for a, b in combinations(sorted(logs), 2)))
        if squares and expected and chi2.sf(squares / expected, df) < LEVEL / len(TIMED):
            seen = math.exp(math.sqrt(2 * squares / df) * NORMAL_95)
            found[objective] = Twins(seen, furthest[1], math.exp(furthest[0]))
    return found


def _work(r: RunRecord) -> str:
    """What takes the time of a cell's timed answers, as text; empty where that is not known, or hangs on the numbers in
    the weights: LLM.int8 multiplies outliers apart, as many as there are."""
    timing = r.steps.get("latency") or {}
    facts, prompts = timing.get("facts") or {}, r.value("prompt_tokens/mean")
    if r.status is not Status.OK or not facts.get("weights_bytes") or prompts is None:
        return ""
    if r.params("quantization").get("threshold"):
        return ""
    asked = {k: v for k, v in timing["preimage"].items() if k not in ("model", "knobs")}
    asked |= {k: v for k, v in timing["preimage"].get("knobs", {}).items() if k != "adapters"}  # LoRA's, timed apart
    what = [r.config["model"], r.config["quantization"], asked, prompts.value, [facts.get(k) for k in WORK]]
    return json.dumps(what, sort_keys=True, default=str)
