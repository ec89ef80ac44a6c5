"""What makes INT8 usable: a matrix product for CPUs without VNNI, and torchao's layers read one by one.

PyTorch's `aten::_int_mm` on a CPU without AVX512-VNNI or AMX falls to a scalar loop: 10 tokens a second where
float32 does 98 (135M model, batch 16). torchao itself, when compiled, computes the product of the int8 values
in float32 for that reason; this does the same in eager mode. A sum of up to 1,040 products of int8 values is
exact in float32 (127 * 127 * 1040 < 2**24), so longer rows are summed in exact pieces.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

EXACT = 1024
LEAST_ROWS = 17  # of an int8 product by cuBLAS


def int_mm(a: Any, b: Any) -> Any:
    """int8 [m, k] times int8 [k, n] as int32 [m, n]: exact."""
    import torch

    total = None
    for start in range(0, a.shape[1], EXACT):
        part = a[:, start : start + EXACT].float() @ b[start : start + EXACT].float()
        total = part.to(torch.int32) if total is None else total + part.to(torch.int32)
    return total


@cache
def use_fast_cpu_kernel() -> Any:
    """Registers `int_mm` for `aten::_int_mm` on the CPU of this process where PyTorch has no fast one."""
    import torch

    if torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported():
        return None
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is overridden is the point
        library.impl("_int_mm", int_mm, "CPU")
    return library  # kept by the cache: the registration ends with the object


@cache
def multiply_unprinted() -> None:
    """Has torchao multiply int8 tensors on a GPU without printing them: it looks for "FakeTensor" in the printed input
    of every layer, 5 milliseconds each. What cuBLAS refuses (small sizes) is left to torchao, which has another way."""
    from torchao.kernel import intmm

    printing = intmm.safe_int_mm

    def multiply(a: Any, b: Any) -> Any:
        if whole_on_gpu(a, b):
            with contextlib.suppress(RuntimeError):
                return int8_product(a, b)
        return printing(a, b)

    intmm.safe_int_mm = multiply


def whole_on_gpu(a: Any, b: Any) -> bool:
    """Whether real int8 tensors on a GPU have sizes that torchao leaves to cuBLAS."""
    import torch

    plain = type(a) is type(b) is torch.Tensor and a.is_cuda and b.is_cuda
    return plain and not (a.shape[1] % 8 or b.shape[1] % 8) and not torch.compiler.is_compiling()


def int8_product(a: Any, b: Any) -> Any:
    """int8 [m, k] times int8 [k, n] as int32 [m, n]. cuBLAS takes 17 rows and more: fewer are filled up, where torchao
    multiplies in float32, whose sums are exact up to k = 1,040 alone. Raises `RuntimeError` at sizes it refuses."""
    import torch

    filled = torch.nn.functional.pad(a, (0, 0, 0, LEAST_ROWS - len(a))) if len(a) < LEAST_ROWS else a.contiguous()
    return torch._int_mm(filled, b.contiguous())[: len(a)]


@contextlib.contextmanager
def read_layer_by_layer() -> Iterator[None]:
    """Has transformers give torchao each layer with what the checkpoint says of that layer. By itself it gives it what
    is said of all, which torchao parses and searches for every layer: for the 135M model 1.6 seconds of a CPU, where
    this takes 0.5."""
    from transformers.integrations import torchao

    whole, check = torchao.unflatten_tensor_state_dict, torchao.is_metadata_torchao
    checked: dict[int, bool] = {}

    def one(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> Any:
        modules = {name.rpartition(".")[0] for name in tensors}
        own = {name: said for name, said in metadata.items() if name.rpartition(".")[0] in modules}
        return whole(tensors, {**own, "tensor_names": json.dumps(list(own))})

    def once(metadata: Mapping[str, str]) -> bool:
        if id(metadata) not in checked:
            checked[id(metadata)] = check(metadata)
        return checked[id(metadata)]

    torchao.unflatten_tensor_state_dict, torchao.is_metadata_torchao = one, once
    try:
        yield
    finally:
        torchao.unflatten_tensor_state_dict, torchao.is_metadata_torchao = whole, check
