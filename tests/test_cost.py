"""Dollars and rates, against sums done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.decide import CostLine
from harness.decide.costs import BATCHED, owed_seconds, requests_per_second, serving_usd
from harness.pricing import priced
from harness.types import Measurement
from tests.cells import MACHINE


def measured(**values: float) -> list[Measurement]:
    """Measurements by name; `__` stands for the slash in a metric's name."""
    return [Measurement(name.replace("__", "/"), value, "", "lower", 1) for name, value in values.items()]


def test_a_batch_is_its_prefill_and_its_steps() -> None:
    """8 replies of 10 tokens: 200 ms to the first, 9 more steps of 30 ms and one for the stop token, 500 ms in all: 16
    requests a second. Cut at 11 tokens, it is as long."""
    found = measured(batch_prefill_ms=200, batch_step_ms=30, output_tokens__mean=10, truncated_share=0)
    assert requests_per_second(found, 8) == pytest.approx(16)
    found = measured(batch_prefill_ms=200, batch_step_ms=30, output_tokens__mean=11, truncated_share=1)
    assert requests_per_second(found, 8) == pytest.approx(16)
    found = measured(batch_prefill_ms=200, batch_step_ms=30, output_tokens__mean=10.5, truncated_share=0.5)
    assert requests_per_second(found, 8) == pytest.approx(16)


def test_an_answer_that_is_chosen_costs_no_step() -> None:
    """A stop token at once is the first token; a class is the only one."""
    found = measured(batch_prefill_ms=250, batch_step_ms=30, output_tokens__mean=0, truncated_share=0)
    assert requests_per_second(found, 1) == pytest.approx(4)
    found = measured(batch_prefill_ms=250, output_tokens__mean=1, truncated_share=0)
    assert requests_per_second(found, 1) == pytest.approx(4)


@pytest.mark.parametrize("lacking", ["batch_prefill_ms", "batch_step_ms", "output_tokens/mean"])
def test_no_rate_without_each_measure(lacking: str) -> None:
    found = measured(batch_prefill_ms=200, batch_step_ms=30, output_tokens__mean=11)
    assert requests_per_second([m for m in found if m.metric != lacking], 8) is None


def test_serving_and_building_add_up() -> None:
    """$3.60 an hour is $0.001 a second. 1,000 requests at 10 a second and half use take 200 s: $0.20. A build of
    500 s is $0.50; over 10,000 requests that is $0.05 a thousand."""

    def usd(rate: float, seconds: float, volume: float = 10_000, used: float = 0.5) -> float:
        return CostLine(serving_usd(rate, 3.6, used), seconds * 3.6 / 3600, BATCHED).usd_per_1000(volume)

    assert usd(10, 0) == pytest.approx(0.20)
    assert usd(10, 500) == pytest.approx(0.25)
    assert usd(10, 500, volume=1_000) == pytest.approx(0.70)
    assert usd(20, 0, used=1.0) == pytest.approx(0.05)


def test_a_build_pays_for_the_cores_it_used() -> None:
    """On a CPU two builds ran side by side on a core each; how steps share a GPU is not known."""
    build = {"seconds": 100.0, "device": "cpu", "cpu_count": 4, "threads": 1}
    assert owed_seconds(build) == 25
    assert owed_seconds({**build, "threads": 4}) == 100
    assert [owed_seconds({**build, "cpu_seconds": used}) for used in (None, 90.0, 160.0, 500.0)] == [25, 25, 40, 100]
    assert owed_seconds({**build, "device": "cuda", "cpu_seconds": 1.0}) == 100
    assert owed_seconds({"seconds": 100.0}) == 100, "of a version that kept no more"


def test_a_machine_without_a_gpu_is_priced_by_its_cores() -> None:
    """A table that priced any CPU machine as a small one would make a large one look thirty times too cheap."""
    table = {
        "name": "t", "use": "auto", "volume_requests": 1000, "utilization": 0.5,
        "hardware": {
            "h100": {"match": "H100", "usd_per_hour": 2.0},
            "cpu": {"match": "cpu", "per_core": True, "usd_per_hour": 0.04},
        },
    }  # fmt: skip
    for cores in (2, 64, 35):
        price, faults = priced(table, replace(MACHINE, cpu_count=cores, device="cpu", hardware="a CPU"))
        assert not faults
        assert price["usd_per_hour"] == round(0.04 * cores, 2), "as a page shows it: 0.04 * 35 is no 1.4"
    gpu, _ = priced(table, replace(MACHINE, device="cuda", hardware="NVIDIA H100 80GB HBM3"))
    assert gpu["usd_per_hour"] == 2.0
