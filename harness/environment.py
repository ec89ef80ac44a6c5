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
    return {name: found for name in names if (found := _version(name))}


@cache
def _version(name: str) -> str | None:
    """Read once a process: a plan asks for the same few for each of its steps."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_has_cuda() -> bool:
    """Whether the installed PyTorch was built for CUDA, read from its `version.py` without importing it."""
    found = importlib.util.find_spec("torch")
    places = found.submodule_search_locations if found else None
    text = (Path(next(iter(places))) / "version.py").read_text(encoding="utf-8") if places else ""
    return re.search(r"^cuda\b[^=]*= *['\"]", text, re.MULTILINE) is not None


def _nvidia_smi(*arguments: str) -> str:
    """What it says; nothing where there is none or it fails."""
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def visible_gpu() -> str:
    """The number or id of the first GPU, or part of one, that CUDA_VISIBLE_DEVICES lets torch see."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()


def _part() -> tuple[str, str] | None:
    """The number of the GPU of which torch sees a part (MIG), and that part's profile, such as `1g.18gb` (empty where
    nvidia-smi does not list it); None where torch sees a whole one. Of a divided GPU it sees the first part, unless it
    is told another."""
    first, number, name = visible_gpu(), "", ""
    for line in _nvidia_smi("-L").splitlines():
        if gpu := re.match(r"GPU (\d+): .*\(UUID: (\S+)\)", line):
            number, name = gpu.groups()
        elif part := re.match(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)", line):
            profile, own = part.groups()
            if first == number or (first and (name.startswith(first) or own.startswith(first))):
                return number, profile
    return ("0", "") if first.startswith("MIG-") else None


def _of_gpu(field: str, first: str) -> str | None:
    """What nvidia-smi says of the GPU of that number or id; None where there is none, or it does not tell."""
    answer = _nvidia_smi(f"--query-gpu=index,uuid,{field}", "--format=csv,noheader,nounits")
    for number, name, value in re.findall(r"^(\d+), (\S+), (.+)$", answer, re.MULTILINE):
        if first == number or (first and name.startswith(first)):
            return str(value).strip()
    return None


def _gpu() -> str | None:
    """Its name, and of a part of one its profile, as torch has it: `NVIDIA H200 MIG 1g.18gb`. From now on CUDA counts
    GPUs as nvidia-smi does, which by itself begins with the fastest (and changes its order in processes that import
    gptqmodel)."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if not shutil.which("nvidia-smi") or not _torch_has_cuda():
        return None
    if (part := _part()) is None:
        return _of_gpu("name", visible_gpu())
    name = _of_gpu("name", part[0])
    return name and f"{name} MIG {part[1]}".rstrip()


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


def container_memory(
    listing: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> list[tuple[int, int]]:
    """(limit, free) in bytes of each control group with a limit that holds this process: its own and those above it,
    version 2 or 1. Pages of files that the kernel would give up first (`inactive_file`) count as free, as Kubernetes
    counts them. A container's files show its own group at the top, whatever path the listing names."""
    found = []
    for line in listing.read_text().splitlines() if listing.exists() else []:
        _, controllers, path = line.split(":", 2)  # man 7 cgroups
        if controllers and "memory" not in controllers.split(","):
            continue
        top = mounted / "memory" if controllers else mounted
        names = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        inner = top / path.lstrip("/")
        for folder in (f for f in (inner, *inner.parents) if f.is_relative_to(top)):
            limit, used = (folder / f"memory.{name}" for name in names)
            if not limit.exists() or not used.exists() or (most := limit.read_text().strip()) == "max":
                continue
            stat = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
            spare = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
            found.append((int(most), int(most) - int(used.read_text()) + spare))
    return found


def oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int | None:
    """How many processes the system has killed since it started because memory ran out, a container's limit counted
    (man 5 proc, `oom_kill`); None where it does not tell."""
    found = re.search(r"^oom_kill (\d+)$", vmstat.read_text(), re.MULTILINE) if vmstat.exists() else None
    return int(found.group(1)) if found else None


def free_memory() -> int:
    """Bytes that are left of the machine's memory or of its container's, whichever is less: past the latter the kernel
    kills."""
    import psutil

    return min(int(psutil.virtual_memory().available), *(free for _, free in container_memory()), 2**63)


def free_bytes(device: str) -> int:
    """Memory that this process may still take: of a GPU what the driver and PyTorch's own reserve have left, else what
    is left of the machine's or of its container's."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    return free_memory()


def free_gpu_memory() -> int | None:
    """Bytes free on the GPU that torch takes, of the driver; None where it does not tell, as of a part of one."""
    free = None if _part() else _of_gpu("memory.free", visible_gpu())
    return int(free) * 2**20 if free and free.isdecimal() else None


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
        memory_gib=round(
            min(psutil.virtual_memory().total, *(most for most, _ in container_memory()), 2**63) / 2**30, 1
        ),
        os=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=versions(LIBRARIES),
    )


def cache_folder() -> Path | None:
    """Where this user's own things are kept that can be made again (XDG Base Directory Specification); None for a user
    without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "harness"
    except RuntimeError:
        return None


def settle(device: str) -> None:
    """Waits until a device has done all it was given; a CPU has by then."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def give_memory_back() -> None:
    """Has glibc return its free pages to the system (malloc_trim(3)): rows of other lengths leave gaps between blocks,
    up to a gigabyte in a training. Milliseconds, so call it between steps of seconds. Nothing with other C libraries.
    """
    import ctypes
    from contextlib import suppress

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
