"""How many steps of a grid work side by side, where nobody said."""

from __future__ import annotations

from collections.abc import Sequence

from harness.components import instantiate, seeded
from harness.environment import Environment, free_gpu_memory
from harness.types import Cell, digest, plain


def side_by_side(cells: Sequence[Cell], environment: Environment, asked: int | None = None) -> tuple[int, int]:
    """How many steps at a time for these cells on this machine, unless `asked` for so many, and how many of them may
    train. On a CPU one a core, 4 at most, and one. On a GPU as many as would fit its free memory if each trained (2 GiB
    and 16 bytes a parameter: weights, gradients and both moments of AdamW in float32; 4 where no adaptation changes
    weights, for which alone it needs a seed: weights in 16 bits, and as much beside them), half the cores and 8 at
    most, at least 1, and 3 at most where the size or the free memory is unknown; and two, LoRA beside full fine-tuning,
    where each has 8 GiB for what its batches need beside the model."""
    if environment.device == "cpu":
        return asked or min(environment.cpu_count, 4), 1
    size, free, most, trainings = parameters(cells), free_gpu_memory(), 3, 1
    if size is not None and free is not None:
        trains = any(seeded(c.adaptation) for c in cells)
        most = min(8, free // (2 * 2**30 + (16 if trains else 4) * size))
        trainings = 2 if free >= 2 * (8 * 2**30 + 16 * size) else 1
    workers = asked or max(1, min(most, environment.cpu_count // 2))
    return workers, min(trainings, workers)


def parameters(cells: Sequence[Cell]) -> int | None:
    """Parameters of the largest model of a grid; None where one does not tell."""
    models = {digest(plain(c.model)): instantiate(c.model) for c in cells}
    sizes: list[int | None] = [m.parameters() if hasattr(m, "parameters") else None for m in models.values()]
    known = [size for size in sizes if size is not None]
    return max(known) if len(known) == len(sizes) else None
