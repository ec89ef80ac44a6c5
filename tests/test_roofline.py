"""The limit of a step: what it must read, over what a copy reaches."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from harness.engine.eager import Eager
from harness.loading import weight_bytes
from harness.measure import memory, roofline
from harness.measure.latency import measure
from harness.measure.roofline import bandwidth, host_bound, step_bytes
from harness.prompt import Recipe
from harness.types import Measurement
from tests.cells import suite_data
from tests.test_architectures import made
from tests.test_engine import CONTEXT
from tests.test_graph import MODELS, SHAPE, saved


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_reads_each_weight_once_and_the_table_only_where_it_makes_the_logits(tied: bool) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied))
    table = model.model.embed_tokens.weight.numel()
    weights = sum(p.numel() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    assert step_bytes(model, weight_bytes(model)) == 4 * (weights if tied else weights - table) + buffers


def test_a_step_of_experts_has_no_limit() -> None:
    """It reads those that its token is sent to, and which these are is not known."""
    found = roofline.measure(made("experts"), 10**6, "cpu", 1.0)
    assert [m.metric for m in found] == ["bandwidth_bytes_per_s"]


def test_a_copy_has_a_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e8 < bandwidth("cpu") < 1e13
    ticks = iter([0.0, 0.5, 1.0, 1.125, 2.0, 2.25])
    monkeypatch.setattr("harness.measure.roofline.time.perf_counter", lambda: next(ticks))
    monkeypatch.setattr(roofline, "COPIES", 3)
    assert bandwidth("cpu") == 2 * roofline.COPY_BYTES["cpu"] / 0.25, "reads and writes, at the median of the copies"


@pytest.mark.parametrize(
    ("times", "alone", "batch", "bound"),
    [(80.0, 50.0, 52.0, True), (80.0, 50.0, 90.0, False), (1.8, 1.24, 1.39, False), (2.9, 10.0, 10.0, False)],
)
def test_far_from_the_limit_and_flat_in_the_batch_is_host_bound(
    times: float, alone: float, batch: float, bound: bool
) -> None:
    assert host_bound(times, alone, batch) is bound


@pytest.mark.parametrize("min_prefix", [0, 8])
def test_a_latency_step_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, min_prefix: int) -> None:
    folder = saved(tmp_path, *MODELS["llama"])
    Recipe("Be kind.", (), (), "none", 1).save(folder)
    rows = tuple({"id": str(n), "message": f"question {n}", "reply": "yes"} for n in range(4))
    knobs = {
        "requests": 2, "warmup": 0, "warmup_most": 0, "output_tokens": 4, "batch_size": 2, "batch_tokens": 4,
        "natural_requests": 1, "clients": [1, 32], "requests_per_client": 1, "open_requests": 0,
    }  # fmt: skip
    data = suite_data(evaluation=rows, max_new_tokens=6)
    ran: list[int] = []

    def fits(model: object, device: str, loading: int | None, held: int, tokens: int) -> list[Measurement]:
        ran.append(held)
        return []

    monkeypatch.setattr(memory, "measure", fits)
    measured, facts = measure(Eager(min_prefix=min_prefix).start(folder, CONTEXT), folder, data, knobs, CONTEXT)
    found = {m.metric: m.value for m in measured}
    assert found["times_limit"] == pytest.approx(found["itl_ms/p50"] / found["step_limit_ms"])
    assert found["step_limit_ms"] > 0
    assert found.get("host_bound") in ((0.0, 1.0) if min_prefix == 0 else (None,)), "a shared prefix is read once"
    assert ran == [2 * 3], "new tokens of the largest batch that ran: no clients are served here"
    assert found["noisy"] == float(bool(facts["noise"]))
    assert found["other_work/cores"] >= 0
    assert found["warmup_requests"] == 0
    assert found["e2e_natural_ms/p50"] > 0
