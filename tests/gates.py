"""Run folders with the made-up grid, for tests of the release gate. No number here was measured."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import ledger
from harness.check.__main__ import main
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


def check(tmp_path: Path, baseline: Path, record: RunRecord, made: Rows, *more: str) -> int:
    """The exit code of judging such a run against the baseline."""
    candidate = run(tmp_path / "second", (record, made))
    return main([str(candidate), "--baseline", str(baseline), *more])


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((tmp_path / "second/check/check.json").read_text())["findings"]
    return found


def verdicts(tmp_path: Path) -> dict[str, str]:
    return {f["trial"]["metric"]: f["verdict"] for f in lines(tmp_path)}


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def together(made: Rows, right: int) -> tuple[RunRecord, Rows]:
    """A run whose rows hold [true, predicted] of a macro-F1 too, so many of them right."""
    record = cell(made)
    f1 = Measurement("quality/macro_f1", right / len(made), "share", "higher", len(made))
    pairs = [{**r, "scores": {**r["scores"], "macro_f1": ["a", "a" if i < right else "b"]}} for i, r in enumerate(made)]
    return replace(record, measurements=(*record.measurements, f1)), pairs


def rare(made: Rows, passed: int, having: int = 5, end: str = "") -> Rows:
    """Rows of which the first few alone have a score, as those of a rare class have its recall."""
    return [
        {**r, "output": r["output"] + end, "scores": {**r["scores"], "recall": int(i < passed)}}
        if i < having
        else {**r, "scores": {**r["scores"], "other": 1}}
        for i, r in enumerate(made)
    ]
