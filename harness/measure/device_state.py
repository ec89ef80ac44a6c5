"""What else a machine did while a latency was taken, and whether its device held still: a number taken beside other
work, or on a GPU that slows itself, says less than it seems to.

A GPU is asked through NVML (nvidia-ml-py) after the warm-up and after the last timed answer. Virtual machines and
containers refuse some of it: what cannot be read is left out and named, never guessed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.environment import visible_gpu
from harness.types import Json, Measurement

BUSY_CORES = 0.2  # of others, from which a CPU's times are noisy
HOST_CORES = 2  # which others must leave to a process that times a GPU
CLOCK_SHARE = 0.1  # of the SM clock, by which it may change
THROTTLES = {  # bits of nvmlClocksEventReasons, nvml.h
    0x01: "GPU idle", 0x02: "application clocks setting", 0x04: "SW power cap", 0x08: "HW slowdown",
    0x10: "sync boost", 0x20: "SW thermal slowdown", 0x40: "HW thermal slowdown", 0x80: "HW power brake",
    0x100: "display clock setting",
}  # fmt: skip
SLOWED = ("SW power cap", "HW slowdown", "SW thermal slowdown", "HW thermal slowdown", "HW power brake")


@dataclass(frozen=True, slots=True)
class Reading:
    """A GPU at one time; None is what it does not tell. `process_bytes` is what this process holds on it, `others` are
    the processes on it that are not of this run; `listed` counts all of them, in whatever namespace their ids are."""

    sm_mhz: float | None = None
    memory_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    reasons: tuple[str, ...] | None = None
    listed: int | None = None
    process_bytes: int | None = None
    others: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """When a watch began: seconds of the clock, busy core seconds of the machine and of this process, the machine's
    load average over a minute, and its GPU."""

    seconds: float
    busy: float
    own: float
    load: float
    reading: Reading | None


def start(device: str) -> Start:
    """Begins to watch; call it after the warm-up."""
    import psutil

    reading = read() if device == "cuda" else None
    return Start(time.perf_counter(), _busy(), _own(), psutil.getloadavg()[0], reading)


def end(began: Start, unsettled: str | None = None) -> tuple[list[Measurement], dict[str, Json]]:
    """What happened since `start`, and the facts behind it; `unsettled` is what the warm-up found amiss. Call it right
    after the last timed answer, before the clocks fall."""
    after = read() if began.reading else None
    seconds, own, busy = time.perf_counter() - began.seconds, _own() - began.own, _busy() - began.busy
    cores = max(0.0, busy - own) / seconds
    alone = noise(cores, len(_affinity()), began.reading, after)
    found = [*alone, *([unsettled] if unsettled else [])]
    measured = _measurements(after) if after else [Measurement("other_work/cores", cores, "cores", "lower", 1)]
    facts: dict[str, Json] = {"noise": found, "other_cores": round(cores, 3), "load_average": round(began.load, 2)}
    if began.reading and after:
        facts["gpu"] = {"start": _told(began.reading), "end": _told(after), "unread": _unread(began.reading, after)}
    return [*measured, Measurement("noisy", float(bool(found)), "flag", "lower", 1)], facts


def noise(cores: float, of: int, before: Reading | None, after: Reading | None) -> list[str]:
    """A sentence for each thing that makes times noisy: others that kept `cores` of `of` cores busy, beside a GPU all
    but `HOST_CORES` of them, and on a GPU others on it, a clock that moved, and a device that slowed itself."""
    found = []
    if cores > (BUSY_CORES if before is None else max(BUSY_CORES, of - HOST_CORES)):
        found.append(f"other processes kept {cores:.2f} of {of} cores busy")
    if before is None or after is None:
        return found
    if others := {*(before.others or ()), *(after.others or ())}:
        found.append(f"other processes on the GPU: {len(others)}")
    if before.sm_mhz and after.sm_mhz and abs(after.sm_mhz - before.sm_mhz) > CLOCK_SHARE * before.sm_mhz:
        found.append(f"the SM clock went from {before.sm_mhz:,.0f} to {after.sm_mhz:,.0f} MHz")
    if slowed := [r for r in SLOWED if r in (*(before.reasons or ()), *(after.reasons or ()))]:
        found.append(f"the GPU slowed itself: {', '.join(slowed)}")
    return found


def read() -> Reading:
    """The GPU that torch calls 0, as NVML tells it now."""
    import pynvml

    def ask(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except pynvml.NVMLError:
            return None

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return Reading()
    try:
        gpu = _handle(ask)
        if gpu is None:
            return Reading()
        bits = ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, gpu)
        if bits is None:  # drivers before 535 know the older name alone
            bits = ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, gpu)
        power = ask(pynvml.nvmlDeviceGetPowerUsage, gpu)
        processes = ask(pynvml.nvmlDeviceGetComputeRunningProcesses, gpu)
        held, others = (None, None) if processes is None else _split(processes)
        return Reading(
            sm_mhz=ask(pynvml.nvmlDeviceGetClockInfo, gpu, pynvml.NVML_CLOCK_SM),
            memory_mhz=ask(pynvml.nvmlDeviceGetClockInfo, gpu, pynvml.NVML_CLOCK_MEM),
            temperature_c=ask(pynvml.nvmlDeviceGetTemperature, gpu, pynvml.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / 1000,
            reasons=None if bits is None else names(bits),
            listed=None if processes is None else len(processes),
            process_bytes=held,
            others=others,
        )
    finally:
        ask(pynvml.nvmlShutdown)


def names(bits: int) -> tuple[str, ...]:
    """The reasons for which a clock is not at its highest, from NVML's bits; one without a name is its number."""
    return tuple(THROTTLES.get(1 << n, hex(1 << n)) for n in range(bits.bit_length()) if bits >> n & 1)


def _handle(ask: Callable[..., Any]) -> Any:
    """NVML's handle of the GPU that torch calls 0: by its UUID, or where torch tells none, by the first entry of
    CUDA_VISIBLE_DEVICES. None where neither is known to NVML."""
    import pynvml

    uuid = str(_uuid() or "")
    visible = visible_gpu()
    if not uuid and visible.isdecimal():
        return ask(pynvml.nvmlDeviceGetHandleByIndex, int(visible))
    uuid = uuid or visible
    return ask(pynvml.nvmlDeviceGetHandleByUUID, uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")


def _uuid() -> Any:
    import torch

    return getattr(torch.cuda.get_device_properties(0), "uuid", None)


def _split(processes: Sequence[Any]) -> tuple[int | None, tuple[int, ...] | None]:
    """Bytes that this process holds, and the ids of processes that are not of this run. Where this process is not among
    those listed, the ids are of another namespace and tell nothing."""
    held = {p.pid: p.usedGpuMemory for p in processes}
    if os.getpid() not in held:
        return None, None
    family = _family()
    return held[os.getpid()], tuple(sorted(pid for pid in held if pid not in family))


def _family() -> set[int]:
    """This process, its children, its parent, and its parent's other children: steps that wait for work."""
    import psutil

    me = psutil.Process()
    parent = me.parent()
    siblings = parent.children() if parent else []
    return {me.pid, os.getppid(), *(p.pid for p in (*siblings, *me.children(recursive=True)))}


def _affinity() -> list[int]:
    """The cores that this process may run on."""
    import psutil

    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(psutil.cpu_count() or 1))


def _busy() -> float:
    """Seconds that the cores this process may run on were busy since the machine started, with whatever it was: with
    other guests of its host too (`steal`). `guest` is in `user` already (man 5 proc_stat)."""
    import psutil

    each = psutil.cpu_times(percpu=True)
    idle = ("idle", "iowait", "guest", "guest_nice")
    mine = [each[n] for n in _affinity() if n < len(each)]
    return float(sum(sum(t) - sum(getattr(t, name, 0.0) for name in idle) for t in mine))


def _own() -> float:
    """Core seconds of this process, its threads and the children that it waited for."""
    return sum(os.times()[:4])


def _measurements(after: Reading) -> list[Measurement]:
    values = (
        ("clock_mhz/sm", after.sm_mhz, "MHz", "higher"),
        ("temperature_c", after.temperature_c, "°C", "lower"),
        ("memory_bytes/nvml_process", after.process_bytes, "bytes", "lower"),
        ("other_work/gpu_processes", None if after.others is None else len(after.others), "processes", "lower"),
    )
    return [
        Measurement(name, float(value), unit, better, 1) for name, value, unit, better in values if value is not None
    ]


def _told(reading: Reading) -> dict[str, Json]:
    """What a reading tells, as JSON."""
    told = {name: value for name, value in asdict(reading).items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}


def _unread(*readings: Reading) -> list[Json]:
    """What could not be read each time."""
    return [name for name in asdict(readings[0]) if any(getattr(r, name) is None for r in readings)]
