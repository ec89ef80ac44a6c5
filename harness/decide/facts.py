"""What a choice needs of records and rows, as plain data: small enough to be put into a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.decide.findings import CostLine


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe that could be chosen: one cell, or the cells of several suites and seeds under the id of the first.

    `quality` is the weighted mean over suites; limits hold in each suite by itself, so `lowest_quality`, `p95_ms`,
    `memory_bytes` and `valid` are those of its worst suite. `p95_high_ms` is the upper end of the interval of the p95.
    `rank` sorts the simpler first: prompting, LoRA, full fine-tuning, each unquantized before quantized."""

    id: str
    rank: int
    quality: float
    lowest_quality: float
    p95_ms: float | None
    p95_high_ms: float | None
    memory_bytes: float | None
    valid: float | None
    cost: CostLine | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A candidate's quality minus that of one of highest quality, on the same rows, with its 95% interval."""

    delta: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Facts:
    """The candidates, simplest first, and `pairs[best][other]` for each that can be the one of highest quality under
    some limits. `volume_requests` is the volume that the prices name."""

    candidates: tuple[Candidate, ...]
    pairs: Mapping[str, Mapping[str, Pair]]
    volume_requests: float
