"""A classification head: trained, merged, quantized with its decoder, asked, and refused where it makes no sense."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from harness import ledger
from harness.adapt.lora import ADAPTER, Lora, classes_in
from harness.decide.costs import requests_per_second
from harness.directory import classes_of
from harness.engine.classifier import ClassifierSession
from harness.engine.eager import Eager
from harness.errors import BrokenArtifact, DoesNotFit, UserError
from harness.execute import CARRIED, _carry
from harness.loading import load
from harness.measure.fidelity import CLASSIFIED_ROWS, fidelity, write_reference
from harness.measure.latency import measure as measure_latency
from harness.plan import plan
from harness.prompt import encode_class, render, short_chat
from harness.quantize.awq import Awq
from harness.quantize.classifier_head import put_back
from harness.quantize.dynamic import Dynamic
from harness.quantize.fp16 import Sixteen
from harness.quantize.gptq import Gptq
from harness.quantize.int8 import Int8
from harness.records import ONE_STEP
from harness.types import Context, Measurement, SuiteData, digest, plain
from tests.cells import MACHINE, cell, suite_data
from tests.grids import TINY, builds, harness, run_folder
from tests.test_engine import shape, tokenizer

CONTEXT = Context("cpu", "float32", 0, lambda fraction, note: None)
WORDS = {"billing": "invoice", "outage": "down", "sales": "quote"}
ROWS = tuple(
    {"id": f"{n}{name}", "message": f"{word} {'x' * (n % 5)}{n}", "reply": name}
    for n in range(24)
    for name, word in WORDS.items()
)
DATA = suite_data(name="routing", train=ROWS[9:], validation=ROWS[:9], evaluation=ROWS[:9])


def small(**rest: Any) -> Any:
    """Wide enough for groups of 32 weights."""
    return shape(LlamaConfig, **rest)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(small(tie_word_embeddings=True)).save_pretrained(out)
    tokenizer().save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("head")
    facts = Lora(rank=8, epochs=8, batch_size=4, learning_rate=3e-2, patience=8, classify=True)(
        base, DATA, out, CONTEXT
    )
    assert facts["classes"] == 3
    write_reference(load(out, CONTEXT).model, tokenizer(), out, DATA)
    return out


def asked(data: SuiteData = DATA) -> list[str]:
    return [render(tokenizer(), short_chat(data, row)) for row in data.evaluation]


def test_it_learns_the_classes_and_answers_nothing_else(trained: Path) -> None:
    session = Eager(batch_size=4).start(trained, CONTEXT)
    assert isinstance(session, ClassifierSession)
    assert session.loaded.classes == ("billing", "outage", "sales")
    made = session.generate(asked(), 12)
    assert [c.text for c in made] == [row["reply"] for row in DATA.evaluation]
    assert {(c.tokens, c.finished) for c in made} == {(1, True)}


@pytest.mark.parametrize("pad", [0, None, 5])
def test_batches_change_nothing(trained: Path, tmp_path: Path, pad: int | None) -> None:
    """Padding, order and neighbours leave each row's class chances as they are alone, whatever a checkpoint's
    configuration says of padding."""
    own = json.loads((trained / "config.json").read_text())
    trained = shutil.copytree(trained, tmp_path / "other")
    (trained / "config.json").write_text(json.dumps({**own, "pad_token_id": pad}))
    pairs = [(p, name) for p in asked() for name in ("billing", "outage", "sales")]
    alone = Eager(batch_size=1).start(trained, CONTEXT).loglikelihood(pairs)
    together = Eager(batch_size=5).start(trained, CONTEXT).loglikelihood(pairs)
    assert [t[0] for t in together] == pytest.approx([a[0] for a in alone], abs=1e-4)
    assert [t[1] for t in together] == [a[1] for a in alone]
    assert sum(math.exp(chance) for chance, _ in alone[:3]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("number", [2, 3])
def test_a_classifier_whose_classes_are_no_replies_is_told(tmp_path: Path, number: int) -> None:
    """transformers does not write its names of two classes."""
    model = LlamaForSequenceClassification(small(num_labels=number))
    model.save_pretrained(tmp_path)
    assert classes_of(tmp_path) == ("LABEL_0", "LABEL_1", "LABEL_2")[:number]
    with pytest.raises(UserError, match=r"LABEL_0, LABEL_1.* and the reply 'billing' .* none of them; name them"):
        write_reference(model, tokenizer(), tmp_path, DATA)


def test_a_class_is_trained_at_the_token_that_a_head_reads() -> None:
    """Not at a padding token that a prompt ends with, as where turns are closed with it."""
    closing = tokenizer()
    closing.chat_template = "{% for m in messages %}{{ m.content }}<eos>{% endfor %}"
    row = encode_class(closing, short_chat(DATA, ROWS[0]), 2)
    assert closing.decode(row["input_ids"]).endswith(f"{ROWS[0]['message']}<eos>")
    assert row["labels"][-2:] == [-100, 2]
    assert row["input_ids"][-2] != closing.pad_token_id


def test_what_is_no_class_cannot_be_answered(trained: Path) -> None:
    ((chance, likeliest),) = Eager().start(trained, CONTEXT).loglikelihood([(asked()[0], "refunds")])
    assert chance == -math.inf
    assert not likeliest


def test_the_head_is_trained_and_saved_beside_the_adapter(base: Path, trained: Path) -> None:
    merged = load_file(trained / "model.safetensors")["score.weight"]
    adapter = load_file(trained / ADAPTER / "adapter_model.safetensors")
    (saved,) = (tensor for name, tensor in adapter.items() if "score" in name)
    assert torch.equal(saved, merged)
    torch.manual_seed(0)
    fresh = LlamaForSequenceClassification.from_pretrained(base, num_labels=3).score.weight
    assert not torch.allclose(merged, fresh, atol=0.05)


@pytest.mark.usefixtures("gptqmodel_as_it_came")
@pytest.mark.parametrize(
    "quantization",
    [
        Sixteen(), Int8(), Dynamic(),
        Gptq(group_size=32, calibration_rows=8), Awq(group_size=32, calibration_rows=8),
    ],
    ids=lambda q: type(q).__name__,
)  # fmt: skip
def test_each_quantization_keeps_the_head_and_compresses_below_it(
    trained: Path, tmp_path: Path, quantization: Any
) -> None:
    calibration = [render(tokenizer(), short_chat(DATA, row), reply=row["reply"]) for row in DATA.train]
    quantization(trained, calibration, tmp_path, CONTEXT)
    tokenizer().save_pretrained(tmp_path)
    _carry(trained, tmp_path, *CARRIED)
    assert classes_of(tmp_path) == ("billing", "outage", "sales")
    session = Eager().start(tmp_path, CONTEXT)
    kinds = session.loaded.proof["linear_classes"]
    if not isinstance(quantization, Sixteen):
        assert kinds["Linear"] == 1, f"the head alone stays as it was: {kinds}"
        assert sum(kinds.values()) == 15
    kept = session.model.score.weight.float()
    assert torch.allclose(kept, load_file(trained / "model.safetensors")["score.weight"], atol=1e-3)
    right = [c.text == row["reply"] for c, row in zip(session.generate(asked(), 12), DATA.evaluation, strict=True)]
    assert sum(right) >= 8
    ratio, agreement = fidelity(session.model, trained)
    assert agreement.n == min(CLASSIFIED_ROWS, len(DATA.validation)), "a class a row"
    assert agreement.value >= 8 / 9
    assert ratio.value < 2


def test_a_head_is_put_back_from_the_weights_that_are_read(trained: Path, tmp_path: Path) -> None:
    """A copy of the base's weights in another form stands beside them in some folders."""
    model = shutil.copytree(trained, tmp_path / "model")
    out = shutil.copytree(trained, tmp_path / "out")
    told = load_file(model / "model.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in told.items()}, model / "original.safetensors")
    put_back(model, out)
    assert torch.equal(load_file(out / "model.safetensors")["score.weight"], told["score.weight"])


def test_a_family_without_such_a_head_is_told() -> None:
    head, text = Lora(classify=True), Lora()
    assert head.unable({"model_type": "granite"}) == "transformers has no classification head for granite"
    assert text.unable({"model_type": "granite"}) is None
    assert head.unable({"model_type": "llama"}) is None


def test_a_head_that_lost_its_classes_is_broken(trained: Path) -> None:
    model = load(trained, CONTEXT).model
    with torch.no_grad():
        model.score.weight.copy_(model.score.weight.roll(1, dims=0))
    with pytest.raises(BrokenArtifact, match="token agreement 0%"):
        fidelity(model, trained)


def test_its_latency_is_one_step_and_so_is_its_cost(trained: Path) -> None:
    session = Eager().start(trained, CONTEXT)
    knobs = {
        "requests": 3, "warmup": 1, "warmup_most": 3, "output_tokens": 8, "batch_size": 4, "batch_tokens": 8,
        "natural_requests": 2, "clients": [1], "requests_per_client": 1, "open_requests": 0,
    }  # fmt: skip
    found = {m.metric: m for m in measure_latency(session, trained, DATA, knobs, CONTEXT)[0]}
    assert found["ttft_ms/p50"].samples == found["e2e_ms/p50"].samples
    assert not [name for name in found if name.startswith(("itl_ms", "throughput_tokens", "batch_step", "closed"))]
    assert found["e2e_natural_ms/p50"].n == 2
    assert found["warmup_requests"].value == 3, "three are the fewest that can be alike"
    told = [Measurement("output_tokens/mean", 1.0, "tokens", "lower", 9), found["batch_prefill_ms"]]
    assert requests_per_second(told, 4) == pytest.approx(4e3 / found["batch_prefill_ms"].value)
    assert requests_per_second([replace(told[0], value=2.0), told[1]], 4) is None


def test_a_prompt_longer_than_the_context_is_neither_answered_nor_timed(trained: Path) -> None:
    session: Any = Eager().start(trained, CONTEXT)
    session.model.config.max_position_embeddings = 8
    for ask in (session.generate, session.time_batch):
        with pytest.raises(DoesNotFit, match="longer than the model's context"):
            ask(["a prompt that is longer than that"], 1)


def test_a_suite_without_classes_does_not_fit() -> None:
    """The cell is recorded with the reason; the same suite still fits an adaptation that generates."""
    free = suite_data(train=tuple({**row, "reply": row["id"]} for row in ROWS))
    head, plain_lora = cell("adaptation=lora_head"), cell("adaptation=lora")
    made = plan([head, plain_lora], {digest(plain(head.suite)): free}, MACHINE)
    assert list(made.unsupported) == [head.id]
    assert "72 training rows have 72 different" in made.unsupported[head.id]
    assert Lora(classify=True).unfit(DATA) is None
    assert "no classes" in str(Lora(classify=True).unfit(suite_data(train=ROWS[::3])))
    assert classes_in(DATA) == ("billing", "outage", "sales")


def test_a_head_stands_in_a_grid_beside_text_and_seeds_share_what_no_seed_changes(tmp_path: Path) -> None:
    """From the command line to the report, with the suite's own scorers; each seed trains, and prompting runs once."""
    rows = ("profile.train_rows=60", "profile.epochs=1")
    done = harness(
        tmp_path,
        "+sweep=ticket_routing",
        "adaptation=prompt_rag,lora_head",
        "quantization=fp16",
        "seed=0,1",
        *TINY,
        *rows,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = Counter(build.split("/")[0] for build in builds(tmp_path))
    assert kinds == {"base": 2, "adapt": 4, "quantize": 4, "quality": 4, "latency": 4}, "random weights have a seed"
    run = run_folder(done)
    told = {r.id.removeprefix("dummy_tiny/"): r for r in ledger.read_records(run)}
    head, text = told["lora_head/fp16/ticket_routing"], told["prompt_rag/fp16/ticket_routing"]
    assert head.not_measured["itl_ms"] == ONE_STEP
    assert "itl_ms" not in text.not_measured
    assert {m.value for m in (head.value("quality/parseable"), head.value("output_tokens/mean")) if m} == {1.0}
    assert head.value("cost_usd_per_1000")
    assert not head.value("kv_bytes_per_token"), "it keeps no keys and values, by which rows that fit are predicted"
    assert text.value("kv_bytes_per_token")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert (
        "A classification head answers in one step. The timed answers of the cells that generate have 4 tokens" in page
    )
    markdown = (run / "report.md").read_text(encoding="utf-8")
    assert "## Seeds: the luck of training and of rows together" in markdown
    assert "0 of 6 evaluation rows overlap" in markdown
