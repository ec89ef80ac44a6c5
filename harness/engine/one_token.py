"""Attention of one token a row on a CPU, by a C function (`attention.c`) that gcc compiles for a model's heads.

PyTorch's attention for CPUs is made for prompts: of one token a row, where few heads share keys, it takes up to twice
as long as this, which reads each key and value once for all of them, and computes in float32 where products of PyTorch
round to 16 bits. What is compiled (0.2 s) is kept for this user. Where it can't be, or computes otherwise than PyTorch,
PyTorch's attention goes on, and `attends_by` says why.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from harness.environment import cache_folder
from harness.files import write_whole

SOURCE = Path(__file__).with_name("attention.c")
OPTIONS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math",
    "-fno-signed-zeros", "-fassociative-math", "-fno-tree-loop-distribute-patterns")  # fmt: skip
WIDEST = "-mprefer-vector-width=512"  # where there is AVX-512, of which gcc takes half by itself
OURS = "the harness's, compiled"
SECONDS = 60  # for a compilation
MOST = 8  # heads that share their keys: for more of them PyTorch's products are faster
CHECKED = 100  # keys
TOLD = 200  # characters of why there is nothing compiled
CLOSE = 2e-2, 1e-4  # to exact results, by norm: in bfloat16, which rounds once by 2**-9, and in float32


def attend_one(
    query: Any, keys: Any, values: Any, begins: Any, ends: Any, scale: float, slots: Any = None
) -> tuple[Any, Any] | None:
    """One query a row and head against the keys and values of its row's slot from `begins` [rows] on, before `ends`
    [rows], both of int64 and at least one token apart; `slots` [rows] are 0, 1, ... unless given.

    `query` [rows, heads, size]; `keys` and `values` [slots, kv heads, tokens, size], may be windows on larger ones.
    Returns what is attended to, as the query is, and the logs of the sums of exponentials of scores [rows, heads] in
    float32; None where nothing compiled takes these: PyTorch's attention does. Raises `ValueError` or `IndexError` for
    slots or bounds of another make, or outside of the keys.
    """
    import torch

    rows, heads, size = query.shape
    given, kv_heads = (query, keys, values), keys.shape[1]
    alike = keys.shape == values.shape and keys.stride() == values.stride() and heads % kv_heads == 0
    plain = alike and keys.shape[3] == size and keys.stride()[2:] == (size, 1)
    if not plain or any(t.device.type != "cpu" or t.dtype != query.dtype or t.requires_grad for t in given):
        return None
    run, _ = _compiled(query.dtype, size, heads // kv_heads)
    if run is None:
        return None
    query = query.contiguous()
    made, lse = torch.empty_like(query), torch.empty(rows, heads, dtype=torch.float32)
    own = [torch.arange(rows) if slots is None else slots.contiguous(), begins.contiguous(), ends.contiguous()]
    if any(t.shape != (rows,) or t.dtype != torch.int64 for t in own):
        raise ValueError(f"slots and bounds are of another make than [{rows}] of int64")
    addresses = (t.data_ptr() for t in (query, made, lse, keys, values, *own))
    sizes = rows, kv_heads, keys.shape[0], keys.shape[2], *keys.stride()[:2]
    if wrong := run(*addresses, *sizes, scale, torch.get_num_threads()):
        raise IndexError(f"row {wrong} of {rows} asks for keys that are not in {keys.shape[0]} x {keys.shape[2]}")
    return made, lse


def attends_by(keys: Any, config: Any) -> str:
    """What attends for one token a row of a model to its keys [rows, kv heads, tokens, size], and if it is PyTorch,
    why."""
    heads = getattr(config.get_text_config(decoder=True), "num_attention_heads", None)
    if not isinstance(heads, int):  # where each layer has its own number, or none has one
        return "not known"
    _, why = _compiled(keys.dtype, keys.shape[3], heads // keys.shape[1])
    return f"PyTorch's ({why})" if why else OURS


@cache
def _compiled(dtype: Any, size: int, group: int) -> tuple[Callable[..., int] | None, str]:
    """`attend` of `attention.c` for heads of `size` elements, `group` of which share keys; or why there is none."""
    import torch

    if dtype not in (torch.bfloat16, torch.float32):
        return None, f"nothing is compiled for {dtype}"
    if group > MOST:
        return None, f"{group} heads share their keys"
    shape = [f"-DSIZE={size}", f"-DGROUP={group}", *(["-DBFLOAT16"] if dtype == torch.bfloat16 else [])]
    try:
        command = shlex.split(os.environ.get("CC") or "gcc")
        defines = _run([*command, "-march=native", "-dM", "-E", "-x", "c", os.devnull])  # its own version among them
        if "__clang__" in defines:  # whose OpenMP would stand beside PyTorch's
            return None, f"{command[0]} is clang, not gcc"
        if "__FAST_MATH__" in defines:  # which would change rounding in all of this process
            return None, "CC asks for -ffast-math"
        command += [*OPTIONS, *([WIDEST] if "__AVX512F__" in defines else []), *shape]
        run = _function(
            command, hashlib.sha256("\n".join([*command, defines, SOURCE.read_text()]).encode()).hexdigest()
        )
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError) as error:
        return None, " ".join(str(getattr(error, "stderr", "") or error).split())[:TOLD]
    run.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int64] * 6 + [ctypes.c_float, ctypes.c_int]
    far = _far(run, dtype, size, group)
    return (run, "") if far <= CLOSE[dtype == torch.float32] else (None, f"its results are {far:.1g} away")


def _function(command: list[str], name: str) -> Any:
    """What is kept for this user under a name, of all that makes it as a home may be seen by several CPUs; made anew
    by `command` where there is none, or none that loads and is this user's."""
    kept = (cache_folder() or Path(os.devnull)) / "compiled" / f"{name}.so"
    with suppress(OSError, AttributeError):
        if kept.stat().st_uid == os.getuid():
            return ctypes.CDLL(str(kept)).attend
    with tempfile.TemporaryDirectory(prefix="harness-") as scratch:
        made = Path(scratch) / kept.name
        _run([*command, str(SOURCE), "-o", str(made), "-lm"])
        found = ctypes.CDLL(str(made)).attend
        with suppress(OSError):  # it is compiled again next time
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(kept, made.read_bytes())
    return found


def _run(command: list[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
    ).stdout


def _far(run: Any, dtype: Any, size: int, group: int) -> float:
    """How far what is compiled is from exact attention of random keys, of the length of that."""
    import torch

    made = torch.Generator().manual_seed(0)
    query = torch.randn(1, group, size, generator=made).to(dtype)
    keys, values = (torch.randn(1, 1, CHECKED, size, generator=made).to(dtype) for _ in range(2))
    found, lse, bounds = torch.empty_like(query), torch.empty(1, group, dtype=torch.float32), torch.tensor([0, CHECKED])
    addresses = [t.data_ptr() for t in (query, found, lse, keys, values, bounds[:1], bounds[:1], bounds[1:])]
    run(*addresses, 1, 1, 1, CHECKED, 0, 0, size**-0.5, 1)
    scores = query[0].double() @ keys[0, 0].double().T * size**-0.5
    exact = scores.softmax(dim=-1) @ values[0, 0].double()
    apart = (found[0] - exact).norm() / exact.norm(), (lse[0] - scores.logsumexp(-1)).abs().max()
    return float(torch.stack(apart).max())  # which keeps what is not a number
