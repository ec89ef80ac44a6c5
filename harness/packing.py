"""Lays the weights of linear layers out once as oneDNN wants them on a CPU, instead of at each product.

In bfloat16 PyTorch's linear layer brings its weight into oneDNN's blocked layout every time it is called, which for one
row takes as long as the product. The products of weights laid out beforehand are the same bit for bit. It is what
`torch.compile` does when it freezes a model, without compiling.

A packed layer has no plain weight any more. Some models read the weights of their layers themselves (Mamba's
`dt_proj.weight @ time`), so a model is packed only when it was seen to answer the same without them.
"""

from __future__ import annotations

from functools import partial
from typing import Any


def pack(model: Any) -> int:
    """Packs the plain bfloat16 linear layers of a model on a CPU, and returns how many: none where the model reads one
    of their weights itself, and no layer that a short answer leaves uncalled (an expert, a head of another task). Their
    own weights are given up (what still asks for one finds None) but for one that is shared with the table of
    embeddings."""
    import torch

    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return 0
    table = model.get_input_embeddings()
    done = 0
    for module in _called_for(model, [m for m in model.modules() if _packable(m)]):
        weight = module.weight.data
        bias = None if module.bias is None else module.bias.data
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight)
        if not done and not _same(blocked, weight, bias):
            return 0
        module.forward = partial(product, blocked, bias)
        if table is None or table.weight.data_ptr() != weight.data_ptr():
            module.weight = None
        done += 1
    return done


def _packable(module: Any) -> bool:
    import torch

    if type(module) is not torch.nn.Linear or type(module.weight) is not torch.nn.Parameter:
        return False
    weight = module.weight.data
    return type(weight) is torch.Tensor and weight.dtype == torch.bfloat16 and weight.device.type == "cpu"


def _called_for(model: Any, layers: list[Any]) -> list[Any]:
    """Those of some linear layers that a short answer calls, if it is the same while none of them has a weight to be
    read: each then multiplies by it inside a function of its own. Nothing is copied, and all is put back."""
    import torch

    called: set[Any] = set()

    def multiply(layer: Any, weight: Any, x: Any) -> Any:
        called.add(layer)
        return torch.nn.functional.linear(x, weight, layer.bias)

    told = _answer(model)
    weights = [layer.weight for layer in layers]
    for layer, weight in zip(layers, weights, strict=True):
        layer.forward = partial(multiply, layer, weight)
        layer.weight = None
    try:
        same = all(torch.equal(a, b) for a, b in zip(told, _answer(model), strict=True))
    except Exception:  # whatever a layer without a weight leads to
        same = False
    finally:
        for layer, weight in zip(layers, weights, strict=True):
            del layer.forward
            layer.weight = weight
    return [layer for layer in layers if layer in called] if same else []


def _answer(model: Any) -> list[Any]:
    """The logits of a prompt of a few tokens and of a step after it, which may go another way through a model."""
    import torch

    ids = torch.arange(1, 6)[None] % model.config.get_text_config().vocab_size
    with torch.inference_mode():
        if not model.can_generate():
            return [model(ids).logits]
        options = {"do_sample": False, "max_new_tokens": 2, "min_new_tokens": 2, "use_cache": True}
        seen = {"attention_mask": torch.ones_like(ids), "return_dict_in_generate": True, "output_logits": True}
        return list(model.generate(ids, **options, **seen).logits)


def packed(module: Any) -> bool:
    """Whether a linear layer computes from a packed weight."""
    return getattr(vars(module).get("forward"), "func", None) is product


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
