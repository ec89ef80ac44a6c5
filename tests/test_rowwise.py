"""Norms and turned heads as gcc makes them, held to transformers' own modules."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

from harness.engine import ops, rowwise
from harness.engine.at_once import TURN, Turn, norms_at_once, turns_at_once

DTYPES = [torch.bfloat16, torch.float32]


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def own_turn(family: str) -> Any:
    """transformers' own function, which a session before may have replaced."""
    found = getattr(importlib.import_module(f"transformers.models.{family}.modeling_{family}"), TURN)
    return found.own if isinstance(found, Turn) else found


def alike(found: torch.Tensor, told: torch.Tensor) -> None:
    """The order of a sum may round one result in a hundred to its neighbour."""
    torch.testing.assert_close(found, told, rtol=2**-7 if found.dtype == torch.bfloat16 else 2e-6, atol=1e-6)
    if found.dtype == torch.bfloat16 and found.numel():
        assert float((found == told).float().mean()) > 0.99


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 48), (3, 5, 48), (40, 1, 577), (0, 1, 48)])
@pytest.mark.parametrize(("kind", "style"), [(LlamaRMSNorm, 0), (Olmo2RMSNorm, 1), (Gemma2RMSNorm, 2)])
def test_norms_are_those_of_the_modules(
    dtype: torch.dtype, shape: tuple[int, ...], kind: type[Any], style: int
) -> None:
    module = kind(shape[-1], eps=1e-3).to(dtype)
    module.weight.copy_(1 + numbers(shape[-1]) / 2)
    x, residual = (3 * numbers(*shape)).to(dtype), numbers(*shape[::-1]).to(dtype).permute(2, 1, 0)
    found = rowwise.norm(x, module.weight, 1e-3, style)
    assert found
    alike(found[0], module(x))
    if style == ops.LLAMA:
        made, total = ops.add_rms_norm(x, residual, module.weight, 1e-3)
        assert torch.equal(total, x + residual)
        alike(made, module(x + residual))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("family", "angles"), [("llama", 32), ("phi3", 16), ("gpt_oss", 16)])
@pytest.mark.parametrize(("rows", "tokens", "own"), [(3, 5, True), (3, 1, False), (1, 4, True)])
def test_heads_are_turned_as_the_models_turn_them(
    dtype: torch.dtype, family: str, angles: int, rows: int, tokens: int, own: bool
) -> None:
    query, key = (numbers(rows, tokens, heads, 32).to(dtype).transpose(1, 2) for heads in (6, 2))
    cos, sin = (numbers(rows if own else 1, tokens, angles + n)[..., :angles].to(dtype) for n in (0, 1))
    turn = Turn(own_turn(family))
    for found, told in zip(turn(query, key, cos, sin), turn.own(query, key, cos, sin), strict=True):
        assert torch.equal(found, told)
    assert set(turn.elements.values()) == ({32} if family != "phi3" else {16}), "or it did not turn them"


TURNS = numbers(2, 2, 3, 8), numbers(2, 4, 3, 8), numbers(1, 3, 8), numbers(1, 3, 8)


def test_what_is_learnt_mixed_or_of_another_shape_is_left_to_pytorch() -> None:
    x, weight = numbers(2, 8), numbers(8)
    query, key, cos, sin = TURNS
    assert rowwise.norm(x, weight, 1e-3)
    assert rowwise.turn(*TURNS, elements=8)
    assert rowwise.norm(x.half(), weight.half(), 1e-3) is None
    assert rowwise.norm(x, weight.bfloat16(), 1e-3) is None
    assert rowwise.norm(x, weight[:1], 1e-3) is None
    assert rowwise.norm(x, weight, 1e-3, residual=x[:1]) is None
    for given in (
        (query, key, cos, sin.bfloat16()), (query, key, cos[:, :1], sin[:, :1]), (query, key, cos, sin[..., :4]),
        (query, key[:1], cos, sin), (query, key[:, :, :2], cos, sin), (query, key, cos[:0], sin[:0]),
    ):  # fmt: skip
        assert rowwise.turn(*given, elements=8) is None
    with torch.inference_mode(mode=False), torch.enable_grad():
        assert rowwise.norm(x, weight, 1e-3) is None
        assert rowwise.turn(*TURNS, elements=8) is None
        called = []

        def own(*given: torch.Tensor) -> Any:
            called.append(given)
            return own_turn("llama")(*given)

        turn = Turn(own)
        assert torch.equal(turn(*TURNS)[0], own_turn("llama")(*TURNS)[0])
    assert list(turn.elements.values()) == [8]
    assert len(called) == 2, "once to compare, once as nothing compiled may learn"


def test_without_a_compiler_the_models_own_functions_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "/nowhere/gcc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rowwise._compiled.cache_clear()
    try:
        x, weight = numbers(2, 8), numbers(8)
        assert rowwise.norm(x, weight, 1e-3) is None
        for style, kind in ((0, LlamaRMSNorm), (1, Olmo2RMSNorm), (2, Gemma2RMSNorm)):
            told = kind(8, eps=1e-3)
            told.weight.copy_(weight)
            assert torch.equal(ops.rms_norm(x, weight, 1e-3, style), told(x))
        turn = Turn(own_turn("llama"))
        assert torch.equal(turn(*TURNS)[1], own_turn("llama")(*TURNS)[1])
        assert list(turn.elements.values()) == [0]
    finally:
        rowwise._compiled.cache_clear()


class OtherRMSNorm(LlamaRMSNorm):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states) * 1.1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kind", "style"), [(LlamaRMSNorm, 0), (Olmo2RMSNorm, 1), (Gemma2RMSNorm, 2), (OtherRMSNorm, None)]
)
def test_a_norm_is_replaced_by_one_that_rounds_as_it_does(
    dtype: torch.dtype, kind: type[Any], style: int | None
) -> None:
    """In float32 the first two round alike."""
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    )
    model.model.norm = kind(576)
    model.model.norm.weight.copy_(numbers(576))
    norms_at_once(model.to(dtype))
    turns_at_once(model)
    found = vars(model.model.norm).get("forward")
    told = None if found is None else found.keywords["style"]
    assert told == style or (dtype == torch.float32 and {told, style} == {0, 1})
    assert "forward" in vars(model.model.layers[0].input_layernorm)
