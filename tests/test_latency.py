"""What a latency step says of memory: the peak of answering, apart from that of loading."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from harness.anatomy import kv_bytes
from harness.engine.eager import Eager
from harness.engine.graph import Graph
from harness.measure.latency import measure as answered
from harness.measure.memory import apart, forget_peak, measure, peak_rss_bytes, rows_that_fit
from tests.test_engine import CONTEXT, PROMPTS
from tests.test_graph import MODELS, SHAPE, saved

MB = 10**6


def test_the_peak_is_of_what_came_since() -> None:
    block = b"x" * (400 * MB)
    high = peak_rss_bytes()
    assert high >= len(block)
    del block
    if not forget_peak():
        pytest.skip("this system does not let a process start its peak anew")
    low = peak_rss_bytes()
    assert low <= high - 350 * MB
    again = b"x" * (100 * MB)
    assert low + 90 * MB <= peak_rss_bytes() < high - 200 * MB
    del again


@pytest.mark.parametrize("name", MODELS)
def test_keys_and_values_of_a_token_are_those_of_a_real_cache(name: str) -> None:
    config, make, rest = MODELS[name]
    model = make(config(**SHAPE, **rest)).to(torch.bfloat16)
    cache = DynamicCache()
    model(torch.arange(1, 8)[None], past_key_values=cache)
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert kv_bytes(model) == held / 7


def test_rows_fit_until_the_memory_is_full() -> None:
    assert rows_that_fit(budget=100, peak=60, held=40, row_bytes=10) == 8
    assert rows_that_fit(budget=109, peak=60, held=40, row_bytes=10) == 8
    assert rows_that_fit(budget=59, peak=60, held=40, row_bytes=10) == 3, "fewer than ran"
    assert rows_that_fit(budget=100, peak=60, held=40, row_bytes=20) == 4, "longer ones than ran"
    assert rows_that_fit(budget=19, peak=60, held=40, row_bytes=1) == 0, "not what stands there without rows"


def test_a_probe_tells_peaks_and_what_would_fit() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    found = {m.metric: m for m in measure(model, "cpu", 5 * MB, rows=2, held=[100] * 2, row_tokens=100)}
    assert found["memory_bytes/peak_rss_loading"].value == 5 * MB
    assert found["memory_bytes/peak_rss"].n == 2
    row = 100 * found["kv_bytes_per_token"].value
    fits = found["predicted_rows/80GB"].value - found["predicted_rows/40GB"].value
    assert fits == pytest.approx(40e9 / row, abs=1)
    without = {m.metric for m in measure(model, "cpu", 5 * MB, 2, [], row_tokens=None)}
    assert without == {"memory_bytes/peak_rss", "memory_bytes/peak_rss_loading"}, "no keys and values, no rows of them"
    assert "memory_bytes/peak_rss_loading" not in {m.metric for m in measure(model, "cpu", None, 2, [], 100)}


@pytest.mark.parametrize(("process", "beside"), [(None, 0), (700 * MB, 200 * MB), (400 * MB, 0)])
def test_what_the_driver_holds_beside_pytorch_leaves_fewer_rows(
    process: float | None, beside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    for name, value in (("max_memory_reserved", 600), ("max_memory_allocated", 550), ("memory_reserved", 500)):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda value=value: value * MB)
    found = {m.metric: m.value for m in measure(model, "cuda", None, 2, [150, 50], 100, process)}
    row = 100 * found["kv_bytes_per_token"]
    assert found["predicted_rows/8GB"] == rows_that_fit(8e9, 600 * MB + beside, 2 * row, row)
    assert found.get("memory_bytes/cuda_peak_process") == (600 * MB + beside if process else None)


@pytest.mark.parametrize("engine", [Eager, Graph])
def test_peaks_of_reading_and_decoding_are_apart(tmp_path: Path, engine: type[Eager] | type[Graph]) -> None:
    """What only one of the two takes stands in its own peak alone."""
    if not forget_peak():
        pytest.skip("this system does not let a process start its peak anew")
    session: Any = engine().start(saved(tmp_path, *MODELS["llama"]), CONTEXT)

    def peaks(during: str) -> dict[str, float]:
        forward, calls = torch.nn.Embedding.forward, []

        def heavy(self: Any, ids: Any) -> Any:
            calls.append(ids.shape)
            if (during == "prefill") is (ids.shape[-1] > 1) and during:
                len(b"x" * (300 * MB))
            return forward(self, ids)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.Embedding, "forward", heavy)
            found = apart(session, PROMPTS[:2], 3, "cpu")
        assert calls[-1][-1] == 1, "it decoded"
        return {m.metric.removeprefix("memory_bytes/peak_"): m.value for m in found}

    usual, reading, decoding = peaks(""), peaks("prefill"), peaks("decode")
    assert set(usual) == {"prefill", "decode"}
    assert reading["prefill"] > usual["prefill"] + 250 * MB
    assert reading["decode"] < usual["decode"] + 50 * MB
    assert decoding["decode"] > usual["decode"] + 250 * MB
    assert decoding["prefill"] < usual["prefill"] + 50 * MB


@pytest.mark.parametrize(("asked", "rows", "n", "own"), [(6, 9, 6, 4), (6, 3, 3, 3)])
def test_a_prompt_is_one_event_however_often_it_is_asked(
    asked: int, rows: int, n: int, own: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.measure.latency.prompts_of", lambda *_: [f"Row {n % rows}" for n in range(asked)])
    session: Any = Eager().start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    knobs = {
        "requests": asked, "warmup": 1, "warmup_most": 1, "output_tokens": 3, "natural_requests": 4, "batch_size": 1,
        "batch_tokens": 2, "clients": [], "requests_per_client": 1, "open_requests": 0, "round": 2,
    }  # fmt: skip
    data: Any = SimpleNamespace(max_new_tokens=3)
    found = {m.metric: m for m in answered(session, tmp_path, data, knobs, CONTEXT)[0] if m.unit == "ms"}
    names = ("ttft_ms", "itl_ms", "e2e_ms", "e2e_natural_ms")
    assert [found[f"{name}/p95"].n for name in names] == [n, n, n, own]
    assert [len(found[f"{name}/p50"].samples) for name in names] == [asked, 2 * asked, asked, 4]
