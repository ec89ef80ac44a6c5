"""What records and rows say of a cell: the score judged, its memory, how simple it is, and how it compares with
another on the same rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.decide.policy import Policy
from harness.rows import column, groups, ids
from harness.statistics import Paired, interaction, over_seeds, paired, paired_over_seeds
from harness.types import Json, Measurement, RunRecord, Status

MEMORY = (
    "memory_bytes/cuda_peak_process", "memory_bytes/cuda_peak_reserved", "memory_bytes/cuda_peak_allocated",
    "memory_bytes/peak_rss",
)  # fmt: skip
SIMPLICITY = {"as_is": 0, "prompt_rag": 0, "lora": 1, "lora_head": 2, "full_ft": 3}  # of adaptations; others come last
UNQUANTIZED = ("fp16", "bf16", "fp32")
Rows = Mapping[str, Collection[Mapping[str, Json]]]


def primary(record: RunRecord, policy: Policy | None) -> str:
    """The name of the score that stands for quality: the policy's, else the suite's."""
    chosen = policy.metric if policy else None
    name = chosen or record.config.get("suite", {}).get("params", {}).get("primary", "good")
    return str(name).removeprefix("quality/")


def quality(record: RunRecord, policy: Policy | None) -> Measurement | None:
    """The measurement that stands for quality; None where the record has no such score."""
    return record.value(f"quality/{primary(record, policy)}")


def passes(m: Measurement, rows: Collection[Mapping[str, Json]]) -> bool:
    """Whether a score is the share of rows that pass: each row has 0 or 1 of it. Where no row has it, it is one if it
    is a whole number of `n` rows."""
    found = column(rows, m.metric.removeprefix("quality/"))
    found = found[found == found]
    if found.size:
        return bool(((found == 0) | (found == 1)).all())
    return abs(m.value * m.n - round(m.value * m.n)) < 1e-6


def memory(record: RunRecord) -> Measurement | None:
    """The memory a cell needs to run: the peak of its process, on a GPU that which it held of the GPU; what PyTorch
    reserved of it, where NVML did not tell."""
    return next((m for name in MEMORY if (m := record.value(name))), None)


def is_quantized(record: RunRecord) -> bool:
    """Whether a cell's weights are quantized, by its name, and where they were stored as they came by what that was:
    `replaced_modules` is 0 of plain weights, None of a checkpoint that came quantized, and left out by GPTQ and AWQ."""
    facts = record.steps.get("quantize", {}).get("facts") or {}
    return record.quantization not in UNQUANTIZED and facts.get("replaced_modules") != 0


def simplicity(record: RunRecord) -> tuple[int, int, str]:
    """Sorts the simpler cell first: prompting, then LoRA, then full fine-tuning; unquantized before quantized."""
    return simple_first(record.adaptation, record.quantization)[0], int(is_quantized(record)), record.id


def simple_first(adaptation: str, quantization: str) -> tuple[int, int]:
    """The part of that order which the names of a cell's choices decide."""
    return SIMPLICITY.get(adaptation, len(SIMPLICITY)), int(quantization not in UNQUANTIZED)


def shared_scores(cells: Sequence[RunRecord], rows: Rows, score: str) -> tuple[list[list[float]], list[Json]]:
    """The scores of several cells on the rows that all of them have, a list a cell in the same order of rows, and the
    group of each row: a row without one is a group of its own."""
    kept = [rows.get(c.id, ()) for c in cells]
    named = [ids(k) for k in kept]
    found = [
        {i: v for i, v in zip(n, column(k, score).tolist(), strict=True) if v == v}  # a score that is a number
        for n, k in zip(named, kept, strict=True)
    ]
    shared = sorted(set.intersection(*map(set, found)), key=str) if found else []
    group = dict(zip(named[0], groups(kept[0]), strict=True)) if shared else {}
    return [[f[i] for i in shared] for f in found], [group[i] for i in shared]


def quality_over_seeds(cells: Sequence[RunRecord], rows: Rows, policy: Policy | None) -> Measurement | None:
    """The quality of cells that differ in their seed alone: of several the mean, with the luck of training in its
    interval where rows were kept. None where no cell has such a score."""
    found = [m for c in cells if (m := quality(c, policy))]
    if len(found) < 2:
        return found[0] if found else None
    scores, groups = shared_scores(cells, rows, primary(cells[0], policy))
    if not groups:
        return replace(found[0], value=math.fsum(m.value for m in found) / len(found), interval=None)
    mean, around = over_seeds(scores, groups)
    return replace(found[0], value=mean, interval=around, n=len(groups))


def variant(r: RunRecord) -> str:
    """The knobs that were swept singly, as the cell's id ends with them."""
    return str(r.config.get("variant") or "")


def kin(r: RunRecord) -> tuple[Any, ...]:
    """What cells have in common that differ in adaptation and quantization alone."""
    others = [knob for knob in variant(r).split(",") if not knob.startswith("quantization.")]
    return r.model, r.suite, r.seed, ",".join(others)


def compression(r: RunRecord) -> tuple[str, str]:
    """How a cell was quantized: by what, and its knobs that were swept."""
    return r.quantization, ",".join(k for k in variant(r).split(",") if k.startswith("quantization."))


def parent_of(r: RunRecord, ok: Iterable[RunRecord]) -> RunRecord | None:
    """The same adaptation unquantized, of these cells."""
    same = (
        p for p in ok
        if (*kin(p), p.adaptation) == (*kin(r), r.adaptation) and not is_quantized(p)
    )  # fmt: skip
    return next(same, None) if is_quantized(r) else None


def curve_of(cell: RunRecord, records: Iterable[RunRecord]) -> list[RunRecord]:
    """The parts of a cell's learning curve that ended ok, by the share of the training rows."""
    parts = [r for r in records if r.status is Status.OK and r.id.startswith(f"{cell.id}/curve=")]
    return sorted(parts, key=share_of)


def share_of(record: RunRecord) -> float:
    """The share of the training rows that a cell was trained on."""
    return float(record.params("suite").get("train_share", 1.0))


def compare(a: RunRecord, b: RunRecord, rows: Rows, score: str) -> Paired | None:
    """`a` against `b` on the rows that both have; None where there are none with a score from 0 to 1."""
    (left, right), groups = shared_scores([a, b], rows, score)
    return paired(left, right, groups) if left else None


def compare_seeds(
    some: Sequence[RunRecord], others: Sequence[RunRecord], rows: Rows, score: str
) -> tuple[float, float, Paired] | None:
    """Cells that differ in their seed alone against such cells, on the rows that all have: both means, and the seeds
    that both have against each other where these are several, else the means of each row."""
    import numpy as np

    scores, groups = shared_scores([*some, *others], rows, score)
    if not groups:
        return None
    left, right = np.array(scores[: len(some)]), np.array(scores[len(some) :])
    both = [(left[n], right[m]) for n, a in enumerate(some) for m, b in enumerate(others) if a.seed == b.seed]
    mine, theirs = left.mean(axis=0), right.mean(axis=0)
    if len(both) > 1:
        pair = paired_over_seeds([x for x, _ in both], [y for _, y in both], groups)
    else:
        pair = paired(mine.tolist(), theirs.tolist(), groups)
    return float(mine.mean()), float(theirs.mean()), pair


def interact(cells: Sequence[RunRecord], rows: Rows, score: str) -> Paired | None:
    """How quantization changed the gain of an adaptation, on the rows that all of (tuned, base, tuned in 16 bits, base
    in 16 bits) have; None unless there are four cells and such rows."""
    scores, groups = shared_scores(cells, rows, score)
    return interaction(scores[0], scores[1], scores[2], scores[3], groups) if len(scores) == 4 and groups else None
