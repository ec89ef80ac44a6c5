"""Float32 products of few rows, turned round, are the products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness.engine import products
from harness.engine.eager import Eager
from harness.engine.graph import Graph
from harness.engine.products import FEW_ROWS, linear
from tests.test_engine import CONTEXT, PROMPTS, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers are wide enough to be turned round, but those of keys and values."""
    torch.manual_seed(3)
    out = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=136, eos_token_id=0, pad_token_id=0, bos_token_id=None, initializer_range=0.2, attention_bias=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(out)
    tokenizer().save_pretrained(out)
    return out


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (56,), (57,), (4, 5), (2, 3, 3)])
def test_it_is_the_linear_layer(shape: tuple[int, ...], biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(*shape, 96), torch.randn(160, 96), torch.randn(160) if biased else None
    told = torch.nn.functional.linear(x, weight, bias)
    plain: list[int] = []
    function = torch.nn.functional.linear

    def counted(*arguments: Any) -> Any:
        plain.append(1)
        return function(*arguments)

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    found = linear(x, weight, bias)
    assert found.shape == told.shape
    assert found.is_contiguous(), "models look at it in other shapes"
    assert bool(torch.isclose(found, told, atol=1e-4).all())
    assert bool(plain) is (x.numel() // 96 not in FEW_ROWS), "few rows alone"


def test_other_dtypes_stay_as_they_are() -> None:
    x, weight = torch.randn(8, 16, dtype=torch.bfloat16), torch.randn(4, 16, dtype=torch.bfloat16)
    assert torch.equal(linear(x, weight, None), torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("engine", [Eager(batch_size=16), Graph(batch_size=16)])
def test_engines_answer_by_it_where_it_is_faster(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engine: Any, slow: bool
) -> None:
    """The layers of both engines, joined or not, with rows enough for it; the answers are those of a row alone."""
    prompts = [p + str(n) for n in range(3) for p in PROMPTS]
    monkeypatch.setattr(products, "_mkl_is_slow_at_few_rows", lambda: False)
    alone = Eager(batch_size=1, min_prefix=0).start(folder, CONTEXT)
    told = [alone.generate([p], 16)[0].text for p in prompts]
    monkeypatch.setattr(products, "_mkl_is_slow_at_few_rows", lambda: slow)
    seen: set[tuple[int, int]] = set()
    function = products.linear

    def watched(x: Any, weight: Any, bias: Any) -> Any:
        if x.numel() // x.shape[-1] in FEW_ROWS:
            seen.add((weight.shape[1], weight.shape[0]))
        return function(x, weight, bias)

    monkeypatch.setattr(products, "linear", watched)
    session = engine.start(folder, CONTEXT)
    assert [c.text for c in session.generate(prompts, 16)] == told
    apart, together = {(128, 128), (128, 192), (192, 128), (128, 136)}, {(128, 256), (128, 384)}
    if not slow:
        assert not seen
    elif isinstance(engine, Graph):
        assert seen >= together | {(192, 128), (128, 136)}
    else:
        assert seen == apart, "not the keys and values, of 64 each"
