"""Run folders with the made-up grid, for tests of the release gate. No number here was measured."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import ledger
from harness.types import Json, Measurement, RunRecord
from tests import records

Rows = list[dict[str, Any]]


def rows(adaptation: str = "lora", quantization: str = "fp16", n: int = 200) -> Rows:
    """Rows as a run leaves them."""
    return [{**r, "example_hash": f"{i:016x}"} for i, r in enumerate(records.rows(adaptation, quantization, n))]


def worse(made: Rows, share: float, score: str = "style") -> Rows:
    """The same rows with some of what passed now failing, every so many."""
    passed = [r["id"] for r in made if r["scores"][score]]
    lost = set(random.Random(0).sample(passed, round(share * len(made))))
    return [
        {**r, "scores": {**r["scores"], score: 0}, "output": r["output"] + " Sent from my phone"}
        if r["id"] in lost
        else r
        for r in made
    ]


def cell(
    made: Rows, adaptation: str = "lora", quantization: str = "fp16", slower: float = 1.0, **changes: Any
) -> RunRecord:
    """A record of such rows; `slower` stretches its raw times."""
    whole = records.record(adaptation, quantization, made)
    config: Mapping[str, Any] = {
        **whole.config,
        "suite": {"name": "support_tone", "target": "", "params": {"primary": "style"}},
        "measure": {"name": "default", "target": "", "params": {
            "quality": {"part": None}, "latency": {"requests": 12, "output_tokens": 32},
        }},
        "seed": 0,
    }  # fmt: skip
    steps = {**whole.steps, "quality": {**whole.steps["quality"], "facts": {"scoring_digest": "d" * 16}}}
    measured = tuple(
        replace(m, samples=tuple(slower * s for s in m.samples)) if m.unit == "ms" else m for m in whole.measurements
    )
    return replace(whole, **{"config": config, "steps": steps, "measurements": measured, **changes})


def run(folder: Path, *cells: tuple[RunRecord, Sequence[Mapping[str, Json]]]) -> Path:
    """A run folder with these cells."""
    ledger.write_cells(folder, [record.id for record, _ in cells])
    for record, made in cells:
        ledger.write_record(folder, record)
        ledger.write_rows(folder, record, made)
    return folder


def measured(record: RunRecord, change: Callable[[Measurement], Measurement | None]) -> RunRecord:
    """A record with its measurements changed; None takes one out."""
    return replace(record, measurements=tuple(m for one in record.measurements if (m := change(one))))
