"""The limit of a step: what it must read and multiply, over what a copy and a product reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from harness.anatomy import weight_bytes
from harness.engine.eager import Eager
from harness.engine.graph import Graph
from harness.loading import load
from harness.measure import memory, roofline
from harness.measure.latency import _held, measure, prompts_of
from harness.measure.roofline import Step, bandwidth, host_bound, rate, row_operations, step_bytes
from harness.prompt import Recipe
from harness.quantize.dynamic import Dynamic
from harness.quantize.int8 import Int8
from tests.cells import suite_data
from tests.test_architectures import made
from tests.test_engine import CONTEXT
from tests.test_graph import MODELS, SHAPE, WHOLE, saved
from tests.test_int8_products import quantized


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_reads_each_weight_once_and_the_table_only_where_it_makes_the_logits(tied: bool) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied))
    table = model.model.embed_tokens.weight.numel()
    weights = sum(p.numel() for p in model.parameters())
    packed = model.model.layers[0].mlp.up_proj
    packed.register_buffer("qweight", packed.__dict__["_parameters"].pop("weight").data)
    assert step_bytes(model, weight_bytes(model)) == 4 * (weights if tied else weights - table), "of a buffer, too"


def test_scales_that_stand_beside_weights_of_four_bits_are_read_too() -> None:
    layer = pytest.importorskip("bitsandbytes").nn.Linear4bit(256, 64, bias=False, compress_statistics=False).to("cpu")
    assert weight_bytes(layer) == 256 * 64 // 2 + 4 * 256 * 64 // 64


def test_a_step_looks_up_a_row_of_every_table(tmp_path: Path) -> None:
    """Of positions as well, of a second one for the words of each layer (Gemma 3n), and of masks (GPT-Neo)."""
    learnt, local = made("positions learnt"), made("windows called local")
    layered = load(saved(tmp_path, *WHOLE["keys shared by layers"]), CONTEXT).model
    for model, tables in (
        (learnt, [learnt.transformer.wpe.weight]), (local, [local.transformer.wpe.weight]),
        (layered, [layered.model.embed_tokens_per_layer.weight]),
    ):  # fmt: skip
        rest = weight_bytes(model) - step_bytes(model, weight_bytes(model))
        assert rest == sum(t.nbytes for t in (*tables, *model.buffers())), "the other makes the logits too"


def test_a_step_of_experts_has_no_limit() -> None:
    """It reads those that its token is sent to, and which these are is not known."""
    found = roofline.measure(made("experts"), 10**6, "cpu", Step(1, 10.0, 1.0), Step(2, 20.0, 1.0))
    assert [m.metric for m in found] == ["bandwidth_bytes_per_s"]


def test_what_sees_is_no_part_of_a_step_of_text() -> None:
    model = made("windows of a part for text")
    tower = [model.model.vision_tower, model.model.multi_modal_projector]
    seeing = {m for part in tower for m in part.modules()}
    text = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m not in seeing]
    assert row_operations(model) == sum(2 * m.weight.numel() for m in text)
    learnt = made("positions learnt")
    matrices = [p for name, p in learnt.named_parameters() if p.ndim == 2 and "wpe" not in name]
    assert row_operations(learnt) == sum(2 * m.numel() for m in matrices), "layers that are no Linear"
    read = sum(p.nbytes for p in [*model.get_decoder().parameters()])
    assert step_bytes(model, weight_bytes(model)) == read, "and neither is a buffer of positions"


def test_a_copy_has_a_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e8 < bandwidth("cpu") < 1e13
    timed(monkeypatch, 9.0, 0.5, 0.125, 0.25)
    assert bandwidth("cpu") == 2 * roofline.COPY_BYTES["cpu"] / 0.25, "reads and writes, at the median of the copies"


def timed(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """Has what is timed take so many seconds, the first of each kind not counted."""
    ticks = iter([t for start, took in enumerate(seconds) for t in (100.0 * start, 100.0 * start + took)])
    monkeypatch.setattr("harness.measure.roofline.time.perf_counter", lambda: next(ticks))
    monkeypatch.setattr(roofline, "REPEATS", 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_has_a_rate(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    assert 1e8 < rate("cpu", dtype, integers=True) < 1e15
    operations = 2 * roofline.PRODUCT_SIZE["cpu"] ** 3
    timed(monkeypatch, 9.0, 0.5, 0.125, 0.25)
    assert rate("cpu", dtype, integers=False) == operations / 0.25
    for quicker in (0.0625, 1.0):
        timed(monkeypatch, 9.0, 0.5, 0.125, 0.25, 9.0, *[quicker] * 3)
        assert rate("cpu", dtype, integers=True) == operations / min(0.25, quicker), "of integers where that is faster"


@pytest.mark.parametrize(("copied", "computed"), [(1e9, 1e15), (1e15, 1e9)])
def test_the_limit_is_the_longer_of_reading_and_multiplying(
    monkeypatch: pytest.MonkeyPatch, copied: float, computed: float
) -> None:
    monkeypatch.setattr(roofline, "bandwidth", lambda device: copied)
    monkeypatch.setattr(roofline, "rate", lambda device, dtype, integers: computed)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False))
    products = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    weights, operations = weight_bytes(model), 2 * sum(m.weight.numel() for m in products)
    assert row_operations(model) == operations
    held = 2 * SHAPE["num_hidden_layers"] * SHAPE["num_key_value_heads"] * model.config.head_dim * 4
    found = {m.metric: m.value for m in roofline.measure(model, weights, "cpu", Step(1, 10.5, 7.0), Step(8, 60.0, 9.0))}
    for name, rows, tokens, ms in (("", 1, 10.5, 7.0), ("batch_", 8, 60.0, 9.0)):
        limit = 1e3 * max((step_bytes(model, weights) + held * tokens) / copied, operations * rows / computed)
        assert found[f"{name}step_limit_ms"] == pytest.approx(limit)
        assert found[f"{name}times_limit"] == pytest.approx(ms / limit)
    assert (found["bandwidth_bytes_per_s"], found["operations_per_s"]) == (copied, computed)


def test_a_layer_within_an_adapters_counts_once() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    before = row_operations(model)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    assert row_operations(adapted) == before + SHAPE["num_hidden_layers"] * 2 * 2 * 2 * SHAPE["hidden_size"]


def test_a_window_of_keys_and_values_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "bandwidth", lambda device: 1e9)
    monkeypatch.setattr(roofline, "rate", lambda device, dtype, integers: 1e15)
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8))
    some, many = (
        roofline.measure(model, 10**7, "cpu", Step(1, tokens, 1.0), Step(1, tokens, 1.0)) for tokens in (4.0, 4000.0)
    )
    assert some == many


@pytest.mark.parametrize(("quantizer", "integers"), [(Dynamic(), True), (Int8(), True), (None, False)])
@pytest.mark.parametrize("engine", [Eager(), Graph()])
def test_integers_are_told_from_the_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantizer: Any, integers: bool, engine: Any
) -> None:
    folder = quantized(tmp_path, quantizer, CONTEXT) if quantizer else saved(tmp_path, *MODELS["llama"])
    asked: list[bool] = []

    def told(device: str, dtype: torch.dtype, integers: bool) -> float:
        asked.append(integers)
        return 1e9

    monkeypatch.setattr(roofline, "rate", told)
    session = engine.start(folder, CONTEXT)
    roofline.measure(session.model, 10**6, "cpu", Step(1, 4.0, 1.0), Step(2, 8.0, 1.0))
    assert asked == [integers]


def test_tokens_that_prompts_share_are_held_once() -> None:
    assert _held([[1, 2, 3]], 4) == 3 + 2
    assert _held([[1, 2, 3], [1, 2, 4, 5], [1, 9]], 4) == 1 + (2 + 3 + 1) + 3 * 2


@pytest.mark.parametrize(
    ("times", "alone", "batch", "bound"),
    [(80.0, 50.0, 52.0, True), (80.0, 50.0, 90.0, False), (1.8, 1.24, 1.39, False), (2.9, 10.0, 10.0, False)],
)
def test_far_from_the_limit_and_flat_in_the_batch_is_host_bound(
    times: float, alone: float, batch: float, bound: bool
) -> None:
    assert host_bound(times, alone, batch) is bound


@pytest.mark.parametrize(("min_prefix", "batch"), [(0, 2), (0, 1), (8, 2)])
def test_a_latency_step_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, min_prefix: int, batch: int
) -> None:
    folder = saved(tmp_path, *MODELS["llama"])
    Recipe("Be kind.", (), (), "none", 1).save(folder)
    rows = tuple({"id": str(n), "message": f"question {n}", "reply": "yes"} for n in range(4))
    knobs = {
        "requests": 2, "warmup": 0, "warmup_most": 0, "output_tokens": 4, "batch_size": batch, "batch_tokens": 4,
        "natural_requests": 1, "clients": [1, 32], "requests_per_client": 1, "open_requests": 0,
    }  # fmt: skip
    data = suite_data(evaluation=rows, max_new_tokens=6)
    ran: list[tuple[int, list[int]]] = []

    def fits(model: object, device: str, loading: int | None, rows: int, held: list[int], *_: object) -> list[Any]:
        ran.append((rows, held))
        return []

    monkeypatch.setattr(memory, "measure", fits)
    monkeypatch.setattr(roofline, "REPEATS", 1)
    session: Any = Eager(min_prefix=min_prefix).start(folder, CONTEXT)
    measured, facts = measure(session, folder, data, knobs, CONTEXT)
    found = {m.metric: m.value for m in measured}
    assert found["times_limit"] == pytest.approx(found["itl_ms/p50"] / found["step_limit_ms"])
    assert found["step_limit_ms"] > 0
    assert found["batch_times_limit"] == pytest.approx(found["batch_step_ms"] / found["batch_step_limit_ms"])
    far = min_prefix == 0 and batch > 1
    assert found.get("host_bound") in ((0.0, 1.0) if far else (None,)), "a prefix is read once, one row is as flat"
    asked = [len(ids) for ids in session.encode(prompts_of(session, folder, data, batch), 0)]
    shared = asked[0] - 1 if min_prefix else 0  # all but the number of a question
    assert ran == [(batch, [*(n - shared + 3 for n in asked), *[shared] * bool(shared)])], "of the largest batch"
    assert found["noisy"] == float(bool(facts["noise"]))
    assert found["other_work/cores"] >= 0
    assert found["warmup_requests"] == 0
    assert found["e2e_natural_ms/p50"] > 0
