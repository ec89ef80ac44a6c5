"""The loss that training minimises is the model's own, at the reply alone."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
)

from harness.adapt import training
from harness.adapt.full_ft import FullFt
from harness.adapt.lora import ADAPTER, Lora, merge
from harness.adapt.training import collate, completion_loss
from harness.engine.eager import Eager, EagerSession
from harness.errors import BrokenArtifact, DoesNotFit, UserError
from harness.execute import _adapt, _quantize, able
from harness.loading import load
from harness.measure.fidelity import write_reference
from harness.prompt import IGNORED
from harness.types import Component, Context
from tests.cells import cell, suite_data
from tests.test_architectures import made
from tests.test_engine import CONTEXT, shape, tokenizer


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=100)
    )


ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORED, IGNORED, 7, 8, 9]},
    {"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 3]},
]


def test_completion_loss_is_the_models_own(model: LlamaForCausalLM) -> None:
    batch = collate(0, None, ROWS)
    own = model(**batch).loss
    ours = completion_loss(model, batch)
    assert torch.isclose(own, ours, rtol=1e-5)
    assert torch.isclose(completion_loss(model, batch, items=10), own * 5 / 10, rtol=1e-5)


def test_its_gradient_too(model: LlamaForCausalLM) -> None:
    batch = collate(0, None, ROWS)
    grads = []
    for loss in (model(**batch).loss, completion_loss(model, batch)):
        model.zero_grad()
        loss.backward()
        grads.append(model.model.layers[0].mlp.up_proj.weight.grad.clone())
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-7)


def test_collate_pads_on_the_right_to_few_widths_and_labels_nothing_there() -> None:
    batch = collate(0, 64, ROWS)
    assert [row[:6] for row in batch["input_ids"].tolist()] == [[5, 6, 7, 8, 9, 0], [1, 2, 3, 0, 0, 0]]
    assert batch["labels"].tolist()[1] == [IGNORED, 2, 3] + [IGNORED] * 29
    assert batch["attention_mask"].tolist()[1] == [1] * 3 + [0] * 29
    for most, widths in ((None, {32, 64}), (64, {32, 64}), (60, {32, 60})):
        rows = [[{"input_ids": [1] * n, "labels": [1] * n}] for n in range(1, (most or 64) + 1)]
        assert {collate(0, most, row)["labels"].shape[1] for row in rows} == widths, "no wider than the model reads"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(shape(LlamaConfig)).save_pretrained(out)
    tokenizer().save_pretrained(out)
    return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adaptation", [Lora(rank=4, epochs=1), FullFt(epochs=1)])
def test_training_computes_in_the_dtype_of_its_context(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adaptation: Any, dtype: str
) -> None:
    """The loss goes past the forward pass that accelerate wraps; without its own autocast it stays in float32."""
    rows = tuple({"message": f"question {i}", "reply": f"answer {i}"} for i in range(6))
    computed: set[tuple[bool, torch.dtype]] = set()

    def loss(model: Any, *rest: Any) -> Any:
        decoder = (model.get_base_model() if hasattr(model, "get_base_model") else model).model.layers[0].mlp
        hook = decoder.register_forward_hook(lambda *seen: computed.add((torch.is_grad_enabled(), seen[2].dtype)))
        try:
            return completion_loss(model, *rest)
        finally:
            hook.remove()

    monkeypatch.setattr(training, "_agrees", lambda *_: True)
    monkeypatch.setattr(training, "completion_loss", loss)
    context = Context("cpu", dtype, 0, lambda fraction, note: None)
    facts = adaptation(base, suite_data(train=rows, validation=rows[:2]), tmp_path, context)
    assert computed == {(grad, getattr(torch, dtype)) for grad in (True, False)}
    assert facts["loss"] == "completion"
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("adaptation", [Lora(rank=4, epochs=1), FullFt(epochs=1)])
def test_one_device_trains_and_what_closes_a_reply_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adaptation: Any
) -> None:
    """Trainer would spread a model over all devices of a machine. A base model's end of text is not what closes a turn
    of its template."""
    torch.manual_seed(0)
    base, out = tmp_path / "base", tmp_path / "out"
    LlamaForCausalLM(shape(LlamaConfig)).save_pretrained(base)
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["~"]})
    words.chat_template = "{% for m in messages %}{{ m.content }}~{% endfor %}"
    words.save_pretrained(base)
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda arguments: arguments.__dict__.get("_n_gpu", 2)))
    rows = tuple({"message": f"question {i}", "reply": f"answer {i}"} for i in range(4))
    adaptation(base, suite_data(train=rows, validation=rows[:1]), out, CONTEXT)
    ends = GenerationConfig.from_pretrained(out).eos_token_id
    assert ends == sorted([0, words.convert_tokens_to_ids("~")])
    session = Eager().start(out, CONTEXT)
    assert isinstance(session, EagerSession)
    assert session.stops == set(ends)


@pytest.mark.parametrize("odd", [{"temperature": 0.9, "top_p": 0.6}, {"num_beams": 1, "early_stopping": True}])
@pytest.mark.parametrize("adaptation", [Lora(rank=4, epochs=2), FullFt(epochs=2)])
def test_what_a_checkpoint_says_of_sampling_is_kept(
    base: Path, tmp_path: Path, adaptation: Any, odd: dict[str, Any]
) -> None:
    """transformers saves a generation config that it finds odd only where nothing in it was changed."""
    published = shutil.copytree(base, tmp_path / "published")
    (published / "generation_config.json").write_text(json.dumps({**odd, "eos_token_id": 3}))
    rows = tuple({"message": f"question {i}", "reply": f"answer {i}"} for i in range(4))
    adaptation(published, suite_data(train=rows, validation=rows[:1]), tmp_path / "out", CONTEXT)
    kept = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert kept["eos_token_id"] == [0, 3]
    assert odd.items() <= kept.items()


@pytest.mark.parametrize("adaptation", [Lora(), FullFt()])
def test_a_checkpoint_that_came_quantized_is_not_trained(tmp_path: Path, adaptation: Any) -> None:
    """Known from its configuration, before anything is loaded. So is one that has a classification head."""
    classifier = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}
    assert str(adaptation.unable(classifier)).startswith("the checkpoint is a classifier: adaptation=prompt_rag or")
    told = "the checkpoint comes quantized (gptq): adaptation=prompt_rag or as_is with quantization=as_is only"
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}
    assert adaptation.unable({"model_type": "llama"}) is None
    assert adaptation.unable(config) == told
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as refused:
        able(Component("trained", f"{type(adaptation).__module__}.{type(adaptation).__name__}", {}), tmp_path)
    assert str(refused.value) == told


@pytest.mark.parametrize("adaptation", [Lora(rank=4, epochs=1), FullFt(epochs=1)])
def test_a_single_update_trains(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adaptation: Any) -> None:
    """Of a few rows and one epoch; and where nothing came of a training, nothing is called trained."""
    rows = tuple({"message": f"question {i}", "reply": f"answer {i}"} for i in range(6))
    data = suite_data(train=rows, validation=rows[:1])
    facts = adaptation(base, data, tmp_path / "out", CONTEXT)
    assert [point["step"] for point in facts["loss_curve"] if "loss" in point] == [1]
    told, found = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    name = "model.layers.0.mlp.up_proj.weight"
    assert float((found[name] - told[name]).abs().max()) > 1e-5
    monkeypatch.setattr("torch.optim.AdamW.step", lambda *_, **__: None)
    with pytest.raises(BrokenArtifact, match=r"^training changed no weight for the better; change adaptation"):
        adaptation(base, data, tmp_path / "nothing", CONTEXT)


def test_a_loss_that_is_no_number_once_ends_a_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer would log an average in its place."""
    told, calls = training.completion_loss, []

    def loss(model: Any, *rest: Any) -> Any:
        calls.append(1)
        found = told(model, *rest)
        return found * float("nan") if len(calls) == 3 else found

    monkeypatch.setattr(training, "_agrees", lambda *_: True)
    monkeypatch.setattr(training, "completion_loss", loss)
    monkeypatch.setattr("torch.Tensor.backward", lambda *_, **__: None)  # so that weights stay numbers
    rows = tuple({"message": f"question {i}", "reply": f"answer {i}"} for i in range(6))
    with pytest.raises(BrokenArtifact, match="loss is not a number"):
        Lora(rank=4, epochs=1, batch_size=1)(base, suite_data(train=rows, validation=rows[:2]), tmp_path, CONTEXT)


@pytest.mark.parametrize("adaptation", [Lora(rank=4, epochs=1), FullFt(epochs=1)])
def test_a_row_longer_than_the_models_context_ends_a_training(tmp_path: Path, adaptation: Any) -> None:
    """Positions that are learnt end in an IndexError there, and others train on nonsense."""
    torch.manual_seed(0)
    LlamaForCausalLM(shape(LlamaConfig, max_position_embeddings=64)).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    rows = [{"id": f"r{i}", "message": f"question {i}", "reply": f"answer {i}"} for i in range(6)]
    rows[3]["message"] += "?" * 60
    told = (
        r"longer than the model's context: row r3 has 79 tokens with its prompt, where it holds 64; shorten such rows"
    )
    with pytest.raises(DoesNotFit, match=told):
        adaptation(tmp_path / "base", suite_data(train=tuple(rows), validation=()), tmp_path / "out", CONTEXT)
    asked = [{"id": "e1", "message": "?" * 35}, {"id": "e2", "message": "?" * 40}]
    data = suite_data(train=tuple(rows[:3]), validation=tuple(rows[4:]), evaluation=tuple(asked), max_new_tokens=34)
    told = r"row e2 has 74 tokens with its prompt and an answer of up to 34, where it holds 64 \(such rows: 2\);"
    with pytest.raises(DoesNotFit, match=f"{told}.* or suite.max_new_tokens$"):
        adaptation(tmp_path / "base", data, tmp_path / "out", CONTEXT)
    assert adaptation(tmp_path / "base", replace(data, max_new_tokens=24), tmp_path / "out", CONTEXT)


@pytest.mark.parametrize("adaptation", ["prompt_rag", "as_is"])
def test_what_a_model_cannot_read_is_neither_adapted_nor_quantized_for(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adaptation: str
) -> None:
    """Rows beyond its context, and tokens that were added to the tokenizer alone."""
    LlamaForCausalLM(shape(LlamaConfig, max_position_embeddings=64)).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    long: dict[str, Any] = {**SIX[0], "id": "e1", "reply": "?" * 70}
    asked = {**long, "message": "?" * 70}
    step: Any = SimpleNamespace(component=cell(f"adaptation={adaptation}", "adaptation.retrieval=none").adaptation)

    def run(work: Any, base: Path, **rows: Any) -> None:
        data = suite_data(**{"train": SIX, "validation": SIX, **rows}, max_new_tokens=34)
        monkeypatch.setattr("harness.execute._data", lambda step: data)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").mkdir()
        work(step, [base], tmp_path / "out", CONTEXT)

    with pytest.raises(DoesNotFit, match=r"row e1 has \d+ tokens with its prompt and an answer of up to 34, .* 64;"):
        run(_adapt, tmp_path / "base", evaluation=(asked,))
    left = r"row e1 has \d+ tokens with its prompt, where it holds 64; shorten such rows or leave them out$"
    with pytest.raises(DoesNotFit, match=f"context: reference {left}"):
        run(_adapt, tmp_path / "base", validation=(long,))
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    words.chat_template = "{% for m in messages %}<|turn|>{{ m.content }}{% endfor %}"
    own = shutil.copytree(base, tmp_path / "added")
    words.save_pretrained(own)
    for rows in ({"evaluation": (asked,)}, {}):
        with pytest.raises(UserError, match=r"makes '<\|turn\|>' the token 96, and the model embeds 96 \(the first"):
            run(_adapt, own, **rows)
    step = SimpleNamespace(component=cell("quantization=gptq", "quantization.group_size=32").quantization)
    monkeypatch.setattr("harness.execute.read_manifest", lambda folder: {"facts": {}})
    monkeypatch.setattr("harness.quantize.gptq.Gptq.__call__", lambda *_: {})
    with pytest.raises(DoesNotFit, match=f"context: calibration {left}"):
        run(_quantize, tmp_path / "base", train=(*SIX, long))


@pytest.mark.parametrize("adaptation", [Lora(rank=4, epochs=1), FullFt(epochs=1)])
def test_a_reply_that_would_be_learnt_in_part_ends_a_training(base: Path, tmp_path: Path, adaptation: Any) -> None:
    """The first such row is named, be it one of the validation rows."""
    rows = [{"id": f"r{i}", "message": f"question {i}", "reply": f"answer {i}"} for i in range(6)]
    rows[3]["reply"] = "now 4, was 5<eos> and more"
    told = "^row r3: its reply holds '<eos>', at which this model's answers end; write it otherwise, or leave the row"
    for train, others in ((tuple(rows), ""), ((*rows, {**rows[3], "id": "r9"}), r" \(such rows: 2\)")):
        with pytest.raises(UserError, match=f"{told} out{others}$"):
            adaptation(base, suite_data(train=train, validation=()), tmp_path / "out", CONTEXT)
    with pytest.raises(UserError, match=f"{told} out$"):
        adaptation(base, suite_data(train=tuple(rows[:3]), validation=tuple(rows[3:])), tmp_path / "out", CONTEXT)


SIX = tuple({"id": f"r{i}", "message": f"question {i}", "reply": ("yes", "no")[i % 2]} for i in range(6))


@pytest.mark.parametrize("adaptation", [Lora(rank=4, epochs=1), Lora(epochs=1, classify=True), FullFt(epochs=1)])
@pytest.mark.parametrize("fault", ["a layer", "all names"])
def test_weights_that_are_missing_are_not_drawn(base: Path, tmp_path: Path, adaptation: Any, fault: str) -> None:
    lacking = shutil.copytree(base, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    kept = {k: v for k, v in weights.items() if ".layers.1." not in k}
    save_file(kept if fault == "a layer" else {f"_orig_mod.{k}": v for k, v in weights.items()},
              lacking / "model.safetensors", {"format": "pt"})  # fmt: skip
    with pytest.raises(BrokenArtifact, match=r"does not fit its model: missing_keys: (model|lm_head)\."):
        adaptation(lacking, suite_data(train=SIX, validation=SIX), tmp_path / "out", CONTEXT)


def test_masks_that_older_releases_saved_are_no_weights(tmp_path: Path) -> None:
    """With each GPT-Neo, and with a GPT-2 that was tuned by one."""
    made("windows called local").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    own = load_file(tmp_path / "model.safetensors")
    for names, told in (
        (("attn.attention.bias", "attn.attention.masked_bias", "attn.masked_bias"), ""),
        (("attn.attention.q_proj.bias",), "unexpected_keys: transformer.h.0.attn.attention.q_proj"),
    ):
        more = {f"transformer.h.0.{name}": torch.ones(1) for name in names}
        save_file({**own, **more}, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(BrokenArtifact, match=told) if told else contextlib.nullcontext():
            load(tmp_path, CONTEXT)


@pytest.mark.parametrize("adaptation", [Lora(rank=4, epochs=1), Lora(rank=4, epochs=1, classify=True)])
def test_a_padding_token_that_the_model_does_not_embed_is_not_used(base: Path, tmp_path: Path, adaptation: Any) -> None:
    """As one that was added to the tokenizer, and the embeddings left as they were."""
    shutil.copytree(base, tmp_path / "base")
    own = tokenizer()
    own.add_special_tokens({"pad_token": "[PAD]"})
    assert own.pad_token_id == 96
    own.save_pretrained(tmp_path / "base")
    data = suite_data(train=SIX, validation=SIX)
    adaptation(tmp_path / "base", data, tmp_path / "out", CONTEXT)
    made = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert made.pad_token_id == 0, "whoever pads after it, as fidelity does"
    assert math.isfinite(write_reference(load(tmp_path / "out", CONTEXT).model, made, tmp_path / "out", data))


@pytest.mark.parametrize("adaptation", [Lora(rank=4, epochs=1), FullFt(epochs=1)])
def test_answers_that_nothing_would_end_are_not_taught(base: Path, tmp_path: Path, adaptation: Any) -> None:
    shutil.copytree(base, tmp_path / "base")
    own = tokenizer()
    own.eos_token = None
    data = suite_data(train=SIX, validation=SIX)
    for pad in ("<eos>", None):
        own.pad_token = pad
        own.save_pretrained(tmp_path / "base")
        with pytest.raises(UserError, match="tokenizer names no token that ends a text; set eos_token in its"):
            adaptation(tmp_path / "base", data, tmp_path / "out", CONTEXT)
    facts = Lora(rank=4, epochs=1, classify=True)(tmp_path / "base", data, tmp_path / "head", CONTEXT)
    assert facts["classes"] == 2, "which ends no answer"


def test_a_part_that_sees_is_not_trained(tmp_path: Path) -> None:
    """Nothing but text comes: what would see it learns nothing, and does not count as trained."""
    model, base = made("windows of a part for text"), tmp_path / "base"
    model.save_pretrained(base)
    tokenizer().save_pretrained(base)
    rows = tuple({"message": f"question {i}", "reply": f"answer {i}"} for i in range(6))
    data, decoder = suite_data(train=rows, validation=rows[:2]), model.get_decoder()
    layers = [layer for layer in decoder.modules() if isinstance(layer, torch.nn.Linear)]
    facts = Lora(rank=4, epochs=1)(base, data, tmp_path / "lora", CONTEXT)
    assert len(layers) == 4 * 7
    assert facts["trained_parameters"] == sum(4 * (layer.in_features + layer.out_features) for layer in layers)
    adapter = load_file(tmp_path / "lora" / ADAPTER / "adapter_model.safetensors")
    assert len(adapter) == 2 * len(layers)
    assert not [name for name in adapter if "vision" in name]
    facts = FullFt(epochs=1)(base, data, tmp_path / "full", CONTEXT)
    assert facts["trained_parameters"] == sum(p.numel() for p in decoder.parameters()), "the head is tied to it"
    for folder, moved in ((base, False), (tmp_path / "lora", True), (tmp_path / "full", True)):
        found = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        told = {name for name, weight in model.state_dict().items() if not torch.equal(found[name], weight)}
        assert bool(told) is moved
        assert not [name for name in told if "vision" in name or "projector" in name]


def test_a_merge_rounds_nothing(base: Path, tmp_path: Path) -> None:
    """The merged weights are the base's as stored plus the scaled product of the adapter, in float32."""
    rows = tuple({"message": f"question {i}", "reply": f"answer {i}"} for i in range(6))
    context = Context("cpu", "bfloat16", 0, lambda fraction, note: None)
    Lora(rank=4, alpha=8, epochs=1, batch_size=1)(base, suite_data(train=rows, validation=rows[:2]), tmp_path, context)
    name = "model.layers.0.mlp.up_proj"
    adapter = load_file(tmp_path / ADAPTER / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    assert a.dtype == torch.float32
    assert b.abs().max() > 0, "nothing was trained"
    expected = load_file(base / "model.safetensors")[f"{name}.weight"] + 2.0 * b @ a
    found = load_file(tmp_path / "model.safetensors")[f"{name}.weight"]
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8)
    assert torch.equal(merge(base, tmp_path / ADAPTER, (), 0).get_parameter(f"{name}.weight"), found)
