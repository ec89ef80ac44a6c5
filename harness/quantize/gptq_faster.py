"""GPTQ's blocks of columns with their columns as rows, for gptqmodel 7.6.0 on a CPU.

gptqmodel solves 128 columns one after another in a matrix whose rows lie in memory in one piece: each column is read
and written across all of them, and what it takes off the columns behind it crosses them again. Transposed, the same
sums in the same order run over memory in one piece, and what is only logged is reckoned once a block.

gptqmodel has a place for a block that it compiles for a GPU. A CPU is given ours there, also for the last block, which
may not be full. All else runs as it came: a GPU, rounding without calibration, and what it tries again after a loss
that is no number. The place is in the source of one exact version.
"""

from __future__ import annotations

import inspect
import textwrap
from functools import cache
from typing import Any

from harness.quantize.awq_faster import TESTED

PLACE = (
    ('W.device.type == "cuda"', 'W.device.type == "cpu"'),
    ("fused_block_update is not None and count == 128", "fused_block_update is not None"),
    ("from .gptq_cuda import block_update_available, gptq_block_update", ""),
)


def block_update(
    work: Any, hinv: Any, scale: Any, zero: Any, column_group: Any, quantized: Any, errors: Any, losses: Any, maxq: int
) -> None:
    """Rounds the columns of `work` [rows, columns], by the `scale` and `zero` [groups, rows] of their groups, into
    `quantized`, and takes the error of each off those behind it; the arguments are those of the block it replaces."""
    import torch

    columns = work.t().contiguous()
    rounded, wrong = torch.empty_like(columns), torch.empty_like(columns)
    divisors = hinv.diagonal()
    groups = column_group.tolist()
    for i, (column, found, error) in enumerate(zip(columns, rounded, wrong, strict=True)):
        steps, middle = scale[groups[i]], zero[groups[i]]
        torch.div(column, steps, out=found).round_().add_(middle).clamp_(0, maxq).sub_(middle).mul_(steps)
        torch.sub(column, found, out=error).div_(divisors[i])
        columns[i + 1 :] -= hinv[i, i + 1 :].unsqueeze(1) * error
    quantized.copy_(rounded.t())
    errors.copy_(wrong.t())
    losses.copy_(((columns - rounded).square() / divisors.square().unsqueeze(1)).t())


@cache
def _quantize() -> Any:
    """`GPTQ.quantize` of gptqmodel with our block in its place."""
    from gptqmodel.quantization import gptq

    source = textwrap.dedent(inspect.getsource(gptq.GPTQ.quantize))
    for theirs, ours in PLACE:
        source = source.replace(theirs, ours)
    made = {**vars(gptq), "block_update_available": lambda: True, "gptq_block_update": block_update}
    exec(compile(source, "gptqmodel, with our block", "exec"), made)
    return made["quantize"]


def speed_up() -> str:
    """Puts the faster block into gptqmodel's GPTQ for this process. Returns what runs, for the manifest."""
    from gptqmodel.quantization.gptq import GPTQ

    GPTQ.quantize = _quantize()
    return f"gptqmodel {TESTED} with transposed blocks"
