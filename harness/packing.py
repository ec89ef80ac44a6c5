"""Lays the weights of linear layers out once as oneDNN wants them on a CPU, instead of at each product.

In bfloat16 PyTorch's linear layer brings its weight into oneDNN's blocked layout every time it is called, which for one
row takes as long as the product. The products of weights laid out beforehand are the same bit for bit. It is what
`torch.compile` does when it freezes a model, without compiling.
"""

from __future__ import annotations

from functools import partial
from typing import Any


def pack(model: Any) -> int:
    """Packs the plain bfloat16 linear layers of a model on a CPU, and returns how many. Their own weights are given up
    (what still asks for one finds None) but for one that is shared with the table of embeddings."""
    import torch

    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return 0
    table = model.get_input_embeddings()
    done = 0
    for module in model.modules():
        if type(module) is not torch.nn.Linear or type(module.weight) is not torch.nn.Parameter:
            continue
        weight = module.weight.data
        if type(weight) is not torch.Tensor or weight.dtype != torch.bfloat16 or weight.device.type != "cpu":
            continue
        bias = None if module.bias is None else module.bias.data
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight)
        if not done and not _same(blocked, weight, bias):
            return 0
        module.forward = partial(product, blocked, bias)
        if table is None or table.weight.data_ptr() != weight.data_ptr():
            module.weight = None
        done += 1
    return done


def packed(module: Any) -> bool:
    """Whether a linear layer computes from a packed weight."""
    return isinstance(vars(module).get("forward"), partial)


def product(weight: Any, bias: Any, x: Any) -> Any:
    """`x @ weight.T + bias` of a packed weight."""
    import torch

    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _same(blocked: Any, weight: Any, bias: Any) -> bool:
    """Whether this build of PyTorch multiplies by a packed weight as by a plain one: the operator is not public."""
    import torch

    x = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    told, found = torch.nn.functional.linear(x, weight, bias), product(blocked, bias, x)
    return bool(torch.allclose(told.float(), found.float(), rtol=1e-2, atol=1e-2))
