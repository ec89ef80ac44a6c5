"""What else a machine did while a latency was taken: told exactly of made-up readings, of a made-up NVML that refuses
some of its calls, and of this machine. And the warm-up, which goes on until three requests took as long."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness import execute
from harness.configured import _counts
from harness.engine.eager import Eager
from harness.measure import device_state, latency
from harness.measure.device_state import Reading, Start, end, names, noise, read, start
from harness.prompt import Recipe
from harness.types import Component, Measurement, Step, StepKind
from tests.cells import suite_data
from tests.test_engine import CONTEXT
from tests.test_graph import MODELS, saved

QUIET = Reading(1980.0, 2619.0, 40.0, 300.0, ("GPU idle",), 1, 10**9, ())
ME, PARENT, OTHER = os.getpid(), os.getppid(), 2**30


@pytest.mark.parametrize(
    ("cores", "told"),
    [(0.0, []), (0.2, []), (0.21, ["other processes kept 0.21 of 2 cores busy"])],
)
def test_others_on_a_cpu_are_noise_above_a_fifth_of_a_core(cores: float, told: list[str]) -> None:
    assert noise(cores, 2, None, None) == told


@pytest.mark.parametrize(
    ("cores", "of", "noisy"), [(14.0, 16, False), (14.1, 16, True), (0.2, 2, False), (0.3, 2, True)]
)
def test_others_on_the_host_are_noise_beside_a_gpu_where_they_leave_too_few_cores(
    cores: float, of: int, noisy: bool
) -> None:
    told = [f"other processes kept {cores:.2f} of {of} cores busy"]
    assert noise(cores, of, QUIET, QUIET) == (told if noisy else [])


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {}, []),
        ({}, {"sm_mhz": 1782.0}, []),
        ({}, {"sm_mhz": 2178.0}, []),
        ({}, {"sm_mhz": 1781.0}, ["the SM clock went from 1,980 to 1,781 MHz"]),
        ({"sm_mhz": 345.0}, {}, ["the SM clock went from 345 to 1,980 MHz"]),
        ({"sm_mhz": None}, {}, []),
        ({}, {"sm_mhz": None}, []),
        ({"others": (7,)}, {"others": (7, 8)}, ["other processes on the GPU: 2"]),
        ({"others": (7,)}, {"others": None}, ["other processes on the GPU: 1"]),
        ({"others": None}, {"others": None}, []),
        ({}, {"reasons": ("SW power cap",)}, ["the GPU slowed itself: SW power cap"]),
        ({"reasons": ("HW thermal slowdown",)}, {"reasons": None}, ["the GPU slowed itself: HW thermal slowdown"]),
        ({"reasons": ("SW thermal slowdown",)}, {"reasons": ("HW power brake",)},
         ["the GPU slowed itself: SW thermal slowdown, HW power brake"]),
        ({}, {"reasons": ("GPU idle", "application clocks setting", "sync boost")}, []),
        ({"others": (7,)}, {"sm_mhz": 990.0, "reasons": ("HW slowdown",)},
         ["other processes on the GPU: 1", "the SM clock went from 1,980 to 990 MHz",
          "the GPU slowed itself: HW slowdown"]),
    ],
)  # fmt: skip
def test_what_makes_a_gpu_noisy(before: dict[str, Any], after: dict[str, Any], told: list[str]) -> None:
    assert noise(0.0, 2, replace(QUIET, **before), replace(QUIET, **after)) == told


def test_reasons_have_nvidias_names() -> None:
    assert names(0) == ()
    assert names(0x4 | 0x80) == ("SW power cap", "HW power brake")
    assert names(0x1 | 0x400) == ("GPU idle", "0x400")
    assert set(device_state.SLOWED) <= set(device_state.THROTTLES.values())


class Refused(Exception):
    """NVML's error."""


class FakeNvml:
    """A GPU as nvidia-ml-py tells it, in NVML's units (mW), but for the calls that it refuses."""

    NVMLError = Refused
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, refuses: Sequence[str] = (), pids: Sequence[int] = (ME,)) -> None:
        self.asked: list[str] = []
        self.handles: list[Any] = []
        self.refuses = {f"nvml{name}" for name in refuses}
        self.answers: dict[str, Callable[..., Any]] = {
            "nvmlDeviceGetClockInfo": lambda gpu, kind: {1: 1980, 2: 2619}[kind],
            "nvmlDeviceGetTemperature": lambda gpu, sensor: 41,
            "nvmlDeviceGetPowerUsage": lambda gpu: 312_500,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: 0x4,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu: 0x40,
            "nvmlDeviceGetComputeRunningProcesses": lambda gpu: [
                SimpleNamespace(pid=pid, usedGpuMemory=1000 + n) for n, pid in enumerate(pids)
            ],
            "nvmlDeviceGetHandleByUUID": self.handles.append,
            "nvmlDeviceGetHandleByIndex": self.handles.append,
        }

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.asked.append(name)
            if name in self.refuses:
                raise Refused(name)
            answer = self.answers[name](*arguments) if name in self.answers else None
            return "gpu" if "Handle" in name else answer

        return call


def fake(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, uuid: str | None = "5e-6f") -> FakeNvml:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(device_state, "_uuid", lambda: uuid)
    monkeypatch.setattr(device_state, "_affinity", lambda: list(range(64)))  # other tests leave cores enough
    return nvml


def test_a_gpu_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake(monkeypatch, FakeNvml(pids=(PARENT, ME, OTHER)))
    assert read() == Reading(1980, 2619, 41, 312.5, ("SW power cap",), 3, 1001, (OTHER,))
    assert nvml.handles == ["GPU-5e-6f"]
    assert (nvml.asked[0], nvml.asked[-1]) == ("nvmlInit", "nvmlShutdown")


@pytest.mark.parametrize(
    ("refused", "left_out"),
    [
        (["DeviceGetClockInfo"], {"sm_mhz": None, "memory_mhz": None}),
        (["DeviceGetTemperature"], {"temperature_c": None}),
        (["DeviceGetPowerUsage"], {"power_w": None}),
        (["DeviceGetComputeRunningProcesses"], {"listed": None, "process_bytes": None, "others": None}),
        (["DeviceGetCurrentClocksEventReasons"], {"reasons": ("HW thermal slowdown",)}),
        (["DeviceGetCurrentClocksEventReasons", "DeviceGetCurrentClocksThrottleReasons"], {"reasons": None}),
        (["Shutdown"], {}),
    ],
)
def test_what_a_driver_refuses_is_left_out_and_the_rest_is_read(
    monkeypatch: pytest.MonkeyPatch, refused: list[str], left_out: dict[str, Any]
) -> None:
    fake(monkeypatch, FakeNvml(refused))
    whole = Reading(1980, 2619, 41, 312.5, ("SW power cap",), 1, 1000, ())
    assert read() == replace(whole, **left_out)


@pytest.mark.parametrize("refused", ["Init", "DeviceGetHandleByUUID"])
def test_without_a_driver_nothing_is_told(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    nvml = fake(monkeypatch, FakeNvml([refused]))
    assert read() == Reading()
    assert ("nvmlShutdown" in nvml.asked) is (refused != "Init")


def test_process_ids_of_another_namespace_tell_nothing_but_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, FakeNvml(pids=(OTHER, OTHER + 1)))
    found = read()
    assert (found.listed, found.process_bytes, found.others) == (2, None, None)


@pytest.mark.parametrize(
    ("uuid", "visible", "asked"),
    [
        ("5e", "1", "GPU-5e"), ("MIG-5e", "1", "MIG-5e"), (None, "3,0", 3), (None, None, 0),
        (None, "GPU-7a,GPU-8", "GPU-7a"), (None, "MIG-7a", "MIG-7a"),
    ],
)  # fmt: skip
def test_the_gpu_is_the_one_that_torch_sees_first(
    monkeypatch: pytest.MonkeyPatch, uuid: str | None, visible: str | None, asked: Any
) -> None:
    nvml = fake(monkeypatch, FakeNvml(), uuid)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    read()
    assert nvml.handles == [asked]


def values(found: Sequence[Measurement]) -> dict[str, tuple[float, str, str]]:
    return {m.metric: (m.value, m.unit, m.better) for m in found}


def test_a_watch_on_a_gpu_tells_its_last_state_and_what_it_could_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, FakeNvml(["DeviceGetPowerUsage", "DeviceGetCurrentClocksEventReasons"], pids=(ME, OTHER)))
    found, facts = end(start("cuda"))
    assert values(found) == {
        "clock_mhz/sm": (1980, "MHz", "higher"), "temperature_c": (41, "°C", "lower"),
        "memory_bytes/nvml_process": (1000, "bytes", "lower"), "other_work/gpu_processes": (1, "processes", "lower"),
        "noisy": (1, "flag", "lower"),
    }  # fmt: skip
    assert facts["noise"] == ["other processes on the GPU: 1", "the GPU slowed itself: HW thermal slowdown"]
    gpu: Any = facts["gpu"]
    assert gpu["unread"] == ["power_w"]
    assert gpu["end"]["others"] == [OTHER]
    assert "power_w" not in gpu["end"]
    assert json.loads(json.dumps(facts)) == facts


def test_the_state_at_the_end_is_the_one_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, FakeNvml(["DeviceGetCurrentClocksEventReasons"]))
    cold = Reading(sm_mhz=990.0, temperature_c=30.0, reasons=("GPU idle",))
    found, facts = end(replace(start("cuda"), reading=cold))
    assert values(found)["temperature_c"][0] == 41
    gpu: Any = facts["gpu"]
    assert gpu["start"] == {"sm_mhz": 990.0, "temperature_c": 30.0, "reasons": ["GPU idle"]}
    assert gpu["end"]["temperature_c"] == 41
    assert facts["noise"] == ["the SM clock went from 990 to 1,980 MHz", "the GPU slowed itself: HW thermal slowdown"]


def test_a_gpu_that_tells_nothing_is_called_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, FakeNvml(["Init"]))
    found, facts = end(start("cuda"))
    assert values(found) == {"noisy": (0, "flag", "lower")}
    gpu: Any = facts["gpu"]
    assert (gpu["start"], gpu["end"]) == ({}, {})
    assert len(gpu["unread"]) == 8


@pytest.mark.parametrize(
    ("busy", "own", "cores"), [(8.0, 5.0, 0.3), (5.0, 5.0, 0.0), (4.9, 5.0, 0.0), (6.9, 5.0, 0.19)]
)
def test_a_watch_on_a_cpu_divides_what_others_did_by_its_time(
    monkeypatch: pytest.MonkeyPatch, busy: float, own: float, cores: float
) -> None:
    monkeypatch.setattr(device_state, "_busy", lambda: 100 + busy)
    monkeypatch.setattr(device_state, "_own", lambda: 20 + own)
    monkeypatch.setattr("harness.measure.device_state.time.perf_counter", lambda: 60.0)
    found, facts = end(Start(50.0, 100.0, 20.0, 1.5, None))
    assert values(found) == {
        "other_work/cores": (pytest.approx(cores), "cores", "lower"), "noisy": (float(cores > 0.2), "flag", "lower"),
    }  # fmt: skip
    assert len(facts["noise"]) == (cores > 0.2)  # type: ignore[arg-type]
    assert facts["other_cores"] == pytest.approx(cores, abs=1e-3)
    assert facts["load_average"] == 1.5
    assert "gpu" not in facts


def test_busy_is_all_but_idle_and_counts_guests_once(monkeypatch: pytest.MonkeyPatch) -> None:
    core = SimpleNamespace(user=10.0, idle=100.0, iowait=7.0, steal=2.0, guest=4.0, guest_nice=0.5)

    class Times(list[float]):
        def __getattr__(self, name: str) -> float:
            return float(getattr(core, name))

    one = Times(vars(core).values())
    monkeypatch.setattr("psutil.cpu_times", lambda percpu: [one, one, one])
    monkeypatch.setattr(device_state, "_affinity", lambda: [0, 2, 9])
    assert device_state._busy() == 2 * (10 + 2), "of the two cores there are"


def test_a_watch_on_this_cpu_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.getloadavg", lambda: (1.0, 2.0, 3.0))
    began = start("cpu")
    sum(range(3_000_000))
    found, facts = end(began)
    assert list(values(found)) == ["other_work/cores", "noisy"]
    assert math.isfinite(found[0].value)
    assert found[0].value >= 0
    assert found[1].value == float(bool(facts["noise"]))
    assert began.load == 1.0, "of the last minute"
    assert began.own < device_state._own()
    assert 0 < began.busy <= device_state._busy()


class FakeSession:
    """Answers in made-up milliseconds, the last ones for ever."""

    def __init__(self, *times: float) -> None:
        self.times = times
        self.asked: list[str] = []

    def time_tokens(self, prompt: str, new_tokens: int) -> list[float]:
        took = self.times[min(len(self.asked), len(self.times) - 1)]
        self.asked.append(prompt)
        return [took / 2000, took / 1000]


def warmed(least: int, most: int, *times: float) -> tuple[str, str | None]:
    """The prompts asked, and what was said."""
    session: Any = FakeSession(*times)
    knobs = {"warmup": least, "warmup_most": most, "output_tokens": 4}
    took = latency.warm_up(session, ["a", "b", "c", "d"], knobs)
    assert len(took) == len(session.asked)
    return "".join(session.asked), latency.unsettled(took, knobs)


@pytest.mark.parametrize(
    ("least", "most", "times", "asked"),
    [
        (0, 8, [9], ""),
        (1, 8, [10], "aaa"),
        (2, 8, [90, 10], "abbb"),
        (2, 8, [90, 10, 11, 12.2, 11, 11.1], "abbbbbb"),
        (4, 8, [10], "abcd"),
        (6, 8, [10], "abcdab"),
        (2, 8, [90, 10, 10.5, 11], "abbb"),
    ],
)
def test_the_warm_up_ends_when_three_requests_took_as_long(
    least: int, most: int, times: list[float], asked: str
) -> None:
    assert warmed(least, most, *times) == (asked, None)


def test_three_are_alike_within_a_tenth() -> None:
    assert latency.settled([50, 100, 110, 105])
    assert not latency.settled([100, 111, 105])
    assert not latency.settled([100, 100])


def test_a_warm_up_that_reached_its_limit_says_so() -> None:
    up = [10.0 * 1.2**n for n in range(8)]
    asked, said = warmed(2, 8, *up)
    assert asked == "abbbbbbb"
    assert said == "8 warm-up requests did not settle: the last three took 24.9, 29.9 and 35.8 ms"
    assert warmed(1, 3, *up) == ("aaa", None), "a first look: a cold request is among its three"
    assert warmed(1, 4, *up)[1] is not None
    assert warmed(1, 1, *up) == ("a", None)
    assert warmed(5, 5, *up)[1] is None


def test_an_unsettled_warm_up_is_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_state, "_busy", lambda: 1.0)
    found, facts = end(start("cpu"), "it did not settle")
    assert facts["noise"] == ["it did not settle"]
    assert values(found)["noisy"][0] == 1


def test_what_is_timed_is_watched_from_the_warm_up_to_the_last_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[str] = []

    def noted(name: str, answer: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            done.append(name)
            return answer(*arguments, **options)

        return call

    folder = saved(tmp_path, *MODELS["llama"])
    Recipe("Be kind.", (), (), "none", 1).save(folder)
    session: Any = Eager().start(folder, CONTEXT)
    monkeypatch.setattr(session, "time_tokens", noted("request", lambda *_, **options: [0.001, 0.002]))
    monkeypatch.setattr(session, "time_batch", noted("batch", session.time_batch))
    monkeypatch.setattr(latency, "warm_up", noted("warm-up", lambda *_: [10.0, 20.0, 40.0, 80.0]))
    monkeypatch.setattr("harness.measure.load.measure", noted("load", lambda *_: []))
    monkeypatch.setattr("harness.measure.memory.measure", noted("memory", lambda *_: []))
    monkeypatch.setattr(device_state, "start", noted("start", device_state.start))
    monkeypatch.setattr(device_state, "end", noted("end", device_state.end))
    knobs = {
        "requests": 2, "warmup": 1, "warmup_most": 4, "output_tokens": 2, "batch_size": 1, "batch_tokens": 2,
        "natural_requests": 1, "clients": [], "open_requests": 0,
    }  # fmt: skip
    data = suite_data(evaluation=({"id": "1", "message": "why?", "reply": "so"},), max_new_tokens=4)
    found, facts = latency.measure(session, folder, data, knobs, CONTEXT)
    assert done == ["warm-up", "start", *["request"] * 3, "batch", "load", "end", "memory", "batch"]
    noise_told: Any = facts["noise"]
    assert noise_told[-1] == "4 warm-up requests did not settle: the last three took 20.0, 40.0 and 80.0 ms"
    assert (values(found)["noisy"][0], values(found)["warmup_requests"][0]) == (1, 4)


@pytest.mark.parametrize(("least", "most", "wrong"), [(2, 2, False), (2, 1, True), (0, 0, False), (0, -1, True)])
def test_the_most_requests_are_as_many_as_the_least(least: int, most: int, wrong: bool) -> None:
    knobs = {
        "requests": 1,
        "batch_size": 1,
        "output_tokens": 2,
        "batch_tokens": 2,
        "natural_requests": 0,
        "rounds": 1,
        "adapters": 0,
    }
    latency_knobs = {**knobs, "warmup": least, "warmup_most": most}
    parts = {"seed": 0, "suite": {"max_new_tokens": 1}, "runner": {"workers": None}}
    found = _counts(OmegaConf.create({**parts, "measure": {"latency": latency_knobs}}))
    line = f"measure.latency.warmup_most={most}: must be a whole number, {least} or more, as many as warmup"
    assert found == ([line] if wrong else [])


def test_a_latency_step_keeps_the_facts_beside_its_proof(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    session = SimpleNamespace(loaded=SimpleNamespace(proof={"how": "CUDA graph"}))
    measured = [Measurement("noisy", 1.0, "flag", "lower", 1)]
    monkeypatch.setattr(execute, "_session", lambda *_: session)
    monkeypatch.setattr(execute, "_data", lambda step: None)
    monkeypatch.setattr(latency, "measure", lambda *_: (measured, {"noise": ["why"]}))
    step = Step(StepKind.LATENCY, "k", "t", Component("latency", "", {}), (), {}, 0)
    assert execute._latency(step, [tmp_path], tmp_path, CONTEXT) == {"how": "CUDA graph", "noise": ["why"]}
    assert execute.read_measurements(tmp_path) == tuple(measured)


def test_an_adapter_beside_its_base_answers_by_the_same_grammar(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = SimpleNamespace(loaded=SimpleNamespace(proof={"packed_layers": 0}))
    asked: list[str] = []
    engine = SimpleNamespace(over=lambda loaded, context, output="": asked.append(output))
    monkeypatch.setattr(execute, "_session", lambda *_: session)
    monkeypatch.setattr(execute, "_data", lambda step: suite_data(output='start: "yes"'))
    monkeypatch.setattr(execute, "instantiate", lambda component: engine)
    monkeypatch.setattr(latency, "measure", lambda *_: ([], {}))
    monkeypatch.setattr(latency, "prompts_of", lambda *_: [])
    monkeypatch.setattr("harness.loading.load", lambda *_, **__: None)
    monkeypatch.setattr("harness.measure.adapters.measure", lambda base, _, merged, over, *__: [over(base)][1:])
    one = Component("latency", "", {"adapters": 2, "requests": 1})
    step = Step(StepKind.LATENCY, "k", "t", one, (), {}, 0, engine=one)
    facts = execute._latency(step, [tmp_path / "quantize" / "a", tmp_path / StepKind.BASE / "b"], tmp_path, CONTEXT)
    assert "not timed" not in facts["adapters"]
    assert asked == ['start: "yes"']
