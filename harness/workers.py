"""How many steps of a grid work side by side, where nobody said."""

from __future__ import annotations

from collections.abc import Sequence

from harness.components import instantiate, seeded
from harness.environment import Environment, free_gpu_memory
from harness.types import Cell, digest, plain


def side_by_side(cells: Sequence[Cell], environment: Environment, asked: int | None = None) -> tuple[int, int]:
    """How many steps at a time for these cells on this machine, `asked` for or `default_workers`, and how many of them
    may train: one on a CPU; on a GPU two, LoRA beside full fine-tuning, where each has 8 GiB for what its batches need
    beside the model (`default_workers` counts 2, of a step that does not)."""
    if environment.device == "cpu":
        return asked or default_workers(environment, None, None), 1
    size, free = parameters(cells), free_gpu_memory()
    workers = asked or default_workers(environment, size, free, trains(cells))
    fit = size is not None and free is not None and free >= 2 * (8 * 2**30 + 16 * size)
    return workers, 2 if fit and workers > 1 else 1


def default_workers(
    environment: Environment, parameters: int | None, free_bytes: int | None, training: bool = True
) -> int:
    """How many steps at a time, where nobody said: on a CPU one a core, 4 at most. On a GPU as many as would fit its
    free memory if each trained a model of so many `parameters` (2 GiB and 16 bytes a parameter: weights, gradients and
    both moments of AdamW in float32; 4 without any `training`: weights in 16 bits, and as much beside them), half the
    cores and 8 at most, at least 1; 3 at most where the size or the free memory is unknown."""
    if environment.device == "cpu":
        return min(environment.cpu_count, 4)
    most = 3
    if parameters is not None and free_bytes is not None:
        most = min(8, free_bytes // (2 * 2**30 + (16 if training else 4) * parameters))
    return max(1, min(most, environment.cpu_count // 2))


def trains(cells: Sequence[Cell]) -> bool:
    """Whether an adaptation of a grid changes weights, for which alone it needs a seed."""
    return any(seeded(c.adaptation) for c in cells)


def parameters(cells: Sequence[Cell]) -> int | None:
    """Parameters of the largest model of a grid; None where one does not tell."""
    models = {digest(plain(c.model)): instantiate(c.model) for c in cells}
    sizes: list[int | None] = [m.parameters() if hasattr(m, "parameters") else None for m in models.values()]
    known = [size for size in sizes if size is not None]
    return max(known) if len(known) == len(sizes) else None
