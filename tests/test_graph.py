"""The decoder on slots gives the tokens of the eager engine, however requests share its slots. (CUDA graphs themselves:
`tests/gpu/`.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    BioGptConfig,
    BioGptForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma2PreTrainedModel,
    Gemma3ForCausalLM,
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Ministral3Config,
    Ministral3ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    XGLMConfig,
    XGLMForCausalLM,
)

from harness.adapt.training import untrained
from harness.anatomy import kv_bytes
from harness.engine import decoder, graph, ops, whole
from harness.engine.eager import Eager, EagerSession
from harness.engine.graph import Graph, GraphSession
from harness.engine.slots import DecoderSlots
from harness.errors import DoesNotFit
from harness.loading import load
from harness.measure.latency import measure
from tests.test_engine import CONTEXT, PROMPTS, tokenizer

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None,
    "initializer_range": 0.3,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "llama with another RoPE": (
        LlamaConfig, LlamaForCausalLM,
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    ),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2, with biases": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3, with normed heads": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 32}),
    "smollm3, of whose layers some do not turn": (
        SmolLM3Config, SmolLM3ForCausalLM, {"no_rope_layer_interval": 2, "tie_word_embeddings": False},
    ),
    "ministral3, not scaled": (
        Ministral3Config, Ministral3ForCausalLM,
        {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "llama_4_scaling_beta": 0.0,
                                             "original_max_position_embeddings": 16}},
    ),
}  # fmt: skip


WHOLE: dict[str, tuple[Any, Any, dict[str, Any]]] = {  # which run in their own forward pass
    "a window": (MistralConfig, MistralForCausalLM, {"sliding_window": 20}),
    "windows in some layers": (
        Gemma3TextConfig, Gemma3ForCausalLM,
        {"head_dim": 16, "sliding_window": 20, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
    ),
    "residuals and logits scaled": (
        GraniteConfig, GraniteForCausalLM,
        {"residual_multiplier": 0.5, "embedding_multiplier": 2.0, "logits_scaling": 2.0},
    ),
    "scaled by position": (Ministral3Config, Ministral3ForCausalLM, {"head_dim": 16}),
    "fused products, heads of 24": (Phi3Config, Phi3ForCausalLM, {"hidden_size": 96}),
    "attention beside its products": (GPTNeoXConfig, GPTNeoXForCausalLM, {}),
    "positions learnt": (OPTConfig, OPTForCausalLM, {"word_embed_proj_dim": 64, "ffn_dim": 96, "init_std": 0.3}),
    "positions learnt, BioGPT's": (BioGptConfig, BioGptForCausalLM, {}),
    "wide heads in some layers": (
        Gemma4TextConfig, Gemma4ForCausalLM,
        {"head_dim": 32, "global_head_dim": 512, "sliding_window": 20, "num_hidden_layers": 4,
         "layer_types": ["sliding_attention", "full_attention"] * 2, "vocab_size_per_layer_input": 96,
         "hidden_size_per_layer_input": 16},
    ),
    "scores capped": (
        Gemma2Config, Gemma2ForCausalLM, {"head_dim": 16, "sliding_window": 20, "attn_logit_softcapping": 2.0},
    ),
    "sinks, experts": (
        GptOssConfig, GptOssForCausalLM,
        {"head_dim": 16, "sliding_window": 20, "num_local_experts": 4, "num_experts_per_tok": 2,
         "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "experts": (MixtralConfig, MixtralForCausalLM, {"num_local_experts": 4, "output_router_logits": True}),
    "keys shared by layers": (
        Gemma3nTextConfig, Gemma3nForCausalLM,
        {"head_dim": 16, "num_hidden_layers": 4, "num_kv_shared_layers": 2, "sliding_window": 20,
         "layer_types": ["sliding_attention", "full_attention"] * 2, "intermediate_size": [96] * 4,
         "activation_sparsity_pattern": [0.0] * 4, "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 16,
         "laurel_rank": 8},
    ),
    "turned by length": (
        LlamaConfig, LlamaForCausalLM,
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 200,
                             "factor": 2.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
         "max_position_embeddings": 400},
    ),
}  # fmt: skip
ON_A_CPU: dict[str, tuple[Any, Any, dict[str, Any]]] = {  # alone
    "heads of 520": (GPTNeoXConfig, GPTNeoXForCausalLM, {"hidden_size": 2 * 520, "num_attention_heads": 2}),
}


def saved(folder: Path, config: Any, model: Any, rest: dict[str, Any]) -> Path:
    torch.manual_seed(3)
    made = model(config(**{**SHAPE, **rest}))
    for name, weight in made.named_parameters():  # zeros and ones would hide a bias or a norm that is left out
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(weight, mean=float("norm" in name), std=0.3)
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def longer() -> list[str]:
    """Prompts of many lengths, more than there are slots."""
    return PROMPTS + [f"{n}" * (3 * n + 1) for n in range(9)]


@pytest.mark.parametrize("name", MODELS)
def test_it_gives_the_tokens_of_the_eager_engine(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path, *MODELS[name])
    eager = EagerSession(Eager(batch_size=1, min_prefix=0), load(folder, CONTEXT), CONTEXT)
    tokens = 90 if name.startswith(("qwen3", "smollm3")) else 40  # as many as some answers need to end
    told = [eager.generate([p], tokens)[0] for p in longer()]
    assert {c.finished for c in told} == {True, False}, "both ways to end must occur"
    for batch in (1, 3, 32):
        session = Graph(batch_size=batch).start(folder, CONTEXT)
        assert isinstance(session, GraphSession)
        assert session.generate(longer(), tokens) == told
        if batch > 1:
            assert session.generate(longer()[::-1], tokens) == told[::-1], "slots that were used before"
    assert session.loaded.proof["how"] == "not captured: no CUDA device"


def test_a_shared_prefix_is_read_once_and_changes_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the slots held before: another prefix, prompts without one, timed requests."""
    folder = saved(tmp_path, *MODELS["llama"])
    eager = EagerSession(Eager(batch_size=1, min_prefix=0), load(folder, CONTEXT), CONTEXT)
    session = Graph(batch_size=8).start(folder, CONTEXT)
    assert isinstance(session, GraphSession)
    (fresh,) = session.serve(PROMPTS[:1], 5, clients=1)
    sizes: list[int] = []
    called = decoder.Decoder.__call__

    def seen(self: Any, ids: Any, *rest: Any) -> Any:
        sizes.append(ids.numel() if ids.shape[1] > 1 else 0)
        return called(self, ids, *rest)

    monkeypatch.setattr(decoder.Decoder, "__call__", seen)
    for beginning in ("abcde " * 9, "abcde " * 9, "bcdea " * 9, "", "edcba " * 20, "abcde " * 6):
        prompts = [beginning + p for p in longer()]
        told = [eager.generate([p], 30)[0] for p in prompts]
        sizes.clear()
        assert session.generate(prompts, 30) == told
        own, (first,) = sum(map(len, eager.encode(longer(), 0))), eager.encode([beginning], 0)
        assert sum(sizes) < 3 * own + len(first), "padding of each, and the prefix once"
    (after,) = session.serve(PROMPTS[:1], 5, clients=1)
    assert after.tokens == fresh.tokens
    assert session.generate(prompts, 30) == told


@pytest.mark.parametrize("name", [*WHOLE, *ON_A_CPU])
def test_other_layers_run_in_their_own_forward_pass(tmp_path: Path, name: str) -> None:
    """On slots as well: each row at its own positions, within its windows, on keys that others had before."""
    folder = saved(tmp_path, *(WHOLE | ON_A_CPU)[name])
    eager = EagerSession(Eager(batch_size=1, min_prefix=0), load(folder, CONTEXT), CONTEXT)
    session = Graph(batch_size=3).start(folder, CONTEXT)
    assert isinstance(session, GraphSession)
    assert session.loaded.proof["how"].startswith("not captured: no CUDA device, by transformers' own forward pass: ")
    for prompts in (longer(), [f"abcde {p}" for p in longer()[::-2]]):
        told = [eager.generate([p], 24)[0] for p in prompts]
        assert session.generate(prompts, 24) == told
        assert Eager(batch_size=3).over(eager.loaded, CONTEXT).generate(prompts, 24) == told
    assert session.slots(1, 1).decoder.cache[0][0].shape[2] >= 24 + max(map(len, longer()))
    assert kv_bytes(session.model, 100) == 100 * kv_bytes(session.model), "a slot holds what a window no longer sees"


def test_scores_are_capped_where_transformers_would_leave_the_cap_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)  # as transformers 5.17 has it
    folder = saved(tmp_path, *WHOLE["scores capped"])
    assert load(folder, CONTEXT).model.config._attn_implementation == "eager"
    assert untrained(folder, (), torch.float32, 0).config._attn_implementation == "eager"


def test_prompts_are_padded_up_to_the_context_alone(tmp_path: Path) -> None:
    """As widths are where steps are captured: a model has no positions beyond those that it learnt."""
    config, model, rest = WHOLE["positions learnt"]
    folder = saved(tmp_path, config, model, {**rest, "max_position_embeddings": 100})
    session = Graph(batch_size=2).start(folder, CONTEXT)
    assert isinstance(session, GraphSession)
    slots, (ids,) = session.slots(1, 98), session.eager.encode(["ab" * 49], 2)
    first = slots.admit([ids], [0], [0])()
    slots.capture = True
    width = slots._width(len(ids))
    slots.capture = False
    assert width == slots.capacity == 100
    assert slots._run(1, width, [ids + [0] * (width - len(ids))], [0], [len(ids) - 1], [0])() == first


def test_beyond_what_longrope_turns_alike_nothing_is_decoded(tmp_path: Path) -> None:
    session = Graph().start(saved(tmp_path, *WHOLE["turned by length"]), CONTEXT)
    assert isinstance(session, GraphSession)
    assert session.slots(1, 199).capacity == 200, "of prompts that are padded, too"
    with pytest.raises(DoesNotFit, match=r"of 201 tokens: beyond 200 .* measure.latency.output_tokens .* engine=eager"):
        session.generate(["a" * 161], 40)


@pytest.mark.parametrize(
    ("config", "model", "rest", "why"),
    [
        (LlamaConfig, LlamaForCausalLM, {"rope_parameters": DYNAMIC}, "its positions turn by the length of the text"),
        (BloomConfig, BloomForCausalLM, {}, "its parts are not those of a Llama; it is told no positions"),
        (
            PhimoeConfig,
            PhimoeForCausalLM,
            {"sliding_window": 20, "num_local_experts": 4},
            "its attention sees what its mask says",
        ),
        (Lfm2Config, Lfm2ForCausalLM, {"layer_types": ["conv", "full_attention", "conv"]}, "its layers are conv"),
        (
            XGLMConfig,
            XGLMForCausalLM,
            {"d_model": 64, "ffn_dim": 96, "num_layers": 3, "attention_heads": 4},
            "; it cannot be decoded in pieces (ValueError: Attention mask",
        ),
    ],
)
def test_a_model_of_another_make_runs_eagerly_and_says_so(
    tmp_path: Path, config: Any, model: Any, rest: dict[str, Any], why: str
) -> None:
    session = Graph().start(saved(tmp_path, config, model, rest), CONTEXT)
    assert isinstance(session, EagerSession)
    assert why in session.loaded.proof["how"]
    assert len(session.generate(PROMPTS, 3)) == len(PROMPTS)
    if rest.get("sliding_window"):
        assert kv_bytes(session.model, 100) < 100 * kv_bytes(session.model), "its cache keeps windows"


def test_rows_that_are_mixed_in_the_own_forward_pass_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = ops.attend
    monkeypatch.setattr(whole, "attend", lambda query, *rest: told(query, *rest).roll(1, 0))
    for dtype in ("float32", "bfloat16"):
        folder = saved(tmp_path / dtype, *WHOLE["windows in some layers"])
        session = Graph().start(folder, replace(CONTEXT, dtype=dtype))
        assert "it computes otherwise (layer 0 is" in session.loaded.proof["how"]
    monkeypatch.undo()
    assert isinstance(Graph().start(folder, replace(CONTEXT, dtype="bfloat16")), GraphSession), "what is right passes"


def test_a_decoder_that_mixes_rows_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof sees several rows: one alone would not show that a row reads another's."""
    told = ops.rotate_and_store

    def mixed(heads: Any, *rest: Any) -> Any:
        query, key, value = heads
        return told((query.roll(1, 0) if query.shape[1] == 1 else query, key, value), *rest)

    monkeypatch.setattr(decoder, "rotate_and_store", mixed)
    session = Graph().start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    assert "by transformers' own forward pass: decoded in pieces it computes otherwise (" in session.loaded.proof["how"]


@pytest.mark.parametrize("share", [1, 3, 8])
def test_in_16_bits_a_wrong_row_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: int) -> None:
    """The last rows, or a group of heads of all of them, turned from another's."""
    told = ops.rotate_and_store

    def mixed(heads: Any, *rest: Any) -> Any:
        query, key, value = heads
        if query.shape[1] == 1:
            query = query.clone()
            rows = slice(query.shape[0] - share, None)
            query[rows, :, : 2 if share == 8 else None] = query.roll(1, 0)[rows, :, : 2 if share == 8 else None]
        return told((query, key, value), *rest)

    folder, half = saved(tmp_path, *MODELS["llama"]), replace(CONTEXT, dtype="bfloat16")
    assert isinstance(Graph().start(folder, half), GraphSession), "what is right passes"
    monkeypatch.setattr(decoder, "rotate_and_store", mixed)
    session = Graph().start(folder, half)
    assert "by transformers' own forward pass: decoded in pieces it computes otherwise (" in session.loaded.proof["how"]


def test_quantized_layers_give_the_eager_engines_tokens(tmp_path: Path) -> None:
    from harness.quantize.int8 import Int8

    parent = saved(tmp_path / "parent", *MODELS["llama"])
    out = tmp_path / "int8"
    out.mkdir()
    Int8(threshold=0.0)(parent, [], out, CONTEXT)
    tokenizer().save_pretrained(out)
    told = Eager(batch_size=1, min_prefix=0).start(out, CONTEXT).generate(PROMPTS, 12)
    session = Graph().start(out, CONTEXT)
    assert isinstance(session, GraphSession)
    assert session.loaded.proof["linear_classes"]["Linear8bitLt"] == 21
    assert session.generate(PROMPTS, 12) == told


def test_padding_stays_where_prompts_begin(tmp_path: Path) -> None:
    """Else the rows that fill a captured step up would read ever more, and it would take longer than its own do."""
    session: Any = Graph().start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    slots = session.slots(3, 64)
    nobody, begin = slots.rows, 5
    for prefix in ((), range(1, begin + 1)):
        slots.share([*prefix])
        slots.admit([[7, 8, 9]], [0], [0])
        for _ in range(4):
            slots._run(2, 0, None, [0, nobody], None)()
        assert slots._positions[[0, nobody]].tolist() == [len(prefix) + 3 + 4, len(prefix)]


def test_what_stood_in_a_slot_before_is_never_seen(tmp_path: Path) -> None:
    session = Graph(batch_size=3).start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    assert isinstance(session, GraphSession)
    told = session.generate(longer(), 20)
    for cache in session.slots(1, 1).decoder.cache:
        for kept in cache:
            kept.copy_(1e3 * torch.randn_like(kept))
    assert session.generate(longer(), 20) == told


def test_slots_are_as_many_as_rows_whatever_their_number(tmp_path: Path) -> None:
    """A step is filled up to a power of two on the one slot that nobody reads."""
    session = Graph(batch_size=11).start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    assert isinstance(session, GraphSession)
    told = [session.generate([p], 20)[0] for p in longer()]
    assert session.generate(longer(), 20) == told
    slots = session.slots(0, 0)
    assert (slots.rows, len(slots.decoder.cache[0][0])) == (11, 12)
    ids = session.eager.encode(longer()[:11], 0)
    first = slots.admit(ids, range(11), range(11))()
    alone = slots.step(range(11))()
    assert slots.admit(ids, range(11), range(11))() == first
    assert slots._run(16, 0, None, [*range(11), *[11] * 5], None)()[:11] == alone


def test_times_come_one_a_token(tmp_path: Path) -> None:
    session = Graph().start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    times = session.time_tokens(PROMPTS[0], 9)
    assert len(times) == 9
    assert times == sorted(times)
    assert times[0] > 0
    steps = session.time_batch(PROMPTS, 7)
    assert len(steps) == 7
    assert min(steps) > 0


def test_a_load_ends_where_answers_end_if_that_is_wanted(tmp_path: Path) -> None:
    session = Graph().start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    assert isinstance(session, GraphSession)
    session.eager.stops = set(range(session.model.config.vocab_size))
    for natural, tokens in ((False, 5), (True, 1)):
        served = session.serve(PROMPTS[:3], 5, 2, natural=natural)
        assert [len(s.times) for s in served] == [tokens] * 3
        assert [s.finished for s in served] == [natural] * 3
        assert len(session.time_tokens(PROMPTS[0], 5, natural)) == tokens


@pytest.mark.parametrize("own", [False, True])
def test_slots_are_made_once_for_the_largest_load(own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger slots capture every shape anew, so what a latency will ask is reserved before it begins."""
    made: list[tuple[int, int]] = []

    class Counted(DecoderSlots):
        def __init__(self, model: Any, rows: int, capacity: int, **rest: Any) -> None:
            made.append((rows, capacity))
            super().__init__(model, rows, capacity, **rest)

    monkeypatch.setattr(graph, "DecoderSlots", Counted)
    monkeypatch.setattr("harness.measure.latency.prompts_of", lambda *_: PROMPTS[:3])
    session = Graph(batch_size=32).start(saved(tmp_path, *MODELS["llama"]), CONTEXT)
    assert isinstance(session, GraphSession)
    knobs = {
        "requests": 2, "warmup": 1, "warmup_most": 1, "output_tokens": 3, "natural_requests": int(not own),
        "batch_size": 3, "batch_tokens": 3, "clients": [1, 16], "requests_per_client": 1, "precision": 1.0,
        "level": {"ttft_ms": 20.0, "token_ms": 9000.0, "share": 0.01},
        **({"open_requests": 4, "own_ends": True} if own else {"open_requests": 0}),
    }  # fmt: skip
    data: Any = SimpleNamespace(max_new_tokens=70)
    held: list[tuple[int, list[int]]] = []

    def fits(model: object, device: str, loading: int | None, rows: int, tokens: list[int], *_: object) -> list[Any]:
        held.append((rows, tokens))
        return []

    monkeypatch.setattr("harness.measure.memory.measure", fits)
    found, _ = measure(session, tmp_path, data, knobs, CONTEXT)
    ends = {"natural_32/e2e_ms/p50", "goodput_requests_per_s"} if own else {"e2e_natural_ms/p50"}
    assert {m.metric for m in found} > {"closed_16/ttft_ms/p50", "batch_step_ms", *ends}
    rows = 32 if own else 16  # an open loop is served on all places
    assert [rows for rows, _ in made] == [8, rows], "the proof's, and one that all loads fit in"
    assert max(map(len, PROMPTS[:3])) + 70 == 133
    assert made[1][1] == 3 * graph.LENGTHS, "no more than they need, though a power of two is near"
    assert held == [(rows, [made[1][1]] * (rows + 1))], "all slots, the one for padding too"
