"""The engine gives the tokens that one prompt at a time gives, however it batches."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

from harness.components import instantiate
from harness.configured import component
from harness.engine import shared_prefix as shared_prefix_module
from harness.engine.eager import Eager, EagerSession
from harness.engine.graph import Graph
from harness.engine.shared_prefix import switch_on
from harness.errors import DoesNotFit
from harness.loading import load
from harness.prompt import shared_prefix
from harness.quantize.dynamic import Dynamic
from harness.resources import resource
from harness.types import Context

CONTEXT = Context("cpu", "float32", 0, lambda fraction, note: None)
PREFIX = "a long instruction that every prompt begins with: "
PROMPTS = [PREFIX + p for p in ("one", "another thing", "why", "the third and longest of all of them")]


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single printable characters, made on the spot, so that any ids are a text and back; 0 ends one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = [chr(i) for i in range(33, 127)] + ["Ġ"]  # ByteLevel's name for a space
    made = Tokenizer(models.BPE({"<eos>": 0, **{c: i + 1 for i, c in enumerate(alphabet)}}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<eos>")


def shape(config: type[LlamaConfig] | type[MistralConfig], **rest: object) -> LlamaConfig | MistralConfig:
    return config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=96, eos_token_id=0, pad_token_id=0, bos_token_id=None, **rest,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    out = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(shape(LlamaConfig, initializer_range=0.3)).save_pretrained(out)
    tokenizer().save_pretrained(out)
    return out


def start(folder: Path, **knobs: Any) -> EagerSession:
    session = Eager(**knobs).start(folder, CONTEXT)
    assert isinstance(session, EagerSession)
    return session


@pytest.mark.parametrize("engine", [Eager(), Graph()])
def test_an_engine_is_by_itself_as_its_choice_says(engine: Eager | Graph) -> None:
    choice = resource("conf") / f"engine/{type(engine).__name__.lower()}.yaml"
    assert instantiate(component(yaml.safe_load(choice.read_text(encoding="utf-8")))) == engine


@pytest.mark.parametrize("knobs", [{"compact_below": -0.1}, {"compact_below": float("nan")}, {"min_prefix": -1}])
def test_knobs_that_nothing_can_be_decoded_with_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^[a-z_]+=[-.na0-9]+: must be 0 or more$"):
        Eager(**knobs)


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[str]:
    """Each prompt by itself, nothing shared: the reference."""
    session = start(folder, batch_size=1, min_prefix=0)
    return [session.generate([p], 24)[0].text for p in PROMPTS]


@pytest.mark.parametrize(
    "knobs", [{}, {"batch_size": 2}, {"min_prefix": 0}, {"batch_size": 3, "compact_below": 1.01}, {"min_prefix": 1000}]
)
def test_batches_change_nothing(folder: Path, alone: list[str], knobs: dict[str, Any]) -> None:
    assert len(set(alone)) > 1, "the reference says the same to all, so this test would see nothing"
    assert [c.text for c in start(folder, **knobs).generate(PROMPTS, 24)] == alone


def test_the_prefix_is_shared_where_attention_allows(folder: Path, tmp_path: Path) -> None:
    assert start(folder).no_prefix
    torch.manual_seed(3)
    MistralForCausalLM(shape(MistralConfig, sliding_window=8)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    sliding = start(tmp_path)
    assert not sliding.no_prefix
    single = Eager(batch_size=1, min_prefix=0).start(tmp_path, CONTEXT)
    reference = [single.generate([p], 12)[0].text for p in PROMPTS]
    assert [c.text for c in sliding.generate(PROMPTS, 12)] == reference


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_that_loses_the_prefix_in_a_layer_is_not_switched_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """In 16 bits too: rounding must not hide it, nor keep a right one from being used. The record says why."""
    context = Context("cpu", dtype, 0, CONTEXT.progress)
    assert EagerSession(Eager(), load(folder, context), context).no_prefix
    attend = shared_prefix_module.attend

    def lossy(module: Any, query: Any, key: Any, *rest: Any, **options: Any) -> Any:
        if hasattr(key, "shared_prefix") and module.layer_idx == 1:
            empty = [torch.zeros_like(t[:, :, :1]) for t in key.shared_prefix]
            key.shared_prefix = (empty[0] - 1e4 * query.mean(dim=(0, 1, 2)), empty[1])
        return attend(module, query, key, *rest, **options)

    monkeypatch.setattr(shared_prefix_module, "attend", lossy)
    loaded = load(folder, context)
    before = loaded.model.config._attn_implementation
    assert not EagerSession(Eager(), loaded, context).no_prefix
    assert loaded.proof["attention"].startswith("transformers' own, prefixes held by each row (layer 1 is ")
    assert loaded.model.config._attn_implementation == before


def test_rounding_that_a_deep_model_amplifies_keeps_no_prefix_from_being_shared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The logits of two right ways of summing may be as far apart as those of two texts; each layer's results are
    not."""
    torch.manual_seed(0)
    deep = shape(LlamaConfig, initializer_range=1.0)
    deep.num_hidden_layers = 24
    LlamaForCausalLM(deep).to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    attend = shared_prefix_module.attend

    def noisy(module: Any, query: Any, key: Any, *rest: Any, **options: Any) -> Any:
        found, weights = attend(module, query, key, *rest, **options)
        return found * (1 + torch.randn_like(found) / 20), weights

    monkeypatch.setattr(shared_prefix_module, "attend", noisy)
    context = Context("cpu", "bfloat16", 0, CONTEXT.progress)
    assert EagerSession(Eager(), load(tmp_path, context), context).no_prefix


def test_rounding_that_quantized_activations_amplify_keeps_no_prefix_from_being_shared(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A difference that plain float32 does not have is what a deep model of quantized activations makes of rounding."""
    Dynamic()(folder, (), tmp_path, CONTEXT)
    tokenizer().save_pretrained(tmp_path)
    attend = shared_prefix_module.attend

    def rounded(module: Any, query: Any, key: Any, *rest: Any, **options: Any) -> Any:
        found, weights = attend(module, query, key, *rest, **options)
        return found * (1.05 if hasattr(key, "shared_prefix") else 1), weights

    monkeypatch.setattr(shared_prefix_module, "attend", rounded)
    assert not start(folder).no_prefix
    assert start(tmp_path).no_prefix


def test_a_token_that_goes_to_another_expert_keeps_no_prefix_from_being_shared() -> None:
    """Rounding sends one or two of eight rows to another expert in some layer; what loses its prefix differs in all."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    for seed in range(6):
        torch.manual_seed(seed)
        shaped = MixtralConfig(**sizes, num_hidden_layers=16, vocab_size=96, initializer_range=0.12)
        assert switch_on(MixtralForCausalLM(shaped).to(torch.bfloat16).eval())[1] == "", f"seed {seed}"


def test_a_layer_that_does_nothing_differs_from_nothing(folder: Path) -> None:
    model = load(folder, CONTEXT).model
    for part in (model.model.layers[1].self_attn.o_proj, model.model.layers[1].mlp.down_proj):
        torch.nn.init.zeros_(part.weight)
    assert switch_on(model)[1] == ""


def test_a_list_of_layers_that_are_not_called_proves_nothing(folder: Path) -> None:
    model = load(folder, CONTEXT).model
    layers = model.model.layers
    del model.model.layers
    model.model.unused = torch.nn.ModuleList([torch.nn.Identity() for _ in layers])  # which comes before them now
    model.model.layers = layers
    assert "not called one after the other" in switch_on(model)[1]


def test_a_row_without_a_token_of_its_own_sees_its_padding(folder: Path) -> None:
    session = start(folder)
    with torch.inference_mode():
        made = session._decode([[5], []], [0, 1], 3, None, 0, timed=lambda: None)
    assert [len(tokens) for tokens, _ in made] == [3, 3]


@pytest.mark.parametrize("tokens", [1, 60, 130])
def test_prompts_read_in_pieces_change_nothing(
    folder: Path, alone: list[str], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    monkeypatch.setattr("harness.engine.eager.PIECE_TOKENS", tokens)
    assert [c.text for c in start(folder).generate(PROMPTS, 24)] == alone


def test_rows_end_at_the_stop_token_and_others_go_on(folder: Path, alone: list[str]) -> None:
    session = start(folder, compact_below=1.01)
    tokens = session.encode(alone, 0)
    stop = next(t for t in tokens[0][1:] if t not in tokens[0][:1])
    session.stops = {stop}
    made = session.generate(PROMPTS, 24)
    for completion, whole in zip(made, tokens, strict=True):
        expected = whole[: whole.index(stop)] if stop in whole else whole
        assert completion.tokens == len(expected)
        assert completion.finished == (stop in whole)


def test_shared_prefix_leaves_each_prompt_a_token() -> None:
    assert shared_prefix([[1, 2, 3], [1, 2, 4]]) == 2
    assert shared_prefix([[1, 2], [1, 2]]) == 1
    assert shared_prefix([[1], [2]]) == 0


def test_times_are_one_a_token_and_grow(folder: Path) -> None:
    session = start(folder)
    times = session.time_tokens(PROMPTS[0], 5)
    assert len(times) == 5
    assert times == sorted(times)
    assert len(session.time_batch(PROMPTS, 6)) == 6


def test_what_is_timed_must_fit_the_context_too(tmp_path: Path) -> None:
    LlamaForCausalLM(shape(LlamaConfig, max_position_embeddings=64)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    session = start(tmp_path)
    assert len(session.time_batch(["x" * 60], 4)) == len(session.time_tokens("x" * 60, 4)) == 4
    for timed in (partial(session.time_tokens, "x" * 60), partial(session.time_batch, ["x" * 60])):
        with pytest.raises(DoesNotFit, match=r"prompts of up to 60 tokens and 5 .* \(1 of 1 .* measure\.latency\.out"):
            timed(5)


def test_loglikelihood_is_that_of_the_model(folder: Path) -> None:
    session = start(folder, batch_size=3)
    pairs = [(p, c) for p in PROMPTS for c in ("yes", "no, never", "x")]
    found = session.loglikelihood(pairs)
    for (prompt, answer), (total, greedy) in zip(pairs, found, strict=True):
        ids = torch.tensor(session.encode([prompt + answer], 0))
        start_at = len(session.encode([prompt], 0)[0])
        with torch.inference_mode():
            chances = session.model(ids).logits[0, :-1].log_softmax(dim=-1)
        wanted = ids[0, 1:]
        tokens = chances.gather(1, wanted[:, None])[start_at - 1 :]
        assert total == pytest.approx(float(tokens.sum()), rel=1e-4)
        assert greedy == bool((chances.argmax(-1) == wanted)[start_at - 1 :].all())


def test_loglikelihood_reads_some_tokens_at_a_time_and_keeps_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = start(folder)
    pairs = [(p, c) for p in [*PROMPTS, "w"] for c in ("yes", "no, never", "x")]
    told = session.loglikelihood(pairs)
    read: list[tuple[int, ...]] = []
    forward = session.model.forward

    def seen(ids: Any, **options: Any) -> Any:
        made = forward(ids, **options)
        assert made.past_key_values is None
        read.append(tuple(ids.shape))
        return made

    monkeypatch.setattr(session.model, "forward", seen)
    monkeypatch.setattr("harness.engine.eager.PIECE_TOKENS", 130)
    found = session.loglikelihood(pairs)
    assert [total for total, _ in found] == pytest.approx([total for total, _ in told], rel=1e-4)
    assert max(rows * width for rows, width in read) <= 130
    assert (sum(rows for rows, _ in read), {rows for rows, _ in read} >= {1, 2}) == (15, True)


def test_loglikelihood_knows_what_greedy_decoding_gives(folder: Path, alone: list[str]) -> None:
    found = start(folder).loglikelihood([(PROMPTS[0], alone[0][:5]), (PROMPTS[0], "~" + alone[0][:4])])
    assert [greedy for _, greedy in found] == [True, False]
