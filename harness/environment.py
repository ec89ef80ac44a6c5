"""What machine this is, found without importing torch, so that a plan or a report stays instant."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LIBRARIES = (
    "torch", "transformers", "peft", "lm-eval", "bitsandbytes", "torchao", "gptqmodel", "optimum",
    "accelerate", "datasets", "bm25s", "sentence-transformers",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and its libraries. `dtype` is what cells compute in here: float16 on CUDA, bfloat16 on a CPU
    with AMX or AVX512-BF16, float32 on any other CPU, where 16-bit arithmetic is emulated and ten times slower."""

    device: str
    hardware: str
    dtype: str
    cpu_count: int
    memory_gib: float
    os: str
    python: str
    versions: Mapping[str, str]


def versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions of distributions, leaving out those that are not installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _torch_has_cuda() -> bool:
    """Whether the installed PyTorch was built for CUDA, read from its `version.py` without importing it."""
    found = importlib.util.find_spec("torch")
    places = found.submodule_search_locations if found else None
    text = (Path(next(iter(places))) / "version.py").read_text(encoding="utf-8") if places else ""
    return re.search(r"^cuda\b[^=]*= *['\"]", text, re.MULTILINE) is not None


def _gpu() -> str | None:
    if not shutil.which("nvidia-smi") or os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not _torch_has_cuda():
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    names = answer.stdout.strip().splitlines()
    return names[0].strip() if answer.returncode == 0 and names else None


def _cpu() -> tuple[str, frozenset[str]]:
    fields: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields.get("model name", platform.processor() or "CPU"), frozenset(fields.get("flags", "").split())


def _cores(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: its affinity, and no more than its control group's quota (a container's)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = quota_file.read_text().partition(" ") if quota_file.exists() else ("max", "", "")
    return cores if quota.strip() == "max" else max(1, min(cores, int(quota) // int(period)))


@cache
def detect() -> Environment:
    """The environment of this process, found once."""
    import psutil

    gpu = _gpu()
    cpu, flags = _cpu()
    cores = _cores()
    cpu_dtype = "bfloat16" if flags & {"amx_bf16", "avx512_bf16"} else "float32"
    return Environment(
        device="cuda" if gpu else "cpu",
        hardware=gpu or f"{cpu}, {cores} cores",
        dtype="float16" if gpu else cpu_dtype,
        cpu_count=cores,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        os=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=versions(LIBRARIES),
    )


def give_memory_back() -> None:
    """Has glibc return its free pages to the system (malloc_trim(3)): rows of other lengths leave gaps between blocks,
    up to a gigabyte in a training. Milliseconds, so call it between steps of seconds. Nothing with other C libraries.
    """
    import ctypes
    from contextlib import suppress

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
